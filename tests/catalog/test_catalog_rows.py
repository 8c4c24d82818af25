"""Rows and frozen values are converted by the names of columns and fields."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from imgstore.catalog.engine.rows import to_columns, to_value

BOXES = Table(
    "boxes",
    MetaData(),
    Column("uid", String),
    Column("name", String),
    Column("name_key", String),
    Column("width", Integer),
    Column("served_at", Integer),
)
Row = namedtuple("Row", "uid name name_key width served_at")  # noqa: PYI024 - a stand-in for SQLAlchemy's rows
ROW = Row("u1", "Box", "box", 3, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    uid: str
    name: str
    size: tuple[int, int]
    width: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    name: str


def test_value_has_the_columns_of_its_fields() -> None:
    assert to_value(Box, ROW, size=(3, 4)) == Box(uid="u1", name="Box", size=(3, 4), width=3)
    assert to_value(Label, ROW) == Label(name="Box")


def test_converted_field_replaces_the_column() -> None:
    assert to_value(Box, ROW, size=(3, 4), width=7).width == 7
    assert to_value(Label, ROW, name="other") == Label(name="other")


def test_field_without_a_column_is_an_error() -> None:
    with pytest.raises(AttributeError, match="size"):
        to_value(Box, ROW)


def test_converted_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TypeError, match="depth"):
        to_value(Box, ROW, size=(3, 4), depth=1)


def test_columns_come_from_the_fields_of_the_same_names() -> None:
    box = Box(uid="u1", name="Box", size=(3, 4), width=3)
    columns = to_columns(BOXES, box, omit=("served_at",), name_key="box")
    assert columns == {"uid": "u1", "name": "Box", "name_key": "box", "width": 3}
    assert to_columns(BOXES, box, omit=("served_at",), name_key="box", width=9)["width"] == 9


def test_column_without_a_field_is_an_error() -> None:
    with pytest.raises(AttributeError, match="name_key"):
        to_columns(BOXES, Box(uid="u1", name="Box", size=(3, 4)), omit=("served_at",))


def test_unknown_column_is_an_error() -> None:
    box = Box(uid="u1", name="Box", size=(3, 4))
    with pytest.raises(AssertionError, match="boxes has no column depth"):
        to_columns(BOXES, box, omit=("served_at",), name_key="box", depth=1)
