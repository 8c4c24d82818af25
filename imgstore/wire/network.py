"""Resources of Microsoft.Network: stored as sent, and shown with the ids, states and empty lists that Azure adds.

Source: the specifications of Microsoft.Network 2022-01-01. Read-only properties are dropped, because clients send such
properties back when they change a resource.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.errors import InvalidInput
from imgstore.domain.network_records import NETWORK, NetworkContent, NetworkRecord, NetworkResourceId
from imgstore.domain.views import NetworkRecordView
from imgstore.wire.json_fields import flag_of, invalid_value, tags_of
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import Request, normalize_names, read_known_fields
from imgstore.wire.requests.fields import check_object, location_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkType:
    """A resource type of Microsoft.Network that imgstore stores."""

    word: str
    """The name of the type: ``virtualNetworks``."""
    display_name: str
    """The name of one resource in messages."""
    part: str | None = None
    """The property with the list of child resources: ``subnets``."""
    other_parts: tuple[str, ...] = ()
    """Properties with lists of named objects that other resources may name. The objects have no route of their own."""
    has_writable_parts: bool = False
    """True if a part has a PUT and a DELETE of its own."""
    empty_lists: tuple[str, ...] = ()
    """Lists that Azure shows and that are empty in imgstore."""
    read_only_properties: tuple[str, ...] = ()
    """Properties that only Azure writes."""

    @property
    def type(self) -> str:
        """The name of the type with the provider."""
        return f"{NETWORK}/{self.word}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The properties with lists of named objects."""
        return self.other_parts if self.part is None else (self.part, *self.other_parts)


_INTERFACES: Final = "networkInterfaces"
_CONFIGURATIONS: Final = "ipConfigurations"

NETWORK_TYPES: Final = (
    NetworkType(word="virtualNetworks", display_name="virtual network", part="subnets", has_writable_parts=True),
    NetworkType(
        word="networkSecurityGroups",
        display_name="network security group",
        part="securityRules",
        has_writable_parts=True,
        empty_lists=("defaultSecurityRules",),
        read_only_properties=("defaultSecurityRules", "networkInterfaces", "subnets"),
    ),
    NetworkType(word="publicIPAddresses", display_name="public IP address", read_only_properties=("ipConfiguration",)),
    NetworkType(
        word="loadBalancers",
        display_name="load balancer",
        part="inboundNatRules",
        other_parts=(
            "backendAddressPools",
            "frontendIPConfigurations",
            "inboundNatPools",
            "loadBalancingRules",
            "outboundRules",
            "probes",
        ),
        has_writable_parts=True,
    ),
    NetworkType(
        word=_INTERFACES,
        display_name="network interface",
        part=_CONFIGURATIONS,
        read_only_properties=("virtualMachine", "macAddress"),
    ),
)
_BY_TYPE: Final = {each.type: each for each in NETWORK_TYPES}

_READ_ONLY: Final = ("provisioningState", "resourceGuid")
_READ_ONLY_OF_PARTS: Final = ("provisioningState", "ipConfigurations", "privateEndpoints")
_DEPTH_MAX: Final = 32
"""The deepest resource of Azure has about a dozen levels."""
_COMMON_FIELDS: Final = ("id", "name", "type", "etag", "location", "tags", "properties")
_COMMON_PART_FIELDS: Final = ("id", "name", "type", "etag", "properties")


def read_network(body: Json, kind: NetworkType, resource_id: str) -> NetworkContent:
    """Read the PUT body of a resource.

    Args:
        body: The body of the request.
        kind: The type of the resource.
        resource_id: The id of the resource.

    Raises:
        InvalidInput: The location is missing, the list of parts is invalid, or an interface has no single primary IP
            configuration.
    """
    check_object(body)
    body = normalize_names(body, _COMMON_FIELDS)
    check_object(body)
    other_fields = {name: value for name, value in body.items() if name not in _COMMON_FIELDS and value is not None}
    names_ = (*_READ_ONLY, *kind.read_only_properties, *kind.empty_lists, *kind.parts)
    properties = normalize_names(body.get("properties") or {}, names_, "properties")
    properties = _without(properties, (*_READ_ONLY, *kind.read_only_properties))
    for part in kind.parts:
        properties[part] = _read_parts(properties.get(part), f"properties.{part}")
    if kind.word == _INTERFACES:
        properties[_CONFIGURATIONS] = _with_one_primary(properties[_CONFIGURATIONS])
    return _content(
        location_of(body), tags_of(body), other_fields | {"properties": properties}, kind=kind, resource_id=resource_id
    )


def read_network_tags(body: Json, existing: NetworkContent) -> NetworkContent:
    """Return a resource with the tags of a PATCH.

    Raises:
        InvalidInput: The tags are invalid, or the body contains another change. Azure's PATCH changes tags only.
    """
    check_object(body)
    known = read_known_fields(body, Request.TAGS)
    return replace(existing, tags=tags_of(known) if "tags" in known else existing.tags)


def with_part(resource: NetworkRecord, name: str, body: Json) -> NetworkContent:
    """Return a resource with a part from a PUT body. A part of the same name is replaced.

    Raises:
        InvalidInput: The body is not a part.
    """
    check_object(body)
    raw = normalize_names(body, _COMMON_FIELDS) | {"name": names.check_network_name(name)}
    parts, part = _parts(resource), _read_part(raw, "")
    if _find(parts, name) is None:
        return _with_parts(resource, [*parts, part])
    return _with_parts(resource, [part if _has_name(each, name) else each for each in parts])


def without_part(resource: NetworkRecord, name: str) -> NetworkContent:
    """Return a resource without the named part."""
    return _with_parts(resource, [each for each in _parts(resource) if not _has_name(each, name)])


def network_json(view: "NetworkRecordView") -> Json:
    """Return a resource as JSON, without the ETag."""
    resource = view.resource
    kind, content = _BY_TYPE[resource.type], resource.content
    stored = content.body.get("properties", {})
    properties = dict.fromkeys(kind.empty_lists, ()) | stored
    for part in kind.parts:
        properties[part] = [_part_json(resource, part, each) for each in properties.get(part, ())]
    if view.machine_id is not None:
        properties["virtualMachine"] = {"id": view.machine_id}
    if isinstance(stored.get("dnsSettings"), Mapping):
        # imgstore assigns no names, but az reads this property.
        properties["dnsSettings"] = {"fqdn": ""} | dict(stored["dnsSettings"])
    return {
        "name": resource.name,
        "id": resource.resource_id,
        "type": resource.type,
        "location": content.location,
        "tags": dict(content.tags),
        **{name: value for name, value in content.body.items() if name != "properties"},
        "properties": {"provisioningState": "Succeeded", "resourceGuid": resource.uid, **properties},
    }


def part_json(whole: Json, part: str, name: str) -> Json | None:
    """Return a part of a resource in JSON, or None if the part does not exist."""
    return _find(whole["properties"][part], name)


def add_etag(body: Json, etag: str) -> Json:
    """Return a resource in JSON with the ETag in the resource and in its parts, as Azure does."""
    weak = f"W/{etag}"
    kind = _BY_TYPE[body["type"]]
    properties = body["properties"]
    properties = properties | {part: [each | {"etag": weak} for each in properties[part]] for part in kind.parts}
    return body | {"etag": weak, "properties": properties}


def _content(
    location: str, tags: Mapping[str, str], body: Mapping[str, Json], *, kind: NetworkType, resource_id: str
) -> NetworkContent:
    properties = body["properties"]
    return NetworkContent(
        location=location,
        tags=tags,
        body=body,
        parts=tuple(f"{part}/{each['name']}".lower() for part in kind.parts for each in properties.get(part, ())),
        references=tuple(dict.fromkeys(_references(body, resource_id.lower()))),
    )


def _with_parts(resource: NetworkRecord, parts: Sequence[Json]) -> NetworkContent:
    content, kind = resource.content, _BY_TYPE[resource.type]
    body = {**content.body, "properties": {**content.body["properties"], str(kind.part): list(parts)}}
    return _content(content.location, content.tags, body, kind=kind, resource_id=resource.resource_id)


def _parts(resource: NetworkRecord) -> list[Json]:
    kind = _BY_TYPE[resource.type]
    return list(resource.content.body["properties"].get(kind.part, ()))


def _read_parts(raw: Json, path: str) -> list[Json]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise invalid_value(path, raw, "a list of objects")
    parts = [_read_part(each, f"{path}[{place}]") for place, each in enumerate(raw)]
    called = [each["name"].lower() for each in parts]
    if len(set(called)) != len(called):
        raise InvalidInput(
            f"The names in '{path}' are not unique.",
            found=", ".join(called),
            expected="each name once",
            hint="give each part another name",
            target=path,
            code="InvalidRequestFormat",
        )
    return parts


def _read_part(raw: Json, path: str) -> Json:
    if isinstance(raw, Mapping):
        raw = normalize_names(raw, _COMMON_FIELDS, path)
    if not isinstance(raw, Mapping) or not isinstance(raw.get("properties"), Mapping | None):
        raise invalid_value(path, raw, "an object with a name and properties")
    name = raw.get("name")
    if not isinstance(name, str):
        raise invalid_value(f"{path}.name", name, "a name")
    more = {each: value for each, value in raw.items() if each not in _COMMON_PART_FIELDS and value is not None}
    properties = normalize_names(
        raw.get("properties") or {}, (*_READ_ONLY_OF_PARTS, "primary"), f"{path}.properties".lstrip(".")
    )
    properties = _without(properties, _READ_ONLY_OF_PARTS)
    return {"name": names.check_network_name(name), **more, "properties": properties}


def _with_one_primary(configurations: list[Json]) -> list[Json]:
    """Return the IP configurations of an interface, with `primary` as a boolean if the property is set.

    Raises:
        InvalidInput: Several IP configurations are primary, or all are not.
    """
    path = f"properties.{_CONFIGURATIONS}[{{}}].properties.primary"
    expected = "one primary IP configuration of an interface"
    read, primary = list[Json](), None
    for place, each in enumerate(configurations):
        raw = each["properties"].get("primary")
        if raw is None:
            read.append(each)
            continue
        is_primary = flag_of(raw, path.format(place))
        if is_primary and primary is not None:
            raise invalid_value(path.format(place), raw, expected)
        primary = place if is_primary else primary
        read.append(each | {"properties": each["properties"] | {"primary": is_primary}})
    if read and all(each["properties"].get("primary") is False for each in read):
        raise invalid_value(path.format(0), False, expected)  # noqa: FBT003 - the found value
    return read


def _primary_of(configurations: Sequence[Json]) -> Json:
    """Return the primary IP configuration. Without a value for `primary`, Azure takes the first."""
    flags = [each["properties"].get("primary") for each in configurations]
    return configurations[flags.index(True) if True in flags else flags.index(None) if None in flags else 0]


def _part_json(resource: NetworkRecord, word: str, part: Json) -> Json:
    kind = _BY_TYPE[resource.type]
    properties = {"provisioningState": "Succeeded", **part["properties"]}
    if kind.word == _INTERFACES:
        # imgstore assigns no addresses, but az reads this property.
        primary = part["name"] == _primary_of(_parts(resource))["name"]
        properties = {"privateIPAddress": "", **properties, "primary": primary}
    return {
        "name": part["name"],
        "id": f"{resource.resource_id}/{word}/{part['name']}",
        "type": f"{kind.type}/{word}",
        **{name: value for name, value in part.items() if name not in ("name", "properties")},
        "properties": properties,
    }


def _without(raw: Mapping[str, Any], names_: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in names_ and value is not None}


def _find(parts: Sequence[Json], name: str) -> Json | None:
    return next((each for each in parts if _has_name(each, name)), None)


def _has_name(part: Json, name: str) -> bool:
    return bool(part["name"].lower() == name.lower())


def _references(body: Json, own: str) -> Iterator[str]:
    """Yield the ids of other resources in a body, in lower case. Each object with an ``id`` counts."""
    left = [(body, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEPTH_MAX:
            raise invalid_value("properties", "...", f"at most {_DEPTH_MAX} levels")
        if isinstance(value, Mapping):
            word = next((str(each) for name, each in value.items() if name.lower() == "id"), "").lower()
            if NetworkResourceId.parse(word) is not None and word != own and not word.startswith(f"{own}/"):
                yield word
        below = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        left += [(each, depth + 1) for each in below]
