"""Access control: pure functions. Each operation calls these functions before the first write. The default is to deny.

An operation has an `Action`. The action and the id of a resource give Azure's name of the operation, such as
"Microsoft.Compute/galleries/images/versions/write". A role is a set of operations. The roles are built-in roles of
Azure with the operations that imgstore has: https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
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
    """An action on a resource: the end of the name of an operation."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    SHARE = "share/action"
    """Permit other subscriptions, other tenants or everybody to read a gallery."""
    EXPORT = "beginGetAccess/action"
    """Read or write the bytes of a disk."""
    END_ACCESS = "endGetAccess/action"
    """Revoke the signed URLs of a disk, and ingest an upload."""
    JOIN = "join/action"
    """Name a network resource in another resource, which prevents the deletion of the named resource."""
    GENERALIZE = "generalize/action"
    DEALLOCATE = "deallocate/action"
    POWER_OFF = "powerOff/action"
    START = "start/action"
    RESTART = "restart/action"
    BOOT_DIAGNOSTICS = "retrieveBootDiagnosticsData/action"
    REDEPLOY = "redeploy/action"
    REIMAGE = "reimage/action"
    REIMAGE_ALL = "reimageall/action"
    MANUAL_UPGRADE = "manualupgrade/action"
    DELETE_INSTANCES = "delete/action"
    CANCEL_ROLLING_UPGRADE = "rollingUpgrades/action"
    REAPPLY = "reapply/action"
    VALIDATE = "validate/action"
    """Validate a template, which reads the resources that the template refers to."""
    WHAT_IF = "whatIf/action"
    CANCEL = "cancel/action"
    """Stop a running deployment."""
    REGISTER = "register/action"
    """Register a resource provider in a subscription."""
    ADMINISTER = "administer/action"
    """Administer regions, buckets, principals and the installation."""


class Role(StrEnum):
    """The built-in roles of Azure that imgstore uses."""

    OWNER = "Owner"
    CONTRIBUTOR = "Contributor"
    READER = "Reader"
    IMAGE_READER = "Compute Gallery Image Reader"
    ARTIFACTS_PUBLISHER = "Compute Gallery Artifacts Publisher"
    SHARING_ADMIN = "Compute Gallery Sharing Admin"
    BILLING_READER = "Billing Reader"


INSTALLATION: Final = "/"
"""The scope that contains all other scopes."""

ROLE_ASSIGNMENTS: Final = "Microsoft.Authorization/roleAssignments"
GROUPS: Final = "Microsoft.Resources/subscriptions/resourceGroups"
GALLERIES: Final = "Microsoft.Compute/galleries"
DEFINITIONS: Final = "Microsoft.Compute/galleries/images"
DISKS: Final = "Microsoft.Compute/disks"
SCALE_SETS: Final = "Microsoft.Compute/virtualMachineScaleSets"
INSTANCES: Final = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
VERSIONS: Final = "Microsoft.Compute/galleries/images/versions"
BUDGETS: Final = "Microsoft.Consumption/budgets"
USAGE_DETAILS: Final = "Microsoft.Consumption/usageDetails"
"""The charges of a scope: bills, explanations and proofs of entries."""

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
        SCALE_SETS,
        INSTANCES,
        "Microsoft.Compute/locations/capsOperations",
        "Microsoft.Compute/locations/communityGalleries",
        "Microsoft.Compute/locations/sharedGalleries",
        BUDGETS,
        USAGE_DETAILS,
        "Microsoft.Resources/deployments",
        ROLE_ASSIGNMENTS,
        "Microsoft.Network/virtualNetworks",
        "Microsoft.Network/virtualNetworks/subnets",
        "Microsoft.Network/networkSecurityGroups",
        "Microsoft.Network/networkSecurityGroups/securityRules",
        "Microsoft.Network/publicIPAddresses",
        "Microsoft.Network/loadBalancers",
        "Microsoft.Network/loadBalancers/backendAddressPools",
        "Microsoft.Network/loadBalancers/inboundNatPools",
        "Microsoft.Network/loadBalancers/inboundNatRules",
        "Microsoft.Network/networkInterfaces",
        "Microsoft.Network/networkInterfaces/ipConfigurations",
    )
}
"""Resource types in Azure's spelling, by lower case. Other types keep lower case."""
_SCOPE_CHARACTERS_MAX: Final = 2_048
_PART: Final = re.compile(r"[^/\\%?#\x00-\x20\x7f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """A set of operations: names that match `actions` and do not match `not_actions`. `*` matches any characters."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    def includes(self, operation: str) -> bool:
        """Return whether the set contains an operation. Case does not matter."""
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
    # Azure's id of the role: fa23ad8b-c56e-40d8-ac0c-ce449e1d2c64.
    Role.BILLING_READER: Permission(
        actions=(
            "Microsoft.Authorization/*/read",
            "Microsoft.Billing/*/read",
            "Microsoft.Commerce/*/read",
            "Microsoft.Consumption/*/read",
            "Microsoft.CostManagement/*/read",
            "Microsoft.Management/managementGroups/read",
        )
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role on a scope and on all scopes below."""

    role: Role | Permission
    """A built-in role, or a separate set of operations."""
    scope: str
    """A resource id, or "/" for the installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of an operation. The activity log contains `name`."""

    name: str
    grants: tuple[Grant, ...] = ()
    uid: str | None = None
    """The object id. None is the user of a local home."""
    tenant: str | None = None
    """The uid of the caller's tenant. None is the user of a local home."""


def administrator(name: str) -> Principal:
    """Return the principal of the command line on a local home: Owner of the installation."""
    return Principal(name=name, grants=(Grant(role=Role.OWNER, scope=INSTALLATION),))


def operation_name(action: Action, scope: str, of: str | None = None) -> str:
    """Return Azure's name of an action on a resource.

    Args:
        action: the action.
        scope: the id of the resource.
        of: the type of the resource, if the resource is not the scope itself. Such a resource is below the scope, or is
            a role assignment on the scope.
    """
    return f"{of or _type(_parts(scope) or ())}/{action}"


def is_allowed(principal: Principal, action: Action, scope: str, of: str | None = None) -> bool:
    """Return whether a grant of `principal` on the scope or above permits the action.

    The arguments are as in `operation_name`. A malformed scope permits nothing.
    """
    operation, parts = operation_name(action, scope, of), _parts(scope)
    return parts is not None and any(
        _allows(grant.role, operation) and _covers(grant.scope, parts) for grant in principal.grants
    )


def has_related_role(principal: Principal, scope: str) -> bool:
    """Return whether `principal` has any role at, above or below a scope.

    Such a principal may know that the scope exists.
    """
    parts = _parts(scope)
    return parts is not None and any(_is_related(grant.scope, parts) for grant in principal.grants)


def as_reader(principal: Principal, scope: str) -> Principal:
    """Return the principal with an additional Reader role on a scope that the principal may change.

    Azure's PUT, PATCH and DELETE need no right to read, and the answer to a write shows the resource. Call `authorize`
    for the write first. The role covers the resource and all resources below.
    """
    return replace(principal, grants=(*principal.grants, Grant(role=Role.READER, scope=scope)))


def authorize(principal: Principal, action: Action, scope: str, of: str | None = None) -> None:
    """Raise an error unless `is_allowed` permits the action on the scope.

    The check never looks at the resource, so a refusal does not disclose whether the resource exists.

    Raises:
        AccessDenied: no grant of `principal` permits the action.
        NotFound: the id is malformed, or `principal` also has no role at, above or below the subscription.
    """
    if not is_allowed(principal, action, scope, of):
        raise _refusal(principal, operation_name(action, scope, of), scope)


def authorize_link(principal: Principal, action: Action, linked: str, *, by: str) -> None:
    """Check the right to name a resource in another resource. The existence of the named resource does not matter.

    A malformed id passes, because no resource has such an id.

    Args:
        principal: the caller.
        action: the action that the caller needs on the named resource, mostly `Action.JOIN`.
        linked: the id of the named resource.
        by: the id of the resource that names the other resource.

    Raises:
        AccessDenied: no grant permits the action. Azure's code is LinkedAuthorizationFailed.
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
    """Refuse a list to a principal without a role at, above or below the scope.

    Raises:
        AccessDenied: `principal` has no such role.
        NotFound: the id is malformed, or `principal` also has no role at, above or below the subscription.
    """
    if not has_related_role(principal, scope):
        raise _refusal(principal, operation_name(Action.READ, scope), scope)


def filter_readable(
    principal: Principal, items: Iterable[_T], scope_of: Callable[[_T], str], *, whole: bool = False
) -> list[_T]:
    """Return the items that `principal` may read, in the given order.

    Args:
        principal: the caller.
        items: all items.
        scope_of: returns the id of an item.
        whole: skip the checks. The caller has checked before that `principal` may read all items: `is_allowed` with the
            scope above the items and the type of the items.
    """
    return [item for item in items if whole or is_allowed(principal, Action.READ, scope_of(item))]


def subscription_not_found(name: str) -> ScopeNotFound:
    """Return the same error for a missing subscription and for a subscription in which the caller has no role."""
    return ScopeNotFound(
        f"The subscription '{name[:200]}' could not be found.",
        found="no such subscription with a role of the caller",
        expected="a subscription with a role of the caller",
        hint="ask an Owner of the subscription for a role",
        target=f"/subscriptions/{name[:200]}",
        code="SubscriptionNotFound",
    )


def check_scope(scope: str) -> str:
    """Return a scope without a slash at the end.

    Raises:
        NotFound: the scope is malformed, or is neither "/" nor in a subscription.
    """
    parts = _parts(scope, fold=False)
    if parts is None or (parts and (parts[0].lower() != "subscriptions" or len(parts) < 2)):
        raise NotFound(
            "The scope is invalid.",
            found=repr(scope[:200]),
            expected="/, /subscriptions/ID, or the id of a resource group, gallery, image definition or version",
            hint="`imgstore sig show ... --query id -o tsv` prints the id of a gallery",
            target="scope",
            code="InvalidScope",
        )
    return "/" + "/".join(parts)


def _refusal(principal: Principal, operation: str, scope: str) -> AccessDenied | NotFound:
    parts = _parts(scope)
    if parts is None:
        return ScopeNotFound(
            f"The resource '{scope[:200]}' was not found.",
            found="a malformed id",
            expected="names without spaces, slashes, '%', '?' and '#'",
            hint="check the names; imgstore decodes no characters of an id",
            target=scope[:200],
        )
    if parts[:1] == ("subscriptions",) and not has_related_role(principal, "/" + "/".join(parts[:2])):
        return subscription_not_found((_parts(scope, fold=False) or parts)[1] if len(parts) > 1 else "")
    return AccessDenied(
        f"The client '{principal.name}' with object id '{principal.uid or principal.name}' does not have authorization "
        f"to perform action '{operation}' over scope '{scope}' or the scope is invalid. If access was recently granted, "
        "please refresh your credentials.",
        found=_grants_text(principal),
        expected="a role that allows this on this scope or above it",
        hint=f"an Owner of the scope can assign a role: imgstore auth role assignment create --assignee "
        f"{principal.uid or principal.name} --role ROLE --scope SCOPE",
        target=scope,
    )


def _grants_text(principal: Principal) -> str:
    return ", ".join(f"{grant.role} on {grant.scope}" for grant in principal.grants) or "no roles"


def _type(parts: tuple[str, ...]) -> str:
    """Return the type of the resource at a path. The position decides, because a name may equal any keyword."""
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
def _allows(role: Role | Permission, operation: str) -> bool:
    permission = role if isinstance(role, Permission) else PERMISSIONS[role]
    return permission.includes(operation)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(_pattern(pattern).fullmatch(name) for pattern in patterns)


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*"), re.IGNORECASE)


@lru_cache(maxsize=4_096)
def _parts(scope: str, *, fold: bool = True) -> tuple[str, ...] | None:
    """Return the parts of a scope, in lower case if `fold` is true. Return None for a malformed scope.

    A scope with `..`, with an empty part or with a forbidden character, such as `%`, is malformed. No part is decoded
    or repaired.
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


def _covers(granted: str, requested: tuple[str, ...]) -> bool:
    # A malformed scope grants nothing.
    above = _parts(granted)
    return above is not None and requested[: len(above)] == above


def _is_related(granted: str, requested: tuple[str, ...]) -> bool:
    other = _parts(granted)
    return other is not None and all(part == granted_part for part, granted_part in zip(requested, other, strict=False))
