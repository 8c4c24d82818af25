"""Serving: what the API answers in a second, how long it takes, and what that takes of the server."""

import shutil

from bench.api import ApiSize, Asked, ask, serving
from bench.catalog import percentile
from bench.measuring import Case, Found, Samples, World
from bench.results import Door, Goal, Unit

ANSWERS_PER_SECOND_MIN = 400
P99_SECONDS_MAX = 0.1


def measure_api(world: World) -> Found:
    """GET of a version over TLS with a token, by eight clients at once: as it is, and with its replication status."""
    samples = world.samples()
    size = world.sized(ApiSize(), ApiSize(versions=200, seconds=1))
    for number in range(world.rounds):
        home = world.scratch / f"api{number}"
        with serving(home, size) as server:
            for name, expand in (("version", False), ("expanded", True)):
                samples.settle()
                _add(samples, name, ask(server, expand=expand), size)
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
    answers = len(asked.request_seconds)
    samples.add(f"{name}_per_second", answers / size.seconds, Unit.PER_SECOND, Door.API, "answers to all clients")
    for part in (50, 99):
        seconds = percentile(part, asked.request_seconds)
        samples.add(f"{name}_p{part}_seconds", seconds, Unit.SECONDS, Door.API, "as a client waits for an answer")
    said = "processor time of the server for 1,000 answers"
    samples.add(f"{name}_thousand_cpu_seconds", asked.cpu_seconds / answers * 1_000, Unit.SECONDS, Door.API, said)


CASES = (
    Case(
        name="api",
        title="imgstore serve over TLS on SQLite at 5,000 versions: GET of a version by 8 clients",
        measure=measure_api,
        packages=("fastapi", "starlette", "uvicorn", "SQLAlchemy"),
        regions=1,
    ),
)
