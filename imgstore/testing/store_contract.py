"""The contract of ``stores/interface.py`` as one test class that every store and every wrapper passes (invariant Z8).

Subclass the test class with a fixture `store`. If the bytes are accessible without the code under test, also give a
fixture `raw`. A test then writes through the store and reads the raw bytes, or the other way round, so that a write
and a read with the same mistake fail. Each test works below a separate prefix, so all tests can share a bucket::

    class TestMemory(StoreContract):
        @pytest.fixture
        def store(self) -> ObjectStore:
            return MemoryStore()
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final, Protocol

import pytest

from imgstore.domain.errors import Conflict, InvalidInput, ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.storage.sizes import SEGMENT_BYTES_MAX
from imgstore.stores.interface import DELETE_KEYS_MAX, Body, ObjectStore

_prefixes: Final = itertools.count()

BODIES: Final = (b"", b"\0", b"hello", bytes(range(256)) * 64, b"\xff" * (4 * 1024 * 1024 + 17))
"""Empty, a single byte, text, binary, and more than a segment, so that no code may assume a single buffer."""

BAD_KEYS: Final = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    "./a",
    ".a",
    "a/.b",
    "a b",
    "a\0b",
    "a\\b",
    "ä",
    "x" * 1025,
)


class RawAccess(Protocol):
    """Access to the bytes without the code under test."""

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a key, or None."""
        ...

    def set(self, key: str, body: bytes) -> None:
        """Store the bytes."""
        ...

    def damage(self, key: str) -> None:
        """Change a bit of the stored bytes without the store.

        Raises:
            NotImplementedError: the store has no such access.
        """
        ...


class RawStoreAccess:
    """Raw access by the store itself, for stores without another access."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, key: str) -> bytes | None:
        """See `RawAccess.get`."""
        try:
            return self._store.get(key)
        except ObjectNotFound:
            return None

    def set(self, key: str, body: bytes) -> None:
        """See `RawAccess.set`."""
        self._store.put(key, body)

    def damage(self, key: str) -> None:
        """See `RawAccess.damage`."""
        raise NotImplementedError


class RawMemoryAccess(RawStoreAccess):
    """Raw access to a store in memory, by the store itself."""

    def damage(self, key: str) -> None:
        """See `RawAccess.damage`."""
        body = bytearray(self._store.get(key))
        body[len(body) // 2] ^= 1
        self._store.put(key, body)


class StoreContract:
    """Every promise of the interface, as a test. The docstrings are the promises."""

    listed_objects = DELETE_KEYS_MAX + 5
    """More objects than a page of a listing, and a request of deletes, can hold."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        """Return the store under test."""
        raise NotImplementedError

    @pytest.fixture
    def raw(self, store: ObjectStore) -> RawAccess:
        """Return raw access to the store."""
        return RawStoreAccess(store)

    @pytest.fixture
    def prefix(self) -> str:
        """Return the prefix of the keys of the test."""
        return f"contract-{next(_prefixes)}/"

    # -- put and get --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("body", BODIES, ids=len)
    def test_a_put_lands_byte_for_byte(self, store: ObjectStore, raw: RawAccess, prefix: str, body: bytes) -> None:
        """Acknowledged bytes are stored."""
        info = store.put(prefix + "a", body)
        assert raw.get(prefix + "a") == body
        assert (info.key, info.stored_bytes) == (prefix + "a", len(body))

    @pytest.mark.parametrize("body", BODIES, ids=len)
    def test_a_get_gives_what_lies_there(self, store: ObjectStore, raw: RawAccess, prefix: str, body: bytes) -> None:
        """The result is `bytes`, whatever type the store uses inside."""
        raw.set(prefix + "a", body)
        got = store.get(prefix + "a")
        assert type(got) is bytes
        assert got == body

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda body: memoryview(b"<" + body + b">")[1:-1]])
    def test_any_kind_of_body(
        self, store: ObjectStore, raw: RawAccess, prefix: str, kind: Callable[[bytes], Body]
    ) -> None:
        """A body may be a slice of something larger."""
        store.put(prefix + "a", kind(b"some bytes"))
        assert raw.get(prefix + "a") == b"some bytes"

    def test_a_body_is_not_kept(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """The caller may use the buffer again after the call."""
        body = bytearray(b"some bytes")
        store.put(prefix + "a", body)
        body[:] = b"other ones"
        assert raw.get(prefix + "a") == b"some bytes"
        assert store.get(prefix + "a") == b"some bytes"

    def test_a_put_replaces_the_whole(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """A shorter body leaves no byte of the longer body."""
        store.put(prefix + "a", b"long, long ago")
        store.put(prefix + "a", b"now")
        assert raw.get(prefix + "a") == b"now"
        assert store.get(prefix + "a") == b"now"
        assert store.head(prefix + "a").stored_bytes == 3

    def test_what_is_not_there(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """A missing object is an error, and a folder is no object."""
        raw.set(prefix + "folder/a", b"1")
        for key in (prefix + "b", prefix + "folder", prefix + "folder/a/b", prefix + "nowhere/b"):
            for call in (
                store.get,
                store.head,
                lambda key: store.get_range(key, 0, 1),
                lambda key: store.get_range(key, 0, 0),
            ):
                with pytest.raises(ObjectNotFound) as raised:
                    call(key)
                assert raised.value.hint
            with pytest.raises(ObjectNotFound):
                store.copy_within(key, prefix + "c")

    def test_only_what_is_accepted_is_given(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """`accept` sees the whole body and decides."""
        raw.set(prefix + "a", b"body")
        assert store.get(prefix + "a", lambda body: body == b"body") == b"body"
        with pytest.raises(ObjectCorrupt):
            store.get(prefix + "a", lambda _body: False)

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [
            (0, 10, b"0123456789"),
            (3, 4, b"3456"),
            (9, 1, b"9"),
            (8, 100, b"89"),
            (10, 5, b""),
            (50, 5, b""),
            (4, 0, b""),
        ],
    )
    def test_ranges(
        self, store: ObjectStore, raw: RawAccess, prefix: str, offset: int, length: int, expected: bytes
    ) -> None:
        """A range has fewer bytes only at the end of the object."""
        raw.set(prefix + "a", b"0123456789")
        assert store.get_range(prefix + "a", offset, length) == expected

    # -- head and list ------------------------------------------------------------------------------------------------

    def test_head(self, store: ObjectStore, prefix: str) -> None:
        """A head has the length, an aware time near the time of the put, and the checksum from the put."""
        put = store.put(prefix + "a", b"body")
        head = store.head(prefix + "a")
        assert (head.key, head.stored_bytes) == (prefix + "a", 4)
        assert head.last_modified.tzinfo is not None
        assert abs(head.last_modified - put.last_modified) <= timedelta(seconds=2)
        assert head.checksum == put.checksum
        assert head.checksum is None or head.checksum.partition(":")[2]

    def test_a_listing_is_in_the_order_of_whole_keys(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """The order is that of characters and not of folders: "-" and "." come before "/"."""
        keys = [
            prefix + end for end in ("a-b/x", "a.b", "a/x", "a/y/z", "a0", "b", "A", "_", "a-b/y", "a/x-y", "a/x.y")
        ]
        for key in keys:
            raw.set(key, key.encode())
        told = list(store.list(prefix))
        assert [info.key for info in told] == sorted(keys)
        assert [info.stored_bytes for info in told] == [len(key) for key in sorted(keys)]
        assert all(info.last_modified.tzinfo is not None for info in told)

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("", ["a-b/x", "a/x", "a/y", "ab/x", "b"]),
            ("a", ["a-b/x", "a/x", "a/y", "ab/x"]),
            ("a/", ["a/x", "a/y"]),
            ("a/x", ["a/x"]),
            ("a/x/", []),
            ("ab", ["ab/x"]),
            ("b", ["b"]),
            ("c", []),
            ("c/d/", []),
        ],
    )
    def test_a_prefix_is_of_characters(
        self, store: ObjectStore, raw: RawAccess, prefix: str, asked: str, expected: Sequence[str]
    ) -> None:
        """A prefix may end inside a part of a key."""
        for end in ("a/y", "a/x", "a-b/x", "ab/x", "b"):
            raw.set(prefix + end, b"1")
        assert [info.key for info in store.list(prefix + asked)] == [prefix + end for end in expected]

    def test_many(self, store: ObjectStore, prefix: str) -> None:
        """More than a page of objects is listed as a whole, and deleted by a single call in any number of requests."""
        keys = [f"{prefix}{number % 7}/{number:05}" for number in range(self.listed_objects)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"1"), keys))
        assert [info.key for info in store.list(prefix)] == sorted(keys)
        store.delete(iter(keys))
        assert not list(store.list(prefix))

    # -- only if absent -----------------------------------------------------------------------------------------------

    def test_only_if_absent(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """An existing object stays, and a deleted object is absent."""
        store.put(prefix + "a", b"first", only_if_absent=True)
        with pytest.raises(Conflict):
            store.put(prefix + "a", b"second", only_if_absent=True)
        assert raw.get(prefix + "a") == b"first"
        store.delete([prefix + "a"])
        store.put(prefix + "a", b"third", only_if_absent=True)
        assert raw.get(prefix + "a") == b"third"

    def test_one_of_many_wins(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """Of concurrent creations exactly one succeeds, if the store declares `atomic_create`."""
        if not store.properties.atomic_create:
            return  # The store makes no promise.
        for turn in range(3):
            key = f"{prefix}{turn}"
            winners = _winners(store, key)
            assert len(winners) == 1
            assert raw.get(key) == str(winners[0]).encode()

    # -- delete and copy ----------------------------------------------------------------------------------------------

    def test_delete(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """A missing key is no error, and no other object is deleted."""
        for end in ("a", "b/c", "b/d", "ab"):
            raw.set(prefix + end, b"1")
        store.delete([prefix + "a", prefix + "b/c", prefix + "never", prefix + "no/where"])
        assert [raw.get(prefix + end) for end in ("a", "b/c", "b/d", "ab")] == [None, None, b"1", b"1"]
        store.delete([prefix + "a"])
        store.delete([])
        with pytest.raises(ObjectNotFound):
            store.get(prefix + "a")

    def test_a_copy_is_an_object_of_its_own(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """A copy does not change with the source."""
        raw.set(prefix + "a", b"body")
        info = store.copy_within(prefix + "a", prefix + "deep/b")
        assert (info.key, info.stored_bytes) == (prefix + "deep/b", 4)
        raw.set(prefix + "a", b"other")
        store.delete([prefix + "a"])
        assert raw.get(prefix + "deep/b") == b"body"

    def test_a_copy_of_damage_is_seen(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """With `server_side_copy` declared, the checksum is that of the new bytes, or there is no copy (C3)."""
        if not store.properties.server_side_copy:
            return  # The store makes no promise.
        kept = store.put(prefix + "a", b"body" * 100_000)
        assert store.copy_within(prefix + "a", prefix + "good").checksum == kept.checksum is not None
        try:
            raw.damage(prefix + "a")
        except NotImplementedError:
            pytest.skip("the store has no raw access that damages objects")
        try:
            copied = store.copy_within(prefix + "a", prefix + "bad")
        except StoreError:
            return
        assert copied.checksum != kept.checksum

    def test_a_segment_that_is_too_long_is_not_read(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """The length is checked before the bytes are read into memory."""
        key = f"{prefix}segments/ab/ab{'0' * 62}"
        raw.set(key, bytes(SEGMENT_BYTES_MAX))
        assert len(store.get(key)) == SEGMENT_BYTES_MAX
        raw.set(key, bytes(SEGMENT_BYTES_MAX + 1))
        with pytest.raises(ObjectCorrupt):
            store.get(key)

    # -- everything ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_bad_keys(self, store: ObjectStore, key: str) -> None:
        """Each store refuses keys that another store cannot hold, and keys that lead out of the store."""
        calls: Sequence[Callable[[], object]] = (
            lambda: store.put(key, b"1"),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.head(key),
            lambda: store.delete([key]),
            lambda: store.copy_within(key, "a"),
        )
        for call in calls:
            with pytest.raises(InvalidInput):
                call()

    def test_readers_see_one_body_or_the_other(self, store: ObjectStore, prefix: str) -> None:
        """During repeated puts of a key, no reader gets a mixture, a part, or nothing."""
        bodies = [bytes([number]) * (100_000 + number) for number in range(4)]
        store.put(prefix + "a", bodies[0])
        stop = threading.Event()

        def write() -> None:
            for body in bodies * 3:
                store.put(prefix + "a", body)
            stop.set()

        def read() -> None:
            while True:
                last = stop.is_set()
                assert store.get(prefix + "a") in bodies
                if last:
                    return

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(write), *(pool.submit(read) for _ in range(3))]
            for future in futures:
                try:
                    future.result()
                finally:
                    stop.set()

    def test_many_threads(self, store: ObjectStore, raw: RawAccess, prefix: str) -> None:
        """All methods work in parallel, on separate keys for each thread."""

        def work(writer: int) -> bool:
            for number in range(5):
                key = f"{prefix}{writer}/{number}"
                store.put(key, key.encode())
                assert store.get(key) == key.encode()
                store.copy_within(key, key + "-copy")
                store.delete([key])
                assert [info.key for info in store.list(f"{prefix}{writer}/{number}")] == [key + "-copy"]
            return True

        assert all(_at_once(8, work))
        assert raw.get(f"{prefix}7/4-copy") == f"{prefix}7/4".encode()

    def test_it_says_who_it_is(self, store: ObjectStore) -> None:
        """For people."""
        assert store.name


def _winners(store: ObjectStore, key: str) -> list[int]:
    """Return the writers, of eight in parallel, that created `key`."""
    won = _at_once(8, lambda writer: _creates(store, key, writer))
    return [writer for writer, result in enumerate(won) if result]


def _creates(store: ObjectStore, key: str, writer: int) -> bool:
    try:
        store.put(key, str(writer).encode(), only_if_absent=True)
    except Conflict:
        return False
    return True


def _at_once(count: int, act: Callable[[int], bool]) -> Iterator[bool]:
    """`act` in so many threads that start together."""
    barrier = threading.Barrier(count)

    def start(number: int) -> bool:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        yield from list(pool.map(start, range(count)))
