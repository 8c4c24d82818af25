"""Test a full disk (507 or Failed for writes, working deletes) and quotas from the view of callers."""

import http.client
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api_server import Api, start_api
from blob_uploads import Upload

from imgstore.domain.storage.sizes import MIB
from imgstore.operations import deployments
from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]
SOUTH = "southcentralus"


def settings(home: Path, text: str) -> Path:
    home.mkdir()
    (home / "settings.toml").write_text(text)
    return home


def imported(uri: str) -> Any:
    return {"location": SOUTH, "properties": {"creationData": {"createOption": "Import", "sourceUri": uri}}}


def page(api: Api, url: str, what: str, body: bytes = b"") -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    try:
        headers = {"x-ms-range": f"bytes=0-{MIB - 1}", "x-ms-page-write": what}
        connection.request("PUT", f"{parts.path}?{parts.query}&comp=page", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_writes_into_the_disk_reserve_are_refused_and_deletes_work(tmp_path: Path, web: WebServer) -> None:
    home = settings(tmp_path / "full", f"[disk_space]\nfree_bytes_min = {2**62}\n")
    with start_api(home) as api:
        api.found()
        upload = Upload(api=api).make(MIB + 512)
        url = upload.grant()
        status, told = page(api, url, "update", b"a" * MIB)
        assert status == 507
        assert b"StoreFull" in told
        assert b"free_bytes_min" in told
        assert page(api, url, "clear")[0] == 201
        upload.end()
        disk = f"{api.compute}/disks/d1"
        ended = api.await_end(api.ask("PUT", disk, imported(web.url("/one.raw"))))
        assert (ended["status"], ended["error"]["code"]) == ("Failed", "StoreFull")
        for path in (disk, upload.path):
            assert api.await_end(api.ask("DELETE", path))["status"] == "Succeeded"
            assert api.ask("GET", path).status == 404


def test_subscription_over_quota_gets_409(tmp_path: Path, web: WebServer) -> None:
    home = settings(tmp_path / "tight", f"[limits]\nbytes_per_subscription_max = {10 * MIB}\n")
    with start_api(home) as api:
        api.found()
        assert api.await_end(api.ask("PUT", f"{api.compute}/disks/d1", imported(web.url("/one.raw"))))["status"] == (
            "Succeeded"
        )
        for name, body in (
            ("d2", imported(web.url("/two.raw"))),
            ("up", imported("")),
        ):
            if name == "up":
                body["properties"]["creationData"] = {"createOption": "Upload", "uploadSizeBytes": 8 * MIB + 512}
            refused = api.ask("PUT", f"{api.compute}/disks/{name}", body)
            assert (refused.status, refused.code) == (409, "QuotaExceeded"), refused
            assert api.ask("GET", f"{api.compute}/disks/{name}").status == 404


def test_group_has_a_limit_of_deployments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "DEPLOYMENTS_MAX", 1)
    api.found()
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [],
    }
    above = f"{api.compute.rsplit('/providers', 1)[0]}/providers/Microsoft.Resources/deployments"
    body = {"properties": {"mode": "Incremental", "template": template}}
    for _ in range(2):
        assert api.await_end(api.ask("PUT", f"{above}/d1", body))["status"] == "Succeeded", "the same again is no other"
    refused = api.ask("PUT", f"{above}/d2", body)
    assert (refused.status, refused.code) == (409, "DeploymentQuotaExceeded")
    assert api.ask("DELETE", f"{above}/d1").status < 300
    assert api.await_end(api.ask("PUT", f"{above}/d2", body))["status"] == "Succeeded"
