"""Errors over HTTP tell callers nothing of where things lie on the server's machine."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from api_server import Answer, Api, version_body

from imgstore.api.discretion import discreet, told
from imgstore.domain.errors import StoreUnreachable
from imgstore.testing.installations import GROUP
from imgstore.testing.web import WebServer

pytest_plugins = ["api_fixtures"]


def check(api: Api, body: Any) -> None:
    """Nothing in it is a place of this machine."""
    text = body if isinstance(body, str) else json.dumps(body)
    for place in (api.installation.home, api.installation.regions.path, Path(__file__).parents[2]):
        assert str(place) not in text
        assert os.path.realpath(place) not in text


def refused(api: Api, answer: Answer, status: int = 400) -> str:
    """The message of a refusal that tells no place."""
    assert answer.status == status, answer
    check(api, answer.body)
    return str(answer.body["error"]["message"])


def test_refusals_name_regions_and_no_files(api: Api, tmp_path: Path) -> None:
    api.found()
    message = refused(api, api.ask("PUT", f"{api.top}/resourceGroups/other", {"location": "mars"}))
    assert "southcentralus" in message
    assert "regions.yaml" in message
    refused(api, api.ask("PUT", api.version(), version_body("https://example.org/x", "mars")))
    refused(api, api.ask("PUT", api.version(), version_body(f"{tmp_path}/home/catalog.db")))
    refused(api, api.ask("PUT", f"{api.compute}/disks/d1", {"location": "mars", "properties": {}}))
    refused(api, api.ask("GET", f"{api.compute}/disks/d1"), 404)


def test_a_store_that_fails_is_not_located(api: Api, web: WebServer) -> None:
    api.found()
    regions = api.installation.home / "regions"
    shutil.rmtree(regions, ignore_errors=True)
    regions.write_text("where a folder belongs")
    put = api.ask("PUT", api.version(), version_body(web.url("/one.raw")))
    ended = api.await_end(put)
    assert ended["status"] == "Failed"
    assert "HOME/regions" in ended["error"]["message"], "what failed is told still"
    check(api, ended)
    shown = api.ask("GET", api.version(), query="$expand=ReplicationStatus")
    assert "HOME/regions" in json.dumps(shown.body)
    check(api, shown.body)
    template = {
        "resources": [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2023-04-02",
                "name": "d1",
                "location": "southcentralus",
                "properties": {"creationData": {"createOption": "Import", "sourceUri": web.url("/one.raw")}},
            }
        ]
    }
    of_group = f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/d"
    begun = api.ask(
        "PUT", of_group, {"properties": {"mode": "Incremental", "template": template}}, version="2021-04-01"
    )
    failed = api.await_end(begun)
    assert failed["status"] == "Failed", failed
    check(api, failed)
    check(api, api.ask("GET", of_group, version="2021-04-01").body)


def test_the_databases_own_words_stay_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    place = api.installation.catalog.place
    error = StoreUnreachable(f"The catalog in {place} could not do it.", found="host db7 refuses user u", target=place)
    body = told(api.installation, error)
    assert body["error"]["code"] == "StoreUnreachable"
    assert "db7" not in json.dumps(body)
    assert "db7" in caplog.text
    check(api, body)


def test_only_places_are_renamed(api: Api) -> None:
    home = api.installation.home
    kept = f"https://example.org{home}/x and {home}s and {home}-old"
    assert discreet(api.installation, [{"a": kept, "b": f"in {home}/x: '{home}'"}, 1, None]) == [
        {"a": kept, "b": "in HOME/x: 'HOME'"},
        1,
        None,
    ]
