"""The right that each route takes, by Azure's name of the action. A route without a row is not served.

`RequestContext.session` checks the row before a body is read, an operation is stored or a resource is looked up. A refusal
therefore never depends on what exists. The operations below check the same rights again, for the command line, for
templates and for whatever comes between. What a request names besides its own resource (sources, network interfaces)
is checked there alone.

Azure's actions: https://learn.microsoft.com/azure/role-based-access-control/permissions/compute and .../networking.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fastapi import FastAPI

from imgstore.api.http.paths import (
    COMPUTE,
    DEFINITION,
    DEFINITIONS,
    GALLERIES,
    GALLERY,
    GROUP,
    GROUPS,
    NETWORK,
    OPERATION,
    OPERATIONS,
    PROVIDER,
    SOFT_DELETED,
    SUBSCRIPTION,
    VERSION,
    VERSIONS,
)
from imgstore.domain.identity.access import DEFINITIONS as DEFINITION_TYPE
from imgstore.domain.identity.access import GALLERIES as GALLERY_TYPE
from imgstore.domain.identity.access import GROUPS as GROUP_TYPE
from imgstore.domain.identity.access import VERSIONS as VERSION_TYPE
from imgstore.domain.identity.access import Action, Principal
from imgstore.operations.activity_log import permit, permit_list
from imgstore.operations.installation import Installation


class Check(Enum):
    """How a route's right is checked."""

    OPEN = auto()
    """Not at all: the route tells nothing about resources, or proves its caller in another way."""
    AUTHENTICATED = auto()
    """A known caller; the answer shows what the caller has a role on."""
    ACTION = auto()
    """A grant covers the action on the scope."""
    LIST = auto()
    """A role at, above or below the scope; the answer shows what the caller may read (the action)."""
    OWN_OPERATION = auto()
    """The caller began the operation, or may read it (the action)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRight:
    """The right that a route takes."""

    check: Check
    type: str = ""
    """The type of the resource that the action is of; it may name a parameter of the path."""
    action: Action = Action.READ
    scope: str = ""
    """The id of the resource that a role must cover, as a path with the route's parameters."""

    @property
    def operation(self) -> str:
        """Azure's name of the action."""
        return f"{self.type}/{self.action}" if self.type else ""


_COMPUTE_ABOVE: Final = f"{SUBSCRIPTION}/providers/Microsoft.Compute"
_NETWORK_ABOVE: Final = f"{SUBSCRIPTION}/providers/Microsoft.Network"
_DEPLOYMENTS: Final = f"{GROUP}/providers/Microsoft.Resources/deployments"
_DEPLOYMENT: Final = f"{_DEPLOYMENTS}/{{deployment}}"
_DEPLOYMENT_OPERATIONS: Final = f"{GROUP}/deployments/{{deployment}}/operations"
_MACHINE: Final = f"{COMPUTE}/virtualMachines/{{machine}}"
_MACHINE_TYPE: Final = "Microsoft.Compute/virtualMachines"
_SUBSCRIPTION_TYPE: Final = "Microsoft.Resources/subscriptions"
_DEPLOYMENT_TYPE: Final = "Microsoft.Resources/deployments"
_METHODS: Final = {"PUT": Action.WRITE, "PATCH": Action.WRITE, "GET": Action.READ, "DELETE": Action.DELETE}

_Row = tuple[tuple[str, str], RouteRight]


def _action(method: str, path: str, kind: str, action: Action, scope: str) -> _Row:
    return (method, path), RouteRight(check=Check.ACTION, type=kind, action=action, scope=scope)


def _resource(path: str, kind: str, methods: str = "PUT PATCH GET DELETE") -> Iterator[_Row]:
    for method in methods.split():
        yield _action(method, path, kind, _METHODS[method], path)


def _list(path: str, kind: str, above: str) -> _Row:
    return ("GET", path), RouteRight(check=Check.LIST, type=kind, scope=above)


def _open(*routes: str) -> Iterator[_Row]:
    for route in routes:
        method, _, path = route.partition(" ")
        yield (method, path), RouteRight(check=Check.OPEN)


def _compute(word: str, parameter: str) -> Iterator[_Row]:
    """A type of Microsoft.Compute in a group, listed in the group and in the subscription."""
    kind, one = f"Microsoft.Compute/{word}", f"{COMPUTE}/{word}/{{{parameter}}}"
    yield from _resource(one, kind)
    yield _list(f"{COMPUTE}/{word}", kind, GROUP)
    yield _list(f"{_COMPUTE_ABOVE}/{word}", kind, SUBSCRIPTION)


def _network(word: str, part: str | None = None, *, is_part_written: bool = True) -> Iterator[_Row]:
    """A type of Microsoft.Network, and what is below it."""
    kind, one = f"Microsoft.Network/{word}", f"{NETWORK}/{word}/{{name}}"
    yield from _resource(one, kind)
    yield _list(f"{NETWORK}/{word}", kind, GROUP)
    yield _list(f"{_NETWORK_ABOVE}/{word}", kind, SUBSCRIPTION)
    if part is not None:
        yield from _resource(f"{one}/{part}/{{part}}", f"{kind}/{part}", "PUT GET DELETE" if is_part_written else "GET")
        yield _action("GET", f"{one}/{part}", f"{kind}/{part}", Action.READ, one)


def _shared(word: str) -> Iterator[_Row]:
    """Galleries that others share, which are looked at from a subscription."""
    kind, above = f"Microsoft.Compute/locations/{word}", f"{_COMPUTE_ABOVE}/locations/{{location}}/{word}"
    gallery, images = f"{above}/{{gallery}}", f"{above}/{{gallery}}/images"
    definition, versions = f"{images}/{{definition}}", f"{images}/{{definition}}/versions"
    paths = {
        gallery: kind,
        images: f"{kind}/images",
        definition: f"{kind}/images",
        versions: f"{kind}/images/versions",
        f"{versions}/{{version}}": f"{kind}/images/versions",
    }
    for path, of in paths.items():
        yield _action("GET", path, of, Action.READ, SUBSCRIPTION)


def _machine_actions() -> Iterator[_Row]:
    yield _action("GET", f"{_MACHINE}/instanceView", f"{_MACHINE_TYPE}/instanceView", Action.READ, _MACHINE)
    for action in (
        Action.GENERALIZE,
        Action.DEALLOCATE,
        Action.POWER_OFF,
        Action.START,
        Action.RESTART,
        Action.REDEPLOY,
        Action.REIMAGE,
        Action.REAPPLY,
    ):
        yield _action("POST", f"{_MACHINE}/{action.removesuffix('/action')}", _MACHINE_TYPE, action, _MACHINE)


def _rows() -> Iterator[_Row]:
    yield from _open(
        "GET /metadata/endpoints",
        "GET /{tenant}/v2.0/.well-known/openid-configuration",
        "GET /{tenant}/.well-known/openid-configuration",
        "GET /{tenant}/discovery/v2.0/keys",
        "POST /{tenant}/oauth2/v2.0/token",
        "POST /{tenant}/oauth2/token",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /docs",
        "GET /openapi.json",
        "GET /docs/oauth2-redirect",
    )
    # The signature in the URL is the right: `granting.admit` checks it with every request.
    yield from _open("GET /blobs/{disk}/{name}", "HEAD /blobs/{disk}/{name}", "PUT /blobs/{disk}/{name}")
    for method, path in (
        ("GET", "/tenants"),
        ("GET", "/subscriptions"),
        ("POST", "/providers/Microsoft.ResourceGraph/resources"),
    ):
        yield (method, path), RouteRight(check=Check.AUTHENTICATED)
    yield _list(SUBSCRIPTION, _SUBSCRIPTION_TYPE, SUBSCRIPTION)
    yield _list(f"{SUBSCRIPTION}/locations", f"{_SUBSCRIPTION_TYPE}/locations", SUBSCRIPTION)
    yield _list(PROVIDER, f"{_SUBSCRIPTION_TYPE}/providers", SUBSCRIPTION)
    yield _action("POST", f"{PROVIDER}/register", "{provider}", Action.REGISTER, SUBSCRIPTION)
    caps = "Microsoft.Compute/locations/capsOperations"
    yield ("GET", OPERATION), RouteRight(check=Check.OWN_OPERATION, type=caps, scope=SUBSCRIPTION)
    yield _list(OPERATIONS, caps, SUBSCRIPTION)
    # Imgstore's own. Whoever may write the resource that it is about may cancel it, too.
    yield (
        ("POST", f"{OPERATION}/cancel"),
        RouteRight(check=Check.OWN_OPERATION, type=caps, action=Action.WRITE, scope=SUBSCRIPTION),
    )
    yield from _resource(GROUP, GROUP_TYPE, "PUT GET DELETE")
    yield _action("HEAD", GROUP, GROUP_TYPE, Action.READ, GROUP)
    yield _list(GROUPS, GROUP_TYPE, SUBSCRIPTION)
    yield from _resource(GALLERY, GALLERY_TYPE)
    yield _list(GALLERIES, GALLERY_TYPE, GROUP)
    yield _list(f"{_COMPUTE_ABOVE}/galleries", GALLERY_TYPE, SUBSCRIPTION)
    yield _action("POST", f"{GALLERY}/share", GALLERY_TYPE, Action.SHARE, GALLERY)
    yield from _resource(DEFINITION, DEFINITION_TYPE)
    yield _list(DEFINITIONS, DEFINITION_TYPE, GALLERY)
    yield from _resource(VERSION, VERSION_TYPE)
    yield _list(VERSIONS, VERSION_TYPE, DEFINITION)
    yield _action("GET", SOFT_DELETED, VERSION_TYPE, Action.READ, DEFINITION)
    yield _action(
        "GET",
        f"{_COMPUTE_ABOVE}/locations/{{location}}/sharedGalleries",
        "Microsoft.Compute/locations/sharedGalleries",
        Action.READ,
        SUBSCRIPTION,
    )
    yield from _shared("sharedGalleries")
    yield from _shared("communityGalleries")
    yield from _compute("disks", "disk")
    yield from _compute("snapshots", "disk")
    yield from _compute("images", "image")
    yield from _compute("virtualMachines", "machine")
    yield from _machine_actions()
    disk, disk_type = f"{COMPUTE}/disks/{{disk}}", "Microsoft.Compute/disks"
    yield _action("POST", f"{disk}/beginGetAccess", disk_type, Action.EXPORT, disk)
    yield _action("POST", f"{disk}/endGetAccess", disk_type, Action.END_ACCESS, disk)
    yield from _network("virtualNetworks", "subnets")
    yield from _network("networkSecurityGroups", "securityRules")
    yield from _network("publicIPAddresses")
    yield from _network("networkInterfaces", "ipConfigurations", is_part_written=False)
    yield from _resource(_DEPLOYMENT, _DEPLOYMENT_TYPE, "PUT GET DELETE")
    yield _action("GET", _DEPLOYMENTS, _DEPLOYMENT_TYPE, Action.READ, GROUP)
    yield _action("POST", f"{_DEPLOYMENT}/validate", _DEPLOYMENT_TYPE, Action.VALIDATE, _DEPLOYMENT)
    yield _action("POST", f"{_DEPLOYMENT}/whatIf", _DEPLOYMENT_TYPE, Action.WHAT_IF, _DEPLOYMENT)
    yield _action("POST", f"{_DEPLOYMENT}/cancel", _DEPLOYMENT_TYPE, Action.CANCEL, _DEPLOYMENT)
    operations = f"{_DEPLOYMENT_TYPE}/operations"
    yield _action("GET", _DEPLOYMENT_OPERATIONS, operations, Action.READ, _DEPLOYMENT)
    yield _action("GET", f"{_DEPLOYMENT_OPERATIONS}/{{operation}}", operations, Action.READ, _DEPLOYMENT)


ROUTE_RIGHTS: Final[Mapping[tuple[str, str], RouteRight]] = dict(_rows())
"""By method and path of a route."""


def check_route(
    installation: Installation, principal: Principal, method: str, path: str, parameters: Mapping[str, str]
) -> None:
    """Check a caller's right to a route before anything is read. A refusal leaves a row in the activity log.

    Args:
        installation: of the subscription that the request names, which need not exist.
        principal: the caller.
        method: of the request.
        path: of the route, with the names of its parameters.
        parameters: the values of the path.

    Raises:
        ScopeNotFound: the caller has no role in the subscription, or the path can't be a resource's.
        AccessDenied: the caller has one, and none that allows this.
        KeyError: the route has no row, so that nobody has a right to it.
    """
    right = ROUTE_RIGHTS[method, path]
    if right.check not in (Check.ACTION, Check.LIST):
        return
    values = {**parameters, "subscription": installation.subscription}
    scope = right.scope.format_map(values)
    if right.check is Check.LIST:
        permit_list(installation, principal, scope)
    else:
        permit(installation, principal, right.action, scope, right.type.format_map(values))


def is_open(method: str, path: str) -> bool:
    """Whether a route asks nobody for a token."""
    return ROUTE_RIGHTS[method, path].check is Check.OPEN


def check_rows(app: FastAPI) -> None:
    """Check that each route of an application has a row.

    Raises:
        AssertionError: routes have none, by name.
    """
    routes = [
        (method, getattr(route, "path", ""))
        for route in app.routes
        for method in sorted(getattr(route, "methods", None) or ())
    ]
    missing = [each for each in routes if each not in ROUTE_RIGHTS and each[0] != "HEAD"]
    assert not missing, f"routes without a row in ROUTE_RIGHTS: {missing}"
