"""Image versions: published, shown, listed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime

from imgstore.catalog import Facts
from imgstore.control.changes import check_end_of_life
from imgstore.control.targets import PublishingRequest, resolve_targets
from imgstore.control.updating import check_block, updated
from imgstore.domain import names
from imgstore.domain.access import VERSIONS, Action, Principal, may, visible
from imgstore.domain.errors import (
    Conflict,
    Detail,
    ImageRefused,
    ImgstoreError,
    PropertyChangeNotAllowed,
    ReplicationFailed,
    SourceChanged,
    StoreError,
)
from imgstore.domain.limits import check_room
from imgstore.domain.names import VersionName
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import (
    KEEP,
    NO_TAGS,
    ImageVersion,
    Replica,
    StorageAccountType,
    TargetRegion,
    TargetRegionRequest,
    VersionUpdate,
)
from imgstore.domain.sources import DiskFormat, DiskReader, SourceIdentity
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.works import WorkKind
from imgstore.formats import generation_of, open_disk
from imgstore.operations import finding
from imgstore.operations.converging import converge
from imgstore.operations.finding import Lineage
from imgstore.operations.forgetting import forget_version
from imgstore.operations.installation import Installation
from imgstore.operations.publishing import Publication, publish
from imgstore.operations.recording import permit, permit_list, recorded
from imgstore.operations.retargeting import retarget
from imgstore.operations.settling import write_version_state
from imgstore.operations.sources import check_sha256, open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version with its replicas and what it is in."""

    version: ImageVersion
    replicas: tuple[Replica, ...]
    """By region and ordinal; none that is being deleted."""
    line: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRequest:
    """A version as it is asked for."""

    group: str
    """The resource group's name."""
    gallery: str
    definition: str
    version: VersionName
    location: str | None = None
    """The source region; None is the gallery's."""
    target_regions: Sequence[TargetRegionRequest] = ()
    """Where to, all of them; empty is the source region alone, or where a version that stands is."""
    replica_count: int | None = None
    """For the regions that name none; None is 1, or as it stands."""
    storage_account_type: StorageAccountType | None = None
    """For the regions that name none; None is Standard_LRS, or as it stands."""
    exclude_from_latest: bool | None = None
    """None leaves it as it is."""
    end_of_life_at: datetime | None = None
    """None leaves it as it is."""
    allow_deletion_of_replicated_locations: bool | None = None
    """None leaves it as it is."""
    block_deletion_before_end_of_life: bool | None = None
    """None leaves it as it is."""
    tags: Mapping[str, str] | None = None
    """None leaves them as they are."""
    sha256: str | None = None
    """Of the source's file, checked before anything is stored."""
    bases: Sequence[VersionName] = ()
    """Versions to be compared with besides those that are chosen."""
    verify_full: bool = False
    """Read the whole disk back before it is published."""

    def as_update(self) -> VersionUpdate:
        """What it asks of a version that stands."""
        return VersionUpdate(
            target_regions=self.target_regions,
            replica_count=self.replica_count,
            storage_account_type=self.storage_account_type,
            exclude_from_latest=self.exclude_from_latest,
            end_of_life_at=KEEP if self.end_of_life_at is None else self.end_of_life_at,
            allow_deletion_of_replicated_locations=self.allow_deletion_of_replicated_locations,
            block_deletion_before_end_of_life=self.block_deletion_before_end_of_life,
            tags=self.tags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The request with every default filled in, checked."""

    request: VersionRequest
    line: Lineage
    location: str
    targets: tuple[TargetRegion, ...]
    sha256: str | None
    """Lower case."""


def create_version(
    installation: Installation,
    principal: Principal,
    request: VersionRequest,
    *,
    os_vhd_uri: str,
    source_format: DiskFormat | None = None,
    wait: bool = True,
    written: Callable[[ImageVersion], None] = lambda _version: None,
) -> VersionView:
    """Publish a disk as a version and replicate it to its target regions.

    The same command on a version that is Creating or Failed goes on where it stood. Other target regions, tags and what
    else may change are changed as by `updating.update_version`.

    Args:
        installation: where.
        principal: who.
        request: which version, and where it is to be.
        os_vhd_uri: a path, file://, s3:// or https://, of any container that is read.
        source_format: what the file is; None looks at it.
        wait: until it is in every region; else only the source region is waited for, and workers do the rest.
        written: told of the version when its row stands and its bytes are yet to come.

    Raises:
        InvalidInput, ImageRefused: the request or the image is refused; nothing is visible.
        PropertyChangeNotAllowed: the version exists with another source or another source region.
        ReplicationFailed: one or more target regions failed; the others serve.
        StoreError: the source region's store could not take it; the same command goes on.
    """
    wanted = _resolved(installation, request)
    with _recorded(installation, principal, wanted):
        source = open_source(installation, os_vhd_uri)
        try:
            if wanted.sha256 is not None:
                check_sha256(source, wanted.sha256)
            reader = open_disk(source, format=source_format, scratch=installation.scratch)
            try:
                version = _publish(installation, wanted, reader, written)
            finally:
                reader.close()
        finally:
            source.close()
        return _replicate(installation, principal, wanted, version, wait=wait)


def publish_reader(
    installation: Installation, principal: Principal, request: VersionRequest, reader: DiskReader
) -> VersionView:
    """The same for a disk that is open already; it stays the caller's. Raises as `create_version`."""
    wanted = _resolved(installation, request)
    with _recorded(installation, principal, wanted):
        version = _publish(installation, wanted, reader)
        return _replicate(installation, principal, wanted, version)


def _resolved(installation: Installation, request: VersionRequest) -> _Wanted:
    with installation.catalog.reading() as facts:
        line = finding.parent_lineage(
            facts, installation.subscription, request.group, request.gallery, request.definition
        )
        standing = facts.versions.get(line.definition.uid, request.version)
    now = installation.effects.now()
    regions, limits = installation.regions, installation.limits
    if standing is not None and standing.is_visible:
        location = regions.get(request.location or standing.location, target="location").name
        targets = updated(standing, request.as_update(), regions, limits, now=now).target_regions
    else:
        publishing = PublishingRequest(
            location=request.location or line.gallery.location,
            target_regions=request.target_regions,
            replica_count=request.replica_count,
            storage_account_type=request.storage_account_type,
        )
        location, targets = resolve_targets(publishing, regions, limits)
        check_end_of_life(request.end_of_life_at, now)
    sha256 = None if request.sha256 is None else request.sha256.strip().lower()
    return _Wanted(request=request, line=line, location=location, targets=targets, sha256=sha256)


def _recorded(installation: Installation, principal: Principal, wanted: _Wanted) -> AbstractContextManager[None]:
    scope = wanted.line.version_id(wanted.request.version)
    return recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/images/versions/write")


def _publish(
    installation: Installation,
    wanted: _Wanted,
    reader: DiskReader,
    written: Callable[[ImageVersion], None] = lambda _version: None,
) -> ImageVersion:
    """The version's row, and its bytes in the source slot."""
    _check_disk(installation, reader)
    _warn_generation(installation, wanted.line, reader)
    version = _written_down(installation, wanted, reader.identity())
    written(version)
    try:
        _make_source(installation, wanted, version, reader)
    except (ImageRefused, SourceChanged):
        _withdraw(installation, version)
        raise
    return version


def _withdraw(installation: Installation, version: ImageVersion) -> None:
    """Take a version back whose source was refused while it was read, unless it was complete somewhere before.

    No repeat could go on from it: another source is another work. Segments that were sent are found by their names.
    """
    with installation.catalog.reading() as facts:
        arrived = any(facts.manifests.is_complete(row.uid) for row in facts.manifests.of_owner(version.uid))
    if not arrived:
        forget_version(installation, version)


def _replicate(
    installation: Installation, principal: Principal, wanted: _Wanted, version: ImageVersion, *, wait: bool = True
) -> VersionView:
    """The version's bytes in every other slot, as far as they can be brought there now, or by workers."""
    failed: Mapping[str, ImgstoreError] = {}
    if wait:
        failed = converge(installation, wanted.line, version)
    else:
        with installation.catalog.transaction() as facts:
            facts.replicas.retry_now(version.uid)
    request = wanted.request
    view = show_version(
        installation,
        principal,
        group=request.group,
        gallery=request.gallery,
        definition=request.definition,
        version=request.version,
    )
    if failed:
        raise replication_failed(view, failed)
    return view


def _check_disk(installation: Installation, reader: DiskReader) -> None:
    limit = installation.limits.image_bytes_max
    if reader.virtual_bytes > limit:
        raise ImageRefused(
            f"The image's size exceeds the limit of {limit} bytes.",
            found=f"a disk of {reader.virtual_bytes} bytes",
            expected=f"at most {limit} bytes (image_bytes_max)",
            hint=f"shrink the disk before publishing it, or {installation.limits.setting('image_bytes_max')}",
            target="osDiskImage",
        )


def _warn_generation(installation: Installation, line: Lineage, reader: DiskReader) -> None:
    """What is only inferred from a partition table warns; it refuses nothing."""
    inferred = generation_of(reader)
    declared = line.definition.hyper_v_generation
    if inferred is not None and inferred != declared:
        installation.note(
            line.definition.name,
            f"the definition says generation {declared}; the disk's partition table looks like {inferred}",
        )


def _written_down(installation: Installation, wanted: _Wanted, identity: SourceIdentity) -> ImageVersion:
    """The version's row, made with its replicas or, where it stands already, compared with the request."""
    with installation.catalog.transaction() as facts:
        found = facts.versions.get(wanted.line.definition.uid, wanted.request.version)
        if found is None:
            return _added(installation, facts, wanted, identity)
        facts.versions.lock(found.uid)
        standing = facts.versions.by_uid(found.uid)
        check_updatable(standing, wanted.line.version_id(standing.name))
        changed = _compared(installation, facts, standing, wanted, identity)
        if changed != standing:
            facts.versions.update(changed)
        retarget(installation, facts, wanted.line, changed)
        return write_version_state(facts, changed)


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


def _added(installation: Installation, facts: Facts, wanted: _Wanted, identity: SourceIdentity) -> ImageVersion:
    request = wanted.request
    there = facts.versions.count(installation.subscription, wanted.location)
    check_room(installation.limits, "versions_max", there, what="image versions", region=wanted.location)
    version = ImageVersion(
        uid=installation.effects.new_uid(),
        definition_uid=wanted.line.definition.uid,
        name=request.version,
        location=wanted.location,
        target_regions=wanted.targets,
        replica_count=request.replica_count or 1,
        exclude_from_latest=request.exclude_from_latest or False,
        end_of_life_at=request.end_of_life_at,
        allow_deletion_of_replicated_locations=request.allow_deletion_of_replicated_locations,
        block_deletion_before_end_of_life=request.block_deletion_before_end_of_life or False,
        tags=dict(request.tags) if request.tags else NO_TAGS,
        source=identity,
        source_sha256=wanted.sha256,
        published_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
    )
    check_block(version)
    facts.versions.add(version)
    retarget(installation, facts, wanted.line, version)
    return version


def _compared(
    installation: Installation, facts: Facts, standing: ImageVersion, wanted: _Wanted, identity: SourceIdentity
) -> ImageVersion:
    """The standing version with what may change changed.

    A source that has the same place but changed before its region completed is taken anew, aloud: nothing of the old
    one was ever visible (rules.md, rule 2).
    """
    here = [each for each in facts.replicas.list(standing.uid) if each.slot.key.region == standing.location]
    arrived = any(each.state in (ReplicaState.COMPLETED, ReplicaState.DEGRADED) for each in here)
    same_place = standing.source.location == identity.location
    if standing.source != identity and (arrived or not same_place):
        raise PropertyChangeNotAllowed(
            "properties.storageProfile.osDiskImage.source",
            found=_described(identity),
            expected=_described(standing.source),
        )
    if standing.source != identity:
        installation.note(f"{standing.location}/0", "the source changed since the last run; taking it in anew")
    if standing.location != wanted.location:
        raise PropertyChangeNotAllowed("location", found=wanted.location, expected=standing.location)
    known = standing.source_sha256 if standing.source == identity else None
    if None not in (wanted.sha256, known) and wanted.sha256 != known:
        raise PropertyChangeNotAllowed(
            "properties.storageProfile.osDiskImage.source",
            found=f"{_described(identity)}, SHA-256 {wanted.sha256}",
            expected=f"SHA-256 {known}: the file was changed and given its old time stamp back",
        )
    changed = updated(
        standing,
        wanted.request.as_update(),
        installation.regions,
        installation.limits,
        now=installation.effects.now(),
    )
    return replace(changed, source=identity, source_sha256=wanted.sha256 or known)


def _described(identity: SourceIdentity) -> str:
    return f"{identity.location} of {identity.file_bytes} bytes, stamp {identity.stamp}"


def _make_source(installation: Installation, wanted: _Wanted, version: ImageVersion, reader: DiskReader) -> None:
    """Publish into a slot of the source region, unless some replica has the bytes: then replication does the rest.

    The first slot is any healthy one (rules.md, rule 16): where the zone of one is down, the next is tried.
    """
    with installation.catalog.reading() as facts:
        standing = facts.replicas.list(version.uid)
    replicas = [replica for replica in standing if replica.state is not ReplicaState.DELETING]
    if any(replica.state is ReplicaState.COMPLETED for replica in replicas):
        return
    first: StoreError | None = None
    for source in (each for each in replicas if each.slot.key.region == version.location):
        try:
            publish(
                installation,
                Publication(
                    line=wanted.line,
                    version=version,
                    replica=source,
                    reader=reader,
                    named_bases=wanted.request.bases,
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
    with installation.catalog.transaction() as facts:
        for work in facts.works.list_open():
            if work.kind is WorkKind.INGEST and work.owner_uid == version.uid:
                facts.works.abandon(work.uid)


def replication_failed(view: VersionView, failed: Mapping[str, ImgstoreError]) -> ReplicationFailed:
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
        hint="the complete regions serve; repeat the command and the failed ones go on where they stood",
    )
    error.details = tuple(
        Detail(code=each.error_code, target=regions.get(uid, "removed since"), message=each.message)
        for uid, each in failed.items()
    )
    return error


def show_version(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str, version: VersionName
) -> VersionView:
    """The version of that name."""
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    permit(installation, principal, Action.READ, scope)
    with installation.catalog.reading() as facts:
        line = finding.lineage(facts, installation.subscription, group, gallery, definition)
        return view_of(facts, line, finding.version(facts, line, version))


def list_versions(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str
) -> list[VersionView]:
    """The versions of a definition, lowest first."""
    page = page_versions(installation, principal, PageRequest(), group=group, gallery=gallery, definition=definition)
    return list(page.items)


def page_versions(
    installation: Installation,
    principal: Principal,
    request: PageRequest,
    *,
    group: str,
    gallery: str,
    definition: str,
) -> Page[VersionView]:
    """A page of the versions of a definition, lowest first.

    Raises:
        InvalidInput: the token is none of this list.
    """
    scope = names.definition_id(installation.subscription, group, gallery, definition)
    permit_list(installation, principal, scope)
    whole = may(principal, Action.READ, scope, VERSIONS)
    of = f"{scope}/versions"
    after = request.after(of)
    with installation.catalog.reading() as facts:
        line = finding.lineage(facts, installation.subscription, group, gallery, definition)
        found = facts.versions.list(
            line.definition.uid,
            after=None if after is None else VersionName.parse(after),
            limit=request.limit if whole else None,
            visible=True,
        )
        found = visible(principal, found, lambda each: line.version_id(each.name), whole=whole)
        page = Page.cut(found, request, of=of, key=lambda version: str(version.name))
        replicas = facts.replicas.of_versions([version.uid for version in page.items])
        views = tuple(_seen(line, version, replicas[version.uid]) for version in page.items)
        return Page(items=views, next_token=page.next_token)


def view_of(facts: Facts, line: Lineage, version: ImageVersion) -> VersionView:
    """A version with its replicas."""
    return _seen(line, version, facts.replicas.list(version.uid))


def _seen(line: Lineage, version: ImageVersion, replicas: Sequence[Replica]) -> VersionView:
    visible = tuple(replica for replica in replicas if replica.state is not ReplicaState.DELETING)
    return VersionView(version=version, replicas=visible, line=line)
