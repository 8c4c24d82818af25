"""An installation on file systems that lack abilities (invariant E8)."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import InvalidInput, OutputError, StoreDenied, StoreError
from imgstore.operations.disks import export as disks_export
from imgstore.stores import DirectoryStore
from imgstore.testing import engines
from imgstore.testing.pytest_plugin import require
from tests.support.mounted_folder import NO_LINKS, NO_LOCKS, MountedFolder, mount_folder
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    collect,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

RACER = """
import sys
from pathlib import Path
from imgstore.domain.errors import Conflict
from imgstore.stores import DirectoryStore

store, name = DirectoryStore(Path(sys.argv[1])), sys.argv[2].encode()
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    try:
        store.put(f"contested/{number}", name * 4000, only_if_absent=True)
        print(number, flush=True)
    except Conflict:
        pass
"""


RACES = 60


def start_racer(root: Path, name: str) -> Any:
    words = [sys.executable, "-c", RACER, str(root), name, str(RACES)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def begin(racer: Any) -> None:
    racer.stdin.write(b"\n")
    racer.stdin.flush()


@pytest.fixture(scope="module")
def exfat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require("exfat")
    with engines.mount_exfat(tmp_path_factory.mktemp("exfat")) as mounted:
        yield mounted


@pytest.fixture
def without_links(tmp_path: Path) -> Iterator[MountedFolder]:
    with mount_folder(tmp_path, NO_LINKS) as mounted:
        yield mounted


@pytest.fixture
def without_locks(tmp_path: Path) -> Iterator[MountedFolder]:
    with mount_folder(tmp_path, NO_LOCKS | NO_LINKS) as mounted:
        yield mounted


def test_a_gallery_on_exfat(exfat: Path, samples: SampleImages) -> None:
    with open_home(exfat / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
        publish(installation, samples.second, "1.0.1", targets=["southcentralus", "eastus"])
        delete(installation, "1.0.1")
        collect(installation)
        make_disk(installation, "d1")
        target = exfat / "disk.raw"
        write = partial(disks_export.export_disk, installation, ADMIN, group=GROUP, name="d1", path=target)
        write(format=DiskFormat.RAW)
        write(format=DiskFormat.RAW, overwrite=True)
        with pytest.raises(OutputError, match="exists already"):
            write(format=DiskFormat.RAW)
        audit(installation, collected=True)
    assert target.read_bytes() == samples.first.read_bytes()
    assert [each.name for each in exfat.iterdir() if each.name.startswith(".")] == []


def test_one_of_several_processes_creates_an_object(without_links: MountedFolder) -> None:
    root = without_links.path / "store"
    racers = {name: start_racer(root, name) for name in ("a", "b", "c")}
    for racer in racers.values():
        begin(racer)
    won = {name: {int(line) for line in racer.communicate()[0].split()} for name, racer in racers.items()}
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(RACES))
    store = DirectoryStore(root)
    for name, numbers in won.items():
        assert all(store.get(f"contested/{number}") == name.encode() * 4000 for number in numbers)


def test_killed_processes_leave_whole_objects_and_no_lock(without_links: MountedFolder) -> None:
    root = without_links.path / "store"
    store = DirectoryStore(root)
    for name in ("a", "b", "c"):
        racer = start_racer(root, name)
        begin(racer)
        acknowledged = {int(racer.stdout.readline())}
        racer.kill()
        acknowledged |= {int(line) for line in racer.communicate()[0].split()}
        keys = [info.key for info in store.list("")]
        assert {f"contested/{number}" for number in acknowledged} <= set(keys)
        assert all(store.get(key) == name.encode() * 4000 for key in keys)
        store.put("contested/next", b"2", only_if_absent=True)
        store.delete([*keys, "contested/next"])


def test_a_home_without_locks_is_refused(without_locks: MountedFolder) -> None:
    home = without_locks.path / "home"
    with pytest.raises(InvalidInput, match="cannot lock files") as caught, open_home(home):
        pass
    assert str(home) in caught.value.message
    assert "fuse" in (caught.value.found or "")
    assert "has no file locks" in (caught.value.found or "")
    assert not (home / "catalog.sqlite").exists()
    assert list((home / "scratch").iterdir()) == []


def test_a_catalog_without_locks_is_refused(without_locks: MountedFolder, tmp_path: Path) -> None:
    file = without_locks.path / "catalog.sqlite"
    home = open_home(tmp_path / "home", database=f"sqlite:///{file}")
    with pytest.raises(StoreDenied, match="cannot lock files") as caught, home:
        pass
    assert "has no file locks" in (caught.value.found or "")
    assert not file.exists()


def test_a_store_without_links_and_locks_is_refused(
    without_links: MountedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FUSE locks folders in the kernel, so the test simulates the refusal, which NFS gives for folders."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    store = DirectoryStore(without_links.path / "store")
    monkeypatch.setattr(fcntl, "flock", refuse)
    store.put("a", b"1")
    with pytest.raises(StoreError) as caught:
        store.put("b", b"1", only_if_absent=True)
    assert "no hard links, no RENAME_NOREPLACE and no file locks" in (caught.value.found or "")
    assert [info.key for info in store.list("")] == ["a"]
