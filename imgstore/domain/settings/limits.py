"""Limits of Azure as a frozen policy, read from the settings of a team.

The source is Azure's documentation. In 2019 a version had at most 10 replicas in a region, a disk at most 1 TiB, and one
replica was advised for 20 machines. In 2026 a version has at most 100 replicas. A disk is under 2 TiB, or at most 32 TiB
in a Shallow version, and one replica is advised for 50 machines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.errors import Conflict, ImageRefused
from imgstore.domain.settings.tables import SettingsTable
from imgstore.domain.storage.sizes import SECTOR_BYTES, TIB

_COUNT_MAX: Final = 2**31 - 1
_BYTES_MAX: Final = 64 * TIB
"""The largest disk that a manifest can describe."""
_SUM_BYTES_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that requests must not exceed, and numbers for advice."""

    galleries_max: int = 100
    """In a subscription and region."""
    definitions_max: int = 1_000
    """In a subscription and region."""
    versions_max: int = 10_000
    """In a subscription and region."""
    replicas_per_region_max: int | None = 10
    """For one version in one region. None is no separate limit."""
    replicas_per_version_max: int | None = None
    """For one version in all regions. None is no separate limit."""
    image_bytes_max: int = TIB
    """For an OS disk."""
    data_disk_bytes_max: int = TIB
    """Azure documents 1 TB, and now refuses more than 2,048 GB."""
    shallow_image_bytes_max: int = TIB
    bytes_per_subscription_max: int | None = None
    """The quota: virtual bytes of the content of a subscription (`operations/quotas.py`). None is no limit."""
    machines_per_replica: int = 20
    """Advice: the number of machines created at the same time that one replica serves well."""
    source_connect_seconds_max: int = 10
    """For a connection to a source over https (`SourceDeadlines`, like the next four)."""
    source_idle_seconds_max: int = 30
    source_head_seconds_max: int = 60
    source_total_seconds_max: int = 300
    source_bytes_per_second_min: int = 65_536
    file: str = "settings.toml"
    """The path of the settings document, also of a missing document. Hints contain the path."""

    @property
    def source_deadlines(self) -> SourceDeadlines:
        """The time limits for sources over the network."""
        return SourceDeadlines(
            connect_seconds=self.source_connect_seconds_max,
            idle_seconds=self.source_idle_seconds_max,
            head_seconds=self.source_head_seconds_max,
            total_seconds=self.source_total_seconds_max,
            bytes_per_second_min=self.source_bytes_per_second_min,
        )

    def raise_hint(self, name: str) -> str:
        """Return the hint to raise the limit `name`."""
        return f"raise {name} under [limits] in {self.file}, then run `imgstore settings apply`"


PRESETS: Final[Mapping[str, Limits]] = MappingProxyType(
    {
        "azure-2019": Limits(),
        "azure-2026": Limits(
            replicas_per_region_max=None,
            replicas_per_version_max=100,
            image_bytes_max=2 * TIB - SECTOR_BYTES,
            data_disk_bytes_max=2 * TIB - SECTOR_BYTES,
            shallow_image_bytes_max=32 * TIB,
            machines_per_replica=50,
        ),
    }
)
DEFAULT_PRESET: Final = "azure-2019"
_EXAMPLE: Final = '[limits] and below it preset = "azure-2026" and galleries_max = 7'
_NUMBERS: Final = tuple(field.name for field in fields(Limits) if field.name != "file")


def read_limits(settings: Mapping[str, Any], file: str) -> Limits:
    """Read the limits of a settings document: a preset, and numbers that override the preset.

    Args:
        settings: the document, as TOML reads the file.
        file: the path of the document, for errors.

    Raises:
        InvalidInput: an unknown key, or a value of the wrong kind. The target is the key.
    """
    table = SettingsTable(name="limits", file=file, example=_EXAMPLE)
    for key in settings:
        if key not in ("limits", "disk_space", "maintenance", "replication"):
            raise table.refusal(key, f"the key {key}", "only [limits], [disk_space], [maintenance] and [replication]")
    values = table.read(settings, ("preset", *_NUMBERS))
    preset = values.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise table.refusal("limits.preset", repr(preset), " or ".join(f'"{name}"' for name in PRESETS))
    numbers = {
        key: table.check_number(key, value, 1, _highest(key)) for key, value in values.items() if key != "preset"
    }
    return replace(PRESETS[preset], **numbers, file=file)


def _highest(key: str) -> int:
    if "bytes" not in key:
        return _COUNT_MAX
    return _SUM_BYTES_MAX if key == "bytes_per_subscription_max" else _BYTES_MAX


def check_disk_bytes(limits: Limits, name: str, virtual_bytes: int, *, target: str) -> None:
    """Refuse a disk of an image that is too large.

    Args:
        limits: the policy.
        name: the name of the limit, such as ``image_bytes_max``.
        virtual_bytes: the size of the disk.
        target: the path of the disk in the request.

    Raises:
        ImageRefused: the disk is larger than the limit.
    """
    limit: int = getattr(limits, name)
    if virtual_bytes > limit:
        raise ImageRefused(
            f"The image's size exceeds the limit of {limit} bytes.",
            found=f"a disk of {virtual_bytes} bytes",
            expected=f"at most {limit} bytes ({name})",
            hint=f"shrink the disk before publishing it, or {limits.raise_hint(name)}",
            target=target,
        )


def check_count(limits: Limits, name: str, count: int, *, what: str, region: str) -> None:
    """Refuse another resource in a region that has `count` resources of the kind.

    Args:
        limits: the policy.
        name: the name of the limit, such as ``galleries_max``.
        count: the present number of resources.
        what: the resources in words, such as "galleries".
        region: the key of the region.

    Raises:
        Conflict: the limit is reached.
    """
    limit = getattr(limits, name)
    if count >= limit:
        raise Conflict(
            f"The limit of {limit} {what} in a subscription and region is reached in '{region}'.",
            found=f"{count} {what} in {region}",
            expected=f"at most {limit} with the new resource ({name})",
            hint=f"delete a resource, use another region, or {limits.raise_hint(name)}",
            target=name,
            code="QuotaExceeded",
        )
