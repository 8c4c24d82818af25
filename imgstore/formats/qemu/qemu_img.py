"""Runs qemu-img, confined: its formats are complex, and the images come from untrusted sources.

qemu-img gets a format by name and never detects a format. Memory, time and the size of the output are limited. The
process has neither the caller's environment nor its input. `"backing": null` prevents opening a second file, even if
the image was changed after its checks. Both files use the driver `file`, so the process opens no network connection.
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
"""qemu-img itself maps about 0.5 GiB. The block table of the largest VHDX that passes the checks takes 256 MiB, and its
copy another 256 MiB."""

SECONDS_MIN: Final = 120
"""The time for start, open and fsync on a busy machine."""
FILE_BYTES_PER_SECOND: Final = 4 * MIB
"""The lowest accepted speed for the bytes of the image file: a very old disk with a decompressor. The time depends on
file bytes, not disk bytes, so a small file that expands to a huge disk gets little time."""

WRITTEN_BYTES_OVER: Final = 64 * MIB
"""The output may exceed the disk by 1/64 and these bytes: the tables of qcow2 take less than 1/1000."""

_CHECK_SECONDS: Final = 0.1
"""The time between two checks of the written bytes. A medium of 2 GB/s writes 200 MB in that time."""

# The child sets its limits before it becomes qemu-img, because a hook between fork and exec is not safe with threads.
_CONFINE: Final = """
import os, resource, sys
memory, written = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.argv[3], sys.argv[3:])
"""

_MESSAGE_CHARACTERS_MAX: Final = 400

_LOG_HINT: Final = "replay the log of a copy with `qemu-img check -r all`, then use the copy"
_LIMITS_HINT: Final = "convert the image without these limits to a raw file: `qemu-img convert -O raw`"
_DETAILS_HINT: Final = "`qemu-img check` and `qemu-img info` show details"


def find_qemu_img() -> str:
    """Return the path of qemu-img.

    Raises:
        ToolMissing: qemu-img is not on PATH.
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
        form: the format of the file.
        target: the new file.
        file_bytes: length of the image.
        virtual_bytes: size of the disk.
        check: called several times a second during the conversion. An exception ends qemu-img.

    Raises:
        ToolMissing: qemu-img is missing.
        ImageRefused: qemu-img can't read the image, or not within the limits.
        OutputError: too little space for the raw file.
    """
    source = json.dumps({"backing": None, "file": {"driver": "file", "filename": str(image), "locking": "off"}})
    arguments = ["convert", "-f", form.value, "-O", "raw", f"json:{source}", str(target)]
    _run(arguments, image, target, file_bytes=file_bytes, virtual_bytes=virtual_bytes, check=check)


def write_from_raw(raw: Path, form: DiskFormat, target: Path, *, virtual_bytes: int) -> None:
    """Write the disk in the raw file `raw` to `target` in another format.

    Raises:
        ToolMissing: qemu-img is missing.
        ImageRefused: qemu-img failed.
        OutputError: too little space for the target.
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
            stderr = _wait(running, seconds, check)
        except BaseException as error:
            running.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _refusal(image, f"no end after {seconds:,} seconds", _LIMITS_HINT) from error
            raise
    if running.returncode:
        raise _conversion_error(image, target, running.returncode, stderr.decode("utf-8", "replace"))


def _wait(running: "subprocess.Popen[bytes]", seconds: float, check: Callable[[], None]) -> bytes:
    """Wait for the process, and return its standard error.

    Raises:
        subprocess.TimeoutExpired: the process runs for more than `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        check()
        try:
            return running.communicate(timeout=min(_CHECK_SECONDS, max(0.0, until - time.monotonic())))[1]
        except subprocess.TimeoutExpired:
            if time.monotonic() >= until:
                raise


def _conversion_error(image: Path, target: Path, code: int, stderr: str) -> ImageRefused | OutputError:
    message = " ".join(stderr.split())[-_MESSAGE_CHARACTERS_MAX:] or f"exit code {code}"
    if "No space left on device" in stderr or "Disk quota exceeded" in stderr:
        return OutputError(
            f"There is not enough space for the disk in {target.parent}.",
            found=message,
            expected="space for the disk's data",
            hint="free space in that file system, or use a raw or VHD file, which needs no conversion",
            target=str(target.parent),
        )
    if "log that needs to be replayed" in stderr:
        return _refusal(image, "a VHDX that was not closed: its log was not replayed", _LOG_HINT)
    return _refusal(image, message, _LIMITS_HINT if code < 0 or "memory" in stderr else _DETAILS_HINT)


def _refusal(image: Path, found: str, hint: str) -> ImageRefused:
    return ImageRefused(
        f"qemu-img could not convert {image}.",
        found=found,
        expected="an image that qemu-img reads within its limits of memory and time",
        hint=hint,
        target=str(image),
    )
