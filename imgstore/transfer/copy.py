"""A replica goes across: the segments that a slot lacks, then, by `publish`, the manifest.

Every body passes through us and is checked against its name on the way in, so a damaged source is never copied.
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
"""S3's page: a listing of n objects costs n / 1,000 requests, a look at one object costs one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOrder:
    """What is to be brought where."""

    sources: Sequence[SlotAccess]
    """Complete slots, the preferred first; the others stand in for a segment that it can't serve."""
    target: SlotAccess
    segments: Mapping[Digest, int]
    """Name and stored bytes of every segment of the manifest."""
    unrecorded: frozenset[Digest]
    """Those that the catalog does not know in the target."""
    marked: frozenset[Digest] = frozenset()
    """Those that were about to be collected: held to be absent whatever the store shows."""
    target_objects: int
    """About how many segments the target slot holds, to choose the cheaper way of looking."""
    is_degraded: bool = False
    """The replica is degraded: what the target holds of it is read, since a damaged segment has the right length."""
    check_cancelled: CheckCancelled = never_cancelled
    on_moved: Callable[[int], None] = lambda _bytes: None
    """Told the stored bytes of each segment that is dealt with, of those that `plan_segments` names."""
    damages: list[Damage] = field(default_factory=list)
    """Filled with what a source should have served and could not."""
    on_served: Callable[[SlotAccess, Digest, bool], None] = ignore_served
    """As `SegmentReader.on_served`."""


def plan_segments(order: CopyOrder, *, workers: int = 4) -> tuple[dict[Digest, int], frozenset[Digest]]:
    """What is to be sent, and which of that the catalog wrongly held to be there (rules.md, rule 4).

    A segment counts as there when the store shows it now, in the recorded length: by a listing of the slot or by a look
    at each, whichever needs fewer requests. What was condemned counts as absent, and is not missed. A segment whose
    existence is unknown is sent again, and is not missed either (invariant Z10). Of a target that is distrusted each is
    read, by so many threads at once.
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
    """Bring the absent segments; each is confirmed in the target when this returns.

    Args:
        order: the slots.
        absent: what `plan_segments` found, with its `missing`.
        missing: goes into the receipt.
        workers: threads; each holds one body of up to 4 MiB.

    Raises:
        StoreError: a segment can be had from no source, or the target could not take it.
    """
    checksums: dict[Digest, str | None] = {}
    reader = SegmentReader(order.sources, order.damages, order.on_served)

    def bring(name: Digest, stored_bytes: int) -> None:
        order.check_cancelled()
        body = reader.body(name)
        order.check_cancelled()
        checksums[name] = order.target.put_segment(name, body).checksum
        order.on_moved(stored_bytes)

    with BoundedPool(workers, workers * 2, "copy") as pool:
        for name, stored_bytes in absent.items():
            pool.submit(bring, name, stored_bytes)
    return CopyReceipt(sent_bytes=sum(absent.values()), sent=len(absent), checksums=checksums, missing=missing)
