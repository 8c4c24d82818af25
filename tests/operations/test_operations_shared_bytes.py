"""Shared bytes: the payers of the objects of a slot, and the payers after a deletion (invariants M9, M10 and M14)."""

import shutil
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.domain.requests import DiskRequest, ImageRequest
from imgstore.domain.resources import DiskKind, ManagedDisk, Slot
from imgstore.operations.disks import disks, from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.slot_owners import body_bytes
from imgstore.operations.slots.attribution import SlotShares, attribute_slot, read_shares, update_intervals
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    collect,
    content,
    delete,
    make_disk,
    open_home,
    publish,
    retarget,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE = "southcentralus"


def slot_in(installation: Installation, region: str = SOURCE) -> Slot:
    """Return the first slot of a region."""
    return next(each for each in all_slots(installation) if (each.key.region, each.key.ordinal) == (region, 0))


def shares(installation: Installation, owner_uids: Collection[str]) -> SlotShares:
    """Return the shared bytes of owners in the first slot of the source region."""
    with installation.catalog.reading() as transaction:
        found = read_shares(transaction, owner_uids)
    return next(each for each in found if (each.slot.key.region, each.slot.key.ordinal) == (SOURCE, 0))


def billed(installation: Installation, region: str = SOURCE) -> dict[str, int]:
    """Return the bytes of the open intervals of the first slot of a region, by owner."""
    return billed_in(installation, slot_in(installation, region))


def billed_in(installation: Installation, slot: Slot) -> dict[str, int]:
    """Return the bytes of the open intervals of a slot by owner. The bytes equal the attribution."""
    with installation.catalog.reading() as transaction:
        found = {each.owner_uid: each.stored_bytes for each in transaction.ledger.open_intervals(slot.uid)}
        assert found == attribute_slot(transaction, slot), "the payers depend on the order of events"
    return found


def copy_disk(installation: Installation, kind: DiskKind, name: str, source: str) -> ManagedDisk:
    request = DiskRequest(group=GROUP, name=name, kind=kind, source=source)
    return from_source.create_from_source(installation, ADMIN, request)


def delete_disk(installation: Installation, name: str, kind: DiskKind = DiskKind.DISK) -> None:
    disks.delete_disk(installation, ADMIN, group=GROUP, name=name, kind=kind)


def test_manifest_that_only_disks_keep_is_billed_to_each_kind_of_disk(published: Installation) -> None:
    """A disk, a snapshot and a managed image outlive the version one after another (invariants M9 and M14)."""
    first = make_disk(published, "d1", SOURCE, "1.0.0")
    copy_disk(published, DiskKind.SNAPSHOT, "s1", "d1")
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="s1"))
    delete(published)
    audit(published)
    stored = content(published, first.slot)
    assert first.body_key in stored.manifests
    for name, kind in (("d1", DiskKind.DISK), ("s1", DiskKind.SNAPSHOT)):
        delete_disk(published, name, kind)
        audit(published)
        stored = content(published, first.slot)
        assert sum(billed(published).values()) == sum(stored.segments.values()) + sum(stored.manifests.values())
    delete_disk(published, "i1", DiskKind.IMAGE)
    audit(published)
    assert billed(published) == {}


def test_manifest_counts_once_when_its_version_returns(published: Installation) -> None:
    """A disk keeps the manifest of a removed replica. The replica returns under the same key, and leaves again."""
    make_disk(published, "d1", "eastus", "1.0.0")
    for _ in range(2):
        retarget(published, [SOURCE])
        audit(published)
        retarget(published, [SOURCE, "eastus"])
        audit(published)
    assert len(billed(published, "eastus")) == 2
    delete_disk(published, "d1")
    assert len(billed(published, "eastus")) == 1
    audit(published)


def test_collection_bills_manifests_that_earlier_code_left_on_no_bill(published: Installation) -> None:
    """Code of the previous release removes the row of a version and accounts for nothing (invariant L7)."""
    made = make_disk(published, "d1", SOURCE, "1.0.0")
    delete(published)
    before = billed(published)
    with published.catalog.transaction() as transaction:
        (row,) = transaction.manifests.of_owner(made.uid)
        transaction.manifests.set_object_bytes(row.uid, row.object_bytes - body_bytes(row))
        update_intervals(published.effects, transaction, made.slot)
    assert sum(billed(published).values()) < sum(before.values())
    collect(published)
    assert billed(published) == before
    collect(published)
    audit(published, collected=True)


def test_shares_name_the_next_payer(published: Installation, samples: SampleImages) -> None:
    """The first owner pays for shared bytes. After its deletion, the next owner by arrival pays (invariant M10)."""
    publish(published, samples.second, "1.0.1")
    disk = make_disk(published, "d1", SOURCE, "1.0.1")
    first, second = show(published, "1.0.0").version, show(published, "1.0.1").version
    before = billed(published)
    told = shares(published, [first.uid])
    assert told.shared.paid_bytes == before[first.uid]
    assert [each.owner_uid for each in told.shared.shares] == [second.uid, disk.uid]
    assert [told.parties[each.owner_uid].version for each in told.shared.shares] == ["1.0.1", None]
    heir, other = told.shared.shares
    assert heir.common_bytes == heir.next_bytes == other.common_bytes > 0
    assert (heir.paid_bytes, other.paid_bytes, other.next_bytes) == (0, 0, 0)
    delete(published, "1.0.0")
    after = billed(published)
    assert after[second.uid] == before[second.uid] + heir.next_bytes
    assert after[disk.uid] == before[disk.uid]
    assert sum(after.values()) == sum(before.values()) - told.shared.freed_bytes


STEPS = st.tuples(st.sampled_from(["publish", "disk", "delete", "delete", "move"]), st.integers(0, 99))


@pytest.mark.parametrize("examples", [2, pytest.param(60, marks=pytest.mark.long)])
def test_bill_equals_the_listings_and_the_told_payers(
    examples: int, samples: SampleImages, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In random histories with disks that outlive versions, each deletion changes the bill as told (M9, M10, M14)."""

    @settings(max_examples=examples)
    @given(steps=st.lists(STEPS, min_size=8, max_size=12))
    def check(steps: list[tuple[str, int]]) -> None:
        home = tmp_path_factory.mktemp("history") / "home"
        shutil.copytree(samples.home, home)
        with open_home(home) as installation:
            history = _History(installation, [samples.first, samples.second, samples.rebuilt])
            for what, number in steps:
                history.take(what, number)
                audit(installation, collected=True)
        shutil.rmtree(home)

    check()


class _History:
    """Versions and disks that are made and deleted one after another."""

    def __init__(self, installation: Installation, sources: list[Path]) -> None:
        self._installation = installation
        self._sources = sources
        self._versions = {"1.0.0": show(installation, "1.0.0").version.uid}
        self._disks: dict[str, tuple[DiskKind, str]] = {}
        self._made = 0

    def take(self, what: str, number: int) -> None:
        """Take one step. `number` chooses among the existing resources."""
        self._made += 1
        if what == "publish":
            self._publish(self._sources[number % 3])
        elif what == "disk":
            self._make_disk(number)
        elif what == "move" and self._versions:
            name = sorted(self._versions)[number % len(self._versions)]
            retarget(self._installation, [SOURCE, "eastus"] if number % 2 else [SOURCE], name)
        elif what == "delete":
            self._delete(number)

    def _publish(self, source: Path) -> None:
        name = f"1.0.{self._made}"
        publish(self._installation, source, name, [SOURCE])
        self._versions[name] = show(self._installation, name).version.uid

    def _make_disk(self, number: int) -> None:
        name, origins = f"d{self._made}", [*sorted(self._versions), *sorted(self._disks)]
        if not origins:
            return
        origin = origins[number % len(origins)]
        if origin in self._versions:
            made = make_disk(self._installation, name, SOURCE, origin)
        else:
            made = copy_disk(self._installation, (DiskKind.DISK, DiskKind.SNAPSHOT)[number % 2], name, origin)
        self._disks[name] = made.kind, made.uid

    def _delete(self, number: int) -> None:
        names = [*sorted(self._versions), *sorted(self._disks)]
        if not names:
            return
        name = names[number % len(names)]
        uid = self._versions[name] if name in self._versions else self._disks[name][1]
        before = self._billed()
        with self._installation.catalog.reading() as transaction:
            told = {each.slot.uid: each.shared for each in read_shares(transaction, [uid])}
        assert {slot: shared.paid_bytes for slot, shared in told.items()} == {
            slot: before.pop((slot, owner)) for slot, owner in list(before) if owner == uid
        }
        if self._versions.pop(name, None):
            delete(self._installation, name)
        else:
            delete_disk(self._installation, name, self._disks.pop(name)[0])
        for slot, shared in told.items():
            for each in shared.shares:
                before[slot, each.owner_uid] += each.next_bytes
        assert self._billed() == before

    def _billed(self) -> dict[tuple[str, str], int]:
        """Return the bytes of the open intervals by slot and owner."""
        slots = all_slots(self._installation)
        return {
            (slot.uid, owner): count for slot in slots for owner, count in billed_in(self._installation, slot).items()
        }
