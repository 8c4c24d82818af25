"""``imgstore sig image-version``: commands that show image versions, and the lazy commands that change versions.

A command that shows a version needs the catalog alone. A command that changes a version imports the data plane, which
takes 100 ms.
"""

from typing import Any, Final

import click

from imgstore.cli.commands.galleries import sig_share
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group, LazyCommand
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.paging import PageRequest
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.wire.json_text import Json
from imgstore.wire.responses.resources import version_json

TABLE: Final = columns(
    Name="name",
    Location="location",
    SizeGB="properties.storageProfile.osDiskImage.sizeInGB",
    Status="properties.provisioningState",
    Replication="properties.replicationStatus.aggregatedState",
    Published="properties.publishingProfile.publishedDate",
)
_CHANGES: Final = {
    name: LazyCommand(
        target=f"imgstore.cli.commands.galleries.image_version_changes:{name.replace('-', '_')}", summary=summary
    )
    for name, summary in (
        ("create", "Create an image version from an OS disk and data disks, and replicate the version."),
        ("update", "Change an image version's target regions, replica counts and properties."),
        ("delete", "Delete an image version. Managed disks made from the version stay."),
        (
            "list-soft-deleted",
            "List the soft-deleted versions of an image definition, with the end of their retention.",
        ),
        ("undelete", "Restore a soft-deleted image version."),
        ("wait", "Wait until an image version is created, updated or deleted, or fulfils a query."),
    )
}


@click.group("image-version", cls=Group, lazy=_CHANGES)
def image_version() -> None:
    """Manage image versions and their replicas."""


sig_share.attach_versions(image_version)


@image_version.command(
    table=TABLE,
    example="imgstore sig image-version show -g rg -r myGallery -i ubuntu -e 1.0.0 --expand ReplicationStatus",
)
@options.version_path
@click.option(
    "--expand",
    type=click.Choice(["ReplicationStatus"], case_sensitive=False),
    metavar="ReplicationStatus",
    help="Also show the state and the progress of each replica.",
)
def show(session: Session, *, expand: str | None, **place: Any) -> Json:
    """Show an image version."""
    found = session.run(gallery_versions.show_version, **place)
    body = version_json(found, session.display_names, replication_status=expand is not None)
    if found.is_idle:
        session.warn(body["properties"]["provisioningStateDetails"])
    return body


@image_version.command("list", table=TABLE, example="imgstore sig image-version list -g rg -r myGallery -i ubuntu")
@options.definition_path
@options.together(*options.pages)
def list_(session: Session, *, page: PageRequest, **place: Any) -> Json:
    """List the versions of an image definition."""
    names = session.display_names
    return [version_json(each, names) for each in session.page(gallery_versions.page_versions, page, **place)]
