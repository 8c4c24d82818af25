"""``imgstore disk``: create, show, list, delete and export managed disks, and signed URLs of disks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from imgstore.cli.commands.machines.disk import disk
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer
from imgstore.cli.framework.forecasts import answer_forecast, forecast_disk_deletion
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.disks.signed_urls import SECONDS_MAX, AccessLevel
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.names import ImageReference
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DiskOfImageRequest, ExportTarget, NewDiskRequest, UploadRequest
from imgstore.domain.resources import DiskKind
from imgstore.formats.files.ordered_output import STANDARD_OUTPUT, TargetKind, is_standard_output, target_kind
from imgstore.operations.disks import disks, signed_urls, uploads
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.disks.uploads import create_upload
from imgstore.operations.what_if.disks import forecast_image_disk, forecast_source_disk
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import export_json
from imgstore.wire.responses.resources import disk_json

TABLE: Final = columns(
    Name="name",
    Location="location",
    SizeGB="properties.diskSizeGB",
    Sku="sku.name",
    Replica="replica",
    Status="properties.provisioningState",
    Image="properties.creationData.galleryImageReference.id",
    Source="properties.creationData.sourceResourceId",
    File="properties.creationData.sourceUri",
)
_CREATE_EXAMPLE = """
imgstore disk create -g rg -n d1 -l westus2 --gallery-image-reference rg/myGallery/ubuntu/1.0.0
imgstore disk create -g rg -n d2 -l westus2 --gallery-image-reference rg/myGallery/ubuntu/latest \\
    --file out.raw --format raw
imgstore disk create -g rg -n up -l westus2 --upload-type Upload --upload-size-bytes 8589935104
imgstore disk create -g rg -n data0 -l westus2 --gallery-image-reference rg/myGallery/db --gallery-image-reference-lun 0
imgstore disk create -g rg -n d3 --source d1
imgstore disk create -g rg -n d4 -l westus2 --source ./disk.vhd --os-type Linux --sku Standard_ZRS
imgstore disk create -g rg -n d4 -l westus2 --source ./disk.vhd --what-if -o table
imgstore disk create -g rg -n d5 -l northeurope --gallery-image-reference rg/myGallery/ubuntu --allow-remote --what-if
"""
_EXPORT_EXAMPLE = """
imgstore disk export -g rg -n d1 --file d1.vhd --format vhd
imgstore disk export --gallery-image-reference rg/myGallery/ubuntu -l westus2 --file o.raw
imgstore disk export --gallery-image-reference rg/myGallery/db --gallery-image-reference-lun 0 --file data.vhd
imgstore disk export -g rg -n d1 --file table.raw --offset 0 --length 1048576
imgstore disk export -g rg -n d1 --file - | zstd > d1.raw.zst
imgstore disk export -g rg -n d1 --file /dev/sdb
"""
_GRANT_EXAMPLE = """
imgstore disk grant-access -g rg -n d1 --duration-in-seconds 3600
imgstore disk grant-access -g rg -n up --access-level Write --duration-in-seconds 3600 --query accessSAS -o tsv
"""
_SERVER_URL = "https://localhost:8443"
_lun = options.lun("--gallery-image-reference-lun", "LUN of the image's data disk to use. Default: the OS disk.")
_SUFFIXES = {
    ".vhd": DiskFormat.VHD_FIXED,
    ".raw": DiskFormat.RAW,
    ".img": DiskFormat.RAW,
    ".qcow2": DiskFormat.QCOW2,
}
_file_options = (
    options.choice(
        "--format",
        "format_",
        members=options.EXPORT_FORMATS,
        help="Format to write. Default: by the file name (.vhd, .raw, .img, .qcow2), and raw for - or a device.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing file."),
    click.option("--pad", is_flag=True, help="Add zeros at the end of a disk whose size a VHD cannot represent."),
)


def _target(word: str) -> Path:
    return STANDARD_OUTPUT if word == "-" else Path(word)


def _file(*, required: bool, text: str) -> options.Decorator:
    return click.option("--file", "path", required=required, type=_target, metavar="FILE", help=text)


class UploadType(StrEnum):
    """az's name for the kind of an upload: a disk without a guest's state."""

    UPLOAD = "Upload"


def _read_creation(**given: Any) -> dict[str, Any]:
    """Make the request for a disk and the target of its export from the options."""
    reference, lun, source = given["reference"], given["lun"], given["source"]
    upload_bytes, path = given["upload_size_bytes"], given["path"]
    said = [given[name] for name in ("storage_account_type", "os_type", "hyper_v_generation", "source_format")]
    if (given["upload_type"] is None) is not (upload_bytes is None):
        raise click.UsageError("An upload has both: --upload-type and --upload-size-bytes.")
    if [reference, source, upload_bytes].count(None) != 2:
        raise click.UsageError("Name one source: --gallery-image-reference, --source or --upload-type.")
    if reference is None and lun is not None:
        raise click.UsageError("--gallery-image-reference-lun goes with --gallery-image-reference.")
    if source is None and any(each is not None for each in said):
        raise click.UsageError(
            "--sku, --os-type, --hyper-v-generation and --source-format go with --source: an image has values of its own."
        )
    if upload_bytes is not None and path is not None:
        raise click.UsageError("An upload goes into no file.")
    if upload_bytes is not None and given["allow_remote"]:
        raise click.UsageError("--allow-remote goes with --gallery-image-reference or --source.")
    common = {name: given[name] for name in ("group", "name", "location", "tags", "allow_remote")}
    request: NewDiskRequest
    if source is not None:
        request = options.read_disk_request(given)
    elif reference is not None:
        request = DiskOfImageRequest(**common, reference=reference, lun=lun)
    else:
        request = UploadRequest(**common, upload_bytes=upload_bytes)
    return {"request": request, "target": None if path is None else _read_target(given)}


def _read_target(given: Mapping[str, Any]) -> ExportTarget:
    """Read the target of an export from the options.

    The format follows from the option, else from the file name. A pipe or device without the option gets raw.
    """
    path = given["path"]
    container = given["format_"] or _SUFFIXES.get(path.suffix.lower())
    if container is None and target_kind(path) is not TargetKind.FILE:
        container = DiskFormat.RAW
    if container is None:
        raise click.UsageError(
            f"The suffix of '{path.name}' names no format: give --format {'|'.join(options.EXPORT_FORMATS)}."
        )
    return ExportTarget(path=path, format=container, overwrite=given["overwrite"], pad=given["pad"])


def check_predictable(request: NewDiskRequest, target: ExportTarget | None) -> None:
    """Refuse `--what-if` for an upload, whose bytes are unknown, and with an export."""
    if isinstance(request, UploadRequest) or target is not None:
        raise click.UsageError("--what-if goes with neither --upload-type nor --file.")


def _forecast_creation(session: Session, request: NewDiskRequest, target: ExportTarget | None) -> Answer:
    """Predict the effects of `create`."""
    check_predictable(request, target)
    assert not isinstance(request, UploadRequest), "the check refuses uploads"
    if isinstance(request, DiskOfImageRequest):
        return answer_forecast(session.run(forecast_image_disk, request), session.warn)
    return answer_forecast(session.run(forecast_source_disk, request), session.warn)


@disk.command(table=TABLE, example=_CREATE_EXAMPLE, read_options=_read_creation, forecast=_forecast_creation)
@options.resource_in_group("disk")
@options.location(
    help="Region of the disk. Default: the region of a source disk or snapshot, else the region of the group."
)
@options.reference(
    "--gallery-image-reference",
    required=False,
    text="Image of the disk. Default version: latest. An image of a shared gallery is named as "
    "/SharedGalleries/NAME/Images/DEFINITION/Versions/VERSION, or /CommunityGalleries/...",
    shared=True,
)
@_lun
@click.option(
    "--source",
    metavar="NAME|ID|URI",
    help="Source of the disk: a managed disk or snapshot by name or id, or a file: a path, file://, s3:// or https://.",
)
@options.sku(
    "--sku",
    text="With a file as --source: storage type. Default: Standard_LRS. A copy has the storage type of its source.",
)
@options.os_type
@options.hyper_v_generation
@options.source_format
@options.choice(
    "--upload-type",
    members=(UploadType.UPLOAD,),
    help="Create a disk for an upload. The URL from `disk grant-access` takes a fixed VHD.",
)
@options.number("--upload-size-bytes", least=1, unit="BYTES", text="With --upload-type: size of the VHD file.")
@options.allow_remote
@_file(required=False, text="Also write the disk to this file. The disk stays if the write fails.")
@options.together(*_file_options)
@options.tags
def create(session: Session, request: NewDiskRequest, target: ExportTarget | None) -> Json:
    """Create a managed disk from an image version, a disk, a snapshot or a file, or for an upload.

    Disks of an image version use the replicas of the region in turn. With --allow-remote, a disk also comes from another
    region. An interrupted command resumes when the same line runs again.
    """
    if isinstance(request, UploadRequest):
        return disk_json(session.run(create_upload, request))
    if isinstance(request, DiskOfImageRequest):
        made = session.run(disks.create_disk, request)
    else:
        made = session.run(create_from_source, request)
    if target is None:
        return disk_json(made)
    with note_kept_disk(request, target):
        export = session.run(disks_export.export_disk, group=request.group, name=request.name, **asdict(target))
    return export_result(target.path, disk_json(made) | {"export": export_json(export)})


@contextmanager
def note_kept_disk(request: NewDiskRequest, target: ExportTarget) -> Iterator[None]:
    """Add a note to an error of the export after a creation: the new disk stays."""
    try:
        yield
    except BaseException as error:
        group, name = request.group, request.name
        error.add_note(
            f"the managed disk '{name}' was made and stays: `imgstore disk export -g {group} -n {name} "
            f"--file {target.path} --format {target.format}` writes it, `imgstore disk delete -g {group} -n {name}` removes it"
        )
        raise


@disk.command("grant-access", example=_GRANT_EXAMPLE)
@options.resource_in_group("disk")
@options.choice(
    "--access-level",
    "--access",
    "level",
    members=tuple(AccessLevel),
    default=AccessLevel.READ,
    help="Read a disk, or Write an upload. Default: Read.",
)
@options.number(
    "--duration-in-seconds",
    least=1,
    most=SECONDS_MAX,
    required=True,
    unit="SECONDS",
    text="Lifetime of the URL, in seconds.",
)
@click.option(
    "--url",
    default=_SERVER_URL,
    metavar="URL",
    help=f"How clients reach `imgstore serve`, which serves the URL. Default: {_SERVER_URL}.",
)
def grant_access(
    session: Session, group: str, name: str, level: AccessLevel, duration_in_seconds: int, url: str
) -> Json:
    """Create a signed URL for a disk's bytes, as a fixed VHD. The disk cannot be deleted before the URL expires.

    `curl -T disk.vhd URL` uploads a disk. After an interruption, the header x-imgstore-received-bytes of a HEAD response
    gives the received bytes, and `curl -T disk.vhd -C BYTES URL` sends the rest. `curl -C - -o disk.vhd URL` downloads a
    disk. Azure's blob clients accept the URL.
    """
    signed = session.run(
        signed_urls.grant_access,
        group=group,
        name=name,
        level=level,
        duration_seconds=duration_in_seconds,
        server_url=url.rstrip("/"),
    )
    return {"accessSAS": signed}


@disk.command("revoke-access", example="imgstore disk revoke-access -g rg -n d1")
@options.resource_in_group("disk")
def revoke_access(session: Session, group: str, name: str) -> None:
    """Revoke the signed URL of a disk. Uploaded bytes become the content of the disk."""
    session.run(uploads.revoke_access, group=group, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """The content to write to a file: a disk, a range of a disk, or a disk of an image."""

    group: str
    """The resource group of the disk. Empty for an image."""
    name: str
    """The name of the disk. Empty for an image."""
    reference: ImageReference | None
    """The image. None for a disk."""
    lun: int | None
    location: str | None
    offset: int | None
    length: int | None
    target: ExportTarget


def _read_export(**given: Any) -> dict[str, Any]:
    """Make the request for an export of one disk, one image, or a range of a disk, from the options."""
    target = _read_target(given)
    named = {name: given[name] for name in ("reference", "lun", "location", "offset", "length")}
    if (named["offset"] is None) is not (named["length"] is None):
        raise click.UsageError("A range has both: --offset and --length.")
    if named["offset"] is not None and (named["reference"] is not None or target.format is not DiskFormat.RAW):
        raise click.UsageError("A range is of a disk (-g, -n), and raw: name the file .raw or give --format raw.")
    disk_words, image_words = (given["group"], given["name"]), (named["reference"], named["location"], named["lun"])
    by_disk = None not in disk_words and image_words == (None, None, None)
    by_image = named["reference"] is not None and disk_words == (None, None)
    if by_disk is by_image:
        raise click.UsageError("Name a disk with -g and -n, or an image with --gallery-image-reference.")
    group, name = given["group"] or "", given["name"] or ""
    return {"request": ExportRequest(group=group, name=name, target=target, **named)}


@disk.command(example=_EXPORT_EXAMPLE, read_options=_read_export)
@click.option("-g", "--resource-group", "group", metavar="NAME", help="Name of the disk's resource group.")
@click.option("-n", "--name", metavar="NAME", help="Name of the disk.")
@options.reference(
    "--gallery-image-reference",
    required=False,
    text="Image to write in place of a disk. No disk is created. Default version: latest.",
)
@_lun
@options.location(help="With an image: region to read the image in. Default: the region of the gallery.")
@_file(
    required=True,
    text="File to write, a link to a file, an unmounted block device, or - for standard output. A file appears when the "
    "export is complete.",
)
@options.together(*_file_options)
@options.number("--offset", least=0, unit="BYTES", text="With --name: first byte of a range to write as raw bytes.")
@options.number("--length", least=1, unit="BYTES", text="With --offset: length of the range in bytes.")
def export(session: Session, request: ExportRequest) -> Json:
    """Write a managed disk or an image to a file, with every segment verified."""
    target = request.target
    if request.offset is not None and request.length is not None:
        written = session.run(
            disks_export.export_range,
            group=request.group,
            name=request.name,
            path=target.path,
            offset=request.offset,
            length=request.length,
            overwrite=target.overwrite,
        )
    elif request.reference is None:
        written = session.run(disks_export.export_disk, group=request.group, name=request.name, **asdict(target))
    else:
        written = session.run(
            disks_export.export_image,
            reference=request.reference,
            lun=request.lun,
            location=request.location,
            **asdict(target),
        )
    return export_result(target.path, export_json(written))


def export_result(path: Path, body: Json) -> Json:
    """Return the result of an export for printing. Print on standard error if standard output has the bytes of the disk."""
    return Answer(body=body, on_stderr=True) if is_standard_output(path) else body


@disk.command(table=TABLE, example="imgstore disk show -g rg -n d1 --query replica")
@options.resource_in_group("disk")
def show(session: Session, group: str, name: str) -> Json:
    """Show a managed disk and its replica."""
    return disk_json(session.run(disks.show_disk, group=group, name=name))


@disk.command("list", table=TABLE, example="imgstore disk list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest) -> Json:
    """List the managed disks of one resource group, or of all resource groups."""
    return [disk_json(each) for each in session.page(disks.page_disks, page, group=group)]


@disk.command(
    example="imgstore disk delete -g rg -n d1 --yes\nimgstore disk delete -g rg -n d1 --what-if -o table",
    question="Delete the managed disk '{name}'?",
    forecast=forecast_disk_deletion(DiskKind.DISK),
)
@options.resource_in_group("disk")
@options.yes
def delete(session: Session, group: str, name: str) -> None:
    """Delete a managed disk. The image version of the disk stays."""
    session.run(disks.delete_disk, group=group, name=name)
