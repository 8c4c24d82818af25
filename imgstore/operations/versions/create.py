"""Image versions: published, shown, listed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass

from imgstore.domain.disks.sources import ByteSource, DiskFormat, DiskReader
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk, disk_key
from imgstore.domain.errors import (
    CatalogOutdated,
    ErrorDetail,
    ImageRefused,
    ImgstoreError,
    InvalidInput,
    ReplicationFailed,
    SourceChanged,
    SourceNotFound,
    StoreError,
)
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.domain.names import version_id
from imgstore.domain.requests import DataSnapshot, DataVhd, VersionRequest, VersionSource
from imgstore.domain.resources import ImageVersion, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.formats import ConversionBounds, detect_generation, open_disk
from imgstore.formats.files.sha256 import check_sha256
from imgstore.operations.activity_log import permit, recorded
from imgstore.operations.disks.conversions import conversion_bounds
from imgstore.operations.disks.sources import location_of, open_source
from imgstore.operations.gallery.versions import show_version
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import converge, leave_to_workers
from imgstore.operations.replication.ingest import Publication, publish
from imgstore.operations.slots.removal import forget_version
from imgstore.operations.versions import stored_sources
from imgstore.operations.versions.request import (
    ResolvedRequest,
    check_disks,
    check_distinct_sources,
    check_size,
    record_version,
    resolve_request,
)
from imgstore.operations.versions.shallow import choose_shallow_slot, publish_shallow
from imgstore.operations.versions.source import find_arrived_disks, find_source_locations, has_arrived_from
from imgstore.operations.versions.stored_sources import NewVersion
from imgstore.transfer.stored_disk import StoredDisk


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDisks:
    """All disks of a source."""

    readers: Mapping[str, DiskReader]
    """Those that are there, by key: files, and what is stored here already."""
    slots: Mapping[str, Slot]
    """Of what is stored here, where each lies."""
    gone: Mapping[str, VersionDisk]
    """Those that arrived from what is stated, and can't be looked at any more."""


def create_version(
    installation: Installation,
    principal: Principal,
    request: VersionRequest,
    *,
    os_vhd_uri: str | None = None,
    os_snapshot: str | None = None,
    managed_image: str | None = None,
    image_version: str | None = None,
    virtual_machine: str | None = None,
    source_format: DiskFormat | None = None,
    data_vhds: Sequence[DataVhd] = (),
    data_snapshots: Sequence[DataSnapshot] = (),
    wait: bool = True,
    on_recorded: Callable[[ImageVersion], None] = lambda _version: None,
) -> VersionView:
    """Publish disks as a version and replicate it to its target regions.

    The same command on a version that is Creating or Failed goes on where it stood; once it is complete somewhere, its
    source is not read again, and may be gone. Other target regions, tags and what
    else may change are changed as by `updating.update_version`.

    Args:
        installation: where.
        principal: who.
        request: which version, and where it is to be.
        os_vhd_uri: a path, file://, s3:// or https://, of any container that is read; or instead of it one of
        os_snapshot: a snapshot or managed disk by name or id,
        managed_image: a managed image by name or id, or an image version by its id: all its disks,
        image_version: an image version by its id, or as rg/gallery/definition/version: all its disks,
        virtual_machine: a machine by name or id: all its disks.
        source_format: what the OS disk's file is; None looks at it.
        data_vhds: data disks from files, each at a LUN of its own.
        data_snapshots: data disks from snapshots or managed disks, likewise.
        wait: until it is in every region; else only the source region is waited for, and workers do the rest.
        on_recorded: called with the version when its row is written, before its bytes are stored.

    Raises:
        InvalidInput, ImageRefused: the request or the image is refused; nothing is visible.
        PropertyChangeNotAllowed: the version exists with other disks, another source or another source region.
        ReplicationFailed: one or more target regions failed; the others serve.
        StoreError: the source region's store could not take it; the same command goes on.
    """
    source = VersionSource(
        os_vhd_uri=os_vhd_uri,
        os_snapshot=os_snapshot,
        managed_image=managed_image,
        image_version=image_version,
        virtual_machine=virtual_machine,
        data_vhds=tuple(data_vhds),
        data_snapshots=tuple(data_snapshots),
    )
    source.check()
    _permit(installation, principal, request)
    wanted = resolve_request(installation, request)
    with _recorded(installation, principal, wanted):
        with ExitStack() as stack:
            opened = open_disks(installation, principal, stack, wanted, source, source_format)
            if source.is_image_or_machine:
                wanted = wanted.without_data_disk_caching({*opened.readers, *opened.gone})
            if opened.gone:
                version = _repeat(installation, wanted, opened, on_recorded)
            else:
                version = _publish(
                    installation, choose_shallow_slot(wanted, opened.readers, opened.slots), opened.readers, on_recorded
                )
        return _replicate(installation, principal, wanted, version, wait=wait)


def publish_readers(
    installation: Installation,
    principal: Principal,
    request: VersionRequest,
    readers: Mapping[str, DiskReader],
    *,
    wait: bool = True,
) -> VersionView:
    """The same for disks that are open already, by key (``os``, ``lun-5``); they stay the caller's.

    Raises as `create_version`.
    """
    _permit(installation, principal, request)
    wanted = resolve_request(installation, request)
    with _recorded(installation, principal, wanted):
        version = _publish(installation, wanted, readers)
        return _replicate(installation, principal, wanted, version, wait=wait)


def publish_reader(
    installation: Installation, principal: Principal, request: VersionRequest, reader: DiskReader
) -> VersionView:
    """The same for an OS disk alone."""
    return publish_readers(installation, principal, request, {OS_DISK: reader})


def _permit(installation: Installation, principal: Principal, request: VersionRequest) -> None:
    """Check the right to write the version before the gallery and the definition above it are looked up."""
    above = (request.group, request.gallery, request.definition)
    permit(installation, principal, Action.WRITE, version_id(installation.subscription, *above, request.version))


def _recorded(
    installation: Installation, principal: Principal, wanted: ResolvedRequest
) -> AbstractContextManager[None]:
    scope = wanted.definition_path.version_id(wanted.request.version)
    return recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/images/versions/write")


def _publish(
    installation: Installation,
    wanted: ResolvedRequest,
    readers: Mapping[str, DiskReader],
    on_recorded: Callable[[ImageVersion], None] = lambda _version: None,
) -> ImageVersion:
    """The version's row, and its bytes in the source slot."""
    check_disks(installation, readers, shallow=wanted.is_shallow)
    version = record_version(
        installation,
        wanted,
        {key: reader.identity() for key, reader in readers.items()},
        {key: reader.virtual_bytes for key, reader in readers.items()},
    )
    on_recorded(version)
    try:
        _warn_generation(installation, wanted.definition_path, readers[OS_DISK])
        _make_source(installation, wanted, version, readers)
    except (ImageRefused, SourceChanged):
        _withdraw(installation, version)
        raise
    return version


def _repeat(
    installation: Installation,
    wanted: ResolvedRequest,
    opened: OpenedDisks,
    on_recorded: Callable[[ImageVersion], None],
) -> ImageVersion:
    """The row of a version that is complete somewhere, compared with what is stated; no byte of it is read."""
    there = {key: reader.identity() for key, reader in opened.readers.items()}
    sizes = {key: reader.virtual_bytes for key, reader in opened.readers.items()}
    version = record_version(
        installation, wanted, there | {key: disk.source for key, disk in opened.gone.items()}, sizes
    )
    on_recorded(version)
    return version


def _withdraw(installation: Installation, version: ImageVersion) -> None:
    """Take a version back whose source was refused while it was read, unless it was complete somewhere before.

    No repeat could go on from it: another source is another work. Segments that were sent are found by their names.
    """
    with installation.catalog.reading() as transaction:
        arrived = any(transaction.manifests.is_complete(row.uid) for row in transaction.manifests.of_owner(version.uid))
    if not arrived:
        try:
            forget_version(installation, version)
        except CatalogOutdated as error:  # It stays as Failed; why the source was refused is what the caller must hear.
            installation.note(str(version.name), error.message)


def _replicate(
    installation: Installation,
    principal: Principal,
    wanted: ResolvedRequest,
    version: ImageVersion,
    *,
    wait: bool = True,
) -> VersionView:
    """The version's bytes in every other slot, as far as they can be brought there now, or by workers."""
    failed: Mapping[str, ImgstoreError] = {}
    if wait:
        failed = converge(installation, wanted.definition_path, version)
    else:
        leave_to_workers(installation, version)
    request = wanted.request
    view = show_version(
        installation,
        as_reader(principal, wanted.definition_path.version_id(request.version)),
        group=request.group,
        gallery=request.gallery,
        definition=request.definition,
        version=request.version,
    )
    if failed:
        raise make_replication_error(view, failed)
    return view


def _warn_generation(installation: Installation, definition_path: DefinitionPath, reader: DiskReader) -> None:
    """What is only inferred from a partition table warns; it refuses nothing."""
    inferred = detect_generation(reader)
    declared = definition_path.definition.hyper_v_generation
    if inferred is not None and inferred != declared:
        installation.note(
            definition_path.definition.name,
            f"the definition says generation {declared}; the disk's partition table looks like {inferred}",
        )


def _make_source(
    installation: Installation, wanted: ResolvedRequest, version: ImageVersion, readers: Mapping[str, DiskReader]
) -> None:
    """Publish into a slot of the source region, unless some replica has the bytes: then replication does the rest.

    The first slot is any healthy one (invariant R4): where the zone of one is down, the next is tried.
    """
    with installation.catalog.reading() as transaction:
        standing = transaction.replicas.list(version.uid)
    replicas = [replica for replica in standing if replica.state is not ReplicaState.DELETING]
    if any(replica.state is ReplicaState.COMPLETED for replica in replicas):
        return
    digests = {key: reader.digest for key, reader in readers.items() if isinstance(reader, StoredDisk)}
    if wanted.is_shallow and digests.keys() == readers.keys():
        publish_shallow(installation, wanted.definition_path, version, replicas[0], digests)
        return
    first: StoreError | None = None
    for source in (each for each in replicas if each.slot.key.region == version.location):
        try:
            publish(
                installation,
                Publication(
                    definition_path=wanted.definition_path,
                    version=version,
                    replica=source,
                    readers=readers,
                    named_bases=wanted.request.bases,
                    source_manifests=digests,
                    verify_full=wanted.request.verify_full,
                ),
            )
        except StoreError as error:
            first = first or error
        else:
            _end_other_ingests(installation, version)
            return
    assert first is not None, "the source region is a target region, with one replica or more"
    raise first


def _end_other_ingests(installation: Installation, version: ImageVersion) -> None:
    """The bytes are in one slot: what was begun in another of the region goes on as a copy."""
    with installation.catalog.transaction() as transaction:
        for work in transaction.works.list_open():
            if work.kind is WorkKind.INGEST and work.owner_uid == version.uid:
                transaction.works.abandon(work.uid)


def make_replication_error(view: VersionView, failed: Mapping[str, ImgstoreError]) -> ReplicationFailed:
    """What is raised where replicas could not be made, with each one's error."""
    regions = {replica.uid: replica.slot.key.region for replica in view.replicas}
    details = ", ".join(
        f"{{region:{regions.get(uid, 'removed since')}, detail:{error.message}}}" for uid, error in failed.items()
    )
    serving = sorted({r.slot.key.region for r in view.replicas if r.state is ReplicaState.COMPLETED})
    error = ReplicationFailed(
        "Gallery replication jobs failed in one or more regions. The failing regions' details are as follows: "
        f"'{details}'.",
        found=f"complete in {', '.join(serving) or 'no region'}",
        expected=f"complete in {', '.join(target.name for target in view.version.target_regions)}",
        hint="the complete regions serve; repeat the command and failed replicas resume",
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
    wanted: ResolvedRequest,
    source: VersionSource,
    source_format: DiskFormat | None,
) -> OpenedDisks:
    """All disks of a source, until `stack` closes; what is stored here is pinned meanwhile.

    Args:
        installation: where.
        principal: who must be allowed to read the source.
        stack: closes them.
        wanted: the version. Once it is complete somewhere, nothing need be there any more of what it came from.
        source: what it is to be made from.
        source_format: what the OS disk's file is; None looks at it.

    Raises:
        SourceNotFound, NotFound, StoreError: a source can't be looked at, and bytes of it are needed.
        InvalidInput, ImageRefused: it is refused.
        AccessDenied: the principal may not read it.
    """
    arrived = find_arrived_disks(installation, wanted)
    uris = {disk_key(vhd.lun): vhd.uri for vhd in source.data_vhds}
    formats = {disk_key(vhd.lun): vhd.format for vhd in source.data_vhds}
    if source.os_vhd_uri is not None:
        uris[OS_DISK], formats[OS_DISK] = source.os_vhd_uri, source_format
    taker = NewVersion(
        definition_path=wanted.definition_path,
        name=wanted.request.version,
        region=wanted.location,
        arrived=arrived,
        locations=find_source_locations(installation, wanted),
    )
    # First what is stored here, whose rights are checked; to open a file at a URL may take long.
    stored = stack.enter_context(stored_sources.open_stored_disks(installation, principal, source, taker))
    installation.catalog.store_operation()
    files = {}
    for key, uri in uris.items():
        try:
            files[key] = stack.enter_context(closing(open_source(installation, uri)))
        except (SourceNotFound, StoreError):
            if not has_arrived_from(arrived, key, [location_of(uri)]):
                raise
            if key == OS_DISK and wanted.sha256 is not None and arrived[key].source_sha256 is None:
                raise
    if not source.is_single_resource:
        places = {key: file.identity().location for key, file in files.items()}
        check_distinct_sources(places | {key: disk.identity().location for key, disk in stored.readers.items()})
    if OS_DISK in files or OS_DISK not in uris:
        _check_sha256(wanted, files)

    def bounds(key: str) -> ConversionBounds:
        return conversion_bounds(
            installation, lambda size: check_size(installation, key, size, shallow=wanted.is_shallow)
        )

    readers = {
        key: stack.enter_context(
            closing(open_disk(file, format=formats[key], scratch=installation.scratch, bounds=bounds(key)))
        )
        for key, file in files.items()
    }
    gone = {*(uris.keys() - files.keys()), *stored.gone}
    return OpenedDisks(
        readers={**readers, **stored.readers}, slots=stored.slots, gone={key: arrived[key] for key in gone}
    )


def _check_sha256(wanted: ResolvedRequest, files: Mapping[str, ByteSource]) -> None:
    if wanted.sha256 is None:
        return
    if OS_DISK not in files:
        raise InvalidInput(
            "A SHA-256 is of a file; this source is none.",
            found="sha256 with a source that is stored here",
            expected="a source that is stored here alone: every piece of it is checked anyway",
            hint="leave --sha256 out",
            target="sha256",
        )
    check_sha256(files[OS_DISK], wanted.sha256)
