"""Read the bodies of galleries, definitions, resource groups and access requests into values by field name.

A PUT sets each field that the api-version has and that may change. A missing field gets its default. Two kinds of
fields keep their values instead: newer fields, and fixed fields of an existing resource. A PATCH sets only the fields
in the body.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Any, Final, TypeVar

from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission, SharingProfile
from imgstore.domain.names import region_key
from imgstore.domain.resources import (
    SOFT_DELETE_RETENTION_DAYS,
    Architecture,
    Feature,
    HyperVGeneration,
    OsState,
    OsType,
    PurchasePlan,
    RecommendedRange,
)
from imgstore.domain.tags import NO_TAGS
from imgstore.wire.api_versions import Kind, has_field
from imgstore.wire.json_fields import flag_of, invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_disk_types, parse_end_of_life
from imgstore.wire.requests.body_fields import Request, read_known_fields
from imgstore.wire.requests.gallery_update import read_features, read_integer, read_range
from imgstore.wire.sharing import sharing_profile_json

_Word = TypeVar("_Word", bound=StrEnum)

TRUSTED_LAUNCH_SINCE: Final = "2025-03-03"
"""From this api-version, a new definition without a generation gets V2 and supports trusted launch."""


class _Default(Enum):
    FIXED = "can't change"


_NO_DEFAULT: Final = _Default.FIXED


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: the path in the body, the name in the result, the reader, and the default of a PUT."""

    path: str
    name: str
    read: Callable[[Json, str], Any]
    """Called with the body and the path."""
    default: Any = _NO_DEFAULT


def _read_text(body: Json, path: str) -> str | None:
    return text_of(value_at(body, path), path)


def _read_flag(body: Json, path: str) -> bool:
    return flag_of(value_at(body, path), path)


def _read_life(body: Json, path: str) -> Any:
    word = text_of(value_at(body, path), path)
    return None if word is None else parse_end_of_life(word)


def _read_types(body: Json, path: str) -> Any:
    words = value_at(body, path)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise invalid_value(path, words, "a list of disk types")
    return parse_disk_types(words)


def _read_plan(body: Json, path: str) -> PurchasePlan:
    raw = value_at(body, path)
    if not isinstance(raw, Mapping):
        raise invalid_value(path, raw, "an object of name, publisher and product")
    return PurchasePlan(**{name: _read_text(body, f"{path}.{name}") for name in ("name", "publisher", "product")})


def enum_reader(words: type[_Word]) -> Callable[[Json, str], _Word]:
    """Return a reader for a text of an enumeration, in any case."""
    known = {word.value.lower(): word for word in words}

    def read(body: Json, path: str) -> _Word:
        raw = value_at(body, path)
        if not isinstance(raw, str) or raw.lower() not in known:
            raise invalid_value(path, raw, " or ".join(word.value for word in words))
        return known[raw.lower()]

    return read


_GALLERY: Final = (
    _Field("properties.description", "description", _read_text, None),
    _Field("properties.softDeletePolicy.isSoftDeleteEnabled", "soft_delete_enabled", _read_flag, default=False),
    _Field(
        "properties.softDeletePolicy.retentionPeriodInDays",
        "soft_delete_retention_days",
        read_integer,
        SOFT_DELETE_RETENTION_DAYS,
    ),
    _Field("tags", "tags", lambda body, _path: tags_of(body), NO_TAGS),
)
_DEFINITION: Final = (
    _Field("properties.osType", "os_type", enum_reader(OsType)),
    _Field("properties.osState", "os_state", enum_reader(OsState)),
    _Field("properties.identifier.publisher", "publisher", _read_text),
    _Field("properties.identifier.offer", "offer", _read_text),
    _Field("properties.identifier.sku", "sku", _read_text),
    _Field("properties.hyperVGeneration", "hyper_v_generation", enum_reader(HyperVGeneration)),
    _Field("properties.architecture", "architecture", enum_reader(Architecture)),
    _Field("properties.eula", "eula", _read_text),
    _Field("properties.privacyStatementUri", "privacy_statement_uri", _read_text),
    _Field("properties.disallowed.diskTypes", "disallowed_disk_types", _read_types),
    _Field("properties.purchasePlan", "purchase_plan", _read_plan),
    _Field("properties.description", "description", _read_text, None),
    _Field("properties.releaseNoteUri", "release_note_uri", _read_text, None),
    _Field("properties.endOfLifeDate", "end_of_life_at", _read_life, None),
    _Field("properties.recommended.vCPUs", "recommended_vcpus", read_range, RecommendedRange()),
    _Field("properties.recommended.memory", "recommended_memory_gib", read_range, RecommendedRange()),
    _Field("properties.features", "features", lambda body, _path: read_features(body)),
    _Field("properties.allowUpdateImage", "allow_update_image", _read_flag),
    _Field("tags", "tags", lambda body, _path: tags_of(body), NO_TAGS),
)
_PERMISSION: Final = enum_reader(SharingPermission)
_COMMUNITY: Final = {
    "publisher_uri": "publisherUri",
    "publisher_contact": "publisherContact",
    "eula": "eula",
    "public_name_prefix": "publicNamePrefix",
}
_REQUIRED: Final = ("os_type", "os_state", "publisher", "offer", "sku")


def read_gallery(body: Json, api_version: str, *, is_put: bool) -> dict[str, Any]:
    """Read the body of a gallery into values by field name. `location` is the key of the region.

    Args:
        body: The JSON of the request.
        api_version: The api-version of the request.
        is_put: True for a PUT, False for a PATCH.

    Raises:
        InvalidInput: The body is not a gallery, or a field is not supported. The target is the path.
    """
    return _read(Kind.GALLERY, _GALLERY, body, api_version, is_put=is_put)


def read_sharing(
    body: Json, api_version: str, existing: SharingProfile | None
) -> tuple[SharingPermission, CommunityInfo | None] | None:
    """Read the requested sharing of a gallery.

    Args:
        body: The JSON of the request.
        api_version: The api-version of the request.
        existing: The current sharing. Values that the body leaves out stay.

    Returns:
        The permission and the data of a community gallery, or None if the body contains no sharing.

    Raises:
        InvalidInput: The profile is invalid, or contains other members than the current profile. Only ``/share``
            changes the members.
    """
    path = "properties.sharingProfile"
    body = read_known_fields(body, Kind.GALLERY, api_version)
    raw = value_at(body, path)
    if not isinstance(raw, Mapping | None):
        raise invalid_value(path, raw, "an object")
    now = existing or SharingProfile()
    groups = (raw or {}).get("groups")
    if groups and groups != value_at(sharing_profile_json(existing, groups=True), "sharingProfile.groups"):
        raise invalid_value(f"{path}.groups", groups, "the current groups: POST .../share adds and removes groups")
    word = value_at(raw, "permissions")
    info = value_at(raw, "communityGalleryInfo")
    if word is None and not info:
        return None
    permission = now.permission if word is None else _PERMISSION(body, f"{path}.permissions")
    if not info:
        kept = now.community if permission is SharingPermission.COMMUNITY else None
        return permission, None if kept is None else replace(kept, public_name=None)
    if not isinstance(info, Mapping):
        raise invalid_value(f"{path}.communityGalleryInfo", info, "an object")
    given = {
        name: text_of(info.get(field), f"{path}.communityGalleryInfo.{field}") for name, field in _COMMUNITY.items()
    }
    current = {name: "" if now.community is None else getattr(now.community, name) for name in _COMMUNITY}
    return permission, CommunityInfo(**{name: given[name] or current[name] for name in _COMMUNITY})


def read_definition(body: Json, api_version: str, *, is_put: bool) -> dict[str, Any]:
    """Read the body of an image definition into values by field name. `location` is the key of the region.

    Args:
        body: The JSON of the request.
        api_version: The api-version of the request.
        is_put: True for a PUT, False for a PATCH.

    Raises:
        InvalidInput: The body is not a definition, or a field is not supported. The target is the path.
    """
    return _read(Kind.DEFINITION, _DEFINITION, body, api_version, is_put=is_put)


def complete_definition(fields: Mapping[str, Any], api_version: str) -> dict[str, Any]:
    """Complete the result of `read_definition` for a new definition.

    Raises:
        InvalidInput: A required field is missing.
    """
    paths = {field.name: field.path for field in _DEFINITION}
    for name in _REQUIRED:
        if not fields.get(name):
            raise missing_field(f"galleryImage.{paths[name]}")
    if api_version < TRUSTED_LAUNCH_SINCE:
        return dict(fields)
    trusted = Feature(name="SecurityType", value="TrustedLaunchSupported")
    generation = fields.get("hyper_v_generation", HyperVGeneration.V2)
    features = (trusted,) if generation is HyperVGeneration.V2 else ()
    return {"hyper_v_generation": generation, "features": features} | dict(fields)


def _read(kind: Kind, table: tuple[_Field, ...], body: Json, api_version: str, *, is_put: bool) -> dict[str, Any]:
    check_object(body)
    known = read_known_fields(body, kind, api_version)
    fields: dict[str, Any] = {}
    if is_put or value_at(known, "location") is not None:
        fields["location"] = region_key(location_of(known))
    for field in table:
        if value_at(known, field.path) is not None:
            fields[field.name] = field.read(known, field.path)
        elif is_put and field.default is not _NO_DEFAULT and has_field(kind, field.path, api_version):
            fields[field.name] = field.default
    return fields


def refuse_field(body: Json, path: str) -> None:
    """Refuse any value at a path, because imgstore does not support the field.

    Raises:
        InvalidInput: The path has a value.
    """
    raw = value_at(body, path)
    if raw not in (None, [], {}, ""):
        raise invalid_value(path, raw, "nothing: imgstore does not support this field")


def check_object(body: Json) -> None:
    """Check that a body and its ``properties`` are objects.

    Raises:
        InvalidInput: A value is not an object.
    """
    if not isinstance(body, Mapping):
        raise InvalidInput(
            "The request content was invalid and could not be deserialized.",
            found=f"a JSON {type(body).__name__}",
            expected="a JSON object",
            hint="send the resource",
            code="InvalidRequestContent",
        )
    if not isinstance(body.get("properties"), Mapping | None):
        raise invalid_value("properties", body["properties"], "an object")


def location_of(body: Json) -> str:
    """Return the location, which a PUT must contain.

    Raises:
        InvalidInput: The location is missing.
    """
    location = value_at(body, "location")
    if not isinstance(location, str) or not location.strip():
        raise InvalidInput(
            "The location property is required for this definition.",
            found=repr(location),
            expected="the name of a region",
            hint="`imgstore regions list` shows the regions",
            target="location",
            code="LocationRequired",
        )
    return location


def missing_field(path: str) -> InvalidInput:
    """Return the error of a missing field."""
    return InvalidInput(
        f"Required parameter '{path}' is missing (null).",
        found="nothing",
        expected="a value",
        hint="send the value in the body of the request",
        target=path,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessBody:
    """A request for access to the bytes of a disk."""

    level: AccessLevel
    duration_seconds: int


def read_access(body: Json) -> AccessBody:
    """Read the body of beginGetAccess.

    Raises:
        InvalidInput: The level or the duration is missing, or a field is not supported.
    """
    check_object(body)
    body = read_known_fields(body, Request.ACCESS)
    duration = read_integer(body, "durationInSeconds")
    if duration is None:
        raise missing_field("grantAccessData.durationInSeconds")
    return AccessBody(level=enum_reader(AccessLevel)(body, "access"), duration_seconds=duration)


def read_group(body: Json) -> tuple[str, dict[str, str] | None]:
    """Return the location and the tags of a resource group. The tags are None if the body contains no tags.

    Raises:
        InvalidInput: The location is missing, or a field is not supported.
    """
    check_object(body)
    body = read_known_fields(body, Kind.GROUP)
    return location_of(body), None if value_at(body, "tags") is None else tags_of(body)
