"""Make ranges of a file read as zeros without room on the medium."""

import ctypes
import errno
import os
from typing import Final

from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import write_all

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""Linux's numbers: https://man7.org/linux/man-pages/man2/fallocate.2.html"""
_NO_HOLES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
"""The answers of file systems and kernels that cannot punch holes."""
_ZEROS: Final = bytes(MIB)


def clear_range(fd: int, offset: int, length: int) -> None:
    """Make a range of a file read as zeros: a hole where the file system has holes, written zeros where it has not.

    Args:
        fd: a descriptor that may write. The length of its file does not change.
        offset: the first byte.
        length: bytes, at least one, all inside the file.

    Raises:
        OSError: the medium refuses.
    """
    if not _punch(fd, offset, length):
        _write_zeros(fd, offset, offset + length)


def _punch(fd: int, offset: int, length: int) -> bool:
    """Punch a hole; False where that is not possible here."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return False  # another C library, or another system
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        code = ctypes.get_errno()
        if code in _NO_HOLES:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def _write_zeros(fd: int, begin: int, end: int) -> None:
    """Write zeros over what the file holds in a range; holes stay holes as far as the file system tells them."""
    at = begin
    while at < end:
        at, until = _next_data(fd, at, end)
        for each in range(at, until, MIB):
            write_all(fd, memoryview(_ZEROS)[: min(MIB, until - each)], each)
        at = until


def _next_data(fd: int, at: int, end: int) -> tuple[int, int]:
    """The first range with data at or behind `at`, cut at `end`; an empty one at `end` where none is left."""
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return (min(begin, end), min(os.lseek(fd, begin, os.SEEK_HOLE), end)) if begin < end else (end, end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        if error.errno == errno.EINVAL:
            return at, end  # cannot tell
        raise
