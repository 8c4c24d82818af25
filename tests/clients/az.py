"""az, unmodified, through what a person does with galleries on its command line.

Run by tests/api/test_api_clients.py in an environment of its own, so it imports nothing of ours. What it is told comes in
the environment; it prints a line for each chapter that held.
"""

import os
from pathlib import Path

from az_program import az, fails, log_in, run

SOURCE = os.environ["IMGSTORE_SOURCE"]
DATA = os.environ["IMGSTORE_DATA_SOURCE"]
SUBSCRIPTION = os.environ["IMGSTORE_SUBSCRIPTION_ID"]
OTHER = "22222222-2222-2222-2222-222222222222"
G = "-g rg -r myGallery"
D = f"{G} -i ubuntu"
V = f"{D} -e 1.0.0"


def login() -> None:
    log_in()
    (account,) = az("account list")
    assert account["id"] == SUBSCRIPTION
    assert {"southcentralus", "westus2"} <= {each["name"] for each in az("account list-locations")}


def groups() -> None:
    assert az("group create -n rg -l southcentralus")["properties"]["provisioningState"] == "Succeeded"
    az("group create -n gone -l eastus --tags a=b")
    assert az("group exists -n gone") is True
    assert {each["name"] for each in az("group list")} == {"rg", "gone"}
    assert az("group show -n GONE")["tags"] == {"a": "b"}
    az("group delete -n gone -y")
    assert az("group exists -n gone") is False


def galleries() -> None:
    made = az(f"sig create {G} --description golden --tags team=images")
    assert (made["location"], made["description"], made["tags"]) == ("southcentralus", "golden", {"team": "images"})
    assert az(f"sig update {G} --set description=other")["description"] == "other"
    assert az(f"sig show {G}")["tags"] == {"team": "images"}
    assert [each["name"] for each in az("sig list")] == ["myGallery"]
    assert [each["name"] for each in az("sig list -g rg")] == ["myGallery"]
    assert "Gallery name is invalid" in fails("sig create -g rg -r no-dashes")
    az("sig create -g rg -r second")
    az("sig delete -g rg -r second")


def images() -> None:
    made = az(f"sig image-definition create {D} -p p -f o -s s --os-type linux --hyper-v-generation V1 --features ''")
    assert (made["osState"], made["hyperVGeneration"]) == ("Generalized", "V1")
    updated = az(f"sig image-definition update {D} --set description=hi recommended.memory.max=8")
    assert (updated["description"], updated["recommended"]["memory"]["max"]) == ("hi", 8)
    assert [each["name"] for each in az(f"sig image-definition list {G}")] == ["ubuntu"]
    assert az(f"sig image-definition show {D}")["identifier"] == {"publisher": "p", "offer": "o", "sku": "s"}


def versions() -> None:
    made = az(
        f"sig image-version create {V} --os-vhd-uri {SOURCE} --os-vhd-storage-account account --data-vhds-uris {DATA} "
        "--data-vhds-luns 3 --data-vhds-sa account --target-regions southcentralus=2 westus2=1=standard_zrs eastus"
    )
    assert made["provisioningState"] == "Succeeded"
    regions = made["publishingProfile"]["targetRegions"]
    assert [(each["name"], each["regionalReplicaCount"], each["storageAccountType"]) for each in regions] == [
        ("South Central US", 2, "Standard_LRS"),
        ("West US 2", 1, "Standard_ZRS"),
        ("East US", 1, "Standard_LRS"),
    ]
    assert [each["lun"] for each in made["storageProfile"]["dataDiskImages"]] == [3]
    shown = az(f"sig image-version show {V} --expand ReplicationStatus")
    assert shown["replicationStatus"]["aggregatedState"] == "Completed"
    assert az(f"sig image-version wait {V} --created --timeout 60") is None
    added = az(f"sig image-version update {V} --add publishingProfile.targetRegions name=northeurope")
    assert len(added["publishingProfile"]["targetRegions"]) == 4
    removed = az(f"sig image-version update {V} --remove publishingProfile.targetRegions 3")
    assert len(removed["publishingProfile"]["targetRegions"]) == 3
    set_ = az(f"sig image-version update {V} --set publishingProfile.excludeFromLatest=true")
    assert set_["publishingProfile"]["excludeFromLatest"] is True
    fewer = az(f"sig image-version update {V} --target-regions southcentralus=1 westus2=1=standard_zrs")
    assert [each["regionalReplicaCount"] for each in fewer["publishingProfile"]["targetRegions"]] == [1, 1]
    assert [each["name"] for each in az(f"sig image-version list {D}")] == ["1.0.0"]
    assert "image version name" in fails(
        f"sig image-version create {D} -e 1.0 --os-vhd-uri {SOURCE} --os-vhd-storage-account a"
    )


def disks() -> None:
    image = az(f"sig image-version show {V}")["id"]
    made = az(f"disk create -g rg -n d1 -l southcentralus --gallery-image-reference {image}")
    assert (made["provisioningState"], made["creationData"]["createOption"]) == ("Succeeded", "FromImage")
    data = az(
        f"disk create -g rg -n d2 -l southcentralus --gallery-image-reference {image} --gallery-image-reference-lun 3"
    )
    assert data["creationData"]["galleryImageReference"]["lun"] == 3
    assert [each["name"] for each in az("disk list -g rg")] == ["d1", "d2"]
    assert az("disk update -g rg -n d1 --set tags.team=images")["tags"] == {"team": "images"}
    az("disk delete -g rg -n d2 -y")
    assert [each["name"] for each in az("disk list -g rg")] == ["d1"]


def sources() -> None:
    """Snapshots, managed images, disks from both and from files, and versions from them."""
    az(f"disk create -g rg -n imported -l southcentralus --source {SOURCE}")
    snapshot = az("snapshot create -g rg -n s1 -l southcentralus --source imported")
    assert snapshot["creationData"]["sourceResourceId"].endswith("/disks/imported")
    assert [each["name"] for each in az("snapshot list -g rg")] == ["s1"]
    az("disk create -g rg -n copied -l southcentralus --source s1")
    image = az(
        "image create -g rg -n i1 -l southcentralus --source s1 --data-disk-sources copied --os-type linux "
        "--hyper-v-generation V1"
    )
    assert [each["lun"] for each in image["storageProfile"]["dataDisks"]] == [0]
    az(f"sig image-version create {D} -e 2.0.0 --managed-image i1")
    az(f"sig image-version create {D} -e 3.0.0 --os-snapshot s1")
    copied = az(f"sig image-version create {D} -e 4.0.0 --image-version {az(f'sig image-version show {V}')['id']}")
    assert [each["lun"] for each in copied["storageProfile"]["dataDiskImages"]] == [3]
    for number in (2, 3, 4):
        az(f"sig image-version delete {D} -e {number}.0.0")
    az("image delete -g rg -n i1")
    az("snapshot delete -g rg -n s1")
    for name in ("imported", "copied"):
        az(f"disk delete -g rg -n {name} -y")


def sharing() -> None:
    az(f"sig share add {G} --subscription-ids {OTHER}")
    profile = az(f"sig show {G} --sharing-groups")["sharingProfile"]
    assert profile["groups"] == [{"type": "Subscriptions", "ids": [OTHER]}]
    az(f"sig share remove {G} --subscription-ids {OTHER}")
    az(f"sig share reset {G}")
    assert az(f"sig show {G} --select Permissions")["sharingProfile"]["permissions"] == "Private"
    assert az("sig list-shared -l southcentralus") == []
    az(
        "sig create -g rg -r open --permissions community --publisher-uri https://example.org --publisher-email "
        "images@example.org --eula https://example.org/terms --public-name-prefix example"
    )
    az("sig share enable-community -g rg -r open")
    (found,) = az("sig list-community -l southcentralus")
    public = f"-l southcentralus --public-gallery-name {found['name']}"
    assert az(f"sig show-community {public}")["uniqueId"] == f"/CommunityGalleries/{found['name']}"
    assert az(f"sig image-definition list-community {public}") == []
    az("sig share reset -g rg -r open")
    assert az("sig list-community") == []
    az("sig delete -g rg -r open")


def soft_delete() -> None:
    az(f"sig update {G} --soft-delete true")
    az(f"sig image-version delete {V}")
    assert [each["name"] for each in az(f"sig image-version list-soft-deleted {D}")] == ["1.0.0"]
    az(f"sig image-version undelete {V}")
    assert az(f"sig image-version show {V}")["provisioningState"] == "Succeeded"


def deployments() -> None:
    template = f"--template-file {Path(__file__).with_name('gallery.json')} --parameters name=templated source={SOURCE}"
    assert az(f"deployment group validate -g rg -n t1 {template}")["error"] is None
    made = az(f"deployment group create -g rg -n t1 {template}")["properties"]
    assert (made["provisioningState"], made["outputs"]["unique"]["value"]) == ("Succeeded", f"{SUBSCRIPTION}-TEMPLATED")
    assert [each["name"] for each in az("deployment group list -g rg")] == ["t1"]
    assert az("deployment group show -g rg -n t1")["properties"]["parameters"]["name"]["value"] == "templated"
    inside = "-g rg -r templated -i ubuntu"
    assert [each["name"] for each in az(f"sig image-version list {inside}")] == ["1.0.0", "1.0.1"]
    for version in ("1.0.0", "1.0.1"):
        az(f"sig image-version delete {inside} -e {version}")
    az(f"sig image-definition delete {inside}")
    az("sig delete -g rg -r templated")
    az("deployment group delete -g rg -n t1")


def modules() -> None:
    """What Bicep emits: symbolic names, a module, loops, and a gallery that stands."""
    existing = az(f"sig show {G}")["name"]
    template = (
        f"--template-file {Path(__file__).with_name('modules.json')} --parameters existing={existing} key=hush-hush"
    )
    assert az(f"deployment group validate -g rg -n t2 {template}")["error"] is None
    made = az(f"deployment group create -g rg -n t2 {template}")["properties"]
    assert (made["provisioningState"], made["outputs"]["skus"]["value"]) == ("Succeeded", ["small", "large"])
    assert "hush-hush" not in str(az("deployment group show -g rg -n t2"))
    assert az("deployment group show -g rg -n gallery-module")["properties"]["provisioningState"] == "Succeeded"
    names = [
        each["properties"]["targetResource"]["resourceName"]
        for each in az("deployment operation group list -g rg -n t2")
    ]
    assert names == ["gallery-module", "modular/image-small", "modular/image-large"]
    assert run(f"deployment group what-if -g rg -n t2 {template}"), "what-if is refused; az reads no error's text here"
    for name in ("image-small", "image-large"):
        assert az(f"sig image-definition show -g rg -r modular -i {name}")["identifier"]["offer"] == "gallery-module"
        az(f"sig image-definition delete -g rg -r modular -i {name}")
    az("sig delete -g rg -r modular")
    for name in ("t2", "gallery-module"):
        az(f"deployment group delete -g rg -n {name}")


def machines() -> None:
    """All from a gallery to machines by one template; and what az does with a machine."""
    template = Path(__file__).with_name("machines.json")
    given = f"--template-file {template} --parameters adminPassword=Secret-123! source={SOURCE}"
    made = az(f"deployment group create -g rg -n whole {given}")["properties"]
    assert made["outputs"]["disk"]["value"] in {each["id"] for each in az("disk list -g rg")}
    assert [each["name"] for each in az("vm list -g rg")] == ["vm1", "vm2"]
    assert az("vm show -g rg -n vm1")["zones"] == ["1"]
    codes = [each["code"] for each in az("vm get-instance-view -g rg -n vm1")["instanceView"]["statuses"]]
    assert codes[-1] == "PowerState/deallocated"
    assert az("vm update -g rg -n vm1 --set tags.a=b")["tags"] == {"a": "b"}
    assert "don't run here" in fails("vm start -g rg -n vm1")
    az("vm deallocate -g rg -n vm1")
    az("vm generalize -g rg -n vm1")
    for name in ("vm1", "vm2"):
        az(f"vm delete -g rg -n {name} -y")
    assert made["outputs"]["disk"]["value"] not in {each["id"] for each in az("disk list -g rg")}
    az("sig image-version delete -g rg -r whole -i ubuntu -e 1.0.0")
    az("sig image-definition delete -g rg -r whole -i ubuntu")
    az("sig delete -g rg -r whole")


def usage() -> None:
    details = az("consumption usage list --include-meter-details")
    assert len(details) > 2, "over several pages"
    assert {each["type"] for each in details} == {"Microsoft.Consumption/usageDetails"}
    assert {"rg"} <= {each["instanceId"].split("/")[4] for each in details}
    egress = [each for each in details if each["meterDetails"]["meterSubCategory"] == "egress"]
    assert {each["instanceLocation"] for each in egress} >= {"westus2", "eastus"}
    assert all(float(each["pretaxCost"]) >= 0 and each["currency"] == "USD" for each in details)
    assert len(az("consumption usage list --top 1")) == 1
    assert az("consumption usage list --start-date 2020-01-01 --end-date 2020-01-31") == []


def the_end() -> None:
    assert "CannotDeleteResource" in fails(f"sig image-definition delete {D}")
    az(f"sig image-version delete {V} --bypass-soft-delete true")
    az("disk delete -g rg -n d1 -y")
    az(f"sig image-definition delete {D}")
    az(f"sig delete {G}")
    az("group delete -n rg -y")
    assert az("group list") == []


for chapter in (
    login,
    groups,
    galleries,
    images,
    versions,
    disks,
    sources,
    sharing,
    soft_delete,
    deployments,
    modules,
    machines,
    usage,
    the_end,
):
    chapter()
    print(chapter.__name__, flush=True)
