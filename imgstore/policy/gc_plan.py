"""Decide which objects of a slot garbage collection may delete (invariants G1 to G8).

Two clocks occur here, and times of different clocks are never compared. Objects and the start markers of works have
times of the store's clock. Grace periods and leases have times of the database's clock. The catalog's sequence orders
works and deletion marks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.garbage import DeletionMark, GcState
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.policy.old_versions import VersionSweep
from imgstore.stores.interface import ObjectInfo

_NEXT_SEQUENCE: Final = 2**63 - 1
"""The sequence of a mark that is not written yet. The number exceeds the sequence of each open work."""
_WRITES_NO_SEGMENTS = frozenset({WorkKind.DISK, WorkKind.EXPORT, WorkKind.REMOVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class GcClock:
    """The current time of the database's clock, with the periods of garbage collection."""

    now: datetime
    grace: timedelta
    """How long a segment stays marked for deletion before the delete."""
    delete_bound: timedelta
    """The longest time that a delete request may run."""
    writer_sequences: Sequence[int | None]
    """The sequence at the opening of each open work that writes segments into the slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedDelete:
    """Segments in deletion without a reported result. The collector is still running, or the collector stopped."""

    segments: int
    stored_bytes: int
    takeover_at: datetime
    """When another collector may take over the last segment, by the database's clock. Until then no writer may use the
    segments.
    """
    wait: timedelta
    """The time from the survey to `takeover_at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """The decisions about the segments of one slot. Mappings give the stored bytes of each segment."""

    unreferenced: Mapping[Digest, int]
    """Segments that no manifest names: the sum of `deletable`, `in_grace` and `held`."""
    deletable: Mapping[Digest, int]
    """Segments that may be deleted now: marked for longer than the grace period, and before each open work began."""
    in_grace: Mapping[Digest, int]
    """Segments in the grace period."""
    held: Mapping[Digest, int]
    """Segments that an open work may have written or may rely on, or that another collector deletes now."""
    to_mark: Mapping[Digest, int]
    """Unreferenced segments without a deletion mark that no open work has written."""
    to_unmark: frozenset[Digest]
    """Marked segments that a manifest names again, or that are no longer in the store."""
    unfinished: UnfinishedDelete | None = None
    """Deletes of another collector that this collection cannot take over yet."""


def writer_sequences(works: Collection[Work]) -> list[int | None]:
    """Return the sequence at the opening of each work that writes segments."""
    return [work.opened_sequence for work in works if work.kind not in _WRITES_NO_SEGMENTS]


def unleased_since(work: Work) -> datetime:
    """Return the time since which a work has no lease. The time is in the future while a lease is valid."""
    return work.lease_expires_at or work.opened_at


def is_abandonable(work: Work, *, now: datetime, patience: timedelta) -> bool:
    """Return whether a work had no lease for the time `patience`."""
    since = unleased_since(work)
    return since <= now and now - since >= patience


def takeover_at(mark: DeletionMark, delete_bound: timedelta) -> datetime | None:
    """Return when the delete request of the current collector must have ended (invariant G7).

    Returns:
        The time, or None if no delete was started.
    """
    return None if mark.lease_expires_at is None else mark.lease_expires_at + delete_bound


def summarize_unfinished_delete(marks: Collection[DeletionMark], clock: GcClock) -> UnfinishedDelete | None:
    """Summarise the segments in deletion that cannot be taken over yet, or return None."""
    waiting = {
        each.name: (each.stored_bytes, at)
        for each in marks
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


def is_deletable(mark: DeletionMark, clock: GcClock) -> bool:
    """Return whether a collector may delete a marked segment.

    A work that was open when the segment was marked may have listed the segment before, and may rely on the listing.
    Such a work keeps the segment until the work closes. A work that opens later sees the mark. A segment in deletion is
    taken over when no request of the other collector can still run.
    """
    if mark.gc_state is GcState.DELETING:
        return is_delete_over(mark, clock.now, clock.delete_bound)
    if any(not _is_marked_before(mark, opened) for opened in clock.writer_sequences):
        return False
    return mark.since + clock.grace <= clock.now


def _is_marked_before(mark: DeletionMark, opened: int | None) -> bool:
    """Return whether a work with the sequence `opened` opened after the mark was written.

    Sequence numbers decide, because a clock may step back (invariant G3). Works and marks of older imgstore versions
    have no sequence. A work without a sequence is never known to be later. A work with a sequence is later than each
    mark without a sequence.
    """
    if opened is None:
        return False
    return mark.since_sequence is None or mark.since_sequence < opened


def is_delete_over(mark: DeletionMark, now: datetime, delete_bound: timedelta) -> bool:
    """Return whether no delete request for the segment can still reach the store (invariant G7).

    Args:
        mark: The mark of a segment in deletion.
        now: The time of the database's clock.
        delete_bound: The longest time that a delete request may run.
    """
    free_at = takeover_at(mark, delete_bound)
    assert free_at is not None, "a batch has a lease"
    return free_at < now


def plan_slot(
    listed: Mapping[Digest, ObjectInfo],
    named: Collection[Digest],
    marks: Mapping[Digest, DeletionMark],
    *,
    marker_at: datetime | None,
    clock: GcClock,
) -> SlotPlan:
    """Classify the segments of a slot.

    Args:
        listed: The segments in the listing of the store, by name.
        named: The segments that any manifest of the slot names. Incomplete and unknown manifests count too.
        marks: The deletion marks of the slot.
        marker_at: The store's time of the start marker of the oldest open work. That work may have written objects that
            are not older.
        clock: The current time and the periods.
    """
    unreferenced = {name: info for name, info in listed.items() if name not in named}
    deletable, in_grace, held, new = (dict[Digest, int]() for _ in range(4))
    for name, info in unreferenced.items():
        mark = marks.get(name)
        if mark is None and marker_at is not None and info.last_modified >= marker_at:
            held[name] = info.stored_bytes
            continue
        if mark is None:
            new[name] = info.stored_bytes
            mark = DeletionMark(
                slot_uid="",
                name=name,
                stored_bytes=info.stored_bytes,
                since=clock.now,
                since_sequence=_NEXT_SEQUENCE,
            )
        waits = mark.gc_state is GcState.MARKED and mark.since + clock.grace > clock.now
        pile = deletable if is_deletable(mark, clock) else in_grace if waits else held
        pile[name] = info.stored_bytes
    return SlotPlan(
        unreferenced={name: info.stored_bytes for name, info in unreferenced.items()},
        deletable=deletable,
        in_grace=in_grace,
        held=held,
        to_mark=new,
        to_unmark=frozenset(
            name
            for name, each in marks.items()
            if each.gc_state is GcState.MARKED and (name in named or name not in listed)
        ),
        unfinished=summarize_unfinished_delete(marks.values(), clock),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSurvey:
    """The state of one slot as garbage collection sees it."""

    slot: Slot
    segments: Mapping[Digest, ObjectInfo]
    """The segments in the listing."""
    others: int
    """The number of other objects in the listing."""
    other_bytes: int
    plan: SlotPlan
    unknown_manifests: tuple[str, ...]
    """Manifests in the slot without a row in the catalog. The segments of such manifests are live (invariant G12)."""
    unknown_manifest_bytes: Mapping[str, int]
    """The stored bytes of the unknown manifests, by key."""
    unaccounted_manifests: Mapping[str, int]
    """The stored bytes of manifests that only references name and no row accounts for, by key. A deletion by code of
    an earlier release left such manifests on no bill."""
    protected: frozenset[Digest]
    """Segments that only unknown manifests name."""
    stale: Mapping[str, int]
    """The stored bytes of unneeded fingerprints and boot packs, start markers of closed works and old revisions, by key below the slot."""
    owners_with_revisions: frozenset[str]
    """The uids of versions and stored disks with a revision in the slot."""
    oldest_work: Work | None
    """The open work that was opened first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """The plan and the deletions of one slot."""

    slot: Slot
    gallery: str | None
    """The gallery of the pool. None for a pool of a deleted gallery or of a subscription."""
    subscription: str | None = None
    """The subscription that owns the pool. None for the pool of a gallery."""
    survey: SlotSurvey | None = None
    """None if the slot could not be read."""
    collected: Mapping[str, int] = field(default_factory=dict)
    """The stored bytes of the deleted objects, by key below the slot."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """The collected objects that a zone keeps as old versions. Their bytes are not free."""
    problem: str | None = None
    """Why the slot, or the rest of the slot, was skipped."""

    @property
    def freed(self) -> Mapping[str, int]:
        """The collected objects whose bytes are free."""
        return {key: size for key, size in self.collected.items() if key not in self.kept}


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """The plan or the result of a garbage collection."""

    grace: timedelta
    slots: Sequence[SlotReport]
    old_versions: Sequence[VersionSweep] = ()
    """The old versions in the zones with versioning."""
    abandoned: Sequence[Work] = ()
    """Open works without a lease for longer than `work_abandon_days`."""
    removed_segment_rows: int = 0
    """Removed catalog rows of segments that no store contains and no manifest names."""
    removed_pools: int = 0
    """Removed pools of deleted galleries without any content."""
    resolved_notes: int = 0
    """Removed repair notes about objects that no zone contains."""
