"""Shallow versions: separate manifests in the slot of the source, without a copy of segments (docs/internals/disks.md).

Afterwards the version is a normal owner in that slot, also in a slot of another pool. GC keeps the segments, scrub
reads the segments, and the version pays for shared segments when the source is deleted.
"""

from collections.abc import Mapping
from dataclasses import replace

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import LeasedReplica, complete_replica
from imgstore.operations.slots.runner import begin_replica, run_work, store_manifest
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
    origins, lease = _plan(installation, replica, digests)
    keys = {disk: object_keys.manifest_key(version.uid, disk) for disk in sort_disk_keys(origins)}
    slot = replica.slot
    with run_work(installation, slot, lease, replica=replica, keys=keys.values()) as check_cancelled:
        _check_intact(installation, replica, origins)
        manifests = []
        for disk, key in keys.items():
            check_cancelled()
            data = read_shallow_manifest(installation, slot, origins[disk])
            manifest = make_shallow_row(installation, origins[disk], version.uid, disk, len(data))
            assert manifest.body_key == key, "the work holds the key of the manifest"
            manifests.append(store_manifest(installation, slot, lease, manifest, data))
        leased = LeasedReplica(definition_path=definition_path, version=version, replica=replica, lease=lease)
        complete_replica(installation, leased, manifests)


def read_shallow_manifest(installation: Installation, slot: Slot, origin: ManifestRow) -> bytes:
    """Read the manifest of a source disk, also if the row of the disk is a reference."""
    return installation.access(slot).get_object(origin.body_key, ManifestCheck(origin.digest))


def make_shallow_row(
    installation: Installation, origin: ManifestRow, version_uid: str, disk: str, object_bytes: int
) -> ManifestRow:
    """Return the row of the separate manifest of a version, with the content of the source.

    With separate keys, the source and the version can be deleted in any order (invariant R13).
    """
    return replace(
        origin,
        uid=installation.effects.new_uid(),
        owner_uid=version_uid,
        disk=disk,
        body_key=object_keys.manifest_key(version_uid, disk),
        object_bytes=object_bytes,
    )


def find_shallow_origins(
    transaction: Transaction, replica: Replica, digests: Mapping[str, Digest]
) -> dict[str, ManifestRow]:
    """Return the manifests of the source disks in the slot of a replica, by disk key.

    Raises:
        Conflict: the source is not in the slot any more.
    """
    return {key: _find_origin(transaction, replica, digest) for key, digest in digests.items()}


def _plan(
    installation: Installation, replica: Replica, digests: Mapping[str, Digest]
) -> tuple[dict[str, ManifestRow], Lease]:
    """Open or take over the work, pin the manifests of the source, and set the replica to Replicating."""
    plan = {"shallow": {key: digest.hex() for key, digest in digests.items()}}
    with installation.catalog.transaction() as transaction:
        origins = find_shallow_origins(transaction, replica, digests)
        pins = list({row.uid: None for row in origins.values()})
        _, lease = begin_replica(installation, transaction, replica, WorkKind.INGEST, plan=plan, fixed=plan, pins=pins)
    return origins, lease


def _find_origin(transaction: Transaction, replica: Replica, digest: Digest) -> ManifestRow:
    slot = replica.slot
    found = transaction.manifests.find_by_digest(slot.uid, digest)
    if found is None:
        version = transaction.versions.by_uid(replica.version_uid)
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
