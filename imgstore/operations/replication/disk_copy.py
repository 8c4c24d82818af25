"""Copy the content of a stored disk into the slot of the disk from slots of other regions (`--allow-remote`).

The disk gets a reference to a manifest of the slot, as a disk of a replica in the slot does. The work is a copy, so the
rules for segments that the slot held before apply (invariants M2 and M4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain import names
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.ledger.egress import ArrivalPath
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.routes import rank_sources
from imgstore.operations.replication.slot_copy import CopiedContent, SlotCopy, read_content
from imgstore.operations.slot_owners import body_bytes
from imgstore.operations.slots.completion import complete_copied_disk, record_manifest
from imgstore.operations.slots.held_segments import NOT_RECORDED
from imgstore.operations.slots.references import disk_party, reference_to
from imgstore.operations.slots.runner import run_work
from imgstore.operations.slots.works import acquire_work
from imgstore.segments.manifest import decode_manifest

_PARENT: Final = "parent"
"""The entry of the plan with the region that the last run of the copy preferred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSources:
    """The slots that can supply the content of a disk."""

    slots: Sequence[Slot]
    """The preferred slot first."""
    origin: ManifestRow
    """The manifest in the preferred slot."""
    body_bytes: int
    """The stored bytes of the manifest."""
    is_begun: bool
    """Whether an earlier run of the copy was interrupted."""
    earlier_region: str
    """The region that the last run of the copy preferred. Without an earlier run: the region of the preferred slot."""

    @property
    def parent(self) -> str:
        """The region of the preferred slot."""
        return self.slots[0].key.region


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCopy:
    """A disk in state Creating, with the leased work that copies its content."""

    disk: ManagedDisk
    lease: Lease
    sources: RemoteSources
    content: CopiedContent


def find_remote_sources(
    installation: Installation, transaction: Transaction, disk: ManagedDisk
) -> RemoteSources | None:
    """Find the slots with the content of a disk whose slot does not have the content, or whose copy was interrupted.

    Returns:
        None if a reference is enough because the slot of the disk has the content, or if no slot has the content.
    """
    work = transaction.works.find_open(WorkKind.COPY, disk.slot.uid, disk.uid)
    if work is None and transaction.manifests.find_by_body(disk.slot.uid, disk.body_key) is not None:
        return None
    origins = _find_origins(transaction, disk)
    if not origins:
        return None
    slots = {uid: transaction.slots.get(uid) for uid in origins}
    ranked = rank_sources(
        installation,
        transaction,
        subscription=disk.subscription,
        slots=list(slots.values()),
        ids=named_segments([next(iter(origins.values()))]),
        target=disk.slot.key.region,
    )
    preferred = ranked[0]
    earlier = None if work is None else work.plan.get(_PARENT)
    rows = transaction.manifests.list_by_body(preferred.uid, disk.body_key)
    return RemoteSources(
        slots=ranked,
        origin=origins[preferred.uid],
        body_bytes=max(map(body_bytes, rows)),
        is_begun=work is not None,
        earlier_region=earlier or preferred.key.region,
    )


def _find_origins(transaction: Transaction, disk: ManagedDisk) -> dict[str, ManifestRow]:
    """Find the complete manifests with the content of a disk, by the uid of the slot.

    A disk of a version comes from the complete replicas of the version. A copy of a disk or snapshot comes from each slot
    of the pool with the manifest, apart from damaged replicas.
    """
    version_uid = disk.source_version_uid
    replicas = [] if version_uid is None else transaction.replicas.list(version_uid)
    complete = {each.slot.uid for each in replicas if each.state is ReplicaState.COMPLETED}
    incomplete = {each.slot.uid for each in replicas} - complete
    is_copy = names.ComputeId.parse(disk.source_reference) is not None
    found = {}
    for slot in transaction.slots.list(disk.slot.key.pool_uid):
        is_source = slot.uid in complete or (is_copy and slot.uid not in incomplete)
        if is_source or slot.uid == disk.slot.uid:  # Another disk may have brought the content since the interruption.
            row = transaction.manifests.find_by_body(slot.uid, disk.body_key)
            if row is not None:
                found[slot.uid] = row
    return found


def begin_disk_copy(
    installation: Installation, transaction: Transaction, disk: ManagedDisk, sources: RemoteSources
) -> DiskCopy:
    """Open or take over the work that copies the content of a disk, and pin the manifest of the preferred source.

    Raises:
        WorkHeld: another process copies the content.
    """
    origin = sources.origin
    fixed: dict[str, Any] = {"digests": {OS_DISK: origin.digest.hex()}}
    work, lease = acquire_work(
        installation,
        transaction,
        kind=WorkKind.COPY,
        slot=disk.slot,
        owner_uid=disk.uid,
        plan=fixed | NOT_RECORDED | {_PARENT: sources.parent},
        fixed=fixed,
        pins=[origin.uid],
    )
    if work.plan.get(_PARENT) != sources.parent or work.pins != (origin.uid,):
        transaction.works.update_plan(lease, {**work.plan, _PARENT: sources.parent}, [origin.uid])
    return DiskCopy(disk=disk, lease=lease, sources=sources, content=read_content(transaction, disk.slot, [origin]))


def copied_manifest(installation: Installation, disk: ManagedDisk, sources: RemoteSources) -> ManifestRow:
    """Return the row of a disk for a copied manifest. The row accounts for the reference and for the manifest."""
    return replace(
        sources.origin,
        uid=installation.effects.new_uid(),
        slot_uid=disk.slot.uid,
        owner_uid=disk.uid,
        disk=OS_DISK,
        object_bytes=sources.body_bytes + len(reference_to(sources.origin)),
    )


def copy_disk(installation: Installation, copy: DiskCopy) -> ManagedDisk:
    """Copy the missing segments, put the manifest and the reference of a disk, and set the disk to Succeeded.

    Raises:
        ImgstoreError: the copy failed. The same command resumes the copy.
    """
    disk, origin, sources = copy.disk, copy.sources.origin, copy.sources
    slot, lease = disk.slot, copy.lease
    own_key = object_keys.manifest_key(disk.uid, OS_DISK)
    counter = ProgressCounter(installation, f"{disk.kind.noun} {disk.name}", lease=lease)
    with run_work(installation, slot, lease, counter, keys=[own_key, disk.body_key]) as check_cancelled:
        sent = SlotCopy(
            installation=installation,
            slot=slot,
            lease=lease,
            sources=sources.slots,
            content=copy.content,
            party=disk_party(disk),
            counter=counter,
            check_cancelled=check_cancelled,
            wait=installation.effects.wait,
        ).send()
        row = copied_manifest(installation, disk, sources)
        with installation.catalog.transaction() as transaction:
            transaction.works.guard(lease)
            row = record_manifest(installation, transaction, slot, row)
        check_cancelled()
        body = sent.put_manifest(origin)
        sent.target.put_manifest(own_key, reference_to(row))
        made = replace(
            disk,
            provisioning_state=ProvisioningState.SUCCEEDED,
            source_format=decode_manifest(body).container_metadata.format,
        )
        made = complete_copied_disk(
            installation,
            lease=lease,
            disk=made,
            manifest=row,
            path=ArrivalPath(parent=sources.parent, earlier=sources.earlier_region, served=sent.served),
        )
    counter.end(f"{sent.sent_bytes} bytes from {sources.parent}")
    return made
