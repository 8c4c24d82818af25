"""List the versions and stored disks that name lost objects of a slot, with the lost ranges of each disk."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.disks.sources import Extent
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.reports import DiskLoss, OwnerLoss
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.segments.manifest import ManifestCheck, decode_manifest


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
        versions = {replica.version_uid for replica in transaction.replicas.in_slot(slot.uid)}
        every = transaction.manifests.in_slot(slot.uid)
        hit = {
            row.owner_uid for row in every if row.body_key in keys or np.isin(ids, unpack_ids(row.segment_ids)).any()
        }
        for row in every:
            if row.owner_uid in hit or row.owner_uid not in versions:  # Each disk of an image is an owner.
                resource_id, disk_key = _name_of(transaction, row, versions)
                owned[resource_id][disk_key] = row
    losses = []
    for resource_id in sorted(owned):
        rows = owned[resource_id]
        if any(row.owner_uid in hit for row in rows.values()):
            disks = (_disk_loss(installation, slot, key, rows[key], names, ids) for key in sort_disk_keys(rows))
            losses.append(OwnerLoss(resource_id=resource_id, disks=tuple(disks)))
    return tuple(losses)


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


def _name_of(transaction: Transaction, row: ManifestRow, versions: Collection[str]) -> tuple[str, str]:
    """Return the resource id of the owner of a manifest, and the disk key."""
    if row.owner_uid in versions:
        version = transaction.versions.by_uid(row.owner_uid)
        return definition_path_of(transaction, version).version_id(version.name), row.disk
    disk = transaction.disks.by_uid(row.owner_uid)
    return disk.resource_id, disk.disk_key


def _disk_loss(
    installation: Installation,
    slot: Slot,
    disk_key: str,
    row: ManifestRow,
    names: Collection[Digest],
    ids: "np.ndarray[tuple[int], np.dtype[np.uint32]]",
) -> DiskLoss:
    lost: tuple[Extent, ...] = ()
    data = read_manifest_copy(installation, slot, row)
    if data is None:
        lost = (Extent(offset=0, length=row.virtual_bytes),)
    elif np.isin(ids, unpack_ids(row.segment_ids)).any():
        lost = tuple(decode_manifest(data).extents_in(names))
    return DiskLoss(disk_key=disk_key, virtual_bytes=row.virtual_bytes, lost=lost)
