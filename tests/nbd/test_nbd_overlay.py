"""Overlays over NBD: QEMU and a mounted file system write, and a commit stores the changed blocks only (I19, F13)."""

import logging
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from imgstore.domain.errors import InvalidInput, WorkHeld
from imgstore.domain.requests import DiskRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.nbd.listeners import listen_unix
from imgstore.nbd.server import NbdServer
from imgstore.operations.disks.commit import commit_disk
from imgstore.operations.installation import Installation
from imgstore.operations.versions.commit import commit_version
from imgstore.testing.pytest_plugin import require
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.overlay import Overlay, open_overlay
from imgstore.transfer.overlay.qcow2_file import make_qcow2_file
from tests.support.overlay_bases import RawDevice, base_of_version
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    audit,
    content,
    export,
    export_disk,
    publish,
    request,
)

_log = logging.getLogger(__name__)
pytest_plugins = ["tests.support.published_gallery"]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@contextmanager
def serve(overlay: Overlay, raw: Path, socket: Path) -> Iterator[str]:
    """Serve an overlay over a raw disk at a socket. The overlay is not closed."""
    server = NbdServer(OverlayDevice(RawDevice(raw), overlay), description="a test")
    with listen_unix(socket) as listener:
        server.start(listener)
        try:
            yield f"nbd+unix:///?socket={socket}"
        finally:
            server.stop()


@contextmanager
def mount(uri: str, folder: Path) -> Iterator[Path]:
    """Mount the file system of a whole disk that a server serves."""
    for name in ("fuse", "mounted"):
        (folder / name).mkdir(exist_ok=True)
    file = folder / "fuse" / "nbd"
    with subprocess.Popen(["nbdfuse", folder / "fuse", uri]) as fuse:
        try:
            wait_for(file.exists, fuse)
            run("mount", "-o", "loop", file, folder / "mounted")
            try:
                yield folder / "mounted"
            finally:
                run("umount", folder / "mounted")
        finally:
            run("umount", folder / "fuse")


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a condition holds, while a process lives."""
    while not holds():
        assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


def make_file_system(folder: Path, disk_bytes: int) -> Path:
    """Make an ext4 file system with files, and an unused MiB after its end."""
    files = folder / "files"
    files.mkdir()
    for number in range(4):
        (files / f"old-{number}").write_bytes(random.Random(number).randbytes(disk_bytes // 16))
    raw = folder / "fs.raw"
    run("mke2fs", "-q", "-t", "ext4", "-d", files, raw, f"{(disk_bytes - MIB) // 1024}k")
    os.truncate(raw, disk_bytes)
    return raw


@pytest.mark.parametrize("written_mib", [4, pytest.param(200, marks=pytest.mark.long)])
def test_a_file_system_is_written_committed_and_read_in_another_region(
    empty: Installation, tmp_path: Path, written_mib: int
) -> None:
    for name in ("nbdfuse", "loop-device", "mke2fs", "qemu-io"):
        require(name)
    raw = make_file_system(tmp_path, 6 * written_mib * MIB)
    publish(empty, raw, targets=["southcentralus"])
    before = {name for slot in all_slots(empty) for name in content(empty, slot).segments}
    overlay = open_overlay(tmp_path / "overlay", base_of_version(empty))
    new = random.Random(9).randbytes(written_mib * MIB)
    with closing(overlay), serve(overlay, raw, tmp_path / "nbd.sock") as uri:
        run("qemu-io", "-f", "raw", "-c", f"write -P 7 {raw.stat().st_size - 5000} 3000", uri)
        with mount(uri, tmp_path) as mounted:
            (mounted / "new").write_bytes(new)
            (mounted / "old-0").unlink()
            with (mounted / "old-1").open("r+b") as file:
                file.write(b"changed")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "expected.raw")
        changed = overlay.changed_bytes
    commit_version(empty, ADMIN, request("1.0.1", ["southcentralus", "eastus"]), tmp_path / "overlay")
    export(empty, tmp_path / "out.raw", "eastus", "1.0.1")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "out.raw", tmp_path / "expected.raw")
    run("e2fsck", "-fn", tmp_path / "out.raw")
    run("debugfs", "-R", f"dump new {tmp_path / 'new'}", tmp_path / "out.raw")
    assert (tmp_path / "new").read_bytes() == new
    (source,) = (slot for slot in all_slots(empty) if slot.key.region == "southcentralus")
    sent = sum(size for name, size in content(empty, source).segments.items() if name not in before)
    _log.info("%d bytes in a file, %d bytes of changed blocks, %d bytes sent", len(new), changed, sent)
    assert sent <= 1.1 * changed
    audit(empty)


def test_qemu_writes_a_qcow2_file_over_a_served_disk(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    require("qemu-io")
    base, file = base_of_version(published), tmp_path / "changes.qcow2"
    before = {name for slot in all_slots(published) for name in content(published, slot).segments}
    overlay = open_overlay(tmp_path / "empty", base)
    with closing(overlay), serve(overlay, samples.first, tmp_path / "nbd.sock") as uri:
        make_qcow2_file(file, uri, base)
        chain = run("qemu-img", "info", "--backing-chain", file)
        assert "backing file format: raw" in chain
        assert chain.count(f"({base.virtual_bytes} bytes)") == 2
        words = ("write -P 7 1000 5000", "write -z 8M 128k", "discard 12M 64k", "write -P 9 25165824 512", "flush")
        run("qemu-io", *(word for each in words for word in ("-c", each)), file)
        run("qemu-img", "check", file)
        run("qemu-img", "convert", "-O", "raw", file, tmp_path / "expected.raw")
        with subprocess.Popen(["qemu-io", file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
            assert machine.stdin is not None
            assert machine.stdout is not None
            machine.stdin.write(b"read 0 512\n")
            machine.stdin.flush()
            assert b"read" in machine.stdout.read(20)
            with pytest.raises(WorkHeld, match="is in use"):
                commit_disk(published, ADMIN, DiskRequest(group=GROUP, name="d1", source=str(file)))
            machine.communicate(b"quit\n")
    made = commit_disk(published, ADMIN, DiskRequest(group=GROUP, name="d1", source=str(file)))
    export_disk(published, tmp_path / "out.raw", "d1")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "expected.raw").read_bytes()
    new = [size for name, size in content(published, made.slot).segments.items() if name not in before]
    assert sum(new) <= 4 * 4096
    audit(published)
    assert commit_disk(published, ADMIN, DiskRequest(group=GROUP, name="d1", source=str(file))).uid == made.uid
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "/etc/passwd", file)
    commit_disk(published, ADMIN, DiskRequest(group=GROUP, name="d2", source=str(file)))
    export_disk(published, tmp_path / "out.raw", "d2")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "expected.raw").read_bytes(), "no backing file is opened"
    run("qemu-img", "convert", "-O", "qcow2", samples.first, tmp_path / "other.qcow2")
    with pytest.raises(InvalidInput, match="does not name its base"):
        commit_disk(published, ADMIN, DiskRequest(group=GROUP, name="d3", source=str(tmp_path / "other.qcow2")))
