"""Test shallow versions: creation in the region of the source, answers and immutable fields."""

from typing import Any

from api_server import Api, version_body

from imgstore.operations.disks import disks
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN, GROUP, export

pytest_plugins = ["api_fixtures"]

SOUTH = "southcentralus"


def shallow_body(source: Any, *regions: Any, mode: str = "Shallow") -> Any:
    """Return the body of a version from a stored source."""
    body = version_body("", *regions, replicationMode=mode)
    body["properties"]["storageProfile"] = {"source": {"id": source}}
    return body


def disk_of(api: Api, uri: str, sku: str = "Standard_LRS") -> str:
    """Create a disk from a file. Return the id."""
    path = f"{api.compute}/disks/d1"
    creation = {"createOption": "Import", "sourceUri": uri}
    put = api.ask("PUT", path, {"location": SOUTH, "sku": {"name": sku}, "properties": {"creationData": creation}})
    assert api.await_end(put)["status"] == "Succeeded"
    return path


def test_shallow_version_of_a_disk(api: Api, web: WebServer) -> None:
    api.found()
    disk = disk_of(api, web.url("/one.raw"), "Standard_ZRS")
    put = api.ask("PUT", api.version(), shallow_body(disk))
    assert put.status == 201, put
    assert put.body["properties"]["publishingProfile"]["replicationMode"] == "Shallow"
    assert api.await_end(put)["status"] == "Succeeded"
    profile = api.ask("GET", api.version()).body["properties"]["publishingProfile"]
    assert profile["replicationMode"] == "Shallow"
    (region,) = profile["targetRegions"]
    assert (region["regionalReplicaCount"], region["storageAccountType"]) == (1, "Standard_ZRS"), "as its source is"
    with api.installation.catalog.reading() as transaction:
        (version,) = transaction.versions.list(_definition_uid(api))
        (replica,) = transaction.replicas.list(version.uid)
        (source,) = transaction.disks.list(api.installation.subscription, GROUP)
    assert replica.slot == source.slot, "nothing was copied"
    again = api.ask("PUT", api.version(), shallow_body(disk))
    assert (again.status, api.await_end(again)["status"]) == (200, "Succeeded")
    assert "replicationMode" not in str(api.ask("GET", api.version(), version="2020-09-30").body)
    export(api.installation, api.installation.home / "before.raw")
    assert api.await_end(api.ask("DELETE", disk))["status"] == "Succeeded"
    assert disks.list_disks(api.installation, ADMIN) == []
    export(api.installation, api.installation.home / "after.raw")
    assert (api.installation.home / "after.raw").read_bytes() == web.pages["/one.raw"].body
    assert (api.installation.home / "before.raw").read_bytes() == web.pages["/one.raw"].body


def test_unsupported_fields_of_shallow_versions(api: Api, web: WebServer) -> None:
    api.found()
    disk = disk_of(api, web.url("/one.raw"))
    for regions in (
        [SOUTH, "eastus"],
        [{"name": SOUTH, "regionalReplicaCount": 2}],
        [{"name": SOUTH, "storageAccountType": "Premium_LRS"}],
    ):
        refused = api.ask("PUT", api.version(), shallow_body(disk, *regions))
        assert refused.status == 400, (regions, refused)
        assert "Shallow" in refused.body["error"]["message"], refused.body
    assert api.ask("GET", api.version()).status == 404
    unknown = api.ask("PUT", api.version(), shallow_body(disk, mode="Deep"))
    assert (unknown.status, "replicationMode" in unknown.body["error"]["target"]) == (400, True)


def test_kind_and_region_of_a_shallow_version_are_immutable(api: Api, web: WebServer) -> None:
    api.found()
    disk = disk_of(api, web.url("/one.raw"))
    assert api.await_end(api.ask("PUT", api.version(), shallow_body(disk)))["status"] == "Succeeded"
    full = api.ask("PUT", api.version(), shallow_body(disk, mode="Full"))
    assert (full.status, full.code) == (409, "PropertyChangeNotAllowed")
    wider = api.ask(
        "PATCH",
        api.version(),
        {"properties": {"publishingProfile": {"targetRegions": [{"name": SOUTH}, {"name": "eastus"}]}}},
    )
    assert wider.status == 400, wider
    assert "Shallow" in wider.body["error"]["message"]


def test_shallow_version_of_a_file_is_ingested(api: Api, web: WebServer) -> None:
    api.found()
    put = api.ask("PUT", api.version(), version_body(web.url("/two.raw"), replicationMode="Shallow"))
    assert (put.status, api.await_end(put)["status"]) == (201, "Succeeded")
    export(api.installation, api.installation.home / "out.raw")
    assert (api.installation.home / "out.raw").read_bytes() == web.pages["/two.raw"].body


def _definition_uid(api: Api) -> str:
    with api.installation.catalog.reading() as transaction:
        (gallery,) = transaction.galleries.list(api.installation.subscription)
        (definition,) = transaction.definitions.list(gallery.uid)
        return definition.uid
