"""The circuits of zones in the catalog: the next command of a host knows the observations of other processes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from imgstore.catalog import Catalog
from imgstore.domain.errors import StoreError
from imgstore.domain.storage.circuits import ZoneHealth


@dataclass(frozen=True, slots=True)
class CatalogHealth:
    """The circuit records of one observer. See `HealthRecords`."""

    _catalog: Catalog
    observer: str

    def load(self) -> Sequence[ZoneHealth] | None:
        """See `HealthRecords.load`."""
        with suppress(StoreError), self._catalog.reading() as transaction:
            return transaction.zone_health.list(self.observer)
        return None

    def save(self, health: ZoneHealth) -> None:
        """See `HealthRecords.save`.

        If the catalog does not answer, skip the record, so that the observing work continues.
        """
        with suppress(StoreError), self._catalog.transaction() as transaction:
            transaction.zone_health.write(health)
