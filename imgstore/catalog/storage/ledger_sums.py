"""Sums of the ledger that the database computes, so that a million entries need no memory of the process.

A sum of stored bytes times microseconds has more digits than a 64-bit integer. So both factors are divided by 10^6, and
the sums of the four products are added in Python, exactly.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Integer, String, and_, case, cast, extract, func, literal, or_, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.ledger.entries import ChargeKind, Party
from imgstore.ledger.prices.price_list import PriceLists
from imgstore.ledger.statements.usage import Usage
from imgstore.ledger.storage.periods import microseconds_between

PARTY_COLUMNS: Final = ("subscription", "group_name", "gallery", "definition", "version", "disk", "tags")

_MILLION: Final = 10**6
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PRECEDENCE: Final = 8
"""The precedence of a product in SQLAlchemy, so that a difference before the operator is put in parentheses."""
_FRACTION_AT: Final = 20
"""SQLite's text of a time has the fraction of a second after this number of characters, "2026-11-30 18:16:24."."""


class LedgerSums(Repository):
    """Sums over entries with equal properties, as usage that a statement rates."""

    def transfers(
        self, subscription: str | None, begin: datetime, end: datetime, columns: Collection[str]
    ) -> list[Usage]:
        """Return the transferred bytes of a period with one price list, summed over equal parties.

        Args:
            subscription: the subscription, or None for all.
            begin: the first moment of the period.
            end: the first moment after the period.
            columns: the columns of the party (`PARTY_COLUMNS`) to keep apart. The subscription is always kept.
        """
        table = schema.ledger
        party = _party_columns(table, columns, is_postgresql=not self._session.is_sqlite)
        keys = [table.c.kind, table.c.source, table.c.target, table.c.price_list, table.c.meter, table.c.unit_price]
        inside = [table.c.time >= begin, table.c.time < end, *_of(table, subscription)]
        total = func.sum(table.c.delivered_bytes).label("total")
        statement = select(*keys, *party, total).where(*inside).group_by(*keys, *party)
        return [
            Usage(
                key="",
                kind=row.kind,
                party=_party(row),
                source=row.source,
                target=row.target,
                replica=0,
                begin=begin,
                end=end,
                quantity=int(row.total),
                price_list=row.price_list or 1,
                meter=row.meter,
                unit_price=row.unit_price if row.price_list is None or row.meter is None else None,
            )
            for row in self._session.all(statement)
        ]

    def storage(
        self,
        subscription: str | None,
        begin: datetime,
        end: datetime,
        columns: Collection[str],
        prices: PriceLists,
    ) -> list[Usage]:
        """Return the stored bytes times microseconds of a period with one price, summed over equal parties.

        Raises:
            InvalidInput: no prices are valid in the period.
        """
        table = schema.intervals
        party = _party_columns(table, columns, is_postgresql=not self._session.is_sqlite)
        keys = [table.c.region, table.c.storage_account_type]
        is_open = table.c.closed_at.is_(None)
        # Most intervals begin before the period or end after it, and the comparison of times is cheap.
        last = case((is_open | (table.c.closed_at >= end), _literal(end)), else_=self._microseconds(table.c.closed_at))
        first = case((table.c.opened_at <= begin, _literal(begin)), else_=self._microseconds(table.c.opened_at))
        inside = and_(table.c.opened_at < end, or_(is_open, table.c.closed_at > begin))
        # Otherwise SQLite would compute the duration once for each product.
        rows = (
            select(*keys, *party, table.c.stored_bytes, (last - first).label("duration"))
            .where(inside, *_of(table, subscription))
            .cte("rows")
            .prefix_with("MATERIALIZED")
        )
        stored, duration = rows.c.stored_bytes, rows.c.duration
        products = [
            func.sum(left * right).label(name)
            for name, left, right in (
                ("high", _quotient(stored), _quotient(duration)),
                ("left", _quotient(stored), _rest(duration)),
                ("right", _rest(stored), _quotient(duration)),
                ("low", _rest(stored), _rest(duration)),
            )
        ]
        names = [rows.c[column.name] for column in (*keys, *party)]
        statement = select(*names, *products).group_by(*names)
        found = []
        for row in self._session.all(statement):
            in_force = prices.at_for(row.storage_account_type, begin)
            found.append(
                Usage(
                    key="",
                    kind=ChargeKind.STORAGE,
                    party=_party(row),
                    source=None,
                    target=row.region,
                    replica=0,
                    storage_account_type=row.storage_account_type,
                    begin=begin,
                    end=end,
                    quantity=int(row.high) * _MILLION**2 + (int(row.left) + int(row.right)) * _MILLION + int(row.low),
                    price_list=in_force.number,
                    meter=in_force.storage(row.storage_account_type, begin).meter,
                )
            )
        return found

    def first_time(self, subscription: str | None) -> datetime | None:
        """Return the time of the oldest entry, or None for an empty ledger."""
        found: list[datetime] = [
            time
            for table, column in (
                (schema.ledger, schema.ledger.c.time),
                (schema.intervals, schema.intervals.c.opened_at),
            )
            if (time := self._session.value(select(func.min(column)).where(*_of(table, subscription)))) is not None
        ]
        return min(found, default=None)

    def _microseconds(self, column: Any) -> ColumnElement[int]:
        """Return the microseconds since 1970 of a time, as a whole number."""
        if self._session.is_sqlite:
            # With the fraction, SQLite would round to milliseconds, and perhaps to the next second.
            seconds = cast(func.strftime("%s", func.substr(column, 1, _FRACTION_AT - 1)), Integer)
            return seconds * _MILLION + cast(func.substr(column, _FRACTION_AT + 1, 6), Integer)
        return cast(extract("epoch", column) * _MILLION, BigInteger)


def _literal(time: datetime) -> ColumnElement[int]:
    return literal(microseconds_between(_EPOCH, time), BigInteger)


def _quotient(value: Any) -> Any:
    # Both engines divide whole numbers without a remainder. SQLAlchemy's operator would make a decimal of the first.
    return value.op("/", precedence=_PRECEDENCE)(literal(_MILLION, BigInteger))


def _rest(value: Any) -> Any:
    return value.op("%", precedence=_PRECEDENCE)(literal(_MILLION, BigInteger))


def _of(table: Any, subscription: str | None) -> list[Any]:
    return [] if subscription is None else [table.c.subscription_key == fold_name(subscription)]


def _party_columns(table: Any, columns: Collection[str], *, is_postgresql: bool) -> list[Any]:
    names = [name for name in PARTY_COLUMNS if name in {*columns, "subscription"}]
    # PostgreSQL compares no JSON, so equal texts are grouped.
    return [
        cast(table.c.tags, String).label("tags") if name == "tags" and is_postgresql else table.c[name]
        for name in names
    ]


def _party(row: Any) -> Party:
    found = row._mapping
    tags = found.get("tags") or {}
    return Party(
        subscription=row.subscription,
        group=found.get("group_name") or "",
        gallery=found.get("gallery"),
        definition=found.get("definition"),
        version=found.get("version"),
        disk=found.get("disk"),
        tags=MappingProxyType(json.loads(tags) if isinstance(tags, str) else tags),
    )
