"""``imgstore vm``: machines with their disks. `vm_power.py` starts and stops machines."""

from collections.abc import Sequence
from typing import Any

import click

from imgstore.cli.commands.machines.first_user import read_public_keys, read_word
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group, LazyCommand
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.machines import SIZE
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import MachineRequest, OsProfile
from imgstore.domain.views import MachineView
from imgstore.operations.machines import machines, running
from imgstore.operations.machines.create import create_machine
from imgstore.operations.machines.seeds import make_secrets
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import without_none
from imgstore.wire.responses.machines import machine_json, power_json

_TABLE = columns(
    Name="name",
    Location="location",
    Size="properties.hardwareProfile.vmSize",
    OsState="properties.osState",
    Status="properties.provisioningState",
    PowerState="powerState",
    OsDisk="properties.storageProfile.osDisk.name",
    Image="properties.storageProfile.imageReference.id",
)
_CREATE_EXAMPLE = """
imgstore vm create -g rg -n vm1 -l westus2 --image rg/myGallery/ubuntu --admin-username azureuser
imgstore vm create -g rg -n vm2 -l westus2 --image rg/myGallery/golden/1.0.0 --specialized
imgstore vm create -g rg -n vm3 --attach-os-disk d1 --attach-data-disks d2 d3 --os-type Linux
"""

_POWER = "imgstore.cli.commands.machines.vm_power"

_show_details = click.option("--show-details", "-d", is_flag=True, help="Add the power state.")


@click.group(
    cls=Group,
    lazy={
        "start": LazyCommand(
            target=f"{_POWER}:start",
            summary="Start a machine on this host, with disks that are read from the stores on demand.",
        ),
        "stop": LazyCommand(
            target=f"{_POWER}:stop",
            summary="Stop a machine. The guest gets time for its shutdown, and is then switched off.",
        ),
        "deallocate": LazyCommand(
            target=f"{_POWER}:deallocate",
            summary="Stop a machine, and show the machine as deallocated. The disks and the changed blocks stay.",
        ),
        "disk": LazyCommand(
            target="imgstore.cli.commands.machines.vm_disk:vm_disk",
            summary="Attach and detach the data disks of machines.",
        ),
        "restart": LazyCommand(
            target=f"{_POWER}:restart",
            summary="Stop a running machine, and start the machine with the options of the last start.",
        ),
        "console": LazyCommand(
            target=f"{_POWER}:console",
            summary="Print the serial console since the last start of a machine, at most the last MiB.",
        ),
        "get-instance-view": LazyCommand(
            target=f"{_POWER}:get_instance_view",
            summary="Show the power state and the states of the disks of a machine.",
        ),
    },
)
def vm() -> None:
    """Manage virtual machines, and run machines on this host with QEMU."""


def _read_request(**given: Any) -> dict[str, Any]:
    keys, password, custom_data = (given.pop(name) for name in ("ssh_key_values", "admin_password", "custom_data"))
    profile = OsProfile(
        admin_username=given.pop("admin_username"),
        computer_name=given.pop("computer_name"),
        has_fields=bool(keys or password or custom_data),
    )
    secrets = make_secrets(password or None, None if custom_data is None else read_word(custom_data))
    attached = [word for word in given.pop("attach_data_disks") or () if word]
    plan = without_none(**{part: given.pop(f"plan_{part}") for part in ("name", "publisher", "product")})
    kept: dict[str, Any] = {"plan": plan} if plan else {}
    if keys:
        kept["properties.osProfile"] = {"linuxConfiguration": {"ssh": {"publicKeys": read_public_keys(keys, profile)}}}
    request = MachineRequest(
        **given, profile=profile, secrets=secrets, attach_data_disks=attached, extra_properties=kept
    )
    return {"request": request}


@vm.command(table=_TABLE, example=_CREATE_EXAMPLE, read_options=_read_request)
@options.resource_in_group("virtual machine")
@options.location(
    help="Region of the machine. Default: the region of an attached OS disk, else the region of the group."
)
@click.option(
    "--image",
    metavar="REF|NAME|ID",
    help="An image version as RG/GALLERY/DEFINITION[/VERSION] or by id, also of a shared gallery, or a managed "
    "image by name or id. Default version: latest.",
)
@click.option(
    "--attach-os-disk", metavar="NAME|ID", help="A managed disk with the operating system, in place of an image."
)
@options.words("--attach-data-disks", metavar="NAME|ID ...", help="Managed disks to attach, at the lowest free LUNs.")
@options.os_type
@click.option("--size", metavar="SIZE", help=f"Azure's name of a machine size, with vCPUs and memory. Default: {SIZE}.")
@click.option(
    "--admin-username",
    metavar="NAME",
    help="Name of the first user. A generalized image needs the name, a specialized image refuses the name.",
)
@click.option(
    "--computer-name", metavar="NAME", help="Host name, for a generalized image. Default: the name of the machine."
)
@options.words(
    "--ssh-key-values",
    metavar="FILE|KEY ...",
    help="Public SSH keys of the first user, as files or as text. `vm start` gives the keys to cloud-init.",
)
@click.option(
    "--admin-password",
    metavar="PASSWORD",
    help="Password of the first user. Only the hash for crypt(3) is stored. Other users of this host see the line.",
)
@click.option(
    "--custom-data", metavar="FILE|TEXT", help="Script or document for cloud-init, from a file or from the line."
)
@click.option("--plan-name", metavar="NAME", help="Name of the purchase plan, for an image with a plan.")
@click.option("--plan-publisher", metavar="NAME", help="Publisher of the purchase plan.")
@click.option("--plan-product", metavar="NAME", help="Product of the purchase plan.")
@click.option("--specialized", is_flag=True, help="Require a specialized image, which takes no user and no host name.")
@options.tags
def create(session: Session, request: MachineRequest) -> Json:
    """Create a machine with new disks from one replica, or with existing disks.

    `imgstore vm start` starts the machine. An interrupted command resumes when the same line runs again. On an existing machine the command
    changes the size and the tags.
    """
    return machine_json(session.run(create_machine, request))


def _write_views(session: Session, views: Sequence[MachineView], *, show_details: bool) -> list[Json]:
    """Return machines as JSON, with the power states as az's option ``--show-details`` adds them."""
    if not show_details:
        return [machine_json(each) for each in views]
    return [machine_json(each) | power_json(run) for each, run in running.add_power(session.installation, views)]


@vm.command(table=_TABLE, example="imgstore vm show -g rg -n vm1 --show-details")
@options.resource_in_group("virtual machine")
@_show_details
def show(session: Session, group: str, name: str, *, show_details: bool) -> Json:
    """Show a machine with its disks."""
    view = session.run(machines.show_machine, group=group, name=name)
    return _write_views(session, [view], show_details=show_details)[0]


@vm.command("list", table=_TABLE, example="imgstore vm list -g rg --show-details -o table")
@options.some_group
@_show_details
@options.together(*options.pages)
def list_(session: Session, group: str | None, page: PageRequest, *, show_details: bool) -> Json:
    """List the machines of one resource group, or of all resource groups."""
    return _write_views(session, session.page(machines.page_machines, page, group=group), show_details=show_details)


@vm.command(example="imgstore vm generalize -g rg -n vm1")
@options.resource_in_group("virtual machine")
def generalize(session: Session, group: str, name: str) -> None:
    """Mark a machine as generalized, so that managed images can be made from the machine.

    The mark is permanent. Remove machine-specific data inside the machine first, with waagent -deprovision or sysprep.
    """
    session.run(machines.generalize_machine, group=group, name=name)


@vm.command(example="imgstore vm delete -g rg -n vm1 --yes", question="Delete the virtual machine '{name}'?")
@options.resource_in_group("virtual machine")
@options.yes
def delete(session: Session, group: str, name: str) -> None:
    """Stop and delete a machine, with the blocks that the guest changed. Its disks stay, without a machine."""
    session.run(machines.delete_machine, group=group, name=name)
