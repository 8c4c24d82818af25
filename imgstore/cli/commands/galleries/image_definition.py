"""``imgstore sig image-definition``: the common properties of image versions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from imgstore.cli.commands.galleries import sig_share
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DefinitionDetails
from imgstore.domain.resources import (
    Architecture,
    DiskType,
    HyperVGeneration,
    ImageDefinition,
    OsState,
    OsType,
    PurchasePlan,
    RecommendedRange,
)
from imgstore.domain.views import DefinitionPath
from imgstore.operations.gallery import definitions
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_disk_types, parse_end_of_life, parse_features
from imgstore.wire.requests.gallery_update import edit_definition
from imgstore.wire.requests.generic_update import Edit
from imgstore.wire.responses.resources import definition_json

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
_CREATE_EXAMPLE = """
imgstore sig image-definition create -g rg -r myGallery -i ubuntu --publisher p --offer o --sku s \\
    --os-type Linux --os-state Generalized
imgstore sig image-definition create -g rg -r myGallery -i big --publisher p --offer o --sku big \\
    --os-type Linux --minimum-cpu-core 2 --maximum-memory 64 --end-of-life-date 2035-12-02 \\
    --features "SecurityType=TrustedLaunchSupported" --disallowed-disk-types Premium_LRS
"""
_UPDATE_EXAMPLE = """
imgstore sig image-definition update -g rg -r myGallery -i ubuntu \\
    --set description='with nginx' recommended.memory.max=8 tags.team=images
imgstore sig image-definition update -g rg -r myGallery -i ubuntu --remove recommended.memory
imgstore sig image-definition update -g rg -r myGallery -i ubuntu --allow-update-image true \\
    --add features name=SecurityType value=TrustedLaunchSupported startsAtVersion=2.0.0
"""
_details = (
    click.option("--eula", metavar="TEXT", help="URL or text of the licence agreement."),
    click.option("--privacy-statement-uri", metavar="URI", help="URL of the privacy statement."),
    click.option("--release-note-uri", metavar="URI", help="URL of the release notes."),
    click.option(
        "--end-of-life-date",
        type=parse_end_of_life,
        metavar="DATE",
        help="Date after which the image should not be used: shown, not enforced. A date without a "
        "time means 12:59:59 UTC.",
    ),
    click.option("--minimum-cpu-core", type=int, metavar="N", help="Smallest recommended number of vCPUs."),
    click.option("--maximum-cpu-core", type=int, metavar="N", help="Largest recommended number of vCPUs."),
    click.option("--minimum-memory", type=int, metavar="GB", help="Smallest recommended memory in GB."),
    click.option("--maximum-memory", type=int, metavar="GB", help="Largest recommended memory in GB."),
    options.words(
        "--disallowed-disk-types",
        parse=parse_disk_types,
        metavar="TYPE ...",
        help=f"Disk types that disks of the image must not have: {', '.join(DiskType)}.",
    ),
    click.option("--plan-name", metavar="NAME", help="Name of the purchase plan."),
    click.option("--plan-publisher", metavar="NAME", help="Publisher of the purchase plan."),
    click.option("--plan-product", metavar="NAME", help="Product of the purchase plan."),
    options.words("--features", parse=parse_features, metavar='"NAME=VALUE ..."', help="Features of the image."),
)


@click.group("image-definition", cls=Group)
def image_definition() -> None:
    """Manage image definitions."""


sig_share.attach_definitions(image_definition)


def _read_creation(*, group: str, gallery: str, definition: str, location: str | None, **given: Any) -> dict[str, Any]:
    """Make two groups of properties from the options: the details, and the fixed properties, which never change."""
    plan = PurchasePlan(name=given["plan_name"], publisher=given["plan_publisher"], product=given["plan_product"])
    details = options.make_value(
        DefinitionDetails,
        given,
        end_of_life_at=given["end_of_life_date"],
        recommended_vcpus=_range(given["minimum_cpu_core"], given["maximum_cpu_core"]),
        recommended_memory_gib=_range(given["minimum_memory"], given["maximum_memory"]),
        purchase_plan=None if plan == PurchasePlan() else plan,
    )
    words = ("publisher", "offer", "sku", "os_type", "os_state", "hyper_v_generation", "architecture")
    fixed = {word: given[word] for word in words}
    place = {"group": group, "gallery": gallery, "definition": definition, "location": location}
    return {**place, "details": details, "fixed": fixed}


def _range(least: int | None, most: int | None) -> RecommendedRange | None:
    return None if least is None and most is None else RecommendedRange(min=least, max=most)


@image_definition.command(table=_TABLE, example=_CREATE_EXAMPLE, read_options=_read_creation)
@options.definition_path
@click.option("-p", "--publisher", required=True, metavar="NAME", help="Publisher of the image.")
@click.option("-f", "--offer", required=True, metavar="NAME", help="Offer of the image.")
@click.option("-s", "--sku", required=True, metavar="NAME", help="SKU of the image.")
@options.choice("--os-type", members=tuple(OsType), required=True, help="Family of the operating system.")
@options.choice(
    "--os-state",
    members=tuple(OsState),
    default=OsState.GENERALIZED.value,
    help="Generalized: machine-specific data was removed from the image. Default: Generalized.",
)
@options.choice(
    "--hyper-v-generation",
    members=tuple(HyperVGeneration),
    default=HyperVGeneration.V1.value,
    help="V1 boots from BIOS and MBR, V2 from UEFI and GPT. Default: V1.",
)
@options.choice(
    "--architecture",
    members=tuple(Architecture),
    default=Architecture.X64.value,
    help="Processor architecture. Default: x64.",
)
@options.location(help="The region that the definition is filed under. Default: the region of the gallery.")
@options.description
@options.together(*_details)
@options.tags
def create(
    session: Session,
    group: str,
    gallery: str,
    definition: str,
    location: str | None,
    details: DefinitionDetails,
    fixed: dict[str, Any],
) -> Json:
    """Create an image definition, or change properties that may change.

    A property without an option stays as it is. `update` changes and removes single properties.
    """
    place: dict[str, Any] = {"group": group, "gallery": gallery, "name": definition}
    made = session.run(definitions.create_definition, **place, location=location, details=details, **fixed)
    return definition_json(made.definition, made.gallery)


@image_definition.command(table=_TABLE, example=_UPDATE_EXAMPLE)
@options.definition_path
@options.together(*options.updates)
@options.switch("--allow-update-image", help="Allow a change of the features.")
def update(
    session: Session,
    group: str,
    gallery: str,
    definition: str,
    edits: Sequence[Edit],
    allow_update_image: bool | None,  # noqa: FBT001 - click calls by keyword
    *,
    force_string: bool,
) -> Json:
    """Change an image definition.

    Recommended vCPUs and memory, description, endOfLifeDate, releaseNoteUri and tags may change. With allowUpdateImage the
    features may change too.
    """

    def change(standing: DefinitionPath) -> ImageDefinition:
        edited = edit_definition(standing, edits, force_string=force_string)
        allowed = edited.allow_update_image if allow_update_image is None else allow_update_image
        return replace(edited, allow_update_image=allowed)

    line = session.run(definitions.update_definition, change, group=group, gallery=gallery, name=definition)
    return definition_json(line.definition, line.gallery)


@image_definition.command(table=_TABLE, example="imgstore sig image-definition show -g rg -r myGallery -i ubuntu")
@options.definition_path
def show(session: Session, group: str, gallery: str, definition: str) -> Json:
    """Show an image definition."""
    found = session.run(definitions.show_definition, group=group, gallery=gallery, name=definition)
    return definition_json(found.definition, found.gallery)


@image_definition.command(
    "list", table=_TABLE, example="imgstore sig image-definition list -g rg -r myGallery -o table"
)
@options.gallery_path
@options.together(*options.pages)
def list_(session: Session, group: str, gallery: str, page: PageRequest) -> Json:
    """List the image definitions of a gallery."""
    return [
        definition_json(each.definition, each.gallery)
        for each in session.page(definitions.page_definitions, page, group=group, gallery=gallery)
    ]


@image_definition.command(example="imgstore sig image-definition delete -g rg -r myGallery -i ubuntu")
@options.definition_path
@options.yes_ignored
def delete(session: Session, group: str, gallery: str, definition: str) -> None:
    """Delete an image definition without versions."""
    session.run(definitions.delete_definition, group=group, gallery=gallery, name=definition)
