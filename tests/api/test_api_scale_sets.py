"""Scale sets over HTTP: a request that is refused changes nothing."""

from typing import Any

import pytest
from api_server import Api, version_body

from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]


def body_of(version: str, capacity: int) -> Any:
    storage = {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}}
    profile = {"storageProfile": storage, "osProfile": {"computerNamePrefix": "set", "adminUsername": "ops"}}
    sku = {"name": "Standard_B1s", "capacity": capacity}
    return {"location": "southcentralus", "sku": sku, "properties": {"virtualMachineProfile": profile}}


@pytest.fixture
def scale_set(api: Api, web: WebServer) -> str:
    """The path of a set with two instances."""
    api.found()
    made = api.ask("PUT", api.version(), version_body(web.url("/one.raw")))
    assert api.await_end(made)["status"] == "Succeeded"
    path = f"{api.compute}/virtualMachineScaleSets/set"
    made = api.ask("PUT", path, body_of(api.version(), 2))
    assert made.status in (200, 201), made
    return path


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_refused_image_leaves_the_number_of_instances(api: Api, scale_set: str, method: str) -> None:
    before = api.ask("GET", scale_set).body
    body = body_of(api.version("9.9.9"), 5)
    if method == "PATCH":
        del body["location"]
    refused = api.ask(method, scale_set, body)
    assert refused.status in (400, 404), refused
    assert api.ask("GET", scale_set).body == before
    assert len(api.ask("GET", f"{scale_set}/virtualMachines").body["value"]) == 2
    assert len(api.ask("GET", f"{api.compute}/disks").body["value"]) == 2
