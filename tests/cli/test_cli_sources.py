"""Disks from other sources, snapshots, managed images, and versions from them, at the terminal."""

from pathlib import Path

import pytest

from tests.support.sample_disks import compute_sha256, make_raw
from tests.support.terminal import Terminal, enter_folder

VERSION = "sig image-version create -g rg -r g1 -i ubuntu -l southcentralus -e {} {}"


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    enter_folder(tmp_path, monkeypatch)
    made = Terminal(tmp_path)
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 << 20, content_bytes=2 << 20)
    made.ok("sig create -g rg -r g1 -l southcentralus")
    made.ok("sig image-definition create -g rg -r g1 -i ubuntu --publisher p --offer o --sku s --os-type Linux")
    return made


def test_from_a_file_to_a_version_by_way_of_disk_snapshot_and_image(terminal: Terminal) -> None:
    disk = terminal.ok(
        "disk create -g rg -n d1 --source disk.raw --os-type linux --hyper-v-generation v1 --sku standard_zrs"
    )
    told = disk["properties"]
    assert told["creationData"] == {"createOption": "Import", "sourceUri": str(terminal.folder / "disk.raw")}
    assert (told["osType"], told["hyperVGeneration"], disk["sku"]) == (
        "Linux",
        "V1",
        {"name": "Standard_ZRS", "tier": "Standard"},
    )
    snapshot = terminal.ok("snapshot create -g rg -n s1 --source d1 --tags a=b")
    assert snapshot["id"].endswith("/providers/Microsoft.Compute/snapshots/s1")
    assert (snapshot["type"], snapshot["tags"]) == ("Microsoft.Compute/snapshots", {"a": "b"})
    assert snapshot["properties"]["creationData"] == {"createOption": "Copy", "sourceResourceId": disk["id"]}
    assert (snapshot["properties"]["osType"], snapshot["properties"]["incremental"]) == ("Linux", False)
    assert terminal.ok("snapshot show -g rg -n S1") == snapshot
    assert terminal.ok("snapshot list -g rg") == [snapshot]
    image = terminal.ok(f"image create -g rg -n i1 --source s1 --data-disk-sources {disk['id']} ./disk.raw")
    profile = image["properties"]["storageProfile"]
    assert profile["osDisk"]["snapshot"] == {"id": snapshot["id"]}
    assert (profile["osDisk"]["osType"], profile["osDisk"]["osState"]) == ("Linux", "Generalized")
    assert [each["lun"] for each in profile["dataDisks"]] == [0, 1]
    assert profile["dataDisks"][0]["managedDisk"] == {"id": disk["id"]}
    assert profile["dataDisks"][1]["blobUri"].endswith("/disk.raw")
    assert terminal.ok("image show -g rg -n i1") == image
    assert terminal.ok("image list") == [image]
    assert "i1" in terminal.run("image list -o table").stdout
    assert disk["id"] in terminal.run("snapshot list -o tsv --query [].properties.creationData.sourceResourceId").stdout

    made = terminal.ok(VERSION.format("1.0.0", "--os-snapshot s1"))
    assert made["properties"]["storageProfile"]["osDiskImage"]["source"] == {"id": snapshot["id"]}
    whole = terminal.ok("image create -g rg -n i2 --source d1")
    again = terminal.ok(VERSION.format("1.0.1", "--managed-image i2"))["properties"]["storageProfile"]
    assert (again["source"], again["osDiskImage"]["source"]) == ({"id": whole["id"]}, {})
    last = terminal.ok(VERSION.format("1.0.2", "--image-version rg/g1/ubuntu/1.0.0"))["properties"]["storageProfile"]
    assert last["source"] == {"id": made["id"]}

    for what, name in (("image", "i1"), ("image", "i2"), ("snapshot", "s1"), ("disk", "d1")):
        terminal.ok(f"{what} delete -g rg -n {name} --yes")
    assert (terminal.ok("image list"), terminal.ok("snapshot list"), terminal.ok("disk list")) == ([], [], [])
    terminal.ok("disk create -g rg -n d2 --gallery-image-reference rg/g1/ubuntu/1.0.2 --file o.raw")
    assert compute_sha256(Path("o.raw")) == compute_sha256(Path("disk.raw"))


def test_lines_that_can_not_be_are_refused(terminal: Terminal) -> None:
    assert "Name one source" in terminal.fails("disk create -g rg -n d1", 2)
    both = "disk create -g rg -n d1 --source disk.raw --gallery-image-reference rg/g1/ubuntu"
    assert "Name one source" in terminal.fails(both, 2)
    said = "disk create -g rg -n d1 --gallery-image-reference rg/g1/ubuntu --os-type Linux"
    assert "go with --source" in terminal.fails(said, 2)
    refused = terminal.fails("snapshot create -g rg -n s1 --source disk.raw --incremental true", 2)
    assert "--incremental of 'az snapshot create' is not supported by imgstore." in refused
    assert "(InvalidParameter) The gallery artifact version source" in terminal.fails(VERSION.format("1.0.0", ""), 1)
    missing = terminal.fails(VERSION.format("1.0.0", "--os-snapshot s9"), 1)
    assert "(InvalidParameter) Source s9 is not found. Please check source exists" in missing
    terminal.fails("snapshot delete -g rg -n s9 --yes", 3)
    terminal.fails("image show -g rg -n i9", 3)
