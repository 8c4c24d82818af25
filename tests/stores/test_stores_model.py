"""A dictionary beside each store: any sequence of calls gives what the dictionary says.

And three zones that die and come back in any order: what is told is the truth or an error, never something stale.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from imgstore.domain.errors import Conflict, ObjectNotFound, StoreUnreachable
from imgstore.stores import DirectoryStore, MemoryStore, ObjectStore, Zoned
from imgstore.stores.s3 import S3Store
from imgstore.testing.clock import ManualClock
from imgstore.testing.engines import S3Engine
from imgstore.testing.faulty import Faulty

# No key is another one's folder; the neighbours' names tell the order of keys from that of folders.
KEYS = st.sampled_from(["a/x", "a/y", "a-b/x", "a.b", "ab/c/d", "top"])
FEW_KEYS = st.sampled_from(["a/x", "a-b/x"])
PREFIXES = st.sampled_from(["", "a", "a/", "a-", "ab/c", "top", "nothing"])
BODIES = st.binary(max_size=40) | st.just(bytes(70_000))


class StoreModel(RuleBasedStateMachine):
    """Set `make` before it runs; keys are below `base`."""

    base = ""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()
        self.truth: dict[str, bytes] = {}

    def make(self) -> ObjectStore:
        raise NotImplementedError

    @rule(key=KEYS, body=BODIES)
    def put(self, key: str, body: bytes) -> None:
        assert self.store.put(self.base + key, body).stored_bytes == len(body)
        self.truth[key] = body

    @rule(key=KEYS, body=BODIES)
    def put_if_absent(self, key: str, body: bytes) -> None:
        try:
            self.store.put(self.base + key, body, only_if_absent=True)
        except Conflict:
            assert key in self.truth
        else:
            assert key not in self.truth
            self.truth[key] = body

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete(self, keys: list[str]) -> None:
        self.store.delete(self.base + key for key in keys)
        for key in keys:
            self.truth.pop(key, None)

    @rule(source=KEYS, copy=KEYS)
    def copy_within(self, source: str, copy: str) -> None:
        if source == copy:
            return
        try:
            self.store.copy_within(self.base + source, self.base + copy)
        except ObjectNotFound:
            assert source not in self.truth
        else:
            self.truth[copy] = self.truth[source]

    @rule(key=KEYS, offset=st.integers(0, 50), length=st.integers(0, 50))
    def get_range(self, key: str, offset: int, length: int) -> None:
        if key in self.truth:
            assert self.store.get_range(self.base + key, offset, length) == self.truth[key][offset : offset + length]

    @rule(prefix=PREFIXES)
    def list(self, prefix: str) -> None:
        told = [(info.key, info.stored_bytes) for info in self.store.list(self.base + prefix)]
        assert told == sorted((self.base + k, len(b)) for k, b in self.truth.items() if k.startswith(prefix))

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        if key in self.truth:
            assert self.store.get(self.base + key) == self.truth[key]
            assert self.store.head(self.base + key).stored_bytes == len(self.truth[key])
        else:
            for call in (self.store.get, self.store.head):
                with pytest.raises(ObjectNotFound):
                    call(self.base + key)


def _run(machine: type[RuleBasedStateMachine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))


def test_memory() -> None:
    class Model(StoreModel):
        def make(self) -> ObjectStore:
            return MemoryStore()

    _run(Model, 60)


def test_directory(tmp_path: Path) -> None:
    class Model(StoreModel):
        def make(self) -> ObjectStore:
            return DirectoryStore(Path(tempfile.mkdtemp(dir=tmp_path)))

    _run(Model, 25)


def test_zones_over_memories() -> None:
    class Model(StoreModel):
        def make(self) -> ObjectStore:
            return Zoned({zone: MemoryStore(zone) for zone in "123"})

        def teardown(self) -> None:
            assert isinstance(self.store, Zoned)
            self.store.close()

    _run(Model, 25)


@pytest.mark.parametrize(
    ("fixture", "examples"),
    [
        pytest.param("minio", 8, marks=pytest.mark.engine("minio")),
        pytest.param("seaweedfs", 3, marks=pytest.mark.engine("seaweedfs")),
        pytest.param("moto_s3", 6, marks=pytest.mark.engine("moto")),
    ],
)
def test_s3(fixture: str, examples: int, request: pytest.FixtureRequest) -> None:
    engine: S3Engine = request.getfixturevalue(fixture)
    bucket = engine.make_bucket("model-" + os.urandom(4).hex())
    store = S3Store(
        endpoint=engine.endpoint,
        bucket=bucket,
        path_style=True,
        access_key=engine.access_key,
        secret_key=engine.secret_key,
    )

    class Model(StoreModel):
        def make(self) -> ObjectStore:
            self.base = os.urandom(4).hex() + "/"
            return store

    _run(Model, examples)
    store.close()


# -- zones that die ---------------------------------------------------------------------------------------------------


class DyingZones(RuleBasedStateMachine):
    """Each key has one body for ever, as on a zoned store nothing is overwritten (rules.md, rule 18).

    `truth` knows of each key whether it was put or deleted *and acknowledged* last; a write that failed leaves the key
    in doubt until the next one is acknowledged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.inner = {zone: MemoryStore(zone, now=self.clock.now) for zone in "123"}
        self.zones = {zone: Faulty(store) for zone, store in self.inner.items()}
        self.down: set[str] = set()
        self.truth: dict[str, bool | None] = {}
        self.store = self.open()

    def open(self) -> Zoned:
        return Zoned(self.zones, monotonic=self.clock.monotonic)

    def teardown(self) -> None:
        self.store.close()

    @staticmethod
    def body(key: str) -> bytes:
        return b"the body of " + key.encode()

    @rule(zone=st.sampled_from("123"))
    def kill(self, zone: str) -> None:
        self.zones[zone].die()
        self.down.add(zone)

    @rule(zone=st.sampled_from("123"), seconds=st.sampled_from([0.0, 31.0, 61.0]))
    def revive(self, zone: str, seconds: float) -> None:
        """At once, after its rest, or after the notes have grown old."""
        self.zones[zone].heal()
        self.down.discard(zone)
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.down) < 2)
    @rule()
    def reopen(self) -> None:
        """Another process, which knows of no fault. (With two zones gone it could not read the notes.)"""
        self.store.close()
        self.store = self.open()

    @rule(key=FEW_KEYS)
    def put(self, key: str) -> None:
        try:
            self.store.put(key, self.body(key))
        except StoreUnreachable:
            self.truth[key] = None
            assert len(self.down) >= 2
        else:
            self.truth[key] = True

    @rule(keys=st.lists(FEW_KEYS, max_size=3, unique=True))
    def delete(self, keys: list[str]) -> None:
        try:
            self.store.delete(keys)
        except StoreUnreachable:
            self.truth |= dict.fromkeys(keys)
            assert len(self.down) >= 2
        else:
            self.truth |= dict.fromkeys(keys, False)

    @rule(key=FEW_KEYS)
    def get(self, key: str) -> None:
        known = self.truth.get(key, False)
        try:
            assert self.store.get(key) == self.body(key)
        except ObjectNotFound:
            assert known is not True
        except StoreUnreachable:
            assert self.down
        else:
            assert known is not False

    @rule(key=FEW_KEYS)
    def head(self, key: str) -> None:
        known = self.truth.get(key, False)
        try:
            assert self.store.head(key).stored_bytes == len(self.body(key))
        except ObjectNotFound:
            assert known is not True
        except StoreUnreachable:
            assert self.down
        else:
            assert known is not False

    @rule(prefix=PREFIXES)
    def list(self, prefix: str) -> None:
        try:
            told = [info.key for info in self.store.list(prefix)]
        except StoreUnreachable:
            assert len(self.down) >= 2
            return
        assert told == sorted(set(told))
        assert all(self.truth.get(key) is not False for key in told)
        if not self.down:
            assert set(told) >= {key for key, known in self.truth.items() if known and key.startswith(prefix)}

    @invariant()
    def what_a_zone_missed_is_noted(self) -> None:
        """A note may outlive what it tells of; but of each zone that differs from the truth there is one."""
        if self.down:
            return
        noted = {(note.zone, note.key) for note in self.store.pending_repairs()}
        for key, known in self.truth.items():
            holders = {zone for zone, inner in self.inner.items() if key in inner._objects}
            differ = set() if known is None else set(self.inner) - holders if known else holders
            assert {(zone, key) for zone in differ} <= noted


def test_zones_that_die() -> None:
    _run(DyingZones, 300)
