"""Serving: what the API answers in a second, how long it takes, what that takes of the server, and the limit of it all.

The limit is a server without an application, asked by the same clients in the same rounds.
"""

import shutil

from bench.api import ApiSize, Asked, ask, serving, serving_plainly
from bench.catalog import percentile
from bench.measuring import Case, Found, Samples, World, in_turn
from bench.results import Door, Goal, Unit

ANSWERS_PER_SECOND_MIN = 400
P99_SECONDS_MAX = 0.1


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
)
