"""Define the right that each route requires, by Azure's name of the action. A route without a row is not served.

`RequestContext.session` checks the row before a body is read, an operation is stored or a resource is looked up. A refusal
therefore never depends on the existence of a resource (invariant H9). The functions in `operations` check the same rights
again, for the command line and for templates. Other resources in a request (sources, network interfaces) are checked only
in `operations`.

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
    GROUP_USAGE,
    GROUPS,
    NETWORK,
    OPERATION,
    OPERATIONS,
    PROVIDER,
    SOFT_DELETED,
    SUBSCRIPTION,
    USAGE,
    VERSION,
    VERSIONS,
)
from imgstore.domain.identity.access import DEFINITIONS as DEFINITION_TYPE
from imgstore.domain.identity.access import GALLERIES as GALLERY_TYPE
from imgstore.domain.identity.access import GROUPS as GROUP_TYPE
from imgstore.domain.identity.access import INSTANCES, SCALE_SETS, USAGE_DETAILS, Action, Principal
from imgstore.domain.identity.access import VERSIONS as VERSION_TYPE
from imgstore.operations.activity_log import permit, permit_list
from imgstore.operations.installation import Installation


class Check(Enum):
    """The kind of check of a route's right."""

    OPEN = auto()
    """No check. The route shows nothing about resources, or authenticates the caller by other means."""
    AUTHENTICATED = auto()
    """The caller must be known. The answer shows only resources with a role of the caller."""
    ACTION = auto()
    """A grant must cover the action on the scope."""
    LIST = auto()
    """The caller must have a role at, above or below the scope. The answer shows resources that the caller may read."""
    OWN_OPERATION = auto()
    """The caller must have started the operation, or must have the right to the action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRight:
    """The right that a route requires."""

    check: Check
    type: str = ""
    """The resource type of the action. The text may contain a parameter of the path."""
    action: Action = Action.READ
    scope: str = ""
    """The id of the resource that a role must cover, as a path with the parameters of the route."""

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
_SCALE_SET: Final = f"{COMPUTE}/virtualMachineScaleSets/{{scale_set}}"
_INSTANCE: Final = f"{_SCALE_SET}/virtualMachines/{{instance}}"
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
    """Yield the rows of a type of Microsoft.Compute, with lists for a group and for a subscription."""
    kind, one = f"Microsoft.Compute/{word}", f"{COMPUTE}/{word}/{{{parameter}}}"
    yield from _resource(one, kind)
    yield _list(f"{COMPUTE}/{word}", kind, GROUP)
    yield _list(f"{_COMPUTE_ABOVE}/{word}", kind, SUBSCRIPTION)


def _network(word: str, part: str | None = None, *, is_part_written: bool = True) -> Iterator[_Row]:
    """Yield the rows of a type of Microsoft.Network, and the rows of a nested type."""
    kind, one = f"Microsoft.Network/{word}", f"{NETWORK}/{word}/{{name}}"
    yield from _resource(one, kind)
    yield _list(f"{NETWORK}/{word}", kind, GROUP)
    yield _list(f"{_NETWORK_ABOVE}/{word}", kind, SUBSCRIPTION)
    if part is not None:
        yield from _resource(f"{one}/{part}/{{part}}", f"{kind}/{part}", "PUT GET DELETE" if is_part_written else "GET")
        yield _action("GET", f"{one}/{part}", f"{kind}/{part}", Action.READ, one)


def _shared_gallery_rows(word: str) -> Iterator[_Row]:
    """Yield the rows of shared galleries, which are read from a subscription of the reader."""
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
        Action.BOOT_DIAGNOSTICS,
        Action.REDEPLOY,
        Action.REIMAGE,
        Action.REAPPLY,
    ):
        yield _action("POST", f"{_MACHINE}/{action.removesuffix('/action')}", _MACHINE_TYPE, action, _MACHINE)


def _scale_sets() -> Iterator[_Row]:
    yield from _compute("virtualMachineScaleSets", "scale_set")
    yield _action("GET", f"{_SCALE_SET}/instanceView", f"{SCALE_SETS}/instanceView", Action.READ, _SCALE_SET)
    yield _action(
        "GET", f"{_SCALE_SET}/rollingUpgrades/latest", f"{SCALE_SETS}/rollingUpgrades", Action.READ, _SCALE_SET
    )
    yield _action("POST", f"{_SCALE_SET}/rollingUpgrades/cancel", SCALE_SETS, Action.CANCEL_ROLLING_UPGRADE, _SCALE_SET)
    yield _action("GET", f"{_SCALE_SET}/virtualMachines", INSTANCES, Action.READ, _SCALE_SET)
    yield from _resource(_INSTANCE, INSTANCES, "GET DELETE")
    yield _action("GET", f"{_INSTANCE}/instanceView", f"{INSTANCES}/instanceView", Action.READ, _INSTANCE)
    of_instances = (
        Action.START,
        Action.POWER_OFF,
        Action.RESTART,
        Action.DEALLOCATE,
        Action.REIMAGE,
        Action.REIMAGE_ALL,
    )
    for action in (*of_instances, Action.MANUAL_UPGRADE, Action.DELETE_INSTANCES):
        yield _action("POST", f"{_SCALE_SET}/{action.removesuffix('/action')}", SCALE_SETS, action, _SCALE_SET)
    for action in of_instances:
        yield _action("POST", f"{_INSTANCE}/{action.removesuffix('/action')}", INSTANCES, action, _INSTANCE)


def _forecasts() -> Iterator[_Row]:
    """Yield the rows of predictions, which Azure does not have. A prediction needs the right to the predicted action."""
    disks, snapshots = (f"{COMPUTE}/{word}/{{disk}}" for word in ("disks", "snapshots"))
    for path, kind in (
        (VERSION, VERSION_TYPE),
        (disks, "Microsoft.Compute/disks"),
        (snapshots, "Microsoft.Compute/snapshots"),
    ):
        yield _action("POST", f"{path}/whatIf", kind, Action.WRITE, path)
        yield _action("POST", f"{path}/whatIfDelete", kind, Action.DELETE, path)
    image = f"{COMPUTE}/images/{{image}}"
    yield _action("POST", f"{image}/whatIfDelete", "Microsoft.Compute/images", Action.DELETE, image)


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
    # The signature in the URL is the authorization. `signed_urls.authorize_signed_url` checks the signature at each request.
    yield from _open("GET /consoles/{machine_uid}/{name}")
    yield from _open("GET /blobs/{disk}/{name}", "HEAD /blobs/{disk}/{name}", "PUT /blobs/{disk}/{name}")
    for method, path in (
        ("GET", "/tenants"),
        ("GET", "/subscriptions"),
        ("GET", "/providers"),
        ("GET", "/providers/{provider}"),
        ("POST", "/providers/Microsoft.ResourceGraph/resources"),
    ):
        yield (method, path), RouteRight(check=Check.AUTHENTICATED)
    yield _list(SUBSCRIPTION, _SUBSCRIPTION_TYPE, SUBSCRIPTION)
    yield _list(f"{SUBSCRIPTION}/locations", f"{_SUBSCRIPTION_TYPE}/locations", SUBSCRIPTION)
    yield _list(f"{SUBSCRIPTION}/providers", f"{_SUBSCRIPTION_TYPE}/providers", SUBSCRIPTION)
    yield _list(PROVIDER, f"{_SUBSCRIPTION_TYPE}/providers", SUBSCRIPTION)
    yield _action("POST", f"{PROVIDER}/register", "{provider}", Action.REGISTER, SUBSCRIPTION)
    caps = "Microsoft.Compute/locations/capsOperations"
    yield ("GET", OPERATION), RouteRight(check=Check.OWN_OPERATION, type=caps, scope=SUBSCRIPTION)
    yield _list(OPERATIONS, caps, SUBSCRIPTION)
    # A route without a counterpart in Azure. The right to write the resource includes the right to cancel the operation.
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
    yield from _shared_gallery_rows("sharedGalleries")
    yield from _shared_gallery_rows("communityGalleries")
    yield from _compute("disks", "disk")
    yield from _compute("snapshots", "disk")
    yield from _compute("images", "image")
    yield from _compute("virtualMachines", "machine")
    yield from _machine_actions()
    yield from _scale_sets()
    yield from _forecasts()
    disk, disk_type = f"{COMPUTE}/disks/{{disk}}", "Microsoft.Compute/disks"
    yield _action("POST", f"{disk}/beginGetAccess", disk_type, Action.EXPORT, disk)
    yield _action("POST", f"{disk}/endGetAccess", disk_type, Action.END_ACCESS, disk)
    yield from _network("virtualNetworks", "subnets")
    yield from _network("networkSecurityGroups", "securityRules")
    yield from _network("publicIPAddresses")
    yield from _network("loadBalancers", "inboundNatRules")
    yield from _network("networkInterfaces", "ipConfigurations", is_part_written=False)
    yield _action("GET", USAGE, USAGE_DETAILS, Action.READ, SUBSCRIPTION)
    yield _action("GET", GROUP_USAGE, USAGE_DETAILS, Action.READ, GROUP)
    yield from _resource(_DEPLOYMENT, _DEPLOYMENT_TYPE, "PUT GET DELETE")
    yield _action("GET", _DEPLOYMENTS, _DEPLOYMENT_TYPE, Action.READ, GROUP)
    yield _action("POST", f"{_DEPLOYMENT}/validate", _DEPLOYMENT_TYPE, Action.VALIDATE, _DEPLOYMENT)
    yield _action("POST", f"{_DEPLOYMENT}/whatIf", _DEPLOYMENT_TYPE, Action.WHAT_IF, _DEPLOYMENT)
    yield _action("POST", f"{_DEPLOYMENT}/cancel", _DEPLOYMENT_TYPE, Action.CANCEL, _DEPLOYMENT)
    operations = f"{_DEPLOYMENT_TYPE}/operations"
    yield _action("GET", _DEPLOYMENT_OPERATIONS, operations, Action.READ, _DEPLOYMENT)
    yield _action("GET", f"{_DEPLOYMENT_OPERATIONS}/{{operation}}", operations, Action.READ, _DEPLOYMENT)


ROUTE_RIGHTS: Final[Mapping[tuple[str, str], RouteRight]] = dict(_rows())
"""The rights by method and path of a route."""


def check_route(
    installation: Installation, principal: Principal, method: str, path: str, parameters: Mapping[str, str]
) -> None:
    """Check a caller's right to a route. Call this function before any read. A refusal adds a row to the activity log.

    Args:
        installation: the installation with the subscription of the request. The subscription may be missing.
        principal: the caller.
        method: the method of the request.
        path: the path of the route, with the names of the parameters.
        parameters: the values of the parameters.

    Raises:
        ScopeNotFound: the caller has no role in the subscription, or the path is no valid resource id.
        AccessDenied: no role of the caller in the subscription permits the action.
        KeyError: the route has no row.
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
    """Return whether a route requires no token."""
    return ROUTE_RIGHTS[method, path].check is Check.OPEN


def check_rows(app: FastAPI) -> None:
    """Check that each route of an application has a row.

    Raises:
        AssertionError: at least one route has no row. The message lists the routes.
    """
    routes = [
        (method, getattr(route, "path", ""))
        for route in app.routes
        for method in sorted(getattr(route, "methods", None) or ())
    ]
    missing = [each for each in routes if each not in ROUTE_RIGHTS and each[0] != "HEAD"]
    assert not missing, f"routes without a row in ROUTE_RIGHTS: {missing}"
