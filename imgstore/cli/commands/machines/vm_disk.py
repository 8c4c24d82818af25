"""``imgstore vm disk attach`` and ``detach``: the data disks of a machine."""

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.operations.machines.data_disks import attach_disk, detach_disk
from imgstore.wire.json_text import Json
from imgstore.wire.responses.machines import machine_json

_TABLE = columns(Lun="lun", Name="name", SizeGib="diskSizeGB", CreateOption="createOption", Caching="caching")
_machine = click.option(
    "--vm-name", "-n", "machine", required=True, metavar="NAME", help="Name of the virtual machine."
)
_disk = click.option("--name", "--disk", "disk", required=True, metavar="NAME|ID", help="Managed disk by name or id.")


@click.group("disk", cls=Group)
def vm_disk() -> None:
    """Attach and detach the data disks of machines."""


@vm_disk.command(table=_TABLE, example="imgstore vm disk attach -g rg --vm-name vm1 --name data1 --lun 3")
@options.group
@_machine
@_disk
@options.lun("--lun", "LUN of the disk, 0 to 63. Default: the lowest free LUN.")
def attach(session: Session, group: str, machine: str, disk: str, lun: int | None) -> Json:
    """Attach a managed disk to a machine. A running guest gets the disk at once.

    Print the data disks of the machine.
    """
    return _data_disks(machine_json(session.run(attach_disk, group=group, name=machine, disk=disk, lun=lun)))


@vm_disk.command(table=_TABLE, example="imgstore vm disk detach -g rg --vm-name vm1 --name data1")
@options.group
@_machine
@_disk
def detach(session: Session, group: str, machine: str, disk: str) -> Json:
    """Detach a data disk from a machine. Unmount the disk in the guest first.

    Blocks that the guest changed stay on this host, and the next machine with the disk gets the blocks here. Print the other
    data disks.
    """
    return _data_disks(machine_json(session.run(detach_disk, group=group, name=machine, disk=disk)))


def _data_disks(machine: Json) -> Json:
    return machine["properties"]["storageProfile"]["dataDisks"]
