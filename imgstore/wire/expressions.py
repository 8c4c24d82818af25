"""The expressions of ARM templates: ``[concat(parameters('name'), '-x')]``. Pure, but for what a `Scope` hands in.

After "ARM template functions" and "Syntax and expressions" of Azure's documentation; names of functions are found in any
case. What is not here is refused by its name.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from imgstore.domain.errors import InvalidInput
from imgstore.wire.text import Json

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()\[\],.]))"
)
_CHARACTERS_MAX: Final = 24_576
"""Azure's limit of one expression."""
_DEPTH_MAX: Final = 64
_ITEMS_MAX: Final = 10_000


def _nowhere(what: str) -> Callable[..., NoReturn]:
    def refuse(*_said: Any) -> NoReturn:
        raise bad_template(f"The template function '{what}' is not expected at this location.")

    return refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression may ask for."""

    subscription: str
    group: str
    location: str
    """Of the group."""
    deployment: str
    parameters: Mapping[str, Json] = field(default_factory=dict)
    """By lower-case name, as `variables`."""
    variable: Callable[[str], Json] = field(default_factory=lambda: _nowhere("variables"))
    reference: Callable[[str, bool], Json] = field(default_factory=lambda: _nowhere("reference"))
    """A resource by its id or name: its properties, or all of it."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """The index of each loop around here, by lower-case name; that of the innermost under "" too."""


def bad_template(message: str, *, found: str | None = None, expected: str | None = None) -> InvalidInput:
    """What is raised for a template that means nothing here."""
    return InvalidInput(
        f"Deployment template validation failed: {message}",
        found=found,
        expected=expected,
        hint="mend the template; nothing was deployed of what depends on this",
        target="properties.template",
        code="InvalidTemplate",
    )


def evaluated(value: Json, scope: Scope) -> Json:
    """A value of a template with every expression in it evaluated.

    Raises:
        InvalidInput: one can't be; its code is ``InvalidTemplate``.
    """
    try:
        return _evaluated(value, scope)
    except RecursionError as error:
        raise bad_template("The template is nested too deeply.") from error


def _evaluated(value: Json, scope: Scope) -> Json:
    if isinstance(value, Mapping):
        return {str(_evaluated(name, scope)): _evaluated(each, scope) for name, each in value.items()}
    if isinstance(value, list):
        return [_evaluated(each, scope) for each in value]
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    if value.startswith("[["):
        return value[1:]
    if len(value) > _CHARACTERS_MAX:
        raise bad_template(
            "An expression is too long.", found=f"{len(value)} characters", expected=f"{_CHARACTERS_MAX}"
        )
    return _Reader(value[1:-1], scope).whole()


class _Reader:
    """Reads an expression and evaluates it as it goes."""

    def __init__(self, text: str, scope: Scope) -> None:
        self._text, self._scope = text, scope
        self._tokens = _tokens(text)
        self._at, self._depth = 0, 0

    def whole(self) -> Json:
        value = self._value()
        if self._at != len(self._tokens):
            self._fail("the end")
        return value

    def _value(self) -> Json:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise bad_template("An expression is nested too deeply.", expected=f"at most {_DEPTH_MAX} levels")
        kind, word = self._next("a value")
        if kind == "text":
            value: Json = word[1:-1].replace("''", "'")
        elif kind == "number":
            value = int(word)
        elif kind == "name":
            value = self._called(word)
        else:
            self._at -= 1
            self._fail("a value")
        while self._peek() in (".", "["):
            value = self._inside(value)
        self._depth -= 1
        return value

    def _called(self, name: str) -> Json:
        self._expect("(")
        if name.lower() == "if":
            return self._chosen()
        arguments: list[Json] = []
        while self._peek() != ")":
            arguments.append(self._value())
            if self._peek() != ")":
                self._expect(",")
        self._expect(")")
        return _call(name, arguments, self._scope)

    def _chosen(self) -> Json:
        """``if``: what is not chosen is read over, not evaluated."""
        condition = self._value()
        if not isinstance(condition, bool):
            raise bad_template("The first parameter of 'if' is no boolean.", found=json.dumps(condition, default=str))
        self._expect(",")
        first = self._value() if condition else self._skipped()
        self._expect(",")
        second = self._skipped() if condition else self._value()
        self._expect(")")
        return first if condition else second

    def _skipped(self) -> Json:
        """Nothing: what stands here is read over."""
        open_marks = 0
        while (mark := self._peek()) is not None and (open_marks or mark not in (",", ")")):
            open_marks += {"(": 1, "[": 1, ")": -1, "]": -1}.get(mark, 0)
            self._at += 1
        return None

    def _inside(self, value: Json) -> Json:
        if self._peek() == ".":
            self._at += 1
            kind, name = self._next("a name")
            if kind != "name":
                self._fail("a name")
            return _member(value, name)
        self._at += 1
        key = self._value()
        self._expect("]")
        return _member(value, key)

    def _peek(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _next(self, expected: str) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            self._fail(expected)
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            self._fail(f"'{mark}'")
        self._at += 1

    def _fail(self, expected: str) -> NoReturn:
        found = self._peek()
        raise bad_template(
            f"The expression '[{self._text[:200]}]' can't be read.",
            found="its end" if found is None else repr(found),
            expected=expected,
        )


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise bad_template(f"The expression '[{text[:200]}]' can't be read.", found=repr(text[at : at + 20]))
        assert match.lastgroup is not None, "each way to match has a name"
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return tokens


def _member(value: Json, key: Json) -> Json:
    if isinstance(value, Mapping) and isinstance(key, str):
        for name, each in value.items():
            if name.lower() == key.lower():
                return each
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    there = list(value) if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise bad_template(f"The language expression property '{key}' doesn't exist.", found=f"available: {there}")


def _call(name: str, arguments: Sequence[Json], scope: Scope) -> Json:
    function = _FUNCTIONS.get(name.lower())
    if function is None:
        raise bad_template(
            f"The template function '{name}' is not valid.",
            found=name,
            expected=f"one of {', '.join(sorted((*_FUNCTIONS, 'if')))}",
        )
    try:
        return function(scope, *arguments)
    except InvalidInput:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise bad_template(
            f"The template function '{name}' was called with what it does not take.",
            found=json.dumps(list(arguments), default=str)[:300],
            expected=str(error)[:200],
        ) from error


def resource_id(scope: Scope, *said: Json) -> str:
    """``resourceId([subscription], [group], type, name, ...)``."""
    words = [_text(each) for each in said]
    at = next((place for place, word in enumerate(words) if "/" in word), None)
    if at is None or at > 2:
        raise ValueError("a type with its provider: Microsoft.Compute/galleries")
    above, kind, names = words[:at], words[at].split("/"), words[at + 1 :]
    if len(names) != len(kind) - 1:
        raise ValueError(f"{len(kind) - 1} names for {words[at]}")
    group = above[-1] if above else scope.group
    subscription = above[0] if len(above) == 2 else scope.subscription
    pairs = "/".join(f"{word}/{name}" for word, name in zip(kind[1:], names, strict=True))
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind[0]}/{pairs}"


def _reference(scope: Scope, name: Json, _version: Json = None, full: Json = None) -> Json:
    return scope.reference(_text(name), str(full).lower() == "full")


def _group(scope: Scope) -> Json:
    return {
        "id": f"/subscriptions/{scope.subscription}/resourceGroups/{scope.group}",
        "name": scope.group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": scope.location,
        "properties": {"provisioningState": "Succeeded"},
    }


def _copy_index(scope: Scope, *said: Json) -> int:
    loop = said[0] if said and isinstance(said[0], str) else ""
    offset = next((each for each in said if isinstance(each, int)), 0)
    if loop.lower() not in scope.copies:
        raise bad_template("The template function 'copyIndex' is not expected at this location.")
    return scope.copies[loop.lower()] + offset


def _parameter(scope: Scope, name: Json) -> Json:
    key = _text(name).lower()
    if key not in scope.parameters:
        raise bad_template(f"The template parameter '{name}' is not found.", found=f"{sorted(scope.parameters)}")
    return scope.parameters[key]


def _concat(_: Scope, *said: Json) -> Json:
    if said and all(isinstance(each, list) for each in said):
        return [item for each in said for item in each]
    return "".join(_text(each) for each in said)


def _format(_: Scope, pattern: Json, *said: Json) -> str:
    return re.sub(r"\{(\d+)\}", lambda match: _text(said[int(match[1])]), _text(pattern))


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str | int):
        return str(value)
    return json.dumps(value, separators=(",", ":"))


def _unique(_: Scope, *said: Json) -> str:
    """Thirteen letters, always the same for the same texts; not those that Azure would give."""
    digest = hashlib.sha256("\0".join(map(_text, said)).encode()).digest()
    return "".join("abcdefghijklmnopqrstuvwxyz234567"[byte % 32] for byte in digest[:13])


def _range(_: Scope, start: Json, count: Json) -> Json:
    if not 0 <= count <= _ITEMS_MAX:
        raise ValueError(f"0 to {_ITEMS_MAX} items")
    return list(range(start, start + count))


def _contains(_: Scope, where: Json, what: Json) -> bool:
    if isinstance(where, Mapping):
        return _text(what).lower() in {name.lower() for name in where}
    return what in where


def _equals(_: Scope, one: Json, other: Json) -> bool:
    return type(one) is type(other) and bool(one == other)


def _split(_: Scope, text: Json, by: Json) -> Json:
    return re.split("|".join(map(re.escape, by if isinstance(by, list) else [by])), text)


def _union(_: Scope, *said: Json) -> Json:
    if all(isinstance(each, Mapping) for each in said):
        return {name: value for each in said for name, value in each.items()}
    whole = [each for items in said for each in items]
    return [each for place, each in enumerate(whole) if each not in whole[:place]]


_FUNCTIONS: Final[Mapping[str, Callable[..., Json]]] = {
    "parameters": _parameter,
    "variables": lambda scope, name: scope.variable(_text(name)),
    "reference": _reference,
    "resourceid": resource_id,
    "resourcegroup": _group,
    "subscription": lambda scope: {
        "id": f"/subscriptions/{scope.subscription}",
        "subscriptionId": scope.subscription,
        "displayName": scope.subscription,
    },
    "deployment": lambda scope: {"name": scope.deployment},
    "copyindex": _copy_index,
    "concat": _concat,
    "format": _format,
    "string": lambda _, value: _text(value),
    "int": lambda _, value: int(value),
    "bool": lambda _, value: value if isinstance(value, bool) else {"true": True, "false": False}[_text(value).lower()],
    "tolower": lambda _, text: text.lower(),
    "toupper": lambda _, text: text.upper(),
    "trim": lambda _, text: text.strip(),
    "replace": lambda _, text, old, new: text.replace(old, new),
    "substring": lambda _, text, start, count=None: text[start:] if count is None else text[start : start + count],
    "startswith": lambda _, text, start: text.lower().startswith(start.lower()),
    "endswith": lambda _, text, end: text.lower().endswith(end.lower()),
    "split": _split,
    "join": lambda _, items, by: by.join(map(_text, items)),
    "length": lambda _, value: len(value),
    "empty": lambda _, value: value is None or len(value) == 0,
    "first": lambda _, items: items[0] if items else ("" if isinstance(items, str) else None),
    "last": lambda _, items: items[-1] if items else ("" if isinstance(items, str) else None),
    "contains": _contains,
    "range": _range,
    "createarray": lambda _, *items: list(items),
    "array": lambda _, value: value if isinstance(value, list) else [value],
    "createobject": lambda _, *said: dict(zip(said[::2], said[1::2], strict=True)),
    "union": _union,
    "coalesce": lambda _, *said: next((each for each in said if each is not None), None),
    "json": lambda _, text: json.loads(text),
    "null": lambda _: None,
    "true": lambda _: True,
    "false": lambda _: False,
    "equals": _equals,
    "not": lambda _, value: {True: False, False: True}[value],
    "and": lambda _, *said: all(said),
    "or": lambda _, *said: any(said),
    "less": lambda _, one, other: one < other,
    "lessorequals": lambda _, one, other: one <= other,
    "greater": lambda _, one, other: one > other,
    "greaterorequals": lambda _, one, other: one >= other,
    "add": lambda _, one, other: one + other,
    "sub": lambda _, one, other: one - other,
    "mul": lambda _, one, other: one * other,
    "div": lambda _, one, other: int(one / other),
    "mod": lambda _, one, other: one % other,
    "min": lambda _, *said: min(said[0] if isinstance(said[0], list) else said),
    "max": lambda _, *said: max(said[0] if isinstance(said[0], list) else said),
    "uniquestring": _unique,
}
