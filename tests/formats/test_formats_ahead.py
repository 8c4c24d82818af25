"""A source read through, some of it ahead."""

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
    """Zeros but for an offset at the beginning of each read; it writes down what is asked."""

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
    """No read of a piece returns before so many are asked for at once."""

    def __init__(self, readers: int) -> None:
        super().__init__((0, PIECES * PIECE_BYTES))
        self._together = threading.Barrier(readers)

    def read_at(self, offset: int, length: int) -> bytes:
        if (offset, length) != SOUNDED:
            self._together.wait(timeout=20)
        return super().read_at(offset, length)


class Clock:
    """Moves on by so much each time that it is asked."""

    def __init__(self, step_seconds: float) -> None:
        self._now = 0.0
        self._step = step_seconds

    def __call__(self) -> float:
        self._now += self._step
        return self._now


def test_all_that_the_extents_cover_comes_in_order() -> None:
    source = Source((4096, 10), (PIECE_BYTES, 2 * PIECE_BYTES + 8))
    got = list(read_through(source))
    expected = [(4096, 10), (PIECE_BYTES, PIECE_BYTES), (2 * PIECE_BYTES, PIECE_BYTES), (3 * PIECE_BYTES, 8)]
    assert [(at, len(data)) for at, data in got] == expected
    assert all(int.from_bytes(data[:8], "little") == at for at, data in got)
    assert sorted(source.reads) == sorted([SOUNDED, SOUNDED, *expected])


def test_what_is_far_off_is_asked_for_more_at_once() -> None:
    far = Waiting(THREADS_MAX)
    assert len(list(read_through(far, Clock(FAR_SECONDS)))) == PIECES


def test_what_is_near_is_not() -> None:
    near = Source((0, PIECES * PIECE_BYTES))
    reading = read_through(near, Clock(0.0))
    next(reading)
    assert len(set(near.reads) - {SOUNDED}) <= 4, "two that read, and one ahead of each of them"
    reading.close()


def test_one_who_stops_leaves_nothing_behind() -> None:
    source = Source((0, PIECES * PIECE_BYTES))
    reading = read_through(source, Clock(FAR_SECONDS))
    next(reading)
    reading.close()
    assert len(set(source.reads) - {SOUNDED}) <= THREADS_MAX + 1
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]


def test_an_error_is_told_in_its_place() -> None:
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
