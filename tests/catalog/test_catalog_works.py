"""Works survive crashes, leases expire by the database's clock, and tokens fence off outdated holders."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from catalog_values import POOLED_ENGINES, SUBSCRIPTION, World, disk, manifest, settle, slot, uid

from imgstore.catalog import Catalog, Transaction
from imgstore.domain.errors import Conflict, LeaseLost, NotFound, WorkHeld
from imgstore.domain.states import WorkState
from imgstore.domain.storage.works import Lease, Work, WorkKind

pytest_plugins = ["catalog_fixtures"]

_PLAN = {"bases": ["b"], "codec": {"name": "zstd", "level": 1}, "file_bytes": 1 << 40, "none": None}


def _opened(transaction: Transaction, pins: tuple[str, ...] = ()) -> tuple[World, Work]:
    world = settle(transaction)
    work = transaction.works.open(
        kind=WorkKind.INGEST, slot_uid=world.slot.uid, owner_uid=world.version.uid, plan=_PLAN, pins=pins
    )
    return world, work


def test_open_work_is_found(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world, work = _opened(transaction)
    with catalog.transaction() as transaction:
        its = (world.slot.uid, world.version.uid)
        assert transaction.works.get(work.uid) == work == transaction.works.find_open(WorkKind.INGEST, *its)
        assert work.plan == _PLAN
        assert work.token == 0
        assert transaction.works.find_open(WorkKind.COPY, *its) is None
        assert transaction.works.list_open() == transaction.works.list_open(world.slot.uid) == [work]
        assert transaction.works.list_open(slot(transaction, world.pool.uid, ordinal=1).uid) == []
        lease = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        transaction.works.complete(lease)
        assert transaction.works.find_open(WorkKind.INGEST, *its) is None
        closed = transaction.works.get(work.uid)
        assert (closed.state, closed.holder, closed.lease_expires_at) == (WorkState.COMPLETED, None, None)
        with pytest.raises(NotFound):
            transaction.works.get(uid())


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_second_open_work_of_a_kind_is_refused(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
    again = {"kind": work.kind, "slot_uid": work.slot_uid, "owner_uid": work.owner_uid, "plan": {}, "pins": []}
    with pytest.raises(Conflict, match="exists already"), catalog.transaction() as transaction:
        transaction.works.open(**again)  # type: ignore[arg-type]
    with catalog.transaction() as transaction:
        transaction.works.abandon(work.uid)
        assert transaction.works.open(**again).uid != work.uid  # type: ignore[arg-type]


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_lease_excludes_others_until_it_expires(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        before = transaction.now()
        first = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        kept = transaction.works.get(work.uid)
        assert kept.holder == "a"
        assert kept.token == first.token == 1
        assert kept.lease_expires_at is not None
        assert timedelta(seconds=60) <= kept.lease_expires_at - before < timedelta(seconds=70)
        with pytest.raises(WorkHeld, match="held by a until"):
            transaction.works.lease(work.uid, holder="b", lease_seconds=60)
        transaction.works.renew(first, lease_seconds=-1)
        second = transaction.works.lease(work.uid, holder="b", lease_seconds=60)
        assert second.token == 2
        with pytest.raises(WorkHeld, match="held by b"):
            transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        assert transaction.works.lease(work.uid, holder="a", lease_seconds=60, steal=True).token == 3


def test_the_same_holder_leases_again_and_fences_its_older_lease(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        older = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        newer = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        transaction.works.guard(newer)
        with pytest.raises(LeaseLost):
            transaction.works.guard(older)


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_holder_of_an_outdated_lease_cannot_write(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        slow = transaction.works.lease(work.uid, holder="a", lease_seconds=0)
        quick = transaction.works.lease(work.uid, holder="b", lease_seconds=60)
    writes: list[Callable[[Transaction], None]] = [
        lambda transaction: transaction.works.guard(slow),
        lambda transaction: transaction.works.renew(slow, lease_seconds=60),
        lambda transaction: transaction.works.update_plan(slow, {"stolen": True}, []),
        lambda transaction: transaction.works.complete(slow),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match="token 2, held by b") as caught, catalog.transaction() as transaction:
            write(transaction)
        assert caught.value.expected == "Open, token 1"
    with catalog.transaction() as transaction:
        transaction.works.release(slow)
        kept = transaction.works.get(work.uid)
        assert (kept.holder, kept.state, kept.plan) == ("b", WorkState.OPEN, _PLAN)
        transaction.works.complete(quick)
    # Invariant W17.
    with pytest.raises(LeaseLost, match="Completed"), catalog.transaction() as transaction:
        transaction.works.guard(quick)


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_expired_lease_is_renewed_unless_taken_over(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        lease = transaction.works.lease(work.uid, holder="a", lease_seconds=-5)
        transaction.works.renew(lease, lease_seconds=60)
        with pytest.raises(WorkHeld):
            transaction.works.lease(work.uid, holder="b", lease_seconds=60)


def test_a_released_work_is_open_and_free(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        transaction.works.release(transaction.works.lease(work.uid, holder="a", lease_seconds=60))
        assert transaction.works.get(work.uid).holder is None
        assert transaction.works.lease(work.uid, holder="b", lease_seconds=60).token == 2


def test_pins_follow_the_plan_and_end_with_the_work(catalog: Catalog) -> None:
    # Invariant W7.
    with catalog.transaction() as transaction:
        world = settle(transaction)
        manifests = [manifest(world.slot.uid) for _ in range(3)]
        for each in manifests:
            transaction.manifests.add(each)
        a, b, c = (each.uid for each in manifests)
        work = transaction.works.open(
            kind=WorkKind.COPY, slot_uid=world.slot.uid, owner_uid=uid(), plan={}, pins=[b, a, b]
        )
        assert transaction.works.get(work.uid).pins == work.pins == (b, a)
        lease = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        transaction.works.update_plan(lease, {"new": 1}, [c, b])
        kept = transaction.works.get(work.uid)
        assert (kept.plan, kept.pins) == ({"new": 1}, (c, b))
        assert [transaction.works.is_pinned(each) for each in (a, b, c)] == [False, True, True]
        transaction.works.complete(lease)
        assert not any(transaction.works.is_pinned(each) for each in (a, b, c))


def test_abandoning_fences_the_worker_and_may_be_repeated(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        lease = transaction.works.lease(work.uid, holder="a", lease_seconds=60)
        for _ in range(2):
            transaction.works.abandon(work.uid)
        assert transaction.works.get(work.uid).state is WorkState.ABANDONED
        with pytest.raises(LeaseLost, match="Abandoned"):
            transaction.works.guard(lease)
        with pytest.raises(Conflict, match="closed"):
            transaction.works.lease(work.uid, holder="b", lease_seconds=60)
        with pytest.raises(NotFound):
            transaction.works.abandon(uid())


def test_a_completed_work_is_not_abandoned(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)
        transaction.works.complete(transaction.works.lease(work.uid, holder="a", lease_seconds=60))
        with pytest.raises(Conflict, match="Completed"):
            transaction.works.abandon(work.uid)


@pytest.mark.parametrize("catalog", POOLED_ENGINES, indirect=True)
def test_only_one_of_many_threads_gets_the_lease(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        _, work = _opened(transaction)

    def attempt(holder: str) -> Lease | None:
        try:
            with catalog.transaction() as transaction:
                return transaction.works.lease(work.uid, holder=holder, lease_seconds=600)
        except WorkHeld:
            return None

    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(attempt, [f"process {number}" for number in range(8)]))
    assert [lease for lease in leases if lease] == [Lease(work_uid=work.uid, token=1)]


def test_sixteen_threads_place_evenly(catalog: Catalog) -> None:
    """Each number of the counter is given out once.

    The number of a transaction that is rolled back is given out again.
    """
    with catalog.transaction() as transaction:
        world = settle(transaction)
        slots = [slot(transaction, world.pool.uid, ordinal=ordinal) for ordinal in range(3)]

    def place(number: int) -> int | None:
        made = disk(slots[0], f"d{number}", source_version_uid=world.version.uid)
        with suppress(_Undone), catalog.transaction() as transaction:
            placed = transaction.placements.place(made, slots)
            if number % 5 == 0:
                raise _Undone
            return placed.replica
        return None

    with ThreadPoolExecutor(16) as threads:
        given = Counter(ordinal for ordinal in threads.map(place, range(400)) if ordinal is not None)
    assert sorted(given.values()) == [106, 107, 107]
    with catalog.transaction() as transaction:
        assert Counter(each.replica for each in transaction.disks.list(SUBSCRIPTION)) == given
        assert transaction.placements.advance_counter(world.version.uid, "westus2") == 320
        assert transaction.placements.advance_counter(world.version.uid, "eastus") == 0


class _Undone(Exception):
    pass
