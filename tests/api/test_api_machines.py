"""Virtual machines over HTTP: made of images with their disks, shown, changed, generalized, deleted; and from templates."""

from typing import Any

import pytest
from api_server import Api, definition_body, version_body

from imgstore.testing.web import WebServer

pytest_plugins = ["api_fixtures"]

VM = "2024-07-01"
HERE = "southcentralus"
PASSWORD = "Secret-123!"


@pytest.fixture
def stocked(api: Api, web: WebServer) -> Api:
    """With version 1.0.0 of an OS disk and a data disk at LUN 1."""
    api.found()
    body = version_body(web.url("/one.raw"))
    data = [{"lun": 1, "source": {"uri": web.url("/two.raw")}}]
    body["properties"]["storageProfile"]["dataDiskImages"] = data
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    return api


def machine_body(image: Any, os_disk: Any = None, data_disks: Any = None, **properties: Any) -> Any:
    """A machine as Azure's clients put it."""
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
    """Of a machine."""
    return f"{api.compute}/virtualMachines/{name}"


def make(api: Api, body: Any, name: str = "vm1") -> Any:
    """Put a machine; what it is."""
    made = api.ask("PUT", path_of(api, name), body, version=VM)
    assert made.status == 201, made
    assert api.await_end(made)["status"] == "Succeeded"
    return api.ask("GET", path_of(api, name), version=VM).body


def disks_of(api: Api) -> dict[str, Any]:
    """The managed disks of the group, by name."""
    return {each["name"]: each for each in api.ask("GET", f"{api.compute}/disks").body["value"]}


def test_a_machine_takes_its_disks_from_the_replica_and_names_them(stocked: Api) -> None:
    shown = make(stocked, machine_body(stocked.definition))
    properties = shown["properties"]
    storage = properties["storageProfile"]
    assert storage["imageReference"] == {"id": stocked.definition, "exactVersion": "1.0.0"}
    assert (properties["provisioningState"], properties["osProfile"]["adminUsername"]) == ("Succeeded", "azureuser")
    (data,) = storage["dataDisks"]
    assert (data["lun"], data["createOption"], storage["osDisk"]["createOption"]) == (1, "FromImage", "FromImage")
    made = disks_of(stocked)
    assert {storage["osDisk"]["name"], data["name"]} == set(made)
    assert {each["managedBy"] for each in made.values()} == {shown["id"]}


def test_what_was_said_is_kept_and_shown_but_for_secrets(stocked: Api) -> None:
    linux = {
        "disablePasswordAuthentication": True,
        "ssh": {"publicKeys": [{"path": "/home/u/k", "keyData": "ssh-rsa A"}]},
    }
    windows = {"provisionVMAgent": True, "additionalUnattendContent": [{"content": PASSWORD}]}
    body = machine_body(
        stocked.version(),
        priority="Spot",
        securityProfile={"securityType": "TrustedLaunch"},
        userData=PASSWORD,
        unheardOf={"a": 1},
    ) | {"zones": ["1"], "identity": {"type": "None"}}
    body["properties"]["osProfile"] |= {
        "customData": PASSWORD,
        "linuxConfiguration": linux,
        "windowsConfiguration": windows,
    }
    shown = make(stocked, body)
    properties = shown["properties"]
    assert (shown["zones"], shown["tags"]) == (["1"], {"a": "b"})
    assert properties["osProfile"] == {
        "computerName": "host",
        "adminUsername": "azureuser",
        "linuxConfiguration": linux,
        "windowsConfiguration": {"provisionVMAgent": True},
    }
    assert properties["networkProfile"] == body["properties"]["networkProfile"]
    assert (properties["priority"], properties["securityProfile"]) == ("Spot", {"securityType": "TrustedLaunch"})
    assert "unheardOf" not in properties, "what is not known is not kept: nobody knows what it is"
    home = stocked.installation.home
    told = b"".join(each.read_bytes() for each in home.rglob("*") if each.is_file())
    assert b"azureuser" in told, "the catalog was read"
    assert PASSWORD.encode() not in told


def test_what_is_read_is_put_again(stocked: Api) -> None:
    shown = make(stocked, machine_body(stocked.definition))
    again = stocked.ask("PUT", path_of(stocked), shown, version=VM)
    assert (again.status, again.body) == (200, shown), again
    same = stocked.ask("PUT", path_of(stocked), machine_body(stocked.definition), version=VM)
    assert (same.status, same.body) == (200, shown)
    assert len(disks_of(stocked)) == 2


def test_a_template_makes_a_gallery_a_definition_a_version_and_a_machine(api: Api, web: WebServer) -> None:
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
