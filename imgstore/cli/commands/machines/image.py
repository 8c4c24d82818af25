"""``imgstore image``: managed images, with their data disks."""

from collections.abc import Sequence
from typing import Any

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.forecasts import forecast_disk_deletion
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import ImageRequest
from imgstore.domain.resources import DiskKind, OsProperties, OsState
from imgstore.operations.disks import disks
from imgstore.operations.machines import images
from imgstore.wire.json_text import Json
from imgstore.wire.responses.resources import image_json

_TABLE = columns(
    Name="name",
    Location="location",
    OsType="properties.storageProfile.osDisk.osType",
    OsState="properties.storageProfile.osDisk.osState",
    SizeGB="properties.storageProfile.osDisk.diskSizeGB",
    Status="properties.provisioningState",
)
_CREATE_EXAMPLE = """
imgstore image create -g rg -n i1 --source d1 --os-type Linux
imgstore image create -g rg -n i2 --source ./os.vhd --data-disk-sources ./data.vhd s1 -l westus2 --os-type Linux
"""


def _parse_sources(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word)


@click.group(cls=Group)
def image() -> None:
    """Manage managed images."""


def _read_request(**given: Any) -> dict[str, Any]:
    words = ("os_type", "os_state", "hyper_v_generation")
    os_properties = OsProperties(**{word: given.pop(word) for word in words})
    sources = given.pop("data_sources") or ()
    return {"request": ImageRequest(**given, os_properties=os_properties, data_sources=sources)}


@image.command(table=_TABLE, example=_CREATE_EXAMPLE, read_options=_read_request)
@options.resource_in_group("managed image")
@click.option(
    "--source",
    required=True,
    metavar="NAME|ID|URI",
    help="The OS disk: a managed disk or snapshot by name or id, or a file: a path, file://, s3:// "
    "or https://. A generalized virtual machine supplies all disks.",
)
@options.words(
    "--data-disk-sources",
    "data_sources",
    parse=_parse_sources,
    metavar="NAME|ID|URI ...",
    help="Sources of the data disks, for LUN 0, 1, 2, ...: managed disks, snapshots or files, as for --source.",
)
@options.os_type
@options.choice(
    "--os-state",
    members=tuple(OsState),
    help="Generalized: machine-specific data was removed. Default: the state of the source, else Generalized.",
)
@options.hyper_v_generation
@options.location(
    help="Region of the image. Default: the region of the source, or of the group if the source is a file."
)
@options.sku(
    "--storage-sku",
    text="Storage type of disks from files. Default: Standard_LRS. A copy has the storage type of its source.",
)
@options.source_format
@options.tags
def create(session: Session, request: ImageRequest) -> Json:
    """Create a managed image.

    An interrupted command resumes when the same line runs again.
    """
    return image_json(session.run(images.create_image, request))


@image.command(table=_TABLE, example="imgstore image show -g rg -n i1")
@options.resource_in_group("managed image")
def show(session: Session, group: str, name: str) -> Json:
    """Show a managed image."""
    return image_json(session.run(images.show_image, group=group, name=name))


@image.command("list", table=_TABLE, example="imgstore image list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest) -> Json:
    """List the managed images of one resource group, or of all resource groups."""
    return [image_json(each) for each in session.page(images.page_images, page, group=group)]


@image.command(
    example="imgstore image delete -g rg -n i1\nimgstore image delete -g rg -n i1 --what-if -o table",
    question="Delete the managed image '{name}'?",
    forecast=forecast_disk_deletion(DiskKind.IMAGE),
)
@options.resource_in_group("managed image")
@options.yes
def delete(session: Session, group: str, name: str) -> None:
    """Delete a managed image. Its sources, and resources made from the image, stay."""
    session.run(disks.delete_disk, group=group, name=name, kind=DiskKind.IMAGE)
