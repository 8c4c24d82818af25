"""The checks of an analysis. Each check sends a fixed number of requests, so a run on a model gives the plan.

A fault may show only with large objects, only in each third request or only with several connections. Each check
therefore repeats its requests with several sizes, one after another and at once.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

from blake3 import blake3

from imgstore.domain.errors import Conflict, ObjectCorrupt, StoreDenied, StoreError
from imgstore.domain.storage.sizes import MIB, SEGMENT_BYTES_MAX
from imgstore.stores.access import CLOCK_SKEW_MAX
from imgstore.stores.analysis.requests import LIST_KEYS_MAX, PutRefused, Requests
from imgstore.stores.analysis.results import AnalysisSettings, Check, Findings
from imgstore.stores.interface import ObjectInfo, crc32_checksum

_T = TypeVar("_T")
_R = TypeVar("_R")

_SMALL: Final = (0, 1, 4_096, 70_001)
"""Sizes of start markers, references, fingerprints and small segments."""
_LARGE: Final = (MIB + 1, SEGMENT_BYTES_MAX)

_CONNECTIONS: Final = 8
_READERS: Final = 3
PEAK_BODIES: Final = 1 + _READERS
"""The bodies of the largest object in memory at once: the stored body, and one for each reader."""
_CREATORS: Final = 8
_CLOCK_TOLERANCE: Final = timedelta(seconds=2)
"""Times of S3 have whole seconds, and the date of an answer is later than the time of the object."""
_SETTLE_SECONDS_MIN: Final = 0.3
_SETTLE_PUTS: Final = 5
"""A request that was given up has settled after this many times of the slowest put."""

_RANGES_SEED: Final = 1
"""Every run reads the same ranges, so that the plan has the same number of bytes."""

_SEPARATORS: Final = ("a-b/", "a.b/", "a/", "a0/", "b_c/", "ff/", "A/")
"""Folders whose order by characters differs from the order of a walk."""


@dataclass(slots=True)
class _LateRequests:
    """The keys with given-up requests, and their present bodies."""

    overwritten: Sequence[str] = ()
    """A newer put was acknowledged."""
    deleted: Sequence[str] = ()
    """A newer delete was acknowledged."""
    broken_off: Sequence[str] = ()
    """The body broke off."""
    settled: int = 0
    """Given-up requests that the store carried out at once."""
    kept: dict[str, int] = field(default_factory=dict)
    """The sizes of objects that a put over the existing object broke off."""


class Checks:
    """The checks of one analysis, in the order of `run`."""

    def __init__(
        self,
        requests: Requests,
        findings: Findings,
        settings: AnalysisSettings,
        seed: str,
        turn: AbstractContextManager[object],
    ) -> None:
        """Prepare the checks.

        Args:
            requests: the requests to the store.
            findings: the result.
            settings: the extent.
            seed: makes the bodies, which no other analysis has.
            turn: held during the check of the largest object.
        """
        self._requests = requests
        self._findings = findings
        self._settings = settings
        self._seed = seed
        self._turn = turn
        self._few = max(1, settings.rounds // 4)
        self._listed: set[str] = set()
        """The keys that listings must have."""
        self._histories: dict[str, list[tuple[str, int]]] = {}
        """The objects that must be there at the end, with the names and sizes of their bodies, the last one at the end."""
        self._late = _LateRequests()

    def run(self) -> None:
        """Run all checks.

        Raises:
            AnalysisStopped: the analysis was interrupted.
        """
        with ThreadPoolExecutor(_CONNECTIONS) as self._writers, ThreadPoolExecutor(_CONNECTIONS) as self._readers:
            self._run(Check.READ_AFTER_WRITE, self._check_new_objects)
            self._run(Check.LATE_REQUESTS, self._give_up_requests)
            self._run(Check.LISTING, self._check_listing)
            self._run(Check.DELETES, self._check_deletes)
            watched_since = self._requests.monotonic()
            self._run(Check.OVERWRITE, self._check_overwrites)
            self._run(Check.RANGES, self._check_ranges)
            self._run(Check.CHECKSUMS, self._check_checksums)
            self._run(Check.CONDITIONAL_PUT, self._check_conditional_puts)
            self._run(Check.CLOCK, self._check_clock)
            self._requests.pause(watched_since + self._settings.watch_seconds - self._requests.monotonic())
            self._run(Check.LATE_REQUESTS, self._check_late_requests)
            self._run(Check.DELETES, self._check_end)

    def _run(self, check: Check, act: Callable[[], None]) -> None:
        """Run a check. An error of the store ends the check alone."""
        try:
            act()
        except StoreError as error:
            self._add_failure(check, error)

    # -- new objects --------------------------------------------------------------------------------------------------

    def _check_new_objects(self) -> None:
        largest = self._settings.object_bytes_max
        sizes = [size for size in (*_SMALL, *_LARGE) if size < largest]
        keys = [(f"new/{size}-{number}", size) for number in range(self._few) for size in sizes]
        self._each(Check.READ_AFTER_WRITE, self._check_new_object, keys)
        with self._turn:
            self._each(Check.READ_AFTER_WRITE, self._check_new_object, [(f"new/{largest}-max", largest)])
        self._findings.note(Check.READ_AFTER_WRITE, f"{len(keys) + 1} objects, each read by {_READERS} connections")
        self._findings.note(Check.SIZES, f"objects from 0 to {largest:,} bytes")
        if largest < SEGMENT_BYTES_MAX:
            self._findings.note(
                Check.SIZES, f"objects from 0 to {largest:,} bytes; a segment has up to {SEGMENT_BYTES_MAX:,} bytes"
            )

    def _check_new_object(self, item: tuple[str, int]) -> None:
        key, size = item
        body = self._body(key, size)
        info = self._requests.put(key, body)
        self._compare_checksum(key, info, body)
        self._compare_object(Check.READ_AFTER_WRITE, key, body)
        found = self._requests.list(key)
        if [self._requests.strip(each) for each in found] != [key]:
            self._findings.add(Check.LISTING, f"{key} was not listed after an acknowledged put")

    def _compare_object(self, check: Check, key: str, body: bytes, former: Sequence[bytes] = ()) -> None:
        """Read an object over several connections at once, and its metadata. `former` are older bodies of the key."""

        def read(_reader: int) -> None:
            found = self._requests.get(key)
            if found is None:
                self._findings.add(check, f"{key} was not found after an acknowledged put")
            elif found != body:
                self._add_wrong_body(check, key, found, body, former)

        self._each(check, read, range(_READERS), pool=self._readers)
        info = self._requests.head(key)
        if info is None:
            self._findings.add(check, f"HEAD of {key} found no object after an acknowledged put")
        elif info.stored_bytes != len(body):
            self._findings.add(check, f"HEAD of {key} gave {info.stored_bytes:,} bytes, not {len(body):,}")
        else:
            self._compare_checksum(key, info, body)

    def _add_wrong_body(self, check: Check, key: str, found: bytes, body: bytes, former: Sequence[bytes] = ()) -> None:
        if found in former:
            self._findings.add(check, f"{key} had its former content after an acknowledged put")
        elif len(found) != len(body):
            self._findings.add(Check.CONTENT, f"a read of {key} gave {len(found):,} of {len(body):,} bytes")
        else:
            at = next(place for place, (one, other) in enumerate(zip(found, body, strict=True)) if one != other)
            self._findings.add(Check.CONTENT, f"a read of {key} gave a wrong byte at offset {at:,} of {len(body):,}")

    def _compare_checksum(self, key: str, info: ObjectInfo, body: bytes) -> None:
        stated = info.checksum
        if stated is not None and stated.startswith("CRC32:") and stated != crc32_checksum(body):
            self._findings.add(Check.CHECKSUMS, f"the store states {stated} for {key}, not {crc32_checksum(body)}")

    # -- replaced objects ---------------------------------------------------------------------------------------------

    def _check_overwrites(self) -> None:
        keys = [
            ("overwrite/small-1", 3_000, self._settings.rounds),
            ("overwrite/small-2", 9_000, self._settings.rounds),
        ]
        if self._settings.object_bytes_max > MIB:
            keys.append(("overwrite/large", MIB + 7, self._few + 1))
        self._each(Check.OVERWRITE, self._check_overwrite, keys)
        self._check_atomic_overwrite()
        rounds = sum(rounds for _, _, rounds in keys)
        self._findings.note(Check.OVERWRITE, f"{rounds} replacements, each read by {_READERS} connections")

    def _check_overwrite(self, item: tuple[str, int, int]) -> None:
        key, size, rounds = item
        former: list[bytes] = []
        for number in range(rounds):
            length = size + number * (-1) ** number  # Longer and shorter than the former body.
            body = self._body(f"{key}-{number}", length)
            self._requests.put(key, body)
            self._histories.setdefault(key, []).append((f"{key}-{number}", length))
            self._compare_object(Check.OVERWRITE, key, body, former)
            found = self._requests.list(key)
            if [each.stored_bytes for each in found] != [len(body)]:
                self._findings.add(Check.LISTING, f"a listing had not the new size of {key} after an acknowledged put")
            former.append(body)

    def _check_atomic_overwrite(self) -> None:
        """Read an object during puts: each read gets one body or the other."""
        key = "overwrite/atomic"
        bodies = [self._body(f"{key}-{number}", 200_000) for number in range(2)]
        self._requests.put(key, bodies[0])

        def write() -> None:
            for number in range(self._few + 1):
                self._requests.put(key, bodies[number % 2])

        def read() -> None:
            for _ in range(self._few + 1):
                found = self._requests.get(key)
                if found is None:
                    self._findings.add(Check.OVERWRITE, f"{key} was not found during a put of the existing key")
                elif found not in bodies:
                    self._findings.add(Check.OVERWRITE, f"{key} was a mixture or a part during a put")

        self._each(Check.OVERWRITE, lambda act: act(), [write, read, read])

    # -- ranges -------------------------------------------------------------------------------------------------------

    def _check_ranges(self) -> None:
        sizes = [10, 70_000, min(self._settings.object_bytes_max, SEGMENT_BYTES_MAX)]
        chooser = random.Random(_RANGES_SEED)  # noqa: S311 - offsets, no secrets
        asked: list[tuple[str, bytes, int, int]] = []
        for size in sizes:
            key = f"ranges/{size}"
            body = self._body(key, size)
            self._requests.put(key, body)
            fixed = [
                (0, 1),
                (0, size),
                (size - 1, 1),
                (size - 3, 100),
                (size, 5),
                (size + 100, 5),
                (1, min(4_096, size - 1)),
            ]
            freely = [(chooser.randrange(size), chooser.randrange(1, 65_536)) for _ in range(self._settings.rounds)]
            asked += [(key, body, offset, length) for offset, length in (*fixed, *freely)]
        for item in asked:
            self._each(Check.RANGES, self._check_range, [item])
        self._each(Check.RANGES, self._check_range, asked)
        self._findings.note(Check.RANGES, f"{2 * len(asked)} ranges of objects up to {sizes[-1]:,} bytes")

    def _check_range(self, item: tuple[str, bytes, int, int]) -> None:
        key, body, offset, length = item
        found = self._requests.get_range(key, offset, length)
        expected = body[offset : offset + length]
        if found is None:
            self._findings.add(Check.READ_AFTER_WRITE, f"{key} was not found after an acknowledged put")
        elif found != expected:
            kind = "other bytes" if len(found) == len(expected) else f"{len(found):,} bytes, not {len(expected):,}"
            self._findings.add(Check.RANGES, f"{length:,} bytes from {offset:,} of {key} gave {kind}")

    # -- checksums ----------------------------------------------------------------------------------------------------

    def _check_checksums(self) -> None:
        if self._requests.unusual is None:
            self._findings.skip(Check.CHECKSUMS, "a directory confirms a body by fsync")
            return
        sizes = [100, 70_000] + [MIB + 3] * (self._settings.object_bytes_max > MIB)
        asked = [(f"checksums/{size}-{number}", size) for number in range(self._few + 1) for size in sizes]
        self._each(Check.CHECKSUMS, self._check_damaged_put, asked)
        self._findings.note(Check.CHECKSUMS, f"{2 * len(asked)} bodies with wrong checksums were refused")

    def _check_damaged_put(self, item: tuple[str, int]) -> None:
        key, size = item
        body = self._body(key, size)
        damaged = body[:-1] + bytes([body[-1] ^ 1])
        if self._requests.put_damaged(key, damaged, body):
            self._findings.add(Check.CHECKSUMS, f"a body of {size:,} bytes with a wrong checksum was accepted")
        elif self._requests.head(key) is not None:
            self._findings.add(Check.CHECKSUMS, f"a refused body of {size:,} bytes is stored")
        self._requests.put(key, body)
        if self._requests.put_damaged(key, damaged, body):
            self._findings.add(Check.CHECKSUMS, f"a body of {size:,} bytes with a wrong checksum replaced an object")
        found = self._requests.get(key)
        if found == damaged:
            self._findings.add(Check.CHECKSUMS, f"a refused body of {size:,} bytes replaced an object")
        elif found is None:
            self._findings.add(Check.READ_AFTER_WRITE, f"{key} was not found after an acknowledged put")
        elif found != body:
            self._add_wrong_body(Check.CHECKSUMS, key, found, body)

    # -- conditional puts ---------------------------------------------------------------------------------------------

    def _check_conditional_puts(self) -> None:
        keys = [f"conditional/{number}" for number in range(self._settings.rounds)]
        self._each(Check.CONDITIONAL_PUT, self._check_conditional_put, keys)
        for number in range(self._few):
            self._check_race(f"conditional/race-{number}")
        self._findings.note(
            Check.CONDITIONAL_PUT, f"{len(keys)} keys, and {self._few} races of {_CREATORS} connections"
        )

    def _check_conditional_put(self, key: str) -> None:
        if not self._create(key, b"first"):
            self._findings.add(Check.CONDITIONAL_PUT, f"{key} could not be created, although it was absent")
        if self._create(key, b"second"):
            self._findings.add(Check.CONDITIONAL_PUT, f"a put with If-None-Match replaced {key}")
        if self._requests.get(key) == b"second":
            self._findings.add(Check.CONDITIONAL_PUT, f"a refused put with If-None-Match replaced {key}")

    def _check_race(self, key: str) -> None:
        creators = range(_CREATORS)
        won = self._each(Check.CONDITIONAL_PUT, lambda number: self._create(key, b"%d" % number), creators)
        if None not in won and won.count(True) != 1:
            self._findings.add(
                Check.CONDITIONAL_PUT, f"{won.count(True)} of {_CREATORS} connections created {key} at once"
            )

    def _create(self, key: str, body: bytes) -> bool:
        try:
            self._requests.put(key, body, only_if_absent=True)
        except Conflict:
            return False
        return True

    # -- the clock ----------------------------------------------------------------------------------------------------

    def _check_clock(self) -> None:
        """Compare the times of an object in all answers, and the times of successive objects."""
        last: tuple[str, ObjectInfo] | None = None
        for number in range(self._settings.rounds):
            key = f"clock/{number}"
            began = self._requests.monotonic()
            try:
                put = self._requests.put(key, b"clock")
                took = timedelta(seconds=self._requests.monotonic() - began)
                head, listed = self._requests.head(key), self._requests.list(key)
            except StoreError as error:
                self._add_failure(Check.CLOCK, error)
                continue
            for name, info in (("HEAD", head), ("a listing", listed[0] if listed else None)):
                if info is None:
                    self._findings.add(Check.READ_AFTER_WRITE, f"{key} was not found after an acknowledged put")
                elif abs(info.last_modified - put.last_modified) > _CLOCK_TOLERANCE + took:
                    difference = abs(info.last_modified - put.last_modified).total_seconds()
                    self._findings.add(Check.CLOCK, f"{name} gave a time {difference:,.0f} s from the date of the put")
            if (
                head is not None
                and last is not None
                and last[1].last_modified - head.last_modified > timedelta(seconds=1)
            ):
                self._findings.add(Check.CLOCK, f"{key} was stored after {last[0]} and has an earlier time")
            last = (key, head) if head is not None else last
        offsets = self._requests.clock_offsets
        skew = max(offsets, key=abs, default=timedelta(0))
        if abs(skew) > CLOCK_SKEW_MAX:
            self._findings.add(
                Check.CLOCK, f"the clock of the store is {skew.total_seconds():+,.0f} s from this machine"
            )
        self._findings.note(Check.CLOCK, f"at most {abs(skew).total_seconds():,.1f} s from the clock of this machine")

    # -- listing and deletes ------------------------------------------------------------------------------------------

    def _check_listing(self) -> None:
        count = self._settings.objects
        sizes = {self._listed_key(number): number % 5 for number in range(count)}
        first = dict(list(sizes.items())[: self._settings.rounds])
        for key, size in first.items():  # Each new key is listed at once.
            self._each(Check.LISTING, self._list_new_object, [(key, size)])
        rest = [(key, size) for key, size in sizes.items() if key not in first]
        self._each(Check.LISTING, lambda item: self._requests.put(item[0], bytes(item[1])), rest)
        self._compare_listings(sizes)
        self._listed |= set(sizes)
        pages = -(-count // LIST_KEYS_MAX)
        self._findings.note(
            Check.LISTING, f"{count:,} keys on {pages} page{'s' * (pages > 1)}, and on pages of {self._page_keys} keys"
        )
        if self._requests.unusual is None:
            self._findings.note(Check.LISTING, f"{count:,} keys")

    @property
    def _page_keys(self) -> int:
        """A page size that does not divide the number of keys, so that the last page is never empty."""
        size = max(2, self._settings.objects // 10)
        return size if self._settings.objects % size else size + 1

    def _listed_key(self, number: int) -> str:
        return f"list/{_SEPARATORS[number % len(_SEPARATORS)]}{number:05}"

    def _list_new_object(self, item: tuple[str, int]) -> None:
        key, size = item
        self._requests.put(key, bytes(size))
        found = [self._requests.strip(info) for info in self._requests.list(key)]
        if found != [key]:
            self._findings.add(Check.LISTING, f"{key} was not listed after an acknowledged put")

    def _compare_listings(self, sizes: dict[str, int]) -> None:
        """Compare listings of all keys, of pages, of folders and of prefixes, one after another and at once."""
        asked: list[tuple[str, int | None]] = [("list/", None)] * (self._few + 1)
        if self._requests.unusual is not None:
            asked += [("list/", self._page_keys)] * self._few
        asked += [(f"list/{folder}", None) for folder in _SEPARATORS] + [("list/a", None)]
        if len(sizes) <= LIST_KEYS_MAX:
            asked += [("list/", None)] * 2  # Short listings are cheap.

        def compare(item: tuple[str, int | None]) -> None:
            prefix, page_keys = item
            found = self._requests.list(prefix, page_keys)
            expected = {key: size for key, size in sizes.items() if key.startswith(prefix)}
            self._compare_listing(prefix, found, expected)

        for item in asked:
            self._each(Check.LISTING, compare, [item])
        self._each(Check.LISTING, compare, asked)

    def _compare_listing(self, prefix: str, found: Sequence[ObjectInfo], expected: dict[str, int]) -> None:
        keys = [self._requests.strip(info) for info in found]
        if missing := sorted(set(expected) - set(keys)):
            self._findings.add(
                Check.LISTING, f"{len(missing)} of {len(expected)} keys below {prefix} missed, as {missing[0]}"
            )
        if surplus := sorted(set(keys) - set(expected)):
            self._findings.add(Check.LISTING, f"{surplus[0]} was listed below {prefix}, although it does not exist")
        if keys != sorted(set(keys)):
            self._findings.add(Check.LISTING, f"the keys below {prefix} were repeated or in no order")
        wrong = [
            key
            for key, info in zip(keys, found, strict=True)
            if expected.get(key, info.stored_bytes) != info.stored_bytes
        ]
        if wrong:
            self._findings.add(Check.LISTING, f"a listing had a wrong size of {wrong[0]}")

    def _check_deletes(self) -> None:
        keys = sorted(self._listed)
        kept = keys[::10]
        deleted = sorted(self._listed.difference(kept))
        self._each(Check.DELETES, self._requests.delete, [[*deleted, "deletes/never", "deletes/no/where"]])
        self._listed = set(kept)
        self._each(Check.DELETES, self._check_gone, deleted[: self._settings.rounds])
        for prefix in ("list/", *(f"list/{folder}" for folder in _SEPARATORS)):
            self._each(Check.DELETES, self._list_after_delete, [prefix])
        self._each(Check.DELETES, self._check_kept, kept[: self._settings.rounds])
        sizes = [500, MIB + 5] if self._settings.object_bytes_max > MIB else [500]
        again = [(f"again/{size}-{number}", size) for number in range(self._few + 1) for size in sizes]
        self._each(Check.DELETES, self._check_delete_and_put, again)
        gone = [(f"gone/{size}-{number}", size) for number in range(self._few + 1) for size in sizes]
        self._each(Check.DELETES, self._check_delete, gone)
        fact = f"{len(deleted) + 2 * len(again) + len(gone):,} objects were gone at once and for {self._settings.watch_seconds:g} s"
        self._findings.note(Check.DELETES, fact)

    def _list_after_delete(self, prefix: str) -> None:
        found = {self._requests.strip(info) for info in self._requests.list(prefix)}
        expected = {key for key in self._listed if key.startswith(prefix)}
        if surplus := sorted(found - expected):
            self._findings.add(Check.DELETES, f"{surplus[0]} was listed after an acknowledged delete")
        if missing := sorted(expected - found):
            self._findings.add(
                Check.LISTING, f"{len(missing)} of {len(expected)} keys below {prefix} missed, as {missing[0]}"
            )

    def _check_gone(self, key: str) -> None:
        if self._requests.head(key) is not None or self._requests.get(key) is not None:
            self._findings.add(Check.DELETES, f"{key} was found after an acknowledged delete")

    def _check_kept(self, key: str) -> None:
        if self._requests.head(key) is None:
            self._findings.add(Check.DELETES, f"{key} was gone, and a delete of other keys was sent")

    def _check_delete(self, item: tuple[str, int]) -> None:
        key, size = item
        self._requests.put(key, self._body(key, size))
        self._requests.delete([key])
        self._check_gone(key)
        if self._requests.list(key):
            self._findings.add(Check.DELETES, f"{key} was listed after an acknowledged delete")

    def _check_delete_and_put(self, item: tuple[str, int]) -> None:
        key, size = item
        self._check_delete(item)
        body = self._body(f"{key}-again", size + 1)
        self._requests.put(key, body)
        self._compare_object(Check.READ_AFTER_WRITE, key, body)
        self._check_delete(item)
        self._requests.put(key, self._body(f"{key}-last", size))
        self._histories[key] = [(key, size), (f"{key}-again", size + 1), (f"{key}-last", size)]

    # -- late requests ------------------------------------------------------------------------------------------------

    def _give_up_requests(self) -> None:
        """Give requests up, wait until the requests settle, and send newer requests for the same keys."""
        if self._requests.unusual is None:
            self._findings.skip(Check.LATE_REQUESTS, "a file system carries out a request before the call returns")
            return
        rounds = range(self._few + 1)
        self._late = late = _LateRequests(
            overwritten=[f"late/put-{number}" for number in rounds] + [f"late/deleted-{number}" for number in rounds],
            deleted=[f"late/gone-{number}" for number in rounds],
            broken_off=[f"late/broken-{number}" for number in rounds],
        )
        puts = [key for key in (*late.overwritten, *late.deleted) if "deleted" not in key]
        deletes = [key for key in late.overwritten if "deleted" in key]
        self._each(Check.LATE_REQUESTS, lambda key: self._requests.put(key, self._body(f"{key}-old", 1_000)), deletes)
        self._each(
            Check.LATE_REQUESTS, lambda key: self._requests.give_up_put(key, self._body(f"{key}-old", 1_000)), puts
        )
        self._each(Check.LATE_REQUESTS, self._requests.give_up_delete, deletes)
        late.kept |= dict.fromkeys(late.broken_off[::2], 1_000)
        self._each(Check.LATE_REQUESTS, lambda key: self._break_off(key, late.kept), late.broken_off)
        self._requests.pause(max(_SETTLE_SECONDS_MIN, _SETTLE_PUTS * self._requests.longest_small_put_seconds))
        found = self._each(Check.LATE_REQUESTS, self._requests.head, [*puts, *deletes])
        for key, info in zip([*puts, *deletes], found, strict=True):
            late.settled += (info is not None) == (key in puts)
            if info is not None and info.stored_bytes != 1_000:
                self._findings.add(
                    Check.LATE_REQUESTS, f"{key} has {info.stored_bytes:,} of 1,000 bytes after a given-up put"
                )
        self._each(
            Check.LATE_REQUESTS, lambda key: self._requests.put(key, self._body(f"{key}-new", 2_000)), late.overwritten
        )
        self._each(Check.LATE_REQUESTS, self._requests.delete, [late.deleted])

    def _break_off(self, key: str, kept: Mapping[str, int]) -> None:
        """Break off a put of a new key, or of an existing key."""
        if key in kept:
            self._requests.put(key, self._body(f"{key}-old", kept[key]))
        self._requests.break_off_put(key, self._body(f"{key}-new", 300_000))

    def _check_late_requests(self) -> None:
        if self._requests.unusual is None:
            return
        late = self._late

        def check_overwritten(key: str) -> None:
            found = self._requests.get(key)
            if found is None:
                self._findings.add(Check.LATE_REQUESTS, f"a given-up delete removed {key} after a newer put")
            elif found == self._body(f"{key}-old", 1_000):
                self._findings.add(Check.LATE_REQUESTS, f"a given-up put replaced {key} after a newer put")
            elif found != self._body(f"{key}-new", 2_000):
                self._add_wrong_body(Check.LATE_REQUESTS, key, found, self._body(f"{key}-new", 2_000))

        def check_deleted(key: str) -> None:
            if self._requests.head(key) is not None:
                self._findings.add(Check.LATE_REQUESTS, f"a given-up put stored {key} after a newer delete")

        def check_broken_off(key: str) -> None:
            info = self._requests.head(key)
            expected = late.kept.get(key)
            if info is not None and info.stored_bytes != expected:
                self._findings.add(
                    Check.LATE_REQUESTS, f"{key} has {info.stored_bytes:,} bytes after a put that broke off"
                )
            elif info is None and expected is not None:
                self._findings.add(Check.LATE_REQUESTS, f"{key} was gone after a put that broke off")

        self._each(Check.LATE_REQUESTS, check_overwritten, late.overwritten)
        self._each(Check.LATE_REQUESTS, check_deleted, late.deleted)
        self._each(Check.LATE_REQUESTS, check_broken_off, late.broken_off)
        count = len(late.overwritten) + len(late.deleted)
        self._findings.note(
            Check.LATE_REQUESTS,
            f"{late.settled} of {count} given-up requests were carried out at once, and none was carried out in the next "
            f"{self._settings.watch_seconds:g} s",
        )

    def _check_end(self) -> None:
        """Look at all objects again: no object came back, and none is missing or has an older content."""
        for prefix in ("list/", "gone/"):
            self._each(Check.DELETES, self._list_after_delete, [prefix])

        def check(item: tuple[str, list[tuple[str, int]]]) -> None:
            key, history = item
            found = self._requests.get(key)
            *former, last = [self._body(name, size) for name, size in history]
            if found is None:
                self._findings.add(Check.LATE_REQUESTS, f"{key} was gone some time after its last put")
            elif found in former:
                self._findings.add(Check.LATE_REQUESTS, f"{key} had an older content some time after its last put")
            elif found != last:
                self._add_wrong_body(Check.CONTENT, key, found, last)

        self._each(Check.DELETES, check, self._histories.items())

    # -- shared -------------------------------------------------------------------------------------------------------

    def _body(self, name: str, size: int) -> bytes:
        return bytes(blake3(f"{self._seed}/{name}".encode()).digest(length=size)) if size else b""

    def _each(
        self, check: Check, act: Callable[[_T], _R], items: Iterable[_T], pool: ThreadPoolExecutor | None = None
    ) -> list[_R | None]:
        """Run `act` for each item at once. An error of the store is a finding, and the other items continue."""

        def run(item: _T) -> _R | None:
            try:
                return act(item)
            except StoreError as error:
                self._add_failure(check, error)
                return None

        return list((pool or self._writers).map(run, items))

    def _add_failure(self, check: Check, error: StoreError) -> None:
        if isinstance(error, (StoreDenied, PutRefused)):
            self._findings.skip(check, "the check could not run to its end: a request was refused")
        elif isinstance(error, ObjectCorrupt):
            self._findings.add(Check.CONTENT, f"the store reports damage: {error.found or error.message}")
        elif not error.retryable:  # Findings have the errors of requests that were repeated in vain.
            self._findings.add(check, f"a request failed: {error.found or error.message}")
        else:
            self._findings.skip(check, "the check could not run to its end: a request was not answered")
