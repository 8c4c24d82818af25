"""Conversion between rows and frozen values by the names of columns and fields.

A conversion names only the fields or columns whose name or type differs. A missing field or column raises
AttributeError or TypeError, so that a new field of a value cannot be forgotten.
"""

from collections.abc import Callable, Collection
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from sqlalchemy import Table

    Value = TypeVar("Value", bound=DataclassInstance)
else:
    Value = TypeVar("Value")


def to_value(value_type: type[Value], row: Any, **converted: Any) -> Value:
    """Return a value with the fields in `converted`. All other fields come from the columns with the same names."""
    names, read = _fields_of(value_type, tuple(converted))
    make: Callable[..., Value] = value_type
    converted.update(zip(names, read(row)))  # noqa: B905 - `strict` costs time in lists of thousands of rows
    return make(**converted)


def to_columns(table: "Table", value: object, *, omit: Collection[str] = (), **converted: Any) -> dict[str, Any]:
    """Return the columns of a table, except `omit`, for an INSERT or UPDATE.

    Columns in `converted` have the given values. All other columns come from the fields with the same names.
    """
    names, read = _columns_of(table, tuple(omit), tuple(converted))
    return dict(zip(names, read(value), strict=True)) | converted


@cache
def _fields_of(
    value_type: type[Any], converted: tuple[str, ...]
) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    return _reader(tuple(field.name for field in fields(value_type) if field.name not in converted))


@cache
def _columns_of(
    table: "Table", omit: tuple[str, ...], converted: tuple[str, ...]
) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    unknown = {*omit, *converted} - {column.name for column in table.c}
    assert not unknown, f"{table.name} has no column {', '.join(sorted(unknown))}"
    return _reader(tuple(column.name for column in table.c if column.name not in (*omit, *converted)))


def _reader(names: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    # attrgetter is the fastest way to read several attributes, but it returns a tuple only for two names or more.
    if len(names) < 2:
        return names, lambda source: tuple(getattr(source, name) for name in names)
    return names, attrgetter(*names)
