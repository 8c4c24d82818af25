"""A check that SQLite's write-ahead log belongs to the catalog file beside the log.

Somebody may copy a backup over the file and leave the log of the former file. SQLite then reads some pages from the
backup and other pages from the log, without an error. Therefore each transaction that changes a row increments
`user_version` on the first page of the file. The first page in a log must have the count of the file plus one.

Formats: https://www.sqlite.org/fileformat2.html, sections 1.3 (header) and 4.1 (log).
"""

import struct
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from imgstore.domain.errors import StoreMismatch

_COUNTS: Final = 1 << 31
"""`user_version` is a signed number of 32 bits. The count returns to 0 after the maximum."""
_COUNT_OFFSET: Final = 60
_LOG_HEADER: Final = struct.Struct(">8xI4x8s8x")
"""The fields of the log's header: bytes of a page, and the salt that each frame repeats."""
_FRAME_HEADER: Final = struct.Struct(">I4x8s8x")
"""The fields of a frame's header: the number of the page, counted from 1, and the salt."""


def count_changes(connection: Connection) -> int:
    """Return the number of rows that an SQLite connection has changed since its opening."""
    driver: Any = connection.connection.dbapi_connection
    return int(driver.total_changes)


def count_transaction(connection: Connection) -> None:
    """Count an SQLite transaction that changed rows. Call this as the last statement of the transaction."""
    count = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    connection.exec_driver_sql(f"PRAGMA user_version = {(count + 1) % _COUNTS}")


def check_log_matches(file: Path) -> None:
    """Refuse a catalog file beside a log of another file. Call this before SQLite opens the file.

    Raises:
        StoreMismatch: an older file replaced the catalog file, and the log was left.
    """
    log = file.with_name(f"{file.name}-wal")
    try:
        # Read the log first. A checkpoint by another process in between can only increase the count of the file.
        begun = _first_count(log)
        if begun is None:
            return
        base = _read_count(file)
    except OSError:
        return  # SQLite reports this error better.
    if base is None or (base - begun + 1) % _COUNTS < _COUNTS // 2:
        return
    raise StoreMismatch(
        f"The catalog file {file} was replaced by an older one, and the write-ahead log of the former file was left.",
        found=f"a file with {base} transactions, and a log that begins with transaction {begun}",
        expected="a catalog file without a log, or with the log of this file",
        hint=f"stop all processes of the installation. Then move {log.name} and {file.name}-shm away to use the older file, "
        "or restore the former file. Both files together are a damaged catalog",
        target=str(file),
    )


def _first_count(log: Path) -> int | None:
    """Return the count on the first copy of page 1 in a log, or None if there is none."""
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
                return None  # The frame is older than the last reset of the log.
            if number == 1:
                return _decode_count(stream.read(_COUNT_OFFSET + 4))
            stream.seek(page_bytes, 1)
    return None


def _read_count(file: Path) -> int | None:
    with file.open("rb") as stream:
        return _decode_count(stream.read(_COUNT_OFFSET + 4))


def _decode_count(page: bytes) -> int | None:
    return int.from_bytes(page[_COUNT_OFFSET:], "big") if len(page) == _COUNT_OFFSET + 4 else None
