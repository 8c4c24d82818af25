"""Create disks, snapshots and disks of managed images from disks, snapshots and files.

A copy of a disk or snapshot is a reference to the same content in the same slot and is made at once. A file is ingested
into the pool of the subscription in the region (invariant S1). A repeated call after an interruption resumes the ingest
from the plan of the work.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import (
    CatalogOutdated,
    ImageRefused,
    InvalidInput,
    PropertyChangeNotAllowed,
    SourceChanged,
    SourceNotFound,
    StoreError,
    WorkHeld,
)
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import (
    NO_OS_PROPERTIES,
    DiskKind,
    ManagedDisk,
    OsProperties,
    OsState,
    Pool,
    Slot,
    SlotKey,
    StorageAccountType,
)
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.tags import apply_tags
from imgstore.formats import open_disk
from imgstore.operations.activity_log import record_activity
from imgstore.operations.billing.budgets import check_budget
from imgstore.operations.disks.content_check import check_recorded_source, check_same_content, note_changed_source
from imgstore.operations.disks.conversions import conversion_bounds
from imgstore.operations.disks.disks import check_existing, choose_disk_region, update_tags
from imgstore.operations.disks.remote_content import ensure_slot, lease_content, make_content
from imgstore.operations.disks.sources import (
    find_original,
    may_refer_to,
    open_source,
    resolve_location,
    source_not_found,
)
from imgstore.operations.gallery.galleries import FINGERPRINT_KEY_BYTES
from imgstore.operations.gallery.groups import ensure_group, permit_group
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.replication.disk_ingest import ingest_disk, refill_disk
from imgstore.operations.slots.held_works import run_or_follow
from imgstore.operations.slots.references import lock_disk
from imgstore.operations.slots.removal import remove_disks
from imgstore.policy.os_compatibility import check_os_compatibility, inherit_declared

_SOURCE_URI: Final = "properties.creationData.sourceUri"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A pinned manifest with most of the content of a new disk."""

    slot: Slot
    manifest_digest: Digest


def create_from_source(
    installation: Installation,
    principal: Principal,
    request: DiskRequest,
    *,
    on_recorded: Callable[[Sequence[ManagedDisk]], None] = lambda _disks: None,
) -> ManagedDisk:
    """Create a disk or snapshot from a disk, a snapshot or a file.

    The same call after a completed call does nothing. After an interrupted call, the same call resumes.

    Args:
        installation: the installation.
        principal: the caller.
        request: the new disk and the source.
        on_recorded: a function that receives the new rows before the bytes are stored.

    Raises:
        InvalidInput: the source does not exist, is in another region, or declares another operating system.
        AccessDenied: the principal may not create the disk, or may not read the bytes of the source.
        ImageRefused: the file is not an acceptable image. No disk was created.
        PropertyChangeNotAllowed: the disk exists, from another source or in another region.
        Conflict: a copy needs bytes of another region, and a budget of kind `refuse` is reached.
        StoreError: the ingest of the file failed. The same call resumes the ingest.
    """
    names.check_disk_name(request.name, request.kind.noun)
    scope = names.compute_id(installation.subscription, request.group, request.kind, request.name)
    permit_group(installation, principal, request.group)
    with record_activity(installation, principal, Action.WRITE, scope):
        return make_disks(installation, principal, [request], on_recorded)[0]


def make_disks(
    installation: Installation,
    principal: Principal,
    requests: Sequence[DiskRequest],
    on_recorded: Callable[[Sequence[ManagedDisk]], None],
) -> list[ManagedDisk]:
    """Create the disks of a resource inside an authorized and recorded operation. Raises errors as `create_from_source`.

    One transaction adds all rows, so that other processes never see the resource with fewer disks.
    """
    for request in requests:
        if request.allow_remote:
            _check_remote_budget(installation, principal, request)
    with ExitStack() as stack:
        readers = open_files(installation, principal, requests, stack)
        return make_disks_of_readers(installation, principal, requests, readers, on_recorded)


def make_disks_of_readers(
    installation: Installation,
    principal: Principal,
    requests: Sequence[DiskRequest],
    readers: Mapping[str, DiskReader],
    on_recorded: Callable[[Sequence[ManagedDisk]], None] = lambda _disks: None,
    origin: Origin | None = None,
) -> list[ManagedDisk]:
    """Create the disks of a resource from opened files, by disk key, and from stored disks. See `make_disks`.

    Args:
        installation: the installation.
        principal: the caller.
        requests: the disks.
        readers: the opened files, by disk key.
        on_recorded: see `make_disks`.
        origin: the place of a stored disk with most of the content. None is the pool of the subscription.
    """

    def attempt() -> list[ManagedDisk]:
        verified = verify_changed_files(installation, requests, readers, on_recorded)
        with installation.catalog.transaction() as transaction:
            disks = make_rows(installation, principal, transaction, requests, readers, verified, origin)
            open_ones = [each for each in disks if each.provisioning_state is not ProvisioningState.SUCCEEDED]
            leased = [
                lease_content(installation, transaction, each, allow_remote=requests[0].allow_remote)
                for each in open_ones
                if each.source is None
            ]
        on_recorded(disks)
        for copied in leased:
            make_content(installation, copied)
        for disk in open_ones:
            if disk.source is not None:
                _ingest(installation, disks, disk, readers[disk.disk_key], origin)
        for disk in disks:
            if disk not in open_ones and disk.disk_key in readers:
                refill_disk(installation, disk, readers[disk.disk_key])
        return disks

    disks = run_or_follow(installation, requests[0].display_name, attempt)
    with installation.catalog.reading() as transaction:
        return [transaction.disks.by_uid(each.uid) for each in disks]


def _check_remote_budget(installation: Installation, principal: Principal, request: DiskRequest) -> None:
    """Check the budget before a new copy needs bytes of another region. An accepted copy continues (invariant M30)."""
    with installation.catalog.reading() as transaction:
        if _find_existing(installation, transaction, request) is not None:
            return
        original = _find_source_disk(installation, principal, transaction, request, None)
    if original is not None and _choose_copy_region(installation, request, original) != original.location:
        check_budget(installation)


def open_files(
    installation: Installation, principal: Principal, requests: Sequence[DiskRequest], stack: ExitStack
) -> dict[str, DiskReader]:
    """Open the files among the sources until `stack` closes, by disk key. A file that is not needed may be missing."""
    files = _select_file_requests(installation, principal, requests)
    if files:  # All rights were checked. Opening a file at a URL may take a long time.
        installation.catalog.store_operation()
    opened = {each.disk_key: _open_file(installation, stack, each) for each in files}
    return {part: reader for part, reader in opened.items() if reader is not None}


def make_rows(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    requests: Sequence[DiskRequest],
    readers: Mapping[str, DiskReader],
    verified: Mapping[str, SourceIdentity],
    origin: Origin | None = None,
) -> list[ManagedDisk]:
    """Add the rows of the disks of a resource, or compare existing rows. A prediction also runs this (invariant M16).

    Args:
        installation: the installation.
        principal: the caller, who needs the right to read the sources.
        transaction: the open transaction. It holds no lock yet.
        requests: the disks.
        readers: the opened files, by disk key.
        verified: the identities of changed files that have the stored content, by disk key.
        origin: see `make_disks_of_readers`.
    """
    with enforce_quota(installation, transaction):
        _check_same_parts(installation, transaction, requests)
        disks: list[ManagedDisk] = []
        for each in requests:
            request = replace(each, location=disks[0].location) if disks else each
            key = request.disk_key
            reader = readers.get(key)
            disks.append(_make_row(installation, principal, transaction, request, reader, verified.get(key), origin))
        return disks


def _ingest(
    installation: Installation,
    disks: Sequence[ManagedDisk],
    disk: ManagedDisk,
    reader: DiskReader,
    origin: Origin | None,
) -> None:
    base = None if origin is None else origin.manifest_digest
    try:
        assert disk.source is not None, "a disk from a file has a source"
        ingest_disk(installation, disk, reader, disk.source, base)
    except (ImageRefused, SourceChanged):
        with suppress(CatalogOutdated, WorkHeld):  # The caller needs the reason of the refusal.
            remove_disks(installation, disks)  # A repeated call cannot resume: another source needs another work.
        raise


def _select_file_requests(
    installation: Installation, principal: Principal, requests: Sequence[DiskRequest]
) -> list[DiskRequest]:
    """Return the requests with a file as the source."""
    with installation.catalog.reading() as transaction:
        return [each for each in requests if not _is_copy(installation, principal, transaction, each)]


def _is_copy(installation: Installation, principal: Principal, transaction: Transaction, request: DiskRequest) -> bool:
    standing = _find_existing(installation, transaction, request)
    if standing is not None and may_refer_to(installation, request.group, request.source, standing.source_reference):
        return True
    return _find_source_disk(installation, principal, transaction, request, standing) is not None


def _find_source_disk(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    request: DiskRequest,
    standing: ManagedDisk | None,
) -> ManagedDisk | None:
    """Find the disk or snapshot of a request. Return None for a file, also for a file that was deleted after the ingest."""
    try:
        what = request.kind.noun
        return find_original(installation, principal, transaction, request.group, request.source, what=what)
    except SourceNotFound:
        if _is_ingested(standing, request):
            return None
        raise


def _is_ingested(standing: ManagedDisk | None, request: DiskRequest) -> bool:
    """Return whether a disk has all bytes of the requested file, so that a repeated call skips the file (invariant W6)."""
    if standing is None or standing.source is None or standing.provisioning_state is not ProvisioningState.SUCCEEDED:
        return False
    return standing.source.location == resolve_location(request.source)


def _open_file(installation: Installation, stack: ExitStack, request: DiskRequest) -> DiskReader | None:
    """Open the file of a request. Return None if the file cannot be read and the existing disk has all bytes."""
    try:
        source = stack.enter_context(closing(open_source(installation, request.source)))
    except (SourceNotFound, StoreError):
        with installation.catalog.reading() as transaction:
            if _is_ingested(_find_existing(installation, transaction, request), request):
                return None
        raise
    reader = open_disk(
        source,
        format=request.source_format,
        scratch=installation.scratch,
        bounds=conversion_bounds(installation),
    )
    return stack.enter_context(closing(reader))


def verify_changed_files(
    installation: Installation,
    requests: Sequence[DiskRequest],
    readers: Mapping[str, DiskReader],
    on_compared: Callable[[Sequence[ManagedDisk]], None],
) -> dict[str, SourceIdentity]:
    """Compare each file that has another identity than the source of an ingested disk with the stored content.

    `on_compared` is called with the disks before a comparison, because the caller of the API waits for an answer.

    Returns:
        The identities of the files with equal content, by disk key.
    """
    if not readers:
        return {}
    with installation.catalog.reading() as transaction:
        existing = {each.disk_key: _find_existing(installation, transaction, each) for each in requests}
    verified: dict[str, SourceIdentity] = {}
    for key, reader in readers.items():
        disk, identity = existing[key], reader.identity()
        if disk is None or disk.source is None or disk.provisioning_state is not ProvisioningState.SUCCEEDED:
            continue
        if identity != disk.source and identity.may_have_content_of(disk.source):
            on_compared([each for each in existing.values() if each is not None])
            verified[key] = check_same_content(
                installation,
                reader,
                owner_uid=disk.uid,
                disk_key=OS_DISK,
                virtual_bytes=disk.virtual_bytes,
                digest=disk.disk_digest,
                path=_SOURCE_URI,
            )
    return verified


def _check_same_parts(installation: Installation, transaction: Transaction, requests: Sequence[DiskRequest]) -> None:
    first = requests[0]
    standing = transaction.disks.list(installation.subscription, first.group, first.kind, first.name)
    if standing and {each.disk_key for each in standing} != {each.disk_key for each in requests}:
        raise PropertyChangeNotAllowed(
            "properties.storageProfile.dataDisks", found=f"{len(requests)} disks", expected=f"{len(standing)}"
        )


def _make_row(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    request: DiskRequest,
    reader: DiskReader | None,
    verified: SourceIdentity | None,
    origin: Origin | None,
) -> ManagedDisk:
    """Add the row of a disk, or compare an existing row with the request.

    `verified` is the identity of a file that has the stored content of the disk.
    """
    standing = _find_existing(installation, transaction, request)
    if reader is not None:
        identity = reader.identity()
        if standing is None:
            return _add_row(installation, transaction, request, reader, identity, origin)
        return _reuse_file_row(installation, transaction, request, standing, identity, verified)
    if standing is not None and may_refer_to(installation, request.group, request.source, standing.source_reference):
        if standing.provisioning_state is not ProvisioningState.SUCCEEDED:
            # The disk has no content yet, so the caller that resumes needs the right to read the source now.
            authorize(principal, Action.EXPORT, standing.source_reference)
        return _reuse_row(installation, transaction, request, standing)
    original = _find_source_disk(installation, principal, transaction, request, standing)
    if original is None:
        if standing is not None and _is_ingested(standing, request):
            return _reuse_row(installation, transaction, request, standing)
        raise source_not_found(request.source, "a source that was just deleted", what=request.kind.noun)
    return _add_copy(installation, transaction, request, standing, original)


def _find_existing(installation: Installation, transaction: Transaction, request: DiskRequest) -> ManagedDisk | None:
    return transaction.disks.get(installation.subscription, request.group, request.name, request.kind, request.disk_key)


def _merge_os_properties(request: DiskRequest, source: OsProperties) -> OsProperties:
    """Return the OS properties of a new disk: properties of the request, else properties of the source.

    The OS disk of a managed image always has an OS state. The default is Generalized.
    """
    merged = inherit_declared(source, request.os_properties)
    if request.kind is DiskKind.IMAGE and request.disk_key == OS_DISK:
        return inherit_declared(OsProperties(os_state=OsState.GENERALIZED), merged)
    return merged


def _add_copy(
    installation: Installation,
    transaction: Transaction,
    request: DiskRequest,
    standing: ManagedDisk | None,
    original: ManagedDisk,
) -> ManagedDisk:
    """Add the row of a copy with the content of the source, in the slot of the source or of the same pool elsewhere."""
    check_os_compatibility(
        original.os_properties, request.os_properties, source_name=original.name, target_name=request.display_name
    )
    if standing is not None:
        raise PropertyChangeNotAllowed(
            "properties.creationData.sourceResourceId", found=original.resource_id, expected=standing.source_reference
        )
    region = _choose_copy_region(installation, request, original)
    if region != original.location and not request.allow_remote:
        raise source_not_found(
            request.source, f"'{original.name}' in {original.location}", what=request.kind.noun, region=region
        )
    kind = request.storage_account_type or original.storage_account_type
    if kind is not original.storage_account_type:
        raise InvalidInput(
            f"A copy must have the storage account type of the source: the {original.kind.noun} '{original.name}' has "
            f"{original.storage_account_type}.",
            found=f"--sku {kind}",
            expected=f"{original.storage_account_type}, or no --sku",
            hint="leave --sku out",
            target="sku.name",
        )
    above = ensure_group(installation, transaction, request.group, region)
    row = copy_disk_row(installation, original)
    if region != original.location:
        slot = ensure_slot(
            installation,
            transaction,
            sources=[original.slot],
            region=region,
            body_key=original.body_key,
            kind=original.storage_account_type,
        )
        row = replace(row.in_slot(slot), location=region)
    copied = replace(
        request.details.apply_to(row),
        kind=request.kind,
        group=above.name,
        name=request.name,
        disk_key=request.disk_key,
        tags=apply_tags(request.tags),
        os_properties=_merge_os_properties(request, original.os_properties),
    )
    transaction.disks.add(copied)
    return copied


def _choose_copy_region(installation: Installation, request: DiskRequest, original: ManagedDisk) -> str:
    if request.location is None:
        return original.location
    return installation.regions.get(request.location, target="location").name


def copy_disk_row(installation: Installation, original: ManagedDisk) -> ManagedDisk:
    """Return a new row in state Creating for the same content in the same slot, without grant and machine.

    The caller sets the names of the copy.
    """
    return replace(
        original,
        uid=installation.effects.new_uid(),
        source_reference=original.resource_id,
        source=None,
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        upload_bytes=None,
        grant=None,
        managed_by=None,
        machine_lun=None,
        extra_properties={},
    )


def _reuse_row(
    installation: Installation, transaction: Transaction, request: DiskRequest, standing: ManagedDisk
) -> ManagedDisk:
    """Check that the request fits an existing disk from the same source, and return the disk with new tags and details."""
    region = standing.location
    if request.location is not None:
        region = installation.regions.get(request.location, target="location").name
    check_existing(standing, region)
    check_os_compatibility(
        standing.os_properties, request.os_properties, source_name=standing.name, target_name=request.display_name
    )
    kind = request.storage_account_type
    if kind is not None and kind is not standing.storage_account_type:
        raise PropertyChangeNotAllowed("sku.name", found=kind, expected=standing.storage_account_type)
    return update_tags(installation, transaction, standing, request.tags, request.details)


def _reuse_file_row(
    installation: Installation,
    transaction: Transaction,
    request: DiskRequest,
    standing: ManagedDisk,
    identity: SourceIdentity,
    verified: SourceIdentity | None,
) -> ManagedDisk:
    """Check that the request fits an existing disk from a file, and return the disk.

    If the file changed before the end of the ingest, the file is read again with a note (invariant W5). Afterwards, a
    file with another identity must have the stored content (invariant W6).
    """
    if standing.source != identity:
        standing = lock_disk(transaction, standing)
    disk = _reuse_row(installation, transaction, request, standing)
    arrived = standing.provisioning_state is ProvisioningState.SUCCEEDED
    check_recorded_source(
        _SOURCE_URI,
        identity,
        standing.source,
        location=standing.source_reference,
        verified=verified,
        is_fixed=arrived,
    )
    if standing.source != identity:
        if not arrived:
            note_changed_source(installation, standing.name, identity, standing.source)
        disk = replace(disk, source=identity, source_reference=identity.location)
        transaction.disks.update(disk)
    return disk


def _add_row(
    installation: Installation,
    transaction: Transaction,
    request: DiskRequest,
    reader: DiskReader,
    identity: SourceIdentity,
    origin: Origin | None,
) -> ManagedDisk:
    region = choose_disk_region(installation, transaction, request.group, request.location, None)
    kind = request.storage_account_type or StorageAccountType.STANDARD_LRS
    slot = _choose_slot(installation, transaction, region, kind, origin)
    uid = installation.effects.new_uid()
    disk = ManagedDisk(
        uid=uid,
        kind=request.kind,
        subscription=installation.subscription,
        group=ensure_group(installation, transaction, request.group, region).name,
        name=request.name,
        disk_key=request.disk_key,
        location=region,
        tags=apply_tags(request.tags),
        source_version_uid=None,
        source_reference=identity.location,
        source=identity,
        body_key=object_keys.manifest_key(uid, OS_DISK),
        os_properties=_merge_os_properties(request, NO_OS_PROPERTIES),
        replica=slot.key.ordinal,
        slot=slot,
        storage_account_type=kind,
        virtual_bytes=reader.virtual_bytes,
        disk_digest=b"",
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        source_format=reader.container_metadata.format,
    )
    disk = request.details.apply_to(disk)
    transaction.disks.add(disk)
    return disk


def _choose_slot(
    installation: Installation,
    transaction: Transaction,
    region: str,
    kind: StorageAccountType,
    origin: Origin | None,
) -> Slot:
    """Return the slot of the origin if its pool belongs to the subscription, else the slot for files (invariant S11)."""
    if origin is not None and (origin.slot.key.region, origin.slot.key.storage_account_type) == (region, kind):
        gallery = transaction.galleries.find_by_pool(origin.slot.key.pool_uid)
        owner = transaction.pools.get(origin.slot.key.pool_uid) if gallery is None else gallery
        if owner.subscription == installation.subscription:
            return origin.slot
    return ensure_own_slot(installation, transaction, region, kind)


def ensure_own_slot(
    installation: Installation, transaction: Transaction, region: str, kind: StorageAccountType
) -> Slot:
    """Return the first slot of a type in the pool of the subscription in a region. Create pool and slot at first use."""
    pool = transaction.pools.get_or_add(
        Pool(
            uid=installation.effects.new_uid(),
            fingerprint_key=installation.effects.random_bytes(FINGERPRINT_KEY_BYTES),
            subscription=installation.subscription,
            region=region,
        )
    )
    key = SlotKey(pool_uid=pool.uid, region=region, storage_account_type=kind, ordinal=0)
    zone, bucket = installation.locator.choose_zone(key)
    return transaction.slots.get_or_add(key, zone=zone, bucket=bucket)
