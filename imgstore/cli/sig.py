"""``imgstore sig``: galleries. What is in them has modules of its own."""

from collections.abc import Mapping

import click

from imgstore.cli import options
from imgstore.cli.command import Group
from imgstore.cli.image_definition import image_definition
from imgstore.cli.image_version import image_version
from imgstore.cli.output import columns
from imgstore.cli.session import opened
from imgstore.operations import galleries
from imgstore.wire.resources import gallery_json
from imgstore.wire.text import Json

_TABLE = columns(Name="name", Location="location", UniqueName="properties.identifier.uniqueName")


@click.group(cls=Group)
def sig() -> None:
    """Galleries, image definitions and image versions."""


sig.add_command(image_definition)
sig.add_command(image_version)


@sig.command(table=_TABLE, example="imgstore sig create -g rg -r myGallery --description 'golden images'")
@options.group
@options.gallery
@options.location("The region that the gallery is filed under. Default: that of the group.")
@options.description
@options.tags
def create(
    group: str, gallery: str, location: str | None, description: str | None, tags: Mapping[str, str] | None
) -> Json:
    """Make a gallery, or change its description and tags."""
    with opened() as session:
        made = galleries.create_gallery(
            session.installation,
            session.principal,
            group=group,
            name=gallery,
            location=location,
            description=description,
            tags=tags,
        )
        return gallery_json(made)


@sig.command(table=_TABLE, example="imgstore sig show -g rg -r myGallery")
@options.group
@options.gallery
def show(group: str, gallery: str) -> Json:
    """Show a gallery."""
    with opened() as session:
        return gallery_json(galleries.show_gallery(session.installation, session.principal, group=group, name=gallery))


@sig.command("list", table=_TABLE, example="imgstore sig list -o table")
@options.some_group
def list_(group: str | None) -> Json:
    """List the galleries, of one resource group or of all."""
    with opened() as session:
        found = galleries.list_galleries(session.installation, session.principal, group=group)
        return [gallery_json(each) for each in found]


@sig.command(example="imgstore sig delete -g rg -r myGallery")
@options.group
@options.gallery
@options.yes
def delete(group: str, gallery: str, *, yes: bool) -> None:  # noqa: ARG001 - az's sig deletes do not ask
    """Delete a gallery that holds no image definitions."""
    with opened() as session:
        galleries.delete_gallery(session.installation, session.principal, group=group, name=gallery)
