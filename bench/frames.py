"""Segments of independent zstd frames, beside the segments of imgstore: a format that was measured and not chosen.

A segment of format version 1 is one frame, so a read of 4 KiB fetches and unpacks up to 4 MiB. Here a segment has a frame
for each 64 to 256 KiB of its blocks, and a table with the length and the BLAKE3 of each frame at its end. The table is
compared with the name of the segment, and each frame with the table. So a range can be read and verified alone.
"""

import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from bench.disks import BLOCK_BYTES, MIB, data_extents
from bench.traces import Trace
from imgstore.domain.storage.sizes import SEGMENT_BLOCKS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER_BYTES = 16
DIGEST_BYTES = 32
_ENTRY = struct.Struct("<I32s")
WHOLE_BYTES = SEGMENT_BLOCKS * BLOCK_BYTES
"""The frame of a segment of format version 1."""
_READ_AHEAD_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedSegment:
    """A segment as stored: header, frames, table."""

    body: bytes
    table: bytes
    frame_bytes: int
    """Bytes of blocks in each frame but the last."""
    offsets: tuple[int, ...]
    """Where each frame begins in the body, and where the last ends."""

    @property
    def name(self) -> bytes:
        """The BLAKE3 of the table, which holds the digests of the frames."""
        return blake3(self.table).digest()

    def frame_at(self, inside: int) -> int:
        """The frame with a byte of the blocks."""
        return inside // self.frame_bytes


def pack(content: memoryview, frame_bytes: int) -> FramedSegment:
    """Packs the blocks of a segment into frames of `frame_bytes` of content."""
    frames, entries, offsets = [bytes(HEADER_BYTES)], list[bytes](), [HEADER_BYTES]
    for at in range(0, len(content), frame_bytes):
        frame = zstd.compress(content[at : at + frame_bytes], level=1)
        frames.append(frame)
        entries.append(_ENTRY.pack(len(frame), blake3(frame).digest()))
        offsets.append(offsets[-1] + len(frame))
    table = b"".join(entries)
    return FramedSegment(body=b"".join((*frames, table)), table=table, frame_bytes=frame_bytes, offsets=tuple(offsets))


def unpack(segment: FramedSegment) -> Iterator[bytes]:
    """Compares the table with the name and each frame with the table, and gives the blocks of each frame."""
    body = memoryview(segment.body)
    table = body[segment.offsets[-1] :]
    assert blake3(table).digest() == segment.name
    at = HEADER_BYTES
    for length, digest in _ENTRY.iter_unpack(table):
        yield open_frame(body[at : at + length], digest)
        at += length


def open_frame(frame: bytes | memoryview, digest: bytes) -> bytes:
    """The blocks of a frame, verified."""
    assert blake3(frame).digest() == digest, "the frame is damaged"
    return zstd.decompress(frame)


def read_table(table: bytes, number: int) -> tuple[int, int, bytes]:
    """The offset, length and digest of a frame, by a table."""
    entries = list(_ENTRY.iter_unpack(table))
    length, digest = entries[number]
    return HEADER_BYTES + sum(each for each, _ in entries[:number]), length, digest


# -- a whole disk in segments -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The segments of a disk: its blocks in their order, each content once, as an ingest packs a first version."""

    contents: Sequence[bytes]
    """The blocks of each segment."""
    places: dict[int, tuple[int, int]]
    """By the number of a block of the disk: the segment, and the byte in its blocks. Zeros have no place."""


def lay_out(disk: Path) -> Layout:
    """Packs a raw disk in memory."""
    known, places = dict[bytes, tuple[int, int]](), dict[int, tuple[int, int]]()
    contents, buffer = list[bytes](), bytearray()
    zeros = bytes(BLOCK_BYTES)
    for number, block in _blocks(disk):
        if block == zeros:
            continue
        place = known.setdefault(blake3(block).digest(16), (len(contents), len(buffer)))
        if place == (len(contents), len(buffer)):
            buffer += block
            if len(buffer) == WHOLE_BYTES:
                contents.append(bytes(buffer))
                buffer.clear()
        places[number] = place
    if buffer:
        contents.append(bytes(buffer))
    return Layout(contents=contents, places=places)


def _blocks(disk: Path) -> Iterator[tuple[int, memoryview]]:
    with disk.open("rb", buffering=0) as file:
        for start, length in data_extents(file.fileno()):
            for offset in range(start, start + length, _READ_AHEAD_BYTES):
                file.seek(offset)
                piece = memoryview(file.read(min(_READ_AHEAD_BYTES, start + length - offset)))
                for at in range(0, len(piece), BLOCK_BYTES):
                    yield (offset + at) // BLOCK_BYTES, piece[at : at + BLOCK_BYTES]


def pack_all(contents: Sequence[bytes], frame_bytes: int) -> list[FramedSegment]:
    """Packs segments by two threads."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda content: pack(memoryview(content), frame_bytes), contents))


def boot_pack(layout: Layout, trace: Trace) -> list[FramedSegment]:
    """The blocks of a trace in the order of their first reads, in frames of 4 MiB: what a boot streams ahead of itself."""
    places = dict.fromkeys(layout.places[block] for block in trace.blocks() if block in layout.places)
    joined = b"".join(layout.contents[segment][at : at + BLOCK_BYTES] for segment, at in places)
    pieces = (joined[at : at + WHOLE_BYTES] for at in range(0, len(joined), WHOLE_BYTES))
    return [pack(memoryview(piece), WHOLE_BYTES) for piece in pieces]


# -- readers of a store -----------------------------------------------------------------------------------------------

GetRange = Callable[[str, int, int], bytes]


@dataclass(slots=True)
class FrameReader:
    """Reads single blocks of stored segments, each with no cache but the tables and frames that `keeps` retains."""

    segments: Sequence[FramedSegment]
    """What a manifest knows of them: lengths and names."""
    keys: Sequence[str]
    get_range: GetRange
    knows_tables: bool
    """The manifest holds the tables. Otherwise a first request of a segment reads the table."""
    moved_bytes: int = 0
    requests: int = 0
    _tables: dict[int, bytes] | None = None
    _seen: set[tuple[int, int]] | None = None

    def keep(self) -> None:
        """Retains what was read from now on, as a host with a cache does."""
        self._tables, self._seen = {}, set()

    def read(self, number: int, inside: int) -> None:
        """Reads the block at a byte of a segment's blocks, verified."""
        segment = self.segments[number]
        frame = segment.frame_at(inside)
        if self._seen is not None:
            if (number, frame) in self._seen:
                return
            self._seen.add((number, frame))
        if segment.frame_bytes >= WHOLE_BYTES:
            body = self._get(number, 0, len(segment.body))
            table = body[segment.offsets[-1] :]
            open_frame(memoryview(body)[HEADER_BYTES : segment.offsets[-1]], read_table(table, 0)[2])
            return
        table = segment.table if self.knows_tables else self._table(number)
        offset, length, digest = read_table(table, frame)
        open_frame(self._get(number, offset, length), digest)

    def read_speculatively(self, number: int, inside: int) -> None:
        """Reads a block with one request from the likely begin of the frame to the table at the end.

        The likely begin is in proportion to the place in the blocks, and two frames earlier. A wrong guess costs a second
        request.
        """
        segment = self.segments[number]
        frame, frames = segment.frame_at(inside), len(segment.offsets) - 1
        guess = max(0, segment.offsets[-1] * max(0, frame - 2) // frames)
        body = self._get(number, guess, len(segment.body) - guess)
        table = body[-len(segment.table) :]
        assert blake3(table).digest() == segment.name
        offset, length, digest = read_table(table, frame)
        found = body[offset - guess : offset - guess + length] if offset >= guess else self._get(number, offset, length)
        open_frame(found, digest)

    def _table(self, number: int) -> bytes:
        if self._tables is not None and number in self._tables:
            return self._tables[number]
        segment = self.segments[number]
        table = self._get(number, segment.offsets[-1], len(segment.table))
        assert blake3(table).digest() == segment.name
        if self._tables is not None:
            self._tables[number] = table
        return table

    def _get(self, number: int, offset: int, length: int) -> bytes:
        self.requests += 1
        self.moved_bytes += length
        return self.get_range(self.keys[number], offset, length)
