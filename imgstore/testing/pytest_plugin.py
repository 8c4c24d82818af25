"""The pytest plugin: fixtures of real engines, the mark ``engine(name)``, and a table of the engines that really ran.

Loaded by ``-p imgstore.testing.pytest_plugin`` in pyproject.toml. An engine starts with the first test that needs the
engine, and ends with the run. SeaweedFS takes seconds to start, so SeaweedFS starts after the collection of the tests.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from imgstore.testing import engines
from imgstore.testing.engines import EngineMissing, PgBouncer, PostgreSQL, S3Engine
from imgstore.testing.latency_proxy import LatencyProxies, start_toxiproxy

pytest.register_assert_rewrite("imgstore.testing.store_contract")

_BY_FIXTURE: Final = {
    "minio": "minio",
    "minio_cluster": "minio",
    "seaweedfs": "seaweedfs",
    "moto_s3": "moto",
    "postgresql": "postgresql",
    "postgresql_server": "postgresql",
    "pgbouncer": "pgbouncer",
    "latency_proxies": "toxiproxy",
}
"""The engine of each fixture, so that a test needs no mark."""

_PROCESSES_MAX: Final = 4
"""Each process starts engines of its own."""

_STACK: Final = pytest.StashKey[ExitStack]()
_WEED: Final = pytest.StashKey[Callable[[], S3Engine]]()
_RAN: Final = pytest.StashKey[Counter[str]]()
_SKIPPED: Final = pytest.StashKey[Counter[str]]()
_PROPERTY: Final = "engine"


# -- fixtures ---------------------------------------------------------------------------------------------------------


def require(name: str) -> engines.Found:
    """Skip the calling test without the engine `name`, or fail the test if the engine is required."""
    try:
        return engines.find(name)
    except engines.EngineMissing as missing:
        if name in engines.required_engines():
            pytest.fail(f"engine {name} is required (IMGSTORE_REQUIRE_ENGINES): {missing}", pytrace=False)
        pytest.skip(f"engine {name}: {missing}")


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Engine]:
    """A real MinIO for the whole run. Take a bucket of your own: ``minio.make_bucket(name)``."""
    require("minio")
    with engines.use_minio(tmp_path_factory.mktemp("minio")) as engine:
        yield engine


@pytest.fixture(scope="session")
def minio_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], tuple[S3Engine, ...]]]:
    """``minio_cluster(n)``: the first n of a row of independent MinIO processes, started when needed."""
    require("minio")
    try:
        engines.find_minio_program()
    except EngineMissing as missing:
        pytest.skip(f"engine minio, several processes: {missing}")
    started: list[S3Engine] = []
    with ExitStack() as stack:

        def first(count: int) -> tuple[S3Engine, ...]:
            while len(started) < count:
                folder = tmp_path_factory.mktemp("minio-region")
                started.append(stack.enter_context(engines.start_minio(folder)))
            return tuple(started[:count])

        yield first


@pytest.fixture(scope="session")
def latency_proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatencyProxies]:
    """``latency_proxies.to(engine, seconds)``: the same engine with a round trip of so many seconds."""
    require("toxiproxy")
    with start_toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as started:
        yield started


@pytest.fixture(scope="session")
def seaweedfs(pytestconfig: pytest.Config) -> S3Engine:
    """A real SeaweedFS for the whole run."""
    require("seaweedfs")
    return _start_seaweedfs(pytestconfig)()


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[S3Engine]:
    """Moto's S3 for the whole run."""
    require("moto")
    with engines.start_moto() as engine:
        yield engine


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A real PostgreSQL for the whole run; ``with postgresql_server.database() as url`` gives an empty database."""
    require("postgresql")
    with engines.start_postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: PostgreSQL) -> Iterator[str]:
    """The URL of an empty PostgreSQL database for this test."""
    with postgresql_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer(postgresql_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    """A real PgBouncer in transaction mode for the whole run; ``pgbouncer.url(postgresql)`` is an address through it."""
    require("pgbouncer")
    with engines.start_pgbouncer(tmp_path_factory.mktemp("pgbouncer"), postgresql_server) as pooler:
        yield pooler


def _start_seaweedfs(config: pytest.Config) -> Callable[[], S3Engine]:
    """Start SeaweedFS once. The returned function waits until SeaweedFS is ready."""
    if _WEED not in config.stash:
        import tempfile  # noqa: PLC0415 - before any test, so before tmp_path_factory

        stack = config.stash[_STACK]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="imgstore-seaweedfs-"))
        config.stash[_WEED] = stack.enter_context(engines.start_seaweedfs(Path(folder)))
    return config.stash[_WEED]


# -- hooks ------------------------------------------------------------------------------------------------------------


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Run whole folders in two to four processes, where xdist is installed. Single files run in one process.

    There is a process more than processors, because many tests wait for a server or another process.
    """
    # A thousand processes of the tests would compile all modules again, and each run would rewrite all assertions again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    named = early_config.known_args_namespace
    chosen = getattr(named, "numprocesses", None) is not None or getattr(named, "usepdb", False)
    if chosen or "PYTEST_XDIST_WORKER" in os.environ or not early_config.pluginmanager.hasplugin("xdist"):
        return
    files = [word for word in named.file_or_dir if word.partition("::")[0].endswith(".py")]
    if not files and not named.collectonly:
        processes = min(len(os.sched_getaffinity(0)) + 1, _PROCESSES_MAX)
        args[:] = ["-n", str(processes), "--dist", "worksteal", *args]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt `IMGSTORE_REQUIRE_ENGINES` before anything runs."""
    config.stash[_STACK] = ExitStack()
    config.stash[_RAN] = Counter()
    config.stash[_SKIPPED] = Counter()
    _reporter.config = config
    try:
        engines.required_engines()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build missing engines, and start SeaweedFS, before the first test: a test's time limit is for the test alone."""
    if session.config.option.collectonly:
        return
    needed = {name for item in session.items for name in _engines_of(item)}
    for name in sorted(needed):
        with suppress(EngineMissing):  # each test that needs the engine reports the reason
            engines.find(name)
    if "seaweedfs" in needed:
        with suppress(EngineMissing):
            _start_seaweedfs(session.config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run a test only if all engines of the test are present."""
    for name in _engines_of(item):
        item.user_properties.append((_PROPERTY, name))
    for name in _engines_of(item):
        require(name)


def _engines_of(item: pytest.Item) -> list[str]:
    marked = [str(mark.args[0]) for mark in item.iter_markers("engine")]
    by_fixture = [_BY_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in _BY_FIXTURE]
    return sorted({*marked, *by_fixture})


class _Reporter:
    """The configuration, which `pytest_runtest_logreport` does not receive."""

    config: pytest.Config


_reporter: Final = _Reporter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests that ran and the skipped tests of each engine."""
    names = [str(value) for key, value in report.user_properties if key == _PROPERTY]
    if report.skipped:
        _reporter.config.stash[_SKIPPED].update(names)
    elif report.when == "call":
        _reporter.config.stash[_RAN].update(names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End the run with the table."""
    ran, skipped = config.stash[_RAN], config.stash[_SKIPPED]
    asked = [name for name in engines.ENGINES if ran[name] or skipped[name]]
    if not asked:
        return
    terminalreporter.section("engines")
    for name in asked:
        terminalreporter.write_line(_line(name, ran=ran[name], skipped=skipped[name]))


def _line(name: str, *, ran: int, skipped: int) -> str:
    try:
        found = engines.find(name)
    except EngineMissing as missing:
        return f"{name:<11} SKIPPED {skipped} tests: {missing}"
    tail = f", {skipped} skipped" if skipped else ""
    return f"{name:<11} {ran} tests{tail}: {found.version} ({found.how})"


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the engines."""
    config.stash[_STACK].close()
