"""Works outlive crashes, leases run out by the database's clock, and tokens fence off whoever was too slow."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from catalog_values import SUBSCRIPTION, World, disk, manifest, settle, slot, uid

from imgstore.catalog import Catalog, Facts
from imgstore.domain.errors import Conflict, LeaseLost, NotFound, WorkHeld
from imgstore.domain.states import WorkState
from imgstore.domain.storage.works import Lease, Work, WorkKind

pytest_plugins = ["catalog_fixtures"]

_PLAN = {"bases": ["b"], "codec": {"name": "zstd", "level": 1}, "file_bytes": 1 << 40, "none": None}


def _opened(facts: Facts, pins: tuple[str, ...] = ()) -> tuple[World, Work]:
    world = settle(facts)
    work = facts.works.open(
        kind=WorkKind.INGEST, slot_uid=world.slot.uid, owner_uid=world.version.uid, plan=_PLAN, pins=pins
    )
    return world, work


def test_a_work_is_found_again(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world, work = _opened(facts)
    with catalog.transaction() as facts:
        its = (world.slot.uid, world.version.uid)
        assert facts.works.get(work.uid) == work == facts.works.find_open(WorkKind.INGEST, *its)
        assert work.plan == _PLAN
        assert work.token == 0
        assert facts.works.find_open(WorkKind.COPY, *its) is None
        assert facts.works.list_open() == facts.works.list_open(world.slot.uid) == [work]
        assert facts.works.list_open(slot(facts, world.pool.uid, ordinal=1).uid) == []
        lease = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        facts.works.complete(lease)
        assert facts.works.find_open(WorkKind.INGEST, *its) is None
        closed = facts.works.get(work.uid)
        assert (closed.state, closed.holder, closed.lease_expires_at) == (WorkState.COMPLETED, None, None)
        with pytest.raises(NotFound):
            facts.works.get(uid())


def test_there_is_one_open_work_of_a_kind(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
    again = {"kind": work.kind, "slot_uid": work.slot_uid, "owner_uid": work.owner_uid, "plan": {}, "pins": []}
    with pytest.raises(Conflict, match="there already"), catalog.transaction() as facts:
        facts.works.open(**again)  # type: ignore[arg-type]
    with catalog.transaction() as facts:
        facts.works.abandon(work.uid)
        assert facts.works.open(**again).uid != work.uid  # type: ignore[arg-type]


def test_a_lease_keeps_others_out_until_it_runs_out(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        before = facts.now()
        first = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        kept = facts.works.get(work.uid)
        assert kept.holder == "a"
        assert kept.token == first.token == 1
        assert kept.lease_expires_at is not None
        assert timedelta(seconds=60) <= kept.lease_expires_at - before < timedelta(seconds=70)
        with pytest.raises(WorkHeld, match="held by a until"):
            facts.works.lease(work.uid, holder="b", lease_seconds=60)
        facts.works.renew(first, lease_seconds=-1)
        second = facts.works.lease(work.uid, holder="b", lease_seconds=60)
        assert second.token == 2
        with pytest.raises(WorkHeld, match="held by b"):
            facts.works.lease(work.uid, holder="a", lease_seconds=60)
        assert facts.works.lease(work.uid, holder="a", lease_seconds=60, steal=True).token == 3


def test_the_same_holder_leases_again_and_fences_its_older_lease(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        older = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        newer = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        facts.works.guard(newer)
        with pytest.raises(LeaseLost):
            facts.works.guard(older)


def test_whoever_was_too_slow_can_write_nothing(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        slow = facts.works.lease(work.uid, holder="a", lease_seconds=0)
        quick = facts.works.lease(work.uid, holder="b", lease_seconds=60)
    writes: list[Callable[[Facts], None]] = [
        lambda facts: facts.works.guard(slow),
        lambda facts: facts.works.renew(slow, lease_seconds=60),
        lambda facts: facts.works.update_plan(slow, {"stolen": True}, []),
        lambda facts: facts.works.complete(slow),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match="token 2, held by b") as caught, catalog.transaction() as facts:
            write(facts)
        assert caught.value.expected == "Open, token 1"
    with catalog.transaction() as facts:
        facts.works.release(slow)
        kept = facts.works.get(work.uid)
        assert (kept.holder, kept.state, kept.plan) == ("b", WorkState.OPEN, _PLAN)
        facts.works.complete(quick)
    with pytest.raises(LeaseLost, match="Completed"), catalog.transaction() as facts:
        facts.works.guard(quick)


def test_a_lease_that_ran_out_goes_on_if_nobody_took_over(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        lease = facts.works.lease(work.uid, holder="a", lease_seconds=-5)
        facts.works.renew(lease, lease_seconds=60)
        with pytest.raises(WorkHeld):
            facts.works.lease(work.uid, holder="b", lease_seconds=60)


def test_a_released_work_is_open_and_free(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        facts.works.release(facts.works.lease(work.uid, holder="a", lease_seconds=60))
        assert facts.works.get(work.uid).holder is None
        assert facts.works.lease(work.uid, holder="b", lease_seconds=60).token == 2


def test_pins_follow_the_plan_and_end_with_the_work(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        world = settle(facts)
        manifests = [manifest(world.slot.uid) for _ in range(3)]
        for each in manifests:
            facts.manifests.add(each)
        a, b, c = (each.uid for each in manifests)
        work = facts.works.open(kind=WorkKind.COPY, slot_uid=world.slot.uid, owner_uid=uid(), plan={}, pins=[b, a, b])
        assert facts.works.get(work.uid).pins == work.pins == (b, a)
        lease = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        facts.works.update_plan(lease, {"new": 1}, [c, b])
        kept = facts.works.get(work.uid)
        assert (kept.plan, kept.pins) == ({"new": 1}, (c, b))
        assert [facts.works.pinned(each) for each in (a, b, c)] == [False, True, True]
        facts.works.complete(lease)
        assert not any(facts.works.pinned(each) for each in (a, b, c))


def test_abandoning_fences_the_worker_and_may_be_repeated(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        lease = facts.works.lease(work.uid, holder="a", lease_seconds=60)
        for _ in range(2):
            facts.works.abandon(work.uid)
        assert facts.works.get(work.uid).state is WorkState.ABANDONED
        with pytest.raises(LeaseLost, match="Abandoned"):
            facts.works.guard(lease)
        with pytest.raises(Conflict, match="closed"):
            facts.works.lease(work.uid, holder="b", lease_seconds=60)
        with pytest.raises(NotFound):
            facts.works.abandon(uid())


def test_a_completed_work_is_not_abandoned(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)
        facts.works.complete(facts.works.lease(work.uid, holder="a", lease_seconds=60))
        with pytest.raises(Conflict, match="Completed"):
            facts.works.abandon(work.uid)


def test_of_many_at_once_one_gets_the_lease(catalog: Catalog) -> None:
    with catalog.transaction() as facts:
        _, work = _opened(facts)

    def attempt(holder: str) -> Lease | None:
        try:
            with catalog.transaction() as facts:
                return facts.works.lease(work.uid, holder=holder, lease_seconds=600)
        except WorkHeld:
            return None

    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(attempt, [f"process {number}" for number in range(8)]))
    assert [lease for lease in leases if lease] == [Lease(work_uid=work.uid, token=1)]


def test_sixteen_threads_place_within_one_of_each_other(catalog: Catalog) -> None:
    """Each turn is given once, and one that is rolled back is given again."""
    with catalog.transaction() as facts:
        world = settle(facts)
        slots = [slot(facts, world.pool.uid, ordinal=ordinal) for ordinal in range(3)]

    def place(number: int) -> int | None:
        made = disk(slots[0], f"d{number}", source_version_uid=world.version.uid)
        with suppress(_Undone), catalog.transaction() as facts:
            placed = facts.placements.place(made, slots)
            if number % 5 == 0:
                raise _Undone
            return placed.replica
        return None

    with ThreadPoolExecutor(16) as threads:
        given = Counter(ordinal for ordinal in threads.map(place, range(400)) if ordinal is not None)
    assert sorted(given.values()) == [106, 107, 107]
    with catalog.transaction() as facts:
        assert Counter(each.replica for each in facts.disks.list(SUBSCRIPTION)) == given
        assert facts.placements.next_turn(world.version.uid, "westus2") == 320
        assert facts.placements.next_turn(world.version.uid, "eastus") == 0


class _Undone(Exception):
    pass
