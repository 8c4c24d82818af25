"""Tests of three zones of which one takes a request and does not answer."""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import pytest

from imgstore.domain.errors import ObjectNotFound, StoreUnreachable
from imgstore.domain.storage.digests import digest_of
from imgstore.stores import MemoryStore, MissedWrite, RepairNote, ZoneRedundantStore
from imgstore.stores.interface import Accept, Body, ObjectInfo
from imgstore.stores.wrappers.hedging import Grace, ask_briefly, note_progress

KEY, OTHER = "segments/ab/abcd", "segments/cd/cdef"
BODY = b"the body"
GRACE = Grace(seconds_min=0.5, known_late_seconds_min=0.5, factor=0.0)
"""Long enough for a store in memory on a busy machine."""
SECONDS_MAX = 30.0
"""For what happens in another thread. A test that waits so long has failed."""


class Freezable(MemoryStore):
    """A store that can be frozen. A frozen store carries out its requests, and answers after the end of the freeze."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.thawed = threading.Event()
        self.thawed.set()
        self.requests: list[str] = []

    def _wait(self, request: str) -> None:
        self.requests.append(request)
        assert self.thawed.wait(SECONDS_MAX)

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        self._wait("get")
        return super().get(key, accept)

    def head(self, key: str) -> ObjectInfo:
        self._wait("head")
        return super().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._wait("list")
        yield from super().list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        self._wait("put")
        return super().put(key, body, only_if_absent=only_if_absent)

    def delete(self, keys: Iterable[str]) -> bool:
        self._wait("delete")
        return super().delete(keys)


@dataclass(kw_only=True)
class Region:
    """Three freezable stores."""

    zones: dict[str, Freezable] = field(default_factory=lambda: {zone: Freezable(zone) for zone in "123"})
    late: list[str] = field(default_factory=list)
    avoided: set[str] = field(default_factory=set)
    seconds: float = 0.0
    """How far the clock was moved."""

    def open(self, grace: Grace = GRACE) -> ZoneRedundantStore:
        return ZoneRedundantStore(
            self.zones,
            monotonic=lambda: time.monotonic() + self.seconds,
            avoided=lambda zone: zone in self.avoided,
            late=lambda zone, _age: self.late.append(zone),
            grace=grace,
        )

    def holders(self, key: str) -> str:
        return "".join(zone for zone, store in self.zones.items() if key in store._objects)


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region()
    yield region
    for store in region.zones.values():
        store.thawed.set()


def notes(region: Region) -> dict[str, set[str]]:
    return {zone: {key for key in store._objects if key.startswith("repairs/")} for zone, store in region.zones.items()}


def wait_until_held(region: Region, zone: str, key: str) -> None:
    for _ in range(int(SECONDS_MAX / 0.01)):
        if zone in region.holders(key):
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{key} never came to zone {zone}")


@pytest.mark.parametrize("frozen", "123")
def test_a_put_does_not_wait_for_a_frozen_zone(region: Region, frozen: str) -> None:
    store, took = region.open(), "123".replace(frozen, "")
    store.put(OTHER, BODY)
    region.zones[frozen].thawed.clear()
    store.put(KEY, BODY)
    assert region.holders(KEY) == took
    note = f"repairs/{frozen}/{digest_of(KEY.encode()).hex()}"
    assert notes(region) == {zone: {note} if zone in took else set() for zone in "123"}, "before the acknowledgement"
    assert region.late == [frozen], "it counts for the zone's circuit"
    assert store.get(KEY) == BODY
    sent = list(region.zones[frozen].requests)
    store.put(f"{KEY}-2", BODY)
    # Invariant Z12.
    assert region.zones[frozen].requests == sent, "it is left alone while it owes an answer"


def test_a_put_that_arrives_late_is_harmless(region: Region) -> None:
    store = region.open()
    store.put(OTHER, BODY)
    region.zones["3"].thawed.clear()
    store.put(KEY, BODY)
    region.zones["3"].thawed.set()
    wait_until_held(region, "3", KEY)
    assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.PUT)], "the note stays"
    for each in (store, region.open()):
        assert each.get(KEY) == BODY
        assert each.head(KEY).stored_bytes == len(BODY)
        copies = next(
            copies for _ in iter(int, 1) if not (copies := each.read_copies(KEY)).silent
        )  # its rest has ended
        assert (set(copies.right), copies.silent) == ({"1", "2", "3"}, ())
    store.delete_notes(KEY)
    assert store.list_pending_repairs() == []


@pytest.mark.parametrize("avoided", [False, True], ids=["at first", "known to be late"])
def test_a_frozen_zone_costs_a_scrub_one_request(region: Region, avoided: bool) -> None:
    """The objects of the other zones are read without a wait for each object."""
    store = region.open()
    keys = [f"segments/ab/{number:04}" for number in range(40)]
    for key in keys:
        store.put(key, BODY)
    region.zones["2"].thawed.clear()
    region.zones["2"].requests.clear()
    region.avoided = {"2"} if avoided else set()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(store.read_copies, keys))
    assert all((each.right, each.silent) == (("1", "3"), ("2",)) for each in found)
    assert len(region.zones["2"].requests) <= 4, "one for each thread, until the first is given up"
    region.zones["2"].thawed.set()
    region.avoided.clear()
    region.seconds += 31
    assert store.read_copies(KEY).absent == ("1", "2", "3"), "it is asked again after its rest"


def test_notes_of_a_frozen_zone_cost_no_request_each(region: Region) -> None:
    store = region.open()
    store.put(OTHER, BODY)
    region.zones["3"].thawed.clear()
    for number in range(10):
        store.put(f"segments/ab/{number:04}", BODY)
    sent = len(region.zones["3"].requests)
    assert store.delete_stale_notes() == 0
    assert len(region.zones["3"].requests) <= sent + 1, "the listing of the notes"
    region.zones["3"].thawed.set()


def test_a_put_that_arrives_after_a_delete_shows_nothing(region: Region) -> None:
    store = region.open()
    store.put(OTHER, BODY)
    region.zones["3"].thawed.clear()
    store.put(KEY, BODY)
    store.delete([KEY])
    region.zones["3"].thawed.set()
    wait_until_held(region, "3", KEY)
    for each in (store, region.open()):
        with pytest.raises(ObjectNotFound):
            each.head(KEY)
        assert [info.key for info in each.list("segments/")] == [OTHER]
    assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.DELETE)], (
        "a repair removes it"
    )


def test_a_zone_that_answered_late_is_written_again(region: Region) -> None:
    store = region.open()
    store.put(OTHER, BODY)
    region.zones["3"].thawed.clear()
    store.put(KEY, BODY)
    region.zones["3"].thawed.set()
    wait_until_held(region, "3", KEY)
    for number in range(int(SECONDS_MAX / 0.01)):  # Its thread ends a moment after the object came.
        store.put(f"{KEY}-{number}", BODY)
        if "3" in region.holders(f"{KEY}-{number}"):
            return
        threading.Event().wait(0.01)
    raise AssertionError("it was never written again")


def test_a_zone_that_is_known_to_be_late_gets_less_time(region: Region) -> None:
    """Another process saw the zone late. The zone still gets the write, and counts if it answers fast enough."""
    region.avoided.add("3")
    patient = Grace(seconds_min=1e6, known_late_seconds_min=GRACE.seconds_min, factor=0.0)
    store = region.open(patient)
    store.put(OTHER, BODY)
    assert region.holders(OTHER) == "123"
    region.zones["3"].thawed.clear()
    store.put(KEY, BODY)
    assert region.holders(KEY) == "12"


def test_one_zone_that_answers_is_not_enough_to_give_others_up(region: Region) -> None:
    store = region.open()
    store.put(OTHER, BODY)
    for zone in "23":
        region.zones[zone].thawed.clear()
    put = threading.Thread(target=store.put, args=(KEY, BODY))
    put.start()
    wait_until_held(region, "1", KEY)
    put.join(GRACE.seconds_min * 2)
    assert put.is_alive(), "nothing is reported as stored that two zones have not taken"
    region.zones["2"].thawed.set()
    put.join(SECONDS_MAX)
    assert region.holders(KEY) == "12"
    assert region.late == ["3"]


def test_a_body_that_moves_is_not_given_up(region: Region) -> None:
    class Narrow(Freezable):
        def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
            for _ in range(12):
                threading.Event().wait(GRACE.seconds_min / 6)
                note_progress()
            return super().put(key, body, only_if_absent=only_if_absent)

    region.zones["3"] = Narrow("3")
    region.open().put(KEY, BODY)
    assert region.holders(KEY) == "123"
    assert region.late == []


def test_reads_do_not_wait_for_notes_of_a_frozen_zone(region: Region) -> None:
    """The first use of a region in a process reads the notes, and so does the count of missed writes."""
    region.open().put(OTHER, BODY)
    region.zones["3"].thawed.clear()
    store = region.open()
    store.put(KEY, BODY)
    assert region.holders(KEY) == "12"
    assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.PUT)]


def test_a_listing_does_not_wait_for_a_frozen_zone(region: Region) -> None:
    store = region.open()
    store.put(KEY, BODY)
    region.zones["3"].thawed.clear()
    assert [(info.key, info.certain) for info in store.list("segments/")] == [(KEY, True)]
    assert region.late == ["3"]


def test_a_listing_waits_for_a_frozen_zone_that_decides(region: Region) -> None:
    """One zone has the object, and one has not."""
    store = region.open()
    store.put(KEY, BODY)
    MemoryStore.delete(region.zones["2"], [KEY])
    region.zones["3"].thawed.clear()
    found = SimpleQueue[list[tuple[str, bool]]]()
    listing = threading.Thread(target=lambda: found.put([(info.key, info.certain) for info in store.list("segments/")]))
    listing.start()
    listing.join(GRACE.seconds_min * 2)
    assert listing.is_alive()
    region.zones["3"].thawed.set()
    assert found.get() == [(KEY, True)]


def test_a_delete_is_not_sent_to_a_frozen_zone(region: Region) -> None:
    """Invariant G6: a late delete would remove an object that was put again."""
    store = region.open()
    store.put(KEY, BODY)
    region.seconds += 60.0
    region.zones["3"].thawed.clear()
    assert store.delete([KEY]), "no request can arrive later"
    assert region.holders(KEY) == "3"
    assert "delete" not in region.zones["3"].requests
    assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.DELETE)]
    store.put(KEY, BODY)
    region.zones["3"].thawed.set()
    assert region.open().get(KEY) == BODY


def test_a_delete_that_was_sent_is_waited_for(region: Region) -> None:
    store = region.open()
    store.put(KEY, BODY)
    region.zones["3"].thawed.clear()
    delete = threading.Thread(target=store.delete, args=([KEY],))
    delete.start()
    while "delete" not in region.zones["3"].requests:
        threading.Event().wait(0.001)
    delete.join(GRACE.seconds_min * 2)
    assert delete.is_alive()
    for _ in range(int(SECONDS_MAX / 0.01)):
        if region.late:
            break
        threading.Event().wait(0.01)
    assert region.late == ["3"], "the circuit hears of the zone before the delete ends"
    region.zones["3"].thawed.set()
    delete.join(SECONDS_MAX)
    assert region.holders(KEY) == ""
    # Invariant Z13.
    assert store.list_pending_repairs() == []


def test_a_delete_without_an_answer_of_one_zone_succeeds_and_may_arrive_later(region: Region) -> None:
    class Lossy(Freezable):
        def delete(self, keys: Iterable[str]) -> bool:
            raise StoreUnreachable("no answer in time", found="nothing", expected="an answer", hint="none")

    region.zones["3"] = Lossy("3")
    store = region.open()
    store.put(KEY, BODY)
    assert not store.delete([KEY])
    assert region.holders(KEY) == "3"
    assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.DELETE)]


def test_an_unimportant_delete_is_given_up(region: Region) -> None:
    """The caller stops waiting after two zones have answered. The delete continues."""
    store = region.open()
    store.put(KEY, BODY)
    region.zones["3"].thawed.clear()
    assert ask_briefly(lambda: store.delete([KEY]), late_seconds=GRACE.seconds_min).late
    assert region.holders(KEY) == "3"


@pytest.mark.parametrize(
    ("last_seconds", "quorum_seconds", "known_late", "grace"),
    [
        (0.005, 0.005, False, 2.0),
        (0.005, 0.005, True, 0.1),
        (0.005, 1.5, True, 4.5),
        (5.0, 0.005, False, 15.0),
        (5.0, 0.005, True, 15.0),
    ],
)
def test_a_slower_zone_gets_more_time(
    last_seconds: float, quorum_seconds: float, known_late: bool, grace: float
) -> None:
    given = Grace().seconds(last_seconds=last_seconds, quorum_seconds=quorum_seconds, known_late=known_late)
    assert given == pytest.approx(grace)
