"""Test the records of Microsoft.Network: fields, references and Azure's additional fields."""

from typing import Any

import pytest
from api_server import Api
from test_api_basics import token_of

from imgstore.domain.identity.access import Role
from tests.support.http_server import WebServer
from tests.support.sample_gallery import GROUP

pytest_plugins = ["api_fixtures"]

API = "2022-01-01"
RULE_SAID = {"protocol": "Tcp", "priority": 1000, "destinationPortRange": "22"}
RULE = {"name": "ssh", "properties": RULE_SAID}


@pytest.fixture
def network(api: Api) -> str:
    """Return the path of an existing group."""
    assert api.ask("PUT", f"{api.top}/resourceGroups/{GROUP}", {"location": "eastus"}).status == 201
    return f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Network"


def put(api: Api, path: str, **more: Any) -> Any:
    """Return the stored resource at a path."""
    answer = api.ask("PUT", path, {"location": "eastus", **more}, version=API)
    assert answer.status in (200, 201), answer.body
    return answer.body


def whole(api: Api, network: str) -> str:
    """Create a record of each type, as `az vm create` does. Return the id of the interface."""
    subnets = [{"name": "one", "properties": {"addressPrefix": "10.0.0.0/24"}}]
    put(
        api,
        f"{network}/virtualNetworks/net",
        properties={"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets},
    )
    put(api, f"{network}/networkSecurityGroups/nsg", properties={"securityRules": [RULE]})
    put(
        api,
        f"{network}/publicIPAddresses/ip",
        sku={"name": "Standard"},
        properties={"publicIPAllocationMethod": "Static", "dnsSettings": {"domainNameLabel": "x"}},
    )
    made = put(
        api,
        f"{network}/networkInterfaces/nic",
        tags={"a": "b"},
        properties={
            "networkSecurityGroup": {"id": f"{network}/networkSecurityGroups/NSG"},
            "ipConfigurations": [
                {
                    "name": "config",
                    "properties": {
                        "subnet": {"id": f"{network}/virtualNetworks/net/subnets/One"},
                        "publicIPAddress": {"id": f"{network}/publicIPAddresses/ip"},
                    },
                }
            ],
        },
    )
    return str(made["id"])


def test_records_are_shown_with_azures_additional_fields(api: Api, network: str) -> None:
    nic = whole(api, network)
    assert nic == f"{network}/networkInterfaces/nic"
    shown = api.ask("GET", f"{network.lower()}/networkinterfaces/NIC", version=API)
    body = shown.body
    assert (body["type"], body["tags"], body["location"]) == (
        "Microsoft.Network/networkInterfaces",
        {"a": "b"},
        "eastus",
    )
    assert body["etag"] == f"W/{shown.headers['etag']}"
    (config,) = body["properties"]["ipConfigurations"]
    assert config["id"] == f"{nic}/ipConfigurations/config"
    assert config["type"] == "Microsoft.Network/networkInterfaces/ipConfigurations"
    assert (config["etag"], config["properties"]["provisioningState"]) == (body["etag"], "Succeeded")
    assert config["properties"]["primary"] is True
    net = api.ask("GET", f"{network}/virtualNetworks/net", version=API).body["properties"]
    assert (net["provisioningState"], net["addressSpace"]) == ("Succeeded", {"addressPrefixes": ["10.0.0.0/16"]})
    assert net["subnets"][0]["id"] == f"{network}/virtualNetworks/net/subnets/one"
    group = api.ask("GET", f"{network}/networkSecurityGroups/nsg", version=API).body["properties"]
    assert group["defaultSecurityRules"] == []
    assert group["securityRules"][0]["properties"] == {"provisioningState": "Succeeded", **RULE_SAID}
    address = api.ask("GET", f"{network}/publicIPAddresses/ip", version=API).body
    assert (address["sku"], address["properties"]["dnsSettings"]["fqdn"]) == ({"name": "Standard"}, "")
    assert "ipAddress" not in address["properties"], "none was given to anything"


def test_referenced_record_is_not_deleted(api: Api, network: str) -> None:
    whole(api, network)
    refusals = {
        "virtualNetworks/net": "InUseSubnetCannotBeDeleted",
        "virtualNetworks/net/subnets/one": "InUseSubnetCannotBeDeleted",
        "networkSecurityGroups/nsg": "InUseNetworkSecurityGroupCannotBeDeleted",
        "publicIPAddresses/ip": "PublicIPAddressCannotBeDeleted",
    }
    for path, code in refusals.items():
        refused = api.ask("DELETE", f"{network}/{path}", version=API)
        assert (refused.status, refused.code) == (400, code), path
    emptied = {"location": "eastus", "properties": {"addressSpace": {}}}
    assert api.ask("PUT", f"{network}/virtualNetworks/net", emptied, version=API).code == "InUseSubnetCannotBeDeleted"
    for path in ("networkInterfaces/nic", *refusals):
        gone = api.ask("DELETE", f"{network}/{path}", version=API)
        assert gone.status == (204 if "subnets" in path else 200), path
        assert api.ask("DELETE", f"{network}/{path}", version=API).status == 204
    for kind in ("virtualNetworks", "networkSecurityGroups", "publicIPAddresses", "networkInterfaces"):
        assert api.ask("GET", f"{network}/{kind}", version=API).body == {"value": []}


def test_reference_must_exist(api: Api, network: str) -> None:
    def nic(subnet: str) -> Any:
        config = {"name": "c", "properties": {"subnet": {"id": subnet}}}
        return {"location": "eastus", "properties": {"ipConfigurations": [config]}}

    path = f"{network}/networkInterfaces/nic"
    refused = api.ask("PUT", path, nic(f"{network}/virtualNetworks/net/subnets/one"), version=API)
    assert (refused.status, refused.code) == (400, "InvalidResourceReference")
    put(api, f"{network}/virtualNetworks/net")
    assert api.ask("PUT", path, nic(f"{network}/virtualNetworks/net/subnets/one"), version=API).status == 400
    assert api.ask("PUT", path, nic(f"{network}/virtualNetworks/net"), version=API).status == 201


def test_nested_resources_have_routes(api: Api, network: str) -> None:
    subnets = f"{network}/virtualNetworks/net/subnets"
    missing = api.ask("PUT", f"{subnets}/one", {"properties": {}}, version=API)
    assert (missing.status, missing.code) == (404, "ParentResourceNotFound")
    put(api, f"{network}/virtualNetworks/net")
    for name, status in (("one", 201), ("two", 201), ("ONE", 200)):
        body = {"name": "ignored", "properties": {"addressPrefix": f"10.0.0.0/{status - 176}"}}
        made = api.ask("PUT", f"{subnets}/{name}", body, version=API)
        assert (made.status, made.body["name"]) == (status, name)
        assert api.ask("GET", f"{subnets}/{name}", version=API).body == made.body
    listed = api.ask("GET", subnets, version=API).body["value"]
    assert [each["properties"]["addressPrefix"] for each in listed] == ["10.0.0.0/24", "10.0.0.0/25"]
    assert api.ask("DELETE", f"{subnets}/one", version=API).status == 200
    assert api.ask("DELETE", f"{subnets}/one", version=API).status == 204
    assert api.ask("GET", f"{subnets}/one", version=API).code == "ResourceNotFound"
    assert [each["name"] for each in api.ask("GET", subnets, version=API).body["value"]] == ["two"]


def test_body_of_a_get_is_put_without_a_change(api: Api, network: str) -> None:
    nic = whole(api, network)
    for path in (nic, *(f"{network}/{kind}" for kind in ("virtualNetworks/net", "networkSecurityGroups/nsg"))):
        before = api.ask("GET", path, version=API).body
        again = api.ask("PUT", path, before, version=API)
        assert (again.status, again.body) == (200, before)


def test_tags_conditions_and_refusals(api: Api, network: str) -> None:
    path = f"{network}/virtualNetworks/net"
    made = put(api, path)
    tagged = api.ask("PATCH", path, {"tags": {"x": "y"}}, version=API)
    assert (tagged.status, tagged.body["tags"]) == (200, {"x": "y"})
    assert tagged.body["etag"] != made["etag"]
    stale = api.ask("PUT", path, {"location": "eastus"}, version=API, headers={"If-Match": made["etag"]})
    assert stale.status == 412
    fresh = api.ask("PUT", path, {"location": "eastus"}, version=API, headers={"If-Match": tagged.body["etag"]})
    assert fresh.status == 200
    assert api.ask("PUT", path, {"location": "westus2"}, version=API).code == "InvalidResourceLocation"
    assert api.ask("PUT", path, {}, version=API).code == "LocationRequired"
    twice = {"location": "eastus", "properties": {"subnets": [{"name": "a"}, {"name": "A"}]}}
    assert api.ask("PUT", path, twice, version=API).code == "InvalidRequestFormat"
    wrong: Any
    for wrong in ({}, [{}], [{"name": "-"}], ["a"]):
        body = {"location": "eastus", "properties": {"subnets": wrong}}
        assert api.ask("PUT", path, body, version=API).status == 400
    deep: Any = {}
    for _ in range(40):
        deep = {"x": deep}
    assert api.ask("PUT", path, {"location": "eastus", "properties": deep}, version=API).status == 400
    assert api.ask("PUT", f"{network}/virtualNetworks/-net", {"location": "eastus"}, version=API).status == 400
    assert api.ask("PATCH", f"{network}/virtualNetworks/other", {"tags": {}}, version=API).code == "ResourceNotFound"
    nowhere = path.replace(f"/{GROUP}/", "/nowhere/")
    assert api.ask("PUT", nowhere, {"location": "eastus"}, version=API).code == "ResourceGroupNotFound"
    assert api.ask("GET", f"{network}/loadBalancers/x", version=API).status == 404


def test_lists_of_a_group_and_of_a_subscription_have_pages(api: Api, network: str) -> None:
    other = network.replace(f"/{GROUP}/", "/other/")
    api.ask("PUT", f"{api.top}/resourceGroups/other", {"location": "eastus"})
    for path in (f"{network}/virtualNetworks/b", f"{network}/virtualNetworks/a", f"{other}/virtualNetworks/a"):
        put(api, path)
    assert [each["name"] for each in api.ask("GET", f"{network}/virtualNetworks", version=API).body["value"]] == [
        "a",
        "b",
    ]
    everywhere = api.ask("GET", f"{api.top}/providers/Microsoft.Network/virtualNetworks", version=API).body["value"]
    assert [each["name"] for each in everywhere] == ["a", "a", "b"]


def test_group_is_deleted_with_unreferenced_records(api: Api, network: str) -> None:
    whole(api, network)
    other = network.replace(f"/{GROUP}/", "/other/")
    api.ask("PUT", f"{api.top}/resourceGroups/other", {"location": "eastus"})
    rules = {"networkSecurityGroup": {"id": f"{network}/networkSecurityGroups/nsg"}}
    put(api, f"{other}/virtualNetworks/net", properties={"subnets": [{"name": "s", "properties": rules}]})
    group = network.partition("/providers")[0]
    refused = api.ask("DELETE", group)
    assert (refused.status, refused.code) == (400, "InUseNetworkSecurityGroupCannotBeDeleted")
    assert api.ask("DELETE", f"{other}/virtualNetworks/net", version=API).status == 200
    assert api.await_end(api.ask("DELETE", group))["status"] == "Succeeded"
    assert api.ask("GET", group).status == 404


def test_template_with_an_api_version_of_2015_creates_networks(api: Api, network: str) -> None:
    net = {
        "type": "Microsoft.Network/virtualNetworks",
        "apiVersion": "2015-06-15",
        "name": "net",
        "location": "eastus",
        "properties": {"subnets": [{"name": "s", "properties": {}}]},
    }
    more = {
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "apiVersion": "2022-01-01",
        "name": "net/t",
        "dependsOn": ["Microsoft.Network/virtualNetworks/net"],
        "properties": {"addressPrefix": "10.0.1.0/24"},
    }
    path = f"{network.replace('Network', 'Resources')}/deployments/d"
    outputs = {"s": {"type": "string", "value": "[reference('net').subnets[0].id]"}}
    template = {"resources": [more, net], "outputs": outputs}
    made = api.ask("PUT", path, {"properties": {"mode": "Incremental", "template": template}})
    assert api.await_end(made)["status"] == "Succeeded"
    told = api.ask("GET", path).body["properties"]["outputs"]["s"]["value"]
    assert told == f"{network}/virtualNetworks/net/subnets/s"
    subnets = api.ask("GET", f"{network}/virtualNetworks/net/subnets", version=API).body["value"]
    assert [each["name"] for each in subnets] == ["s", "t"]


def test_path_with_a_double_slash_is_found(api: Api, network: str) -> None:
    whole(api, network)
    for path in ("virtualNetworks/net", "virtualNetworks/net/subnets/one", "networkSecurityGroups/nsg"):
        assert api.ask("GET", f"{network}//{path}", version=API).status == 200
    for path in ("/virtualNetworks//net", "///virtualNetworks/net", "//virtualNetworks/net//subnets/one"):
        assert api.ask("GET", f"{network}{path}", version=API).status in (400, 404)


def test_providers_show_types_and_versions(api: Api) -> None:
    told = api.ask("GET", f"{api.top}/providers/microsoft.network").body
    versions = {each["resourceType"]: each["apiVersions"] for each in told["resourceTypes"]}
    assert set(versions) >= {"virtualNetworks", "virtualNetworks/subnets", "networkInterfaces", "publicIPAddresses"}
    for version in {each for known in versions.values() for each in known}:
        assert api.ask("GET", f"{api.top}/providers/Microsoft.Network/virtualNetworks", version=version).status == 200
    refused = api.ask("GET", f"{api.top}/providers/Microsoft.Web")
    assert (refused.status, refused.code) == (404, "InvalidResourceNamespace")


def test_interface_shows_the_machine_and_follows_the_delete_option(api: Api, network: str, web: WebServer) -> None:
    nic, going = whole(api, network), f"{network}/networkInterfaces/going"
    put(api, going, properties={"ipConfigurations": [{"name": "c"}]})
    disk, creation = f"{api.compute}/disks/d1", {"createOption": "Import", "sourceUri": web.url("/one.raw")}
    made = api.ask("PUT", disk, {"location": "eastus", "properties": {"creationData": creation}})
    assert api.await_end(made)["status"] == "Succeeded"
    machine = f"{api.compute}/virtualMachines/m1"
    body = {
        "location": "eastus",
        "properties": {
            "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": disk}}},
            "networkProfile": {
                "networkInterfaces": [
                    {"id": nic.upper().replace(api.installation.subscription.upper(), api.installation.subscription)},
                    {"id": going, "properties": {"deleteOption": "Delete"}},
                    {"id": "/subscriptions/s/nothing that is known", "properties": {"deleteOption": "Delete"}},
                    {"id": f"{network}/networkInterfaces/not there", "properties": {"deleteOption": "Delete"}},
                ]
            },
        },
    }
    assert api.await_end(api.ask("PUT", machine, body))["status"] == "Succeeded"
    for path in (nic, going):
        shown = api.ask("GET", path, version=API).body["properties"]
        assert shown["virtualMachine"] == {"id": machine}
        assert shown["ipConfigurations"][0]["properties"]["privateIPAddress"] == "", "none was given to anything"
        refused = api.ask("DELETE", path, version=API)
        assert (refused.status, refused.code) == (400, "NicInUse")
        assert api.ask("PUT", path, api.ask("GET", path, version=API).body, version=API).status == 200
    listed = api.ask("GET", f"{network}/networkInterfaces", version=API).body["value"]
    assert [each["properties"]["virtualMachine"]["id"] for each in listed] == [machine, machine]
    assert api.await_end(api.ask("DELETE", machine))["status"] == "Succeeded"
    assert "virtualMachine" not in api.ask("GET", nic, version=API).body["properties"]
    assert api.ask("GET", going, version=API).status == 404
    assert api.ask("DELETE", nic, version=API).status == 200


def test_readers_read_and_contributors_write(api: Api, network: str) -> None:
    whole(api, network)
    paths = [f"{network}/networkInterfaces/nic", f"{network}/virtualNetworks/net/subnets/one"]
    body = {"location": "eastus", "properties": {}}
    group = network.partition("/providers")[0]
    reader = token_of(api, Role.READER, group)
    for path in paths:
        assert api.ask("GET", path, version=API, headers=reader).status == 200
        for method, verb in (("PUT", "write"), ("DELETE", "delete")):
            refused = api.ask(method, path, body, version=API, headers=reader)
            assert (refused.status, refused.code) == (403, "AuthorizationFailed")
            kind = "networkInterfaces" if "Interfaces" in path else "virtualNetworks/subnets"
            assert f"'Microsoft.Network/{kind}/{verb}'" in refused.body["error"]["message"]
    contributor = token_of(api, Role.CONTRIBUTOR, group)
    assert api.ask("DELETE", paths[0], version=API, headers=contributor).status == 200
    assert api.ask("PUT", paths[1], body, version=API, headers=contributor).status == 200


def test_load_balancer_has_named_parts(api: Api, network: str) -> None:
    """`az vmss create` deploys a load balancer. A NAT rule of the template is a resource of its own."""
    balancer = f"{network}/loadBalancers/lb"
    front = {"id": f"{balancer}/frontendIPConfigurations/front"}
    put(api, f"{network}/publicIPAddresses/ip")
    put(
        api,
        balancer,
        sku={"name": "Standard"},
        properties={
            "backendAddressPools": [{"name": "pool"}],
            "frontendIPConfigurations": [
                {"name": "front", "properties": {"publicIPAddress": {"id": f"{network}/publicIPAddresses/ip"}}}
            ],
        },
    )
    put(api, f"{balancer}/inboundNatRules/ssh", properties={"frontendIPConfiguration": front, "backendPort": 22})
    shown = api.ask("GET", balancer, version=API).body
    (pool,) = shown["properties"]["backendAddressPools"]
    assert pool["id"] == f"{balancer}/backendAddressPools/pool"
    assert pool["type"] == "Microsoft.Network/loadBalancers/backendAddressPools"
    assert [each["name"] for each in shown["properties"]["inboundNatRules"]] == ["ssh"]
    assert shown["properties"]["probes"] == []
    refused = api.ask("DELETE", f"{network}/publicIPAddresses/ip", version=API)
    assert refused.code == "PublicIPAddressCannotBeDeleted"
    config = {"name": "c", "properties": {"loadBalancerBackendAddressPools": [{"id": pool["id"]}]}}
    put(api, f"{network}/networkInterfaces/nic", properties={"ipConfigurations": [config]})
    assert api.ask("DELETE", balancer, version=API).code == "LoadBalancerInUse"
    missing = {"name": "c", "properties": {"loadBalancerBackendAddressPools": [{"id": f"{pool['id']}x"}]}}
    body = {"location": "eastus", "properties": {"ipConfigurations": [missing]}}
    assert api.ask("PUT", f"{network}/networkInterfaces/other", body, version=API).code == "InvalidResourceReference"
