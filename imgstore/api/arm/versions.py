"""Serve image versions. Ingest and replication continue after the answer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from imgstore.api.auth.write_access import authorize_change
from imgstore.api.http.context import (
    RESOURCE_BODY,
    Context,
    DefinitionContext,
    VersionContext,
    check_conditions,
    json_response,
)
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import SOFT_DELETED, VERSION, VERSIONS
from imgstore.api.http.redaction import redact
from imgstore.domain.disks.version_disks import lun_of
from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.identity.access import Action
from imgstore.domain.names import ComputeId, VersionName, version_id
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.requests import DataSnapshot, DataVhd, VersionSource
from imgstore.domain.resources import KEEP, DiskKind, ImageVersion, VersionUpdate
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import VersionView
from imgstore.ledger.forecast import Forecast
from imgstore.operations.api_operations import OperationPreempted, operation_preempted
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.gallery.wait import is_replicated
from imgstore.operations.installation import Installation
from imgstore.operations.versions import create as versions_create
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from imgstore.operations.what_if import versions as what_if_versions
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of
from imgstore.wire.json_text import Json
from imgstore.wire.requests.version import VersionBody, read_version
from imgstore.wire.responses.forecast import forecast_json
from imgstore.wire.responses.resources import soft_deleted_json, version_json

router = APIRouter(tags=["Image versions"])
_KIND: Final = Kind.VERSION


@router.put(
    VERSION,
    summary="Publish an image version, or replace the properties that may change",
    status_code=201,
    openapi_extra=RESOURCE_BODY,
)
async def put(context: VersionContext) -> Response:
    """Serve Azure's GalleryImageVersions_CreateOrUpdate. A repeated request with the same source resumes the publication."""
    return await context.put_response("put-version", _KIND, **context.place, whole=True)


@router.patch(VERSION, summary="Change an image version", openapi_extra=RESOURCE_BODY)
async def patch(context: VersionContext) -> Response:
    """Serve Azure's GalleryImageVersions_Update."""
    return await context.patch_response("put-version", _KIND, **context.place, whole=False)


@router.get(VERSION, summary="Show an image version")
async def show(
    context: VersionContext,
    expand: Annotated[str | None, Query(alias="$expand", description="ReplicationStatus")] = None,
) -> Response:
    """Serve Azure's GalleryImageVersions_Get."""
    status = "replicationstatus" in [each.strip().lower() for each in (expand or "").split(",")]
    body = await context.run(
        lambda at: _json(at.installation, _show(at, context.place, replicas=status), replication_status=status)
    )
    return context.resource_response(body, _KIND)


@router.get(VERSIONS, summary="List the versions of an image definition")
async def list_of_definition(context: DefinitionContext) -> Response:
    """Serve Azure's GalleryImageVersions_ListByGalleryImage."""
    installation = context.server.installation
    return await context.list_response(
        _KIND,
        lambda at, page: at.run(gallery_versions.page_versions, page, **context.place),
        lambda view: _json(installation, view),
    )


@router.delete(VERSION, summary="Delete an image version", status_code=202)
async def delete(
    context: VersionContext,
    bypass: Annotated[str | None, Query(alias="bypassSoftDelete")] = None,
) -> Response:
    """Serve Azure's GalleryImageVersions_Delete."""
    is_bypassed = flag_of(bypass, "bypassSoftDelete")
    return await context.delete_response("delete-version", _KIND, **context.place, bypass=is_bypassed)


@router.post(
    f"{VERSION}/whatIf", summary="Predict the effects of a PUT or PATCH on the bill", openapi_extra=RESOURCE_BODY
)
async def what_if(
    context: VersionContext,
    method: Annotated[str, Query(description="PUT or PATCH: the request whose body is sent")] = "PUT",
) -> Response:
    """Serve imgstore's prediction of GalleryImageVersions_CreateOrUpdate and _Update. Azure has no such action."""
    body = await context.read_json()
    forecast = await context.run(_forecast, {**context.place, "body": body, "method": method})
    return json_response(200, forecast_json(forecast))


@router.post(f"{VERSION}/whatIfDelete", summary="Predict the effects of a DELETE on the bill")
async def what_if_delete(
    context: VersionContext,
    bypass: Annotated[str | None, Query(alias="bypassSoftDelete")] = None,
) -> Response:
    """Serve imgstore's prediction of GalleryImageVersions_Delete. Azure has no such action."""
    forecast = await context.run_operation(
        what_if_versions.forecast_version_deletion,
        **_place(context.place),
        bypass_soft_delete=flag_of(bypass, "bypassSoftDelete"),
    )
    return json_response(200, forecast_json(forecast))


@router.get(SOFT_DELETED, summary="List the soft-deleted versions of an image definition")
async def list_soft_deleted(
    context: Context, group: str, gallery: str, artifact_type: str, definition: str
) -> Response:
    """Serve Azure's SoftDeletedResource_ListByArtifactName."""

    def read_page(at: Session, page: PageRequest) -> Page[VersionView]:
        if artifact_type.lower() != "images":
            raise InvalidInput(
                f"Artifacts of the type '{artifact_type}' have no soft delete.",
                found=repr(artifact_type),
                expected="Images",
                target="artifactType",
            )
        place = {"group": group, "gallery": gallery, "definition": definition}
        found = at.run(versions_delete.list_soft_deleted, **place)
        of = f"{group}/{gallery}/{definition}/softDeleted"
        return Page.from_all(found, page, of=of, key=_sort_key)

    return await context.list_response(Kind.SOFT_DELETED, read_page, soft_deleted_json)


def _sort_key(view: VersionView) -> str:
    """Return a text with the order of version names."""
    name = view.version.name
    return f"{name.major:010}.{name.minor:010}.{name.patch:010}"


def _json(installation: Installation, view: VersionView, *, replication_status: bool = False) -> Json:
    display_names = {name: region.display_name for name, region in installation.regions.regions.items()}
    body = version_json(view, display_names, replication_status=replication_status)
    if replication_status:  # The error of a failed replica may contain paths of the store.
        body["properties"]["replicationStatus"] = redact(installation, body["properties"]["replicationStatus"])
    return body


def _place(request: Mapping[str, Any]) -> dict[str, Any]:
    place = {name: request[name] for name in ("group", "gallery", "definition")}
    return place | {"version": VersionName.parse(request["version"])}


def _show(session: Session, request: Mapping[str, Any], *, replicas: bool = True) -> VersionView:
    return session.run(gallery_versions.show_version, **_place(request), replicas=replicas)


def _authorize_change(session: Session, request: Mapping[str, Any], action: Action = Action.WRITE) -> Session:
    """Check the right to an action on the version. Return a session that may also read the version."""
    place = _place(request)
    names = (place["group"], place["gallery"], place["definition"], place["version"])
    reader = authorize_change(session, version_id(session.installation.subscription, *names), action)
    return replace(session, principal=reader)


def put_version(call: CommandCall) -> Outcome:
    """Run the command of PUT and PATCH."""
    session, request = _authorize_change(call.session, call.request), call.request
    call = replace(call, session=session)
    place = _place(request)
    body = read_version(request["body"], session.api_version, is_put=request["whole"], place=place)
    try:
        current = _show(session, request)
    except NotFound:
        if call.is_preempted:
            raise _preemption_error(call) from None
        if body.restore:
            return False, _json(session.installation, _undelete(call, place, body))
        if not request["whole"]:
            raise
        check_conditions(request["conditions"], None)
        return True, _json(session.installation, _publish(call, body, created=True))
    check_conditions(request["conditions"], _json(session.installation, current))
    is_unfinished = request["whole"] and body.names_sources and not _serves_bytes(current)
    if call.is_preempted:
        if not is_unfinished:
            raise _preemption_error(call)
        body = replace(body, request=body.request.without_changes())
    is_degraded = any(replica.state is ReplicaState.DEGRADED for replica in current.replicas)
    if not (is_unfinished and is_degraded):  # The source of a repair is compared with the stored content instead.
        body.check_same_source(current.version)
    if is_unfinished:
        return False, _json(session.installation, _publish(call, body, created=False))
    view = session.run(
        versions_update.update_version,
        **place,
        update=body.request,
        wait=not call.leaves_replicas,
        on_recorded=lambda _version: _accept(call, created=False),
    )
    _await_workers(call, view)
    return False, _json(session.installation, view)


def _forecast(session: Session, request: Mapping[str, Any]) -> Forecast:
    """Predict the command of PUT and PATCH (`put_version`)."""
    session, place = _authorize_change(session, request), _place(request)
    is_put = request["method"].upper() == "PUT"
    if not is_put and request["method"].upper() != "PATCH":
        raise InvalidInput(
            f"The method '{request['method']}' has no prediction here.",
            found=repr(request["method"]),
            expected="PUT or PATCH",
            hint="whatIfDelete predicts a DELETE",
            target="method",
        )
    body = read_version(request["body"], session.api_version, is_put=is_put, place=place)
    try:
        current = _show(session, request)
    except NotFound:
        if not is_put:
            raise
        current = None
    if current is None or (is_put and body.names_sources and not _serves_bytes(current)):
        source = _read_source(body)
        return session.run(what_if_versions.forecast_version_creation, replace(body.request, source=source))
    body.check_same_source(current.version)
    return session.run(what_if_versions.forecast_version_update, **place, update=body.request)


def _preemption_error(call: CommandCall) -> OperationPreempted:
    place = _place(call.request)
    return operation_preempted(version_id(call.session.installation.subscription, *place.values()))


def _await_workers(call: CommandCall, view: VersionView) -> None:
    """Let the operation end when the workers have made the replicas, if no worker runs in this process."""
    if call.leaves_replicas:
        call.awaited.append(lambda installation: is_replicated(installation, view.version.uid))


def _undelete(call: CommandCall, place: dict[str, Any], body: VersionBody) -> VersionView:
    """Restore a soft-deleted version. Set the tags of the request, if any."""
    session = call.session
    view = session.run(versions_delete.undelete_version, **place)
    if not body.request.tags:
        return view
    update = VersionUpdate(tags=body.request.tags)
    return session.run(versions_update.update_version, **place, update=update, wait=not call.leaves_replicas)


def _publish(call: CommandCall, body: VersionBody, *, created: bool) -> VersionView:
    request = replace(body.request, source=_read_source(body))
    if not request.end_of_life_at:  # A repeated PUT of an unfinished version removes no end of life.
        request = replace(request, end_of_life_at=KEEP)
    session = call.session
    view = session.run(
        versions_create.create_version,
        request,
        wait=not call.leaves_replicas,
        on_recorded=lambda _version: _accept(call, created=created),
    )
    _await_workers(call, view)
    return view


def _read_source(body: VersionBody) -> VersionSource:
    """Return the source of a new version."""
    own = {lun_of(key): source for key, source in body.sources.items()}
    if body.source is not None and not own and not body.luns:
        found = ComputeId.parse(body.source)
        if found is None:
            return VersionSource(image_version=body.source)
        if found.kind == DiskKind.IMAGE:
            return VersionSource(managed_image=body.source)
        return VersionSource(os_snapshot=body.source)
    if body.source is not None or any(lun not in own for lun in (None, *(body.luns or ()))):
        raise InvalidInput(
            "The gallery artifact version source can only be specified either directly under storageProfile or within "
            "individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual machine) "
            "can be provided.",
            found="sources in both places" if body.source else "a disk without a source that this api-version knows",
            expected="properties.storageProfile.source.id, or a source of the OS disk and of each data disk: id or uri",
            hint="name the id of a snapshot, disk, managed image or version, or the https URL of a VHD, VHDX, qcow2, "
            "VMDK or raw file",
            target="galleryImageVersion.properties.storageProfile",
        )
    stored = {lun: source for lun, source in own.items() if source.startswith("/")}
    os_disk = own[None]
    return VersionSource(
        os_snapshot=os_disk if None in stored else None,
        os_vhd_uri=None if None in stored else os_disk,
        data_vhds=tuple(DataVhd(lun=lun, uri=uri) for lun, uri in own.items() if lun is not None and lun not in stored),
        data_snapshots=tuple(DataSnapshot(lun=lun, source=each) for lun, each in stored.items() if lun is not None),
    )


def _accept(call: CommandCall, *, created: bool) -> None:
    """Answer the request after the row is stored and before the ingest."""
    call.accept((created, _json(call.session.installation, _show(call.session, call.request))))


def _serves_bytes(view: VersionView) -> bool:
    """Return whether a replica is complete, so that the source need not be read again.

    A version with Degraded replicas only is repaired from the source.
    """
    return any(replica.state is ReplicaState.COMPLETED for replica in view.replicas)


def delete_version(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    session, request = call.session, call.request
    if request["conditions"]:
        changing = _authorize_change(session, request, Action.DELETE)
        check_conditions(request["conditions"], _json(session.installation, _show(changing, request)))

    def accept(_version: ImageVersion) -> None:
        call.accept((False, None))

    session.run(
        versions_delete.delete_version, **_place(request), bypass_soft_delete=request["bypass"], on_allowed=accept
    )
    return False, None
