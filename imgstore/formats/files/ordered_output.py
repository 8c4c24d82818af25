"""Writes a disk in order to a target that keeps its name: standard output, a pipe, or an unmounted block device.

Such a target has no temporary name and cannot be renamed (invariants D5 and P7). The caller passes verified bytes only,
in order, so the target holds a correct beginning of the disk at any time.
"""

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Final, Protocol

from imgstore.domain.errors import OutputError
from imgstore.domain.host.os_errors import describe
from imgstore.domain.storage.sizes import BLOCK_BYTES, GIB, MIB
from imgstore.formats.files.atomic_file import write_all
from imgstore.formats.files.holes import clear_range

STANDARD_OUTPUT: Final = Path("/dev/stdout")
"""The path of `--file -`."""
_STANDARD_OUTPUTS: Final = frozenset({STANDARD_OUTPUT, Path("/dev/fd/1"), Path("/proc/self/fd/1")})
_STANDARD_OUTPUT_FD: Final = 1
_ZEROS: Final = bytes(MIB)
_CLEAR_BYTES: Final = GIB
"""Length of one request to clear a range of a device."""
_BLKROGET: Final = 0x125E
"""The request for the read-only flag of a block device: https://man7.org/linux/man-pages/man2/ioctl_list.2.html"""
_SYS_BLOCK: Final = Path("/sys/dev/block")


class TargetKind(Enum):
    """The kind of an export's target."""

    FILE = auto()
    """A regular file, or a name without a file."""
    STREAM = auto()
    """Standard output, a pipe, or a character device."""
    DEVICE = auto()
    """A block device."""


def is_standard_output(path: Path) -> bool:
    """Return whether a path names the standard output of this process, also by a link to it."""
    if path in _STANDARD_OUTPUTS:
        return True
    try:
        found = os.stat(path)
        is_same = os.path.samestat(found, os.fstat(_STANDARD_OUTPUT_FD))
    except OSError:
        return False
    return is_same and not stat.S_ISBLK(found.st_mode)


def target_kind(path: Path) -> TargetKind:
    """Return the kind of the target at `path`. Links are followed."""
    if is_standard_output(path):
        return TargetKind.STREAM
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return TargetKind.FILE
    if stat.S_ISBLK(mode):
        return TargetKind.DEVICE
    return TargetKind.STREAM if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) else TargetKind.FILE


class OrderedOutput(Protocol):
    """A target that takes bytes in order."""

    written_bytes: int

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data` after the bytes written before."""
        ...

    def write_zeros(self, length: int) -> None:
        """Write zeros after the bytes written before."""
        ...

    def finish(self) -> None:
        """Make the bytes durable, if the target is a medium."""
        ...

    def close(self) -> None:
        """Close the target. May be called twice."""
        ...


def open_output(path: Path, kind: TargetKind, needed_bytes: int) -> OrderedOutput:
    """Open a target that is no file. Nothing is written.

    Args:
        path: the path of the target.
        kind: STREAM or DEVICE.
        needed_bytes: the bytes that will be written.

    Raises:
        OutputError: the target is a terminal, or a device that is in use, read-only or too small, or cannot be opened.
    """
    if kind is TargetKind.DEVICE:
        return _DeviceOutput(path, needed_bytes)
    return _StreamOutput(path)


class _StreamOutput:
    """Standard output, a pipe or a character device."""

    def __init__(self, path: Path) -> None:
        self.written_bytes = 0
        is_standard = is_standard_output(path)
        self._name = "standard output" if is_standard else str(path)
        with self._translate_errors():
            self._fd = os.dup(_STANDARD_OUTPUT_FD) if is_standard else os.open(path, os.O_WRONLY | os.O_NOCTTY)
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            self.close()
            raise OutputError(
                "Standard output is closed. Nothing was written.",
                found="a closed descriptor, or a descriptor for reading",
                expected="a pipe or a file",
                hint="send the bytes to a program or a file (`imgstore disk export ... --file - | zstd > disk.zst`)",
                target=str(path),
            )
        if os.isatty(self._fd):
            self.close()
            raise OutputError(
                f"A disk is not written to a terminal ({self._name}).",
                found="a terminal",
                expected="a pipe or a file",
                hint="send the bytes to a program or a file (`imgstore disk export ... --file - | zstd > disk.zst`)",
                target=str(path),
            )

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`. Wait while a descriptor in non-blocking mode takes no more."""
        rest = memoryview(data)
        with self._translate_errors():
            while rest:
                try:
                    taken = os.write(self._fd, rest)
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
                    continue
                self.written_bytes += taken
                rest = rest[taken:]

    def write_zeros(self, length: int) -> None:
        """Write zeros."""
        for at in range(0, length, len(_ZEROS)):
            self.write(memoryview(_ZEROS)[: length - at])

    def finish(self) -> None:
        """Make a redirected file durable. A pipe has no medium."""
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.fsync(self._fd)

    def close(self) -> None:
        """Close the descriptor, so that a reader sees the end."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise OutputError(
                f"The reader of {self._name} ended before the disk was complete.",
                found=f"a closed pipe after {self.written_bytes:,} bytes",
                expected="a reader that takes all bytes",
                hint="if the reader failed, look at the messages of that program",
                target=self._name,
            ) from error
        except OSError as error:
            raise OutputError(
                f"{self._name[:1].upper()}{self._name[1:]} cannot be written.",
                found=f"{describe(error)} after {self.written_bytes:,} bytes",
                expected="a file, pipe or device that accepts the bytes",
                hint="free space, or choose another target; the bytes written so far are a correct beginning of the disk"
                if self.written_bytes
                else "free space, or choose another target",
                target=self._name,
            ) from error


class _DeviceOutput:
    """An unmounted block device. Bytes after the end of the disk stay as they are."""

    def __init__(self, path: Path, needed_bytes: int) -> None:
        """Check and open a device. The open is exclusive: it fails if the device is mounted or held by the kernel."""
        self.written_bytes = 0
        self._path = path
        with _device_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                _check_device(path, fd, needed_bytes)
            finally:
                os.close(fd)
            self._fd = os.open(path, os.O_WRONLY | os.O_EXCL)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data` at the present end."""
        with _device_errors(self._path, self.written_bytes):
            write_all(self._fd, data, self.written_bytes)
        self.written_bytes += len(data)

    def write_zeros(self, length: int) -> None:
        """Clear a range. The device does so itself if possible."""
        end = self.written_bytes + length
        aligned = end - end % BLOCK_BYTES if self.written_bytes % BLOCK_BYTES == 0 else self.written_bytes
        with _device_errors(self._path, self.written_bytes):
            while self.written_bytes < aligned:
                part = min(_CLEAR_BYTES, aligned - self.written_bytes)
                clear_range(self._fd, self.written_bytes, part)
                self.written_bytes += part
        while self.written_bytes < end:
            self.write(memoryview(_ZEROS)[: end - self.written_bytes])

    def finish(self) -> None:
        """Write the bytes to the medium."""
        with _device_errors(self._path, self.written_bytes):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the device, which ends the exclusive use."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def describe_rest(path: Path, written_bytes: int) -> str | None:
    """Describe the bytes of a device after the end of an exported disk. Return None for other targets.

    Raises:
        OutputError: the device cannot be opened.
    """
    if target_kind(path) is not TargetKind.DEVICE:
        return None
    with _device_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
    if size == written_bytes:
        return f"The disk fills {path} exactly."
    return (
        f"The disk ends at byte {written_bytes:,} of {path}. The {size - written_bytes:,} bytes after it are unchanged."
    )


def _check_device(path: Path, fd: int, needed_bytes: int) -> None:
    if int.from_bytes(fcntl.ioctl(fd, _BLKROGET, bytes(4)), "little"):
        raise OutputError(
            f"The device {path} is read-only.",
            found="a read-only device",
            expected="a device that may be written",
            hint=f"make the device writable (`blockdev --setrw {path}`), or choose another device",
            target=str(path),
        )
    size = os.lseek(fd, 0, os.SEEK_END)
    if size < needed_bytes:
        raise OutputError(
            f"The device {path} is too small for the disk. Nothing was written.",
            found=f"a device of {size:,} bytes",
            expected=f"at least {needed_bytes:,} bytes",
            hint="choose a larger device",
            target=str(path),
        )


@contextlib.contextmanager
def _device_errors(path: Path, written_bytes: int = 0) -> Iterator[None]:
    """Translate errors of the operating system about a device."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EBUSY:
            users = "; ".join(find_device_users(os.stat(path).st_rdev))
            raise OutputError(
                f"The device {path} is in use. Nothing was written.",
                found=users or "a device that the kernel holds (mounted, swap, LVM, RAID or device-mapper)",
                expected="an unmounted device",
                hint="unmount the device (`umount`), or end its other use; `lsblk` shows the users of devices",
                target=str(path),
            ) from error
        hints = {
            errno.EACCES: "run as a user who may write the device (root, or a member of the group `disk`)",
            errno.EPERM: "run as a user who may write the device (root, or a member of the group `disk`)",
            errno.ENXIO: "attach the device first: no medium is behind this name",
            errno.ENOMEDIUM: "insert a medium",
        }
        raise OutputError(
            f"The device {path} cannot be written.",
            found=f"{describe(error)} after {written_bytes:,} bytes",
            expected="a block device that accepts the bytes",
            hint=hints.get(error.errno or 0, "check the device (`dmesg` shows details)"),
            target=str(path),
        ) from error


def find_device_users(device: int) -> list[str]:
    """Describe the uses of a block device, of its partitions and of its whole disk: mount points, swap, and holders."""
    found: list[str] = []
    mounts = _lines(Path("/proc/self/mountinfo"))
    swaps = [line.split()[0] for line in _lines(Path("/proc/swaps"))[1:]]
    for number, name in _related_devices(device):
        for line in mounts:
            fields, _, tail = line.partition(" - ")
            words = fields.split()
            if words[2] == number or tail.split()[1:2] == [name]:
                found.append(f"{name} is mounted at {words[4]}")
        if name in swaps:
            found.append(f"{name} is used as swap")
        holders = _SYS_BLOCK / number / "holders"
        if holders.is_dir():
            found += [f"{name} is held by /dev/{each.name}" for each in sorted(holders.iterdir())]
    return found


def _related_devices(device: int) -> Iterable[tuple[str, str]]:
    """Yield number and name of a device, of its partitions, and of the disk of a partition."""
    number = f"{os.major(device)}:{os.minor(device)}"
    folder = Path(os.path.realpath(_SYS_BLOCK / number))
    yield number, f"/dev/{folder.name}"
    parts = [each.parent for each in folder.glob("*/partition")]
    for each in [*parts, folder.parent] if (folder / "partition").exists() else parts:
        for line in _lines(each / "dev"):
            yield line, f"/dev/{each.name}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
