"""Ingests a disk: read by piece, compare by block, pack into segments, put, confirm.

A single bounded pipeline (docs/internals/ingest.md)::

    read ahead, hash pieces -> fingerprint blocks -> look up and pack (this thread) -> compress and put
    (threads)                  (one thread)          (in the disk's order)            (threads)

A piece takes the first of three paths:

1. A hole or a piece that is all zero makes no runs.
2. A piece that equals a base's piece at the same index takes the runs of the base. A `PartlyKnownDisk` has digests of
   such pieces, and these pieces are not read (invariant I19).
3. The blocks of any other piece that are not zero are fingerprinted and looked up. Unknown blocks are packed.

Then the reuse threshold repacks blocks of little used segments. This module encodes the manifest, but `publish` puts
the manifest, because the catalog must record the segments before.

Equal plans on the same source make equal segments, in any order of the threads. A killed work therefore resumes, and
puts only the segments that the slot does not list.
"""

import mmap
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from imgstore.domain.disks.sources import DiskReader, PartlyKnownDisk, SourceIdentity
from imgstore.domain.errors import ImageRefused, ObjectCorrupt, ObjectNotFound, SourceChanged
from imgstore.domain.resources import SegmentRow
from imgstore.domain.settings.disk_space import CheckScratch, allow_all_scratch
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.latency import choose_threads, measure_latency
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BLOCKS, PIECE_BYTES, SEGMENT_BLOCKS, round_up
from imgstore.formats.files.read_ahead import results_in_order
from imgstore.segments.codec import encode_segment
from imgstore.segments.fingerprint_index import NOWHERE, ZERO, ImageIndex, Locations
from imgstore.segments.fingerprints import Fingerprints, FingerprintsWriter, Indexes, fingerprint_blocks
from imgstore.segments.manifest import (
    VIRTUAL_BYTES_MAX,
    Column,
    Manifest,
    Pieces,
    Runs,
    SegmentTable,
    WorkRef,
    decode_manifest,
    encode_manifest,
    manifest_digest,
    piece_bytes,
)
from imgstore.segments.packing import Blocks, Packer, choose_segments_to_repack, locations_of, runs_of, used_blocks
from imgstore.transfer.bases import Bases
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.slot_access import CheckCancelled, SegmentListing, SlotAccess, never_cancelled

_READ_THREADS: Final = 2
_PIECES_AHEAD: Final = 4
"""Pieces that were read but not yet placed, in addition to the pieces being read. With this number, bursts of packing
delay neither reading nor fingerprinting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOrder:
    """The disk to ingest, and the parameters of the ingest."""

    work_uid: str
    """The uid of the packing work in manifest and fingerprints, unique to a disk."""
    slot: SlotAccess
    reader: DiskReader
    identity: SourceIdentity
    """The identity of the source in the plan, which is compared again at the end."""
    bases: Sequence[Manifest]
    listing: SegmentListing
    """The slot's segments, listed after the work was opened."""
    fingerprint_key: bytes
    scratch: Path
    """A folder of the work for files that replace memory. The files have names, so that scratch accounting counts their
    bytes."""
    workers: int
    """Threads that compress and put; each holds a segment twice, 8 MiB."""
    monotonic: Callable[[], float] = time.monotonic
    """A clock in seconds that never goes back."""
    check_cancelled: CheckCancelled = never_cancelled
    check_scratch: CheckScratch = allow_all_scratch
    """Called with the folder `scratch` before a file there takes many bytes."""
    claim: Callable[[Digest], None] = lambda _name: None
    """Called before a put of a segment, from several threads, because the segment may be marked for deletion."""
    on_moved: Callable[[int], None] = lambda _bytes: None
    """Called with the number of processed bytes of the disk's extents."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a disk, with its digest."""

    index: int
    data: bytes
    """Padded with zeros to a whole number of blocks; empty if the piece is all zero or was not read."""
    digest: Digest
    """Empty if the piece is all zero."""


@dataclass(frozen=True, slots=True)
class _ResolvedPiece:
    """A piece that needs no look-up."""

    piece: Piece
    runs: Runs | None
    """The runs of a base; None if the piece is all zero."""


@dataclass(frozen=True, slots=True)
class _UnresolvedPiece:
    """A piece with blocks to look up."""

    piece: Piece
    nonzero: Indexes
    """The indexes of the blocks that are not all zero."""
    fingerprints: Fingerprints
    """The fingerprints of the blocks in `nonzero`."""


def ingest(order: IngestOrder) -> IngestReceipt:
    """Ingest the disk. Every segment of the receipt is confirmed in the slot when this function returns.

    Raises:
        SourceChanged: the source differs from the source of the plan.
        ImageRefused, ImageTruncated: the source can't be read, or is too large for a manifest.
        StoreError: the slot refused a write.
    """
    _check_size(order.reader.virtual_bytes)
    while True:
        bases = Bases(
            order.slot,
            order.bases,
            order.listing,
            key=order.fingerprint_key,
            scratch=order.scratch,
            check_cancelled=order.check_cancelled,
        )
        # Unreadable segments count as absent: not reused, reported as missing, and put again if the disk has them.
        order = replace(order, listing=order.listing.without(bases.missing))
        try:
            return _Ingest(order, bases).run()
        except _BasesDamaged as damage:
            order = replace(order, listing=order.listing.without(damage.names))
        finally:
            bases.index.close()


class _BasesDamaged(Exception):
    """Segments of a base that must be repacked can't be read. The ingest starts again without these segments."""

    def __init__(self, names: frozenset[Digest]) -> None:
        super().__init__(f"{len(names)} segments")
        self.names = names


class _Ingest:
    """The state of an ingest."""

    def __init__(self, order: IngestOrder, bases: Bases) -> None:
        self._order = order
        self._bases = bases
        self._image = ImageIndex()
        self._packer = Packer(len(bases), self._emit)
        self._runs: list[Runs] = []
        self._pieces: list[tuple[int, Digest]] = []
        self._packed: list[Future[_PutSegment]] = []

    def run(self) -> IngestReceipt:
        order = self._order
        with (
            tempfile.NamedTemporaryFile(dir=order.scratch) as file,
            BoundedPool(order.workers, order.workers + 1, "put") as self._puts,
        ):
            self._fingerprints = FingerprintsWriter(file)
            for compared in self._compare_pieces():
                self._place(compared)
            runs, repacked_blocks = self._repack(Runs.concatenate(self._runs))
            self._packer.flush()
            puts = [future.result() for future in self._packed]
            check_same_source(order.reader, order.identity)
            fingerprints_digest = self._put_fingerprints(file, [put.receipt.name for put in puts])
        data = encode_manifest(self._build_manifest(runs, puts, fingerprints_digest))
        # Decode the manifest before publishing, so that no manifest is published that readers would refuse.
        manifest = decode_manifest(data)
        return IngestReceipt(
            manifest=manifest,
            data=data,
            digest=manifest_digest(data),
            segments=self._receipts(manifest, puts),
            sent_bytes=sum(put.receipt.stored_bytes for put in puts if put.sent),
            packed_bytes=sum(put.receipt.stored_bytes for put in puts),
            repacked_blocks=repacked_blocks,
            missing=self._bases.missing,
        )

    def _compare_pieces(self) -> Iterator[_ResolvedPiece | _UnresolvedPiece]:
        """Read and compare every piece that an extent touches, in order, a few pieces ahead.

        A single thread computes fingerprints, since a second thread would slow the first (invariant I4). Packing
        has its own thread, because both tasks take equally long. Sharing a thread limited the speed of an ingest.
        """
        reader = self._order.reader
        self._order.check_cancelled()
        threads = _READ_THREADS
        if not isinstance(reader, PartlyKnownDisk):  # A probe could fetch a segment that is not needed.
            latency = measure_latency(reader.read_at, reader.virtual_bytes, self._order.monotonic)
            threads = choose_threads(_READ_THREADS, latency)
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="read") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="fingerprint") as fingerprinter,
        ):

            def submit_pieces() -> Iterator[Future[_ResolvedPiece | _UnresolvedPiece]]:
                for index in touched_pieces(reader):
                    self._order.check_cancelled()
                    known = self._resolve_unread(index)
                    yield known or fingerprinter.submit(self._compare_piece, readers.submit(read_piece, reader, index))

            yield from results_in_order(submit_pieces(), threads + _PIECES_AHEAD)

    def _resolve_unread(self, index: int) -> Future[_ResolvedPiece | _UnresolvedPiece] | None:
        """Resolve a piece with a known digest by a base. Return None if the piece must be read."""
        reader = self._order.reader
        digest = reader.find_digest(index) if isinstance(reader, PartlyKnownDisk) else None
        runs = None if digest is None else self._find_runs(index, digest)
        if digest is None or runs is None:
            return None
        resolved: Future[_ResolvedPiece | _UnresolvedPiece] = Future()
        resolved.set_result(_ResolvedPiece(Piece(index, b"", digest), runs))
        return resolved

    def _find_runs(self, index: int, digest: Digest) -> Runs | None:
        first_block = index * PIECE_BLOCKS
        return self._bases.runs_of_piece(index, digest, first_block, first_block + PIECE_BLOCKS)

    def _compare_piece(self, read: Future[Piece]) -> _ResolvedPiece | _UnresolvedPiece:
        """Wait for the piece, and compare it with the pieces of the bases at the same index."""
        piece = read.result()
        if not piece.data:
            return _ResolvedPiece(piece, None)
        runs = self._find_runs(piece.index, piece.digest)
        if runs is not None:
            return _ResolvedPiece(piece, runs)
        nonzero = np.flatnonzero(
            _find_nonzero(np.frombuffer(piece.data, dtype=np.uint64).reshape(-1, BLOCK_BYTES // 8))
        )
        return _UnresolvedPiece(
            piece, nonzero, fingerprint_blocks(memoryview(piece.data), nonzero, self._order.fingerprint_key)
        )

    def _place(self, compared: _ResolvedPiece | _UnresolvedPiece) -> None:
        """Add the runs of the piece."""
        piece = compared.piece
        if piece.digest:
            self._pieces.append((piece.index, piece.digest))
        if isinstance(compared, _UnresolvedPiece):
            self._runs.append(runs_of(piece.index * PIECE_BLOCKS, self._locate(compared)))
        elif compared.runs is not None:
            self._runs.append(compared.runs)
        self._order.on_moved(piece_bytes(self._order.reader.virtual_bytes, piece.index))

    def _locate(self, unknown: _UnresolvedPiece) -> Locations:
        """Return the location of each block of the piece. Unknown blocks are packed first."""
        blocks = np.frombuffer(unknown.piece.data, dtype=np.uint8).reshape(-1, BLOCK_BYTES)
        nonzero, fingerprints = unknown.nonzero, unknown.fingerprints
        locations = np.full(len(blocks), ZERO)
        found = self._bases.index.find(fingerprints, nonzero)
        missing = np.flatnonzero(found == NOWHERE)
        if len(missing):
            found[missing] = self._image.find(fingerprints.take(missing))
            missing = missing[found[missing] == NOWHERE]
        if len(missing):
            found[missing] = self._pack(blocks, nonzero[missing], fingerprints.take(missing))
        locations[nonzero] = found
        return locations

    def _pack(self, blocks: Blocks, indexes: Indexes, fingerprints: Fingerprints) -> Locations:
        """Pack unknown blocks, equal blocks once."""
        first, which = fingerprints.find_distinct()
        distinct = fingerprints.take(first)
        locations = self._packer.add(blocks, indexes[first], distinct)
        self._image.add(distinct, locations)
        packed: Locations = locations[which]
        return packed

    def _emit(self, number: int, buffer: memoryview, fingerprints: Fingerprints) -> None:
        assert number == len(self._bases) + len(self._packed)
        self._fingerprints.add(fingerprints)
        self._packed.append(self._puts.submit(self._put, buffer, len(fingerprints)))

    def _put(self, buffer: memoryview, blocks: int) -> "_PutSegment":
        """Compress a segment, and put the segment unless the slot lists it."""
        order = self._order
        segment = encode_segment(buffer, blocks)
        stored_bytes = len(segment.body)
        sent = order.listing.present.get(segment.name) != stored_bytes
        checksum = None
        if sent:
            order.claim(segment.name)
            order.check_cancelled()
            checksum = order.slot.put_segment(segment.name, segment.body).checksum
        receipt = SegmentRow(
            name=segment.name, blocks=blocks, stored_bytes=stored_bytes, checksum=checksum, work_uid=order.work_uid
        )
        return _PutSegment(receipt, sent)

    def _repack(self, runs: Runs) -> tuple[Runs, int]:
        """Apply the reuse threshold: pack the blocks of little used old segments again, after the new blocks."""
        if not len(self._bases):
            return runs, 0
        used = used_blocks(runs, len(self._bases))
        counts = used.sum(axis=1).astype(np.int64)
        packed_blocks = self._packer.packed_blocks
        numbers = choose_segments_to_repack(
            counts,
            self._bases.blocks,
            new_segments=self._packer.segments,
            content_blocks=int(counts.sum()) + packed_blocks,
        )
        if not len(numbers):
            return runs, 0
        return _Repacking(self._order, self._bases, self._packer).apply(runs, numbers)

    def _put_fingerprints(self, file: IO[bytes], names: list[Digest]) -> Digest | None:
        """Put the fingerprints of the packed blocks, and return the digest of the object.

        Return None if no block was packed.
        """
        if not names:
            return None
        self._fingerprints.finish(names)
        # The last view unmaps the file. Closing the map here could fail instead of the store's error, because the
        # traceback of that error may hold a view.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        digest = blake3(data).digest()
        self._order.check_cancelled()
        self._order.slot.put_object(
            object_keys.fingerprints_key(self._order.work_uid), data, lambda body: digest_of(body) == digest
        )
        return digest

    def _build_manifest(self, runs: Runs, puts: list["_PutSegment"], fingerprints_digest: Digest | None) -> Manifest:
        """Build the manifest over the used old segments and the new segments."""
        old = len(self._bases)
        used = np.zeros(old + len(puts), dtype=np.bool_)
        used[runs.segment] = True
        numbers = np.flatnonzero(used)
        assert used[old:].all(), "each packed segment has a block that a run names"
        works: dict[WorkRef, int] = {}
        kept = self._bases.table([int(number) for number in numbers[numbers < old]], works)
        if fingerprints_digest is not None:
            mine = WorkRef(uid=self._order.work_uid, fingerprints_digest=fingerprints_digest)
            works[mine] = len(works)
        receipts = [put.receipt for put in puts]
        new = np.frombuffer(b"".join(receipt.name for receipt in receipts), dtype=np.uint8).reshape(-1, 32)
        table = SegmentTable(
            names=np.concatenate((kept.names, new)),
            blocks=np.append(kept.blocks, [receipt.blocks for receipt in receipts]).astype(np.int64),
            stored_bytes=np.append(kept.stored_bytes, [receipt.stored_bytes for receipt in receipts]).astype(np.int64),
            work=np.append(kept.work, [len(works) - 1] * len(receipts)).astype(np.int64),
        )
        place = np.full(len(used), -1, dtype=np.int64)
        place[numbers] = np.arange(len(numbers))
        return Manifest(
            virtual_bytes=self._order.reader.virtual_bytes,
            container_metadata=self._order.reader.container_metadata,
            works=tuple(works),
            segments=table,
            runs=Runs(block=runs.block, count=runs.count, segment=place[runs.segment], at=runs.at),
            pieces=Pieces(
                index=np.array([index for index, _ in self._pieces], dtype=np.int64),
                digests=np.frombuffer(b"".join(digest for _, digest in self._pieces), dtype=np.uint8).reshape(-1, 32),
            ),
        )

    @staticmethod
    def _receipts(manifest: Manifest, puts: list["_PutSegment"]) -> tuple[SegmentRow, ...]:
        table = manifest.segments
        old = len(table) - len(puts)
        reused = (
            SegmentRow(
                name=table.name(index),
                blocks=int(table.blocks[index]),
                stored_bytes=int(table.stored_bytes[index]),
                checksum=None,
                work_uid=manifest.works[int(table.work[index])].uid,
            )
            for index in range(old)
        )
        return (*reused, *(put.receipt for put in puts))


@dataclass(frozen=True, slots=True)
class _PutSegment:
    receipt: SegmentRow
    sent: bool


class _Repacking:
    """A repacker for the used blocks of some old segments. Each segment is fetched once; the blocks wait in a file."""

    def __init__(self, order: IngestOrder, bases: Bases, packer: Packer) -> None:
        self._order = order
        self._bases = bases
        self._packer = packer

    def apply(self, runs: Runs, numbers: Column) -> tuple[Runs, int]:
        """Return the runs with the old segments replaced by new segments, and the number of repacked blocks."""
        chosen = np.zeros(max(int(runs.segment.max()), len(self._bases)) + 1, dtype=np.bool_)
        chosen[numbers] = True
        moving = np.flatnonzero(chosen[runs.segment])
        old = _sort_in_disk_order(locations_of(runs.take(moving))[1])
        moves = _Moves.build(old, self._pack(old), pieces=frozenset((runs.block[moving] // PIECE_BLOCKS).tolist()))
        return Runs.concatenate([_move_runs(runs, begin, end, moves) for begin, end in _group_by_piece(runs)]), len(old)

    def _pack(self, old: Locations) -> Locations:
        """Fetch each old segment once, write the wanted blocks in disk order to a file, and pack from that file."""
        new = np.empty(len(old), dtype=np.uint32)
        self._order.check_scratch(self._order.scratch, len(old) * BLOCK_BYTES)
        with tempfile.NamedTemporaryFile(dir=self._order.scratch) as file:
            file.truncate(len(old) * BLOCK_BYTES)
            disk_order = np.memmap(file, dtype=np.uint8, mode="r+", shape=(len(old), BLOCK_BYTES))
            self._fetch_blocks(old, disk_order)
            for begin in range(0, len(old), PIECE_BLOCKS):
                part = np.array(disk_order[begin : begin + PIECE_BLOCKS])
                indexes = np.arange(len(part))
                prints = fingerprint_blocks(memoryview(part.tobytes()), indexes, self._order.fingerprint_key)
                new[begin : begin + len(part)] = self._packer.add(part, indexes, prints)
            del disk_order
        return new

    def _fetch_blocks(self, old: Locations, disk_order: Blocks) -> None:
        """Copy the block of each old location into the row of `disk_order` with the same index."""
        segment, at = np.divmod(old.astype(np.int64), SEGMENT_BLOCKS)
        by_segment = np.argsort(segment, kind="stable")
        begins = np.flatnonzero(np.diff(segment[by_segment], prepend=-1))
        damaged: set[Digest] = set()
        for rows in np.split(by_segment, begins[1:]):
            name = self._bases.name(int(segment[rows[0]]))
            self._order.check_cancelled()
            try:
                blocks = self._order.slot.segment_blocks(name)
            except (ObjectNotFound, ObjectCorrupt):
                damaged.add(name)
            else:
                disk_order[rows] = np.frombuffer(blocks, dtype=np.uint8).reshape(-1, BLOCK_BYTES)[at[rows]]
        if damaged:
            raise _BasesDamaged(frozenset(damaged))


@dataclass(frozen=True, slots=True)
class _Moves:
    """The new locations of repacked blocks: two columns, since a dictionary of millions would not fit in memory."""

    old: Locations
    """The old locations, sorted."""
    new: Locations
    pieces: frozenset[int]
    """The indexes of the pieces that hold any moved block."""

    @classmethod
    def build(cls, old: Locations, new: Locations, *, pieces: frozenset[int]) -> "_Moves":
        order = np.argsort(old)
        return cls(old[order], new[order], pieces)

    def apply(self, where: Locations) -> Locations:
        place = np.searchsorted(self.old, where)
        place[place == len(self.old)] = 0
        return np.where(self.old[place] == where, self.new[place], where)


def _move_runs(runs: Runs, begin: int, end: int, moves: _Moves) -> Runs:
    """Return the runs of a piece, with moved blocks at the new locations."""
    part = runs.take(np.arange(begin, end))
    piece = int(part.block[0]) // PIECE_BLOCKS
    if piece not in moves.pieces:
        return part
    blocks, where = locations_of(part)
    locations = np.full(PIECE_BLOCKS, ZERO)
    locations[blocks - piece * PIECE_BLOCKS] = moves.apply(where)
    return runs_of(piece * PIECE_BLOCKS, locations)


def _group_by_piece(runs: Runs) -> list[tuple[int, int]]:
    """Return [begin, end) of the runs of each piece that has any."""
    begins = np.flatnonzero(np.diff(runs.block // PIECE_BLOCKS, prepend=-1))
    return list(pairwise([*begins.tolist(), len(runs)]))


def _sort_in_disk_order(locations: Locations) -> Locations:
    """Return each location once, in the order of its first occurrence."""
    distinct, first = np.unique(locations, return_index=True)
    return distinct[np.argsort(first)]


def touched_pieces(reader: DiskReader) -> Iterator[int]:
    """Iterate over the indexes of the pieces that any extent touches, ascending, each once."""
    following = 0
    for extent in reader.extents():
        first = max(following, extent.offset // PIECE_BYTES)
        following = max(following, -(-extent.end // PIECE_BYTES))
        yield from range(first, following)


def read_piece(reader: DiskReader, index: int) -> Piece:
    """Read and hash a piece of a disk."""
    length = piece_bytes(reader.virtual_bytes, index)
    data = reader.read_at(index * PIECE_BYTES, length)
    padded = data if length % BLOCK_BYTES == 0 else data.ljust(round_up(length, BLOCK_BYTES), b"\0")
    words = np.frombuffer(padded, dtype=np.uint64)
    if not words[0] and not words.any():
        return Piece(index, b"", b"")
    return Piece(index, padded, digest_of(data))


def _find_nonzero(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Find the blocks, a row each, that are not all zero. In dense data, the first word nearly always decides."""
    nonzero: npt.NDArray[np.bool_] = words[:, 0].astype(np.bool_)
    rest = np.flatnonzero(~nonzero)
    if len(rest) * 2 > len(nonzero):
        return np.asarray(words.any(axis=1))
    nonzero[rest] = words[rest].any(axis=1)
    return nonzero


def _check_size(virtual_bytes: int) -> None:
    if not 1 <= virtual_bytes <= VIRTUAL_BYTES_MAX:
        raise ImageRefused(
            "The disk's size is out of range.",
            found=f"{virtual_bytes:,} virtual bytes",
            expected=f"1 to {VIRTUAL_BYTES_MAX:,} bytes (64 TiB)",
            hint="give a disk within these limits: Azure's largest disk has 32 TiB",
        )


def check_same_source(reader: DiskReader, identity: SourceIdentity) -> None:
    """Check that a source has the identity of the plan (invariant I14).

    Raises:
        SourceChanged: the identity differs.
    """
    now = reader.identity()
    if now != identity:
        raise SourceChanged(
            f"{identity.location} changed while it was read.",
            found=f"{now.file_bytes} bytes, stamp {now.stamp}",
            expected=f"{identity.file_bytes} bytes, stamp {identity.stamp}",
            hint="nothing was published; stop all writes to the source and repeat the command",
            target=identity.location,
        )
