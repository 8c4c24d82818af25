"""Lookup of a gallery, a definition and a version by name in a single statement.

A GET of a version needs this lookup hundreds of times a second. The statement is built once.
"""

from collections import namedtuple
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Row, Select, Table, bindparam, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.definitions import Definitions
from imgstore.catalog.resources.galleries import Galleries
from imgstore.catalog.resources.versions import Versions
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Gallery, ImageDefinition, ImageVersion

_T = TypeVar("_T")

_groups = schema.groups
_galleries = schema.galleries
_definitions = schema.definitions
_versions = schema.versions


class _Part:
    """The columns of a table in a joined row, read by position and with the original names."""

    def __init__(self, table: Table, begin: int, *more: str) -> None:
        names = [*(column.name for column in table.c), *more]
        self._place = slice(begin, begin + len(names))
        # The fields come from the table, so mypy does not know the names.
        named: Callable[..., Any] = namedtuple(table.name, names)  # type: ignore[misc]  # noqa: PYI024
        self._named = named

    @property
    def begin(self) -> int:
        return self._place.start

    @property
    def end(self) -> int:
        return self._place.stop

    def read(self, row: Row[Any], value: Callable[[Any], _T]) -> _T:
        return value(self._named(*row[self._place]))


_GALLERY: Final = _Part(_galleries, 0, "subscription", "group_name")
_DEFINITION: Final = _Part(_definitions, _GALLERY.end)
_VERSION: Final = _Part(_versions, _DEFINITION.end)

_ABOVE: Final = (
    select(_galleries, _groups.c.subscription, _groups.c.name.label("group_name"), _definitions)
    .join_from(_galleries, _groups)
    .join(_definitions)
    .where(
        _groups.c.subscription_key == bindparam("subscription"),
        _groups.c.name_key == bindparam("group"),
        _galleries.c.name_key == bindparam("gallery"),
        _definitions.c.name_key == bindparam("definition"),
    )
)
_WITH_VERSION: Final = _ABOVE.add_columns(_versions).outerjoin(
    _versions,
    (_versions.c.definition_uid == _definitions.c.uid)
    & (_versions.c.major == bindparam("major"))
    & (_versions.c.minor == bindparam("minor"))
    & (_versions.c.patch == bindparam("patch")),
)


class References(Repository):
    """Galleries, definitions and versions by their names."""

    def find(
        self, subscription: str, group: str, gallery: str, definition: str
    ) -> tuple[Gallery, ImageDefinition] | None:
        """Return the gallery and the definition with these names, or None if a row is missing."""
        row = self._found(_ABOVE, subscription, group, gallery, definition)
        return (
            None
            if row is None
            else (_GALLERY.read(row, Galleries.from_row), _DEFINITION.read(row, Definitions.from_row))
        )

    def find_version(
        self, subscription: str, group: str, gallery: str, definition: str, name: VersionName
    ) -> tuple[Gallery, ImageDefinition, ImageVersion | None] | None:
        """Return the gallery, the definition and the version with these names. The version may be None.

        Return None if the gallery or the definition is missing.
        """
        number = {"major": name.major, "minor": name.minor, "patch": name.patch}
        row = self._found(_WITH_VERSION, subscription, group, gallery, definition, **number)
        if row is None:
            return None
        version = None if row[_VERSION.begin] is None else _VERSION.read(row, Versions.from_row)
        return _GALLERY.read(row, Galleries.from_row), _DEFINITION.read(row, Definitions.from_row), version

    def _found(
        self, statement: Select[Any], subscription: str, group: str, gallery: str, definition: str, **number: int
    ) -> Row[Any] | None:
        above = {"subscription": subscription, "group": group, "gallery": gallery, "definition": definition}
        return self._session.first(statement, {name: fold_name(text) for name, text in above.items()} | number)
