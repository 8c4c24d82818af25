"""Ingest a file as the content of a managed disk, in the pool of the subscription."""

from dataclasses import replace

from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import LostRace, ObjectCorrupt
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.slot_ingest import (
    PACKING,
    bases_to_json,
    load_base_manifests,
    manifest_row,
    open_slot_ingest,
    source_to_json,
    touched_bytes,
)
from imgstore.operations.slots.completion import complete_disk, named_segments
from imgstore.operations.slots.references import disk_party
from imgstore.operations.slots.refill import refill
from imgstore.operations.slots.restore import restore_repaired
from imgstore.operations.slots.runner import run_work, store_manifest
from imgstore.operations.slots.works import acquire_work

_BASES_MAX = 3


def ingest_disk(
    installation: Installation, disk: ManagedDisk, reader: DiskReader, identity: SourceIdentity
) -> ManagedDisk:
    """Ingest a file, put the manifest of the disk, and set the disk to Succeeded.

    Raises:
        LostRace: another process has ingested the disk.
        ImgstoreError: the ingest failed. The same command resumes the ingest.
    """
    work, lease = _plan(installation, disk, reader, identity)
    slot = disk.slot
    counter = ProgressCounter(installation, f"{disk.kind.noun} {disk.name}", lease=lease)
    keys = [object_keys.manifest_key(disk.uid, OS_DISK)]
    with run_work(installation, slot, lease, counter, keys=keys, uses_bases=True) as check_cancelled:
        counter.total = touched_bytes(reader)
        counter.begin()
        with open_slot_ingest(installation, slot, check_cancelled, counter.add_bytes) as run:
            bases = load_base_manifests(installation, slot, work.plan["bases"])
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
        complete_disk(installation, lease=lease, disk=made, party=disk_party(made), manifest=manifest)
    counter.end(f"{reader.virtual_bytes} bytes ingested")
    return made


def refill_disk(installation: Installation, disk: ManagedDisk, reader: DiskReader) -> None:
    """Make the lost segments of a stored disk again from the file of the disk. Do nothing if no lost segment is known.

    The repair needs no work, because a manifest of the slot names the segments.

    Raises:
        ObjectCorrupt: a segment cannot be made from the file.
        ImgstoreError: the file or the store failed.
    """
    slot = disk.slot
    with installation.catalog.reading() as transaction:
        row = transaction.manifests.find(disk.uid, slot.uid, OS_DISK)
        lost = transaction.lost_objects.list(slot.uid)
        if row is None or not lost:
            return
        table = transaction.segments.rows(slot.key.pool_uid, named_segments([row]))
    damaged = {each.name: each.stored_bytes for each in table if object_keys.segment_key(each.name) in lost}
    if not damaged and row.body_key not in lost:
        return
    counter = ProgressCounter(installation, f"repair {disk.kind.noun} {disk.name}")
    rows, readers = {OS_DISK: row}, {OS_DISK: reader}
    unmade = refill(installation, slot, rows, readers, damaged, counter, installation.keeper.check_cancelled)
    if unmade is None or unmade:
        counter.fail()
        raise _not_repairable(disk, slot, None if unmade is None else len(unmade))
    counter.end(f"{len(damaged)} lost segments made again from the source")
    restore_repaired(installation, slot)


def _not_repairable(disk: ManagedDisk, slot: Slot, segments: int | None) -> ObjectCorrupt:
    what = "the manifest" if segments is None else f"{segments} segments"
    return ObjectCorrupt(
        f"Lost objects of the {disk.kind.noun} '{disk.name}' cannot be made again from the file.",
        found=f"{what} in {slot.key}: another disk has some of the blocks, or another release of zstd made the segment",
        expected="a file with all blocks of the lost segments",
        hint="`imgstore scrub --status` lists the lost ranges; create the disk again under another name",
        target=disk.resource_id,
    )


def _plan(
    installation: Installation, disk: ManagedDisk, reader: DiskReader, identity: SourceIdentity
) -> tuple[Work, Lease]:
    """Open or take over the work. The bases are the newest disks of the slot."""
    fixed = source_to_json(reader, identity) | PACKING
    with installation.catalog.transaction() as transaction:
        made_at = {each.body_key: each.created_at for each in transaction.disks.in_slot(disk.slot.uid)}
        bodies: dict[str, ManifestRow] = {row.body_key: row for row in transaction.manifests.in_slot(disk.slot.uid)}
        latest = sorted(bodies.keys() & made_at.keys(), key=lambda key: (made_at[key], key), reverse=True)
        rows = [bodies[key] for key in latest[:_BASES_MAX]]
        bases, pins = bases_to_json(rows), tuple(row.uid for row in rows)
        earlier = transaction.works.find_open(WorkKind.INGEST, disk.slot.uid, disk.uid)
        if earlier is not None and all(earlier.plan.get(name) == fixed[name] for name in PACKING):
            bases, pins = earlier.plan["bases"], earlier.pins  # An equal file makes the stored segments again.
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
