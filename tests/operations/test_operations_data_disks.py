"""Versions with an OS disk and data disks by LUN: one version, one replica, one charge, and each disk under the LUN."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from imgstore.domain.disks.sources import DiskReader, Extent
from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.errors import (
    ImageNotAvailable,
    ImageRefused,
    InvalidInput,
    ObjectCorrupt,
    PropertyChangeNotAllowed,
    ReplicationFailed,
)
from imgstore.domain.requests import DataVhd, MachineRequest, OsProfile, ScrubRequest
from imgstore.domain.resources import ManagedDisk, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import VersionView
from imgstore.formats import LocalFile, open_disk
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.disks import verify as disks_verify
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import create_machine
from imgstore.operations.maintenance import scrub as maintenance_scrub
from imgstore.operations.versions import create as versions_create
from tests.support.sample_disks import compute_sha256, make_raw, patch_disk, write_vhd
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    TARGETS,
    all_slots,
    audit,
    audit_collected,
    audit_served,
    charges,
    collect,
    content,
    create_version,
    delete,
    export,
    export_disk,
    make_disk,
    named_segments,
    publish,
    publish_disks,
    reference,
    request,
    retarget,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

SOURCE = ["southcentralus=1"]


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, Path]:
    """The raw disks of 1.0.0: an OS disk, and data disks at LUN 0 and 5, of which the second repeats the OS disk's files."""
    return {
        "1.0.0": make_raw(tmp_path / "os.raw", seed=1, virtual_bytes=12 * MIB, content_bytes=5 * MIB),
        "1.0.0/lun-0": make_raw(tmp_path / "data.raw", seed=2, virtual_bytes=16 * MIB, content_bytes=6 * MIB),
        "1.0.0/lun-5": make_raw(tmp_path / "copy.raw", seed=1, layout=1, virtual_bytes=20 * MIB, content_bytes=5 * MIB),
    }


def publish_all(installation: Installation, disks: Mapping[str, Path], **more: Any) -> VersionView:
    data = {0: disks["1.0.0/lun-0"], 5: disks["1.0.0/lun-5"]}
    return publish_disks(installation, disks["1.0.0"], data, **more)


def served(folder: Path) -> Path:
    made = folder / "served"
    made.mkdir(exist_ok=True)
    return made


def slot_of(installation: Installation, region: str, ordinal: int = 0) -> Slot:
    return next(each for each in all_slots(installation) if (each.key.region, each.key.ordinal) == (region, ordinal))


def segments_of(installation: Installation, slot: Slot, disk: str, version: str = "1.0.0") -> dict[bytes, int]:
    key = object_keys.manifest_key(show(installation, version).version.uid, disk)
    return named_segments(installation.locator.store(slot), slot, key)


def harm(installation: Installation, slot: Slot, name: bytes) -> None:
    """Flip a bit of a segment of a slot in one zone."""
    (path,) = (installation.home / "regions" / slot.bucket).glob(f"*/{slot.prefix}{object_keys.segment_key(name)}")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


# -- in and across ----------------------------------------------------------------------------------------------------


def test_every_disk_is_in_every_region(empty: Installation, disks: dict[str, Path], tmp_path: Path) -> None:
    view = publish_all(empty, disks)
    assert view.version.provisioning_state is ProvisioningState.SUCCEEDED
    assert view.version.disk_keys == ("os", "lun-0", "lun-5")
    assert [each.host_caching for each in view.version.disks] == ["ReadWrite", "ReadOnly", "ReadOnly"]
    assert [each.virtual_bytes for each in view.version.disks] == [12 * MIB, 16 * MIB, 20 * MIB]
    assert set(states(view).values()) == {ReplicaState.COMPLETED}
    audit(empty)
    audit_served(empty, disks, served(tmp_path))
    audit_collected(empty)
    rows = charges(empty)
    assert len(rows) == 3, "one row a replica, the source's first being free"
    arrived = sum(content(empty, slot_of(empty, "eastus")).segments.values())
    crossed = {row.target: row.delivered_bytes for row in rows if row.kind is ChargeKind.EGRESS}
    assert crossed == {"westus2": arrived, "eastus": arrived}, "each segment once over all disks"
    with empty.catalog.reading() as transaction:
        intervals = [len(transaction.ledger.open_intervals(slot.uid)) for slot in all_slots(empty)]
    assert intervals == [1, 1, 1, 1], "one interval a replica"
    assert publish_all(empty, disks) == view
    assert charges(empty) == rows


def test_data_disk_equal_to_the_os_disk_is_stored_once(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks, targets=SOURCE)
    slot = slot_of(empty, "southcentralus")
    os_disk, repeated = (segments_of(empty, slot, each) for each in ("os", "lun-5"))
    own = sum(size for name, size in repeated.items() if name not in os_disk)
    assert own < sum(os_disk.values()) // 8, "only its table of files"
    audit_served(empty, disks, served(tmp_path))


def test_a_disk_is_compared_with_its_own_lun(empty: Installation, disks: dict[str, Path], tmp_path: Path) -> None:
    publish_all(empty, disks, targets=SOURCE)
    before = sum(content(empty, slot_of(empty, "southcentralus")).segments.values())
    data = {0: patch_disk(disks["1.0.0/lun-0"], tmp_path / "patched.raw", seed=3)}
    os_disk = make_raw(tmp_path / "other.raw", seed=9, virtual_bytes=8 * MIB, content_bytes=MIB)
    publish_disks(empty, os_disk, data, "1.0.1", SOURCE)
    after = sum(content(empty, slot_of(empty, "southcentralus")).segments.values())
    slot = slot_of(empty, "southcentralus")
    assert after - before < sum(segments_of(empty, slot, "os", "1.0.1").values()) + 200 * 1024
    audit(empty)
    audit_served(empty, disks | {"1.0.1": os_disk, "1.0.1/lun-0": data[0]}, served(tmp_path))


def test_a_data_disk_comes_in_any_container(empty: Installation, disks: dict[str, Path], tmp_path: Path) -> None:
    data = {3: write_vhd(disks["1.0.0/lun-0"], tmp_path / "data.vhd")}
    publish_disks(empty, disks["1.0.0"], data, targets=SOURCE)
    audit_served(empty, {"1.0.0": disks["1.0.0"], "1.0.0/lun-3": disks["1.0.0/lun-0"]}, served(tmp_path))


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("luns", "message"),
    [((0, 0), "duplicate LUNs"), ((64,), "between 0 and 63, inclusive"), ((-1,), "between 0 and 63, inclusive")],
)
def test_invalid_luns_are_refused(
    empty: Installation, disks: dict[str, Path], luns: tuple[int, ...], message: str
) -> None:
    vhds = [DataVhd(lun=lun, uri=str(disks["1.0.0/lun-0"])) for lun in luns]
    with pytest.raises(InvalidInput, match=message) as caught:
        create_version(empty, ADMIN, request(), os_vhd_uri=str(disks["1.0.0"]), data_vhds=vhds)
    assert (caught.value.error_code, caught.value.target) == ("InvalidParameter", "dataDiskImages.lun")


def test_two_disks_of_one_file(empty: Installation, disks: dict[str, Path]) -> None:
    with pytest.raises(InvalidInput, match="OSDiskImage and DataDiskImage cannot point to same blob"):
        publish_disks(empty, disks["1.0.0"], {0: f"file://{disks['1.0.0']}"})
    with pytest.raises(InvalidInput, match="Data disk images cannot point to the same blob"):
        publish_disks(empty, disks["1.0.0"], {0: disks["1.0.0/lun-0"], 1: disks["1.0.0/lun-0"]})


def test_a_data_disk_has_a_limit_of_its_own(empty: Installation, disks: dict[str, Path]) -> None:
    small = replace(empty, limits=replace(empty.limits, data_disk_bytes_max=16 * MIB))
    with pytest.raises(ImageRefused, match="exceeds the limit") as caught:
        publish_all(small, disks)
    assert caught.value.expected == f"at most {16 * MIB} bytes (data_disk_bytes_max)"
    assert caught.value.target == "dataDiskImages[lun=5]"


def test_a_version_needs_an_os_disk(empty: Installation, disks: dict[str, Path]) -> None:
    with reader_of(empty, disks["1.0.0/lun-0"]) as reader, pytest.raises(InvalidInput, match="needs an OS disk"):
        versions_create.publish_readers(empty, ADMIN, request(), {"lun-0": reader})


def test_the_data_disks_of_a_version_never_change(empty: Installation, disks: dict[str, Path]) -> None:
    before = publish_all(empty, disks, targets=SOURCE)
    first, second = disks["1.0.0/lun-0"], disks["1.0.0/lun-5"]
    for data in ({}, {0: first}, {0: first, 6: second}, {0: first, 5: second, 6: disks["1.0.0"].with_name("new.raw")}):
        if 6 in data:
            make_raw(disks["1.0.0"].with_name("new.raw"), seed=8)
        with pytest.raises(PropertyChangeNotAllowed, match="Adding new Data Disks or changing the LUN") as caught:
            publish_disks(empty, disks["1.0.0"], data, targets=SOURCE)
        assert caught.value.status == 409
    with pytest.raises(PropertyChangeNotAllowed, match=r"dataDiskImages\[lun=0\]\.source"):
        publish_disks(empty, disks["1.0.0"], {0: second, 5: first}, targets=SOURCE)
    with pytest.raises(PropertyChangeNotAllowed, match=r"dataDiskImages\[lun=5\]\.hostCaching"):
        publish_all(empty, disks, targets=SOURCE, host_caching={"lun-5": HostCaching.NONE})
    assert show(empty) == before


# -- out --------------------------------------------------------------------------------------------------------------


def test_a_disk_is_made_of_a_lun(empty: Installation, disks: dict[str, Path], tmp_path: Path) -> None:
    publish_all(empty, disks)
    made = make_disk(empty, "data", "westus2", lun=5)
    assert (made.source_lun, made.virtual_bytes, made.replica) == (5, 20 * MIB, 0)
    assert make_disk(empty, "data", "westus2", lun=5) == made
    for other in (None, 0):
        with pytest.raises(PropertyChangeNotAllowed, match=r"galleryImageReference\.lun"):
            make_disk(empty, "data", "westus2", lun=other)
    delete(empty)
    collect(empty)
    audit_collected(empty)
    export_disk(empty, tmp_path / "o.raw", "data")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(disks["1.0.0/lun-5"])
    left = content(empty, slot_of(empty, "westus2"))
    assert set(left.manifests) == {
        object_keys.manifest_key(made.uid, "os"),
        made.body_key,
    }
    delete_disk(empty, ADMIN, group=GROUP, name="data")
    collect(empty)
    assert all_slots(empty)
    assert not any(content(empty, slot).manifests for slot in all_slots(empty))
    audit_collected(empty)
    with empty.catalog.reading() as transaction:
        assert [transaction.ledger.open_intervals(slot.uid) for slot in all_slots(empty)] == [[], [], [], []]


def test_missing_lun_is_reported_with_the_existing_luns(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks, targets=SOURCE)
    calls: list[Callable[[], object]] = [
        lambda: make_disk(empty, "d1", lun=1),
        lambda: export(empty, tmp_path / "o.raw", lun=1),
        lambda: disks_verify.verify_file(empty, ADMIN, path=disks["1.0.0"], reference=reference(), lun=1),
    ]
    for call in calls:
        with pytest.raises(ImageNotAvailable, match="has no data disk at LUN 1") as caught:
            call()
        assert caught.value.found == "the OS disk and data disks at LUN 0, 5"


def test_a_file_is_verified_against_a_lun(empty: Installation, disks: dict[str, Path]) -> None:
    publish_all(empty, disks, targets=SOURCE)

    def matches(lun: int | None) -> bool:
        path = disks["1.0.0/lun-0"]
        return disks_verify.verify_file(empty, ADMIN, path=path, reference=reference("1.0.0"), lun=lun).matches

    assert [matches(lun) for lun in (None, 0, 5)] == [False, True, False]


def machine(installation: Installation, name: str) -> list[ManagedDisk]:
    profile = OsProfile(admin_username="ops")
    image = f"{GROUP}/{GALLERY}/ubuntu"
    asked = MachineRequest(group=GROUP, name=name, location="southcentralus", image=image, profile=profile)
    made = create_machine(installation, ADMIN, asked).disks
    return sorted(made, key=lambda disk: -1 if disk.machine_lun is None else disk.machine_lun)


def test_disks_of_a_machine_advance_the_round_robin_once_and_share_a_replica(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks, targets=["southcentralus=2"])
    made = [machine(empty, f"vm{number}") for number in range(4)]
    assert [[disk.replica for disk in each] for each in made] == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]
    assert [disk.machine_lun for disk in made[0]] == [None, 0, 5]
    assert machine(empty, "vm1") == made[1]
    assert machine(empty, "vm4")[0].replica == 0, "nothing but a new machine takes a turn"
    audit(empty)
    audit_served(empty, disks, served(tmp_path))


def test_disks_of_a_machine_are_created_together_or_not_at_all(
    empty: Installation, disks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(empty, disks, targets=["southcentralus=2"])
    real = make_disk(empty, "other", lun=5)
    monkeypatch.setattr("imgstore.operations.slots.references.encode_reference", None)
    with pytest.raises(TypeError):
        machine(empty, "vm0")
    monkeypatch.undo()
    with empty.catalog.reading() as transaction:
        begun = [each for each in transaction.disks.list(empty.subscription, GROUP) if each.uid != real.uid]
    assert {each.machine_lun for each in begun} == {None, 0, 5}
    made = machine(empty, "vm0")
    assert {each.uid for each in made} == {each.uid for each in begun}
    assert {each.provisioning_state for each in made} == {ProvisioningState.SUCCEEDED}
    audit(empty)


# -- gone, damaged, interrupted ---------------------------------------------------------------------------------------


def test_deletion_of_a_version_removes_all_disks(empty: Installation, disks: dict[str, Path]) -> None:
    publish_all(empty, disks)
    delete(empty)
    assert not any(content(empty, slot).manifests for slot in all_slots(empty))
    collect(empty)
    assert not any(path.is_file() for path in (empty.home / "regions").rglob("segments/*/*"))
    audit_collected(empty)


def test_shared_bytes_of_a_deleted_version_are_billed_to_the_next_version(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks)
    data = {0: patch_disk(disks["1.0.0/lun-0"], tmp_path / "patched.raw", seed=3)}
    publish_disks(empty, patch_disk(disks["1.0.0"], tmp_path / "1.0.1.raw", seed=4), data, "1.0.1")
    delete(empty)
    audit(empty)
    delete(empty, "1.0.1")
    audit(empty)


def test_replica_with_a_damaged_data_disk_is_not_restored(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks)
    slot = slot_of(empty, "eastus")
    harm(empty, slot, min(segments_of(empty, slot, "lun-0")))
    export(empty, tmp_path / "o.raw", "eastus", lun=0)
    with empty.catalog.transaction() as transaction:  # As in the catalog of an older release.
        transaction.lost_objects.remove(slot.uid, transaction.lost_objects.list(slot.uid))
    (found,) = maintenance_scrub.scrub(empty, ADMIN, ScrubRequest(region="eastus", percent=0.0))
    assert (found.damaged, found.restored) == (set(), 0), "no segment was read"
    assert states(show(empty))["eastus/0"] is ReplicaState.DEGRADED, "still restorable (invariant R15)"


def test_removed_region_frees_the_bytes_of_every_disk(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks)
    slot = slot_of(empty, "eastus")
    retarget(empty, TARGETS[:2])
    assert content(empty, slot).manifests == {}
    collect(empty)
    audit(empty, collected=True)
    audit_collected(empty)
    retarget(empty, TARGETS)
    audit(empty, collected=True)
    audit_served(empty, disks, served(tmp_path))


@pytest.mark.parametrize("way", ["repeat", "scrub"])
@pytest.mark.parametrize("disk", ["os", "lun-0"])
def test_damage_in_one_disk_degrades_the_replica_until_the_repair(
    empty: Installation, disks: dict[str, Path], tmp_path: Path, way: str, disk: str
) -> None:
    publish_all(empty, disks)
    rows, slot = charges(empty), slot_of(empty, "eastus")
    harm(empty, slot, min(segments_of(empty, slot, disk)))
    export(empty, tmp_path / "o.raw", "eastus", lun=0 if disk == "lun-0" else None)
    if way == "scrub":
        (found,) = [
            each for each in maintenance_scrub.scrub(empty, ADMIN, ScrubRequest(region="eastus")) if each.damaged
        ]
        assert (found.unrepaired, found.restored) == ([], 1)
    else:
        assert states(show(empty))["eastus/0"] is ReplicaState.DEGRADED
        publish_all(empty, disks)
    assert set(states(show(empty)).values()) == {ReplicaState.COMPLETED}
    assert [row for row in charges(empty) if row.kind is not ChargeKind.REPAIR] == rows, "charged once"
    audit(empty)
    audit_served(empty, disks, served(tmp_path))


def test_lost_manifest_of_a_data_disk_is_copied_from_another_slot(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    publish_all(empty, disks)
    slot, key = slot_of(empty, "eastus"), object_keys.manifest_key(show(empty).version.uid, "lun-5")
    empty.access(slot).remove([key])
    (found,) = maintenance_scrub.scrub(empty, ADMIN, ScrubRequest(region="eastus"))
    assert (found.damaged, found.unrepaired, found.restored) == ({key}, [], 1)
    audit(empty)
    audit_served(empty, disks, served(tmp_path))


class _Counting:
    """A reader that counts what is read of it, and can be made to break."""

    def __init__(self, reader: DiskReader) -> None:
        self._reader = reader
        self.read_bytes = 0
        self.broken = False
        self._lock = threading.Lock()
        self.before_reading: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def extents(self) -> list[Extent]:
        return list(self._reader.extents())

    def read_at(self, offset: int, length: int) -> bytes:
        if self.broken:
            raise KeyboardInterrupt
        with self._lock:
            if self.before_reading is not None and self.read_bytes > 0:
                self.before_reading()
                self.before_reading = None
            self.read_bytes += length
        return self._reader.read_at(offset, length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()


def reader_of(installation: Installation, path: Path) -> Any:
    return _Counting(open_disk(LocalFile(path), format=None, scratch=installation.scratch))


def test_repeated_command_resumes_at_the_interrupted_disk(
    empty: Installation, disks: dict[str, Path], tmp_path: Path
) -> None:
    with reader_of(empty, disks["1.0.0"]) as os_disk, reader_of(empty, disks["1.0.0/lun-0"]) as data:
        readers = {"lun-0": data, "os": os_disk}
        data.broken = True
        with pytest.raises(KeyboardInterrupt):
            versions_create.publish_readers(empty, ADMIN, request(), readers)
        assert states(show(empty))["southcentralus/0"] is ReplicaState.REPLICATING
        with pytest.raises(ImageNotAvailable):
            make_disk(empty, "d1", version="1.0.0")
        collect(empty)
        first, data.broken = os_disk.read_bytes, False
        view = versions_create.publish_readers(empty, ADMIN, request(), readers)
        assert os_disk.read_bytes - first <= 4096 < first, (
            "the OS disk was in already: its partition table alone is read"
        )
    assert set(states(view).values()) == {ReplicaState.COMPLETED}
    audit(empty)
    del disks["1.0.0/lun-5"]
    # Invariant I18.
    audit_served(empty, disks, served(tmp_path))


@pytest.mark.parametrize("lost", ["manifest", "segment"])
def test_repeated_command_stores_missing_objects_again(
    empty: Installation, disks: dict[str, Path], tmp_path: Path, lost: str
) -> None:
    with reader_of(empty, disks["1.0.0"]) as os_disk, reader_of(empty, disks["1.0.0/lun-0"]) as data:
        readers = {"os": os_disk, "lun-0": data}
        data.broken = True
        with pytest.raises(KeyboardInterrupt):
            versions_create.publish_readers(empty, ADMIN, request(targets=SOURCE), readers)
        slot = slot_of(empty, "southcentralus")
        there = content(empty, slot)
        gone = next(iter(there.manifests)) if lost == "manifest" else object_keys.segment_key(min(there.segments))
        empty.access(slot).remove([gone])
        first, data.broken = os_disk.read_bytes, False
        versions_create.publish_readers(empty, ADMIN, request(targets=SOURCE), readers)
        assert os_disk.read_bytes == 2 * first, "read anew"
    audit(empty)
    del disks["1.0.0/lun-5"]
    audit_served(empty, disks, served(tmp_path))


@pytest.mark.parametrize("repeats", ["all", "little"])
def test_os_disk_damage_during_the_ingest_of_a_data_disk(
    empty: Installation, disks: dict[str, Path], tmp_path: Path, repeats: str
) -> None:
    """The damage is found when blocks of a data disk are read back, or are repacked because little of a segment is used."""
    path = disks["1.0.0/lun-5"]
    if repeats == "little":
        path = disks["1.0.0/lun-0"]
        with disks["1.0.0"].open("rb") as source, path.open("r+b") as file:
            source.seek(5 * MIB // 2)
            file.seek(15 * MIB)
            file.write(source.read(256 * 1024))
    with reader_of(empty, disks["1.0.0"]) as os_disk, reader_of(empty, path) as data:
        data.before_reading = lambda: harm_all(empty)
        with pytest.raises(ObjectCorrupt):
            versions_create.publish_readers(
                empty, ADMIN, request(targets=SOURCE, verify_full=True), {"os": os_disk, "lun-5": data}
            )
        data.before_reading = None
        assert show(empty).replicas[0].state is ReplicaState.FAILED
        versions_create.publish_readers(empty, ADMIN, request(targets=SOURCE), {"os": os_disk, "lun-5": data})
    audit(empty)
    audit_served(empty, {"1.0.0": disks["1.0.0"], "1.0.0/lun-5": path}, served(tmp_path))


def harm_all(installation: Installation) -> None:
    slot = slot_of(installation, "southcentralus")
    for name in content(installation, slot).segments:
        harm(installation, slot, name)


def test_segments_of_a_data_disk_of_an_open_work_are_not_collected(empty: Installation, disks: dict[str, Path]) -> None:
    """The process is killed after the ingest of all disks and before completion, with fingerprints of the data disks.

    Segments of a deleted version make the collector read fingerprints.
    """
    publish(empty, make_raw(disks["1.0.0"].with_name("gone.raw"), seed=7), "0.9.0", SOURCE)
    delete(empty, "0.9.0")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("imgstore.operations.replication.ingest.complete_replica", _interrupted)
        publish_all(empty, disks, targets=SOURCE)
    slot = slot_of(empty, "southcentralus")
    before = content(empty, slot)
    mine = {key for key in before.overhead if key.startswith(object_keys.FINGERPRINTS)}
    assert len(mine) == 4, "of three disks, and of the version that is gone"
    collect(empty)
    left = content(empty, slot).overhead
    assert len(mine & left.keys()) == 3
    publish_all(empty, disks, targets=SOURCE)
    audit(empty)


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_replica_is_complete_only_with_all_disks(empty: Installation, disks: dict[str, Path]) -> None:
    """A region without the manifest of the last disk offers no replica and is not charged."""
    view = publish_all(empty, disks, targets=SOURCE)
    access, key = empty.access(slot_of(empty, "southcentralus")), object_keys.manifest_key(view.version.uid, "lun-5")
    body = access.get_object(key, lambda _body: True)
    access.remove([key])
    with pytest.raises(ReplicationFailed):
        retarget(empty, [*SOURCE, "eastus"])
    assert states(show(empty))["eastus/0"] is ReplicaState.FAILED
    assert charges(empty) == []
    with pytest.raises(ImageNotAvailable):
        make_disk(empty, "d1", "eastus", "1.0.0")
    access.put_manifest(key, body)
    publish_all(empty, disks, targets=[*SOURCE, "eastus"])
    assert len(charges(empty)) == 1
    # Invariant S9.
    audit(empty)


def test_version_with_a_single_disk_has_one_manifest(empty: Installation, disks: dict[str, Path]) -> None:
    view = publish(empty, disks["1.0.0"], targets=SOURCE)
    assert view.version.data_disks == ()
    assert len(content(empty, slot_of(empty, "southcentralus")).manifests) == 1
