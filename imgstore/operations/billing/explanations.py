"""Explain an entry of the ledger: bytes, segments, rule and price."""

from contextlib import suppress

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Principal
from imgstore.domain.resources import SegmentRow, Slot
from imgstore.ledger.entries import LedgerRow, StorageInterval
from imgstore.ledger.months import Month, list_months
from imgstore.ledger.statements.explanation import Explanation, explain_amount, rule_of
from imgstore.ledger.statements.usage import list_usage, rate_all
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_entries import entry_not_found, find_entry
from imgstore.operations.slot_owners import read_paid_segments


def explain_entry(installation: Installation, principal: Principal, name: str) -> Explanation:
    """Return the bytes, the segments, the rule and the prices of an entry.

    Args:
        installation: the installation.
        principal: a reader of the charges of the entry's subscription.
        name: the key of a transfer, or the uid of a storage interval, with or without the name of the table.

    Raises:
        NotFound: the principal can see no such entry.
        Conflict: the entry has no charge, because the interval has not lasted for any time.
        AccessDenied: the principal may not read the charges of the installation's subscription, and can see no such entry
            in another subscription.
    """
    words = {
        "expected": "the key of a transfer, or the uid of a storage interval",
        "hint": "`imgstore bill show -o json` names the entries of each row",
    }
    entry, subscription = find_entry(installation, principal, name, **words)
    if subscription is None:  # A price list has no amount.
        raise entry_not_found(name, **words)
    table, _, key = entry.partition("/")
    with installation.catalog.reading() as transaction:
        prices, until = read_prices(installation, transaction), transaction.now()
        row: LedgerRow | StorageInterval
        if table == "ledger":
            row = transaction.ledger.by_key(key)
            months = [Month.of(row.time)]
            stored = row.delivered_bytes
        else:
            row = transaction.ledger.interval_by_uid(key)
            months = list_months(Month.of(row.opened_at), Month.of(row.closed_at or until))
            stored = row.stored_bytes
        rated = []
        for month in months:
            rows = transaction.ledger.rows(subscription, begin=month.begin, end=month.end)
            intervals = transaction.ledger.intervals(subscription, begin=month.begin, end=month.end)
            usage = [each for each in list_usage(rows, intervals, prices, until) if each.month == month]
            rated += [each for each in rate_all(usage, prices) if each.usage.key == key]
        if not rated:
            raise Conflict(
                f"The entry {entry} has no charge until now.",
                found="a storage interval without time",
                expected="an interval that has lasted for some time",
                hint="`imgstore bill show -o json` names the entries with charges",
                target="entry",
            )
        segments = (
            _arrived_segments(transaction, row) if isinstance(row, LedgerRow) else _stored_segments(transaction, row)
        )
    return Explanation(
        entry=entry,
        usage=rated[0].usage,
        bytes=stored,
        rule=rule_of(rated[0].usage.kind),
        parts=explain_amount(rated, prices),
        segments=segments,
    )


def _arrived_segments(transaction: Transaction, row: LedgerRow) -> list[SegmentRow] | None:
    """Return the segments of a replica or copied disk that no owner in the region named earlier."""
    found = _find_arrival(transaction, row.key.partition("/")[0])
    if found is None:
        return None
    owner_uid, slot = found
    arrived_at = transaction.ledger.arrivals(slot.uid).get(owner_uid)
    if arrived_at is None:
        return None
    pool_uid = slot.key.pool_uid
    ids = named_segments(transaction.manifests.of_replica(owner_uid, slot.uid))
    for other in transaction.slots.list(pool_uid, slot.key.region):
        arrivals = transaction.ledger.arrivals(other.uid)
        earlier = [each for each in transaction.manifests.in_slot(other.uid) if each.owner_uid != owner_uid]
        ids = np.setdiff1d(
            ids, named_segments(each for each in earlier if arrivals.get(each.owner_uid, arrived_at) < arrived_at)
        )
    return transaction.segments.rows(pool_uid, ids)


def _find_arrival(transaction: Transaction, uid: str) -> tuple[str, Slot] | None:
    """Return the owner and the slot of a replica or of a stored disk. None if the row does not exist any more."""
    with suppress(NotFound):
        replica = transaction.replicas.by_uid(uid)
        return replica.version_uid, replica.slot
    with suppress(NotFound):
        return uid, transaction.disks.by_uid(uid).slot
    return None


def _stored_segments(transaction: Transaction, interval: StorageInterval) -> list[SegmentRow] | None:
    """Return the segments of an owner that no earlier owner of the slot names, for an open interval."""
    if interval.closed_at is not None:
        return None
    return read_paid_segments(transaction, transaction.slots.get(interval.slot_uid), interval.owner_uid)
