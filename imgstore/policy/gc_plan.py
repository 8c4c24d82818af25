"""What of a slot may go, now or later: pure (rules.md, rules 1 and 7).

Two clocks meet here and are never compared with each other: the store's, for objects and the start markers of works, and
the database's, for the grace. The order of works and marks for deletion is that of the catalog's sequence.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.stores.interface import ObjectInfo

_NEXT_SEQUENCE: Final = 2**63 - 1
"""Of a mark that is still to be written: higher than that of every work that is open now."""
_WRITES_NO_SEGMENTS = frozenset({WorkKind.DISK, WorkKind.EXPORT, WorkKind.REMOVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class GcClock:
    """When, by the database's clock, and how patient to be."""

    now: datetime
    grace: timedelta
    """How long a condemned segment is kept."""
    delete_bound: timedelta
    """How long a request of deletes may run, at most."""
    writer_sequences: Sequence[int | None]
    """Of each open work that writes segments into the slot: the catalog's sequence when it was opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedDelete:
    """Segments whose delete a collector began and has not reported as done: it runs, or it ended in between."""

    segments: int
    stored_bytes: int
    takeover_at: datetime
    """When another collector may take over the last of them; the database's clock. Until then no writer gets them."""
    wait: timedelta
    """From the survey until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """What becomes of the segments of one slot."""

    unreferenced: Mapping[Digest, int]
    """What no manifest names, with stored bytes: the sum of the three below."""
    deletable: Mapping[Digest, int]
    """What would go now: condemned for longer than the grace, before any work that is still open."""
    in_grace: Mapping[Digest, int]
    """What waits for the grace to pass."""
    held: Mapping[Digest, int]
    """What an open work may have put or may rely on, or another collector deletes at the moment."""
    to_mark: Mapping[Digest, int]
    """Of the unreferenced, those that nobody has condemned yet and no open work has put."""
    to_unmark: frozenset[Digest]
    """DeletionMark, and named again or gone by themselves."""
    unfinished: UnfinishedDelete | None = None
    """What this collection can't take over yet."""


def writer_sequences(works: Collection[Work]) -> list[int | None]:
    """Return when each of the works that write segments was opened, as the catalog's sequence."""
    return [work.opened_sequence for work in works if work.kind not in _WRITES_NO_SEGMENTS]


def unleased_since(work: Work) -> datetime:
    """Since when nobody has a lease on the work; in the future while someone has."""
    return work.lease_expires_at or work.opened_at


def is_abandonable(work: Work, *, now: datetime, patience: timedelta) -> bool:
    """Whether nobody has had a lease on the work for so long; never while somebody has."""
    since = unleased_since(work)
    return since <= now and now - since >= patience


def takeover_at(condemned: DeletionMark, delete_bound: timedelta) -> datetime | None:
    """Return when no request of the collector that deletes the segment can run any more (invariant G7).

    None where no delete was begun.
    """
    return None if condemned.lease_expires_at is None else condemned.lease_expires_at + delete_bound


def unfinished_delete(condemned: Collection[DeletionMark], clock: GcClock) -> UnfinishedDelete | None:
    """Sum up the segments in deletion that can't be taken over yet; None where there are none."""
    waiting = {
        each.name: (each.stored_bytes, at)
        for each in condemned
        if each.gc_state is GcState.DELETING
        and not is_deletable(each, clock)
        and (at := takeover_at(each, clock.delete_bound)) is not None
    }
    if not waiting:
        return None
    last = max(at for _, at in waiting.values())
    return UnfinishedDelete(
        segments=len(waiting),
        stored_bytes=sum(size for size, _ in waiting.values()),
        takeover_at=last,
        wait=last - clock.now,
    )


def is_deletable(condemned: DeletionMark, clock: GcClock) -> bool:
    """Whether a collector may take it up.

    A work that was open when the segment was condemned may have seen it in a listing before that, and count on it: so
    what was condemned later than the oldest open work was opened stays until that work is closed. A work that opens
    later finds the condemnation. One in deletion is taken over when no request of the other collector can run any more.
    """
    if condemned.gc_state is GcState.DELETING:
        return is_delete_over(condemned, clock.now, clock.delete_bound)
    if any(not _is_marked_before(condemned, opened) for opened in clock.writer_sequences):
        return False
    return condemned.since + clock.grace <= clock.now


def _is_marked_before(condemned: DeletionMark, opened: int | None) -> bool:
    """Whether a work that was opened at `opened` saw the mark of the segment.

    Numbers of the catalog decide, since a clock may step back (invariant G3). Works and marks of an imgstore without a
    sequence have none: such a work saw nothing for sure, and every numbered work came after such a mark.
    """
    if opened is None:
        return False
    return condemned.since_sequence is None or condemned.since_sequence < opened


def is_delete_over(condemned: DeletionMark, now: datetime, delete_bound: timedelta) -> bool:
    """Whether no delete of the segment can arrive at the store any more (invariant G7).

    Args:
        condemned: a segment in deletion.
        now: by the database's clock.
        delete_bound: the longest that a request of deletes may run.
    """
    free_at = takeover_at(condemned, delete_bound)
    assert free_at is not None, "a batch has a lease"
    return free_at < now


def plan_slot(
    listed: Mapping[Digest, ObjectInfo],
    named: Collection[Digest],
    condemned: Mapping[Digest, DeletionMark],
    *,
    mark_at: datetime | None,
    clock: GcClock,
) -> SlotPlan:
    """Sort what a slot lists.

    Args:
        listed: the segments, by name, as the store lists them.
        named: those that any manifest of the slot names, complete or not, known to the catalog or not.
        condemned: what is condemned there already.
        mark_at: the store's time of the mark of the oldest open work; what is not older may be that work's own.
        clock: when.
    """
    unreferenced = {name: info for name, info in listed.items() if name not in named}
    deletable, in_grace, held, new = (dict[Digest, int]() for _ in range(4))
    for name, info in unreferenced.items():
        sentence = condemned.get(name)
        if sentence is None and mark_at is not None and info.last_modified >= mark_at:
            held[name] = info.stored_bytes
            continue
        if sentence is None:
            new[name] = info.stored_bytes
            sentence = DeletionMark(
                slot_uid="",
                name=name,
                stored_bytes=info.stored_bytes,
                since=clock.now,
                since_sequence=_NEXT_SEQUENCE,
            )
        waits = sentence.gc_state is GcState.MARKED and sentence.since + clock.grace > clock.now
        pile = deletable if is_deletable(sentence, clock) else in_grace if waits else held
        pile[name] = info.stored_bytes
    return SlotPlan(
        unreferenced={name: info.stored_bytes for name, info in unreferenced.items()},
        deletable=deletable,
        in_grace=in_grace,
        held=held,
        to_mark=new,
        to_unmark=frozenset(
            name
            for name, each in condemned.items()
            if each.gc_state is GcState.MARKED and (name in named or name not in listed)
        ),
        unfinished=unfinished_delete(condemned.values(), clock),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSurvey:
    """One slot, as collection sees it."""

    slot: Slot
    segments: Mapping[Digest, ObjectInfo]
    """As listed."""
    others: int
    """How many other objects were listed."""
    other_bytes: int
    plan: SlotPlan
    unknown_manifests: tuple[str, ...]
    """Manifests below the slot that the catalog has no row for: live, whoever's they are."""
    unknown_manifest_bytes: Mapping[str, int]
    """Stored bytes of these, by key."""
    protected: frozenset[Digest]
    """Segments that only these name."""
    stale: Mapping[str, int]
    """Stored bytes, by key below the slot, of the fingerprints and marks of closed works that nothing needs."""
    oldest_work: Work | None
    """The open work that was opened first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """One slot: what is to go, and what went."""

    slot: Slot
    gallery: str | None
    """None where the pool has outlived its gallery, or is a subscription's own."""
    subscription: str | None = None
    """Whose own the pool is; None of a gallery's."""
    survey: SlotSurvey | None = None
    """None where the slot could not be looked at."""
    collected: Mapping[str, int] = field(default_factory=dict)
    """Stored bytes of what went, by key below the slot."""
    problem: str | None = None
    """Why the slot, or the rest of it, was left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What a collection is to do, or did."""

    grace: timedelta
    slots: Sequence[SlotReport]
    abandoned: Sequence[Work] = ()
    """Open works that nobody went on with for long."""
    removed_segment_rows: int = 0
    """Rows of segments that lie nowhere and that nothing names."""
    removed_pools: int = 0
    """Of galleries that were deleted, with nothing left of them."""
    resolved_notes: int = 0
    """Notes of zones about objects that no zone has."""
