"""Read the owners of the stored bytes of a slot, and the sizes of the objects (invariant M10).

The first owner of an object pays. The owners are in the order of arrival, so the payer of an object changes only if the
payer is deleted. The manifest of a deleted version may stay in the slot for disks, and is an object that disks share.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.resources import ManifestRow, SegmentRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.ledger.storage.storage_intervals import Owner, find_payers
from imgstore.segments.reference import Reference, encode_reference

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOwners:
    """The owners of the objects of a slot."""

    owners: Sequence[Owner]
    """The owners of complete manifests, in the order of arrival. The ids are indexes of `stored_bytes`."""
    segment_ids: NDArray[np.uint32]
    """The id in the pool of each segment. The segments have the first indexes, and the manifests follow."""
    stored_bytes: NDArray[np.int64]
    """The stored bytes of segments and manifests, which owners may share. A reference belongs to its owner alone."""


def read_owners(transaction: Transaction, slot: Slot) -> SlotOwners:
    """Return the owners of a slot in the order of arrival, with the sizes of the objects."""
    arrivals = transaction.ledger.arrivals(slot.uid)
    owned = defaultdict[str, list[ManifestRow]](list)
    for row in transaction.manifests.in_slot(slot.uid):
        owned[row.owner_uid].append(row)
    ids = named_segments(row for rows in owned.values() for row in rows)
    bodies = sum_bodies(row for rows in owned.values() for row in rows)
    places = {key: len(ids) + number for number, key in enumerate(bodies)}
    sizes = [row.stored_bytes for row in transaction.segments.rows(slot.key.pool_uid, ids)]
    return SlotOwners(
        owners=[
            (
                uid,
                np.concatenate(
                    [
                        np.searchsorted(ids, named_segments(rows)).astype(np.uint32),
                        np.array(sorted({places[row.body_key] for row in rows}), dtype=np.uint32),
                    ]
                ),
                sum(map(reference_bytes, rows)),
            )
            for uid, rows in sorted(owned.items(), key=lambda each: (arrivals.get(each[0], _LAST), each[0]))
        ],
        segment_ids=ids,
        stored_bytes=np.array([*sizes, *bodies.values()], dtype=np.int64),
    )


def read_paid_segments(transaction: Transaction, slot: Slot, owner_uid: str) -> list[SegmentRow]:
    """Return the segments of a slot that an owner pays for, because no earlier owner names the segments."""
    present = read_owners(transaction, slot)
    place = next((place for place, (uid, _, _) in enumerate(present.owners) if uid == owner_uid), None)
    if place is None:
        return []
    indexes, payers = find_payers(present.owners)
    paid = indexes[payers == place]
    return transaction.segments.rows(slot.key.pool_uid, present.segment_ids[paid[paid < len(present.segment_ids)]])


def sum_bodies(rows: Iterable[ManifestRow]) -> dict[str, int]:
    """Return the stored bytes of the manifests that rows name, by key. 0 if another row accounts for a manifest."""
    bodies: dict[str, int] = {}
    for row in rows:
        bodies[row.body_key] = max(bodies.get(row.body_key, 0), body_bytes(row))
    return bodies


def body_bytes(row: ManifestRow) -> int:
    """Return the stored bytes of the manifest that a row accounts for. 0 if another row accounts for the manifest."""
    return row.object_bytes - reference_bytes(row)


def reference_bytes(row: ManifestRow) -> int:
    """Return the stored bytes of the reference of a row. 0 for a row with its own manifest."""
    if row.body_key == object_keys.manifest_key(row.owner_uid, row.disk):
        return 0
    return len(encode_reference(Reference(digest=row.digest, body_key=row.body_key)))
