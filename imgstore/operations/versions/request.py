"""A version as it is asked for: checked, its defaults filled in, written down, compared with the one that stands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import (
    OS_DISK,
    HostCaching,
    VersionDisk,
    check_luns,
    default_caching,
    format_disk_keys,
    lun_of,
    sort_disk_keys,
)
from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.requests import VersionRequest
from imgstore.domain.resources import (
    NO_TAGS,
    ImageVersion,
    ReplicationMode,
    Slot,
    TargetRegion,
)
from imgstore.domain.settings.limits import check_count, check_disk_bytes
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.replication.targets import add_replica, retarget
from imgstore.operations.slots.completion import write_version_state
from imgstore.policy.allowed_changes import check_end_of_life
from imgstore.policy.replica_diff import diff_replicas
from imgstore.policy.target_regions import PublishingRequest, check_shallow, resolve_targets
from imgstore.policy.version_update import apply_update, check_deletion_block

Identities: TypeAlias = Mapping[str, SourceIdentity]
"""Of each disk's source, by the disk's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRequest:
    """The request with every default filled in, checked."""

    request: VersionRequest
    definition_path: DefinitionPath
    location: str
    targets: tuple[TargetRegion, ...]
    sha256: str | None
    """Lower case."""
    replication_mode: ReplicationMode
    shallow_slot: Slot | None = None
    """Where a Shallow version's source lies, if all of it is stored here: the version stays there."""

    @property
    def is_shallow(self) -> bool:
        """Whether it is to have one replica and never another."""
        return self.replication_mode is ReplicationMode.SHALLOW

    def without_data_disk_caching(self, keys: Iterable[str]) -> "ResolvedRequest":
        """The same, from a managed image or machine: nobody caches its data disks, unless it was said."""
        uncached = {key: HostCaching.NONE for key in keys if key != OS_DISK}
        return replace(self, request=replace(self.request, host_caching=uncached | dict(self.request.host_caching)))

    def with_shallow_slot(self, slot: Slot) -> "ResolvedRequest":
        """The same, for a Shallow version whose source lies in a slot.

        Raises:
            InvalidInput: another storage account type than the source's is asked for.
        """
        said, kind = [each.storage_account_type for each in self.request.target_regions], slot.key.storage_account_type
        asked = next((each for each in (*said, self.request.storage_account_type) if each is not None), kind)
        if asked is not kind:
            raise InvalidInput(
                f"A gallery image version with replicationMode Shallow is kept as its source is: {kind}.",
                found=f"the storage account type {asked}",
                expected=f"{kind}, or none named",
                hint="leave the type out, or publish it with --replication-mode Full",
                target="storageAccountType",
            )
        targets = tuple(replace(target, storage_account_type=kind) for target in self.targets)
        return replace(self, targets=targets, shallow_slot=slot)


def resolve_request(installation: Installation, request: VersionRequest) -> ResolvedRequest:
    """The request with every default filled in.

    Raises:
        InvalidInput, Conflict: it can't be met, whatever the disks are.
        ParentNotFound: no such gallery or definition.
    """
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_parent_definition(
            transaction, installation.subscription, request.group, request.gallery, request.definition
        )
        standing = transaction.versions.get(definition_path.definition.uid, request.version)
        now = transaction.now()
    regions, limits = installation.regions, installation.limits
    if standing is not None and standing.is_visible:
        location = regions.get(request.location or standing.location, target="location").name
        targets = apply_update(standing, request.as_update(), regions, limits, now=now).target_regions
    else:
        publishing = PublishingRequest(
            location=request.location or definition_path.gallery.location,
            target_regions=request.target_regions,
            replica_count=request.replica_count,
            storage_account_type=request.storage_account_type,
        )
        location, targets = resolve_targets(publishing, regions, limits)
        check_end_of_life(request.end_of_life_at, now)
    mode = request.replication_mode or (ReplicationMode.FULL if standing is None else standing.replication_mode)
    if mode is ReplicationMode.SHALLOW:
        check_shallow(targets)
    sha256 = None if request.sha256 is None else request.sha256.strip().lower()
    return ResolvedRequest(
        request=request,
        definition_path=definition_path,
        location=location,
        targets=targets,
        sha256=sha256,
        replication_mode=mode,
    )


def check_disks(installation: Installation, readers: Mapping[str, DiskReader], *, shallow: bool = False) -> None:
    """Refuse disks that are too large, and a version without an OS disk.

    Args:
        installation: where.
        readers: the disks, by key.
        shallow: of a Shallow version, which has a limit of its own.

    Raises:
        ImageRefused: one is larger than its limit.
        InvalidInput: there is no OS disk, or a LUN is out of range.
    """
    if OS_DISK not in readers:
        raise InvalidInput(
            "An image version needs an OS disk.",
            found=format_disk_keys(readers),
            expected="an OS disk, and data disks besides",
            hint="give --os-vhd-uri too",
            target="osDiskImage",
        )
    check_luns([lun for lun in map(lun_of, readers) if lun is not None])
    for key, reader in readers.items():
        check_size(installation, key, reader.virtual_bytes, shallow=shallow)


def check_size(installation: Installation, key: str, virtual_bytes: int, *, shallow: bool) -> None:
    """Refuse a disk of a version that is too large.

    Raises:
        ImageRefused: it is larger than its limit.
    """
    name = "image_bytes_max" if key == OS_DISK else "data_disk_bytes_max"
    if shallow:
        name = "shallow_image_bytes_max"
    check_disk_bytes(installation.limits, name, virtual_bytes, target=_path(key))


def check_distinct_sources(locations: Mapping[str, str]) -> None:
    """Refuse two disks from the same file or object.

    Args:
        locations: where each disk comes from, by key.

    Raises:
        InvalidInput: two come from the same place.
    """
    first: dict[str, str] = {}
    for key in sort_disk_keys(locations):
        other = first.setdefault(locations[key], key)
        if other != key:
            raise InvalidInput(
                "OSDiskImage and DataDiskImage cannot point to same blob."
                if other == OS_DISK
                else "Data disk images cannot point to the same blob.",
                found=f"{_path(other)} and {_path(key)}: both {locations[key]}",
                expected="a source of its own for each disk",
                hint="name another file, or copy this one",
                target=_path(key),
            )


def _path(key: str) -> str:
    return "osDiskImage" if key == OS_DISK else f"dataDiskImages[lun={lun_of(key)}]"


def record_version(
    installation: Installation, wanted: ResolvedRequest, identities: Identities, expected_bytes: Mapping[str, int]
) -> ImageVersion:
    """The version's row, made with its replicas or, where it stands already, compared with the request.

    Args:
        installation: where.
        wanted: the version.
        identities: of its sources, by key.
        expected_bytes: sizes of those of its disks that are at hand, by key: what counts against the quota.

    Raises:
        PropertyChangeNotAllowed: it stands with other disks, other sources or another source region.
        Conflict: it was deleted, or a limit is reached.
        CatalogOutdated: a replica is to go, and the catalog is older than its buckets; nothing was changed.
    """
    with installation.catalog.reading() as transaction:
        known = transaction.versions.get(wanted.definition_path.definition.uid, wanted.request.version)
        replicas = [] if known is None else transaction.replicas.list(known.uid)
    plan = diff_replicas(replicas, wanted.targets)
    if plan.surplus or plan.outgoing:
        installation.locator.refresh_checkpoints()  # `retarget` refuses a removal by what they show.
    with installation.catalog.transaction() as transaction, enforce_quota(installation, transaction):
        found = transaction.versions.get(wanted.definition_path.definition.uid, wanted.request.version)
        if found is None:
            return _added(installation, transaction, wanted, identities, expected_bytes)
        transaction.versions.lock(found.uid)
        standing = transaction.versions.by_uid(found.uid)
        check_updatable(standing, wanted.definition_path.version_id(standing.name))
        changed = _compared(installation, transaction, standing, wanted, identities, expected_bytes)
        if changed != standing:
            transaction.versions.update(changed)
        retarget(installation, transaction, wanted.definition_path, changed)
        return write_version_state(transaction, changed)


def check_updatable(standing: ImageVersion, scope: str) -> None:
    """Refuse to change a version that was deleted.

    Raises:
        Conflict: it was, softly or not.
    """
    if standing.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"Operation 'Update Gallery Image Version' is not allowed on {standing.name} since it is marked for "
            "deletion. You can only retry the Delete operation (or wait for an ongoing one to complete).",
            hint="delete it again, then publish",
            target=scope,
        )
    if standing.soft_deleted_at is not None:
        raise Conflict(
            f"The image version {standing.name} was deleted softly, and keeps its name until it is gone for good.",
            found=f"deleted at {standing.soft_deleted_at.isoformat()}",
            expected="a version that stands, or none of that name",
            hint="`imgstore sig image-version undelete` brings it back; `delete --bypass-soft-delete` frees its name",
            target=scope,
        )


def _added(
    installation: Installation,
    transaction: Transaction,
    wanted: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
) -> ImageVersion:
    request = wanted.request
    there = transaction.versions.count(installation.subscription, wanted.location)
    check_count(installation.limits, "versions_max", there, what="image versions", region=wanted.location)
    version = ImageVersion(
        uid=installation.effects.new_uid(),
        definition_uid=wanted.definition_path.definition.uid,
        name=request.version,
        location=wanted.location,
        target_regions=wanted.targets,
        replica_count=request.replica_count or 1,
        replication_mode=wanted.replication_mode,
        exclude_from_latest=request.exclude_from_latest or False,
        end_of_life_at=request.end_of_life_at,
        allow_deletion_of_replicated_locations=request.allow_deletion_of_replicated_locations,
        block_deletion_before_end_of_life=request.block_deletion_before_end_of_life or False,
        tags=dict(request.tags) if request.tags else NO_TAGS,
        disks=tuple(
            _new_disk(key, wanted, identities[key], expected_bytes.get(key)) for key in sort_disk_keys(identities)
        ),
        published_at=transaction.now(),
        provisioning_state=ProvisioningState.CREATING,
    )
    check_deletion_block(version)
    transaction.versions.add(version)
    if wanted.shallow_slot is None:
        retarget(installation, transaction, wanted.definition_path, version)
    else:
        add_replica(installation, transaction, version, wanted.shallow_slot)
    return version


def _new_disk(key: str, wanted: ResolvedRequest, identity: SourceIdentity, expected_bytes: int | None) -> VersionDisk:
    lun = lun_of(key)
    return VersionDisk(
        lun=lun,
        source=identity,
        expected_bytes=expected_bytes,
        source_sha256=wanted.sha256 if key == OS_DISK else None,
        host_caching=wanted.request.host_caching.get(key, default_caching(lun)),
    )


def _compared(
    installation: Installation,
    transaction: Transaction,
    standing: ImageVersion,
    wanted: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
) -> ImageVersion:
    """The standing version with what may change changed.

    A source that has the same place but changed before its region completed is taken anew, aloud: nothing of the old
    one was ever visible (invariant P7).
    """
    if identities.keys() != set(standing.disk_keys):
        raise PropertyChangeNotAllowed(
            "properties.storageProfile.dataDiskImages",
            message="Adding new Data Disks or changing the LUN of a Data Disk in an existing Image is not allowed.",
            found=format_disk_keys(identities),
            expected=format_disk_keys(standing.disk_keys),
        )
    here = [each for each in transaction.replicas.list(standing.uid) if each.slot.key.region == standing.location]
    arrived = any(each.state in (ReplicaState.COMPLETED, ReplicaState.DEGRADED) for each in here)
    disks = tuple(_compared_disk(disk, wanted, identities[disk.key], arrived=arrived) for disk in standing.disks)
    if standing.replication_mode is not wanted.replication_mode:
        raise PropertyChangeNotAllowed(
            "properties.publishingProfile.replicationMode",
            found=wanted.replication_mode,
            expected=standing.replication_mode,
        )
    if standing.location != wanted.location:
        raise PropertyChangeNotAllowed("location", found=wanted.location, expected=standing.location)
    if [disk.source for disk in disks] != [disk.source for disk in standing.disks]:
        installation.note(f"{standing.location}/0", "the source changed since the last run; taking it in anew")
    changed = apply_update(
        standing,
        wanted.request.as_update(),
        installation.regions,
        installation.limits,
        now=transaction.now(),
    )
    sized = (replace(disk, expected_bytes=expected_bytes.get(disk.key, disk.expected_bytes)) for disk in disks)
    return replace(changed, disks=tuple(sized))


def _compared_disk(
    disk: VersionDisk, wanted: ResolvedRequest, identity: SourceIdentity, *, arrived: bool
) -> VersionDisk:
    path = f"properties.storageProfile.{_path(disk.key)}"
    same_place = disk.source.location == identity.location
    if disk.source != identity and (arrived or not same_place):
        raise PropertyChangeNotAllowed(f"{path}.source", found=_described(identity), expected=_described(disk.source))
    sha256 = wanted.sha256 if disk.key == OS_DISK else None
    known = disk.source_sha256 if disk.source == identity else None
    if None not in (sha256, known) and sha256 != known:
        raise PropertyChangeNotAllowed(
            f"{path}.source",
            found=f"{_described(identity)}, SHA-256 {sha256}",
            expected=f"SHA-256 {known}: the file was changed and given its old time stamp back",
        )
    caching = wanted.request.host_caching.get(disk.key, disk.host_caching)
    if caching is not disk.host_caching:
        raise PropertyChangeNotAllowed(f"{path}.hostCaching", found=caching, expected=disk.host_caching)
    return replace(disk, source=identity, source_sha256=sha256 or known)


def _described(identity: SourceIdentity) -> str:
    return f"{identity.location} of {identity.file_bytes} bytes, stamp {identity.stamp}"
