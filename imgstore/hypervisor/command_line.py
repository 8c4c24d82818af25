"""Compose the command line of QEMU for a guest.

A guest is hostile. QEMU gets no option from a name of a person: names are escaped or absent, and files are passed as open
descriptors where QEMU can take them. The guest has a network of its own without a way to the host (`restrict=on`), and
only the forwarded ports lead into the guest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The seccomp filter of QEMU: no new processes, no change of user, no change of scheduling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A port of the host that leads to a port of the guest, over TCP."""

    address: str = "127.0.0.1"
    """An IPv4 address of the host."""
    host_port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A disk that an NBD server on a unix socket serves."""

    lun: int | None
    """The LUN of a data disk. None is the OS disk."""
    socket: str
    """The path of the socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """UEFI firmware. The variables belong to one machine."""

    code: str
    """The path of the firmware."""
    variables_fd: int
    """An open descriptor of the machine's copy of the variables."""


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
    files = [guest.seed_fd, guest.firmware.variables_fd if guest.firmware is not None else None]
    return [*guest.monitor_fds, guest.console_fd, *(each for each in files if each is not None)]


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
        "-add-fd", f"fd={firmware.variables_fd},set=1",
        "-drive", "if=pflash,unit=1,format=raw,file=/dev/fdset/1",
    ]  # fmt: skip


def _drives(drives: Sequence[Drive]) -> list[str]:
    """Return the disks: the OS disk on a controller of its own, and data disks on a SCSI bus at their LUNs."""
    words: list[str] = []
    if any(each.lun is not None for each in drives):
        words += ["-device", "virtio-scsi-pci,id=data"]
    for each in drives:
        node = "os" if each.lun is None else f"lun-{each.lun}"
        words += [
            "-blockdev",
            f"driver=nbd,node-name={node},server.type=unix,server.path={escape_option(each.socket)},discard=unmap",
        ]
        if each.lun is None:
            words += ["-device", f"virtio-blk-pci,drive={node},serial={node},bootindex=0"]
        else:
            words += ["-device", f"scsi-hd,drive={node},bus=data.0,lun={each.lun},serial={node}"]
    return words


def _seed(fd: int | None) -> list[str]:
    if fd is None:
        return []
    return [
        "-add-fd", f"fd={fd},set=2",
        "-blockdev", "driver=file,node-name=seed,filename=/dev/fdset/2,read-only=on",
        "-device", "virtio-blk-pci,drive=seed,serial=seed",
    ]  # fmt: skip
