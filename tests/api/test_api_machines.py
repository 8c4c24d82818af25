"""Test virtual machines: creation from images and templates, reads, changes, generalize and deletion."""

import base64
import json
from typing import Any

import pytest
from api_server import Answer, Api, bearer, definition_body, version_body

from imgstore.domain.identity.access import Role
from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]

VM = "2024-07-01"
HERE = "southcentralus"
PASSWORD = "Secret-123!"


@pytest.fixture
def published(api: Api, web: WebServer) -> Api:
    """Publish version 1.0.0 with an OS disk and a data disk at LUN 1."""
    api.found()
    body = version_body(web.url("/one.raw"))
    data = [{"lun": 1, "source": {"uri": web.url("/two.raw")}}]
    body["properties"]["storageProfile"]["dataDiskImages"] = data
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    return api


def machine_body(image: Any, os_disk: Any = None, data_disks: Any = None, **properties: Any) -> Any:
    """Return the body of a machine as Azure's clients send it."""
    reference = {"id": image} if isinstance(image, str) else image
    storage = {
        "imageReference": reference,
        "osDisk": os_disk or {"createOption": "FromImage", "name": None, "caching": None, "managedDisk": {}},
        "dataDisks": data_disks,
    }
    profile = {"computerName": "host", "adminUsername": "azureuser", "adminPassword": PASSWORD}
    nic = {"id": "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/networkInterfaces/nic1"}
    return {
        "location": HERE,
        "tags": {"a": "b"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
            "storageProfile": {name: value for name, value in storage.items() if value is not None},
            "osProfile": profile,
            "networkProfile": {"networkInterfaces": [nic]},
            **properties,
        },
    }


def path_of(api: Api, name: str = "vm1") -> str:
    """Return the path of a machine."""
    return f"{api.compute}/virtualMachines/{name}"


def make(api: Api, body: Any, name: str = "vm1") -> Any:
    """Put a machine. Return the machine."""
    made = api.ask("PUT", path_of(api, name), body, version=VM)
    assert made.status == 201, made
    assert api.await_end(made)["status"] == "Succeeded"
    return api.ask("GET", path_of(api, name), version=VM).body


def disks_of(api: Api) -> dict[str, Any]:
    """Return the managed disks of the group, by name."""
    return {each["name"]: each for each in api.ask("GET", f"{api.compute}/disks").body["value"]}


def test_machine_gets_named_disks_from_the_replica(published: Api) -> None:
    shown = make(published, machine_body(published.definition))
    properties = shown["properties"]
    storage = properties["storageProfile"]
    assert storage["imageReference"] == {"id": published.definition, "exactVersion": "1.0.0"}
    assert (properties["provisioningState"], properties["osProfile"]["adminUsername"]) == ("Succeeded", "azureuser")
    (data,) = storage["dataDisks"]
    assert (data["lun"], data["createOption"], storage["osDisk"]["createOption"]) == (1, "FromImage", "FromImage")
    made = disks_of(published)
    assert {storage["osDisk"]["name"], data["name"]} == set(made)
    assert {each["managedBy"] for each in made.values()} == {shown["id"]}


def test_unknown_fields_are_refused_by_path(published: Api) -> None:
    refused = published.ask(
        "PUT", path_of(published), machine_body(published.version(), unheardOf={"a": 1}), version=VM
    )
    assert (refused.status, refused.body["error"]["target"]) == (400, "properties.unheardOf")


def test_fields_are_kept_and_shown_except_secrets(published: Api) -> None:
    linux = {
        "disablePasswordAuthentication": True,
        "ssh": {"publicKeys": [{"path": "/home/u/k", "keyData": "ssh-rsa A"}]},
    }
    windows = {"provisionVMAgent": True, "additionalUnattendContent": [{"content": PASSWORD}]}
    body = machine_body(
        published.version(),
        priority="Spot",
        securityProfile={"securityType": "TrustedLaunch"},
        userData=PASSWORD,
    ) | {"zones": ["1"], "identity": {"type": "None"}}
    body["properties"]["osProfile"] |= {
        "customData": base64.b64encode(PASSWORD.encode()).decode(),
        "linuxConfiguration": linux,
        "windowsConfiguration": windows,
    }
    shown = make(published, body)
    properties = shown["properties"]
    assert (shown["zones"], shown["tags"]) == (["1"], {"a": "b"})
    assert properties["osProfile"] == {
        "computerName": "host",
        "adminUsername": "azureuser",
        "linuxConfiguration": linux
        | {
            "provisionVMAgent": True,
            "patchSettings": {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"},
        },
        "windowsConfiguration": {"provisionVMAgent": True},
        "secrets": [],
        "allowExtensionOperations": True,
        "requireGuestProvisionSignal": True,
    }
    assert properties["networkProfile"] == body["properties"]["networkProfile"]
    assert (properties["priority"], properties["securityProfile"]) == ("Spot", {"securityType": "TrustedLaunch"})
    assert "unheardOf" not in properties, "what is not known is not kept: nobody knows what it is"
    home = published.installation.home
    told = b"".join(each.read_bytes() for each in home.rglob("*") if each.is_file())
    assert b"azureuser" in told, "the catalog was read"
    assert PASSWORD.encode() not in told


def test_body_of_a_get_can_be_put_again(published: Api) -> None:
    shown = make(published, machine_body(published.definition))
    again = published.ask("PUT", path_of(published), shown, version=VM)
    assert (again.status, again.body) == (200, shown), again
    before = json.loads(json.dumps(shown))
    del shown["properties"]["storageProfile"]["imageReference"]
    changed = published.ask("PUT", path_of(published), shown | {"tags": {"c": "d"}}, version=VM)
    assert (changed.status, changed.body["tags"]) == (200, {"c": "d"}), "az leaves the image out of what it has read"
    shown = before
    same = published.ask("PUT", path_of(published), machine_body(published.definition), version=VM)
    assert (same.status, same.body) == (200, shown)
    assert len(disks_of(published)) == 2


def test_template_deploys_a_gallery_a_version_and_a_machine(api: Api, web: WebServer) -> None:
    assert api.ask("PUT", f"{api.top}/resourcegroups/rg", {"location": HERE}).status == 201
    compute, image = "Microsoft.Compute", "[resourceId('Microsoft.Compute/galleries/images/versions','g','i','1.0.0')]"
    version = version_body(web.url("/one.raw"))
    machine = machine_body(image)
    machine["properties"]["osProfile"]["adminPassword"] = "[parameters('adminPassword')]"
    resources = [
        {"type": f"{compute}/galleries", "apiVersion": "2023-07-03", "name": "g", "location": HERE},
        {"type": f"{compute}/galleries/images", "apiVersion": "2023-07-03", "name": "g/i", "dependsOn": ["g"]}
        | definition_body(),
        {"type": f"{compute}/galleries/images/versions", "apiVersion": "2023-07-03", "name": "g/i/1.0.0"}
        | {"dependsOn": ["g/i"]}
        | version,
        {"type": f"{compute}/virtualMachines", "apiVersion": VM, "name": "vm1", "zones": ["2"], "dependsOn": [image]}
        | machine,
    ]
    template = {
        "resources": resources,
        "parameters": {"adminPassword": {"type": "secureString"}},
        "outputs": {"size": {"type": "string", "value": "[reference('vm1').hardwareProfile.vmSize]"}},
    }
    body = {"properties": {"template": template, "parameters": {"adminPassword": {"value": PASSWORD}}}}
    deployment = f"{api.top}/resourcegroups/rg/providers/Microsoft.Resources/deployments/d1"
    ended = api.await_end(api.ask("PUT", deployment, body, version="2024-11-01"))
    assert ended["status"] == "Succeeded", ended
    told = api.ask("GET", deployment, version="2024-11-01").body["properties"]
    assert told["outputs"]["size"]["value"] == "Standard_D2s_v3"
    shown = api.ask("GET", f"{api.top}/resourceGroups/rg/providers/{compute}/virtualMachines/vm1", version=VM).body
    assert (shown["zones"], shown["id"]) == (["2"], told["outputResources"][3]["id"])


def test_disks_have_the_requested_names_and_delete_options(published: Api) -> None:
    os_disk = {"createOption": "FromImage", "name": "system", "caching": "readonly", "deleteOption": "Delete"}
    data = [{"lun": 1, "createOption": "fromImage", "name": "logs", "diskSizeGB": 1}]
    storage = make(published, machine_body(published.version(), os_disk, data))["properties"]["storageProfile"]
    assert (storage["osDisk"]["name"], storage["osDisk"]["caching"]) == ("system", "ReadOnly")
    (shown,) = storage["dataDisks"]
    assert (shown["name"], shown["createOption"], shown["deleteOption"]) == ("logs", "FromImage", "Detach")
    assert published.ask("DELETE", f"{published.compute}/disks/system").status == 409
    for change in (
        {"osDisk": {"name": "other"}},
        {"dataDisks": [{"lun": 1, "createOption": "fromImage", "name": "x"}]},
    ):
        refused = published.ask("PATCH", path_of(published), {"properties": {"storageProfile": change}}, version=VM)
        assert (refused.status, refused.code) == (409, "PropertyChangeNotAllowed"), refused
    kept = {"dataDisks": [{"lun": 1, "createOption": "fromImage", "caching": "None"}]}
    changed = published.ask("PATCH", path_of(published), {"properties": {"storageProfile": kept}}, version=VM)
    assert changed.body["properties"]["storageProfile"]["dataDisks"][0]["caching"] == "None"
    assert published.await_end(published.ask("DELETE", path_of(published), version=VM))["status"] == "Succeeded"
    assert {name: each["properties"]["diskState"] for name, each in disks_of(published).items()} == {
        "logs": "Unattached"
    }
    assert published.ask("DELETE", path_of(published), version=VM).status == 204
    assert published.ask("GET", path_of(published), version=VM).code == "ResourceNotFound"


def test_machine_with_a_disk_in_use_is_not_deleted(published: Api) -> None:
    os_disk = {"createOption": "FromImage", "name": "system", "deleteOption": "Delete"}
    make(published, machine_body(published.version(), os_disk))
    disk = f"{published.compute}/disks/system"
    access = {"access": "Read", "durationInSeconds": 300}
    assert published.ask("POST", f"{disk}/beginGetAccess", access).status == 200
    refused = published.ask("DELETE", path_of(published), version=VM)
    assert (refused.status, refused.code) == (409, "OperationNotAllowed"), refused
    shown = published.ask("GET", path_of(published), version=VM)
    assert (shown.status, shown.body["properties"]["provisioningState"]) == (200, "Succeeded")
    published.await_end(published.ask("POST", f"{disk}/endGetAccess"))
    assert published.await_end(published.ask("DELETE", path_of(published), version=VM))["status"] == "Succeeded"
    assert "system" not in disks_of(published)


def test_disks_are_attached_at_the_requested_luns(published: Api) -> None:
    first = make(published, machine_body(published.version()))["properties"]["storageProfile"]
    published.await_end(published.ask("DELETE", path_of(published), version=VM))
    system, data = first["osDisk"]["managedDisk"]["id"], first["dataDisks"][0]["managedDisk"]["id"]
    attached = {"lun": 5, "createOption": "Attach", "managedDisk": {"id": data}, "name": data.rsplit("/", 1)[1]}
    taken = machine_body(published.version(), None, [attached | {"lun": 1}])
    refused = published.ask("PUT", path_of(published, "vm2"), taken, version=VM)
    assert (refused.status, refused.code) == (400, "InvalidParameter")
    assert "LUN 1" in refused.body["error"]["message"]
    body = machine_body(None, {"createOption": "attach", "osType": "Linux", "managedDisk": {"id": system}}, [attached])
    del body["properties"]["storageProfile"], body["properties"]["osProfile"]
    storage = {"osDisk": {"createOption": "attach", "managedDisk": {"id": system}}, "dataDisks": [attached]}
    body["properties"]["storageProfile"] = storage
    shown = make(published, body, "vm2")
    told = shown["properties"]["storageProfile"]
    assert (told["osDisk"]["createOption"], told["osDisk"]["managedDisk"]["id"]) == ("Attach", system)
    assert [(each["lun"], each["createOption"]) for each in told["dataDisks"]] == [(5, "Attach")]
    again = published.ask("PUT", path_of(published, "vm2"), shown, version=VM)
    assert (again.status, again.body) == (200, shown)

    def put_data_disks(data_disks: list[Any]) -> Answer:
        changed = body | {"properties": body["properties"] | {"storageProfile": storage | {"dataDisks": data_disks}}}
        return published.ask("PUT", path_of(published, "vm2"), changed, version=VM)

    for others in ([attached, attached | {"lun": 6}], [attached | {"lun": 6}]):
        refused = put_data_disks(others)
        assert (refused.status, refused.code) == (409, "PropertyChangeNotAllowed"), others
    detached = put_data_disks([])
    assert (detached.status, detached.body["properties"]["storageProfile"]["dataDisks"]) == (200, [])
    assert disks_of(published)[attached["name"]]["properties"]["diskState"] == "Unattached"
    told = put_data_disks([attached | {"lun": 6}]).body["properties"]["storageProfile"]
    assert [each["lun"] for each in told["dataDisks"]] == [6]
    stolen = published.ask("PUT", path_of(published, "vm3"), body, version=VM)
    assert (stolen.status, stolen.code) == (409, "ConflictingUserInput")


@pytest.mark.parametrize(
    ("change", "status", "code", "target"),
    [
        ({"identity": {"type": "SystemAssigned"}}, 400, "InvalidParameter", "identity"),
        ({"storageProfile": {"imageReference": {"publisher": "Canonical", "offer": "u", "sku": "s", "version": "latest"}}},
         400, "PlatformImageNotFound", "imageReference"),
        ({"storageProfile": {}}, 400, "InvalidParameter", "imageReference"),
        ({"storageProfile": "all"}, 400, "InvalidParameter", "storageProfile"),
        ({"osDisk": {"createOption": "Empty"}}, 400, "InvalidParameter", "createOption"),
        ({"osDisk": {"createOption": "FromImage", "diskSizeGB": 64}}, 400, "InvalidParameter", "diskSizeGB"),
        ({"osDisk": {"createOption": "FromImage", "diffDiskSettings": {"option": "Local"}}}, 400, "InvalidParameter",
         "diffDiskSettings"),
        ({"osDisk": {"createOption": "FromImage", "name": "bad name"}}, 400, "InvalidParameter", "name"),
        ({"dataDisks": [{"lun": 7, "createOption": "FromImage"}]}, 404, "GalleryImageNotFound", "LUN 7"),
        ({"dataDisks": [{"lun": 1, "createOption": "Empty", "diskSizeGB": 4}]}, 400, "InvalidParameter", "empty disks"),
        ({"dataDisks": [{"lun": 99, "createOption": "FromImage"}]}, 400, "InvalidParameter", "LUN 99"),
        ({"dataDisks": [{"createOption": "FromImage"}]}, 400, "InvalidParameter", "lun"),
        ({"dataDisks": [{"lun": 1, "createOption": "Attach", "managedDisk": {"id": "d1"}}]}, 400, "InvalidParameter",
         "managedDisk.id"),
        ({"osProfile": None}, 400, "InvalidParameter", "osProfile"),
        ({"securityProfile": {"encryptionAtHost": True}}, 400, "InvalidParameter", "encryptionAtHost"),
        ({"location": "westus2"}, 404, "GalleryImageNotFound", "West US 2"),
        ({"location": None}, 400, "LocationRequired", "location"),
    ],
)  # fmt: skip
def test_unsupported_machine_fields_are_refused_by_path(
    published: Api, change: dict[str, Any], status: int, code: str, target: str
) -> None:
    body = machine_body(published.version())
    for name, value in change.items():
        if name in ("identity", "location"):
            body[name] = value
        elif name in ("osDisk", "dataDisks"):
            body["properties"]["storageProfile"][name] = value
        else:
            body["properties"][name] = value
    refused = published.ask("PUT", path_of(published), body, version=VM)
    assert (refused.status, refused.code) == (status, code), refused
    assert target in str(refused.body["error"])
    assert published.ask("GET", path_of(published), version=VM).status == 404
    assert disks_of(published) == {}


def test_specialized_image_rejects_an_os_profile(published: Api, web: WebServer) -> None:
    special = f"{published.gallery}/images/special"
    identifier = {"publisher": "p", "offer": "o", "sku": "special"}
    published.ask("PUT", special, definition_body(osState="Specialized", identifier=identifier))
    published.await_end(published.ask("PUT", f"{special}/versions/1.0.0", version_body(web.url("/one.raw"))))
    body = machine_body(special)
    for profile in (body["properties"]["osProfile"], {"linuxConfiguration": {"provisionVMAgent": True}}):
        body["properties"]["osProfile"] = profile
        refused = published.ask("PUT", path_of(published), body, version=VM)
        assert (refused.status, refused.code) == (400, "InvalidParameter"), profile
        assert "'osProfile' is not allowed" in refused.body["error"]["message"]
    del body["properties"]["osProfile"]
    assert "osProfile" not in make(published, body)["properties"]
    late = {"properties": {"osProfile": {"linuxConfiguration": {"provisionVMAgent": True}}}}
    assert published.ask("PATCH", path_of(published), late, version=VM).code == "PropertyChangeNotAllowed"


def test_instance_view_and_actions_of_a_machine(published: Api) -> None:
    make(published, machine_body(published.version()))
    path = path_of(published)
    view = published.ask("GET", f"{path}/instanceView", version=VM).body
    codes = ["ProvisioningState/succeeded", "PowerState/deallocated"]
    assert [each["code"] for each in view["statuses"]] == codes
    assert [each["statuses"][0]["code"] for each in view["disks"]] == ["ProvisioningState/succeeded"] * 2
    expanded = published.ask("GET", path, version=VM, query="$expand=InstanceView")
    assert expanded.body["properties"]["instanceView"] == view
    assert "instanceView" not in published.ask("GET", path, version=VM).body["properties"]
    for action in ("start", "restart", "redeploy"):
        refused = published.ask("POST", f"{path}/{action}", version=VM)
        assert (refused.status, refused.code) == (409, "OperationNotAllowed")
        assert f"'{action}'" in refused.body["error"]["message"]
        told = "does not support" if action == "redeploy" else "don't run here"
        assert told in refused.body["error"]["message"]
    for action in ("deallocate", "powerOff", "poweroff"):
        assert published.ask("POST", f"{path}/{action}", version=VM).status == 200
        assert published.ask("POST", f"{path_of(published, 'none')}/{action}", version=VM).code == "ResourceNotFound"
    assert published.ask("POST", f"{path}/generalize", version=VM).status == 200
    statuses = published.ask("GET", f"{path}/instanceview", version=VM).body["statuses"]
    assert [each["code"] for each in statuses] == [codes[0], "OSState/generalized", codes[1]]


def test_patch_changes_only_named_fields(published: Api) -> None:
    before = make(published, machine_body(published.definition))
    path = path_of(published)
    tags = published.ask("PATCH", path, {"tags": {"c": "d"}}, version=VM)
    assert (tags.status, tags.body["tags"]) == (200, {"c": "d"})
    assert tags.body | {"tags": before["tags"], "etag": before["etag"]} == before
    assert tags.body["etag"] == tags.headers["etag"] != before["etag"]
    patch = {"properties": {"hardwareProfile": {"vmSize": "Standard_E2s_v3"}, "licenseType": "RHEL_BYOS"}}
    sized = published.ask("PATCH", path, patch, version=VM, headers={"If-Match": tags.headers["etag"]})
    assert sized.body["properties"]["hardwareProfile"] == {"vmSize": "Standard_E2s_v3"}
    assert (sized.body["properties"]["licenseType"], sized.body["tags"]) == ("RHEL_BYOS", {"c": "d"})
    assert published.ask("PATCH", path, patch, version=VM, headers={"If-Match": tags.headers["etag"]}).status == 412
    renamed = {"properties": {"osProfile": {"adminUsername": "other"}}}
    assert published.ask("PATCH", path, renamed, version=VM).code == "PropertyChangeNotAllowed"
    assert published.ask("PATCH", path_of(published, "none"), {"tags": {}}, version=VM).code == "ResourceNotFound"
    published.await_end(published.ask("DELETE", published.version()))
    assert published.ask("PATCH", path, {"tags": {}}, version=VM).body["tags"] == {}, "its image need not stand"


def test_fields_depend_on_the_api_version(published: Api) -> None:
    os_disk = {"createOption": "FromImage", "deleteOption": "Delete"}
    make(published, machine_body(published.version(), os_disk))
    old = published.ask("GET", path_of(published), version="2020-06-01").body
    assert "timeCreated" not in old["properties"]
    assert "deleteOption" not in old["properties"]["storageProfile"]["osDisk"]
    assert published.ask("PUT", path_of(published), old, version="2020-06-01").status == 200
    new = published.ask("GET", path_of(published), version=VM).body["properties"]
    assert new["storageProfile"]["osDisk"]["deleteOption"] == "Delete", "what the version does not know stays"


def test_machine_shows_the_shared_id_of_a_shared_image(published: Api) -> None:
    from dataclasses import replace

    from imgstore.operations.gallery.groups import create_group
    from tests.support.sample_gallery import ADMIN, GALLERY

    other = "22222222-2222-2222-2222-222222222222"
    create_group(replace(published.installation, subscription=other), ADMIN, name="theirs", location=HERE)
    share = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [other]}]}
    published.await_end(published.ask("POST", f"{published.gallery}/share", share))
    unique = f"{published.installation.subscription}-{GALLERY.upper()}"
    reference = {"sharedGalleryImageId": f"/SharedGalleries/{unique}/Images/ubuntu/Versions/latest"}
    path = f"/subscriptions/{other}/resourceGroups/theirs/providers/Microsoft.Compute/virtualMachines/vm1"
    made = published.ask("PUT", path, machine_body(reference), version=VM)
    assert made.status == 201, made
    shown = published.ask("GET", path, version=VM).body
    assert shown["properties"]["storageProfile"]["imageReference"] == reference | {"exactVersion": "1.0.0"}
    assert published.ask("PUT", path, shown, version=VM).body == shown


def test_machine_is_created_from_a_managed_image(published: Api) -> None:
    make(published, machine_body(published.version()))
    disk = published.ask("GET", path_of(published), version=VM).body["properties"]["storageProfile"]["osDisk"]
    profile = {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "managedDisk": {"id": disk["managedDisk"]["id"]}}
    }
    image = f"{published.compute}/images/golden"
    kept = published.ask("PUT", image, {"location": HERE, "properties": {"storageProfile": profile}})
    assert published.await_end(kept)["status"] == "Succeeded"
    body = machine_body(image, {"createOption": "FromImage", "name": "mine"})
    shown = make(published, body, "vm2")["properties"]["storageProfile"]
    assert (shown["imageReference"], shown["osDisk"]["name"]) == ({"id": image}, "mine")
    assert published.ask("PUT", path_of(published, "vm2"), body, version=VM).status == 200


def test_machines_are_listed_in_pages(tmp_path: Any, web: WebServer) -> None:
    from api_server import start_api

    with start_api(tmp_path / "home", page_items=2) as api:
        api.found()
        api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
        for number in range(5):
            make(api, machine_body(api.version()), f"vm{number}")
        for path in (f"{api.compute}/virtualMachines", f"{api.top}/providers/Microsoft.Compute/virtualMachines"):
            names, asked = [], path
            while asked:
                page = api.ask("GET", asked, version=VM).body
                assert len(page["value"]) <= 2
                names += [each["name"] for each in page["value"]]
                asked = api.path_of(page["nextLink"]) if "nextLink" in page else ""
            assert names == [f"vm{number}" for number in range(5)]


def test_machine_requires_read_on_the_image_and_write_on_the_group(published: Api) -> None:
    from test_api_basics import token_of

    from imgstore.domain.identity.access import Role

    assert published.ask("PUT", f"{published.top}/resourceGroups/own", {"location": HERE}).status == 201
    own = f"{published.top}/resourceGroups/own"
    path, body = f"{own}/providers/Microsoft.Compute/virtualMachines/vm1", machine_body(published.version())
    headers = token_of(published, Role.CONTRIBUTOR, own)
    refused = published.ask("PUT", path, body, version=VM, headers=headers)
    assert (refused.status, refused.code) == (403, "AuthorizationFailed")
    assert "Microsoft.Compute/galleries/images/versions/read" in refused.body["error"]["message"]
    readers = token_of(published, Role.READER, published.top)
    refused = published.ask("PUT", path, body, version=VM, headers=readers)
    assert "Microsoft.Compute/virtualMachines/write" in refused.body["error"]["message"]
    make(published, body)
    for method, route in (
        ("PATCH", ""), ("DELETE", ""), ("POST", "/generalize"), ("POST", "/deallocate"), ("POST", "/start"),
    ):  # fmt: skip
        refused = published.ask(method, path_of(published) + route, {"tags": {}}, version=VM, headers=readers)
        assert (refused.status, refused.code) == (403, "AuthorizationFailed"), route
    assert published.ask("GET", f"{path_of(published)}/instanceView", version=VM, headers=readers).status == 200


def test_patch_completes_a_machine_only_with_read_on_the_image(published: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    assert published.ask("PUT", f"{published.top}/resourceGroups/other", {"location": HERE}).status == 201
    path = f"{published.top}/resourceGroups/other/providers/Microsoft.Compute/virtualMachines/vm1"
    with monkeypatch.context() as patch:
        patch.setattr("imgstore.operations.machines.create.make_placed_disks", die)
        assert published.ask("PUT", path, machine_body(published.definition), version=VM).status == 503
    mine = bearer(published, Role.CONTRIBUTOR, "other")
    refused = published.ask("PATCH", path, {"tags": {"c": "d"}}, version=VM, headers=mine)
    assert (refused.status, refused.code) == (403, "AuthorizationFailed")
    assert published.ask("GET", path, version=VM).body["properties"]["provisioningState"] == "Creating"
    assert published.ask("PATCH", path, {"tags": {"c": "d"}}, version=VM).status == 200
    assert published.ask("GET", path, version=VM).body["properties"]["provisioningState"] == "Succeeded"
