"""Make lost segments and manifests of a slot again from the sources of the disks that name the objects (invariant R18).

A source that is published again has the blocks of the segments that the disk names. Each made segment is compared with
its name. So the source needs no other check, and all disks that share the segment are repaired.
"""

from collections.abc import Collection, Mapping

from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.losses import read_manifest_copy
from imgstore.segments.manifest import decode_manifest
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.refill import RefillSource, find_parts, make_segment
from imgstore.transfer.slot_access import CheckCancelled


def find_damaged(
    installation: Installation, slot: Slot, rows: Collection[ManifestRow], check_cancelled: CheckCancelled
) -> dict[Digest, int]:
    """Find the damaged segments of a stored disk, or of a replica that was complete once, by reading each segment.

    Something of such a disk was found damaged, and a damaged segment has the right length in a listing. Return the
    stored bytes of each damaged segment by name.
    """
    with installation.catalog.reading() as transaction:
        table = transaction.segments.rows(slot.key.pool_uid, named_segments(rows))
    workers = installation.threads(installation.tuning.copy_workers, slot.key.region)
    names = [each.name for each in table]
    damaged = installation.access(slot).find_damaged(names, workers=workers, check_cancelled=check_cancelled)
    return {each.name: each.stored_bytes for each in table if each.name in damaged}


def refill(
    installation: Installation,
    slot: Slot,
    rows: Mapping[str, ManifestRow],
    readers: Mapping[str, DiskReader],
    damaged: Mapping[Digest, int],
    counter: ProgressCounter,
    check_cancelled: CheckCancelled,
) -> frozenset[Digest] | None:
    """Put the damaged segments of disks again, and the manifests if another key or slot has a copy.

    Args:
        installation: the installation.
        slot: the slot.
        rows: the complete manifest rows of the disks in the slot, by disk key.
        readers: the opened sources of the disks, by disk key.
        damaged: the stored bytes of each segment that is missing or wrong in the slot, by name.
        counter: begins here, with the stored bytes of all damaged segments.
        check_cancelled: called before each request.

    Returns:
        The segments that could not be made. None if a manifest has no right copy, so that nothing is known about the
        disk.

    Raises:
        ImgstoreError: a source or a store failed.
    """
    counter.total = sum(damaged.values())
    counter.begin()
    access = installation.access(slot)
    sources = []
    for key, row in rows.items():
        check_cancelled()
        data = read_manifest_copy(installation, slot, row)
        if data is None:
            return None
        access.repair_manifest(row.body_key, row.digest, data)
        sources.append(RefillSource(manifest=decode_manifest(data), reader=readers[key]))
    parts = find_parts(sources, damaged)

    def make(name: Digest) -> bool:
        check_cancelled()
        body = make_segment(name, parts[name])
        if body is None:
            return False
        check_cancelled()
        access.put_segment(name, body)
        counter.add_bytes(len(body))
        return True

    workers = installation.threads(installation.tuning.put_workers, slot.key.region)
    with BoundedPool(workers, workers * 2, "refill") as pool:
        made = {name: pool.submit(make, name) for name in sorted(damaged)}
    right = [name for name, future in made.items() if future.result()]
    if right:
        with installation.catalog.transaction() as transaction:
            transaction.lost_objects.remove(slot.uid, [object_keys.segment_key(name) for name in right])
        label = f"{slot.key.region}/{slot.key.ordinal}"
        installation.note(label, f"{len(right)} lost segments were made again from the source")
    return frozenset(damaged).difference(right)
