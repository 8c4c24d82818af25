"""Create image versions: open the sources, ingest into the source region, replicate to the target regions."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace

from imgstore.domain.disks.sources import ByteSource, DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk, disk_key
from imgstore.domain.errors import (
    CatalogOutdated,
    ErrorDetail,
    ImageRefused,
    ImgstoreError,
    InvalidInput,
    LeaseLost,
    ReplicationFailed,
    SourceChanged,
    SourceNotFound,
    StoreError,
    WorkHeld,
    WorkLeased,
)
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.domain.names import version_id
from imgstore.domain.requests import VersionRequest
from imgstore.domain.resources import ImageVersion
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.formats import ConversionBounds, detect_generation, open_disk
from imgstore.formats.files.sha256 import check_sha256
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.disks.content_check import check_same_content
from imgstore.operations.disks.conversions import conversion_bounds
from imgstore.operations.disks.sources import authorize_source, open_source, resolve_location
from imgstore.operations.disks.uploads import UploadedDisk, open_upload
from imgstore.operations.gallery.versions import show_version
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter, task_name
from imgstore.operations.replication.copy import converge, leave_to_workers
from imgstore.operations.replication.ingest import Publication, publish
from imgstore.operations.slots.held_works import follow_work, is_held_elsewhere, run_or_follow
from imgstore.operations.slots.removal import remove_version
from imgstore.operations.versions.request import (
    ResolvedRequest,
    check_disks,
    check_distinct_sources,
    check_size,
    disk_path,
    record_version,
    resolve_request,
)
from imgstore.operations.versions.shallow import choose_shallow_slot, publish_shallow
from imgstore.operations.versions.source import has_arrived_from
from imgstore.operations.versions.stored_sources import OpenedDisks, open_stored_disks
from imgstore.transfer.overlay.overlaid_disk import OverlaidDisk
from imgstore.transfer.stored_disk import StoredDisk


def create_version(
    installation: Installation,
    principal: Principal,
    request: VersionRequest,
    *,
    wait: bool = True,
    on_recorded: Callable[[ImageVersion], None] = lambda _version: None,
) -> VersionView:
    """Create a version from disks, and replicate the version to its target regions.

    A repeated command resumes a version in state Creating or Failed (invariant W6). After the version is complete in
    one region, the source is not read again and may be deleted. Target regions, tags and other updatable properties are
    then updated.

    Args:
        installation: the installation.
        principal: the caller.
        request: the version, its source and its target regions. The source names the OS disk exactly once.
            A disk as a source may have an upload that was not ingested.
        wait: wait for all target regions. Otherwise wait for the source region only, and leave the others to workers.
        on_recorded: called with the version when the row is written, before bytes are stored.

    Raises:
        InvalidInput, ImageRefused: the request or the image is refused. Nothing is visible.
        PropertyChangeNotAllowed: the version exists with other disks, another source or another source region.
        ReplicationFailed: one or more target regions failed. The other regions are usable.
        StoreError: the store of the source region failed. The same command resumes.
    """
    request.source.check()
    _permit(installation, principal, request)
    resolved = resolve_request(installation, request)
    with _record_activity(installation, principal, resolved):
        if request.source.os_snapshot is not None or request.source.data_snapshots:
            _follow_ingest(installation, principal, resolved, on_recorded)
        with ExitStack() as stack:
            opened = open_disks(installation, principal, stack, resolved)
            if request.source.is_image_or_machine:
                resolved = resolved.without_data_disk_caching({*opened.readers, *opened.absent})
            if opened.absent:
                version = _record(installation, resolved, opened.readers, opened.absent, on_recorded)
            else:
                version = _publish(
                    installation,
                    choose_shallow_slot(resolved, opened.readers, opened.slots),
                    opened.readers,
                    on_recorded,
                )
        return _replicate(installation, principal, resolved, version, wait=wait)


def _follow_ingest(
    installation: Installation,
    principal: Principal,
    resolved: ResolvedRequest,
    on_recorded: Callable[[ImageVersion], None],
) -> None:
    """Follow an ingest of the version by another process before the sources are opened.

    The other process keeps an upload locked, and the upload is deleted afterwards. The caller needs the same rights as
    without the other process, before the request is recorded (invariant H7).
    """
    with installation.catalog.reading() as transaction:
        existing = transaction.versions.get(resolved.definition_path.definition.uid, resolved.request.version)
        if existing is None:
            return
        held = [
            work
            for work in transaction.works.list_open()
            if work.owner_uid == existing.uid
            and work.kind is WorkKind.INGEST
            and is_held_elsewhere(installation, transaction, work)
        ]
    if held:
        source, group = resolved.request.source, resolved.definition_path.gallery.group
        for word in filter(None, (source.os_snapshot, *(each.source for each in source.data_snapshots))):
            authorize_source(installation, principal, group, word)
        on_recorded(existing)
        follow_work(installation, held[0].uid, f"{existing.location}/0")


def publish_readers(
    installation: Installation,
    principal: Principal,
    request: VersionRequest,
    readers: Mapping[str, DiskReader],
    *,
    wait: bool = True,
) -> VersionView:
    """Create and replicate a version from open disks, by disk key (`os`, `lun-5`).

    The caller closes the readers.

    Raises:
        InvalidInput, ImageRefused: the request or the image is refused. Nothing is visible.
        PropertyChangeNotAllowed: the version exists with other disks, another source or another source region.
        ReplicationFailed: one or more target regions failed. The other regions are usable.
        StoreError: the store of the source region failed. The same call resumes.
    """
    _permit(installation, principal, request)
    resolved = resolve_request(installation, request)
    with _record_activity(installation, principal, resolved):
        version = _publish(installation, resolved, readers)
        return _replicate(installation, principal, resolved, version, wait=wait)


def publish_reader(
    installation: Installation, principal: Principal, request: VersionRequest, reader: DiskReader
) -> VersionView:
    """Create a version from an open OS disk, without data disks. See `publish_readers`."""
    return publish_readers(installation, principal, request, {OS_DISK: reader})


def _permit(installation: Installation, principal: Principal, request: VersionRequest) -> None:
    """Check the right to write the version, before the gallery and the definition are looked up (invariant H9)."""
    above = (request.group, request.gallery, request.definition)
    permit(installation, principal, Action.WRITE, version_id(installation.subscription, *above, request.version))


def _record_activity(
    installation: Installation, principal: Principal, resolved: ResolvedRequest
) -> AbstractContextManager[None]:
    scope = resolved.definition_path.version_id(resolved.request.version)
    return record_activity(installation, principal, Action.WRITE, scope)


def _publish(
    installation: Installation,
    resolved: ResolvedRequest,
    readers: Mapping[str, DiskReader],
    on_recorded: Callable[[ImageVersion], None] = lambda _version: None,
) -> ImageVersion:
    """Record a version, and ingest its disks into a slot of the source region.

    If another process ingests the version, wait for the process, and apply the request to the present version.
    """
    check_disks(installation, readers, shallow=resolved.is_shallow)

    def attempt() -> ImageVersion | None:
        version = _record(installation, resolved, readers, {}, on_recorded)
        try:
            return version if _make_source(installation, resolved, version, readers) else None
        except (ImageRefused, SourceChanged):
            _withdraw(installation, version)
            raise

    _warn_generation(installation, resolved.definition_path, readers[OS_DISK])
    made = None
    while made is None:
        made = run_or_follow(installation, f"{resolved.location}/0", attempt)
    return made


def _record(
    installation: Installation,
    resolved: ResolvedRequest,
    readers: Mapping[str, DiskReader],
    absent: Mapping[str, VersionDisk],
    on_recorded: Callable[[ImageVersion], None],
) -> ImageVersion:
    """Record a version, or apply the request to the existing version.

    The `absent` disks have no available source any more. Only a version that was once complete has such disks.
    """
    available = {key: reader.identity() for key, reader in readers.items()}
    version = record_version(
        installation,
        resolved,
        available | {key: disk.source for key, disk in absent.items()},
        {key: reader.virtual_bytes for key, reader in readers.items()},
        verify_changed_sources(installation, resolved, readers, on_recorded),
    )
    on_recorded(version)
    return version


def verify_changed_sources(
    installation: Installation,
    resolved: ResolvedRequest,
    readers: Mapping[str, DiskReader],
    on_compared: Callable[[ImageVersion], None],
) -> dict[str, SourceIdentity]:
    """Compare each source of an ingested version that has another identity than recorded with the stored content.

    A source with the recorded identity is not read. The SHA-256 of a request was compared with the file before, so an
    equal recorded SHA-256 proves equal content. `on_compared` is called with the version before a comparison, because
    the caller of the API waits for an answer.

    Returns:
        The identities of the sources with equal content, by disk key.

    Raises:
        PropertyChangeNotAllowed: a source has other content.
        SourceChanged: a source was replaced while it was read.
    """
    # The identity of a stored disk is its content.
    files = {key: reader for key, reader in readers.items() if not isinstance(reader, StoredDisk)}
    if not files:
        return {}
    with installation.catalog.reading() as transaction:
        existing = transaction.versions.get(resolved.definition_path.definition.uid, resolved.request.version)
    if existing is None or not existing.is_visible:
        return {}
    verified: dict[str, SourceIdentity] = {}
    for disk in existing.disks:
        reader = files.get(disk.key)
        if reader is None or disk.disk_digest is None:
            continue
        identity = reader.identity()
        if identity == disk.source or not identity.may_have_content_of(disk.source):
            continue
        if disk.key == OS_DISK and resolved.sha256 is not None and resolved.sha256 == disk.source_sha256:
            verified[disk.key] = identity
            continue
        on_compared(existing)
        verified[disk.key] = check_same_content(
            installation,
            reader,
            owner_uid=existing.uid,
            disk_key=disk.key,
            virtual_bytes=disk.virtual_bytes or 0,
            digest=disk.disk_digest,
            path=f"{disk_path(disk.key)}.source",
        )
    return verified


def _withdraw(installation: Installation, version: ImageVersion) -> None:
    """Remove a version after the ingest refused the source, unless a replica of the version was once complete.

    A repeated command cannot resume with this version, because another source needs another work. Segments that were
    stored are reused by name.
    """
    with installation.catalog.reading() as transaction:
        arrived = any(transaction.manifests.is_complete(row.uid) for row in transaction.manifests.of_owner(version.uid))
    if not arrived:
        try:
            remove_version(installation, version)
        except (CatalogOutdated, WorkHeld) as error:  # The version stays. The caller must get the error of the source.
            installation.note(str(version.name), error.message)


def _replicate(
    installation: Installation,
    principal: Principal,
    resolved: ResolvedRequest,
    version: ImageVersion,
    *,
    wait: bool = True,
) -> VersionView:
    """Replicate a version to its target regions, or leave the replication to workers; return the version."""
    failed: Mapping[str, ImgstoreError] = {}
    if wait:
        failed = converge(installation, resolved.definition_path, version)
    else:
        leave_to_workers(installation, version)
    request = resolved.request
    view = show_version(
        installation,
        as_reader(principal, resolved.definition_path.version_id(request.version)),
        group=request.group,
        gallery=request.gallery,
        definition=request.definition,
        version=request.version,
    )
    if failed:
        raise make_replication_error(view, failed)
    return view


def _warn_generation(installation: Installation, definition_path: DefinitionPath, reader: DiskReader) -> None:
    """Warn if the partition table of the OS disk suggests another generation than the definition. Refuse nothing."""
    inferred = detect_generation(reader)
    declared = definition_path.definition.hyper_v_generation
    if inferred is not None and inferred != declared:
        installation.note(
            definition_path.definition.name,
            f"the definition declares generation {declared}; the partition table of the disk looks like {inferred}",
        )


def _make_source(
    installation: Installation, resolved: ResolvedRequest, version: ImageVersion, readers: Mapping[str, DiskReader]
) -> bool:
    """Ingest into a slot of the source region. Do nothing if a replica is complete: replication copies that replica.

    Any healthy slot may be the first (invariant R4). If the store of one slot fails, the next slot is tried.

    Returns:
        False if another process ingested the version in the mean time, so that the state must be read again.
    """
    with installation.catalog.reading() as transaction:
        existing = transaction.replicas.list(version.uid)
    replicas = [replica for replica in existing if replica.state is not ReplicaState.DELETING]
    if any(replica.state is ReplicaState.COMPLETED for replica in replicas):
        return True
    digests = {key: reader.digest for key, reader in readers.items() if isinstance(reader, StoredDisk)}
    overlaid = {key: reader.base_digest for key, reader in readers.items() if isinstance(reader, OverlaidDisk)}
    uploads = {key: reader for key, reader in readers.items() if isinstance(reader, UploadedDisk)}
    if resolved.is_shallow and digests.keys() == readers.keys():
        publish_shallow(installation, resolved.definition_path, version, replicas[0], digests)
        return True
    first: StoreError | None = None
    for source in (each for each in replicas if each.slot.key.region == version.location):
        publication = Publication(
            definition_path=resolved.definition_path,
            version=version,
            replica=source,
            readers=readers,
            named_bases=resolved.request.bases,
            source_manifests=digests | overlaid,
            expected_digests={key: each.expected_digest for key, each in uploads.items()},
            verify_full=resolved.request.verify_full,
        )
        try:
            if not _publish_or_follow(installation, publication):
                return False
        except StoreError as error:
            first = first or error
        else:
            _abandon_other_ingests(installation, version)
            return True
    assert first is not None, "the source region is a target region with at least one replica"
    raise first


def _publish_or_follow(installation: Installation, publication: Publication) -> bool:
    """Ingest into one slot. Return False after another process has done, or has given up, the same ingest.

    Raises:
        StoreError: the store of the slot failed, here or in the other process, which also tries the next slot.
    """
    try:
        publish(installation, publication)
    except (WorkLeased, LeaseLost) as error:
        if isinstance(error, LeaseLost) and not _is_taken_over(installation, str(error.target)):
            raise
        follow_work(installation, str(error.target), task_name(publication.replica))
        return False
    return True


def _is_taken_over(installation: Installation, work_uid: str) -> bool:
    """Return whether another process does a work now, after this process has lost its lease."""
    with installation.catalog.reading() as transaction:
        return is_held_elsewhere(installation, transaction, transaction.works.get(work_uid))


def _abandon_other_ingests(installation: Installation, version: ImageVersion) -> None:
    """Abandon the ingests into other slots of the region. The replicas there are copied from the complete replica."""
    with installation.catalog.transaction() as transaction:
        for work in transaction.works.list_open():
            if work.kind is WorkKind.INGEST and work.owner_uid == version.uid:
                transaction.works.abandon(work.uid)


def make_replication_error(view: VersionView, failed: Mapping[str, ImgstoreError]) -> ReplicationFailed:
    """Make the error for a version with failed replicas; the details contain the error of each replica."""
    regions = {replica.uid: replica.slot.key.region for replica in view.replicas}
    details = ", ".join(
        f"{{region:{regions.get(uid, 'removed since')}, detail:{error.message}}}" for uid, error in failed.items()
    )
    complete = sorted({r.slot.key.region for r in view.replicas if r.state is ReplicaState.COMPLETED})
    error = ReplicationFailed(
        "Gallery replication jobs failed in one or more regions. The failing regions' details are as follows: "
        f"'{details}'.",
        found=f"complete in {', '.join(complete) or 'no region'}",
        expected=f"complete in {', '.join(target.name for target in view.version.target_regions)}",
        hint="the complete regions are usable; repeat the command to resume the failed regions",
    )
    error.details = tuple(
        ErrorDetail(code=each.error_code, target=regions.get(uid, "removed since"), message=each.message)
        for uid, each in failed.items()
    )
    return error


def open_disks(
    installation: Installation,
    principal: Principal,
    stack: ExitStack,
    resolved: ResolvedRequest,
    *,
    pinned: bool = True,
) -> OpenedDisks:
    """Open the disks of a source until `stack` closes. Stored disks are pinned for this time.

    Args:
        installation: the installation.
        principal: the caller, who needs the right to read the source.
        stack: closes the readers and removes the pins.
        resolved: the version. If the version was once complete in a region, the source may be missing.
        pinned: pin stored disks. Without pins, nothing is written, and a deletion of the source ends the read.

    Raises:
        SourceNotFound, NotFound, StoreError: a source that is needed is not available.
        InvalidInput, ImageRefused: the source is refused.
        AccessDenied: the principal may not read the source.
    """
    source = resolved.request.source
    uris = {disk_key(vhd.lun): vhd.uri for vhd in source.data_vhds}
    formats = {disk_key(vhd.lun): vhd.format for vhd in source.data_vhds}
    if source.os_vhd_uri is not None:
        uris[OS_DISK], formats[OS_DISK] = source.os_vhd_uri, source.os_vhd_format
    # Stored disks first: they need rights, and to open a file at a URL may take long.
    stored = stack.enter_context(open_stored_disks(installation, principal, resolved, pinned=pinned))
    installation.catalog.store_operation()
    files = {}
    for key, uri in uris.items():
        try:
            files[key] = stack.enter_context(closing(open_source(installation, uri)))
        except (SourceNotFound, StoreError):
            if not has_arrived_from(resolved.arrived, key, [resolve_location(uri)]):
                raise
            if key == OS_DISK and resolved.sha256 is not None and resolved.arrived[key].source_sha256 is None:
                raise
    uploads = {
        key: stack.enter_context(closing(open_upload(installation, disk))) for key, disk in stored.uploads.items()
    }
    if not source.is_single_resource:
        opened: dict[str, ByteSource | DiskReader] = {**files, **uploads, **stored.readers}
        check_distinct_sources({key: each.identity().location for key, each in opened.items()})
    if OS_DISK in files or OS_DISK not in uris:
        _check_sha256(installation, resolved, files)

    def bounds(key: str) -> ConversionBounds:
        return conversion_bounds(
            installation, lambda size: check_size(installation, key, size, shallow=resolved.is_shallow)
        )

    readers = {
        key: stack.enter_context(
            closing(open_disk(file, format=formats[key], scratch=installation.scratch, bounds=bounds(key)))
        )
        for key, file in files.items()
    }
    absent = {key: resolved.arrived[key] for key in uris.keys() - files.keys()}
    return replace(stored, readers={**readers, **uploads, **stored.readers}, absent={**absent, **stored.absent})


def _check_sha256(installation: Installation, resolved: ResolvedRequest, files: Mapping[str, ByteSource]) -> None:
    if resolved.sha256 is None:
        return
    if OS_DISK not in files:
        raise InvalidInput(
            "A SHA-256 needs a file as the source of the OS disk.",
            found="sha256 with a source that is stored in this installation",
            expected="a stored source without sha256: each piece of a stored source is verified in any case",
            hint="leave --sha256 out",
            target="sha256",
        )
    source = files[OS_DISK]
    counter = ProgressCounter(installation, f"check {source.identity().location.rsplit('/', 1)[-1]}", source.file_bytes)
    counter.begin()
    try:
        check_sha256(source, resolved.sha256, counter.add_bytes)
    except ImgstoreError:
        counter.fail()
        raise
    counter.end()
