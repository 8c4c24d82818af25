"""``imgstore sig share``, and commands on shared galleries: ``list-shared``, ``show-community`` and similar commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.names import SharedReference, VersionName, check_definition_name
from imgstore.operations.gallery import sharing
from imgstore.wire.json_text import Json
from imgstore.wire.responses.resources import gallery_json
from imgstore.wire.sharing import shared_definition_json, shared_gallery_json, shared_version_json

_TABLE: Final = columns(Name="name", Location="location", UniqueId="identifier.uniqueId")
_UNIQUE: Final = "11111111-1111-1111-1111-111111111111-MYGALLERY"
_PUBLIC: Final = "contoso-11111111-1111-1111-1111-111111111111"

_subscriptions = options.words(
    "--subscription-ids", "subscriptions", metavar="ID ...", help="Ids of subscriptions, at most 30 in all."
)
_tenants = options.words("--tenant-ids", "tenants", metavar="ID ...", help="Ids of tenants, at most 5 in all.")
_location = options.location(help="Region of the gallery.", required=True)


@click.group(cls=Group)
def share() -> None:
    """Share a gallery with subscriptions, tenants or every caller."""


@share.command(
    example="imgstore sig share add -g rg -r myGallery --subscription-ids 11111111-1111-1111-1111-111111111111"
)
@options.gallery_path
@_subscriptions
@_tenants
def add(
    session: Session, group: str, gallery: str, subscriptions: Sequence[str] | None, tenants: Sequence[str] | None
) -> Json:
    """Share a gallery with subscriptions and tenants."""
    shared = session.run(
        sharing.share_add, group=group, name=gallery, subscriptions=subscriptions or (), tenants=tenants or ()
    )
    return gallery_json(shared, groups=True)


@share.command(example="imgstore sig share remove -g rg -r myGallery --tenant-ids 11111111-1111-1111-1111-111111111111")
@options.gallery_path
@_subscriptions
@_tenants
def remove(
    session: Session, group: str, gallery: str, subscriptions: Sequence[str] | None, tenants: Sequence[str] | None
) -> Json:
    """Stop sharing a gallery with subscriptions and tenants. Existing disks of the subscriptions stay."""
    shared = session.run(
        sharing.share_remove, group=group, name=gallery, subscriptions=subscriptions or (), tenants=tenants or ()
    )
    return gallery_json(shared, groups=True)


@share.command(example="imgstore sig share reset -g rg -r myGallery")
@options.gallery_path
def reset(session: Session, group: str, gallery: str) -> Json:
    """Stop sharing a gallery with all subscriptions and tenants."""
    return gallery_json(session.run(sharing.share_reset, group=group, name=gallery), groups=True)


@share.command("enable-community", example="imgstore sig share enable-community -g rg -r myGallery")
@options.gallery_path
def enable_community(session: Session, group: str, gallery: str) -> Json:
    """Share a gallery with every caller. The gallery was created with --permissions Community."""
    return gallery_json(session.run(sharing.enable_community, group=group, name=gallery), groups=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """Commands of one kind of foreign galleries: shared galleries or community galleries."""

    word: str
    """Name of the kind in az's commands."""
    community: bool
    names: tuple[str, ...]
    """Option with the name of a gallery."""
    example: str

    @property
    def option(self) -> options.Decorator:
        """Make click's option for a gallery."""
        text = "The gallery's public name." if self.community else "The gallery's unique name."
        return click.option(*self.names, "gallery", required=True, metavar="NAME", help=text)

    @property
    def flags(self) -> str:
        """Return the options of an example."""
        return f"-l eastus {self.names[0]} {self.example}"

    def lines(self, session: Session, location: str, gallery: str, only: str | None = None) -> list[Any]:
        """List the image definitions of a gallery, or find a definition by name."""
        session.installation.regions.get(location, target="location")
        reference = SharedReference(gallery=gallery, community=self.community, definition=only or "any")
        return session.run(sharing.list_definitions_shared, reference, only=only)

    def views(
        self, session: Session, location: str, gallery: str, of: str, only: VersionName | None = None
    ) -> list[Any]:
        """List the image versions of a definition, or find a version by name."""
        session.installation.regions.get(location, target="location")
        reference = SharedReference(
            gallery=gallery, community=self.community, definition=check_definition_name(of), version=only
        )
        return session.run(sharing.list_versions_shared, reference)


_OTHERS: Final = (
    _Others(word="shared", community=False, names=("-u", "--gallery-unique-name"), example=_UNIQUE),
    _Others(word="community", community=True, names=("--public-gallery-name",), example=_PUBLIC),
)


def attach(sig: click.Group) -> None:
    """Add the commands on foreign galleries to az's groups."""
    sig.add_command(share)
    _attach_lists(sig)
    for others in _OTHERS:
        _attach_gallery(sig, others)


def attach_definitions(image_definition: click.Group) -> None:
    """Add the commands on definitions of foreign galleries."""
    for others in _OTHERS:
        _attach_definitions(image_definition, others)


def attach_versions(image_version: click.Group) -> None:
    """Add the commands on versions of foreign galleries."""
    for others in _OTHERS:
        _attach_versions(image_version, others)


def _attach_lists(sig: click.Group) -> None:
    @sig.command("list-shared", table=_TABLE, example="imgstore sig list-shared -l eastus --shared-to tenant -o table")
    @_location
    @click.option(
        "--shared-to",
        type=click.Choice(["tenant"], case_sensitive=False),
        metavar="tenant",
        help="List galleries that are shared with the tenant of the subscription.",
    )
    def list_shared(session: Session, location: str, shared_to: str | None) -> Json:
        """List galleries of other subscriptions that are shared with this subscription."""
        found = session.run(sharing.list_shared, location=location, to_tenant=shared_to is not None)
        return [shared_gallery_json(each) for each in found]

    @sig.command("list-community", table=_TABLE, example="imgstore sig list-community -l eastus -o table")
    @options.location(help="List galleries of this region only.")
    def list_community(session: Session, location: str | None) -> Json:
        """List the community galleries."""
        regions = session.installation.regions
        region = None if location is None else regions.get(location, target="location").name
        found = session.run(sharing.list_community)
        return [shared_gallery_json(each) for each in found if region in (None, each.location)]


def _attach_gallery(sig: click.Group, others: _Others) -> None:
    def show(session: Session, location: str, gallery: str) -> Json:
        session.installation.regions.get(location, target="location")
        if others.community:
            found = session.run(sharing.show_community, public_name=gallery)
        else:
            found = session.run(sharing.show_shared, unique_name=gallery)
        return shared_gallery_json(found)

    name = f"show-{others.word}"
    _add(sig, name, f"Show a {others.word} gallery.", f"imgstore sig {name} {others.flags}", show, others.option)


def _attach_definitions(image_definition: click.Group, others: _Others) -> None:
    def list_(session: Session, location: str, gallery: str) -> Json:
        return [shared_definition_json(each) for each in others.lines(session, location, gallery)]

    def show(session: Session, location: str, gallery: str, definition: str) -> Json:
        return next(shared_definition_json(each) for each in others.lines(session, location, gallery, definition))

    word, line = others.word, f"imgstore sig image-definition {{}}-{others.word} {others.flags}"
    help_ = f"List the image definitions of a {word} gallery."
    _add(image_definition, f"list-{word}", help_, line.format("list"), list_, others.option)
    help_, line = f"Show an image definition of a {word} gallery.", line + " -i ubuntu"
    _add(image_definition, f"show-{word}", help_, line.format("show"), show, others.option, options.definition)


def _attach_versions(image_version: click.Group, others: _Others) -> None:
    def list_(session: Session, location: str, gallery: str, definition: str) -> Json:
        return [shared_version_json(each) for each in others.views(session, location, gallery, definition)]

    def show(session: Session, location: str, gallery: str, definition: str, version: VersionName) -> Json:
        return shared_version_json(others.views(session, location, gallery, definition, version)[0])

    word, line = others.word, f"imgstore sig image-version {{}}-{others.word} {others.flags} -i ubuntu"
    parts = others.option, options.definition
    help_ = f"List the image versions of a {word} gallery."
    _add(image_version, f"list-{word}", help_, line.format("list"), list_, *parts)
    help_, line = f"Show an image version of a {word} gallery.", line + " -e 1.0.0"
    _add(image_version, f"show-{word}", help_, line.format("show"), show, *parts, options.version)


def _add(
    group: click.Group, name: str, help_: str, example: str, run: Callable[..., Json], *parts: options.Decorator
) -> None:
    decorate = group.command(name, help=help_, table=_TABLE, example=example)
    decorate(options.together(_location, *parts)(run))
