"""The segment cache of a host: real processes, kills, rot, full disks and hostile folders."""

import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.sizes import KIB, MIB, SEGMENT_BLOCKS
from imgstore.transfer.segment_cache import SegmentCache
from imgstore.transfer.segment_cache.segment_file import file_bytes
from tests.support.cache_process import SEGMENTS, Source, segment_content, segment_name

LIMIT = 2 * MIB
CHUNK = 64 * KIB


class Fetcher:
    """A source in memory that counts."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __call__(self, number: int) -> Callable[[], memoryview]:
        def get() -> memoryview:
            self.fetched.append(number)
            return memoryview(segment_content(number))

        return get


def stored(number: int) -> Callable[[], memoryview]:
    return lambda: memoryview(segment_content(number))


def refuse() -> memoryview:
    raise AssertionError("the segment is in the cache")


def files(folder: Path) -> list[Path]:
    return [each for each in (folder / "segments-1").iterdir() if each.name not in {"usage", "flights"}]


def file_of(folder: Path, number: int) -> Path:
    return folder / "segments-1" / f"shared-{segment_name(number).hex()}"


def read(cache: SegmentCache, number: int, fetch: Callable[[], memoryview]) -> None:
    assert cache.blocks(segment_name(number), fetch) == segment_content(number)


def send(cache: SegmentCache, number: int, offset: int, length: int, fetch: Callable[[], memoryview]) -> bytes:
    with cache.locate(segment_name(number), offset, length, fetch) as part:
        return os.pread(part.descriptor, part.length, part.position)


# -- one process


def test_a_part_is_read_from_the_file_and_fetched_once(tmp_path: Path) -> None:
    cache, source = SegmentCache(tmp_path / "c"), Fetcher()
    whole = segment_content(9)
    for offset, length in ((0, 1), (4095, 4098), (65535, 2), (len(whole) - 1, 1), (0, len(whole))):
        assert cache.read(segment_name(9), offset, length, source(9)) == whole[offset : offset + length]
        assert send(cache, 9, offset, length, source(9)) == whole[offset : offset + length]
    assert source.fetched == [9]
    read(SegmentCache(tmp_path / "c"), 9, refuse)
    assert not SegmentCache(tmp_path / "c", namespace="other").holds(segment_name(9))
    assert (tmp_path / "c" / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    for each in (tmp_path / "c" / "segments-1", *files(tmp_path / "c")):
        assert not stat.S_IMODE(each.stat().st_mode) & 0o077


def test_the_least_recently_read_segment_is_evicted_first(tmp_path: Path) -> None:
    times = iter(range(1_000_000))
    size = file_bytes(SEGMENT_BLOCKS * 4096) + 4096
    cache = SegmentCache(
        tmp_path, 3 * size, monotonic=lambda: float(2 * next(times)), now_ns=lambda: next(times) * 10**9
    )
    blocks = memoryview(bytes(4 * MIB))
    names = [segment_name(number) for number in range(5)]
    for name in names[:3]:
        cache.blocks(name, lambda: blocks)
    cache.read(names[0], 0, 1, refuse)
    cache.blocks(names[3], lambda: blocks)
    assert [cache.holds(name) for name in names] == [True, False, True, True, False]


_operation = st.one_of(
    st.tuples(st.just("read"), st.integers(0, SEGMENTS - 1), st.integers(0, 1 << 20), st.integers(1, 1 << 20)),
    st.tuples(st.just("send"), st.integers(0, SEGMENTS - 1), st.integers(0, 1 << 20), st.integers(1, 1 << 20)),
    st.tuples(st.sampled_from(["open", "other", "clear", "leftover"]), st.just(0), st.just(0), st.just(0)),
    st.tuples(
        st.sampled_from(["flip", "cut", "remove", "lose", "miscount"]),
        st.integers(0, SEGMENTS - 1),
        st.integers(0),
        st.just(0),
    ),
)


@given(st.lists(_operation, max_size=25), st.lists(st.integers(0, LIMIT), min_size=2, max_size=2))
def test_any_operations_with_two_limits_return_the_stored_bytes(
    operations: list[tuple[str, int, int, int]], limits: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "c"
        caches = [SegmentCache(place, limit) for limit in limits]
        for kind, number, offset, length in operations:
            whole, cache = segment_content(number), caches[0]
            begin = offset % len(whole)
            part = whole[begin : begin + length]
            fetch = lambda whole=whole: memoryview(whole)  # noqa: E731
            path = file_of(place, number)
            if kind == "read":
                assert cache.read(segment_name(number), begin, len(part), fetch) == part
                if not cache.holds(segment_name(number)):
                    assert file_bytes(len(whole)) > cache.cache_bytes - 4096
            elif kind == "send":
                assert send(cache, number, begin, len(part), fetch) == part
            elif kind == "open":
                caches[0] = SegmentCache(place, cache.cache_bytes)
            elif kind == "other":
                caches.reverse()
            elif kind == "clear" and place.exists():
                cache.clear()
                assert not files(place)
            elif kind == "leftover" and place.exists():
                (place / "segments-1" / "new-1-1").write_bytes(b"left by a dead process")
            elif kind == "lose" and place.exists():
                (place / "segments-1" / "usage").write_bytes(offset.to_bytes(100, "little"))
            elif kind == "miscount" and (place / "segments-1" / "usage").exists():
                damage(place / "segments-1" / "usage", "flip", offset)
            elif path.exists():
                damage(path, kind, offset)
            if place.exists():
                assert caches[0].cache_bytes == 0 or caches[0].measure().used_bytes <= max(limits) + 4096


def damage(path: Path, kind: str, offset: int) -> None:
    if not path.stat().st_size:
        return
    if kind == "remove":
        path.unlink()
    elif kind == "cut":
        os.truncate(path, offset % path.stat().st_size)
    else:
        with open(path, "r+b") as file:
            file.seek(offset % path.stat().st_size)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << offset % 8]))


def test_rot_in_each_chunk_is_detected_and_fetched_again(tmp_path: Path) -> None:
    """Invariant D12: each read verifies the chunks that it returns, also of a file that is open."""
    whole = random.Random(1).randbytes(4 * MIB)
    name, path = segment_name(0), file_of(tmp_path, 0)
    cache, fetched = SegmentCache(tmp_path), 0

    def fetch() -> memoryview:
        nonlocal fetched
        fetched += 1
        return memoryview(whole)

    def located(offset: int, length: int) -> bytes:
        with cache.locate(name, offset, length, fetch) as part:
            return os.pread(part.descriptor, part.length, part.position)

    cache.blocks(name, fetch)
    for chunk in range(len(whole) // CHUNK):
        damage(path, "flip", chunk * CHUNK + chunk * 977 % CHUNK)
        intact = (chunk + 1) * CHUNK % len(whole)
        assert cache.read(name, intact, 4096, refuse) == whole[intact : intact + 4096], "the rot is elsewhere"
        readers = (
            lambda at: cache.read(name, at, 4096, fetch),
            lambda at: located(at, 4096),
            lambda at: cache.blocks(name, fetch)[at : at + 4096],
        )
        at = chunk * CHUNK
        assert readers[chunk % 3](at) == whole[at : at + 4096]
        assert fetched == chunk + 2
    for at in range(len(whole), path.stat().st_size, 37):
        damage(path, "flip", at)
        cache = SegmentCache(tmp_path)
        assert cache.read(name, 0, 1, fetch) == whole[:1]
    assert fetched == 1 + len(whole) // CHUNK + len(range(len(whole), path.stat().st_size, 37))


def test_a_located_part_outlives_its_eviction(tmp_path: Path) -> None:
    cache, other = SegmentCache(tmp_path), SegmentCache(tmp_path)
    whole = segment_content(5)
    with cache.locate(segment_name(5), 100, 5000, lambda: memoryview(whole)) as part:
        assert other.clear().segments == 1
        assert not files(tmp_path)
        assert os.pread(part.descriptor, part.length, part.position) == whole[100:5100]
    assert cache.read(segment_name(5), 0, 1, lambda: memoryview(whole)) == whole[:1]


def test_an_eviction_frees_the_space_of_files_that_are_open(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path)
    read(cache, 5, stored(5))
    descriptor = os.open(file_of(tmp_path, 5), os.O_RDONLY)
    try:
        SegmentCache(tmp_path).clear()
        assert os.fstat(descriptor).st_blocks == 0
    finally:
        os.close(descriptor)
    source = Fetcher()
    read(cache, 5, source(5))
    assert source.fetched == [5]


def test_an_eviction_leaves_a_file_that_a_process_writes(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path)
    read(cache, 1, stored(1))
    new = tmp_path / "segments-1" / "new-77-1"
    with new.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.clear().segments == 1
        assert files(tmp_path) == [new]
    cache.clear()
    assert not files(tmp_path)


def test_a_damaged_count_is_corrected_before_the_limit_is_exceeded(tmp_path: Path) -> None:
    """Invariant D13."""
    limit = 400 * KIB
    cache = SegmentCache(tmp_path, limit)
    for number in (4, 5):
        read(cache, number, stored(number))
    with open(tmp_path / "segments-1" / "usage", "r+b") as file:
        file.seek(8)
        file.write(bytes(8))  # "Nothing is used", without the matching hash.
    read(cache, 6, stored(6))
    assert 0 < cache.measure().used_bytes <= limit


def test_threads_fetch_a_segment_once_and_can_be_cancelled(tmp_path: Path) -> None:
    cache, may_end, fetched = SegmentCache(tmp_path), threading.Event(), [0]
    whole = segment_content(3)

    def fetch() -> memoryview:
        fetched[0] += 1
        may_end.wait()
        return memoryview(whole)

    def cancel() -> None:
        raise InterruptedError

    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(bytes(cache.read(segment_name(3), 0, 9, fetch))))
        for _ in range(20)
    ]
    threads[0].start()
    while not fetched[0]:
        pass
    for each in threads[1:]:
        each.start()
    with pytest.raises(InterruptedError):
        cache.read(segment_name(3), 0, 1, refuse, cancel)
    may_end.set()
    for each in threads:
        each.join()
    assert results == [whole[:9]] * 20
    assert fetched == [1]


def test_a_failed_fetch_fails_no_other_reader(tmp_path: Path) -> None:
    cache, fetching, may_end = SegmentCache(tmp_path), threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def fail() -> memoryview:
        fetching.set()
        may_end.wait()
        raise OSError("no store")

    def first() -> None:
        with pytest.raises(OSError, match="no store") as raised:
            cache.read(segment_name(1), 0, 1, fail)
        failures.append(raised.value)

    thread = threading.Thread(target=first)
    thread.start()
    fetching.wait()
    results: list[bytes] = []
    second = threading.Thread(
        target=lambda: results.append(bytes(cache.read(segment_name(1), 0, 1, stored(1), may_end.set)))
    )
    second.start()
    for each in (thread, second):
        each.join()
    assert results == [segment_content(1)[:1]]
    assert len(failures) == 1
    read(cache, 1, stored(1))


# -- several processes


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.support.cache_process", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def start(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()


def test_processes_fetch_each_segment_once(tmp_path: Path) -> None:
    """Invariant D13."""
    folder = tmp_path / "c"
    with process("hammer", folder, 1, 1 << 30, 80) as one, process("hammer", folder, 2, 1 << 30, 80) as two:
        start([one, two])
        assert [each.wait() for each in (one, two)] == [0, 0]
    assert sorted(Source(folder).fetched()) == list(range(SEGMENTS))


def test_processes_that_evict_and_die_leave_no_wrong_byte(tmp_path: Path) -> None:
    folder, limit = tmp_path / "c", MIB
    with (
        process("hammer", folder, 3, limit, 400) as one,
        process("hammer", folder, 4, limit, 400) as two,
        process("hammer", folder, 5, limit // 2, 1_000_000) as victim,
    ):
        start([one, two, victim])
        while len(Source(folder).fetched()) < 100:
            assert victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        assert [each.wait() for each in (one, two)] == [0, 0]
    cache = SegmentCache(folder, limit)
    assert cache.measure().used_bytes <= limit
    for number in range(SEGMENTS):
        read(cache, number, stored(number))
    assert not [each for each in files(folder) if each.name.startswith("new-")]


def test_a_kill_at_each_step_leaves_a_cache_that_works(tmp_path: Path) -> None:
    with process("steps", tmp_path / "c", 500 * KIB) as child:
        assert child.stdout is not None
        printed = child.stdout.read()
        assert child.wait() == 0
    assert int(printed) > 100


def test_a_killed_fetcher_releases_the_segment(tmp_path: Path) -> None:
    with process("hold", tmp_path, 2) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"fetching\n"
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            child.kill()
            child.wait()

        source = Fetcher()
        read(SegmentCache(tmp_path, pause=pause), 2, source(2))
        assert source.fetched == [2]
        assert len(pauses) == 1


def test_a_frozen_fetcher_is_waited_for_a_limited_time(tmp_path: Path) -> None:
    with process("hold", tmp_path, 2) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"fetching\n"
        pauses: list[float] = []
        source = Fetcher()
        with pytest.raises(InterruptedError):
            SegmentCache(tmp_path, pause=pauses.append).blocks(segment_name(2), refuse, _cancel)
        assert not pauses
        read(SegmentCache(tmp_path, pause=pauses.append), 2, source(2))
        assert source.fetched == [2]
        assert 14 < sum(pauses) < 16


def _cancel() -> None:
    raise InterruptedError


# -- faults of the folder


def faulty(folder: Path, limit: int = LIMIT, **more: object) -> tuple[SegmentCache, list[str]]:
    faults: list[str] = []
    options: dict[str, Any] = {"on_fault": faults.append, "pause": lambda _seconds: None, **more}
    return SegmentCache(folder, limit, **options), faults


def check_reads_go_on(cache: SegmentCache) -> None:
    for number in (0, 1, 0, 1):
        read(cache, number, stored(number))
        assert send(cache, number, 7, 9, stored(number)) == (segment_content(number)[7:16])


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_once_and_stops_no_read(full_disk: Path) -> None:
    cache, faults = faulty(full_disk / "c")
    for number in (*range(SEGMENTS), *range(SEGMENTS)):
        read(cache, number, stored(number))
    assert len(faults) == 1
    assert "No space left" in faults[0]
    assert not [each for each in files(full_disk / "c") if each.name.startswith("new-")]
    cache.close()


def test_without_room_the_last_segments_are_kept_in_memory(tmp_path: Path) -> None:
    """Otherwise each read of 4 KiB would fetch a segment."""
    cache, faults = faulty(tmp_path / "c", has_room=lambda _bytes: False)
    check_reads_go_on(cache)
    assert len(faults) == 1
    assert "keeps a reserve" in faults[0]
    assert not files(tmp_path / "c")
    fetch = Fetcher()
    for number in (2, 3, 4, 5, 5, 4, 3, 2, 6, 3, 5):
        read(cache, number, fetch(number))
        found = cache.find(segment_name(number), 5, 9)
        assert found is not None
        assert found == segment_content(number)[5:14]
        assert send(cache, number, 7, 9, refuse) == segment_content(number)[7:16]
        assert not cache.holds(segment_name(number))
    assert fetch.fetched == [2, 3, 4, 5, 6, 5], "four segments are kept"
    cache.clear()
    read(cache, 3, fetch(3))
    assert fetch.fetched[-1] == 3
    cache.close()


def test_without_a_limit_nothing_is_kept(tmp_path: Path) -> None:
    cache, faults = faulty(tmp_path / "c", 0)
    check_reads_go_on(cache)
    fetch = Fetcher()
    for _ in range(2):
        read(cache, 2, fetch(2))
    assert fetch.fetched == [2, 2]
    assert not faults
    assert not (tmp_path / "c").exists()


def test_a_file_in_place_of_the_folder_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"")
    cache, faults = faulty(tmp_path / "c")
    check_reads_go_on(cache)
    assert len(faults) == 1


def test_a_deleted_folder_is_made_again(tmp_path: Path) -> None:
    cache, faults = faulty(tmp_path / "c")
    read(cache, 1, stored(1))
    for each in sorted((tmp_path / "c").rglob("*"), reverse=True):
        each.unlink() if each.is_file() else each.rmdir()
    (tmp_path / "c").rmdir()
    check_reads_go_on(cache)
    read(cache, 2, stored(2))
    assert not faults
    assert cache.holds(segment_name(2))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")
def test_folders_and_files_of_other_users_are_not_used(tmp_path: Path) -> None:
    for name in ("open", "given", "inner", "files"):
        (tmp_path / name / "segments-1").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    os.chown(tmp_path / "given", 12345, 12345)
    os.chown(tmp_path / "inner" / "segments-1", 12345, 12345)
    for name in ("open", "given", "inner"):
        cache, faults = faulty(tmp_path / name)
        check_reads_go_on(cache)
        assert len(faults) == 1, name
        assert not files(tmp_path / name)
    cache, faults = faulty(tmp_path / "files")
    read(cache, 0, stored(0))
    os.chown(file_of(tmp_path / "files", 0), 12345, 12345)
    source = Fetcher()
    read(SegmentCache(tmp_path / "files"), 0, source(0))
    assert source.fetched == [0]


def test_links_pipes_and_foreign_files_are_never_read_or_changed(tmp_path: Path) -> None:
    folder, victim = tmp_path / "c", tmp_path / "victim"
    cache, faults = faulty(folder)
    read(cache, 0, stored(0))
    content = file_of(folder, 0).read_bytes()
    victim.write_bytes(content)
    layout = folder / "segments-1"
    (layout / "notes.txt").write_bytes(b"mine")
    (folder / "segments-2").mkdir()
    (folder / "segments-2" / "x").write_bytes(b"newer")
    for make in (
        lambda path: path.symlink_to(victim),
        lambda path: path.hardlink_to(victim),
        os.mkfifo,
    ):
        file_of(folder, 0).unlink()
        make(file_of(folder, 0))
        source = Fetcher()
        read(SegmentCache(folder, LIMIT), 0, source(0))
        assert source.fetched == [0]
        assert victim.read_bytes() == content
        file_of(folder, 0).unlink()
        make(file_of(folder, 0))
        cache.clear()
        assert victim.read_bytes() == content
        assert not file_of(folder, 0).exists()
        read(cache, 0, stored(0))
    assert (layout / "notes.txt").read_bytes() == b"mine"
    assert (folder / "segments-2" / "x").read_bytes() == b"newer"
    assert not faults
    file_of(folder, 0).unlink()
    file_of(folder, 0).mkdir()
    check_reads_go_on(cache)
    assert file_of(folder, 0).is_dir()


def test_a_loose_folder_is_closed_to_other_users(tmp_path: Path) -> None:
    (tmp_path / "c" / "segments-1").mkdir(parents=True)
    (tmp_path / "c" / "segments-1").chmod(0o755)
    SegmentCache(tmp_path / "c").measure()
    assert stat.S_IMODE((tmp_path / "c" / "segments-1").stat().st_mode) == 0o700


def test_a_frozen_holder_of_the_count_delays_one_segment_and_stops_no_read(tmp_path: Path) -> None:
    pauses: list[float] = []
    cache, faults = faulty(tmp_path, pause=pauses.append)
    cache.measure()
    held = os.open(tmp_path / "segments-1" / "usage", os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_reads_go_on(cache)
        assert 0.5 < sum(pauses) < 0.6
        with pytest.raises(OSError, match="another process"):
            cache.clear()
    finally:
        os.close(held)
    read(cache, 0, stored(0))
    assert cache.holds(segment_name(0))
    assert not faults
