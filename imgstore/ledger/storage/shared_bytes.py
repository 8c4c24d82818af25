"""Shared stored bytes: the owners that name the same bytes, in the order in which the owners pay (invariant M10)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.entries import Party
from imgstore.ledger.storage.storage_intervals import Owner, StoredBytes


@dataclass(frozen=True, slots=True)
class SharedBytes:
    """Bytes of a slot that exactly these owners name."""

    owner_uids: tuple[str, ...]
    """The owners in the order of arrival: the first pays, and the second pays after the deletion of the first."""
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStorage:
    """Bytes of a replica that several owners name, as a reader of the bill sees the owners."""

    region: str
    storage_account_type: StorageAccountType
    replica: int
    parties: tuple[Party | None, ...]
    """The owners in the order of arrival. None for an owner of a subscription whose bill the reader may not see."""
    stored_bytes: int


def group_by_owners(owners: Sequence[Owner], stored_bytes: StoredBytes) -> list[SharedBytes]:
    """Group the segments of a slot by the set of owners that name the segments.

    The groups are disjoint, so their bytes and the bytes of the own manifests add up to the distinct bytes of the slot.

    Args:
        owners: all complete, existing owners of the slot, in the order of arrival.
        stored_bytes: the stored bytes of the segments.
    """
    if not owners:
        return []
    ids = np.unique(np.concatenate([named for _, named, _ in owners]))
    groups: list[tuple[str, ...]] = [()]
    group_of = np.zeros(len(ids), dtype=np.int64)
    for uid, named, _ in owners:
        places = np.searchsorted(ids, named)
        former, members = np.unique(group_of[places], return_inverse=True)
        group_of[places] = len(groups) + members
        groups += [(*groups[group], uid) for group in former.tolist()]
    sums = np.zeros(len(groups), dtype=np.int64)
    lengths = stored_bytes(ids) if callable(stored_bytes) else stored_bytes[ids]
    np.add.at(sums, group_of, lengths.astype(np.int64))
    return [SharedBytes(group, int(count)) for group, count in zip(groups, sums, strict=True) if count]
