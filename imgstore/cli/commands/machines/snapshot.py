"""``imgstore snapshot``: full snapshots of disks."""

from typing import Any

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Group
from imgstore.cli.framework.forecasts import answer_forecast, forecast_disk_deletion
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import DiskKind
from imgstore.operations.disks import disks
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.what_if.disks import forecast_source_disk
from imgstore.wire.json_text import Json
from imgstore.wire.responses.resources import disk_json

_TABLE = columns(
    Name="name",
    Location="location",
    SizeGB="properties.diskSizeGB",
    Sku="sku.name",
    Status="properties.provisioningState",
    Source="properties.creationData.sourceResourceId",
    File="properties.creationData.sourceUri",
)
_CREATE_EXAMPLE = """
imgstore snapshot create -g rg -n s1 --source d1
imgstore snapshot create -g rg -n s2 --source ./disk.vhd -l westus2 --os-type Linux
imgstore snapshot create -g rg -n s3 --source s1 -l northeurope --allow-remote --what-if
"""


@click.group(cls=Group)
def snapshot() -> None:
    """Manage full snapshots."""


def _read_request(**given: Any) -> dict[str, Any]:
    return {"request": options.read_disk_request(given, DiskKind.SNAPSHOT)}


def _forecast_creation(session: Session, request: DiskRequest) -> Answer:
    """Predict the effects of `create`."""
    return answer_forecast(session.run(forecast_source_disk, request), session.warn)


@snapshot.command(table=_TABLE, example=_CREATE_EXAMPLE, read_options=_read_request, forecast=_forecast_creation)
@options.resource_in_group("snapshot")
@click.option(
    "--source",
    required=True,
    metavar="NAME|ID|URI",
    help="Source: a managed disk or snapshot by name or id, or a file: a path, file://, s3:// or https://.",
)
@options.location(
    help="Region of the snapshot. Default: the region of the source, or of the group if the source is a file."
)
@options.sku(
    "--sku",
    text="With a file as --source: storage type. Default: Standard_LRS. A copy has the storage type of its source.",
)
@options.os_type
@options.hyper_v_generation
@options.source_format
@options.allow_remote
@options.tags
def create(session: Session, request: DiskRequest) -> Json:
    """Create a full snapshot of a disk, a snapshot or a file.

    An interrupted command resumes when the same line runs again.
    """
    return disk_json(session.run(create_from_source, request))


@snapshot.command(table=_TABLE, example="imgstore snapshot show -g rg -n s1")
@options.resource_in_group("snapshot")
def show(session: Session, group: str, name: str) -> Json:
    """Show a snapshot."""
    return disk_json(session.run(disks.show_disk, group=group, name=name, kind=DiskKind.SNAPSHOT))


@snapshot.command("list", table=_TABLE, example="imgstore snapshot list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest) -> Json:
    """List the snapshots of one resource group, or of all resource groups."""
    return [disk_json(each) for each in session.page(disks.page_disks, page, group=group, kind=DiskKind.SNAPSHOT)]


@snapshot.command(
    example="imgstore snapshot delete -g rg -n s1\nimgstore snapshot delete -g rg -n s1 --what-if -o table",
    question="Delete the snapshot '{name}'?",
    forecast=forecast_disk_deletion(DiskKind.SNAPSHOT),
)
@options.resource_in_group("snapshot")
@options.yes
def delete(session: Session, group: str, name: str) -> None:
    """Delete a snapshot. Its source, and resources made from the snapshot, stay."""
    session.run(disks.delete_disk, group=group, name=name, kind=DiskKind.SNAPSHOT)
