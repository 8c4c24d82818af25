"""Copies of an SQLite catalog by SQLite's backup API (https://www.sqlite.org/backup.html).

The reading connection holds a snapshot during the copy. Without the snapshot, each transaction of another process would
start the copy again.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from imgstore.catalog.engine.errors import translate_errors
from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.host.private_files import open_private

_PAGES_AT_ONCE: Final = 1024
_PROBLEMS_MAX: Final = 3


def copy_sqlite(source: Path, target: Path, report: Callable[[int, int], None]) -> None:
    """Copy an SQLite catalog into a new file with mode 0600, while other processes write the catalog.

    Args:
        source: the catalog.
        target: the new file.
        report: called with the copied bytes and all bytes.

    Raises:
        StoreError: a file cannot be read or written.
    """
    os.close(open_private(str(target), os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with (
        translate_errors(str(source)),
        closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)) as reader,
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        page_bytes = reader.execute("PRAGMA page_size").fetchone()[0]
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # The snapshot begins with the first read.
        reader.backup(
            writer,
            pages=_PAGES_AT_ONCE,
            progress=lambda _, left, total: report((total - left) * page_bytes, total * page_bytes),
        )
        reader.execute("ROLLBACK")


def check_sqlite(file: Path) -> tuple[str, str]:
    """Check every page, index and foreign key of a copied catalog that no process has open.

    Returns:
        The revision of the schema, and the uid of the installation.

    Raises:
        ObjectCorrupt: the copy is damaged or is no catalog.
        StoreError: the file cannot be read.
    """
    with (
        translate_errors(str(file)),
        closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)) as reader,
    ):
        problems = [str(row[0]) for row in reader.execute("PRAGMA integrity_check") if row[0] != "ok"]
        problems += [
            f"a row of {row[0]} refers to a missing row of {row[2]}"
            for row in reader.execute("PRAGMA foreign_key_check")
        ]
        if not problems:
            revision = reader.execute("SELECT version_num FROM alembic_version").fetchone()
            uid = reader.execute("SELECT uid FROM installation").fetchone()
            if revision is not None and uid is not None:
                return str(revision[0]), str(uid[0])
            problems = ["a catalog without an installation"]
    raise ObjectCorrupt(
        f"The copy {file} of the catalog is damaged.",
        found="; ".join(problems[:_PROBLEMS_MAX]),
        expected="a copy without faults",
        hint="check the health of the disk and the memory of this machine, then run the command again",
        target=str(file),
    )
