"""A benchmark of the regions of a user: figures per region, a bounded cost, and removal of all objects."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.errors import ImgstoreError, InvalidInput, StoreUnreachable
from imgstore.domain.reports import BenchPlan, BenchReport
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.prices.price_list import price_of
from imgstore.operations.billing import statements
from imgstore.operations.demo.bench import open_disk_file, plan_bench, run_bench
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import galleries, groups
from imgstore.operations.installation import Installation
from imgstore.operations.versions import delete as versions_delete
from tests.support.sample_gallery import ADMIN, SampleImages, open_home

pytest_plugins = ["tests.support.published_gallery"]

MIB = 1 << 20


@pytest.fixture
def installation(tmp_path: Path, samples: SampleImages) -> Iterator[Installation]:
    """One that others use too: a version in three regions."""
    shutil.copytree(samples.home, tmp_path / "home")
    with open_home(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def reader(installation: Installation, samples: SampleImages) -> Iterator[DiskReader]:
    with open_disk_file(installation, samples.first) as opened:
        yield opened


def run(installation: Installation, plan: BenchPlan, reader: DiskReader, folder: Path, **more: Any) -> BenchReport:
    return run_bench(installation, ADMIN, plan, reader, folder=folder, disks_each=2, say=lambda _: None, **more)


def objects(installation: Installation) -> set[Path]:
    return {path for path in (installation.home / "regions").rglob("*") if path.is_file() and "replica-0" in path.parts}


def counts(installation: Installation) -> dict[str, int]:
    with installation.catalog.reading() as transaction:
        return {
            "groups": len(groups.list_groups(installation, ADMIN)),
            "galleries": len(galleries.list_galleries(installation, ADMIN)),
            "disks": len(disks.list_disks(installation, ADMIN)),
            "pools": len(transaction.pools.list()),
        }


def test_each_region_has_figures_and_all_objects_are_removed(
    installation: Installation, reader: DiskReader, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    before = objects(installation), counts(installation)
    plan = plan_bench(installation, ADMIN, reader, target_regions=["westus2", "eastus"])
    report = run(installation, plan, reader, folder)
    assert [each.region for each in report.regions] == ["southcentralus", "westus2", "eastus"]
    assert report.upload_seconds > 0
    assert report.regions[0].replicate_seconds is None
    assert report.regions[0].delivered_bytes == 0
    for each in report.regions[1:]:
        assert (each.replicate_seconds or 0) > 0
        assert 5 * MIB < each.delivered_bytes <= plan.data_bytes
    for each in report.regions:
        assert min(each.placement_seconds, each.first_read_seconds, each.disk_seconds) > 0
    assert (objects(installation), counts(installation)) == before
    assert report.removed_objects >= 3 * 2
    assert list(folder.iterdir()) == []


def test_planned_cost_is_the_upper_bound_of_the_bill(
    installation: Installation, reader: DiskReader, tmp_path: Path
) -> None:
    before = statements.show_bill(installation, ADMIN)
    plan = plan_bench(installation, ADMIN, reader)
    assert plan.targets == ("westus2", "eastus", "northeurope")
    assert plan.egress_bytes_max == 3 * plan.data_bytes
    assert plan.egress_price_max == sum(
        price_of(
            plan.data_bytes, installation.regions.prices.egress("southcentralus", to, datetime.now(UTC)).first_price
        )
        for to in plan.targets
    )
    run(installation, plan, reader, tmp_path)
    rows = [row for row in statements.show_bill(installation, ADMIN).rows if row.gallery == "imgstore_bench"]
    moved = [row for row in rows if row.kind is ChargeKind.EGRESS]
    assert 0 < sum(row.delivered_bytes for row in moved) <= plan.egress_bytes_max
    assert 0 < sum(row.amount for row in moved) <= plan.egress_price_max
    assert [row.amount for row in before.rows if row.kind is ChargeKind.EGRESS] == [
        row.amount
        for row in statements.show_bill(installation, ADMIN).rows
        if row.kind is ChargeKind.EGRESS and row.gallery != "imgstore_bench"
    ]


def test_plan_changes_nothing_and_uses_a_free_name(installation: Installation, reader: DiskReader) -> None:
    groups.create_group(installation, ADMIN, name="IMGSTORE-bench", location="westus2")
    before = objects(installation), counts(installation)
    assert plan_bench(installation, ADMIN, reader).group == "imgstore-bench-2"
    assert (objects(installation), counts(installation)) == before


def test_source_region_and_unknown_regions_are_refused_as_targets(
    installation: Installation, reader: DiskReader
) -> None:
    with pytest.raises(InvalidInput, match="goes into westus2"):
        plan_bench(installation, ADMIN, reader, location="westus2", target_regions=["westus2"])
    with pytest.raises(InvalidInput, match="atlantis"):
        plan_bench(installation, ADMIN, reader, target_regions=["atlantis"])
    assert plan_bench(installation, ADMIN, reader, target_regions=[]).regions == ("southcentralus",)


@pytest.mark.parametrize("error", [StoreUnreachable("The store is away."), KeyboardInterrupt()])
def test_interrupted_benchmark_removes_all_objects(
    installation: Installation,
    reader: DiskReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    before = objects(installation), counts(installation)
    plan = plan_bench(installation, ADMIN, reader, target_regions=["eastus"])

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(disks_export, "export_disk", fail)
    with pytest.raises(type(error)):
        run(installation, plan, reader, tmp_path)
    assert (objects(installation), counts(installation)) == before


def test_objects_that_cannot_be_removed_are_reported(
    installation: Installation, reader: DiskReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_bench(installation, ADMIN, reader, target_regions=[])

    def fail(*_: object, **__: object) -> None:
        raise StoreUnreachable("The store is away.")

    monkeypatch.setattr(versions_delete, "delete_version", fail)
    with pytest.raises(ImgstoreError, match="The store is away"):
        run(installation, plan, reader, tmp_path)
    assert plan.group in {group.name for group in groups.list_groups(installation, ADMIN)}
