"""Plug data disks into a running QEMU, and unplug them, over the monitor."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from imgstore.domain.errors import HostFault
from imgstore.hypervisor.command_line import DATA_BUS, Drive, compose_data_disk
from imgstore.hypervisor.qmp import Monitor

_DEVICES: Final = "/machine/peripheral"
_NODES: Final = ("", "-file", "-base")
"""The ends of the names of a disk's block nodes, from the device to the files."""


def list_plugged(monitor: Monitor) -> dict[int, str]:
    """Return the plugged data disks: the uid of the disk by LUN.

    Raises:
        HostFault: the monitor does not answer.
    """
    found = {}
    for each in monitor.run("qom-list", path=_DEVICES):
        lun, dot, uid = each["name"].removeprefix("lun-").partition(".")
        if dot and lun.isdecimal():
            found[int(lun)] = uid
    return found


def plug(monitor: Monitor, drive: Drive) -> None:
    """Plug a data disk into the SCSI bus. After an error nothing of the disk stays in QEMU.

    Raises:
        HostFault: QEMU refuses the disk.
    """
    assert drive.lun is not None, "the OS disk is present from the start"
    if DATA_BUS not in {each["name"] for each in monitor.run("qom-list", path=_DEVICES)}:
        raise HostFault(
            "The running machine has no bus for data disks.",
            found="a machine that an earlier version of imgstore started",
            expected="a machine with a SCSI bus",
            hint="stop the machine, attach the disk, and start the machine",
        )
    node = f"lun-{drive.lun}"
    try:
        first, second = drive.changes_fds
        number = monitor.run("add-fd", fd=first, opaque=node)["fdset-id"]
        monitor.run("add-fd", fd=second, fdset_id=number, opaque=node)
        server = {"type": "unix", "path": drive.socket}
        monitor.run("blockdev-add", driver="nbd", node_name=f"{node}-base", read_only=True, server=server)
        monitor.run("blockdev-add", driver="file", node_name=f"{node}-file", filename=f"/dev/fdset/{number}")
        monitor.run(
            "blockdev-add",
            driver="qcow2",
            node_name=node,
            file=f"{node}-file",
            backing=f"{node}-base",
            discard="unmap",
        )
        monitor.run("device_add", **compose_data_disk(drive.lun, drive.uid))
    except HostFault:
        _remove_nodes(monitor, node, _NODES)
        raise


def unplug(monitor: Monitor, lun: int, uid: str) -> None:
    """Unplug a data disk, and wait until QEMU has written everything and closed the files.

    Raises:
        HostFault: the guest or QEMU keeps the disk.
    """
    node = f"lun-{lun}"
    device = f"{node}.{uid}"
    monitor.run("device_del", id=device)
    monitor.await_event("DEVICE_DELETED", device=device)
    _remove_nodes(monitor, node, _NODES)


def _remove_nodes(monitor: Monitor, node: str, ends: Sequence[str]) -> None:
    for end in ends:
        with suppress(HostFault):
            monitor.run("blockdev-del", node_name=f"{node}{end}")
    for each in monitor.run("query-fdsets"):
        if any(fd.get("opaque") == node for fd in each["fds"]):
            monitor.run("remove-fd", fdset_id=each["fdset-id"])
