"""``imgstore disk``: managed disks, signed URLs and exports."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import open_session
from imgstore.domain.disks.signed_urls import SECONDS_MAX, AccessLevel
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.names import ImageReference, SharedReference
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DiskRequest, UploadRequest
from imgstore.domain.resources import HyperVGeneration, OsProperties, OsType, StorageAccountType
from imgstore.formats.files.ordered_output import STANDARD_OUTPUT, TargetKind, is_standard_output, target_kind
from imgstore.operations.disks import disks, signed_urls, uploads
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.disks.uploads import create_upload
from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import export_json
from imgstore.wire.responses.resources import disk_json

_TABLE = columns(
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


@click.group(cls=Group)
def disk() -> None:
    """Manage disks from image versions, disks, snapshots, files and uploads."""


@disk.command(table=_TABLE, example=_CREATE_EXAMPLE)
@options.group
@options.resource_name("disk")
@options.location("Region of the disk. Default: the region of a source disk or snapshot, else the region of the group.")
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
@click.option(
    "--upload-size-bytes", type=click.IntRange(1), metavar="BYTES", help="With --upload-type: size of the VHD file."
)
@_file(required=False, text="Also write the disk to this file. The disk stays if the write fails.")
@options.together(*_file_options)
@options.tags
def create(
    group: str,
    name: str,
    location: str | None,
    reference: ImageReference | SharedReference | None,
    lun: int | None,
    source: str | None,
    storage_account_type: StorageAccountType | None,
    os_type: OsType | None,
    hyper_v_generation: HyperVGeneration | None,
    source_format: DiskFormat | None,
    upload_type: UploadType | None,
    upload_size_bytes: int | None,
    path: Path | None,
    format_: DiskFormat | None,
    tags: Mapping[str, str] | None,
    *,
    overwrite: bool,
    pad: bool,
) -> Json:
    """Create a managed disk from an image version, a disk, a snapshot or a file, or for an upload.

    Disks of an image version use the replicas of the region in turn. An interrupted command resumes when the same line runs
    again.
    """
    check_one_source(
        reference,
        lun,
        source,
        upload_type,
        upload_size_bytes,
        said=(storage_account_type, os_type, hyper_v_generation, source_format),
        path=path,
    )
    container = None if path is None else container_of(path, format_)
    if upload_size_bytes is not None:
        wanted = UploadRequest(group=group, name=name, location=location, upload_bytes=upload_size_bytes, tags=tags)
        with open_session() as session:
            return disk_json(session.run(create_upload, wanted))
    with open_session() as session:
        if source is not None:
            request = DiskRequest(
                group=group,
                name=name,
                source=source,
                location=location,
                storage_account_type=storage_account_type,
                os_properties=OsProperties(os_type=os_type, hyper_v_generation=hyper_v_generation),
                source_format=source_format,
                tags=tags,
            )
            made = session.run(create_from_source, request)
        else:
            assert reference is not None
            made = session.run(
                disks.create_disk,
                group=group,
                name=name,
                location=location,
                gallery_image_reference=reference,
                gallery_image_reference_lun=lun,
                tags=tags,
            )
        if path is None or container is None:
            return disk_json(made)
        with note_kept_disk(group, name, path, container):
            export = session.run(
                disks_export.export_disk,
                group=group,
                name=name,
                path=path,
                format=container,
                overwrite=overwrite,
                pad=pad,
            )
        return export_result(path, disk_json(made) | {"export": export_json(export)})


@contextmanager
def note_kept_disk(group: str, name: str, path: Path, container: DiskFormat) -> Iterator[None]:
    """Add a note to an error of the export after a creation: the new disk stays."""
    try:
        yield
    except BaseException as error:
        error.add_note(
            f"the managed disk '{name}' was made and stays: `imgstore disk export -g {group} -n {name} "
            f"--file {path} --format {container}` writes it, `imgstore disk delete -g {group} -n {name}` removes it"
        )
        raise


def check_one_source(
    reference: ImageReference | SharedReference | None,
    lun: int | None,
    source: str | None,
    upload_type: UploadType | None,
    upload_size_bytes: int | None,
    *,
    said: Sequence[object],
    path: Path | None,
) -> None:
    """Check that a disk has one source, and that the other options fit the source."""
    if (upload_type is None) is not (upload_size_bytes is None):
        raise click.UsageError("An upload has both: --upload-type and --upload-size-bytes.")
    if [reference, source, upload_size_bytes].count(None) != 2:
        raise click.UsageError("Name one source: --gallery-image-reference, --source or --upload-type.")
    if reference is None and lun is not None:
        raise click.UsageError("--gallery-image-reference-lun goes with --gallery-image-reference.")
    if source is None and any(each is not None for each in said):
        raise click.UsageError(
            "--sku, --os-type, --hyper-v-generation and --source-format go with --source: an image has values of its own."
        )
    if upload_size_bytes is not None and path is not None:
        raise click.UsageError("An upload goes into no file.")


@disk.command("grant-access", example=_GRANT_EXAMPLE)
@options.group
@options.resource_name("disk")
@options.choice(
    "--access-level",
    "--access",
    "level",
    members=tuple(AccessLevel),
    default=AccessLevel.READ,
    help="Read a disk, or Write an upload. Default: Read.",
)
@click.option(
    "--duration-in-seconds",
    type=click.IntRange(1, SECONDS_MAX),
    required=True,
    metavar="SECONDS",
    help="Lifetime of the URL, in seconds.",
)
@click.option(
    "--url",
    default=_SERVER_URL,
    metavar="URL",
    help=f"How clients reach `imgstore serve`, which serves the URL. Default: {_SERVER_URL}.",
)
def grant_access(group: str, name: str, level: AccessLevel, duration_in_seconds: int, url: str) -> Json:
    """Create a signed URL for a disk's bytes, as a fixed VHD. The disk cannot be deleted before the URL expires.

    `curl -T disk.vhd URL` uploads a disk. After an interruption, the header x-imgstore-received-bytes of a HEAD response
    gives the received bytes, and `curl -T disk.vhd -C BYTES URL` sends the rest. `curl -C - -o disk.vhd URL` downloads a
    disk. Azure's blob clients accept the URL.
    """
    with open_session() as session:
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
@options.group
@options.resource_name("disk")
def revoke_access(group: str, name: str) -> None:
    """Revoke the signed URL of a disk. Uploaded bytes become the content of the disk."""
    with open_session() as session:
        session.run(uploads.revoke_access, group=group, name=name)


@disk.command(example=_EXPORT_EXAMPLE)
@click.option("-g", "--resource-group", "group", metavar="NAME", help="Name of the disk's resource group.")
@click.option("-n", "--name", metavar="NAME", help="Name of the disk.")
@options.reference(
    "--gallery-image-reference",
    required=False,
    text="Image to write in place of a disk. No disk is created. Default version: latest.",
)
@_lun
@options.location("With an image: region to read the image in. Default: the region of the gallery.")
@_file(
    required=True,
    text="File to write, a link to a file, an unmounted block device, or - for standard output. A file appears when the "
    "export is complete.",
)
@options.together(*_file_options)
@click.option(
    "--offset",
    type=click.IntRange(0),
    metavar="BYTES",
    help="With --name: first byte of a range to write as raw bytes.",
)
@click.option("--length", type=click.IntRange(1), metavar="BYTES", help="With --offset: length of the range in bytes.")
def export(
    group: str | None,
    name: str | None,
    reference: ImageReference | None,
    lun: int | None,
    location: str | None,
    path: Path,
    format_: DiskFormat | None,
    offset: int | None,
    length: int | None,
    *,
    overwrite: bool,
    pad: bool,
) -> Json:
    """Write a managed disk or an image to a file, with every segment verified."""
    container = container_of(path, format_)
    check_what_is_written(group, name, reference, lun, location, offset, length, container=container)
    with open_session() as session:
        if offset is not None and length is not None:
            assert group is not None
            assert name is not None
            written = session.run(
                disks_export.export_range,
                group=group,
                name=name,
                path=path,
                offset=offset,
                length=length,
                overwrite=overwrite,
            )
        elif reference is None:
            assert group is not None
            assert name is not None
            written = session.run(
                disks_export.export_disk,
                group=group,
                name=name,
                path=path,
                format=container,
                overwrite=overwrite,
                pad=pad,
            )
        else:
            written = session.run(
                disks_export.export_image,
                reference=reference,
                lun=lun,
                location=location,
                path=path,
                format=container,
                overwrite=overwrite,
                pad=pad,
            )
        return export_result(path, export_json(written))


def export_result(path: Path, body: Json) -> Json:
    """Return the result of an export for printing. Print on standard error if standard output has the bytes of the disk."""
    return Answer(body=body, on_stderr=True) if is_standard_output(path) else body


def check_what_is_written(
    group: str | None,
    name: str | None,
    reference: ImageReference | None,
    lun: int | None,
    location: str | None,
    offset: int | None,
    length: int | None,
    *,
    container: DiskFormat,
) -> None:
    """Check that the line names one disk, one image, or a range of a disk."""
    if (offset is None) is not (length is None):
        raise click.UsageError("A range has both: --offset and --length.")
    if offset is not None and (reference is not None or container is not DiskFormat.RAW):
        raise click.UsageError("A range is of a disk (-g, -n), and raw: name the file .raw or give --format raw.")
    by_disk = group is not None and name is not None and reference is None and location is None and lun is None
    by_image = reference is not None and group is None and name is None
    if by_disk is by_image:
        raise click.UsageError("Name a disk with -g and -n, or an image with --gallery-image-reference.")


@disk.command(table=_TABLE, example="imgstore disk show -g rg -n d1 --query replica")
@options.group
@options.resource_name("disk")
def show(group: str, name: str) -> Json:
    """Show a managed disk and its replica."""
    with open_session() as session:
        return disk_json(session.run(disks.show_disk, group=group, name=name))


@disk.command("list", table=_TABLE, example="imgstore disk list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(group: str | None, page: PageRequest) -> Json:
    """List the managed disks of one resource group, or of all resource groups."""
    with open_session() as session:
        return [disk_json(each) for each in session.page(disks.page_disks, page, group=group)]


@disk.command(example="imgstore disk delete -g rg -n d1 --yes", question="Delete the managed disk '{name}'?")
@options.group
@options.resource_name("disk")
@options.yes
def delete(group: str, name: str) -> None:
    """Delete a managed disk. The image version of the disk stays."""
    with open_session() as session:
        session.run(disks.delete_disk, group=group, name=name)


def container_of(path: Path, format_: DiskFormat | None) -> DiskFormat:
    """Return the format of an export: by the option, else by the file name. A pipe or device without option gets raw."""
    container = format_ or _SUFFIXES.get(path.suffix.lower())
    if container is None and target_kind(path) is not TargetKind.FILE:
        container = DiskFormat.RAW
    if container is None:
        raise click.UsageError(
            f"The suffix of '{path.name}' names no format: give --format {'|'.join(options.EXPORT_FORMATS)}."
        )
    return container
