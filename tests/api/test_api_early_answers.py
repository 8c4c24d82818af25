"""Test that the PUT of a disk, snapshot or managed image is answered before the ingest of files."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, start_api

from imgstore.api.auth.tokens import TokenAuthority
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.operations.disks import from_source
from imgstore.operations.installation import Installation
from imgstore.operations.leases import LeaseKeeper
from imgstore.operations.replication import disk_ingest
from tests.support.http_server import Page, WebServer

pytest_plugins = ["api_fixtures"]

SOUTH = "southcentralus"


def imported(web: WebServer, page: str = "/one.raw") -> Any:
    """Return the body of a disk or snapshot from a file."""
    creation = {"createOption": "Import", "sourceUri": web.url(page)}
    return {"location": SOUTH, "properties": {"creationData": creation}}


def image_of(web: WebServer) -> Any:
    """Return the body of a managed image from two files."""
    profile = {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "blobUri": web.url("/one.raw")},
        "dataDisks": [{"lun": 0, "blobUri": web.url("/two.raw")}],
    }
    return {"location": SOUTH, "properties": {"storageProfile": profile}}


BODIES: dict[str, tuple[int, Callable[[WebServer], Any]]] = {
    "disks": (202, imported),
    "snapshots": (202, imported),
    "images": (201, image_of),
}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Delay reads of files until the event is set."""
    opened, ingest_disk = threading.Event(), disk_ingest.ingest_disk

    def later(*words: Any) -> None:
        assert opened.wait(60)
        ingest_disk(*words)

    monkeypatch.setattr(from_source, "ingest_disk", later)
    yield opened
    opened.set()


@pytest.mark.parametrize("kind", list(BODIES))
def test_put_is_answered_before_the_file_is_read(api: Api, web: WebServer, gate: threading.Event, kind: str) -> None:
    api.found()
    status, body = BODIES[kind]
    path = f"{api.compute}/{kind}/x"
    made = api.ask("PUT", path, body(web))
    assert (made.status, made.body["properties"]["provisioningState"]) == (status, "Creating")
    assert api.ask("GET", path).body["properties"]["provisioningState"] == "Creating"
    operation = api.path_of(made.headers["azure-asyncoperation"])
    assert api.ask("GET", operation).body["status"] == "InProgress"
    gate.set()
    assert api.await_end(made)["status"] == "Succeeded"
    shown = api.ask("GET", path)
    assert shown.body["properties"]["provisioningState"] == "Succeeded"
    again = api.ask("PUT", path, body(web))
    assert (again.status, again.body) == (200, shown.body)
    assert api.await_end(again)["status"] == "Succeeded"


def test_the_status_names_the_progress_of_a_running_operation(
    api: Api, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.found()
    counted, opened, ingest_disk = threading.Event(), threading.Event(), disk_ingest.ingest_disk

    def later(installation: Installation, *words: Any) -> None:
        for task, done_bytes in (("one", 100), ("two", 33)):
            installation.subscriber(ProgressEvent(task=task, stage=Stage.MOVED, bytes_done=done_bytes, bytes_total=300))
        counted.set()
        assert opened.wait(60)
        ingest_disk(installation, *words)

    monkeypatch.setattr(from_source, "ingest_disk", later)
    made = api.ask("PUT", f"{api.compute}/disks/x", imported(web))
    operation = api.path_of(made.headers["azure-asyncoperation"])
    try:
        assert counted.wait(60)
        assert api.ask("GET", operation).body["percentComplete"] == 22.2
    finally:
        opened.set()
    assert "percentComplete" not in api.await_end(made)


def test_refusal_before_the_row_is_stored_is_the_answer(api: Api, web: WebServer) -> None:
    api.found()
    path = f"{api.compute}/disks/x"
    refused = api.ask("PUT", path, imported(web, "/none.raw"))
    assert refused.status >= 400
    assert "azure-asyncoperation" not in refused.headers
    assert api.ask("GET", path).status == 404


def test_file_that_changes_during_the_read_fails_the_operation(api: Api, web: WebServer, gate: threading.Event) -> None:
    api.found()
    path = f"{api.compute}/disks/x"
    made = api.ask("PUT", path, imported(web))
    web.pages["/one.raw"] = Page(body=bytes(8 << 20), headers={"ETag": '"2"'})
    gate.set()
    ended = api.await_end(made)
    assert (ended["status"], ended["error"]["code"]) == ("Failed", "SourceChanged")
    assert api.ask("GET", path).status == 404, "nothing of it was ever complete"


@pytest.mark.parametrize("kind", list(BODIES))
def test_next_server_resumes_the_ingest(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    status, body = BODIES[kind]

    def ends(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying, start_api(tmp_path / "home") as api:
        dying.setattr(from_source, "ingest_disk", ends)
        api.found()
        path = f"{api.compute}/{kind}/x"
        made = api.ask("PUT", path, body(web))
        assert made.status == status
    monkeypatch.setattr(LeaseKeeper, "is_dead", lambda _keeper, _holder: True)
    with start_api(tmp_path / "home") as second:
        assert api.credential is not None
        known, client = api.credential.known.identity, TokenAuthority(second.installation, second.url)
        token = client.issue_token(
            known.tenant_uid, str(known.client_id), api.credential.secret, f"{second.url}/.default"
        ).access_token
        second.headers["Authorization"] = f"Bearer {token}"
        ended = _ended(second, api.path_of(made.headers["azure-asyncoperation"]))
        assert ended["status"] == "Succeeded", ended
        assert second.ask("GET", path).body["properties"]["provisioningState"] == "Succeeded"


def _ended(api: Api, path: str) -> Any:
    for _ in range(2_000):
        told = api.ask("GET", path)
        assert told.status == 200, told
        if told.body["status"] != "InProgress":
            return told.body
        api.installation.effects.wait(0.01)
    raise AssertionError("it does not end")
