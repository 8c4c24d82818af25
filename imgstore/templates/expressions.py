"""Evaluate the expressions of ARM templates: ``[concat(parameters('name'), '-x')]``.

Sources: "ARM template functions" and "Syntax and expressions" in Azure's documentation. Names of functions are
case-insensitive. An unsupported function is refused by name. All values from outside come through a `Scope`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, NoReturn

from imgstore.domain.errors import InvalidInput
from imgstore.domain.text.strict_json import INTEGER_MAX, check_json
from imgstore.templates.functions import FUNCTIONS, LAMBDAS
from imgstore.templates.scope import (
    InvalidArgument,
    NotDeployedYet,
    Scope,
    bad_template,
    first_names,
    unavailable_function,
)
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()\[\],.]))"
)
_CHARACTERS_MAX: Final = 24_576
"""Azure's limit for one expression."""
_CHARACTERS_PER_ELEMENT: Final = 4
"""Parsing this many characters of an expression takes as long as handling one element."""
_ELEMENTS_PER_ITERATION: Final = 10
"""Each iteration of a loop needs a scope of its own."""
_DEPTH_MAX: Final = 64
_INTEGER_CHARACTERS_MAX: Final = 20
_CALLS_MAX: Final = 16
"""The limit for nested calls of functions that the template defines."""
COPIES_MAX: Final = 800
"""Azure's limit for one loop, and for the resources of a template."""


def evaluate(value: Json, scope: Scope) -> Json:
    """Evaluate all expressions in a value of a template, and unroll all loops.

    Raises:
        InvalidInput: An expression cannot be evaluated. The code is ``InvalidTemplate``.
    """
    with scope.budget.run():
        try:
            found = _evaluate(value, scope)
        except RecursionError as error:
            raise bad_template("The template is nested too deeply.") from error
        scope.budget.spend_on_result(found)
        try:
            check_json(found)
        except ValueError as error:
            raise bad_template(
                "An expression results in a value that JSON cannot represent.", found=str(error)
            ) from None
    return found


def validate_expressions(value: Json, scope: Scope) -> None:
    """Evaluate everything that does not need deployed resources, and discard the results.

    An invalid expression is therefore reported before anything is created.

    Raises:
        InvalidInput: An expression cannot be evaluated. The code is ``InvalidTemplate``.
    """
    scope.budget.spend(1)
    if isinstance(value, Mapping) and not _loops(value):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            validate_expressions(each, scope)
        return
    with suppress(NotDeployedYet):
        evaluate(value, scope)


def _evaluate(value: Json, scope: Scope) -> Json:
    scope.budget.spend(1)
    if isinstance(value, Mapping):
        loops = _loops(value)
        plain = {name: each for name, each in value.items() if not loops or name.lower() != "copy"}
        made = {_check_name(_evaluate(name, scope)): _evaluate(each, scope) for name, each in plain.items()}
        return made | {_check_name(loop.get("name")): _unroll(loop, scope) for loop in loops}
    if isinstance(value, list):
        return [_evaluate(each, scope) for each in value]
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    if value.startswith("[["):
        return value[1:]
    if len(value) > _CHARACTERS_MAX:
        raise bad_template(
            "An expression is too long.", found=f"{len(value)} characters", expected=f"{_CHARACTERS_MAX}"
        )
    scope.budget.spend(1 + len(value) // _CHARACTERS_PER_ELEMENT)
    return _ExpressionParser(value[1:-1], scope).evaluate()


def _check_name(name: Json) -> str:
    if not isinstance(name, str):
        raise bad_template("The name of a property is not a string.", found=type(name).__name__)
    return name


def _loops(value: Mapping[str, Json]) -> Sequence[Mapping[str, Json]]:
    """Return the property loops of an object. Each loop creates a list with one element per iteration."""
    loops = next((each for name, each in value.items() if name.lower() == "copy"), None)
    if isinstance(loops, list) and loops and all(isinstance(each, Mapping) and "input" in each for each in loops):
        return loops
    return ()


def expand_loop(loop: Json, scope: Scope, *, name: str | None = None) -> list[Scope]:
    """Return the scopes of the iterations of a loop.

    Args:
        loop: The loop, with ``count``, and with ``name`` if `name` is None.
        scope: The scope around the loop.
        name: The name of a loop without a name of its own.

    Raises:
        InvalidInput: The name or the count is missing, or the count is too large.
    """
    loop_name, count = (value_at(loop, "name") if name is None else name), evaluate(value_at(loop, "count"), scope)
    if not isinstance(loop_name, str) or not isinstance(count, int) or isinstance(count, bool):
        raise bad_template("A copy loop needs a name and a count.", found=type(count).__name__)
    if not 0 <= count <= COPIES_MAX:
        raise bad_template(
            f"The count of the copy loop '{loop_name}' is out of its range.",
            found=f"a count of {count}",
            expected=f"a copy loop of 0 to {COPIES_MAX}",
        )
    scope.budget.spend(count * (_ELEMENTS_PER_ITERATION + len(scope.copies)))
    return [replace(scope, copies={**scope.copies, loop_name.lower(): index, "": index}) for index in range(count)]


def _unroll(loop: Mapping[str, Json], scope: Scope) -> Json:
    """Evaluate the loop of a property.

    Inside the loop of a resource, ``copyIndex()`` without a name still means the index of the resource.
    """
    innermost = {"": scope.copies[""]} if "" in scope.copies else {}
    found = expand_loop(loop, scope)
    return [_evaluate(loop["input"], replace(each, copies={**each.copies, **innermost})) for each in found]


def evaluate_loop(loop: Json, scope: Scope) -> Json:
    """Evaluate a loop without a name, such as the loop of an output.

    Raises:
        InvalidInput: The count is missing or too large, or an expression is invalid.
    """
    return [evaluate(value_at(loop, "input"), each) for each in expand_loop(loop, scope, name="")]


class _ExpressionParser:
    """A parser of one expression that evaluates while it parses."""

    def __init__(self, text: str, scope: Scope) -> None:
        self._text, self._scope = text, scope
        self._tokens = _tokens(text)
        self._at, self._depth = 0, 0

    def evaluate(self) -> Json:
        value = self._evaluate_value()
        if self._at != len(self._tokens):
            self._fail("the end")
        return value

    def _evaluate_value(self) -> Json:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise bad_template("An expression is nested too deeply.", expected=f"at most {_DEPTH_MAX} levels")
        kind, word = self._next("a value")
        if kind == "text":
            value: Json = word[1:-1].replace("''", "'")
        elif kind == "number":
            value = self._check_integer(word)
        elif kind == "name":
            value = self._call_function(word)
        else:
            self._at -= 1
            self._fail("a value")
        while self._peek() in (".", "["):
            value = self._read_member(value)
        self._depth -= 1
        return value

    def _check_integer(self, word: str) -> int:
        if len(word) > _INTEGER_CHARACTERS_MAX or abs(number := int(word)) > INTEGER_MAX:
            raise bad_template("An integer of an expression is too large.", found=word[:40], expected="64 bits")
        return number

    def _call_function(self, name: str) -> Json:
        if self._peek() == ".":
            self._at += 1
            name = f"{name}.{self._next('a name')[1]}"
        self._expect("(")
        if name.lower() == "if":
            return self._evaluate_if()
        arguments: list[Json] = []
        while self._peek() != ")":
            arguments.append(self._evaluate_value())
            if self._peek() != ")":
                self._expect(",")
        self._expect(")")
        return _call(name, arguments, self._scope)

    def _evaluate_if(self) -> Json:
        """Evaluate ``if``. The argument that is not selected is skipped, not evaluated."""
        condition = self._evaluate_value()
        if not isinstance(condition, bool):
            raise bad_template("The first parameter of 'if' is not a boolean.", found=type(condition).__name__)
        self._expect(",")
        first = self._evaluate_value() if condition else self._skip()
        self._expect(",")
        second = self._skip() if condition else self._evaluate_value()
        self._expect(")")
        return first if condition else second

    def _skip(self) -> Json:
        """Skip the tokens of an argument."""
        open_marks = 0
        while (mark := self._peek()) is not None and (open_marks or mark not in (",", ")")):
            open_marks += {"(": 1, "[": 1, ")": -1, "]": -1}.get(mark, 0)
            self._at += 1
        return None

    def _read_member(self, value: Json) -> Json:
        if self._peek() == ".":
            self._at += 1
            kind, name = self._next("a name")
            if kind != "name":
                self._fail("a name")
            return _get_member(value, name, self._scope)
        self._at += 1
        key = self._evaluate_value()
        self._expect("]")
        return _get_member(value, key, self._scope)

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
    tokens, start = [], 0
    end = len(text.rstrip())
    while start < end:
        match = _TOKEN.match(text, start)
        if match is None:
            raise bad_template(f"The expression '[{text[:200]}]' can't be read.", found=repr(text[start : start + 20]))
        assert match.lastgroup is not None, "each alternative of _TOKEN has a name"
        tokens.append((match.lastgroup, match[match.lastgroup]))
        start = match.end()
    return tokens


def _get_member(value: Json, key: Json, scope: Scope) -> Json:
    if isinstance(value, Mapping) and isinstance(key, str):
        scope.budget.spend(len(value))
        for name, each in value.items():
            if name.lower() == key.lower():
                return each
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    there = first_names(value) if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise bad_template(f"The language expression property '{key}' doesn't exist.", found=f"available: {there}")


def _call(name: str, arguments: Sequence[Json], scope: Scope) -> Json:
    function = FUNCTIONS.get(name.lower())
    if function is None and "." in name:
        return _call_template_function(name, arguments, scope)
    if function is None:
        raise bad_template(
            f"The template function '{name}' is not valid.",
            found=f"{name}, a function with a lambda" if name.lower() in LAMBDAS else name,
            expected=f"one of {', '.join(sorted((*FUNCTIONS, 'if')))}",
        )
    if name.lower() not in _UNREAD:
        for each in arguments:
            scope.budget.spend_on(each)
    scope.budget.spend(1 + len(arguments))
    try:
        made = function(scope, *arguments)
    except (InvalidInput, RecursionError):
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise bad_template(
            f"The arguments of the template function '{name}' are not valid.",
            found=", ".join(type(each).__name__ for each in arguments) or "nothing",
            expected=str(error) if isinstance(error, InvalidArgument) else None,
        ) from None  # Python's message contains the values, which may be secret.
    if function not in _RETURN_STORED:
        scope.budget.spend_on_result(made)
    return made


_RETURN_STORED: Final[tuple[Callable[..., Json], ...]] = (FUNCTIONS["parameters"], FUNCTIONS["variables"])
"""Functions that return a value that was counted before."""
_UNREAD: Final = frozenset({
    "null", "true", "false", "and", "or", "not", "coalesce", "length", "empty", "first", "last", "skip", "take",
    "createarray", "array", "createobject", "indexfromend", "tryindexfromend", "tryget", "parameters", "variables",
})  # fmt: skip
"""Functions that do not read the content of their arguments. Their results count as for all other functions."""


def _call_template_function(name: str, arguments: Sequence[Json], scope: Scope) -> Json:
    """Call a function that the template defines. Such a function sees its arguments only."""
    how = scope.functions.get(name.lower())
    if how is None:
        raise bad_template(
            f"The template function '{name}' is not valid.", found=f"own: {first_names(scope.functions)}"
        )
    if scope.calls >= _CALLS_MAX:
        raise bad_template(f"The calls of '{name}' are nested too deeply.", expected=f"at most {_CALLS_MAX}")
    scope.budget.spend(_ELEMENTS_PER_ITERATION + len(how.get("parameters") or []))
    names = [str(value_at(each, "name")).lower() for each in how.get("parameters") or []]
    if len(names) != len(arguments):
        raise bad_template(f"The template function '{name}' needs other arguments.", expected=f"{names}")
    inner = replace(
        scope,
        parameters=dict(zip(names, arguments, strict=True)),
        variable=unavailable_function("variables"),
        reference=unavailable_function("reference"),
        references=unavailable_function("references"),
        copies={},
        default_of=None,
        calls=scope.calls + 1,
    )
    return _evaluate(value_at(how, "output.value"), inner)
