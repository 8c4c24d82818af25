"""Placement of disks: the latest among many versions, and advice for more replicas."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imgstore.domain.effects import Effects
from imgstore.domain.errors import ImageNotAvailable
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.settings.limits import PRESETS
from imgstore.operations.disks import placement
from imgstore.operations.installation import Installation
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import SampleImages, create_sample_gallery, make_disk, open_home, publish, update

pytest_plugins = ["tests.support.published_gallery"]

FEW = replace(PRESETS["azure-2019"], machines_per_replica=2)
SOURCE = ["southcentralus"]
ADVICE = "disks within a minute from"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def two_each(tmp_path: Path, samples: SampleImages, clock: ManualClock, told: list[str]) -> Iterator[Installation]:
    """A replica serves two machines; 1.0.0 is in two regions, one replica in each."""

    def hear(event: ProgressEvent) -> None:
        if event.stage is Stage.NOTE and ADVICE in event.detail:
            told.append(event.detail)

    with open_home(tmp_path / "home", hear, Effects(now=clock.now), limits=FEW) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=[*SOURCE, "eastus"])
        yield installation


def test_too_many_disks_per_replica_are_made_with_a_recommendation(two_each: Installation, told: list[str]) -> None:
    for number in range(2):
        make_disk(two_each, f"d{number}")
        make_disk(two_each, f"e{number}", "eastus")
    assert told == [], "each region for itself"
    make_disk(two_each, "d2")
    assert [each.split(":")[0] for each in told] == [f"3 {ADVICE} 1 replica in South Central US"]
    make_disk(two_each, "d2")
    assert len(told) == 1, "the same command again makes nothing"


def test_advice_counts_added_replicas_and_each_version_separately(
    two_each: Installation, told: list[str], samples: SampleImages
) -> None:
    publish(two_each, samples.second, "1.0.1", ["southcentralus=2"])
    for number in range(4):
        make_disk(two_each, f"d{number}")
    assert told == []
    for number in range(2):
        make_disk(two_each, f"o{number}", version="1.0.0")
    assert told == [], "each version for itself"
    make_disk(two_each, "d4")
    assert told[0].startswith(f"5 {ADVICE} 2 replicas")


def test_disks_older_than_a_minute_are_not_counted(two_each: Installation, clock: ManualClock, told: list[str]) -> None:
    for number in range(6):
        make_disk(two_each, f"d{number}")
        clock.advance(31)
    assert told == []
    clock.advance(-30)
    make_disk(two_each, "d6")
    assert len(told) == 1


def test_latest_is_found_below_many_excluded_versions(
    tmp_path: Path, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_VERSIONS_AT_ONCE", 2)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        for number in range(6):
            publish(installation, samples.first, f"1.0.{number}", SOURCE)
        for number in range(1, 6):
            update(installation, f"1.0.{number}", exclude_from_latest=True)
        assert make_disk(installation, "d1").source_reference.endswith("/1.0.0")
        update(installation, "1.0.4", exclude_from_latest=False)
        assert make_disk(installation, "d2").source_reference.endswith("/1.0.4")
        for number in (0, 4):
            update(installation, f"1.0.{number}", exclude_from_latest=True)
        with pytest.raises(ImageNotAvailable, match="6 versions, all of them excluded"):
            make_disk(installation, "d3")
