"""Errors of the operating system at each place of an installation (invariants E9 and E10).

A FUSE file system refuses an operation with each number. Every refusal must be an error of imgstore with its cause and
the steps, and the same command must succeed afterwards.
"""

import asyncio
import errno
import json
import os
import resource
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner, Result

from imgstore.api.middleware import _answer_os_error
from imgstore.api.server_certificate import CertificateFiles, load_certificate
from imgstore.cli.main import main
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import ImgstoreError, InvalidInput, OutputError, StoreDenied, StoreError, StoreFull
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import groups
from imgstore.operations.leases import is_dead, this_process
from imgstore.testing.pytest_plugin import require
from tests.support.certificates import issue
from tests.support.mounted_folder import MountedFolder, mount_folder
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    audit,
    create_sample_gallery,
    make_disk,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

NUMBERS: Final = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.EBUSY,
    errno.ETXTBSY,
    errno.EXDEV,
    errno.ENOTCONN,
)
READABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[MountedFolder]:
    with mount_folder(tmp_path, {}) as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "disk.raw", seed=5, virtual_bytes=2 * MIB, content_bytes=MIB // 2)


def check_refusals(mounted: MountedFolder, rule: str, act: Callable[[], object], kind: type[ImgstoreError]) -> None:
    """Run `act` with each error. It must fail by name each time, and succeed without the rule."""
    for number in NUMBERS:
        mounted.set_rules({rule: number})
        with pytest.raises(kind) as caught:
            act()
        text = str(caught.value)
        assert errno.errorcode[number] in text, text
        assert "what to do:" in text
        assert "Errno" not in text
    mounted.set_rules({})
    act()


def test_a_home(mounted: MountedFolder) -> None:
    """A home that can be read is opened. Its catalog is copied, and changes are refused."""
    home = mounted.path / "home"
    with open_home(home) as installation:
        create_sample_gallery(installation)
    for number in NUMBERS:
        mounted.set_rules({"scratch/:mkdir": number, "catalog.sqlite.lock:open": number})
        if number not in READABLE:
            with pytest.raises(InvalidInput, match=f"{home} cannot be used") as caught, open_home(home):
                pass
            assert errno.errorcode[number] in (caught.value.found or "")
            continue
        with open_home(home) as installation:
            assert [each.name for each in groups.list_groups(installation, ADMIN)] == [GROUP]
            with pytest.raises((StoreDenied, StoreFull), match="can be read only") as refused:
                groups.create_group(installation, ADMIN, name="other", location="eastus")
            assert errno.errorcode[number] in (refused.value.found or "")
            assert not str(installation.scratch).startswith(str(home))
    mounted.set_rules({})
    with open_home(home) as installation:
        assert [each.name for each in groups.list_groups(installation, ADMIN)] == [GROUP]


def test_a_settings_file(mounted: MountedFolder) -> None:
    home = mounted.path / "home"

    def act() -> None:
        with open_home(home):
            pass

    act()
    (home / "settings.toml").write_text("", encoding="utf-8")
    check_refusals(mounted, "settings.toml:open", act, InvalidInput)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_a_certificate_file(mounted: MountedFolder, name: str) -> None:
    certificate, key = issue("localhost").write(mounted.path / "tls")
    files = CertificateFiles(certificate, key)
    check_refusals(mounted, f"{name}:open", lambda: load_certificate(files), InvalidInput)


def test_a_store_of_a_region(mounted: MountedFolder, source: Path, tmp_path: Path) -> None:
    home = mounted.path / "home"
    with open_home(home, database=f"sqlite:///{tmp_path}/catalog.sqlite") as installation:
        create_sample_gallery(installation)

        def act() -> None:
            publish(installation, source, targets=["southcentralus"])

        check_refusals(mounted, "regions/:write", act, StoreError)
        assert set(states(show(installation)).values()) == {"Completed"}
        audit(installation)


def test_a_scratch_folder(mounted: MountedFolder, source: Path, tmp_path: Path) -> None:
    home = mounted.path / "home"
    with open_home(home, database=f"sqlite:///{tmp_path}/catalog.sqlite") as installation:
        create_sample_gallery(installation)
        check_refusals(
            mounted, "scratch/:mkdir", lambda: publish(installation, source, targets=["southcentralus"]), ImgstoreError
        )
        audit(installation)


def test_a_catalog(mounted: MountedFolder) -> None:
    """SQLite reports no number, so the error names the file and the check of the disk."""
    with open_home(mounted.path / "home") as installation:
        for number in (errno.EIO, errno.ENOSPC, errno.ESTALE):
            mounted.set_rules({"catalog.sqlite-wal:write": number})
            with pytest.raises(StoreError) as caught:
                groups.create_group(installation, ADMIN, name="g", location="eastus")
            assert "catalog.sqlite" in caught.value.message
            assert "space" in (caught.value.hint or "")
        mounted.set_rules({})
        groups.create_group(installation, ADMIN, name="g", location="eastus")


@pytest.mark.parametrize("operation", ["open", "read"])
def test_a_source(mounted: MountedFolder, tmp_path: Path, operation: str) -> None:
    source = make_raw(mounted.path / "disk.raw", seed=5, virtual_bytes=2 * MIB, content_bytes=MIB // 2)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        for number in NUMBERS:
            os.utime(source)  # The kernel drops the pages of a changed file.
            mounted.set_rules({f"disk.raw:{operation}": number})
            with pytest.raises(ImgstoreError) as caught:
                publish(installation, source, targets=["southcentralus"])
            assert errno.errorcode[number] in (caught.value.found or ""), str(caught.value)
            assert str(source) in caught.value.message


@pytest.mark.parametrize("operation", ["create", "write", "rename", "fsync"])
def test_an_export_target(mounted: MountedFolder, source: Path, tmp_path: Path, operation: str) -> None:
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, source, targets=["southcentralus"])
        make_disk(installation, "d1")

        def act() -> None:
            disks_export.export_disk(
                installation,
                ADMIN,
                group=GROUP,
                name="d1",
                path=mounted.path / "out.raw",
                format=DiskFormat.RAW,
                overwrite=True,
            )

        check_refusals(mounted, f"out.raw:{operation}", act, OutputError)
        assert (mounted.path / "out.raw").read_bytes() == source.read_bytes()
        assert os.listdir(mounted.path) == ["out.raw"]


# -- a home that can be read only -------------------------------------------------------------------------------------

VERSION: Final = f"-g {GROUP} -r {GALLERY} -i {DEFINITION}"
READING: Final = (
    f"sig show -g {GROUP} -r {GALLERY}",
    f"sig image-definition list -g {GROUP} -r {GALLERY}",
    f"sig image-version list {VERSION}",
    f"sig image-version show {VERSION} -e 1.0.0 --expand ReplicationStatus",
    "bill show",
    "settings show",
    "worker list",
    "gc --dry-run",
    "verify --file {disk} --image " + f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0",
    "disk export --gallery-image-reference " + f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0 --file {{out}}.raw",
)


@pytest.fixture
def read_only(tmp_path: Path, samples: SampleImages) -> Iterator[Path]:
    """A copy of the published home on a read-only mount, with a log of a killed process beside the catalog."""
    require("fuse")
    home = tmp_path / "backing" / "home"
    shutil.copytree(samples.home, home)
    catalog = sqlite3.connect(home / "catalog.sqlite")
    catalog.execute("PRAGMA wal_autocheckpoint = 0")
    catalog.execute("UPDATE groups SET location = 'westus2'")
    catalog.commit()
    shutil.copytree(home, tmp_path / "killed")
    catalog.close()
    shutil.rmtree(home)
    (tmp_path / "killed").rename(home)
    assert (home / "catalog.sqlite-wal").stat().st_size
    with mount_folder(tmp_path, {}, read_only=True) as mounted:
        yield mounted.path / "home"


def run(line: str, home: Path) -> Result:
    return CliRunner().invoke(main, [*shlex.split(line), "--home", str(home)], prog_name="imgstore")


def list_commands(command: click.Command = main, words: str = "") -> Iterator[str]:
    """Yield the commands that list something and need no option."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from list_commands(below, f"{words} {name}")
    elif words.rsplit(maxsplit=1)[-1].startswith("list") and not any(each.required for each in command.params):
        yield words


def test_reading_commands_on_a_read_only_home(read_only: Path, samples: SampleImages, tmp_path: Path) -> None:
    before = sorted(read_only.rglob("*"))
    lines = [*list_commands(), *(line.format(disk=samples.first, out=tmp_path / "out") for line in READING)]
    assert len(lines) > 20
    refused = {line: result.output for line in lines if (result := run(line, read_only)).exit_code}
    assert refused == {}
    assert json.loads(run("group list", read_only).stdout)[0]["location"] == "westus2", "the log was read, too"
    assert (tmp_path / "out.raw").read_bytes() == samples.first.read_bytes()
    assert sorted(read_only.rglob("*")) == before


def test_a_check_of_regions_names_the_read_only_home(read_only: Path) -> None:
    result = run("regions check", read_only)
    assert result.exit_code == 1
    assert "(EROFS)" in result.output
    assert "credentials" not in result.output


@pytest.mark.parametrize("line", ["group create -n new -l eastus", "worker --once", "gc --yes", "scrub"])
def test_other_commands_name_the_read_only_home(read_only: Path, line: str) -> None:
    result = run(line, read_only)
    assert result.exit_code == 1
    assert "(EROFS)" in result.output
    assert "writable" in result.output
    assert "unexpected" not in result.output


def test_a_read_only_home_without_a_catalog_and_without_temporary_files(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("group list", read_only / "regions")
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(read_only))
    result = run("group list", read_only)
    assert result.exit_code == 1
    assert "there is no folder for temporary files" in result.stderr
    assert "TMPDIR" in result.stderr


# -- the edges --------------------------------------------------------------------------------------------------------


def make_home(home: Path, kind: str) -> None:
    if kind == "file":
        home.write_text("x", encoding="utf-8")
    elif kind in ("dangling", "loop"):
        home.symlink_to("/nowhere/else" if kind == "dangling" else home)
    else:
        home.mkdir()
        if kind == "scratch":
            (home / kind).write_text("x", encoding="utf-8")
        else:
            (home / kind).mkdir()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "is a file"),
        ("dangling", "a symbolic link to /nowhere/else, which does not exist"),
        ("loop", "ELOOP"),
        ("scratch", "scratch is a file"),
        ("catalog.sqlite", "EISDIR"),
        ("settings.toml", "EISDIR"),
    ],
)
def test_a_home_that_is_something_else(kind: str, words: str, tmp_path: Path) -> None:
    make_home(tmp_path / "home", kind)
    result = run("group list", tmp_path / "home")
    assert result.exit_code == 1
    assert words in result.stderr
    assert str(tmp_path / "home") in result.stderr
    assert "unexpected" not in result.stderr
    assert "Errno" not in result.stderr


@pytest.mark.parametrize("home", ["/proc/imgstore", "/" + "x" * 300, "/dev/null/home"])
def test_a_home_that_cannot_exist(home: str) -> None:
    result = run("group list", Path(home))
    assert result.exit_code == 1
    assert "ERROR: (InvalidParameter) The data folder" in result.stderr


def test_too_many_open_files_are_named(tmp_path: Path) -> None:
    """Each limit of open files ends the command in order: with a result, or with an error that names the limit."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
    command = [sys.executable, "-m", "imgstore", "group", "list", "--home", str(tmp_path / "home")]
    ends = set()
    for limit in (6, 10, 15, 21):
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr or "imgstore/" not in done.stderr, done.stderr
        assert not done.returncode or "ulimit -n" in done.stderr or "Too many open files" in done.stderr
        ends.add(done.returncode)
    assert ends == {0, 1}


def test_a_process_without_free_descriptors_takes_no_live_process_for_dead() -> None:
    holder = this_process()
    dead = subprocess.Popen(["true"])
    dead_holder = "/".join([*holder.split("/")[:2], str(dead.pid), "1"])
    assert is_dead(dead_holder), "a process with another start"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = is_dead(holder), is_dead(dead_holder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == (False, False)
    dead.wait()
    assert (is_dead(holder), is_dead(dead_holder)) == (False, True)


def test_the_server_hides_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO), "/srv/secret/file")
    with open_home(tmp_path / "home") as installation:
        state = SimpleNamespace(server=SimpleNamespace(installation=installation))
        request: Any = SimpleNamespace(app=SimpleNamespace(state=state))
        answer = asyncio.run(_answer_os_error(request, error))
    assert answer.status_code == 503
    body = bytes(answer.body).decode()
    assert "HostFault" in body
    assert "secret" not in body
    assert "EIO" not in body
    assert "/srv/secret/file" in caplog.text, "the log of the server has the cause"
