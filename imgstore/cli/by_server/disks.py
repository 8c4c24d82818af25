"""Commands for managed disks through a server. Files are uploaded and downloaded by the blob endpoint."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgstore.cli.by_server.galleries import above, fetch_page
from imgstore.cli.commands.machines.disk_lifecycle import (
    ExportRequest,
    check_predictable,
    export_result,
    note_kept_disk,
)
from imgstore.cli.framework.command import Answer
from imgstore.cli.framework.forecasts import answer_forecast_json
from imgstore.cli.framework.server_dispatch import ServerCommand, local_only
from imgstore.cli.framework.stop_signals import handle_sigterm_as_sigint
from imgstore.domain.disks.export_tag import EXPORT
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.effects import Effects
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.names import ComputeId, ImageReference, compute_id, region_key
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import (
    DiskOfImageRequest,
    DiskRequest,
    ExportTarget,
    NewDiskRequest,
    UploadRequest,
)
from imgstore.remote.arm_client import Server
from imgstore.remote.download import export_disk, export_range
from imgstore.remote.lazy_disk import open_remote_disk
from imgstore.remote.local_disk import LocalDisk, local_path
from imgstore.remote.upload import Upload, discard, upload
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import disk_body, image_creation_data
from imgstore.wire.responses.reports import export_json

if TYPE_CHECKING:
    from imgstore.cli.commands.machines.disk_attach import AttachRequest, AttachTarget


def create(asking: ServerCommand, *, request: NewDiskRequest, target: ExportTarget | None) -> Json:
    """`imgstore disk create`."""
    server, group = asking.server, request.group
    disk_id = server.disk(group, request.name)
    original = _find_original(server, request)
    where = _choose_region(server, request, original)
    file = _local_file(request, original)
    if file is not None and isinstance(request, DiskRequest):
        disk = LocalDisk(path=file, format=request.source_format)
        wanted = Upload(disk_id=disk_id, disk=disk, location=where, tags=request.tags, **_words(request))
        made = server.create_in_group(group, where, lambda: upload(server, wanted))
    else:
        body = _creation_body(server, request, original, where)
        made = server.create_in_group(group, where, lambda: server.put(disk_id, body))
    if target is None:
        return made
    with note_kept_disk(request, target):
        export = export_disk(server, made, **asdict(target))
    return export_result(target.path, made | {"export": export_json(export)})


def forecast_create(asking: ServerCommand, *, request: NewDiskRequest, target: ExportTarget | None) -> Answer:
    """`imgstore disk create --what-if`."""
    check_predictable(request, target)
    server = asking.server
    original = _find_original(server, request)
    if _local_file(request, original) is not None:
        raise local_only("--what-if with a local file", "run the command on the machine of the server, or name a URL")
    body = _creation_body(server, request, original, _choose_region(server, request, original))
    found = server.post_action(server.disk(request.group, request.name), "whatIf", body)
    return answer_forecast_json(found, asking.warn)


def _creation_body(server: Server, request: NewDiskRequest, original: Json, where: str) -> Json:
    """Return the body of the PUT of a disk. The server reads the source."""
    if isinstance(request, DiskOfImageRequest):
        creation = image_creation_data(request.reference, request.lun, server.subscription)
    elif isinstance(request, UploadRequest):
        creation = {"createOption": "Upload", "uploadSizeBytes": request.upload_bytes}
    elif original is not None:
        creation = {"createOption": "Copy", "sourceResourceId": original["id"]}
    else:
        creation = {"createOption": "Import", "sourceUri": request.source}
    if request.allow_remote:
        creation["allowRemote"] = True
    standing = server.find(server.disk(request.group, request.name))
    kept = (standing or {}).get("tags") if request.tags is None else request.tags
    return disk_body(location=where, creation=creation, tags=kept, **_words(request))


def _words(request: NewDiskRequest) -> dict[str, Any]:
    return {
        "sku": request.storage_account_type,
        "os_type": request.os_properties.os_type,
        "hyper_v_generation": request.os_properties.hyper_v_generation,
    }


def _choose_region(server: Server, request: NewDiskRequest, original: Json) -> str:
    named = original["location"] if original is not None and request.location is None else request.location
    return region_key(server.location(server.group(request.group), named))


def _find_original(server: Server, request: NewDiskRequest) -> Json:
    """Return the managed disk or snapshot that is the source. None for another source."""
    return _original(server, request.group, request.source) if isinstance(request, DiskRequest) else None


def _local_file(request: NewDiskRequest, original: Json) -> Path | None:
    return local_path(request.source) if isinstance(request, DiskRequest) and original is None else None


def _original(server: Server, group: str, source: str) -> Json:
    """Return the managed disk or snapshot of a source, by id or name. None for a file or a URL."""
    if ComputeId.parse(source) is not None:
        return server.show(source)
    if "/" in source or "\\" in source:
        return None
    return next(
        (found for kind in ("disks", "snapshots") if (found := server.find(_id(server, group, kind, source)))), None
    )


def _id(server: Server, group: str, kind: str, name: str) -> str:
    return compute_id(server.subscription, group, kind, name)


def show(asking: ServerCommand, *, group: str, name: str) -> Json:
    """`imgstore disk show`."""
    return asking.server.show(asking.server.disk(group, name))


def list_disks(asking: ServerCommand, *, group: str | None, page: PageRequest) -> Json:
    """`imgstore disk list`."""
    return fetch_page(asking, f"{above(asking, group)}/disks", page)


def delete(asking: ServerCommand, *, group: str, name: str) -> None:
    """`imgstore disk delete`."""
    asking.server.delete(asking.server.disk(group, name))


def forecast_delete(asking: ServerCommand, *, group: str, name: str) -> Answer:
    """`imgstore disk delete --what-if`."""
    found = asking.server.post_action(asking.server.disk(group, name), "whatIfDelete")
    return answer_forecast_json(found, asking.warn)


def grant_access(
    asking: ServerCommand,
    *,
    group: str,
    name: str,
    level: AccessLevel,
    duration_in_seconds: int,
    url: str,  # noqa: ARG001 - the server knows how it is reached
) -> Json:
    """`imgstore disk grant-access`."""
    asked = {"access": level.value, "durationInSeconds": duration_in_seconds}
    return asking.server.post_action(asking.server.disk(group, name), "beginGetAccess", asked)


def revoke_access(asking: ServerCommand, *, group: str, name: str) -> None:
    """`imgstore disk revoke-access`."""
    asking.server.post_action(asking.server.disk(group, name), "endGetAccess")


def export(asking: ServerCommand, *, request: ExportRequest) -> Json:
    """`imgstore disk export`."""
    server, target = asking.server, request.target
    if request.reference is not None:
        with _passing(server, request.reference, request.lun, request.location) as disk:
            written = export_disk(server, disk, **asdict(target))
            image = disk["properties"]["creationData"]["galleryImageReference"]["id"]
            return export_result(target.path, export_json(replace(written, source=image)))
    disk = server.show(server.disk(request.group, request.name))
    if request.offset is None or request.length is None:
        written = export_disk(server, disk, **asdict(target))
    else:
        written = export_range(
            server,
            disk,
            path=target.path,
            offset=request.offset,
            length=request.length,
            overwrite=target.overwrite,
        )
    return export_result(target.path, export_json(written))


def attach(asking: ServerCommand, *, request: "AttachRequest", target: "AttachTarget") -> None:
    """`imgstore disk attach`."""
    from imgstore.cli.commands.machines.disk_attach import serve_device  # noqa: PLC0415 - start-up time

    if request.overlay is not None or request.qcow2 is not None:
        raise local_only(
            "--overlay and --qcow2", "attach the disk read-only, or run the command on the server's machine"
        )
    server = asking.server
    with ExitStack() as stack:
        stack.enter_context(handle_sigterm_as_sigint())
        if request.reference is None:
            disk = server.show(server.disk(request.group, request.name))
        else:
            disk = stack.enter_context(_passing(server, request.reference, request.lun, request.location))
        opened = stack.enter_context(open_remote_disk(server, disk, request.outage_seconds))
        about = {"source": opened.source, "replica": opened.replica}
        serve_device(opened, target, about, check=opened.check, warn=asking.warn, note=asking.note)
        asking.note(f"{opened.fetched_bytes} bytes were read from the server.")


@contextmanager
def _passing(server: Server, reference: ImageReference, lun: int | None, location: str | None) -> Iterator[Json]:
    """Create a disk of an image while the block runs, since the blob endpoint serves disks only."""
    disk_id = server.disk(reference.group, f"imgstore-export-{Effects().new_uid()}")
    where = region_key(server.location(server.gallery(reference.group, reference.gallery), location))
    creation = image_creation_data(reference, lun, server.subscription)
    try:
        yield server.put(disk_id, disk_body(location=where, creation=creation, tags={EXPORT: "true"}))
    except BaseException:
        with suppress(ImgstoreError):  # The caller needs the first error.
            discard(server, disk_id)
        raise
    discard(server, disk_id)
