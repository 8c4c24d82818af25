"""The words of a request, as az's users type them, into domain values."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import DiskType, Feature, StorageAccountType, TargetRegionRequest

_STORAGE_ACCOUNT_TYPES: Final = {kind.lower(): kind for kind in StorageAccountType}
_DIGITS_MAX: Final = 18
"""Of a whole number. More would fit no column, and Python refuses to read thousands."""
_YEARS: Final = range(1970, 9999)
"""Of dates: outside of these a change of the time zone leads to a year that nothing can write."""
_DISK_TYPES: Final = {kind.lower(): kind for kind in DiskType}


def parse_storage_account_type(word: str) -> StorageAccountType:
    """The storage account type that `word` names, in any case: az sends it as typed.

    Raises:
        InvalidInput: there is none of that name.
    """
    kind = _STORAGE_ACCOUNT_TYPES.get(word.strip().lower())
    if kind is None:
        raise InvalidInput(
            f"'{word}' is no storage account type.",
            found=repr(word),
            expected=", ".join(StorageAccountType),
            hint="choose one of these",
            target="storageAccountType",
        )
    return kind


def parse_target_regions(words: Iterable[str]) -> tuple[TargetRegionRequest, ...]:
    """The target regions that `words` ask for, in their order, by az's grammar.

    Each word is ``region``, ``region=count``, ``region=storage`` or ``region=count=storage``. Whether the region
    exists and the count is in range is for the operation to say.

    Raises:
        InvalidInput: a word is none of these.
    """
    return tuple(_target_region(word) for word in words)


def _target_region(word: str) -> TargetRegionRequest:
    name, *rest = (part.strip() for part in word.split("="))
    count = _whole_number(rest[0]) if rest else None
    storage = rest if count is None else rest[1:]
    if not name or len(storage) > 1:
        raise InvalidInput(
            f"'{word}' names no target region.",
            found=repr(word),
            expected="region, region=count, region=storage or region=count=storage",
            hint="for example: --target-regions southcentralus=2 westus2=1=standard_zrs eastus",
            target="targetRegions",
        )
    return TargetRegionRequest(
        name=name,
        regional_replica_count=count,
        storage_account_type=parse_storage_account_type(storage[0]) if storage else None,
    )


def _whole_number(word: str) -> int | None:
    digits = word.removeprefix("-")
    return int(word) if word.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX else None


def parse_luns(words: Iterable[str]) -> tuple[int, ...]:
    """The LUNs that `words` name. Whether they are in range and differ is for the operation to say.

    Raises:
        InvalidInput: a word is no whole number.
    """
    return tuple(_lun(word) for word in words)


def _lun(word: str) -> int:
    number = _whole_number(word.strip())
    if number is None:
        raise InvalidInput(
            f"'{word}' is no LUN.",
            found=repr(word),
            expected="a whole number",
            hint="for example: --data-vhds-luns 0 5",
            target="dataDiskImages.lun",
        )
    return number


def parse_tags(words: Sequence[str]) -> dict[str, str]:
    """Tags from ``key=value`` words. ``key`` alone has an empty value, and one empty word is no tags at all, as in az.

    Raises:
        InvalidInput: a word has no key.
    """
    pairs = [word.partition("=") for word in words if word]
    for key, _, value in pairs:
        if not key:
            raise InvalidInput(
                f"'={value}' is no tag: its key is missing.",
                found=repr("=" + value),
                expected="key=value",
                hint="for example: --tags team=images os=debian",
                target="tags",
            )
    return {key: value for key, _, value in pairs}


def parse_tag(word: str) -> tuple[str, str | None]:
    """A tag to look for: ``key=value``, or ``key`` with whatever value.

    Raises:
        InvalidInput: it has no key.
    """
    key = next(iter(parse_tags([word])), "")
    if not key:
        raise InvalidInput(
            "'' is no tag: its key is missing.",
            found="''",
            expected="key or key=value",
            hint="for example: --tag team=images",
            target="tag",
        )
    return key, word.partition("=")[2] if "=" in word else None


def parse_end_of_life(word: str) -> datetime:
    """The instant that a date names. A bare date means 12:59:59 UTC of that day, as az makes it; no zone means UTC.

    Raises:
        InvalidInput: it is none.
    """
    text = word.strip()
    try:
        time = datetime.fromisoformat(f"{text}T12:59:59" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else text)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if time.year not in _YEARS:
            raise ValueError(f"the year {time.year}")  # noqa: TRY301 - one refusal for all that is wrong
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"'{word}' is no date.",
            found=repr(word),
            expected=f"a date, or a date and a time, as ISO 8601 writes them, from {_YEARS.start} to {_YEARS.stop - 1}",
            hint="for example: 2030-12-02 or 2030-12-02T12:00:00Z",
            target="endOfLifeDate",
        ) from error
    return time


def parse_disk_types(words: Iterable[str]) -> tuple[DiskType, ...]:
    """The types of disks that `words` name, in any case, each once.

    Raises:
        InvalidInput: a word names none.
    """
    named = [word for each in words for word in each.split()]
    unknown = [word for word in named if word.lower() not in _DISK_TYPES]
    if unknown:
        raise InvalidInput(
            f"'{unknown[0]}' is no type of disks.",
            found=repr(unknown[0]),
            expected=", ".join(DiskType),
            hint="for example: --disallowed-disk-types Premium_LRS UltraSSD_LRS",
            target="disallowed.diskTypes",
        )
    return tuple(dict.fromkeys(_DISK_TYPES[word.lower()] for word in named))


def parse_features(words: Iterable[str]) -> tuple[Feature, ...]:
    """Features from ``name=value`` words, which az takes as one word with spaces.

    Raises:
        InvalidInput: a word is none.
    """
    pairs = [word.partition("=") for each in words for word in each.split()]
    for name, equals, value in pairs:
        if not (name and equals):
            raise InvalidInput(
                f"'{name}{equals}{value}' is no feature.",
                found=repr(name + equals + value),
                expected="name=value",
                hint='for example: --features "SecurityType=TrustedLaunch IsHibernateSupported=True"',
                target="features",
            )
    return tuple(Feature(name=name, value=value) for name, _, value in pairs)
