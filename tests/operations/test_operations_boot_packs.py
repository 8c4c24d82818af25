"""Tests of boot packs: traces, reads through a pack, damage, inheritance, collection and scrub."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.reports import BootPackReport
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.ledger.reconciliation import OverheadKind
from imgstore.operations.diagnosis.reconcile import reconcile
from imgstore.operations.disks.boot_traces import publish_trace
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_disk, open_lazy_image
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.stores.regions import init_regions
from imgstore.segments.codec import HEADER_BYTES, encode_segment
from imgstore.testing.engines import S3Engine
from imgstore.transfer.block_trace import TracedDevice
from tests.support.bucket_home import write_regions
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    collect,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
    reference,
    retarget,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]


@contextmanager
def open_version(installation: Installation, version: str = "1.0.0") -> Iterator[LazyDisk]:
    """Open the OS disk of a version in the region of the gallery."""
    with open_lazy_image(installation, ADMIN, reference=reference(version)) as opened:
        yield opened


def choose_blocks(path: Path, count: int = 700) -> list[int]:
    """Return blocks with data in a random order: the reads of a boot."""
    content = path.read_bytes()
    used = [at for at in range(len(content) // BLOCK_BYTES) if any(content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])]
    return random.Random(5).sample(used, count)


def read_blocks(opened: LazyDisk, blocks: Sequence[int]) -> list[bytes]:
    """Read blocks of a disk one by one, as a guest."""
    return [bytes(opened.read_at(block * BLOCK_BYTES, BLOCK_BYTES)) for block in blocks]


def expect_blocks(path: Path, blocks: Sequence[int]) -> list[bytes]:
    """Return blocks of a raw file."""
    content = path.read_bytes()
    return [content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] for block in blocks]


def compressed_bytes(blocks: Sequence[bytes]) -> int:
    """Return the stored bytes of distinct blocks in segments of 4 MiB."""
    total, blocks = 0, list(dict.fromkeys(blocks))
    for first in range(0, len(blocks), 1024):
        part = blocks[first : first + 1024]
        total += len(encode_segment(bytearray(bytes(HEADER_BYTES) + b"".join(part)), len(part)).body)
    return total


def record(installation: Installation, blocks: Sequence[int], version: str = "1.0.0") -> list[BootPackReport]:
    """Record a boot that reads some blocks, and publish the trace."""
    with open_version(installation, version) as opened:
        traced = TracedDevice(opened, 100_000)
        for block in blocks:
            traced.read_at(block * BLOCK_BYTES, BLOCK_BYTES)
        return publish_trace(
            installation, ADMIN, opened=opened, virtual_bytes=traced.virtual_bytes, blocks=traced.blocks
        )


def empty_cache(installation: Installation) -> None:
    """Empty the segment cache of the host."""
    installation.host_cache.open().clear()


def packs_of(installation: Installation, slot: Slot) -> dict[str, int]:
    """Return the stored bytes of the packs of a slot, by key below the slot."""
    store = installation.locator.store(slot)
    return {
        info.key.removeprefix(slot.prefix): info.stored_bytes for info in store.list(slot.prefix + object_keys.PACKS)
    }


def first_slot(installation: Installation, region: str = "southcentralus") -> Slot:
    """Return the first slot of a region."""
    return next(slot for slot in all_slots(installation) if slot.key.region == region)


def test_a_boot_with_a_pack_reads_only_the_blocks_of_the_trace(published: Installation, samples: SampleImages) -> None:
    """Invariant D18."""
    blocks = choose_blocks(samples.first)
    reports = record(published, blocks)
    assert len(reports) == len(show(published).replicas) == 4
    assert all(
        report.problem is None and report.blocks == len(set(expect_blocks(samples.first, blocks))) for report in reports
    )
    expected = expect_blocks(samples.first, blocks)
    empty_cache(published)
    with open_version(published) as opened:
        assert read_blocks(opened, blocks) == expected
        assert opened.pack is not None
        assert opened.pack.wait_until_read()
        assert opened.fetched_bytes <= 1.05 * compressed_bytes(expected)
        assert opened.fetched_bytes < reports[0].stored_bytes + 4096
    with open_version(published) as again:
        assert read_blocks(again, blocks) == expected
        assert again.fetched_bytes <= 32 * 1024, "only the head of the pack"


def test_any_range_with_a_pack_has_the_bytes_of_the_source(published: Installation, samples: SampleImages) -> None:
    record(published, choose_blocks(samples.first, 1500))
    source, choose = samples.first.read_bytes(), random.Random(7)
    empty_cache(published)
    with open_version(published) as opened:
        for _ in range(200):
            offset = choose.randrange(len(source))
            length = min(choose.choice((1, 512, 5000, 70_000)), len(source) - offset)
            assert bytes(opened.read_at(offset, length)) == source[offset : offset + length]
            cached = opened.read_cached(offset, length)
            assert cached is not None
            assert bytes(cached) == source[offset : offset + length]


def test_a_managed_disk_uses_the_pack_of_its_version(published: Installation, samples: SampleImages) -> None:
    blocks = choose_blocks(samples.first)
    record(published, blocks)
    make_disk(published, "d1", "eastus")
    empty_cache(published)
    with open_lazy_disk(published, ADMIN, group=GROUP, name="d1") as opened:
        assert read_blocks(opened, blocks) == expect_blocks(samples.first, blocks)
        assert opened.fetched_bytes <= 1.05 * compressed_bytes(expect_blocks(samples.first, blocks))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "magic": _flip(3),
    "count of frames": _flip(14),
    "manifest": _flip(30),
    "name of a frame": _flip(70),
    "last frame": _flip(-1),
    "second half": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "truncated": _cut,
    "empty": lambda _data: b"",
    "another object": lambda _data: b"x" * 100_000,
}


def test_damage_of_a_pack_costs_speed_and_never_bytes(published: Installation, samples: SampleImages) -> None:
    """Invariant D19."""
    blocks = choose_blocks(samples.first)
    record(published, blocks)
    slots = [slot for slot in all_slots(published) if slot.key.region == "southcentralus"]
    right = {
        slot.uid: published.locator.store(slot).get(slot.prefix + key)
        for slot in slots
        for key in packs_of(published, slot)
    }
    [key] = packs_of(published, slots[0])
    content, expected = samples.first.read_bytes(), expect_blocks(samples.first, blocks)
    for name, damage in DAMAGES.items():
        for slot in slots:
            published.locator.store(slot).put(slot.prefix + key, damage(right[slot.uid]))
        empty_cache(published)
        with open_version(published) as opened:
            assert read_blocks(opened, blocks) == expected, name
            assert bytes(opened.read_at(0, len(content))) == content, name
            assert opened.pack is not None
            assert not opened.pack.wait_until_read(), name


@pytest.mark.parametrize("damage", [pytest.param(_flip(-1), id="frame"), pytest.param(_flip(3), id="head")])
def test_scrub_builds_a_damaged_pack_again(
    published: Installation, samples: SampleImages, damage: Callable[[bytes], bytes]
) -> None:
    record(published, choose_blocks(samples.first))
    slot = first_slot(published)
    store = published.locator.store(slot)
    [key] = packs_of(published, slot)
    right = store.get(slot.prefix + key)
    store.put(slot.prefix + key, damage(right))
    request = ScrubRequest(slot_uid=slot.uid)
    [scrubbed] = scrub(published, ADMIN, request)
    assert scrubbed.damaged == scrubbed.repaired == {key}
    assert store.get(slot.prefix + key) == right
    [again] = scrub(published, ADMIN, request)
    assert not again.damaged
    for each in all_slots(published):  # No head is intact.
        other = published.locator.store(each)
        other.put(each.prefix + key, damage(b"x" * 100))
    [scrubbed] = scrub(published, ADMIN, request)
    assert not scrubbed.unrepaired
    assert not packs_of(published, slot)


def test_the_pack_of_another_disk_is_not_used(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.1.0", targets=["southcentralus"])
    blocks = choose_blocks(samples.first)
    record(published, blocks)
    slot = first_slot(published)
    [key] = packs_of(published, slot)
    record(published, blocks, "1.1.0")
    [other] = packs_of(published, slot).keys() - {key}
    store = published.locator.store(slot)
    store.put(slot.prefix + other, store.get(slot.prefix + key))
    empty_cache(published)
    with open_version(published, "1.1.0") as opened:
        assert opened.pack is not None
        assert not opened.pack.wait_until_read()
        assert read_blocks(opened, blocks) == expect_blocks(samples.second, blocks)


def test_a_new_version_inherits_the_pack_and_a_host_fetches_only_changes(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """Invariant D20."""
    blocks = choose_blocks(samples.first, 2000)
    first = record(published, blocks)
    empty_cache(published)
    with open_version(published) as opened:
        read_blocks(opened, blocks)
        assert opened.pack is not None
        assert opened.pack.wait_until_read()
        first_boot_bytes = opened.fetched_bytes
    patched = patch_disk(samples.first, tmp_path / "patched.raw", seed=3, blocks=20)
    publish(published, patched, "1.1.0")
    for slot in {report.slot.uid: report.slot for report in first}.values():
        assert len(packs_of(published, slot)) == 2, "each replica of the new version has a pack"
    expected = expect_blocks(patched, blocks)
    with open_version(published, "1.1.0") as opened:
        assert read_blocks(opened, blocks) == expected
        assert opened.pack is not None
        assert opened.pack.wait_until_read()
        assert opened.fetched_bytes <= 0.05 * first_boot_bytes
    empty_cache(published)
    with open_version(published, "1.1.0") as opened:
        assert read_blocks(opened, blocks) == expected
        assert opened.pack is not None
        assert opened.pack.wait_until_read()
        assert opened.fetched_bytes <= 1.05 * compressed_bytes(expected)


def test_moved_blocks_are_found_by_content(published: Installation, samples: SampleImages) -> None:
    content = samples.first.read_bytes()
    blocks = choose_blocks(samples.first, 2000)
    record(published, blocks)
    publish(published, samples.rebuilt, "1.1.0", targets=["southcentralus"])
    moved = samples.rebuilt.read_bytes()
    place = {moved[at : at + BLOCK_BYTES]: at // BLOCK_BYTES for at in range(0, len(moved) - 511, BLOCK_BYTES)}
    wanted = [content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] for block in blocks]
    there = [place[each] for each in wanted if each in place]
    assert len(there) > 1000
    empty_cache(published)
    with open_version(published, "1.1.0") as opened:
        assert read_blocks(opened, there) == expect_blocks(samples.rebuilt, there)
        assert opened.pack is not None
        assert opened.pack.wait_until_read()
        assert opened.fetched_bytes <= 1.1 * compressed_bytes(wanted)


def test_a_new_region_gets_the_pack_from_its_own_segments(published: Installation, samples: SampleImages) -> None:
    blocks = choose_blocks(samples.first)
    record(published, blocks)
    retarget(published, ["southcentralus", "westus2", "eastus", "northeurope"])
    slot = first_slot(published, "northeurope")
    assert packs_of(published, slot).keys() == packs_of(published, first_slot(published)).keys()


def test_gc_removes_packs_of_removed_versions(published: Installation, samples: SampleImages) -> None:
    record(published, choose_blocks(samples.first))
    slots = all_slots(published)
    collect(published)
    assert all(packs_of(published, slot) for slot in slots)
    delete(published)
    collect(published)
    assert not any(packs_of(published, slot) for slot in slots)


def test_packs_are_overhead_of_the_bill(published: Installation, samples: SampleImages) -> None:
    record(published, choose_blocks(samples.first))
    report = reconcile(published, ADMIN)
    assert not report.differences
    found = sum(each.overhead.get(OverheadKind.PACKS, 0) for each in report.slots)
    assert found == sum(sum(packs_of(published, slot).values()) for slot in all_slots(published))


def test_traces_that_fit_to_no_disk_are_refused(published: Installation) -> None:
    with open_version(published) as opened:
        for virtual_bytes, blocks in ((opened.virtual_bytes, []), (opened.virtual_bytes + 512, [1])):
            with pytest.raises(InvalidInput):
                publish_trace(published, ADMIN, opened=opened, virtual_bytes=virtual_bytes, blocks=blocks)


def test_a_pack_in_a_bucket(minio: S3Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real S3 server serves ranges, and loses the packs between two boots."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    regions = write_regions(tmp_path / "r.yaml", bucket=minio.make_bucket("packs"), endpoint=minio.endpoint)
    first = make_raw(tmp_path / "first.raw", seed=1)
    second = patch_disk(first, tmp_path / "second.raw", seed=2)
    blocks = choose_blocks(first, 1500)
    with open_home(tmp_path / "home", regions=regions) as installation:
        init_regions(installation, ADMIN)
        create_sample_gallery(installation)
        publish(installation, first, targets=["southcentralus"])
        [report] = record(installation, blocks)
        assert report.problem is None
        empty_cache(installation)
        with open_version(installation) as opened:
            assert read_blocks(opened, blocks) == expect_blocks(first, blocks)
            assert opened.fetched_bytes <= 1.05 * compressed_bytes(expect_blocks(first, blocks))
        publish(installation, second, "1.1.0", targets=["southcentralus"])
        with open_version(installation, "1.1.0") as opened:
            assert read_blocks(opened, blocks) == expect_blocks(second, blocks)
            assert opened.pack is not None
            assert opened.pack.wait_until_read()
            assert opened.fetched_bytes <= 0.05 * report.stored_bytes + 32 * 1024
        store = installation.locator.store(report.slot)
        assert store.delete([report.slot.prefix + key for key in packs_of(installation, report.slot)])
        empty_cache(installation)
        with open_version(installation) as opened:
            assert read_blocks(opened, blocks) == expect_blocks(first, blocks)
            assert opened.pack is not None
            assert not opened.pack.wait_until_read()


def test_without_a_cache_no_pack_is_read(tmp_path: Path, samples: SampleImages) -> None:
    shutil.copytree(samples.home, tmp_path / "home")
    blocks = choose_blocks(samples.first, 20)
    with open_home(tmp_path / "home", cache_bytes=0) as installation:
        record(installation, blocks)
        with open_version(installation) as opened:
            assert opened.pack is None
            assert read_blocks(opened, blocks) == expect_blocks(samples.first, blocks)
    with open_home(tmp_path / "home", cache_bytes=64 * 1024) as installation, open_version(installation) as opened:
        assert opened.pack is not None
        assert not opened.pack.wait_until_read()
        assert read_blocks(opened, blocks) == expect_blocks(samples.first, blocks)
