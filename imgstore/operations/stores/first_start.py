"""The first start of an installation: refused where another one's stores are in its place.

A catalog that was deleted, or lost its content, looks like a first start. A new installation in its place would not know
one of the versions that its regions hold.
"""

from collections.abc import Iterable
from pathlib import Path

from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.object_keys import FORMAT_KEY
from imgstore.domain.strict_json import read_json
from imgstore.regions import Locator


def check_catalog_file(home: Path, file: Path) -> None:
    """Refuse to make a catalog file where the home has regions already. For SQLite, before the file is opened.

    Raises:
        StoreMismatch: the file is missing or empty, and region folders are marked as an installation's.
    """
    marked = sorted((home / "regions").glob(f"*/zone-*/{FORMAT_KEY}"))  # Before the file: others make it first.
    if marked and (not file.exists() or file.stat().st_size == 0):
        what = "is missing" if not file.exists() else "has 0 bytes"
        raise _catalog_lost_error(f"The catalog {file} {what}.", {str(path.parent): _owner(path) for path in marked})


def check_no_other_installation(place: str, home: Path, locator: Locator) -> None:
    """Refuse to begin an installation in an empty catalog where zones are marked as another's.

    Args:
        place: the catalog's, for people.
        home: the data home.
        locator: of the regions, with a uid that no zone has.

    Raises:
        StoreMismatch: a zone that can be reached, or a region folder, is marked.
    """
    marked = (home / "regions").glob(f"*/zone-*/{FORMAT_KEY}")
    found = {str(path.parent): _owner(path) for path in sorted(marked)} | dict(locator.read_marked_zones())
    if found:
        raise _catalog_lost_error(f"The catalog in {place} is empty.", found)


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
        hint="restore the newest backup of the catalog. To begin another installation, give it another data home "
        "(--home) and other buckets (--regions)",
        target="catalog",
    )


def _format_zones(places: Iterable[str]) -> str:
    first, *others = places
    return f"{first} and {len(others)} more zones" if others else first
