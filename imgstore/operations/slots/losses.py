"""List the versions and stored disks that name lost objects of a slot, with the lost ranges of each disk."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.disks.sources import Extent
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.reports import DiskLoss, OwnerLoss
from imgstore.domain.resources import ManagedDisk, ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.segments.manifest import ManifestCheck, decode_manifest

_RANGES_SHOWN: Final = 5


def find_losses(installation: Installation, slot: Slot, keys: Collection[str]) -> tuple[OwnerLoss, ...]:
    """List the versions and stored disks of a slot that name lost objects.

    Args:
        installation: the installation.
        slot: the slot.
        keys: the keys of the lost objects below the slot.

    Raises:
        StoreError: the store does not answer, so a manifest cannot be read.
    """
    if not keys:
        return ()
    names = {object_keys.segment_name(key) for key in keys if object_keys.is_segment_key(key)}
    owned: defaultdict[str, dict[str, ManifestRow]] = defaultdict(dict)
    with installation.catalog.reading() as transaction:
        ids = np.array(list(transaction.segments.find_ids(slot.key.pool_uid, names).values()), dtype=np.uint32)
        every = transaction.manifests.in_slot(slot.uid)
        disks = {disk.uid: disk for disk in transaction.disks.in_slot(slot.uid)}
        hit = {
            row.owner_uid for row in every if row.body_key in keys or np.isin(ids, unpack_ids(row.segment_ids)).any()
        }
        for row in every:
            if row.owner_uid in hit or row.owner_uid in disks:  # Each disk of an image is an owner.
                resource_id, disk_key = _name_of(transaction, row, disks)
                owned[resource_id][disk_key] = row
    ranges: dict[Digest, tuple[Extent, ...]] = {}  # Disks of a version share the manifest.
    losses = []
    for resource_id in sorted(owned):
        rows = owned[resource_id]
        if not any(row.owner_uid in hit for row in rows.values()):
            continue
        for row in rows.values():
            if row.digest not in ranges:
                ranges[row.digest] = _find_ranges(installation, slot, row, names, ids)
        losses.append(
            OwnerLoss(
                resource_id=resource_id,
                disks=tuple(
                    DiskLoss(disk_key=key, virtual_bytes=rows[key].virtual_bytes, lost=ranges[rows[key].digest])
                    for key in sort_disk_keys(rows)
                ),
            )
        )
    return tuple(losses)


def check_no_loss(installation: Installation, slot: Slot, row: ManifestRow, name: str) -> None:
    """Check that no known lost object makes a disk incomplete. The known lost objects of the disk are read again.

    Args:
        installation: the installation.
        slot: the slot.
        row: the manifest of the disk.
        name: the disk, for the error.

    Raises:
        ObjectCorrupt: bytes of the disk are lost. The error names the ranges.
        StoreError: the store does not answer.
    """
    with installation.catalog.reading() as transaction:
        lost = transaction.lost_objects.list(slot.uid)
        table = transaction.segments.rows(slot.key.pool_uid, unpack_ids(row.segment_ids)) if lost else []
    known = [each.name for each in table if object_keys.segment_key(each.name) in lost]
    workers = installation.threads(installation.tuning.copy_workers, slot.key.region)
    names = installation.access(slot).find_damaged(known, workers=workers)
    if not names and row.body_key not in lost:
        return
    data = read_manifest_copy(installation, slot, row)
    ranges = [Extent(offset=0, length=row.virtual_bytes)] if data is None else decode_manifest(data).extents_in(names)
    if not ranges:
        return
    shown = ", ".join(f"{each.offset} to {each.end}" for each in ranges[:_RANGES_SHOWN])
    more = f" and {len(ranges) - _RANGES_SHOWN} other ranges" if len(ranges) > _RANGES_SHOWN else ""
    raise ObjectCorrupt(
        f"Bytes of {name} are lost.",
        found=f"{sum(each.length for each in ranges)} lost bytes: {shown}{more}",
        expected="a right copy of each object of the disk",
        hint="publish the same file again with `imgstore sig image-version create`. Other disks of the version can be "
        "exported, and `imgstore scrub --status` lists all ranges",
        target=str(slot.key),
    )


def read_manifest_copy(installation: Installation, slot: Slot, row: ManifestRow) -> bytes | None:
    """Read a manifest, or a copy of the manifest from another key or slot of the pool.

    The own key is read first, then the copies in the region of the slot. Return None if no copy is right.

    Raises:
        StoreError: a store does not answer, and no other copy is right.
    """
    with installation.catalog.reading() as transaction:
        same = {
            (other.slot_uid, other.body_key)
            for other in transaction.manifests.list_with_digest(slot.key.pool_uid, row.digest)
        }
        others = sorted(same - {(slot.uid, row.body_key)})
        slots = {uid: transaction.slots.get(uid) for uid, _ in others}
    near = sorted(others, key=lambda place: slots[place[0]].key.region != slot.key.region)
    places = [(slot, row.body_key), *((slots[uid], key) for uid, key in near)]
    first: StoreError | None = None
    for place, key in places:
        try:
            return installation.access(place).get_object(key, ManifestCheck(row.digest))
        except (ObjectNotFound, ObjectCorrupt):
            continue
        except StoreError as error:
            first = first or error
    if first is not None:
        raise first
    return None


def _name_of(transaction: Transaction, row: ManifestRow, disks: Mapping[str, ManagedDisk]) -> tuple[str, str]:
    """Return the resource id of the owner of a manifest, and the disk key.

    Args:
        transaction: the open transaction.
        row: the manifest.
        disks: the stored disks of the slot, by uid. Any other owner is a version.
    """
    disk = disks.get(row.owner_uid)
    if disk is not None:
        return disk.resource_id, disk.disk_key
    version = transaction.versions.by_uid(row.owner_uid)
    return definition_path_of(transaction, version).version_id(version.name), row.disk


def _find_ranges(
    installation: Installation,
    slot: Slot,
    row: ManifestRow,
    names: Collection[Digest],
    ids: "np.ndarray[tuple[int], np.dtype[np.uint32]]",
) -> tuple[Extent, ...]:
    """Return the lost ranges of a disk. A disk without a right copy of the manifest is lost as a whole."""
    data = read_manifest_copy(installation, slot, row)
    if data is None:
        return (Extent(offset=0, length=row.virtual_bytes),)
    if not np.isin(ids, unpack_ids(row.segment_ids)).any():
        return ()
    return tuple(decode_manifest(data).extents_in(names))
