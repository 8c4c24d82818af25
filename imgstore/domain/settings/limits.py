"""How much of everything: Azure's limits as a frozen policy, read from a team's settings.

Sources: Azure's documentation of 2019 (10 replicas a version and region, 1 TiB, one replica for 20 machines) and of 2026
(100 replicas a version, under 2 TiB, 32 TiB shallow, one replica for 50).
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
"""The largest disk that a manifest can tell of."""
_SUM_BYTES_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused beyond, and what is advised."""

    galleries_max: int = 100
    """In a subscription and region."""
    definitions_max: int = 1_000
    """In a subscription and region."""
    versions_max: int = 10_000
    """In a subscription and region."""
    replicas_per_region_max: int | None = 10
    """Of one version in one region; None is no limit of its own."""
    replicas_per_version_max: int | None = None
    """Of one version in all regions; None is no limit of its own."""
    image_bytes_max: int = TIB
    """Of an OS disk."""
    data_disk_bytes_max: int = TIB
    """Azure documents 1 TB, and refuses beyond 2,048 GB by now."""
    shallow_image_bytes_max: int = TIB
    bytes_per_subscription_max: int | None = None
    """The quota: virtual bytes of the content that a subscription keeps (`operations/quotas.py`); None is no limit."""
    machines_per_replica: int = 20
    """Advice: how many machines made at once one replica serves well."""
    source_connect_seconds_max: int = 10
    """For a connection to a source over https (`SourceDeadlines`, as the next four)."""
    source_idle_seconds_max: int = 30
    source_head_seconds_max: int = 60
    source_total_seconds_max: int = 300
    source_bytes_per_second_min: int = 65_536
    file: str = "settings.toml"
    """Where these were read, or would be: what a refusal tells to change."""

    @property
    def source_deadlines(self) -> SourceDeadlines:
        """How slow a source over the network may be."""
        return SourceDeadlines(
            connect_seconds=self.source_connect_seconds_max,
            idle_seconds=self.source_idle_seconds_max,
            head_seconds=self.source_head_seconds_max,
            total_seconds=self.source_total_seconds_max,
            bytes_per_second_min=self.source_bytes_per_second_min,
        )

    def raise_hint(self, name: str) -> str:
        """What to do about the limit `name`."""
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
    """The limits that a settings document asks for: a preset, and numbers in the place of its own.

    Args:
        settings: the document, as TOML reads it.
        file: its path, for errors.

    Raises:
        InvalidInput: a key that nobody knows, or a value of the wrong kind; its target is the key.
    """
    table = SettingsTable(name="limits", file=file, example=_EXAMPLE)
    for key in settings:
        if key not in ("limits", "disk_space", "maintenance"):
            raise table.refusal(key, f"the key {key}", "[limits], [disk_space] and [maintenance] alone")
    values = table.read(settings, ("preset", *_NUMBERS))
    preset = values.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise table.refusal("limits.preset", repr(preset), " or ".join(f'"{name}"' for name in PRESETS))
    numbers = {key: table.check_number(key, value, 1, _most(key)) for key, value in values.items() if key != "preset"}
    return replace(PRESETS[preset], **numbers, file=file)


def _most(key: str) -> int:
    if "bytes" not in key:
        return _COUNT_MAX
    return _SUM_BYTES_MAX if key == "bytes_per_subscription_max" else _BYTES_MAX


def check_disk_bytes(limits: Limits, name: str, virtual_bytes: int, *, target: str) -> None:
    """Refuse a disk of an image that is too large.

    Args:
        limits: the policy.
        name: which of its numbers: ``image_bytes_max``.
        virtual_bytes: size of the disk.
        target: the disk's path in a request.

    Raises:
        ImageRefused: it is larger than the limit.
    """
    most: int = getattr(limits, name)
    if virtual_bytes > most:
        raise ImageRefused(
            f"The image's size exceeds the limit of {most} bytes.",
            found=f"a disk of {virtual_bytes} bytes",
            expected=f"at most {most} bytes ({name})",
            hint=f"shrink the disk before publishing it, or {limits.raise_hint(name)}",
            target=target,
        )


def check_count(limits: Limits, name: str, count: int, *, what: str, region: str) -> None:
    """Refuse one more of `what` in a region that has `count`.

    Args:
        limits: the policy.
        name: which of its numbers: ``galleries_max``.
        count: how many there are.
        what: how people call them: "galleries".
        region: the region's key.

    Raises:
        Conflict: the limit is reached.
    """
    most = getattr(limits, name)
    if count >= most:
        raise Conflict(
            f"The limit of {most} {what} in a subscription and region is reached in '{region}'.",
            found=f"{count} {what} in {region}",
            expected=f"at most {most} with the new one ({name})",
            hint=f"delete one, use another region, or {limits.raise_hint(name)}",
            target=name,
            code="QuotaExceeded",
        )
