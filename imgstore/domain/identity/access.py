"""Who may do what: pure, asked by every operation before its first write. Deny by default.

What an operation does is an `Action`; on a resource's id it becomes the name that Azure has for it
("Microsoft.Compute/galleries/images/versions/write"), and a role is a set of such names. The sets are those of Azure's
built-in roles, as far as there is anything of theirs here:
https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeVar

from imgstore.domain.errors import AccessDenied, NotFound, ScopeNotFound

_T = TypeVar("_T")


class Action(StrEnum):
    """What an operation does to a resource: the end of its name."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    SHARE = "share/action"
    """Let other subscriptions, other tenants or everybody read a gallery."""
    EXPORT = "beginGetAccess/action"
    """Read or write the bytes of a disk."""
    END_ACCESS = "endGetAccess/action"
    """Revoke the signed URLs of a disk, and take in an upload."""
    JOIN = "join/action"
    """Name a network resource in another resource, which keeps the named one from being deleted."""
    GENERALIZE = "generalize/action"
    DEALLOCATE = "deallocate/action"
    POWER_OFF = "powerOff/action"
    START = "start/action"
    RESTART = "restart/action"
    REDEPLOY = "redeploy/action"
    REIMAGE = "reimage/action"
    REAPPLY = "reapply/action"
    VALIDATE = "validate/action"
    """Check a template, which reads what the template refers to."""
    WHAT_IF = "whatIf/action"
    CANCEL = "cancel/action"
    """Stop a deployment that runs."""
    REGISTER = "register/action"
    """Register a resource provider in a subscription."""
    ADMINISTER = "administer/action"
    """Regions, buckets, principals and the installation itself."""


class Role(StrEnum):
    """Azure's built-in roles, as far as they are used here."""

    OWNER = "Owner"
    CONTRIBUTOR = "Contributor"
    READER = "Reader"
    IMAGE_READER = "Compute Gallery Image Reader"
    ARTIFACTS_PUBLISHER = "Compute Gallery Artifacts Publisher"
    SHARING_ADMIN = "Compute Gallery Sharing Admin"


INSTALLATION: Final = "/"
"""The scope of all scopes."""

ROLE_ASSIGNMENTS: Final = "Microsoft.Authorization/roleAssignments"
GROUPS: Final = "Microsoft.Resources/subscriptions/resourceGroups"
GALLERIES: Final = "Microsoft.Compute/galleries"
DEFINITIONS: Final = "Microsoft.Compute/galleries/images"
DISKS: Final = "Microsoft.Compute/disks"
VERSIONS: Final = "Microsoft.Compute/galleries/images/versions"

_ABOVE: Final = (
    ("subscriptions", "Microsoft.Resources/subscriptions"),
    ("resourcegroups", GROUPS),
)
_TYPES: Final = {
    name.casefold(): name
    for name in (
        GALLERIES,
        DEFINITIONS,
        VERSIONS,
        DISKS,
        "Microsoft.Compute/images",
        "Microsoft.Compute/snapshots",
        "Microsoft.Compute/virtualMachines",
        "Microsoft.Compute/locations/capsOperations",
        "Microsoft.Compute/locations/communityGalleries",
        "Microsoft.Compute/locations/sharedGalleries",
        "Microsoft.Resources/deployments",
        ROLE_ASSIGNMENTS,
        "Microsoft.Network/virtualNetworks",
        "Microsoft.Network/virtualNetworks/subnets",
        "Microsoft.Network/networkSecurityGroups",
        "Microsoft.Network/networkSecurityGroups/securityRules",
        "Microsoft.Network/publicIPAddresses",
        "Microsoft.Network/networkInterfaces",
        "Microsoft.Network/networkInterfaces/ipConfigurations",
    )
}
"""As Azure spells them; others are named in lower case."""
_SCOPE_CHARACTERS_MAX: Final = 2_048
_PART: Final = re.compile(r"[^/\\%?#\x00-\x20\x7f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """A set of operations: what `actions` matches and `not_actions` does not. `*` stands for anything."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    def includes(self, operation: str) -> bool:
        """Whether an operation, by its name in any case, is one of the set."""
        return _matches(self.actions, operation) and not _matches(self.not_actions, operation)


PERMISSIONS: Final[dict[Role, Permission]] = {
    Role.OWNER: Permission(actions=("*",)),
    Role.CONTRIBUTOR: Permission(
        actions=("*",),
        not_actions=(
            "Microsoft.Authorization/*/delete",
            "Microsoft.Authorization/*/write",
            "Microsoft.Authorization/elevateAccess/action",
            "Microsoft.Compute/galleries/share/action",
            "imgstore/*/administer/action",
        ),
    ),
    Role.READER: Permission(actions=("*/read",)),
    Role.IMAGE_READER: Permission(
        actions=("Microsoft.Compute/galleries/images/read", "Microsoft.Compute/galleries/images/versions/read")
    ),
    Role.ARTIFACTS_PUBLISHER: Permission(
        actions=(
            "Microsoft.Compute/galleries/*",
            "Microsoft.Compute/locations/capsOperations/read",
            "Microsoft.Compute/locations/communityGalleries/*",
            "Microsoft.Compute/locations/sharedGalleries/*",
            "Microsoft.Compute/images/*",
            "Microsoft.Compute/virtualMachines/write",
            "Microsoft.Compute/disks/write",
            "Microsoft.Authorization/*/read",
            "Microsoft.Resources/deployments/*",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        ),
        not_actions=("Microsoft.Compute/galleries/share/action",),
    ),
    Role.SHARING_ADMIN: Permission(actions=("Microsoft.Compute/galleries/share/action",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role on a scope and on all that is below it."""

    role: Role | Permission
    """A built-in role, or a set of operations of its own."""
    scope: str
    """A resource id; "/" is the installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. `name` stands in the activity log."""

    name: str
    grants: tuple[Grant, ...] = ()
    uid: str | None = None
    """Its object id; None is whoever sits at a local home."""
    tenant: str | None = None
    """The uid of the tenant that it asks from; None as above."""


def administrator(name: str) -> Principal:
    """The installation's administrator: the command line on a local home acts as such."""
    return Principal(name=name, grants=(Grant(role=Role.OWNER, scope=INSTALLATION),))


def operation_name(action: Action, scope: str, of: str | None = None) -> str:
    """Azure's name of an action on the resource that a scope is.

    Args:
        action: what is done.
        scope: the resource's id.
        of: the type of resource, where it is not that of the scope: what is below it, or about it.
    """
    return f"{of or _type(_parts(scope) or ())}/{action}"


def is_allowed(principal: Principal, action: Action, scope: str, of: str | None = None) -> bool:
    """Whether a grant of `principal` covers the action there (see `operation_name`)."""
    wanted, parts = operation_name(action, scope, of), _parts(scope)
    return parts is not None and any(
        _allows(grant.role, wanted) and _covers(grant.scope, parts) for grant in principal.grants
    )


def has_related_role(principal: Principal, scope: str) -> bool:
    """Whether a principal has any role at, above or below a scope: that it is there is no secret from it."""
    parts = _parts(scope)
    return parts is not None and any(_touches(grant.scope, parts) for grant in principal.grants)


def as_reader(principal: Principal, scope: str) -> Principal:
    """Let a principal read one resource that the principal may change.

    Azure's PUT, PATCH and DELETE need no right to read: the answer to a write shows what was written.
    Call `authorize` for the write first.
    """
    return replace(principal, grants=(*principal.grants, Grant(role=Role.READER, scope=scope)))


def authorize(principal: Principal, action: Action, scope: str, of: str | None = None) -> None:
    """Deny by default. Whether the resource is there plays no part, so that no refusal tells it.

    Raises:
        AccessDenied: no grant of `principal` covers the action there.
        NotFound: nor has it any other role in the whole subscription.
    """
    if not is_allowed(principal, action, scope, of):
        raise _refusal(principal, operation_name(action, scope, of), scope)


def authorize_link(principal: Principal, action: Action, linked: str, *, by: str) -> None:
    """Check the right to name a resource in another one. Whether the named resource exists plays no part.

    An id that no resource can have passes: it holds nothing back.

    Args:
        principal: who asks.
        action: what naming the resource takes, mostly `Action.JOIN`.
        linked: the id of the resource that is named.
        by: the id of the resource that names it.

    Raises:
        AccessDenied: no grant covers the action there. Azure's code is LinkedAuthorizationFailed.
    """
    if _parts(linked) is not None and not is_allowed(principal, action, linked):
        raise AccessDenied(
            f"The client '{principal.name}' with object id '{principal.uid or principal.name}' has permission to perform "
            f"action '{operation_name(Action.WRITE, by)}' on scope '{by}'; however, it does not have permission to perform "
            f"action(s) '{operation_name(action, linked)}' on the linked scope(s) '{linked[:_SCOPE_CHARACTERS_MAX]}' or the "
            "linked scope(s) are invalid.",
            found=_grants_text(principal),
            expected="a role that allows this on the linked scope or above it",
            hint="ask an Owner of the linked resource for such a role, or name another resource",
            target=linked[:_SCOPE_CHARACTERS_MAX],
            code="LinkedAuthorizationFailed",
        )


def authorize_list(principal: Principal, scope: str) -> None:
    """Refuse a list to whom nothing in it could be shown: who has no role at, above or below it.

    Raises:
        AccessDenied: it has none there.
        NotFound: nor in the whole subscription.
    """
    if not has_related_role(principal, scope):
        raise _refusal(principal, operation_name(Action.READ, scope), scope)


def filter_readable(
    principal: Principal, items: Iterable[_T], scope_of: Callable[[_T], str], *, whole: bool = False
) -> list[_T]:
    """Those that `principal` may read, in their order.

    Args:
        principal: who asks.
        items: what there is.
        scope_of: an item's id.
        whole: it is known that all of them may be read (`is_allowed` with the type of the items, on what they are in).
    """
    return [item for item in items if whole or is_allowed(principal, Action.READ, scope_of(item))]


def subscription_not_found(name: str) -> ScopeNotFound:
    """The one answer for a subscription that does not exist and for one in which the caller has no role."""
    return ScopeNotFound(
        f"The subscription '{name[:200]}' could not be found.",
        found="no subscription that this caller may know of",
        expected="a subscription in which the caller has a role",
        hint="ask an Owner of the subscription for a role",
        target=f"/subscriptions/{name[:200]}",
        code="SubscriptionNotFound",
    )


def check_scope(scope: str) -> str:
    """The scope in its one spelling, if it is one.

    Raises:
        NotFound: no resource has such an id.
    """
    parts = _parts(scope, fold=False)
    if parts is None or (parts and (parts[0].lower() != "subscriptions" or len(parts) < 2)):
        raise NotFound(
            "The scope is invalid.",
            found=repr(scope[:200]),
            expected="/ or /subscriptions/ID, or the id of a resource group, gallery, image definition or version",
            hint="`imgstore sig show ... --query id -o tsv` tells a gallery's id",
            target="scope",
            code="InvalidScope",
        )
    return "/" + "/".join(parts)


def _refusal(principal: Principal, wanted: str, scope: str) -> AccessDenied | NotFound:
    parts = _parts(scope)
    if parts is None:
        return ScopeNotFound(
            f"The resource '{scope[:200]}' was not found.",
            found="an id that no resource can have",
            expected="names without spaces, slashes, '%', '?' and '#'",
            hint="look at the names; ids are taken as they stand, nothing in them is decoded",
            target=scope[:200],
        )
    if parts[:1] == ("subscriptions",) and not has_related_role(principal, "/" + "/".join(parts[:2])):
        return subscription_not_found((_parts(scope, fold=False) or parts)[1] if len(parts) > 1 else "")
    return AccessDenied(
        f"The client '{principal.name}' with object id '{principal.uid or principal.name}' does not have authorization "
        f"to perform action '{wanted}' over scope '{scope}' or the scope is invalid. If access was recently granted, "
        "please refresh your credentials.",
        found=_grants_text(principal),
        expected="a role that allows this on this scope or above it",
        hint=f"an Owner there can give one: imgstore auth role assignment create --assignee "
        f"{principal.uid or principal.name} --role ROLE --scope SCOPE",
        target=scope,
    )


def _grants_text(principal: Principal) -> str:
    return ", ".join(f"{grant.role} on {grant.scope}" for grant in principal.grants) or "no roles"


def _type(parts: tuple[str, ...]) -> str:
    """The type of the resource at a path. Words are taken by their place: any of them may be somebody's name."""
    if not parts:
        return "imgstore/installation"
    words, kind = parts, ""
    for word, type_there in _ABOVE:
        if words[:1] == (word,) and len(words) > 1:
            words, kind = words[2:], type_there
    if not words:
        return kind
    if words[0] != "providers" or len(words) < 3:
        return "imgstore/path"
    found = "/".join((words[1], *words[2::2]))
    return _TYPES.get(found, found)


@lru_cache(maxsize=1_024)
def _allows(role: Role | Permission, wanted: str) -> bool:
    permission = role if isinstance(role, Permission) else PERMISSIONS[role]
    return permission.includes(wanted)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(_pattern(pattern).fullmatch(name) for pattern in patterns)


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*"), re.IGNORECASE)


@lru_cache(maxsize=4_096)
def _parts(scope: str, *, fold: bool = True) -> tuple[str, ...] | None:
    """A scope's words as they are compared; None is no scope.

    None is repaired: what is encoded, climbs (`..`) or has empty words is nobody's resource.
    """
    if scope == INSTALLATION:
        return ()
    words = scope.removesuffix("/").split("/")
    if len(scope) > _SCOPE_CHARACTERS_MAX or len(words) < 2 or words[0]:
        return None
    parts = tuple(words[1:])
    if any(not _PART.fullmatch(part) or part in (".", "..") for part in parts):
        return None
    return tuple(part.casefold() for part in parts) if fold else parts


def _covers(granted: str, asked: tuple[str, ...]) -> bool:
    above = _parts(granted)
    # None is a mistake, and a mistake grants nothing.
    return above is not None and asked[: len(above)] == above


def _touches(granted: str, asked: tuple[str, ...]) -> bool:
    other = _parts(granted)
    return other is not None and all(mine == its for mine, its in zip(asked, other, strict=False))
