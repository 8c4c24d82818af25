"""Copies a replica: the segments that are missing in a slot. Then `publish` writes the manifest.

Every body passes through this process and is compared with its name, so damaged sources are never copied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import ceil_div
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.receipts import CopyReceipt
from imgstore.transfer.scatter import Damage, SegmentReader, ignore_served
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess, never_cancelled

_LISTED_AT_ONCE = 1000
"""The page size of S3: listing n objects costs n / 1,000 requests, and a HEAD of each object costs n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOrder:
    """The slots and segments of a copy."""

    sources: Sequence[SlotAccess]
    """Complete slots, the preferred slot first. The others replace a slot that can't serve a segment."""
    target: SlotAccess
    segments: Mapping[Digest, int]
    """Name and stored bytes of every segment of the manifest."""
    unrecorded: frozenset[Digest]
    """The segments that the catalog does not know in the target."""
    marked: frozenset[Digest] = frozenset()
    """The segments that were marked for deletion: absent, whatever the store shows (invariant G8)."""
    target_objects: int
    """The approximate number of segments in the target slot, which decides between a listing and single HEAD
    requests."""
    is_degraded: bool = False
    """Whether the target replica is degraded. Then each segment in the target is read, because damage keeps the
    length."""
    check_cancelled: CheckCancelled = never_cancelled
    on_moved: Callable[[int], None] = lambda _bytes: None
    """Called with the stored bytes of each copied segment."""
    damages: list[Damage] = field(default_factory=list)
    """Receives each segment that a source should have served and could not."""
    on_served: Callable[[SlotAccess, Digest, bool], None] = ignore_served
    """Called for each served segment, as described at `SegmentReader.on_served`."""


def plan_segments(order: CopyOrder, *, workers: int = 4) -> tuple[dict[Digest, int], frozenset[Digest]]:
    """Find the segments to send, and the segments that the catalog wrongly records in the target (invariants W13, W14).

    A segment exists if the store shows the recorded length now. The proof is a listing of the slot or a HEAD of each
    segment, with the fewer requests. A segment that was marked for deletion counts as absent and is not reported as
    missing. A segment of unknown existence is sent again and is not reported either (invariant Z10). Every segment of a
    degraded target is read, by `workers` threads.

    Returns:
        Name and stored bytes of each segment to send, and the names of the missing segments.
    """
    if order.is_degraded:
        damaged = (
            order.target.find_damaged(order.segments, workers=workers, check_cancelled=order.check_cancelled)
            | order.marked
        )
        return {name: order.segments[name] for name in sorted(damaged)}, frozenset()
    few = len(order.segments) <= ceil_div(order.target_objects + 1, _LISTED_AT_ONCE)
    listing = order.target.look_up(order.segments) if few else order.target.list_segments()
    absent = {name: size for name, size in order.segments.items() if listing.present.get(name) != size}
    absent |= {name: order.segments[name] for name in order.marked}
    expected = absent.keys() - order.unrecorded - order.marked
    return absent, frozenset(expected - listing.uncertain)


def copy_segments(
    order: CopyOrder, absent: Mapping[Digest, int], missing: frozenset[Digest], *, workers: int = 4
) -> CopyReceipt:
    """Copy the absent segments. Each is confirmed in the target when this function returns.

    Args:
        order: the slots.
        absent: the segments to send, from `plan_segments`.
        missing: the missing segments from `plan_segments`, which become part of the receipt.
        workers: threads; each holds a body of up to 4 MiB.

    Raises:
        StoreError: no source serves a segment, or the target refused a segment.
    """
    checksums: dict[Digest, str | None] = {}
    reader = SegmentReader(order.sources, order.damages, order.on_served)

    def copy_segment(name: Digest, stored_bytes: int) -> None:
        order.check_cancelled()
        body = reader.body(name)
        order.check_cancelled()
        checksums[name] = order.target.put_segment(name, body).checksum
        order.on_moved(stored_bytes)

    with BoundedPool(workers, workers * 2, "copy") as pool:
        for name, stored_bytes in absent.items():
            pool.submit(copy_segment, name, stored_bytes)
    return CopyReceipt(sent_bytes=sum(absent.values()), sent=len(absent), checksums=checksums, missing=missing)
