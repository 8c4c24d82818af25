"""azure-identity and azure-mgmt-compute, unmodified, through the life of everything that the server serves.

Run by tests/api/test_api_sdk.py in an environment of its own, so it imports nothing of ours. What it is told comes in the
environment; it prints a line for each chapter that held.
"""

import importlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

identity: Any = importlib.import_module("azure.identity")
compute: Any = importlib.import_module("azure.mgmt.compute")
errors: Any = importlib.import_module("azure.core.exceptions")

URL = os.environ["IMGSTORE_URL"]
SOURCE = os.environ["IMGSTORE_SOURCE"]
AUTHORITIES = os.environ["REQUESTS_CA_BUNDLE"]
SUBSCRIPTION = os.environ["IMGSTORE_SUBSCRIPTION_ID"]
RG, GALLERY, IMAGE = "rg", "sdkGallery", "ubuntu"
SOUTH = "southcentralus"

credential = identity.ClientSecretCredential(
    os.environ["IMGSTORE_TENANT_ID"],
    os.environ["IMGSTORE_CLIENT_ID"],
    os.environ["IMGSTORE_CLIENT_SECRET"],
    authority=URL,
    disable_instance_discovery=True,
    connection_verify=AUTHORITIES,
)
client = compute.ComputeManagementClient(
    credential,
    SUBSCRIPTION,
    base_url=URL,
    credential_scopes=[f"{URL}/.default"],
    connection_verify=AUTHORITIES,
    polling_interval=0,
)


def refused(call: Callable[[], Any]) -> tuple[int, str]:
    """The status and the code that a call is refused with."""
    try:
        call()
    except errors.HttpResponseError as error:
        return error.status_code, error.error.code
    raise AssertionError("it was not refused")


def group() -> None:
    """By hand: resource groups are another package's."""
    token = credential.get_token(f"{URL}/.default").token
    path = f"{URL}/subscriptions/{SUBSCRIPTION}/resourcegroups/{RG}?api-version=2024-11-01"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(path, json.dumps({"location": SOUTH}).encode(), headers, method="PUT")
    context = importlib.import_module("ssl").create_default_context(cafile=AUTHORITIES)
    with urllib.request.urlopen(request, context=context) as answer:
        assert answer.status == 201


def galleries() -> None:
    body = {"location": SOUTH, "tags": {"a": "b"}, "properties": {"description": "one"}}
    made = client.galleries.begin_create_or_update(RG, GALLERY, body).result()
    assert (made.name, made.tags, made.properties.description) == (GALLERY, {"a": "b"}, "one")
    update = {"properties": {"description": "two"}}
    assert client.galleries.begin_update(RG, GALLERY, update).result().properties.description == "two"
    assert client.galleries.get(RG, GALLERY).tags == {"a": "b"}
    for number in range(5):
        client.galleries.begin_create_or_update(RG, f"page{number}", {"location": SOUTH}).result()
    names = {*(f"page{number}" for number in range(5)), GALLERY}
    assert {each.name for each in client.galleries.list_by_resource_group(RG)} == names, "over several pages"
    assert {each.name for each in client.galleries.list()} == names
    for number in range(5):
        client.galleries.begin_delete(RG, f"page{number}").result()
    assert refused(lambda: client.galleries.begin_create_or_update(RG, "no-dashes", body)) == (400, "InvalidParameter")
    assert refused(lambda: client.galleries.begin_create_or_update("none", "g", body)) == (404, "ResourceGroupNotFound")
    moved = body | {"location": "eastus"}
    assert refused(lambda: client.galleries.begin_create_or_update(RG, GALLERY, moved)) == (
        409,
        "PropertyChangeNotAllowed",
    )


def images() -> None:
    properties = {
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": "V1",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
    }
    body = {"location": SOUTH, "properties": properties}
    made = client.gallery_images.begin_create_or_update(RG, GALLERY, IMAGE, body).result()
    assert (made.properties.hyper_v_generation, made.properties.provisioning_state) == ("V1", "Succeeded")
    update = {"properties": {"description": "golden"}}
    assert client.gallery_images.begin_update(RG, GALLERY, IMAGE, update).result().properties.description == "golden"
    assert [each.name for each in client.gallery_images.list_by_gallery(RG, GALLERY)] == [IMAGE]
    again = client.gallery_images.get(RG, GALLERY, IMAGE)
    assert client.gallery_images.begin_create_or_update(RG, GALLERY, IMAGE, again).result() == again, (
        "what is read is put"
    )
    assert refused(lambda: client.gallery_images.begin_create_or_update(RG, GALLERY, "twin", body))[0] == 409
    assert refused(lambda: client.galleries.begin_delete(RG, GALLERY)) == (409, "CannotDeleteResource")


def versions() -> None:
    body = {
        "location": SOUTH,
        "properties": {
            "publishingProfile": {
                "targetRegions": [
                    {"name": "South Central US", "regionalReplicaCount": 2},
                    {"name": "westus2", "storageAccountType": "standard_zrs"},
                ]
            },
            "storageProfile": {"osDiskImage": {"source": {"uri": SOURCE}}},
        },
    }
    poller = client.gallery_image_versions.begin_create_or_update(RG, GALLERY, IMAGE, "1.0.0", body)
    made = poller.result()
    assert (made.properties.provisioning_state, poller.status()) == ("Succeeded", "Succeeded")
    assert [each.storage_account_type for each in made.properties.publishing_profile.target_regions] == [
        "Standard_LRS",
        "Standard_ZRS",
    ]
    shown = client.gallery_image_versions.get(RG, GALLERY, IMAGE, "1.0.0", expand="ReplicationStatus")
    status = shown.properties.replication_status
    assert status.aggregated_state == "Completed"
    assert {each.region: each.progress for each in status.summary} == {"South Central US": 100, "West US 2": 100}
    made.properties.publishing_profile.target_regions = [{"name": SOUTH}, {"name": "eastus"}]
    put = client.gallery_image_versions.begin_create_or_update(RG, GALLERY, IMAGE, "1.0.0", made).result()
    assert [each.name for each in put.properties.publishing_profile.target_regions] == ["South Central US", "East US"]
    patch = {"properties": {"publishingProfile": {"excludeFromLatest": True}}}
    patched = client.gallery_image_versions.begin_update(RG, GALLERY, IMAGE, "1.0.0", patch).result()
    assert patched.properties.publishing_profile.exclude_from_latest is True
    assert [each.name for each in client.gallery_image_versions.list_by_gallery_image(RG, GALLERY, IMAGE)] == ["1.0.0"]
    bad = client.gallery_image_versions
    assert refused(lambda: bad.begin_create_or_update(RG, GALLERY, IMAGE, "1.0", body)) == (400, "InvalidParameter")
    assert refused(lambda: bad.begin_create_or_update(RG, GALLERY, "none", "1.0.0", body)) == (
        404,
        "ParentResourceNotFound",
    )
    assert refused(lambda: bad.get(RG, GALLERY, IMAGE, "9.9.9")) == (404, "ResourceNotFound")


def an_operation_that_fails() -> None:
    """The source is cut: the answer to the PUT is a refusal, or the operation's end is; the client raises either way."""
    body = {
        "location": SOUTH,
        "properties": {"storageProfile": {"osDiskImage": {"source": {"uri": f"{SOURCE}.none"}}}},
    }
    call = client.gallery_image_versions
    status, code = refused(lambda: call.begin_create_or_update(RG, GALLERY, IMAGE, "2.0.0", body).result())
    assert status >= 400, code
    assert refused(lambda: call.get(RG, GALLERY, IMAGE, "2.0.0")) == (404, "ResourceNotFound")


def disks() -> None:
    image = client.gallery_image_versions.get(RG, GALLERY, IMAGE, "1.0.0").id
    body = {
        "location": SOUTH,
        "properties": {"creationData": {"createOption": "FromImage", "galleryImageReference": {"id": image}}},
    }
    made = client.disks.begin_create_or_update(RG, "d1", body).result()
    assert (made.properties.provisioning_state, made.properties.creation_data.create_option) == (
        "Succeeded",
        "FromImage",
    )
    assert [each.name for each in client.disks.list_by_resource_group(RG)] == ["d1"]
    assert [each.name for each in client.disks.list()] == ["d1"]
    body["location"] = "westus3"
    status, code = refused(lambda: client.disks.begin_create_or_update(RG, "d2", body).result())
    assert (status, code) in {(404, "GalleryImageNotFound"), (400, "InvalidParameter")}
    client.disks.begin_delete(RG, "d1").result()
    assert list(client.disks.list_by_resource_group(RG)) == []


def machines() -> None:
    """With the shape of Azure's: each field that is answered is one of the client's own model, but for what is ours."""
    call, image = client.virtual_machines, client.gallery_image_versions.get(RG, GALLERY, IMAGE, "1.0.0").id
    body: Any = {
        "location": SOUTH,
        "tags": {"a": "b"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
            "storageProfile": {
                "imageReference": {"id": image},
                "osDisk": {"name": "system", "createOption": "FromImage", "caching": "None", "deleteOption": "Delete"},
            },
            "osProfile": {"computerName": "host", "adminUsername": "azureuser", "adminPassword": "Secret-123!"},
            "networkProfile": {"networkInterfaces": [{"id": f"{image}/nic", "properties": {"primary": True}}]},
        },
    }
    for name in ("vm1", "vm2", "vm3", "vm4", "vm5"):
        body["properties"]["storageProfile"]["osDisk"]["name"] = f"system-{name}"
        made = call.begin_create_or_update(RG, name, body).result()
        assert made.properties.provisioning_state == "Succeeded"
    shown = call.get(RG, "vm5", expand="instanceView")
    assert shown.properties.os_profile.admin_password is None
    assert shown.properties.storage_profile.os_disk.managed_disk.id.endswith("/disks/system-vm5")
    assert shown.properties.storage_profile.image_reference.exact_version == "1.0.0"
    assert shown.properties.network_profile.network_interfaces[0].properties.primary is True
    assert set(strange(shown)) == {"osState"}
    view = call.instance_view(RG, "vm5")
    assert [each.code for each in view.statuses] == ["ProvisioningState/succeeded", "PowerState/deallocated"]
    assert list(strange(view)) == []
    assert call.begin_create_or_update(RG, "vm5", call.get(RG, "vm5")).result().tags == {"a": "b"}, (
        "what is read is put"
    )
    assert call.begin_update(RG, "vm5", {"tags": {"c": "d"}}).result().tags == {"c": "d"}
    assert (
        {each.name for each in call.list(RG)}
        == {each.name for each in call.list_all()}
        == {f"vm{n}" for n in range(1, 6)}
    )
    assert refused(lambda: call.begin_start(RG, "vm5")) == (409, "OperationNotAllowed")
    call.begin_deallocate(RG, "vm5").result()
    call.generalize(RG, "vm5")
    del body["properties"]["osProfile"]
    assert refused(lambda: call.begin_create_or_update(RG, "vm6", body)) == (400, "InvalidParameter")
    for number in range(1, 6):
        call.begin_delete(RG, f"vm{number}").result()
    assert (list(call.list(RG)), list(client.disks.list_by_resource_group(RG))) == ([], [])


def scale_sets() -> None:
    """A PUT with location and sku alone, as az sends for a new capacity, keeps all other values."""
    call, one = client.virtual_machine_scale_sets, client.virtual_machine_scale_set_vms
    image = client.gallery_image_versions.get(RG, GALLERY, IMAGE, "1.0.0").id
    storage = {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage", "caching": "ReadOnly"}}
    user = {"computerNamePrefix": "web", "adminUsername": "azureuser", "adminPassword": "Secret-123!"}
    body: Any = {
        "location": SOUTH,
        "tags": {"a": "b"},
        "sku": {"name": "Standard_B1s", "capacity": 3},
        "properties": {
            "upgradePolicy": {"mode": "Manual"},
            "virtualMachineProfile": {"storageProfile": storage, "osProfile": user},
        },
    }
    made = call.begin_create_or_update(RG, "web", body).result()
    assert (made.properties.provisioning_state, made.sku.capacity) == ("Succeeded", 3)
    assert list(strange(call.get(RG, "web"))) == []
    assert call.get(RG, "web").properties.virtual_machine_profile.os_profile.admin_password is None

    def ids() -> list[str]:
        return [each.instance_id for each in one.list(RG, "web")]

    assert ids() == ["0", "1", "2"]
    scaled = {"location": SOUTH, "sku": {"name": "Standard_B1s", "capacity": 6}}
    changed = call.begin_create_or_update(RG, "web", scaled).result()
    assert (changed.sku.capacity, changed.tags) == (6, {"a": "b"})
    assert changed.properties.virtual_machine_profile.storage_profile.image_reference.id == image
    assert ids() == ["0", "1", "2", "3", "4", "5"], "over two pages"
    assert {each.name for each in call.list(RG)} == {each.name for each in call.list_all()} == {"web"}
    shown = one.get(RG, "web", "4", expand="instanceView")
    assert shown.properties.latest_model_applied is True
    assert list(strange(shown)) == []
    assert shown.properties.instance_view.statuses[0].code == "ProvisioningState/succeeded"
    assert refused(lambda: one.get(RG, "web", "9"))[0] == 404
    one.begin_delete(RG, "web", "1").result()
    call.begin_delete_instances(RG, "web", {"instanceIds": ["0", "5"]}).result()
    assert (ids(), call.get(RG, "web").sku.capacity) == (["2", "3", "4"], 3)
    call.begin_reimage_all(RG, "web").result()
    one.begin_power_off(RG, "web", "2").result()
    assert refused(lambda: call.begin_start(RG, "web")) == (409, "OperationNotAllowed")
    moved = {"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": 3}}
    assert refused(lambda: call.begin_create_or_update(RG, "web", moved))[1] == "PropertyChangeNotAllowed"
    call.begin_delete(RG, "web").result()
    assert refused(lambda: call.get(RG, "web"))[0] == 404
    assert [each.name for each in client.disks.list() if each.name.startswith("web")] == []


def strange(model: Any) -> Iterator[str]:
    """The fields of an answer that the client's model does not have, at any depth."""
    if isinstance(model, list):
        for each in model:
            yield from strange(each)
    known = getattr(model, "_attr_to_rest_field", None)
    if known is None:
        return
    yield from set(model) - {field._rest_name for field in known.values()}
    for name in known:
        yield from strange(getattr(model, name))


def soft_delete() -> None:
    policy = {"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": True}}}
    assert (
        client.galleries.begin_update(RG, GALLERY, policy).result().properties.soft_delete_policy.is_soft_delete_enabled
    )
    client.gallery_image_versions.begin_delete(RG, GALLERY, IMAGE, "1.0.0").result()
    listed = client.soft_deleted_resource.list_by_artifact_name(RG, GALLERY, "Images", IMAGE)
    assert [each.name for each in listed] == ["1.0.0"]
    back = client.gallery_image_versions.begin_create_or_update(
        RG, GALLERY, IMAGE, "1.0.0", {"location": SOUTH}
    ).result()
    assert back.properties.provisioning_state == "Succeeded"


def the_end() -> None:
    client.gallery_image_versions.begin_delete(RG, GALLERY, IMAGE, "1.0.0", bypass_soft_delete=True).result()
    client.gallery_images.begin_delete(RG, GALLERY, IMAGE).result()
    client.galleries.begin_delete(RG, GALLERY).result()
    client.galleries.begin_delete(RG, GALLERY).result()  # What is not there is deleted already.
    assert list(client.galleries.list()) == []


for chapter in (
    group,
    galleries,
    images,
    versions,
    an_operation_that_fails,
    disks,
    machines,
    scale_sets,
    soft_delete,
    the_end,
):
    chapter()
    print(chapter.__name__, flush=True)
