"""Entries of the bill have the tags of their resource at that time (invariant M24)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imgstore.domain.disks.disk_details import DiskDetails
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest, ImageRequest
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.ledger.entries import StorageInterval
from imgstore.operations.disks import disks, from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images
from imgstore.operations.slots.references import disk_party
from imgstore.stores.interface import ObjectInfo
from imgstore.transfer.slot_access import SlotAccess
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    TARGETS,
    SampleImages,
    audit,
    charges,
    delete,
    make_disk,
    open_home,
    publish,
    reference,
    retarget,
    show,
    update,
)

pytest_plugins = ["tests.support.published_gallery"]

TAGS = {"team": "os", "cost": "17"}


def all_intervals(installation: Installation) -> list[StorageInterval]:
    """Return all intervals, oldest first."""
    with installation.catalog.reading() as transaction:
        return transaction.ledger.intervals()


def intervals(installation: Installation, owner_uid: str) -> list[StorageInterval]:
    """Return the intervals of an owner, oldest first."""
    return [each for each in all_intervals(installation) if each.owner_uid == owner_uid]


def assert_continued(before: list[StorageInterval], after: list[StorageInterval]) -> None:
    """Check that each interval was closed, and that an equal interval with `TAGS` opened at the same instant."""
    assert all(each.party.tags == ({} if each.closed_at else TAGS) for each in after)
    assert all(each.closed_at is None for each in before)
    closed = {(each.slot_uid, each.stored_bytes, each.closed_at) for each in after if each.closed_at is not None}
    opened = {(each.slot_uid, each.stored_bytes, each.opened_at) for each in after if each.closed_at is None}
    assert closed == opened
    assert len(after) == 2 * len(before)


def test_change_of_tags_continues_the_intervals_of_a_version(published: Installation, samples: SampleImages) -> None:
    version = show(published).version
    before = intervals(published, version.uid)
    update(published, tags=TAGS)
    after = intervals(published, version.uid)
    assert_continued(before, after)
    update(published, tags=TAGS)
    update(published, exclude_from_latest=True)
    publish(published, samples.first)
    assert intervals(published, version.uid) == after
    audit(published)


def test_repeated_create_with_other_tags_continues_the_intervals(
    published: Installation, samples: SampleImages
) -> None:
    version = show(published).version
    before = intervals(published, version.uid)
    publish(published, samples.first, tags=TAGS)
    assert show(published).version.tags == TAGS
    assert_continued(before, intervals(published, version.uid))
    audit(published)


def test_change_of_tags_continues_the_intervals_of_each_kind_of_disk(published: Installation) -> None:
    made = make_disk(published, "d1")
    copied = from_source.create_from_source(
        published, ADMIN, DiskRequest(group=GROUP, name="s1", kind=DiskKind.SNAPSHOT, source="d1")
    )
    image = images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="s1"))
    for name, kind, uid in (
        ("d1", DiskKind.DISK, made.uid),
        ("s1", DiskKind.SNAPSHOT, copied.uid),
        ("i1", DiskKind.IMAGE, image.os.uid),
    ):
        before = intervals(published, uid)
        disks.tag_disk(published, ADMIN, group=GROUP, name=name, kind=kind, tags=TAGS)
        after = intervals(published, uid)
        assert_continued(before, after)
        disks.tag_disk(published, ADMIN, group=GROUP, name=name, kind=kind, tags=TAGS)
        assert intervals(published, uid) == after
    again = DiskRequest(group=GROUP, name="s1", kind=DiskKind.SNAPSHOT, source="d1", tags={"team": "network"})
    tagged = from_source.create_from_source(published, ADMIN, again)
    assert len(intervals(published, copied.uid)) == 3
    assert disk_party(tagged).tags == {"team": "network"}
    audit(published)


def test_charge_and_later_intervals_have_the_present_tags(published: Installation) -> None:
    """Old entries keep the tags of their time."""
    update(published, tags=TAGS)
    retarget(published, [*TARGETS, "northeurope"])
    make_disk(published, "d1", "northeurope")
    tags = {row.target: row.party.tags for row in charges(published)}
    assert (tags["eastus"], tags["northeurope"]) == ({}, TAGS)
    delete(published)
    (kept,) = (each for each in all_intervals(published) if each.closed_at is None)
    assert (kept.party.disk, kept.party.tags) == ("d1", {})


def make_from_image(installation: Installation, _file: Path) -> ManagedDisk:
    return make_disk(installation, "d1")


def make_from_another_region(installation: Installation, _file: Path) -> ManagedDisk:
    asked = DiskOfImageRequest(
        group=GROUP, name="d1", location="northeurope", reference=reference("1.0.0"), allow_remote=True
    )
    return disks.create_disk(installation, ADMIN, asked)


def make_from_file(installation: Installation, file: Path) -> ManagedDisk:
    return from_source.create_from_source(
        installation, ADMIN, DiskRequest(group=GROUP, name="d1", kind=DiskKind.DISK, source=str(file))
    )


@pytest.mark.parametrize("make", [make_from_image, make_from_another_region, make_from_file])
def test_a_change_during_the_creation_of_a_disk_is_kept(
    published: Installation,
    samples: SampleImages,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Installation, Path], ManagedDisk],
) -> None:
    """Another process changes tags and details after the last byte and before the completing transaction (L9)."""
    put, changes = SlotAccess.put_manifest, [TAGS]

    def put_and_change(access: SlotAccess, key: str, body: bytes) -> ObjectInfo:
        info = put(access, key, body)
        while changes:
            with open_home(published.home) as other:
                details = DiskDetails(extra_properties={"tier": "P10"})
                disks.tag_disk(other, ADMIN, group=GROUP, name="d1", tags=changes.pop(), details=details)
        return info

    monkeypatch.setattr(SlotAccess, "put_manifest", put_and_change)
    made = make(published, samples.second)
    stored = disks.show_disk(published, ADMIN, group=GROUP, name="d1")
    assert made == stored
    assert (stored.tags, stored.provisioning_state) == (TAGS, ProvisioningState.SUCCEEDED)
    assert stored.extra_properties == {"tier": "P10"}
    assert [each.party.tags for each in intervals(published, made.uid)] == [TAGS]
    assert all(row.party.tags == TAGS for row in charges(published) if row.party.disk == "d1")
    audit(published)


def test_a_change_of_tags_keeps_a_disk_that_was_completed_in_the_meantime(published: Installation) -> None:
    """On PostgreSQL a request may read the row before the completing transaction, and write afterwards (L9)."""
    made = make_disk(published, "d1")
    earlier = replace(made, provisioning_state=ProvisioningState.CREATING, source_format=DiskFormat.VHD_FIXED)
    with published.catalog.transaction() as transaction:
        disks.update_tags(published, transaction, earlier, TAGS)
    assert disks.show_disk(published, ADMIN, group=GROUP, name="d1") == replace(made, tags=TAGS)
    audit(published)
