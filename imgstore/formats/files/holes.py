"""Make ranges of a file read as zeros without using space on the medium."""

import ctypes
import errno
import os
from typing import Final

from imgstore.domain.host.file_systems import is_missing_ability, may_be_missing_ability
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import write_all

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""Linux's numbers: https://man7.org/linux/man-pages/man2/fallocate.2.html"""
_ZEROS: Final = bytes(MIB)


def clear_range(fd: int, offset: int, length: int) -> None:
    """Make a range of a file read as zeros: a hole if the file system has holes, else written zeros.

    Args:
        fd: a descriptor that may write. The length of the file does not change.
        offset: the first byte.
        length: bytes, at least one, all inside the file.

    Raises:
        OSError: an error of the medium.
    """
    if not _punch(fd, offset, length):
        _write_zeros(fd, offset, offset + length)


def _punch(fd: int, offset: int, length: int) -> bool:
    """Punch a hole; return False if this system can't."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return False  # another C library, or another system
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        code = ctypes.get_errno()
        error = OSError(code, os.strerror(code))
        if may_be_missing_ability(error):
            return False
        if code != errno.EINTR:
            raise error
    return True


def _write_zeros(fd: int, begin: int, end: int) -> None:
    """Write zeros over the data in a range. Holes stay holes if the file system reports holes."""
    at = begin
    while at < end:
        at, until = _next_data(fd, at, end)
        for each in range(at, until, MIB):
            write_all(fd, memoryview(_ZEROS)[: min(MIB, until - each)], each)
        at = until


def _next_data(fd: int, at: int, end: int) -> tuple[int, int]:
    """Return the first range with data at or after `at`, cut at `end`; an empty range at `end` if no data is left."""
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return (min(begin, end), min(os.lseek(fd, begin, os.SEEK_HOLE), end)) if begin < end else (end, end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        if is_missing_ability(error):
            return at, end  # the file system reports no holes
        raise
