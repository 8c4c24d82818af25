"""The mark of an unfinished restore. A home with the mark is not opened, because some of its files may be missing."""

import errno
import json
from pathlib import Path
from shlex import quote
from typing import Final

from imgstore.domain.errors import Conflict

MARK_FILE: Final = "restore.unfinished"
_NO_HOME: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def mark_path(home: Path) -> Path:
    """Return the path of the mark."""
    return home / MARK_FILE


def read_mark(home: Path) -> dict[str, str] | None:
    """Return the digest and the file of the backup, and the place of the catalog. Return None without the mark."""
    try:
        text = mark_path(home).read_text(encoding="utf-8")
    except OSError as error:
        if error.errno in _NO_HOME:  # The opening of the home names the cause.
            return None
        raise
    if not text:
        return None  # A restore is checking the home and has written nothing.
    try:
        found = json.loads(text)
        return {name: str(found[name]) for name in ("digest", "file", "place")}
    except (ValueError, KeyError, TypeError):
        return {"digest": "", "file": "FILE"}  # The restore was killed before the mark was complete.


def refuse_unfinished_restore(home: Path) -> None:
    """Refuse a home that a restore has not finished.

    Raises:
        Conflict: the home has the mark.
    """
    found = read_mark(home)
    if found is not None:
        raise Conflict(
            f"The home {home} is not complete, because a restore into the home was interrupted or is in progress.",
            found=f"the mark {MARK_FILE}",
            expected="a home whose restore is finished",
            hint=f"run `imgstore catalog restore {quote(found['file'])}` with the same options again",
            target=str(home),
        )
