"""Reads from another region are metered as egress if the stores of the own region fail (M17)."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import ReplicationFailed, StoreError
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.ledger.prices.price_list import price_of
from imgstore.operations.billing import statements
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.reader import open_disk_reader
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.stores.directory import DirectoryStore
from imgstore.transfer.segment_cache import SegmentCache
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    charges,
    export,
    export_disk,
    make_disk,
    open_home,
    retarget,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

READ = ChargeKind.CROSS_REGION_READ


@pytest.fixture
def lost_east(published: Installation) -> Iterator[Installation]:
    """1.0.0 is complete in three regions, a disk was made of it in eastus; then the stores of eastus are gone."""
    make_disk(published, "d1", "eastus")
    zone = published.home / "regions" / "imgstore-eastus" / "zone-1"
    zone.rename(zone.with_name("away"))
    zone.symlink_to(zone)
    with open_home(published.home) as installation:
        yield installation
    zone.unlink()
    zone.with_name("away").rename(zone)
    with open_home(published.home) as installation:
        audit(installation)


def reads(installation: Installation) -> list[LedgerRow]:
    return [row for row in charges(installation) if row.kind is READ]


def image_bytes(installation: Installation) -> int:
    """The stored bytes of the segments that the version names."""
    with installation.catalog.reading() as transaction:
        (row, *_) = transaction.manifests.of_owner(show(installation).version.uid)
        slot = transaction.slots.get(row.slot_uid)
        ids = transaction.manifests.segment_ids_in_slot(slot.uid)
        return transaction.segments.stored_bytes(slot.key.pool_uid, ids)


def test_an_image_read_from_another_region_is_metered(
    lost_east: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    export(lost_east, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
    rows = reads(lost_east)
    assert {row.target for row in rows} == {"eastus"}
    assert "eastus" not in {row.source for row in rows}
    assert sum(row.delivered_bytes for row in rows) == image_bytes(lost_east)
    prices = lost_east.regions.prices
    for row in rows:
        assert row.party.version == "1.0.0"
        assert (
            row.amount == price_of(row.delivered_bytes, prices.egress(row.source, "eastus", row.time).first_price) > 0
        )
    export(lost_east, tmp_path / "again.raw", "eastus")
    assert sum(row.delivered_bytes for row in reads(lost_east)) == 2 * image_bytes(lost_east), "it crossed twice"
    assert statements.show_bill(lost_east, ADMIN).total > 0
    assert states(show(lost_east))["eastus/0"] is ReplicaState.COMPLETED, "a store that fails proves no damage (Z10)"


def test_a_disk_read_from_another_region_is_its_groups(lost_east: Installation, tmp_path: Path) -> None:
    export_disk(lost_east, tmp_path / "d1.raw", "d1")
    assert {(row.party.group, row.party.disk, row.party.version) for row in reads(lost_east)} == {(GROUP, "d1", None)}


def test_range_is_charged_by_the_segments_of_the_range(lost_east: Installation, tmp_path: Path) -> None:
    disks_export.export_range(lost_east, ADMIN, group=GROUP, name="d1", path=tmp_path / "part", offset=0, length=MIB)
    assert 0 < sum(row.delivered_bytes for row in reads(lost_east)) < image_bytes(lost_east)


def test_reads_at_offsets_are_metered_during_the_read(lost_east: Installation, tmp_path: Path) -> None:
    with lost_east.catalog.reading() as transaction:
        disk = transaction.disks.get(lost_east.subscription, GROUP, "d1")
    assert disk is not None
    with closing(SegmentCache(tmp_path)) as cache:
        opened = open_disk_reader(lost_east, disk, cache)
        opened.read_at(0, MIB)
        first = reads(lost_east)
        assert first
        opened.read_at(0, MIB)
        assert reads(lost_east) == first, "what the cache has crosses no border"
        opened.read_at(0, opened.file_bytes)
    rows = reads(lost_east)
    assert sum(row.delivered_bytes for row in rows) == image_bytes(lost_east)
    assert len({row.key for row in rows}) == len(rows)


def test_bytes_of_a_failed_read_are_metered(
    lost_east: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise StoreError("the writer fails", found="nothing", expected="room", hint="none")

    monkeypatch.setattr("imgstore.transfer.scatter._check_piece", fail)
    with pytest.raises(StoreError):
        export(lost_east, tmp_path / "o.raw", "eastus")
    assert reads(lost_east)


def test_bytes_of_a_late_answer_are_metered(
    published: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of eastus is late and still answers first. The bytes from the other regions are not used."""
    make_disk(published, "d1", "eastus")
    real, others_asked, released = DirectoryStore.get, threading.Event(), threading.Event()
    crossed: list[int] = []

    def get(store: DirectoryStore, key: str, *args: Any) -> bytes:
        if "/segments/" not in key:
            return real(store, key, *args)
        if "eastus" in store.name:
            assert others_asked.wait(60)
            return real(store, key, *args)
        others_asked.set()
        assert released.wait(60)
        body = real(store, key, *args)
        crossed.append(len(body))
        return body

    monkeypatch.setattr(DirectoryStore, "get", get)
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert compute_sha256(tmp_path / "d1.raw") == compute_sha256(samples.first)
    assert reads(published) == []
    released.set()
    while not (rows := reads(published)) or sum(row.delivered_bytes for row in rows) != sum(crossed):
        published.effects.wait(0.01)
    assert {row.target for row in rows} == {"eastus"}
    assert len({row.key for row in rows}) == len(rows)


def test_reads_inside_the_region_are_free(published: Installation, tmp_path: Path) -> None:
    make_disk(published, "d1", "eastus")
    export(published, tmp_path / "o.raw", "eastus")
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert reads(published) == []


def test_bytes_read_again_by_a_resumed_copy_are_metered_again(
    published: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same number of bytes from the same beginning is a new ledger row."""
    lost = lose_a_segment(published)
    body = lost[0].read_bytes()
    for path in lost:
        path.unlink()

    def fail(*_args: object, **_more: object) -> None:
        raise StoreError("the end is not reached", found="nothing", expected="an end", hint="none")

    targets = ["southcentralus=3", "westus2=1=Standard_ZRS", "eastus"]
    with monkeypatch.context() as broken:
        broken.setattr("imgstore.operations.replication.copy.complete_replica", fail)
        with pytest.raises(ReplicationFailed):
            retarget(published, targets)
    for path in lost:
        path.write_bytes(body)
    scrub(published, ADMIN, ScrubRequest())
    for path in (published.home / "regions" / "imgstore-southcentralus").rglob(f"segments/*/{lost[0].name}"):
        path.unlink()
    assert states(retarget(published, targets))["southcentralus/2"] is ReplicaState.COMPLETED
    repairs = [row for row in charges(published) if row.kind is ChargeKind.REPAIR and row.key.startswith("read/")]
    assert [row.delivered_bytes for row in repairs] == [len(body)] * 2


def lose_a_segment(installation: Installation) -> list[Path]:
    """The files of one segment in every slot of southcentralus."""
    folder = installation.home / "regions" / "imgstore-southcentralus"
    segments = sorted(path for path in folder.rglob("segments/*/*") if path.is_file())
    return [path for path in segments if path.name == segments[0].name]


def test_copy_inside_a_region_from_another_region_is_metered(published: Installation) -> None:
    """No store of the region has a segment. The replacement is a repair, as in a scrub (invariant M7)."""
    lost = lose_a_segment(published)
    lost_bytes = lost[0].stat().st_size
    for path in lost:
        path.unlink()
    view = retarget(published, ["southcentralus=3", "westus2=1=Standard_ZRS", "eastus"])
    assert states(view)["southcentralus/2"] is ReplicaState.COMPLETED
    assert reads(published) == []
    repairs = [row for row in charges(published) if row.kind is ChargeKind.REPAIR]
    assert [(row.target, row.delivered_bytes) for row in repairs] == [("southcentralus", lost_bytes)]
