"""Read revisions and manifests from the buckets without a catalog. Nothing is written."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from imgstore.domain.errors import ImgstoreError, StoreError, StoreMismatch
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber
from imgstore.domain.recovery import RefusedObject, RefusedResource
from imgstore.domain.resources import Slot
from imgstore.domain.storage.revisions import Revision, decode_revision, derive_revision_key
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.policy.revision_choice import ResourceName, RevisionChoice, RevisionCopy
from imgstore.regions import ALL_ZONES, FoundZone
from imgstore.stores.interface import Accept, ObjectInfo, ObjectStore

_THREADS: Final = 16
_REPORT_OBJECTS: Final = 2_000
"""Objects between two reports of progress."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(slots=True)
class BucketReader:
    """The readable zones of an installation, and the objects that a rebuild refused."""

    zones: Sequence[FoundZone]
    """The zones with the mark of the installation."""
    keys: RecoveryKeys
    subscriber: Subscriber
    refused: list[RefusedObject] = field(default_factory=list)
    outdated: list[RefusedResource] = field(default_factory=list)
    """Resources whose newest revision is unusable in each zone, so that an older revision counts, or none."""

    def list_all(self, places: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[ObjectInfo]]:
        """List the objects below (index of a zone, prefix).

        Raises:
            StoreError: a zone does not answer. A partial listing would hide newer revisions.
        """
        wanted = list(dict.fromkeys(places))
        return dict(zip(wanted, self.run("listing", wanted, self._list), strict=True))

    def read_newest(self, choices: Mapping[ResourceName, Sequence[RevisionChoice]], task: str) -> list[Revision]:
        """Return the newest revision with a valid HMAC of each resource. Other objects are noted as refused."""
        found = self.run(task, list(choices.items()), self._read_first_valid)
        return [revision for revision in found if revision is not None]

    def read_every(self, choices: Sequence[RevisionChoice], task: str) -> list[tuple[Revision, bytes]]:
        """Return all revisions of a resource with a valid HMAC and their bytes, the highest number first."""
        found = self.run(task, choices, self._read_choice)
        return [each for each in found if each is not None]

    def get(self, places: Iterable[tuple[int, str]], accept: Accept) -> bytes | None:
        """Return the first accepted copy of an object, or None if no zone has such a copy."""
        for zone, key in places:
            try:
                return self.store(zone).get(key, accept)
            except StoreError:
                continue
        return None

    def store(self, zone: int) -> ObjectStore:
        """Return the store of a zone by index."""
        store = self.zones[zone].store
        assert store is not None, "a readable zone has a store"
        return store

    def zones_of(self, slot: Slot) -> list[int]:
        """Return the indexes of the readable zones that hold a slot."""
        return [
            index
            for index, each in enumerate(self.zones)
            if each.region == slot.key.region and slot.zone in {each.zone, ALL_ZONES}
        ]

    def run(self, task: str, items: Collection[_T], act: Callable[[_T], _R]) -> list[_R]:
        """Call `act` for all items in threads, report the progress, and return the results in order."""
        with report_progress(self.subscriber, task, len(items)) as count:

            def act_and_count(item: _T) -> _R:
                result = act(item)
                count(1)
                return result

            return self.map(act_and_count, items)

    def map(self, act: Callable[[_T], _R], items: Collection[_T]) -> list[_R]:
        """Call `act` for all items in threads, and return the results in order."""
        if not items:
            return []
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="rebuild") as pool:
            return list(pool.map(act, items))

    def _list(self, place: tuple[int, str]) -> list[ObjectInfo]:
        zone, prefix = place
        return list(self.store(zone).list(prefix))

    def _read_first_valid(self, named: tuple[ResourceName, Sequence[RevisionChoice]]) -> Revision | None:
        (kind, part), choices = named
        for choice in choices:
            found = self._read_choice(choice)
            if found is not None:
                if choice is not choices[0]:
                    self._note_outdated(kind, part, choices[0], f"revision {choice.number} counts instead")
                return found[0]
        self._note_outdated(kind, part, choices[0], "no revision can be used")
        return None

    def _note_outdated(self, kind: str, part: str, newest: RevisionChoice, result: str) -> None:
        reason = f"the newest revision {newest.number} cannot be used, and {result}"
        self.outdated.append(RefusedResource(kind=kind, uid=part, reason=reason))

    def _read_choice(self, choice: RevisionChoice) -> tuple[Revision, bytes] | None:
        """Read a revision from the first copy with a valid HMAC."""
        for copy in choice.copies:
            try:
                body = self.store(copy.zone).get(copy.prefix + copy.key)
                return self._decode(copy, body), body
            except (StoreError, StoreMismatch) as error:
                self._refuse(copy, error)
        return None

    def _decode(self, copy: RevisionCopy, body: bytes) -> Revision:
        key = derive_revision_key(self.keys.hmac_key)
        return decode_revision(body, key, object_key=copy.key, installation_uid=self.keys.installation_uid)

    def _refuse(self, copy: RevisionCopy, error: ImgstoreError) -> None:
        zone = self.zones[copy.zone]
        reason = error.found or error.message
        self.refused.append(
            RefusedObject(place=f"{zone.region}/{zone.zone}", key=copy.prefix + copy.key, reason=reason)
        )


@contextmanager
def report_progress(subscriber: Subscriber, task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report the number of processed objects of a task in notes, because objects are no bytes.

    The block passes the number of new objects to the yielded function. Several threads may call the function.
    """
    done, lock = 0, threading.Lock()

    def count(objects: int) -> None:
        nonlocal done
        with lock:
            before, done = done, done + objects
            now = done
        if now < total and now // _REPORT_OBJECTS > before // _REPORT_OBJECTS:
            _note(subscriber, task, f"{task}: {now} of {total} done")

    yield count
    if total:
        _note(subscriber, task, f"{task}: {total} of {total} done")


def _note(subscriber: Subscriber, task: str, detail: str) -> None:
    subscriber(ProgressEvent(task=task, stage=Stage.NOTE, detail=detail))
