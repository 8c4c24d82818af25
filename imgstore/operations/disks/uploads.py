"""Create disks from uploads.

A client creates a disk row, uploads the bytes to a signed URL, and revokes the URL. The revocation ingests the upload. The
upload is always a fixed VHD, as in Azure. The format is never probed (invariant F9).

An upload for a version (`domain/disks/upload_tags.py`) is not ingested as a disk. `open_upload` opens the received bytes
as the source of the version, so that the bytes are stored in the pool of the gallery only (invariant S1).
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, DiskReader, Extent, SourceIdentity
from imgstore.domain.disks.upload_tags import destination_id, expected_digest, is_for_version
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, InvalidInput, NotFound, PropertyChangeNotAllowed, SourceNotFound
from imgstore.domain.identity.access import VERSIONS, Action, Principal
from imgstore.domain.requests import UploadRequest
from imgstore.domain.resources import ManagedDisk, StorageAccountType
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import TIB
from imgstore.domain.tags import apply_tags
from imgstore.formats import open_disk
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.disks.disks import check_existing, choose_disk_region, update_tags
from imgstore.operations.disks.from_source import ensure_own_slot
from imgstore.operations.disks.sources import source_not_found
from imgstore.operations.gallery.groups import ensure_group, permit_group
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.replication.disk_ingest import ingest_disk
from imgstore.policy.os_compatibility import check_os_compatibility
from imgstore.transfer.spool import Spool, last_used_at, remove_spool, spool_folder, uploads_folder

SECTOR_BYTES: Final = 512
FOOTER_BYTES: Final = 512
UPLOAD_BYTES_MAX: Final = 32 * TIB + FOOTER_BYTES
"""The maximum size of an upload, as in Azure. The minimum of Azure, 20 MiB and the footer, is not enforced."""
_PATIENCE_SECONDS: Final = 60.0
"""The time for requests in progress to end after the revocation of the URL. Requests check the grant every second."""
_VERSION_PATIENCE_SECONDS: Final = 5.0
"""The time for the same requests before an ingest into a version. A request that repeats a running ingest must not hold a
thread for long."""
_LOOK_SECONDS: Final = 0.05


def create_upload(installation: Installation, principal: Principal, request: UploadRequest) -> ManagedDisk:
    """Create a disk that waits for an upload. A repeated call does nothing.

    Raises:
        InvalidInput: the size is not the size of a fixed VHD, or the existing disk declares another operating system.
        PropertyChangeNotAllowed: the disk exists, with another source, another size or another region.
        AccessDenied: the principal may not write the disk, or the versions that the upload is for.
    """
    names.check_disk_name(request.name)
    _check_bytes(request.upload_bytes)
    scope = names.disk_id(installation.subscription, request.group, request.name)
    permit_group(installation, principal, request.group)
    destination = destination_id(request.tags or {})
    if destination is not None:  # Refuse before the bytes are sent.
        permit(installation, principal, Action.WRITE, destination, VERSIONS)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
        enforce_quota(installation, transaction),
    ):
        standing = transaction.disks.get(installation.subscription, request.group, request.name)
        region = choose_disk_region(installation, transaction, request.group, request.location, standing)
        if standing is not None:
            return _reuse_row(installation, transaction, standing, request, region)
        return _add_row(installation, transaction, request, region)


def _check_bytes(upload_bytes: int) -> None:
    if upload_bytes % SECTOR_BYTES or not FOOTER_BYTES < upload_bytes <= UPLOAD_BYTES_MAX:
        raise InvalidInput(
            "uploadSizeBytes is not the size of a fixed VHD.",
            found=f"{upload_bytes} bytes",
            expected=f"a multiple of {SECTOR_BYTES}: the disk and a footer of {FOOTER_BYTES}, at most {UPLOAD_BYTES_MAX}",
            hint="use the size of the .vhd file (`stat -c %s disk.vhd`)",
            target="properties.creationData.uploadSizeBytes",
        )


def _reuse_row(
    installation: Installation, transaction: Transaction, standing: ManagedDisk, request: UploadRequest, region: str
) -> ManagedDisk:
    check_existing(standing, region)
    data = "properties.creationData"
    if standing.upload_bytes is None:
        raise PropertyChangeNotAllowed(f"{data}.createOption", found="Upload", expected=standing.source_reference)
    if standing.upload_bytes != request.upload_bytes:
        raise PropertyChangeNotAllowed(
            f"{data}.uploadSizeBytes", found=str(request.upload_bytes), expected=str(standing.upload_bytes)
        )
    kind = request.storage_account_type
    if kind is not None and kind is not standing.storage_account_type:
        raise PropertyChangeNotAllowed("sku.name", found=kind, expected=standing.storage_account_type)
    check_os_compatibility(
        standing.os_properties, request.os_properties, source_name=standing.name, target_name=f"disk {request.name}"
    )
    return update_tags(installation, transaction, standing, request.tags, request.details)


def _add_row(installation: Installation, transaction: Transaction, request: UploadRequest, region: str) -> ManagedDisk:
    kind = request.storage_account_type or StorageAccountType.STANDARD_LRS
    slot = ensure_own_slot(installation, transaction, region, kind)
    uid = installation.effects.new_uid()
    disk = ManagedDisk(
        uid=uid,
        subscription=installation.subscription,
        group=ensure_group(installation, transaction, request.group, region).name,
        name=request.name,
        location=region,
        tags=apply_tags(request.tags),
        source_version_uid=None,
        source_reference="upload",
        body_key=object_keys.manifest_key(uid, OS_DISK),
        os_properties=request.os_properties,
        replica=slot.key.ordinal,
        slot=slot,
        storage_account_type=kind,
        virtual_bytes=request.upload_bytes - FOOTER_BYTES,
        disk_digest=b"",
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        source_format=DiskFormat.VHD_FIXED,
        upload_bytes=request.upload_bytes,
    )
    disk = request.details.apply_to(disk)
    transaction.disks.add(disk)
    return disk


def revoke_access(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    on_url_revoked: Callable[[], None] = lambda: None,
) -> ManagedDisk:
    """Revoke the signed URL of a disk, and ingest uploaded bytes, unless the upload is for a version.

    The same call after a completed call does nothing. After an interrupted call, the same call resumes.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the disk.
        on_url_revoked: a function that is called after the revocation and before the long ingest.

    Raises:
        ImageRefused: the upload is not a fixed VHD of the size. The upload stays and can be corrected with a new URL.
        WorkHeld: another process still writes or ingests the upload.
        StoreError: the ingest failed. The same call resumes the ingest.
    """
    scope = names.disk_id(installation.subscription, group, name)
    with record_activity(installation, principal, Action.END_ACCESS, scope):
        with installation.catalog.transaction() as transaction:
            disk = lookup.find_disk(transaction, installation.subscription, group, name)
            if disk.grant is not None:
                transaction.disks.set_grant(disk, None)
                disk = replace(disk, grant=None)
        on_url_revoked()
        if not disk.awaits_upload or is_for_version(disk.tags):
            return disk
        return _ingest_upload(installation, disk)


def _ingest_upload(installation: Installation, disk: ManagedDisk) -> ManagedDisk:
    with closing(open_spool(installation, disk, patience_seconds=_PATIENCE_SECONDS)) as spool:
        with installation.catalog.reading() as transaction:
            made = transaction.disks.by_uid(disk.uid)
        if made.awaits_upload:  # Otherwise another process ingested the upload during the wait.
            if not spool.has_any:
                return made
            with closing(open_disk(spool, format=DiskFormat.VHD_FIXED, scratch=installation.scratch)) as reader:
                made = ingest_disk(installation, made, reader, spool.identity())
    remove_spool(installation.home, disk.uid)
    return made


class UploadedDisk:
    """A `DiskReader` of the received bytes of an upload. The location of the source is the id of the disk."""

    def __init__(self, spool: Spool, reader: DiskReader, disk: ManagedDisk, digest: Digest | None) -> None:
        self._spool = spool
        self._reader = reader
        self._location = disk.resource_id
        self.expected_digest = digest
        """The disk digest that the client named, or None."""

    @property
    def virtual_bytes(self) -> int:
        """The size of the disk."""
        return self._reader.virtual_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        """The footer of the uploaded VHD."""
        return self._reader.container_metadata

    def extents(self) -> Iterator[Extent]:
        """Return the ranges with received data."""
        return self._reader.extents()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read from the upload spool."""
        return self._reader.read_at(offset, length)

    def identity(self) -> SourceIdentity:
        """Return the identity of the received bytes."""
        return replace(self._spool.identity(), location=self._location)

    def close(self) -> None:
        """Release the spool."""
        self._reader.close()
        self._spool.close()


def open_upload(installation: Installation, disk: ManagedDisk) -> UploadedDisk:
    """Open the received bytes of a disk as the source of a version. The signed URL was revoked.

    Raises:
        SourceNotFound: another process deleted the disk.
        InvalidInput: no bytes were received.
        ImageRefused: the upload is not a fixed VHD of the size. The upload stays and can be corrected with a new URL.
        WorkHeld: another process still uses the upload.
    """
    digest = expected_digest(disk.tags)
    try:
        spool = open_spool(installation, disk, patience_seconds=_VERSION_PATIENCE_SECONDS)
    except NotFound as error:
        raise source_not_found(
            disk.resource_id, "a deleted disk", what="gallery image version", kind=SourceNotFound
        ) from error
    try:
        _check_has_bytes(spool, disk)
        reader = open_disk(spool, format=DiskFormat.VHD_FIXED, scratch=installation.scratch)
    except BaseException:
        spool.close()
        raise
    return UploadedDisk(spool, reader, disk, digest)


def _check_has_bytes(spool: Spool, disk: ManagedDisk) -> None:
    if not spool.has_any:
        raise InvalidInput(
            f"The disk '{disk.name}' has no uploaded bytes on this server.",
            found="an empty upload",
            expected="a complete upload to this server",
            hint="upload the file to the URL of `imgstore disk grant-access`, then revoke the access",
            target=disk.resource_id,
        )


def open_spool(installation: Installation, disk: ManagedDisk, *, patience_seconds: float = 0) -> Spool:
    """Open the upload spool of a disk that waits for an upload.

    Raises:
        Conflict: the disk does not wait for an upload.
        NotFound: another process deleted the disk.
        WorkHeld: another process keeps the spool open for longer than `patience_seconds`.
    """
    if disk.upload_bytes is None or not disk.awaits_upload:
        raise Conflict(
            f"The disk '{disk.name}' does not wait for an upload.",
            found=f"a disk in state {disk.provisioning_state}",
            expected="a disk with createOption Upload and without an upload",
            target=disk.name,
        )
    effects = installation.effects
    until = effects.monotonic() + patience_seconds

    def patience() -> bool:
        if effects.monotonic() >= until:
            return False
        effects.wait(_LOOK_SECONDS)
        return True

    spool = Spool(
        spool_folder(installation.home, disk.uid), disk.upload_bytes, keep_waiting=patience, space=installation.space
    )
    try:
        with installation.catalog.reading() as transaction:
            transaction.disks.by_uid(disk.uid)
    except BaseException as error:
        spool.close()
        if isinstance(error, NotFound):  # Another process deleted the disk and the spool during the wait for the lock.
            remove_spool(installation.home, disk.uid)
        raise
    return spool


def sweep_uploads(installation: Installation) -> None:
    """Remove the spools of ingested uploads, of deleted disks and of abandoned uploads.

    An upload is abandoned if no valid URL permits writes and no process used the spool for `DiskSpace.upload_days_max`.
    The disk of an abandoned upload still waits for an upload. A new URL starts the upload again.
    """
    folder = uploads_folder(installation.home)
    if not folder.is_dir():
        return
    with installation.catalog.reading() as transaction:
        waiting = transaction.disks.list_awaiting_upload()
    for each in folder.iterdir():
        if each.name not in waiting or _is_abandoned(installation, each.name):
            remove_spool(installation.home, each.name)


def _is_abandoned(installation: Installation, disk_uid: str) -> bool:
    now = installation.effects.now()
    written_at = last_used_at(installation.home, disk_uid)
    if written_at is None or now - written_at < timedelta(days=installation.space.upload_days_max):
        return False
    with installation.catalog.reading() as transaction:
        try:
            grant = transaction.disks.by_uid(disk_uid).grant
        except NotFound:
            return True
        return grant is None or grant.expires_at <= transaction.now()
