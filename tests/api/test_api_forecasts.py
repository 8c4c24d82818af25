"""The actions `whatIf` and `whatIfDelete` predict requests, and write nothing (invariant M16)."""

from decimal import Decimal
from typing import Any

from api_server import Api, version_body

from imgstore.ledger.entries import ChargeKind
from tests.support.forecast_check import reading_only
from tests.support.http_server import WebServer
from tests.support.sample_gallery import charges

pytest_plugins = ["api_fixtures"]


HERE = "southcentralus"


def test_forecasts_of_a_version_and_a_disk(api: Api, web: WebServer) -> None:
    api.found()
    targets = [{"name": HERE}, {"name": "westus2", "regionalReplicaCount": 2}]
    body = version_body(web.url("/one.raw"), *targets)
    with reading_only(api.installation):
        new = api.ask("POST", f"{api.version()}/whatIf", body).body
        assert api.ask("POST", f"{api.version()}/whatIf", {"tags": {}}, query="method=PATCH").status == 404
        assert api.ask("POST", f"{api.version()}/whatIf", body, query="method=DELETE").status == 400
        assert api.ask("POST", f"{api.version()}/whatIfDelete").status == 404
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    egress = [row for row in charges(api.installation) if row.kind is ChargeKind.EGRESS]
    assert new["deliveredBytes"] == sum(row.delivered_bytes for row in egress) > 0
    assert Decimal(new["egress"]) == sum(row.amount for row in egress)
    more = {"properties": {"publishingProfile": {"targetRegions": [*targets, {"name": "eastus"}]}}}
    disk = {
        "location": HERE,
        "properties": {"creationData": {"createOption": "Import", "sourceUri": web.url("/two.raw")}},
    }
    upload = {
        "location": HERE,
        "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 20_972_032}},
    }
    with reading_only(api.installation):
        wider = api.ask("POST", f"{api.version()}/whatIf", more, query="method=PATCH").body
        stored = api.ask("POST", f"{api.compute}/disks/d/whatIf", disk).body
        assert api.ask("POST", f"{api.compute}/disks/d/whatIf", upload).status == 400
        gone = api.ask("POST", f"{api.version()}/whatIfDelete").body
    assert {each["region"] for each in wider["regions"]} == {"eastus"}
    assert (stored["deliveredBytes"], stored["storedBytes"] > 0) == (0, True)
    assert gone["storedBytes"] == -new["storedBytes"] < 0


def test_disk_from_another_region(api: Api, web: WebServer) -> None:
    """Azure refuses the disk. The field `allowRemote` belongs to imgstore."""
    api.found()
    body = version_body(web.url("/one.raw"), {"name": HERE})
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    creation: dict[str, Any] = {"createOption": "FromImage", "galleryImageReference": {"id": api.version()}}
    disk, path = {"location": "eastus", "properties": {"creationData": creation}}, f"{api.compute}/disks/d"
    for answer in (api.ask("PUT", path, disk), api.ask("POST", f"{path}/whatIf", disk)):
        assert (answer.status, answer.code) == (404, "GalleryImageNotFound")
        assert (
            "is not available in East US region. Please contact image owner to replicate"
            in answer.body["error"]["message"]
        )
    creation["allowRemote"] = "perhaps"
    assert api.ask("PUT", path, disk).body["error"]["target"] == "properties.creationData.allowRemote"
    creation["allowRemote"] = True
    with reading_only(api.installation):
        found = api.ask("POST", f"{path}/whatIf", disk).body
    assert api.await_end(api.ask("PUT", path, disk))["status"] == "Succeeded"
    (row,) = [row for row in charges(api.installation) if row.target == "eastus"]
    assert (row.source, row.delivered_bytes) == (HERE, found["deliveredBytes"])
    assert Decimal(found["egress"]) == row.amount > 0
    assert found["wholeCopies"]["deliveredBytes"] > row.delivered_bytes
    upload = {"location": "eastus", "properties": {"creationData": {"createOption": "Upload", "allowRemote": True}}}
    assert api.ask("PUT", f"{api.compute}/disks/u", upload).status == 400
