"""Scale sets at the terminal: capacity, placement, rollback, another image and deletion."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.sample_disks import make_raw
from tests.support.terminal import Terminal, enter_folder

CREATE = "vmss create -g rg -n web -l southcentralus --image rg/g1/ubuntu --admin-username ops"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO ops"
OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """With 1.0.0 of an OS disk and a data disk in three replicas."""
    enter_folder(tmp_path, monkeypatch)
    made = Terminal(tmp_path)
    make_raw(tmp_path / "os.raw", seed=1, virtual_bytes=8 << 20, content_bytes=1 << 20)
    make_raw(tmp_path / "data.raw", seed=2, virtual_bytes=4 << 20, content_bytes=1 << 20)
    made.ok("sig create -g rg -r g1 -l southcentralus")
    made.ok("sig image-definition create -g rg -r g1 -i ubuntu --publisher p --offer o --sku s --os-type Linux")
    publish(made, "1.0.0")
    return made


def publish(terminal: Terminal, version: str) -> None:
    terminal.ok(
        f"sig image-version create -g rg -r g1 -i ubuntu -l southcentralus -e {version} --os-vhd-uri os.raw "
        "--data-vhds-uris data.raw --target-regions southcentralus=3"
    )


def instances(terminal: Terminal) -> list[Any]:
    found: list[Any] = terminal.ok("vmss list-instances -g rg -n web")
    return found


def count_by_replica(terminal: Terminal) -> list[int]:
    replicas = {each["name"]: each["replica"] for each in terminal.ok("disk list -g rg")}
    counted = Counter(replicas[each["properties"]["storageProfile"]["osDisk"]["name"]] for each in instances(terminal))
    return sorted(counted.values())


def test_a_set_is_created_scaled_and_deleted(terminal: Terminal) -> None:
    create = f"{CREATE} --instance-count 6 --ssh-key-values '{KEY}' --custom-data '#!/bin/sh' --tags a=b --vm-sku Standard_B1s"
    made = terminal.ok(create)
    model = made["properties"]["virtualMachineProfile"]
    assert (made["type"], made["tags"]) == ("Microsoft.Compute/virtualMachineScaleSets", {"a": "b"})
    assert made["sku"] == {"name": "Standard_B1s", "tier": "Standard", "capacity": 6}
    assert model["storageProfile"]["imageReference"]["id"].endswith("/images/ubuntu")
    assert model["storageProfile"]["imageReference"]["exactVersion"] == "1.0.0"
    assert (model["osProfile"]["adminUsername"], model["osProfile"]["computerNamePrefix"]) == ("ops", "web")
    key = {"path": "/home/ops/.ssh/authorized_keys", "keyData": KEY}
    assert model["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"] == [key]
    assert "#!/bin/sh" not in str(made)
    assert terminal.ok(create) == made, "a repeat changes nothing"
    assert terminal.ok("vmss show -g rg -n web") == made
    assert terminal.ok("vmss list -g rg") == [made]
    first = instances(terminal)[0]
    assert first["properties"]["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"] == [key]
    assert [each["instanceId"] for each in instances(terminal)] == ["0", "1", "2", "3", "4", "5"]
    assert count_by_replica(terminal) == [2, 2, 2]
    assert "web_5" in terminal.run("vmss list-instances -g rg -n web -o table").stdout
    assert terminal.ok("vm list") == []

    assert terminal.ok("vmss scale -g rg -n web --new-capacity 8")["sku"]["capacity"] == 8
    assert count_by_replica(terminal) == [2, 3, 3]
    assert terminal.ok("vmss scale -g rg -n web --new-capacity 3")["sku"]["capacity"] == 3
    assert [each["instanceId"] for each in instances(terminal)] == ["0", "1", "2"]
    assert len(terminal.ok("disk list -g rg")) == 6
    assert "at most 1000" in terminal.fails("vmss scale -g rg -n web --new-capacity 1001", 1)

    assert terminal.ok("vmss delete -g rg -n web --yes") is None
    terminal.fails("vmss show -g rg -n web", 3)
    assert terminal.ok("disk list -g rg") == []


def test_an_existing_set_with_another_image_is_refused(terminal: Terminal) -> None:
    made = terminal.ok(f"{CREATE} --instance-count 1")
    publish(terminal, "1.1.0")
    assert terminal.ok(f"{CREATE} --instance-count 1") == made, "the latest version of the creation stays"
    for image in ("rg/g1/ubuntu/1.1.0", "rg/g1/ubuntu/1.0.0"):
        error = terminal.fails(f"{CREATE} --instance-count 1 --image {image}", 1)
        assert "(PropertyChangeNotAllowed) Changing property 'imageReference' is not allowed." in error
        assert "vmss update --image" in error
    assert "'sku.capacity'" in terminal.fails(CREATE, 1), "az's default of two instances"
    assert instances(terminal)[0]["properties"]["storageProfile"]["imageReference"]["id"].endswith("/1.0.0")


def test_a_reached_quota_leaves_nothing_and_the_former_number(terminal: Terminal) -> None:
    owner = terminal.ok("sig show -g rg -r g1")["id"].split("/")[2]
    image = f"/subscriptions/{owner}/resourceGroups/rg/providers/Microsoft.Compute/galleries/g1/images/ubuntu"
    consumer = f"{CREATE} --subscription {OTHER} --image {image} --instance-count"
    terminal.ok(f"{consumer} 0")
    (terminal.home / "settings.toml").write_text(f"[limits]\nbytes_per_subscription_max = {11 << 20}\n")
    scale = f"vmss scale -g rg -n web --subscription {OTHER} --new-capacity"
    assert "exceeding the approved quota" in terminal.fails(f"{scale} 2", 1)
    assert terminal.ok(f"vmss show -g rg -n web --subscription {OTHER}")["sku"]["capacity"] == 0
    assert "exceeding the approved quota" in terminal.fails(f"{consumer} 2 -n more", 1)
    assert [each["name"] for each in terminal.ok(f"vmss list --subscription {OTHER}")] == ["web"]
    assert terminal.ok(f"disk list --subscription {OTHER}") == []
    (terminal.home / "settings.toml").write_text(f"[limits]\nbytes_per_subscription_max = {12 << 20}\n")
    terminal.ok("settings apply")
    assert terminal.ok(f"{scale} 2")["sku"]["capacity"] == 2


def test_an_update_moves_instances_to_another_version(terminal: Terminal) -> None:
    terminal.ok(f"{CREATE} --instance-count 2 --upgrade-policy-mode Rolling")
    publish(terminal, "1.1.0")
    updated = terminal.ok("vmss update -g rg -n web --image rg/g1/ubuntu/1.1.0 --batch-size 1 --tags c=d")
    assert updated["tags"] == {"c": "d"}
    assert {each["properties"]["latestModelApplied"] for each in instances(terminal)} == {True}
    progress = terminal.ok("vmss rolling-upgrade get-latest -g rg -n web")["properties"]["progress"]
    assert progress["successfulInstanceCount"] == 2
    before = instances(terminal)[1]["properties"]["storageProfile"]["osDisk"]["name"]
    terminal.ok("vmss reimage -g rg -n web --instance-ids 1")
    assert instances(terminal)[1]["properties"]["storageProfile"]["osDisk"]["name"] != before
    terminal.fails("vmss update-instances -g rg -n web --instance-ids 9", 3)
    assert "no instance id" in terminal.fails("vmss update-instances -g rg -n web --instance-ids x", 2)
    assert "no rolling update in progress" in terminal.fails("vmss rolling-upgrade cancel -g rg -n web", 1)
