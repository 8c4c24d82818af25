"""A slot as the data plane sees it: a store and a prefix."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

from imgstore.domain.errors import ExistenceUnknown, ObjectCorrupt, ObjectNotFound, ReadBackMismatch, StoreError
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.segments import codec
from imgstore.segments.manifest import Manifest, ManifestCheck, decode_manifest, manifest_digest
from imgstore.stores.interface import Body, ObjectInfo, ObjectStore
from imgstore.stores.wrappers.hedging import race
from imgstore.transfer.bounded_pool import BoundedPool

CheckCancelled: TypeAlias = Callable[[], None]
"""Called before each request; raises where nothing further is to be begun."""

_T = TypeVar("_T")


def never_cancelled() -> None:
    """The `CheckCancelled` of one who holds no lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentListing:
    """The segments of a slot, as the store lists them."""

    present: dict[Digest, int]
    """The stored bytes of each segment that exists, by name."""
    uncertain: frozenset[Digest]
    """Segments that may exist or not, because a zone does not answer. A writer sends them again; nobody reports them
    as missing."""

    def without(self, names: Collection[Digest]) -> "SegmentListing":
        """Return the listing with `names` counted as absent."""
        present = {name: size for name, size in self.present.items() if name not in names}
        return SegmentListing(present=present, uncertain=self.uncertain.difference(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAccess:
    """Reads and writes one slot. Safe to use from several threads at once."""

    label: str
    """For people: "westus2/Standard_LRS/0"."""
    store: ObjectStore
    prefix: str
    """What every key starts with, ending in a slash."""
    is_avoided: Callable[[], bool] = field(default=lambda: False, compare=False)
    """Whether its store is known not to answer: others are read first."""
    on_late: Callable[[float], None] = field(default=lambda _age_seconds: None, compare=False)
    """Told when a read of it is late, with the seconds since it was sent."""

    def segment_body(self, name: Digest) -> bytes:
        """A segment as stored, checked against its name.

        Raises:
            ObjectNotFound, ObjectCorrupt: it is not in the slot, or no copy there matches its name.
        """
        return self.store.get(self.prefix + object_keys.segment_key(name), codec.matches_name(name))

    def segment_blocks(self, name: Digest) -> memoryview:
        """A segment's blocks, concatenated. Raises as `segment_body`."""
        return codec.decode_verified(self.segment_body(name), name)

    def put_segment(self, name: Digest, body: Body) -> ObjectInfo:
        """Store a segment so that it is confirmed: a store that checks no checksum is read back (rules.md, rule 4)."""
        return self._put_confirmed(object_keys.segment_key(name), body, codec.matches_name(name))

    def list_segments(self) -> SegmentListing:
        """List the segments of the slot. Objects whose key is no segment's are ignored."""
        listing = self.store.list(self.prefix + object_keys.SEGMENTS)
        infos = {object_keys.segment_name(info.key): info for info in listing if object_keys.is_segment_key(info.key)}
        return SegmentListing(
            present={name: info.stored_bytes for name, info in infos.items() if info.certain},
            uncertain=frozenset(name for name, info in infos.items() if not info.certain),
        )

    def look_up(self, names: Iterable[Digest]) -> SegmentListing:
        """List those of the segments that exist, with one request for each."""
        present, uncertain = dict[Digest, int](), set[Digest]()
        for name in names:
            try:
                present[name] = self.store.head(self.prefix + object_keys.segment_key(name)).stored_bytes
            except ObjectNotFound:
                continue
            except ExistenceUnknown:
                uncertain.add(name)
        return SegmentListing(present=present, uncertain=frozenset(uncertain))

    def find_damaged(
        self,
        names: Iterable[Digest],
        *,
        workers: int,
        check_cancelled: CheckCancelled = never_cancelled,
        on_read: Callable[[Digest], None] = lambda _name: None,
    ) -> frozenset[Digest]:
        """Those of the segments that are not there or do not match their name, found by reading each whole.

        Args:
            names: which.
            workers: threads; each holds one body of up to 4 MiB.
            check_cancelled: called before each is read.
            on_read: called after each was read, from worker threads.
        """

        def look(name: Digest) -> Digest | None:
            check_cancelled()
            serves = self._is_readable(name)
            on_read(name)
            return None if serves else name

        with BoundedPool(workers, workers * 2, "look") as pool:
            looked = [pool.submit(look, name) for name in names]
        return frozenset(name for future in looked if (name := future.result()) is not None)

    def _is_readable(self, name: Digest) -> bool:
        try:
            self.segment_body(name)
        except (ObjectNotFound, ObjectCorrupt):
            return False
        return True

    def put_manifest(self, key: str, data: bytes) -> ObjectInfo:
        """Store a manifest under its key below the slot, and read it back."""
        info = self.store.put(self.prefix + key, data)
        self._read_back(key, ManifestCheck(manifest_digest(data)))
        return info

    def get_manifest(self, key: str, digest: Digest) -> Manifest:
        """The manifest under that key, if it is the one of that digest.

        Raises:
            ObjectNotFound, ObjectCorrupt: it is not there, or another one is.
        """
        return decode_manifest(self.store.get(self.prefix + key, ManifestCheck(digest)))

    def put_object(self, key: str, body: Body, accept: Callable[[bytes], bool]) -> ObjectInfo:
        """Store any other object below the slot, confirmed as a segment is."""
        return self._put_confirmed(key, body, accept)

    def get_object(self, key: str, accept: Callable[[bytes], bool]) -> bytes:
        """Any other object below the slot."""
        return self.store.get(self.prefix + key, accept)

    def remove(self, keys_below: Iterable[str], check_cancelled: CheckCancelled = never_cancelled) -> None:
        """Take objects away. One that is not there is no error.

        Args:
            keys_below: their keys below the slot.
            check_cancelled: called before each is handed to the store; a directory takes them one by one.
        """

        def full_keys() -> Iterator[str]:
            for key in keys_below:
                check_cancelled()
                yield self.prefix + key

        self.store.delete(full_keys())

    def _put_confirmed(self, key: str, body: Body, accept: Callable[[bytes], bool]) -> ObjectInfo:
        info = self.store.put(self.prefix + key, body)
        if not self.store.properties.verifies_checksum:
            self._read_back(key, accept)
        return info

    def _read_back(self, key: str, accept: Callable[[bytes], bool]) -> None:
        try:
            self.store.get(self.prefix + key, accept)
        except ObjectCorrupt as error:
            raise ReadBackMismatch(
                f"The object '{key}' is damaged: it was stored just now, and reads back as something else.",
                found=error.found,
                expected="the bytes that were sent",
                hint="check the store's disks, then repeat the command: what is right is not sent again",
                target=key,
            ) from error


def read_from_any(
    slots: Sequence[SlotAccess],
    read: Callable[[SlotAccess], _T],
    on_failed: Callable[[SlotAccess, StoreError], None] = lambda _slot, _error: None,
    on_unused: Callable[[SlotAccess], None] = lambda _slot: None,
) -> tuple[SlotAccess, _T]:
    """What `read` gives of the first slot that serves it, and the slot.

    They are asked in their order, those that are avoided last; where one is late, the next one is asked as well.

    Args:
        slots: at least one.
        read: asks one slot, and changes nothing.
        on_failed: told of each slot that did not serve it.
        on_unused: told of each slot that served it as well, too late to be used. The call may come after this function has
            returned, from the thread of that read.

    Raises:
        StoreError: none does; the error of the first in the order given.
    """
    order = sorted(slots, key=lambda slot: slot.is_avoided())
    errors: dict[int, StoreError] = {}
    answers = _Answers(on_unused)

    def ask(slot: SlotAccess) -> _T:
        found = read(slot)
        answers.add(slot)
        return found

    used: SlotAccess | None = None
    try:
        for outcome in race([partial(ask, slot) for slot in order]):
            slot = order[outcome.place]
            if outcome.late:
                slot.on_late(outcome.age_seconds)
            elif outcome.error is None:
                used = slot
                return slot, outcome.value
            else:
                on_failed(slot, outcome.error)
                errors[slots.index(slot)] = outcome.error
    finally:
        answers.choose(used)
    raise errors[min(errors)]


@dataclass(slots=True)
class _Answers:
    """The slots that served one read. All but the one that was used are reported. Safe from several threads."""

    unused: Callable[[SlotAccess], None]
    _undecided: list[SlotAccess] = field(default_factory=list)
    _is_decided: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, slot: SlotAccess) -> None:
        """Take note that a slot has served the read."""
        with self._lock:
            if not self._is_decided:
                self._undecided.append(slot)
                return
        self.unused(slot)

    def choose(self, used: SlotAccess | None) -> None:
        """Decide which answer is used; None where none is. Later answers come too late."""
        with self._lock:
            self._is_decided = True
            others = [slot for slot in self._undecided if slot is not used]
        for slot in others:
            self.unused(slot)
