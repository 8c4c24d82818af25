"""Pages of a list, with a token for the next page.

A token contains the last key of the page (keyset paging). An index finds each page, at any depth. Items that are
created or deleted between two pages neither repeat nor hide other items.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from imgstore.domain.errors import InvalidInput
from imgstore.domain.text.strict_json import read_json

_T = TypeVar("_T")
_TOKEN_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A request for a page of a list. The default is the whole list."""

    items_max: int | None = None
    token: str | None = None
    """The token from the previous page."""

    def start_key(self, of: str) -> str | None:
        """Return the key before the first item of the page. None is the start of the list.

        Args:
            of: the list: the parent's resource id and the kind of items.

        Raises:
            InvalidInput: `items_max` is below 1, or the token does not belong to this list.
        """
        if self.items_max is not None and self.items_max < 1:
            raise InvalidInput(
                "A page has at least one item.",
                found=str(self.items_max),
                expected="a whole number of at least 1",
                hint="omit --max-items for the whole list",
                target="maxItems",
            )
        return None if self.token is None else _decode_token(self.token, of)

    def start_key_pair(self, of: str) -> tuple[str, str] | None:
        """Return the name and uid before the first item, for lists with keys of the form name/uid.

        Raises as `start_key`.
        """
        key = self.start_key(of)
        return None if key is None else (key.partition("/")[0], key.partition("/")[2])

    @property
    def limit(self) -> int | None:
        """The number of rows to query. One row more than the page shows whether another page exists."""
        return None if self.items_max is None else self.items_max + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_T]):
    """A page of a list."""

    items: tuple[_T, ...]
    next_token: str | None = None
    """None on the last page."""

    @classmethod
    def from_rows(cls, found: Sequence[_T], request: PageRequest, *, of: str, key: Callable[[_T], str]) -> Self:
        """Return the page for the rows of a query with `PageRequest.limit`.

        Args:
            found: the rows in order.
            request: the request.
            of: the list, as in `PageRequest.start_key`.
            key: returns the sort key of an item.
        """
        if request.items_max is None or len(found) <= request.items_max:
            return cls(items=tuple(found))
        items = tuple(found[: request.items_max])
        return cls(items=items, next_token=_encode_token(of, key(items[-1])))

    @classmethod
    def from_all(cls, whole: Sequence[_T], request: PageRequest, *, of: str, key: Callable[[_T], str]) -> Self:
        """Return a page of a short list, which is given as a whole. Items are sorted by key.

        Raises:
            InvalidInput: the token does not belong to this list.
        """
        after = request.start_key(of)
        remaining = sorted((item for item in whole if after is None or key(item) > after), key=key)
        return cls.from_rows(remaining, request, of=of, key=key)


def invalid_token(token: str) -> InvalidInput:
    """Return the error for a token that does not belong to the list."""
    return InvalidInput(
        "The token does not belong to this list.",
        found=repr(token[:_TOKEN_SHOWN_CHARACTERS]),
        expected="the token from the previous page",
        hint="omit --next-token for the first page",
        target="nextToken",
    )


def _encode_token(of: str, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([of.lower(), key]).encode()).decode().rstrip("=")


def _decode_token(token: str, of: str) -> str:
    try:
        kind, key = read_json(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    except (TypeError, ValueError):
        kind, key = None, None
    if kind != of.lower() or not isinstance(key, str):
        raise invalid_token(token)
    return key
