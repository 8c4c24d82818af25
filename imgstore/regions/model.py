"""Regions as values: the stores of an installation, their prices and their bandwidth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import region_key
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.prices.price_list import PriceList

ZRS_ZONES: Final = 3
"""ZRS writes to three zones and succeeds on two."""

ALL_ZONES: Final = "zrs"
"""The zone of a slot whose objects are in all zones of the region."""


class Policy(StrEnum):
    """The redundancy that a region can offer."""

    LRS = "LRS"
    """Each replica is in one zone."""
    ZRS = "ZRS"
    """The region has three zones. A replica is in all zones or in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A store that holds the region's bucket."""

    name: str
    endpoint: str | None
    """An S3 endpoint; None is a directory under the data home."""
    bucket: str
    """The region's bucket, or `<bucket>-z<zone>` on the endpoint that `IMGSTORE_S3_ENDPOINT` names."""
    profile: str | None
    """The AWS profile with the credentials; None takes the credentials from the environment."""
    signing_region: str | None
    """The region of the signature, for endpoints that require a certain region."""
    path_style: bool
    """Put the bucket in the path instead of the host name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A region of the installation."""

    name: str
    """The key: "westus2"."""
    display_name: str
    """The name in responses: "West US 2"."""
    bucket: str
    policy: Policy
    storage_account_types: tuple[StorageAccountType, ...]
    zone_group: str | None = None
    """The group of regions for prices, for example a continent."""
    zones: tuple[Zone, ...]
    """The zones in the order of regions.yaml, which placement depends on."""

    @property
    def embedded(self) -> bool:
        """Whether the zones are directories under the data home."""
        return self.zones[0].endpoint is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """The rate at which a process may carry bytes from one region to another."""

    default_bytes_per_second: int | None = None
    """The limit of pairs that are not listed; None is no limit."""
    pairs: Mapping[tuple[str, str], int] = field(default_factory=lambda: MappingProxyType({}))
    """Bytes per second by source and target."""

    def of(self, source: str, target: str) -> int | None:
        """Return the bytes per second from one region to another, by key. None is no limit, as inside a region."""
        return None if source == target else self.pairs.get((source, target), self.default_bytes_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The content of regions.yaml."""

    currency: str
    regions: Mapping[str, Region]
    """Regions by key, in the order of the document."""
    prices: PriceList
    path: str
    """The path of the document, for errors."""
    bandwidth: Bandwidth = field(default_factory=Bandwidth)

    def get(self, name: str, *, target: str = "targetRegions") -> Region:
        """Find a region by any spelling: "westus2", "West US 2".

        Args:
            name: the name in the user's spelling.
            target: the property that contained the name, for the error.

        Raises:
            InvalidInput: the region does not exist.
        """
        key = region_key(name)
        region = self.regions.get(key) or self._by_display_name().get(key)
        if region is None:
            raise InvalidInput(
                f"The region '{name}' is not known.",
                found=repr(name),
                expected=f"one of {', '.join(self.regions)}",
                hint=f"`imgstore regions list` shows the regions of {self.path}",
                target=target,
            )
        return region

    def _by_display_name(self) -> dict[str, Region]:
        return {region_key(region.display_name): region for region in self.regions.values()}
