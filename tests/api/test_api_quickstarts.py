"""Test templates of the shape of the quickstart templates of 2018 to 2020: gallery, definition, version, machine.

The templates have ids with a trailing slash after the type, numbers and booleans as texts, nested child resources, and the
api-versions of their time.
"""

import json
from typing import Any

import pytest
from api_server import Api
from test_api_templates import deploy, outputs, refused

from tests.support.http_server import WebServer
from tests.support.sample_gallery import GROUP

pytest_plugins = ["api_fixtures"]


@pytest.fixture
def group(api: Api) -> str:
    """Return the path of a resource group."""
    path = f"{api.top}/resourceGroups/{GROUP}"
    assert api.ask("PUT", path, {"location": "southcentralus", "tags": {"team": "images"}}).status == 201
    return path


def text(**more: Any) -> Any:
    return {"type": "String", "metadata": {"description": "A name."}, **more}


LOCATION: Any = text(defaultValue="[resourceGroup().location]")
DEFINITION: Any = {
    "description": "A definition.",
    "osType": "Linux",
    "osState": "Generalized",
    "endOfLifeDate": "2090-01-01",
    "identifier": {"publisher": "pub", "offer": "off", "sku": "sku"},
    "recommended": {"vCPUs": {"min": "1", "max": "64"}, "memory": {"min": "2048", "max": "307720"}},
}
SOURCE: Any = {
    "$schema": "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {"gallery": text(), "definition": text(), "uri": text(), "location": LOCATION},
    "variables": {
        "disk": "[concat('disk', uniqueString(resourceGroup().id))]",
        "image": "[concat('image', uniqueString(resourceGroup().id))]",
    },
    "resources": [
        {
            "type": "Microsoft.Compute/galleries",
            "name": "[parameters('gallery')]",
            "apiVersion": "2019-12-01",
            "location": "[parameters('location')]",
            "properties": {"description": "Mine"},
            "resources": [
                {
                    "type": "images",
                    "name": "[parameters('definition')]",
                    "apiVersion": "2019-12-01",
                    "location": "[parameters('location')]",
                    "dependsOn": ["[resourceId('Microsoft.Compute/galleries', parameters('gallery'))]"],
                    "properties": DEFINITION,
                }
            ],
        },
        {
            "name": "[variables('disk')]",
            "type": "Microsoft.Compute/disks",
            "apiVersion": "2017-03-30",
            "location": "[parameters('location')]",
            "tags": {},
            "sku": {"name": "Standard_LRS"},
            "properties": {
                "osType": "Linux",
                "creationData": {"createOption": "Import", "sourceUri": "[parameters('uri')]"},
            },
        },
        {
            "name": "[variables('image')]",
            "type": "Microsoft.Compute/images",
            "apiVersion": "2017-12-01",
            "location": "[parameters('location')]",
            "tags": {},
            "dependsOn": ["[resourceId('Microsoft.Compute/disks/', variables('disk'))]"],
            "properties": {
                "storageProfile": {
                    "osDisk": {
                        "managedDisk": {"id": "[resourceId('Microsoft.Compute/disks/', variables('disk'))]"},
                        "osType": "Linux",
                        "osState": "Generalized",
                    }
                },
                "hyperVGeneration": "V1",
            },
        },
    ],
    "outputs": {
        "image": {"type": "string", "value": "[resourceId('Microsoft.Compute/images/', variables('image'))]"},
        "gallery": {"type": "String", "value": "[ parameters('gallery') ]"},
    },
}


def version_template(api_version: str, properties: Any) -> Any:
    """Return a template with a version of an existing definition."""
    names = "concat(parameters('gallery'), '/', parameters('definition'), '/', parameters('version'))"
    return {
        "parameters": {"image": text(), "gallery": text(), "definition": text(), "version": text()},
        "resources": [
            {
                "type": "Microsoft.Compute/galleries/images/versions",
                "name": f"[{names}]",
                "apiVersion": api_version,
                "location": "[resourceGroup().location]",
                "properties": properties,
            }
        ],
    }


OLD: Any = version_template(
    "2018-06-01",
    {
        "publishingProfile": {
            "replicaCount": "1",
            "targetRegions": [{"name": "southcentralus"}, {"name": "eastus", "regionalReplicaCount": 2}],
            "source": {"managedImage": {"id": "[parameters('image')]"}},
            "excludeFromLatest": "false",
            "endOfLifeDate": "2090-05-01",
        }
    },
)
NEWER: Any = version_template(
    "2020-09-30",
    {
        "publishingProfile": {"replicaCount": 1, "targetRegions": [{"name": "[resourceGroup().location]"}]},
        "storageProfile": {
            "source": {"id": "[parameters('image')]"},
            "osDiskImage": {"hostCaching": "ReadWrite"},
        },
    },
)
INTERFACES = "Microsoft.Network/networkInterfaces"
MACHINE: Any = {
    "parameters": {
        "user": text(),
        "password": {"type": "SecureString"},
        "gallery": text(),
        "definition": text(),
        "version": text(),
    },
    "variables": {
        "nic": "[concat(uniquestring(resourceGroup().id), 'nic')]",
        "address": "[concat(uniquestring(resourceGroup().id), 'ip')]",
        "machine": "[concat(uniquestring(resourceGroup().id), 'machine')]",
        "subnet": "[resourceId('Microsoft.Network/virtualNetworks/subnets', 'net', 'Subnet')]",
    },
    "resources": [
        {
            "type": "Microsoft.Network/publicIPAddresses",
            "name": "[variables('address')]",
            "apiVersion": "2016-03-30",
            "location": "[resourceGroup().location]",
            "properties": {"publicIPAllocationMethod": "Dynamic", "dnsSettings": {"domainNameLabel": "label"}},
        },
        {
            "comments": "Rules of the subnet [variables('subnet')]",
            "type": "Microsoft.Network/networkSecurityGroups",
            "name": "rules",
            "apiVersion": "2019-08-01",
            "location": "[resourceGroup().location]",
            "properties": {"securityRules": []},
        },
        {
            "type": "Microsoft.Network/virtualNetworks",
            "name": "net",
            "apiVersion": "2016-03-30",
            "location": "[resourceGroup().location]",
            "dependsOn": ["[resourceId('Microsoft.Network/networkSecurityGroups', 'rules')]"],
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
                "subnets": [
                    {
                        "name": "Subnet",
                        "properties": {
                            "addressPrefix": "10.0.0.0/24",
                            "networkSecurityGroup": {
                                "id": "[resourceId('Microsoft.Network/networkSecurityGroups', 'rules')]"
                            },
                        },
                    }
                ],
            },
        },
        {
            "type": INTERFACES,
            "name": "[variables('nic')]",
            "apiVersion": "2016-03-30",
            "location": "[resourceGroup().location]",
            "properties": {
                "ipConfigurations": [
                    {
                        "name": "ipconfig1",
                        "properties": {
                            "privateIPAllocationMethod": "Dynamic",
                            "publicIPAddress": {
                                "id": "[resourceId('Microsoft.Network/publicIPAddresses',variables('address'))]"
                            },
                            "subnet": {"id": "[variables('subnet')]"},
                        },
                    }
                ]
            },
            "dependsOn": [
                "[resourceId('Microsoft.Network/publicIPAddresses/', variables('address'))]",
                "[resourceId('Microsoft.Network/virtualNetworks/', 'net')]",
            ],
        },
        {
            "type": "Microsoft.Compute/virtualMachines",
            "name": "[variables('machine')]",
            "apiVersion": "2018-04-01",
            "location": "[resourceGroup().location]",
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_A1"},
                "osProfile": {
                    "computerName": "[variables('machine')]",
                    "adminUsername": "[parameters('user')]",
                    "adminPassword": "[parameters('password')]",
                },
                "storageProfile": {
                    "imageReference": {
                        "id": "[resourceId('Microsoft.Compute/galleries/images/versions', parameters('gallery'), "
                        "parameters('definition'), parameters('version'))]"
                    }
                },
                "networkProfile": {"networkInterfaces": [{"id": f"[resourceId('{INTERFACES}',variables('nic'))]"}]},
            },
            "dependsOn": [f"[resourceId('{INTERFACES}/', variables('nic'))]"],
        },
    ],
    "outputs": {
        "host": {"type": "string", "value": "[reference(variables('address')).dnsSettings.fqdn]"},
        "machine": {"type": "string", "value": "[variables('machine')]"},
    },
}


def test_templates_publish_an_image_and_make_a_machine(api: Api, group: str, web: WebServer) -> None:
    names = {"gallery": "quick", "definition": "linux"}
    made = outputs(api, group, SOURCE, uri=web.url("/one.raw"), **names)
    assert made["gallery"] == "quick"
    assert made["image"].rpartition("/")[0] == f"{api.compute}/images"
    for name, template in (("1.0.0", OLD), ("1.0.1", NEWER)):
        told, _ = deploy(api, group, template, image=made["image"], version=name, **names)
        assert told["status"] == "Succeeded", told
    definition = f"{api.compute}/galleries/quick/images/linux"
    shown = api.ask("GET", definition).body["properties"]
    assert shown["recommended"] == {"vCPUs": {"min": 1, "max": 64}, "memory": {"min": 2048, "max": 307720}}
    published = api.ask("GET", f"{definition}/versions/1.0.0").body["properties"]["publishingProfile"]
    assert [each["regionalReplicaCount"] for each in published["targetRegions"]] == [1, 2]
    assert published["excludeFromLatest"] is False
    machine = outputs(api, group, MACHINE, user="user", password="Secret-123!", version="1.0.1", **names)
    found = api.ask("GET", f"{api.compute}/virtualMachines/{machine['machine']}", version="2018-04-01").body
    assert found["properties"]["storageProfile"]["imageReference"]["id"] == f"{definition}/versions/1.0.1"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("resourceId('Microsoft.Compute/disks/', 'd')", "{compute}/disks/d"),
        ("resourceId('/Microsoft.Compute/disks', 'd')", "{compute}/disks/d"),
        ("resourceId('Microsoft.Compute/galleries/images/', 'g', 'i')", "{compute}/galleries/g/images/i"),
        (
            "resourceId('rg2', 'Microsoft.Compute/disks/', 'd')",
            "{top}/resourceGroups/rg2/providers/Microsoft.Compute/disks/d",
        ),
        ("subscriptionResourceId('Microsoft.Compute/x/', 'y')", "{top}/providers/Microsoft.Compute/x/y"),
        ("tenantResourceId('Microsoft.Compute/x/', 'y')", "/providers/Microsoft.Compute/x/y"),
        ("extensionResourceId('/a', 'Microsoft.Compute/x/', 'y')", "/a/providers/Microsoft.Compute/x/y"),
        ("resourceGroup().tags.team", "images"),
        ("string(contains(providers('Microsoft.Compute', 'disks').apiVersions, '2017-03-30'))", "True"),
        ("providers('microsoft.compute').namespace", "Microsoft.Compute"),
        ("string(pickZones('Microsoft.Compute', 'virtualMachines', 'eastus', 3))", "[]"),
    ],
)
def test_function_is_as_tolerant_as_in_azure(api: Api, group: str, expression: str, value: str) -> None:
    template = {"resources": [], "outputs": {"o": {"type": "string", "value": f"[{expression}]"}}}
    assert outputs(api, group, template)["o"] == value.format(compute=api.compute, top=api.top)


def test_wrong_number_of_names_is_refused(api: Api, group: str) -> None:
    value = "[resourceId('Microsoft.Compute/galleries/images/', 'g')]"
    template = {"resources": [], "outputs": {"o": {"type": "string", "value": value}}}
    assert "2 names" in refused(api, group, json.loads(json.dumps(template)))
