"""A restore drill: a running server, a client in the middle of an upload, a lost home, and the same client afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remote_server import Machine, serving

from imgstore.domain.storage.sizes import MIB
from imgstore.testing.engines import PostgreSQL, S3Engine
from tests.support.catalog_tables import read_tables

REGIONS = """
currency: USD
regions:
  here: {bucket: drill, policy: LRS, storage_account_types: [Standard_LRS], zones: {"1": {endpoint: "ENDPOINT"}}}
prices:
  egress_per_gb: {default: "0.02"}
  storage_per_gb_month: {Standard_LRS: "0.05"}
"""
PIECES = 16
VOLATILE = {"activity", "workers", "maintenance_turns", "zone_health"}
"""The tables that a server changes without a request."""


def noise(path: Path, pieces: int) -> Path:
    path.write_bytes(os.urandom(pieces * 4 * MIB))
    return path


def run_locally(*words: str, home: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "imgstore", *words, "--home", str(home)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stop_during_upload(machine: Machine, *words: str) -> "subprocess.Popen[str]":
    """Stop a client with SIGSTOP after the first ranges arrived."""
    running = machine.start(*words)
    until = time.monotonic() + 120
    # Two records, which are quicker to see than the metrics of the server.
    while not any(each.stat().st_size >= 24 + 2 * 32 for each in machine.server_home.glob("uploads/*/journal")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
    running.send_signal(signal.SIGSTOP)
    return running


@pytest.mark.parametrize(
    "engine",
    [
        "sqlite",
        pytest.param(
            "postgresql", marks=[pytest.mark.long, pytest.mark.engine("postgresql"), pytest.mark.engine("minio")]
        ),
    ],
)
def test_a_restore_drill(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back up a home with a running server and a client in the middle of an upload, and lose the home."""
    region, words, restored_words = "southcentralus", list[str](), list[str]()
    urls = [f"sqlite:///{tmp_path}/one/server/catalog.sqlite", f"sqlite:///{tmp_path}/two/server/catalog.sqlite"]
    if engine == "postgresql":
        minio: S3Engine = request.getfixturevalue("minio")
        server: PostgreSQL = request.getfixturevalue("postgresql_server")
        region, regions = "here", tmp_path / "regions.yaml"
        regions.write_text(REGIONS.replace("ENDPOINT", minio.endpoint))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
        stack = [server.database(), server.database()]
        urls = [each.__enter__() for each in stack]
        request.addfinalizer(lambda: [each.__exit__(None, None, None) for each in stack])
        words = ["--database", urls[0], "--regions", str(regions)]
        restored_words = ["--database", urls[1], "--regions", str(tmp_path / "two" / "server" / "regions.yaml")]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    homes = [tmp_path / "one" / "server", tmp_path / "two" / "server"]
    big = ("disk", "create", "-g", "rg", "-n", "big", "-l", region, "--source", "big.raw")
    if engine == "postgresql":
        run_locally("regions", "init", *words, home=homes[0])
    with serving(tmp_path / "one", *words) as first:
        small = noise(first.folder / "small.raw", 1)
        first.ok("disk", "create", "-g", "rg", "-n", "small", "-l", region, "--source", "small.raw")
        noise(first.folder / "big.raw", PIECES)
        client = stop_during_upload(first, *big)
        made = run_locally("catalog", "backup", str(tmp_path / "b.tar"), *words, home=homes[0])
        assert (made["engine"], made["unfinishedUploads"]) == (engine, 1)
        client.kill()
        client.communicate()
    expected = read_tables(urls[0])
    authority = (homes[0] / "tls" / "ca.pem").read_bytes()
    homes[1].mkdir()
    if engine == "sqlite":
        (homes[0] / "regions").rename(homes[1] / "regions")
    shutil.rmtree(homes[0])
    back = run_locally("catalog", "restore", str(tmp_path / "b.tar"), *restored_words[:2], home=homes[1])
    assert (back["newerBuckets"], back["problem"]) == (None, None)
    found = read_tables(urls[1])
    assert {name: rows for name, rows in found.items() if name not in VOLATILE} == {
        name: rows for name, rows in expected.items() if name not in VOLATILE
    }
    assert (homes[1] / "tls" / "ca.pem").read_bytes() == authority
    with serving(tmp_path / "two", *restored_words) as second:
        # The secret of the first start is still valid.
        machine = replace(
            first,
            url=second.url,
            settings={**first.settings, "REQUESTS_CA_BUNDLE": second.settings["REQUESTS_CA_BUNDLE"]},
        )
        machine.ok(*big)
        assert 0 < machine.puts() < PIECES + 1, "only missing ranges are sent"
        for name, source in (("big", first.folder / "big.raw"), ("small", small)):
            machine.ok("disk", "export", "-g", "rg", "-n", name, "--file", f"{name}-back.raw")
            assert (first.folder / f"{name}-back.raw").read_bytes() == source.read_bytes()
