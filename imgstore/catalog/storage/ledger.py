"""The ledger: charges for transfers, which are never changed, and intervals of storage."""

from collections.abc import Collection, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository, missing_row_error
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.entries import LedgerRow, Party, StorageInterval

_ledger = schema.ledger
_intervals = schema.intervals


class Ledger(Repository):
    """The charges and storage intervals of all subscriptions."""

    def add(self, row: LedgerRow) -> bool:
        """Add a charge. Return False, and change nothing, if a charge with this key exists."""
        statement = self._session.upsert(_ledger).values(to_columns(_ledger, row, **_party_values(row.party)))
        # Drivers do not report the number of rows of such an INSERT.
        added = statement.on_conflict_do_nothing(index_elements=["key"]).returning(_ledger.c.key)
        return self._session.first(added) is not None

    def rows(
        self, subscription: str | None = None, *, begin: datetime | None = None, end: datetime | None = None
    ) -> list[LedgerRow]:
        """Return the charges of a subscription, or of all, by time, target, replica and key.

        Args:
            subscription: the subscription. None for all.
            begin: the first moment of the charges. None for all.
            end: the first moment after the charges. None for all.
        """
        statement = _of(_ledger, subscription)
        if begin is not None:
            statement = statement.where(_ledger.c.time >= begin)
        if end is not None:
            statement = statement.where(_ledger.c.time < end)
        order = (_ledger.c.time, _ledger.c.target, _ledger.c.replica, _ledger.c.key)
        return [_charge(row) for row in self._session.all(statement.order_by(*order))]

    def find(self, key: str) -> LedgerRow | None:
        """Return the charge with a key, or None."""
        row = self._session.first(select(_ledger).where(_ledger.c.key == key))
        return None if row is None else _charge(row)

    def meter_bytes(self, subscription: str, since: datetime) -> dict[str, int]:
        """Return the charged bytes of a subscription since a time, by meter."""
        statement = (
            select(_ledger.c.meter, func.sum(_ledger.c.delivered_bytes).label("charged_bytes"))
            .where(
                _ledger.c.subscription_key == fold_name(subscription),
                _ledger.c.time >= since,
                _ledger.c.meter.is_not(None),
            )
            .group_by(_ledger.c.meter)
        )
        return {row.meter: int(row.charged_bytes) for row in self._session.all(statement)}

    def rows_of_meters(self, subscription: str, meters: Collection[str], since: datetime) -> list[LedgerRow]:
        """Return the charges of a subscription on some meters from a time on, by time and key."""
        statement = _of(_ledger, subscription).where(_ledger.c.meter.in_(sorted(meters)), _ledger.c.time >= since)
        return [_charge(row) for row in self._session.all(statement.order_by(_ledger.c.time, _ledger.c.key))]

    def stored_bytes(self, subscription: str) -> dict[StorageAccountType, int]:
        """Return the stored bytes of a subscription in open intervals, by storage account type."""
        mine = (_intervals.c.subscription_key == fold_name(subscription)) & _intervals.c.closed_at.is_(None)
        kind = _intervals.c.storage_account_type
        statement = select(kind, func.sum(_intervals.c.stored_bytes).label("stored")).where(mine).group_by(kind)
        return {row.storage_account_type: int(row.stored) for row in self._session.all(statement)}

    def by_key(self, key: str) -> LedgerRow:
        """Return the charge with a key.

        Raises:
            NotFound: no row has this key.
        """
        return _charge(self._row(select(_ledger).where(_ledger.c.key == key), "charge", key))

    def interval_by_uid(self, uid: str) -> StorageInterval:
        """Return the interval with a uid.

        Raises:
            NotFound: no row has this uid.
        """
        return _interval(self._row(select(_intervals).where(_intervals.c.uid == uid), "storage interval", uid))

    def open_interval(self, interval: StorageInterval) -> None:
        """Record that bytes are stored in a slot from now on.

        Raises:
            Conflict: an interval with this uid exists.
        """
        self._session.run(_intervals.insert(), to_columns(_intervals, interval, **_party_values(interval.party)))

    def open_intervals_of(self, intervals: Sequence[StorageInterval]) -> None:
        """Record several intervals (see `open_interval`)."""
        if intervals:
            rows = [to_columns(_intervals, each, **_party_values(each.party)) for each in intervals]
            self._session.run(_intervals.insert(), rows)

    def close_interval(self, uid: str, closed_at: datetime) -> None:
        """Record the end of an interval. A closed interval keeps its end.

        Raises:
            NotFound: no row has this uid.
        """
        still_open = (_intervals.c.uid == uid) & _intervals.c.closed_at.is_(None)
        if self._session.change(update(_intervals).where(still_open).values(closed_at=closed_at)):
            return
        if self._session.first(select(_intervals.c.uid).where(_intervals.c.uid == uid)) is None:
            raise missing_row_error("storage interval", uid)

    def open_intervals(self, slot_uid: str) -> list[StorageInterval]:
        """Return the open intervals of a slot, oldest first."""
        here = (_intervals.c.slot_uid == slot_uid) & _intervals.c.closed_at.is_(None)
        statement = select(_intervals).where(here).order_by(_intervals.c.opened_at, _intervals.c.uid)
        return [_interval(row) for row in self._session.all(statement)]

    def list_open_since(self, before: datetime, slot_uid: str, limit: int) -> list[StorageInterval]:
        """Return up to `limit` open intervals of a slot that were opened before a time, oldest first."""
        order = (_intervals.c.opened_at, _intervals.c.uid)
        statement = select(_intervals).where(_is_open_since(before), _intervals.c.slot_uid == slot_uid)
        return [_interval(row) for row in self._session.all(statement.order_by(*order).limit(limit))]

    def list_slots_open_since(self, before: datetime) -> list[str]:
        """Return the uids of slots with an open interval that was opened before a time."""
        statement = select(_intervals.c.slot_uid).where(_is_open_since(before)).distinct()
        return [row.slot_uid for row in self._session.all(statement.order_by(_intervals.c.slot_uid))]

    def find_oldest_open(self) -> datetime | None:
        """Return the begin of the oldest open interval, or None without an open interval."""
        oldest = select(_intervals.c.opened_at).where(_intervals.c.closed_at.is_(None))
        row = self._session.first(oldest.order_by(_intervals.c.opened_at).limit(1))
        return None if row is None else row.opened_at

    def arrivals(self, slot_uid: str) -> dict[str, datetime]:
        """Return the time since which each owner stores bytes in a slot, by uid.

        An interval that opens when another interval of the owner closes continues the other interval.
        """
        owners = select(_intervals.c.owner_uid).where(
            _intervals.c.slot_uid == slot_uid, _intervals.c.closed_at.is_(None)
        )
        statement = select(_intervals.c.owner_uid, _intervals.c.opened_at, _intervals.c.closed_at).where(
            _intervals.c.slot_uid == slot_uid, _intervals.c.owner_uid.in_(owners)
        )
        since: dict[str, datetime] = {}
        closed_at: dict[str, datetime | None] = {}
        for row in self._session.all(statement.order_by(_intervals.c.opened_at, _intervals.c.closed_at.nulls_last())):
            if closed_at.get(row.owner_uid) != row.opened_at:
                since[row.owner_uid] = row.opened_at
            closed_at[row.owner_uid] = row.closed_at
        return since

    def intervals(
        self, subscription: str | None = None, *, begin: datetime | None = None, end: datetime | None = None
    ) -> list[StorageInterval]:
        """Return the intervals of a subscription, or of all subscriptions, oldest first.

        Args:
            subscription: the subscription. None for all.
            begin: intervals that were closed before are left out. None for all.
            end: intervals that were opened later are left out. None for all.
        """
        statement = _of(_intervals, subscription)
        if begin is not None:
            statement = statement.where(_intervals.c.closed_at.is_(None) | (_intervals.c.closed_at > begin))
        if end is not None:
            statement = statement.where(_intervals.c.opened_at < end)
        statement = statement.order_by(_intervals.c.opened_at, _intervals.c.uid)
        return [_interval(row) for row in self._session.all(statement)]


def _is_open_since(before: datetime) -> ColumnElement[bool]:
    return _intervals.c.closed_at.is_(None) & (_intervals.c.opened_at < before)


def _of(table: Table, subscription: str | None) -> Select[Any]:
    everyone = select(table)
    return everyone if subscription is None else everyone.where(table.c.subscription_key == fold_name(subscription))


def _party_values(party: Party) -> dict[str, Any]:
    return {
        "subscription": party.subscription,
        "subscription_key": fold_name(party.subscription),
        "group_name": party.group,
        "gallery": party.gallery,
        "definition": party.definition,
        "version": party.version,
        "disk": party.disk,
        "tags": dict(party.tags) or None,
    }


def _party(row: Row[Any]) -> Party:
    return to_value(Party, row, group=row.group_name, tags=MappingProxyType(row.tags or {}))


def _charge(row: Row[Any]) -> LedgerRow:
    return to_value(LedgerRow, row, party=_party(row))


def _interval(row: Row[Any]) -> StorageInterval:
    return to_value(StorageInterval, row, party=_party(row))
