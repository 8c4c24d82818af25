"""Manifests that a late PUT left behind: listed, kept for a grace, and removed at a person's word."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from imgstore.catalog.engine.database import Session
from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.errors import AccessDenied, CatalogOutdated
from imgstore.domain.identity.access import Principal
from imgstore.domain.reports import SlotUnknownObjects, UnknownObjectReport
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import unknown_objects
from imgstore.operations.maintenance.unknown_objects import list_unknown, remove_unknown
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    all_slots,
    audit_collected,
    audit_served,
    collect,
    create_sample_gallery,
    delete,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

WEEK = timedelta(days=7)
PLACES = pytest.mark.parametrize("target", ["southcentralus", "westus2=1=Standard_ZRS"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    return clock


@pytest.fixture
def home(tmp_path: Path, clock: ManualClock) -> Iterator[Installation]:
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        yield installation


def publish_to(
    home: Installation, samples: SampleImages, target: str, version: str = "1.0.0"
) -> tuple[Slot, str, bytes]:
    """A version; gives its slot, its manifest's key below it, and the manifest."""
    view = publish(home, samples.first, version, targets=[target], location=target.split("=", maxsplit=1)[0])
    slot, key = view.replicas[0].slot, object_keys.manifest_key(view.version.uid, "os")
    return slot, key, home.locator.store(slot).get(slot.prefix + key)


def late(home: Installation, slot: Slot, key: str, data: bytes) -> None:
    """The store carries a PUT out that its client gave up long ago."""
    home.locator.store(slot).put(slot.prefix + key, data)


def one(found: list[SlotUnknownObjects]) -> UnknownObjectReport:
    ((report,),) = ([each.objects for each in found],)
    (only,) = report
    return only


@PLACES
def test_a_late_manifest_is_listed_and_removed_after_its_grace(
    home: Installation, samples: SampleImages, clock: ManualClock, target: str
) -> None:
    slot, key, data = publish_to(home, samples, target)
    assert list_unknown(home, ADMIN, grace=WEEK) == []
    delete(home)
    late(home, slot, key, data)
    for _ in range(2):
        collect(home)
    assert home.access(slot).list_segments().present, "its segments were collected"
    clock.advance(3 * 86_400)
    found = one(list_unknown(home, ADMIN, grace=WEEK))
    assert (found.object.key, found.object.stored_bytes) == (key, len(data))
    assert found.known_for == timedelta(days=3), "not from when a collection first saw it"
    assert found.references.segments == len(home.access(slot).list_segments().present)
    assert not found.is_removable
    assert not one(remove_unknown(home, ADMIN, grace=WEEK)).removed, "its grace is not over"
    clock.advance(4 * 86_400)
    assert one(list_unknown(home, ADMIN, grace=WEEK)).is_removable
    assert one(remove_unknown(home, ADMIN, grace=WEEK)).removed
    assert list_unknown(home, ADMIN, grace=WEEK) == []
    for _ in range(2):
        collect(home)
    assert home.access(slot).list_segments().present == {}
    audit_collected(home)


def test_object_that_appears_again_has_a_new_grace(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    slot, key, data = publish_to(home, samples, "southcentralus")
    delete(home)
    late(home, slot, key, data)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    home.access(slot).remove([key])
    assert list_unknown(home, ADMIN, grace=WEEK) == []
    late(home, slot, key, data)
    assert not one(remove_unknown(home, ADMIN, grace=WEEK)).removed


def test_object_with_an_owner_in_the_catalog_is_kept(
    home: Installation, samples: SampleImages, clock: ManualClock, tmp_path: Path
) -> None:
    """A replica that was given up: its create, repeated, or the deletion of its version settles it."""
    slot, key, _ = publish_to(home, samples, "southcentralus")
    with home.catalog.transaction() as transaction:
        for row in transaction.manifests.in_slot(slot.uid):
            transaction.manifests.delete(row.uid)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    found = one(remove_unknown(home, ADMIN, grace=WEEK))
    assert (found.removed, found.object.key) == (False, key)
    assert found.kept_reason is not None
    assert found.kept_reason.startswith("version 1.0.0 exists")


def test_objects_of_an_open_work_are_not_unknown(home: Installation, samples: SampleImages, clock: ManualClock) -> None:
    slot, key, data = publish_to(home, samples, "southcentralus")
    owner = key.split("/")[1]
    delete(home)
    late(home, slot, key, data)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    with home.catalog.transaction() as transaction:
        work = transaction.works.open(kind=WorkKind.COPY, slot_uid=slot.uid, owner_uid=owner, plan={}, pins=())
    assert remove_unknown(home, ADMIN, grace=WEEK) == []
    assert home.locator.store(slot).get(slot.prefix + key) == data
    with home.catalog.transaction() as transaction:
        transaction.works.abandon(work.uid)
    assert not one(remove_unknown(home, ADMIN, grace=WEEK)).removed, "its grace began anew"


def test_unreadable_object_stops_its_slot_until_its_removal(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    slot, key, data = publish_to(home, samples, "southcentralus")
    delete(home)
    late(home, slot, key, data[:-9])
    assert any(report.problem for report in collect(home).slots)
    assert one(list_unknown(home, ADMIN, grace=WEEK)).references.problem is not None
    clock.advance(8 * 86_400)
    assert one(remove_unknown(home, ADMIN, grace=WEEK)).removed
    assert not any(report.problem for report in collect(home).slots)


def test_other_objects_are_kept(home: Installation, samples: SampleImages, clock: ManualClock, tmp_path: Path) -> None:
    slot, key, data = publish_to(home, samples, "southcentralus", "1.0.0")
    publish_to(home, samples, "southcentralus", "1.0.1")
    delete(home, "1.0.0")
    late(home, slot, key, data)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    assert one(remove_unknown(home, ADMIN, grace=WEEK)).removed
    for _ in range(2):
        collect(home)
    (tmp_path / "served").mkdir()
    audit_served(home, {"1.0.1": samples.first}, tmp_path / "served")
    assert all_slots(home)


def test_accepted_older_catalog_keeps_all_unknown_objects(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    slot, key, data = publish_to(home, samples, "southcentralus")
    delete(home)
    late(home, slot, key, data)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    with home.catalog.transaction() as transaction:
        transaction.installation.accept_outdated()
    with pytest.raises(CatalogOutdated, match="never removed"):
        remove_unknown(home, ADMIN, grace=WEEK)
    found = one(list_unknown(home, ADMIN, grace=WEEK))
    assert (found.removed, found.is_removable) == (False, False)
    assert home.locator.store(slot).get(slot.prefix + key) == data


def test_rights_for_unknown_objects(home: Installation) -> None:
    nobody = Principal(name="nobody", uid="00000000-0000-0000-0000-000000000009")
    for act in (list_unknown, remove_unknown):
        with pytest.raises(AccessDenied):
            act(home, nobody, grace=WEEK)


def test_command_lists_and_removes_unknown_objects(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        slot, key, data = publish_to(installation, samples, "southcentralus")
        delete(installation)
        late(installation, slot, key, data)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["gc", "--home", str(tmp_path / "home"), *words], prog_name="imgstore")
        assert result.exit_code == code, result.output
        return result.stdout

    (told,) = json.loads(run("--unknown"))["objects"]
    assert (told["key"], told["storedBytes"], told["removable"], told["removed"]) == (key, len(data), False, False)
    assert told["names"]["segments"] > 0
    assert key in run("--unknown", "-o", "table")
    (told,) = json.loads(run("--unknown", "--remove", "--yes"))["objects"]
    assert told["removed"] is False
    now = ["--unknown", "--remove", "--unknown-grace-days", "0"]
    assert run(*now, code=1) == "", "nobody was there to be asked"
    (told,) = json.loads(run(*now, "--dry-run"))["objects"]
    assert (told["removable"], told["removed"]) == (True, False)
    (told,) = json.loads(run(*now, "--yes"))["objects"]
    assert told["removed"] is True
    assert json.loads(run("--unknown"))["objects"] == []
    run("--remove", code=2)


def late_and_old(home: Installation, samples: SampleImages, clock: ManualClock) -> tuple[Slot, str]:
    """A late manifest whose grace is over."""
    slot, key, data = publish_to(home, samples, "southcentralus")
    delete(home)
    late(home, slot, key, data)
    list_unknown(home, ADMIN, grace=WEEK)
    clock.advance(8 * 86_400)
    return slot, key


def test_checkpoints_are_compared_before_the_removal(
    home: Installation, samples: SampleImages, clock: ManualClock
) -> None:
    """The process runs on while an older catalog is put back: it has opened its stores long ago."""
    slot, key = late_and_old(home, samples, clock)
    with home.catalog.transaction() as transaction:  # As a restored backup has it.
        transaction._session.connection.exec_driver_sql("DELETE FROM checkpoints")
    with pytest.raises(CatalogOutdated):
        remove_unknown(home, ADMIN, grace=WEEK)
    assert home.locator.store(slot).get(slot.prefix + key)


def test_catalog_marked_as_outdated_by_another_process_stops_the_removal(
    home: Installation, samples: SampleImages, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the check, and before the transaction that removes."""
    slot, key = late_and_old(home, samples, clock)
    real = unknown_objects._survey_all

    def look(installation: Installation, grace: timedelta) -> list[SlotUnknownObjects]:
        found = real(installation, grace)
        with installation.catalog.transaction() as transaction:
            transaction.installation.mark_outdated("a later checkpoint")
        return found

    monkeypatch.setattr(unknown_objects, "_survey_all", look)
    with pytest.raises(CatalogOutdated):
        remove_unknown(home, ADMIN, grace=WEEK)
    assert home.locator.store(slot).get(slot.prefix + key)
