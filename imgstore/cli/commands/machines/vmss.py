"""``imgstore vmss``: scale sets. `vmss_update.py` changes the model and moves instances to the model."""

from typing import Any, Final

import click

from imgstore.cli.commands.machines.first_user import read_public_keys, read_word
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group, LazyCommand
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.machines import SIZE
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import OsProfile, ScaleSetRequest
from imgstore.domain.scale_sets import PlacementPolicy, UpgradeMode
from imgstore.operations.machines.seeds import make_secrets
from imgstore.operations.scale_sets import scale_sets
from imgstore.wire.json_text import Json
from imgstore.wire.responses.scale_sets import instance_json, scale_set_json

TABLE: Final = columns(
    Name="name",
    Location="location",
    Size="sku.name",
    Capacity="sku.capacity",
    UpgradeMode="properties.upgradePolicy.mode",
    Status="properties.provisioningState",
    Image="properties.virtualMachineProfile.storageProfile.imageReference.id",
)
_INSTANCES: Final = columns(
    InstanceId="instanceId",
    Name="name",
    LatestModel="properties.latestModelApplied",
    Status="properties.provisioningState",
    OsDisk="properties.storageProfile.osDisk.name",
    Image="properties.storageProfile.imageReference.id",
)
_CREATE_EXAMPLE: Final = """
imgstore vmss create -g rg -n web -l westus2 --image rg/golden/web --instance-count 10 --admin-username azureuser
imgstore vmss create -g rg -n db --image rg/golden/db/1.0.0 --upgrade-policy-mode Rolling --placement least-busy
"""
_UPDATE: Final = "imgstore.cli.commands.machines.vmss_update"


@click.group(
    cls=Group,
    lazy={
        "update": LazyCommand(
            target=f"{_UPDATE}:update",
            summary="Change the model of a scale set, and give the instances new OS disks in batches.",
        ),
        "update-instances": LazyCommand(
            target=f"{_UPDATE}:update_instances_",
            summary="Give instances the model of their scale set, in any upgrade mode.",
        ),
        "reimage": LazyCommand(
            target=f"{_UPDATE}:reimage",
            summary="Give instances a new OS disk of the image in the model. The changes of the guests are lost.",
        ),
        "rolling-upgrade": LazyCommand(
            target=f"{_UPDATE}:rolling_upgrade",
            summary="Show and cancel the last rolling update of a scale set.",
        ),
    },
)
def vmss() -> None:
    """Manage scale sets: equal machines from one image, over all replicas of a region."""


def _read_request(**given: Any) -> dict[str, Any]:
    keys, custom_data = given.pop("ssh_key_values"), given.pop("custom_data")
    profile = OsProfile(
        admin_username=given.pop("admin_username"),
        computer_name=given.pop("computer_name_prefix"),
        has_fields=bool(keys or custom_data),
    )
    kept: dict[str, Any] = {}
    if keys:
        public_keys = read_public_keys(keys, profile)
        kept["properties.virtualMachineProfile.osProfile"] = {
            "linuxConfiguration": {"ssh": {"publicKeys": public_keys}}
        }
    secrets = make_secrets(None, None if custom_data is None else read_word(custom_data))
    return {"request": ScaleSetRequest(**given, profile=profile, secrets=secrets, extra_properties=kept)}


@vmss.command(table=TABLE, example=_CREATE_EXAMPLE, read_options=_read_request)
@options.resource_in_group("scale set")
@options.location(help="Region of the scale set. Default: the region of the group.")
@click.option(
    "--image",
    required=True,
    metavar="REF|NAME|ID",
    help="An image version as RG/GALLERY/DEFINITION[/VERSION] or by id, also of a shared gallery, or a managed "
    "image by name or id. Default version: latest.",
)
@options.number(
    "--instance-count",
    "capacity",
    least=0,
    default=2,
    text="Number of instances. Default: 2. A managed image permits 600 instances, an image version 1,000.",
)
@click.option(
    "--vm-sku",
    "size",
    metavar="SIZE",
    help=f"Azure's name of a machine size, with vCPUs and memory. Default: {SIZE}.",
)
@click.option(
    "--admin-username",
    metavar="NAME",
    help="Name of the first user. A generalized image needs the name, a specialized image refuses the name.",
)
@click.option(
    "--computer-name-prefix",
    metavar="NAME",
    help="First part of the host names, for a generalized image. Default: the name of the scale set.",
)
@options.words(
    "--ssh-key-values",
    metavar="FILE|KEY ...",
    help="Public SSH keys of the first user, as files or as text.",
)
@click.option(
    "--custom-data", metavar="FILE|TEXT", help="Script or document for cloud-init, from a file or from the line."
)
@options.choice(
    "--upgrade-policy-mode",
    "upgrade_mode",
    members=tuple(UpgradeMode),
    default=UpgradeMode.MANUAL,
    help="How `imgstore vmss update` changes instances. Default: Manual, which leaves the instances.",
)
@options.choice(
    "--placement",
    members=tuple(PlacementPolicy),
    default=PlacementPolicy.ROUND_ROBIN,
    help="Replica of a new instance: the next replica, or the replica with the fewest disks. Default: round-robin.",
)
@options.allow_remote
@options.tags
def create(session: Session, request: ScaleSetRequest) -> Json:
    """Create a scale set with all instances, or nothing.

    The numbers of instances over the replicas of the region differ by at most one. An interrupted command resumes when the
    same line runs again. A failed command leaves no scale set and no disk.
    """
    return scale_set_json(session.run(scale_sets.create_scale_set, request))


@vmss.command(table=TABLE, example="imgstore vmss scale -g rg -n web --new-capacity 20")
@options.resource_in_group("scale set")
@options.number(
    "--new-capacity",
    "capacity",
    least=0,
    required=True,
    text="Number of instances after the change.",
)
def scale(session: Session, group: str, name: str, capacity: int) -> Json:
    """Change the number of instances of a scale set, or leave the number as it was.

    A lower number removes the instances with the highest ids, with their disks. A change that fails is rolled back.
    """
    return scale_set_json(session.run(scale_sets.scale_scale_set, group=group, name=name, capacity=capacity))


@vmss.command(table=TABLE, example="imgstore vmss show -g rg -n web")
@options.resource_in_group("scale set")
def show(session: Session, group: str, name: str) -> Json:
    """Show a scale set."""
    return scale_set_json(session.run(scale_sets.show_scale_set, group=group, name=name))


@vmss.command("list", table=TABLE, example="imgstore vmss list -g rg -o table")
@options.some_group
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest) -> Json:
    """List the scale sets of one resource group, or of all resource groups."""
    return [scale_set_json(each) for each in session.page(scale_sets.page_scale_sets, page, group=group)]


@vmss.command("list-instances", table=_INSTANCES, example="imgstore vmss list-instances -g rg -n web -o table")
@options.resource_in_group("scale set")
def list_instances(session: Session, group: str, name: str) -> Json:
    """List the instances of a scale set with their disks, by instance id."""
    scale_set = session.run(scale_sets.show_scale_set, group=group, name=name)
    return [instance_json(each, scale_set) for each in session.run(scale_sets.list_instances, group=group, name=name)]


@vmss.command(example="imgstore vmss delete -g rg -n web --yes", question="Delete the scale set '{name}'?")
@options.resource_in_group("scale set")
@options.yes
def delete(session: Session, group: str, name: str) -> None:
    """Stop and delete all instances of a scale set with their disks, then the scale set."""
    session.run(scale_sets.delete_scale_set, group=group, name=name)
