"""The lock on a new SQLite catalog, which a copy or a restore writes under a temporary name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB
from pathlib import Path

from imgstore.domain.errors import WorkHeld
from imgstore.domain.host import file_systems
from imgstore.domain.host.private_files import FILE_MODE, make_private_folder


def lock_path(file: Path) -> Path:
    """Return the file with the lock on a catalog. A killed process leaves the file without a lock."""
    return file.with_name(f".{file.name}.held")


@contextmanager
def hold_file(file: Path) -> Iterator[None]:
    """Keep other copies and restores into the same file away, because the temporary files have fixed names.

    A missing folder is made.

    Raises:
        WorkHeld: another process copies or restores into the file.
        OSError: the folder cannot be written.
    """
    make_private_folder(file.parent)
    held = lock_path(file)
    descriptor = os.open(held, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            file_systems.lock(descriptor, LOCK_EX | LOCK_NB, held)
        except BlockingIOError as error:
            raise _busy_error(file, held) from error
        if not os.fstat(descriptor).st_nlink:  # The other process has just ended.
            raise _busy_error(file, held)
        try:
            yield
        finally:
            held.unlink()
    finally:
        os.close(descriptor)


def _busy_error(file: Path, held: Path) -> WorkHeld:
    return WorkHeld(
        f"Another process copies or restores a catalog into {file}.",
        found=f"a lock on {held}",
        expected="one copy or restore into a file at a time",
        hint="wait for the other process to end, or name another file",
        target=str(file),
    )
