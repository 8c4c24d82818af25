"""Tests of disks that are opened as block devices: content, pins, other replicas and the cache of the host."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from imgstore.domain.disks.block_device import BlockDevice
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, OutputError
from imgstore.domain.names import ImageReference
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_disk, open_lazy_image, overlay_base
from imgstore.operations.installation import Installation
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.overlay import open_overlay
from tests.support.attached_disk import start_attach
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    charges,
    delete,
    make_disk,
    open_home,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]

REFERENCE = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")


@contextmanager
def open_disk(installation: Installation, name: str = "d1") -> Iterator[LazyDisk]:
    """Open a managed disk."""
    with open_lazy_disk(installation, ADMIN, group=GROUP, name=name) as opened:
        yield opened


def test_any_range_has_the_bytes_of_the_source(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d1", "eastus")
    source, choose = samples.first.read_bytes(), random.Random(7)
    with open_disk(published) as opened:
        device: BlockDevice = opened
        assert device.virtual_bytes == len(source)
        for _ in range(60):
            offset = choose.randrange(len(source))
            length = min(choose.choice((1, 4096, 70_000, 5 * MIB)), len(source) - offset)
            assert bytes(device.read_at(offset, length)) == source[offset : offset + length]
            cached = opened.read_cached(offset, length)
            assert cached is not None
            assert bytes(cached) == source[offset : offset + length]
        at = 0
        for extent in device.extents(0, len(source)):
            assert not any(source[at : extent.offset])
            at = extent.end
        assert not any(source[at:])
        assert at < len(source), "the sample ends with zeros"


def test_a_read_that_needs_a_store_is_told_and_a_second_disk_needs_none(
    published: Installation, samples: SampleImages
) -> None:
    source = samples.first.read_bytes()
    first = next(i for i in range(0, len(source), 4096) if any(source[i : i + 4096]))
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        assert opened.read_cached(first, 4096) is None
        opened.prefetch(first, 4096)
        assert opened.read_cached(first, 4096) == source[first : first + 4096]
        assert opened.fetched_bytes > 0
    make_disk(published, "d1", "eastus")
    with open_disk(published) as again:
        assert again.read_at(first, 4096) == source[first : first + 4096]
        assert again.fetched_bytes == 0


def test_an_overlay_needs_a_store_only_for_unchanged_blocks_that_are_not_cached(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    source = samples.first.read_bytes()
    blocks = range(0, len(source) - 8192, 4096)
    first = next(i for i in blocks if any(source[i : i + 4096]) and any(source[i + 4096 : i + 8192]))
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        overlay = open_overlay(tmp_path / "overlay", overlay_base(opened, OS_DISK))
        with closing(overlay):
            device = OverlayDevice(opened, overlay)
            assert device.read_cached(first, 4096) is None
            device.write_at(first, b"x" * 4096)
            assert device.read_cached(first + 1, 4095) == b"x" * 4095
            assert device.read_cached(first, 8192) is None
            opened.prefetch(first, 8192)
            assert device.read_cached(first, 8192) == b"x" * 4096 + source[first + 4096 : first + 8192]
            device.write_zeroes(first, 4096)
            assert device.read_cached(first, 8192) == bytes(4096) + source[first + 4096 : first + 8192]


def test_neither_disk_nor_version_is_deleted_while_open(published: Installation) -> None:
    """Invariant W9."""
    make_disk(published, "d1", "eastus")
    with open_disk(published), pytest.raises(Conflict):
        delete_disk(published, ADMIN, group=GROUP, name="d1")
    delete_disk(published, ADMIN, group=GROUP, name="d1")
    with open_lazy_image(published, ADMIN, reference=REFERENCE), pytest.raises(Conflict):
        delete(published)
    delete(published)


def test_writes_are_refused(published: Installation) -> None:
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        assert opened.is_read_only
        with pytest.raises(OutputError):
            opened.write_at(0, b"x")
        with pytest.raises(OutputError):
            opened.write_zeroes(0, 512)


def test_reads_continue_from_another_region_and_are_charged(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d1", "eastus")
    source = samples.first.read_bytes()
    with open_disk(published) as opened:
        zone = published.home / "regions" / "imgstore-eastus" / "zone-1"
        zone.rename(zone.with_name("away"))
        assert bytes(opened.read_at(0, len(source))) == source
        zone.with_name("away").rename(zone)
        rows = [row for row in charges(published) if row.kind is ChargeKind.CROSS_REGION_READ]
        assert sum(row.delivered_bytes for row in rows) == opened.fetched_bytes > 0


def test_damage_degrades_the_replica_and_the_reader_gets_the_right_bytes(
    published: Installation, samples: SampleImages
) -> None:
    """Invariant W15."""
    source = samples.first.read_bytes()
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        for name in opened.manifest.segments.all_names():
            for path in published.home.glob(f"regions/imgstore-southcentralus/*/**/{name.hex()}"):
                path.write_bytes(b"rot")
        assert bytes(opened.read_at(0, len(source))) == source
        assert not opened.segments.damages, "a long session keeps no list of damages"
    with published.catalog.reading() as transaction:
        states = {str(each.state) for each in transaction.replicas.list(opened.pinned.owner_uid)}
    assert "Degraded" in states


@pytest.mark.parametrize("states", [[ReplicaState.DEGRADED], [ReplicaState.DEGRADED, ReplicaState.REPLICATING]])
def test_a_damaged_version_is_read_also_while_a_restore_runs(
    published: Installation, samples: SampleImages, states: list[ReplicaState]
) -> None:
    """Invariant W15."""
    version = show(published, "1.0.0").version
    with published.catalog.transaction() as transaction:
        for replica in transaction.replicas.list(version.uid):
            for state in states:
                transaction.replicas.move(replica.uid, state)
    source = samples.first.read_bytes()
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        assert bytes(opened.read_at(0, len(source))) == source


def test_a_killed_server_pins_nothing(published: Installation) -> None:
    """Invariant W9: the holder is dead, so the pin ends at once on this machine."""
    make_disk(published, "d1", "eastus")
    socket = published.home / "nbd.sock"
    with start_attach(published.home, "-g", GROUP, "-n", "d1", "--socket", str(socket)) as (server, _):
        with open_home(published.home) as other, pytest.raises(Conflict):
            delete_disk(other, ADMIN, group=GROUP, name="d1")
        server.kill()
        server.wait()
    with open_home(published.home) as other:
        delete_disk(other, ADMIN, group=GROUP, name="d1")
