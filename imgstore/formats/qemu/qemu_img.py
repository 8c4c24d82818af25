"""Runs qemu-img, confined: the formats that it reads are intricate, and the images come from anywhere.

It gets a format by name, never probes, runs with limits on memory, time and the size of what it writes, without the
caller's environment and input, and is told by `"backing": null` to open no second file even if the image was changed
after its checks. It opens no network: both its files are named as driver `file`.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import ImageRefused, OutputError, ToolMissing
from imgstore.domain.storage.sizes import GIB, MIB

ADDRESS_SPACE_BYTES_MAX: Final = 2 * GIB
"""qemu-img itself maps about 0.5 GiB; the block table of the largest VHDX that passes the checks is 256 MiB and its
copy as much again."""

SECONDS_MIN: Final = 120
"""Starting, opening and fsync on a busy machine."""
FILE_BYTES_PER_SECOND: Final = 4 * MIB
"""So slow, for each byte of the image file, is a disk of the last century with a decompressor in front. Counting file
bytes, not disk bytes, gives a small file that unpacks to a huge disk little time to do it."""

WRITTEN_BYTES_OVER: Final = 64 * MIB
"""What a container may need besides the disk, at most 1/64 of it and this: qcow2's tables are below 1/1000."""

_CHECK_SECONDS: Final = 0.1
"""Between two looks at what was written: a medium of 2 GB/s takes 200 MB meanwhile."""

# The limits are set by the child before it becomes qemu-img: a hook between fork and exec is not safe among threads.
_CONFINE: Final = """
import os, resource, sys
memory, written = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.argv[3], sys.argv[3:])
"""

_MESSAGE_CHARACTERS_MAX: Final = 400


def find_qemu_img() -> str:
    """The path of qemu-img.

    Raises:
        ToolMissing: it is not on PATH.
    """
    path = shutil.which("qemu-img")
    if path is None:
        raise ToolMissing(
            "qemu-img is needed to read qcow2, VHDX and VMDK and to write qcow2.",
            found="no qemu-img on PATH",
            expected="qemu-img of QEMU 5 or later",
            hint="apt install qemu-utils (Fedora: dnf install qemu-img), or use vhd, vhd-dynamic or raw",
            target="qemu-img",
        )
    return path


def read_into_raw(
    image: Path,
    form: DiskFormat,
    target: Path,
    *,
    file_bytes: int,
    virtual_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write the disk in `image` to the sparse raw file `target`.

    Args:
        image: the file.
        form: what it is.
        target: the new file.
        file_bytes: length of the image.
        virtual_bytes: size of the disk.
        check: called several times a second meanwhile; what it raises ends qemu-img.

    Raises:
        ToolMissing: no qemu-img.
        ImageRefused: qemu-img can't read the image, or not within its limits.
        OutputError: no room for the raw file.
    """
    source = json.dumps({"backing": None, "file": {"driver": "file", "filename": str(image), "locking": "off"}})
    arguments = ["convert", "-f", form.value, "-O", "raw", f"json:{source}", str(target)]
    _run(arguments, image, target, file_bytes=file_bytes, virtual_bytes=virtual_bytes, check=check)


def write_from_raw(raw: Path, form: DiskFormat, target: Path, *, virtual_bytes: int) -> None:
    """Write the disk in the raw file `raw` to `target` in another format.

    Raises:
        ToolMissing: no qemu-img.
        ImageRefused: qemu-img failed.
        OutputError: no room for the target.
    """
    arguments = ["convert", "-f", "raw", "-O", form.value, str(raw), str(target)]
    _run(arguments, raw, target, file_bytes=virtual_bytes, virtual_bytes=virtual_bytes)


def _run(
    arguments: Sequence[str],
    image: Path,
    target: Path,
    *,
    file_bytes: int,
    virtual_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    written_bytes_max = virtual_bytes + virtual_bytes // 64 + WRITTEN_BYTES_OVER
    seconds = SECONDS_MIN + file_bytes // FILE_BYTES_PER_SECOND
    confined = [sys.executable, "-I", "-S", "-c", _CONFINE, str(ADDRESS_SPACE_BYTES_MAX), str(written_bytes_max)]
    with subprocess.Popen(  # noqa: S603 - a fixed program, absolute paths, no shell
        [*confined, find_qemu_img(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=target.parent,
        umask=0o077,
        env={"LC_ALL": "C", "TMPDIR": str(target.parent)},
    ) as running:
        try:
            told = _waited(running, seconds, check)
        except BaseException as error:
            running.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _refused(image, f"no end after {seconds:,} seconds") from error
            raise
    if running.returncode:
        raise _failure(image, target, running.returncode, told.decode("utf-8", "replace"))


def _waited(running: "subprocess.Popen[bytes]", seconds: float, check: Callable[[], None]) -> bytes:
    """What the process says until it ends.

    Raises:
        subprocess.TimeoutExpired: it runs for more than `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        check()
        try:
            return running.communicate(timeout=min(_CHECK_SECONDS, max(0.0, until - time.monotonic())))[1]
        except subprocess.TimeoutExpired:
            if time.monotonic() >= until:
                raise


def _failure(image: Path, target: Path, code: int, told: str) -> ImageRefused | OutputError:
    message = " ".join(told.split())[-_MESSAGE_CHARACTERS_MAX:] or f"exit code {code}"
    if "No space left on device" in told or "Disk quota exceeded" in told:
        return OutputError(
            f"There is no room for the disk in {target.parent}.",
            found=message,
            expected="room for the disk's data",
            hint="make room in that folder's file system, or take a raw or VHD file, which needs no such room",
            target=str(target.parent),
        )
    return _refused(image, message)


def _refused(image: Path, found: str) -> ImageRefused:
    return ImageRefused(
        f"qemu-img could not convert {image}.",
        found=found,
        expected="an image that qemu-img reads within its limits of memory and time",
        hint="`qemu-img check` and `qemu-img info` tell more; a VHDX with a log to replay must be opened once by Hyper-V",
        target=str(image),
    )
