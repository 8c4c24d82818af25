"""Find the locations of known blocks by fingerprint, a piece at a time, with numpy.

A **location** is a u32: segment number x 1,024 + block in segment. The segments of an ingest are numbered after the
segments of its bases, so both share a single number space. That space holds 4 Mi segments (16 TiB of distinct blocks).

Two limits bound the memory (invariant I6). An image keeps at most 4 Mi of its own blocks, first in, first out. If the
bases have more than 8 Mi blocks, each 16th stays in memory, and the neighbours of a hit are compared afterwards.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from imgstore.domain.storage.sizes import SEGMENT_BLOCKS
from imgstore.segments.fingerprints import FINGERPRINT_BYTES, U64, Fingerprints, PackedSegment

Locations: TypeAlias = npt.NDArray[np.uint32]

NOWHERE: Final = np.uint32(0xFFFF_FFFF)
"""The location of an unknown block."""
ZERO: Final = np.uint32(0xFFFF_FFFE)
"""The location of a block that is all zero."""
SEGMENT_NUMBER_MAX: Final = int(ZERO) // SEGMENT_BLOCKS - 1

IMAGE_ENTRIES_MAX: Final = 4 << 20
BASE_ENTRIES_MAX: Final = 8 << 20
SAMPLE_STEP: Final = 16

_TIER_ENTRIES_MIN: Final = 16 << 10
"""The smallest tier, in entries: sixteen pieces. A merge of such tiers costs less than hashing the pieces."""


class SortedEntries:
    """Fingerprints and their locations, sorted: a single binary search for each piece."""

    def __init__(self, fingerprints: Fingerprints, locations: Locations) -> None:
        order = np.argsort(fingerprints.high, kind="stable")
        self._fingerprints = fingerprints.take(order)
        self._locations = locations[order]

    def __len__(self) -> int:
        return len(self._locations)

    def find(self, asked: Fingerprints) -> Locations:
        """Return the location of each fingerprint, NOWHERE for an unknown fingerprint.

        If two blocks share only the 64 bits of `high`, a search misses the second block, which is then packed again.
        """
        if not len(self):
            return np.full(len(asked), NOWHERE)
        place = np.searchsorted(self._fingerprints.high, asked.high)
        place[place == len(self)] = 0
        same = (self._fingerprints.high[place] == asked.high) & (self._fingerprints.low[place] == asked.low)
        return np.where(same, self._locations[place], NOWHERE)

    def merge(self, other: "SortedEntries") -> "SortedEntries":
        """Join two tables. If both contain a block, the entry of `self` is found."""
        high = np.concatenate((self._fingerprints.high, other._fingerprints.high))
        low = np.concatenate((self._fingerprints.low, other._fingerprints.low))
        return SortedEntries(Fingerprints(high, low), np.concatenate((self._locations, other._locations)))


class _BloomFilter:
    """A filter that rejects most unknown fingerprints: one bit each, of eight (Bloom, CACM 13:7, 1970, with one hash).

    Random data is found in no tier. The filter avoids nine tenths of the searches, which saves 0.5 ms a piece.
    """

    def __init__(self, entries_max: int) -> None:
        """Make a filter for `entries_max` entries.

        At most an eighth of the unknown fingerprints passes a full filter.
        """
        self._bits = np.zeros(1 << max(0, entries_max - 1).bit_length(), dtype=np.uint8)

    def add(self, high: U64) -> None:
        byte, bit = self._places(high)
        np.bitwise_or.at(self._bits, byte, bit)

    def passes(self, high: U64) -> npt.NDArray[np.bool_]:
        """Return False for each fingerprint that was certainly never added."""
        byte, bit = self._places(high)
        passing: npt.NDArray[np.bool_] = (self._bits[byte] & bit) != 0
        return passing

    def _places(self, high: U64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
        byte = (high >> np.uint64(3)) & np.uint64(len(self._bits) - 1)
        return byte.astype(np.intp), np.left_shift(np.uint8(1), (high & np.uint64(7)).astype(np.uint8))


class _Generation:
    """Blocks in tiers that double in size, so that each entry is merged a logarithmic number of times."""

    def __init__(self, entries_max: int) -> None:
        self._tiers: list[SortedEntries] = []
        self._filter = _BloomFilter(entries_max)
        self.entries = 0

    def find(self, asked: Fingerprints) -> Locations:
        found = np.full(len(asked), NOWHERE)
        likely = np.flatnonzero(self._filter.passes(asked.high))
        for tier in self._tiers:
            if not len(likely):
                break
            found[likely] = tier.find(asked.take(likely))
            likely = likely[found[likely] == NOWHERE]
        return found

    def add(self, fingerprints: Fingerprints, locations: Locations) -> None:
        self._filter.add(fingerprints.high)
        self._tiers.append(SortedEntries(fingerprints, locations))
        self.entries += len(locations)
        while len(self._tiers) > 1 and self._must_merge(self._tiers[-2], self._tiers[-1]):
            last = self._tiers.pop()
            self._tiers[-1] = self._tiers[-1].merge(last)

    @staticmethod
    def _must_merge(older: SortedEntries, newer: SortedEntries) -> bool:
        return len(older) < _TIER_ENTRIES_MIN or len(newer) >= len(older) // 2


class ImageIndex:
    """The blocks that this ingest has packed so far, in two generations.

    A full young generation replaces the old generation, which is discarded: first in, first out, in disk order.
    """

    def __init__(self, entries_max: int = IMAGE_ENTRIES_MAX) -> None:
        self._generation_max = max(1, entries_max // 2)
        self._old: _Generation | None = None
        self._young = _Generation(self._generation_max)

    def find(self, asked: Fingerprints) -> Locations:
        """Return the location of each fingerprint, NOWHERE for an unknown or discarded fingerprint."""
        found = self._young.find(asked)
        if self._old is not None:
            missing = np.flatnonzero(found == NOWHERE)
            found[missing] = self._old.find(asked.take(missing))
        return found

    def add(self, fingerprints: Fingerprints, locations: Locations) -> None:
        """Add blocks that were just packed."""
        if not len(fingerprints):
            return
        self._young.add(fingerprints, locations)
        if self._young.entries >= self._generation_max:
            self._old, self._young = self._young, _Generation(self._generation_max)


class BaseIndex:
    """The blocks of the bases' segments."""

    def __init__(self, entries: SortedEntries, located: "LocatedFingerprints | None" = None) -> None:
        self._entries = entries
        self._located = located

    @classmethod
    def build(
        cls,
        segments: Iterable[tuple[int, PackedSegment]],
        *,
        entries: int,
        scratch: Path,
        entries_max: int = BASE_ENTRIES_MAX,
    ) -> "BaseIndex":
        """Build the index over pairs of a segment number and a segment.

        Args:
            segments: each segment once, consumed in a single pass.
            entries: the number of blocks in all segments.
            scratch: a folder for the file that replaces memory beyond `entries_max`.
            entries_max: above this number, only each 16th block of a segment stays in memory.
        """
        step = 1 if entries <= entries_max else SAMPLE_STEP
        located = None if step == 1 else LocatedFingerprints(scratch)
        high, low = np.empty(entries, dtype=np.uint64), np.empty(entries, dtype=np.uint64)
        where = np.empty(entries, dtype=np.uint32)
        filled = 0
        for number, segment in segments:
            sample = segment.fingerprints.take(slice(None, None, step))
            part = slice(filled, filled + len(sample))
            high[part], low[part] = sample.high, sample.low
            begin = number * SEGMENT_BLOCKS
            where[part] = np.arange(begin, begin + len(segment.fingerprints), step, dtype=np.uint32)
            filled += len(sample)
            if located is not None:
                located.put(number, segment.fingerprints)
        return cls(SortedEntries(Fingerprints(high[:filled], low[:filled]), where[:filled]), located)

    def find(self, asked: Fingerprints, block: npt.NDArray[np.intp]) -> Locations:
        """Return the location of each fingerprint, NOWHERE if no base has the block.

        Args:
            asked: fingerprints in disk order.
            block: the number of each fingerprint's block on the disk, which shows the neighbours.
        """
        found = self._entries.find(asked)
        if self._located is None:
            return found
        for direction in (1, -1):
            self._spread(found, asked, block, direction)
        return found

    def _spread(self, found: Locations, asked: Fingerprints, block: npt.NDArray[np.intp], direction: int) -> None:
        """Compare the neighbours of each hit with the neighbours of its location, step by step, up to a sample apart."""
        assert self._located is not None
        for _ in range(SAMPLE_STEP - 1):
            known = np.flatnonzero(found < ZERO)
            beside = known + direction
            inside = (beside >= 0) & (beside < len(found))
            known, beside = known[inside], beside[inside]
            next_to = (found[beside] == NOWHERE) & (block[beside] == block[known] + direction)
            known, beside = known[next_to], beside[next_to]
            guess = found[known].astype(np.int64) + direction
            same_segment = (guess >= 0) & (guess // SEGMENT_BLOCKS == found[known] // SEGMENT_BLOCKS)
            guess, beside = guess[same_segment].astype(np.uint32), beside[same_segment]
            if not len(beside):
                return
            right = self._located.matches(guess, asked.take(beside))
            found[beside[right]] = guess[right]

    def close(self) -> None:
        """Remove the scratch file."""
        if self._located is not None:
            self._located.close()


class LocatedFingerprints:
    """Fingerprints by location in a sparse memory-mapped file. The kernel keeps the pages in use in memory."""

    def __init__(self, scratch: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=scratch)  # noqa: SIM115 - lives as long as the index; see close
        self._blocks = 0
        self._view: np.memmap[tuple[int, int], np.dtype[np.uint64]] | None = None

    def put(self, number: int, fingerprints: Fingerprints) -> None:
        """Write the fingerprints of a segment. Do not call after the first `matches`."""
        self._file.seek(number * SEGMENT_BLOCKS * FINGERPRINT_BYTES)
        self._file.write(fingerprints.tobytes())
        self._blocks = max(self._blocks, (number + 1) * SEGMENT_BLOCKS)

    def matches(self, locations: Locations, asked: Fingerprints) -> npt.NDArray[np.bool_]:
        """Return whether each location holds the paired fingerprint.

        A location after the end of a segment holds zeros.
        """
        if self._view is None:
            self._file.truncate(self._blocks * FINGERPRINT_BYTES)
            self._file.flush()
            self._view = np.memmap(self._file, dtype="<u8", mode="r", shape=(self._blocks, 2))
        there = self._view[locations]
        same: npt.NDArray[np.bool_] = (there[:, 0] == asked.high) & (there[:, 1] == asked.low)
        return same

    def close(self) -> None:
        """Remove the file."""
        self._view = None
        self._file.close()
