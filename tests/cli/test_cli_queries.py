"""Queries that ask for too much are refused with the limit; others go through."""

from typing import Any

import click
import pytest

from imgstore.cli.framework.queries import compile_query, search


@pytest.mark.parametrize(
    "text",
    [
        "|".join(["[@,@]"] * 40),
        "|".join(["[@,@][]"] * 40),
        "|".join(["{a:@,b:@}"] * 40) + "|to_string(@)",
        "|".join(["[@,@]"] * 16) + "|[" + ",".join(["@==@"] * 100) + "]",
        "|".join(["join('',[@,@])"] * 40),
    ],
)
def test_a_query_that_doubles_ends_at_a_limit(text: str) -> None:
    with pytest.raises(click.UsageError, match="asks for too much work: at most"):
        search("aaaaaaaa", compile_query(text))


@pytest.mark.parametrize("text", ["[" * 5_000, "a" * 10_001, "a["])
def test_a_text_that_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        compile_query(text)


def test_a_deep_query_is_refused() -> None:
    with pytest.raises(click.UsageError, match="nested too deeply"):
        search([], compile_query("|".join(["@"] * 4_000)))


def test_a_large_list_is_queried() -> None:
    body: Any = [{"name": f"v{n}", "properties": {"tags": {"n": str(n)}}} for n in range(10_000)]
    query = compile_query("[?properties.tags.n=='9999'].{n:name,t:properties.tags}")
    assert search(body, query) == [{"n": "v9999", "t": {"n": "9999"}}]
