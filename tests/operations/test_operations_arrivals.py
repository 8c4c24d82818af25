"""A replica pays for the segments that its copy stored and that the region did not hold before (invariants M2 and M4).

The tests count the stored segments at the store, independently of the ledger.
"""

import pytest

from imgstore.domain.errors import ReplicationFailed
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Slot, VersionUpdate
from imgstore.domain.storage import object_keys
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.installation import Installation
from imgstore.operations.what_if.versions import forecast_version_update
from imgstore.stores.interface import Body, ObjectInfo, ObjectStore
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    charges,
    collect,
    content,
    delete,
    publish,
    retarget,
    target,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE, EAST = "southcentralus", "eastus"
SEGMENTS = object_keys.SEGMENTS


class CountingStore(FaultyStore):
    """A store that counts the received segments."""

    def __init__(self, store: ObjectStore, arrived: dict[str, int]) -> None:
        super().__init__(store)
        self._arrived = arrived

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """Store an object, and count the bytes of a segment once."""
        info = super().put(key, body, only_if_absent=only_if_absent)
        if SEGMENTS in key:
            self._arrived[key] = len(body)
        return info


class Arrivals:
    """The bytes of segments that eastus received and was charged for since the last look."""

    def __init__(self, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        self._installation = installation
        self._arrived: dict[str, int] = {}
        self._stores: dict[str, CountingStore] = {}
        self._script: list[Fault] = []
        self._known: set[str] = set()
        real = installation.locator.store

        def store(slot: Slot) -> ObjectStore:
            if slot.key.region != EAST:
                return real(slot)
            if slot.uid not in self._stores:
                self._stores[slot.uid] = CountingStore(real(slot), self._arrived)
                self._stores[slot.uid].script = self._script
            return self._stores[slot.uid]

        monkeypatch.setattr(installation.locator, "store", store)
        self.charged()

    def interrupt(self, *, is_on: bool) -> None:
        """Refuse the second segment and all further segments of a copy, or nothing."""
        fault = Fault(method="put", key_part=f"/{SEGMENTS}", calls=frozenset(range(2, 1000)))
        self._script = [fault] if is_on else []
        for each in self._stores.values():
            each.script = self._script

    def arrived(self) -> int:
        """Return the bytes of the segments that arrived since the last call."""
        found = sum(self._arrived.values())
        self._arrived.clear()
        return found

    def charged(self, kind: ChargeKind = ChargeKind.EGRESS) -> int:
        """Return the bytes of the charges since the last call."""
        new = [row for row in charges(self._installation) if row.target == EAST and row.key not in self._known]
        self._known.update(row.key for row in new)
        return sum(row.delivered_bytes for row in new if row.kind is kind)


@pytest.fixture
def east(empty: Installation, monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    """The arrivals in eastus, with an empty gallery."""
    return Arrivals(empty, monkeypatch)


def stored(installation: Installation) -> int:
    """Return the bytes of the segments in eastus."""
    slots = [each for each in all_slots(installation) if each.key.region == EAST]
    return sum(sum(content(installation, slot).segments.values()) for slot in slots)


def predicted(installation: Installation, targets: list[str]) -> int:
    """Return the egress bytes that a forecast names for a change of target regions (invariant M16)."""
    found = forecast_version_update(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        definition=DEFINITION,
        version=VersionName.parse("1.0.0"),
        update=VersionUpdate(target_regions=[target(each) for each in targets]),
    )
    return found.delivered_bytes


def publish_to_east(installation: Installation, samples: SampleImages, version: str = "1.0.0") -> None:
    publish(installation, samples.first, version, [SOURCE, EAST])


def fail_to_publish(installation: Installation, east: Arrivals, samples: SampleImages, version: str) -> int:
    """Interrupt the copy of a version to eastus after its first segment, and return the arrived bytes."""
    east.interrupt(is_on=True)
    with pytest.raises(ReplicationFailed):
        publish_to_east(installation, samples, version)
    east.interrupt(is_on=False)
    arrived = east.arrived()
    assert 0 < arrived == stored(installation)
    assert east.charged() == 0
    return arrived


def test_region_added_again_pays_only_for_bytes_that_cross_again(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    publish_to_east(empty, samples)
    assert east.charged() == east.arrived() == stored(empty) > 0
    retarget(empty, [SOURCE])
    assert predicted(empty, [SOURCE, EAST]) == 0
    retarget(empty, [SOURCE, EAST])
    assert east.charged() == east.arrived() == 0
    retarget(empty, [SOURCE])
    collect(empty)
    assert stored(empty) == 0
    assert predicted(empty, [SOURCE, EAST]) > 0
    retarget(empty, [SOURCE, f"{EAST}=2"])
    assert (east.charged() * 2, east.arrived()) == (stored(empty), stored(empty))
    audit(empty, collected=True)


def test_segments_that_are_marked_for_deletion_cross_again_and_are_charged(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """A marked segment counts as absent for a writer (invariant G8)."""
    publish_to_east(empty, samples)
    first = east.charged()
    assert first == east.arrived()
    retarget(empty, [SOURCE])
    collect(empty, grace_hours=24)
    retarget(empty, [SOURCE, EAST])
    assert east.charged() == east.arrived() == first


def test_resumed_copy_pays_for_the_bytes_before_the_interruption(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    before = fail_to_publish(empty, east, samples, "1.0.0")
    publish_to_east(empty, samples)
    rest = east.arrived()
    assert east.charged() == before + rest == stored(empty)
    assert rest > 0
    audit(empty, collected=True)


def test_bytes_of_a_deleted_copy_are_charged_to_nobody(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """The next copy did not store these bytes."""
    before = fail_to_publish(empty, east, samples, "1.0.0")
    delete(empty)
    publish_to_east(empty, samples, "1.0.1")
    assert east.charged() == east.arrived() == stored(empty) - before


def test_first_of_two_unfinished_copies_pays_for_the_bytes_of_both(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """Another version with the same content completes before the interrupted copy is resumed."""
    before = fail_to_publish(empty, east, samples, "1.0.0")
    publish_to_east(empty, samples, "1.0.1")
    assert east.charged() == before + east.arrived() == stored(empty)
    publish_to_east(empty, samples)
    assert east.charged() == east.arrived() == 0
    audit(empty, collected=True)


def test_bytes_that_another_version_paid_for_are_not_charged_again(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """The version that paid leaves the region, and its segments are still in the slot when the copy is resumed."""
    before = fail_to_publish(empty, east, samples, "1.0.0")
    publish_to_east(empty, samples, "1.0.1")
    assert east.charged() == before + east.arrived() == stored(empty)
    retarget(empty, [SOURCE], "1.0.1")
    assert predicted(empty, [SOURCE, EAST]) == 0
    publish_to_east(empty, samples)
    assert east.charged() == east.arrived() == 0


def test_copy_of_an_earlier_release_pays_for_all_segments(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """The plan of such a work does not tell which segments were stored before (invariant L7)."""
    before = fail_to_publish(empty, east, samples, "1.0.0")
    with empty.catalog.transaction() as transaction:
        (work,) = transaction.works.list_open()
        lease = transaction.works.lease(work.uid, holder="h", lease_seconds=0)
        transaction.works.update_plan(lease, {"digests": work.plan["digests"]}, work.pins)
        transaction.works.release(lease)
    publish_to_east(empty, samples)
    assert east.charged() == before + east.arrived() == stored(empty)


def test_second_replica_shows_only_bytes_that_its_copy_stored(
    empty: Installation, samples: SampleImages, east: Arrivals
) -> None:
    """A free copy inside a region shows the stored bytes, too (invariant M6)."""
    publish(empty, samples.first, targets=[SOURCE, f"{EAST}=2"])
    once = stored(empty) // 2
    assert east.charged(ChargeKind.COPY) == once
    retarget(empty, [SOURCE, EAST])
    retarget(empty, [SOURCE, f"{EAST}=2"])
    assert east.charged(ChargeKind.COPY) == 0
