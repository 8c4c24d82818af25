"""Define a request of each kind with a body. The requests succeed in this order."""

from dataclasses import dataclass
from typing import Any

from api_server import Api, definition_body, version_body

from tests.support.http_server import WebServer
from tests.support.sample_gallery import GROUP

COMPUTE = "2026-03-03"
HERE = "southcentralus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that succeeds, with the path that shows the effect."""

    method: str
    path: str
    body: Any
    lists: tuple[str, ...] = ()
    version: str = COMPUTE
    done: bool = True
    """False for a route that refuses all bodies."""


def group_of(api: Api) -> str:
    return f"{api.top}/resourceGroups/{GROUP}"


def requests_of(api: Api, web: WebServer) -> tuple[Request, ...]:
    """Return the requests in an order in which each request succeeds."""
    group = group_of(api)
    compute, network, all_compute = (
        api.compute,
        f"{group}/providers/Microsoft.Network",
        f"{api.top}/providers/Microsoft.Compute",
    )

    def put(path: str, body: Any, above: str, **more: Any) -> Request:
        word = above.rpartition("/")[2]
        lists: tuple[str, ...] = (
            (above, f"{all_compute}/{word}") if above.startswith(compute) and word != "versions" else (above,)
        )
        lists = tuple(each for each in lists if "/images" not in above or each == above)
        return Request(method="PUT", path=path, body=body, lists=lists, **more)

    def net(word: str, properties: Any, name: str = "n") -> Request:
        body = {"location": HERE, "tags": {"a": "b"}, "sku": {"name": "x", "more": [1]}, "properties": properties}
        above = f"{network}/{word}"
        lists = (above, f"{api.top}/providers/Microsoft.Network/{word}")
        return Request(method="PUT", path=f"{above}/{name}", body=body, lists=lists, version="2023-09-01")

    image = {"imageReference": {"id": f"{compute}/images/i"}, "osDisk": {"createOption": "FromImage"}}
    gallery = {
        "location": HERE,
        "tags": {"a": "b"},
        "properties": {
            "description": "d",
            "softDeletePolicy": {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 7},
        },
    }
    definition = definition_body(
        features=[{"name": "DiskControllerTypes", "value": "SCSI"}],
        recommended={"vCPUs": {"min": 1, "max": 2}, "memory": {"min": 1}},
        disallowed={"diskTypes": ["Premium_LRS"]},
        purchasePlan={"name": "n", "publisher": "p", "product": "q"},
        endOfLifeDate="2090-01-01T00:00:00Z",
        description="d",
        eula="e",
    )
    version = version_body(web.url("/one.raw"), replicaCount=1, endOfLifeDate="2090-01-01", excludeFromLatest=True)
    disk = {
        "location": HERE,
        "tags": {"a": "b"},
        "sku": {"name": "Standard_LRS"},
        "properties": {"osType": "Linux", "creationData": {"createOption": "Import", "sourceUri": web.url("/two.raw")}},
    }
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {"a": {"type": "int", "defaultValue": 1}},
        "variables": {"v": ["[string(parameters('a'))]"]},
        "resources": [
            {
                "type": "Microsoft.Network/publicIPAddresses",
                "apiVersion": "2023-09-01",
                "name": "[concat('t', parameters('a'))]",
                "location": HERE,
                "properties": {"x": "[json('1.5')]"},
            }
        ],
        "outputs": {"o": {"type": "int", "value": "[add(parameters('a'), 1)]"}},
    }
    deployment = {"properties": {"mode": "Incremental", "template": template, "parameters": {"a": {"value": 2}}}}
    deployments = f"{group}/providers/Microsoft.Resources/deployments"
    top = f"{api.top}/resourceGroups"
    return (
        Request(method="PUT", path=group, body={"location": HERE, "tags": {"a": "b"}}, lists=(top,)),
        put(api.gallery, gallery, f"{compute}/galleries"),
        Request(method="PATCH", path=api.gallery, body=gallery, lists=(f"{compute}/galleries",)),
        put(api.definition, definition, f"{api.gallery}/images"),
        Request(method="PATCH", path=api.definition, body=definition, lists=(f"{api.gallery}/images",)),
        put(api.version(), version, f"{api.definition}/versions"),
        Request(method="PATCH", path=api.version(), body=version, lists=(f"{api.definition}/versions",)),
        Request(method="POST", path=f"{api.version()}/whatIf", body=version),
        put(f"{compute}/disks/d", disk, f"{compute}/disks"),
        Request(method="POST", path=f"{compute}/disks/d/whatIf", body=disk),
        Request(method="PATCH", path=f"{compute}/disks/d", body={"tags": {"a": "b"}}, lists=(f"{compute}/disks",)),
        put(
            f"{compute}/disks/up",
            {
                "location": HERE,
                "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 20_972_032}},
            },
            f"{compute}/disks",
        ),
        Request(
            method="POST", path=f"{compute}/disks/up/beginGetAccess", body={"access": "Write", "durationInSeconds": 300}
        ),
        put(
            f"{compute}/snapshots/s",
            {
                "location": HERE,
                "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": f"{compute}/disks/d"}},
            },
            f"{compute}/snapshots",
        ),
        Request(
            method="POST",
            path=f"{compute}/snapshots/s/whatIf",
            body={
                "location": HERE,
                "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": f"{compute}/disks/d"}},
            },
        ),
        Request(method="PATCH", path=f"{compute}/snapshots/s", body={"tags": {"a": "b"}}),
        put(
            f"{compute}/images/i",
            {
                "location": HERE,
                "properties": {
                    "hyperVGeneration": "V1",
                    "storageProfile": {
                        "osDisk": {
                            "osType": "Linux",
                            "osState": "Generalized",
                            "snapshot": {"id": f"{compute}/snapshots/s"},
                        },
                        "dataDisks": [{"lun": 0, "managedDisk": {"id": f"{compute}/disks/d"}}],
                    },
                },
            },
            f"{compute}/images",
        ),
        Request(method="PATCH", path=f"{compute}/images/i", body={"tags": {"a": "b"}}),
        net(
            "virtualNetworks",
            {"addressSpace": {"addressPrefixes": ["10.0.0.0/8"]}, "subnets": [{"name": "s", "properties": {"x": 1.5}}]},
        ),
        net("networkSecurityGroups", {"securityRules": [{"name": "r", "properties": {"priority": 100}}]}),
        net(
            "loadBalancers",
            {
                "backendAddressPools": [{"name": "b"}],
                "inboundNatRules": [{"name": "r", "properties": {"backendPort": 22}}],
            },
        ),
        net("publicIPAddresses", {"idleTimeoutInMinutes": 4, "dnsSettings": {"domainNameLabel": "x"}}),
        net(
            "networkInterfaces",
            {
                "ipConfigurations": [
                    {"name": "c", "properties": {"subnet": {"id": f"{network}/virtualNetworks/n/subnets/s"}}}
                ]
            },
        ),
        *(
            Request(method="PATCH", path=f"{network}/{word}/n", body={"tags": {"a": "b"}}, version="2023-09-01")
            for word in (
                "virtualNetworks",
                "networkSecurityGroups",
                "publicIPAddresses",
                "loadBalancers",
                "networkInterfaces",
            )
        ),
        Request(
            method="PUT",
            path=f"{network}/virtualNetworks/n/subnets/t",
            body={"name": "t", "properties": {"addressPrefix": "10.1.0.0/16", "x": 1.5}},
            lists=(f"{network}/virtualNetworks/n/subnets", f"{network}/virtualNetworks"),
            version="2023-09-01",
        ),
        Request(
            method="PUT",
            path=f"{network}/networkSecurityGroups/n/securityRules/t",
            body={"properties": {"priority": 100}},
            lists=(f"{network}/networkSecurityGroups/n/securityRules", f"{network}/networkSecurityGroups"),
            version="2023-09-01",
        ),
        Request(
            method="PUT",
            path=f"{network}/loadBalancers/n/inboundNatRules/t",
            body={"properties": {"backendPort": 22}},
            lists=(f"{network}/loadBalancers/n/inboundNatRules", f"{network}/loadBalancers"),
            version="2023-09-01",
        ),
        put(
            f"{compute}/virtualMachines/vm",
            {
                "location": HERE,
                "tags": {"a": "b"},
                "properties": {
                    "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
                    "storageProfile": image,
                    "osProfile": {"computerName": "h", "adminUsername": "u", "adminPassword": "Secret-123!"},
                    "networkProfile": {
                        "networkInterfaces": [{"id": f"{network}/networkInterfaces/n", "properties": {"primary": True}}]
                    },
                },
            },
            f"{compute}/virtualMachines",
        ),
        Request(
            method="PATCH",
            path=f"{compute}/virtualMachines/vm",
            body={"tags": {"a": "b"}, "properties": {"priority": "Regular"}},
            lists=(f"{compute}/virtualMachines",),
        ),
        put(
            f"{compute}/virtualMachineScaleSets/set",
            {
                "location": HERE,
                "tags": {"a": "b"},
                "sku": {"name": "Standard_D2s_v3", "capacity": 1},
                "properties": {
                    "upgradePolicy": {"mode": "Manual"},
                    "virtualMachineProfile": {
                        "storageProfile": image | {"dataDisks": [{"lun": 0, "createOption": "FromImage"}]},
                        "osProfile": {"computerNamePrefix": "h", "adminUsername": "u", "adminPassword": "Secret-123!"},
                    },
                },
            },
            f"{compute}/virtualMachineScaleSets",
        ),
        Request(
            method="PATCH",
            path=f"{compute}/virtualMachineScaleSets/set",
            body={"tags": {"a": "b"}, "sku": {"capacity": 2}},
            lists=(f"{compute}/virtualMachineScaleSets",),
        ),
        Request(method="PUT", path=f"{deployments}/d", body=deployment, lists=(deployments,), version="2021-04-01"),
        Request(method="POST", path=f"{deployments}/d/validate", body=deployment, version="2021-04-01"),
        Request(method="POST", path=f"{deployments}/d/whatIf", body=deployment, version="2021-04-01", done=False),
        Request(
            method="POST",
            path=f"{api.gallery}/share",
            body={
                "operationType": "Add",
                "groups": [{"type": "Subscriptions", "ids": ["11111111-1111-1111-1111-111111111111"]}],
            },
        ),
        Request(
            method="POST",
            path="/providers/Microsoft.ResourceGraph/resources",
            body={
                "query": "communitygalleryresources | where type == 'microsoft.compute/locations/communitygalleries'",
                "subscriptions": [api.installation.subscription],
                "options": {"$top": 10, "$skip": 0, "resultFormat": "objectArray"},
            },
            version="2021-03-01",
        ),
    )
