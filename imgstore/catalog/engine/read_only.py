"""Read an SQLite catalog that cannot be written: a read-only mount, a full disk, or the home of another user.

SQLite in WAL mode writes two files beside the catalog even to read. The catalog is therefore copied with its log to a
folder of the process, and read there. Commands that change the catalog are refused (invariant E10).
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from imgstore.domain.errors import StoreUnreachable
from imgstore.domain.host.file_systems import check_free_bytes
from imgstore.domain.host.os_errors import is_write_fault

_ATTEMPTS_MAX: Final = 5
_LOG_BYTES: Final = 64 * 1024
"""The bytes that SQLite writes at least beside the catalog."""


def find_write_fault(file: Path) -> OSError | None:
    """Return the error that prevents writing to an existing catalog file or beside the file, or None.

    A missing or unreadable file has no such fault: SQLite and the lock of the upgrade report the cause.
    """
    if not os.access(file, os.R_OK) or not file.stat().st_size:
        return None
    try:
        os.close(os.open(f"{file}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        check_free_bytes(file, _LOG_BYTES)
    except OSError as error:
        return error if is_write_fault(error) else None
    return None if os.access(file, os.W_OK) else OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))


def copy_catalog(file: Path, folder: Path) -> Path:
    """Copy a catalog and its log to a folder, and return the copied file.

    Raises:
        StoreUnreachable: another process changed the catalog during each attempt.
        OSError: the folder cannot be written.
    """
    log = file.with_name(f"{file.name}-wal")
    copy = folder / file.name
    for _ in range(_ATTEMPTS_MAX):
        before = _stamps(file, log)
        shutil.copyfile(file, copy)
        if log.exists():
            shutil.copyfile(log, copy.with_name(log.name))
        if _stamps(file, log) == before:
            return copy
    raise StoreUnreachable(
        f"The catalog {file} cannot be copied.",
        found="another process that changes the catalog all the time",
        expected="a short time without changes",
        hint="run the command again, or run it where the home can be written",
        target=str(file),
    )


def _stamps(*files: Path) -> list[tuple[int, int]]:
    found = [each.stat() for each in files if each.exists()]
    return [(each.st_mtime_ns, each.st_size) for each in found]
