"""The collaborators of a rebuild. The module is light, because `bootstrap.py` imports the module at each start."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgstore.catalog import Catalog
from imgstore.domain.effects import Effects
from imgstore.domain.progress import Subscriber
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneRecord
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.regions import FoundZone


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildContext:
    """The collaborators of a rebuild. `bootstrap.py` makes the values."""

    catalog: Catalog | None
    """The empty catalog. None in a dry run without a catalog."""
    zones: Sequence[FoundZone]
    keys: RecoveryKeys
    regions_home: Path | None
    """The home that gets the regions.yaml of the recovery file. None if the settings name a file."""
    effects: Effects
    subscriber: Subscriber


class NoRecords:
    """A `regions.ZoneRegistry` of a lost catalog. A locator with this registry reads zones, and uses no zone."""

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        """See `ZoneRegistry.find`."""
        return None

    def add(self, record: ZoneRecord) -> ZoneRecord:
        """See `ZoneRegistry.add`."""
        return record

    def replace(self, record: ZoneRecord) -> None:
        """See `ZoneRegistry.replace`."""

    def list_prefixes(self, region: str, zone: str) -> Collection[str]:
        """See `ZoneRegistry.list_prefixes`."""
        return ()

    def records_every_zone(self) -> bool:
        """See `ZoneRegistry.records_every_zone`."""
        return True

    def list_sample_keys(self, region: str, zone: str) -> Sequence[str]:
        """See `ZoneRegistry.list_sample_keys`."""
        return ()

    def filter_known_checkpoints(self, region: str, zone: str, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """See `ZoneRegistry.filter_known_checkpoints`."""
        return found
