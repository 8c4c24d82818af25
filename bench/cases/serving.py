"""Serving: what the API answers in a second, how long it takes, what that takes of the server, and the limit of it all.

The limit is a server without an application, asked by the same clients in the same rounds.
"""

import shutil
import time
from collections.abc import Sequence
from itertools import cycle

from bench.api import ApiSize, Asked, Served, ask, serving, serving_plainly
from bench.catalog import percentile
from bench.half_open import half_open
from bench.measuring import Case, Found, Samples, World, in_turn
from bench.results import Door, Goal, Unit

ANSWERS_PER_SECOND_MIN = 400
P99_SECONDS_MAX = 0.1
HALF_OPEN_CONNECTIONS = 2_000
P99_BESIDE_STRANGERS_SECONDS_MAX = 1.0
LOG_BYTES_PER_MINUTE_MAX = 1_000_000


def measure_api(world: World) -> Found:
    """GET of a version over TLS with a token, by eight clients at once: as it is, and with its replication status."""
    samples = world.samples()
    size = world.sized(ApiSize(), ApiSize(versions=200, seconds=1))
    for number in range(world.rounds):
        home = world.scratch / f"api{number}"
        with serving(home, size) as server, serving_plainly(server, home) as plain:
            asked = {"version": (server, False), "expanded": (server, True), "plain": (plain, False)}
            for name in in_turn([*asked], number):
                who, expand = asked[name]
                samples.settle()
                _add(samples, name, ask(who, expand=expand), size)
            said = "greatest resident memory of the server"
            samples.add("server_peak_bytes", server.peak_bytes(), Unit.BYTES, Door.API, said)
        shutil.rmtree(home)
    figures = samples.figures()
    goals = [
        Goal.of("version_per_second", figures, at_least=ANSWERS_PER_SECOND_MIN),
        Goal.of("version_p99_seconds", figures, at_most=P99_SECONDS_MAX),
    ]
    return Found(figures=figures, goals=goals)


def measure_strangers(world: World) -> Found:
    """GET of a version by one client, on a new connection each, while strangers hold 2,000 half-open connections."""
    samples = world.samples()
    size = world.sized(ApiSize(versions=200, seconds=30), ApiSize(versions=20, seconds=1))
    connections = world.sized(HALF_OPEN_CONNECTIONS, 100)
    for number in range(world.rounds):
        home, log = world.scratch / f"strangers{number}", world.scratch / f"strangers{number}.log"
        with serving(home, size, log) as server:
            samples.settle()
            _add_waits(samples, "alone", _ask_anew(server))
            with half_open(server.port, connections):
                before = log.stat().st_size
                _add_waits(samples, "beside_strangers", _ask_anew(server))
                logged = (log.stat().st_size - before) * 60 / size.seconds
                held = _open_connections(server)
        samples.add("log_bytes_per_minute", logged, Unit.BYTES, Door.API, "grown by the server's log meanwhile")
        said = "open at the server at the end, the client's own among them"
        samples.add("open_connections", held, Unit.REQUESTS, Door.API, said)
        shutil.rmtree(home)
        log.unlink()
    figures = samples.figures()
    goals = [
        Goal.of("beside_strangers_p99_seconds", figures, at_most=P99_BESIDE_STRANGERS_SECONDS_MAX),
        Goal.of("log_bytes_per_minute", figures, at_most=LOG_BYTES_PER_MINUTE_MAX),
    ]
    return Found(figures=figures, goals=goals)


def _ask_anew(server: Served) -> list[float]:
    """The seconds of each GET until the time is over, the connection and its handshake among them."""
    taken: list[float] = []
    paths = cycle(server.paths(0, expand=False))
    ends_at = time.perf_counter() + server.size.seconds
    while (began := time.perf_counter()) < ends_at:
        assert server.answer(next(paths)).status == 200
        taken.append(time.perf_counter() - began)
    return taken


def _add_waits(samples: Samples, name: str, seconds: Sequence[float]) -> None:
    for part in (50, 99):
        said = "a new connection, its TLS handshake and a GET"
        samples.add(f"{name}_p{part}_seconds", percentile(part, seconds), Unit.SECONDS, Door.API, said)


def _open_connections(server: Served) -> float:
    lines = server.answer("/metrics").body.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("imgstore_http_connections "))


def _add(samples: Samples, name: str, asked: Asked, size: ApiSize) -> None:
    door, by = (Door.PEER, _SAID_OF_PLAIN) if name == "plain" else (Door.API, "")
    answers = len(asked.request_seconds)
    samples.add(f"{name}_per_second", answers / size.seconds, Unit.PER_SECOND, door, f"answers to all clients{by}")
    for part in (50, 99):
        seconds = percentile(part, asked.request_seconds)
        said = f"as a client waits for an answer{by}"
        samples.add(f"{name}_p{part}_seconds", seconds, Unit.SECONDS, door, said)
    said = f"processor time of the server for 1,000 answers{by}"
    samples.add(f"{name}_thousand_cpu_seconds", asked.cpu_seconds / answers * 1_000, Unit.SECONDS, door, said)


_SAID_OF_PLAIN = (
    ", by a server without an application: uvicorn and TLS as imgstore sets them up, and for every GET the bytes that "
    "imgstore answered for one version"
)


CASES = (
    Case(
        name="api",
        title="imgstore serve over TLS on SQLite at 5,000 versions: GET of a version by 8 clients",
        measure=measure_api,
        packages=("fastapi", "starlette", "uvicorn", "SQLAlchemy"),
        regions=1,
    ),
    Case(
        name="strangers",
        title="GET of a version over TLS while strangers hold 2,000 half-open connections",
        measure=measure_strangers,
        packages=("fastapi", "starlette", "uvicorn", "SQLAlchemy"),
        regions=1,
    ),
)
