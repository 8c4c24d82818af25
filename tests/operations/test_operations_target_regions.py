"""Changes of target regions and replica counts: replicas are added in new regions and removed in former ones."""

import filecmp
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import (
    Conflict,
    ImageNotAvailable,
    InvalidInput,
    ReplicationFailed,
    StoreUnreachable,
    WorkHeld,
)
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber
from imgstore.domain.resources import StorageAccountType, TargetRegionRequest
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.installation import Installation
from imgstore.operations.replication import targets as replication_targets
from imgstore.stores.directory import DirectoryStore
from imgstore.transfer.slot_access import SlotAccess
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    TARGETS,
    SampleImages,
    all_slots,
    audit,
    audit_served,
    charges,
    content,
    create_sample_gallery,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    retarget,
    show,
    states,
    target,
    update,
)

pytest_plugins = ["tests.support.published_gallery"]

COMPLETED = ReplicaState.COMPLETED
SOUTH, WEST, EAST = "southcentralus=2", "westus2=1=Standard_ZRS", "eastus"


def bytes_of(installation: Installation, region: str) -> int:
    """What is billed for a region now."""
    total = 0
    with installation.catalog.reading() as transaction:
        for slot in all_slots_of(installation, region):
            total += sum(interval.stored_bytes for interval in transaction.ledger.open_intervals(slot))
    return total


def all_slots_of(installation: Installation, region: str) -> list[str]:
    return [slot.uid for slot in all_slots(installation) if slot.key.region == region]


def deleting(installation: Installation) -> list[str]:
    with installation.catalog.reading() as transaction:
        rows = transaction.replicas.list(show(installation).version.uid)
    return [str(row.slot.key) for row in rows if row.state is ReplicaState.DELETING]


def notes_into(notes: list[str]) -> Subscriber:
    def subscriber(event: ProgressEvent) -> None:
        if event.stage is Stage.NOTE:
            notes.append(event.detail)

    return subscriber


# -- adding, removing ---------------------------------------------------------------------------------------------------


def test_a_region_is_added_and_copied(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    published_at = show(published).version.published_at
    view = retarget(published, [SOUTH, WEST, EAST, "northeurope"])
    assert states(view)["northeurope/0"] is COMPLETED
    assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert view.version.published_at == published_at
    row = next(row for row in charges(published) if row.target == "northeurope")
    assert (row.kind, row.source) == (ChargeKind.EGRESS, "southcentralus")
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)


def test_replicas_inside_the_region_are_free(published: Installation) -> None:
    view = retarget(published, ["southcentralus=3", WEST, "eastus=2"])
    assert {"southcentralus/2", "eastus/1"} <= set(states(view))
    added = charges(published)[-2:]
    assert [(row.kind, row.amount) for row in added] == [(ChargeKind.COPY, Decimal(0))] * 2
    audit(published)


def test_removed_region_frees_and_reports_its_bytes(tmp_path: Path, samples: SampleImages) -> None:
    notes: list[str] = []
    # Invariant S7.
    with open_home(tmp_path / "home", notes_into(notes)) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first)
        before = bytes_of(installation, "eastus")
        view = retarget(installation, [SOUTH, WEST])
        assert [target.name for target in view.version.target_regions] == ["southcentralus", "westus2"]
        assert not [name for name in states(view) if name.startswith("eastus")]
        assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
        assert bytes_of(installation, "eastus") == 0
        assert f"eastus/0 removed: {before} bytes freed" in notes
        slot = next(each for each in all_slots(installation) if each.key.region == "eastus")
        assert content(installation, slot).manifests == {}
        with pytest.raises(ImageNotAvailable):
            make_disk(installation, "d1", "eastus", "1.0.0")
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)


def test_shared_bytes_stay_and_are_reported_separately(tmp_path: Path, samples: SampleImages) -> None:
    notes: list[str] = []
    with open_home(tmp_path / "home", notes_into(notes)) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first)
        publish(installation, samples.second, "1.0.1")
        make_disk(installation, "d1", "eastus", "1.0.1")
        before = bytes_of(installation, "eastus")
        notes.clear()
        retarget(installation, [SOUTH, WEST], "1.0.1")
        freed, shared, kept = (int(part.split(" bytes")[0].rsplit(" ", 1)[-1]) for part in notes[-1].split("; "))
        assert notes[-1].endswith("bytes stay for the disks d1")
        assert freed == 0, "the disk names every segment, and the manifest"
        assert shared > kept > 0
        audit(installation)
        with installation.catalog.reading() as transaction:
            disk_manifests = [
                row for slot in all_slots_of(installation, "eastus") for row in transaction.manifests.in_slot(slot)
            ]
        assert len(disk_manifests) == 2
        # The version's own manifest stays as the disk's body, and the disk pays for the manifest (invariant M9).
        assert bytes_of(installation, "eastus") == before
        for target in (tmp_path / "served",):
            target.mkdir()
            audit_served(installation, {"1.0.0": samples.first, "1.0.1": samples.second}, target)


def test_a_disk_outlives_its_region_and_its_version(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    make_disk(published, "d1", "eastus", "1.0.0")
    retarget(published, [SOUTH, WEST])
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)
    delete(published)
    export_disk(published, tmp_path / "d1.raw", "d1")
    assert filecmp.cmp(tmp_path / "d1.raw", samples.first, shallow=False)
    # Invariant S6.
    audit(published)


def test_fewer_replicas_keep_those_that_are_complete(published: Installation) -> None:
    worse = next(
        each for each in show(published).replicas if str(each.slot.key).startswith("southcentralus/Standard_LRS/0")
    )
    with published.catalog.transaction() as transaction:
        transaction.replicas.move(worse.uid, ReplicaState.DEGRADED, error="for the test")
    view = retarget(published, ["southcentralus=1", WEST, EAST])
    assert states(view) == {"southcentralus/1": COMPLETED, "westus2/0": COMPLETED, "eastus/0": COMPLETED}
    assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
    audit(published)


def test_region_added_again_reuses_stored_segments_and_pays_nothing(
    published: Installation,
) -> None:
    first = next(row for row in charges(published) if row.target == "eastus")
    retarget(published, [SOUTH, WEST])
    slot = next(each for each in all_slots(published) if each.key.region == "eastus")
    store = published.locator.store(slot)
    before = {info.key: info.last_modified for info in store.list(slot.prefix + object_keys.SEGMENTS)}
    view = retarget(published, list(TARGETS))
    assert states(view)["eastus/0"] is COMPLETED
    rows = [row for row in charges(published) if row.target == "eastus"]
    assert [row.delivered_bytes for row in rows] == [first.delivered_bytes, 0]
    assert {info.key: info.last_modified for info in store.list(slot.prefix + object_keys.SEGMENTS)} == before
    audit(published, collected=True)


def test_replica_of_another_type_is_copied_inside_the_region_before_the_removal(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """Also where it is the version's only region, and the only bytes there are."""
    retarget(published, ["southcentralus"])
    view = update(
        published,
        target_regions=[
            TargetRegionRequest(name="South Central US", storage_account_type=StorageAccountType.STANDARD_ZRS)
        ],
    )
    assert [(str(each.slot.key), each.state) for each in view.replicas] == [
        ("southcentralus/Standard_ZRS/0", COMPLETED)
    ]
    assert charges(published)[-1].kind is ChargeKind.COPY
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)


def test_the_only_complete_replicas_stay_until_others_are_complete(
    tmp_path: Path, samples: SampleImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DirectoryStore.put

    def refuse(store: DirectoryStore, key: str, *args: Any, **kwargs: Any) -> Any:
        if "/Standard_ZRS/" in key:
            raise StoreUnreachable("down", found="nothing", expected="an answer", hint="wait")
        return real(store, key, *args, **kwargs)

    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
        with monkeypatch.context() as patch:
            patch.setattr(DirectoryStore, "put", refuse)
            with pytest.raises(ReplicationFailed):
                retarget(installation, ["southcentralus=1=Standard_ZRS"])
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)
        make_disk(installation, "d1")
        view = update(installation)
        assert [str(each.slot.key) for each in view.replicas] == ["southcentralus/Standard_ZRS/0"]
        audit(installation)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)


# -- how it is asked for ------------------------------------------------------------------------------------------------


def test_repeated_create_changes_the_target_regions(published: Installation, samples: SampleImages) -> None:
    view = publish(published, samples.first, targets=["southcentralus", "northeurope"])
    assert set(states(view)) == {"southcentralus/0", "northeurope/0"}
    audit(published)


def test_repeated_create_without_targets_keeps_the_target_regions(
    published: Installation, samples: SampleImages
) -> None:
    before = show(published)
    assert publish(published, samples.first, targets=[]) == before


def test_replica_count_changes_regions_with_the_default_count(published: Installation) -> None:
    """Two in southcentralus were asked for by name, one elsewhere by default."""
    view = update(published, replica_count=3)
    assert [(each.name, each.regional_replica_count) for each in view.version.target_regions] == [
        ("southcentralus", 2),
        ("westus2", 3),
        ("eastus", 3),
    ]
    assert len(view.replicas) == 8
    audit(published)


def test_existing_region_keeps_properties_that_are_not_given(published: Installation) -> None:
    excluded = [replace(each.as_request(), exclude_from_latest=True) for each in show(published).version.target_regions]
    update(published, target_regions=excluded)
    with pytest.raises(ImageNotAvailable, match="no latest"):
        make_disk(published, "d1", "westus2")
    view = update(
        published, target_regions=[TargetRegionRequest(name=name) for name in ("southcentralus", "West US 2")]
    )
    west = view.version.target_regions[1]
    assert (west.storage_account_type, west.exclude_from_latest) == (StorageAccountType.STANDARD_ZRS, True)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (["eastus"], "profile regions 'eastus' must contain the location of image version 'South Central US'"),
        ([SOUTH, "atlantis"], "atlantis"),
        ([SOUTH, "eastus", "East US"], "Duplicate regions are not allowed"),
        (["southcentralus=11"], "The value 11 of parameter regionalReplicaCount is out of range"),
    ],
)
def test_a_refused_update_changes_nothing(published: Installation, targets: list[str], text: str) -> None:
    before = show(published)
    with pytest.raises(InvalidInput) as caught:
        retarget(published, targets)
    assert text in caught.value.message
    assert show(published) == before


def test_replicated_location_is_kept_by_the_safety_profile(published: Installation) -> None:
    update(published, allow_deletion_of_replicated_locations=False)
    with pytest.raises(Conflict, match="allowDeletionOfReplicatedLocations is false") as caught:
        retarget(published, [SOUTH, EAST])
    assert caught.value.found is not None
    assert "westus2" in caught.value.found
    retarget(published, ["southcentralus=1", WEST, EAST])  # one replica of two: the location stays
    view = update(
        published,
        allow_deletion_of_replicated_locations=True,
        target_regions=[TargetRegionRequest(name="southcentralus")],
    )
    assert set(states(view)) == {"southcentralus/0"}
    audit(published)


# -- beside others ------------------------------------------------------------------------------------------------------


class Meanwhile:
    """Does something once, in a thread of its own, when a task's bytes begin to move; the task waits `until` it shows."""

    def __init__(self, task: str, act: Callable[[], object], until: Callable[[], bool] = lambda: False) -> None:
        self.errors: list[BaseException] = []
        self._task, self._act, self._until = task, act, until
        self._once = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __call__(self, event: ProgressEvent) -> None:
        if event.task == self._task and event.stage is Stage.MOVED and self._once.acquire(blocking=False):
            self._thread.start()
            while self._thread.is_alive() and not self._until():
                self._thread.join(0.02)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._act()
        except Exception as error:  # noqa: BLE001 - asserted on by the test
            self.errors.append(error)


@contextmanager
def another(home: Path, **settings: Any) -> Iterator[Installation]:
    """The same home as a process of another machine sees it."""
    with open_home(home, **settings) as installation:
        installation.keeper.holder = "another/boot/1/1"
        yield installation


def large(folder: Path) -> Path:
    return make_raw(folder / "large.raw", seed=7, virtual_bytes=32 * MIB, content_bytes=20 * MIB)


def test_region_removed_during_its_copy_stops_only_this_copy(tmp_path: Path) -> None:
    home, source = tmp_path / "home", large(tmp_path)

    def remove() -> None:
        with another(home) as other:
            retarget(other, ["southcentralus", "northeurope"])

    meanwhile = Meanwhile("eastus/0", remove, until=lambda: bool(deleting(installation)))
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        publish(installation, source, targets=["southcentralus", "eastus", "northeurope"])
        meanwhile.join()
        view = show(installation)
        # The other process may find northeurope in the hands of this one.
        assert {type(error) for error in meanwhile.errors} <= {ReplicationFailed}
        assert states(view) == {"southcentralus/0": COMPLETED, "northeurope/0": COMPLETED}
        assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
        assert [row.target for row in charges(installation)] == ["northeurope"]
        assert deleting(installation) == []
        slot = next(each for each in all_slots(installation) if each.key.region == "eastus")
        there = content(installation, slot)
        assert (there.manifests, there.overhead) == ({}, {})
        audit_served(installation, {"1.0.0": source}, tmp_path)


def test_region_added_during_another_copy_is_copied_too(tmp_path: Path) -> None:
    home, source = tmp_path / "home", large(tmp_path)
    made: list[object] = []

    def add() -> None:
        with another(home) as other, other.catalog.transaction() as transaction:
            version = show(installation).version
            version = replace(
                version,
                target_regions=(*version.target_regions, replace(version.target_regions[1], name="northeurope")),
            )
            transaction.versions.update(version)
            gallery = transaction.galleries.list(other.subscription)[0]
            definition = transaction.definitions.list(gallery.uid)[0]
            line = DefinitionPath(gallery=gallery, definition=definition)
            replication_targets.retarget(other, transaction, line, version)
            made.append(version)

    meanwhile = Meanwhile("eastus/0", add)
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        view = publish(installation, source, targets=["southcentralus", "eastus"])
        assert meanwhile.errors == []
        assert made
        assert states(view)["northeurope/0"] is COMPLETED
        assert [each.name for each in view.version.target_regions] == ["southcentralus", "eastus", "northeurope"]
        audit(installation)


def test_update_during_the_ingest_is_not_lost(tmp_path: Path) -> None:
    home, source = tmp_path / "home", large(tmp_path)

    def change() -> None:
        with another(home) as other:
            update(other, tags={"a": "1"}, target_regions=[TargetRegionRequest(name="southcentralus")])

    def written() -> bool:
        return show(installation).version.tags == {"a": "1"}

    meanwhile = Meanwhile("southcentralus/0", change, until=written)
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        publish(installation, source, targets=["southcentralus", "eastus"])
        meanwhile.join()  # An update waits for what others are at work on.
        assert meanwhile.errors == []
        view = show(installation)
        assert view.version.tags == {"a": "1"}
        assert states(view) == {"southcentralus/0": COMPLETED}
        audit(installation)


def test_replica_with_a_running_ingest_is_not_removed(tmp_path: Path) -> None:
    home, source = tmp_path / "home", large(tmp_path)

    def change() -> None:
        with another(home) as other:
            retarget(other, ["southcentralus=1=Standard_ZRS"])

    meanwhile = Meanwhile("southcentralus/0", change)
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        view = publish(installation, source, targets=["southcentralus"])
        assert [type(error) for error in meanwhile.errors] == [WorkHeld]
        assert states(view) == {"southcentralus/0": COMPLETED}
        audit(installation)


def test_region_in_use_is_removed_after_the_read(tmp_path: Path, samples: SampleImages) -> None:
    home = tmp_path / "home"
    seen: list[list[str]] = []

    def remove() -> None:
        with another(home) as other:
            retarget(other, ["southcentralus"])
            seen.append(deleting(other))

    meanwhile = Meanwhile("export version.raw", remove)
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
        export(installation, tmp_path / "version.raw", "eastus")
        assert meanwhile.errors == []
        assert filecmp.cmp(tmp_path / "version.raw", samples.first, shallow=False)
        assert seen == [["eastus/Standard_LRS/0"]]
        # A collection that is started for one subscription tidies those of all.
        removals = replication_targets.remove_all_surplus_replicas(
            replace(installation, subscription=installation.effects.new_uid())
        )
        assert [removal.waits_for for removal in removals] == [None]
        audit(installation)


def test_a_region_is_added_again_while_a_reader_keeps_the_old(tmp_path: Path, samples: SampleImages) -> None:
    """The new replica waits for the slot, and is made by the next update."""
    home = tmp_path / "home"
    seen: list[dict[str, ReplicaState]] = []

    def remove_and_add() -> None:
        with another(home) as other:
            retarget(other, ["southcentralus"])
            seen.append(states(retarget(other, ["southcentralus", "eastus"])))

    meanwhile = Meanwhile("export version.raw", remove_and_add)
    with open_home(home, meanwhile) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
        export(installation, tmp_path / "version.raw", "eastus")
        assert meanwhile.errors == []
        assert seen == [{"southcentralus/0": COMPLETED, "eastus/0": ReplicaState.PENDING}]
        assert states(update(installation)) == {"southcentralus/0": COMPLETED, "eastus/0": COMPLETED}
        audit(installation, collected=True)
        audit_served(installation, {"1.0.0": samples.first}, tmp_path)


def test_disk_made_during_the_removal_of_its_region_is_complete_or_refused(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    made: list[str] = []
    refused: list[Exception] = []
    begin = threading.Barrier(2)

    def make() -> None:
        with another(published.home) as other:
            begin.wait()
            for number in range(12):
                try:
                    make_disk(other, f"d{number}", "eastus", "1.0.0")
                    made.append(f"d{number}")
                except Conflict as error:
                    refused.append(error)
                except ImageNotAvailable as error:
                    refused.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    begin.wait()
    retarget(published, [SOUTH, WEST])
    thread.join()
    assert len(made) + len(refused) == 12
    update(published)
    assert deleting(published) == []
    audit(published)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)


def test_a_version_that_is_deleted_can_not_be_changed(published: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete stops after its tombstone: what comes then finds it marked."""
    found = show(published).version
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "delete", lambda *_: (_ for _ in ()).throw(StoreUnreachable("down")))
        with pytest.raises(StoreUnreachable):
            delete(published)
    with pytest.raises(Exception, match="not found"):
        retarget(published, [SOUTH])
    assert replication_targets.remove_surplus_replicas(published, found.uid) == []
    delete(published)
    audit(published)


def test_a_region_whose_store_is_down_can_be_removed_and_added_again(
    published: Installation, samples: SampleImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = DirectoryStore.delete
    # The answer to the delete is lost, so its key is blocked for the sum of both times.
    published = replace(published, tuning=replace(published.tuning, removal_lease_seconds=3.0, delete_seconds_max=0.0))

    def down(store: DirectoryStore, stored: Any) -> None:
        if any("eastus" in str(value) for value in (store, *stored)) or "eastus" in str(vars(store)):
            raise StoreUnreachable("down", found="nothing", expected="an answer", hint="wait")
        real(store, stored)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "delete", down)
        view = retarget(published, [SOUTH, WEST])
        assert not [name for name in states(view) if name.startswith("eastus")]
        assert bytes_of(published, "eastus") == 0
        assert deleting(published) == ["eastus/Standard_LRS/0"]
    assert states(retarget(published, list(TARGETS)))["eastus/0"] is COMPLETED
    audit(published, collected=True)
    audit_served(published, {"1.0.0": samples.first}, tmp_path)


def test_slot_is_not_used_again_before_the_removal_of_the_old_replica(
    published: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing by one process is slow: it has removed the rows, and its delete of the manifest is still to come."""
    home = published.home
    seen: list[dict[str, ReplicaState]] = []
    errors: list[str] = []
    real = SlotAccess.remove

    def slowly(access: SlotAccess, gone: Any, *more: Any) -> bool:
        if not seen and "eastus" in access.label:
            with another(home) as other:
                seen.append(states(retarget(other, list(TARGETS))))
                errors.extend(
                    str(each.waits_for)
                    for each in replication_targets.remove_surplus_replicas(other, show(other).version.uid)
                )
        return real(access, gone, *more)

    monkeypatch.setattr(SlotAccess, "remove", slowly)
    retarget(published, [SOUTH, WEST])
    assert seen[0]["eastus/0"] is ReplicaState.PENDING
    assert "is in use" in errors[0]
    assert states(update(published))["eastus/0"] is COMPLETED
    # Invariant S8.
    audit(published, collected=True)


def test_two_concurrent_updates_of_a_version(postgresql: str, tmp_path: Path) -> None:
    """Where transactions run side by side: no deadlock, no lost update, and what stands in the end is whole."""
    source = make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 << 20, content_bytes=1 << 20)
    unforeseen: list[Exception] = []
    wants = {
        "one": (["southcentralus=3", "eastus"], ["southcentralus", "northeurope"]),
        "other": (["southcentralus=2", "northeurope", "eastus=2"], ["southcentralus=1=Standard_ZRS"]),
    }

    def change(name: str, installation: Installation) -> None:
        for turn in range(8):
            try:
                update(
                    installation,
                    tags={name: str(turn)},
                    target_regions=[target(each) for each in wants[name][turn % 2]],
                )
            except Conflict:
                continue  # In the other's hands; the last word below goes on.
            except Exception as error:  # noqa: BLE001 - asserted on below
                unforeseen.append(error)

    with open_home(tmp_path / "home", database=postgresql) as installation:
        create_sample_gallery(installation)
        publish(installation, source, targets=["southcentralus", "eastus"])
        with another(installation.home, database=postgresql) as other:
            opened = {"one": installation, "other": other}
            threads = [threading.Thread(target=change, args=each) for each in opened.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert unforeseen == []
        view = retarget(installation, ["southcentralus=2", "eastus"])
        assert len(view.replicas) == 3
        assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
        assert replication_targets.remove_all_surplus_replicas(installation) == []
        audit(installation, collected=True)
        audit_served(installation, {"1.0.0": source}, tmp_path)
