"""Test that slow sources of a caller block neither other callers, nor a restart, nor the end of a server."""

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from api_server import LOOSE, NEW, Answer, Api, bearer, start_api
from test_api_resume import DEAD

from imgstore.domain.identity.access import Role
from tests.support.slow_web import Slowness, SlowWeb, start_slow_web

EMPTY: dict[str, Any] = {"location": "southcentralus"}


def disk_body(uri: str) -> dict[str, Any]:
    creation = {"createOption": "Import", "sourceUri": uri}
    return EMPTY | {"properties": {"osType": "Linux", "creationData": creation}}


@contextmanager
def asking(api: Api, web: SlowWeb, headers: dict[str, str], count: int) -> Iterator[list[Answer]]:
    """Send PUTs of disks from slow sources, each in a thread, until the end of the block and of the server."""
    answers: list[Answer] = []

    def ask(number: int) -> None:
        path = f"{api.top}/resourceGroups/mine/providers/Microsoft.Compute/disks/d{number}"
        answers.append(api.ask("PUT", path, disk_body(web.url(f"d{number}.vhd")), headers=headers))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(count)]
    for each in threads:
        each.start()
    yield answers
    api.installation.keeper.interrupt()
    for each in threads:
        each.join(60)
        assert not each.is_alive()


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Api]:
    with start_api(tmp_path / "home", running_threads=8, queued_operations_max=6) as api:
        for group in ("mine", "other"):
            assert api.ask("PUT", f"{api.top}/resourceGroups/{group}", EMPTY).status == 201
        yield api


def put_gallery(api: Api, name: str, headers: dict[str, str] | None = None) -> Answer:
    path = f"{api.top}/resourceGroups/other/providers/Microsoft.Compute/galleries/{name}"
    return api.ask("PUT", path, EMPTY, headers=headers)


@pytest.mark.parametrize("slowness", [Slowness.SILENT, Slowness.HEAD, Slowness.BODY])
def test_slow_sources_block_only_the_share_of_the_caller(groups: Api, slowness: Slowness) -> None:
    contributor = bearer(groups, Role.CONTRIBUTOR, "mine")
    with start_slow_web(slowness) as web:
        # No more than the queue holds: on a busy machine all requests may arrive before a thread takes the first.
        with asking(groups, web, contributor, 6) as answers:
            assert all(web.asked.acquire(timeout=60) for _ in range(2))
            assert put_gallery(groups, "theirs").status == 201
            assert groups.ask("GET", groups.top + "/resourceGroups", headers=contributor).status == 200, "requests"
            assert not web.asked.acquire(blocking=False), "a quarter of 8 threads"
        assert {each.status for each in answers} == {503}, "the server is stopping"


def test_full_queue_answers_429(groups: Api) -> None:
    contributor = bearer(groups, Role.CONTRIBUTOR, "mine")
    with start_slow_web(Slowness.SILENT) as web, asking(groups, web, contributor, 20) as answers:
        for _ in range(6_000):
            if len(answers) == 12:
                break
            groups.installation.effects.wait(0.01)
        assert [(each.status, each.headers["retry-after"], each.code) for each in answers] == [
            (429, "2", "TooManyRequests")
        ] * 12, "2 run and 6 wait"
        assert put_gallery(groups, "theirs").status == 201


def test_shares_are_equal_after_a_restart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start_slow_web(Slowness.SILENT) as web:
        with start_api(home, running_threads=4) as api:
            for group in ("mine", "other"):
                assert api.ask("PUT", f"{api.top}/resourceGroups/{group}", EMPTY).status == 201
            contributors = [bearer(api, Role.CONTRIBUTOR, "mine", f"c{number}") for number in range(3)]
            # Each has a thread for itself; what is stored of them goes to one caller below.
            with asking(api, web, contributors[0], 1), asking(api, web, contributors[1], 1):
                assert all(web.asked.acquire(timeout=60) for _ in range(2))
        with closing(sqlite3.connect(home / "catalog.sqlite")) as database:
            uids = database.execute("SELECT principal_uid FROM operations WHERE status = 'InProgress'").fetchall()
            assert len(uids) == 2
            database.execute(
                "UPDATE operations SET holder = ?, principal_uid = ? WHERE status = 'InProgress'", (DEAD, uids[0][0])
            )
            database.commit()
        with start_api(home, running_threads=4) as api:
            assert web.asked.acquire(timeout=60)
            owner = bearer(api, Role.CONTRIBUTOR, "other", "owner")
            assert put_gallery(api, "theirs", owner).status == 201
            assert not web.asked.acquire(blocking=False), "one thread of four"


def test_server_with_slow_sources_ends_in_time(tmp_path: Path) -> None:
    """A server that exceeds the time limit would end with exit code 1."""
    environ = {**os.environ, **LOOSE, "IMGSTORE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "imgstore", "serve", "--insecure-http", "--port", "0"]
    with (
        start_slow_web(Slowness.HEAD, tick_seconds=1.0) as web,
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process,
    ):
        server = Process(process)
        group = f"/subscriptions/{server.lines['IMGSTORE_SUBSCRIPTION_ID']}/resourceGroups/mine"
        assert server.ask("PUT", group, EMPTY) == 201
        disk = f"{group}/providers/Microsoft.Compute/disks/slow"
        statuses: list[int] = []
        asking = threading.Thread(target=lambda: statuses.append(server.ask("PUT", disk, disk_body(web.url("d.vhd")))))
        asking.start()
        assert web.asked.acquire(timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        asking.join()
        assert statuses == [503]


class Process:
    """Run a server in a process. Return requests of the first administrator."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.lines: dict[str, str] = {}
        for line in iter(process.stdout.readline, ""):
            name, _, value = line.strip().partition("=")
            self.lines[name] = value
            if line.startswith("az cloud register"):
                self.port = int(line.strip().rpartition(":")[2])
            if line.startswith("az login"):
                break
        form = {
            "grant_type": "client_credentials",
            "client_id": self.lines["IMGSTORE_CLIENT_ID"],
            "client_secret": self.lines["IMGSTORE_CLIENT_SECRET"],
            "scope": f"http://localhost:{self.port}/.default",
        }
        status, body = self._send(
            "POST", f"/{self.lines['IMGSTORE_TENANT_ID']}/oauth2/v2.0/token", urlencode(form).encode(), {}
        )
        assert status == 200, body
        self._headers = {"Authorization": f"Bearer {json.loads(body)['access_token']}"}

    def ask(self, method: str, path: str, body: Any) -> int:
        """Return the status of a request."""
        return self._send(method, f"{path}?api-version={NEW}", json.dumps(body).encode(), self._headers)[0]

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
