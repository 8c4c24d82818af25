"""Tests of copies of an upload spool while a client writes: a copy has true ranges only, and holes stay holes."""

import os
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.transfer.spool import Spool
from imgstore.transfer.spool_snapshot import SpoolSnapshot, open_snapshot, write_snapshot

SIZE = 3 * MIB + 512
PAGE = 64 * KIB


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def restore(snapshot: SpoolSnapshot, folder: Path) -> None:
    """Write the copy, and close the snapshot."""
    with closing(snapshot):
        write_snapshot(folder, snapshot.journal, snapshot.file_bytes, snapshot.extents, snapshot.read())


def begin(folder: Path) -> SpoolSnapshot:
    snapshot = open_snapshot(folder)
    assert snapshot is not None
    return snapshot


LATER: dict[str, Callable[[Spool], None]] = {
    "other bytes": lambda spool: spool.write(0, [noise(PAGE, 9)]),
    "a part": lambda spool: spool.write(512, [noise(512, 9)]),
    "zeros": lambda spool: spool.write_zeros(0, PAGE),
    "bytes over zeros": lambda spool: spool.write(2 * PAGE, [noise(PAGE, 9)]),
    "everything cleared": lambda spool: spool.clear(),
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("later", LATER)
def test_a_range_that_changes_during_the_copy_counts_as_not_received(tmp_path: Path, later: str, sealed: bool) -> None:
    """A seal in the copied journal would make the changed bytes count."""
    live = Spool(tmp_path / "live", SIZE)
    live.write(0, [noise(PAGE, 1)])
    live.write(PAGE, [noise(PAGE, 2)])
    live.write_zeros(2 * PAGE, PAGE)
    if sealed:
        live.close()
        snapshot = begin(tmp_path / "live")
        live = Spool(tmp_path / "live", SIZE)
    else:
        snapshot = begin(tmp_path / "live")
    LATER[later](live)
    restore(snapshot, tmp_path / "copy")
    live.close()
    with closing(Spool(tmp_path / "copy", SIZE)) as copy:
        kept = {(each.offset, each.length) for each in copy.extents()}
        if later == "bytes over zeros":
            assert kept == {(0, PAGE), (PAGE, PAGE)}
        elif later == "everything cleared":
            assert kept == set()
        else:
            assert kept == {(PAGE, PAGE)}
        for offset, length in kept:
            assert copy.read_at(offset, length) == noise(length, 1 if offset == 0 else 2)
        copy.write(0, [noise(PAGE, 3)])
        assert copy.read_at(0, PAGE) == noise(PAGE, 3)


@pytest.mark.parametrize("seed", range(12))
def test_every_range_of_a_copy_has_the_bytes_of_the_moment_of_the_journal(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def act(spool: Spool) -> None:
        offset = rng.randrange(0, SIZE - PAGE) // 512 * 512
        length = rng.choice([512, 4096, PAGE])
        if rng.random() < 0.2:
            spool.write_zeros(offset, length)
        else:
            spool.write(offset, [noise(length, rng.randrange(1000))])

    with closing(Spool(tmp_path / "live", SIZE)) as live:
        for _ in range(30):
            act(live)
        before = live.read_at(0, SIZE)
        snapshot = begin(tmp_path / "live")
        for _ in range(rng.randrange(6)):
            act(live)
        restore(snapshot, tmp_path / "copy")
    with closing(Spool(tmp_path / "copy", SIZE)) as copy:
        assert copy.has_any
        for each in copy.extents():
            assert copy.read_at(each.offset, each.length) == before[each.offset : each.end]


def test_holes_stay_holes(tmp_path: Path) -> None:
    size = 64 * MIB + 512
    with closing(Spool(tmp_path / "live", size)) as live:
        live.write(32 * MIB, [noise(PAGE, 1)])
        live.write_zeros(40 * MIB, 8 * MIB)
        restore(begin(tmp_path / "live"), tmp_path / "copy")
    found = os.stat(tmp_path / "copy" / "data")
    assert (found.st_size, found.st_blocks * 512 <= 2 * PAGE) == (size, True)


def test_no_upload_is_no_snapshot(tmp_path: Path) -> None:
    assert open_snapshot(tmp_path / "missing") is None
    (tmp_path / "empty").mkdir()
    assert open_snapshot(tmp_path / "empty") is None
    (tmp_path / "empty" / "journal").write_bytes(b"IMGSTSPL")
    (tmp_path / "empty" / "data").write_bytes(b"")
    assert open_snapshot(tmp_path / "empty") is None
