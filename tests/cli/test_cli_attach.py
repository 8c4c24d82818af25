"""Tests of `imgstore disk attach`: real clients, the ends of the command, and lines that are refused."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from imgstore.cli.commands.machines.disk_attach import AttachTarget, attach, serve_device
from imgstore.domain.errors import InvalidInput, LeaseLost
from imgstore.domain.names import ImageReference
from imgstore.operations.disks.lazy import open_lazy_image
from imgstore.operations.installation import Installation
from imgstore.testing.pytest_plugin import require
from imgstore.wire.boot_trace import parse_trace
from tests.nbd.memory_disk import MemoryDisk
from tests.support.attached_disk import start_attach
from tests.support.mounted_folder import mount_small
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, SampleImages, make_disk
from tests.support.terminal import Terminal, enter_folder

pytest_plugins = ["tests.support.published_gallery"]

IMAGE = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"


@pytest.mark.engine("nbdcopy")
def test_an_image_is_served_until_sigterm(published: Installation, samples: SampleImages, tmp_path: Path) -> None:
    require("nbdcopy")
    require("qemu-io")
    socket = tmp_path / "image.sock"
    with start_attach(published.home, "--gallery-image-reference", IMAGE, "--socket", str(socket)) as (running, shown):
        assert shown["uri"] == f"nbd+unix:///?socket={socket}"
        assert shown["readOnly"] is True
        assert shown["virtualBytes"] == samples.first.stat().st_size
        subprocess.run(["nbdcopy", shown["uri"], str(tmp_path / "copy.raw")], check=True, timeout=60)
        compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", shown["uri"], str(samples.first)]
        subprocess.run(compare, check=True, timeout=60)
        subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read 0 64k", shown["uri"]], check=True, timeout=60)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0
        assert running.stderr is not None
        said = running.stderr.read()
        assert "The server ends." in said
        assert "bytes were read from the stores" in said
        assert "WARNING" not in said
    assert (tmp_path / "copy.raw").read_bytes() == samples.first.read_bytes()
    assert not socket.exists()


@pytest.mark.engine("nbdcopy")
def test_the_command_ends_when_the_last_client_leaves(published: Installation, tmp_path: Path) -> None:
    require("nbdcopy")
    make_disk(published, "d1", "eastus")
    line = ["-g", GROUP, "-n", "d1", "--socket", str(tmp_path / "d1.sock"), "--once"]
    with start_attach(published.home, *line) as (running, shown):
        subprocess.run(["nbdinfo", shown["uri"]], check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert running.wait(timeout=60) == 0


@pytest.mark.engine("qemu-io")
def test_a_full_disk_under_the_cache_is_reported_and_reads_continue(
    published: Installation, samples: SampleImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("qemu-io")
    with mount_small(tmp_path / "small", "2m") as folder:
        monkeypatch.setenv("IMGSTORE_CACHE_DIR", str(folder / "cache"))
        words = ["--gallery-image-reference", IMAGE, "--socket", str(tmp_path / "s")]
        with start_attach(published.home, *words) as (running, shown):
            read_all = ["qemu-img", "compare", "-f", "raw", "-F", "raw", shown["uri"], str(samples.first)]
            subprocess.run(read_all, check=True, timeout=60)
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=60) == 0
            assert running.stderr is not None
            said = running.stderr.read()
    assert f"the segment cache in {folder / 'cache'} is not used" in said
    with open_lazy_image(published, ADMIN, reference=ImageReference.parse(IMAGE)) as opened:
        stored_bytes = sum(opened.reads.stored_bytes.values())
    fetched = re.search(r"(\d+) bytes were read from the stores", said)
    assert fetched is not None
    assert int(fetched[1]) < 2 * stored_bytes, "the segments in use are in memory"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--socket s", "Name a disk with -g and -n, or an image"),
        (f"-g rg -n d1 --gallery-image-reference {IMAGE} --socket s", "Name a disk with -g and -n, or an image"),
        ("-g rg -n d1", "Give --socket or --listen"),
        ("-g rg -n d1 --listen 127.0.0.1:0", "--listen and --tls-certificates go together"),
        ("-g rg -n d1 --socket s --tls-certificates .", "--listen and --tls-certificates go together"),
        ("-g rg -n d1 --listen 127.0.0.1 --tls-certificates .", "is no HOST:PORT"),
    ],
)
def test_a_line_that_is_refused(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_folder(tmp_path, monkeypatch)
    assert message in Terminal(tmp_path).fails(f"disk attach {words}", 2)


def test_a_lost_lease_ends_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invariant W9."""
    lost = LeaseLost("This process was too slow.", found="no renewal", expected="a renewal", hint="repeat the command")

    def check() -> None:
        raise lost

    target = AttachTarget(socket=tmp_path / "s", host="", port=0, certificates=None, once=False)
    disk = MemoryDisk(virtual_bytes=4096)
    with click.Context(attach), pytest.raises(LeaseLost):
        serve_device(disk, target, {"source": "d1"}, check=check, warn=lambda _text: None, note=lambda _text: None)
    assert "nbd+unix" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()
    assert disk.flushes == 1


@pytest.mark.engine("nbdcopy")
def test_a_trace_makes_a_boot_pack_that_the_next_boot_reads(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """Invariant D18."""
    require("qemu-io")
    socket, file = tmp_path / "trace.sock", tmp_path / "boot.json"
    line = ["disk", "trace", "--gallery-image-reference", IMAGE, "--socket", str(socket), "--trace-file", str(file)]
    words = [sys.executable, "-m", "imgstore", *line, "--home", str(published.home)]
    boot = ["-c", "read 9M 300k", "-c", "read 4M 2M", "-c", "read 9M 4k"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert f"clients can connect to nbd+unix:///?socket={socket}" in running.stderr.readline()
        subprocess.run(["qemu-io", "-r", "-f", "raw", *boot, f"nbd+unix:///?socket={socket}"], check=True, timeout=60)
        shown, _ = running.communicate(timeout=60)
    reports = json.loads(shown)
    assert [each["problem"] for each in reports] == [None] * 4
    runs = json.loads(file.read_text())["runs"]
    content = samples.first.read_bytes()
    reads = [*range(9 << 20, (9 << 20) + (300 << 10), 4096), *range(4 << 20, 6 << 20, 4096)]
    blocks = [at // 4096 for at in reads if any(content[at : at + 4096])]
    assert len(blocks) > 200
    assert [block for first, count in runs for block in range(first, first + count)] == blocks
    again = Terminal(tmp_path).ok(f"disk trace --gallery-image-reference {IMAGE} --from-file {file}")
    assert again == reports
    published.host_cache.open().clear()
    with start_attach(published.home, "--gallery-image-reference", IMAGE, "--socket", str(socket)) as (running, uri):
        subprocess.run(["qemu-io", "-r", "-f", "raw", *boot, uri["uri"]], check=True, timeout=60)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0
        assert running.stderr is not None
        read_bytes = int(running.stderr.read().split(" bytes were read from the stores")[0].split()[-1])
    assert read_bytes <= reports[0]["storedBytes"] + 4096


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--socket s", "Name a disk with -g and -n, or an image"),
        ("-g rg -n d1", "Give --socket to record a boot, or --from-file"),
        ("-g rg -n d1 --socket s --from-file .", "Give --socket to record a boot, or --from-file"),
        ("-g rg -n d1 --from-file s --trace-file f", "--trace-file goes with --socket"),
        ("-g rg -n d1 --socket s --limit-bytes 5", "5 is not in the range"),
    ],
)
def test_a_line_of_trace_that_is_refused(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_folder(tmp_path, monkeypatch)
    assert message in Terminal(tmp_path).fails(f"disk trace {words}", 2)


@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        "[]",
        "{}",
        '{"blockBytes": 512, "virtualBytes": 4096, "runs": []}',
        '{"blockBytes": 4096, "virtualBytes": 8192, "runs": [[1, 2]]}',
        '{"blockBytes": 4096, "virtualBytes": 8192, "runs": [[-1, 1]]}',
        '{"blockBytes": 4096, "virtualBytes": 8192, "runs": [[true, 1]]}',
        '{"blockBytes": 4096, "virtualBytes": 4398046511104, "runs": [[0, 1073741824]]}',
    ],
)
def test_a_file_that_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_trace(text, 1000)
