"""Tests of reads of a whole source with read-ahead."""

import threading
from collections.abc import Iterator

import pytest

from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import StoreUnreachable
from imgstore.domain.storage.latency import THREADS_MAX
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.formats import read_through

PIECES = 3 * THREADS_MAX
FAR_SECONDS = 1.0
SOUNDED = (0, 4096)


class Source:
    """Zeros with an offset at the beginning of each read. Records its reads."""

    def __init__(self, *extents: tuple[int, int]) -> None:
        self._extents = extents
        self.file_bytes = max(offset + length for offset, length in extents)
        self.reads: list[tuple[int, int]] = []

    def identity(self) -> SourceIdentity:
        return SourceIdentity(location="/x", file_bytes=self.file_bytes, stamp="1")

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return offset.to_bytes(8, "little").ljust(length, b"\0")

    def extents(self) -> Iterator[Extent]:
        return (Extent(offset=offset, length=length) for offset, length in self._extents)

    def close(self) -> None:
        pass


class Waiting(Source):
    """A source whose reads return only when a given number of reads is running."""

    def __init__(self, readers: int) -> None:
        super().__init__((0, PIECES * PIECE_BYTES))
        self._together = threading.Barrier(readers)

    def read_at(self, offset: int, length: int) -> bytes:
        if (offset, length) != SOUNDED:
            self._together.wait(timeout=20)
        return super().read_at(offset, length)


class Clock:
    """A clock that advances by a fixed step at each call."""

    def __init__(self, step_seconds: float) -> None:
        self._now = 0.0
        self._step = step_seconds

    def __call__(self) -> float:
        self._now += self._step
        return self._now


def test_all_extents_are_read_in_order() -> None:
    source = Source((4096, 10), (PIECE_BYTES, 2 * PIECE_BYTES + 8))
    got = list(read_through(source))
    expected = [(4096, 10), (PIECE_BYTES, PIECE_BYTES), (2 * PIECE_BYTES, PIECE_BYTES), (3 * PIECE_BYTES, 8)]
    assert [(at, len(data)) for at, data in got] == expected
    assert all(int.from_bytes(data[:8], "little") == at for at, data in got)
    assert sorted(source.reads) == sorted([SOUNDED, SOUNDED, *expected])


def test_a_source_of_high_latency_gets_more_parallel_reads() -> None:
    far = Waiting(THREADS_MAX)
    assert len(list(read_through(far, Clock(FAR_SECONDS)))) == PIECES


def test_a_source_of_low_latency_does_not() -> None:
    near = Source((0, PIECES * PIECE_BYTES))
    reading = read_through(near, Clock(0.0))
    next(reading)
    assert len(set(near.reads) - {SOUNDED}) <= 4, "two reads, and a read ahead of each"
    reading.close()


def test_a_caller_that_stops_leaves_no_reads() -> None:
    source = Source((0, PIECES * PIECE_BYTES))
    reading = read_through(source, Clock(FAR_SECONDS))
    next(reading)
    reading.close()
    assert len(set(source.reads) - {SOUNDED}) <= THREADS_MAX + 1
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]


def test_an_error_is_raised_in_its_place() -> None:
    class Breaking(Source):
        def read_at(self, offset: int, length: int) -> bytes:
            if offset == 5 * PIECE_BYTES:
                raise StoreUnreachable("It does not answer.", found="nothing", expected="an answer", hint="wait")
            return super().read_at(offset, length)

    got: list[int] = []
    with pytest.raises(StoreUnreachable):
        for at, _ in read_through(Breaking((0, PIECES * PIECE_BYTES))):
            got.append(at)
    assert got == [PIECE_BYTES * number for number in range(5)]
