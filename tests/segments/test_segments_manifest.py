"""Tests of manifests: encoding and decoding agree, each bound is checked, and forged manifests do no harm."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from backports import zstd
from hypothesis import assume, given
from hypothesis import strategies as st
from segments_golden import MANIFEST, columns, golden, noise
from test_segments_golden import values

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat
from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import digest_of, disk_digest
from imgstore.segments.fingerprint_index import ZERO
from imgstore.segments.manifest import (
    Manifest,
    Pieces,
    Runs,
    SegmentTable,
    WorkRef,
    check_bounds,
    decode_manifest,
    encode_manifest,
    piece_bytes,
)
from imgstore.segments.packing import locations_of, runs_of, used_blocks

MIB = 1 << 20
PIECE = 4 * MIB
BLOCK = 4096


def names(count: int, seed: str) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    return np.frombuffer(b"".join(noise(f"{seed}{n}", 32) for n in range(count)), dtype=np.uint8).reshape(-1, 32)


@st.composite
def piece_runs(draw: st.DrawFn, index: int, blocks: int, segments: list[int]) -> Runs:
    """Generate the runs of a piece, at least a single run, at any locations."""
    locations = np.full(blocks, ZERO)
    at = draw(st.integers(0, min(blocks - 1, 3)))
    for _ in range(draw(st.integers(1, 5))):
        segment = draw(st.integers(0, len(segments) - 1))
        begin = draw(st.integers(0, segments[segment] - 1))
        count = draw(st.integers(1, min(segments[segment] - begin, 300)))
        count = min(count, blocks - at)
        if count < 1:
            break
        first = segment * 1024 + begin
        locations[at : at + count] = np.arange(first, first + count, dtype=np.uint32)
        at += count + draw(st.integers(0, 2))
    return runs_of(index * 1024, locations)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    virtual_bytes = draw(st.integers(1, 3 * PIECE + 1))
    segments = draw(st.lists(st.integers(1, 1024), min_size=1, max_size=4))
    pieces = -(-virtual_bytes // PIECE)
    full = sorted(draw(st.sets(st.integers(0, pieces - 1))))
    works = draw(st.integers(1, len(segments)))
    parts = [draw(piece_runs(index, -(-piece_bytes(virtual_bytes, index) // BLOCK), segments)) for index in full]
    return Manifest(
        virtual_bytes=virtual_bytes,
        container_metadata=ContainerMetadata(
            format=draw(st.sampled_from(DiskFormat)), footer=draw(st.binary(max_size=600))
        ),
        works=tuple(WorkRef(uid=str(draw(st.uuids())), fingerprints_digest=noise(f"w{n}", 32)) for n in range(works)),
        segments=SegmentTable(
            names=names(len(segments), "s"),
            blocks=np.array(segments, dtype=np.int64),
            stored_bytes=np.array([draw(st.integers(17, 2**32 - 1)) for _ in segments], dtype=np.int64),
            work=np.array([n % works for n in range(len(segments))], dtype=np.int64),
        ),
        runs=Runs.concatenate(parts),
        pieces=Pieces(index=np.array(full, dtype=np.int64), digests=names(len(full), "p")),
    )


@given(manifests())
def test_manifests_round_trip(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert values(decode_manifest(data)) == values(manifest)
    assert data[-32:] == digest_of(data[:-32])


@given(manifests())
def test_the_views_of_a_manifest_agree(manifest: Manifest) -> None:
    """Extents, content, pieces and ranges describe the same blocks as a plain list of blocks."""
    covered, where = locations_of(manifest.runs)
    assert covered.tolist() == sorted(set(covered.tolist()))
    assert manifest.content_bytes == len(covered) * BLOCK
    found: list[int] = []
    for extent in manifest.extents():
        assert extent.offset % BLOCK == 0
        assert 0 < extent.length <= manifest.virtual_bytes - extent.offset
        found += range(extent.offset // BLOCK, -(-extent.end // BLOCK))
    assert found == covered.tolist()
    assert manifest.stored_bytes == sum(manifest.segments.stored_bytes.tolist())
    digests = dict(manifest.pieces.items())
    assert [manifest.pieces.find(index) for index in range(4)] == [digests.get(index) for index in range(4)]
    assert manifest.disk_digest == disk_digest(manifest.virtual_bytes, sorted(digests.items()))
    used = used_blocks(manifest.runs, len(manifest.segments), runs_at_once=2)
    # Invariant B11.
    assert sorted(np.flatnonzero(used.reshape(-1)).tolist()) == sorted(set(where.tolist()))


@given(manifests(), st.integers(0, 3100), st.integers(0, 3100))
def test_overlapping_runs(manifest: Manifest, first: int, end: int) -> None:
    assume(first < end)
    runs = manifest.runs
    expected = [
        row
        for row, (block, count) in enumerate(zip(runs.block.tolist(), runs.count.tolist(), strict=True))
        if block < end and block + count > first
    ]
    assert list(range(len(runs)))[runs.overlapping(first, end)] == expected


def test_an_empty_disk_of_a_tebibyte_is_small() -> None:
    empty = replace(
        MANIFEST,
        virtual_bytes=1 << 40,
        works=(),
        segments=SegmentTable(names=names(0, ""), blocks=NONE, stored_bytes=NONE, work=NONE),
        runs=columns(),
        pieces=Pieces(index=NONE, digests=names(0, "")),
    )
    data = encode_manifest(empty)
    assert len(data) < 1000
    assert values(decode_manifest(data)) == values(empty)


# Bounds. MANIFEST: pieces 0 and 2 of a disk of 2,305 blocks and a bit; segments of 1,024, 7 and 1 blocks.

NONE = np.empty(0, dtype=np.int64)


def with_runs(*rows: tuple[int, int, int, int]) -> Manifest:
    return replace(MANIFEST, runs=columns(*rows))


def with_segments(**changed: list[int]) -> Manifest:
    arrays: dict[str, Any] = {name: np.array(column, dtype=np.int64) for name, column in changed.items()}
    return replace(MANIFEST, segments=replace(MANIFEST.segments, **arrays))


def with_pieces(*index: int) -> Manifest:
    return replace(MANIFEST, pieces=Pieces(index=np.array(index, dtype=np.int64), digests=names(len(index), "p")))


FIRST = (0, 1024, 0, 0)
LAST = (2304, 1, 2, 0)

BROKEN = {
    "a segment without blocks": with_segments(blocks=[1024, 7, 0]),
    "a segment too large": with_segments(blocks=[1025, 7, 1]),
    "a segment of no work": with_segments(work=[0, 1, 2]),
    "a segment of a work before the first": with_segments(work=[-1, 1, 1]),
    "a run in no segment": with_runs(FIRST, (2304, 1, 3, 0)),
    "a run in a segment before the first": with_runs(FIRST, (2304, 1, -1, 0)),
    "a run beyond the disk's end": with_runs(FIRST, LAST, (2305, 1, 2, 0)),
    "a run across the disk's end": with_runs(FIRST, (2304, 2, 0, 0)),
    "runs that overlap": with_runs(FIRST, (2048, 3, 1, 0), (2050, 1, 0, 0)),
    "runs that are not sorted": with_runs(LAST, FIRST),
    "a run twice": with_runs(FIRST, LAST, LAST),
    "a run across its segment's end": with_runs(FIRST, (2048, 2, 1, 6)),
    "a run beyond its segment's end": with_runs(FIRST, (2048, 1, 1, 7)),
    "a run across pieces": with_runs((1, 1024, 0, 0), LAST),
    "runs in a piece without a digest": with_runs(FIRST, (1024, 1, 0, 0), LAST),
    "a piece whose digest has no runs": with_runs(FIRST),
    "pieces that are not sorted": with_pieces(2, 0),
    "a piece twice": with_pieces(0, 0, 2),
    "a piece beyond": with_pieces(0, 2, 3),
}


def test_the_unchanged_manifest_is_within_its_bounds() -> None:
    check_bounds(MANIFEST)


@pytest.mark.parametrize("what", list(BROKEN))
def test_each_bound_is_checked(what: str) -> None:
    with pytest.raises(ObjectCorrupt) as caught:
        check_bounds(BROKEN[what])
    assert caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize("what", [name for name in BROKEN if "before the first" not in name])
def test_each_bound_is_checked_on_reading(what: str) -> None:
    """A manifest that breaks a bound is refused even with a right digest."""
    # Invariant B10.
    with pytest.raises(ObjectCorrupt):
        decode_manifest(encode_manifest(BROKEN[what]))


def seal(body: bytes) -> bytes:
    return body + digest_of(body)


def with_number(offset: int, size: int, number: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:offset] + number.to_bytes(size, "little") + body[offset + size :]


FRAME_BYTES_AT = 40


def with_frame(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def changed(body: bytes) -> bytes:
        length = int.from_bytes(body[FRAME_BYTES_AT : FRAME_BYTES_AT + 4], "little")
        frame = change(body[-length:])
        return with_number(FRAME_BYTES_AT, 4, len(frame))(body[:-length] + frame)

    return changed


FORGED = {
    "magic": with_number(0, 8, 0),
    "version": with_number(8, 2, 2),
    "container 0": with_number(10, 2, 0),
    "container 7": with_number(10, 2, 7),
    "footer": with_number(12, 4, 2**32 - 1),
    "no bytes": with_number(16, 8, 0),
    "too many bytes": with_number(16, 8, 2**64 - 1),
    "just too many bytes": with_number(16, 8, (64 << 40) + 1),
    "works": with_number(24, 4, 2**32 - 1),
    "segments": with_number(28, 4, 2**32 - 1),
    "runs": with_number(32, 4, 2**32 - 1),
    "pieces": with_number(36, 4, 2**32 - 1),
    "frame": with_number(40, 4, 2**32 - 1),
    "one run more": with_number(32, 4, 5),
    "one run less": with_number(32, 4, 3),
    "not zero": with_number(44, 4, 1),
    "disk digest": with_number(48, 8, 7),
    "no frame": with_frame(lambda _frame: b"nothing that zstd wrote"),
    "half a frame": with_frame(lambda frame: frame[:-1]),
    "two frames": with_frame(lambda frame: frame + frame),
    "a bomb that the header tells of": lambda body: with_number(32, 4, 1 << 24)(
        with_frame(lambda _frame: zstd.compress(bytes(3 * 10 + (16 << 24) + 2 * 4)))(body)
    ),
    "a bomb": with_frame(lambda _frame: zstd.compress(bytes(1 << 28))),
}


@pytest.mark.parametrize("what", list(FORGED))
def test_forged_counts_and_frames_are_refused_before_allocation(what: str) -> None:
    data = seal(FORGED[what](golden("manifest")[:-32]))
    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorrupt):
            decode_manifest(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_forged_manifests_are_refused_or_within_bounds(data: st.DataObject) -> None:
    """Columns change before compression, header counts afterwards. No other error is ever raised."""
    rows = {
        name: data.draw(st.integers(0, 2**63 - 1) | st.integers(0, 3000))
        for name in data.draw(st.sets(st.sampled_from(["block", "count", "segment", "at"]), max_size=2))
    }
    runs = {name: getattr(MANIFEST.runs, name).copy() for name in ("block", "count", "segment", "at")}
    for name, number in rows.items():
        runs[name][data.draw(st.integers(0, 3))] = number
    body = bytearray(encode_manifest(replace(MANIFEST, runs=Runs(**runs)))[:-32])
    for _ in range(data.draw(st.integers(0, 2))):
        body[data.draw(st.integers(0, 79))] = data.draw(st.integers(0, 255))
    try:
        found = decode_manifest(seal(bytes(body)))
    except ObjectCorrupt:
        return
    check_bounds(found)
