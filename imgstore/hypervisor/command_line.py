"""Compose the command line of QEMU for a guest.

A guest is hostile. No name of a person becomes an option of QEMU: commas are escaped, and files are open descriptors
(invariant V3). The guest has a network of its own without a way to the host (`restrict=on`), and only the forwarded ports
lead into the guest (V2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The seccomp filter of QEMU: no new processes, no change of user, no change of scheduling."""

DATA_BUS: Final = "data"
"""The SCSI controller of the data disks."""

_FIRST_DRIVE_SET: Final = 3
"""The number of the first drive's set of descriptors. The firmware's variables and the seed have the sets 1 and 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A port of the host that leads to a port of the guest, over TCP."""

    address: str = "127.0.0.1"
    """An IPv4 address of the host."""
    host_port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A disk that an NBD server on a unix socket serves for reading. The changes of the guest are in a qcow2 file."""

    lun: int | None
    """The LUN of a data disk. None is the OS disk."""
    uid: str
    """The uid of the disk, a part of the name of the device."""
    socket: str
    """The path of the socket."""
    changes_fds: tuple[int, int]
    """Open descriptors of the qcow2 file: for reading, and for reading and writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """UEFI firmware. The variables belong to one machine."""

    code: str
    """The path of the firmware."""
    variables_fds: tuple[int, int]
    """Open descriptors of the machine's copy of the variables: for reading, and for reading and writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """The parts of one guest. A descriptor is open in the parent, and QEMU inherits it."""

    name: str
    """A name for lists of processes."""
    uid: str
    """The UUID of the machine, which the guest finds in its firmware tables."""
    cpus: int
    memory_mib: int
    accelerator: str
    """``kvm`` or ``tcg``."""
    drives: Sequence[Drive]
    monitor_fds: Sequence[int]
    """Listening unix sockets, each for one client of the monitor."""
    console_fd: int
    """A listening unix socket for the serial console."""
    seed_fd: int | None = None
    """The seed of cloud-init, an ISO 9660 image."""
    firmware: Firmware | None = None
    """None starts SeaBIOS."""
    forwards: Sequence[Forward] = ()


def compose_command(program: str, guest: Guest) -> list[str]:
    """Compose the arguments of QEMU, with the path of the program first."""
    return [
        program,
        "-name", f"guest={escape_option(guest.name)}",
        "-uuid", guest.uid,
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-sandbox", SANDBOX,
        "-machine", f"q35,accel={guest.accelerator}",
        "-cpu", "host" if guest.accelerator == "kvm" else "max",
        "-smp", f"cpus={guest.cpus}",
        "-m", f"size={guest.memory_mib}M",
        "-device", "virtio-rng-pci",
        *_monitors(guest.monitor_fds),
        "-chardev", f"socket,id=console,fd={guest.console_fd},server=on,wait=off",
        "-serial", "chardev:console",
        *_network(guest.forwards),
        *_firmware(guest.firmware),
        *_drives(guest.drives),
        *_seed(guest.seed_fd),
    ]  # fmt: skip


def escape_option(word: str) -> str:
    """Return a word as a value inside an option of QEMU, in which a comma begins the next value."""
    return word.replace(",", ",,")


def inherited_fds(guest: Guest) -> list[int]:
    """Return the descriptors that QEMU inherits."""
    seed = [] if guest.seed_fd is None else [guest.seed_fd]
    variables = () if guest.firmware is None else guest.firmware.variables_fds
    changes = [fd for each in guest.drives for fd in each.changes_fds]
    return [*guest.monitor_fds, guest.console_fd, *seed, *variables, *changes]


def _monitors(fds: Sequence[int]) -> list[str]:
    words: list[str] = []
    for number, fd in enumerate(fds):
        words += ["-chardev", f"socket,id=monitor{number},fd={fd},server=on,wait=off"]
        words += ["-mon", f"chardev=monitor{number},mode=control"]
    return words


def _network(forwards: Sequence[Forward]) -> list[str]:
    ports = "".join(
        f",hostfwd=tcp:{escape_option(each.address)}:{each.host_port}-:{each.guest_port}" for each in forwards
    )
    return ["-netdev", f"user,id=net0,restrict=on{ports}", "-device", "virtio-net-pci,netdev=net0,romfile="]


def _firmware(firmware: Firmware | None) -> list[str]:
    if firmware is None:
        return []
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={escape_option(firmware.code)}",
        *_file_set(1, firmware.variables_fds),
        "-drive", "if=pflash,unit=1,format=raw,file=/dev/fdset/1",
    ]  # fmt: skip


def _drives(drives: Sequence[Drive]) -> list[str]:
    """Return the disks: the OS disk on a controller of its own, and data disks on a SCSI bus at their LUNs.

    The SCSI bus exists in each machine, because data disks may come later.
    """
    words = ["-device", f"virtio-scsi-pci,id={DATA_BUS}"]
    for number, each in enumerate(drives, start=_FIRST_DRIVE_SET):
        node = "os" if each.lun is None else f"lun-{each.lun}"
        base = f"driver=nbd,node-name={node}-base,read-only=on,server.type=unix"
        words += [
            *_file_set(number, each.changes_fds, node),
            "-blockdev", f"{base},server.path={escape_option(each.socket)}",
            "-blockdev", f"driver=file,node-name={node}-file,filename=/dev/fdset/{number}",
            "-blockdev", f"driver=qcow2,node-name={node},file={node}-file,backing={node}-base,discard=unmap",
        ]  # fmt: skip
        if each.lun is None:
            words += ["-device", f"virtio-blk-pci,drive={node},serial={node},bootindex=0"]
        else:
            device = ",".join(f"{name}={value}" for name, value in compose_data_disk(each.lun, each.uid).items())
            words += ["-device", device.removeprefix("driver=")]
    return words


def compose_data_disk(lun: int, uid: str) -> dict[str, Any]:
    """Return the options of the device of a data disk. The name of the device has the LUN and the uid of the disk."""
    node = f"lun-{lun}"
    return {
        "driver": "scsi-hd",
        "id": f"{node}.{uid}",
        "drive": node,
        "bus": f"{DATA_BUS}.0",
        "lun": lun,
        "serial": node,
    }


def _file_set(number: int, fds: Sequence[int], name: str = "") -> list[str]:
    """Return a set of descriptors of one file. QEMU opens ``/dev/fdset/<number>`` and takes the descriptor with the right mode."""
    named = f",opaque={name}" if name else ""
    return [word for fd in fds for word in ("-add-fd", f"fd={fd},set={number}{named}")]


def _seed(fd: int | None) -> list[str]:
    if fd is None:
        return []
    return [
        *_file_set(2, (fd,)),
        "-blockdev", "driver=file,node-name=seed,filename=/dev/fdset/2,read-only=on",
        "-device", "virtio-blk-pci,drive=seed,serial=seed",
    ]  # fmt: skip
