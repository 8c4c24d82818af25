"""Pools and slots, and the locks for counting stored bytes."""

import builtins
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.resources import Pool, Slot, SlotKey
from imgstore.domain.states import WorkState

_pools = schema.pools
_slots = schema.slots

SLOT_COLUMNS: Final = tuple(column.label(f"joined_slot_{column.name}") for column in _slots.c)
"""The columns of a slot with separate labels, for joins with other tables."""

_SELECT: Final = select(*SLOT_COLUMNS)


class Pools(Repository):
    """The pools: scopes of deduplication, of the fingerprint key and of garbage collection."""

    def add(self, pool: Pool) -> None:
        """Add a pool."""
        self._session.run(_pools.insert(), _values(pool))

    def get_or_add(self, pool: Pool) -> Pool:
        """Return the pool of a subscription for a region. Add `pool` if there is none."""
        assert pool.subscription is not None, "only the pool of a subscription is shared"
        self._session.run(self._session.upsert(_pools).values(_values(pool)).on_conflict_do_nothing())
        mine = (_pools.c.subscription_key == fold_name(pool.subscription)) & (_pools.c.region == pool.region)
        return to_value(Pool, self._row(select(_pools).where(mine), "pool", f"{pool.subscription}/{pool.region}"))

    def get(self, uid: str) -> Pool:
        """Return the pool with this uid.

        Raises:
            NotFound: no row has this uid.
        """
        return to_value(Pool, self._row(select(_pools).where(_pools.c.uid == uid), "pool", uid))

    def list(self) -> builtins.list[Pool]:
        """Return all pools, also of deleted galleries."""
        return [to_value(Pool, row) for row in self._session.all(select(_pools).order_by(_pools.c.uid))]

    def remove(self, uid: str) -> None:
        """Remove a pool, its slots, and the rows of closed works.

        Raises:
            NotFound: no row has this uid.
            Conflict: another row still refers to the pool or to one of its slots.
        """
        mine = select(_slots.c.uid).where(_slots.c.pool_uid == uid)
        closed = schema.works.c.state != WorkState.OPEN
        self._session.run(delete(schema.works).where(schema.works.c.slot_uid.in_(mine), closed))
        # No key of the pool is written again, so a late delete can do no harm.
        self._session.run(delete(schema.deletions).where(schema.deletions.c.slot_uid.in_(mine)))
        self._session.run(delete(schema.unknown_objects).where(schema.unknown_objects.c.slot_uid.in_(mine)))
        self._session.run(delete(schema.zone_gaps).where(schema.zone_gaps.c.slot_uid.in_(mine)))
        self._session.run(delete(_slots).where(_slots.c.pool_uid == uid))
        self._remove(_pools, uid, "pool")


class Slots(Repository):
    """The slots of all pools. A slot never changes, because objects do not move."""

    def get_or_add(self, key: SlotKey, *, zone: str, bucket: str) -> Slot:
        """Return the slot with this key. Add the slot if there is none.

        Args:
            key: the key of the slot.
            zone: the zone of a new slot. An existing slot keeps its zone (invariant S5).
            bucket: the bucket of a new slot. An existing slot keeps its bucket.
        """
        found = self.find(key)
        if found is not None:
            return found
        row = {
            "uid": self._session.effects.new_uid(),
            "pool_uid": key.pool_uid,
            "region": key.region,
            "storage_account_type": key.storage_account_type,
            "ordinal": key.ordinal,
            "zone": zone,
            "bucket": bucket,
        }
        # If another process has added the slot, that slot's zone counts.
        self._session.run(self._session.upsert(_slots).values(row).on_conflict_do_nothing())
        return slot_from_row(self._row(_SELECT.where(_is(key)), "slot", str(key)))

    def get(self, uid: str) -> Slot:
        """Return the slot with this uid.

        Raises:
            NotFound: no row has this uid.
        """
        return slot_from_row(self._row(_SELECT.where(_slots.c.uid == uid), "slot", uid))

    def find(self, key: SlotKey) -> Slot | None:
        """Return the slot with this key, or None."""
        row = self._session.first(_SELECT.where(_is(key)))
        return None if row is None else slot_from_row(row)

    def list(self, pool_uid: str, region: str | None = None) -> builtins.list[Slot]:
        """Return the slots of a pool, optionally in a single region, by region, storage account type and ordinal."""
        statement = _SELECT.where(_slots.c.pool_uid == pool_uid)
        if region is not None:
            statement = statement.where(_slots.c.region == region)
        order = (_slots.c.region, _slots.c.storage_account_type, _slots.c.ordinal)
        return [slot_from_row(row) for row in self._session.all(statement.order_by(*order))]

    def list_all(self) -> builtins.list[Slot]:
        """Return the slots of all pools, by region, storage account type, ordinal and uid."""
        order = (_slots.c.region, _slots.c.storage_account_type, _slots.c.ordinal, _slots.c.uid)
        return [slot_from_row(row) for row in self._session.all(_SELECT.order_by(*order))]

    def lock(self, slot_uid: str) -> None:
        """Lock a slot until the end of the transaction.

        Raises:
            NotFound: no row has this uid.
            StoreUnreachable: another transaction held the lock for 30 seconds.
        """
        statement = self._session.add_row_locks(select(_slots.c.uid).where(_slots.c.uid == slot_uid))
        self._row(statement, "slot", slot_uid)

    def lock_region(self, pool_uid: str, region: str) -> None:
        """Lock a pool in a region, so that each new byte is charged once (invariant M2).

        Raises:
            StoreUnreachable: another transaction held the lock for 30 seconds.
        """
        self._session.lock_name(f"{pool_uid}/{region}")


def _values(pool: Pool) -> dict[str, Any]:
    key = None if pool.subscription is None else fold_name(pool.subscription)
    return to_columns(_pools, pool, subscription_key=key)


def slot_from_row(row: Row[Any]) -> Slot:
    """Return the slot in the `SLOT_COLUMNS` of a row."""
    return Slot(
        uid=row.joined_slot_uid,
        key=SlotKey(
            pool_uid=row.joined_slot_pool_uid,
            region=row.joined_slot_region,
            storage_account_type=row.joined_slot_storage_account_type,
            ordinal=row.joined_slot_ordinal,
        ),
        zone=row.joined_slot_zone,
        bucket=row.joined_slot_bucket,
    )


def _is(key: SlotKey) -> ColumnElement[bool]:
    return (
        (_slots.c.pool_uid == key.pool_uid)
        & (_slots.c.region == key.region)
        & (_slots.c.storage_account_type == key.storage_account_type)
        & (_slots.c.ordinal == key.ordinal)
    )
