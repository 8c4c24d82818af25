"""SQLite's write-ahead log: does the log beside a catalog file belong to that file?

A backup that is copied over the file while the log of the former file stays is the worst of both: SQLite reads some pages
from the backup and others from the log, and nothing looks damaged. So each transaction that changes something counts in
`user_version`, which is on the file's first page. The first page in a log then has the count of the file, plus one.

Formats: https://www.sqlite.org/fileformat2.html, sections 1.3 (header) and 4.1 (log).
"""

import struct
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from imgstore.domain.errors import StoreMismatch

_COUNTS: Final = 1 << 31
"""`user_version` is a signed number of 32 bits; the count begins again at 0."""
_COUNT_OFFSET: Final = 60
_LOG_HEADER: Final = struct.Struct(">8xI4x8s8x")
"""Of the log: bytes of a page, and the salt that each of its frames repeats."""
_FRAME_HEADER: Final = struct.Struct(">I4x8s8x")
"""Of a frame: the page's number, counted from 1, and the salt."""


def count_changes(connection: Connection) -> int:
    """How many rows a SQLite connection has changed since it was opened."""
    driver: Any = connection.connection.dbapi_connection
    return int(driver.total_changes)


def count_transaction(connection: Connection) -> None:
    """Count a SQLite transaction that changed something, as its last statement."""
    count = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    connection.exec_driver_sql(f"PRAGMA user_version = {(count + 1) % _COUNTS}")


def check_log_matches(file: Path) -> None:
    """Refuse a catalog file beside the log of another state of it. Call this before SQLite opens the file.

    Raises:
        StoreMismatch: the file was replaced by an older one, and the log was left.
    """
    log = file.with_name(f"{file.name}-wal")
    try:
        # The log first: what another process brings into the file meanwhile only raises the file's count.
        begun = _first_count(log)
        if begun is None:
            return
        base = _read_count(file)
    except OSError:
        return  # SQLite says better what is wrong.
    if base is None or (base - begun + 1) % _COUNTS < _COUNTS // 2:
        return
    raise StoreMismatch(
        f"The catalog file {file} was replaced by an older one, and the write-ahead log of the former file was left.",
        found=f"a file after {base} transactions, and a log that begins with number {begun}",
        expected="a catalog file without a log, or with its own",
        hint=f"end all processes of the installation, then move {log.name} and {file.name}-shm away to use the older file, or "
        "put the former file back; together they would be a damaged catalog",
        target=str(file),
    )


def _first_count(log: Path) -> int | None:
    """The count on the first copy of page 1 in a log; None where there is none."""
    try:
        stream = log.open("rb")
    except FileNotFoundError:
        return None
    with stream:
        head = stream.read(_LOG_HEADER.size)
        if len(head) < _LOG_HEADER.size:
            return None
        page_bytes, salt = _LOG_HEADER.unpack(head)
        while len(frame := stream.read(_FRAME_HEADER.size)) == _FRAME_HEADER.size:
            number, frame_salt = _FRAME_HEADER.unpack(frame)
            if frame_salt != salt:
                return None  # Left over from before the log began again.
            if number == 1:
                return _decode_count(stream.read(_COUNT_OFFSET + 4))
            stream.seek(page_bytes, 1)
    return None


def _read_count(file: Path) -> int | None:
    with file.open("rb") as stream:
        return _decode_count(stream.read(_COUNT_OFFSET + 4))


def _decode_count(page: bytes) -> int | None:
    return int.from_bytes(page[_COUNT_OFFSET:], "big") if len(page) == _COUNT_OFFSET + 4 else None
