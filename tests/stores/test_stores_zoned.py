"""Tests of three zones: results, notes and remaining objects after the loss of one or two zones."""

import json
from collections.abc import Iterator
from random import Random

import pytest

from imgstore.domain.errors import (
    Conflict,
    ExistenceUnknown,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreUnreachable,
)
from imgstore.domain.storage.digests import digest_of
from imgstore.stores import MemoryStore, MissedWrite, RepairNote, StoreProperties, ZoneRedundantStore
from tests.support.faulty_store import Fault, FaultyStore, Kind
from tests.support.manual_clock import ManualClock

KEY = "segments/ab/abcd"
BODY = b"the body"
NAME = digest_of(KEY.encode()).hex()


class Region:
    """Three faulty stores in memory, and a store over them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.memories = {zone: MemoryStore(f"memory {zone}", now=self.clock.now) for zone in "123"}
        self.zones = {zone: FaultyStore(memory) for zone, memory in self.memories.items()}
        self.reports: list[tuple[str, str, type]] = []
        self.opened: list[ZoneRedundantStore] = []
        self.store = self.open()

    def open(self) -> ZoneRedundantStore:
        """Open the store as another process would."""
        store = ZoneRedundantStore(self.zones, report=self._report, monotonic=self.clock.monotonic)
        self.opened.append(store)
        return store

    def _report(self, zone: str, key: str, error: Exception) -> None:
        self.reports.append((zone, key, type(error)))

    def holders(self, key: str) -> str:
        return "".join(zone for zone, memory in self.memories.items() if key in memory._objects)

    def notes(self) -> dict[str, dict[str, str]]:
        """Return the keys of the notes in each zone."""
        return {
            zone: {info.key: json.loads(memory.get(info.key))["kind"] for info in memory.list("repairs/")}
            for zone, memory in self.memories.items()
        }


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region()
    yield region
    for store in region.opened:
        store.close()


def test_all_three_are_written(region: Region) -> None:
    region.store.put(KEY, BODY)
    assert region.holders(KEY) == "123"
    assert region.notes() == {"1": {}, "2": {}, "3": {}}
    assert not region.store.list_pending_repairs()


@pytest.mark.parametrize("lost", "123")
def test_two_zones_are_enough_and_the_third_has_a_note(region: Region, lost: str) -> None:
    region.zones[lost].die()
    region.store.put(KEY, BODY)
    took = "123".replace(lost, "")
    assert region.holders(KEY) == took
    assert region.notes() == {zone: {f"repairs/{lost}/{NAME}": "put"} if zone in took else {} for zone in "123"}
    assert region.store.list_pending_repairs() == [RepairNote(zone=lost, key=KEY, missed=MissedWrite.PUT)]
    assert region.store.get(KEY) == BODY
    assert region.store.head(KEY).stored_bytes == len(BODY)
    # Invariant Z1.
    assert [info.key for info in region.store.list("")] == [KEY]


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b"[1]", b'{"key": "k", "kind": "x"}', b"[" * 100_000])
def test_a_damaged_note_hides_no_other(region: Region, body: bytes) -> None:
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    region.memories["1"].put(f"repairs/3/{NAME}", body)
    assert region.store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.PUT)]


def test_the_note_comes_before_the_acknowledgement(region: Region) -> None:
    """Both zones that took the write have the note. Otherwise the third zone would be trusted after the loss of one."""
    region.zones["3"].die()
    region.zones["1"].script = [Fault(method="put", key_part="repairs/")]
    with pytest.raises(StoreUnreachable):
        region.store.put(KEY, BODY)
    region.clock.advance(31)
    region.zones["1"].heal()
    region.store.put(KEY, BODY)
    # Invariant Z2.
    assert region.notes()["1"] == region.notes()["2"] == {f"repairs/3/{NAME}": "put"}


def test_a_zone_that_keeps_an_untrue_note_has_a_note_itself(region: Region) -> None:
    """The zone is distrusted about this key and about its notes on the key, so both others are trusted."""
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    region.zones["3"].heal()
    region.clock.advance(31)
    region.zones["1"].script = [Fault(method="delete", key_part="repairs/", error=lambda: StoreDenied("no"))]
    region.store.put(KEY, BODY)
    assert region.notes() == {
        "1": {f"repairs/3/{NAME}": "put"},
        "2": {f"repairs/1/{NAME}": "put"},
        "3": {f"repairs/1/{NAME}": "put"},
    }
    assert region.store.head(KEY)
    assert region.open().head(KEY)


def test_an_outdated_note_is_harmless(region: Region) -> None:
    """Zone 2 was down when its note about zone 3 became untrue, and missed the write with that effect."""
    region.zones["3"].die()
    region.store.delete([KEY])
    region.zones["2"].die()
    region.zones["3"].heal()
    region.clock.advance(31)
    region.store.put(KEY, BODY)
    region.zones["2"].heal()
    region.clock.advance(31)
    assert region.notes()["2"] == {f"repairs/3/{NAME}": "delete"}
    for store in (region.store, region.open()):
        assert store.head(KEY)
        assert [info.key for info in store.list("")] == [KEY]


def test_one_zone_is_not_enough(region: Region) -> None:
    """The object is absent, and is put again."""
    for zone in "23":
        region.zones[zone].die()
    with pytest.raises(StoreUnreachable) as raised:
        region.store.put(KEY, BODY)
    assert "zone 2" in str(raised.value)
    assert "zone 3" in str(raised.value)
    assert region.holders(KEY) == "1"
    assert region.notes() == {"1": {}, "2": {}, "3": {}}
    for zone in "23":
        region.zones[zone].heal()
    region.clock.advance(31)
    with pytest.raises(ObjectNotFound):
        region.store.head(KEY)
    assert not list(region.store.list(""))
    assert region.store.get(KEY) == BODY  # whatever lies there under its name is right
    region.store.put(KEY, BODY, only_if_absent=True)
    assert region.holders(KEY) == "123"
    with pytest.raises(Conflict):
        region.store.put(KEY, BODY, only_if_absent=True)


@pytest.mark.parametrize("error", [StoreFull, StoreDenied])
def test_the_error_quotes_the_zones(region: Region, error: type[StoreFull | StoreDenied]) -> None:
    for zone in "12":
        region.zones[zone].script = [Fault(method="put", error=lambda: error("no", found="a reason"))]
    with pytest.raises(error) as raised:
        region.store.put(KEY, BODY)
    assert "a reason" in str(raised.value)
    assert raised.value.hint


def test_any_right_zone_serves_a_read(region: Region) -> None:
    """The read reports wrong zones. An object is absent only after all zones were asked."""
    region.store.put(KEY, BODY)
    region.memories["1"].put(KEY, b"rotten")
    region.memories["2"].delete([KEY])
    for _ in range(2):
        region.reports.clear()
        assert region.store.get(KEY, lambda body: body == BODY) == BODY
        assert {("1", KEY, ObjectCorrupt), ("2", KEY, ObjectNotFound)} >= set(region.reports)
    region.memories["3"].put(KEY, b"rotten too")
    with pytest.raises(ObjectCorrupt):
        region.store.get(KEY, lambda body: body == BODY)
    for memory in region.memories.values():
        memory.delete([KEY])
    # Invariant Z4.
    with pytest.raises(ObjectNotFound):
        region.store.get(KEY)


def test_reads_are_shared_among_the_zones(region: Region) -> None:
    """The key selects the zone: the same key the same zone, different keys different zones."""
    asked = set()
    for number in range(20):
        region.store.put(f"k/{number}", BODY)
        for memory in "12":
            region.memories[memory].put(f"k/{number}", memory.encode())
        asked.add(region.store.get(f"k/{number}"))
    assert asked == {b"1", b"2", BODY}


def test_head_raises_if_existence_is_unknown(region: Region) -> None:
    """One zone has the object, one has none, and one does not answer."""
    region.memories["1"].put(KEY, BODY)
    region.zones["3"].die()
    with pytest.raises(StoreUnreachable):
        region.store.head(KEY)
    region.zones["3"].heal()
    region.clock.advance(31)
    with pytest.raises(ObjectNotFound):
        region.store.head(KEY)
    region.memories["3"].put(KEY, BODY)
    assert region.store.head(KEY).stored_bytes == len(BODY)


def test_a_recovered_zone_does_not_show_deleted_objects(region: Region) -> None:
    """This holds in another process, and after the loss of another zone."""
    region.store.put(KEY, BODY)
    region.zones["3"].die()
    region.store.delete([KEY])
    assert region.notes() == {"1": {f"repairs/3/{NAME}": "delete"}, "2": {f"repairs/3/{NAME}": "delete"}, "3": {}}
    region.zones["3"].heal()
    region.clock.advance(31)
    assert region.holders(KEY) == "3"
    for store in (region.store, region.open()):
        with pytest.raises(ObjectNotFound):
            store.get(KEY)
        with pytest.raises(ObjectNotFound):
            store.head(KEY)
        assert not list(store.list(""))
        assert store.list_pending_repairs() == [RepairNote(zone="3", key=KEY, missed=MissedWrite.DELETE)]
    region.zones["2"].die()
    # Invariant Z3.
    with pytest.raises((ObjectNotFound, StoreUnreachable)):
        region.open().get(KEY)


def test_a_zone_that_refuses_a_delete_is_distrusted(region: Region) -> None:
    """The zone answers other requests and does not rest, so the note must be known at once."""
    region.store.put(KEY, BODY)
    region.zones["3"].script = [Fault(method="delete", error=lambda: StoreDenied("no"))]
    region.store.delete([KEY])
    assert region.holders(KEY) == "3"
    with pytest.raises(ObjectNotFound):
        region.store.get(KEY)


def test_notes_of_another_process_are_read_after_a_recovery(region: Region) -> None:
    region.store.put(KEY, BODY)
    region.zones["3"].die()
    region.store.put("k/other", BODY)  # so this one knows that zone 3 is away
    region.open().delete([KEY])
    region.zones["3"].heal()
    region.clock.advance(31)
    with pytest.raises(ObjectNotFound):
        region.store.get(KEY)


def test_notes_of_others_are_known_in_time(region: Region) -> None:
    """This process saw no zone down."""
    region.store.put(KEY, BODY)
    region.zones["3"].die()
    region.open().delete([KEY])
    region.zones["3"].heal()
    region.clock.advance(61)
    with pytest.raises(ObjectNotFound):
        region.store.get(KEY)


def test_a_listing_does_not_count_distrusted_copies(region: Region) -> None:
    """Zone 3 may have an older object under this key. With only one other copy in reach, its existence is unknown."""
    region.store.put(KEY, b"an older body")
    region.zones["3"].script = [Fault(method="put", key_part=KEY, error=lambda: StoreFull("no"))]
    region.store.put(KEY, BODY)
    assert [info.stored_bytes for info in region.store.list("")] == [len(BODY)]
    region.zones["1"].die()
    assert [(info.stored_bytes, info.certain) for info in region.open().list("")] == [(len(BODY), False)]
    assert region.open().get(KEY) == BODY


def test_a_listing_has_objects_that_a_silent_zone_may_have(region: Region) -> None:
    """One zone missed the write, and another does not answer: the object is listed as not certain (invariant Z10)."""
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    region.zones["3"].heal()
    region.zones["1"].die()
    region.clock.advance(31)
    assert [(info.key, info.certain) for info in region.open().list("segments/")] == [(KEY, False)]
    with pytest.raises(ExistenceUnknown):
        region.open().head(KEY)
    region.zones["1"].heal()
    assert [(info.key, info.certain) for info in region.open().list("segments/")] == [(KEY, True)]


def test_a_listing_has_objects_of_a_distrusted_zone(region: Region) -> None:
    """A note says that a zone missed the write. The zone with the note does not answer and may have the object."""
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    other = region.open()
    assert [info.key for info in other.list("segments/")] == [KEY]
    region.zones["3"].heal()
    region.clock.advance(31)
    region.store.delete([KEY])
    region.zones["2"].die()
    region.store.put(KEY, BODY)
    region.zones["2"].heal()
    region.zones["1"].die()
    region.clock.advance(61)
    assert region.holders(KEY) == "13"
    assert [(info.key, info.certain) for info in other.list("segments/")] == [(KEY, False)]


def test_a_listing_has_every_acknowledged_object() -> None:
    """The zones fail in sequence while two processes write and read: every existing object is listed."""
    for seed in range(40):
        region, random = Region(), Random(seed)
        stores, present = (region.store, region.open()), dict.fromkeys(range(4), False)
        for _ in range(40):
            region.clock.advance(random.choice([0, 1, 31, 61]))
            store, number = random.choice(stores), random.randrange(4)
            key = f"segments/{number}"
            match random.choice(["zone", "put", "delete", "list"]):
                case "zone":
                    for zone in region.zones.values():
                        zone.heal()
                    region.zones[random.choice("123")].die()
                case "put" if not present[number]:
                    store.put(key, BODY)
                    present[number] = True
                case "delete":
                    store.delete([key])
                    present[number] = False
            listed = {info.key: info.certain for info in random.choice(stores).list("segments/")}
            assert listed.keys() >= {f"segments/{each}" for each, is_there in present.items() if is_there}, seed
            assert not [each for each, is_there in present.items() if not is_there and listed.get(f"segments/{each}")]


def test_a_listing_omits_objects_of_a_single_zone(region: Region) -> None:
    region.memories["2"].put(KEY, BODY)
    assert not list(region.store.list("segments/"))


def test_copies_are_unknown_while_a_silent_zone_may_hold_the_right_one(region: Region) -> None:
    region.memories["1"].put(KEY, b"damaged")
    region.memories["2"].put(KEY, BODY)
    assert not region.store.read_copies(KEY, lambda body: body == BODY).unknown
    region.zones["2"].die()
    assert region.store.read_copies(KEY, lambda body: body == BODY).unknown
    region.memories["1"].delete([KEY])
    assert not region.store.read_copies(KEY, lambda body: body == BODY).unknown  # two zones have no copy: there is none


@pytest.mark.parametrize("error", [StoreDenied, StoreFull, StoreMismatch, StoreError])
@pytest.mark.parametrize("damaged", [False, True], ids=["absent", "damaged"])
def test_zones_that_refuse_do_not_confirm_an_answer(region: Region, error: type[StoreError], damaged: bool) -> None:
    """One zone has no object or a damaged one, and two zones refuse reads: nothing is known about the object."""
    region.store.put(KEY, BODY)
    for zone in "123":
        for other in "123".replace(zone, ""):
            region.zones[other].script = [Fault(error=lambda: error("no", found="a reason"))]
        region.zones[zone].script = []
        region.memories[zone].delete([KEY])
        if damaged:
            region.memories[zone].put(KEY, b"damaged")
        with pytest.raises(StoreError) as raised:
            region.open().get(KEY, lambda body: body == BODY)
        assert not isinstance(raised.value, (ObjectNotFound, ObjectCorrupt))
        assert f"zone {zone}" in str(raised.value)
        region.memories[zone].put(KEY, BODY)


def test_a_new_write_ends_the_distrust(region: Region) -> None:
    """A new write deletes the note."""
    region.store.put(KEY, BODY)
    region.zones["3"].die()
    region.store.delete([KEY])
    region.zones["3"].heal()
    region.clock.advance(31)
    region.store.put(KEY, BODY)
    assert region.notes() == {"1": {}, "2": {}, "3": {}}
    for zone in "12":
        region.memories[zone].delete([KEY])
    assert region.store.get(KEY) == BODY


def test_a_delete_in_one_zone_fails(region: Region) -> None:
    region.store.put(KEY, BODY)
    for zone in "23":
        region.zones[zone].die()
    with pytest.raises(StoreUnreachable):
        region.store.delete([KEY])
    for zone in "23":
        region.zones[zone].heal()
    region.clock.advance(31)
    assert region.store.head(KEY)
    region.store.delete([KEY])
    assert region.holders(KEY) == ""


def test_a_dead_zone_rests(region: Region) -> None:
    """After a failure, the zone gets no requests while two others serve. After the rest, the zone is tried again."""
    region.zones["3"].die()
    asked = []
    region.zones["3"].script = [Fault(error=lambda: asked.append(1) or StoreUnreachable("gone"))]  # type: ignore[func-returns-value]
    for number in range(5):
        region.store.put(f"k/{number}", BODY)
        region.store.get(f"k/{number}")
    assert len(asked) == 1
    region.clock.advance(31)
    region.store.put(KEY, BODY)
    assert len(asked) == 2
    region.zones["3"].heal()
    region.clock.advance(31)
    region.store.put(KEY, BODY)
    assert region.holders(KEY) == "123"


def test_a_resting_zone_is_asked_if_needed(region: Region) -> None:
    region.zones["3"].die()
    region.store.put("k/1", BODY)
    region.zones["3"].heal()
    region.zones["2"].die()
    region.store.put("k/2", BODY)
    assert region.holders("k/2") == "13"
    listed = {info.key: info.certain for info in region.store.list("k/")}
    assert listed == {"k/1": False, "k/2": True}  # of k/1 one copy is left in reach
    assert region.store.get("k/1") == BODY


def test_a_listing_survives_a_zone_that_breaks_off(region: Region) -> None:
    for number in range(10):
        region.store.put(f"k/{number}", BODY)
    region.zones["2"].script = [Fault(method="list", key_part="k", kind=Kind.LOST)]
    region.memories["3"].delete(["k/9"])
    assert [info.key for info in region.store.list("k/")] == [f"k/{number}" for number in range(10)]
    for zone in "13":
        region.zones[zone].script = [Fault(method="list", key_part="k")]
    with pytest.raises(StoreUnreachable):
        list(region.open().list("k/"))


def test_lost_answers_are_repaired_as_if_missed(region: Region) -> None:
    """The zone took the write, but its answer was lost: a note makes the zone distrusted until the next write."""
    region.zones["1"].script = [Fault(method="put", calls=frozenset({1}), kind=Kind.LOST)]
    region.store.put(KEY, BODY)
    assert region.holders(KEY) == "123"
    assert region.store.list_pending_repairs() == [RepairNote(zone="1", key=KEY, missed=MissedWrite.PUT)]
    region.clock.advance(31)
    region.store.put(KEY, BODY)
    assert not region.store.list_pending_repairs()


def test_a_thousand_and_more_deletes_are_noted_each(region: Region) -> None:
    keys = [f"k/{number:04}" for number in range(1005)]
    for memory in region.memories.values():
        for key in keys:
            memory.put(key, b"")
    region.zones["2"].die()
    region.store.delete(keys)
    region.zones["2"].heal()
    region.clock.advance(31)
    assert {note.key for note in region.open().list_pending_repairs()} == set(keys)
    assert not list(region.open().list(""))


def test_properties_are_those_of_all_zones() -> None:
    """Three stores verify if each store verifies, and promise no more than each store."""
    zones = {zone: MemoryStore(zone) for zone in "123"}
    store = ZoneRedundantStore(zones)
    assert store.properties == StoreProperties(verifies_checksum=True, server_side_copy=False, atomic_create=False)
    assert store.name == "zones 1: 1, 2: 2, 3: 3"
    store.close()


def test_notes_about_absent_objects_are_deleted(region: Region) -> None:
    """A note of a put outlives the object if the zones with the note were never both available for the delete."""
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    region.store.put("segments/cd/live", BODY)
    region.zones["3"].heal()
    for memory in region.memories.values():
        memory.delete([KEY])
    fresh = region.open()
    assert fresh.delete_stale_notes() == 1
    assert [note.key for note in fresh.list_pending_repairs()] == ["segments/cd/live"]
    assert fresh.delete_stale_notes() == 0


def test_a_note_stays_while_a_zone_cannot_be_asked(region: Region) -> None:
    region.zones["3"].die()
    region.store.put(KEY, BODY)
    region.store.delete([KEY])
    assert region.open().delete_stale_notes() == 0
    assert len(region.store.list_pending_repairs()) == 1


def test_copies_are_compared_and_repaired(region: Region) -> None:
    """A repair asks each zone, regardless of notes."""
    region.store.put(KEY, BODY)
    region.memories["1"].put(KEY, b"wrong")
    region.memories["3"].delete([KEY])
    copies = region.store.read_copies(KEY, lambda body: body == BODY)
    assert (copies.body, copies.right, copies.wrong, copies.absent, copies.silent) == (BODY, ("2",), ("1",), ("3",), ())
    assert copies.read_bytes == len(BODY) + len(b"wrong")
    assert region.store.restore(KEY, copies) == {}
    assert {memory.get(KEY) for memory in region.memories.values()} == {BODY}
    region.zones["2"].die()
    assert region.store.read_copies(KEY).silent == ("2",)


def test_a_zone_that_does_not_take_a_repair_misses_the_object(region: Region) -> None:
    """The repair of the other objects continues, and the notes of the others bring the next repair."""
    region.store.put(KEY, BODY)
    region.memories["3"].delete([KEY])
    region.zones["3"].script = [Fault(method="put")]
    failed = region.store.restore(KEY, region.store.read_copies(KEY))
    assert list(failed) == ["3"]
    assert region.notes() == {zone: {f"repairs/3/{NAME}": "put"} for zone in "12"} | {"3": {}}


def test_without_a_check_the_bytes_of_two_zones_are_right(region: Region) -> None:
    region.store.put(KEY, BODY)
    region.memories["1"].put(KEY, b"wrong")
    copies = region.store.read_copies(KEY)
    assert (copies.body, copies.right, copies.wrong) == (BODY, ("2", "3"), ("1",))
    region.memories["2"].delete([KEY])
    copies = region.store.read_copies(KEY)
    # Invariant Z15.
    assert (copies.body, copies.right, copies.wrong, copies.absent) == (None, (), ("1", "3"), ("2",))


def test_unequal_objects_are_listed_and_deleted(region: Region) -> None:
    region.store.put(KEY, BODY)
    region.store.put("segments/cd/live", BODY)
    region.zones["3"].die()
    region.store.delete([KEY])
    region.zones["3"].heal()
    fresh = region.open()
    assert list(fresh.list_unequal_keys("segments/")) == [KEY]
    fresh.delete_in(KEY, fresh.read_copies(KEY).right)
    assert region.holders(KEY) == ""
    assert fresh.list_pending_repairs() != []
    fresh.delete_notes(KEY)
    assert fresh.list_pending_repairs() == []
    assert list(fresh.list_unequal_keys("")) == []
    region.memories["1"].put("segments/cd/live", BODY[:-1])
    assert list(fresh.list_unequal_keys("")) == ["segments/cd/live"]


def test_a_zone_that_is_only_late_is_written_to_and_read_last(region: Region) -> None:
    """A slow zone without writes would miss the writes of the others."""
    store = ZoneRedundantStore(
        region.zones, report=region._report, monotonic=region.clock.monotonic, avoided=lambda zone: zone == "2"
    )
    region.zones["2"].script = [Fault(method="get")]
    for number in range(9):
        store.put(f"{KEY}{number}", BODY)
        assert region.holders(f"{KEY}{number}") == "123"
        assert store.get(f"{KEY}{number}") == BODY
    assert region.reports == [], "it was never read"


def test_a_failing_zone_gets_no_requests(region: Region) -> None:
    store = ZoneRedundantStore(region.zones, monotonic=region.clock.monotonic, down=lambda zone: zone == "2")
    store.put(KEY, BODY)
    assert region.holders(KEY) == "13"
    assert region.notes()["1"] == {f"repairs/2/{NAME}": "put"}
