"""The segments of a copy that crossed no region for the replica, because the slot holds them (invariants M2 and M4).

A copy sends only segments that are absent from the slot. Segments of a removed replica may still be in the slot. But a copy
that was killed finds its own segments in the slot, too, and these segments crossed. So the plan of the work
records the held segments before the first byte, as one bit for each segment of the version in the order of ids. A later
run only removes segments: those that are absent by then, because this run sends these segments. Segments that another
version has paid for are added when the manifest of that version leaves the slot.
"""

import base64
import zlib
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments, unpack_ids
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.operations.installation import Installation
from imgstore.segments.fingerprint_index import Locations

NOT_RECORDED: Final = {"held": ""}
"""The entry of the plan of a copy that has sent nothing. A plan of an earlier release has no entry."""
_HELD: Final = "held"


def record_held(installation: Installation, lease: Lease, ids: Locations, *, is_absent: NDArray[np.bool_]) -> None:
    """Record the segments that the slot of a copy held before the copy.

    Call this after the slot was listed and before a segment is sent. A segment that another unfinished copy into the slot
    may have stored is not held: the first of both replicas to complete is charged.

    Args:
        installation: the installation.
        lease: the lease of the copy.
        ids: the ids of the segments of the version, sorted.
        is_absent: whether the run sends the segment, for each id.

    Raises:
        LeaseLost: another process has taken over the work.
    """
    with installation.catalog.transaction() as transaction:
        transaction.works.guard(lease)
        work = transaction.works.get(lease.work_uid)
        held = _held_before(transaction, work.slot_uid, work, ids) & ~is_absent
        recorded = _encode(held)
        if work.plan.get(_HELD) != recorded:
            transaction.works.update_plan(lease, {**work.plan, _HELD: recorded}, work.pins)


def read_held(transaction: Transaction, lease: Lease, ids: Locations) -> Locations:
    """Return the ids that the plan of a work records. None for a work that is no copy."""
    return ids[_decode(transaction.works.get(lease.work_uid), len(ids))]


def record_paid(transaction: Transaction, copies: Sequence[Work], removed: Sequence[ManifestRow]) -> None:
    """Record the segments of removed manifests as held in the plans of unfinished copies into the slot.

    The owner of a complete manifest has paid for these segments, or they never crossed. Without the record, a resumed
    copy that had stored the segments would pay for the segments again.

    Args:
        transaction: the open transaction.
        copies: the locked open copies into the slot.
        removed: the rows of manifests, before their removal. Rows of incomplete manifests do not count.
    """
    complete = [row for row in removed if transaction.manifests.is_complete(row.uid)]
    paid = named_segments(complete)
    for copy in copies if complete else ():
        if copy.plan.get(_HELD):
            ids = _named_segments_of(transaction, copy)
            recorded = _encode(_decode(copy, len(ids)) | np.isin(ids, paid))
            transaction.works.set_plan(copy.uid, {**copy.plan, _HELD: recorded})


def predict_held(
    transaction: Transaction, slot: Slot, version_uid: str, ids: Locations, listed: Collection[Digest]
) -> Locations:
    """Return the ids that a copy would record, for the prediction of a charge (invariant M16).

    Args:
        transaction: the open transaction.
        slot: the slot of the replica.
        version_uid: the version.
        ids: the ids of the segments of the version, sorted.
        listed: the names of the segments in the listing of the slot.
    """
    marked = {each.name for each in transaction.deletion_marks.list(slot.uid)}
    rows = transaction.segments.rows(slot.key.pool_uid, ids)
    is_held = np.fromiter((row.name in listed and row.name not in marked for row in rows), np.bool_, len(rows))
    work = transaction.works.find_open(WorkKind.COPY, slot.uid, version_uid)
    return ids[is_held & _held_before(transaction, slot.uid, work, ids)]


def _held_before(transaction: Transaction, slot_uid: str, work: Work | None, ids: Locations) -> NDArray[np.bool_]:
    """Return for each segment whether the slot may have held the segment before the work."""
    if work is not None and work.plan.get(_HELD) != NOT_RECORDED[_HELD]:
        return _decode(work, len(ids))
    held = np.ones(len(ids), dtype=np.bool_)
    for other in transaction.works.list_open(slot_uid):
        if other.kind is WorkKind.COPY and (work is None or other.uid != work.uid):
            held &= ~np.isin(ids, _find_stored(transaction, other))
    return held


def _find_stored(transaction: Transaction, copy: Work) -> Locations:
    """Return the ids of the segments that an unfinished copy may have stored."""
    if copy.plan.get(_HELD) == NOT_RECORDED[_HELD]:
        return unpack_ids(b"")
    ids = _named_segments_of(transaction, copy)
    return ids[~_decode(copy, len(ids))]


def _named_segments_of(transaction: Transaction, copy: Work) -> Locations:
    """Return the ids of the segments of the version that a copy makes. An open copy pins the manifests of its source."""
    return named_segments(map(transaction.manifests.by_uid, copy.pins))


def _encode(held: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(held).tobytes())).decode("ascii")


def _decode(work: Work, count: int) -> NDArray[np.bool_]:
    """Return the recorded bits. Nothing is held in the plan of an earlier release, which charged all segments."""
    recorded = work.plan.get(_HELD)
    if not recorded:
        return np.zeros(count, dtype=np.bool_)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(recorded)), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(np.bool_)
