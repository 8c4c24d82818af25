"""A qcow2 file with the changes of a disk, for programs that write qcow2: made for a base, and read into an overlay."""

from contextlib import closing
from pathlib import Path

from imgstore.domain.errors import Conflict, InvalidInput
from imgstore.formats import LocalFile
from imgstore.formats.qemu.qcow2_overlay import (
    check_not_written,
    iterate_changes,
    read_backing,
    read_description,
    read_virtual_bytes,
    write_qcow2_overlay,
)
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import GENERATION_BYTES, Header, OverlayBase, pack_header, unpack_header
from imgstore.transfer.overlay.overlay import wrong_base


def make_qcow2_file(path: Path, uri: str, base: OverlayBase) -> None:
    """Make a qcow2 file without changes over a base that a server serves at a URI.

    Raises:
        InvalidInput: the size of the disk or the URI is not possible in qcow2.
        OutputError: the file cannot be written.
    """
    description = pack_header(Header(base=base, generation=bytes(GENERATION_BYTES)))
    write_qcow2_overlay(path, backing=uri, virtual_bytes=base.virtual_bytes, description=description)


def prepare_qcow2_file(path: Path, uri: str, base: OverlayBase) -> None:
    """Make a missing qcow2 file, or check that an existing file has the base and the URI. See `make_qcow2_file`.

    Raises:
        Conflict: the existing file has another base, or the address of another server.
        InvalidInput: another program made the existing file.
    """
    if not path.exists():
        make_qcow2_file(path, uri, base)
        return
    known = read_qcow2_base(path)
    if not known.has_content_of(base):
        raise wrong_base(str(path), known, base)
    with closing(LocalFile(path)) as source:
        backing = read_backing(source)
    if backing != uri:
        raise Conflict(
            f"{path} has another backing file.",
            found=f"{backing}",
            expected=uri,
            hint=f"serve the disk at the former socket, or run `qemu-img rebase -u -F raw -b '{uri}' {path}`",
            target=str(path),
        )


def read_qcow2_base(path: Path) -> OverlayBase:
    """Return the base of a qcow2 file that `make_qcow2_file` made.

    Raises:
        SourceNotFound: there is no such file.
        InvalidInput: another program made the file, or the size of its disk was changed.
    """
    with closing(LocalFile(path)) as source:
        description = read_description(source)
        found = None if description is None else unpack_header(description)
        if found is None or read_virtual_bytes(source) != found[0].base.virtual_bytes:
            raise InvalidInput(
                f"{path} does not name its base.",
                found="a file of another program, or a disk of another size",
                expected="a file of `imgstore disk attach --qcow2`, with the size of its base",
                hint="name that file, or create a version from a whole image",
                target=str(path),
            )
        return found[0].base


def copy_changes(path: Path, device: OverlayDevice) -> None:
    """Write the changes of a qcow2 file to a device over the base of the file.

    Raises:
        WorkHeld: a program of QEMU may write the file.
        ImageRefused: the file is damaged, or has compressed clusters.
        StoreFull: the overlay of the device has no space.
    """
    check_not_written(path)
    with closing(LocalFile(path)) as source:
        for offset, length, data in iterate_changes(source):
            if data is None:
                device.write_zeroes(offset, length)
            else:
                device.write_at(offset, data)
