"""``imgstore disk trace``: record which blocks a boot reads, and store these blocks as a boot pack in each replica."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from imgstore.cli.commands.machines.disk import disk
from imgstore.cli.commands.machines.disk_attach import AttachTarget, check_names_disk_or_image, listen
from imgstore.cli.framework import options
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.cli.framework.stop_signals import handle_sigterm_as_sigint
from imgstore.domain.errors import InvalidInput
from imgstore.domain.host.os_errors import describe
from imgstore.domain.names import ImageReference
from imgstore.domain.reports import BootPackReport
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB
from imgstore.formats.files.atomic_file import translate_errors
from imgstore.nbd.server import NbdServer
from imgstore.operations.disks.boot_traces import publish_trace
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_disk, open_lazy_image
from imgstore.segments.boot_pack import PACK_BYTES_MAX
from imgstore.transfer.block_trace import TracedDevice
from imgstore.wire.boot_trace import BootTrace, parse_trace, trace_json
from imgstore.wire.json_text import Json

_EXAMPLE = """
imgstore disk trace --gallery-image-reference rg/myGallery/ubuntu/1.0.0 --socket /run/trace.sock
imgstore disk trace --gallery-image-reference rg/myGallery/ubuntu/1.0.0 --from-file boot.json
"""
_CHECK_SECONDS: Final = 0.5
_TABLE = columns(
    Region="region",
    StorageAccountType="storageAccountType",
    Replica="replica",
    Blocks="blocks",
    StoredBytes="storedBytes",
    Problem="problem",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """The disk to trace, and the source of the trace."""

    group: str | None
    name: str | None
    """The name of the disk. None for an image."""
    reference: ImageReference | None
    """The image. None for a disk."""
    lun: int | None
    location: str | None
    socket: Path | None
    """The socket for the boot. None reads the trace from a file."""
    from_file: Path | None
    trace_file: Path | None
    """The file to write the recorded trace to."""
    limit_bytes: int


def _read_trace(**given: Any) -> dict[str, Any]:
    """Make the request from the options."""
    check_names_disk_or_image(given)
    if (given["socket"] is None) is (given["from_file"] is None):
        raise click.UsageError("Give --socket to record a boot, or --from-file to use a recorded boot.")
    if given["from_file"] is not None and given["trace_file"] is not None:
        raise click.UsageError("--trace-file goes with --socket: a trace is written when it is recorded.")
    return {"request": TraceRequest(**given)}


@disk.command(table=_TABLE, example=_EXAMPLE, read_options=_read_trace)
@click.option("-g", "--resource-group", "group", metavar="NAME", help="Name of the disk's resource group.")
@click.option("-n", "--name", metavar="NAME", help="Name of the disk.")
@options.reference(
    "--gallery-image-reference",
    required=False,
    text="Image to trace in place of a disk. Default version: latest.",
)
@options.lun("--gallery-image-reference-lun", "LUN of the image's data disk to trace. Default: the OS disk.")
@options.location(help="With an image: region to read the image in. Default: the region of the gallery.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Unix socket to make for the boot. The recording ends when the last client leaves.",
)
@click.option(
    "--trace-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --socket: file to write the recorded trace to, as JSON.",
)
@click.option(
    "--from-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of --trace-file with a recorded trace, in place of --socket.",
)
@options.number(
    "--limit-bytes",
    least=MIB,
    most=PACK_BYTES_MAX,
    unit="BYTES",
    default=PACK_BYTES_MAX,
    show_default=True,
    text="Largest sum of blocks. Later reads are not recorded.",
)
def trace(session: Session, request: TraceRequest) -> Json:
    """Record which blocks a boot reads, and store them as a boot pack in each replica.

    The command serves the disk over NBD. Boot a machine from the socket with `snapshot=on`, and shut the machine down: the
    recording ends when the last client leaves, or at SIGTERM or SIGINT. Later boots of the disk read the pack ahead of the
    guest. New versions inherit the pack. Without a pack, boots only take longer.
    """
    if request.reference is None:
        assert request.group is not None, "a disk has a group"
        assert request.name is not None, "a disk has a name"
        opening = session.run(open_lazy_disk, group=request.group, name=request.name)
    else:
        opening = session.run(open_lazy_image, reference=request.reference, lun=request.lun, location=request.location)
    blocks_max = request.limit_bytes // BLOCK_BYTES
    with handle_sigterm_as_sigint(), opening as opened:
        if request.from_file is not None:
            found = parse_trace(_read_text(request.from_file), blocks_max)
        else:
            found = _record(session, request, opened, blocks_max)
        reports = session.run(
            publish_trace, opened=opened, virtual_bytes=found.virtual_bytes, blocks=list(found.blocks)
        )
    return _report_json(reports)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(
            f"The trace {path} cannot be read.",
            found=describe(error, path),
            expected="a file of `imgstore disk trace --trace-file`",
            hint="check the path and the rights of the file",
            target="from-file",
        ) from error


def _record(session: Session, request: TraceRequest, opened: LazyDisk, blocks_max: int) -> BootTrace:
    """Serve a disk until the last client leaves, and return the trace."""
    device = TracedDevice(opened, blocks_max)
    server = NbdServer(device, description=opened.source, note=session.warn)
    target = AttachTarget(socket=request.socket, host="", port=0, certificates=None, once=True)
    with listen(server, target) as uri:
        try:
            session.warn(f"clients can connect to {uri}")
            while not server.is_left:
                server.wait(_CHECK_SECONDS)
                opened.check()
        except KeyboardInterrupt:
            session.warn("the recording ends")
        finally:
            server.stop()
    if device.is_full:
        session.warn(f"the trace has the first {request.limit_bytes} bytes of the boot only (--limit-bytes)")
    recorded = BootTrace(virtual_bytes=device.virtual_bytes, blocks=device.blocks)
    if request.trace_file is not None:
        with translate_errors(request.trace_file):
            request.trace_file.write_text(json.dumps(trace_json(recorded)) + "\n", encoding="utf-8")
    return recorded


def _report_json(reports: Sequence[BootPackReport]) -> Json:
    return [
        {
            "region": each.slot.key.region,
            "storageAccountType": str(each.slot.key.storage_account_type),
            "replica": each.slot.key.ordinal,
            "blocks": each.blocks,
            "storedBytes": each.stored_bytes,
            "problem": each.problem,
        }
        for each in reports
    ]
