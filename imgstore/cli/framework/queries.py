"""JMESPath queries: compiled and evaluated within limits, with amounts of money as numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from imgstore.domain.effects import Effects
from imgstore.domain.work_budget import WorkBudget
from imgstore.wire.json_text import Json

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

_CHARACTERS_MAX: Final = 10_000
_ELEMENTS_MAX: Final = 4_000_000
"""Largest number of elements that a query reads or makes. A list of 10,000 versions has about 500,000."""
_SECONDS_MAX: Final = 10.0


def compile_query(text: str) -> "ParsedResult":
    """Compile a JMESPath query before the command begins.

    Raises:
        click.BadParameter: the text is no JMESPath, is too long or is nested too deeply.
    """
    import jmespath  # noqa: PLC0415 - start-up time: most lines have no query

    if len(text) > _CHARACTERS_MAX:
        raise click.BadParameter(f"a JMESPath of {len(text)} characters; at most {_CHARACTERS_MAX} are taken")
    try:
        return jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise click.BadParameter(f"not a JMESPath: {error}") from error
    except RecursionError as error:
        raise click.BadParameter("the JMESPath is nested too deeply") from error


def search(body: Json, query: "ParsedResult", option: str = "--query") -> Json:
    """Return what a query finds in `body`.

    Raises:
        click.UsageError: the query does not fit the body, or asks for too much work.
    """
    import jmespath  # noqa: PLC0415 - start-up time

    def exceeded(limit: str) -> Exception:
        return click.UsageError(f"{option} asks for too much work: {limit}")

    budget = WorkBudget(
        elements_max=_ELEMENTS_MAX, seconds_max=_SECONDS_MAX, monotonic=Effects().monotonic, exceeded=exceeded
    )
    try:
        with budget.run():
            return _interpreter(jmespath, budget).visit(query.parsed, body)
    except jmespath.exceptions.JMESPathError as error:
        raise click.UsageError(f"{option} does not fit the result: {error}") from error
    except RecursionError as error:
        raise click.UsageError(f"{option} is nested too deeply") from error


def _interpreter(jmespath: Any, budget: WorkBudget) -> Any:
    """Return JMESPath's interpreter, with a budget and with decimals as numbers."""
    functions = jmespath.functions

    class Functions(functions.Functions):  # type: ignore[misc, name-defined]
        def call_function(self, function_name: str, resolved_args: list[Any]) -> Any:
            # to_string, ==, sort and others look at all that is in their arguments.
            for each in resolved_args:
                budget.spend_on(each)
            return super().call_function(function_name, resolved_args)

        def _get_allowed_pytypes(self, types: Any) -> Any:
            allowed, inner = super()._get_allowed_pytypes(types)
            return _with_decimal(allowed), [_with_decimal(kinds) for kinds in inner]

        def _convert_to_jmespath_type(self, pyobject: Any) -> Any:
            return "number" if pyobject == "Decimal" else super()._convert_to_jmespath_type(pyobject)

    class Interpreter(jmespath.visitor.TreeInterpreter):  # type: ignore[misc]
        def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            if node["type"] == "comparator":
                budget.spend_on(args)
            made = super().visit(node, *args, **kwargs)
            if node["type"] in _COPIES:
                budget.spend_on(made)
            else:
                budget.spend(1 + (len(made) if isinstance(made, list | dict) else 0))
            return made

    return Interpreter(jmespath.Options(custom_functions=Functions()))


_COPIES: Final = ("multi_select_list", "multi_select_dict")
"""The function that repeats a value: no other function makes a value larger than the sum of its inputs."""


def _with_decimal(kinds: Sequence[str]) -> list[str]:
    return [*kinds, "Decimal"] if "float" in kinds else list(kinds)
