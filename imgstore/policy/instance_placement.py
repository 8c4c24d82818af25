"""Decide the slots of the new instances of a scale set (invariants D2 and D22)."""

from collections.abc import Mapping, Sequence

from imgstore.domain.resources import Slot
from imgstore.domain.scale_sets import PlacementPolicy
from imgstore.policy.selection import next_slot


def place_instances(
    count: int, slots: Sequence[Slot], policy: PlacementPolicy, *, turn: int = 0, loads: Mapping[str, int]
) -> list[Slot]:
    """Return the slot of each new instance.

    Args:
        count: The number of new instances.
        slots: The slots of complete replicas, by ordinal.
        policy: Round robin from `turn` on, or the slot with the lowest load.
        turn: The counter of the round robin. Ignored by the other policy.
        loads: The live disks of the version by uid of the slot. A missing slot has no disk. Ignored by round robin.
    """
    if policy is PlacementPolicy.ROUND_ROBIN:
        return [next_slot(turn + number, slots) for number in range(count)]
    present = {slot.uid: loads.get(slot.uid, 0) for slot in slots}
    chosen = []
    for _ in range(count):
        slot = min(slots, key=lambda each: (present[each.uid], each.key.ordinal, each.key.storage_account_type))
        present[slot.uid] += 1
        chosen.append(slot)
    return chosen
