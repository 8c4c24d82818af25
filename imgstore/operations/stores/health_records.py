"""The circuits of zones, in the catalog: what one process of a host saw, the host's next command knows at once."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from imgstore.catalog import Catalog
from imgstore.domain.errors import StoreError
from imgstore.domain.storage.circuits import ZoneHealth


@dataclass(frozen=True, slots=True)
class CatalogHealth:
    """The records of one observer. See `domain.circuits.HealthRecords`."""

    _catalog: Catalog
    observer: str

    def load(self) -> Sequence[ZoneHealth] | None:
        """See `HealthRecords.load`."""
        with suppress(StoreError), self._catalog.reading() as transaction:
            return transaction.zone_health.list(self.observer)
        return None

    def save(self, health: ZoneHealth) -> None:
        """See `HealthRecords.save`. A catalog that does not answer is no reason to end what noticed the failure."""
        with suppress(StoreError), self._catalog.transaction() as transaction:
            transaction.zone_health.write(health)
