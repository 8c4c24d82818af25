"""How versions end: kept until their end of life, deleted softly and had back, or gone for good in their time."""

import filecmp
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, ImageNotAvailable, InvalidInput, NotFound, ReplicationFailed
from imgstore.domain.names import VersionName
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import ImageVersion
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import VersionView
from imgstore.operations.gallery import definitions
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.gallery import wait as gallery_wait
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import update_version_state
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions.delete import purge_soft_deleted
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    create_sample_gallery,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    show,
    update,
)

pytest_plugins = ["tests.support.published_gallery"]

HERE = {"group": GROUP, "gallery": GALLERY, "definition": DEFINITION}
DAY_SECONDS = 86_400


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of the database and of the process."""
    clock = ManualClock()
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def soft(tmp_path: Path, samples: SampleImages, clock: ManualClock) -> Iterator[Installation]:
    """A gallery that deletes softly, with `first` as 1.0.0 and `second` as 1.0.1."""
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        with installation.catalog.transaction() as transaction:
            gallery = transaction.galleries.list(installation.subscription)[0]
            transaction.galleries.update(replace(gallery, soft_delete_enabled=True, soft_delete_retention_days=3))
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        yield installation


def kept(installation: Installation) -> list[str]:
    return [str(each.version.name) for each in versions_delete.list_soft_deleted(installation, ADMIN, **HERE)]


def listed(installation: Installation) -> list[str]:
    return [str(each.version.name) for each in gallery_versions.list_versions(installation, ADMIN, **HERE)]


def undelete(installation: Installation, version: str) -> ImageVersion:
    return versions_delete.undelete_version(installation, ADMIN, **HERE, version=VersionName.parse(version)).version


def billed_bytes(installation: Installation) -> int:
    with installation.catalog.reading() as transaction:
        intervals = [each for slot in all_slots(installation) for each in transaction.ledger.open_intervals(slot.uid)]
    return sum(each.stored_bytes for each in intervals)


# -- soft deletion ------------------------------------------------------------------------------------------------------


def test_soft_deleted_version_is_invisible_and_billed_and_can_be_restored(
    soft: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    before, billed = show(soft, "1.0.1"), billed_bytes(soft)
    make_disk(soft, "d0", version="1.0.1")
    billed_with_disk = billed_bytes(soft)
    delete(soft, "1.0.1")
    assert listed(soft) == ["1.0.0"]
    assert kept(soft) == ["1.0.1"]
    with pytest.raises(NotFound):
        show(soft, "1.0.1")
    with pytest.raises(ImageNotAvailable):
        make_disk(soft, "d1", version="1.0.1")
    with pytest.raises(ImageNotAvailable):
        export(soft, tmp_path / "out.raw", version="1.0.1")
    assert make_disk(soft, "d2").source_reference.endswith("/1.0.0"), "latest"
    assert billed < billed_with_disk <= billed_bytes(soft)
    export_disk(soft, tmp_path / "d0.raw", "d0")
    assert filecmp.cmp(tmp_path / "d0.raw", samples.second, shallow=False)
    assert undelete(soft, "1.0.1") == before.version
    assert undelete(soft, "1.0.1") == before.version, "once more does nothing"
    assert (kept(soft), listed(soft)) == ([], ["1.0.0", "1.0.1"])
    audit(soft)
    (tmp_path / "served").mkdir()
    audit_served(soft, {"1.0.0": samples.first, "1.0.1": samples.second}, tmp_path / "served")


def test_soft_deleted_version_is_no_base(soft: Installation, samples: SampleImages) -> None:
    delete(soft, "1.0.0")
    delete(soft, "1.0.1")
    before = sum(row.delivered_bytes for row in charges(soft))
    with pytest.raises(InvalidInput, match=r"1\.0\.1 can't be a base"):
        publish(soft, samples.second, "1.0.2", ["southcentralus"], bases=[VersionName.parse("1.0.1")])
    publish(soft, samples.second, "1.0.3", ["southcentralus"])
    assert sum(row.delivered_bytes for row in charges(soft)) == before


def test_version_is_removed_after_its_retention(
    soft: Installation, clock: ManualClock, samples: SampleImages, tmp_path: Path
) -> None:
    make_disk(soft, "d0", version="1.0.1")
    delete(soft, "1.0.1")
    clock.advance(3 * DAY_SECONDS - 1)
    assert purge_soft_deleted(soft) == []
    assert kept(soft) == ["1.0.1"]
    clock.advance(1)
    assert [str(each.name) for each in purge_soft_deleted(soft)] == ["1.0.1"]
    assert purge_soft_deleted(soft) == []
    with pytest.raises(NotFound, match="soft-deleted image version"):
        undelete(soft, "1.0.1")
    export_disk(soft, tmp_path / "d0.raw", "d0")
    assert filecmp.cmp(tmp_path / "d0.raw", samples.second, shallow=False)
    audit(soft)
    publish(soft, samples.second, "1.0.1", ["southcentralus"])


@pytest.mark.parametrize("who", ["lists", "deletes"])
def test_any_later_command_removes_due_versions(soft: Installation, clock: ManualClock, who: str) -> None:
    delete(soft, "1.0.0")
    clock.advance(3 * DAY_SECONDS)
    if who == "lists":
        assert kept(soft) == []
    else:
        delete(soft, "1.0.1")
    with soft.catalog.reading() as transaction:
        left = [str(each.name) for each in transaction.versions.list_soft_deleted()]
    assert left == ([] if who == "lists" else ["1.0.1"])
    audit(soft)


@pytest.mark.parametrize("days", [-30, 30])
def test_retention_follows_the_clock_of_the_database(soft: Installation, clock: ManualClock, days: int) -> None:
    """Whatever the clock says of the machine that deletes, lists and collects."""
    wrong = Effects(now=lambda: clock.now() + timedelta(days=days))
    with open_home(soft.home, effects=wrong) as other:
        delete(other, "1.0.1")
        assert kept(other) == ["1.0.1"]
        assert purge_soft_deleted(other) == []
        clock.advance(3 * DAY_SECONDS)
        assert [str(each.name) for each in purge_soft_deleted(other)] == ["1.0.1"]
    audit(soft)


def test_due_version_in_use_is_removed_after_the_read(
    tmp_path: Path, soft: Installation, clock: ManualClock, samples: SampleImages
) -> None:
    told: list[str] = []
    gone: list[list[ImageVersion]] = []
    once = threading.Lock()

    def meanwhile(event: ProgressEvent) -> None:
        if event.stage is Stage.MOVED and once.acquire(blocking=False):
            delete(soft, "1.0.1")
            with soft.catalog.transaction() as transaction:  # The clock stays: the lease of the reader must not end.
                (deleted,) = transaction.versions.list_soft_deleted()
                transaction.versions.update(replace(deleted, hard_deletion_at=clock.now()))
            gone.append(purge_soft_deleted(reader))
        if event.stage is Stage.NOTE:
            told.append(event.detail)

    with open_home(soft.home, meanwhile, effects=Effects(now=clock.now)) as reader:
        export(reader, tmp_path / "out.raw", "eastus", "1.0.1")
        assert filecmp.cmp(tmp_path / "out.raw", samples.second, shallow=False)
        assert gone == [[]]
        assert "retention has passed" in told[0]
        assert [str(each.name) for each in purge_soft_deleted(reader)] == ["1.0.1"]
    audit(soft)


def test_name_is_in_use_until_the_removal(soft: Installation, samples: SampleImages) -> None:
    delete(soft, "1.0.0")
    with pytest.raises(Conflict, match="keeps its name") as caught:
        publish(soft, samples.first, targets=["southcentralus"])
    assert "undelete" in str(caught.value.hint)
    with pytest.raises(NotFound):
        update(soft, tags={"a": "1"})
    with pytest.raises(NotFound) as again:
        delete(soft, "1.0.0")
    assert "--bypass-soft-delete" in str(again.value.hint)
    delete(soft, "1.0.0", bypass_soft_delete=True)
    publish(soft, samples.first, targets=["southcentralus"])


def test_definition_with_a_soft_deleted_version_is_not_deleted(soft: Installation) -> None:
    delete(soft, "1.0.1", bypass_soft_delete=True)
    delete(soft, "1.0.0")
    with pytest.raises(Conflict) as caught:
        definitions.delete_definition(soft, ADMIN, group=GROUP, gallery=GALLERY, name=DEFINITION)
    assert caught.value.error_code == "CannotDeleteResource"
    assert "versions/1.0.0'" in caught.value.message
    assert "--bypass-soft-delete" in str(caught.value.hint)
    delete(soft, "1.0.0", bypass_soft_delete=True)
    definitions.delete_definition(soft, ADMIN, group=GROUP, gallery=GALLERY, name=DEFINITION)


def test_without_soft_deletion_a_version_is_removed_at_once(published: Installation) -> None:
    delete(published)
    assert kept(published) == []
    with pytest.raises(NotFound):
        undelete(published, "1.0.0")
    audit(published)


# -- ends of life -------------------------------------------------------------------------------------------------------


def test_a_version_is_kept_until_its_end_of_life(soft: Installation, clock: ManualClock) -> None:
    end = clock.now() + timedelta(days=2)
    view = update(soft, end_of_life_at=end, block_deletion_before_end_of_life=True)
    assert (view.version.end_of_life_at, view.version.block_deletion_before_end_of_life) == (end, True)
    for bypass in (False, True):
        with pytest.raises(Conflict, match="endOfLifeDate has not reached yet") as caught:
            delete(soft, bypass_soft_delete=bypass)
        assert caught.value.error_code == "DeleteGalleryImageVersionBlockedBeforeEndOfLife"
    assert listed(soft) == ["1.0.0", "1.0.1"]
    clock.advance(2 * DAY_SECONDS)
    make_disk(soft, "d1", version="1.0.0")  # told, not enforced
    delete(soft, bypass_soft_delete=True)
    assert listed(soft) == ["1.0.1"]
    audit(soft)


def test_end_of_life_must_be_in_the_future(soft: Installation, clock: ManualClock, samples: SampleImages) -> None:
    with pytest.raises(InvalidInput, match="EndOfLifeDate must be set to a future date"):
        update(soft, end_of_life_at=clock.now())
    with pytest.raises(InvalidInput, match="EndOfLifeDate must be set to a future date"):
        publish(soft, samples.first, "2.0.0", ["southcentralus"], end_of_life_at=clock.now())
    end = clock.now() + timedelta(days=1)
    update(soft, end_of_life_at=end)
    clock.advance(DAY_SECONDS)
    assert update(soft, tags={"a": "1"}).version.end_of_life_at == end, "one that has come stays"
    assert update(soft, end_of_life_at=None).version.end_of_life_at is None


def test_deletion_block_needs_an_end_of_life(soft: Installation, clock: ManualClock, samples: SampleImages) -> None:
    with pytest.raises(InvalidInput, match="needs an endOfLifeDate"):
        update(soft, block_deletion_before_end_of_life=True)
    with pytest.raises(InvalidInput, match="needs an endOfLifeDate"):
        publish(soft, samples.first, "2.0.0", ["southcentralus"], block_deletion_before_end_of_life=True)
    assert listed(soft) == ["1.0.0", "1.0.1"]
    update(soft, end_of_life_at=clock.now() + timedelta(days=1), block_deletion_before_end_of_life=True)
    with pytest.raises(InvalidInput, match="needs an endOfLifeDate"):
        update(soft, end_of_life_at=None)


def test_version_is_published_with_all_properties(
    soft: Installation, clock: ManualClock, samples: SampleImages
) -> None:
    end = clock.now() + timedelta(days=1)
    more = {
        "end_of_life_at": end,
        "allow_deletion_of_replicated_locations": False,
        "block_deletion_before_end_of_life": True,
        "exclude_from_latest": True,
    }
    view = publish(soft, samples.first, "2.0.0", ["southcentralus"], **more)
    assert {name: getattr(view.version, name) for name in more} == more
    clock.advance(DAY_SECONDS)
    again = publish(soft, samples.first, "2.0.0", ["southcentralus"], **more)
    assert again.version == view.version, "the same line again, though its end of life has come"


# -- waiting ------------------------------------------------------------------------------------------------------------


def wait(
    installation: Installation,
    until: Callable[[VersionView | None], bool],
    clock: ManualClock,
    act: Callable[[], object] = lambda: None,
    timeout_seconds: float = 100,
) -> VersionView | None:
    """Look each ten seconds; whatever another process does, it does during the third sleep."""

    def sleep(seconds: float) -> None:
        clock.wait(seconds)
        if len(clock.waits) == 3:
            act()

    return gallery_wait.wait_for_version(
        replace(installation, effects=Effects(wait=sleep, monotonic=clock.monotonic)),
        ADMIN,
        **HERE,
        version=VersionName.parse("1.0.0"),
        until=until,
        interval_seconds=10,
        timeout_seconds=timeout_seconds,
    )


def test_wait_ends_when_another_process_has_finished(published: Installation, clock: ManualClock) -> None:
    with open_home(published.home) as other:
        assert wait(published, lambda view: view is None, clock, lambda: delete(other)) is None
    assert clock.waits == [10, 10, 10]


def test_wait_sees_a_new_version(empty: Installation, clock: ManualClock, samples: SampleImages) -> None:
    def act() -> None:
        with open_home(empty.home) as other:
            publish(other, samples.first, targets=["southcentralus"])

    seen = wait(empty, lambda view: view is not None, clock, act)
    assert seen is not None
    assert gallery_wait.is_made(seen)
    with pytest.raises(NotFound):
        gallery_wait.is_made(None)


def test_wait_ends_with_the_timeout_or_the_failure(published: Installation, clock: ManualClock) -> None:
    with pytest.raises(Conflict, match="timed-out after 25 seconds") as caught:
        wait(published, lambda view: view is None, clock, timeout_seconds=25)
    assert clock.waits == [10, 10, 5]
    assert caught.value.error_code == "OperationTimedOut"
    one = show(published).replicas[0]
    with published.catalog.transaction() as transaction:
        transaction.replicas.move(one.uid, ReplicaState.DEGRADED, error="for the test")
        update_version_state(transaction, transaction.versions.by_uid(one.version_uid))
    with pytest.raises(ReplicationFailed, match="The operation failed"):
        wait(published, gallery_wait.is_made, clock)
