"""The manifest: a disk as a list of runs over segments. A manifest never changes and ends with its own BLAKE3.

::

    offset  bytes  field
         0      8  magic "IMGSTMAN"
         8      2  format version, 1
        10      2  container of the source: 1 vhd, 2 vhd-dynamic, 3 raw, 4 qcow2, 5 vhdx, 6 vmdk
        12      4  bytes of footer
        16      8  virtual bytes
        24      4  works
        28      4  segments
        32      4  runs
        36      4  pieces that are not all zero
        40      4  bytes of the column frame
        44      4  zero
        48     32  disk digest
        80         footer
         .     48  for each work: its uid (16), the BLAKE3 of its fingerprints object (32)
         .     32  for each segment: its name
         .     32  for each piece that is not all zero: its BLAKE3
         .         one zstd frame with these columns in sequence:
                     segments: blocks - 1 (u16), stored bytes (u32), work (u32, index in the table of works)
                     runs: first block (u64, difference to the previous run), count - 1 (u16), segment (u32, index in
                     the table of segments), block in segment (u16)
                     pieces: index (u32, difference to the previous piece)
   end-32     32  BLAKE3 of all previous bytes

All numbers are little-endian. The digests are outside the frame, because digests do not compress. Runs are sorted, do
not overlap, and do not cross a segment or a piece. The reader checks every bound before use.
"""

import struct
import sys
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, Extent
from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest, digest_of, disk_digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, PIECE_BYTES, SEGMENT_BLOCKS, TIB, ceil_div

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC: Final = b"IMGSTMAN"
VERSION: Final = 1
VIRTUAL_BYTES_MAX: Final = 64 * TIB
"""Azure's largest disk is 32 TiB. Twice that size keeps piece indexes and locations far inside their fields."""
SEGMENTS_MAX: Final = 1 << 22
"""In memory, a location is a u32, segment x 1,024 + block: 16 TiB of distinct blocks in a version."""
RUNS_MAX: Final = 1 << 26
FOOTER_BYTES_MAX: Final = 64 * 1024

_HEADER: Final = struct.Struct("<8sHHIQIIIIII32s")
_FORMATS: Final = (
    DiskFormat.VHD_FIXED,
    DiskFormat.VHD_DYNAMIC,
    DiskFormat.RAW,
    DiskFormat.QCOW2,
    DiskFormat.VHDX,
    DiskFormat.VMDK,
)
_SEGMENT_COLUMN_BYTES: Final = 2 + 4 + 4
_RUN_COLUMN_BYTES: Final = 8 + 2 + 4 + 2
_PIECE_COLUMN_BYTES: Final = 4
_LEVEL: Final = 3

Column: TypeAlias = npt.NDArray[np.int64]
Digests: TypeAlias = npt.NDArray[np.uint8]
"""Shape (n, 32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRef:
    """An ingest that packed some of the segments."""

    uid: str
    fingerprints_digest: Digest
    """BLAKE3 of the work's fingerprints object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTable:
    """The segments that a manifest names, as columns of equal length."""

    names: Digests
    blocks: Column
    stored_bytes: Column
    work: Column
    """Index in the manifest's works."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> Digest:
        """Return the name of the segment at `index`."""
        return bytes(self.names[index])

    def all_names(self) -> list[Digest]:
        """Return every name, in the order of the table."""
        return [row.tobytes() for row in self.names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of a disk, sorted by block, as columns of equal length."""

    block: Column
    """First block of the disk."""
    count: Column
    """Blocks, at least 1."""
    segment: Column
    """Index in the segment table."""
    at: Column
    """First block in the segment."""

    def __len__(self) -> int:
        return len(self.block)

    def between(self, first_block: int, end_block: int) -> slice:
        """Return the runs that begin in [first_block, end_block).

        No run crosses a piece, so this finds the runs of a piece.
        """
        low, high = np.searchsorted(self.block, (first_block, end_block))
        return slice(int(low), int(high))

    def overlapping(self, first_block: int, end_block: int) -> slice:
        """Return the runs that hold any block of [first_block, end_block)."""
        low = int(np.searchsorted(self.block, first_block, side="right"))
        if low and self.block[low - 1] + self.count[low - 1] > first_block:
            low -= 1
        return slice(low, int(np.searchsorted(self.block, end_block)))

    def take(self, rows: Column | slice) -> "Runs":
        """Return the runs at `rows`, in that order."""
        return Runs(block=self.block[rows], count=self.count[rows], segment=self.segment[rows], at=self.at[rows])

    @classmethod
    def concatenate(cls, parts: Sequence["Runs"]) -> Self:
        """Join several ranges of runs, in order."""

        def join(name: str) -> Column:
            return np.concatenate([getattr(part, name) for part in parts] or [np.empty(0, dtype=np.int64)])

        return cls(block=join("block"), count=join("count"), segment=join("segment"), at=join("at"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The pieces of a disk that are not all zero."""

    index: Column
    digests: Digests
    """Digests of the real bytes: the last piece ends at the end of the disk."""

    def __len__(self) -> int:
        return len(self.index)

    def items(self) -> Iterator[tuple[int, Digest]]:
        """Return pairs of index and digest, in order."""
        return zip(self.index.tolist(), (row.tobytes() for row in self.digests), strict=True)

    def find(self, index: int) -> Digest | None:
        """Return the digest of the piece at `index`, or None for a piece that is all zero."""
        place = int(np.searchsorted(self.index, index))
        if place < len(self.index) and self.index[place] == index:
            return bytes(self.digests[place])
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description of a disk."""

    virtual_bytes: int
    container_metadata: ContainerMetadata
    works: tuple[WorkRef, ...]
    segments: SegmentTable
    runs: Runs
    pieces: Pieces

    @property
    def disk_digest(self) -> Digest:
        """The digest of the disk's content, independent of the container."""
        return disk_digest(self.virtual_bytes, self.pieces.items())

    @property
    def stored_bytes(self) -> int:
        """The stored bytes of all segments."""
        return int(self.segments.stored_bytes.sum())

    @property
    def content_bytes(self) -> int:
        """The bytes of the disk that runs cover."""
        return int(self.runs.count.sum()) * BLOCK_BYTES

    def extents(self) -> list[Extent]:
        """Return the ranges of the disk that hold data, merged and cut at the end of the disk."""
        return self._merge(self.runs)

    def extents_in(self, names: Collection[Digest]) -> list[Extent]:
        """Return the ranges of the disk that the named segments hold, merged and cut at the end of the disk."""
        table = self.segments
        chosen = np.array([name in names for name in table.all_names()], dtype=np.bool_)
        return self._merge(self.runs.take(np.flatnonzero(chosen[self.runs.segment]))) if chosen.any() else []

    def _merge(self, runs: Runs) -> list[Extent]:
        ends = runs.block + runs.count
        first = np.flatnonzero(np.concatenate(([True], runs.block[1:] != ends[:-1]))) if len(runs) else ()
        starts = runs.block[first] * BLOCK_BYTES if len(runs) else np.empty(0, dtype=np.int64)
        stops = np.append(ends[np.asarray(first[1:]) - 1], ends[-1]) * BLOCK_BYTES if len(runs) else starts
        return [
            Extent(offset=start, length=min(stop, self.virtual_bytes) - start)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]


def piece_bytes(virtual_bytes: int, index: int) -> int:
    """Return the number of real bytes in the piece at `index`."""
    return min(PIECE_BYTES, virtual_bytes - index * PIECE_BYTES)


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode the object, which ends with its own digest."""
    segments, runs, pieces = manifest.segments, manifest.runs, manifest.pieces
    frame = zstd.compress(
        b"".join(
            (
                (segments.blocks - 1).astype("<u2").tobytes(),
                segments.stored_bytes.astype("<u4").tobytes(),
                segments.work.astype("<u4").tobytes(),
                np.diff(runs.block, prepend=0).astype("<u8").tobytes(),
                (runs.count - 1).astype("<u2").tobytes(),
                runs.segment.astype("<u4").tobytes(),
                runs.at.astype("<u2").tobytes(),
                np.diff(pieces.index, prepend=0).astype("<u4").tobytes(),
            )
        ),
        level=_LEVEL,
    )
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        _FORMATS.index(manifest.container_metadata.format) + 1,
        len(manifest.container_metadata.footer),
        manifest.virtual_bytes,
        len(manifest.works),
        len(segments),
        len(runs),
        len(pieces),
        len(frame),
        0,
        manifest.disk_digest,
    )
    works = b"".join(uuid.UUID(work.uid).bytes + work.fingerprints_digest for work in manifest.works)
    body = b"".join(
        (header, manifest.container_metadata.footer, works, segments.names.tobytes(), pieces.digests.tobytes(), frame)
    )
    return body + digest_of(body)


def manifest_digest(data: bytes) -> Digest:
    """Return the digest at the end of an encoded manifest, which the catalog stores."""
    return data[-DIGEST_BYTES:]


@dataclass(frozen=True, slots=True)
class ManifestCheck:
    """A check for a store: a body is served only if it ends with its own BLAKE3, and with `digest` if given."""

    digest: Digest | None = None

    def __call__(self, data: bytes) -> bool:
        """Return whether `data` passes the check."""
        end = data[-DIGEST_BYTES:]
        return digest_of(memoryview(data)[:-DIGEST_BYTES]) == end and self.digest in (None, end)


def decode_manifest(data: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
        ObjectCorrupt: `data` does not end with its own digest, or breaks a bound, which the error names.
    """
    if len(data) < _HEADER.size + DIGEST_BYTES or not ManifestCheck()(data):
        raise _corrupt(f"{len(data)} bytes that do not end with their own BLAKE3", "a complete manifest")
    return _Decoder(memoryview(data)[:-DIGEST_BYTES]).manifest()


class _Decoder:
    """A decoder that reads the parts in order. Each count is checked before memory of that size is allocated."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        (
            magic,
            version,
            form,
            self._footer_bytes,
            self._virtual_bytes,
            self._works,
            self._segments,
            self._runs,
            self._pieces,
            self._frame_bytes,
            zero,
            self._disk_digest,
        ) = _HEADER.unpack_from(body)
        _check((magic, version, zero) == (MAGIC, VERSION, 0), f"magic {magic!r}, version {version}", "version 1")
        _check(1 <= form <= len(_FORMATS), f"container {form}", f"1 to {len(_FORMATS)}")
        _check(1 <= self._virtual_bytes <= VIRTUAL_BYTES_MAX, f"{self._virtual_bytes} virtual bytes", "up to 64 TiB")
        _check(self._footer_bytes <= FOOTER_BYTES_MAX, f"{self._footer_bytes} bytes of footer", "up to 64 KiB")
        _check(self._segments <= SEGMENTS_MAX, f"{self._segments} segments", f"up to {SEGMENTS_MAX}")
        _check(self._works <= self._segments, f"{self._works} works", f"up to {self._segments}")
        self._blocks = ceil_div(self._virtual_bytes, BLOCK_BYTES)
        _check(self._runs <= min(RUNS_MAX, self._blocks), f"{self._runs} runs", f"up to {self._blocks}")
        piece_count = ceil_div(self._virtual_bytes, PIECE_BYTES)
        _check(self._pieces <= piece_count, f"{self._pieces} pieces", f"up to {piece_count}")
        fixed = (
            _HEADER.size
            + self._footer_bytes
            + self._works * (16 + DIGEST_BYTES)
            + (self._segments + self._pieces) * DIGEST_BYTES
            + self._frame_bytes
        )
        _check(len(body) == fixed, f"{len(body)} bytes", f"{fixed}")
        self._format = _FORMATS[form - 1]
        self._at = _HEADER.size
        self._columns = memoryview(b"")
        self._column_at = 0

    def manifest(self) -> Manifest:
        footer = self._take(self._footer_bytes).tobytes()
        works = tuple(self._work() for _ in range(self._works))
        names = self._digests(self._segments)
        digests = self._digests(self._pieces)
        self._columns = self._unpack(self._take(self._frame_bytes))
        segments = SegmentTable(
            names=names,
            blocks=self._column("<u2", self._segments) + 1,
            stored_bytes=self._column("<u4", self._segments),
            work=self._column("<u4", self._segments),
        )
        runs = Runs(
            block=self._sum_steps("<u8", self._runs),
            count=self._column("<u2", self._runs) + 1,
            segment=self._column("<u4", self._runs),
            at=self._column("<u2", self._runs),
        )
        pieces = Pieces(index=self._sum_steps("<u4", self._pieces), digests=digests)
        manifest = Manifest(
            virtual_bytes=self._virtual_bytes,
            container_metadata=ContainerMetadata(format=self._format, footer=footer),
            works=works,
            segments=segments,
            runs=runs,
            pieces=pieces,
        )
        check_bounds(manifest)
        _check(
            manifest.disk_digest == self._disk_digest,
            "a disk digest that differs from the digest of the pieces",
            "equal digests",
        )
        return manifest

    def _take(self, length: int) -> memoryview:
        part = self._body[self._at : self._at + length]
        self._at += length
        return part

    def _work(self) -> WorkRef:
        uid = str(uuid.UUID(bytes=self._take(16).tobytes()))
        return WorkRef(uid=uid, fingerprints_digest=self._take(DIGEST_BYTES).tobytes())

    def _digests(self, count: int) -> Digests:
        return np.frombuffer(self._take(count * DIGEST_BYTES), dtype=np.uint8).reshape(count, DIGEST_BYTES)

    def _unpack(self, frame: memoryview) -> memoryview:
        expected = (
            self._segments * _SEGMENT_COLUMN_BYTES + self._runs * _RUN_COLUMN_BYTES + self._pieces * _PIECE_COLUMN_BYTES
        )
        decoder = zstd.ZstdDecompressor()
        try:
            columns = decoder.decompress(frame, max_length=expected + 1)
        except zstd.ZstdError as error:
            raise _corrupt(f"a damaged column frame ({error})", "one complete zstd frame") from error
        whole = decoder.eof and not decoder.unused_data
        _check(whole and len(columns) == expected, f"{len(columns)} bytes of columns", f"{expected} in one frame")
        return memoryview(columns)

    def _column(self, kind: str, count: int) -> Column:
        values = np.frombuffer(self._columns, dtype=kind, count=count, offset=self._column_at)
        self._column_at += values.nbytes
        return values.astype(np.int64)

    def _sum_steps(self, kind: str, count: int) -> Column:
        steps = self._column(kind, count)
        # Each step is at most the number of blocks, so the sum can't overflow 2^63 before the check.
        _check(
            not count or bool((steps >= 0).all() and steps.max() <= self._blocks),
            "a difference out of range",
            "differences within the disk",
        )
        return np.cumsum(steps)


def check_bounds(manifest: Manifest) -> None:
    """Check every bound of a manifest with decoded columns.

    Raises:
        ObjectCorrupt: a bound is broken. The error names the bound.
    """
    segments, runs, pieces = manifest.segments, manifest.runs, manifest.pieces
    blocks = ceil_div(manifest.virtual_bytes, BLOCK_BYTES)
    _check(_within(segments.blocks, 1, SEGMENT_BLOCKS), "a segment's blocks out of range", f"1 to {SEGMENT_BLOCKS}")
    _check(_within(segments.work, 0, len(manifest.works) - 1), "a segment of no work", "an index of works")
    _check(_within(runs.segment, 0, len(segments) - 1), "a run in no segment", "an index of segments")
    ends = runs.block + runs.count
    _check(_within(ends, 1, blocks), "a run beyond the disk's end", f"up to block {blocks}")
    _check(bool((runs.block[1:] >= ends[:-1]).all()), "runs that overlap or are not sorted", "sorted runs")
    inside = runs.at + runs.count <= segments.blocks[runs.segment] if len(runs) else np.array([True])
    _check(bool(inside.all()), "a run that crosses its segment's end", "runs inside a segment")
    crossing = runs.block // PIECE_BLOCKS != (ends - 1) // PIECE_BLOCKS
    _check(not crossing.any(), "a run that crosses a piece", "runs inside a piece")
    _check(bool((np.diff(pieces.index) > 0).all()), "pieces that are not sorted", "sorted pieces")
    _check(
        _within(pieces.index, 0, ceil_div(manifest.virtual_bytes, PIECE_BYTES) - 1),
        "a piece beyond the end of the disk",
        "pieces of the disk",
    )
    filled = runs.block // PIECE_BLOCKS
    _check(bool(np.isin(filled, pieces.index).all()), "runs in a piece without a digest", "a digest for each")
    # A reader checks a piece after writing its last run, so a piece without runs would never be checked.
    _check(
        bool(np.isin(pieces.index, filled).all()),
        "a digest of a piece without runs",
        "no digest for a piece that is all zero",
    )


def _within(column: Column, low: int, high: int) -> bool:
    return not len(column) or bool(low <= column.min() and column.max() <= high)


def _check(holds: bool, found: str, expected: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise _corrupt(found, expected)


def _corrupt(found: str, expected: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        "A manifest is damaged.",
        found=found,
        expected=expected,
        hint="imgstore reads the manifest from another replica if there is one; otherwise publish the version again",
    )
