"""The functions of ARM templates that read the scope: parameters, variables, ids, and properties of the deployment."""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from imgstore.templates import datetimes
from imgstore.templates.scope import InvalidArgument, Scope, bad_template, first_names
from imgstore.wire.cloud import endpoints_json, provider_json, subscription_json, tenant_json
from imgstore.wire.json_text import Json


def text_of(value: Json) -> str:
    """Convert a value to a string as the function ``string`` does."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | int) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def resource_id(scope: Scope, *args: Json) -> str:
    """Return the id for ``resourceId([subscription], [group], type, name, ...)``."""
    above, path = _type_and_names(args, above_max=2)
    group = above[-1] if above else scope.group
    subscription = above[0] if len(above) == 2 else scope.subscription
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{path}"


def _subscription_resource_id(scope: Scope, *args: Json) -> str:
    above, path = _type_and_names(args, above_max=1)
    return f"/subscriptions/{above[0] if above else scope.subscription}/providers/{path}"


def _type_and_names(args: Iterable[Json], *, above_max: int) -> tuple[list[str], str]:
    """Split the arguments before the type, and join the type with the names: ``Microsoft.Compute/galleries/g``."""
    words = [text_of(each) for each in args]
    at = next((place for place, word in enumerate(words) if "/" in word), None)
    if at is None or at > above_max:
        raise InvalidArgument("a type with its provider: Microsoft.Compute/galleries")
    # As in Azure, a slash before or after the type is ignored.
    kind, names = [word for word in words[at].split("/") if word], words[at + 1 :]
    if len(kind) < 2:
        raise InvalidArgument("a type with its provider: Microsoft.Compute/galleries")
    if len(names) != len(kind) - 1:
        raise InvalidArgument(f"{len(kind) - 1} names for {words[at]}")
    return words[:at], "/".join((kind[0], *(each for pair in zip(kind[1:], names, strict=True) for each in pair)))


def _reference(scope: Scope, name: Json, version: Json = None, full: Json = None) -> Json:
    api_version = None if version is None else text_of(version)
    return scope.reference(text_of(name), api_version, str(full).lower() == "full")


def _group(scope: Scope) -> Json:
    return {
        "id": f"/subscriptions/{scope.subscription}/resourceGroups/{scope.group}",
        "name": scope.group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": scope.location,
        "tags": dict(scope.tags),
        "properties": {"provisioningState": "Succeeded"},
    }


def _providers(scope: Scope, provider: Json, kind: Json = None) -> Json:
    """Return a resource provider, or one of its types. The locations are the location of the resource group."""
    found = provider_json(text_of(provider), scope.subscription, [scope.location])
    if kind is None:
        return found
    word = text_of(kind).lower()
    types = {each["resourceType"].lower(): each for each in found["resourceTypes"]}
    if word not in types:
        raise InvalidArgument(f"a type of {found['namespace']}: {first_names(types)}")
    return types[word]


def _pick_zones(_: Scope, provider: Json, kind: Json, location: Json, *_counts: Json) -> list[Json]:
    """Return the availability zones of a type in a location. imgstore places nothing by zones, so the list is empty."""
    if not all(isinstance(each, str) and each for each in (provider, kind, location)):
        raise InvalidArgument("a provider, a type and a location")
    return []


def _deployment(scope: Scope) -> Json:
    return {"name": scope.deployment, "properties": {"mode": "Incremental", "provisioningState": "Accepted"}}


def _copy_index(scope: Scope, *args: Json) -> int:
    loop = args[0] if args and isinstance(args[0], str) else ""
    offset = next((each for each in args if isinstance(each, int)), 0)
    if loop.lower() not in scope.copies:
        raise bad_template("The template function 'copyIndex' is not expected at this location.")
    return scope.copies[loop.lower()] + offset


def _parameter(scope: Scope, name: Json) -> Json:
    key = text_of(name).lower()
    if key not in scope.parameters:
        raise bad_template(f"The template parameter '{name}' is not found.", found=first_names(scope.parameters))
    return scope.parameters[key]


def _now(scope: Scope, pattern: Json = datetimes.DEFAULT) -> str:
    if scope.default_of is None or scope.now is None:
        raise bad_template("The template function 'utcNow' is expected in the default value of a parameter only.")
    scope.budget.spend(len(pattern))
    return datetimes.format_time(scope.now, pattern)


def _new_guid(scope: Scope) -> str:
    """Derive a GUID from the seed, one per parameter. A deployment that resumes after a crash gets the same GUID."""
    if scope.default_of is None or not scope.seed:
        raise bad_template("The template function 'newGuid' is expected in the default value of a parameter only.")
    return str(uuid.uuid5(uuid.UUID(scope.seed), f"{scope.group}/{scope.deployment}/{scope.default_of}"))


SCOPE_FUNCTIONS: Final[Mapping[str, Callable[..., Json]]] = {
    "parameters": _parameter,
    "variables": lambda scope, name: scope.variable(text_of(name)),
    "reference": _reference,
    "references": lambda scope, loop, full=None: scope.references(text_of(loop), str(full).lower() == "full"),
    "resourceid": resource_id,
    "subscriptionresourceid": _subscription_resource_id,
    "tenantresourceid": lambda _, *args: f"/providers/{_type_and_names(args, above_max=0)[1]}",
    "extensionresourceid": lambda _, on, *args: f"{on}/providers/{_type_and_names(args, above_max=0)[1]}",
    "resourcegroup": _group,
    "providers": _providers,
    "pickzones": _pick_zones,
    "subscription": lambda scope: subscription_json(scope.subscription, scope.tenant),
    "tenant": lambda scope: tenant_json(scope.tenant),
    "environment": lambda scope: endpoints_json(scope.base_url),
    "deployment": _deployment,
    "copyindex": _copy_index,
    "utcnow": _now,
    "newguid": _new_guid,
}
"""The functions by lower-case name."""
