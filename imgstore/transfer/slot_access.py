"""Reads and writes a slot: a store and a prefix."""

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
"""Called before each request; raises if no further request may begin."""

_T = TypeVar("_T")


def never_cancelled() -> None:
    """Allow every request: the `CheckCancelled` of callers without a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentListing:
    """The segments of a slot, as the store lists them."""

    present: dict[Digest, int]
    """The stored bytes of each existing segment, by name."""
    uncertain: frozenset[Digest]
    """Segments of unknown existence, because a zone does not answer. A writer sends such a segment again, and no report
    counts such a segment as missing."""

    def without(self, names: Collection[Digest]) -> "SegmentListing":
        """Return the listing with `names` counted as absent."""
        present = {name: size for name, size in self.present.items() if name not in names}
        return SegmentListing(present=present, uncertain=self.uncertain.difference(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAccess:
    """Read and write access to a slot. Safe for several threads."""

    label: str
    """The name in messages: "westus2/Standard_LRS/0"."""
    store: ObjectStore
    prefix: str
    """The beginning of every key, with a slash at its end."""
    is_avoided: Callable[[], bool] = field(default=lambda: False, compare=False)
    """Returns whether the store is known not to answer. Other slots are then read first."""
    on_late: Callable[[float], None] = field(default=lambda _age_seconds: None, compare=False)
    """Called for a late read, with the seconds since the request was sent."""

    def segment_body(self, name: Digest) -> bytes:
        """Read a segment as stored, verified against its name.

        Raises:
            ObjectNotFound, ObjectCorrupt: the slot has no segment of that name, or only copies that do not match the
                name.
        """
        return self.store.get(self.prefix + object_keys.segment_key(name), codec.matches_name(name))

    def segment_blocks(self, name: Digest) -> memoryview:
        """Read a segment's blocks, concatenated.

        Raises:
            ObjectNotFound, ObjectCorrupt: the slot has no segment of that name, or only copies that do not match the
                name.
        """
        return codec.decode_verified(self.segment_body(name), name)

    def put_segment(self, name: Digest, body: Body) -> ObjectInfo:
        """Store a segment, confirmed as in `put_object`."""
        return self.put_object(object_keys.segment_key(name), body, codec.matches_name(name))

    def list_segments(self) -> SegmentListing:
        """List the segments of the slot. Objects with other keys are ignored."""
        listing = self.store.list(self.prefix + object_keys.SEGMENTS)
        infos = {object_keys.segment_name(info.key): info for info in listing if object_keys.is_segment_key(info.key)}
        return SegmentListing(
            present={name: info.stored_bytes for name, info in infos.items() if info.certain},
            uncertain=frozenset(name for name, info in infos.items() if not info.certain),
        )

    def look_up(self, names: Iterable[Digest]) -> SegmentListing:
        """List the existing segments among `names`, with a HEAD request for each."""
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
        """Find the segments that are missing or do not match their name, by reading each segment.

        Args:
            names: the names of the segments.
            workers: threads; each holds a body of up to 4 MiB.
            check_cancelled: called before each read.
            on_read: called after each read, from worker threads.
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
        """Store a manifest under its key below the slot, and read the manifest back."""
        info = self.store.put(self.prefix + key, data)
        self._read_back(key, ManifestCheck(manifest_digest(data)))
        return info

    def repair_manifest(self, key: str, digest: Digest, data: bytes) -> None:
        """Store a manifest again if the present object is missing or wrong."""
        try:
            self.store.get(self.prefix + key, ManifestCheck(digest))
        except (ObjectNotFound, ObjectCorrupt):
            self.put_manifest(key, data)

    def get_manifest(self, key: str, digest: Digest) -> Manifest:
        """Read the manifest with that key and digest.

        Raises:
            ObjectNotFound, ObjectCorrupt: no manifest has that key, or the manifest has another digest.
        """
        return decode_manifest(self.store.get(self.prefix + key, ManifestCheck(digest)))

    def put_object(self, key: str, body: Body, accept: Callable[[bytes], bool]) -> ObjectInfo:
        """Store an object, confirmed: the object is read back from a store without checksums (invariant W12)."""
        info = self.store.put(self.prefix + key, body)
        if not self.store.properties.verifies_checksum:
            self._read_back(key, accept)
        return info

    def get_object(self, key: str, accept: Callable[[bytes], bool]) -> bytes:
        """Read an object that passes the check `accept`."""
        return self.store.get(self.prefix + key, accept)

    def remove(self, keys_below: Iterable[str], check_cancelled: CheckCancelled = never_cancelled) -> bool:
        """Delete objects. A missing object is no error.

        Args:
            keys_below: their keys below the slot.
            check_cancelled: called before each key reaches the store. A directory deletes keys one by one.

        Returns:
            Whether no request can be carried out later, as `Deletes.delete` returns.
        """

        def full_keys() -> Iterator[str]:
            for key in keys_below:
                check_cancelled()
                yield self.prefix + key

        return self.store.delete(full_keys())

    def _read_back(self, key: str, accept: Callable[[bytes], bool]) -> None:
        try:
            self.store.get(self.prefix + key, accept)
        except ObjectCorrupt as error:
            raise ReadBackMismatch(
                f"The object '{key}' is damaged: it was just stored, and the store returns other bytes.",
                found=error.found,
                expected="the bytes that were sent",
                hint="check the store's disks, then repeat the command: intact objects are not sent again",
                target=key,
            ) from error


def read_from_any(
    slots: Sequence[SlotAccess],
    read: Callable[[SlotAccess], _T],
    on_failed: Callable[[SlotAccess, StoreError], None] = lambda _slot, _error: None,
    on_unused: Callable[[SlotAccess], None] = lambda _slot: None,
) -> tuple[SlotAccess, _T]:
    """Read from the first slot that serves the read.

    The slots are asked in order, avoided slots last. If a slot is late, the next slot is asked as well.

    Args:
        slots: at least one slot.
        read: asks a slot, and changes nothing.
        on_failed: called for each slot that did not serve the read.
        on_unused: called for each slot that also served the read, but too late to be used. The call may come after this
            function has returned, from the thread of that read.

    Returns:
        The slot, and the result of `read`.

    Raises:
        StoreError: no slot serves the read; the error of the first slot in the given order.
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
    """The slots that served a read. All slots except the used slot are reported. Safe for several threads."""

    unused: Callable[[SlotAccess], None]
    _undecided: list[SlotAccess] = field(default_factory=list)
    _is_decided: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, slot: SlotAccess) -> None:
        """Record that a slot has served the read."""
        with self._lock:
            if not self._is_decided:
                self._undecided.append(slot)
                return
        self.unused(slot)

    def choose(self, used: SlotAccess | None) -> None:
        """Decide which answer is used; None if no answer is. Later answers come too late."""
        with self._lock:
            self._is_decided = True
            others = [slot for slot in self._undecided if slot is not used]
        for slot in others:
            self.unused(slot)
