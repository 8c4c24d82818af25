"""The performance of a disk type in Azure: tier, requests and bytes a second. imgstore shows the values, and limits no disk.

Source: "Azure managed disk types" in Azure's documentation. A disk belongs to the smallest tier that contains its size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from imgstore.domain.storage.sizes import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPerformance:
    """The performance of a disk in Azure."""

    tier: str | None
    """The performance tier. Standard disks have none."""
    requests_per_second: int
    mib_per_second: int


_Row: TypeAlias = tuple[int, str | None, int, int]
"""The largest size in GiB, the tier, the requests a second and the MiB a second."""

_PREMIUM: Final[Sequence[_Row]] = (
    (4, "P1", 120, 25), (8, "P2", 120, 25), (16, "P3", 120, 25), (32, "P4", 120, 25), (64, "P6", 240, 50),
    (128, "P10", 500, 100), (256, "P15", 1_100, 125), (512, "P20", 2_300, 150), (1_024, "P30", 5_000, 200),
    (2_048, "P40", 7_500, 250), (4_096, "P50", 7_500, 250), (8_192, "P60", 16_000, 500), (16_384, "P70", 18_000, 750),
    (32_767, "P80", 20_000, 900),
)  # fmt: skip
_STANDARD: Final[Sequence[_Row]] = ((4_096, None, 500, 60), (8_192, None, 1_300, 300), (32_767, None, 2_000, 500))
_STANDARD_SSD: Final[Sequence[_Row]] = (
    (4_096, None, 500, 100), (8_192, None, 2_000, 400), (16_384, None, 4_000, 600), (32_767, None, 6_000, 750),
)  # fmt: skip
_TABLES: Final[Mapping[str, Sequence[_Row]]] = {
    "Premium": _PREMIUM,
    "StandardSSD": _STANDARD_SSD,
    "Standard": _STANDARD,
}


def sku_tier(sku: str) -> str:
    """Return Azure's tier of a disk type: Premium or Standard."""
    return "Premium" if sku.startswith("Premium") else "Standard"


def performance_of(sku: str, virtual_bytes: int) -> DiskPerformance:
    """Return the performance of a disk of a type and a size. A larger disk than any tier has the largest tier."""
    table = _TABLES.get(sku.partition("_")[0], _STANDARD)
    gib = -(-virtual_bytes // GIB)
    _, tier, requests, mib = next((row for row in table if gib <= row[0]), table[-1])
    return DiskPerformance(tier=tier, requests_per_second=requests, mib_per_second=mib)
