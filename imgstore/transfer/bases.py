"""The content that a new disk is compared with: the manifests of its bases and the fingerprints of their segments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.segments.fingerprint_index import BaseIndex
from imgstore.segments.fingerprints import PackedSegment, decode_fingerprints, fingerprint_blocks
from imgstore.segments.manifest import Column, Manifest, Runs, SegmentTable, WorkRef
from imgstore.transfer.slot_access import CheckCancelled, SegmentListing, SlotAccess, never_cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class _NumberedBase:
    """A base in the common numbering."""

    manifest: Manifest
    numbers: Column
    """The common number of each segment of the base."""


class Bases:
    """Up to three manifests of the same slot in a common numbering of segments, and the index over their blocks."""

    def __init__(
        self,
        slot: SlotAccess,
        manifests: Sequence[Manifest],
        listing: SegmentListing,
        *,
        key: bytes,
        scratch: Path,
        check_cancelled: CheckCancelled = never_cancelled,
    ) -> None:
        """Read the fingerprints of the bases' segments.

        Args:
            slot: the slot that holds the bases and their segments.
            manifests: the bases.
            listing: the current listing of the slot's segments. A segment without an entry, or with an entry of another
                length, is not reused: its blocks are not indexed, and the ingest packs the blocks again. Only a segment
                that certainly does not exist is reported as missing.
            key: the pool's fingerprint key.
            scratch: a folder for files that replace memory.
            check_cancelled: called before each request.
        """
        self._slot, self._key, self._check_cancelled = slot, key, check_cancelled
        numbers: dict[Digest, int] = {}
        self._rows: list[tuple[int, int, WorkRef]] = []
        self._bases: list[_NumberedBase] = []
        unusable: set[Digest] = set()
        for manifest in manifests:
            table = manifest.segments
            column = np.empty(len(table), dtype=np.int64)
            for index, name in enumerate(table.all_names()):
                stored_bytes = int(table.stored_bytes[index])
                if listing.present.get(name) != stored_bytes:
                    unusable.add(name)
                if name not in numbers:
                    numbers[name] = len(numbers)
                    work = manifest.works[int(table.work[index])]
                    self._rows.append((int(table.blocks[index]), stored_bytes, work))
                column[index] = numbers[name]
            self._bases.append(_NumberedBase(manifest=manifest, numbers=column))
        self._unusable = unusable
        self._uncertain = listing.uncertain
        self._names = list(numbers)
        self._numbers = numbers
        self.index = BaseIndex.build(
            self._read_fingerprints(),
            entries=sum(
                blocks for name, (blocks, _, _) in zip(numbers, self._rows, strict=True) if name not in unusable
            ),
            scratch=scratch,
        )
        # Reading the fingerprints may have found more unusable segments.
        self._usable = [base for base in self._bases if unusable.isdisjoint(base.manifest.segments.all_names())]

    @property
    def missing(self) -> frozenset[Digest]:
        """The segments that a base names and the store does not have, or has only damaged: an incident."""
        return frozenset(self._unusable - self._uncertain)

    def __len__(self) -> int:
        """Return the number of numbered segments."""
        return len(self._names)

    def name(self, number: int) -> Digest:
        """Return the name of the segment with that number."""
        return self._names[number]

    @property
    def blocks(self) -> Column:
        """The number of blocks of each segment, by segment number."""
        return np.array([blocks for blocks, _, _ in self._rows], dtype=np.int64)

    def table(self, numbers: Sequence[int], works: dict[WorkRef, int]) -> SegmentTable:
        """Build a segment table of those numbers. Works that are not yet in `works` are added there."""
        rows = [self._rows[number] for number in numbers]
        return SegmentTable(
            names=np.frombuffer(b"".join(self._names[number] for number in numbers), dtype=np.uint8).reshape(-1, 32),
            blocks=np.array([blocks for blocks, _, _ in rows], dtype=np.int64),
            stored_bytes=np.array([stored_bytes for _, stored_bytes, _ in rows], dtype=np.int64),
            work=np.array([works.setdefault(work, len(works)) for _, _, work in rows], dtype=np.int64),
        )

    def runs_of_piece(self, index: int, digest: Digest, first_block: int, end_block: int) -> Runs | None:
        """Return the runs of a base with that digest for the piece at `index`, in the common numbering.

        Return None if no base has such a piece.
        """
        for base in self._usable:
            if base.manifest.pieces.find(index) == digest:
                every = base.manifest.runs
                runs = every.take(every.between(first_block, end_block))
                return replace(runs, segment=base.numbers[runs.segment])
        return None

    def _read_fingerprints(self) -> Iterator[tuple[int, PackedSegment]]:
        """Read the fingerprints of each numbered segment once: from the works' objects, or else from the segments."""
        wanted: dict[WorkRef, set[Digest]] = {}
        for name, (_, _, work) in zip(self._names, self._rows, strict=True):
            if name not in self._unusable:
                wanted.setdefault(work, set()).add(name)
        for work, names in wanted.items():
            self._check_cancelled()
            for packed in _load_fingerprints(self._slot, work):
                if packed.name in names:
                    names.discard(packed.name)
                    yield self._numbers[packed.name], packed
            for name in sorted(names):
                self._check_cancelled()
                try:
                    yield self._numbers[name], _rebuild_fingerprints(self._slot, name, self._key)
                except (ObjectNotFound, ObjectCorrupt):
                    self._unusable.add(name)


def _load_fingerprints(slot: SlotAccess, work: WorkRef) -> list[PackedSegment]:
    """Read the fingerprints of a work.

    The list is empty if the object is missing or differs from the manifest's digest.
    """
    try:
        data = slot.get_object(
            object_keys.fingerprints_key(work.uid), lambda body: digest_of(body) == work.fingerprints_digest
        )
        return decode_fingerprints(data)
    except (ObjectNotFound, ObjectCorrupt):
        return []


def _rebuild_fingerprints(slot: SlotAccess, name: Digest, key: bytes) -> PackedSegment:
    blocks = slot.segment_blocks(name)
    count = len(blocks) // BLOCK_BYTES
    return PackedSegment(name=name, fingerprints=fingerprint_blocks(blocks, np.arange(count), key))
