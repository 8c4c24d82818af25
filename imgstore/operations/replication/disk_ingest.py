"""Ingest a file as the content of a managed disk, in the pool of the subscription: plan, lease, act, record."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import ObjectCorrupt, ReadBackMismatch
from imgstore.domain.resources import ManagedDisk, ManifestRow
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.ingest import (
    PACKING_RULES,
    claim_segment,
    find_unreadable,
    identity_to_json,
    load_base_manifests,
    segment_rows,
)
from imgstore.operations.slots.completion import PendingManifest, complete_disk, record_manifest
from imgstore.operations.slots.degrade import degrade, discard_unreadable, remove_damaged
from imgstore.operations.slots.gc_guard import list_marked_segments
from imgstore.operations.slots.references import disk_party
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.segments.codec import CODEC
from imgstore.transfer.ingest import IngestOrder, ingest, touched_pieces
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.spot_check import check_assembly

_BASES_MAX = 3


def ingest_disk(
    installation: Installation, disk: ManagedDisk, reader: DiskReader, identity: SourceIdentity
) -> ManagedDisk:
    """Ingest a file, put the manifest of the disk, and set the disk to Succeeded.

    Raises:
        ImgstoreError: the ingest failed. The same command resumes the ingest.
    """
    work, lease = _plan(installation, disk, reader, identity)
    counter = ProgressCounter(installation, f"{disk.kind.noun} {disk.name}")
    try:
        made = _act(installation, disk, reader, identity, work, lease, counter)
    except Exception as error:
        counter.fail(str(error))
        if isinstance(error, ReadBackMismatch):
            remove_damaged(installation, disk.slot, error)
        if isinstance(error, ObjectCorrupt):
            # The plan uses a damaged object. After this, a repeated command makes a new plan.
            with installation.catalog.transaction() as transaction:
                transaction.works.abandon(work.uid)
        raise
    counter.end(f"{reader.virtual_bytes} bytes ingested")
    return made


def _plan(
    installation: Installation, disk: ManagedDisk, reader: DiskReader, identity: SourceIdentity
) -> tuple[Work, Lease]:
    """Open or take over the work. The bases are the newest disks of the slot."""
    fixed: dict[str, Any] = {
        "identity": identity_to_json(identity),
        "format": reader.container_metadata.format.value,
        "codec": CODEC,
        "rules": PACKING_RULES,
    }
    with installation.catalog.transaction() as transaction:
        made_at = {each.body_key: each.created_at for each in transaction.disks.in_slot(disk.slot.uid)}
        bodies: dict[str, ManifestRow] = {row.body_key: row for row in transaction.manifests.in_slot(disk.slot.uid)}
        latest = sorted(bodies.keys() & made_at.keys(), key=lambda key: (made_at[key], key), reverse=True)
        rows = [bodies[key] for key in latest[:_BASES_MAX]]
        bases, pins = (
            [{"key": row.body_key, "digest": row.digest.hex()} for row in rows],
            tuple(row.uid for row in rows),
        )
        earlier = transaction.works.find_open(WorkKind.INGEST, disk.slot.uid, disk.uid)
        if earlier is not None and all(earlier.plan.get(name) == fixed[name] for name in ("codec", "rules")):
            bases, pins = earlier.plan["bases"], earlier.pins  # An equal file makes the stored segments again.
        return acquire_work(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=disk.slot,
            owner_uid=disk.uid,
            plan=fixed | {"bases": bases},
            pins=pins,
            can_resume=lambda old: {name: old.get(name) for name in fixed} == fixed,
        )


def _act(
    installation: Installation,
    disk: ManagedDisk,
    reader: DiskReader,
    identity: SourceIdentity,
    work: Work,
    lease: Lease,
    counter: ProgressCounter,
) -> ManagedDisk:
    slot = disk.slot
    access = installation.access(slot)
    counter.total = sum(1 for _ in touched_pieces(reader)) * PIECE_BYTES
    with (
        hold_work(installation, slot, lease) as hold,
        tempfile.TemporaryDirectory(dir=installation.scratch) as folder,
    ):
        scratch = Path(folder)

        def check_cancelled() -> None:
            hold.check_cancelled()
            installation.check_scratch(scratch, 0)

        counter.begin()
        with installation.catalog.reading() as transaction:
            key = transaction.pools.get(slot.key.pool_uid).fingerprint_key
        marked = list_marked_segments(installation, slot)
        receipt = ingest(
            IngestOrder(
                work_uid=work.uid,
                slot=access,
                reader=reader,
                identity=identity,
                bases=load_base_manifests(installation, slot, work.plan["bases"]),
                listing=access.list_segments().without(marked),
                fingerprint_key=key,
                scratch=scratch,
                check_scratch=installation.check_scratch,
                workers=installation.threads(installation.tuning.put_workers, slot.key.region),
                check_cancelled=check_cancelled,
                claim=lambda name: claim_segment(installation, slot, marked, name),
                on_moved=counter.add_bytes,
            )
        )
        if receipt.missing:
            degrade(installation, slot, receipt.missing, "missing or damaged in the store")
        segments = SegmentReader([access])
        try:
            check_assembly(
                receipt.manifest,
                segments,
                work_uid=work.uid,
                full=False,
                scratch=scratch,
                workers=installation.threads(installation.tuning.scatter_workers, slot.key.region),
                check_cancelled=check_cancelled,
            )
        except ObjectCorrupt:
            discard_unreadable(installation, slot, find_unreadable(segments.damages))
            raise
        return _record(installation, disk, receipt, lease)


def _record(installation: Installation, disk: ManagedDisk, receipt: IngestReceipt, lease: Lease) -> ManagedDisk:
    """Record the segments, put the manifest, and complete the disk."""
    listed = PendingManifest(
        owner_uid=disk.uid,
        slot=disk.slot,
        digest=receipt.digest,
        body_key=object_keys.manifest_key(disk.uid, OS_DISK),
        object_bytes=len(receipt.data),
        virtual_bytes=receipt.manifest.virtual_bytes,
        disk_digest=receipt.manifest.disk_digest,
    )
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        manifest = record_manifest(installation, transaction, listed, segment_rows(receipt))
    installation.access(disk.slot).put_manifest(listed.body_key, receipt.data)
    made = replace(
        disk,
        virtual_bytes=listed.virtual_bytes,
        disk_digest=listed.disk_digest,
        source_format=receipt.manifest.container_metadata.format,
        provisioning_state=ProvisioningState.SUCCEEDED,
    )
    complete_disk(installation, lease=lease, disk=made, party=disk_party(made), manifest=manifest)
    return made
