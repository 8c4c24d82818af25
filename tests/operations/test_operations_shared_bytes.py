"""Shared bytes: the payers of the objects of a slot, and the payers after a deletion (invariants M9, M10 and M14)."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest, ImageRequest
from imgstore.domain.resources import DiskKind, ManagedDisk, Slot
from imgstore.ledger.storage.shared_bytes import SharedBytes, group_by_owners
from imgstore.operations.billing.shared_storage import list_shared_storage
from imgstore.operations.disks import disks, from_source
from imgstore.operations.gallery import groups
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.slot_owners import body_bytes, read_owners
from imgstore.operations.slots.attribution import attribute_slot, update_intervals
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
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


def shared_groups(installation: Installation, slot: Slot) -> list[SharedBytes]:
    """Return the segments and manifests of a slot by the owners that name them."""
    with installation.catalog.reading() as transaction:
        present = read_owners(transaction, slot)
    return group_by_owners(present.owners, present.stored_bytes)


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


def test_shared_rows_name_the_payer_and_the_next_payer(published: Installation, samples: SampleImages) -> None:
    """The first owner pays for shared bytes. After its deletion, the next owner by arrival pays (invariant M10)."""
    publish(published, samples.second, "1.0.1")
    disk = make_disk(published, "d1", SOURCE, "1.0.1")
    owners = [show(published, "1.0.0").version.uid, show(published, "1.0.1").version.uid, disk.uid]
    before = billed(published)
    rows = [each for each in list_shared_storage(published, ADMIN) if (each.region, each.replica) == (SOURCE, 0)]
    told = {tuple(party and party.path for party in each.parties): each.stored_bytes for each in rows}
    first, second = (f"{GROUP}/{GALLERY}/{DEFINITION}/{name}" for name in ("1.0.0", "1.0.1"))
    assert told.keys() == {(first, second, f"{GROUP}/d1"), (second, f"{GROUP}/d1")}
    assert all(each.stored_bytes > 0 for each in rows)
    delete(published, "1.0.0")
    after = billed(published)
    assert after[owners[1]] == before[owners[1]] + told[first, second, f"{GROUP}/d1"]
    assert after[disk.uid] == before[disk.uid]
    delete(published, "1.0.1")
    assert billed(published) == {disk.uid: before[disk.uid] + sum(told.values())}
    assert list_shared_storage(published, ADMIN) == []


def test_shared_rows_hide_the_owners_of_another_subscription(published: Installation) -> None:
    """Each side sees the shared bytes. Only a reader of both bills sees both names."""
    image = show(published, "1.0.0")
    other = replace(published, subscription="11111111-2222-3333-4444-555555555555")
    groups.create_group(other, ADMIN, name=GROUP, location=SOURCE)
    place = ImageReference.parse(image.definition_path.version_id(image.version.name))
    made = disks.create_disk(other, ADMIN, DiskOfImageRequest(group=GROUP, name="d1", location=SOURCE, reference=place))
    own, theirs = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0", f"{GROUP}/d1"
    for side, names in ((published, [own, None]), (other, [None, theirs])):
        (row,) = list_shared_storage(side, _reader_of(side.subscription))
        assert [party and party.path for party in row.parties] == names
        (row,) = list_shared_storage(side, ADMIN)
        assert [party and party.path for party in row.parties] == [own, theirs]
        with pytest.raises(NotFound):
            list_shared_storage(side, _reader_of("22222222-2222-3333-4444-555555555555"))
    assert billed(published)[made.uid] < row.stored_bytes


def _reader_of(subscription: str) -> Principal:
    return Principal(name="auditor", grants=(Grant(role=Role.BILLING_READER, scope=f"/subscriptions/{subscription}"),))


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
        for slot in all_slots(self._installation):
            paid = before.pop((slot.uid, uid), 0)
            for each in shared_groups(self._installation, slot):
                if each.owner_uids[0] == uid and len(each.owner_uids) > 1:
                    before[slot.uid, each.owner_uids[1]] += each.stored_bytes
                    paid -= each.stored_bytes
            assert paid >= 0, "the next payers take a part of the bill"
        if self._versions.pop(name, None):
            delete(self._installation, name)
        else:
            delete_disk(self._installation, name, self._disks.pop(name)[0])
        assert self._billed() == before

    def _billed(self) -> dict[tuple[str, str], int]:
        """Return the bytes of the open intervals by slot and owner."""
        slots = all_slots(self._installation)
        return {
            (slot.uid, owner): count for slot in slots for owner, count in billed_in(self._installation, slot).items()
        }
