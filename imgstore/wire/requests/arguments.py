"""Parse the arguments of az commands into domain values."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.image_features import canonical_feature
from imgstore.domain.resources import DiskType, Feature, StorageAccountType, TargetRegionRequest

_STORAGE_ACCOUNT_TYPES: Final = {kind.lower(): kind for kind in StorageAccountType}
_DIGITS_MAX: Final = 18
"""The limit for the digits of an integer. A longer number fits no column, and Python refuses thousands of digits."""
_YEARS: Final = range(1970, 9999)
"""The years of dates. Outside this range, a time zone conversion may leave the years that Python supports."""
_BYTE_UNITS: Final = {
    **{name: 1_000**power for power, name in enumerate(("b", "kb", "mb", "gb", "tb"))},
    **{name: 1_024**power for power, name in enumerate(("kib", "mib", "gib", "tib"), 1)},
    **{name: 1_000**power for power, name in enumerate(("", "k", "m", "g", "t"))},
}
"""The factor of each unit, in lower case."""
_RATE_MAX: Final = 2**53
_DISK_TYPES: Final = {kind.lower(): kind for kind in DiskType}


def parse_storage_account_type(word: str) -> StorageAccountType:
    """Parse a storage account type in any case, because az sends the argument as typed.

    Raises:
        InvalidInput: The type is unknown.
    """
    kind = _STORAGE_ACCOUNT_TYPES.get(word.strip().lower())
    if kind is None:
        raise InvalidInput(
            f"'{word}' is not a storage account type.",
            found=repr(word),
            expected=", ".join(StorageAccountType),
            hint="choose one of the supported types",
            target="storageAccountType",
        )
    return kind


def parse_target_regions(words: Iterable[str]) -> tuple[TargetRegionRequest, ...]:
    """Parse target regions in az's grammar, in order.

    Each argument is ``region``, ``region=count``, ``region=storage`` or ``region=count=storage``. The operation checks
    that the region exists, and that the count is in range.

    Raises:
        InvalidInput: An argument has another form.
    """
    return tuple(_parse_target_region(word) for word in words)


def _parse_target_region(word: str) -> TargetRegionRequest:
    name, *rest = (part.strip() for part in word.split("="))
    count = _parse_integer(rest[0]) if rest else None
    storage = rest if count is None else rest[1:]
    if not name or len(storage) > 1:
        raise InvalidInput(
            f"'{word}' is not a target region.",
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


def _parse_integer(word: str) -> int | None:
    digits = word.removeprefix("-")
    return int(word) if word.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX else None


def parse_luns(words: Iterable[str]) -> tuple[int, ...]:
    """Parse LUNs. The operation checks the range and duplicates.

    Raises:
        InvalidInput: An argument is not an integer.
    """
    return tuple(_parse_lun(word) for word in words)


def _parse_lun(word: str) -> int:
    number = _parse_integer(word.strip())
    if number is None:
        raise InvalidInput(
            f"'{word}' is not a LUN.",
            found=repr(word),
            expected="a whole number",
            hint="for example: --data-vhds-luns 0 5",
            target="dataDiskImages.lun",
        )
    return number


def parse_tags(words: Sequence[str]) -> dict[str, str]:
    """Parse tags from ``key=value`` arguments, as az does.

    A ``key`` alone has an empty value. One empty argument means no tags.

    Raises:
        InvalidInput: An argument has no key.
    """
    pairs = [word.partition("=") for word in words if word]
    for key, _, value in pairs:
        if not key:
            raise InvalidInput(
                f"'={value}' is not a tag, because the key is missing.",
                found=repr("=" + value),
                expected="key=value",
                hint="for example: --tags team=images os=debian",
                target="tags",
            )
    return {key: value for key, _, value in pairs}


def parse_tag(word: str) -> tuple[str, str | None]:
    """Parse a tag to search for: ``key=value``, or ``key`` with any value.

    Raises:
        InvalidInput: The argument has no key.
    """
    key = next(iter(parse_tags([word])), "")
    if not key:
        raise InvalidInput(
            "'' is not a tag, because the key is missing.",
            found="''",
            expected="key or key=value",
            hint="for example: --tag team=images",
            target="tag",
        )
    return key, word.partition("=")[2] if "=" in word else None


def parse_end_of_life(word: str) -> datetime:
    """Parse a date. A date without a time means 12:59:59 UTC of that day, as in az. A time without a zone is UTC.

    Raises:
        InvalidInput: The argument is not a date.
    """
    text = word.strip()
    try:
        time = datetime.fromisoformat(f"{text}T12:59:59" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else text)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if time.year not in _YEARS:
            raise ValueError(f"the year {time.year}")  # noqa: TRY301 - one error for all causes
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"'{word}' is not a date.",
            found=repr(word),
            expected=f"a date, or a date and a time, in ISO 8601, from {_YEARS.start} to {_YEARS.stop - 1}",
            hint="for example: 2030-12-02 or 2030-12-02T12:00:00Z",
            target="endOfLifeDate",
        ) from error
    return time


def parse_disk_types(words: Iterable[str]) -> tuple[DiskType, ...]:
    """Parse disk types in any case, and drop duplicates.

    Raises:
        InvalidInput: A type is unknown.
    """
    named = [word for each in words for word in each.split()]
    unknown = [word for word in named if word.lower() not in _DISK_TYPES]
    if unknown:
        raise InvalidInput(
            f"'{unknown[0]}' is not a disk type.",
            found=repr(unknown[0]),
            expected=", ".join(DiskType),
            hint="for example: --disallowed-disk-types Premium_LRS UltraSSD_LRS",
            target="disallowed.diskTypes",
        )
    return tuple(dict.fromkeys(_DISK_TYPES[word.lower()] for word in named))


def parse_features(words: Iterable[str]) -> tuple[Feature, ...]:
    """Parse features from ``name=value`` words. az passes one argument with spaces.

    Raises:
        InvalidInput: A word has another form.
    """
    pairs = [word.partition("=") for each in words for word in each.split()]
    for name, equals, value in pairs:
        if not (name and equals):
            raise InvalidInput(
                f"'{name}{equals}{value}' is not a feature.",
                found=repr(name + equals + value),
                expected="name=value",
                hint='for example: --features "SecurityType=TrustedLaunch IsHibernateSupported=True"',
                target="features",
            )
    return tuple(canonical_feature(Feature(name=name, value=value)) for name, _, value in pairs)


def parse_rate(word: str) -> int:
    """Parse a bandwidth in bytes per second: "50MB/s", "1.5 GiB/s", "64000000". 0 is no limit.

    Raises:
        InvalidInput: The argument is not a bandwidth.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([a-z]{0,3})(?:/s)?", word.strip().lower(), re.ASCII)
    factor = None if found is None else _BYTE_UNITS.get(found[2])
    rate = None if found is None or factor is None else Decimal(found[1]) * factor
    if rate is None or not (rate == 0 or 1 <= rate <= _RATE_MAX):
        raise InvalidInput(
            f"'{word}' is not a bandwidth.",
            found=repr(word),
            expected=f"a number of bytes per second from 1 to {_RATE_MAX}, with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, "
            "TiB) or without, or 0 for no limit",
            hint="for example: 50MB/s or 16MiB/s",
            target="rate",
        )
    return int(rate)
