"""Explain an entry of the ledger: bytes, segments, rule and price."""

import numpy as np
from numpy.typing import NDArray

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Principal
from imgstore.domain.resources import SegmentRow
from imgstore.domain.states import ReplicaState
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
    """Return the segments of a replica that no version in the region named earlier."""
    try:
        replica = transaction.replicas.by_uid(row.key.partition("/")[0])
    except NotFound:
        return None
    if replica.completed_at is None:
        return None
    slot = replica.slot
    pool_uid = slot.key.pool_uid
    ids = _named(transaction, replica.version_uid, slot.uid)
    for other in transaction.slots.list(pool_uid, slot.key.region):
        for each in transaction.replicas.in_slot(other.uid):
            if (
                each.uid != replica.uid
                and each.state is ReplicaState.COMPLETED
                and each.completed_at is not None
                and each.completed_at < replica.completed_at
            ):
                ids = np.setdiff1d(ids, _named(transaction, each.version_uid, other.uid))
    return transaction.segments.rows(pool_uid, ids)


def _stored_segments(transaction: Transaction, interval: StorageInterval) -> list[SegmentRow] | None:
    """Return the segments of an owner that no earlier owner of the slot names, for an open interval."""
    if interval.closed_at is not None:
        return None
    return read_paid_segments(transaction, transaction.slots.get(interval.slot_uid), interval.owner_uid)


def _named(transaction: Transaction, owner_uid: str, slot_uid: str) -> NDArray[np.uint32]:
    return named_segments(transaction.manifests.of_replica(owner_uid, slot_uid))
