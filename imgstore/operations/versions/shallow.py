"""Shallow versions: separate manifests in the slot of the source, without a copy of segments (docs/internals/disks.md).

Afterwards the version is a normal owner in that slot, also in a slot of another pool. GC keeps the segments, scrub
reads the segments, and the version pays for shared segments when the source is deleted.
"""

from collections.abc import Mapping

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt, public_text
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import (
    PendingManifest,
    complete_replica,
    named_segments,
    record_failure,
    record_manifest,
    update_version_state,
)
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.restore import abandon_other_work
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.operations.versions.request import ResolvedRequest
from imgstore.segments.manifest import ManifestCheck


def choose_shallow_slot(
    resolved: ResolvedRequest, readers: Mapping[str, DiskReader], slots: Mapping[str, Slot]
) -> ResolvedRequest:
    """Return the request with the slot of the source, if the version is Shallow and all disks are stored disks.

    Args:
        resolved: the request.
        readers: the readers of all disks, by disk key.
        slots: the slots of the stored disks, by disk key.

    Raises:
        InvalidInput: the disks are in several slots or in another region, or have another storage account type.
    """
    if not resolved.is_shallow or slots.keys() != readers.keys():
        return resolved
    slot, *others = {each.uid: each for each in slots.values()}.values()
    labels = ", ".join(sorted(str(each.key) for each in (slot, *others)))
    if others or slot.key.region != resolved.location:
        raise InvalidInput(
            "A gallery image version with replicationMode Shallow needs all source disks in one slot of its location.",
            found=f"disks in {labels}",
            expected=f"all disks in one slot of {resolved.location}",
            hint="publish the version with --replication-mode Full, or from disks that were created together",
            target="publishingProfile.replicationMode",
        )
    return resolved.with_shallow_slot(slot)


def publish_shallow(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    replica: Replica,
    digests: Mapping[str, Digest],
) -> None:
    """Put the manifests of the version into the slot of the source, and set the replica to Completed.

    The same command resumes an interrupted publication.

    Args:
        installation: the installation.
        definition_path: the definition and the gallery of the version.
        version: the version.
        replica: the only replica, in the slot of the source.
        digests: the digests of the manifests of the source disks, by disk key.

    Raises:
        ImgstoreError: the publication failed. The replica is Failed with the text of the error.
    """
    origins, lease = _plan(installation, version, replica, digests)
    try:
        with hold_work(installation, replica.slot, lease) as hold:
            keys = [object_keys.manifest_key(version.uid, disk) for disk in origins]
            wait_for_deletions(installation, replica.slot, keys, hold.check_cancelled)
            _check_intact(installation, replica, origins)
            manifests = []
            for key in sort_disk_keys(origins):
                hold.check_cancelled()
                manifests.append(_put_manifest(installation, version, key, origins[key], lease))
            complete_replica(
                installation,
                lease=lease,
                definition_path=definition_path,
                version=version,
                replica=replica,
                manifests=manifests,
            )
    except Exception as error:
        record_failure(installation, lease, replica, public_text(error))
        raise


def _plan(
    installation: Installation, version: ImageVersion, replica: Replica, digests: Mapping[str, Digest]
) -> tuple[dict[str, ManifestRow], Lease]:
    """Open or take over the work, pin the manifests of the source, and set the replica to Replicating."""
    slot = replica.slot
    plan = {"shallow": {key: digest.hex() for key, digest in digests.items()}}
    with installation.catalog.transaction() as transaction:
        origins = {key: _find_origin(transaction, slot, version, digest) for key, digest in digests.items()}
        _, lease = acquire_work(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=slot,
            owner_uid=version.uid,
            plan=plan,
            pins=tuple({row.uid: None for row in origins.values()}),
            can_resume=lambda old: old == plan,
        )
        transaction.versions.lock(version.uid)
        abandon_other_work(installation, transaction, WorkKind.COPY, replica)
        transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
        update_version_state(transaction, version)
    return origins, lease


def _find_origin(transaction: Transaction, slot: Slot, version: ImageVersion, digest: Digest) -> ManifestRow:
    found = transaction.manifests.find_by_digest(slot.uid, digest)
    if found is None:
        raise Conflict(
            f"The source of the image version {version.name} is not in {slot.key} any more.",
            found=f"no manifest with the content of the source in {slot.key}",
            expected="the source of the earlier run, in the same slot",
            hint="delete the version, then create the version again",
            target=str(version.name),
        )
    return found


def _check_intact(installation: Installation, replica: Replica, origins: Mapping[str, ManifestRow]) -> None:
    """Fail if the replica is Degraded and some of its segments are still missing or damaged."""
    if replica.state is not ReplicaState.DEGRADED:
        return
    slot = replica.slot
    with installation.catalog.reading() as transaction:
        names = [each.name for each in transaction.segments.rows(slot.key.pool_uid, named_segments(origins.values()))]
    access = installation.access(slot)
    damaged = access.find_damaged(
        names, workers=installation.threads(installation.tuning.copy_workers, slot.key.region)
    )
    if damaged:
        raise ObjectCorrupt(
            f"{len(damaged)} segments of a Shallow image version, which has no other replica, are missing or damaged.",
            found=f"the first {min(damaged).hex()} in {slot.key}",
            expected="no missing or damaged segment",
            hint="`imgstore scrub` repairs segments that another replica has; otherwise publish the source again",
            target=str(slot.key),
        )


def _put_manifest(
    installation: Installation, version: ImageVersion, key: str, origin: ManifestRow, lease: Lease
) -> ManifestRow:
    """Record and put the manifest of one disk: the bytes of the source manifest under a key of the version.

    With separate keys, the source and the version can be deleted in any order (invariant R13).
    """
    with installation.catalog.reading() as transaction:
        slot = transaction.slots.get(origin.slot_uid)
    access = installation.access(slot)
    data = access.get_object(origin.body_key, ManifestCheck(origin.digest))
    listed = PendingManifest(
        owner_uid=version.uid,
        slot=slot,
        disk=key,
        digest=origin.digest,
        body_key=object_keys.manifest_key(version.uid, key),
        object_bytes=len(data),
        virtual_bytes=origin.virtual_bytes,
        disk_digest=origin.disk_digest,
    )
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        row = record_manifest(installation, transaction, listed, named_segments([origin]))
    access.put_manifest(listed.body_key, data)
    return row
