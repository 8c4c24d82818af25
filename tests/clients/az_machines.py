"""az, unmodified, making machines of image versions with their networks, as a person does.

Run by tests/api/test_api_clients.py as az.py is; it prints a line for each chapter that held.
"""

import base64
import os
import urllib.request
from typing import Any

from az_program import az, fails, log_in, run

SOURCE = os.environ["IMGSTORE_SOURCE"]
DATA = os.environ["IMGSTORE_DATA_SOURCE"]
GALLERY = "-g rg -r myGallery"
KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
LOGIN = f"--admin-username somebody --ssh-key-values '{KEY} somebody@example'"


def fetched(url: str) -> bytes:
    """What is behind a URL."""
    with urllib.request.urlopen(url) as answer:
        body: bytes = answer.read()
        return body


def content(disk: str) -> bytes:
    """The bytes of a managed disk, from its signed URL: a fixed VHD without its footer."""
    name = disk.rpartition("/")[2]
    url = az(f"disk grant-access -g rg -n {name} --duration-in-seconds 600 --access-level Read")["accessSAS"]
    try:
        return fetched(url)[:-512]
    finally:
        az(f"disk revoke-access -g rg -n {name}")


def disks(machine: Any) -> list[str]:
    """The ids of a machine's disks: of the system, then by LUN."""
    storage = az(f"vm show --ids {machine['id']}")["storageProfile"]
    return [each["managedDisk"]["id"] for each in (storage["osDisk"], *storage["dataDisks"])]


def version(definition: str, state: str) -> str:
    """The id of an image version with a data disk, in a definition of a state."""
    inside = f"{GALLERY} -i {definition}"
    az(
        f"sig image-definition create {inside} -p p -f {definition} -s s --os-type linux --os-state {state} "
        "--hyper-v-generation V1 --features ''"
    )
    made = az(
        f"sig image-version create {inside} -e 1.0.0 --os-vhd-uri {SOURCE} --os-vhd-storage-account account "
        f"--data-vhds-uris {DATA} --data-vhds-luns 3 --data-vhds-sa account"
    )
    return str(made["id"])


def login() -> None:
    log_in()
    az("group create -n rg -l southcentralus")
    az(f"sig create {GALLERY}")


def generalized() -> None:
    """A machine with a network of its own; its disks are the image's, byte by byte."""
    image = version("plain", "generalized")
    made = az(f"vm create -g rg -n vm1 --image {image} {LOGIN} --tags team=images")
    assert (made["location"], made["powerState"], made["publicIpAddress"]) == ("southcentralus", "VM deallocated", "")
    os_disk, data_disk = disks(made)
    assert content(os_disk) == fetched(SOURCE)
    assert content(data_disk) == fetched(DATA)
    shown = az("vm show -g rg -n vm1 -d")
    assert shown["storageProfile"]["imageReference"]["id"] == image
    assert shown["osProfile"]["adminUsername"] == "somebody"
    keys = shown["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"]
    assert keys[0]["keyData"].startswith(KEY)
    (interface,) = shown["networkProfile"]["networkInterfaces"]
    assert interface["id"].endswith("/networkInterfaces/vm1VMNic")
    assert az("vm get-instance-view -g rg -n vm1")["instanceView"]["statuses"]
    deployment = az("deployment group list -g rg")[0]
    assert deployment["properties"]["provisioningState"] == "Succeeded"


def networks() -> None:
    """What was deployed beside it, as az's other commands see it."""
    net = az("network vnet show -g rg -n vm1VNET")
    assert net["addressSpace"]["addressPrefixes"] == ["10.0.0.0/16"]
    assert [each["name"] for each in net["subnets"]] == ["vm1Subnet"]
    (rule,) = az("network nsg show -g rg -n vm1NSG")["securityRules"]
    assert (rule["name"], rule["destinationPortRange"]) == ("default-allow-ssh", "22")
    assert az("network public-ip show -g rg -n vm1PublicIP")["sku"]["name"] == "Standard"
    nic = az("network nic show -g rg -n vm1VMNic")
    assert nic["ipConfigurations"][0]["subnet"]["id"] == net["subnets"][0]["id"]
    assert nic["virtualMachine"]["id"] == az("vm show -g rg -n vm1")["id"]
    for kind in ("vnet", "nsg", "public-ip", "nic"):
        assert len(az(f"network {kind} list -g rg")) == len(az(f"network {kind} list")) == 1
    az("network vnet subnet create -g rg --vnet-name vm1VNET -n other --address-prefixes 10.0.1.0/24")
    assert az("network vnet subnet show -g rg --vnet-name vm1VNET -n other")["addressPrefix"] == "10.0.1.0/24"
    az("network nsg rule create -g rg --nsg-name vm1NSG -n web --priority 200 --destination-port-ranges 443")
    assert {each["name"] for each in az("network nsg rule list -g rg --nsg-name vm1NSG")} == {
        "default-allow-ssh",
        "web",
    }
    az("network nic update -g rg -n vm1VMNic --set tags.a=b")
    assert az("network nic show -g rg -n vm1VMNic")["tags"] == {"team": "images", "a": "b"}
    az("network vnet create -g rg -n mine --address-prefix 10.9.0.0/16 --subnet-name inner")
    az("network vnet delete -g rg -n mine")


def specialized() -> None:
    """A second one, in the same network, of an image that is somebody's already; az wants a key, and sends none."""
    image = version("special", "specialized")
    made = az(f"vm create -g rg -n vm2 --image {image} --specialized {LOGIN} --public-ip-address '' --nsg ''")
    assert content(disks(made)[0]) == fetched(SOURCE)
    shown = az("vm show -g rg -n vm2")
    assert shown.get("osProfile") is None
    (net,) = az("network vnet list -g rg")
    (nic,) = (each for each in az("network nic list -g rg") if each["name"] == "vm2VMNic")
    assert nic["ipConfigurations"][0]["subnet"]["id"] in {each["id"] for each in net["subnets"]}
    assert {each["name"] for each in az("vm list -g rg")} == {"vm1", "vm2"}
    assert {each["name"] for each in az("vm list -d")} == {"vm1", "vm2"}
    told = {each["virtualMachine"]["name"]: each["virtualMachine"]["network"] for each in az("vm list-ip-addresses")}
    assert told["vm1"]["privateIpAddresses"] == [""], "none was given to anything"
    assert set(told) == {"vm1", "vm2"}


def several() -> None:
    """Two at once, by a loop of az's template, into a subnet that az makes first."""
    image = az(f"sig image-version show {GALLERY} -i plain -e 1.0.0")["id"]
    az(
        f"vm create -g rg -n more --count 2 --image {image} {LOGIN} --vnet-name vm1VNET --subnet third --nsg vm1NSG "
        "--nic-delete-option Delete --os-disk-delete-option Delete"
    )
    assert {each["name"] for each in az("vm list -g rg")} == {"vm1", "vm2", "more0", "more1"}
    assert "third" in {each["name"] for each in az("network vnet subnet list -g rg --vnet-name vm1VNET")}
    assert (
        az(f"vm create -g rg -n no --validate --image {image} {LOGIN}")["properties"]["provisioningState"]
        == "Succeeded"
    )
    assert run("vm show -g rg -n no")


def refused() -> None:
    image = az(f"sig image-version show {GALLERY} -i special -e 1.0.0")["id"]
    assert "osProfile" in fails(f"vm create -g rg -n no --image {image} {LOGIN}")
    assert "in use" in fails("network vnet delete -g rg -n vm1VNET")


def the_end() -> None:
    """Machines go, and with them what says so; disks stay, and a group takes the records of its networks with it."""
    assert "in use" in fails("network nic delete -g rg -n vm1VMNic")
    for name in ("vm1", "vm2", "more0", "more1"):
        az(f"vm delete -g rg -n {name} -y")
    assert az("vm list") == []
    left = {each["name"] for each in az("network nic list -g rg")}
    assert left == {"vm1VMNic", "vm2VMNic", "noVMNic"}, "what was made of a deployment that failed stays"
    assert len(az("disk list -g rg")) == 6
    az("network nic delete -g rg -n vm1VMNic")
    az("network public-ip delete -g rg -n vm1PublicIP")
    for disk in az("disk list -g rg"):
        az(f"disk delete --ids {disk['id']} -y")
    for definition in ("plain", "special"):
        az(f"sig image-version delete {GALLERY} -i {definition} -e 1.0.0")
        az(f"sig image-definition delete {GALLERY} -i {definition}")
    az(f"sig delete {GALLERY}")
    az("group delete -n rg -y")
    assert az("network vnet list") == []


for chapter in (login, generalized, networks, specialized, several, refused, the_end):
    chapter()
    print(chapter.__name__, flush=True)
