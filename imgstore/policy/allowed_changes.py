"""Limits of galleries and image definitions, and the properties that may change (docs/azure.md)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.image_features import check_features
from imgstore.domain.resources import Gallery, ImageDefinition, RecommendedRange
from imgstore.domain.tags import NO_TAGS, apply_tags

GALLERY_MAY_CHANGE: Final = frozenset(
    {
        "tags",
        "properties.description",
        "properties.softDeletePolicy.isSoftDeleteEnabled",
        "properties.softDeletePolicy.retentionPeriodInDays",
    }
)
DEFINITION_MAY_CHANGE: Final = frozenset(
    {
        "tags",
        "properties.description",
        "properties.endOfLifeDate",
        "properties.releaseNoteUri",
        "properties.recommended.vCPUs",
        "properties.recommended.memory",
        "properties.features",
        "properties.allowUpdateImage",
    }
)
RETENTION_DAYS_MAX: Final = 365

_GALLERY_FIXED: Final[Mapping[str, str]] = {"location": "location"}
_DEFINITION_FIXED: Final[Mapping[str, str]] = {
    "location": "location",
    "properties.identifier.publisher": "publisher",
    "properties.identifier.offer": "offer",
    "properties.identifier.sku": "sku",
    "properties.osType": "os_type",
    "properties.osState": "os_state",
    "properties.hyperVGeneration": "hyper_v_generation",
    "properties.architecture": "architecture",
    "properties.eula": "eula",
    "properties.privacyStatementUri": "privacy_statement_uri",
    "properties.disallowed.diskTypes": "disallowed_disk_types",
    "properties.purchasePlan": "purchase_plan",
}


def check_gallery(wanted: Gallery, existing: Gallery | None) -> None:
    """Check the values of a gallery and, for an update, the changes.

    Raises:
        InvalidInput: The retention is shorter than a day or longer than `RETENTION_DAYS_MAX`.
        PropertyChangeNotAllowed: A property outside `GALLERY_MAY_CHANGE` differs from `existing`.
    """
    _check_fixed(_GALLERY_FIXED, wanted, existing)
    apply_tags(wanted.tags, NO_TAGS if existing is None else existing.tags)
    days = wanted.soft_delete_retention_days
    if not 1 <= days <= RETENTION_DAYS_MAX:
        raise InvalidInput(
            f"The value {days} of parameter retentionPeriodInDays is out of range. The value must be between 1 and "
            f"{RETENTION_DAYS_MAX}, inclusive.",
            found=f"{days} days",
            expected=f"1 to {RETENTION_DAYS_MAX} days",
            hint="the default is 7",
            target="softDeletePolicy.retentionPeriodInDays",
        )


def check_definition(wanted: ImageDefinition, existing: ImageDefinition | None, now: datetime) -> None:
    """Check the values of an image definition and, for an update, the changes.

    Raises:
        InvalidInput: A minimum exceeds its maximum, a date has passed, or a feature or a tag is invalid.
        PropertyChangeNotAllowed: A property outside `DEFINITION_MAY_CHANGE` differs from `existing`, or the features
            differ without `allow_update_image`.
    """
    _check_fixed(_DEFINITION_FIXED, wanted, existing)
    apply_tags(wanted.tags, NO_TAGS if existing is None else existing.tags)
    _check_range("vCPUs", wanted.recommended_vcpus)
    _check_range("memory", wanted.recommended_memory_gib)
    _check_features(wanted, existing)
    if existing is None or wanted.end_of_life_at != existing.end_of_life_at:
        check_end_of_life(wanted.end_of_life_at, now)


def check_end_of_life(end_of_life_at: datetime | None, now: datetime) -> None:
    """Refuse an end of life that has passed. The rule holds for definitions and versions.

    Raises:
        InvalidInput: The date has passed.
    """
    if end_of_life_at is not None and end_of_life_at <= now:
        raise InvalidInput(
            "EndOfLifeDate must be set to a future date.",
            found=end_of_life_at.isoformat(),
            expected=f"a date after {now.isoformat(timespec='seconds')}",
            hint="for example a year from now; a date without a time means 12:59:59 UTC of that day",
            target="endOfLifeDate",
        )


def _check_fixed(
    paths: Mapping[str, str], wanted: Gallery | ImageDefinition, existing: Gallery | ImageDefinition | None
) -> None:
    for path, attribute in paths.items() if existing is not None else ():
        before, after = getattr(existing, attribute), getattr(wanted, attribute)
        if before != after:
            raise PropertyChangeNotAllowed(
                path,
                found=_format_value(after),
                expected=_format_value(before),
                hint="send the stored value, or leave the property out",
            )


def _format_value(value: object) -> str:
    return "nothing" if value in (None, ()) else ", ".join(value) if isinstance(value, tuple) else str(value)


def _check_range(name: str, asked: RecommendedRange) -> None:
    path = f"properties.recommended.{name}"
    for end, value in (("min", asked.min), ("max", asked.max)):
        if value is not None and value < 1:
            raise InvalidInput(
                f"The value {value} of parameter {path}.{end} is out of range. The value must be at least 1.",
                found=str(value),
                expected="a whole number from 1 on",
                hint="leave the value out for no limit",
                target=f"{path}.{end}",
            )
    if asked.min is not None and asked.max is not None and asked.min > asked.max:
        raise InvalidInput(
            f"The value {asked.min} of {path}.min is greater than the value {asked.max} of {path}.max.",
            found=f"{path}.min {asked.min}, {path}.max {asked.max}",
            expected="a minimum that is at most the maximum",
            hint="send the minimum and the maximum together",
            target=path,
        )


def _check_features(wanted: ImageDefinition, existing: ImageDefinition | None) -> None:
    if existing is None or wanted.features != existing.features:
        check_features(wanted.features, wanted.hyper_v_generation)
    if existing is not None and wanted.features != existing.features and not wanted.allow_update_image:
        raise PropertyChangeNotAllowed(
            "properties.features",
            found=_format_features(wanted),
            expected=_format_features(existing),
            hint="allow updates of the definition with --allow-update-image true",
        )


def _format_features(definition: ImageDefinition) -> str:
    return " ".join(f"{feature.name}={feature.value}" for feature in definition.features) or "no features"
