"""Pages of a list: so many at once, and a token that says behind which one the next page begins.

A token holds the last key that was shown (keyset paging), so a page is found through an index however far down it lies,
and what is made or deleted meanwhile neither repeats nor hides what stands.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from imgstore.domain.errors import InvalidInput
from imgstore.domain.strict_json import read_json

_T = TypeVar("_T")
_TOKEN_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which part of a list is wanted; without anything, all of it."""

    items_max: int | None = None
    token: str | None = None
    """Of the page before."""

    def start_key(self, of: str) -> str | None:
        """The key behind which the page begins; None is the beginning.

        Args:
            of: which list it is: the resource id that it is below, and what it lists.

        Raises:
            InvalidInput: no page has so many items, or the token is none of this list.
        """
        if self.items_max is not None and self.items_max < 1:
            raise InvalidInput(
                "A page has at least one item.",
                found=str(self.items_max),
                expected="a whole number from 1 on",
                hint="leave --max-items out for everything",
                target="maxItems",
            )
        return None if self.token is None else _key(self.token, of)

    def start_key_pair(self, of: str) -> tuple[str, str] | None:
        """The same where a name and a uid are the key, with a slash between, which neither has. Raises as `start_key`."""
        key = self.start_key(of)
        return None if key is None else (key.partition("/")[0], key.partition("/")[2])

    @property
    def limit(self) -> int | None:
        """How many to look for: one more than wanted tells whether there is a next page."""
        return None if self.items_max is None else self.items_max + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_T]):
    """A part of a list."""

    items: tuple[_T, ...]
    next_token: str | None = None
    """None on the last page."""

    @classmethod
    def from_rows(cls, found: Sequence[_T], request: PageRequest, *, of: str, key: Callable[[_T], str]) -> Self:
        """The page of what was found with `PageRequest.limit`.

        Args:
            found: in order.
            request: what was asked for.
            of: as in `PageRequest.start_key`.
            key: of an item, what the list is ordered by.
        """
        if request.items_max is None or len(found) <= request.items_max:
            return cls(items=tuple(found))
        items = tuple(found[: request.items_max])
        return cls(items=items, next_token=_token(of, key(items[-1])))

    @classmethod
    def from_all(cls, whole: Sequence[_T], request: PageRequest, *, of: str, key: Callable[[_T], str]) -> Self:
        """The page of a short list that is there whole, by key.

        Raises:
            InvalidInput: the token is none of this list.
        """
        after = request.start_key(of)
        behind = sorted((each for each in whole if after is None or key(each) > after), key=key)
        return cls.from_rows(behind, request, of=of, key=key)


def _token(of: str, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([of.lower(), key]).encode()).decode().rstrip("=")


def _key(token: str, of: str) -> str:
    try:
        kind, key = read_json(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    except (TypeError, ValueError):
        kind, key = None, None
    if kind != of.lower() or not isinstance(key, str):
        raise InvalidInput(
            "The token is none of this list.",
            found=repr(token[:_TOKEN_SHOWN_CHARACTERS]),
            expected="the token that the page before gave",
            hint="leave --next-token out to begin at the first",
            target="nextToken",
        )
    return key
