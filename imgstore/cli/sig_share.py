"""``imgstore sig share``, and what is found of others' galleries: ``list-shared``, ``show-community`` and the like."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from imgstore.cli import options
from imgstore.cli.command import Group, Words
from imgstore.cli.output import columns
from imgstore.cli.session import opened
from imgstore.domain.names import SharedReference, VersionName, check_definition_name
from imgstore.operations import sharing
from imgstore.wire.resources import gallery_json
from imgstore.wire.sharing import shared_definition_json, shared_gallery_json, shared_version_json
from imgstore.wire.text import Json

_TABLE: Final = columns(Name="name", Location="location", UniqueId="identifier.uniqueId")
_UNIQUE: Final = "11111111-1111-1111-1111-111111111111-MYGALLERY"
_PUBLIC: Final = "contoso-11111111-1111-1111-1111-111111111111"

_subscriptions = click.option(
    "--subscription-ids", "subscriptions", cls=Words, metavar="ID ...", help="Subscriptions: at most 30 in all."
)
_tenants = click.option("--tenant-ids", "tenants", cls=Words, metavar="ID ...", help="Tenants: at most 5 in all.")
_location = click.option("-l", "--location", required=True, metavar="REGION", help="The region of the gallery.")
_some_version = click.option(
    "-e",
    "--gallery-image-version",
    "version",
    required=True,
    type=VersionName.parse,
    metavar="MAJOR.MINOR.PATCH",
    help="Name of the image version.",
)


@click.group(cls=Group)
def share() -> None:
    """Let other subscriptions, other tenants or everybody read a gallery."""


@share.command(
    example="imgstore sig share add -g rg -r myGallery --subscription-ids 11111111-1111-1111-1111-111111111111"
)
@options.group
@options.gallery
@_subscriptions
@_tenants
def add(group: str, gallery: str, subscriptions: Sequence[str] | None, tenants: Sequence[str] | None) -> Json:
    """Share a gallery with subscriptions and tenants."""
    with opened() as session:
        shared = sharing.share_add(
            session.installation,
            session.principal,
            group=group,
            name=gallery,
            subscriptions=subscriptions or (),
            tenants=tenants or (),
        )
        return gallery_json(shared, groups=True)


@share.command(example="imgstore sig share remove -g rg -r myGallery --tenant-ids 11111111-1111-1111-1111-111111111111")
@options.group
@options.gallery
@_subscriptions
@_tenants
def remove(group: str, gallery: str, subscriptions: Sequence[str] | None, tenants: Sequence[str] | None) -> Json:
    """Share a gallery with subscriptions and tenants no more. Disks that they made stay."""
    with opened() as session:
        shared = sharing.share_remove(
            session.installation,
            session.principal,
            group=group,
            name=gallery,
            subscriptions=subscriptions or (),
            tenants=tenants or (),
        )
        return gallery_json(shared, groups=True)


@share.command(example="imgstore sig share reset -g rg -r myGallery")
@options.group
@options.gallery
def reset(group: str, gallery: str) -> Json:
    """Share a gallery with nobody."""
    with opened() as session:
        return gallery_json(
            sharing.share_reset(session.installation, session.principal, group=group, name=gallery), groups=True
        )


@share.command("enable-community", example="imgstore sig share enable-community -g rg -r myGallery")
@options.group
@options.gallery
def enable_community(group: str, gallery: str) -> Json:
    """Let everybody find a gallery that was made with --permissions community."""
    with opened() as session:
        return gallery_json(
            sharing.enable_community(session.installation, session.principal, group=group, name=gallery), groups=True
        )


def attach(sig: click.Group, image_definition: click.Group, image_version: click.Group) -> None:
    """Put the commands that look at others' galleries where az has them."""
    sig.add_command(share)
    _attach_lists(sig)
    for community, suffix, names, unique in (
        (False, "shared", ("-u", "--gallery-unique-name"), _UNIQUE),
        (True, "community", ("--public-gallery-name",), _PUBLIC),
    ):
        text = "The gallery's public name." if community else "The gallery's unique name."
        name = click.option(*names, "gallery", required=True, metavar="NAME", help=text)
        flags = f"-l eastus {names[0]} {unique}"
        kind = "community" if community else "shared"
        _attach_gallery(sig, suffix, name, flags, community=community)
        _attach_inside(image_definition, image_version, suffix, name, flags, kind=kind, community=community)


def _attach_lists(sig: click.Group) -> None:
    @sig.command("list-shared", table=_TABLE, example="imgstore sig list-shared -l eastus --shared-to tenant -o table")
    @_location
    @click.option(
        "--shared-to",
        type=click.Choice(["tenant"], case_sensitive=False),
        help="With the tenant of the subscription, instead of with the subscription itself.",
    )
    def list_shared(location: str, shared_to: str | None) -> Json:
        """List the galleries of others that are shared with this subscription."""
        with opened() as session:
            found = sharing.list_shared(
                session.installation, session.principal, location=location, to_tenant=shared_to is not None
            )
            return [shared_gallery_json(each) for each in found]

    @sig.command("list-community", table=_TABLE, example="imgstore sig list-community -l eastus -o table")
    @options.location("Of this region only.")
    def list_community(location: str | None) -> Json:
        """List the galleries that are shared with everybody."""
        with opened() as session:
            regions = session.installation.regions
            region = None if location is None else regions.get(location, target="location").name
            found = sharing.list_community(session.installation, session.principal)
            return [shared_gallery_json(each) for each in found if region in (None, each.location)]


def _attach_gallery(sig: click.Group, suffix: str, name: options.Decorator, flags: str, *, community: bool) -> None:
    def show(location: str, gallery: str) -> Json:
        with opened() as session:
            session.installation.regions.get(location, target="location")
            if community:
                found = sharing.show_community(session.installation, session.principal, public_name=gallery)
            else:
                found = sharing.show_shared(session.installation, session.principal, unique_name=gallery)
            return shared_gallery_json(found)

    _add(sig, f"show-{suffix}", f"Show a {suffix} gallery.", f"imgstore sig show-{suffix} {flags}", show, name)


def _attach_inside(
    image_definition: click.Group,
    image_version: click.Group,
    suffix: str,
    name: options.Decorator,
    flags: str,
    *,
    kind: str,
    community: bool,
) -> None:
    def definitions(location: str, gallery: str) -> Json:
        return [shared_definition_json(each) for each in _lines(location, gallery)]

    def definition(location: str, gallery: str, definition: str) -> Json:
        return next(shared_definition_json(each) for each in _lines(location, gallery, definition))

    def versions(location: str, gallery: str, definition: str) -> Json:
        return [shared_version_json(each) for each in _views(location, gallery, definition)]

    def version(location: str, gallery: str, definition: str, version: VersionName) -> Json:
        return shared_version_json(_views(location, gallery, definition, version)[0])

    def _lines(location: str, gallery: str, only: str | None = None) -> list[Any]:
        with opened() as session:
            session.installation.regions.get(location, target="location")
            reference = SharedReference(gallery=gallery, community=community, definition=only or "any")
            return sharing.definitions_shared(session.installation, session.principal, reference, only=only)

    def _views(location: str, gallery: str, of: str, only: VersionName | None = None) -> list[Any]:
        with opened() as session:
            session.installation.regions.get(location, target="location")
            reference = SharedReference(
                gallery=gallery, community=community, definition=check_definition_name(of), version=only
            )
            return sharing.versions_shared(session.installation, session.principal, reference)

    line = f"imgstore sig image-definition {{}}-{suffix} {flags}"
    _add(
        image_definition,
        f"list-{suffix}",
        f"List the image definitions of a {kind} gallery.",
        line.format("list"),
        definitions,
        name,
    )
    _add(
        image_definition,
        f"show-{suffix}",
        f"Show an image definition of a {kind} gallery.",
        line.format("show") + " -i ubuntu",
        definition,
        name,
        options.definition,
    )
    line = f"imgstore sig image-version {{}}-{suffix} {flags} -i ubuntu"
    _add(
        image_version,
        f"list-{suffix}",
        f"List the image versions of a {kind} gallery.",
        line.format("list"),
        versions,
        name,
        options.definition,
    )
    _add(
        image_version,
        f"show-{suffix}",
        f"Show an image version of a {kind} gallery.",
        line.format("show") + " -e 1.0.0",
        version,
        name,
        options.definition,
        _some_version,
    )


def _add(
    group: click.Group, name: str, help_: str, example: str, run: Callable[..., Json], *parts: options.Decorator
) -> None:
    decorate = group.command(name, help=help_, table=_TABLE, example=example)
    decorate(options.together(_location, *parts)(run))
