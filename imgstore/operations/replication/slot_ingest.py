"""Ingest opened sources into a slot, under one leased work: the steps that versions and disks share."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.errors import ObjectCorrupt, StoreError
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.operations.installation import Installation
from imgstore.operations.slots.degrade import degrade, discard_unreadable
from imgstore.operations.slots.gc_guard import claim_segments, list_marked_segments
from imgstore.segments.codec import CODEC
from imgstore.segments.manifest import Manifest
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.memory import MemoryStore
from imgstore.stores.wrappers.overlay import OverlayStore
from imgstore.transfer.ingest import IngestOrder, ingest, touched_pieces
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.slot_access import CheckCancelled, SegmentListing, SlotAccess
from imgstore.transfer.spot_check import check_assembly

PACKING_RULES: Final = "1"
"""The version of the rules of comparison and packing. Increase it when equal plans make other segments than before."""

PACKING: Final = {"codec": CODEC, "rules": PACKING_RULES}
"""The entries of a plan that decide on the packed segments, apart from source and bases."""


@dataclass(slots=True, kw_only=True)
class SlotIngest:
    """The ingest of disks into a slot. The work is held."""

    installation: Installation
    slot: Slot
    scratch: Path
    fingerprint_key: bytes
    marked: frozenset[Digest]
    """The segments of the slot that were marked for deletion before the listing."""
    listing: SegmentListing
    """The listed segments of the slot, and the segments of the disks that were ingested since."""
    check_cancelled: CheckCancelled
    on_moved: Callable[[int], None]
    access: SlotAccess
    """The access to the slot. A prediction uses an access that stores nothing."""
    is_prediction: bool = False
    """Whether nothing may be recorded."""
    packed_bytes: int = 0
    """Stored bytes of the packed segments, including segments that the slot had already."""

    def pack(
        self, packing_uid: str, reader: DiskReader, identity: SourceIdentity, bases: Sequence[Manifest]
    ) -> IngestReceipt:
        """Store the segments of a disk that the slot does not have.

        Segments of the bases that are missing or damaged degrade the replicas that name these segments.
        """
        receipt = ingest(
            IngestOrder(
                work_uid=packing_uid,
                slot=self.access,
                reader=reader,
                identity=identity,
                bases=bases,
                listing=self.listing,
                fingerprint_key=self.fingerprint_key,
                scratch=self.scratch,
                check_scratch=self.installation.check_scratch,
                workers=self.installation.threads(self.installation.tuning.put_workers, self.slot.key.region),
                check_cancelled=self.check_cancelled,
                claim=self._claim,
                on_moved=self.on_moved,
            )
        )
        if receipt.missing and not self.is_prediction:
            degrade(self.installation, self.slot, receipt.missing, "missing or damaged in the store")
        return receipt

    def check(self, packing_uid: str, receipt: IngestReceipt, *, full: bool = False) -> None:
        """Assemble a sample of the pieces, or all pieces, and compare the digests before the disk is visible (I15).

        Raises:
            ObjectCorrupt: a piece differs. Unreadable segments are deleted.
        """
        segments = SegmentReader([self.installation.access(self.slot)])
        try:
            check_assembly(
                receipt.manifest,
                segments,
                work_uid=packing_uid,
                full=full,
                scratch=self.scratch,
                workers=self.installation.threads(self.installation.tuning.scatter_workers, self.slot.key.region),
                check_cancelled=self.check_cancelled,
            )
        except ObjectCorrupt:
            unreadable = {damage.name for damage in segments.damages if damage.is_certain}
            discard_unreadable(self.installation, self.slot, unreadable)
            raise
        self.note_packed(receipt)

    def note_packed(self, receipt: IngestReceipt) -> None:
        """Count the segments of a disk as present, so that the next disk reuses the segments."""
        self.listing.present.update({each.name: each.stored_bytes for each in receipt.segments})
        self.packed_bytes += receipt.packed_bytes

    def _claim(self, name: Digest) -> None:
        """Remove the deletion mark of a segment that is about to be put again.

        GC deletes only segments that were marked before the work was opened (invariant G3), so other names need no
        request.
        """
        if name in self.marked:
            claim_segments(self.installation, self.slot, [name])


@contextmanager
def open_slot_ingest(
    installation: Installation,
    slot: Slot,
    check_cancelled: CheckCancelled,
    on_moved: Callable[[int], None],
    damaged: Iterable[Digest] = (),
) -> Iterator[SlotIngest]:
    """List the segments of a slot, and provide a scratch folder until the end of the block.

    Args:
        installation: the installation.
        slot: the slot.
        check_cancelled: raises to end the work.
        on_moved: called with the number of processed bytes of a disk's extents.
        damaged: segments to send again, although the slot lists them with the right length.
    """
    with tempfile.TemporaryDirectory(dir=installation.scratch) as folder:
        scratch = Path(folder)

        def check() -> None:
            check_cancelled()
            installation.check_scratch(scratch, 0)

        with installation.catalog.reading() as transaction:
            key = transaction.pools.get(slot.key.pool_uid).fingerprint_key
            lost = list_lost_segments(transaction, slot)
        marked = list_marked_segments(installation, slot)
        access = installation.access(slot)
        yield SlotIngest(
            installation=installation,
            slot=slot,
            scratch=scratch,
            fingerprint_key=key,
            marked=marked,
            listing=access.list_segments().without({*marked, *damaged, *lost}),
            check_cancelled=check,
            on_moved=on_moved,
            access=access,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionStart:
    """The state of a slot before a prediction packs a disk."""

    slot: Slot
    """The slot. Its row may be a part of the prediction."""
    fingerprint_key: bytes
    absent: frozenset[Digest]
    """The segments that an ingest would send, although the slot lists the segments."""


def read_prediction_start(transaction: Transaction, slot: Slot) -> PredictionStart:
    """Read the state of a slot for a prediction."""
    marked = {each.name for each in transaction.deletion_marks.list(slot.uid)}
    return PredictionStart(
        slot=slot,
        fingerprint_key=transaction.pools.get(slot.key.pool_uid).fingerprint_key,
        absent=frozenset(marked | list_lost_segments(transaction, slot)),
    )


@contextmanager
def open_prediction(
    installation: Installation, start: PredictionStart, on_moved: Callable[[int], None], *, keeps_segments: bool
) -> Iterator[SlotIngest]:
    """List the segments of a slot, and provide an ingest that stores nothing, until the end of the block.

    Args:
        installation: the installation.
        start: the slot.
        on_moved: called with the number of processed bytes of a disk's extents.
        keeps_segments: keep the packed segments in scratch, because another disk is packed later.
    """
    slot = start.slot
    with tempfile.TemporaryDirectory(dir=installation.scratch) as folder:
        scratch = Path(folder)

        def check() -> None:
            installation.keeper.check_cancelled()
            installation.check_scratch(scratch, 0)

        def keeps(key: str) -> bool:
            return keeps_segments or not object_keys.is_segment_key(key)

        access = _access_existing(installation, slot)
        overlay = OverlayStore(access.store, DirectoryStore(scratch / "overlay"), keeps)
        yield SlotIngest(
            installation=installation,
            slot=slot,
            scratch=scratch,
            fingerprint_key=start.fingerprint_key,
            marked=frozenset(),
            listing=access.list_segments().without(start.absent),
            check_cancelled=check,
            on_moved=on_moved,
            access=replace(access, store=overlay),
            is_prediction=True,
        )


def _access_existing(installation: Installation, slot: Slot) -> SlotAccess:
    """Return the access to a slot, or to an empty store if the catalog does not contain the slot.

    The first access to a region of a home would write the mark of the region.
    """
    with installation.catalog.reading() as transaction:
        exists = transaction.slots.find(slot.key) is not None
    if exists:
        return installation.access(slot)
    return SlotAccess(label=str(slot.key), store=MemoryStore(), prefix=slot.prefix)


def list_lost_segments(transaction: Transaction, slot: Slot) -> set[Digest]:
    """List the segments of a slot that are known to be lost."""
    lost = transaction.lost_objects.list(slot.uid)
    return {object_keys.segment_name(key) for key in lost if object_keys.is_segment_key(key)}


def touched_bytes(reader: DiskReader) -> int:
    """Return the bytes of the pieces that an ingest of a disk processes."""
    return sum(1 for _ in touched_pieces(reader)) * PIECE_BYTES


def manifest_row(
    installation: Installation, slot: Slot, owner_uid: str, disk_key: str, receipt: IngestReceipt
) -> ManifestRow:
    """Return the row of an ingested manifest, without the ids of its segments."""
    return ManifestRow(
        uid=installation.effects.new_uid(),
        slot_uid=slot.uid,
        owner_uid=owner_uid,
        disk=disk_key,
        digest=receipt.digest,
        body_key=object_keys.manifest_key(owner_uid, disk_key),
        virtual_bytes=receipt.manifest.virtual_bytes,
        object_bytes=len(receipt.data),
        disk_digest=receipt.manifest.disk_digest,
        segment_ids=b"",
    )


def load_base_manifests(
    installation: Installation, access: SlotAccess, planned: Sequence[Mapping[str, str]]
) -> list[Manifest]:
    """Read the manifests of the bases. Report a base that cannot be read, and leave that base out."""
    manifests = []
    for base in planned:
        try:
            manifests.append(access.get_manifest(base["key"], bytes.fromhex(base["digest"])))
        except StoreError as error:
            installation.note(access.label, f"a base can't be read and is not used: {error.message}")
    return manifests


def bases_to_json(rows: Iterable[ManifestRow]) -> list[dict[str, str]]:
    """Return the bases of a disk as JSON, for the plan of a work."""
    return [{"key": row.body_key, "digest": row.digest.hex()} for row in rows]


def source_to_json(reader: DiskReader, identity: SourceIdentity) -> dict[str, Any]:
    """Return a source as JSON, for the plan of a work."""
    return {
        "identity": {"location": identity.location, "file_bytes": identity.file_bytes, "stamp": identity.stamp},
        "format": reader.container_metadata.format.value,
    }
