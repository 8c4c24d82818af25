"""Test uploads by command line, and uploads to a server that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blob_uploads import curl, make_vhd
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB


@contextmanager
def serving(home: Path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Run ``imgstore serve`` in a process. Return the URL."""
    command = [sys.executable, "-m", "imgstore", "serve", "--port", "0", "--insecure-http", "--no-worker"]
    environment = os.environ | {"IMGSTORE_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            first = running.stdout.readline()
            match = re.search(r"serves (http://localhost:\d+)", first)
            assert match, first
            yield running, match[1]
        finally:
            running.kill()


def imgstore(home: Path, *words: Any) -> Any:
    """Run a command. Return the JSON."""
    done = CliRunner().invoke(main, list(map(str, words)), env={"IMGSTORE_HOME": str(home)})
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if done.stdout.strip() else None


def make(home: Path, vhd: Path) -> None:
    size = vhd.stat().st_size
    where = ("-g", "rg", "-n", "up", "-l", "westus2")
    made = imgstore(home, "disk", "create", *where, "--upload-type", "Upload", "--upload-size-bytes", size)
    assert made["properties"]["diskState"] == "ReadyToUpload"


def grant(home: Path, url: str, level: str) -> str:
    words = ("--access-level", level, "--duration-in-seconds", 600, "--url", url)
    return str(imgstore(home, "disk", "grant-access", "-g", "rg", "-n", "up", *words)["accessSAS"])


def received(url: str) -> int:
    return int(curl("-I", url).headers["x-imgstore-received-bytes"])


def test_upload_resumes_after_a_server_is_killed(tmp_path: Path) -> None:
    home, vhd = tmp_path / "home", make_vhd(tmp_path / "disk.vhd", disk_bytes=64 * MIB)
    make(home, vhd)
    with serving(home) as (server, url):
        signed = grant(home, url, "Write")
        with subprocess.Popen(
            ["curl", "-sS", "--limit-rate", "4M", "-T", str(vhd), signed], stderr=subprocess.DEVNULL
        ) as sender:
            until = time.monotonic() + 60
            while received(signed) < 5 * MIB:
                assert time.monotonic() < until
            server.send_signal(signal.SIGKILL)
            assert sender.wait(60) != 0
    with serving(home) as (_, url):
        signed = url + "/" + signed.split("/", 3)[3]
        there = received(signed)
        assert 5 * MIB <= there < vhd.stat().st_size
        assert curl("-T", vhd, "-C", there, signed).status == 201
        imgstore(home, "disk", "revoke-access", "-g", "rg", "-n", "up")
        assert curl("-I", signed).status == 403
        assert curl(grant(home, url, "Read")).body == vhd.read_bytes()
        imgstore(home, "disk", "revoke-access", "-g", "rg", "-n", "up")
    out = tmp_path / "out.vhd"
    imgstore(home, "disk", "export", "-g", "rg", "-n", "up", "--file", out)
    assert out.read_bytes() == vhd.read_bytes()


def test_revocation_stops_a_running_upload_and_keeps_received_bytes(tmp_path: Path) -> None:
    home, vhd = tmp_path / "home", make_vhd(tmp_path / "disk.vhd", disk_bytes=64 * MIB)
    make(home, vhd)
    with serving(home) as (_, url):
        signed = grant(home, url, "Write")
        with subprocess.Popen(
            ["curl", "-sS", "--limit-rate", "3M", "-T", str(vhd), signed], stderr=subprocess.DEVNULL
        ) as sender:
            while received(signed) < 2 * MIB:
                pass
            words = ["disk", "revoke-access", "-g", "rg", "-n", "up"]
            done = CliRunner().invoke(main, words, env={"IMGSTORE_HOME": str(home)})
            assert done.exit_code == 1, "half a file is no VHD"
            assert "footer" in done.output.lower()
            sender.terminate()
        again = grant(home, url, "Write")
        assert received(again) >= 2 * MIB
        assert curl("-T", vhd, again).status == 201
        imgstore(home, "disk", "revoke-access", "-g", "rg", "-n", "up")
        assert imgstore(home, "disk", "show", "-g", "rg", "-n", "up")["properties"]["diskState"] == "Unattached"


def test_conflicting_options_are_refused() -> None:
    for words in (
        ("--upload-type", "Upload"),
        ("--upload-size-bytes", "1024"),
        ("--upload-type", "Upload", "--upload-size-bytes", "1024", "--gallery-image-reference", "rg/g/d"),
        (),
    ):
        done = CliRunner().invoke(main, ["disk", "create", "-g", "rg", "-n", "d", *words])
        assert done.exit_code == 2, done.output
