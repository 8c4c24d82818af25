"""``imgstore sig``: galleries. Definitions and versions have modules of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from imgstore.cli.commands.galleries import sig_share
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group, LazyCommand
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission
from imgstore.domain.paging import PageRequest
from imgstore.domain.resources import Gallery
from imgstore.operations.gallery import galleries
from imgstore.wire.json_text import Json
from imgstore.wire.requests.gallery_update import edit_gallery
from imgstore.wire.requests.generic_update import Edit
from imgstore.wire.responses.resources import gallery_json

_TABLE = columns(Name="name", Location="location", UniqueName="properties.identifier.uniqueName")
_CREATE_EXAMPLE = """
imgstore sig create -g rg -r myGallery --description 'golden images'
imgstore sig create -g rg -r open --permissions community --publisher-uri https://example.org \\
    --publisher-email images@example.org --eula https://example.org/terms --public-name-prefix example
"""
_UPDATE_EXAMPLE = """
imgstore sig update -g rg -r myGallery --set description='golden images' tags.team=images
imgstore sig update -g rg -r myGallery --soft-delete true --soft-delete-retention 14
"""

_SHARING = (
    options.choice(
        "--permissions",
        members=tuple(SharingPermission),
        help="Kind of sharing: with subscriptions and tenants (sig share add), or with every caller "
        "(sig share enable-community).",
    ),
    click.option("--publisher-uri", metavar="URI", help="Community gallery: URI of the publisher."),
    click.option(
        "--publisher-contact",
        "--publisher-email",
        "publisher_contact",
        metavar="MAIL",
        help="Community gallery: e-mail address of the publisher.",
    ),
    click.option("--eula", metavar="TEXT", help="Community gallery: end-user licence of the images."),
    click.option(
        "--public-name-prefix",
        metavar="NAME",
        help="Community gallery: prefix of the public name, 5 to 16 letters and digits.",
    ),
)


_INSIDE: Final = {
    "image-definition": LazyCommand(
        target="imgstore.cli.commands.galleries.image_definition:image_definition",
        summary="Manage image definitions.",
    ),
    "image-version": LazyCommand(
        target="imgstore.cli.commands.galleries.image_version:image_version",
        summary="Manage image versions and their replicas.",
    ),
}


@click.group(cls=Group, lazy=_INSIDE)
def sig() -> None:
    """Manage galleries, image definitions and image versions."""


sig_share.attach(sig)


def _read_creation(
    *,
    group: str,
    gallery: str,
    location: str | None,
    description: str | None,
    tags: Mapping[str, str] | None,
    **given: Any,
) -> dict[str, Any]:
    """Make the properties of a gallery from the options. The rules of sharing report missing community properties."""
    properties = {
        "description": description,
        "tags": tags,
        "soft_delete_enabled": given.pop("soft_delete"),
        "soft_delete_retention_days": given.pop("soft_delete_retention"),
        "permission": given.pop("permissions"),
        "community": CommunityInfo(**{name: value or "" for name, value in given.items()})
        if any(given.values())
        else None,
    }
    return {"group": group, "gallery": gallery, "location": location, "properties": properties}


@sig.command(table=_TABLE, example=_CREATE_EXAMPLE, read_options=_read_creation)
@options.gallery_path
@options.location(help="The region that the gallery is filed under. Default: the region of the group.")
@options.description
@options.together(*options.soft_delete)
@options.together(*_SHARING)
@options.tags
def create(session: Session, group: str, gallery: str, location: str | None, properties: dict[str, Any]) -> Json:
    """Create a gallery, or change its description, tags, soft delete policy or sharing."""
    made = session.run(galleries.create_gallery, group=group, name=gallery, location=location, **properties)
    return gallery_json(made)


@sig.command(table=_TABLE, example=_UPDATE_EXAMPLE)
@options.gallery_path
@options.together(*options.updates)
@options.together(*options.soft_delete)
def update(
    session: Session,
    group: str,
    gallery: str,
    edits: Sequence[Edit],
    soft_delete: bool | None,  # noqa: FBT001 - click calls by keyword
    soft_delete_retention: int | None,
    *,
    force_string: bool,
) -> Json:
    """Change a gallery's description, tags or soft delete policy."""

    def change(standing: Gallery) -> Gallery:
        edited = edit_gallery(standing, edits, force_string=force_string)
        return replace(
            edited,
            soft_delete_enabled=edited.soft_delete_enabled if soft_delete is None else soft_delete,
            soft_delete_retention_days=(
                edited.soft_delete_retention_days if soft_delete_retention is None else soft_delete_retention
            ),
        )

    return gallery_json(session.run(galleries.update_gallery, change, group=group, name=gallery))


@sig.command(table=_TABLE, example="imgstore sig show -g rg -r myGallery --select Permissions")
@options.gallery_path
@click.option(
    "--select",
    type=click.Choice(["Permissions"], case_sensitive=False),
    metavar="Permissions",
    help="Also show the sharing profile.",
)
@click.option(
    "--sharing-groups",
    is_flag=True,
    help="Also show the sharing profile, with the option's name in newer versions of az.",
)
def show(session: Session, group: str, gallery: str, select: str | None, *, sharing_groups: bool) -> Json:
    """Show a gallery."""
    found = session.run(galleries.show_gallery, group=group, name=gallery)
    return gallery_json(found, groups=sharing_groups or select is not None)


@sig.command("list", table=_TABLE, example="imgstore sig list -o table")
@options.some_group
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest) -> Json:
    """List the galleries of one resource group, or of all resource groups."""
    return [gallery_json(each) for each in session.page(galleries.page_galleries, page, group=group)]


@sig.command(example="imgstore sig delete -g rg -r myGallery")
@options.gallery_path
@options.yes_ignored
def delete(session: Session, group: str, gallery: str) -> None:
    """Delete a gallery without image definitions."""
    session.run(galleries.delete_gallery, group=group, name=gallery)
