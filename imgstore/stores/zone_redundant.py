"""One store out of three zones (ZRS): it survives the loss of any one of them.

An object *exists* when two zones have it; with one it is absent, and whoever needs it puts it again (invariant Z1).
All follows from one sentence: a write is acknowledged when two zones took it and have noted what the third missed;
any two zones have one of these in common.

==============  =====================================================================================================
put             To all zones at once; two must take it, else the error. What landed is harmless: its name says what it
                is. Once two took it, the third gets a grace (`Grace`). Then it is given up, and has missed the write.
delete          As put, but nobody is given up, since a late delete could remove what was put again. A zone that was
                not heard of for a second is asked whether it answers before anything is deleted.
a missed one    A note ``repairs/<zone>/<hash of key>`` in the zones that took it, before the write is acknowledged.
get             From any zone whose bytes are accepted. Absent when all that answer were asked and two have nothing.
head            Two zones decide. One has it, one has not, one does not answer: nobody can tell, so an error.
list            The three listings merged. If all zones answer, a key that only one zone has is left out: the object does
                not exist. If a zone does not answer or missed a write of the key, such a key is listed as not `certain`.
                So is a key that only a zone without belief lists, while another zone does not answer.
only_if_absent  head, then put: not exclusive, as `atomic_create` says.
copy_within     get and put, so that a damaged copy in one zone does not breed.
==============  =====================================================================================================

A zone is not believed in what it missed, be it a put or a delete that never came: about a key that a note names for it
it counts as one that does not answer, until the key is written again or a repair has taken the note away. So a zone
that comes back never shows what was deleted as certain. Nor is it believed in its *notes* about such a key, which are
older than the two others' notes about itself. Notes are read at the first use, when a zone has come back, and every
`notes_seconds`; what other processes noted since is not known before. Correctness needs none of them for what is named
by its content and confirmed by listing: scrub compares the three listings.

A zone that did not answer rests for `rest_seconds`: it is asked only where two others are not enough, so that a dead
zone costs a note an object instead of a time-out an object. So does a zone that was given up, until the last request
that it owes has ended well. A put that it takes later is harmless: the note stays, and a repair finds three equal copies.
Where a zone is late with an answer to a read, another one is
asked as well, and the first answer counts. A zone that is late with the first page of a listing is left out of it, as long
as the two others agree. Readers repair nothing; they report.
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
from imgstore.domain.strict_json import read_json
from imgstore.stores.errors import damaged_object_error, existing_object_error, missing_object_error
from imgstore.stores.interface import Accept, Body, ObjectInfo, ObjectStore, StoreProperties, check_key, split_batches
from imgstore.stores.wrappers.hedging import Grace, Outcome, ask_all, ask_to_quorum, race

ZONES: Final = 3
QUORUM: Final = 2

_HEARD_SECONDS: Final = 1.0
"""A zone that answered in this time is not asked whether it answers before a delete is sent to it."""

T = TypeVar("T")
_Answers: TypeAlias = tuple[dict[str, T], dict[str, StoreError]]
"""What zones gave, and what they raised."""
_Listing: TypeAlias = Iterator[ObjectInfo]
_Each: TypeAlias = Callable[[Sequence[str], Callable[[str], T]], _Answers[T]]
"""Does something in each of these zones at once."""
Late: TypeAlias = Callable[[str, float], None]
"""Told (zone, seconds since the request was sent) of a zone that has not begun to answer. Must be quick and must not raise."""
Report: TypeAlias = Callable[[str, str, StoreError], None]
"""Told (zone, key, what was wrong there) when a read was served by another zone. Must be quick and must not raise."""


class Missed(StrEnum):
    """What a zone missed."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RepairNote:
    """A zone missed a write that the others took.

    A hint: it may outlive what it tells of, in a zone that was away when it was removed. Whoever repairs asks the zones.
    """

    zone: str
    key: str
    missed: Missed

    @property
    def note_key(self) -> str:
        """Where the note lies: one for each zone and key, so that the latest word stands."""
        return _note_key(self.zone, self.key)

    def encode(self) -> bytes:
        """The note's body, JSON."""
        return json.dumps({"key": self.key, "kind": self.missed}).encode()

    @staticmethod
    def decode(zone: str, body: bytes) -> "RepairNote | None":
        """Return the note that `encode` wrote; None where the bytes are damaged: another zone holds the note as well."""
        try:
            fields = read_json(body.decode())
            return RepairNote(zone=zone, key=str(fields["key"]), missed=Missed(fields["kind"]))
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneCopies:
    """What the zones have of one object."""

    body: bytes | None
    """One that was accepted."""
    right: Sequence[str]
    """The zones whose bytes were accepted."""
    wrong: Sequence[str]
    """Those that have other bytes."""
    absent: Sequence[str]
    silent: Sequence[str]
    """Those that do not answer: what they have is not known."""
    read_bytes: int
    """From all zones together."""

    @property
    def unknown(self) -> bool:
        """Whether a zone that does not answer may hold the only right copy."""
        return self.body is None and bool(self.silent) and len(self.absent) < QUORUM


def _note_key(zone: str, key: str) -> str:
    return f"{REPAIRS}{zone}/{digest_of(key.encode()).hex()}"


def _unnoticed(_zone: str, _age_seconds: float) -> None:
    """The word of lateness that nobody asked for."""


def _unreported(_zone: str, _key: str, _error: StoreError) -> None:
    """The report that nobody asked for."""


class Zoned:
    """See the module."""

    def __init__(
        self,
        zones: Mapping[str, ObjectStore],
        *,
        report: Report = _unreported,
        monotonic: Callable[[], float] = time.monotonic,
        rest_seconds: float = 30.0,
        notes_seconds: float = 60.0,
        avoided: Callable[[str], bool] = lambda _zone: False,
        down: Callable[[str], bool] = lambda _zone: False,
        late: Late = _unnoticed,
        grace: Grace = Grace(),  # noqa: B008 - frozen
    ) -> None:
        """Make one store of three.

        Args:
            zones: by the zone's name, which stands in the notes' keys; patience (`RetryingStore`) is already around each.
            report: hears of damage and gaps that a read went round.
            monotonic: seconds of a clock that only goes on.
            rest_seconds: for how long a zone that did not answer is left alone.
            notes_seconds: for how long the notes that were read are believed to be all.
            avoided: whether a zone is known not to answer in time: others are read first.
            down: whether a zone is known to fail: it is left alone like one that rests. A zone that is only late is
                written to, since it would miss what the others take.
            late: hears of zones that are late with an answer; another zone is asked as well then.
            grace: how long a zone may take to write what the two others have written.
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
        """See `Describes.properties`: what all zones promise, less what three together cannot."""
        verifies = all(store.properties.verifies_checksum for store in self._zones.values())
        return StoreProperties(verifies_checksum=verifies, server_side_copy=False, atomic_create=False)

    def close(self) -> None:
        """Holds nothing of its own: threads end by themselves, and the zones' stores are the caller's."""

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        """See `Gets.get`."""
        return self._surely(lambda: self._first(key, lambda store: store.get(key, accept)))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `Gets.get_range`."""
        return self._surely(lambda: self._first(key, lambda store: store.get_range(key, offset, length)))

    def _surely(self, look: Callable[[], T]) -> T:
        """What `look` finds; where too few zones could be believed, once more with the notes of all zones read anew."""
        self._know_notes()
        try:
            return look()
        except StoreUnreachable:
            self._read_all_notes()
            return look()

    def _first(self, key: str, read: Callable[[ObjectStore], bytes]) -> bytes:
        order = self._order(key)
        wrong = self._disbelieved(order, key)
        zones = [zone for zone in order if zone not in wrong]
        for zone, outcome in self._race(zones, lambda zone: read(self._zones[zone])):
            if outcome.error is None:
                for other, gap in wrong.items():
                    self._report(other, key, gap)
                return outcome.value
            wrong[zone] = outcome.error
            left = [each for each in zones if each not in wrong]
            if _gone(wrong) >= QUORUM and all(map(self._rests.rests, left)):
                break  # at most these have it, and it would take a time-out to hear so
        raise self._none_read(key, wrong)

    def _race(
        self, zones: Sequence[str], act: Callable[[str], T], at_once: int = 1
    ) -> "Iterator[tuple[str, Outcome[T]]]":
        """How `act` on zones ended, as it ends: one zone after another, and the next one as well where one is late."""
        for outcome in race([partial(act, zone) for zone in zones], at_once=at_once):
            zone = zones[outcome.place]
            if outcome.late:
                self._late(zone, outcome.age_seconds)
                continue
            if outcome.error is not None:
                self._rests.judge(zone, outcome.error)
            yield zone, outcome

    def _none_read(self, key: str, wrong: Mapping[str, StoreError]) -> StoreError:
        gone = _gone(wrong)
        corrupt = sum(isinstance(error, ObjectCorrupt) for error in wrong.values())
        if gone < QUORUM and gone + corrupt < ZONES:
            return self._too_few(key, wrong)
        return damaged_object_error(self.name, key) if corrupt else missing_object_error(self.name, key)

    def head(self, key: str) -> ObjectInfo:
        """See `Heads.head`. The latest of the zones' times."""
        return self._surely(lambda: self._head(key))

    def _head(self, key: str) -> ObjectInfo:
        order = self._order(key)
        have: dict[str, ObjectInfo] = {}
        wrong = self._disbelieved(order, key)
        believed = [zone for zone in order if zone not in wrong]
        for zone, outcome in self._race(believed, lambda zone: self._zones[zone].head(key), QUORUM):
            if outcome.error is None:
                have[zone] = outcome.value
            else:
                wrong[zone] = outcome.error
            if len(have) >= QUORUM or _gone(wrong) >= QUORUM:
                break
        if len(have) >= QUORUM:
            return _latest(have.values())
        if _gone(wrong) >= QUORUM:
            raise missing_object_error(self.name, key)
        raise self._unknown(key, have, wrong) if have else self._too_few(key, wrong)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Lists.list`. Notes are not told."""
        self._know_notes()
        awake = self._rests.awake(self._zones)
        last = ""
        for info in self._merged(awake, prefix, is_last=False):
            if info is None:
                break
            last = info.key
            yield info
        else:
            return
        # Zones that rest or are late must tell as well: anew with all three, after the last key told.
        self._read_all_notes()
        merged = self._merged(list(self._zones), prefix, is_last=True)
        yield from (info for info in merged if info is not None and info.key > last)

    def _merged(self, zones: Sequence[str], prefix: str, *, is_last: bool) -> Iterator[ObjectInfo | None]:
        """Merge the listings of the zones. Unless `is_last`, a zone that is late or fails at first counts as not asked.

        Gives None where zones that were not asked would have to be.
        """
        each: _Each[_Listing] = self._each if is_last else self._each_in_grace
        listings, failed = each(zones, lambda zone: _begun(self._zones[zone].list(prefix)))
        asks_all = is_last or len(listings) == ZONES
        if not asks_all:
            failed = {}
        streams = [self._stream(zone, listing, failed) for zone, listing in listings.items()]
        for key, found in groupby(heapq.merge(*streams, key=_key_of), key=_key_of):
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
        """A zone's listing, which ends where the zone fails."""
        try:
            for info in listing:
                yield zone, info
        except StoreError as error:
            self._rests.judge(zone, error)
            failed[zone] = error

    def _check_listing(self, prefix: str, failed: Mapping[str, StoreError]) -> None:
        if len(failed) > ZONES - QUORUM:
            raise self._too_few(prefix, failed)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        check_key(key)
        if only_if_absent and self._exists(key):
            raise existing_object_error(self.name, key)
        self._know_notes()
        took = self._write_to_quorum(key, self._each_in_grace, lambda store: store.put(key, body))
        self._agree([key], Missed.PUT, list(took))
        return _latest(took.values())

    def _exists(self, key: str) -> bool:
        try:
            self.head(key)
        except ObjectNotFound:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """See `Deletes.delete`."""
        for batch in split_batches(map(check_key, keys)):
            self._delete(batch)

    def _delete(self, batch: Sequence[str]) -> None:
        self._let_silent_zones_rest(batch[0])
        self._know_notes()
        took = self._write_to_quorum(batch[0], self._each, lambda store: store.delete(batch))
        self._agree(batch, Missed.DELETE, list(took))

    def _let_silent_zones_rest(self, key: str) -> None:
        """Have zones that do not answer left out of the delete that follows: it may not be given up (invariant G6)."""
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
        """See `Copies.copy_within`. `ObjectInfo.checksum` is of what was put, whatever zone it was read from."""
        return self.put(target_key, self.get(source_key))

    def put_without_notes(self, key: str, body: Body) -> None:
        """Put an object into two zones or three, and note nothing of a zone that missed it: nobody repairs it.

        Raises:
            StoreError: fewer than two zones took it.
        """
        self._write_to_quorum(check_key(key), self._each_in_grace, lambda store: store.put(key, body))

    def _write_to_quorum(self, key: str, each: "_Each[T]", write: Callable[[ObjectStore], T]) -> dict[str, T]:
        """Write to the zones that are up, and to all where these are too few; what those gave that took it."""
        awake = self._rests.awake(self._zones)
        took, failed = each(awake, lambda zone: write(self._zones[zone]))
        if len(took) < QUORUM:
            rest = [zone for zone in self._zones if zone not in awake]
            more, more_failed = self._each(rest, lambda zone: write(self._zones[zone]))
            took, failed = took | more, failed | more_failed
        if len(took) < QUORUM:
            raise self._too_few(key, failed)
        return took

    def _agree(self, keys: Sequence[str], kind: Missed, took: Sequence[str]) -> None:
        """In each zone that took a write: a note of each that did not, and none of those that did.

        A zone that fails in this has as good as missed the write. The untrue notes that are removed may be unknown
        here: after a write that all zones took they do little harm, after one that a zone missed they would make two
        zones be disbelieved.
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
            raise self._too_few(keys[0], failed)
        if len(told) < len(took):
            self._agree(keys, kind, list(told))

    # -- notes --------------------------------------------------------------------------------------------------------

    def list_pending_repairs(self) -> Sequence[RepairNote]:
        """What zones missed and nobody has repaired yet, read afresh, sorted.

        Raises:
            StoreError: fewer than two zones answer.
        """
        found, failed = self._each_in_grace(list(self._zones), self._read_notes)
        if len(found) < QUORUM:
            raise self._too_few(REPAIRS, failed)
        return sorted(set().union(*found.values()))

    def copies(self, key: str, accept: Accept | None = None) -> "ZoneCopies":
        """What each zone has under a key, read whole, whatever the notes say of it: for a repair."""
        read, failed = self._each(list(self._zones), lambda zone: self._zones[zone].get(key))
        right = tuple(zone for zone, body in read.items() if accept is None or accept(body))
        corrupt = {zone for zone, error in failed.items() if isinstance(error, ObjectCorrupt)}
        absent_in = {zone for zone, error in failed.items() if isinstance(error, ObjectNotFound)}
        return ZoneCopies(
            body=read[right[0]] if right else None,
            right=right,
            wrong=tuple(zone for zone in self._zones if zone in corrupt or (zone in read and zone not in right)),
            absent=tuple(zone for zone in self._zones if zone in absent_in),
            silent=tuple(zone for zone in failed if zone not in corrupt | absent_in),
            read_bytes=sum(map(len, read.values())),
        )

    def list_lone_keys(self, prefix: str) -> Iterator[str]:
        """The keys that one zone alone lists, in order: they do not exist, and take room.

        Raises:
            StoreError: a zone does not answer.
        """
        streams = [((zone, info) for info in store.list(prefix)) for zone, store in self._zones.items()]
        for key, found in groupby(heapq.merge(*streams, key=_key_of), key=_key_of):
            if len(list(found)) < QUORUM:
                yield key

    def restore(self, key: str, body: Body, zones: Sequence[str]) -> None:
        """Put an object into the zones that lack it or have it damaged. Notes stay: see `settle`.

        Raises:
            StoreError: one of the zones could not take it.
        """
        self._surely_each(zones, lambda zone: self._zones[zone].put(key, body))

    def withdraw(self, key: str, zones: Sequence[str]) -> None:
        """Delete what a zone kept because it missed the delete. Notes stay: see `settle`.

        Raises:
            StoreError: one of the zones could not do it.
        """
        self._surely_each(zones, lambda zone: self._zones[zone].delete([key]))

    def settle(self, key: str) -> None:
        """Take away every note about a key, once the three zones were asked and agree on it."""
        notes = [_note_key(zone, key) for zone in self._zones]
        told, _ = self._each(list(self._zones), lambda holder: self._zones[holder].delete(notes))
        self._notes.change(told, [], notes)

    def _surely_each(self, zones: Sequence[str], act: Callable[[str], object]) -> None:
        _, failed = self._each(zones, act)
        for error in failed.values():
            raise error

    def delete_stale_notes(self) -> int:
        """Remove the notes about keys that all three zones say they have not: nothing is left to repair.

        A note that is written at this very moment may go with them. That does no harm to what is named by its content:
        a zone that has not what the others have is seen by a scrub, and what one zone alone has does not exist.

        Returns:
            How many there were, each counted once whatever zones hold it.

        Raises:
            StoreError: fewer than two zones answer.
        """
        stale = [note.note_key for note in self.list_pending_repairs() if self._is_nowhere(note.key)]
        if stale:
            told, _ = self._each(list(self._zones), lambda holder: self._zones[holder].delete(stale))
            self._notes.change(told, [], stale)
        return len(stale)

    def _is_nowhere(self, key: str) -> bool:
        have, failed = self._each(list(self._zones), lambda zone: self._zones[zone].head(key))
        return not have and _gone(failed) == ZONES

    def _read_notes(self, holder: str) -> set[RepairNote]:
        store = self._zones[holder]
        notes = set()
        for info in store.list(REPAIRS):
            with suppress(ObjectNotFound):  # repaired since it was listed
                note = RepairNote.decode(info.key.split("/")[1], store.get(info.key))
                if note is not None:
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

    def _disbelieved(self, zones: Sequence[str], key: str) -> dict[str, StoreError]:
        """Which of the zones missed a write of this key: what they say of it counts for nothing."""
        return {
            zone: StoreUnreachable(
                f"Zone {zone} is not believed about '{key}'.",
                found="a note that it missed a write of it",
                expected="no such note",
                hint="run `imgstore scrub`",
                target=key,
            )
            for zone in zones
            if self._notes.name(zone, key)
        }

    def _order(self, key: str) -> Sequence[str]:
        """Resting zones last; else by the key, so that the zones share the work."""
        check_key(key)
        zones = list(self._zones)
        start = zlib.crc32(key.encode()) % len(zones)
        return sorted(zones[start:] + zones[:start], key=self._rests.rests)

    def _each(self, zones: Sequence[str], act: Callable[[str], T]) -> "_Answers[T]":
        """`act` on the zones at once: what it gave, and what it raised."""
        return self._sorted(zones, ask_all([partial(act, zone) for zone in zones]))

    def _each_in_grace(self, zones: Sequence[str], act: Callable[[str], T], quorum: int = QUORUM) -> "_Answers[T]":
        """`act` on the zones at once; give up those that are late once a quorum has succeeded. Else as `_each`."""

        def seconds(place: int, quorum_seconds: float, moved: bool) -> float:  # noqa: FBT001 - as it is called
            zone = zones[place]
            known_late = not moved and self._avoided(zone)
            last_seconds = self._rests.last_seconds(zone)
            return self._grace.seconds(quorum_seconds=quorum_seconds, last_seconds=last_seconds, known_late=known_late)

        def ended_late(outcome: Outcome[T]) -> None:
            self._rests.end_late(zones[outcome.place], outcome.error)

        def timed(zone: str) -> T:
            began = self._monotonic()
            value = act(zone)
            self._rests.note_answer(zone, self._monotonic() - began)
            return value

        asks = [partial(timed, zone) for zone in zones]
        outcomes = ask_to_quorum(asks, quorum=quorum, grace=seconds, ended_late=ended_late, monotonic=self._monotonic)
        return self._sorted(zones, outcomes)

    def _sorted(self, zones: Sequence[str], outcomes: Sequence[Outcome[T]]) -> "_Answers[T]":
        """What was given, and what was raised; zones that failed or were given up rest from now on."""
        done: dict[str, T] = {}
        failed: dict[str, StoreError] = {}
        for zone, outcome in zip(zones, outcomes, strict=True):
            if outcome.late:
                if outcome.age_seconds:
                    self._late(zone, outcome.age_seconds)
                self._rests.give_up(zone)
                failed[zone] = _given_up(zone, outcome.age_seconds)
            elif outcome.error is None:
                done[zone] = outcome.value
            else:
                self._rests.judge(zone, outcome.error)
                failed[zone] = outcome.error
        return done, failed

    def _unknown(self, key: str, have: Iterable[str], wrong: Mapping[str, StoreError]) -> ExistenceUnknown:
        """Return the error for a key that one zone has, while no second zone confirms or denies it."""
        return ExistenceUnknown(
            f"Nobody can tell whether '{key}' exists.",
            found=f"a copy in zone {', '.join(have)}; "
            + "; ".join(f"zone {zone}: {error.message}" for zone, error in sorted(wrong.items())),
            expected=f"{QUORUM} of the {ZONES} zones that agree",
            hint="bring the zone back that does not answer, then run the same command again",
            target=key,
        )

    def _too_few(self, key: str, wrong: Mapping[str, StoreError]) -> StoreError:
        """The error of a call for which too few zones could be had: retryable if one of theirs is.

        It never says that the object is missing or damaged: too few zones have told (invariant Z10).
        """
        told = (ObjectNotFound, ObjectCorrupt)
        errors = [error for error in wrong.values() if not isinstance(error, told)]
        kind = StoreUnreachable if not errors or any(error.retryable for error in errors) else type(errors[0])
        return kind(
            f"Too few zones for '{key}'.",
            found="; ".join(f"zone {zone}: {error.message} ({error.found})" for zone, error in sorted(wrong.items()))
            or "no answer",
            expected=f"{QUORUM} of the {ZONES} zones",
            hint="bring the zones back, then run the same command again: it goes on",
            target=key,
        )


class _Rests:
    """Which zones are left alone, and until when."""

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
        """Note that the zone answered, and how long it took. A slow answer is forgotten by and by."""
        with self._lock:
            self._heard_at[zone] = self._monotonic()
            self._last_seconds[zone] = max(seconds, self._last_seconds.get(zone, 0.0) / 2)

    def was_heard(self, zone: str, seconds: float) -> bool:
        """Whether the zone answered in the last `seconds`."""
        return self._monotonic() - self._heard_at.get(zone, float("-inf")) < seconds

    def last_seconds(self, zone: str) -> float:
        """How long the zone took of late; 0 where that is not known."""
        return self._last_seconds.get(zone, 0.0)

    def give_up(self, zone: str) -> None:
        """Let a zone rest that owes an answer. `end_late` follows, or has come before."""
        with self._lock:
            self._owed[zone] += 1
            if self._owed[zone] > 0:
                self._until[zone] = self._monotonic() + self._seconds

    def end_late(self, zone: str, error: StoreError | None) -> None:
        """Wake a zone that owed one answer, and gave it."""
        if error is not None:
            self.judge(zone, error)
        with self._lock:
            self._owed[zone] -= 1
            if error is None and self._owed[zone] <= 0 and zone in self._until:
                self._until[zone] = self._monotonic()

    def judge(self, zone: str, error: StoreError) -> None:
        """Let the zone rest, if `error` says that it does not answer, or that it is another store."""
        if error.retryable or isinstance(error, StoreMismatch):
            with self._lock:
                self._until[zone] = self._monotonic() + self._seconds

    def rests(self, zone: str) -> bool:
        """Whether other zones are read first now."""
        return self._failed(zone) or self._avoided(zone)

    def _failed(self, zone: str) -> bool:
        return self._until.get(zone, 0.0) > self._monotonic() or self._down(zone)

    def awake(self, zones: Iterable[str]) -> Sequence[str]:
        """The zones to ask: those that do not rest, but all where these are too few."""
        every = list(zones)
        up = [zone for zone in every if not self._failed(zone)]
        return up if len(up) >= QUORUM else every

    def some_ended(self) -> bool:
        """Whether a zone has finished its rest since this was last asked."""
        with self._lock:
            ended = [zone for zone, until in self._until.items() if until <= self._monotonic()]
            for zone in ended:
                del self._until[zone]
        return bool(ended)


class _Notes:
    """Which zone holds which notes, as last read and as changed here since."""

    def __init__(self, zones: Iterable[str], monotonic: Callable[[], float], seconds: float) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._held: dict[str, frozenset[str]] = dict.fromkeys(zones, frozenset())
        self._old_at: float | None = None
        self._lock = threading.Lock()

    def are_old(self) -> bool:
        """Whether they should be read again."""
        return self._old_at is None or self._monotonic() >= self._old_at

    def have(self, zone: str, key: str) -> bool:
        """Whether there is a note that `zone` missed a write of `key`, true or not."""
        return any(self._holders(zone, key))

    def name(self, zone: str, key: str) -> bool:
        """Whether a zone that may be believed holds such a note."""
        return any(not self._is_outdated(holder, key) for holder in self._holders(zone, key))

    def _is_outdated(self, holder: str, key: str) -> bool:
        """Whether both others say that this zone itself missed a write of the key.

        Only then: two zones that took the latest write never say so of each other.
        """
        return len(self._holders(holder, key)) >= QUORUM

    def _holders(self, zone: str, key: str) -> Sequence[str]:
        if not any(self._held.values()):
            return ()
        note = _note_key(zone, key)
        return [holder for holder, keys in self._held.items() if note in keys]

    def expire(self) -> None:
        """Have them read again."""
        self._old_at = None

    def renew(self, read: Callable[[], dict[str, frozenset[str]]]) -> None:
        """Read them, unless another thread just did. Of a zone that does not answer what was known before stays."""
        with self._lock:  # writers of notes wait: theirs is the later word
            if self.are_old():
                self._held = self._held | read()
                self._old_at = self._monotonic() + self._seconds

    def change(self, holders: Iterable[str], written: Iterable[str], removed: Iterable[str]) -> None:
        """These notes were written and those removed in each of the zones `holders`."""
        with self._lock:
            changed = {holder: (self._held[holder] - frozenset(removed)).union(written) for holder in holders}
            self._held = self._held | changed


def _begun(listing: _Listing) -> _Listing:
    """A listing whose first page has come."""
    first = tuple(islice(listing, 1))
    return chain(first, listing)


def _key_of(told: tuple[str, ObjectInfo]) -> str:
    return told[1].key


def _gone(wrong: Mapping[str, StoreError]) -> int:
    return sum(isinstance(error, ObjectNotFound) for error in wrong.values())


def _given_up(zone: str, age_seconds: float) -> StoreSilent:
    return StoreSilent(
        f"Zone {zone} is late.",
        found=f"no answer in {age_seconds:.1f} s, and the others have answered",
        expected="an answer",
        hint="see that its store runs; what it missed is repaired when it answers",
        target=zone,
    )


def _latest(infos: Iterable[ObjectInfo]) -> ObjectInfo:
    return max(infos, key=lambda info: info.last_modified)
