"""Regions as values: where an installation keeps bytes, and at what price."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import region_key
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.prices import Prices

ZRS_ZONES: Final = 3
"""ZRS writes to three zones and succeeds on two."""

ALL_ZONES: Final = "zrs"
"""What a slot's row says instead of a zone's name when its objects lie in all zones of the region."""


class Policy(StrEnum):
    """What a region can offer."""

    LRS = "LRS"
    """Each replica in one zone."""
    ZRS = "ZRS"
    """Three zones: replicas in all of them, or in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One store that holds the region's bucket."""

    name: str
    endpoint: str | None
    """An S3 endpoint; None is a directory under the data home."""
    bucket: str
    """The region's bucket, or `<bucket>-z<zone>` on the endpoint that `IMGSTORE_S3_ENDPOINT` names."""
    profile: str | None
    """The AWS profile that holds the credentials; None takes them from the environment."""
    signing_region: str | None
    """The region that requests are signed for, where the endpoint asks for a certain one."""
    path_style: bool
    """The bucket goes in the path, not in the host's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One region of the installation."""

    name: str
    """Its key: "westus2"."""
    display_name: str
    """As answers show it: "West US 2"."""
    bucket: str
    policy: Policy
    storage_account_types: tuple[StorageAccountType, ...]
    zones: tuple[Zone, ...]
    """In the order of the document, which placement counts on."""

    @property
    def embedded(self) -> bool:
        """Its zones are directories under the data home."""
        return self.zones[0].endpoint is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """How fast one process may carry bytes from one region to another."""

    default_bytes_per_second: int | None = None
    """For pairs that are not listed; None is no limit."""
    pairs: Mapping[tuple[str, str], int] = field(default_factory=lambda: MappingProxyType({}))
    """Bytes per second by source and target."""

    def of(self, source: str, target: str) -> int | None:
        """Bytes per second from one region to another, by key; None is no limit, as inside a region."""
        return None if source == target else self.pairs.get((source, target), self.default_bytes_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """What regions.yaml says."""

    currency: str
    regions: Mapping[str, Region]
    """By key, in the order of the document."""
    prices: Prices
    path: str
    """Where it was read, for people."""
    bandwidth: Bandwidth = field(default_factory=Bandwidth)

    def get(self, name: str, *, target: str = "targetRegions") -> Region:
        """The region that `name` means, in any spelling: "westus2", "West US 2".

        Args:
            name: as a person wrote it.
            target: the property that it came in, for the error.

        Raises:
            InvalidInput: there is no such region.
        """
        key = region_key(name)
        region = self.regions.get(key) or self._by_display_name().get(key)
        if region is None:
            raise InvalidInput(
                f"The region '{name}' is not known.",
                found=repr(name),
                expected=f"one of {', '.join(self.regions)}",
                hint=f"`imgstore regions list` shows the regions; they are named in {self.path}",
                target=target,
            )
        return region

    def _by_display_name(self) -> dict[str, Region]:
        return {region_key(region.display_name): region for region in self.regions.values()}
