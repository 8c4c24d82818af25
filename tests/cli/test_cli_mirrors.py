"""A source behind a redirector, at the terminal: each request is led to another mirror (invariant U8)."""

import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, WebServer, start_web

BODY = random.Random(1).randbytes(24 * MIB)
MIRRORS = ("/one/disk.raw", "/two/disk.raw")
CREATE = "sig image-version create -g rg -r g -i d -e 1.0.0 --location eastus -o none --os-vhd-uri "


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A redirector with two mirrors. The middle of the first mirror's file is held back."""
    pages = {path: Page(body=BODY, headers={"ETag": f'"{path}"'}) for path in MIRRORS}
    pages[MIRRORS[0]].held_at = range(8 * MIB, 16 * MIB)
    with start_web({"/latest": Page(redirects=list(islice(cycle(MIRRORS), 1_000)))} | pages) as server:
        yield server


def run(environ: dict[str, str], line: str) -> None:
    done = CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=environ)
    assert done.exit_code == 0, done.output


def test_a_killed_create_resumes_from_another_mirror(tmp_path: Path, web: WebServer) -> None:
    """The identity of the source is the URL of the redirector. The file is read again, and its content is complete."""
    environ = {"IMGSTORE_HOME": str(tmp_path / "home"), "IMGSTORE_ALLOW_PRIVATE_SOURCES": "1"}
    (tmp_path / "disk.raw").write_bytes(BODY)
    run(environ, "sig create -g rg -r g --location eastus")
    run(environ, "sig image-definition create -g rg -r g -i d -p p -f o -s s --os-type Linux --os-state Generalized")
    command = [sys.executable, "-m", "imgstore", *shlex.split(CREATE + web.url("/latest"))]
    with subprocess.Popen(command, env=os.environ | environ, stderr=subprocess.DEVNULL) as first:
        assert web.pages[MIRRORS[0]].held.acquire(timeout=60)
        first.kill()
    assert [path for path, *_ in web.requests].count("/latest") == 1
    web.pages[MIRRORS[0]].held_at = range(0)
    del web.pages[MIRRORS[0]]
    run(environ, CREATE + web.url("/latest"))
    run(environ, f"verify --file {tmp_path / 'disk.raw'} --image rg/g/d/1.0.0")
