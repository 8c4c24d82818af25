"""Writes and reads qcow2 files with the changes of a disk, above a backing file that a server serves over NBD.

The header of a file has an extension with a description of the base. Programs of QEMU keep extensions that they do not
know. Reading never opens the backing file (invariant F13).

Source: QEMU, "docs/interop/qcow2.txt".
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import ImageRefused, InvalidInput, WorkHeld
from imgstore.domain.storage.sizes import SECTOR_BYTES, ceil_div, round_up
from imgstore.formats.checks import raise_first_failed
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.formats.qemu.allocation import QCOW2_COMPRESSED, QCOW2_OFFSET, QCOW2_ZERO, read_column
from imgstore.formats.qemu.qcow2 import examine_qcow2

_MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION: Final = struct.Struct(">II")
_CLUSTER_BITS: Final = 16
_CLUSTER_BYTES: Final = 1 << _CLUSTER_BITS
_REFCOUNT_ORDER: Final = 4
_BACKING_FORMAT: Final = 0xE2792ACA
_DESCRIPTION: Final = 0x494D4753
"""The type of the extension with the description, "IMGS"."""
_HEADER_BYTES_MAX: Final = 64 * 1024
_BACKING_BYTES_MAX: Final = 1023
"""The limit of the specification for the name of the backing file."""
_WRITE_LOCK_BYTE: Final = 101
"""QEMU holds a shared lock on this byte while it may write the file: block/file-posix.c, RAW_LOCK_PERM_BASE and
BLK_PERM_WRITE."""
_LOCK: Final = struct.Struct("hhqqi4x")
_GET_LOCK: Final = 36
"""F_OFD_GETLK of Linux: include/uapi/asm-generic/fcntl.h"""


def write_qcow2_overlay(path: Path, *, backing: str, virtual_bytes: int, description: bytes) -> None:
    """Write a qcow2 file without data above a raw backing file.

    Args:
        path: the new file.
        backing: the address of the backing file for programs of QEMU.
        virtual_bytes: the size of the disk, a multiple of 512.
        description: the description of the base, which `read_description` returns.

    Raises:
        InvalidInput: the size or the address is not possible in qcow2.
        OutputError: the file exists or cannot be written.
    """
    name = backing.encode()
    if virtual_bytes % SECTOR_BYTES or len(name) > _BACKING_BYTES_MAX:
        raise InvalidInput(
            "A qcow2 file cannot have the disk as its backing file.",
            found=f"{virtual_bytes} bytes, and an address of {len(name)} bytes",
            expected=f"a multiple of {SECTOR_BYTES} bytes, and an address of at most {_BACKING_BYTES_MAX} bytes",
            hint="use `--overlay FOLDER`, or a shorter path of the socket",
            target="qcow2",
        )
    extensions = b"".join(
        _EXTENSION.pack(kind, len(body)) + body.ljust(round_up(len(body), 8), b"\0")
        for kind, body in ((_BACKING_FORMAT, b"raw"), (_DESCRIPTION, description), (0, b""))
    )
    tables = ceil_div(virtual_bytes, _CLUSTER_BYTES * (_CLUSTER_BYTES // 8))
    clusters = 3 + ceil_div(tables * 8, _CLUSTER_BYTES)
    header = _HEADER.pack(
        _MAGIC, 3, _HEADER.size + len(extensions), len(name), _CLUSTER_BITS, virtual_bytes, 0, tables,
        3 * _CLUSTER_BYTES, _CLUSTER_BYTES, 1, 0, 0, 0, 0, 0, _REFCOUNT_ORDER, _HEADER.size,
    )  # fmt: skip
    file = PendingFile(path, overwrite=False)
    try:
        file.write(header + extensions + name, 0)
        file.write(struct.pack(">Q", 2 * _CLUSTER_BYTES), _CLUSTER_BYTES)
        file.write(np.ones(clusters, dtype=">u2").tobytes(), 2 * _CLUSTER_BYTES)
        file.write(bytes((clusters - 3) * _CLUSTER_BYTES), 3 * _CLUSTER_BYTES)
        file.publish()
    finally:
        file.discard()


def read_description(source: ByteSource) -> bytes | None:
    """Return the description of the base, or None for a file without a description."""
    head = source.read_at(0, min(_HEADER_BYTES_MAX, source.file_bytes))
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    at = _HEADER.unpack_from(head)[-1]
    while at + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == _DESCRIPTION:
            return head[at : at + length]
        if kind == 0:
            return None
        at += round_up(length, 8)
    return None


def read_backing(source: ByteSource) -> str:
    """Return the name of the backing file by a complete header. Empty without a backing file."""
    header = _HEADER.unpack(source.read_at(0, _HEADER.size))
    at, length = header[2], min(header[3], _BACKING_BYTES_MAX)
    return source.read_at(at, min(length, max(0, source.file_bytes - at))).decode("utf-8", "replace") if at else ""


def read_virtual_bytes(source: ByteSource) -> int:
    """Return the size of the disk by a complete header."""
    virtual_bytes: int = _HEADER.unpack(source.read_at(0, _HEADER.size))[5]
    return virtual_bytes


def iterate_changes(source: ByteSource) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield offset, length and bytes of each changed range of the disk, in order. None stands for zeros.

    Raises:
        ImageRefused: the file fails a check, or has compressed clusters.
    """
    findings, virtual_bytes = examine_qcow2(source)
    location = source.identity().location
    raise_first_failed((each for each in findings if each.check != "has_backing_file"), location)
    assert virtual_bytes is not None, "a complete header has a size"
    header = _HEADER.unpack(source.read_at(0, _HEADER.size))
    cluster_bits, l1_at = header[4], header[8]
    cluster_bytes = 1 << cluster_bits
    table_entries = cluster_bytes // 8
    clusters = ceil_div(virtual_bytes, cluster_bytes)
    l1 = read_column(source, l1_at, ceil_div(clusters, table_entries), ">u8") & QCOW2_OFFSET
    for number, table_at in enumerate(l1.tolist()):
        if not table_at:
            continue
        entries = read_column(source, table_at, table_entries, ">u8")[: clusters - number * table_entries]
        if (entries & QCOW2_COMPRESSED).any():
            raise ImageRefused(
                f"{location} has compressed clusters.",
                found="a file that a program rewrote",
                expected="a file that a machine or qemu-io wrote",
                hint="give the file of `imgstore disk attach --qcow2` itself",
                target=location,
            )
        hosts = entries & QCOW2_OFFSET
        is_zero = (entries & QCOW2_ZERO) != 0
        for index in np.flatnonzero((hosts != 0) | is_zero).tolist():
            offset = (number * table_entries + index) * cluster_bytes
            length = min(cluster_bytes, virtual_bytes - offset)
            yield offset, length, None if is_zero[index] else source.read_at(int(hosts[index]), length)


def check_not_written(path: Path) -> None:
    """Check that no program of QEMU may write a file now.

    Raises:
        WorkHeld: a program holds QEMU's lock of a writer.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK_BYTE, 1, 0)
        found = _LOCK.unpack(fcntl.fcntl(descriptor, _GET_LOCK, wanted))
    finally:
        os.close(descriptor)
    if found[0] != fcntl.F_UNLCK:
        raise WorkHeld(
            f"{path} is in use.",
            found="a program of QEMU that may write the file",
            expected="a file that no program writes",
            hint="end the machine, then try again",
            target=str(path),
        )
