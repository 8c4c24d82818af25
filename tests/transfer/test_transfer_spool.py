"""Tests of upload spools: received ranges, and their state after a crash."""

import os
import random
import resource
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.domain.errors import WorkHeld
from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.formats.files import holes
from imgstore.transfer import spool as spool_module
from imgstore.transfer.crc64 import crc64
from imgstore.transfer.spool import Spool, remove_spool, spool_folder

SIZE = 3 * MIB + 512


def send(spool: Spool, offset: int, data: bytes) -> None:
    """Write in parts, like the blob endpoint."""
    cut = len(data) // 3
    spool.write(offset, [data[:cut], data[cut:]])


def crash(spool: Spool) -> None:
    """Close the files without a seal, like a killed process."""
    for fd in (spool._journal, spool._file, spool._lock_fd):
        os.close(fd)
    spool._open = False


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def ranges(spool: Spool) -> list[tuple[int, int]]:
    return [(each.offset, each.end) for each in spool.extents()]


def test_received_ranges_survive_a_seal_and_a_crash(tmp_path: Path) -> None:
    for end in (Spool.close, crash):
        remove_spool(tmp_path, "d")
        spool = Spool(spool_folder(tmp_path, "d"), SIZE)
        send(spool, 0, noise(MIB))
        send(spool, MIB, bytes(MIB))
        send(spool, 2 * MIB + 512, noise(512, 2))
        assert spool.received_bytes == 2 * MIB
        end(spool)
        with closing(Spool(spool_folder(tmp_path, "d"), SIZE)) as again:
            assert again.received_bytes == 2 * MIB
            assert ranges(again) == [(0, MIB), (2 * MIB + 512, 2 * MIB + 1024)]
            assert again.read_at(0, SIZE) == noise(MIB) + bytes(MIB + 512) + noise(512, 2) + bytes(MIB - 512)


def test_after_a_crash_a_range_without_its_bytes_is_withdrawn(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "d", SIZE)
    send(spool, 0, noise(MIB))
    send(spool, MIB, noise(MIB, 2))
    crash(spool)
    with spool.path.open("r+b") as file:
        file.seek(MIB + 77)
        file.write(b"\0\0\0\0")
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert again.received_bytes == MIB
        assert again.read_at(MIB, MIB) == bytes(MIB)


def test_bytes_without_a_record_read_as_zeros(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "d", SIZE)
    with spool.path.open("r+b") as file:
        file.write(b"half a page")
    assert not spool.has_any
    assert spool.read_at(0, 512) == bytes(512)
    send(spool, 0, bytes(MIB))
    assert spool.path.read_bytes()[:512] == bytes(512), "received zeros replace the bytes of a broken write"
    spool.close()


def test_a_spool_stays_open_until_the_last_thread_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "d", SIZE)
    begun, check_cancelled = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(fd: int, data: bytes, offset: int) -> int:
        begun.set()
        check_cancelled.wait(10)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    writer = threading.Thread(target=spool.write, args=(0, [noise(KIB)]))
    writer.start()
    begun.wait(10)
    spool.close()
    with pytest.raises(WorkHeld):
        Spool(tmp_path / "d", SIZE)
    with pytest.raises(OSError, match="closed"):
        spool.write(KIB, [noise(KIB)])
    check_cancelled.set()
    writer.join()
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert again.received_bytes == KIB


def test_a_torn_record_ends_the_journal(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "d", SIZE)
    send(spool, 0, noise(KIB))
    send(spool, KIB, noise(KIB, 2))
    crash(spool)
    journal = tmp_path / "d" / "journal"
    journal.write_bytes(journal.read_bytes()[:-3])
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert again.received_bytes == KIB
        send(again, KIB, noise(KIB, 2))
    with closing(Spool(tmp_path / "d", SIZE)) as third:
        assert third.received_bytes == 2 * KIB


def test_a_new_journal_has_a_whole_header_when_the_kernel_writes_fewer_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pwrite = os.write, os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        patch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:5], offset))
        spool = Spool(tmp_path / "d", SIZE)
    send(spool, 0, noise(MIB))
    crash(spool)
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert ranges(again) == [(0, MIB)]


def test_a_broken_overwrite_withdraws_only_its_own_range(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "d", SIZE)
    send(spool, 0, noise(MIB))
    spool.begin_write(4 * KIB, 8 * KIB)
    with spool.path.open("r+b") as file:
        file.seek(5 * KIB)
        file.write(b"broken")
    crash(spool)
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert ranges(again) == [(0, 4 * KIB), (12 * KIB, MIB)]
        assert again.read_at(0, MIB) == noise(MIB)[: 4 * KIB] + bytes(8 * KIB) + noise(MIB)[12 * KIB :]


def test_one_process_opens_a_spool_at_a_time(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "d", SIZE)), pytest.raises(WorkHeld, match="in use"):
        Spool(tmp_path / "d", SIZE)
    asked = []
    first = Spool(tmp_path / "d", SIZE)

    def patience() -> bool:
        asked.append(1)
        first.close()
        return True

    Spool(tmp_path / "d", SIZE, keep_waiting=patience).close()
    assert asked


def test_a_spool_that_is_removed_during_the_wait_is_made_again(tmp_path: Path) -> None:
    """The lock of the removed file would exclude no other process."""
    first = Spool(spool_folder(tmp_path, "d"), SIZE)

    def remove_first() -> bool:
        first.close()
        remove_spool(tmp_path, "d")
        return True

    second = Spool(spool_folder(tmp_path, "d"), SIZE, keep_waiting=remove_first)
    with closing(second), pytest.raises(WorkHeld, match="in use"):
        Spool(spool_folder(tmp_path, "d"), SIZE)


def test_the_identity_depends_on_the_received_ranges(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "d", SIZE)) as spool:
        empty = spool.identity()
        send(spool, 0, noise(KIB))
        first = spool.identity()
        spool.clear()
        assert spool.identity() == empty
        send(spool, 0, noise(KIB))
        assert spool.identity() == first != empty


WRITES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from(["data", "zeros", "seal", "crash", "clear"])),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
@pytest.mark.parametrize("records_kept", [spool_module._RECORDS_KEPT, 1], ids=["as-is", "rewritten"])
def test_any_order_of_writes_reads_back(
    writes: list[tuple[int, int, str]],
    records_kept: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool_module, "_RECORDS_KEPT", records_kept)
    folder, size, revision = tmp_path_factory.mktemp("spool"), 32 * 512, 0
    spool, model, arrived = Spool(folder, size), bytearray(size), [False] * 32
    for turn, (page, count, what) in enumerate(writes):
        begin, end = page * 512, min(size, (page + count) * 512)
        if what in ("seal", "crash"):
            spool.close() if what == "seal" else crash(spool)
            spool = Spool(folder, size)
        elif what == "clear":
            spool.clear()
            model, arrived = bytearray(size), [False] * 32
        else:
            data = noise(end - begin, turn) if what == "data" else bytes(end - begin)
            send(spool, begin, data)
            model[begin:end] = data
            arrived[begin // 512 : end // 512] = [True] * ((end - begin) // 512)
        assert spool.read_at(0, size) == bytes(model)
        assert spool.received_bytes == 512 * (arrived.index(False) if False in arrived else 32)
        assert spool.revision >= revision, "an ETag is never used again"
        revision = spool.revision
    spool.close()


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("punches", [True, False], ids=["holes", "zeros"])
def test_clearing_takes_no_disk_space(punches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without holes in the file system, only ranges with data are overwritten."""
    if not punches:
        monkeypatch.setattr(holes, "_punch", lambda *_where: False)
    size = 1 << 30
    with closing(Spool(tmp_path / "d", size)) as spool:
        send(spool, 512, noise(MIB))
        spool.write_zeros(0, size)
        assert used_bytes(spool.path) <= 2 * MIB * (not punches)
        assert spool.read_at(0, 2 * MIB) == bytes(2 * MIB)
        assert spool.received_bytes == size
        assert list(spool.extents()) == []
        send(spool, 0, bytes(2 * MIB))
        assert used_bytes(spool.path) <= 2 * MIB * (not punches), "written zeros stay holes"


def test_clearing_a_part_of_a_block_keeps_the_rest(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "d", SIZE)) as spool:
        send(spool, 0, noise(MIB))
        spool.write_zeros(512, 1024)
        assert spool.read_at(0, MIB) == noise(MIB)[:512] + bytes(1024) + noise(MIB)[1536:]


def test_repeated_pages_do_not_grow_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_RECORDS_KEPT", 100)
    spool = Spool(tmp_path / "d", SIZE)
    for turn in range(2_000):
        send(spool, turn % 4 * 512, noise(512, turn))
    crash(spool)
    assert (tmp_path / "d" / "journal").stat().st_size < 110 * 32
    with closing(Spool(tmp_path / "d", SIZE)) as again:
        assert again.revision == spool.revision
        assert again.read_at(0, 2048) == b"".join(noise(512, turn) for turn in range(1_996, 2_000))


def test_a_record_that_finds_no_space_does_not_hide_later_records(tmp_path: Path) -> None:
    """The limit of the file size replaces a full disk: a write stores part of a record, then nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    spool = Spool(tmp_path / "d", 2048)
    send(spool, 0, noise(512))
    record = (tmp_path / "d" / "journal").stat().st_size + 7
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (record, before[1]))
        with pytest.raises(OSError, match="No space"):
            spool.write_zeros(512, 512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    send(spool, 512, noise(512, 2))
    spool.close()
    with closing(Spool(tmp_path / "d", 2048)) as again:
        assert again.received_bytes == 1024


def bitwise(data: bytes) -> int:
    register = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x9A6C9329AC4BC9B5 if register & 1 else 0)
    return register ^ 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize("length", [0, 1, 512, 4095, 4096, 4097, 3 * 4096 + 5])
def test_the_crc_agrees_with_the_definition(length: int) -> None:
    assert crc64(noise(length)) == bitwise(noise(length))


def test_the_crc_has_the_published_check_value() -> None:
    assert crc64(b"123456789") == 0xAE8B14860A799888
