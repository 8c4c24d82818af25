"""The pages of a list show each item once, in order, for any page size. A token of another list is refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.paging import Page, PageRequest


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def page(keys: list[str], request: PageRequest, of: str = "/a/galleries") -> Page[str]:
    after = request.start_key(of)
    behind = [key for key in keys if after is None or key > after]
    return Page.from_rows(behind[: request.limit], request, of=of, key=lambda key: key)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), unique=True), st.integers(1, 5))
def test_all_pages_together_equal_the_list(keys: list[str], size: int) -> None:
    keys.sort()
    shown: list[str] = []
    token: str | None = None
    for _ in range(len(keys) + 1):
        part = page(keys, PageRequest(items_max=size, token=token))
        assert len(part.items) <= size
        shown += part.items
        token = part.next_token
        if token is None:
            break
    assert shown == keys
    assert page(keys, PageRequest()).items == tuple(keys)


def test_the_last_page_has_no_token() -> None:
    assert page(["a", "b"], PageRequest(items_max=2)) == Page(items=("a", "b"))
    assert page(["a", "b"], PageRequest(items_max=1)).next_token


@pytest.mark.parametrize(
    "token", ["", "x", "ä", "e30", "WzEsIDJd", "NQ", "Wzsd====", encoded("[" * 5_000), encoded('["a", "\\ud800"]')]
)
def test_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="token does not belong to this list") as caught:
        page([], PageRequest(token=token))
    assert (caught.value.target, caught.value.found) == ("nextToken", repr(token[:200]))


def test_a_token_of_another_list_is_refused() -> None:
    token = page(["a", "b"], PageRequest(items_max=1)).next_token
    assert page(["a", "b"], PageRequest(token=token), of="/A/Galleries").items == ("b",)
    with pytest.raises(InvalidInput, match="token does not belong to this list"):
        page(["a", "b"], PageRequest(token=token), of="/b/galleries")


@pytest.mark.parametrize("size", [0, -1])
def test_empty_page_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match="at least one item") as caught:
        page([], PageRequest(items_max=size))
    assert caught.value.target == "maxItems"
