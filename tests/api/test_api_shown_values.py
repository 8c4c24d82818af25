"""Test that explicit values come back, and that answers have the fields of Azure's recorded answers."""

from typing import Any

import pytest
from api_server import Api, version_body

from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]

NEWEST = "2026-03-03"
HERE = "southcentralus"


def test_explicit_false_comes_back(api: Api, web: WebServer) -> None:
    api.found()
    off = {"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": False}}}
    assert api.ask("PATCH", api.gallery, off, version=NEWEST).status == 200
    shown = api.ask("GET", api.gallery, version=NEWEST).body["properties"]
    assert shown["softDeletePolicy"]["isSoftDeleteEnabled"] is False
    body = version_body(web.url("/one.raw"))
    body["properties"]["safetyProfile"] = {"blockDeletionBeforeEndOfLife": False}
    assert api.await_end(api.ask("PUT", api.version(), body, version=NEWEST))["status"] == "Succeeded"
    shown = api.ask("GET", api.version(), version=NEWEST).body["properties"]
    assert shown["safetyProfile"]["blockDeletionBeforeEndOfLife"] is False
    older = api.ask("GET", api.version(), version="2023-07-03").body["properties"]["safetyProfile"]
    assert "blockDeletionBeforeEndOfLife" not in older
    assert api.ask("DELETE", api.version(), version=NEWEST).status == 202, "false lets the version go"


def disk_body(web: WebServer, **properties: Any) -> Any:
    creation = {"createOption": "Import", "sourceUri": web.url("/two.raw")}
    return {
        "location": HERE,
        "sku": {"name": "Premium_LRS"},
        "properties": {"creationData": creation, **properties},
    }


def test_disk_shows_the_performance_of_its_type(api: Api, web: WebServer) -> None:
    api.found()
    path = f"{api.compute}/disks/d"
    assert api.await_end(api.ask("PUT", path, disk_body(web), version="2026-03-02"))["status"] == "Succeeded"
    shown = api.ask("GET", path, version="2026-03-02").body
    properties = shown["properties"]
    assert shown["sku"] == {"name": "Premium_LRS", "tier": "Premium"}
    assert (properties["tier"], properties["diskIOPSReadWrite"], properties["diskMBpsReadWrite"]) == ("P1", 120, 25)
    assert api.ask("PUT", path, shown, version="2026-03-02").status in (200, 202), "a disk that was read is sent back"
    assert api.ask("PATCH", path, {"properties": {"tier": "P1"}}, version="2026-03-02").status == 200
    old = api.ask("GET", path, version="2018-04-01").body["properties"]
    assert not {"tier", "diskIOPSReadWrite", "networkAccessPolicy", "publicNetworkAccess"} & set(old)


@pytest.mark.parametrize(("name", "value"), [("tier", "P30"), ("diskIOPSReadWrite", 5000), ("diskMBpsReadWrite", 7)])
def test_other_performance_is_refused(api: Api, web: WebServer, name: str, value: Any) -> None:
    api.found()
    path = f"{api.compute}/disks/d"
    refused = api.ask("PUT", path, disk_body(web, **{name: value}), version="2026-03-02")
    assert (refused.status, refused.body["error"]["target"]) == (400, f"properties.{name}")
    assert api.await_end(api.ask("PUT", path, disk_body(web), version="2026-03-02"))["status"] == "Succeeded"
    refused = api.ask("PATCH", path, {"properties": {name: value}}, version="2026-03-02")
    assert (refused.status, refused.code) == (409, "PropertyChangeNotAllowed")


def test_own_gallery_that_is_shared_with_the_own_subscription_is_listed(api: Api) -> None:
    api.found()
    shared = f"{api.top}/providers/Microsoft.Compute/locations/{HERE}/sharedGalleries"
    assert api.ask("GET", shared).body["value"] == []
    assert api.ask("PATCH", api.gallery, {"properties": {"sharingProfile": {"permissions": "Groups"}}}).status == 200
    members = {"type": "Subscriptions", "ids": [api.installation.subscription]}
    assert api.ask("POST", f"{api.gallery}/share", {"operationType": "Add", "groups": [members]}).status == 202
    (listed,) = api.ask("GET", shared).body["value"]
    assert listed["name"].endswith("-G1")
