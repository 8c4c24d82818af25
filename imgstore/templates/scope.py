"""The scope and the budget of template expressions, and the error of invalid templates."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, NoReturn

from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput
from imgstore.domain.tags import NO_TAGS
from imgstore.domain.work_budget import WorkBudget
from imgstore.wire.json_text import Json

ELEMENTS_MAX: Final = 4_000_000
"""The elements that the evaluation of one deployment reads or makes, with all nested templates. A template of 4 MiB
with 200,000 values takes about 1,500,000 elements.
"""
SECONDS_MAX: Final = 5.0
"""The seconds of evaluation of one deployment, without the time for the creation of resources."""

ELEMENTS_PER_REFERENCE: Final = 2_000
"""The cost of a reference. A reference searches the plan's resources, or reads the catalog, in about a millisecond."""
_CLOCK: Final = Effects().monotonic
_NAMES_SHOWN_MAX: Final = 20
_UNKEPT: Final = re.compile("[\\0\\ud800-\\udfff]")


class NotDeployedYet(Exception):
    """An expression needs a resource that the deployment has not created yet."""


class InvalidArgument(ValueError):
    """An argument of a function is invalid.

    The message describes valid arguments, and never contains the argument, because the argument may be secret.
    """


def bad_template(message: str, *, found: str | None = None, expected: str | None = None) -> InvalidInput:
    """Return the error of an invalid template."""
    return InvalidInput(
        f"Deployment template validation failed: {message}",
        found=found,
        expected=expected,
        hint="correct the template; no resource that depends on this part was deployed",
        target="properties.template",
        code="InvalidTemplate",
    )


class EvaluationBudget(WorkBudget):
    """The budget of one deployment. All scopes of the deployment share the budget."""

    def __init__(self, monotonic: Callable[[], float] = _CLOCK) -> None:
        super().__init__(
            elements_max=ELEMENTS_MAX, seconds_max=SECONDS_MAX, monotonic=monotonic, exceeded=_exceeded_budget
        )

    def spend_on_result(self, value: Json) -> None:
        """Take all elements of a value that an expression made.

        Raises:
            InvalidInput: The budget is exceeded, or a text contains characters that no database stores.
        """
        self.spend_on(value, _check_text)


def _check_text(text: str) -> None:
    if _UNKEPT.search(text):
        raise bad_template("A text contains the character U+0000 or an unpaired surrogate.")


def _exceeded_budget(limit: str) -> InvalidInput:
    return bad_template(
        "The evaluation of the template exceeds a limit.", found="too many elements or seconds", expected=limit
    )


def first_names(names: Iterable[str]) -> str:
    """Return the first names of an iterable, for an error message. The rest is not read."""
    shown = list(islice(names, _NAMES_SHOWN_MAX + 1))
    more = ", ..." if len(shown) > _NAMES_SHOWN_MAX else ""
    return ", ".join(shown[:_NAMES_SHOWN_MAX]) + more or "none"


def unavailable_function(what: str) -> Callable[..., NoReturn]:
    """Return a function that refuses calls, for a scope without the function `what`."""

    def refuse(*_said: Any) -> NoReturn:
        raise bad_template(f"The template function '{what}' is not expected at this location.")

    return refuse


def raise_not_deployed(*_said: Any) -> NoReturn:
    """Raise `NotDeployedYet`: the reference function before the deployment."""
    raise NotDeployedYet


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The values and functions that an expression may use."""

    subscription: str
    group: str
    location: str
    """The location of the resource group."""
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    """The tags of the resource group."""
    deployment: str
    tenant: str = ""
    base_url: str = ""
    """The URL of the server for the client."""
    now: datetime | None = None
    """The time of the deployment request."""
    seed: str = ""
    """A UUID that is unique for the deployment. `newGuid` derives values from the seed."""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    """Parameters by lower-case name."""
    default_of: str | None = None
    """The parameter whose default value is evaluated. Only there ``utcNow`` and ``newGuid`` are allowed."""
    variable: Callable[[str], Json] = field(default_factory=lambda: unavailable_function("variables"))
    """Return a variable by name."""
    functions: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """The functions that the template defines, by lower-case ``namespace.name``."""
    calls: int = 0
    """The number of nested calls of such functions."""
    reference: Callable[[str, str | None, bool], Json] = field(
        default_factory=lambda: unavailable_function("reference")
    )
    """Return a resource by id, name or symbolic name at an api-version: the properties, or the whole resource."""
    references: Callable[[str, bool], Json] = field(default_factory=lambda: unavailable_function("references"))
    """Return the resources of a loop by symbolic name."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """The index of each enclosing loop by lower-case name. The key "" means the innermost loop."""
    budget: EvaluationBudget = field(default_factory=EvaluationBudget)
