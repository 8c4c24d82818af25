"""Disks from replicas of other regions (`--allow-remote`): bytes, bill, forecast and rights (invariant M32)."""

from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import ImageNotAvailable
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.resources import ManagedDisk
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.forecast import Forecast
from imgstore.operations.disks.disks import create_disk, delete_disk
from imgstore.operations.installation import Installation
from imgstore.operations.what_if.disks import forecast_image_disk
from tests.support.forecast_check import check_forecast
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    collect,
    content,
    delete,
    export_disk,
    publish,
    reference,
    retarget,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE, EAST, NORTH = "southcentralus", "eastus", "northeurope"


def remote_request(name: str = "d1", location: str = NORTH, version: str = "1.0.0", **more: Any) -> DiskOfImageRequest:
    """Return the request for a disk that may be copied from another region."""
    more.setdefault("allow_remote", True)
    return DiskOfImageRequest(group=GROUP, name=name, location=location, reference=reference(version), **more)


def make_remote(installation: Installation, name: str = "d1", location: str = NORTH, **more: Any) -> ManagedDisk:
    return create_disk(installation, ADMIN, remote_request(name, location, **more))


def check_remote(installation: Installation, request: DiskOfImageRequest) -> Forecast:
    """Predict the creation, create the disk, and compare both."""
    return check_forecast(
        installation,
        lambda: forecast_image_disk(installation, ADMIN, request),
        lambda: create_disk(installation, ADMIN, request),
    )


def egress(installation: Installation, region: str = NORTH) -> int:
    return sum(
        row.delivered_bytes for row in charges(installation) if row.kind is ChargeKind.EGRESS and row.target == region
    )


def stored(installation: Installation, region: str = NORTH) -> int:
    """Return the bytes of the segments in a region, as the stores list them."""
    slots = [each for each in all_slots(installation) if each.key.region == region]
    return sum(sum(content(installation, slot).segments.values()) for slot in slots)


def test_disk_is_copied_and_billed_as_predicted(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    found = check_remote(published, remote_request())
    assert found.delivered_bytes == egress(published) == stored(published) > 0
    assert found.egress > 0
    (row,) = [each for each in charges(published) if each.target == NORTH]
    assert (row.party.disk, row.source, row.replica) == ("d1", EAST, 0)
    again = check_remote(published, remote_request("d2"))
    assert again.delivered_bytes == 0, "the slot has all segments"
    assert again.added_bytes < 1000, "only a reference"
    assert check_remote(published, remote_request("d2")).storage == (), "a repeated request does nothing"
    (tmp_path / "served").mkdir()
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path / "served")


def test_replica_after_a_disk_pays_only_for_new_bytes(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """The disk and the replica share the slot. The next owner pays for the storage when the disk is deleted (M10)."""
    make_remote(published)
    paid = egress(published)
    retarget(published, [SOURCE, EAST, NORTH])
    assert egress(published) == paid
    audit(published)
    delete_disk(published, ADMIN, group=GROUP, name="d1")
    audit(published)
    make_remote(published, "d2")
    retarget(published, [SOURCE])
    collect(published)
    (tmp_path / "served").mkdir()
    audit(published, collected=True)
    audit_served(published, {"1.0.0": samples.first}, tmp_path / "served")
    delete(published)
    collect(published)
    export_disk(published, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    delete_disk(published, ADMIN, group=GROUP, name="d2")
    collect(published)
    assert stored(published) == 0


def test_without_the_flag_the_refusal_names_it(published: Installation) -> None:
    with pytest.raises(ImageNotAvailable, match="is not available in North Europe region") as caught:
        make_remote(published, allow_remote=False)
    for word in ("--allow-remote", "--what-if", "imgstore prices list"):
        assert word in str(caught.value)
    with pytest.raises(ImageNotAvailable) as caught:
        make_remote(published, version="7.0.0")
    assert "--allow-remote" not in str(caught.value)
    with pytest.raises(ImageNotAvailable):
        make_remote(published, lun=5)
    assert charges(published) == [row for row in charges(published) if row.party.disk is None]


def test_local_replica_is_used_with_the_flag(published: Installation) -> None:
    before = len(charges(published))
    assert make_remote(published, "d1", SOURCE).location == SOURCE
    assert len(charges(published)) == before


def test_latest_version_of_any_region(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.0.1", [SOURCE])
    assert make_remote(published, version="latest").source_reference.endswith("/1.0.1")
    assert make_remote(published, "d2", EAST, version="latest").source_reference.endswith("/1.0.0")
