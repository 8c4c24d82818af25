"""The functions of ARM templates, by name.

Source: "ARM template functions" in Azure's documentation. Each function takes the scope and the arguments. Wrong
arguments raise Python's own errors. A result that is larger than any template needs is refused before the function
computes the result.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin

from imgstore.domain.text.strict_json import read_json
from imgstore.templates import datetimes
from imgstore.templates.scope import InvalidArgument, Scope
from imgstore.templates.scope_functions import SCOPE_FUNCTIONS, text_of
from imgstore.templates.unique_string import guid, unique_string
from imgstore.wire.json_text import Json

_ITEMS_MAX: Final = 10_000
_CHARACTERS_MAX: Final = 1 << 20
"""The limit for a text that a function makes, eight times Azure's limit."""
_INTEGER_MAX: Final = (1 << 63) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _date_time_add(_: Scope, base: Json, duration: Json, pattern: Json = "u") -> str:
    return datetimes.format_time(datetimes.add_duration(datetimes.parse_time(base), duration), pattern)


def _search_elements(text: str, *words: str) -> int:
    """Return the elements that a search for `words` in `text` counts as."""
    return (1 + len(text) // 16) * sum(1 + len(word) // 16 for word in words)


def _charge_search(scope: Scope, text: Json, *words: Json) -> None:
    """Take a search from the budget before the search begins."""
    scope.budget.spend(_search_elements(text, *words))


def _check_length(characters: int) -> None:
    if characters > _CHARACTERS_MAX:
        raise InvalidArgument(f"a text of at most {_CHARACTERS_MAX} characters")


def _join(texts: Iterable[str], by: str = "") -> str:
    parts = list(texts)
    _check_length(sum(map(len, parts)) + len(by) * len(parts))
    return by.join(parts)


def _concat(_: Scope, *args: Json) -> Json:
    if args and all(isinstance(each, list) for each in args):
        return _collect_items(item for each in args for item in each)
    return _join(map(text_of, args))


def _collect_items(items: Iterable[Json]) -> list[Json]:
    found: list[Json] = []
    for each in items:
        found.append(each)
        if len(found) > _ITEMS_MAX:
            raise InvalidArgument(f"at most {_ITEMS_MAX} items")
    return found


_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{(\d+)(?::([^{}]*))?\}")


def _format(scope: Scope, pattern: Json, *args: Json) -> str:
    """Format texts like .NET's ``String.Format``. Numbers support zero padding only: ``{0:D3}`` and ``{0:000}``."""
    parts, at = [], 0
    for match in _PLACEHOLDER.finditer(pattern):
        scope.budget.spend_on(args[int(match[1])] if match[1] else None)
        parts += [pattern[at : match.start()], match[0][0] if match[1] is None else _format_argument(args, match)]
        at = match.end()
    return _join([*parts, pattern[at:]])


def _format_argument(args: tuple[Json, ...], match: re.Match[str]) -> str:
    value, how = args[int(match[1])], match[2]
    if how is None:
        return text_of(value)
    digits = re.fullmatch(r"[Dd](\d{1,2})|(0+)", how)
    if digits is None or not isinstance(value, int):
        raise InvalidArgument(f"{{0:D3}} or {{0:000}} for a whole number, not {match[0]}")
    width = int(digits[1]) if digits[1] else len(digits[2])
    return f"{'-' if value < 0 else ''}{abs(value):0{width}d}"


def _replace(scope: Scope, text: Json, old: Json, new: Json) -> str:
    if not old:
        raise InvalidArgument("a text to replace")
    _charge_search(scope, text, old)
    _check_length(len(text) + text.count(old) * len(new))
    return str(text.replace(old, new))


def _substring(_: Scope, text: Json, start: Json, count: Json = None) -> str:
    length = len(text) - start if count is None else count
    if start < 0 or length < 0 or start + length > len(text):
        raise InvalidArgument(f"a start and a length within the {len(text)} characters of the text")
    return str(text[start : start + length])


def _pad_left(_: Scope, text: Json, width: Json, fill: Json = " ") -> str:
    _check_length(width)
    return text_of(text).rjust(width, fill)


def _split(scope: Scope, text: Json, by: Json) -> Json:
    words = [each for each in (by if isinstance(by, list) else [by]) if each]
    _charge_search(scope, text, *words)
    if len(words) == 1:
        return _collect_items(text.split(words[0]))
    return _collect_items(re.split("|".join(map(re.escape, words)), text) if words else [text])


def _range(_: Scope, start: Json, count: Json) -> Json:
    if not 0 <= count <= _ITEMS_MAX:
        raise InvalidArgument(f"0 to {_ITEMS_MAX} items")
    return list(range(start, start + count))


def _contains(scope: Scope, where: Json, what: Json) -> bool:
    if isinstance(where, Mapping):
        return text_of(what).lower() in {name.lower() for name in where}
    if isinstance(where, str):
        _charge_search(scope, where, text_of(what))
        return text_of(what) in where
    return any(_is_equal(each, what) for each in where)


def _is_equal(one: Json, other: Json) -> bool:
    return type(one) is type(other) and bool(one == other)


def _index(scope: Scope, where: Json, what: Json) -> int:
    if isinstance(where, str):
        _charge_search(scope, where, what)
        return where.lower().find(what.lower())
    return next((place for place, each in enumerate(where) if _is_equal(each, what)), -1)


def _last_index(scope: Scope, where: Json, what: Json) -> int:
    if isinstance(where, str):
        _charge_search(scope, where, what)
        text, word = where.lower(), what.lower()
        # str.rfind takes time proportional to the product of both lengths, str.find to the sum.
        found = text[::-1].find(word[::-1])
        return found if found < 0 else len(text) - len(word) - found
    return next((place for place in range(len(where) - 1, -1, -1) if _is_equal(where[place], what)), -1)


def _slice(what: Json, start: int | None, end: int | None) -> Json:
    if not isinstance(what, list | str):
        raise InvalidArgument("a list or a text")
    return what[slice(start, end)]


def _union(scope: Scope, *args: Json) -> Json:
    if all(isinstance(each, Mapping) for each in args):
        whole: dict[str, Json] = {}
        for each in args:
            whole = _merge(scope, whole, each)
        return whole
    items = _collect_items(item for items in args for item in items)
    return list({_key(scope, each): each for each in items}.values())


def _merge(scope: Scope, one: Mapping[str, Json], other: Mapping[str, Json]) -> dict[str, Json]:
    """Merge two objects, and nested objects too. The second object wins for all other values."""
    scope.budget.spend(len(one) + len(other))
    both = dict(one)
    for name, value in other.items():
        is_inner = isinstance(both.get(name), Mapping) and isinstance(value, Mapping)
        both[name] = _merge(scope, both[name], value) if is_inner else value
    return both


def _intersection(scope: Scope, first: Json, *args: Json) -> Json:
    scope.budget.spend(len(first) * len(args))
    if isinstance(first, Mapping):
        return {name: value for name, value in first.items() if all(_is_equal(each.get(name), value) for each in args)}
    others = [{_key(scope, item) for item in each} for each in args]
    mine = {_key(scope, each): each for each in first}
    return [each for key, each in mine.items() if all(key in other for other in others)]


_KEYS: Final = json.JSONEncoder(sort_keys=True)
_ELEMENTS_PER_KEY: Final = 4


def _key(scope: Scope, value: Json) -> str:
    scope.budget.spend(_ELEMENTS_PER_KEY)
    return _KEYS.encode(value)


def _try_get(scope: Scope, value: Json, *keys: Json) -> Json:
    for key in keys:
        if isinstance(value, Mapping):
            scope.budget.spend(len(value))
            value = next((each for name, each in value.items() if name.lower() == text_of(key).lower()), None)
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key] if 0 <= key < len(value) else None
        else:
            return None
    return value


def _from_end(items: Json, place: Json) -> Json:
    if not 1 <= place <= len(items):
        raise InvalidArgument(f"1 to {len(items)}")
    return items[-place]


def _check_integer(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _INTEGER_MAX:
        raise InvalidArgument("whole numbers of 64 bits")
    return value


def _quotient(one: int, other: int) -> int:
    """Divide with truncation towards zero, as .NET does."""
    whole = abs(_check_integer(one)) // abs(_check_integer(other))
    return whole if (one < 0) == (other < 0) else -whole


def _check_booleans(args: tuple[Json, ...]) -> tuple[Json, ...]:
    if not all(isinstance(each, bool) for each in args):
        raise InvalidArgument("true or false")
    return args


def _comparison(compare: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare_values(_: Scope, one: Json, other: Json) -> bool:
        if type(one) is not type(other) or not isinstance(one, int | str):
            raise InvalidArgument("two whole numbers or two texts")
        return compare(one, other)

    return compare_values


def _read_integers(args: tuple[Json, ...]) -> list[int]:
    return [_check_integer(each) for each in (args[0] if isinstance(args[0], list) else args)]


def _parse_json(text: str) -> Json:
    try:
        return read_json(text)
    except ValueError as error:
        raise InvalidArgument(f"valid JSON: {error}") from None


def _decode_base64(text: str) -> str:
    return base64.b64decode(text, validate=True).decode()


def _encode_data_uri(text: Json) -> str:
    return f"data:text/plain;charset=utf8;base64,{base64.b64encode(text_of(text).encode()).decode()}"


def _decode_data_uri(text: Json) -> str:
    match = re.fullmatch(r"data:[^,]*?(;base64)?,(.*)", text, re.DOTALL | re.IGNORECASE)
    if match is None:
        raise InvalidArgument("a data URI: data:text/plain,...")
    return _decode_base64(match[2]) if match[1] else unquote(match[2])


def _charge_characters(function: Callable[..., Json]) -> Callable[..., Json]:
    """Charge each character of the arguments, for functions that handle texts character by character in Python."""

    def count_characters(scope: Scope, *args: Json) -> Json:
        scope.budget.spend(sum(len(each) for each in args if isinstance(each, str)))
        return function(scope, *args)

    return count_characters


_VALUES: Final[Mapping[str, Callable[..., Json]]] = {
    "null": lambda _: None,
    "true": lambda _: True,
    "false": lambda _: False,
    "equals": lambda _, one, other: _is_equal(one, other),
    "not": lambda _, value: {True: False, False: True}[value],
    "and": lambda _, *args: all(_check_booleans(args)),
    "or": lambda _, *args: any(_check_booleans(args)),
    "less": _comparison(lambda one, other: one < other),
    "lessorequals": _comparison(lambda one, other: one <= other),
    "greater": _comparison(lambda one, other: one > other),
    "greaterorequals": _comparison(lambda one, other: one >= other),
    "add": lambda _, one, other: _check_integer(_check_integer(one) + _check_integer(other)),
    "sub": lambda _, one, other: _check_integer(_check_integer(one) - _check_integer(other)),
    "mul": lambda _, one, other: _check_integer(_check_integer(one) * _check_integer(other)),
    "div": lambda _, one, other: _quotient(one, other),
    "mod": lambda _, one, other: one - other * _quotient(one, other),
    "min": lambda _, *args: min(_read_integers(args)),
    "max": lambda _, *args: max(_read_integers(args)),
    "int": lambda _, value: _check_integer(int(value)),
    "bool": lambda _, value: {"true": True, "false": False, "1": True, "0": False}[text_of(value).lower()],
    "string": lambda _, value: text_of(value),
    "json": lambda _, text: _parse_json(text),
    "coalesce": lambda _, *args: next((each for each in args if each is not None), None),
}
_TEXTS: Final[Mapping[str, Callable[..., Json]]] = {
    "concat": _concat,
    "format": _format,
    "tolower": lambda _, text: text.lower(),
    "toupper": lambda _, text: text.upper(),
    "trim": lambda _, text: text.strip(),
    "replace": _replace,
    "substring": _substring,
    "padleft": _pad_left,
    "startswith": lambda _, text, start: text.lower().startswith(start.lower()),
    "endswith": lambda _, text, end: text.lower().endswith(end.lower()),
    "split": _split,
    "join": lambda _, items, by: _join(map(text_of, items), by),
    "base64": lambda _, text: base64.b64encode(text_of(text).encode()).decode(),
    "base64tostring": lambda _, text: _decode_base64(text),
    "base64tojson": lambda _, text: _parse_json(_decode_base64(text)),
    "datauri": lambda _, text: _encode_data_uri(text),
    "datauritostring": _charge_characters(lambda _, text: _decode_data_uri(text)),
    "uri": _charge_characters(lambda _, base, relative: urljoin(base, relative)),
    "uricomponent": _charge_characters(lambda _, text: quote(text, safe="")),
    "uricomponenttostring": _charge_characters(lambda _, text: unquote(text)),
    "uniquestring": _charge_characters(lambda _, *args: unique_string([*map(text_of, args)])),
    "guid": lambda _, *args: guid([*map(text_of, args)]),
    "datetimeadd": _charge_characters(_date_time_add),
    "datetimefromepoch": lambda _, seconds: datetimes.format_time(_EPOCH + timedelta(seconds=seconds), "u"),
    "datetimetoepoch": lambda _, text: int(datetimes.parse_time(text).timestamp()),
}
_COLLECTIONS: Final[Mapping[str, Callable[..., Json]]] = {
    "length": lambda _, value: len(value),
    "empty": lambda _, value: value is None or len(value) == 0,
    "first": lambda _, items: items[0] if items else ("" if isinstance(items, str) else None),
    "last": lambda _, items: items[-1] if items else ("" if isinstance(items, str) else None),
    "skip": lambda _, items, count: _slice(items, max(count, 0), None),
    "take": lambda _, items, count: _slice(items, None, max(count, 0)),
    "contains": _contains,
    "indexof": _index,
    "lastindexof": _last_index,
    "range": _range,
    "createarray": lambda _, *items: list(items),
    "array": lambda _, value: value if isinstance(value, list) else [value],
    "createobject": lambda _, *args: dict(zip(args[::2], args[1::2], strict=True)),
    "flatten": lambda _, lists: _collect_items(item for each in lists for item in each),
    "items": lambda _, value: [{"key": name, "value": value[name]} for name in sorted(value, key=str.lower)],
    "objectkeys": lambda _, value: sorted(value.keys(), key=str.lower),
    "union": _union,
    "intersection": _intersection,
    "shallowmerge": lambda _, objects: {name: value for each in objects for name, value in each.items()},
    "tryget": _try_get,
    "indexfromend": lambda _, items, place: _from_end(items, place),
    "tryindexfromend": lambda _, items, place: items[-place] if 1 <= place <= len(items) else None,
}
FUNCTIONS: Final[Mapping[str, Callable[..., Json]]] = {**_VALUES, **_TEXTS, **_COLLECTIONS, **SCOPE_FUNCTIONS}
"""All functions by lower-case name. The parser evaluates ``if``, because only the selected argument is evaluated."""

LAMBDAS: Final = ("lambda", "lambdavariables", "map", "filter", "reduce", "sort", "toobject", "groupby", "mapvalues")
"""Functions that are lambdas or take a lambda."""
