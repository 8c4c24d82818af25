"""Standard streams that are full, closed, gone or not read: the work is done all the same."""

import errno
import json
import os
import pty
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from imgstore.cli.framework import global_options
from imgstore.cli.framework.standard_streams import WAITING_BYTES_MAX, ReportStream, UnwrittenResult
from imgstore.cli.main import _tell, main
from imgstore.domain.host.os_errors import advise
from imgstore.domain.progress import ProgressEvent, Stage, ignore_event, suppress_errors
from imgstore.domain.storage.sizes import MIB
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home

NAMES = f"-g {GROUP} -r {GALLERY} -i {DEFINITION}"
CREATE = f"sig image-version create {NAMES} -e 1.0.0 --os-vhd-uri disk.raw --target-regions southcentralus eastus"
WORKER = "worker --once"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGSTORE_HOME", str(tmp_path / "home"))
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=16 * MIB, content_bytes=6 * MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    return tmp_path / "home"


def words_of(line: str) -> list[str]:
    return [sys.executable, "-m", "imgstore", *shlex.split(line)]


def show() -> Any:
    line = f"sig image-version show {NAMES} -e 1.0.0 --expand ReplicationStatus"
    told = subprocess.run(words_of(line), capture_output=True, text=True, check=True)
    return json.loads(told.stdout)["properties"]


def run(line: str, **streams: Any) -> int:
    return subprocess.run(words_of(line), check=False, **streams).returncode


def on_a_full_disk(line: str) -> int:
    with Path("/dev/full").open("w") as full:
        return run(line, stderr=full, stdout=subprocess.DEVNULL)


def closed(line: str) -> int:
    return subprocess.run(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *words_of(line)], check=False).returncode


def with_its_reader_gone(line: str) -> int:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(line, stderr=writer, stdout=subprocess.DEVNULL)
    finally:
        os.close(writer)


def filled_pipe() -> tuple[int, int]:
    """A pipe that takes no more: nobody reads it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"." * 512)
    return reader, writer


def with_a_reader_that_does_not_read(line: str) -> int:
    reader, writer = filled_pipe()
    os.set_blocking(writer, True)
    try:
        return run(line, stderr=writer, stdout=subprocess.DEVNULL)
    finally:
        os.close(reader)
        os.close(writer)


def without_blocking(line: str) -> int:
    reader, writer = filled_pipe()
    try:
        return run(line, stderr=writer, stdout=subprocess.DEVNULL)
    finally:
        os.close(reader)
        os.close(writer)


def on_a_terminal_that_is_gone(line: str) -> int:
    ours, theirs = pty.openpty()
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "nohup", *words_of(line)]
    process = subprocess.Popen(ignoring, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True)
    os.close(ours)
    os.close(theirs)
    return process.wait()


STREAMS = [
    on_a_full_disk,
    closed,
    with_its_reader_gone,
    with_a_reader_that_does_not_read,
    without_blocking,
    on_a_terminal_that_is_gone,
]


@pytest.mark.parametrize("ends", STREAMS)
def test_a_create_is_done_whatever_becomes_of_standard_error(home: Path, ends: Callable[[str], int]) -> None:
    assert ends(CREATE) == 0
    assert show()["provisioningState"] == "Succeeded"


@pytest.mark.parametrize("ends", STREAMS)
def test_a_worker_makes_its_replica_whatever_becomes_of_standard_error(home: Path, ends: Callable[[str], int]) -> None:
    assert run(f"--only-show-errors {CREATE} --no-wait -o none") == 0
    assert ends(WORKER) == 0
    assert [each["state"] for each in show()["replicationStatus"]["summary"]] == ["Completed"] * 2


def test_a_result_that_cannot_be_written_is_an_error_and_the_work_is_done(home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        told = subprocess.run(words_of(CREATE), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert "The result cannot be written to standard output." in told.stderr
    assert "No space left on device" in told.stderr
    assert "Traceback" not in told.stderr
    assert "error is unexpected" not in told.stderr
    assert show()["provisioningState"] == "Succeeded"


@pytest.mark.parametrize("line", ["--help", "--version", "regions list --help"])
def test_help_that_cannot_be_written_is_an_error_in_words(line: str) -> None:
    with Path("/dev/full").open("w") as full:
        told = subprocess.run(words_of(line), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("ERROR: (OutputError)")


def test_a_result_waits_for_the_reader_of_a_pipe_that_does_not_block(home: Path) -> None:
    reader, writer = filled_pipe()
    process = subprocess.Popen(words_of("regions list"), stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as whole:
        assert len(json.loads(whole.read().lstrip(b"."))) > 1
    assert process.wait() == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ESTALE])
def test_a_result_that_cannot_be_written_names_cause_and_remedy(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imgstore.cli.main.drop_output", lambda: None)
    _tell(UnwrittenResult(number, os.strerror(number)), debug=False)
    told = capsys.readouterr().err
    assert f"({errno.errorcode[number]})" in told
    assert advise(OSError(number, ""), "standard output") in told


def test_missing_memory_is_no_unexpected_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("imgstore.bootstrap.load_regions", refuse)
    result = CliRunner().invoke(main, ["group", "list"])
    assert result.exit_code == 1
    assert "(ENOMEM)" in result.stderr
    assert "unexpected" not in result.stderr


def test_a_umask_without_access_for_the_owner(tmp_path: Path) -> None:
    words = words_of(f"group list -o none --home {tmp_path}/home")
    subprocess.run(["sh", "-c", 'umask 777; exec "$@"', "sh", *words], check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").iterdir()}
    assert (modes["catalog.sqlite"], modes["scratch"]) == (0o600, 0o700)


def test_a_file_name_that_the_locale_does_not_have(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from imgstore.formats.files.atomic_file import PendingFile; "
    code += (
        "PendingFile(Path(os.fsdecode(sys.argv[1].encode('ascii').decode('unicode_escape').encode())), overwrite=False)"
    )
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, f"{tmp_path}/\\u20ac.raw"], env=plain, check=True)


def test_a_file_that_is_opened_later_does_not_become_a_closed_standard_stream(home: Path) -> None:
    """With descriptors 0 to 2 closed, the catalog would get one of their numbers, and then the messages."""
    catalog = home / "catalog.sqlite"
    assert closed(f"sig show -g {GROUP} -r nobody") == 3
    assert catalog.read_bytes().startswith(b"SQLite format 3\0")
    assert run(f"sig show -g {GROUP} -r {GALLERY} -o none") == 0


def test_names_that_the_encoding_does_not_have(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "Größe-测试.raw"
    (tmp_path / "disk.raw").rename(disk)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "iso-8859-1"}
    line = CREATE.replace("disk.raw", shlex.quote(disk.name))
    assert run(line, env={**os.environ, **plain}) == 0
    assert run("inspect no-such-测试.raw", env={**os.environ, **plain}) == 1


# -- the stream ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_reports_arrive_in_order(pipe: tuple[int, int]) -> None:
    stream = ReportStream(pipe[1])
    for number in range(100):
        print(f"line {number}", file=stream, flush=True)
    stream.end()
    print("after the end", file=stream)
    expected = [*(f"line {number}" for number in range(100)), "after the end"]
    assert os.read(pipe[0], WAITING_BYTES_MAX).decode().splitlines() == expected


def test_unread_lines_are_dropped_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream, text = ReportStream(writer), "x" * 1023 + "\n"
    for _ in range(1000):  # a pipe holds 64 KiB, and the stream as much again
        stream.write(text)
        stream.flush()
    told = b""
    while b"messages are missing here" not in told:
        told += os.read(reader, WAITING_BYTES_MAX)
    assert told.count(b"x" * 1023) < 1000


def test_a_stream_that_cannot_have_a_thread_writes_by_itself(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    print("all the same", file=ReportStream(pipe[1]), flush=True)
    assert os.read(pipe[0], 100) == b"all the same\n"


def test_a_subscriber_that_fails_is_no_matter() -> None:
    def fail(_event: ProgressEvent) -> None:
        raise OSError(28, "No space left on device")

    suppress_errors(fail)(ProgressEvent(task="a", stage=Stage.NOTE))
    # Invariant A5.
    assert suppress_errors(ignore_event) is ignore_event


# -- the data folder ----------------------------------------------------------------------------------------------------


UNKNOWN_USER = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
"""An id that passwd does not have, as OpenShift gives to containers."""


def as_unknown_user(line: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if (
        not shutil.which("unshare")
        or subprocess.run([*UNKNOWN_USER, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no user namespaces here")
    plain = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(
        [*UNKNOWN_USER, *words_of(line)], env=plain, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}], ids=["unset", "empty", "relative"])
def test_without_a_home_directory_the_error_names_the_options(environ: dict[str, str], tmp_path: Path) -> None:
    told = as_unknown_user("group list", environ)
    assert told.returncode == 1
    assert told.stderr.startswith("ERROR: (InvalidParameter) There is no data folder.")
    assert "--home or IMGSTORE_HOME" in told.stderr
    assert not Path("/.local/share/imgstore").exists()
    assert json.loads(as_unknown_user(f"group list --home {tmp_path}/home", environ).stdout) == []


def test_what_needs_no_data_folder_does_without(tmp_path: Path) -> None:
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    assert as_unknown_user(f"inspect {tmp_path}/disk.raw", {}).returncode == 0


@pytest.mark.parametrize("option", ["--home", "--regions"])
def test_a_tilde_without_a_home_directory_is_refused_by_its_path(option: str) -> None:
    told = as_unknown_user(f"group list {option} ~/x", {})
    assert told.returncode == 1
    assert told.stderr.startswith("ERROR: (InvalidParameter) The path ~/x cannot be used.")


def test_an_empty_home_counts_as_unset() -> None:
    context = click.Context(main)
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local/share/imgstore"
    assert global_options.of(context, {"HOME": ""}).data_home == expected
    assert global_options.of(context, {}).data_home == expected
    assert global_options.of(context, {"HOME": "/somewhere"}).data_home == Path("/somewhere/.local/share/imgstore")
