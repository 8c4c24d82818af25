"""Proxies with a latency: toxiproxy (https://github.com/Shopify/toxiproxy) in front of an engine.

Each proxy is a TCP proxy that delays bytes for half a round trip in each direction. The time of a connection does not
grow, unlike with a real distance. A proxy can also be closed, hold all bytes, or limit the bandwidth.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from imgstore.testing.engines import S3Engine, find, run_server

_STATES: Final = frozenset({"01", "06"})
"""ESTABLISHED and TIME_WAIT in /proc/net/tcp, by the numbers of the kernel's include/net/tcp_states.h.

The states cover open connections, and connections that this machine closed in the last minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProxy:
    """A proxy in front of an engine."""

    engine: S3Engine
    """The engine at the address of the proxy, with the latency of the proxy."""
    _api: str
    _name: str

    def set_round_trip(self, seconds: float) -> None:
        """Set the round trip, in seconds, from now on."""
        for side in ("upstream", "downstream"):
            attributes = {"latency": round(seconds * 1000 / 2), "jitter": 0}
            _ask(f"{self._api}/proxies/{self._name}/toxics/{side}", {"attributes": attributes})

    def set_enabled(self, *, enabled: bool) -> None:
        """Accept connections, or refuse new connections and end open connections."""
        _ask(f"{self._api}/proxies/{self._name}", {"enabled": enabled})

    def hold(self) -> None:
        """Accept connections and answer none: every byte stops on the way, until `release`."""
        self.add_toxic("held", "timeout", timeout=0)

    def release(self) -> None:
        """End `hold`. Held bytes are lost, and the connections end."""
        self.remove_toxic("held")

    def set_bandwidth(self, bytes_per_second: int) -> None:
        """Limit the bandwidth of each connection, in each direction, from now on."""
        self.add_toxic("narrow", "bandwidth", rate=max(1, bytes_per_second // 1000))

    def add_toxic(self, name: str, kind: str, **attributes: int) -> None:
        """Disturb both directions from now on, until `remove_toxic`.

        Args:
            name: the name of the disturbance, unique for this proxy.
            kind: the type of the toxic: https://github.com/Shopify/toxiproxy#toxics.
            attributes: the numbers of the toxic.
        """
        for side in ("upstream", "downstream"):
            toxic = {"name": f"{name}-{side}", "type": kind, "stream": side, "attributes": attributes}
            _ask(f"{self._api}/proxies/{self._name}/toxics", toxic)

    def remove_toxic(self, name: str) -> None:
        """End a disturbance of `add_toxic`."""
        for side in ("upstream", "downstream"):
            _remove(f"{self._api}/proxies/{self._name}/toxics/{name}-{side}")

    def connections(self) -> int:
        """Return the number of connections to the proxy in the last minute, an upper bound for kept connections."""
        port = urlsplit(self.engine.endpoint).port or 0
        ending = f":{port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2].endswith(ending) and row[3] in _STATES for row in rows)


class LatencyProxies:
    """The proxies of a toxiproxy process."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._count = 0

    def to(self, engine: S3Engine, round_trip_seconds: float = 0.0) -> LatencyProxy:
        """Make a new proxy of an engine."""
        name = f"way-{self._count}"
        self._count += 1
        told = {"name": name, "listen": "127.0.0.1:0", "upstream": urlsplit(engine.endpoint).netloc, "enabled": True}
        made = _ask(f"{self._api}/proxies", told)
        for side in ("upstream", "downstream"):
            toxic = {"name": side, "type": "latency", "stream": side, "attributes": {"latency": 0, "jitter": 0}}
            _ask(f"{self._api}/proxies/{name}/toxics", toxic)
        way = LatencyProxy(engine=replace(engine, endpoint=f"http://{made['listen']}"), _api=self._api, _name=name)
        way.set_round_trip(round_trip_seconds)
        return way


@contextmanager
def start_toxiproxy(folder: Path) -> Iterator[LatencyProxies]:
    """Run a toxiproxy process with its log in `folder`, until the block ends.

    Raises:
        EngineMissing: the program is missing, and Go is missing for a build.
    """
    found = find("toxiproxy")
    with run_server(found, folder, lambda port: ("-host", "127.0.0.1", "-port", str(port)), ready="/version") as api:
        yield LatencyProxies(api)


def _ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own process on loopback
        told: dict[str, Any] = json.loads(answer.read())
    return told


def _remove(url: str) -> None:
    request = urllib.request.Request(url, method="DELETE")  # noqa: S310 - our own process on loopback
    with urllib.request.urlopen(request, timeout=5):  # noqa: S310
        pass
