"""Garbage collection decisions, compared with a simple model."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.garbage import DeletionMark, GcState
from imgstore.domain.storage.works import Work, WorkKind
from imgstore.policy.gc_plan import (
    GcClock,
    UnfinishedDelete,
    is_deletable,
    plan_slot,
    summarize_unfinished_delete,
    writer_sequences,
)
from imgstore.stores.interface import ObjectInfo

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hours: float) -> datetime:
    return NOON + hours * HOUR


def sequence(hours: float) -> int:
    """Return the catalog's sequence at a time, if no clock steps back."""
    return round((hours + 1_000) * 1_000)


def clock(*, now: float = 0, grace: float = 24, opened: float | None = None) -> GcClock:
    open_writers = [] if opened is None else [sequence(opened)]
    return GcClock(now=at(now), grace=grace * HOUR, delete_bound=timedelta(seconds=60), writer_sequences=open_writers)


def condemned(since: float, lease_until: float | None = None, name: bytes = b"x") -> DeletionMark:
    deleting = lease_until is not None
    return DeletionMark(
        slot_uid="s",
        name=name,
        stored_bytes=1,
        gc_state=GcState.DELETING if deleting else GcState.MARKED,
        since=at(since),
        since_sequence=sequence(since),
        token="t" if deleting else None,
        lease_expires_at=at(lease_until) if lease_until is not None else None,
    )


def work(kind: WorkKind, opened: float) -> Work:
    return Work(
        uid="w", kind=kind, slot_uid="s", owner_uid="o", plan={}, opened_at=at(opened), opened_sequence=sequence(opened)
    )


@pytest.mark.parametrize(
    ("since", "lease_until", "writing", "ripe"),
    [
        (-23.9, None, None, False),
        (-24, None, None, True),
        (-30, None, -29, True),  # the work saw the mark, and has unmarked the segments in use
        (-30, None, -30, False),
        (-30, None, -31, False),  # the work may have listed the segment before the mark
        (-30, 0.1, None, False),
        (-30, -0.001, None, False),  # the last request of the collector may still run
        (-30, -0.1, None, True),
        (-30, -0.1, -31, True),  # a delete was sent, so the segment may be absent already
    ],
)
def test_when_a_segment_is_deletable(
    *, since: float, lease_until: float | None, writing: float | None, ripe: bool
) -> None:
    assert is_deletable(condemned(since, lease_until), clock(opened=writing)) is ripe


def test_only_works_that_write_segments_count() -> None:
    every = [work(kind, hours) for hours, kind in enumerate(WorkKind)]
    writing = [each for each in every if each.kind in (WorkKind.INGEST, WorkKind.COPY)]
    assert writer_sequences(every) == [each.opened_sequence for each in writing]
    assert writer_sequences([work(WorkKind.EXPORT, 0), work(WorkKind.DISK, 0)]) == []


def test_sequence_decides_instead_of_the_clock() -> None:
    """The clock stepped back after the work was opened. The mark looks a day older than the work, but is younger."""
    marked = replace(condemned(-30), since_sequence=8)
    assert not is_deletable(marked, replace(clock(), writer_sequences=[7]))
    assert is_deletable(marked, replace(clock(), writer_sequences=[9]))


@pytest.mark.parametrize(
    ("mark", "opened", "ripe"), [(None, None, False), (5, None, False), (None, 5, True), (5, 6, True), (6, 5, False)]
)
def test_marks_and_works_without_a_sequence(*, mark: int | None, opened: int | None, ripe: bool) -> None:
    """A work without a sequence may have listed any object. A work with a sequence saw each mark without a sequence."""
    marked = replace(condemned(-30), since_sequence=mark)
    assert is_deletable(marked, replace(clock(), writer_sequences=[opened])) is ripe


NAMES = st.binary(min_size=1, max_size=1)


@given(
    listed=st.dictionaries(NAMES, st.integers(-40, 0)),
    named=st.frozensets(NAMES),
    sentences=st.dictionaries(NAMES, st.tuples(st.integers(-40, 0), st.none() | st.integers(-5, 5))),
    mark=st.none() | st.integers(-40, 0),
    opened=st.none() | st.integers(-40, 0),
    grace=st.sampled_from([0, 24]),
)
def test_named_segments_and_segments_of_open_works_stay(
    listed: dict[bytes, int],
    named: frozenset[bytes],
    sentences: dict[bytes, tuple[int, int | None]],
    mark: int | None,
    opened: int | None,
    grace: int,
) -> None:
    infos = {
        name: ObjectInfo(key=name.hex(), stored_bytes=5, last_modified=at(hours), checksum=None)
        for name, hours in listed.items()
    }
    rows = {name: condemned(since, lease, name) for name, (since, lease) in sentences.items()}
    now = clock(grace=grace, opened=opened)
    plan = plan_slot(infos, named, rows, marker_at=None if mark is None else at(mark), clock=now)
    assert plan.unreferenced.keys() == listed.keys() - named
    piles = [plan.deletable.keys(), plan.in_grace.keys(), plan.held.keys()]
    assert sum(map(len, piles)) == len(plan.unreferenced) == len(set().union(*piles))
    for name in plan.to_mark:
        assert name not in rows
        assert mark is None or listed[name] < mark
    for name in plan.deletable:
        if name in rows:
            assert is_deletable(rows[name], now)
        else:
            assert (grace, opened) == (0, None)
            assert name in plan.to_mark
    assert all(name in named or name not in listed for name in plan.to_unmark)
    assert not any(rows[name].gc_state is GcState.DELETING for name in plan.to_unmark)


def test_delete_of_another_collector_is_reported_with_the_takeover_time() -> None:
    dead, living = condemned(-30, -0.01, b"a"), condemned(-30, 1, b"b")
    over, marked = condemned(-30, -1, b"c"), condemned(-30, None, b"d")
    assert summarize_unfinished_delete([over, marked], clock()) is None
    bound = timedelta(seconds=60)
    assert summarize_unfinished_delete([dead, over, marked], clock()) == UnfinishedDelete(
        segments=1, stored_bytes=1, takeover_at=at(-0.01) + bound, wait=at(-0.01) + bound - NOON
    )
    assert summarize_unfinished_delete([dead, living, over], clock()) == UnfinishedDelete(
        segments=2, stored_bytes=2, takeover_at=at(1) + bound, wait=HOUR + bound
    )
    listed = plan_slot({}, (), {each.name: each for each in (living, over)}, marker_at=None, clock=clock())
    assert listed.unfinished == summarize_unfinished_delete([living], clock()), "also for segments outside the listing"
