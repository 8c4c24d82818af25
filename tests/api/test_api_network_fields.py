"""Test that each field of azure-mgmt-network's models is shown as sent, or refused by path."""

import re
from typing import Any, Final

import pytest
from api_server import Api
from test_api_fields import at, fields_of_models, value_of, with_value

from imgstore.wire.network import NETWORK_TYPES
from tests.support.sample_gallery import GROUP

pytest_plugins = ["api_fixtures"]

API: Final = "2022-01-01"
LOAD_BALANCER: Final = next(each for each in NETWORK_TYPES if each.word == "loadBalancers")
OF_THE_PATH: Final = ("id", "name")
"""Names and types are in the path of the request. A body may repeat the values, as an answer contains them."""
PART_OF_THE_PATH: Final = re.compile(r"properties\.\w+\[\]\.(id|name)")


def bodies(network: str) -> dict[str, tuple[str, Any]]:
    """Return the path and a body of each type. Referenced resources come first."""
    said = {"protocol": "Tcp", "priority": 1000, "destinationPortRange": "22"}
    subnet = {"id": f"{network}/virtualNetworks/net/subnets/one"}
    return {
        "virtualNetworks": (
            f"{network}/virtualNetworks/net",
            {"location": "eastus", "properties": {"subnets": [{"name": "one", "properties": {}}]}},
        ),
        "virtualNetworks/subnets": (f"{network}/virtualNetworks/net/subnets/two", {"properties": {}}),
        "networkSecurityGroups": (
            f"{network}/networkSecurityGroups/nsg",
            {"location": "eastus", "properties": {"securityRules": [{"name": "ssh", "properties": said}]}},
        ),
        "networkSecurityGroups/securityRules": (
            f"{network}/networkSecurityGroups/nsg/securityRules/two",
            {"properties": said},
        ),
        "publicIPAddresses": (f"{network}/publicIPAddresses/ip", {"location": "eastus", "properties": {}}),
        "loadBalancers": (
            f"{network}/loadBalancers/lb",
            {
                "location": "eastus",
                "properties": {each: [{"name": "one", "properties": {}}] for each in LOAD_BALANCER.parts},
            },
        ),
        "loadBalancers/inboundNatRules": (f"{network}/loadBalancers/lb/inboundNatRules/two", {"properties": {}}),
        "networkInterfaces": (
            f"{network}/networkInterfaces/nic",
            {
                "location": "eastus",
                "properties": {"ipConfigurations": [{"name": "c", "properties": {"subnet": subnet}}]},
            },
        ),
    }


@pytest.mark.engine("azure-sdk")
def test_no_field_of_azures_networks_is_dropped(api: Api) -> None:
    group = f"{api.top}/resourceGroups/{GROUP}"
    assert api.ask("PUT", group, {"location": "eastus"}).status == 201
    models, found = fields_of_models("network"), dict[str, str]()
    for kind, (path, body) in bodies(f"{group}/providers/Microsoft.Network").items():
        assert api.ask("PUT", path, body, version=API).status == 201
        leaves = {
            leaf: value_of(how, leaf)
            for leaf, how in models[kind]["PUT"].items()
            if not how["readOnly"] and leaf not in OF_THE_PATH and not PART_OF_THE_PATH.fullmatch(leaf)
        }
        found |= {f"{kind} {leaf}": what for leaf, what in outcomes(api, path, body, leaves).items()}
        assert api.ask("PUT", path, body, version=API).status == 200
    assert len(found) > 700
    assert {where: what for where, what in found.items() if what != "shown"} == {
        f"{kind} location": "refused"
        for kind in (
            "virtualNetworks",
            "networkSecurityGroups",
            "publicIPAddresses",
            "loadBalancers",
            "networkInterfaces",
        )
    }


def outcomes(api: Api, path: str, body: Any, leaves: dict[str, Any]) -> dict[str, str]:
    """Return the treatment of each field. Many fields are in one request, and a field that is not shown is sent alone."""
    whole = body
    for leaf, value in leaves.items():
        if leaf != "location":
            whole = with_value(whole, leaf, value)
    answer = api.ask("PUT", path, whole, version=API)
    shown = api.ask("GET", path, version=API).body if answer.status == 200 else {}
    return {
        leaf: "shown" if at(shown, leaf) == value else outcome(api, path, with_value(body, leaf, value), leaf)
        for leaf, value in leaves.items()
    }


def outcome(api: Api, path: str, body: Any, leaf: str) -> str:
    """Return the treatment of a field of a body."""
    answer = api.ask("PUT", path, body, version=API)
    if answer.status == 400:
        return "refused" if answer.body["error"]["target"].startswith(leaf) else f"refused without its path: {answer}"
    assert answer.status == 200, (leaf, answer)
    shown, said = at(api.ask("GET", path, version=API).body, leaf), at(body, leaf)
    return "shown" if shown == said else f"dropped: {shown!r} is shown for {said!r}"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ((None,), (True,)),
        ((None, None), (True, False)),
        ((None, True), (False, True)),
        ((False, None), (False, True)),
        (("false", "True"), (False, True)),
        ((False,), 0),
        ((False, False), 0),
        ((True, True), 1),
        ((None, "x"), 1),
    ],
)
def test_interface_has_one_primary_configuration(api: Api, said: tuple[Any, ...], shown: Any) -> None:
    group = f"{api.top}/resourceGroups/{GROUP}"
    assert api.ask("PUT", group, {"location": "eastus"}).status == 201
    path = f"{group}/providers/Microsoft.Network/networkInterfaces/nic"
    configurations = [
        {"name": f"c{place}", "properties": {} if each is None else {"Primary": each}}
        for place, each in enumerate(said)
    ]
    body = {"location": "eastus", "properties": {"ipConfigurations": configurations}}
    answer = api.ask("PUT", path, body, version=API)
    if isinstance(shown, int):
        target = f"properties.ipConfigurations[{shown}].properties.primary"
        assert (answer.status, answer.body["error"]["target"]) == (400, target)
        assert api.ask("GET", path, version=API).status == 404
    else:
        found = answer.body["properties"]["ipConfigurations"]
        assert tuple(each["properties"]["primary"] for each in found) == shown
