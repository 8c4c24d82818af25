"""Make lost segments again from the sources of disks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, round_up
from imgstore.segments.codec import encode_as
from imgstore.segments.manifest import Manifest, Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RefillSource:
    """A stored disk, and a source that should have the content of the disk."""

    manifest: Manifest
    reader: DiskReader


def find_parts(sources: Collection[RefillSource], names: Collection[Digest]) -> Mapping[Digest, list["SegmentPart"]]:
    """Find the parts of segments that disks hold, by the name of the segment."""
    parts: dict[Digest, list[SegmentPart]] = {name: [] for name in names}
    for source in sources:
        table, runs = source.manifest.segments, source.manifest.runs
        numbers = {name: number for number, name in enumerate(table.all_names()) if name in parts}
        for name, number in numbers.items():
            rows = np.flatnonzero(runs.segment == number)
            parts[name].append(SegmentPart(source=source, runs=runs.take(rows), blocks=int(table.blocks[number])))
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPart:
    """The runs of one disk in one segment."""

    source: RefillSource
    runs: Runs
    blocks: int
    """The number of blocks of the segment."""


def make_segment(name: Digest, parts: Collection[SegmentPart]) -> bytes | None:
    """Read the blocks of a segment from the sources, and encode the segment.

    Returns:
        The object, which matches `name`. None if no disk has some of the blocks, a source has other bytes, or another
        release of zstd has compressed the segment.
    """
    blocks = max((part.blocks for part in parts), default=0)
    content, has = np.zeros((blocks, BLOCK_BYTES), dtype=np.uint8), np.zeros(blocks, dtype=np.bool_)
    for part in parts:
        pieces = part.runs.block // PIECE_BLOCKS
        for begin in np.flatnonzero(np.diff(pieces, prepend=-1)).tolist():
            rows = part.runs.take(np.flatnonzero(pieces == pieces[begin]))
            _copy_piece(part.source.reader, rows, content, has)
    return encode_as(name, content.tobytes()) if blocks and has.all() else None


def _copy_piece(
    reader: DiskReader,
    runs: Runs,
    content: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]",
    has: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
) -> None:
    """Copy the blocks of runs in one piece from a source. The source is read once, from the first to the last run."""
    first, end = int(runs.block[0]), int((runs.block + runs.count).max())
    offset = first * BLOCK_BYTES
    length = min(end * BLOCK_BYTES, reader.virtual_bytes) - offset
    if length <= 0:
        return  # The source is shorter than the stored disk.
    data = np.frombuffer(reader.read_at(offset, length).ljust(round_up(length, BLOCK_BYTES), b"\0"), dtype=np.uint8)
    rows = data.reshape(-1, BLOCK_BYTES)
    for block, count, at in zip(runs.block.tolist(), runs.count.tolist(), runs.at.tolist(), strict=True):
        part = rows[block - first : block - first + count]
        content[at : at + len(part)] = part
        has[at : at + len(part)] = True
