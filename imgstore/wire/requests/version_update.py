"""Read the changes of an image version from flags and generic updates of its JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from imgstore.domain.resources import KEEP, TargetRegionRequest, VersionUpdate
from imgstore.wire.json_fields import flag_of, integer_of, invalid_value, tags_of
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_end_of_life, parse_storage_account_type
from imgstore.wire.requests.generic_update import Edit, apply_edits, changed_paths, check_changes

_PUBLISHING: Final = "properties.publishingProfile"
_SAFETY: Final = "properties.safetyProfile"
VERSION_MAY_CHANGE: Final = (
    f"{_PUBLISHING}.targetRegions",
    f"{_PUBLISHING}.replicaCount",
    f"{_PUBLISHING}.excludeFromLatest",
    f"{_PUBLISHING}.endOfLifeDate",
    f"{_SAFETY}.allowDeletionOfReplicatedLocations",
    f"{_SAFETY}.blockDeletionBeforeEndOfLife",
    "tags",
)
"""Source: Microsoft's "Updating resources"."""
_REGION_KEYS: Final = frozenset({"name", "regionalReplicaCount", "storageAccountType", "excludeFromLatest"})


def edit_version(
    before: Json, named: Mapping[str, Json], edits: Iterable[Edit], *, force_string: bool = False
) -> VersionUpdate:
    """Return the changes of an image version.

    Args:
        before: The version in ARM's format.
        named: The values of flags, by path below the properties ("publishingProfile.replicaCount"). None means no flag.
            The key "tags" means the tags of the resource.
        edits: The edits of --set, --add and --remove, applied after the flags as in az.
        force_string: True to keep each value as text.

    Raises:
        InvalidInput: A path or a value is invalid.
        PropertyChangeNotAllowed: A property that cannot change would change.
    """
    flagged = dict(before) | {"properties": dict(before["properties"])}
    for path, value in named.items():
        if value is None:
            continue
        if path == "tags":
            flagged["tags"] = value
        else:
            profile, name = path.split(".")
            flagged["properties"][profile] = flagged["properties"][profile] | {name: value}
    after = apply_edits(flagged, edits, force_string=force_string)
    check_changes(before, after, VERSION_MAY_CHANGE)
    return _read_update(after, {path: new for path, (_, new) in changed_paths(before, after).items()})


def target_regions_json(targets: Sequence[TargetRegionRequest] | None) -> Json:
    """Return requested target regions as JSON, without unset values."""
    if targets is None:
        return None
    return [
        {
            key: value
            for key, value in (
                ("name", each.name),
                ("regionalReplicaCount", each.regional_replica_count),
                ("storageAccountType", each.storage_account_type),
            )
            if value is not None
        }
        for each in targets
    ]


def _read_update(after: Json, changed: Mapping[str, Json]) -> VersionUpdate:
    publishing, safety = after["properties"]["publishingProfile"], after["properties"].get("safetyProfile") or {}

    def is_given(path: str) -> bool:
        return any(each == path or each.startswith(f"{path}.") for each in changed)

    def flag(path: str, values: Mapping[str, Any], *, absent: bool) -> bool | None:
        name = path.rsplit(".", 1)[1]
        return flag_of(values.get(name), path, absent=absent) if is_given(path) else None

    ends = publishing.get("endOfLifeDate")
    count = f"{_PUBLISHING}.replicaCount"
    return VersionUpdate(
        target_regions=read_target_regions(publishing.get("targetRegions"))
        if is_given(f"{_PUBLISHING}.targetRegions")
        else None,
        replica_count=_read_replica_count(publishing.get("replicaCount"), count) if is_given(count) else None,
        exclude_from_latest=flag(f"{_PUBLISHING}.excludeFromLatest", publishing, absent=False),
        end_of_life_at=(
            KEEP
            if not is_given(f"{_PUBLISHING}.endOfLifeDate")
            else None
            if ends is None
            else parse_end_of_life(str(ends))
        ),
        allow_deletion_of_replicated_locations=flag(
            f"{_SAFETY}.allowDeletionOfReplicatedLocations", safety, absent=True
        ),
        block_deletion_before_end_of_life=flag(f"{_SAFETY}.blockDeletionBeforeEndOfLife", safety, absent=False),
        tags=tags_of(after) if is_given("tags") else None,
    )


def _read_replica_count(value: Json, path: str) -> int:
    """Return the replica count. A removed count is 1 again."""
    return 1 if value is None else integer_of(value, path)


def read_target_regions(value: Json) -> tuple[TargetRegionRequest, ...]:
    """Read target regions from the JSON of a resource.

    Raises:
        InvalidInput: The value is not a list of target regions, or a field is not supported.
    """
    path = f"{_PUBLISHING}.targetRegions"
    if not isinstance(value, list) or not value:
        raise invalid_value(path, value, "a list of at least one region, with the source region")
    return tuple(_read_region(each, path) for each in value)


def _read_region(value: Json, path: str) -> TargetRegionRequest:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or set(value) - _REGION_KEYS:
        raise invalid_value(path, value, f"an object of {', '.join(sorted(_REGION_KEYS))}")
    count, kind = value.get("regionalReplicaCount"), value.get("storageAccountType")
    excluded = value.get("excludeFromLatest")
    return TargetRegionRequest(
        name=value["name"],
        regional_replica_count=None if count is None else integer_of(count, f"{path}.regionalReplicaCount"),
        storage_account_type=None if kind is None else parse_storage_account_type(str(kind)),
        exclude_from_latest=None if excluded is None else flag_of(excluded, f"{path}.excludeFromLatest"),
    )
