"""``imgstore disk attach``: serve a disk as a block device over NBD."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from imgstore.cli.commands.machines.disk import disk
from imgstore.cli.framework import global_options, options, output
from imgstore.cli.framework.session import Session
from imgstore.cli.framework.stop_signals import handle_sigterm_as_sigint
from imgstore.domain.disks.block_device import BlockDevice
from imgstore.domain.disks.outage import OUTAGE_SECONDS
from imgstore.domain.disks.version_disks import disk_key
from imgstore.domain.names import ImageReference
from imgstore.nbd.channels import load_certificates
from imgstore.nbd.listeners import listen_tcp, listen_unix, uri_of
from imgstore.nbd.server import NbdServer
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_disk, open_lazy_image, overlay_base
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.overlay.overlay import open_overlay
from imgstore.transfer.overlay.qcow2_file import prepare_qcow2_file
from imgstore.wire.json_text import Json

_EXAMPLE = """
imgstore disk attach -g rg -n d1 --socket /run/d1.sock
imgstore disk attach --gallery-image-reference rg/myGallery/ubuntu --socket /run/ubuntu.sock --once
imgstore disk attach -g rg -n d1 --socket /run/d1.sock --overlay ./changes
imgstore disk attach -g rg -n d1 --socket /run/d1.sock --qcow2 ./changes.qcow2
imgstore disk attach -g rg -n d1 --listen 192.0.2.7:10809 --tls-certificates /etc/pki/nbd
"""
_CHECK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """The disk to serve: a managed disk, or a disk of an image."""

    group: str
    """The resource group of the disk. Empty for an image."""
    name: str
    """The name of the disk. Empty for an image."""
    reference: ImageReference | None
    """The image. None for a disk."""
    lun: int | None
    location: str | None
    overlay: Path | None
    """The folder for writes. None serves a read-only disk."""
    qcow2: Path | None
    """The qcow2 file to make for writes of QEMU, over the read-only disk."""
    outage_seconds: float
    """The longest wait of reads for a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachTarget:
    """The address of the server, and the end of the server."""

    socket: Path | None
    """The path of a Unix socket. None listens at a TCP address."""
    host: str
    port: int
    certificates: Path | None
    """The folder with the certificates for TCP."""
    once: bool
    """End when the last client leaves."""


def check_names_disk_or_image(given: Mapping[str, Any]) -> None:
    """Check that the options name either a disk or an image."""
    image_words = (given["reference"], given["lun"], given["location"])
    disk_words = (given["group"], given["name"])
    by_disk = None not in disk_words and image_words == (None, None, None)
    by_image = given["reference"] is not None and disk_words == (None, None)
    if by_disk is by_image:
        raise click.UsageError("Name a disk with -g and -n, or an image with --gallery-image-reference.")


def _read_attach(**given: Any) -> dict[str, Any]:
    """Make the request and the target from the options."""
    check_names_disk_or_image(given)
    if given["socket"] is not None and given["listen"] is not None:
        raise click.UsageError("--socket and --listen exclude each other: a server has one address.")
    if given["socket"] is None and given["listen"] is None:
        raise click.UsageError("Give --socket or --listen.")
    if (given["certificates"] is None) is (given["listen"] is not None):
        raise click.UsageError("--listen and --tls-certificates go together: a TCP address is served with TLS only.")
    if given["overlay"] is not None and (given["qcow2"] is not None or given["read_only"]):
        raise click.UsageError("--overlay goes neither with --qcow2 nor with --read-only.")
    if given["qcow2"] is not None and given["socket"] is None:
        raise click.UsageError("--qcow2 goes with --socket: the file names the address of the disk.")
    host, port = given["listen"] or ("", 0)
    return {
        "request": AttachRequest(
            group=given["group"] or "",
            name=given["name"] or "",
            **{name: given[name] for name in ("reference", "lun", "location", "overlay", "qcow2", "outage_seconds")},
        ),
        "target": AttachTarget(
            socket=given["socket"], host=host, port=port, certificates=given["certificates"], once=given["once"]
        ),
    }


def _parse_address(word: str) -> tuple[str, int]:
    """Parse HOST:PORT. An IPv6 address is in brackets."""
    host, colon, port = word.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"'{word}' is no HOST:PORT, such as 192.0.2.7:10809 or [::1]:10809.")
    return host.removeprefix("[").removesuffix("]"), int(port)


@disk.command(example=_EXAMPLE, read_options=_read_attach)
@click.option("-g", "--resource-group", "group", metavar="NAME", help="Name of the disk's resource group.")
@click.option("-n", "--name", metavar="NAME", help="Name of the disk.")
@options.reference(
    "--gallery-image-reference",
    required=False,
    text="Image to serve in place of a disk. No disk is created. Default version: latest.",
)
@options.lun("--gallery-image-reference-lun", "LUN of the image's data disk to serve. Default: the OS disk.")
@options.location(help="With an image: region to read the image in. Default: the region of the gallery.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Unix socket to make. Only the user of the command can connect.",
)
@click.option(
    "--listen",
    type=_parse_address,
    metavar="HOST:PORT",
    help="TCP address to listen at, with --tls-certificates. Port 0 is any free port.",
)
@click.option(
    "--tls-certificates",
    "certificates",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder with ca-cert.pem, server-cert.pem and server-key.pem. Clients need a certificate of this authority.",
)
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Accept writes, and keep them in this folder. A missing folder is made. The stored disk does not change.",
)
@click.option(
    "--qcow2",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="qcow2 file for the writes of QEMU or libvirt, with the served disk as its backing file. A missing file is made.",
)
@click.option(
    "--outage-seconds",
    type=click.FloatRange(min=0),
    default=OUTAGE_SECONDS,
    metavar="SECONDS",
    help=f"Longest wait of a read while no replica answers. Default: {OUTAGE_SECONDS:.0f}. Then the read fails.",
)
@click.option("--once", is_flag=True, help="End when the last client leaves.")
@click.option("--read-only", is_flag=True, help="Refuse writes. This is the default.")
def attach(session: Session, request: AttachRequest, target: AttachTarget) -> None:
    """Serve a disk or an image as a block device over NBD, until SIGTERM or SIGINT.

    Nothing is copied first: each read fetches only the missing parts of the disk, with every part verified. The parts stay in
    a cache on this machine. If a replica fails, reads continue with another replica. If no replica answers, reads wait. The disk or version cannot be deleted
    meanwhile. The command prints the URI of the disk when clients can connect. With --overlay or --qcow2, `imgstore disk
    commit` makes a disk or an image version of the writes.
    """
    if request.reference is None:
        opening = session.run(
            open_lazy_disk, group=request.group, name=request.name, outage_seconds=request.outage_seconds
        )
    else:
        opening = session.run(
            open_lazy_image,
            reference=request.reference,
            lun=request.lun,
            location=request.location,
            outage_seconds=request.outage_seconds,
        )
    with handle_sigterm_as_sigint(), opening as opened:
        about: dict[str, Json] = {"source": opened.source, "replica": opened.replica}
        base = overlay_base(opened, disk_key(request.lun))

        def prepare(uri: str) -> None:
            if request.qcow2 is not None:
                prepare_qcow2_file(request.qcow2, uri, base)

        with _open_device(opened, base, request.overlay) as device:
            serve_device(
                device, target, about, check=opened.check, warn=session.warn, note=session.note, prepare=prepare
            )
        session.note(f"{opened.fetched_bytes} bytes were read from the stores.")


@contextmanager
def _open_device(opened: LazyDisk, base: OverlayBase, folder: Path | None) -> Iterator[BlockDevice]:
    """Open the overlay in a folder over a disk. Without a folder, yield the read-only disk."""
    if folder is None:
        yield opened
        return
    with closing(open_overlay(folder, base)) as overlay:
        yield OverlayDevice(opened, overlay)


def serve_device(
    device: BlockDevice,
    target: AttachTarget,
    about: dict[str, Json],
    *,
    check: Callable[[], None],
    warn: Callable[[str], None],
    note: Callable[[str], None],
    prepare: Callable[[str], None] = lambda _uri: None,
) -> None:
    """Serve a device until SIGINT, or with `--once` until the last client leaves. Print the URI when clients can connect.

    Args:
        device: the device.
        target: the address.
        about: values to print beside the URI.
        check: called regularly; an exception ends the server.
        warn: prints a problem for people on standard error.
        note: prints a fact that needs no attention.
        prepare: called with the URI before the URI is printed.

    Raises:
        OutputError, InvalidInput: the address or the certificates cannot be used.
        ImgstoreError: the error of `check`, or a failed flush.
    """
    server = NbdServer(device, description=str(about["source"]), note=warn)
    with listen(server, target) as uri:
        try:
            prepare(uri)
            shown = {"uri": uri, "virtualBytes": device.virtual_bytes, "readOnly": device.is_read_only} | about
            output.emit(shown, global_options.of(click.get_current_context()))
            sys.stdout.flush()
            while not (target.once and server.is_left):
                server.wait(_CHECK_SECONDS)
                check()
        except KeyboardInterrupt:
            note("The server ends.")
        finally:
            server.stop()


@contextmanager
def listen(server: NbdServer, target: AttachTarget) -> Iterator[str]:
    """Start the listener of a server, and yield the URI."""
    if target.socket is not None:
        with listen_unix(target.socket) as listener:
            server.start(listener)
            yield uri_of(listener)
        return
    assert target.certificates is not None, "the options need certificates for TCP"
    certificates = load_certificates(target.certificates)
    with listen_tcp(target.host, target.port) as listener:
        server.start(listener, certificates)
        yield uri_of(listener)
