"""Samples of the bytes that a source delivered. Another server must deliver equal bytes, before it replaces the first."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.sizes import PIECE_BYTES

KEPT_MAX: Final = 2_048
"""The number of samples in memory, about 300 KB."""
CHOSEN_MAX: Final = 8
"""The number of samples in a comparison, at most 32 MiB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A range that was read."""

    offset: int
    length: int
    digest: Digest
    is_zero: bool


class ReadSamples:
    """Samples of a source, evenly spread over the file. Safe for use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, Sample] = {}
        self._ranks = 1 << 32
        """Reads with a rank below this number become samples. The number is halved when the memory is full."""

    def add(self, offset: int, body: bytes) -> None:
        """Add the bytes of a read, if the read becomes a sample."""
        if _rank(offset) >= self._ranks:
            return
        part = body[:PIECE_BYTES]
        sample = Sample(offset, len(part), digest_of(part), part.count(0) == len(part))
        with self._lock:
            self._kept[offset] = sample
            if len(self._kept) > KEPT_MAX:
                self._ranks //= 2
                self._kept = {at: each for at, each in self._kept.items() if _rank(at) < self._ranks}

    def choose(self) -> list[Sample]:
        """Return a few samples, evenly spread over the file, with few zeros."""
        with self._lock:
            kept = sorted(self._kept.values(), key=lambda each: each.offset)
        zeros = [each for each in kept if each.is_zero]
        others = [each for each in kept if not each.is_zero]
        return _spread(others, CHOSEN_MAX - min(len(zeros), 2)) + _spread(zeros, 2)


def _rank(offset: int) -> int:
    """Return a number below 2^32, evenly distributed over the offsets (multiplicative hashing by Knuth)."""
    return (offset >> 12) * 0x9E3779B1 & 0xFFFFFFFF


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return up to `count` samples, from the first to the last."""
    if len(samples) <= count:
        return list(samples)
    return [samples[number * (len(samples) - 1) // (count - 1)] for number in range(count)]
