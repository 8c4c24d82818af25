"""Shared stored bytes: the owners that name the same bytes, and the owner that pays after a deletion (invariant M10)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgstore.ledger.storage.storage_intervals import Owner, attribute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Another owner of bytes that some owners name."""

    owner_uid: str
    common_bytes: int
    """Bytes that this owner and the described owners name."""
    paid_bytes: int
    """The part of the common bytes that this owner pays now."""
    next_bytes: int
    """Bytes that the described owners pay now, and that this owner pays after their deletion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBytes:
    """The bytes of some owners in one slot: the bytes that the owners pay, and the bytes that other owners name, too."""

    named_bytes: int
    """All bytes that the owners name, with their own manifests."""
    paid_bytes: int
    """The part that the owners pay now."""
    freed_bytes: int
    """The bytes that nobody pays after a deletion of the owners, because no other owner names the bytes."""
    shares: tuple[Share, ...]
    """The other owners of the bytes, in the order of arrival."""


def describe_shared_bytes(
    owners: Sequence[Owner], stored_bytes: NDArray[np.int64], described: Collection[str]
) -> SharedBytes:
    """Describe the bytes of some owners of a slot, and the payers after the deletion of these owners.

    The freed bytes and the `next_bytes` of all shares add up to the paid bytes.

    Args:
        owners: all complete, existing owners of the slot, in the order of arrival.
        stored_bytes: the stored bytes of the objects, with the id as index.
        described: the uids of the described owners.
    """
    chosen = [each for each in owners if each[0] in described]
    others = [each for each in owners if each[0] not in described]
    before, after = attribute_bytes(owners, stored_bytes), attribute_bytes(others, stored_bytes)
    ids = np.unique(np.concatenate([named for _, named, _ in chosen])) if chosen else np.zeros(0, dtype=np.uint32)
    own_bytes = sum(manifest_bytes for _, _, manifest_bytes in chosen)
    paid_bytes = sum(before[uid] for uid, _, _ in chosen)
    # An owner without manifest bytes pays for the common bytes that no earlier owner names.
    common = [(uid, np.intersect1d(ids, named), 0) for uid, named, _ in owners]
    paid_of_common = attribute_bytes(common, stored_bytes)
    shares = tuple(
        Share(
            owner_uid=uid,
            common_bytes=int(stored_bytes[named].sum()),
            paid_bytes=paid_of_common[uid],
            next_bytes=after[uid] - before[uid],
        )
        for uid, named, _ in common
        if uid not in described and len(named)
    )
    return SharedBytes(
        named_bytes=int(stored_bytes[ids].sum()) + own_bytes,
        paid_bytes=paid_bytes,
        freed_bytes=paid_bytes - sum(each.next_bytes for each in shares),
        shares=shares,
    )
