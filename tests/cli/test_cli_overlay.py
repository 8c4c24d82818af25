"""`imgstore disk attach --overlay` and `--qcow2`, and `imgstore disk commit`: real processes, kills and refused lines."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from imgstore.operations.installation import Installation
from imgstore.testing.pytest_plugin import require
from tests.support.attached_disk import start_attach
from tests.support.mounted_folder import mount_small
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, SampleImages, make_disk
from tests.support.terminal import Terminal, enter_folder

pytest_plugins = ["tests.support.published_gallery"]

IMAGE = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"


def run(*words: str | Path) -> str:
    """Run a program that succeeds, and return its output."""
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(target: str | Path, *commands: str, form: str = "raw") -> None:
    run("qemu-io", "-f", form, *(word for each in commands for word in ("-c", each)), target)


@pytest.mark.engine("qemu-io")
def test_a_killed_server_keeps_flushed_writes_until_the_commit(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    require("qemu-io")
    make_disk(published, "d1")
    expected, overlay = tmp_path / "expected.raw", tmp_path / "writes"
    shutil.copyfile(samples.first, expected)
    line = ["-g", GROUP, "-n", "d1", "--socket", str(tmp_path / "s"), "--overlay", str(overlay)]
    terminal = Terminal(tmp_path)
    for commands in (("write -P 7 3000 9000", "flush"), ("write -z 8M 1M", "write -P 9 25165824 512", "flush")):
        write(expected, *commands)
        with start_attach(published.home, *line) as (running, shown):
            assert shown["readOnly"] is False
            write(shown["uri"], *commands)
            assert "is in use" in terminal.fails(f"disk commit --overlay {overlay} -g rg -n d2", 1)
            running.send_signal(signal.SIGKILL)
            running.wait(timeout=60)
    with start_attach(published.home, *line) as (running, shown):
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", shown["uri"], expected)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0
    assert terminal.ok(f"disk commit --overlay {overlay} -g rg -n d2")["name"] == "d2"
    terminal.ok(f"disk export -g rg -n d2 --file {tmp_path / 'out.raw'}")
    assert (tmp_path / "out.raw").read_bytes() == expected.read_bytes()
    other = ["--gallery-image-reference", IMAGE, "--socket", str(tmp_path / "s"), "--overlay", str(overlay)]
    with start_attach(published.home, *other) as (_, shown):
        assert shown["readOnly"] is False, "another disk with the content of the base is the same base"


@pytest.mark.engine("qemu-io")
def test_a_qcow2_file_is_made_kept_and_committed_as_a_version(published: Installation, tmp_path: Path) -> None:
    require("qemu-io")
    file, out = tmp_path / "changes.qcow2", tmp_path / "out.raw"
    line = ["--gallery-image-reference", IMAGE, "--socket", str(tmp_path / "s"), "--qcow2", str(file)]
    for commands in (("write -P 7 3000 9000",), ("discard 8M 1M", "write -P 9 12M 64k")):
        with start_attach(published.home, *line) as (running, shown):
            assert shown["readOnly"] is True
            assert f"backing file: {shown['uri']}" in run("qemu-img", "info", file)
            write(file, *commands, form="qcow2")
            run("qemu-img", "check", file)
            run("qemu-img", "convert", "-O", "raw", file, tmp_path / "expected.raw")
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=60) == 0
    terminal = Terminal(tmp_path)
    words = f"-g {GROUP} -r {GALLERY} -i {DEFINITION} -e 1.0.1 --target-regions southcentralus eastus"
    assert terminal.ok(f"disk commit --qcow2 {file} {words}")["name"] == "1.0.1"
    image = IMAGE.replace("1.0.0", "1.0.1")
    terminal.ok(f"disk export --gallery-image-reference {image} -l eastus --file {out}")
    assert out.read_bytes() == (tmp_path / "expected.raw").read_bytes()
    line[3] = str(tmp_path / "other")
    assert "has another backing file" in terminal.fails("disk attach " + " ".join(line), 1)


@pytest.mark.engine("qemu-io")
def test_a_full_file_system_fails_writes_until_there_is_space(published: Installation, tmp_path: Path) -> None:
    require("qemu-io")
    make_disk(published, "d1")
    with mount_small(tmp_path / "small", "1m") as folder:
        line = ["-g", GROUP, "-n", "d1", "--socket", str(tmp_path / "s"), "--overlay", str(folder / "writes")]
        with start_attach(published.home, *line) as (running, shown):
            write(shown["uri"], "write -P 7 0 512k", "flush")
            full = ["qemu-io", "-f", "raw", "-c", "write -P 8 0 900k", shown["uri"]]
            done = subprocess.run(full, check=False, capture_output=True, text=True, timeout=60)
            assert "No space left on device" in done.stdout + done.stderr
            write(shown["uri"], "read -P 7 0 512k")
            run("mount", "-o", "remount,size=8m", folder)
            write(shown["uri"], "write -P 8 0 900k", "flush")
            running.send_signal(signal.SIGKILL)
            running.wait(timeout=60)
        with start_attach(published.home, *line) as (_, shown):
            write(shown["uri"], "read -P 8 0 900k")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attach -g rg -n d1 --socket s --overlay o --qcow2 q", "--overlay goes neither with"),
        ("attach -g rg -n d1 --socket s --overlay o --read-only", "--overlay goes neither with"),
        ("attach -g rg -n d1 --listen 127.0.0.1:0 --tls-certificates . --qcow2 q", "--qcow2 goes with --socket"),
        ("commit -g rg -n d1", "Name the changes with --overlay or --qcow2"),
        ("commit --overlay o --qcow2 q -g rg -n d1", "Name the changes with --overlay or --qcow2"),
        ("commit --overlay o -g rg", "Name a new disk with -n, or a new image version"),
        ("commit --overlay o -g rg -n d1 -e 1.0.0", "Name a new disk with -n, or a new image version"),
        ("commit --overlay o -g rg -n d1 --target-regions eastus", "--target-regions goes with a new image version"),
    ],
)
def test_a_line_that_is_refused(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_folder(tmp_path, monkeypatch)
    assert message in Terminal(tmp_path).fails(f"disk {words}", 2)
