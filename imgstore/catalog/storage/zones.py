"""The zones of the installation, by region and name, with the identity of the stores."""

import builtins
from typing import Final

from sqlalchemy import ColumnElement, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.storage.slots import SLOT_COLUMNS, slot_from_row
from imgstore.domain.resources import Slot
from imgstore.domain.storage.zones import ZoneRecord

_zones = schema.zones
_slots = schema.slots
_manifests = schema.manifests

ALL_ZONES: Final = "zrs"
"""The zone of a slot that is stored in all zones of a region."""


class Zones(Repository):
    """A row for each zone that was used at least once."""

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        """Return the record of a zone, or None if the zone was never used."""
        row = self._session.first(select(_zones).where(_is(region, zone)))
        return None if row is None else to_value(ZoneRecord, row)

    def list(self) -> builtins.list[ZoneRecord]:
        """Return all records, by region and zone."""
        return [
            to_value(ZoneRecord, row)
            for row in self._session.all(select(_zones).order_by(_zones.c.region, _zones.c.zone))
        ]

    def add(self, record: ZoneRecord) -> ZoneRecord:
        """Record a zone that has no record. Return the record that counts, perhaps that of another process."""
        values = to_columns(_zones, record, recorded_at=self._session.now())
        self._session.run(self._session.upsert(_zones).values(values).on_conflict_do_nothing())
        found = self.find(record.region, record.zone)
        assert found is not None, "it was added"
        return found

    def replace(self, record: ZoneRecord) -> None:
        """Record another store for a zone, with or without an earlier record."""
        values = to_columns(_zones, record, recorded_at=self._session.now())
        if not self._session.change(update(_zones).where(_is(record.region, record.zone)).values(values)):
            self._session.run(_zones.insert().values(values))

    def slots_in(self, region: str, zone: str) -> builtins.list[Slot]:
        """Return the slots with objects in a zone: slots of the zone itself, and slots in all zones of the region."""
        statement = select(*SLOT_COLUMNS).where(_is_stored_in(region, zone)).order_by(_slots.c.uid)
        return [slot_from_row(row) for row in self._session.all(statement)]

    def manifest_keys(self, region: str, zone: str, most: int) -> builtins.list[str]:
        """Return the keys, from the top of the zone, of up to `most` complete manifests in the zone."""
        statement = (
            select(*SLOT_COLUMNS, _manifests.c.body_key)
            .join_from(_slots, _manifests, _manifests.c.slot_uid == _slots.c.uid)
            .where(_is_stored_in(region, zone), _manifests.c.complete)
            .order_by(_manifests.c.uid)
            .limit(most)
        )
        return [slot_from_row(row).prefix + row.body_key for row in self._session.all(statement)]


def _is(region: str, zone: str) -> ColumnElement[bool]:
    return (_zones.c.region == region) & (_zones.c.zone == zone)


def _is_stored_in(region: str, zone: str) -> ColumnElement[bool]:
    return (_slots.c.region == region) & _slots.c.zone.in_((zone, ALL_ZONES))
