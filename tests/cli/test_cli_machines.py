"""Machines, versions and images of them, data snapshots and Shallow versions, at the terminal."""

from pathlib import Path

import pytest

from tests.support.sample_disks import compute_sha256, make_raw
from tests.support.terminal import Terminal, enter_folder

CREATE = "sig image-version create -g rg -r g1 -i {} -l southcentralus -e {} {}"


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    enter_folder(tmp_path, monkeypatch)
    made = Terminal(tmp_path)
    make_raw(tmp_path / "os.raw", seed=1, virtual_bytes=8 << 20, content_bytes=2 << 20)
    make_raw(tmp_path / "data.raw", seed=2, virtual_bytes=4 << 20, content_bytes=1 << 20)
    made.ok("sig create -g rg -r g1 -l southcentralus")
    for name, state in (("ubuntu", "Generalized"), ("golden", "Specialized")):
        made.ok(
            f"sig image-definition create -g rg -r g1 -i {name} --publisher p --offer o --sku {name} --os-type Linux "
            f"--os-state {state}"
        )
    made.ok(CREATE.format("ubuntu", "1.0.0", "--os-vhd-uri os.raw --data-vhds-uris data.raw --data-vhds-luns 2"))
    return made


def test_from_an_image_to_a_machine_and_back(terminal: Terminal) -> None:
    create = "vm create -g rg -n vm1 -l southcentralus --image rg/g1/ubuntu --admin-username azureuser --tags a=b"
    made = terminal.ok(create)
    told, storage = made["properties"], made["properties"]["storageProfile"]
    assert (made["type"], made["tags"]) == ("Microsoft.Compute/virtualMachines", {"a": "b"})
    assert told["osProfile"] == {
        "computerName": "vm1",
        "adminUsername": "azureuser",
        "secrets": [],
        "allowExtensionOperations": True,
        "requireGuestProvisionSignal": True,
        "linuxConfiguration": {
            "disablePasswordAuthentication": False,
            "provisionVMAgent": True,
            "patchSettings": {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"},
        },
    }
    assert told["hardwareProfile"] == {"vmSize": "Standard_DS1_v2"}
    assert storage["imageReference"]["id"].endswith("/versions/1.0.0")
    assert (storage["osDisk"]["createOption"], storage["osDisk"]["osType"]) == ("FromImage", "Linux")
    assert [(each["lun"], each["createOption"]) for each in storage["dataDisks"]] == [(2, "FromImage")]
    assert terminal.ok(create) == made
    assert terminal.ok("vm show -g rg -n vm1") == made
    assert terminal.ok("vm list -g rg") == [made]
    assert "vm1_OsDisk_1_" in terminal.run("vm list -o table").stdout
    os_disk = storage["osDisk"]["name"]
    disk = terminal.ok(f"disk show -g rg -n {os_disk}")
    assert (disk["managedBy"], disk["properties"]["diskState"]) == (made["id"], "Attached")
    assert "(OperationNotAllowed) Disk" in terminal.fails(f"disk delete -g rg -n {os_disk} --yes", 1)
    assert "(OperationNotAllowed) The virtual machine 'vm1' is not generalized" in terminal.fails(
        "image create -g rg -n i1 --source vm1", 1
    )

    golden = terminal.ok(CREATE.format("golden", "1.0.0", f"--virtual-machine {made['id']} --replication-mode shallow"))
    assert golden["properties"]["publishingProfile"]["replicationMode"] == "Shallow"
    profile = golden["properties"]["storageProfile"]
    assert profile["source"] == {"virtualMachineId": made["id"]}
    assert profile["osDiskImage"]["source"] == {}
    assert [(each["lun"], each["hostCaching"]) for each in profile["dataDiskImages"]] == [(2, "None")]
    assert (
        "osProfile"
        not in terminal.ok("vm create -g rg -n vm2 -l southcentralus --image rg/g1/golden --specialized")["properties"]
    )
    refused = terminal.fails("vm create -g rg -n vm3 -l southcentralus --image rg/g1/golden --admin-username u", 1)
    assert "(InvalidParameter) Parameter 'osProfile' is not allowed." in refused
    refused = terminal.fails("vm create -g rg -n vm3 -l southcentralus --image rg/g1/ubuntu", 1)
    assert "(InvalidParameter) Required parameter 'osProfile' is missing (null)." in refused

    assert terminal.ok("vm generalize -g rg -n vm1") is None
    assert terminal.ok("vm show -g rg -n vm1")["properties"]["osState"] == "Generalized"
    image = terminal.ok("image create -g rg -n i1 --source vm1")["properties"]["storageProfile"]
    assert image["osDisk"]["managedDisk"]["id"] == disk["id"]
    assert [each["lun"] for each in image["dataDisks"]] == [2]
    terminal.ok("vm delete -g rg -n vm1 --yes")
    terminal.fails("vm show -g rg -n vm1", 3)
    free = terminal.ok(f"disk show -g rg -n {os_disk}")
    assert ("managedBy" in free, free["properties"]["diskState"]) == (False, "Unattached")
    attached = terminal.ok(f"vm create -g rg -n vm4 --attach-os-disk {os_disk} --os-type linux --size Standard_B1s")
    assert attached["properties"]["storageProfile"]["osDisk"]["createOption"] == "Attach"
    terminal.ok(f"disk export -g rg -n {os_disk} --file o.raw --format raw")
    assert compute_sha256(Path("o.raw")) == compute_sha256(Path("os.raw"))


def test_data_snapshots_stand_beside_an_os_snapshot(terminal: Terminal) -> None:
    for name, file in (("s1", "os.raw"), ("s2", "data.raw"), ("s3", "data.raw")):
        terminal.ok(f"snapshot create -g rg -n {name} --source {file} -l southcentralus")
    made = terminal.ok(
        CREATE.format("ubuntu", "1.1.0", "--os-snapshot s1 --data-snapshots s2 s3 --data-snapshot-luns 7 1")
    )
    profile = made["properties"]["storageProfile"]
    assert [(each["lun"], each["source"]["id"].rsplit("/", 1)[-1]) for each in profile["dataDiskImages"]] == [
        (1, "s3"),
        (7, "s2"),
    ]
    in_turn = terminal.ok(CREATE.format("ubuntu", "1.2.0", "--os-vhd-uri os.raw --data-snapshots s2 s3"))
    assert [each["lun"] for each in in_turn["properties"]["storageProfile"]["dataDiskImages"]] == [0, 1]
    for flags, words in (
        ("--os-snapshot s1 --data-snapshots s2 s3 --data-snapshot-luns 4 4", "duplicate LUNs"),
        ("--os-snapshot s1 --data-snapshots s2 s2", "Data disk images cannot point to the same blob"),
        ("--os-snapshot s1 --data-snapshots s1", "OSDiskImage and DataDiskImage cannot point to same blob"),
        ("--image-version rg/g1/ubuntu/1.0.0 --data-snapshots s2", "One and only one source type"),
        ("--data-snapshots s2", "One and only one source type"),
    ):
        assert words in terminal.fails(CREATE.format("ubuntu", "1.3.0", flags), 1)
    uneven = "--os-snapshot s1 --data-snapshots s2 --data-snapshot-luns 1 2"
    assert "give one for each" in terminal.fails(CREATE.format("ubuntu", "1.3.0", uneven), 2)
    terminal.ok(
        "disk create -g rg -n d7 --gallery-image-reference rg/g1/ubuntu/1.1.0 --gallery-image-reference-lun 7 --file o.raw"
    )
    assert compute_sha256(Path("o.raw")) == compute_sha256(Path("data.raw"))
    assert "--count of 'az vm create' is not supported by imgstore." in terminal.fails(
        "vm create -g rg -n v --count 2", 2
    )
    assert "'az vm redeploy' is not supported by imgstore." in terminal.fails("vm redeploy -g rg -n v", 2)


def test_a_machine_names_the_purchase_plan_of_its_image(terminal: Terminal) -> None:
    terminal.ok(
        "sig image-definition create -g rg -r g1 -i sold --publisher p --offer o --sku sold --os-type Linux "
        "--os-state Specialized --plan-name n --plan-publisher p --plan-product q"
    )
    terminal.ok(CREATE.format("sold", "1.0.0", "--os-vhd-uri os.raw"))
    create = "vm create -g rg -n vm9 -l southcentralus --image rg/g1/sold"
    refused = terminal.fails(create, 1)
    assert "(VMMarketplaceInvalidInput)" in refused
    steps = refused.partition("name the plan: ")[2].strip()
    assert steps == "--plan-name n --plan-publisher p --plan-product q"
    assert terminal.ok(f"{create} {steps}")["plan"] == {"name": "n", "publisher": "p", "product": "q"}
    assert terminal.ok(create)["plan"]["name"] == "n", "an existing machine has its plan"
