"""Read the query of a list of usage details: `$filter` and `$top`."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.ledger.statements.usage_details import UsageFilter

TOP_MAX: Final = 1_000
"""Azure's limit for `$top`."""
_CHARACTERS_MAX: Final = 4_000
_TERM: Final = re.compile(r"\s*(?:properties/)?(\w+)\s+(eq|ge|gt|le|lt)\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)
_AND: Final = re.compile(r"and\b", re.IGNORECASE)
_DAYS: Final = ("usagestart", "usageend", "date")
_FIELDS: Final = {
    "resourcegroup": "groups",
    "resourceid": "resource_ids",
    "instanceid": "resource_ids",
    "resourcename": "resource_names",
    "instancename": "resource_names",
    "chargetype": "charge_types",
}


def read_usage_filter(text: str | None) -> UsageFilter:
    """Read Azure's `$filter` of usage details. Times are compared by their day in UTC.

    Raises:
        InvalidInput: the filter has another form, or an unknown property.
    """
    first, last = date.min, date.max
    values: dict[str, list[str]] = {}
    tags = []
    for name, operator, value in _read_terms(text or ""):
        if name in _DAYS:
            begin, end = _read_days(operator, value, text or "")
            first, last = max(first, begin), min(last, end)
        elif operator != "eq":
            raise _invalid(text or "")
        elif name == "tags" and ":" in value:
            key, _, wanted = value.partition(":")
            tags.append((key, wanted))
        elif name in _FIELDS:
            values.setdefault(_FIELDS[name], []).append(value)
        else:
            raise _invalid(text or "")
    return UsageFilter(
        first=None if first == date.min else first,
        last=None if last == date.max else last,
        tags=tuple(tags),
        **{field: tuple(wanted) for field, wanted in values.items()},
    )


def read_top(text: str | None) -> int | None:
    """Read Azure's `$top`: the number of items of a page.

    Raises:
        InvalidInput: the text is no number from 1 to 1,000.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= TOP_MAX:
        raise InvalidInput(
            "The value of $top is invalid.",
            found=repr(text[:100]),
            expected=f"a number from 1 to {TOP_MAX}",
            hint="omit $top for pages of the usual size",
            target="$top",
        )
    return int(text)


def _read_terms(text: str) -> list[tuple[str, str, str]]:
    """Return the name, the operator and the value of each comparison. The comparisons are joined with `and`."""
    terms: list[tuple[str, str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        joined = _AND.match(text, at) if terms else None
        found = _TERM.match(text, at if joined is None else joined.end())
        if found is None or (terms and joined is None) or len(text) > _CHARACTERS_MAX:
            raise _invalid(text)
        terms.append((found[1].casefold(), found[2].casefold(), found[3].replace("''", "'")))
        at = found.end()
    return terms


def _read_days(operator: str, value: str, text: str) -> tuple[date, date]:
    try:
        time = datetime.fromisoformat(value)
        day = (time if time.tzinfo is None else time.astimezone(UTC)).date()
        match operator:
            case "ge":
                return day, date.max
            case "gt":
                return day + timedelta(days=1), date.max
            case "le":
                return date.min, day
            case "lt":
                return date.min, day - timedelta(days=1)
            case _:
                return day, day
    except (ValueError, OverflowError) as error:
        raise _invalid(text) from error


def _invalid(text: str) -> InvalidInput:
    return InvalidInput(
        "The $filter of usage details is invalid.",
        found=repr(text[:200]),
        expected="comparisons with eq, ge, gt, le or lt, joined with `and`, of properties/usageStart, properties/usageEnd and "
        "properties/date, or with eq of properties/resourceGroup, properties/resourceId, properties/resourceName, "
        "properties/chargeType and tags",
        hint="write for example properties/usageStart ge '2026-11-01' and properties/usageEnd le '2026-11-30'",
        target="$filter",
    )
