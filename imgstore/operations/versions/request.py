"""Resolve the request for a version, check the disks, and record the version or apply the request to its row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    ImageVersion,
    ReplicationMode,
    Slot,
    TargetRegion,
)
from imgstore.domain.settings.limits import check_count, check_disk_bytes
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.tags import apply_tags
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.disks.content_check import check_recorded_source, format_identity, note_changed_source
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.replication.targets import add_replica, check_replication, retarget
from imgstore.operations.slots.attribution import change_tags, lock_slots
from imgstore.operations.slots.completion import update_version_state
from imgstore.policy.allowed_changes import check_end_of_life
from imgstore.policy.replica_diff import diff_replicas
from imgstore.policy.target_regions import check_shallow, resolve_targets
from imgstore.policy.version_update import apply_update, check_deletion_block

Identities: TypeAlias = Mapping[str, SourceIdentity]
"""The source identity of each disk, by disk key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRequest:
    """A checked request for a version, with all defaults."""

    request: VersionRequest
    definition_path: DefinitionPath
    location: str
    targets: tuple[TargetRegion, ...]
    sha256: str | None
    """The expected SHA-256 of the file of the OS disk, in lower case."""
    replication_mode: ReplicationMode
    existing: ImageVersion | None = None
    """The present version of this name, in any state."""
    arrived: Mapping[str, VersionDisk] = field(default_factory=dict)
    """The disks of the existing version by disk key, if a replica was once complete. Their sources may be missing.

    Workers, scrub and a repeated create restore such a version without a source (invariant R15).
    """
    is_served: bool = False
    """Whether a replica of the existing version is complete. Otherwise an available source repairs the version."""
    shallow_slot: Slot | None = None
    """The slot of the source of a Shallow version, if the source is stored in this installation."""

    @property
    def recorded_locations(self) -> frozenset[str]:
        """The source locations of the existing version, in lower case. Older code recorded the id of a shared image."""
        disks = () if self.existing is None else self.existing.disks
        return frozenset(disk.source.location.lower() for disk in disks)

    @property
    def is_shallow(self) -> bool:
        """Whether the version has exactly one replica (invariant R13)."""
        return self.replication_mode is ReplicationMode.SHALLOW

    def without_data_disk_caching(self, keys: Iterable[str]) -> "ResolvedRequest":
        """Return the request with host caching None for data disks, unless the request contains another value.

        None is the default for versions from a managed image or a machine.
        """
        uncached = {key: HostCaching.NONE for key in keys if key != OS_DISK}
        return replace(self, request=replace(self.request, host_caching=uncached | dict(self.request.host_caching)))

    def with_shallow_slot(self, slot: Slot) -> "ResolvedRequest":
        """Return the request of a Shallow version, with the slot of the source and the storage account type of the slot.

        Raises:
            InvalidInput: the request contains another storage account type.
        """
        kind = slot.key.storage_account_type
        requested = [
            *(each.storage_account_type for each in self.request.target_regions or ()),
            self.request.storage_account_type,
        ]
        other = next((each for each in requested if each is not None), kind)
        if other is not kind:
            raise InvalidInput(
                f"A gallery image version with replicationMode Shallow has the storage account type of its source: {kind}.",
                found=f"the storage account type {other}",
                expected=f"{kind}, or no storage account type",
                hint="leave the type out, or publish the version with --replication-mode Full",
                target="storageAccountType",
            )
        targets = tuple(replace(target, storage_account_type=kind) for target in self.targets)
        return replace(self, targets=targets, shallow_slot=slot)


def resolve_request(installation: Installation, request: VersionRequest) -> ResolvedRequest:
    """Check a request for a version and fill in its defaults. The disks are not checked here.

    Raises:
        InvalidInput, Conflict: the request is refused.
        ParentNotFound: the gallery or the definition does not exist.
    """
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_parent_definition(
            transaction, installation.subscription, request.group, request.gallery, request.definition
        )
        existing = transaction.versions.get(definition_path.definition.uid, request.version)
        is_visible = existing is not None and existing.is_visible
        has_arrived = existing is not None and is_visible and bool(transaction.manifests.complete_slots(existing.uid))
        replicas = [] if existing is None else transaction.replicas.list(existing.uid)
        now = transaction.now()
    regions, limits = installation.regions, installation.limits
    if existing is not None and existing.is_visible:
        location = regions.get(request.location or existing.location, target="location").name
        targets = apply_update(existing, request, regions, limits, now=now).target_regions
    else:
        location = request.location or definition_path.gallery.location
        location, targets = resolve_targets(location, request, (), regions, limits)
        check_end_of_life(request.new_end_of_life_at, now)
        apply_tags(request.tags)
    mode = request.replication_mode or (ReplicationMode.FULL if existing is None else existing.replication_mode)
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
        existing=existing,
        arrived={disk.key: disk for disk in existing.disks} if existing is not None and has_arrived else {},
        is_served=any(each.state is ReplicaState.COMPLETED for each in replicas),
    )


def check_disks(installation: Installation, readers: Mapping[str, DiskReader], *, shallow: bool = False) -> None:
    """Refuse disks that are too large, and a version without an OS disk.

    Args:
        installation: the installation.
        readers: the disks, by disk key.
        shallow: whether the version is Shallow, with another size limit.

    Raises:
        ImageRefused: a disk is larger than its limit.
        InvalidInput: there is no OS disk, or a LUN is out of range.
    """
    if OS_DISK not in readers:
        raise InvalidInput(
            "An image version needs an OS disk.",
            found=format_disk_keys(readers),
            expected="an OS disk, and optional data disks",
            hint="add --os-vhd-uri",
            target="osDiskImage",
        )
    check_luns([lun for lun in map(lun_of, readers) if lun is not None])
    for key, reader in readers.items():
        check_size(installation, key, reader.virtual_bytes, shallow=shallow)


def check_size(installation: Installation, key: str, virtual_bytes: int, *, shallow: bool) -> None:
    """Refuse a disk of a version that is too large.

    Raises:
        ImageRefused: the disk is larger than its limit.
    """
    name = "image_bytes_max" if key == OS_DISK else "data_disk_bytes_max"
    if shallow:
        name = "shallow_image_bytes_max"
    check_disk_bytes(installation.limits, name, virtual_bytes, target=_property_path(key))


def check_distinct_sources(locations: Mapping[str, str]) -> None:
    """Refuse two disks from the same file or object.

    Args:
        locations: the location of the source of each disk, by disk key.

    Raises:
        InvalidInput: two disks have the same location.
    """
    first: dict[str, str] = {}
    for key in sort_disk_keys(locations):
        other = first.setdefault(locations[key], key)
        if other != key:
            raise InvalidInput(
                "OSDiskImage and DataDiskImage cannot point to same blob."
                if other == OS_DISK
                else "Data disk images cannot point to the same blob.",
                found=f"{_property_path(other)} and {_property_path(key)}: both {locations[key]}",
                expected="another source for each disk",
                hint="name another file, or copy the file",
                target=_property_path(key),
            )


def disk_path(key: str) -> str:
    """Return the path of a disk in the body of a version."""
    return f"properties.storageProfile.{_property_path(key)}"


def _property_path(key: str) -> str:
    return "osDiskImage" if key == OS_DISK else f"dataDiskImages[lun={lun_of(key)}]"


def record_version(
    installation: Installation,
    resolved: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
    verified: Identities,
) -> ImageVersion:
    """Record a new version with its replicas, or apply the request to the existing version.

    Args:
        installation: the installation.
        resolved: the request.
        identities: the identities of the sources, by disk key.
        expected_bytes: virtual sizes of the available disks, by disk key. The quota counts these sizes.
        verified: the identities of sources that have the stored content of the version, by disk key.

    Raises:
        PropertyChangeNotAllowed: the version exists with other disks, other sources or another source region.
        InvalidInput: the version needs new replicas, and no prices are valid now.
        Conflict: the version was deleted, a limit is reached, or the budget of the month refuses new replicas.
        CatalogOutdated: a replica would be removed, and the catalog is older than its buckets. Nothing was changed.
    """
    with installation.catalog.reading() as transaction:
        known = transaction.versions.get(resolved.definition_path.definition.uid, resolved.request.version)
        replicas = [] if known is None else transaction.replicas.list(known.uid)
    if resolved.shallow_slot is None and (known is None or known.is_visible):
        check_replication(installation, replicas, resolved.targets, resolved.location)
    plan = diff_replicas(replicas, resolved.targets)
    if plan.surplus or plan.outgoing:
        installation.locator.refresh_checkpoints()  # `retarget` refuses a removal if the catalog is outdated.
    with installation.catalog.transaction() as transaction:
        return add_or_change_version(installation, transaction, resolved, identities, expected_bytes, verified)


def add_or_change_version(
    installation: Installation,
    transaction: Transaction,
    resolved: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
    verified: Identities,
) -> ImageVersion:
    """Write the rows of `record_version`, with its arguments and errors. A prediction also runs this (invariant M16)."""
    with enforce_quota(installation, transaction):
        found = transaction.versions.get(resolved.definition_path.definition.uid, resolved.request.version)
        if found is None:
            return _add_version(installation, transaction, resolved, identities, expected_bytes)
        if resolved.request.tags is not None:
            lock_slots(transaction, found.uid)
        existing = transaction.versions.get_for_update(found.uid)
        check_updatable(existing, resolved.definition_path.version_id(existing.name))
        changed = _apply_request(installation, transaction, existing, resolved, identities, expected_bytes, verified)
        if changed != existing:
            transaction.versions.update(changed)
        if changed.tags != existing.tags:
            change_tags(installation.effects, transaction, changed.uid, changed.tags)
        retarget(installation, transaction, resolved.definition_path, changed)
        return update_version_state(transaction, changed)


def check_updatable(existing: ImageVersion, scope: str) -> None:
    """Refuse to change a version that is deleted or soft-deleted.

    Raises:
        Conflict: the version is deleted or soft-deleted.
    """
    if existing.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"Operation 'Update Gallery Image Version' is not allowed on {existing.name} since it is marked for "
            "deletion. You can only retry the Delete operation (or wait for an ongoing one to complete).",
            hint="delete the version again, then publish the version",
            target=scope,
        )
    if existing.soft_deleted_at is not None:
        raise Conflict(
            f"The image version {existing.name} is soft-deleted, and keeps its name until its removal.",
            found=f"deleted at {existing.soft_deleted_at.isoformat()}",
            expected="a version that is not deleted, or an unused name",
            hint="`imgstore sig image-version undelete` restores the version; `delete --bypass-soft-delete` frees its name",
            target=scope,
        )


def _add_version(
    installation: Installation,
    transaction: Transaction,
    resolved: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
) -> ImageVersion:
    request = resolved.request
    count = transaction.versions.count(installation.subscription, resolved.location)
    check_count(installation.limits, "versions_max", count, what="image versions", region=resolved.location)
    version = ImageVersion(
        uid=installation.effects.new_uid(),
        definition_uid=resolved.definition_path.definition.uid,
        name=request.version,
        location=resolved.location,
        target_regions=resolved.targets,
        replica_count=request.replica_count or 1,
        replication_mode=resolved.replication_mode,
        exclude_from_latest=request.exclude_from_latest or False,
        end_of_life_at=request.new_end_of_life_at,
        allow_deletion_of_replicated_locations=request.allow_deletion_of_replicated_locations,
        block_deletion_before_end_of_life=request.block_deletion_before_end_of_life or False,
        tags=apply_tags(request.tags),
        disks=tuple(
            _new_disk(key, resolved, identities[key], expected_bytes.get(key)) for key in sort_disk_keys(identities)
        ),
        published_at=transaction.now(),
        provisioning_state=ProvisioningState.CREATING,
    )
    check_deletion_block(version)
    transaction.versions.add(version)
    if resolved.shallow_slot is None:
        retarget(installation, transaction, resolved.definition_path, version)
    else:
        add_replica(installation, transaction, version, resolved.shallow_slot)
    return version


def _new_disk(key: str, resolved: ResolvedRequest, identity: SourceIdentity, expected_bytes: int | None) -> VersionDisk:
    lun = lun_of(key)
    return VersionDisk(
        lun=lun,
        source=identity,
        expected_bytes=expected_bytes,
        source_sha256=resolved.sha256 if key == OS_DISK else None,
        host_caching=resolved.request.host_caching.get(key, default_caching(lun)),
    )


def _apply_request(
    installation: Installation,
    transaction: Transaction,
    existing: ImageVersion,
    resolved: ResolvedRequest,
    identities: Identities,
    expected_bytes: Mapping[str, int],
    verified: Identities,
) -> ImageVersion:
    """Return the existing version with the changes of the request.

    A source at the same location may have changed before the source region was complete. Then the source is read again
    and the change is reported, because the old content was never visible (invariant P7). Afterwards, a source with
    another identity must have the stored content (invariant W6).
    """
    if identities.keys() != set(existing.disk_keys):
        raise PropertyChangeNotAllowed(
            "properties.storageProfile.dataDiskImages",
            message="Adding new Data Disks or changing the LUN of a Data Disk in an existing Image is not allowed.",
            found=format_disk_keys(identities),
            expected=format_disk_keys(existing.disk_keys),
        )
    replicas = [each for each in transaction.replicas.list(existing.uid) if each.slot.key.region == existing.location]
    arrived = any(each.state in (ReplicaState.COMPLETED, ReplicaState.DEGRADED) for each in replicas)
    disks = tuple(
        _apply_to_disk(
            disk,
            resolved,
            identities[disk.key],
            verified.get(disk.key),
            arrived=arrived,
        )
        for disk in existing.disks
    )
    if existing.replication_mode is not resolved.replication_mode:
        raise PropertyChangeNotAllowed(
            "properties.publishingProfile.replicationMode",
            found=resolved.replication_mode,
            expected=existing.replication_mode,
        )
    if existing.location != resolved.location:
        raise PropertyChangeNotAllowed("location", found=resolved.location, expected=existing.location)
    if not arrived:
        for disk, before in zip(disks, existing.disks, strict=True):
            note_changed_source(installation, f"{existing.location}/0", disk.source, before.source)
    changed = apply_update(existing, resolved.request, installation.regions, installation.limits, now=transaction.now())
    sized = (replace(disk, expected_bytes=expected_bytes.get(disk.key, disk.expected_bytes)) for disk in disks)
    return replace(changed, disks=tuple(sized))


def _apply_to_disk(
    disk: VersionDisk,
    resolved: ResolvedRequest,
    identity: SourceIdentity,
    verified: SourceIdentity | None,
    *,
    arrived: bool,
) -> VersionDisk:
    path = disk_path(disk.key)
    check_recorded_source(
        f"{path}.source",
        identity,
        disk.source,
        location=disk.source.location,
        verified=verified,
        is_fixed=arrived or disk.disk_digest is not None,
    )
    sha256 = resolved.sha256 if disk.key == OS_DISK else None
    known = disk.source_sha256 if disk.source == identity else None
    if None not in (sha256, known) and sha256 != known:
        raise PropertyChangeNotAllowed(
            f"{path}.source",
            found=f"{format_identity(identity)}, SHA-256 {sha256}",
            expected=f"SHA-256 {known}: the file was changed, and then its time stamp was reset",
        )
    caching = resolved.request.host_caching.get(disk.key, disk.host_caching)
    if caching is not disk.host_caching:
        raise PropertyChangeNotAllowed(f"{path}.hostCaching", found=caching, expected=disk.host_caching)
    return replace(disk, source=identity, source_sha256=sha256 or known)
