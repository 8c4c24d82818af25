"""Generic updates of galleries and definitions: edit the JSON, and read the result as domain values."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from imgstore.domain.errors import InvalidInput
from imgstore.domain.image_features import canonical_feature
from imgstore.domain.names import VersionName
from imgstore.domain.resources import SOFT_DELETE_RETENTION_DAYS, Feature, Gallery, ImageDefinition, RecommendedRange
from imgstore.domain.views import DefinitionPath
from imgstore.policy.allowed_changes import DEFINITION_MAY_CHANGE, GALLERY_MAY_CHANGE
from imgstore.wire.json_fields import flag_of, integer_of, invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_end_of_life
from imgstore.wire.requests.generic_update import Edit, apply_edits, check_changes
from imgstore.wire.responses.resources import definition_json, gallery_json


def edit_gallery(gallery: Gallery, edits: Iterable[Edit], *, force_string: bool = False) -> Gallery:
    """Return a gallery with the edits.

    Raises:
        InvalidInput: A path leads nowhere, or a value has the wrong type. The target is the path.
        PropertyChangeNotAllowed: An edit changes a property that cannot change.
    """
    before = gallery_json(gallery)
    after = apply_edits(before, edits, force_string=force_string)
    check_changes(before, after, GALLERY_MAY_CHANGE)
    policy = "properties.softDeletePolicy"
    days = read_integer(after, f"{policy}.retentionPeriodInDays")
    return replace(
        gallery,
        description=_read_text(after, "properties.description"),
        tags=tags_of(after),
        soft_delete_enabled=_read_flag(after, f"{policy}.isSoftDeleteEnabled"),
        soft_delete_retention_days=SOFT_DELETE_RETENTION_DAYS if days is None else days,
    )


def edit_definition(line: DefinitionPath, edits: Iterable[Edit], *, force_string: bool = False) -> ImageDefinition:
    """Return an image definition with the edits.

    Raises:
        InvalidInput: A path leads nowhere, or a value has the wrong type. The target is the path.
        PropertyChangeNotAllowed: An edit changes a property that cannot change.
    """
    before = definition_json(line.definition, line.gallery)
    after = apply_edits(before, edits, force_string=force_string)
    check_changes(before, after, DEFINITION_MAY_CHANGE)
    ends = _read_text(after, "properties.endOfLifeDate")
    return replace(
        line.definition,
        description=_read_text(after, "properties.description"),
        tags=tags_of(after),
        release_note_uri=_read_text(after, "properties.releaseNoteUri"),
        end_of_life_at=None if ends is None else parse_end_of_life(ends),
        recommended_vcpus=read_range(after, "properties.recommended.vCPUs"),
        recommended_memory_gib=read_range(after, "properties.recommended.memory"),
        features=read_features(after),
        allow_update_image=_read_flag(after, "properties.allowUpdateImage"),
    )


def _read_text(resource: Json, path: str) -> str | None:
    return text_of(value_at(resource, path), path)


def _read_flag(resource: Json, path: str) -> bool:
    return flag_of(value_at(resource, path), path)


def read_integer(resource: Json, path: str) -> int | None:
    """Return the integer at a path, or None.

    Raises:
        InvalidInput: The value is not an integer of 32 bits.
    """
    value = value_at(resource, path)
    return None if value is None else integer_of(value, path)


def read_range(resource: Json, path: str) -> RecommendedRange:
    """Return the range at a path.

    Raises:
        InvalidInput: A limit is not an integer.
    """
    return RecommendedRange(min=read_integer(resource, f"{path}.min"), max=read_integer(resource, f"{path}.max"))


def read_features(resource: Json) -> tuple[Feature, ...]:
    """Return the features of a definition.

    Raises:
        InvalidInput: The value is not a list of features.
    """
    path = "properties.features"
    listed = value_at(resource, path)
    if not isinstance(listed, list | None):
        raise invalid_value(path, listed, "a list of objects with name and value")
    return tuple(_read_feature(each, f"{path}[{place}]") for place, each in enumerate(listed or []))


def _read_feature(element: Json, path: str) -> Feature:
    known = {"name", "value", "startsAtVersion"}
    if not isinstance(element, Mapping) or not {"name", "value"} <= set(element) <= known:
        raise invalid_value(path, element, "an object with name and value, and optionally startsAtVersion")
    texts = {name: text_of(element.get(name), f"{path}.{name}") for name in known}
    starts = texts["startsAtVersion"]
    try:
        version = None if starts is None else str(VersionName.parse(starts))
    except InvalidInput as error:
        raise invalid_value(f"{path}.startsAtVersion", starts, "a version such as 1.0.0") from error
    return canonical_feature(Feature(name=texts["name"] or "", value=texts["value"] or "", starts_at_version=version))
