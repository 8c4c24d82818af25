"""Shallow versions: a manifest of their own beside their source's, in its slot; no segment is copied (docs/internals/disks.md).

From then on the version is an owner like any other in that slot, whichever pool it is of: what it names is collected
for nobody, is billed to it when the source goes, and is scrubbed.
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
    Listed,
    complete_replica,
    list_segments,
    named_by,
    write_failure,
    write_version_state,
)
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.restore import end_other_work
from imgstore.operations.slots.works import at_work, take_up
from imgstore.operations.versions.request import ResolvedRequest
from imgstore.segments.manifest import ManifestCheck


def choose_shallow_slot(
    wanted: ResolvedRequest, readers: Mapping[str, DiskReader], slots: Mapping[str, Slot]
) -> ResolvedRequest:
    """What is wanted, with the slot that a Shallow version stays in; one that files are taken in for has none yet.

    Args:
        wanted: the version.
        readers: all of its disks, by key.
        slots: of those that are stored here, where each lies.

    Raises:
        InvalidInput: the disks lie apart, in another region, or are kept otherwise than is asked for.
    """
    if not wanted.is_shallow or slots.keys() != readers.keys():
        return wanted
    slot, *others = {each.uid: each for each in slots.values()}.values()
    places = ", ".join(sorted(str(each.key) for each in (slot, *others)))
    if others or slot.key.region != wanted.location:
        raise InvalidInput(
            "A gallery image version with replicationMode Shallow stays where its source is: in one place of its "
            "location.",
            found=f"disks in {places}",
            expected=f"all disks in one slot of {wanted.location}",
            hint="publish it with --replication-mode Full, or from disks that were made together",
            target="publishingProfile.replicationMode",
        )
    return wanted.with_shallow_slot(slot)


def publish_shallow(
    installation: Installation,
    definition_path: DefinitionPath,
    version: ImageVersion,
    replica: Replica,
    digests: Mapping[str, Digest],
) -> None:
    """Put the version's manifests beside its source's, and make the replica Completed. Killed, the same command goes on.

    Args:
        installation: where.
        definition_path: the definition and the gallery of the version.
        version: the version.
        replica: its only one, in its source's slot.
        digests: of its disks' manifests, by key.

    Raises:
        ImgstoreError: it failed; the replica is Failed with the error's text.
    """
    origins, lease = _plan(installation, version, replica, digests)
    try:
        with at_work(installation, replica.slot, lease) as hold:
            wanted = [object_keys.manifest_key(version.uid, disk) for disk in origins]
            wait_for_deletions(installation, replica.slot, wanted, hold.check_cancelled)
            _check_whole(installation, replica, origins)
            manifests = []
            for key in sort_disk_keys(origins):
                hold.check_cancelled()
                manifests.append(_put(installation, version, key, origins[key], lease))
            complete_replica(
                installation,
                lease=lease,
                definition_path=definition_path,
                version=version,
                replica=replica,
                manifests=manifests,
            )
    except Exception as error:
        write_failure(installation, lease, replica, public_text(error))
        raise


def _plan(
    installation: Installation, version: ImageVersion, replica: Replica, digests: Mapping[str, Digest]
) -> tuple[dict[str, ManifestRow], Lease]:
    """The manifests that it repeats, pinned; the replica is Replicating from here on."""
    slot = replica.slot
    plan = {"shallow": {key: digest.hex() for key, digest in digests.items()}}
    with installation.catalog.transaction() as transaction:
        origins = {key: _origin(transaction, slot, version, digest) for key, digest in digests.items()}
        _, lease = take_up(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=slot,
            owner_uid=version.uid,
            plan=plan,
            pins=tuple({row.uid: None for row in origins.values()}),
            still_fits=lambda old: old == plan,
        )
        transaction.versions.lock(version.uid)
        end_other_work(installation, transaction, WorkKind.COPY, replica)
        transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
        write_version_state(transaction, version)
    return origins, lease


def _origin(transaction: Transaction, slot: Slot, version: ImageVersion, digest: Digest) -> ManifestRow:
    found = transaction.manifests.find_by_digest(slot.uid, digest)
    if found is None:
        raise Conflict(
            f"The source of the image version {version.name} is no longer where it was begun.",
            found=f"no such content in {slot.key}",
            expected="the source that an earlier run left unfinished",
            hint="delete the version, then make it again",
            target=str(version.name),
        )
    return found


def _check_whole(installation: Installation, replica: Replica, origins: Mapping[str, ManifestRow]) -> None:
    """A replica that was found damaged is not completed over what is damaged still."""
    if replica.state is not ReplicaState.DEGRADED:
        return
    slot = replica.slot
    with installation.catalog.reading() as transaction:
        names = [each.name for each in transaction.segments.rows(slot.key.pool_uid, named_by(origins.values()))]
    access = installation.access(slot)
    damaged = access.find_damaged(
        names, workers=installation.threads(installation.tuning.copy_workers, slot.key.region)
    )
    if damaged:
        raise ObjectCorrupt(
            f"{len(damaged)} segments of a Shallow image version are damaged, and it has no other replica.",
            found=f"the first {min(damaged).hex()} in {slot.key}",
            expected="none",
            hint="`imgstore scrub` repairs them where another replica names them; else publish the source anew",
            target=str(slot.key),
        )


def _put(installation: Installation, version: ImageVersion, key: str, origin: ManifestRow, lease: Lease) -> ManifestRow:
    """One disk's manifest: the source's bytes under a name of the version's own, so that either may be deleted."""
    with installation.catalog.reading() as transaction:
        slot = transaction.slots.get(origin.slot_uid)
    access = installation.access(slot)
    data = access.get_object(origin.body_key, ManifestCheck(origin.digest))
    listed = Listed(
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
        row = list_segments(installation, transaction, listed, named_by([origin]))
    access.put_manifest(listed.body_key, data)
    return row
