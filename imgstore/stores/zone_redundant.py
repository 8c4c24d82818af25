"""A store of three zones (ZRS), which survives the loss of any zone.

An object *exists* if two zones contain it. An object in a single zone is absent, and writers put the object again
(invariant Z1). All rules follow from one statement: a write is acknowledged when two zones have taken the write and
have noted what the third zone missed. Any two zones include one of these two.

==============  =====================================================================================================
put             Sent to all zones at once. Two must take the object, else the put raises. Objects of a failed put are
                harmless, because keys name the content. After two zones, the third has a grace (`Grace`). Then the
                request is given up, and the zone has missed the write.
delete          Sent like a put, but never given up, because a late delete could remove an object that was put again.
                A zone without an answer in the last second is first asked whether it answers.
missed write    The zones that took the write store a note ``repairs/<zone>/<hash of key>`` before the acknowledgement.
get             Any zone with accepted bytes serves the read. The object is absent if all zones that answer were asked
                and two have no object.
head            Two zones decide. If one has the object, one has none and one does not answer, head raises an error.
list            The three listings are merged. If all zones answer, a key of a single zone is left out, because the
                object does not exist. If a zone does not answer or missed a write of the key, such a key is listed as
                not `certain`. The same holds for a key that only a distrusted zone lists, if another zone is silent.
only_if_absent  head, then put: not exclusive, as `atomic_create` declares.
copy_within     get and put, so that a damaged copy of one zone is not copied.
==============  =====================================================================================================

A zone is distrusted about each key whose put or delete it missed. If a note names zone and key, the zone counts as
silent about the key until the key is written again or a repair removes the note. A zone that recovers therefore never
lists deleted objects as certain. The *notes* of such a zone about the key are distrusted, too, because the notes of the
two other zones are newer.

Notes are read at the first use, after a zone recovers, and every `notes_seconds`. Later notes of other processes are
unknown until then. Correctness does not need notes for objects that are named by content and confirmed by listings,
because scrub compares the three listings.

A zone without an answer rests for `rest_seconds`: requests go to the zone only if two others are not enough. A dead
zone therefore costs a note per object instead of a timeout per object. A zone that was given up also rests until its
last open request has succeeded. A put that the zone takes later is harmless: the note stays, and a repair finds three
equal copies.

If a zone is late with the answer to a read, another zone is asked, too, and the first answer counts. A zone that is
late with the first page of a listing is left out, as long as the two others agree. Readers repair nothing; they report.
"""

import heapq
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain, groupby, islice
from typing import Final, TypeAlias, TypeVar

from imgstore.domain.errors import (
    CircuitOpen,
    ExistenceUnknown,
    ObjectCorrupt,
    ObjectNotFound,
    StoreError,
    StoreMismatch,
    StoreSilent,
    StoreUnreachable,
)
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.object_keys import REPAIRS
from imgstore.domain.text.strict_json import read_json
from imgstore.stores.errors import damaged_object_error, existing_object_error, missing_object_error
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties, check_key, split_batches
from imgstore.stores.wrappers.hedging import Grace, Outcome, ask_all, ask_to_quorum, race

ZONES: Final = 3
QUORUM: Final = 2

_HEARD_SECONDS: Final = 1.0
"""A zone that answered within this time is not asked whether it answers before a delete."""

T = TypeVar("T")
_Answers: TypeAlias = tuple[dict[str, T], dict[str, StoreError]]
"""The results and the errors by zone."""
_Listing: TypeAlias = Iterator[ObjectInfo]
_Each: TypeAlias = Callable[[Sequence[str], Callable[[str], T]], _Answers[T]]
"""Runs a function for each of the zones at once."""
Late: TypeAlias = Callable[[str, float], None]
"""Called with (zone, seconds since the request) for a zone without an answer. Must be quick and must not raise."""
Report: TypeAlias = Callable[[str, str, StoreError], None]
"""Called with (zone, key, error of the zone) if another zone served a read. Must be quick and must not raise."""


class MissedWrite(StrEnum):
    """The kind of a missed write."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RepairNote:
    """A note that a zone missed a write of two others.

    A note is a hint. A removed note may still exist in a zone that was unavailable during the removal. A repair
    therefore asks the zones.
    """

    zone: str
    key: str
    missed: MissedWrite

    @property
    def note_key(self) -> str:
        """The key of the note, one for each zone and key, so that the latest note counts."""
        return _note_key(self.zone, self.key)

    def encode(self) -> bytes:
        """Encode the body of the note as JSON."""
        return json.dumps({"key": self.key, "kind": self.missed}).encode()

    @staticmethod
    def decode(zone: str, body: bytes) -> "RepairNote | None":
        """Decode a note; None if the bytes are damaged, because another zone has the note, too."""
        try:
            fields = read_json(body.decode())
            return RepairNote(zone=zone, key=str(fields["key"]), missed=MissedWrite(fields["kind"]))
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneCopies:
    """The copies of one object in the zones."""

    body: bytes | None
    """An accepted body."""
    right: Sequence[str]
    """The zones with accepted bytes."""
    wrong: Sequence[str]
    """The zones with other bytes."""
    absent: Sequence[str]
    silent: Sequence[str]
    """The zones without an answer, whose copies are unknown."""
    read_bytes: int
    """Bytes read from all zones together."""

    @property
    def unknown(self) -> bool:
        """Whether a silent zone may have the only right copy."""
        return self.body is None and bool(self.silent) and len(self.absent) < QUORUM


def _most_common(bodies: Iterable[bytes]) -> bytes | None:
    """Return the bytes that most copies have; None if no bytes have more copies than others."""
    counts = Counter(bodies).most_common(2)
    if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _note_key(zone: str, key: str) -> str:
    return f"{REPAIRS}{zone}/{digest_of(key.encode()).hex()}"


def _ignore_late(_zone: str, _age_seconds: float) -> None:
    """Ignore a late zone."""


def _ignore_report(_zone: str, _key: str, _error: StoreError) -> None:
    """Ignore a report."""


class ZoneRedundantStore:
    """A store of three zones. The module's docstring has the rules."""

    def __init__(
        self,
        zones: Mapping[str, ObjectStore],
        *,
        report: Report = _ignore_report,
        monotonic: Callable[[], float] = time.monotonic,
        rest_seconds: float = 30.0,
        notes_seconds: float = 60.0,
        avoided: Callable[[str], bool] = lambda _zone: False,
        down: Callable[[str], bool] = lambda _zone: False,
        late: Late = _ignore_late,
        grace: Grace = Grace(),  # noqa: B008 - frozen
    ) -> None:
        """Combine three stores.

        Args:
            zones: stores by zone name, which is part of the notes' keys. Each store has retries (`RetryingStore`)
                already.
            report: called for damage and gaps that a read found.
            monotonic: seconds of a monotonic clock.
            rest_seconds: the rest of a zone that did not answer.
            notes_seconds: the time until the notes are read again.
            avoided: returns whether a zone is known to be late or down; other zones are read first.
            down: returns whether a zone is known to fail. Such a zone rests. A zone that is only late still gets
                writes, because it would otherwise miss them.
            late: called for a zone with a late answer; another zone is then asked, too.
            grace: the time for the third zone to write what two have written.
        """
        assert len(zones) == ZONES, f"{len(zones)} zones"
        self.name = "zones " + ", ".join(f"{zone}: {store.name}" for zone, store in zones.items())
        self._zones = dict(zones)
        self._report = report
        self._monotonic = monotonic
        self._rests = _Rests(monotonic, rest_seconds, avoided, down)
        self._late = late
        self._grace = grace
        self._avoided = avoided
        self._notes = _Notes(zones, monotonic, notes_seconds)

    @property
    def properties(self) -> StoreProperties:
        """See `Describes.properties`. The promises of all zones, without promises that three zones cannot keep."""
        verifies = all(store.properties.verifies_checksum for store in self._zones.values())
        return StoreProperties(verifies_checksum=verifies, server_side_copy=False, atomic_create=False)

    def close(self) -> None:
        """Do nothing: threads end by themselves, and the caller owns the zones' stores."""

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self._repeat_with_notes(lambda: self._read_first(key, lambda store: store.get(key, accept)))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._repeat_with_notes(
            lambda: self._read_first(key, lambda store: store.get_range(key, offset, length))
        )

    def _repeat_with_notes(self, look: Callable[[], T]) -> T:
        """Return the result of `look`. If too few zones are trusted, read all notes again and repeat once."""
        self._know_notes()
        try:
            return look()
        except StoreUnreachable:
            self._read_all_notes()
            return look()

    def _read_first(self, key: str, read: Callable[[ObjectStore], bytes]) -> bytes:
        order = self._order(key)
        wrong = self._find_distrusted(order, key)
        zones = [zone for zone in order if zone not in wrong]
        for zone, outcome in self._race(zones, lambda zone: read(self._zones[zone])):
            if outcome.error is None:
                for other, gap in wrong.items():
                    self._report(other, key, gap)
                return outcome.value
            wrong[zone] = outcome.error
            left = [each for each in zones if each not in wrong]
            if _count_absent(wrong) >= QUORUM and all(map(self._rests.rests, left)):
                break  # The object may only be in resting zones, whose answers would cost a timeout.
        raise self._none_read(key, wrong)

    def _race(
        self, zones: Sequence[str], act: Callable[[str], T], at_once: int = 1
    ) -> "Iterator[tuple[str, Outcome[T]]]":
        """Yield the outcome of `act` on each zone, in the order of arrival.

        The next zone is asked, too, if one is late.
        """
        for outcome in race([partial(act, zone) for zone in zones], at_once=at_once):
            zone = zones[outcome.place]
            if outcome.late:
                self._late(zone, outcome.age_seconds)
                continue
            if outcome.error is not None:
                self._rests.judge(zone, outcome.error)
            yield zone, outcome

    def _none_read(self, key: str, wrong: Mapping[str, StoreError]) -> StoreError:
        gone = _count_absent(wrong)
        corrupt = sum(isinstance(error, ObjectCorrupt) for error in wrong.values())
        if gone < QUORUM and gone + corrupt < ZONES:
            return self._quorum_error(key, wrong)
        return damaged_object_error(self.name, key) if corrupt else missing_object_error(self.name, key)

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`. The time is the latest of the zones' times."""
        return self._repeat_with_notes(lambda: self._head(key))

    def _head(self, key: str) -> ObjectInfo:
        order = self._order(key)
        have: dict[str, ObjectInfo] = {}
        wrong = self._find_distrusted(order, key)
        believed = [zone for zone in order if zone not in wrong]
        for zone, outcome in self._race(believed, lambda zone: self._zones[zone].head(key), QUORUM):
            if outcome.error is None:
                have[zone] = outcome.value
            else:
                wrong[zone] = outcome.error
            if len(have) >= QUORUM or _count_absent(wrong) >= QUORUM:
                break
        if len(have) >= QUORUM:
            return _latest(have.values())
        if _count_absent(wrong) >= QUORUM:
            raise missing_object_error(self.name, key)
        raise self._unknown_error(key, have, wrong) if have else self._quorum_error(key, wrong)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. Notes are not listed."""
        self._know_notes()
        awake = self._rests.awake(self._zones)
        last = ""
        for info in self._merge(awake, prefix, is_last=False):
            if info is None:
                break
            last = info.key
            yield info
        else:
            return
        # Resting and late zones are needed: list all three again, and continue after the last key.
        self._read_all_notes()
        merged = self._merge(list(self._zones), prefix, is_last=True)
        yield from (info for info in merged if info is not None and info.key > last)

    def _merge(self, zones: Sequence[str], prefix: str, *, is_last: bool) -> Iterator[ObjectInfo | None]:
        """Merge the listings of the zones. Unless `is_last`, a zone that is late or fails at first counts as not asked.

        Yields None where the zones that were not asked are needed.
        """
        each: _Each[_Listing] = self._each if is_last else self._each_in_grace
        listings, failed = each(zones, lambda zone: _fetch_first_page(self._zones[zone].list(prefix)))
        asks_all = is_last or len(listings) == ZONES
        if not asks_all:
            failed = {}
        streams = [self._stream(zone, listing, failed) for zone, listing in listings.items()]
        for key, found in groupby(heapq.merge(*streams, key=_get_key), key=_get_key):
            copies = dict(found)
            have = [info for zone, info in copies.items() if not self._notes.name(zone, key)]
            if not asks_all and (failed or len(have) < QUORUM):
                yield None
            self._check_listing(prefix, failed)
            silent = sum(zone in failed or self._notes.name(zone, key) for zone in self._zones)
            if len(have) + silent >= QUORUM and not key.startswith(REPAIRS):
                yield replace(_latest(have or copies.values()), certain=len(have) >= QUORUM)
        if not asks_all and (failed or len(listings) < QUORUM):
            yield None
        self._check_listing(prefix, failed)

    def _stream(
        self, zone: str, listing: "_Listing", failed: dict[str, StoreError]
    ) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield a zone's listing, which ends when the zone fails."""
        try:
            for info in listing:
                yield zone, info
        except StoreError as error:
            self._rests.judge(zone, error)
            failed[zone] = error

    def _check_listing(self, prefix: str, failed: Mapping[str, StoreError]) -> None:
        if len(failed) > ZONES - QUORUM:
            raise self._quorum_error(prefix, failed)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        check_key(key)
        if only_if_absent and self._exists(key):
            raise existing_object_error(self.name, key)
        self._know_notes()
        took, _ = self._write_to_quorum(key, self._each_in_grace, lambda store: store.put(key, body))
        self._write_notes([key], MissedWrite.PUT, list(took))
        return _latest(took.values())

    def _exists(self, key: str) -> bool:
        try:
            self.head(key)
        except ObjectNotFound:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> bool:
        """See `Deletes.delete`."""
        answered = True
        for batch in split_batches(map(check_key, keys)):
            answered = self._delete(batch) and answered
        return answered

    def _delete(self, batch: Sequence[str]) -> bool:
        self._let_silent_zones_rest(batch[0])
        self._know_notes()
        took, failed = self._write_to_quorum(batch[0], self._each_reporting_late, lambda store: store.delete(batch))
        self._write_notes(batch, MissedWrite.DELETE, list(took))
        return not any(map(_may_arrive_late, failed.values()))

    def _let_silent_zones_rest(self, key: str) -> None:
        """Exclude silent zones from the next delete, because a delete must not be given up (invariant G6)."""
        unheard = [zone for zone in self._rests.awake(self._zones) if not self._rests.was_heard(zone, _HEARD_SECONDS)]
        if unheard:
            self._each_in_grace(unheard, lambda zone: self._has(zone, key), quorum=len(unheard) - 1)

    def _has(self, zone: str, key: str) -> bool:
        try:
            self._zones[zone].head(key)
        except ObjectNotFound:
            return False
        return True

    def copy_within(self, source_key: str, target_key: str) -> ObjectInfo:
        """See `Copies.copy_within`. The checksum is of the new object."""
        return self.put(target_key, self.get(source_key))

    def put_without_notes(self, key: str, body: Body) -> None:
        """Put an object into at least two zones without notes, for objects that need no repair.

        Raises:
            StoreError: fewer than two zones took the object.
        """
        self._write_to_quorum(check_key(key), self._each_in_grace, lambda store: store.put(key, body))

    def _write_to_quorum(self, key: str, each: "_Each[T]", write: Callable[[ObjectStore], T]) -> "_Answers[T]":
        """Write to the zones that are up, and to all zones if these are too few. At least two zones take the write."""
        awake = self._rests.awake(self._zones)
        took, failed = each(awake, lambda zone: write(self._zones[zone]))
        if len(took) < QUORUM:
            rest = [zone for zone in self._zones if zone not in awake]
            more, more_failed = self._each(rest, lambda zone: write(self._zones[zone]))
            took, failed = took | more, failed | more_failed
        if len(took) < QUORUM:
            raise self._quorum_error(key, failed)
        return took, failed

    def _write_notes(self, keys: Sequence[str], kind: MissedWrite, took: Sequence[str]) -> None:
        """In each zone that took a write, put notes about the zones that missed it, and delete the notes of the others.

        A zone that fails to do so counts as a zone that missed the write. Some untrue notes may be unknown here. After
        a write to all zones, these notes do little harm. After a write that a zone missed, they would make two zones
        distrusted, so they are deleted in any case.
        """
        missed = [zone for zone in self._zones if zone not in took]
        notes = [RepairNote(zone=zone, key=key, missed=kind) for zone in missed for key in keys]
        untrue = [_note_key(zone, key) for zone in took for key in keys if missed or self._notes.have(zone, key)]

        def tell(holder: str) -> None:
            for note in notes:
                self._zones[holder].put(note.note_key, note.encode())
            if untrue:
                self._zones[holder].delete(untrue)

        if not notes and not untrue:
            return
        told, failed = self._each(took, tell)
        self._notes.change(told, [note.note_key for note in notes], untrue)
        if len(told) < QUORUM:
            raise self._quorum_error(keys[0], failed)
        if len(told) < len(took):
            self._write_notes(keys, kind, list(told))

    # -- notes --------------------------------------------------------------------------------------------------------

    def list_pending_repairs(self) -> Sequence[RepairNote]:
        """Read the notes of all zones again, and return the missed writes that were not repaired, sorted.

        The rest of a zone that answers ends, so that a repair reaches a zone that has recovered.

        Raises:
            StoreError: fewer than two zones answer.
        """
        found, failed = self._each_in_grace(list(self._zones), self._read_notes)
        if len(found) < QUORUM:
            raise self._quorum_error(REPAIRS, failed)
        for zone in found:
            self._rests.end(zone)
        return sorted(set().union(*found.values()))

    def read_copies(self, key: str, accept: Accept | None = None) -> "ZoneCopies":
        """Read the whole object in each zone for a repair, regardless of notes.

        A resting zone is silent without a request, so a dead zone costs one timeout and not one for each object.

        Args:
            key: the key of the object.
            accept: returns whether bytes are right. Without `accept`, the bytes of most copies are right, and no copy is
                right if two copies differ.
        """
        awake = self._rests.awake(self._zones)
        read, failed = self._each_in_grace(awake, lambda zone: self._zones[zone].get(key))
        common = _most_common(read.values()) if accept is None else None
        right = tuple(zone for zone, body in read.items() if (accept(body) if accept else body == common))
        corrupt = {zone for zone, error in failed.items() if isinstance(error, ObjectCorrupt)}
        absent_in = {zone for zone, error in failed.items() if isinstance(error, ObjectNotFound)}
        return ZoneCopies(
            body=read[right[0]] if right else None,
            right=right,
            wrong=tuple(zone for zone in self._zones if zone in corrupt or (zone in read and zone not in right)),
            absent=tuple(zone for zone in self._zones if zone in absent_in),
            silent=tuple(zone for zone in self._zones if zone not in {*read, *corrupt, *absent_in}),
            read_bytes=sum(map(len, read.values())),
        )

    def list_unequal_keys(self, prefix: str) -> Iterator[str]:
        """List the keys that not all zones have with the same length, in order (invariant Z7).

        Raises:
            StoreError: a zone does not answer.
        """
        streams = [((zone, info) for info in store.list(prefix)) for zone, store in self._zones.items()]
        for key, found in groupby(heapq.merge(*streams, key=_get_key), key=_get_key):
            copies = [info.stored_bytes for _, info in found]
            if len(copies) < ZONES or len(set(copies)) > 1:
                yield key

    def restore(self, key: str, copies: ZoneCopies) -> Mapping[str, StoreError]:
        """Put an object into the zones where the copy is missing or damaged (invariant Z15).

        Existing notes stay: see `delete_notes`. A late put is harmless, so a late zone is given up. A zone that fails has
        missed the put. The other zones note this if two of them have the object, so that a repair follows.

        Args:
            key: the key of the object.
            copies: the copies, with a right body.

        Returns:
            The errors of the zones that failed.
        """
        body = copies.body
        assert body is not None, "there is a right copy"
        defective = [*copies.wrong, *copies.absent]
        took, failed = self._each_in_grace(defective, lambda zone: self._zones[zone].put(key, body), quorum=0)
        have = [*copies.right, *took]
        if failed and len(have) >= QUORUM:
            with suppress(StoreError):  # Scrub finds the zone without a note, too.
                self._write_notes([key], MissedWrite.PUT, have)
        return failed

    def delete_in(self, key: str, zones: Sequence[str]) -> None:
        """Delete an object in the zones that missed its delete. Notes stay: see `delete_notes`.

        Raises:
            StoreError: one of the zones failed.
        """
        _, failed = self._each(zones, lambda zone: self._zones[zone].delete([key]))
        for error in failed.values():
            raise error

    def has_notes(self, key: str) -> bool:
        """Return whether a zone has a note about a key. The content of the note does not count, so it may be damaged."""
        self._know_notes()
        return any(self._notes.have(zone, key) for zone in self._zones)

    def delete_notes(self, key: str) -> None:
        """Delete every note about a key, after all three zones were asked and agree."""
        notes = [_note_key(zone, key) for zone in self._zones]
        told, _ = self._each(list(self._zones), lambda holder: self._zones[holder].delete(notes))
        self._notes.change(told, [], notes)

    def delete_stale_notes(self) -> int:
        """Delete the notes about keys that all three zones report as absent: such keys need no repair.

        A note that is written at the same moment may be deleted, too. This is harmless for objects that are named by
        content: scrub finds a zone with a missing object, and an object in a single zone does not exist.

        Returns:
            The number of notes, each counted once.

        Raises:
            StoreError: fewer than two zones answer.
        """
        stale = [note.note_key for note in self.list_pending_repairs() if self._is_nowhere(note.key)]
        if stale:
            told, _ = self._each(list(self._zones), lambda holder: self._zones[holder].delete(stale))
            self._notes.change(told, [], stale)
        return len(stale)

    def _is_nowhere(self, key: str) -> bool:
        if len(self._rests.awake(self._zones)) < ZONES:
            return False
        have, failed = self._each(list(self._zones), lambda zone: self._zones[zone].head(key))
        return not have and _count_absent(failed) == ZONES

    def _read_notes(self, holder: str) -> set[RepairNote]:
        store = self._zones[holder]
        notes = set()
        for info in store.list(REPAIRS):
            with suppress(ObjectNotFound):  # repaired after the listing
                note = RepairNote.decode(info.key.split("/")[1], store.get(info.key))
                if note is not None and note.note_key == info.key:  # Otherwise the content is damaged.
                    notes.add(note)
        return notes

    def _know_notes(self) -> None:
        if self._rests.some_ended():
            self._notes.expire()
        if self._notes.are_old():
            self._notes.renew(lambda: self._each_in_grace(self._rests.awake(self._zones), self._list_notes)[0])

    def _read_all_notes(self) -> None:
        self._notes.expire()
        self._notes.renew(lambda: self._each_in_grace(list(self._zones), self._list_notes)[0])

    def _list_notes(self, holder: str) -> frozenset[str]:
        return frozenset(info.key for info in self._zones[holder].list(REPAIRS))

    # -- zones --------------------------------------------------------------------------------------------------------

    def _find_distrusted(self, zones: Sequence[str], key: str) -> dict[str, StoreError]:
        """Return an error for each zone that missed a write of this key: its answers about the key do not count."""
        return {
            zone: StoreUnreachable(
                f"Zone {zone} missed a write of '{key}'.",
                found="a repair note about the zone and the key",
                expected="no repair note",
                hint="run `imgstore scrub`",
                target=key,
            )
            for zone in zones
            if self._notes.name(zone, key)
        }

    def _order(self, key: str) -> Sequence[str]:
        """Order the zones: resting zones last, otherwise by the key, so that the zones share the load."""
        check_key(key)
        zones = list(self._zones)
        start = zlib.crc32(key.encode()) % len(zones)
        return sorted(zones[start:] + zones[:start], key=self._rests.rests)

    def _each(self, zones: Sequence[str], act: Callable[[str], T]) -> "_Answers[T]":
        """Run `act` on all zones at once, and return the results and the errors."""
        return self._divide(zones, ask_all([partial(act, zone) for zone in zones]))

    def _each_reporting_late(self, zones: Sequence[str], act: Callable[[str], T]) -> "_Answers[T]":
        """Run `act` on all zones at once and wait for all. The circuit of a late zone is informed during the wait."""
        asks = [partial(act, zone) for zone in zones]
        late_seconds = self._grace.seconds_min
        outcomes = ask_all(asks, late_seconds=late_seconds, on_late=lambda place, age: self._late(zones[place], age))
        return self._divide(zones, outcomes)

    def _each_in_grace(self, zones: Sequence[str], act: Callable[[str], T], quorum: int = QUORUM) -> "_Answers[T]":
        """Run `act` on all zones at once, and give up late zones after a quorum. Return the results and the errors."""

        def seconds(place: int, quorum_seconds: float, moved: bool) -> float:  # noqa: FBT001 - as it is called
            zone = zones[place]
            known_late = not moved and self._avoided(zone)
            last_seconds = self._rests.last_seconds(zone)
            return self._grace.seconds(quorum_seconds=quorum_seconds, last_seconds=last_seconds, known_late=known_late)

        def end_late(outcome: Outcome[T]) -> None:
            self._rests.end_late(zones[outcome.place], outcome.error)

        def time_call(zone: str) -> T:
            began = self._monotonic()
            value = act(zone)
            self._rests.note_answer(zone, self._monotonic() - began)
            return value

        asks = [partial(time_call, zone) for zone in zones]
        outcomes = ask_to_quorum(asks, quorum=quorum, grace=seconds, ended_late=end_late, monotonic=self._monotonic)
        return self._divide(zones, outcomes)

    def _divide(self, zones: Sequence[str], outcomes: Sequence[Outcome[T]]) -> "_Answers[T]":
        """Divide outcomes into results and errors. Zones that failed or were given up rest from now on."""
        done: dict[str, T] = {}
        failed: dict[str, StoreError] = {}
        for zone, outcome in zip(zones, outcomes, strict=True):
            if outcome.late:
                if outcome.age_seconds:
                    self._late(zone, outcome.age_seconds)
                self._rests.give_up(zone)
                failed[zone] = _late_error(zone, outcome.age_seconds)
            elif outcome.error is None:
                done[zone] = outcome.value
            else:
                self._rests.judge(zone, outcome.error)
                failed[zone] = outcome.error
        return done, failed

    def _unknown_error(self, key: str, have: Iterable[str], wrong: Mapping[str, StoreError]) -> ExistenceUnknown:
        """Create the error for a key that one zone has, without a second zone that confirms or denies the key."""
        return ExistenceUnknown(
            f"It is unknown whether '{key}' exists.",
            found=f"a copy in zone {', '.join(have)}; "
            + "; ".join(f"zone {zone}: {error.message}" for zone, error in sorted(wrong.items())),
            expected=f"the same answer of {QUORUM} of the {ZONES} zones",
            hint="restart the zone that does not answer, then run the same command again",
            target=key,
        )

    def _quorum_error(self, key: str, wrong: Mapping[str, StoreError]) -> StoreError:
        """Create the error of a call with too few zones. The error is retryable if an error of a zone is retryable.

        The error never reports the object as missing or damaged, because too few zones have answered (invariant Z10).
        """
        about_object = (ObjectNotFound, ObjectCorrupt)
        errors = [error for error in wrong.values() if not isinstance(error, about_object)]
        kind = StoreUnreachable if not errors or any(error.retryable for error in errors) else type(errors[0])
        return kind(
            f"Too few zones serve '{key}'.",
            found="; ".join(f"zone {zone}: {error.message} ({error.found})" for zone, error in sorted(wrong.items()))
            or "no answer",
            expected=f"{QUORUM} of the {ZONES} zones",
            hint="restart the zones, then run the same command again, which resumes the work",
            target=key,
        )


class _Rests:
    """The resting zones, with the end of each rest."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        seconds: float,
        avoided: Callable[[str], bool],
        down: Callable[[str], bool],
    ) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._avoided = avoided
        self._down = down
        self._until: dict[str, float] = {}
        self._heard_at: dict[str, float] = {}
        self._last_seconds: dict[str, float] = {}
        self._owed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note_answer(self, zone: str, seconds: float) -> None:
        """Note an answer of the zone and its time. The effect of a slow answer halves with each later answer."""
        with self._lock:
            self._heard_at[zone] = self._monotonic()
            self._last_seconds[zone] = max(seconds, self._last_seconds.get(zone, 0.0) / 2)

    def was_heard(self, zone: str, seconds: float) -> bool:
        """Return whether the zone answered in the last `seconds`."""
        return self._monotonic() - self._heard_at.get(zone, float("-inf")) < seconds

    def last_seconds(self, zone: str) -> float:
        """Return the recent time of the zone; 0 if unknown."""
        return self._last_seconds.get(zone, 0.0)

    def give_up(self, zone: str) -> None:
        """Start the rest of a zone that owes an answer. `end_late` follows, or has come before."""
        with self._lock:
            self._owed[zone] += 1
            if self._owed[zone] > 0:
                self._until[zone] = self._monotonic() + self._seconds

    def end_late(self, zone: str, error: StoreError | None) -> None:
        """End the rest of a zone whose last owed answer has arrived."""
        if error is not None:
            self.judge(zone, error)
        with self._lock:
            self._owed[zone] -= 1
            if error is None and self._owed[zone] <= 0 and zone in self._until:
                self._until[zone] = self._monotonic()

    def end(self, zone: str) -> None:
        """End the rest of a zone that has answered, unless the zone owes an answer."""
        with self._lock:
            if self._owed[zone] <= 0 and zone in self._until:
                self._until[zone] = min(self._until[zone], self._monotonic())

    def judge(self, zone: str, error: StoreError) -> None:
        """Start the rest of the zone if `error` shows that it does not answer, or that it is the wrong store."""
        if error.retryable or isinstance(error, StoreMismatch):
            with self._lock:
                self._until[zone] = self._monotonic() + self._seconds

    def rests(self, zone: str) -> bool:
        """Return whether other zones are read first now."""
        return self._is_failed(zone) or self._avoided(zone)

    def _is_failed(self, zone: str) -> bool:
        return self._until.get(zone, 0.0) > self._monotonic() or self._down(zone)

    def awake(self, zones: Iterable[str]) -> Sequence[str]:
        """Return the zones without a rest, or all zones if these are too few."""
        every = list(zones)
        up = [zone for zone in every if not self._is_failed(zone)]
        return up if len(up) >= QUORUM else every

    def some_ended(self) -> bool:
        """Return whether a zone's rest has ended since the last call."""
        with self._lock:
            ended = [zone for zone, until in self._until.items() if until <= self._monotonic()]
            for zone in ended:
                del self._until[zone]
        return bool(ended)


class _Notes:
    """The notes in each zone, as last read and as changed by this process since."""

    def __init__(self, zones: Iterable[str], monotonic: Callable[[], float], seconds: float) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._held: dict[str, frozenset[str]] = dict.fromkeys(zones, frozenset())
        self._old_at: float | None = None
        self._lock = threading.Lock()

    def are_old(self) -> bool:
        """Return whether the notes should be read again."""
        return self._old_at is None or self._monotonic() >= self._old_at

    def have(self, zone: str, key: str) -> bool:
        """Return whether any zone has a note that `zone` missed a write of `key`, true or not."""
        return any(self._holders(zone, key))

    def name(self, zone: str, key: str) -> bool:
        """Return whether a trusted zone has such a note."""
        return any(not self._is_outdated(holder, key) for holder in self._holders(zone, key))

    def _is_outdated(self, holder: str, key: str) -> bool:
        """Return whether both other zones have a note that this zone missed a write of the key.

        Both are required, because two zones that took the latest write never have such notes about each other.
        """
        return len(self._holders(holder, key)) >= QUORUM

    def _holders(self, zone: str, key: str) -> Sequence[str]:
        if not any(self._held.values()):
            return ()
        note = _note_key(zone, key)
        return [holder for holder, keys in self._held.items() if note in keys]

    def expire(self) -> None:
        """Cause the notes to be read again."""
        self._old_at = None

    def renew(self, read: Callable[[], dict[str, frozenset[str]]]) -> None:
        """Read the notes, unless another thread has just read them. The former notes of a silent zone stay."""
        with self._lock:  # Writers of notes wait, because their notes are newer than this read.
            if self.are_old():
                self._held = self._held | read()
                self._old_at = self._monotonic() + self._seconds

    def change(self, holders: Iterable[str], written: Iterable[str], removed: Iterable[str]) -> None:
        """Apply written and removed notes to each of the zones `holders`."""
        with self._lock:
            changed = {holder: (self._held[holder] - frozenset(removed)).union(written) for holder in holders}
            self._held = self._held | changed


def _fetch_first_page(listing: _Listing) -> _Listing:
    """Wait for the first page of a listing."""
    first = tuple(islice(listing, 1))
    return chain(first, listing)


def _get_key(told: tuple[str, ObjectInfo]) -> str:
    return told[1].key


def _count_absent(wrong: Mapping[str, StoreError]) -> int:
    return sum(isinstance(error, ObjectNotFound) for error in wrong.values())


def _may_arrive_late(error: StoreError) -> bool:
    """Return whether a request that ended with this error may still be carried out."""
    return isinstance(error, StoreUnreachable) and not isinstance(error, CircuitOpen)


def _late_error(zone: str, age_seconds: float) -> StoreSilent:
    return StoreSilent(
        f"Zone {zone} is late.",
        found=f"no answer within {age_seconds:.1f} s, while the other zones have answered",
        expected="an answer",
        hint="check that the zone's store runs; scrub repairs missed writes after the zone answers",
        target=zone,
    )


def _latest(infos: Iterable[ObjectInfo]) -> ObjectInfo:
    return max(infos, key=lambda info: info.last_modified)
