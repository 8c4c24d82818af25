"""Exports to standard output, pipes, links and block devices. Processes of their own where standard output is used."""

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB, PIECE_BYTES
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home

IMAGE = f"disk export --gallery-image-reference {GROUP}/{GALLERY}/{DEFINITION}/1.0.0"
NOT_WHOLE_MIB = 25 * MIB + 37 * 512
DISK = (
    os.urandom(5 * MIB) + bytes(9 * MIB) + os.urandom(3 * MIB) + bytes(NOT_WHOLE_MIB - 17 * MIB - 512) + os.urandom(512)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    (folder / "disk.raw").write_bytes(DISK)
    with open_home(folder / "home") as installation:
        create_sample_gallery(installation)
    version = f"-g {GROUP} -r {GALLERY} -i {DEFINITION} -e 1.0.0"
    run(folder, f"sig image-version create {version} --os-vhd-uri {folder / 'disk.raw'}")
    run(
        folder,
        f"disk create -g {GROUP} -n d1 -l southcentralus --gallery-image-reference {GROUP}/{GALLERY}/{DEFINITION}",
    )
    return folder


def start(folder: Path, line: str, *, stdout: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "imgstore", *shlex.split(line)],
        cwd=folder,
        env=os.environ | {"IMGSTORE_HOME": str(folder / "home")},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def end(running: "subprocess.Popen[bytes]", exit_code: int = 0) -> tuple[bytes, str]:
    out, err = running.communicate(timeout=120)
    assert running.returncode == exit_code, (running.args, err.decode())
    assert b"Traceback" not in err
    return out, err.decode()


def run(folder: Path, line: str, exit_code: int = 0) -> Result:
    """Run a command in this process."""
    env = {"IMGSTORE_HOME": str(folder / "home")}
    result = CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=env)
    assert result.exit_code == exit_code, (line, result.output, result.exception)
    return result


def through_pipe(folder: Path, line: str, exit_code: int = 0) -> tuple[bytes, str]:
    """Run an export in this process, to a pipe. Return the bytes in the pipe, and standard error."""
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as thread, open(reader, "rb") as read:
        received = thread.submit(read.read)
        try:
            err = run(folder, f"{line} --file /dev/fd/{writer}", exit_code).stderr
        finally:
            os.close(writer)
        return received.result(), err


def test_standard_output_gets_the_disk_and_standard_error_the_result(folder: Path) -> None:
    out, err = end(start(folder, f"{IMAGE} --file - --only-show-errors"))
    assert out == DISK
    assert json.loads(err)["fileBytes"] == len(DISK)
    assert not (folder / "-").exists()


def test_a_new_disk_goes_to_standard_output_in_non_blocking_mode_too(folder: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    (folder / "out").symlink_to("/dev/stdout")
    line = f"disk create -g {GROUP} -n d2 -l southcentralus --source d1 --file {folder}/out --only-show-errors"
    with start(folder, line, stdout=writer) as running, open(reader, "rb") as read:
        os.close(writer)
        assert read.read() == DISK
        assert json.loads(end(running)[1])["name"] == "d2"


def test_a_link_to_standard_output_in_a_file_is_standard_output(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/dev/stdout")
    with (tmp_path / "disk.raw").open("wb") as file:
        end(start(folder, f"{IMAGE} --file {tmp_path}/out", stdout=file.fileno()))
    assert (tmp_path / "disk.raw").read_bytes() == DISK
    assert (tmp_path / "out").is_symlink()


def test_a_reader_that_ends_early_ends_the_export(folder: Path) -> None:
    reader, writer = os.pipe()
    with start(folder, f"{IMAGE} --file -", stdout=writer) as running:
        os.close(writer)
        assert os.read(reader, 512) == DISK[:512]
        os.close(reader)
        assert "The reader of standard output ended" in end(running, 1)[1]


def test_a_terminal_is_refused(folder: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with start(folder, f"{IMAGE} --file -", stdout=theirs) as running:
            assert "not written to a terminal" in end(running, 1)[1]
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize("target", ["- >&-", "/dev/stdout >&-", "- --format vhd 1</dev/null"])
def test_a_closed_standard_output_is_refused(folder: Path, target: str) -> None:
    line = f"{sys.executable} -m imgstore {IMAGE} --file {target}"
    done = subprocess.run(
        ["sh", "-c", line], env=os.environ | {"IMGSTORE_HOME": str(folder / "home")}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"Standard output is closed. Nothing was written." in done.stderr


def test_a_fixed_vhd_in_a_pipe_equals_the_file(folder: Path) -> None:
    out, err = through_pipe(folder, f"disk export -g {GROUP} -n d1 --format vhd")
    run(folder, f"disk export -g {GROUP} -n d1 --file {folder / 'same.vhd'}")
    assert out == (folder / "same.vhd").read_bytes()
    assert out[: len(DISK)] == DISK
    assert "WARNING: Azure refuses this VHD" in err


def test_a_range_in_a_pipe(folder: Path) -> None:
    out, _ = through_pipe(folder, f"disk export -g {GROUP} -n d1 --offset 1000 --length {PIECE_BYTES + 7}")
    assert out == DISK[1000 : 1007 + PIECE_BYTES]


@pytest.mark.parametrize("form", ["vhd-dynamic", "qcow2"])
def test_a_format_with_its_beginning_written_last_is_refused(folder: Path, form: str) -> None:
    out, err = through_pipe(folder, f"{IMAGE} --format {form} --pad", 1)
    assert out == b""
    assert "cannot be written to a pipe" in err


def test_a_file_named_dash_in_a_folder_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run(folder, f"{IMAGE} --file ./- --format raw -o none")
    assert (folder / "-").read_bytes() == DISK
    (folder / "-").unlink()


def test_a_full_target_is_an_error(folder: Path) -> None:
    err = run(folder, f"{IMAGE} --file /dev/full", 1).stderr
    assert err.count("No space left on device") == 1, "the error is printed once"
    assert "export full: failed\n" in err
    run(folder, f"{IMAGE} --file /dev/null -o none")


def test_a_link_is_followed_and_stays(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    link, target = folder / "link.raw", folder / "elsewhere" / "disk.raw"
    link.symlink_to(target)
    run(folder, f"{IMAGE} --file {folder}/link.raw -o none")
    assert link.is_symlink()
    assert target.read_bytes() == DISK
    assert os.listdir(target.parent) == ["disk.raw"]
    err = run(folder, f"{IMAGE} --file {folder}/link.raw", 1).stderr
    assert "exists already" in err
    target.write_bytes(b"old")
    run(folder, f"{IMAGE} --file {folder}/link.raw --overwrite -o none")
    assert link.is_symlink()
    assert target.read_bytes() == DISK


def test_a_link_that_cannot_be_followed_is_refused(folder: Path) -> None:
    (folder / "one.raw").symlink_to("two.raw")
    (folder / "two.raw").symlink_to("one.raw")
    (folder / "nowhere.raw").symlink_to("missing/disk.raw")
    (folder / "home.raw").symlink_to("home")
    for name, word in (("one", "leads back to itself"), ("nowhere", "mkdir -p"), ("home", "a folder")):
        assert word in run(folder, f"{IMAGE} --file {folder}/{name}.raw --overwrite", 1).stderr


@pytest.mark.parametrize(
    ("line", "word"),
    [("", "no multiple of 1 MiB"), ("--format vhd-dynamic", "fixed VHD only")],
)
def test_a_vhd_that_azure_refuses_is_written_with_a_warning(folder: Path, line: str, word: str) -> None:
    result = run(folder, f"{IMAGE} --file {folder}/w.vhd {line} --overwrite")
    out, err = result.stdout, result.stderr
    assert json.loads(out)["virtualBytes"] == NOT_WHOLE_MIB
    assert "WARNING: Azure refuses this VHD" in err
    assert word in err
    assert "WARNING" not in run(folder, f"{IMAGE} --file {folder}/w.vhd --pad --overwrite").stderr
    assert "WARNING" not in run(folder, f"{IMAGE} --file {folder}/w.raw --overwrite").stderr


# Block devices.


@contextmanager
def attached(file: Path, *words: str) -> Iterator[str]:
    done = subprocess.run(["losetup", "-f", "--show", *words, str(file)], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def mounted(device: str, folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", device, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def refusal(folder: Path, device: str, file: Path) -> str:
    before = file.read_bytes()
    err = run(folder, f"{IMAGE} --file {device}", 1).stderr
    assert file.read_bytes() == before
    return err


@pytest.mark.engine("loop-device")
def test_a_device_gets_the_disk_and_keeps_the_rest(folder: Path, tmp_path: Path) -> None:
    """Invariants D5 and P7: zeros of the disk replace old bytes, and bytes after the disk stay."""
    old = os.urandom(NOT_WHOLE_MIB + 3 * MIB)
    (tmp_path / "device").write_bytes(old)
    with attached(tmp_path / "device") as device:
        (tmp_path / "link.vhd").symlink_to(device)
        err = run(folder, f"{IMAGE} --file {device} -o none").stderr
        assert f"The {3 * MIB:,} bytes after it are unchanged." in err
        err = run(folder, f"{IMAGE} --file {tmp_path / 'link.vhd'}", 1).stderr
        assert "raw bytes only" in err
        run(folder, f"disk export -g {GROUP} -n d1 --file {tmp_path / 'link.vhd'} --format raw -o none")
    assert (tmp_path / "device").read_bytes() == DISK + old[len(DISK) :]


@pytest.mark.engine("loop-device")
def test_a_device_that_cannot_take_the_disk_is_refused_before_a_write(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(os.urandom(MIB))
    with attached(tmp_path / "small") as device:
        assert "is too small" in refusal(folder, device, tmp_path / "small")
    (tmp_path / "large").write_bytes(os.urandom(30 * MIB))
    with attached(tmp_path / "large", "--read-only") as device:
        assert "is read-only" in refusal(folder, device, tmp_path / "large")


@pytest.mark.engine("loop-device")
@pytest.mark.engine("mke2fs")
def test_a_device_in_use_is_refused_by_the_mount_point(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.truncate(64 * MIB)
    with attached(file) as device:
        subprocess.run(["mke2fs", "-q", "-t", "ext2", device], check=True)
        with mounted(device, tmp_path / "here"):
            err = run(folder, f"{IMAGE} --file {device}", 1).stderr
        assert f"{device} is mounted at {tmp_path / 'here'}" in err
        run(folder, f"{IMAGE} --file {device} -o none")
        assert file.read_bytes()[: len(DISK)] == DISK


@pytest.mark.engine("loop-device")
@pytest.mark.engine("mke2fs")
def test_a_disk_with_a_mounted_partition_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.truncate(64 * MIB)
        out.seek(446)
        out.write(bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (65536).to_bytes(4, "little"))
        out.seek(510)
        out.write(b"\x55\xaa")
    with attached(file) as device:
        subprocess.run(["partx", "--add", device], check=True)
        name = Path(device).name
        number = Path(f"/sys/block/{name}/{name}p1/dev").read_text().strip().split(":")
        partition = tmp_path / "partition"
        os.mknod(partition, 0o600 | 0o060000, os.makedev(*map(int, number)))
        try:
            subprocess.run(["mke2fs", "-q", "-t", "ext2", str(partition)], check=True)
            with mounted(str(partition), tmp_path / "here"):
                err = run(folder, f"{IMAGE} --file {device}", 1).stderr
            assert f"/dev/{name}p1 is mounted at {tmp_path / 'here'}" in err
            run(folder, f"{IMAGE} --file {partition} -o none")
            assert file.read_bytes()[MIB : MIB + len(DISK)] == DISK
        finally:
            subprocess.run(["partx", "--delete", device], check=True)
