"""A copy of an upload spool while a client writes.

The journal is read first, and then the ranges that the journal names are read from the file. A client may overwrite a
range in between. The journal still has the hash of the former bytes, so an opening of the copy withdraws the range, and
the client sends the range again. The copied journal has no seal, because a seal would prevent this check.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from imgstore.domain.host.private_files import make_private_folder, open_private, write_private_file
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import write_all
from imgstore.transfer.spool_journal import DATA_FILE, JOURNAL_FILE, parse_journal, read_file_bytes


class SpoolSnapshot:
    """The received bytes of an upload as of the moment of `open_snapshot`."""

    def __init__(self, journal: bytes, file_bytes: int, extents: Sequence[tuple[int, int]], file: int) -> None:
        self.journal: Final = journal
        self.file_bytes: Final = file_bytes
        """The length of the whole upload."""
        self.extents: Final = extents
        """The ranges with data, as offset and length, in order. All other bytes are zero or were not received."""
        self._file = file

    @property
    def data_bytes(self) -> int:
        """The number of bytes with data."""
        return sum(length for _, length in self.extents)

    def read(self) -> Iterator[bytes]:
        """Yield the bytes of all extents, one after another.

        Raises:
            OSError: the file cannot be read.
        """
        for offset, length in self.extents:
            for at in range(offset, offset + length, MIB):
                wanted = min(MIB, offset + length - at)
                # A client that clears the upload shortens the file for a moment.
                yield os.pread(self._file, wanted, at).ljust(wanted, b"\0")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def open_snapshot(folder: Path) -> SpoolSnapshot | None:
    """Open the spool in a folder without its lock. Return None if the folder has no upload, or the upload has ended.

    Raises:
        OSError: a file cannot be read.
    """
    with ExitStack() as opened:
        try:
            journal = (folder / JOURNAL_FILE).read_bytes()
            file = os.open(folder / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        file_bytes = read_file_bytes(journal)
        if file_bytes is None:
            return None
        content = parse_journal(journal)
        extents = list[tuple[int, int]]()
        for each in content.ranges:
            if each.digest is None:
                continue
            if extents and sum(extents[-1]) == each.begin:
                offset, length = extents[-1]
                extents[-1] = (offset, length + each.end - each.begin)
            else:
                extents.append((each.begin, each.end - each.begin))
        opened.pop_all()
        return SpoolSnapshot(journal[: content.unsealed_bytes], file_bytes, extents, file)


def write_snapshot(
    folder: Path, journal: bytes, file_bytes: int, extents: Sequence[tuple[int, int]], data: Iterator[bytes]
) -> None:
    """Write a copied spool into a new folder. Bytes outside of the extents are holes.

    Args:
        folder: the folder of the spool.
        journal: the journal without a seal.
        file_bytes: the length of the whole upload.
        extents: the ranges with data, as offset and length.
        data: the bytes of the extents, one after another.

    Raises:
        OSError: a file cannot be written.
    """
    make_private_folder(folder)
    file = open_private(str(folder / DATA_FILE), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(file, file_bytes)
        places = iter(extents)
        at = left = 0
        for part in data:
            rest = memoryview(part)
            while rest:
                if not left:
                    at, left = next(places)
                taken = rest[:left]
                write_all(file, taken, at)
                at, left, rest = at + len(taken), left - len(taken), rest[len(taken) :]
        os.fsync(file)
    finally:
        os.close(file)
    # The journal comes last: without a journal the received bytes do not count.
    write_private_file(folder / JOURNAL_FILE, [journal])
