"""The canonical JSON of entries of the ledger: the leaves of the log (invariant M20).

A leaf is the JSON of a row (`revisions.encode_row`) with the name of the table, without null values, with sorted keys and
without spaces. A column that a later migration adds is null in older rows, so their leaves stay. The encoder reads stored
values as the driver returns them, because 10^6 rows are verified at once, and because a changed row may have values that
no code would write.
"""

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    FromClause,
    Integer,
    LargeBinary,
    Table,
    case,
    func,
    literal_column,
)
from sqlalchemy import column as untyped_column
from sqlalchemy import table as untyped_table

from imgstore.catalog.engine.columns import UtcDateTime

_TABLE: Final = "table"
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)

_Convert = Callable[[Any], str]
"""Returns the JSON of a stored value that is not null. Raises TypeError or ValueError for an unexpected value."""


class LeafEncoder:
    """Encodes the rows of a table, in the stored types of an engine."""

    def __init__(self, table: Table, *, is_sqlite: bool) -> None:
        columns = {column.name: column for column in table.c}
        self.names = sorted((*columns, _TABLE))
        """The names of the columns of `selected`."""
        self.source: FromClause = untyped_table(table.name, *(untyped_column(name) for name in columns))
        """The table, whose columns have the values of the driver."""
        self.selected: Sequence[ColumnElement[Any]] = [
            literal_column(f"'{table.name}'")
            if name == _TABLE
            else self.select_column(columns[name], is_sqlite=is_sqlite)
            for name in self.names
        ]
        """The columns for a SELECT, in the order of the values of `encode`."""
        converters = [_find_converter(columns.get(name), is_sqlite=is_sqlite) for name in self.names]
        self._parts = [(f'"{name}":', convert) for name, convert in zip(self.names, converters, strict=True)]
        self._templates: dict[tuple[type, ...], tuple[str, int]] = {}

    def select_column(self, column: "Column[Any]", *, is_sqlite: bool) -> ColumnElement[Any]:
        """Return the expression of a column. A time is the text of a leaf on both engines."""
        stored = self.source.c[column.name]
        if not isinstance(column.type, UtcDateTime):
            return stored
        if is_sqlite:  # Another type than text is no time, and stays as it is.
            text = func.replace(stored, " ", "T").op("||")("Z")
            return case((func.typeof(stored) == "text", text), else_=stored).label(column.name)
        utc = func.timezone("UTC", stored)
        return func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"').label(column.name)

    def encode(self, values: tuple[Any, ...]) -> str:
        """Return the leaf of a row.

        A row with a value of a wrong type was changed by other means. The result then differs from each leaf.

        Args:
            values: the values of `selected`.
        """
        kinds = tuple(map(type, values))
        found = self._templates.get(kinds)
        if found is None:
            found = self._templates[kinds] = self._make_template(kinds)
        template, quotes = found
        text = template % values if quotes else ""
        # Such a text has no character that JSON escapes. This is three times as fast as an encoder for each value.
        if quotes and text.isascii() and text.isprintable() and "\\" not in text and text.count('"') == quotes:
            return text
        return self._encode_each(values)

    def _encode_each(self, values: Sequence[Any]) -> str:
        try:
            parts = [
                prefix + convert(value)
                for (prefix, convert), value in zip(self._parts, values, strict=True)
                if value is not None
            ]
        except (TypeError, ValueError):
            return _ENCODER.encode(["unreadable", *values])
        return "{" + ",".join(part for part in parts if not part.endswith(":null")) + "}"

    def _make_template(self, kinds: Sequence[type]) -> tuple[str, int]:
        """Return a format for rows with values of these types, and the number of quotes. 0 is a row without a format."""
        parts: list[str] = []
        for (prefix, convert), kind in zip(self._parts, kinds, strict=True):
            if kind is type(None):
                parts.append("%.0s")
            elif kind is str and convert is encode_basestring_ascii:
                parts.append(f',{prefix}"%s"')
            elif kind is int and convert is int.__repr__:
                parts.append(f",{prefix}%s")
            else:
                return "", 0
        text = "".join(parts)
        first = text.index(",")
        text = f"{text[:first]}{{{text[first + 1 :]}}}"
        return text, text.count('"')


def _find_converter(column: "Column[Any] | None", *, is_sqlite: bool) -> _Convert:
    kind = None if column is None else column.type
    if isinstance(kind, JSON):
        return _encode_json_text if is_sqlite else _ENCODER.encode
    if isinstance(kind, Boolean):
        return _encode_bool
    if isinstance(kind, Integer):
        return int.__repr__
    if isinstance(kind, LargeBinary):
        return _encode_bytes
    return encode_basestring_ascii


def _encode_json_text(value: str) -> str:
    return _ENCODER.encode(json.loads(value))


def _encode_bool(value: object) -> str:
    if value not in (0, 1):
        raise TypeError(f"{value!r} is no truth value")
    return "true" if value else "false"


def _encode_bytes(value: bytes) -> str:
    return f'"{bytes(value).hex()}"'
