"""Machines as records: disks from a replica or a managed image, attached disks, and images of machines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain import names
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImageNotAvailable,
    ImgstoreError,
    InvalidInput,
    NotFound,
    PropertyChangeNotAllowed,
)
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.machines import SIZE, DiskAttachment
from imgstore.domain.names import VersionName
from imgstore.domain.requests import (
    DiskRequest,
    ImageRequest,
    MachineDiskRequest,
    MachineRequest,
    OsProfile,
    VersionRequest,
)
from imgstore.domain.resources import DiskKind, ManagedDisk, OsProperties, OsState, OsType, TargetRegionRequest
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import MIB
from imgstore.domain.views import MachineView, ManagedImage, VersionView
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import groups
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images, machines
from imgstore.operations.machines.create import create_machine
from tests.support.sample_disks import compute_sha256, make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    audit,
    collect,
    create_definition,
    create_version,
    delete,
    export_disk,
    make_disk,
    publish_disks,
    request,
)

pytest_plugins = ["tests.support.published_gallery"]

LATEST = f"{GROUP}/{GALLERY}/{DEFINITION}"
USER = OsProfile(admin_username="azureuser")
HERE = "southcentralus"


@pytest.fixture
def raws(tmp_path: Path) -> dict[str, Path]:
    """The raw disks of version 1.0.0, by key."""
    return {
        "os": make_raw(tmp_path / "os.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=3 * MIB),
        "lun-0": make_raw(tmp_path / "data.raw", seed=2, virtual_bytes=4 * MIB, content_bytes=MIB),
        "lun-5": make_raw(tmp_path / "logs.raw", seed=3, virtual_bytes=4 * MIB, content_bytes=MIB),
    }


@pytest.fixture
def published(empty: Installation, raws: dict[str, Path]) -> Installation:
    """With 1.0.0 of three disks, in two replicas."""
    publish_disks(empty, raws["os"], {0: raws["lun-0"], 5: raws["lun-5"]}, targets=[f"{HERE}=2"])
    return empty


def machine(installation: Installation, name: str = "vm1", **more: Any) -> MachineView:
    if "attach_os_disk" not in more:
        more.setdefault("image", LATEST)
    if more.get("image") == LATEST:
        more.setdefault("profile", USER)
        more.setdefault("location", HERE)
    return create_machine(installation, ADMIN, MachineRequest(group=GROUP, name=name, **more))


def make(installation: Installation, name: str, source: Path | str, **more: Any) -> ManagedDisk:
    more.setdefault("location", HERE)
    return create_from_source(installation, ADMIN, DiskRequest(group=GROUP, name=name, source=str(source), **more))


def publish_machine(installation: Installation, definition: str, word: str = "vm1", **more: Any) -> VersionView:
    asked = VersionRequest(
        group=GROUP,
        gallery=GALLERY,
        definition=definition,
        version=VersionName(1, 0, 0),
        target_regions=[TargetRegionRequest(name=HERE)],
    )
    more.setdefault("virtual_machine", word)
    return create_version(installation, ADMIN, asked, **more)


def same(installation: Installation, made: ManagedDisk, raw: Path) -> bool:
    export_disk(installation, installation.home / "o.raw", made.name)
    return compute_sha256(installation.home / "o.raw") == compute_sha256(raw)


def refused(kind: type[ImgstoreError], words: str, do: Callable[[], Any]) -> ImgstoreError:
    with pytest.raises(kind, match=words) as caught:
        do()
    return caught.value


# -- made -------------------------------------------------------------------------------------------------------------


def test_disks_of_a_machine_share_a_replica_and_advance_the_round_robin_once(
    published: Installation, raws: dict[str, Path]
) -> None:
    made = [machine(published, f"vm{number}") for number in range(3)]
    assert [{disk.replica for disk in each.disks} for each in made] == [{0}, {1}, {0}]
    first = made[0]
    assert [disk.machine_lun for disk in first.disks] == [None, 0, 5]
    assert [disk.name.rpartition("_")[0] for disk in first.disks] == [
        "vm0_OsDisk_1",
        "vm0_DataDisk_0",
        "vm0_DataDisk_5",
    ]
    for disk, key in zip(first.disks, ("os", "lun-0", "lun-5"), strict=True):
        assert same(published, disk, raws[key])
        assert disk.managed_by == first.machine.resource_id
        assert disk.os_properties == OsProperties(
            os_type=OsType.LINUX, hyper_v_generation=first.machine.hyper_v_generation
        )
    told = first.machine
    assert (told.size, told.admin_username, told.computer_name) == (SIZE, "azureuser", "vm0")
    assert (told.image_reference or "").endswith("/versions/1.0.0")
    assert told.provisioning_state is ProvisioningState.SUCCEEDED
    assert machine(published, "vm0") == first, "the same command does nothing"
    assert machine(published, "vm9").os_disk.replica == 1, "and takes no turn"
    assert [each.machine.name for each in machines.list_machines(published, ADMIN)] == ["vm0", "vm1", "vm2", "vm9"]
    assert machines.show_machine(published, ADMIN, group=GROUP, name="VM0") == first
    audit(published)


def test_an_os_profile_is_needed_by_a_generalized_image_and_refused_by_a_specialized_one(
    published: Installation, raws: dict[str, Path]
) -> None:
    lacking = refused(InvalidInput, "'osProfile' is missing", lambda: machine(published, profile=OsProfile()))
    assert (lacking.error_code, lacking.target) == ("InvalidParameter", "osProfile")
    refused(InvalidInput, "is Generalized", lambda: machine(published, specialized=True))
    create_definition(published, "golden", os_state=OsState.SPECIALIZED)
    create_version(published, ADMIN, request("1.0.0", [HERE], definition="golden"), os_vhd_uri=str(raws["os"]))
    golden = {"image": f"{GROUP}/{GALLERY}/golden/1.0.0", "location": HERE}
    for profile in (USER, OsProfile(computer_name="c")):
        refused(InvalidInput, "'osProfile' is not allowed", lambda: machine(published, profile=profile, **golden))  # noqa: B023
    assert machines.list_machines(published, ADMIN) == [], "nothing of the refused ones is there"
    assert disks.list_disks(published, ADMIN) == []
    made = machine(published, specialized=True, **golden)
    assert (made.machine.admin_username, made.machine.computer_name) == (None, None)


def test_from_a_managed_image_each_disk_is_copied_at_its_lun(published: Installation, raws: dict[str, Path]) -> None:
    make(published, "d1", raws["os"])
    image = ImageRequest(group=GROUP, name="i1", source="d1", data_sources=[str(raws["lun-5"])])
    images.create_image(published, ADMIN, image)
    made = machine(published, image="i1", profile=USER)
    assert [disk.machine_lun for disk in made.disks] == [None, 0]
    assert same(published, made.os_disk, raws["os"])
    assert same(published, made.data_disks[0], raws["lun-5"])
    assert (made.machine.image_reference or "").endswith("/images/i1")
    assert machine(published, image="I1", profile=USER) == made
    by_id = made.machine.image_reference
    assert machine(published, image=by_id, profile=USER) == made
    refused(PropertyChangeNotAllowed, "imageReference", lambda: machine(published))
    refused(
        InvalidInput, "is not found", lambda: machine(published, "vm2", image="i1", location="eastus", profile=USER)
    )
    refused(InvalidInput, "is not found", lambda: machine(published, "vm2", image="none", profile=USER))
    disks.delete_disk(published, ADMIN, group=GROUP, name="i1", kind=DiskKind.IMAGE)
    collect(published)
    assert same(published, made.data_disks[0], raws["lun-5"])
    audit(published)


def test_disks_are_attached_to_one_machine(published: Installation, raws: dict[str, Path]) -> None:
    make(published, "root", raws["os"], os_properties=OsProperties(os_type=OsType.LINUX))
    for name in ("d1", "d2", "d3"):
        make(published, name, raws["lun-0"])
    made = machine(published, attach_os_disk="root", attach_data_disks=["d1", "d2"], os_type=OsType.LINUX)
    assert [(disk.name, disk.machine_lun) for disk in made.disks] == [("root", None), ("d1", 0), ("d2", 1)]
    assert (made.machine.location, made.machine.image_reference, made.machine.os_type) == (HERE, None, OsType.LINUX)
    assert machine(published, attach_os_disk="root", attach_data_disks=["d1", "d2"]) == made
    refused(PropertyChangeNotAllowed, "dataDisks", lambda: machine(published, attach_os_disk="d3"))
    refused(PropertyChangeNotAllowed, "imageReference", lambda: machine(published))
    twice = refused(Conflict, "already owned by VM", lambda: machine(published, "vm2", attach_data_disks=["d3", "d1"]))
    assert twice.error_code == "ConflictingUserInput"
    assert [each.name for each in disks.list_disks(published, ADMIN)] == ["d1", "d2", "d3", "root"], "or not at all"
    refused(Conflict, "already owned by VM", lambda: machine(published, "vm2", attach_data_disks=["d3", "d3"]))
    second = machine(published, "vm2", attach_data_disks=["d3"])
    assert [disk.machine_lun for disk in second.disks] == [None, 0, 1, 5]
    held = refused(
        Conflict, "Disk d1 is attached to VM", lambda: disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    )
    assert held.error_code == "OperationNotAllowed"
    assert disks.show_disk(published, ADMIN, group=GROUP, name="d1").provisioning_state is ProvisioningState.SUCCEEDED
    make(published, "far", raws["lun-0"], location="eastus")
    refused(InvalidInput, "is not found", lambda: machine(published, "vm3", attach_data_disks=["far"]))
    refused(InvalidInput, "OS type", lambda: machine(published, "vm3", attach_os_disk="root", os_type=OsType.WINDOWS))
    refused(
        InvalidInput, "'osProfile' is not allowed", lambda: machine(published, "v", attach_os_disk="far", profile=USER)
    )
    refused(InvalidInput, "is not found", lambda: machine(published, "vm3", attach_os_disk="./root"))
    audit(published)


def test_only_size_and_tags_of_a_machine_change(published: Installation) -> None:
    made = machine(published, tags={"a": "b"})
    changed = machine(published, size="Standard_D2s_v5", tags={})
    assert (changed.machine.size, dict(changed.machine.tags)) == ("Standard_D2s_v5", {})
    assert changed.disks == made.disks
    refused(
        PropertyChangeNotAllowed, "adminUsername", lambda: machine(published, profile=OsProfile(admin_username="x"))
    )
    refused(PropertyChangeNotAllowed, "location", lambda: machine(published, location="eastus"))
    refused(InvalidInput, "one image", lambda: machine(published, image=None))
    refused(InvalidInput, "one image", lambda: machine(published, image=LATEST, attach_os_disk="d"))
    refused(InvalidInput, "name is invalid", lambda: machine(published, "-vm"))
    refused(
        ImageNotAvailable,
        "not available",
        lambda: machine(published, "vm2", image=f"{LATEST}/1.0.0", location="eastus", profile=USER),
    )


# -- deleted ----------------------------------------------------------------------------------------------------------


def test_deleting_a_machine_leaves_its_disks(published: Installation, raws: dict[str, Path]) -> None:
    made = machine(published)
    held = refused(Conflict, "nested resources", lambda: groups.delete_group(published, ADMIN, name=GROUP))
    assert "virtualMachines/vm1" in str(held)
    machines.delete_machine(published, ADMIN, group=GROUP, name="vm1")
    refused(NotFound, "vm1", lambda: machines.delete_machine(published, ADMIN, group=GROUP, name="vm1"))
    left = disks.list_disks(published, ADMIN)
    assert {disk.uid for disk in left} == {disk.uid for disk in made.disks}
    assert {disk.managed_by for disk in left} == {None}
    again = machine(published)
    assert not {disk.name for disk in again.disks} & {disk.name for disk in left}
    delete(published)
    collect(published)
    for disk, key in zip(made.disks, ("os", "lun-0", "lun-5"), strict=True):
        assert same(published, disk, raws[key])
        disks.delete_disk(published, ADMIN, group=GROUP, name=disk.name)
    still = machines.show_machine(published, ADMIN, group=GROUP, name="vm1")
    assert still == again, "its version may go"
    audit(published)


def test_repeated_deletion_after_a_crash_deletes_the_disks_of_the_machine(
    published: Installation, raws: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    going = {key: MachineDiskRequest(attachment=DiskAttachment(deleted_with_machine=True)) for key in ("os", "lun-5")}
    made = machine(published, disks=going)

    def killed(*_arguments: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(machines, "remove_disks", killed)
        with pytest.raises(KeyboardInterrupt):
            machines.delete_machine(published, ADMIN, group=GROUP, name="vm1")
    assert len(disks.list_disks(published, ADMIN)) == 3, "nothing went yet"
    refused(NotFound, "vm1", lambda: machines.show_machine(published, ADMIN, group=GROUP, name="vm1"))
    machines.delete_machine(published, ADMIN, group=GROUP, name="vm1")
    (left,) = disks.list_disks(published, ADMIN)
    assert (left.uid, left.managed_by) == (made.data_disks[0].uid, None)
    assert same(published, left, raws["lun-0"])
    audit(published)


def test_deletion_of_a_machine_needs_the_right_to_delete_its_disks(published: Installation) -> None:
    made = machine(published, disks={"os": MachineDiskRequest(attachment=DiskAttachment(deleted_with_machine=True))})
    ann = Principal(name="ann", grants=(Grant(role=Role.CONTRIBUTOR, scope=made.machine.resource_id),))
    denied = refused(
        AccessDenied, "disks/delete", lambda: machines.delete_machine(published, ann, group=GROUP, name="vm1")
    )
    assert made.os_disk.name in str(denied)
    assert machines.show_machine(published, ADMIN, group=GROUP, name="vm1") == made


# -- what is made of machines -----------------------------------------------------------------------------------------


def test_managed_image_needs_a_generalized_machine(published: Installation, raws: dict[str, Path]) -> None:
    made = machine(published)

    def image(name: str = "i1", **more: Any) -> ManagedImage:
        return images.create_image(published, ADMIN, ImageRequest(group=GROUP, name=name, source="vm1", **more))

    assert refused(Conflict, "not generalized", image).error_code == "OperationNotAllowed"
    for _ in range(2):
        view = machines.generalize_machine(published, ADMIN, group=GROUP, name="vm1")
        assert view.machine.generalized
    refused(InvalidInput, "brings its own data disks", lambda: image(data_sources=["d"]))
    refused(InvalidInput, "OS state", lambda: image(os_properties=OsProperties(os_state=OsState.SPECIALIZED)))
    taken = image()
    assert list(taken.by_key) == ["os", "lun-0", "lun-5"]
    assert (taken.os.os_properties.os_state, taken.os.os_properties.os_type) == (OsState.GENERALIZED, OsType.LINUX)
    assert taken.os.source_reference == made.os_disk.resource_id
    assert image() == taken
    machines.delete_machine(published, ADMIN, group=GROUP, name="vm1")
    for disk in made.disks:
        disks.delete_disk(published, ADMIN, group=GROUP, name=disk.name)
    create_definition(published, "ubuntu2")
    whole = publish_machine(published, "ubuntu2", managed_image="i1", virtual_machine=None)
    assert whole.version.disk_keys == ("os", "lun-0", "lun-5")
    assert {disk.host_caching for disk in whole.version.data_disks} == {HostCaching.NONE}
    audit(published)


def test_a_version_of_a_machine_has_all_its_disks_and_its_state(published: Installation, raws: dict[str, Path]) -> None:
    made = machine(published)
    create_definition(published, "golden", os_state=OsState.SPECIALIZED)
    create_definition(published, "plain")
    refused(InvalidInput, "OS state of the source 'vm1' is Specialized", lambda: publish_machine(published, "plain"))
    view = publish_machine(published, "golden")
    assert view.version.disk_keys == ("os", "lun-0", "lun-5")
    assert {disk.source.location for disk in view.version.disks} == {made.machine.resource_id}
    for disk in view.version.disks:
        disks_export.export_image(
            published,
            ADMIN,
            reference=names.ImageReference.parse(f"{GROUP}/{GALLERY}/golden"),
            lun=disk.lun,
            path=published.home / "v.raw",
            format=DiskFormat.RAW,
            overwrite=True,
        )
        assert compute_sha256(published.home / "v.raw") == compute_sha256(raws[disk.key])
    machines.generalize_machine(published, ADMIN, group=GROUP, name="vm1")
    refused(InvalidInput, "is Generalized", lambda: publish_machine(published, "golden"))
    by_id = publish_machine(published, "plain", managed_image=made.machine.resource_id, virtual_machine=None)
    assert by_id.version.disk_keys == ("os", "lun-0", "lun-5")
    refused(InvalidInput, "is not found", lambda: publish_machine(published, "plain", "vm9"))
    audit(published)


# -- who may ----------------------------------------------------------------------------------------------------------


def test_machine_needs_rights_on_image_disks_and_attached_resources(
    published: Installation, raws: dict[str, Path]
) -> None:
    make(published, "d1", raws["lun-0"])
    groups.create_group(published, ADMIN, name="mine", location=HERE)
    mine = names.group_id(published.subscription, "mine")
    theirs = names.group_id(published.subscription, GROUP)

    def asked(role: Role | None, name: str = "vm1", **more: Any) -> MachineView:
        grants = [Grant(role=Role.CONTRIBUTOR, scope=mine)]
        grants += [] if role is None else [Grant(role=role, scope=theirs)]
        who = Principal(name="ann", uid="7", grants=tuple(grants))
        more.setdefault("profile", USER)
        return create_machine(published, who, MachineRequest(group="mine", name=name, location=HERE, **more))

    disk_id = names.disk_id(published.subscription, GROUP, "d1")
    refused(AccessDenied, "versions/read", lambda: asked(None, image=LATEST))
    refused(AccessDenied, "disks/write", lambda: asked(Role.READER, attach_os_disk=disk_id, profile=OsProfile()))
    made = asked(Role.IMAGE_READER, image=LATEST)
    assert made.machine.group == "mine"
    images.create_image(published, ADMIN, ImageRequest(group=GROUP, name="i1", source="d1"))
    image_id = names.compute_id(published.subscription, GROUP, DiskKind.IMAGE, "i1")
    refused(AccessDenied, "images/read", lambda: asked(Role.IMAGE_READER, "vm2", image=image_id))


def test_content_of_a_disk_needs_the_right_to_the_bytes(published: Installation, raws: dict[str, Path]) -> None:
    make_disk(published, "d1", version="1.0.0")
    made = machine(published)
    machines.generalize_machine(published, ADMIN, group=GROUP, name="vm1")
    groups.create_group(published, ADMIN, name="mine", location=HERE)
    scope = names.group_id(published.subscription, GROUP)
    reader = Principal(
        name="ann",
        uid="7",
        grants=(
            Grant(role=Role.READER, scope=scope),
            Grant(role=Role.CONTRIBUTOR, scope=names.group_id(published.subscription, "mine")),
            Grant(role=Role.ARTIFACTS_PUBLISHER, scope=names.gallery_id(published.subscription, GROUP, GALLERY)),
        ),
    )
    disk_id = names.disk_id(published.subscription, GROUP, "d1")
    ask = DiskRequest(group="mine", name="copy", source=disk_id)
    refused(AccessDenied, "disks/beginGetAccess", lambda: create_from_source(published, reader, ask))
    absent = DiskRequest(group="mine", name="copy", source=names.disk_id(published.subscription, GROUP, "none"))
    refused(AccessDenied, "disks/beginGetAccess", lambda: create_from_source(published, reader, absent))
    sources: tuple[dict[str, Any], ...] = ({"os_snapshot": disk_id}, {"virtual_machine": made.machine.resource_id})
    for source in sources:
        with pytest.raises(AccessDenied, match="disks/beginGetAccess"):
            create_version(published, reader, request("2.0.0", [HERE]), **source)
    assert disks.list_disks(published, ADMIN, group="mine") == []
