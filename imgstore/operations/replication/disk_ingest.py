"""Ingest a file as the content of a managed disk, in the pool of the subscription."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import LostRace, ObjectCorrupt
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.slot_ingest import (
    PACKING,
    PredictionStart,
    bases_to_json,
    load_base_manifests,
    manifest_row,
    open_prediction,
    open_slot_ingest,
    read_prediction_start,
    source_to_json,
    touched_bytes,
)
from imgstore.operations.slots.completion import complete_disk
from imgstore.operations.slots.refill import find_damaged, refill
from imgstore.operations.slots.restore import restore_repaired
from imgstore.operations.slots.runner import run_work, store_manifest
from imgstore.operations.slots.works import acquire_work
from imgstore.transfer.ingest import check_same_source
from imgstore.transfer.receipts import IngestReceipt

_BASES_MAX = 3


def ingest_disk(
    installation: Installation,
    disk: ManagedDisk,
    reader: DiskReader,
    identity: SourceIdentity,
    base: Digest | None = None,
) -> ManagedDisk:
    """Ingest a file, put the manifest of the disk, and set the disk to Succeeded.

    Args:
        installation: the installation.
        disk: the disk in state Creating.
        reader: the opened source.
        identity: the identity of the source.
        base: the digest of a manifest. If the slot has this manifest, the manifest is the first base.

    Raises:
        LostRace: another process has ingested the disk.
        ImgstoreError: the ingest failed. The same command resumes the ingest.
    """
    work, lease = _plan(installation, disk, reader, identity, base)
    slot = disk.slot
    counter = ProgressCounter(installation, f"{disk.kind.noun} {disk.name}", lease=lease)
    keys = [object_keys.manifest_key(disk.uid, OS_DISK)]
    with run_work(installation, slot, lease, counter, keys=keys, uses_bases=True) as check_cancelled:
        counter.total = touched_bytes(reader)
        counter.begin()
        with open_slot_ingest(installation, slot, check_cancelled, counter.add_bytes) as run:
            bases = load_base_manifests(installation, run.access, work.plan["bases"])
            receipt = run.pack(work.uid, reader, identity, bases)
            run.check(work.uid, receipt)
        row = manifest_row(installation, slot, disk.uid, OS_DISK, receipt)
        manifest = store_manifest(installation, slot, lease, row, receipt.data, receipt.segments)
        made = replace(
            disk,
            virtual_bytes=manifest.virtual_bytes,
            disk_digest=manifest.disk_digest,
            source_format=receipt.manifest.container_metadata.format,
            provisioning_state=ProvisioningState.SUCCEEDED,
        )
        made = complete_disk(installation, lease=lease, disk=made, manifest=manifest)
    counter.end(f"{reader.virtual_bytes} bytes ingested")
    return made


def refill_disk(installation: Installation, disk: ManagedDisk, reader: DiskReader) -> None:
    """Make the lost objects of a stored disk again from the file of the disk. Do nothing if no lost object is known.

    Lost segments need no work, because a manifest of the slot names the segments. A manifest without a right copy is
    made by a second ingest with the plan of the first ingest.

    Raises:
        ObjectCorrupt: an object cannot be made from the file.
        ImgstoreError: the file or the store failed.
    """
    slot = disk.slot
    with installation.catalog.reading() as transaction:
        row = transaction.manifests.find(disk.uid, slot.uid, OS_DISK)
        lost = transaction.lost_objects.list(slot.uid)
        if row is None or not lost:
            return
        table = transaction.segments.rows(slot.key.pool_uid, named_segments([row]))
    own = {row.body_key, *(object_keys.segment_key(each.name) for each in table)}
    if lost.isdisjoint(own):
        return
    damaged = find_damaged(installation, slot, [row], installation.keeper.check_cancelled)
    counter = ProgressCounter(installation, f"repair {disk.kind.noun} {disk.name}")
    rows, readers = {OS_DISK: row}, {OS_DISK: reader}
    unmade = refill(installation, slot, rows, readers, damaged, counter, installation.keeper.check_cancelled)
    if unmade is None:
        _ingest_again(installation, disk, reader, row, damaged)
    elif unmade:
        counter.fail()
        raise _not_repairable(disk, slot, f"{len(unmade)} segments")
    with installation.catalog.transaction() as transaction:
        transaction.lost_objects.remove(slot.uid, own)
    counter.end("lost objects made again from the source")
    restore_repaired(installation, slot)


def _ingest_again(
    installation: Installation,
    disk: ManagedDisk,
    reader: DiskReader,
    row: ManifestRow,
    damaged: Mapping[Digest, int],
) -> None:
    """Make a lost manifest again by the plan of the first ingest, which makes equal segments and an equal manifest.

    Raises:
        ObjectCorrupt: the ingest makes another manifest, because a base was deleted or the plan is not known.
    """
    slot, identity = disk.slot, reader.identity()
    work, lease = _plan_again(installation, disk, reader, identity)
    counter = ProgressCounter(installation, f"ingest {disk.name} again", touched_bytes(reader), lease=lease)
    with run_work(installation, slot, lease, counter, keys=[row.body_key], uses_bases=True) as check_cancelled:
        counter.begin()
        with open_slot_ingest(installation, slot, check_cancelled, counter.add_bytes, damaged) as run:
            bases = load_base_manifests(installation, run.access, work.plan["bases"])
            receipt = run.pack(work.plan["packing"], reader, identity, bases)
            if receipt.digest != row.digest:
                raise _not_repairable(disk, slot, "the manifest")
            run.check(work.plan["packing"], receipt)
        check_same_source(reader, identity)
        installation.access(slot).put_manifest(row.body_key, receipt.data)
        with installation.catalog.transaction() as transaction:
            transaction.works.guard(lease)
            transaction.works.complete(lease)
    counter.end()


def _plan_again(
    installation: Installation, disk: ManagedDisk, reader: DiskReader, identity: SourceIdentity
) -> tuple[Work, Lease]:
    """Open or take over a work with the bases and the packing uid of the first ingest of a disk."""
    fixed = source_to_json(reader, identity) | PACKING
    with installation.catalog.transaction() as transaction:
        first = transaction.works.find_first_completed(WorkKind.INGEST, disk.uid)
        if first is None:
            raise _not_repairable(disk, disk.slot, "the manifest")
        bases = first.plan["bases"]
        rows = [transaction.manifests.find_by_body(disk.slot.uid, base["key"]) for base in bases]
        return acquire_work(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=disk.slot,
            owner_uid=disk.uid,
            plan=fixed | {"bases": bases, "packing": first.uid},
            fixed=fixed,
            pins=[row.uid for row in rows if row is not None],
        )


def _not_repairable(disk: ManagedDisk, slot: Slot, lost: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"Lost objects of the {disk.kind.noun} '{disk.name}' cannot be made again from the file.",
        found=f"{lost} in {slot.key}: another disk has some of the blocks, or had the blocks at the first ingest, or "
        "another release of zstd made the segments",
        expected="a file with all blocks of the lost objects",
        hint="`imgstore scrub --status` lists the lost ranges; create the disk again under another name",
        target=disk.resource_id,
    )


def _choose_bases(
    transaction: Transaction, disk: ManagedDisk, first: Digest | None = None
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Return the bases of a disk as JSON, and the manifests to pin."""
    earlier = transaction.works.find_open(WorkKind.INGEST, disk.slot.uid, disk.uid)
    if earlier is not None and all(earlier.plan.get(name) == value for name, value in PACKING.items()):
        return earlier.plan["bases"], earlier.pins  # An equal file makes the stored segments again.
    made_at = {each.body_key: each.created_at for each in transaction.disks.in_slot(disk.slot.uid)}
    bodies: dict[str, ManifestRow] = {row.body_key: row for row in transaction.manifests.in_slot(disk.slot.uid)}
    latest = sorted(bodies.keys() & made_at.keys(), key=lambda key: (made_at[key], key), reverse=True)
    chosen = [bodies[key] for key in latest]
    row = None if first is None else transaction.manifests.find_by_digest(disk.slot.uid, first)
    if row is not None:
        chosen = [row, *(each for each in chosen if each.body_key != row.body_key)]
    rows = chosen[:_BASES_MAX]
    return bases_to_json(rows), tuple(row.uid for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPrediction:
    """The decisions on a disk from a file before a prediction packs the file."""

    disk: ManagedDisk
    bases: list[dict[str, str]]
    start: PredictionStart


def plan_prediction(transaction: Transaction, disk: ManagedDisk) -> DiskPrediction:
    """Make the decisions of an ingest for a prediction."""
    return DiskPrediction(
        disk=disk, bases=_choose_bases(transaction, disk)[0], start=read_prediction_start(transaction, disk.slot)
    )


def predict_disk_packing(
    installation: Installation, planned: DiskPrediction, reader: DiskReader, identity: SourceIdentity
) -> IngestReceipt:
    """Read and pack a file without storing anything. The lengths are the lengths of an ingest (invariant M16)."""
    counter = ProgressCounter(installation, f"read {planned.disk.name}", touched_bytes(reader))
    counter.begin()
    with open_prediction(installation, planned.start, counter.add_bytes, keeps_segments=False) as run:
        bases = load_base_manifests(installation, run.access, planned.bases)
        receipt = run.pack(planned.disk.uid, reader, identity, bases)
    counter.end(f"{receipt.packed_bytes} bytes packed, none stored")
    return receipt


def _plan(
    installation: Installation,
    disk: ManagedDisk,
    reader: DiskReader,
    identity: SourceIdentity,
    base: Digest | None,
) -> tuple[Work, Lease]:
    """Open or take over the work. The bases are the given base and the newest disks of the slot."""
    fixed = source_to_json(reader, identity) | PACKING
    with installation.catalog.transaction() as transaction:
        bases, pins = _choose_bases(transaction, disk, base)
        begun = acquire_work(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=disk.slot,
            owner_uid=disk.uid,
            plan=fixed | {"bases": bases},
            fixed=fixed,
            pins=pins,
        )
        # Read the disk after the work: one transaction completes both. Another ingest would replace the manifest.
        present = transaction.disks.by_uid(disk.uid).provisioning_state
        if present is ProvisioningState.SUCCEEDED:
            raise LostRace(
                f"Another process has ingested the {disk.kind.noun} '{disk.name}'.",
                found=f"{present}",
                expected=f"{ProvisioningState.CREATING}",
                hint="run the command again",
                target=disk.resource_id,
            )
        return begun
