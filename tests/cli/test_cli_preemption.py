"""A server is killed while it runs operations, and others wrote their resources meanwhile: the newer requests stay done."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_server import Process, serving
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, WebServer, start_web

DISK_BYTES = 24 * MIB
COMPUTE = "2023-07-03"
TEMPLATES = "2021-04-01"
SKETCH: dict[str, Any] = {
    "location": "westus2",
    "properties": {
        "osType": "Linux",
        "osState": "Generalized",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
    },
}


class Client:
    """Asks one server as its first administrator."""

    def __init__(self, server: Process, first: dict[str, str]) -> None:
        self.server, self.token = server, server.token(first)
        self.group = f"/subscriptions/{first['IMGSTORE_SUBSCRIPTION_ID']}/resourceGroups/rg"

    def compute(self, path: str) -> str:
        return f"{self.group}/providers/Microsoft.Compute/{path}"

    def ask(self, method: str, path: str, body: Any = None, version: str = COMPUTE) -> Any:
        """Ask, and return the body of the answer."""
        status, found = self.server.ask(method, f"{path}?api-version={version}", body, self.token)
        assert status < 300, found
        return found

    def begin(self, method: str, path: str, body: Any = None, version: str = COMPUTE) -> str:
        """Begin an operation, and return its path."""
        self.ask(method, path, body, version)
        url = str(self.server.headers["azure-asyncoperation"])
        return "/" + url.split("/", 3)[3].partition("?")[0]

    def await_end(self, operation: str) -> Any:
        until = time.monotonic() + 120
        while (found := self.ask("GET", operation))["status"] == "InProgress":
            assert time.monotonic() < until, found
        return found


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A disk whose middle is held back."""
    page = Page(body=random.Random(1).randbytes(DISK_BYTES), held_at=range(DISK_BYTES // 3, DISK_BYTES * 2 // 3))
    with start_web({"/disk.raw": page}) as server:
        yield server


def url(web: WebServer) -> str:
    return web.url("/disk.raw")


def put_version(client: Client, web: WebServer) -> tuple[str, str]:
    client.ask("PUT", client.compute("galleries/g"), {"location": "westus2"})
    client.ask("PUT", client.compute("galleries/g/images/d"), SKETCH)
    path = client.compute("galleries/g/images/d/versions/1.0.0")
    profile = {"targetRegions": [{"name": "westus2"}], "endOfLifeDate": "2999-01-01T00:00:00Z"}
    storage = {"osDiskImage": {"source": {"uri": url(web)}}}
    properties = {"publishingProfile": profile, "storageProfile": storage}
    body = {"location": "westus2", "tags": {"by": "older"}, "properties": properties}
    return path, client.begin("PUT", path, body)


def put_disk(client: Client, web: WebServer) -> tuple[str, str]:
    path = client.compute("disks/d")
    creation = {"createOption": "Import", "sourceUri": url(web)}
    body = {"location": "westus2", "tags": {"by": "older"}, "properties": {"creationData": creation}}
    return path, client.begin("PUT", path, body)


def put_image(client: Client, web: WebServer) -> tuple[str, str]:
    path = client.compute("images/i")
    profile = {"osDisk": {"osType": "Linux", "osState": "Generalized", "blobUri": url(web)}}
    body = {"location": "westus2", "tags": {"by": "older"}, "properties": {"storageProfile": profile}}
    return path, client.begin("PUT", path, body)


@pytest.mark.parametrize("begin", [put_version, put_disk, put_image])
def test_a_resumed_put_finishes_the_content_and_keeps_what_a_newer_request_wrote(
    tmp_path: Path, web: WebServer, begin: Callable[[Client, WebServer], tuple[str, str]]
) -> None:
    home, page = tmp_path / "home", web.pages["/disk.raw"]
    with serving(home, "--insecure-http") as server:
        first, client = server.told, Client(server, server.told)
        client.ask("PUT", client.group, {"location": "westus2"}, TEMPLATES)
        path, operation = begin(client, web)
        assert page.held.acquire(timeout=60)
        client.ask("PATCH", path, {"tags": {"by": "newer"}})
        assert server.end(signal.SIGKILL) != 0
    page.held_at = range(0)
    with serving(home, "--insecure-http") as server:
        client = Client(server, first)
        assert client.await_end(operation)["status"] == "Succeeded"
        found = client.ask("GET", path)
        assert found["tags"] == {"by": "newer"}
        assert found["properties"]["provisioningState"] == "Succeeded"


def by_request(client: Client, path: str, _home: Path) -> None:
    client.ask("PUT", path, {"location": "westus2", "properties": {"description": "newer"}})


def by_command_line(_find_client: Client, _path: str, home: Path) -> None:
    words = ["sig", "update", "-g", "rg", "-r", "g", "--set", "description=newer", "-o", "json"]
    done = CliRunner().invoke(main, words, env={"IMGSTORE_HOME": str(home)})
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["properties"]["description"] == "newer"


@pytest.mark.parametrize("write", [by_request, by_command_line])
def test_a_resumed_deployment_leaves_what_a_newer_request_wrote(
    tmp_path: Path, web: WebServer, write: Callable[[Client, str, Path], None]
) -> None:
    """The other resources of its template are made."""
    home, page = tmp_path / "home", web.pages["/disk.raw"]
    gallery = {"type": "Microsoft.Compute/galleries", "apiVersion": COMPUTE, "name": "g", "location": "westus2"}
    disk = {
        "type": "Microsoft.Compute/disks",
        "apiVersion": COMPUTE,
        "name": "d",
        "location": "westus2",
        "dependsOn": ["[resourceId('Microsoft.Compute/galleries', 'g')]"],
        "properties": {"creationData": {"createOption": "Import", "sourceUri": url(web)}},
    }
    resources = [{**gallery, "properties": {"description": "older"}}, disk]
    template = {"$schema": "s", "contentVersion": "1.0.0.0", "resources": resources}
    with serving(home, "--insecure-http") as server:
        first, client = server.told, Client(server, server.told)
        client.ask("PUT", client.group, {"location": "westus2"}, TEMPLATES)
        deployment = f"{client.group}/providers/Microsoft.Resources/deployments/one"
        body = {"properties": {"mode": "Incremental", "template": template}}
        operation = client.begin("PUT", deployment, body, TEMPLATES)
        assert page.held.acquire(timeout=60)
        assert client.ask("GET", client.compute("galleries/g"))["properties"]["description"] == "older"
        write(client, client.compute("galleries/g"), home)
        assert server.end(signal.SIGKILL) != 0
    page.held_at = range(0)
    with serving(home, "--insecure-http") as server:
        client = Client(server, first)
        assert client.await_end(operation)["status"] == "Succeeded"
        assert client.ask("GET", client.compute("galleries/g"))["properties"]["description"] == "newer"
        assert client.ask("GET", client.compute("disks/d"))["properties"]["provisioningState"] == "Succeeded"
