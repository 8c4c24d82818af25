"""Who may do what: pure, asked by every operation before its first write."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imgstore.domain.errors import AccessDenied


class Action(StrEnum):
    """What an operation does to a resource, in Azure's three-part manner."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    ADMINISTER = "administer"
    """Regions, buckets and the installation itself."""


class Role(StrEnum):
    """Azure's built-in roles, as far as they are used here."""

    OWNER = "Owner"
    CONTRIBUTOR = "Contributor"
    READER = "Reader"


INSTALLATION: Final = "/"
"""The scope of all scopes."""

_ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    Role.OWNER: frozenset(Action),
    Role.CONTRIBUTOR: frozenset({Action.READ, Action.WRITE, Action.DELETE}),
    Role.READER: frozenset({Action.READ}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role on a scope and on all that is below it."""

    role: Role
    scope: str
    """A resource id, without a trailing slash; "/" is the installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. `name` stands in the activity log."""

    name: str
    grants: tuple[Grant, ...] = ()


def administrator(name: str) -> Principal:
    """The installation's administrator: the command line on a local home acts as such."""
    return Principal(name=name, grants=(Grant(role=Role.OWNER, scope=INSTALLATION),))


def is_allowed(principal: Principal, action: Action, scope: str) -> bool:
    """Whether a grant of `principal` covers `action` on `scope`."""
    return any(action in _ALLOWED[grant.role] and _covers(grant.scope, scope) for grant in principal.grants)


def authorize(principal: Principal, action: Action, scope: str) -> None:
    """Deny by default.

    Raises:
        AccessDenied: no grant of `principal` covers `action` on `scope`.
    """
    if not is_allowed(principal, action, scope):
        raise AccessDenied(
            f"'{principal.name}' may not {action} '{scope}'.",
            found=", ".join(f"{grant.role} on {grant.scope}" for grant in principal.grants) or "no roles",
            expected=f"a role that allows {action} on this scope or above it",
            hint="ask an Owner of the scope for a role",
            target=scope,
        )


def _covers(granted: str, asked: str) -> bool:
    if granted == INSTALLATION:
        return True
    above = granted.rstrip("/").lower()
    below = asked.rstrip("/").lower()
    # An empty scope is a mistake, and a mistake grants nothing.
    return bool(above) and (below == above or below.startswith(above + "/"))
