"""Refuse the first start of an installation in the regions of another installation (invariant G16).

A deleted or emptied catalog looks like a first start. A new installation there would not know the existing versions.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.object_keys import FORMAT_KEY
from imgstore.domain.text.strict_json import read_json
from imgstore.regions import Locator

DATABASE_FILE: Final = "catalog.sqlite"
"""The SQLite catalog in a home."""


def check_catalog_file(home: Path, file: Path) -> None:
    """Refuse to create a catalog file if the home contains marked regions. For SQLite, before the file is opened.

    Raises:
        StoreMismatch: the file is missing or empty, and region folders have the mark of an installation.
    """
    marked = read_marked_folders(home)  # First, because another process may create the file now.
    if marked and (not file.exists() or file.stat().st_size == 0):
        what = "is missing" if not file.exists() else "has 0 bytes"
        raise _catalog_lost_error(f"The catalog {file} {what}.", marked)


def check_no_other_installation(place: str, home: Path, locator: Locator) -> None:
    """Refuse to begin an installation in an empty catalog if zones have the mark of another installation.

    Args:
        place: the location of the catalog, for people.
        home: the data home.
        locator: the locator of the regions, with a uid that no zone has.

    Raises:
        StoreMismatch: a reachable zone or a region folder is marked.
    """
    found = read_marked_folders(home) | dict(locator.read_marked_zones())
    if found:
        raise _catalog_lost_error(f"The catalog in {place} is empty.", found)


def read_marked_folders(home: Path) -> dict[str, str]:
    """Return the uid of the installation by the folder of a zone, for the marked region folders of a home."""
    return {str(path.parent): _owner(path) for path in sorted((home / "regions").glob(f"*/zone-*/{FORMAT_KEY}"))}


def _owner(mark: Path) -> str:
    try:
        return str(read_json(mark.read_bytes().decode())["installation"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _catalog_lost_error(message: str, owners: dict[str, str]) -> StoreMismatch:
    return StoreMismatch(
        message,
        found=f"{_format_zones(owners)} of installation {', '.join(sorted(set(owners.values())))}",
        expected="the catalog of that installation, or regions without content",
        hint="name the catalog of that installation with --database or IMGSTORE_DATABASE, or restore the newest backup of "
        "the catalog (`imgstore catalog restore`), or run `imgstore catalog rebuild`. To begin another installation, give it "
        "another home (--home) and other buckets (--regions)",
        target="catalog",
    )


def _format_zones(places: Iterable[str]) -> str:
    first, *others = places
    return f"{first} and {len(others)} more zones" if others else first
