"""Templates with comments, unquoted names and multi-line texts."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.templates.jsonc import read_jsonc

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_plain_json_is_unchanged(value: Any) -> None:
    assert read_jsonc(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, template:{"b": 2}}', {"a": 1, "template": {"b": 2}}),
        ('{ // a comment\n "a": /* another, "b": 1 */ 2 }', {"a": 2}),
        (
            '{"url": "https://x // no comment", "b": "{c: /* d */"}',
            {"url": "https://x // no comment", "b": "{c: /* d */"},
        ),
        ('{"a": "\\"//", b: true}', {"a": '"//', "b": True}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
    ],
)
def test_comments_names_and_multiline_texts(text: str, value: Any) -> None:
    assert read_jsonc(text) == value


@pytest.mark.parametrize("text", ["", "{", '{"a": "', "/*", "{a b: 1}", "'a'"])
def test_invalid_jsonc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line|char"):
        read_jsonc(text)


@pytest.mark.parametrize(
    "text", ["/*" * 200_000, '"' + '\\"' * 200_000, "{" + " " * 400_000, "//" * 200_000, "{ ," * 100_000]
)
def test_parsing_takes_linear_time(text: str) -> None:
    began = time.process_time()
    with pytest.raises((ValueError, RecursionError)):
        read_jsonc(text)
    assert time.process_time() - began < 5, "seconds of this process; twice over would be minutes"
