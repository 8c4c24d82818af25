"""Give the locator access to the zone records of the catalog."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from imgstore.catalog import Catalog
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber
from imgstore.domain.settings.maintenance import MaintenanceKind, task_name
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneRecord
from imgstore.regions import ALL_ZONES

_SAMPLE_KEYS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogZones:
    """A `regions.ZoneRegistry`."""

    catalog: Catalog
    subscriber: Subscriber

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        """See `ZoneRegistry.find`."""
        with self.catalog.reading() as transaction:
            return transaction.zones.find(region, zone)

    def add(self, record: ZoneRecord) -> ZoneRecord:
        """See `ZoneRegistry.add`."""
        with self.catalog.transaction() as transaction:
            return transaction.zones.add(record)

    def replace(self, record: ZoneRecord) -> None:
        """See `ZoneRegistry.replace`.

        Complete replicas in this zone alone become Degraded, so that scrub restores the replicas. The scrub of each
        slot in the zone is due at once.
        """
        from imgstore.operations.slots.degrade import degrade_slot  # noqa: PLC0415 - short commands do not load numpy

        with self.catalog.reading() as transaction:
            slots = [slot for slot in transaction.zones.slots_in(record.region, record.zone) if slot.zone != ALL_ZONES]
        for slot in slots:
            why = f"{slot.key}: the store of zone {record.zone} was replaced by {record.place}"
            with self.catalog.transaction() as transaction:
                degrade_slot(transaction, slot, why)
        with self.catalog.transaction() as transaction:
            for slot in transaction.zones.slots_in(record.region, record.zone):
                transaction.scrub_passes.end_in_slot(slot.uid)  # These passes have read the former store.
                transaction.slot_scrubs.remove(slot.uid)
                transaction.maintenance_tasks.make_due(task_name(MaintenanceKind.SCRUB, slot.uid))
            transaction.zones.replace(record)

    def list_prefixes(self, region: str, zone: str) -> Collection[str]:
        """See `ZoneRegistry.list_prefixes`."""
        with self.catalog.reading() as transaction:
            return [slot.prefix for slot in transaction.zones.slots_in(region, zone)]

    def records_every_zone(self) -> bool:
        """See `ZoneRegistry.records_every_zone`."""
        with self.catalog.reading() as transaction:
            return transaction.installation.get().records_every_zone

    def list_sample_keys(self, region: str, zone: str) -> Sequence[str]:
        """See `ZoneRegistry.list_sample_keys`."""
        with self.catalog.reading() as transaction:
            return transaction.zones.manifest_keys(region, zone, _SAMPLE_KEYS)

    def filter_known_checkpoints(self, region: str, zone: str, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """See `ZoneRegistry.filter_known_checkpoints`."""
        if not found:
            return found
        with self.catalog.reading() as transaction:
            unknown = transaction.sequence.find_unknown(found)
            last = transaction.sequence.last()
        if unknown:
            newest = max(unknown)
            detail = (
                f"zone {zone} of {region} has checkpoint {newest.sequence}, which this catalog (at {last}) never made"
            )
            with self.catalog.transaction() as transaction:
                transaction.installation.mark_outdated(detail)
            self.subscriber(
                ProgressEvent(
                    task="catalog", stage=Stage.NOTE, detail=f"the catalog is older than its buckets: {detail}"
                )
            )
        return sorted(set(found) - set(unknown))
