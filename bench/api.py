"""The API as its clients have it: `imgstore serve` over TLS on SQLite, with versions that are rows alone, and who asks.

The server is a process of its own, and so is every client (`bench.asking`): on few cores they take their share of them,
as clients on the same machine would. Beside it a server without an application (`bench.plain`) shows what HTTP, TLS and
the clients leave of the machine.
"""

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from bench.asking import Errand
from bench.catalog import DEFINITION, GALLERY, GROUP, furnish, version_name
from bench.plain import Answer
from bench.processes import cpu_seconds_of, peak_bytes_of
from imgstore.bootstrap import Settings, open_installation
from imgstore.domain import names

API_VERSION = "2023-07-03"
CLIENTS = 8
PATHS_MAX = 1_000
"""So many versions each client asks for in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSize:
    """How much there is, and how long it is asked for."""

    versions: int = 5_000
    seconds: float = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server, and a token for it."""

    pid: int
    host: str
    port: int
    roots: str
    """A file of PEM."""
    subscription: str
    token: str
    size: ApiSize

    def peak_bytes(self) -> int:
        """Its greatest resident memory so far."""
        return peak_bytes_of(self.pid)

    def answer(self, path: str) -> Answer:
        """What it answers to one GET, on a connection made for it."""
        connection = _connected(self.host, self.port, self.roots)
        accepted = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        connection.request("GET", path, headers=accepted)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        headers = tuple((name, value) for name, value in answer.getheaders() if name.lower() != "date")
        return Answer(status=answer.status, headers=headers, body=body)

    def paths(self, client: int, *, expand: bool) -> list[str]:
        """Versions that one client asks for, no two clients in the same order."""
        query = f"?api-version={API_VERSION}" + ("&$expand=ReplicationStatus" if expand else "")
        numbers = [
            (client * 997 + step * 61) % self.size.versions for step in range(min(PATHS_MAX, self.size.versions))
        ]
        return [
            names.version_id(self.subscription, GROUP, GALLERY, DEFINITION, version_name(number)) + query
            for number in numbers
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking."""

    request_seconds: tuple[float, ...]
    """From the first byte sent to the last received, of every request of all clients."""
    cpu_seconds: float
    """Of the server, meanwhile."""


@contextmanager
def serving(home: Path, size: ApiSize, log: Path | None = None) -> Iterator[Served]:
    """A server without a worker on a new home with so many versions; what it logs goes to the file `log`, if given."""
    with open_installation(Settings(home=home)) as installation:
        furnish(installation, size.versions)
    command: list[str | Path] = [
        Path(sys.executable).parent / "imgstore",
        "serve",
        "--dev-tls",
        "--no-worker",
        "--port",
        "0",
    ]
    others = {name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")}
    environment = {**others, "IMGSTORE_HOME": str(home)}
    with (
        nullcontext() if log is None else log.open("wb") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            yield _served(server.pid, _said(server.stdout), size)
        finally:
            server.terminate()


@contextmanager
def serving_plainly(server: Served, home: Path) -> Iterator[Served]:
    """A server that gives what `server`, on this home, answers for its first version, whatever it is asked; asked alike.

    Raises:
        RuntimeError: it ended before it served; why stands on its standard error.
    """
    command: list[str | Path] = [sys.executable, "-m", "bench.plain", "--home", home]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as plain:
        try:
            _tell(plain, server.answer(server.paths(0, expand=False)[0]).told())
            yield replace(server, pid=plain.pid, port=int(_hear(plain)))
        finally:
            plain.terminate()


def _said(output: Iterable[str]) -> dict[str, str]:
    """What the server says at its start: its lines of ``NAME=value``, and as ``URL`` where it is reached.

    Raises:
        RuntimeError: it ended before it had said all of it; why stands on its standard error.
    """
    said = {}
    for line in output:
        name, _, value = line.strip().partition("=")
        said[name] = value
        if line.startswith("az cloud register"):
            said["URL"] = line.split()[-1]
        if line.startswith("az login"):
            return said
    raise RuntimeError("the server ended at its start")


def _served(pid: int, said: dict[str, str], size: ApiSize) -> Served:
    """The server that said this at its start, with the first administrator's token.

    Raises:
        RuntimeError: it gives none.
    """
    url = said["URL"]
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 0
    roots = said["REQUESTS_CA_BUNDLE"]
    form = {
        "grant_type": "client_credentials",
        "client_id": said["IMGSTORE_CLIENT_ID"],
        "client_secret": said["IMGSTORE_CLIENT_SECRET"],
        "scope": f"{url}/.default",
    }
    connection = _connected(host, port, roots)
    typed = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"/{said['IMGSTORE_TENANT_ID']}/oauth2/v2.0/token", urlencode(form), typed)
    answer = connection.getresponse().read()
    connection.close()
    token = json.loads(answer).get("access_token")
    if token is None:
        raise RuntimeError(f"expected a token, found {answer[:500]!r}")
    return Served(
        pid=pid,
        host=host,
        port=port,
        roots=roots,
        subscription=said["IMGSTORE_SUBSCRIPTION_ID"],
        token=token,
        size=size,
    )


def _connected(host: str, port: int, roots: str) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(host, port, context=ssl.create_default_context(cafile=roots))


def ask(server: Served, *, expand: bool, clients: int = CLIENTS) -> Asked:
    """All clients ask for versions at once, as fast as they are answered.

    Raises:
        RuntimeError: a client ended badly; it has said why.
    """
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.asking"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(clients)
        ]
        for number, client in enumerate(running):
            errand = Errand(
                host=server.host,
                port=server.port,
                roots=server.roots,
                token=server.token,
                paths=server.paths(number, expand=expand),
                seconds=server.size.seconds,
            )
            _tell(client, errand.told())
        ready = [_hear(client) for client in running]
        assert set(ready) == {"ready"}
        cpu_seconds = cpu_seconds_of(server.pid)
        for client in running:
            _tell(client, "go")
        taken = [json.loads(_hear(client)) for client in running]
        return Asked(
            request_seconds=tuple(seconds for each in taken for seconds in each),
            cpu_seconds=cpu_seconds_of(server.pid) - cpu_seconds,
        )


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError("a client, or the plain server, ended before it had answered")
    return line
