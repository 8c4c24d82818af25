"""``imgstore image``: managed images, with their data disks."""

from collections.abc import Mapping, Sequence

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group, WordsOption
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import open_session
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import ImageRequest
from imgstore.domain.resources import DiskKind, HyperVGeneration, OsProperties, OsState, OsType, StorageAccountType
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


@image.command(table=_TABLE, example=_CREATE_EXAMPLE)
@options.group
@options.resource_name("managed image")
@click.option(
    "--source",
    required=True,
    metavar="NAME|ID|URI",
    help="The OS disk: a managed disk or snapshot by name or id, or a file: a path, file://, s3:// "
    "or https://. A generalized virtual machine supplies all disks.",
)
@click.option(
    "--data-disk-sources",
    "data_sources",
    cls=WordsOption,
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
@options.location("Region of the image. Default: the region of the source, or of the group if the source is a file.")
@options.sku(
    "--storage-sku",
    text="Storage type of disks from files. Default: Standard_LRS. A copy has the storage type of its source.",
)
@options.source_format
@options.tags
def create(
    group: str,
    name: str,
    source: str,
    data_sources: Sequence[str] | None,
    os_type: OsType | None,
    os_state: OsState | None,
    hyper_v_generation: HyperVGeneration | None,
    location: str | None,
    storage_account_type: StorageAccountType | None,
    source_format: DiskFormat | None,
    tags: Mapping[str, str] | None,
) -> Json:
    """Create a managed image.

    An interrupted command resumes when the same line runs again.
    """
    request = ImageRequest(
        group=group,
        name=name,
        source=source,
        data_sources=data_sources or (),
        location=location,
        storage_account_type=storage_account_type,
        os_properties=OsProperties(os_type=os_type, os_state=os_state, hyper_v_generation=hyper_v_generation),
        source_format=source_format,
        tags=tags,
    )
    with open_session() as session:
        return image_json(session.run(images.create_image, request))


@image.command(table=_TABLE, example="imgstore image show -g rg -n i1")
@options.group
@options.resource_name("managed image")
def show(group: str, name: str) -> Json:
    """Show a managed image."""
    with open_session() as session:
        return image_json(session.run(images.show_image, group=group, name=name))


@image.command("list", table=_TABLE, example="imgstore image list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(group: str | None, page: PageRequest) -> Json:
    """List the managed images of one resource group, or of all resource groups."""
    with open_session() as session:
        return [image_json(each) for each in session.page(images.page_images, page, group=group)]


@image.command(example="imgstore image delete -g rg -n i1", question="Delete the managed image '{name}'?")
@options.group
@options.resource_name("managed image")
@options.yes
def delete(group: str, name: str) -> None:
    """Delete a managed image. Its sources, and resources made from the image, stay."""
    with open_session() as session:
        session.run(disks.delete_disk, group=group, name=name, kind=DiskKind.IMAGE)
