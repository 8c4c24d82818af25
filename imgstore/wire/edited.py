"""Galleries and definitions after generic updates: edited as az's users see them, read back as values."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from imgstore.control.changes import DEFINITION_MAY_CHANGE, GALLERY_MAY_CHANGE
from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import VersionName
from imgstore.domain.resources import SOFT_DELETE_RETENTION_DAYS, Feature, Gallery, ImageDefinition, Recommended
from imgstore.wire.requests import parse_end_of_life
from imgstore.wire.resources import definition_json, gallery_json
from imgstore.wire.text import Json
from imgstore.wire.updates import Edit, apply_edits, check_changes

if TYPE_CHECKING:
    from imgstore.operations.finding import Lineage

_WHOLE_MAX = 2**31 - 1


def edited_gallery(gallery: Gallery, edits: Iterable[Edit], *, force_string: bool = False) -> Gallery:
    """The gallery with the edits done.

    Raises:
        InvalidInput: an edit leads nowhere, or to a value of the wrong kind; its target is the path.
        PropertyChangeNotAllowed: an edit changes what can't change.
    """
    before = gallery_json(gallery)
    after = apply_edits(before, edits, force_string=force_string)
    check_changes(before, after, GALLERY_MAY_CHANGE)
    policy = "properties.softDeletePolicy"
    days = read_whole(after, f"{policy}.retentionPeriodInDays")
    return replace(
        gallery,
        description=read_text(after, "properties.description"),
        tags=read_tags(after),
        soft_delete_enabled=read_flag(after, f"{policy}.isSoftDeleteEnabled"),
        soft_delete_retention_days=SOFT_DELETE_RETENTION_DAYS if days is None else days,
    )


def edited_definition(line: "Lineage", edits: Iterable[Edit], *, force_string: bool = False) -> ImageDefinition:
    """The definition with the edits done. Raises as `edited_gallery`."""
    before = definition_json(line.definition, line.gallery)
    after = apply_edits(before, edits, force_string=force_string)
    check_changes(before, after, DEFINITION_MAY_CHANGE)
    ends = read_text(after, "properties.endOfLifeDate")
    return replace(
        line.definition,
        description=read_text(after, "properties.description"),
        tags=read_tags(after),
        release_note_uri=read_text(after, "properties.releaseNoteUri"),
        end_of_life_at=None if ends is None else parse_end_of_life(ends),
        recommended_vcpus=_read_range(after, "properties.recommended.vCPUs"),
        recommended_memory_gib=_read_range(after, "properties.recommended.memory"),
        features=_read_features(after),
        allow_update_image=read_flag(after, "properties.allowUpdateImage"),
    )


def read_text(resource: Json, path: str) -> str | None:
    """The text at a path: a number or a truth value that was typed is the text that was typed.

    Raises:
        InvalidInput: a list or an object is there.
    """
    return _text(_at(resource, path), path)


def read_whole(resource: Json, path: str) -> int | None:
    """The whole number at a path.

    Raises:
        InvalidInput: something else is there.
    """
    value = _at(resource, path)
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) < 12:
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _WHOLE_MAX):
        return value
    raise _unfit(path, value, "a whole number")


def read_flag(resource: Json, path: str) -> bool:
    """The truth value at a path; an absent one is False.

    Raises:
        InvalidInput: something else is there.
    """
    value = _at(resource, path)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _unfit(path, value, "true or false")


def read_tags(resource: Json) -> dict[str, str]:
    """The resource's tags.

    Raises:
        InvalidInput: they are no texts by name.
    """
    tags = _at(resource, "tags")
    if not isinstance(tags, Mapping | None):
        raise _unfit("tags", tags, "an object of texts")
    texts = {name: _text(value, f"tags.{name}") for name, value in (tags or {}).items()}
    return {name: text for name, text in texts.items() if text is not None}


def _read_range(resource: Json, path: str) -> Recommended:
    return Recommended(min=read_whole(resource, f"{path}.min"), max=read_whole(resource, f"{path}.max"))


def _read_features(resource: Json) -> tuple[Feature, ...]:
    path = "properties.features"
    listed = _at(resource, path)
    if not isinstance(listed, list | None):
        raise _unfit(path, listed, "a list of objects with name and value")
    return tuple(_read_feature(each, f"{path}[{at}]") for at, each in enumerate(listed or []))


def _read_feature(element: Json, path: str) -> Feature:
    known = {"name", "value", "startsAtVersion"}
    if not isinstance(element, Mapping) or not {"name", "value"} <= set(element) <= known:
        raise _unfit(path, element, "an object with name and value, and startsAtVersion if need be")
    texts = {name: _text(element.get(name), f"{path}.{name}") for name in known}
    starts = texts["startsAtVersion"]
    return Feature(
        name=texts["name"] or "",
        value=texts["value"] or "",
        starts_at_version=None if starts is None else str(VersionName.parse(starts)),
    )


def _text(value: Json, path: str) -> str | None:
    if isinstance(value, list | Mapping):
        raise _unfit(path, value, "text")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _at(resource: Json, path: str) -> Json:
    here = resource
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here


def _unfit(path: str, value: Json, expected: str) -> InvalidInput:
    return InvalidInput(
        f"The value of '{path}' is invalid.",
        found=json.dumps(value, ensure_ascii=False, default=str),
        expected=expected,
        hint="`show` prints the resource as it is",
        target=path,
    )
