"""``imgstore sig image-definition``: what the versions of one image have in common."""

from collections.abc import Mapping

import click

from imgstore.cli import options
from imgstore.cli.command import Group
from imgstore.cli.output import columns
from imgstore.cli.session import opened
from imgstore.domain.resources import HyperVGeneration, OsState, OsType
from imgstore.operations import definitions
from imgstore.wire.resources import definition_json
from imgstore.wire.text import Json

_TABLE = columns(
    Name="name",
    Location="location",
    Publisher="properties.identifier.publisher",
    Offer="properties.identifier.offer",
    Sku="properties.identifier.sku",
    OsType="properties.osType",
    OsState="properties.osState",
    Generation="properties.hyperVGeneration",
)
_ARCHITECTURES = {"x64": "x64", "arm64": "Arm64"}


def _architecture(word: str) -> str:
    if word.lower() not in _ARCHITECTURES:
        raise click.BadParameter(f"'{word}' is not one of {', '.join(_ARCHITECTURES.values())}.")
    return _ARCHITECTURES[word.lower()]


@click.group("image-definition", cls=Group)
def image_definition() -> None:
    """Image definitions: publisher, offer, sku and the kind of system."""


@image_definition.command(
    table=_TABLE,
    example="imgstore sig image-definition create -g rg -r myGallery -i ubuntu "
    "--publisher p --offer o --sku s --os-type Linux --os-state Generalized",
)
@options.group
@options.gallery
@options.definition
@click.option("-p", "--publisher", required=True, metavar="NAME", help="Who publishes it.")
@click.option("-f", "--offer", required=True, metavar="NAME", help="What is offered.")
@click.option("-s", "--sku", required=True, metavar="NAME", help="Which kind of it.")
@options.choice("--os-type", members=tuple(OsType), required=True, help="Family of the operating system.")
@options.choice(
    "--os-state",
    members=tuple(OsState),
    default=OsState.GENERALIZED.value,
    help="Whether machine-specific facts were removed. Default: Generalized.",
)
@options.choice(
    "--hyper-v-generation",
    members=tuple(HyperVGeneration),
    default=HyperVGeneration.V1.value,
    help="V1 boots from BIOS and MBR, V2 from UEFI and GPT. Default: V1.",
)
@click.option("--architecture", type=_architecture, default="x64", metavar="x64|Arm64", help="Default: x64.")
@options.location("The region that it is filed under. Default: that of the gallery.")
@options.description
@options.tags
def create(
    group: str,
    gallery: str,
    definition: str,
    publisher: str,
    offer: str,
    sku: str,
    os_type: OsType,
    os_state: OsState,
    hyper_v_generation: HyperVGeneration,
    architecture: str,
    location: str | None,
    description: str | None,
    tags: Mapping[str, str] | None,
) -> Json:
    """Make an image definition, or change its description and tags."""
    with opened() as session:
        made = definitions.create_definition(
            session.installation,
            session.principal,
            group=group,
            gallery=gallery,
            name=definition,
            publisher=publisher,
            offer=offer,
            sku=sku,
            os_type=os_type,
            os_state=os_state,
            hyper_v_generation=hyper_v_generation,
            architecture=architecture,
            location=location,
            description=description,
            tags=tags,
        )
        return definition_json(made.definition, made.gallery)


@image_definition.command(table=_TABLE, example="imgstore sig image-definition show -g rg -r myGallery -i ubuntu")
@options.group
@options.gallery
@options.definition
def show(group: str, gallery: str, definition: str) -> Json:
    """Show an image definition."""
    with opened() as session:
        found = definitions.show_definition(
            session.installation, session.principal, group=group, gallery=gallery, name=definition
        )
        return definition_json(found.definition, found.gallery)


@image_definition.command(
    "list", table=_TABLE, example="imgstore sig image-definition list -g rg -r myGallery -o table"
)
@options.group
@options.gallery
def list_(group: str, gallery: str) -> Json:
    """List the image definitions of a gallery."""
    with opened() as session:
        found = definitions.list_definitions(session.installation, session.principal, group=group, gallery=gallery)
        return [definition_json(each.definition, each.gallery) for each in found]


@image_definition.command(example="imgstore sig image-definition delete -g rg -r myGallery -i ubuntu")
@options.group
@options.gallery
@options.definition
@options.yes
def delete(group: str, gallery: str, definition: str, *, yes: bool) -> None:  # noqa: ARG001 - az's do not ask
    """Delete an image definition that has no versions."""
    with opened() as session:
        definitions.delete_definition(
            session.installation, session.principal, group=group, gallery=gallery, name=definition
        )
