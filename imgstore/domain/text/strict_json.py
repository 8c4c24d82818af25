"""Read JSON from untrusted callers. Every database can store an accepted value, and every client can read the value.

RFC 8259 permits documents that later break an answer: numbers outside of every type, repeated names, halves of
surrogate pairs, and unlimited nesting. Python's reader also accepts ``NaN``, and reads ``1e999`` as Infinity.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

DEPTH_MAX: Final = 100
"""The highest nesting of lists and objects. Azure's resources have a dozen levels, and nested templates some dozens."""
INTEGER_MAX: Final = 2**63 - 1
"""The highest absolute value of an integer. Azure's clients use ``int64``."""

_LONG_NUMBER: Final = re.compile(r"[0-9]{19}")
_CONTAINERS: Final = (dict, list)


def read_json(text: str, loads: Callable[..., Any] = json.loads) -> Any:
    """Return the value of a JSON document.

    Args:
        text: the document.
        loads: `json.loads`, or a function with the same arguments for a wider grammar.

    Raises:
        ValueError: the document is not JSON, or has a value that `check_json` rejects, or repeats a name in an object.
    """
    # Only a document with a number of 19 digits can contain an integer of more than 64 bits. C code reads the others.
    integers = {"parse_int": _integer} if _LONG_NUMBER.search(text) else {}
    try:
        value = loads(text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_object, **integers)
    except RecursionError:
        raise ValueError(f"more than {DEPTH_MAX} levels of nesting") from None
    check_json(value)
    return value


def check_json(value: Any) -> None:
    """Check a computed JSON value, such as the result of a template expression.

    Raises:
        ValueError: a number is not finite, an integer has more than 64 bits, the nesting is too deep, or a text or name
            contains the character U+0000 or half of a surrogate pair.
    """
    _check_depth(value)
    # The C encoder checks most rules in a single pass, faster than Python code visits a large body.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    _check_encodable(text)
    if "\\u0000" in text and _has_null(value):
        raise ValueError("the character U+0000")
    if _LONG_NUMBER.search(text):
        _check_integers(value)


def check_text(text: str) -> None:
    """Check a text from outside of JSON: an argument of a command line, a path, a header.

    Raises:
        ValueError: the text contains the character U+0000 or half of a surrogate pair.
    """
    _check_encodable(text)
    if "\0" in text:
        raise ValueError("the character U+0000")


def finite_json(value: Any) -> Any:
    """Return a copy of a JSON value, with null for each number that is not finite.

    Catalogs from releases before `read_json` may contain such numbers.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite_json(each) for name, each in value.items()}
    return [finite_json(each) for each in value] if isinstance(value, list | tuple) else value


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is not a character") from None


def _check_depth(value: Any) -> None:
    level, depth = ([value] if isinstance(value, _CONTAINERS) else []), 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise ValueError(f"more than {DEPTH_MAX} levels of nesting")
        level = [each for container in level for each in _items(container) if isinstance(each, _CONTAINERS)]


def _check_integers(value: Any) -> None:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, int) and abs(each) > INTEGER_MAX:
            raise ValueError("an integer of more than 64 bits")
        if isinstance(each, _CONTAINERS):
            left += _items(each)


def _has_null(value: Any) -> bool:
    """Return whether a text or name contains U+0000, and not only the six characters of the escape."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str) and "\0" in each:
            return True
        if isinstance(each, dict) and any("\0" in name for name in each):
            return True
        if isinstance(each, _CONTAINERS):
            left += _items(each)
    return False


def _items(container: Any) -> Sequence[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def _constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"the number {word[:40]} is too large")
    return number


def _integer(word: str) -> int:
    if len(word) > 20 or abs(number := int(word)) > INTEGER_MAX:
        raise ValueError(f"the integer {word[:40]} has more than 64 bits")
    return number


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"the name {_repeated_name(pairs)[:80]!r} twice in an object")
    return made


def _repeated_name(pairs: Sequence[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("a name is repeated")
