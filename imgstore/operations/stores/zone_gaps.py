"""Count the objects that zones of a slot missed, from the repair notes, as a report of lost redundancy."""

from collections import Counter
from contextlib import suppress

from imgstore.domain.errors import StoreError
from imgstore.domain.resources import Slot
from imgstore.operations.installation import Installation
from imgstore.regions import ALL_ZONES
from imgstore.stores.zone_redundant import MissedWrite, ZoneRedundantStore


def record_zone_gaps(installation: Installation, slot: Slot) -> dict[str, int]:
    """Count the writes that each zone of a slot missed, and record the counts in the catalog.

    Do nothing for a slot in one zone. If fewer than two zones answer, keep the last counts.

    Returns:
        The number of objects by zone, without zones that missed nothing.
    """
    if slot.zone != ALL_ZONES:
        return {}
    try:
        store = installation.locator.store(slot)
        assert isinstance(store, ZoneRedundantStore), "the slot has three zones"
        notes = [note for note in store.list_pending_repairs() if note.key.startswith(slot.prefix)]
    except StoreError:
        return {}
    counts = dict(Counter(note.zone for note in notes if note.missed is MissedWrite.PUT))
    # The counts are for people only, so a catalog that does not answer must not fail the work.
    with suppress(StoreError), installation.catalog.transaction() as transaction:
        known = {gap.zone: gap.objects for gap in transaction.zone_gaps.of_slots([slot.uid])}
        if counts != known:
            transaction.zone_gaps.replace(slot.uid, counts)
    return counts
