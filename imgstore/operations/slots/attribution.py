"""Assign the stored bytes of a slot to owners, and keep the storage intervals up to date (invariants M9 and M10)."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from imgstore.catalog import Transaction
from imgstore.domain.effects import Effects
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.ledger.entries import Party, StorageInterval
from imgstore.ledger.storage.storage_intervals import attribute_bytes, plan_interval_changes
from imgstore.operations.slot_owners import read_owners, sum_bodies


def attribute_slot(transaction: Transaction, slot: Slot) -> dict[str, int]:
    """Return the stored bytes of each owner of complete manifests in a slot (invariant M10), by uid."""
    present = read_owners(transaction, slot)
    return attribute_bytes(present.owners, present.stored_bytes)


def account_for_manifests(transaction: Transaction, slot: Slot, sizes: Mapping[str, int]) -> bool:
    """Let a remaining row account for each manifest whose own row does not exist, and return whether a row changed.

    Args:
        transaction: the open transaction, with the lock of the slot.
        slot: the slot.
        sizes: the stored bytes of manifests by key.
    """
    rows = defaultdict[str, list[ManifestRow]](list)
    for row in transaction.manifests.in_slot(slot.uid):
        rows[row.body_key].append(row)
    orphans = [key for key in sizes if rows[key] and not sum_bodies(rows[key])[key]]
    for key in orphans:
        remaining = min(rows[key], key=lambda row: row.uid)
        transaction.manifests.set_object_bytes(remaining.uid, remaining.object_bytes + sizes[key])
    return bool(orphans)


def open_interval(
    effects: Effects,
    transaction: Transaction,
    *,
    owner_uid: str,
    slot: Slot,
    party: Party,
    own: int,
    opened_at: datetime | None = None,
) -> None:
    """Open a storage interval: the owner is billed for `own` stored bytes in the slot, from `opened_at` or from now on."""
    transaction.ledger.open_interval(
        StorageInterval(
            uid=effects.new_uid(),
            party=party,
            owner_uid=owner_uid,
            slot_uid=slot.uid,
            region=slot.key.region,
            replica=slot.key.ordinal,
            storage_account_type=slot.key.storage_account_type,
            stored_bytes=own,
            opened_at=opened_at or transaction.now(),
        )
    )


def update_intervals(effects: Effects, transaction: Transaction, slot: Slot) -> None:
    """Close and open intervals, so that the open intervals of a slot equal the attribution of its bytes.

    The caller holds the lock of the slot. Each owner of the slot has an open interval.
    """
    existing = transaction.ledger.open_intervals(slot.uid)
    parties = {interval.owner_uid: interval.party for interval in existing}
    to_close, to_open = plan_interval_changes(existing, attribute_slot(transaction, slot))
    now = transaction.now()
    for interval in to_close:
        transaction.ledger.close_interval(interval.uid, now)
    for owner_uid, own in to_open.items():
        open_interval(
            effects, transaction, owner_uid=owner_uid, slot=slot, party=parties[owner_uid], own=own, opened_at=now
        )


def lock_slots(transaction: Transaction, version_uid: str) -> None:
    """Lock the slots of all replicas of a version, before its row is locked to change its tags (invariant L3)."""
    for slot_uid in sorted({replica.slot.uid for replica in transaction.replicas.list(version_uid)}):
        transaction.slots.lock(slot_uid)


def change_tags(effects: Effects, transaction: Transaction, owner_uid: str, tags: Mapping[str, str]) -> None:
    """Close the open intervals of a version or disk, and open equal intervals with new tags (invariant M24).

    The caller holds the locks of the slots. An owner that stores nothing has no interval.
    """
    now = transaction.now()
    for slot_uid in sorted({row.slot_uid for row in transaction.manifests.of_owner(owner_uid)}):
        for interval in transaction.ledger.open_intervals(slot_uid):
            if interval.owner_uid == owner_uid:
                transaction.ledger.close_interval(interval.uid, now)
                party = replace(interval.party, tags=tags)
                transaction.ledger.open_interval(replace(interval, uid=effects.new_uid(), party=party, opened_at=now))
