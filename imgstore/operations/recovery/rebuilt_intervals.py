"""Bring the open storage intervals of a rebuilt catalog up to date with the stored versions and disks.

The newest checkpoint of the ledger may be older than the newest version. Storage without an interval is billed from the
rebuild on. An interval whose owner was deleted after the checkpoint ends at the checkpoint, because nothing proves a
later end.
"""

from dataclasses import dataclass
from datetime import datetime

from imgstore.catalog import Transaction
from imgstore.domain.effects import Effects
from imgstore.domain.resources import Slot
from imgstore.ledger.entries import Party
from imgstore.ledger.storage.storage_intervals import plan_interval_changes
from imgstore.operations.lookup import definition_path_of
from imgstore.operations.slots.attribution import attribute_slot, open_interval
from imgstore.operations.slots.completion import version_party
from imgstore.operations.slots.references import disk_party


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCounts:
    """The number of changed intervals of a slot."""

    opened: int
    closed: int


def reconcile_intervals(
    transaction: Transaction, effects: Effects, slot: Slot, *, closed_at: datetime | None
) -> IntervalCounts:
    """Open the missing intervals of a slot, and close the intervals of missing owners. May be repeated.

    Args:
        transaction: the open transaction.
        effects: the source of uids.
        slot: the slot.
        closed_at: the time of the newest checkpoint, or None without a checkpoint.
    """
    existing = transaction.ledger.open_intervals(slot.uid)
    owners = {row.owner_uid for row in transaction.manifests.in_slot(slot.uid)}
    if owners == {interval.owner_uid for interval in existing}:
        return IntervalCounts(opened=0, closed=0)
    now = transaction.now()
    parties = {interval.owner_uid: interval.party for interval in existing}
    to_close, to_open = plan_interval_changes(existing, attribute_slot(transaction, slot))
    for interval in to_close:
        end = now if interval.owner_uid in owners else max(closed_at or now, interval.opened_at)
        transaction.ledger.close_interval(interval.uid, end)
    for uid, own in to_open.items():
        party = parties.get(uid) or _find_party(transaction, uid)
        open_interval(effects, transaction, owner_uid=uid, slot=slot, party=party, own=own)
    return IntervalCounts(opened=len(to_open), closed=len(to_close))


def _find_party(transaction: Transaction, owner_uid: str) -> Party:
    if transaction.rebuilt_rows.list_present("disks", [owner_uid]):
        return disk_party(transaction.disks.by_uid(owner_uid))
    version = transaction.versions.by_uid(owner_uid)
    return version_party(definition_path_of(transaction, version), version)
