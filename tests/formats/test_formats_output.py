"""Tests of output files: a file appears completely or not at all."""

import errno
import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from formats_images import DIGEST, MIB, names_in

from imgstore.domain.disks.sources import DiskFormat, DiskWriter, Extent
from imgstore.domain.errors import InvalidInput, OutputError
from imgstore.formats import WRITABLE_FORMATS, create_writer, write_in_order
from imgstore.formats.files import atomic_file

SPAN = Extent(offset=0, length=MIB)
DATA = os.urandom(MIB)


def _writer(path: Path, form: DiskFormat = DiskFormat.VHD_FIXED, *, overwrite: bool = False) -> DiskWriter:
    return create_writer(
        path, format=form, virtual_bytes=4 * MIB, extents=[SPAN], disk_digest=DIGEST, overwrite=overwrite
    )


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("form", WRITABLE_FORMATS)
def test_a_file_appears_at_publish_and_no_other_file_remains(tmp_path: Path, form: DiskFormat) -> None:
    path = tmp_path / "disk"
    writer = _writer(path, form)
    writer.write_at(0, DATA)
    assert not path.exists()
    assert all(name.startswith(".disk.imgstore-") for name in names_in(tmp_path))
    writer.publish()
    assert names_in(tmp_path) == ["disk"]
    writer.abandon()
    # Invariant D5.
    assert names_in(tmp_path) == ["disk"]


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("form", WRITABLE_FORMATS)
def test_abandon_removes_the_temporary_file(tmp_path: Path, form: DiskFormat) -> None:
    writer = _writer(tmp_path / "disk", form)
    writer.write_at(0, DATA)
    writer.abandon()
    writer.abandon()
    assert names_in(tmp_path) == []


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    _writer(tmp_path / "disk").publish()
    (tmp_path / "other").touch()
    assert (tmp_path / "disk").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already") as caught:
        _writer(path)
    assert "--overwrite" in str(caught.value.hint)
    assert path.read_text() == "precious"
    assert names_in(tmp_path) == ["disk"]


def test_a_file_that_appears_during_the_write_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    writer = _writer(path)
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        writer.publish()
    writer.abandon()
    assert path.read_text() == "precious"
    assert names_in(tmp_path) == ["disk"]


def test_overwrite_replaces_at_publish_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_text("old")
    writer = _writer(path, DiskFormat.RAW, overwrite=True)
    writer.write_at(0, DATA)
    assert path.read_text() == "old"
    writer.publish()
    assert path.read_bytes() == DATA + bytes(3 * MIB)
    assert names_in(tmp_path) == ["disk"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_path_that_is_no_file_is_never_replaced(tmp_path: Path, *, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("folder", "link"):
        with pytest.raises(OutputError, match="is in the way"):
            _writer(tmp_path / name, overwrite=overwrite)
    assert names_in(tmp_path) == ["folder", "link"]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mkdir -p"):
        _writer(tmp_path / "missing" / "disk")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        _writer(tmp_path / "file" / "disk")


def test_a_folder_without_permission_is_reported() -> None:
    """In /proc, where even root may not create files."""
    with pytest.raises(OutputError, match="cannot be written") as caught:
        _writer(Path("/proc/self") / "disk")
    assert caught.value.found
    assert caught.value.hint


@pytest.mark.parametrize("form", [DiskFormat.VHDX, DiskFormat.VMDK])
def test_an_unwritable_format_is_refused_with_the_writable_formats(tmp_path: Path, form: DiskFormat) -> None:
    with pytest.raises(InvalidInput, match="vhd, vhd-dynamic, raw, qcow2"):
        _writer(tmp_path / "disk", form)
    assert names_in(tmp_path) == []


def test_data_outside_the_announced_extents_is_refused(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "disk", DiskFormat.VHD_DYNAMIC)
    writer.write_at(2 * MIB, bytes(512))  # zeros change nothing
    with pytest.raises(InvalidInput, match="announced to be empty"):
        writer.write_at(2 * MIB, b"x" * 512)
    writer.abandon()


def test_many_threads_may_write(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    data = os.urandom(16 * MIB)
    whole = [Extent(offset=0, length=len(data))]
    writer = create_writer(path, format=DiskFormat.RAW, virtual_bytes=len(data), extents=whole, disk_digest=DIGEST)
    threads = [
        threading.Thread(target=writer.write_at, args=(at, data[at : at + MIB])) for at in range(0, len(data), MIB)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.publish()
    assert path.read_bytes() == data


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB, if mounting is allowed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("form", [DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC, DiskFormat.RAW])
def test_a_full_disk_is_reported_and_no_file_remains(tiny: Path, form: DiskFormat) -> None:
    writer = _writer(tiny / "disk", form)
    with pytest.raises(OutputError) as caught:
        writer.write_at(0, DATA)
    writer.abandon()
    assert caught.value.found == "No space left on device (ENOSPC)"
    assert "free some space" in str(caught.value.hint)
    assert names_in(tiny) == []


def test_an_error_of_the_background_write_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a failed write-back only once, so the error of the background write must not get lost."""

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(atomic_file, "_WRITE_BACK_BYTES", len(DATA))
    writer = _writer(tmp_path / "disk", DiskFormat.RAW)
    writer.write_at(0, DATA)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        writer.publish()
    writer.abandon()
    assert caught.value.found == "Input/output error (EIO)"
    assert names_in(tmp_path) == []


@pytest.mark.engine("qemu-img")
def test_a_disk_that_fills_up_at_publish_is_reported_and_no_file_remains(tmp_path: Path, tiny: Path) -> None:
    """There is space for the raw file but not for the qcow2: the error translates the failure of qemu-img."""
    path = tiny / "disk.qcow2"
    writer = _writer(path, DiskFormat.QCOW2)
    writer.write_at(0, DATA[: 150 * 1024])
    with pytest.raises(OutputError, match="not enough space"):
        writer.publish()
    writer.abandon()
    assert names_in(tiny) == []


def test_a_limit_of_the_file_size_is_reported(tmp_path: Path) -> None:
    """EFBIG: the error of a file system that holds no larger file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(OutputError, match="the limit of file sizes"):
            _writer(tmp_path / "disk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names_in(tmp_path) == []


_DIES = """
import os, signal, sys
from pathlib import Path
from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.formats import create_writer
writer = create_writer(
    Path(sys.argv[1]), format=DiskFormat.RAW, virtual_bytes=4096, extents=[], disk_digest=bytes(32)
)
writer.write_at(0, b"x" * 4096)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_only_files_of_dead_writers(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    living = _writer(path)
    subprocess.run([sys.executable, "-c", _DIES, path], check=False, cwd=tmp_path)
    assert len(names_in(tmp_path)) == 2

    other = _writer(path)

    assert len(names_in(tmp_path)) == 2
    living.write_at(0, DATA)
    living.publish()
    other.abandon()
    assert names_in(tmp_path) == ["disk"]


def test_removal_of_an_unlocked_temporary_file_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer takes the new, not yet locked file for a leftover. The file is then created again."""
    flock = fcntl.flock
    swept: list[str] = []

    def sweep_first(fd: int, how: int) -> None:
        if not swept:
            swept.extend(names_in(tmp_path))
            (tmp_path / swept[0]).unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    writer = _writer(tmp_path / "disk")
    assert names_in(tmp_path) != swept
    writer.publish()
    assert names_in(tmp_path) == ["disk"]


def test_a_long_name_leaves_space_for_the_temporary_name(tmp_path: Path) -> None:
    name = "d" * 255
    _writer(tmp_path / name).publish()
    assert names_in(tmp_path) == [name]


def test_zeros_in_a_pipe_are_reported_step_by_step() -> None:
    """A mostly empty disk takes long in a pipe, so its zeros count as progress."""
    virtual_bytes, counted = 130 * MIB + 512, list[int]()
    reader, target = os.pipe()
    with ThreadPoolExecutor(1) as thread, open(reader, "rb") as read:
        received = thread.submit(lambda: hashlib.file_digest(read, "sha256").digest())
        writer = create_writer(
            Path(f"/dev/fd/{target}"),
            format=DiskFormat.RAW,
            virtual_bytes=virtual_bytes,
            extents=[],
            disk_digest=DIGEST,
        )
        os.close(target)
        write_in_order(writer, [(66 * MIB, DATA)], virtual_bytes, counted.append)
        assert writer.publish() == virtual_bytes
        whole = bytes(66 * MIB) + DATA + bytes(virtual_bytes - 67 * MIB)
        assert received.result() == hashlib.sha256(whole).digest()
    assert sum(counted) == virtual_bytes
    assert max(counted) <= 64 * MIB
