"""What the expressions of a template may ask for, how much they may ask for, and the error of those that mean nothing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from imgstore.domain.errors import InvalidInput
from imgstore.wire.text import Json

EFFORT_MAX: Final = 16_000_000
"""Of one deployment with all that is nested in it: a template of 4 MiB read four times over. It bounds what a few loops in
each other, or variables that double each other, could ask for."""

_UNKEPT: Final = re.compile("[\\0\\ud800-\\udfff]")


class NotYet(Exception):
    """An expression needs what is made by the deployment itself, and it is too early for that."""


class NotTaken(ValueError):
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


class Effort:
    """What the evaluation of a deployment has cost so far: characters read, values made."""

    def __init__(self) -> None:
        self._left = EFFORT_MAX

    def spend(self, amount: int) -> None:
        """Take `amount` of it.

        Raises:
            InvalidInput: there is less left.
        """
        self._left -= amount
        if self._left < 0:
            raise bad_template(
                "The template asks for too much.", expected=f"at most {EFFORT_MAX} characters and values when evaluated"
            )

    def spend_on(self, value: Json) -> None:
        """Take what a value weighs, a value that stands in several places as often as it stands there.

        Raises:
            InvalidInput: there is less left; or a text in it has characters that no database keeps.
        """
        heap = [value]
        while heap:
            one = heap.pop()
            self.spend(1 + len(one) if isinstance(one, str | list | Mapping) else 1)
            if isinstance(one, str) and _UNKEPT.search(one):
                raise bad_template("A text has the character U+0000, or half of a pair of surrogates.")
            if isinstance(one, Mapping):
                heap += (*one, *one.values())
            elif isinstance(one, list):
                heap += one


def nowhere(what: str) -> Callable[..., NoReturn]:
    """A function of a scope that has no such thing."""

    def refuse(*_said: Any) -> NoReturn:
        raise bad_template(f"The template function '{what}' is not expected at this location.")

    return refuse


def not_yet(*_said: Any) -> NoReturn:
    """A function of a scope before anything was made."""
    raise NotYet


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
    variable: Callable[[str], Json] = field(default_factory=lambda: nowhere("variables"))
    functions: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """The template's own, by lower-case ``namespace.name``."""
    calls: int = 0
    """Of the template's own functions, one in the other."""
    reference: Callable[[str, str | None, bool], Json] = field(default_factory=lambda: nowhere("reference"))
    """A resource by its id, name or symbolic name, as an api-version has it: its properties, or all of it."""
    references: Callable[[str, bool], Json] = field(default_factory=lambda: nowhere("references"))
    """The resources of a loop, by its symbolic name."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """The index of each loop around here, by lower-case name; that of the innermost under "" too."""
    effort: Effort = field(default_factory=Effort)
