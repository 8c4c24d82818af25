"""Provide fixtures of the API's tests: a server, and disks behind URLs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import Api, start_api

from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_disks import make_raw


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with start_api(tmp_path / "home") as server:
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """Serve two disks at URLs."""
    pages = {}
    for seed, name in ((1, "/one.raw"), (2, "/two.raw")):
        make_raw(tmp_path / "disk.raw", seed=seed, virtual_bytes=8 * MIB, content_bytes=MIB)
        pages[name] = Page(body=(tmp_path / "disk.raw").read_bytes())
    with start_web(pages) as server:
        yield server
