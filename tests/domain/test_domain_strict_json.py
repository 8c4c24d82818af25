"""Accepted JSON can be written, stored in every database, and read by every client."""

import json
import math
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.text.strict_json import DEPTH_MAX, INTEGER_MAX, check_json, check_text, finite_json, read_json

REFUSED = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    '{"a": [1e309]}',
    str(INTEGER_MAX + 1),
    str(-INTEGER_MAX - 1),
    "[" + "9" * 5_000 + "]",
    r'"\u0000"',
    r'{"\u0000": 1}',
    r'"\ud800"',
    r'{"a\udfff": 1}',
    '{"a": 1, "a": 1}',
    '{"b": {"a": 1, "c": 2, "a": 3}}',
    "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1),
    "[" * 100_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    "",
    "{",
    "01",
    "[1,]",
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_unstorable_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (str(INTEGER_MAX), INTEGER_MAX),
        (str(-INTEGER_MAX), -INTEGER_MAX),
        ("-0", 0),
        ("1e-999", 0.0),
        ("1e308", 1e308),
        (r'"\\u0000"', r"\u0000"),
        (r'"\ud83d\ude00"', "😀"),
        ("[" * DEPTH_MAX + "]" * DEPTH_MAX, json.loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)),
        ('{"a": {"a": 1}}', {"a": {"a": 1}}),
        (f'"{"9" * 40}"', "9" * 40),
    ],
    ids=lambda each: str(each)[:20],
)
def test_storable_json_is_read(text: str, value: Any) -> None:
    assert read_json(text) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_accepted_value_is_stored_unchanged(value: Any) -> None:
    try:
        check_json(value)
    except ValueError:
        return
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    with sqlite3.connect(":memory:") as database:
        (kept,) = database.execute("select ?", (text,)).fetchone()
    assert read_json(kept) == value
    assert "\0" not in kept.encode().decode()


@given(VALUES)
def test_non_finite_numbers_of_old_values_become_null(value: Any) -> None:
    shown = finite_json(value)
    json.dumps(shown, allow_nan=False)
    if not isinstance(value, float) or math.isfinite(value):
        assert type(shown) is type(value)


@pytest.mark.parametrize("text", ["\0", "a\ud800", "\udcff"])
def test_unstorable_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        check_text(text)


def test_storable_text_is_accepted() -> None:
    check_text("å/😀 'x'\n")


def test_repeated_name_among_many_is_found_in_one_pass() -> None:
    # Counting each name would compare 10^10 pairs.
    many = ",".join(f'"{number}":0' for number in range(100_000))
    with pytest.raises(ValueError, match="the name 'x' twice"):
        read_json(f'{{{many},"x":1,"x":2}}')
