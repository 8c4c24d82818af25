"""Test a server without a worker: operations end when `imgstore worker` has made the replicas."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import Answer, Api, start_api, version_body

from imgstore.domain.errors import StoreUnreachable
from imgstore.operations.maintenance.worker import run_worker
from imgstore.stores.directory import DirectoryStore
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN, audit, retarget, show, states

pytest_plugins = ["api_fixtures"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """Run a server with one thread for operations. A waiting operation must not occupy the thread."""
    with start_api(tmp_path / "home", leaves_replicas=True, running_threads=1) as server:
        server.found()
        yield server


def put(api: Api, web: WebServer, name: str = "1.0.0", *regions: str) -> Answer:
    answer = api.ask("PUT", api.version(name), version_body(web.url("/one.raw"), *regions))
    assert answer.status == 201, answer
    return answer


def status(api: Api, answer: Answer) -> str:
    return str(api.ask("GET", api.path_of(answer.headers["azure-asyncoperation"])).body["status"])


def await_source(api: Api, name: str) -> None:
    while states(show(api.installation, name)).get("southcentralus/0") != "Completed":
        api.installation.effects.wait(0.01)


def test_operation_waits_for_replicas_of_workers(api: Api, web: WebServer) -> None:
    answers = [put(api, web, name, "southcentralus", "eastus") for name in ("1.0.0", "1.0.1")]
    for name in ("1.0.0", "1.0.1"):
        await_source(api, name)
        assert states(show(api.installation, name)) == {"southcentralus/0": "Completed", "eastus/0": "Pending"}
    assert [status(api, answer) for answer in answers] == ["InProgress"] * 2
    shown = api.ask("GET", api.version("1.0.0")).body
    assert shown["properties"]["provisioningState"] == "Creating"
    assert run_worker(api.installation, ADMIN, once=True).completed == 2
    assert [api.await_end(answer)["status"] for answer in answers] == ["Succeeded"] * 2
    audit(api.installation)


def test_update_waits_for_replicas_of_workers(api: Api, web: WebServer) -> None:
    assert api.await_end(put(api, web))["status"] == "Succeeded"
    regions = {"publishingProfile": {"targetRegions": [{"name": "southcentralus"}, {"name": "westus2"}]}}
    answer = api.ask("PATCH", api.version(), {"properties": regions})
    assert (answer.status, status(api, answer)) == (200, "InProgress")
    assert states(show(api.installation)) == {"southcentralus/0": "Completed", "westus2/0": "Pending"}
    run_worker(api.installation, ADMIN, once=True)
    assert api.await_end(answer)["status"] == "Succeeded"
    # A region that goes needs no worker.
    regions = {"publishingProfile": {"targetRegions": [{"name": "southcentralus"}]}}
    assert api.await_end(api.ask("PATCH", api.version(), {"properties": regions}))["status"] == "Succeeded"
    assert states(show(api.installation)) == {"southcentralus/0": "Completed"}


def test_operation_fails_with_the_error_of_the_worker(
    api: Api, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DirectoryStore.put

    def put_elsewhere(store: DirectoryStore, key: str, *args: object, **kwargs: object) -> object:
        if "eastus" in store.name:
            raise StoreUnreachable("The store fails.", hint="a test")
        return real(store, key, *args, **kwargs)  # type: ignore[arg-type]

    answer = put(api, web, "1.0.0", "southcentralus", "eastus")
    await_source(api, "1.0.0")
    monkeypatch.setattr(DirectoryStore, "put", put_elsewhere)
    assert len(run_worker(api.installation, ADMIN, once=True).failed) == 1
    told = api.await_end(answer)
    assert (told["status"], told["error"]["code"]) == ("Failed", "ReplicationJobsFailed")
    # The same request is another try, which workers make; it does not end with the error of the last one.
    again = api.ask("PUT", api.version(), version_body(web.url("/one.raw"), "southcentralus", "eastus"))
    assert status(api, again) == "InProgress"
    monkeypatch.undo()
    run_worker(api.installation, ADMIN, once=True)
    assert api.await_end(again)["status"] == "Succeeded"


def test_operation_ends_when_the_version_is_deleted(api: Api, web: WebServer) -> None:
    answer = put(api, web, "1.0.0", "southcentralus", "eastus")
    await_source(api, "1.0.0")
    assert api.await_end(api.ask("DELETE", api.version()))["status"] == "Succeeded"
    assert api.await_end(answer)["status"] == "Failed"


def test_server_with_a_worker_makes_replicas(tmp_path: Path, web: WebServer) -> None:
    with start_api(tmp_path / "other", worker=True) as server:
        server.found()
        assert server.await_end(put(server, web, "1.0.0", "southcentralus", "eastus"))["status"] == "Succeeded"
        retarget(server.installation, ["southcentralus"])
