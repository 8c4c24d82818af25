"""az, unmodified, managing a scale set of image versions, as a person does.

Run by tests/api/test_api_clients.py as az.py is; it prints a line for each chapter that held.
"""

import base64
import os

from az_program import az, fails, log_in, run

SOURCE = os.environ["IMGSTORE_SOURCE"]
SECOND = os.environ["IMGSTORE_DATA_SOURCE"]
GALLERY = "-g rg -r myGallery"
KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
SET = "-g rg -n web"


def version(name: str, uri: str) -> str:
    """The id of a version."""
    made = az(
        f"sig image-version create {GALLERY} -i plain -e {name} --os-vhd-uri {uri} --os-vhd-storage-account account"
    )
    return str(made["id"])


def instances() -> list[tuple[str, str, bool]]:
    """Of each instance the id, the version and whether it has the model."""
    return [
        (
            each["instanceId"],
            each["storageProfile"]["imageReference"]["id"].rpartition("/")[2],
            each["latestModelApplied"],
        )
        for each in az("vmss list-instances -g rg -n web")
    ]


def login() -> None:
    log_in()
    az("group create -n rg -l southcentralus")
    az(f"sig create {GALLERY}")
    az(
        f"sig image-definition create {GALLERY} -i plain -p p -f o -s s --os-type linux --os-state generalized "
        "--hyper-v-generation V1 --features ''"
    )
    version("1.0.0", SOURCE)
    version("2.0.0", SECOND)


def created() -> None:
    """With the network and the load balancer that az's template makes."""
    image = az(f"sig image-version show {GALLERY} -i plain -e 1.0.0")["id"]
    output = az(
        f"vmss create {SET} --image {image} --orchestration-mode Uniform --instance-count 3 --admin-username somebody "
        f"--ssh-key-values '{KEY} somebody@example' --upgrade-policy-mode Manual --tags team=images"
    )
    (made,) = output.values()
    assert (made["provisioningState"], made["orchestrationMode"]) == ("Succeeded", "Uniform")
    shown = az(f"vmss show {SET}")
    assert (shown["sku"]["capacity"], shown["tags"]) == (3, {"team": "images"})
    profile = shown["virtualMachineProfile"]
    assert profile["storageProfile"]["imageReference"]["id"] == image
    assert profile["osProfile"]["adminUsername"] == "somebody"
    assert profile["networkProfile"]["networkInterfaceConfigurations"][0]["primary"] in (True, "true")
    assert instances() == [(str(number), "1.0.0", True) for number in range(3)]
    assert [each["name"] for each in az("network lb list -g rg")] == ["webLB"]
    summary = az(f"vmss get-instance-view {SET}")["virtualMachine"]["statusesSummary"]
    assert {"code": "ProvisioningState/succeeded", "count": 3} in summary
    assert az("vm list -g rg") == []


def scaled() -> None:
    az(f"vmss scale {SET} --new-capacity 5")
    assert len(instances()) == 5
    az(f"vmss scale {SET} --new-capacity 2")
    assert len(instances()) == 2
    assert az(f"vmss show {SET}")["tags"] == {"team": "images"}


def updated() -> None:
    image = az(f"sig image-version show {GALLERY} -i plain -e 2.0.0")["id"]
    assert az(f"vmss update {SET} --set tags.a=b")["tags"] == {"team": "images", "a": "b"}
    az(f"vmss update {SET} --set virtualMachineProfile.storageProfile.imageReference.id={image}")
    assert [each[1:] for each in instances()] == [("1.0.0", False)] * 2
    az(f"vmss update-instances {SET} --instance-ids 0")
    assert [each[1:] for each in instances()] == [("2.0.0", True), ("1.0.0", False)]
    az(f"vmss update-instances {SET} --instance-ids '*'")
    assert [each[1:] for each in instances()] == [("2.0.0", True)] * 2
    latest = az(f"vmss rolling-upgrade get-latest {SET}")
    assert latest["runningStatus"]["code"] == "Completed"
    az(f"vmss reimage {SET} --instance-ids 0")
    az(f"vmss stop {SET}")
    assert "don't run here" in fails(f"vmss start {SET}")


def the_end() -> None:
    az(f"vmss delete-instances {SET} --instance-ids 0")
    assert az(f"vmss show {SET}")["sku"]["capacity"] == 1
    az(f"vmss delete {SET}")
    assert az("vmss list") == []
    assert run(f"vmss show {SET}")
    assert az("disk list -g rg") == []


for chapter in (login, created, scaled, updated, the_end):
    chapter()
    print(chapter.__name__, flush=True)
