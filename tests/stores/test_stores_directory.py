"""Tests of directories beyond the contract: dead processes, full disks, missing permissions."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.errors import ObjectNotFound, StoreDenied, StoreError, StoreFull
from imgstore.stores import DirectoryStore

WRITER = """
import sys
from pathlib import Path
from imgstore.stores import DirectoryStore

store = DirectoryStore(Path(sys.argv[1]))
bodies = [bytes([number]) * (3_000_000 + number) for number in range(2)]
turn = 0
while True:
    store.put("same/key", bodies[turn % 2])
    store.put(f"new/{turn}", bodies[turn % 2])
    print(turn, flush=True)
    turn += 1
"""


def test_killed_writers_leave_no_partial_object(tmp_path: Path) -> None:
    """After kill -9 at any moment of a put, each object is whole, and every acknowledged object exists."""
    whole = {bytes([number]) * (3_000_000 + number) for number in range(2)}
    store = DirectoryStore(tmp_path)
    seed = Random(3)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(seed.randint(1, 6))]
        _spin(seed.randint(0, 200_000))  # so that it dies anywhere in its turn
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        process.wait()
        told = {info.key: info.stored_bytes for info in store.list("")}
        assert {"same/key", *(f"new/{turn}" for turn in acknowledged)} <= set(told)
        assert all(store.get(key) in whole for key in told)
        store.delete(key for key in told if key != "same/key")


def _spin(turns: int) -> None:
    for _ in range(turns):
        pass


def test_old_temporary_files_are_removed(tmp_path: Path) -> None:
    """A put takes less than a day. A younger file may belong to another process."""
    temporaries = tmp_path / ".tmp"
    temporaries.mkdir()
    old, young = temporaries / "old", temporaries / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1_700_000_000, 1_700_000_000))
    store = DirectoryStore(tmp_path)
    assert not list(store.list(""))
    store.put("a", b"1")
    assert not old.exists()
    assert young.exists()
    assert [info.key for info in store.list("")] == ["a"]


def test_a_put_syncs_the_bytes_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fsync is for the bytes, before the rename, and one for the name.

    Each new folder is synced once in its parent.
    """
    store = DirectoryStore(tmp_path / "root")
    synced = _record(monkeypatch)
    store.put("a/b/first", b"1")
    root = str(tmp_path / "root")
    assert {str(tmp_path), root, f"{root}/a", f"{root}/a/b"} <= set(synced)
    synced.clear()
    store.put("a/b/second", b"1")
    store.put("a/b/second", b"2")
    assert [path.startswith(f"{root}/.tmp/") or path for path in synced] == [True, f"{root}/a/b"] * 2
    synced.clear()
    store.delete(["a/b/first", "a/b/second", "a/b/third"])
    assert synced == [f"{root}/a/b"]


def test_every_folder_up_to_the_home_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of other processes are synced, too, because those processes may not have synced them yet."""
    home = tmp_path / "home"
    zone = home / "regions" / "bucket" / "zone-1"
    zone.parent.mkdir(parents=True)
    synced = _record(monkeypatch)
    DirectoryStore(zone, home=home).put("a", b"1")
    assert {str(home), str(home / "regions"), str(home / "regions" / "bucket"), str(zone)} <= set(synced)


def test_a_new_home_is_synced_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = _record(monkeypatch)
    with open_installation(Settings(home=tmp_path / "above" / "home", environ={})):
        pass
    assert {str(tmp_path), str(tmp_path / "above"), str(tmp_path / "above" / "home")} <= set(synced)


def _record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


def test_bytes_are_durable_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync leaves neither the object nor the temporary file."""
    store = DirectoryStore(tmp_path)
    store.put("warm", b"1")

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError) as raised:
        store.put("a", b"1")
    assert "EIO" in str(raised.value)
    assert not (tmp_path / "a").exists()
    assert not list((tmp_path / ".tmp").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], disk):
        yield disk


@contextmanager
def _mounted(arguments: list[str], at: Path) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no right to mount a file system: {done.stderr.strip()}")
    yield
    subprocess.run(["umount", str(at)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing(small_disk: Path) -> None:
    """The error names the problem, no part of the object stays, smaller objects still fit, and existing objects are
    readable."""
    store = DirectoryStore(small_disk)
    store.put("first", b"1" * 500_000)
    with pytest.raises(StoreFull) as raised:
        store.put("second", b"2" * 3_000_000)
    assert "ENOSPC" in str(raised.value)
    assert str(small_disk) in str(raised.value)
    assert not list((small_disk / ".tmp").iterdir())
    assert [info.key for info in store.list("")] == ["first"]
    store.put("third", b"3" * 500_000)
    assert store.get("first") == b"1" * 500_000


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files simulates a full disk without root."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from imgstore.stores import DirectoryStore\n"
        "from imgstore.domain.errors import StoreFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "store = DirectoryStore(Path(sys.argv[1]))\n"
        "try: store.put('a', bytes(2000))\n"
        "except StoreFull as error: print(error)\n"
        "assert not list(store.list('')); store.put('a', bytes(900))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "EFBIG" in done.stdout


def test_a_read_only_file_system_is_denied(small_disk: Path) -> None:
    """A read-only file system refuses root, too."""
    store = DirectoryStore(small_disk)
    store.put("a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for call in (
        lambda: store.put("b", b"1"),
        lambda: store.delete(["a"]),
        lambda: DirectoryStore(small_disk).put("c", b""),
    ):
        with pytest.raises(StoreDenied) as raised:
            call()
        assert "EROFS" in str(raised.value)
    assert store.get("a") == b"1"


@pytest.mark.parametrize("call", [lambda store: store.put("a", b"2"), lambda store: store.get("a")])
def test_a_missing_permission_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[DirectoryStore], object]
) -> None:
    """Root has all permissions, so the test simulates the refusal."""
    store = DirectoryStore(tmp_path)
    store.put("a", b"1")
    real = os.open

    def refuse(path: str, *arguments: Any) -> int:
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreDenied) as raised:
        call(store)
    monkeypatch.undo()
    assert "EACCES" in str(raised.value)
    assert store.get("a") == b"1"


def test_removed_folders_are_created_again(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    store.put("a/b", b"1")
    (tmp_path / "root" / "a" / "b").unlink()
    (tmp_path / "root" / "a").rmdir()
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"


def test_an_object_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """The error names the conflict instead of a missing object."""
    store = DirectoryStore(tmp_path)
    store.put("a", b"1")
    store.put("b/c", b"1")
    for key in ("a/b", "b"):
        with pytest.raises(StoreError) as raised:
            store.put(key, b"2")
        assert not isinstance(raised.value, ObjectNotFound)
    assert not list((tmp_path / ".tmp").iterdir())
    assert [info.key for info in store.list("")] == ["a", "b/c"]


def test_a_read_creates_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    assert not list(store.list("a/"))
    with pytest.raises(ObjectNotFound):
        store.get("a")
    store.delete(["a"])
    assert not (tmp_path / "root").exists()


def test_a_pipe_in_place_of_an_object_is_not_found(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    os.mkfifo(tmp_path / "FORMAT")
    with pytest.raises(ObjectNotFound):
        store.head("FORMAT")
    with pytest.raises(ObjectNotFound):
        store.get("FORMAT")


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(DirectoryStore.pin, id="check of the zone"),
        pytest.param(lambda store: store.prune("a/"), id="removal of empty folders"),
        pytest.param(lambda store: store.put("a/c", b"3"), id="put into a removed folder"),
    ],
)
def test_an_act_of_another_thread_waits_for_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[DirectoryStore], object]
) -> None:
    """Each act forgets the folders that the put has made durable."""
    store = DirectoryStore(tmp_path / "root")
    store.put("a/b", b"1")
    shutil.rmtree(tmp_path / "root" / "a")
    ensure, others = store._ensure_durable, list[threading.Thread]()

    def act_during_put(folder: str) -> None:
        if not others:
            others.append(threading.Thread(target=act, args=(store,)))
            others[0].start()
            others[0].join(0.2)
        ensure(folder)

    monkeypatch.setattr(store, "_ensure_durable", act_during_put)
    store.put("c/d", b"2")
    others[0].join()
    assert store.get("c/d") == b"2"
