"""What the expressions of a template may ask for, how much they may ask for, and the error of those that mean nothing."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, NoReturn

from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput
from imgstore.domain.work_budget import WorkBudget
from imgstore.wire.json_text import Json

ELEMENTS_MAX: Final = 4_000_000
"""Elements that the evaluation of one deployment reads or makes, with all templates nested in it. A template of 4 MiB
with 200,000 values takes about 1,500,000."""
SECONDS_MAX: Final = 5.0
"""Seconds of evaluation of one deployment. The time in which resources are made does not count."""

ELEMENTS_PER_REFERENCE: Final = 2_000
"""A reference looks through the plan's resources, or asks the catalog: about a millisecond."""
_CLOCK: Final = Effects().monotonic
_NAMES_SHOWN_MAX: Final = 20
_UNKEPT: Final = re.compile("[\\0\\ud800-\\udfff]")


class NotDeployedYet(Exception):
    """An expression needs what is made by the deployment itself, and it is too early for that."""


class InvalidArgument(ValueError):
    """A function does not take what it was given; says what it takes, and nothing of what it was given: it may be secret."""


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


class EvaluationBudget(WorkBudget):
    """The budget of one deployment. All scopes of the deployment share it."""

    def __init__(self, monotonic: Callable[[], float] = _CLOCK) -> None:
        super().__init__(
            elements_max=ELEMENTS_MAX, seconds_max=SECONDS_MAX, monotonic=monotonic, exceeded=_exceeded_budget
        )

    def spend_on_result(self, value: Json) -> None:
        """Take all elements of a value that an expression made.

        Raises:
            InvalidInput: the budget is exceeded, or a text in the value has characters that no database keeps.
        """
        self.spend_on(value, _check_text)


def _check_text(text: str) -> None:
    if _UNKEPT.search(text):
        raise bad_template("A text has the character U+0000, or half of a pair of surrogates.")


def _exceeded_budget(limit: str) -> InvalidInput:
    return bad_template("The template asks for too much.", found="more work than one deployment may do", expected=limit)


def first_names(names: Iterable[str]) -> str:
    """Return the first names of a list for an error, without looking at all of them."""
    shown = list(islice(names, _NAMES_SHOWN_MAX + 1))
    more = ", ..." if len(shown) > _NAMES_SHOWN_MAX else ""
    return ", ".join(shown[:_NAMES_SHOWN_MAX]) + more or "none"


def unavailable_function(what: str) -> Callable[..., NoReturn]:
    """A function of a scope that has no such thing."""

    def refuse(*_said: Any) -> NoReturn:
        raise bad_template(f"The template function '{what}' is not expected at this location.")

    return refuse


def raise_not_deployed(*_said: Any) -> NoReturn:
    """A function of a scope before anything was made."""
    raise NotDeployedYet


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression may ask for."""

    subscription: str
    group: str
    location: str
    """Of the group."""
    deployment: str
    tenant: str = ""
    base_url: str = ""
    """Where the client reaches the server."""
    now: datetime | None = None
    """When the deployment was asked for."""
    seed: str = ""
    """Unlike that of any other deployment: `newGuid` is made from it."""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    """By lower-case name, as `variables`."""
    default_of: str | None = None
    """The parameter whose default this is: only there may the present be asked for."""
    variable: Callable[[str], Json] = field(default_factory=lambda: unavailable_function("variables"))
    functions: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """The template's own, by lower-case ``namespace.name``."""
    calls: int = 0
    """Of the template's own functions, one in the other."""
    reference: Callable[[str, str | None, bool], Json] = field(
        default_factory=lambda: unavailable_function("reference")
    )
    """A resource by its id, name or symbolic name, as an api-version has it: its properties, or all of it."""
    references: Callable[[str, bool], Json] = field(default_factory=lambda: unavailable_function("references"))
    """The resources of a loop, by its symbolic name."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """The index of each loop around here, by lower-case name; that of the innermost under "" too."""
    budget: EvaluationBudget = field(default_factory=EvaluationBudget)
