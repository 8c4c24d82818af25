"""Test the cancellation of operations by the API and by the command line."""

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from api_server import Answer, Api, bearer, start_api
from click.testing import CliRunner
from test_api_fairness import EMPTY, disk_body
from test_api_resume import DEAD, ended, hand_over

from imgstore.api import application
from imgstore.cli.main import main
from imgstore.domain.async_operations import OperationStatus
from imgstore.domain.identity.access import Role
from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, WebServer, start_web
from tests.support.slow_web import Slowness, start_slow_web

GROUP = "mine"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Start a server that renews the leases of its operations often."""
    monkeypatch.setattr(application, "_RENEWAL_SECONDS", 0.2)
    with start_api(tmp_path / "home") as server:
        assert server.ask("PUT", f"{server.top}/resourceGroups/{GROUP}", EMPTY).status == 201
        yield server


@pytest.fixture
def held() -> Iterator[tuple[WebServer, Page]]:
    """Serve a disk of 24 MiB. The server sends the middle only after a signal of the test."""
    page = Page(body=random.Random(1).randbytes(24 * MIB), held_at=range(8 * MIB, 16 * MIB))
    with start_web({"/disk.raw": page}) as server:
        yield server, page


def operations(api: Api) -> str:
    return f"{api.top}/providers/Microsoft.Compute/locations/any/capsOperations"


def disk(api: Api, name: str = "d") -> str:
    return f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Compute/disks/{name}"


def running(api: Api, headers: dict[str, str] | None = None) -> list[Any]:
    """Return the operations in progress from the API."""
    told = api.ask("GET", operations(api), query="status=inprogress", headers=headers)
    assert told.status == 200, told
    return list(told.body["value"])


def test_request_that_waits_for_a_source_is_canceled(api: Api) -> None:
    answers: list[Answer] = []
    with start_slow_web(Slowness.SILENT) as web:
        body = disk_body(web.url("d.vhd"))
        asking = threading.Thread(target=lambda: answers.append(api.ask("PUT", disk(api), body)))
        asking.start()
        assert web.asked.acquire(timeout=60)
        (found,) = running(api)
        assert found["properties"] == {"command": "put-disk", "caller": "administrator", "resourceId": disk(api)}
        told = api.ask("POST", f"{operations(api)}/{found['name']}/cancel")
        assert told.status in {200, 202}, told
        asking.join()
    assert (answers[0].status, answers[0].code) == (409, "OperationCanceled")
    assert ended(api, found["name"]).status is OperationStatus.CANCELED
    shown = api.ask("GET", f"{operations(api)}/{found['name']}")
    assert (shown.body["status"], shown.body["error"]["code"]) == ("Canceled", "OperationCanceled")
    again = api.ask("POST", f"{operations(api)}/{found['name']}/cancel")
    assert (again.status, again.body["status"]) == (200, "Canceled"), "once more does nothing"
    assert api.ask("GET", disk(api)).status == 404


@pytest.mark.parametrize("then", ["repeated", "deleted"])
def test_accepted_operation_is_canceled(api: Api, held: tuple[WebServer, Page], then: str) -> None:
    web, page = held
    body = disk_body(web.url("/disk.raw"))
    accepted = api.ask("PUT", disk(api), body)
    assert accepted.status == 202, accepted
    assert page.held.acquire(timeout=60)
    path = api.path_of(accepted.headers["azure-asyncoperation"])
    told = api.ask("POST", path.replace("?", "/cancel?"))
    assert told.status in {200, 202}, told
    assert api.await_end(accepted)["status"] == "Canceled"
    assert api.ask("GET", disk(api)).body["properties"]["provisioningState"] == "Creating"
    page.held_at = range(0)
    if then == "repeated":
        assert api.await_end(api.ask("PUT", disk(api), body))["status"] == "Succeeded"
    else:
        assert api.await_end(api.ask("DELETE", disk(api)))["status"] == "Succeeded"
        assert api.ask("GET", disk(api)).status == 404


def test_caller_and_writers_of_the_resource_may_cancel(api: Api, held: tuple[WebServer, Page]) -> None:
    web, page = held
    mine = bearer(api, Role.CONTRIBUTOR, GROUP)
    accepted = api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")), headers=mine)
    assert page.held.acquire(timeout=60)
    (found,) = running(api, mine)
    path = f"{operations(api)}/{found['name']}/cancel"
    other = bearer(api, Role.CONTRIBUTOR, "other", "other")
    reader = bearer(api, Role.READER, GROUP, "reader")
    assert [api.ask("POST", path, headers=each).status for each in (other, reader)] == [403, 403]
    missing = api.ask("POST", path.replace(found["name"], "0" * 8), headers=other)
    assert missing.status == 403, "whether there is such an operation is not told"
    assert running(api, other) == []
    writer = bearer(api, Role.CONTRIBUTOR, GROUP, "writer")
    assert api.ask("POST", path, headers=writer).status in {200, 202}
    assert api.await_end(accepted)["status"] == "Canceled"


def test_command_cancels_an_operation_of_a_server(api: Api, held: tuple[WebServer, Page], tmp_path: Path) -> None:
    web, page = held

    def run(*words: str, code: int = 0) -> Any:
        environ = {"IMGSTORE_HOME": str(tmp_path / "home")}
        result = CliRunner().invoke(main, ["operation", *words], prog_name="imgstore", env=environ)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if result.stdout else result.stderr

    accepted = api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")))
    assert page.held.acquire(timeout=60)
    (found,) = run("list", "--status", "InProgress")
    assert run("show", "-n", found["name"])["properties"]["resourceId"] == disk(api)
    canceling = run("cancel", "-n", found["name"])
    assert "cancelRequestedBy" in canceling["properties"]
    assert api.await_end(accepted)["status"] == "Canceled", "the server looks once a second"
    assert run("show", "-n", found["name"])["error"]["code"] == "OperationCanceled"
    page.held_at = range(0)
    again = api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")))
    assert api.await_end(again)["status"] == "Succeeded"
    done = run("list", "--status", "Succeeded")[0]
    assert "has ended" in run("cancel", "-n", done["name"], code=1)
    assert "was not found" in run("cancel", "-n", "no-such-operation", code=3)


def test_operation_of_a_dead_process_is_canceled_at_once(
    api: Api, held: tuple[WebServer, Page], tmp_path: Path
) -> None:
    web, page = held
    api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")))
    assert page.held.acquire(timeout=60)
    (found,) = running(api)
    with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite")) as database:
        database.execute("UPDATE operations SET holder = ?", (DEAD,))
        database.commit()
    told = api.ask("POST", f"{operations(api)}/{found['name']}/cancel")
    assert (told.status, told.body["status"]) == (200, "Canceled")


def test_canceled_operation_is_not_resumed(tmp_path: Path, held: tuple[WebServer, Page]) -> None:
    web, page = held
    with start_api(tmp_path / "home") as api:
        assert api.ask("PUT", f"{api.top}/resourceGroups/{GROUP}", EMPTY).status == 201
        api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")))
        assert page.held.acquire(timeout=60)
        uid = running(api)[0]["name"]
    with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite")) as database:
        database.execute(
            "UPDATE operations SET holder = ?, cancel_requested_by = 'somebody' WHERE uid = ?", (DEAD, uid)
        )
        database.commit()
    while page.held.acquire(blocking=False):  # Several ranges are asked for at once.
        pass
    with start_api(tmp_path / "home") as api:
        assert ended(api, uid).status is OperationStatus.CANCELED
        assert not page.held.acquire(blocking=False)


def deployment(api: Api, name: str) -> str:
    return f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/{name}"


def template_of(resource: dict[str, Any]) -> dict[str, Any]:
    inner = {"$schema": "s", "contentVersion": "1.0.0.0", "resources": [resource]}
    return {"properties": {"mode": "Incremental", "template": inner}}


def test_deployment_is_canceled_as_in_azure(api: Api, held: tuple[WebServer, Page]) -> None:
    web, page = held
    resource = {
        "type": "Microsoft.Compute/disks",
        "apiVersion": "2023-04-02",
        "name": "d",
        **disk_body(web.url("/disk.raw")),
    }
    nested = {"type": "Microsoft.Resources/deployments", "apiVersion": "2021-04-01", "name": "inner"}
    accepted = api.ask("PUT", deployment(api, "outer"), template_of(nested | template_of(resource)))
    assert accepted.status == 201, accepted
    assert page.held.acquire(timeout=60)
    stranger = bearer(api, Role.CONTRIBUTOR, "other")
    reader = bearer(api, Role.READER, GROUP, "reader")
    cancel = f"{deployment(api, 'outer')}/cancel"
    assert [api.ask("POST", cancel, headers=each).status for each in (stranger, reader)] == [403, 403]
    inner = api.ask("POST", f"{deployment(api, 'inner')}/cancel")
    assert (inner.status, inner.code) == (409, "DeploymentCannotBeCancelled")
    assert api.ask("POST", f"{deployment(api, 'none')}/cancel").status == 404
    writer = bearer(api, Role.CONTRIBUTOR, GROUP, "writer")
    assert api.ask("POST", cancel, headers=writer).status == 204
    assert api.await_end(accepted)["status"] == "Canceled"
    for name in ("outer", "inner"):
        shown = api.ask("GET", deployment(api, name)).body["properties"]
        assert (shown["provisioningState"], shown["error"]["code"]) == ("Canceled", "OperationCanceled")
    again = api.ask("POST", cancel)
    assert (again.status, again.code) == (409, "DeploymentCannotBeCancelled")


def test_operation_with_a_lost_lease_stops(
    api: Api, held: tuple[WebServer, Page], caplog: pytest.LogCaptureFixture
) -> None:
    """The lease was not renewed in time, so the row belongs to another server, which can resume the operation."""
    web, page = held
    body = disk_body(web.url("/disk.raw"))
    accepted = api.ask("PUT", disk(api), body)
    assert page.held.acquire(timeout=60)
    uid = running(api)[0]["name"]
    hand_over(api.installation, uid, lease_seconds=3_600)
    for _ in range(6_000):
        if "another server runs the operation" in caplog.text:
            break
        api.installation.effects.wait(0.01)
    else:
        raise AssertionError("the operation continued without its lease")
    page.held_at = range(0)
    for _ in range(6_000):  # The disk's work is held until the operation has stopped.
        again = api.ask("PUT", disk(api), body)
        if again.status != 409:
            break
        api.installation.effects.wait(0.01)
    assert api.await_end(again)["status"] == "Succeeded"
    polled = api.ask("GET", api.path_of(accepted.headers["azure-asyncoperation"]))
    assert polled.body["status"] == "InProgress", polled


def test_lease_of_a_running_operation_is_renewed(api: Api, held: tuple[WebServer, Page]) -> None:
    web, page = held
    api.ask("PUT", disk(api), disk_body(web.url("/disk.raw")))
    assert page.held.acquire(timeout=60)
    uid = running(api)[0]["name"]

    def lease() -> datetime:
        with api.installation.catalog.reading() as transaction:
            found = transaction.operations.get(uid)
        assert found is not None
        assert found.lease_expires_at is not None
        return found.lease_expires_at

    first = lease()
    for _ in range(6_000):
        if lease() > first:
            return
        api.installation.effects.wait(0.01)
    raise AssertionError("it is not renewed")
