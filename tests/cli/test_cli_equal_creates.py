"""Two equal creates at once, as processes: the second follows the first, and takes over if the first ends early."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.storage.sizes import MIB
from tests.support.crash_scenes import CrashScene
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import audit, audit_served, show

HELD_AT = 8 * MIB
"""The requests for this offset of the source wait."""
FOLLOWS = "another process does this work"
SECONDS_MAX = 120.0
"""The limit for an event that follows at once, on a machine under load."""
VERSION = "sig image-version {} -g rg -r g1 -i ubuntu -e 1.0.0"


class Command:
    """A running ``imgstore``, with the lines of its standard error."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._out = ""
        self._readers = [threading.Thread(target=each, daemon=True) for each in (self._read_lines, self._read_out)]
        for each in self._readers:
            each.start()

    def wait_for(self, text: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: any(text in each for each in self.lines), SECONDS_MAX), self.lines

    def end(self) -> int:
        code = self.process.wait(SECONDS_MAX)
        for each in self._readers:
            each.join()
        return code

    def result(self) -> Any:
        assert self.end() == 0, self.lines
        return json.loads(self._out)

    @property
    def error(self) -> str:
        return "".join(self.lines)

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self._out = stream.read()

    def _read_lines(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()


class Place:
    """A home with a gallery, and a source on a web server with a request that waits."""

    def __init__(self, scene: CrashScene, web: WebServer, raw: Path, stack: ExitStack) -> None:
        self.scene, self.web, self.raw = scene, web, raw
        self.url = web.url("/os.raw")
        self._stack = stack
        settings = scene.settings
        self._environ = {
            "PATH": os.environ["PATH"],
            "IMGSTORE_HOME": str(scene.folder / "home"),
            "IMGSTORE_ALLOW_PRIVATE_SOURCES": "1",
            **settings.get("environ", {}),
            **({"IMGSTORE_REGIONS": settings["regions"]} if "regions" in settings else {}),
            **({"IMGSTORE_DATABASE": settings["database"]} if "database" in settings else {}),
        }

    @property
    def page(self) -> Page:
        return self.web.pages["/os.raw"]

    def start(self, line: str) -> Command:
        process = subprocess.Popen(
            [sys.executable, "-m", "imgstore", *line.split(), "-o", "json"],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.kill)
        return Command(process)

    def create(self) -> Command:
        return self.start(f"{VERSION.format('create')} --os-vhd-uri {self.url} --location southcentralus")

    def hold(self) -> None:
        self.page.held_at = range(HELD_AT, HELD_AT + 1)

    def let_go(self) -> None:
        self.page.held_at = range(0)

    def start_held(self, start: Callable[[], Command]) -> Command:
        """Start the first command, and wait until its request waits."""
        self.hold()
        first = start()
        assert self.page.held.acquire(timeout=SECONDS_MAX), first.lines
        return first

    def is_idle(self) -> bool:
        """Return whether `show` says that no process works on the version."""
        with self.scene.open() as installation:
            return show(installation).is_idle

    def check(self) -> None:
        with self.scene.open() as installation:
            audit(installation, struck=True)
            audit_served(installation, {"1.0.0": self.raw}, self.scene.folder)


@contextmanager
def place_at(scene: CrashScene) -> Iterator[Place]:
    scene.prepare()
    raw = make_raw(scene.folder / "os.raw", seed=1, virtual_bytes=16 * MIB, content_bytes=9 * MIB)
    with start_web({"/os.raw": Page(body=raw.read_bytes())}) as web, ExitStack() as stack:
        yield Place(scene, web, raw, stack)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_at(CrashScene(folder=tmp_path)) as made:
        yield made


def test_the_second_create_follows_the_first(place: Place) -> None:
    first = place.start_held(place.create)
    second = place.create()
    second.wait_for(FOLLOWS)
    second.wait_for("southcentralus/0: 1")  # the size, and later the bytes done
    place.let_go()
    assert first.result() == second.result()
    assert "completed" in second.error
    place.check()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_second_create_takes_over_from_a_process_that_ends(place: Place, number: signal.Signals) -> None:
    first = place.start_held(place.create)
    second = place.create()
    second.wait_for(FOLLOWS)
    first.process.send_signal(number)
    place.let_go()
    assert second.result()["properties"]["provisioningState"] == "Succeeded"
    assert first.end() == (130 if number == signal.SIGINT else -number)
    place.check()


def test_the_second_create_returns_the_error_of_the_first(place: Place) -> None:
    first = place.start_held(place.create)
    second = place.create()
    second.wait_for(FOLLOWS)
    place.page.headers = {"ETag": '"2"'}
    place.let_go()
    assert (first.end(), second.end()) == (1, 1)
    assert "was replaced during the read" in first.error
    assert "was replaced during the read" in second.error


def test_show_says_that_no_process_works_on_the_version(place: Place) -> None:
    first = place.start_held(place.create)
    assert not place.is_idle(), "a process works on the version"
    first.process.send_signal(signal.SIGINT)
    place.let_go()
    first.end()
    told = place.start(f"{VERSION.format('show')} --expand ReplicationStatus")
    properties = told.result()["properties"]
    assert properties["provisioningState"] == "Creating"
    assert "No process works on this image version" in properties["provisioningStateDetails"]
    assert "repeat the same create" in told.error
    assert "no process works on this replica" in properties["replicationStatus"]["summary"][0]["details"]
    second = place.start_held(place.create)
    assert not place.is_idle()
    second.process.kill()
    second.end()
    assert place.is_idle(), "the holder of the lease is dead"


def test_equal_creates_of_images(place: Place) -> None:
    line = f"image create -g rg -n x -l southcentralus --source {place.url}"
    first = place.start_held(lambda: place.start(line))
    second = place.start(line)
    second.wait_for(FOLLOWS)
    second.wait_for("managed image x: ")
    place.let_go()
    assert first.result() == second.result()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_creates_that_begin_at_the_same_moment(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    settings = {"database": request.getfixturevalue("postgresql")} if database == "postgresql" else {}
    with place_at(CrashScene(folder=tmp_path, settings=settings)) as place:
        commands = [place.create() for _ in range(2)]
        results = [each.result() for each in commands]
        assert results[0] == results[1]
        if database == "postgresql":
            disks = [place.start(f"snapshot create -g rg -n x -l southcentralus --source {place.raw}") for _ in "12"]
            assert len({each.result()["properties"]["uniqueId"] for each in disks}) == 1
        place.check()
