"""Settle storage at the ends of months, so that the storage of a past month is an entry that can be sealed (M27)."""

from datetime import datetime
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import NotFound
from imgstore.ledger.entries import StorageInterval
from imgstore.ledger.months import Month
from imgstore.ledger.storage.periods import settle_interval
from imgstore.operations.installation import Installation

_INTERVALS_AT_ONCE: Final = 500
"""Intervals of one transaction. Other processes wait for the transaction on SQLite."""


def settle_months(installation: Installation) -> int:
    """Close all open intervals at the last month ends, and open them again from there with the same bytes.

    May be killed and repeated, and several workers may run at once. No statement changes. An outdated catalog settles
    nothing. A month has ended when the clock of the database and the clock of this machine say so, because one wrong
    clock must not close a month.

    Returns:
        The number of closed intervals.
    """
    catalog = installation.catalog.without_operation
    with catalog.reading() as transaction:
        if transaction.installation.get().outdated is not None:
            return 0
        month_end = find_month_end(transaction, installation)
        slots = transaction.ledger.list_slots_open_since(month_end)
    settled = 0
    for slot_uid in slots:
        while True:
            installation.keeper.check_cancelled()
            with catalog.transaction() as transaction:
                try:
                    transaction.slots.lock(slot_uid)
                except NotFound:  # The slot was removed after the look.
                    break
                found = transaction.ledger.list_open_since(month_end, slot_uid, _INTERVALS_AT_ONCE)
                parts = [settle_interval(each, month_end) for each in found]
                for each in parts:
                    _store_parts(transaction, each)
            settled += sum(len(each) - 1 for each in parts)
            if len(found) < _INTERVALS_AT_ONCE:
                break
    return settled


def find_month_end(transaction: Transaction, installation: Installation) -> datetime:
    """Return the end of the last month that has ended by the clock of the database and the clock of this machine."""
    return Month.of(min(transaction.now(), installation.effects.now())).begin


def _store_parts(transaction: Transaction, parts: list[StorageInterval]) -> None:
    first, *later = parts
    assert first.closed_at is not None, f"{first.uid} was opened before the end of a month"
    transaction.ledger.close_interval(first.uid, first.closed_at)
    for part in later:
        transaction.ledger.open_interval(part)
