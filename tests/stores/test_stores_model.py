"""Model tests of stores: any sequence of calls has the results of a dictionary.

A second model has three zones that fail and recover in any order: each result is true or an error, never outdated.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from imgstore.domain.errors import Conflict, ObjectNotFound, StoreUnreachable
from imgstore.stores import DirectoryStore, MemoryStore, ObjectStore, ZoneRedundantStore
from imgstore.stores.s3.store import S3Store
from imgstore.testing.engines import S3Engine
from tests.support.faulty_store import FaultyStore
from tests.support.manual_clock import ManualClock

# No key is another one's folder; the neighbours' names tell the order of keys from that of folders.
KEYS = st.sampled_from(["a/x", "a/y", "a-b/x", "a.b", "ab/c/d", "top"])
KEY, BODY = "a/x", b"the body"
PREFIXES = st.sampled_from(["", "a", "a/", "a-", "ab/c", "top", "nothing"])
BODIES = st.binary(max_size=40) | st.just(bytes(70_000))


class StoreModel(RuleBasedStateMachine):
    """A model of one store. Set `make` before the run; keys are below `base`."""

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
            return ZoneRedundantStore({zone: MemoryStore(zone) for zone in "123"})

        def teardown(self) -> None:
            assert isinstance(self.store, ZoneRedundantStore)
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
    """A model of one key with one body, because nothing is overwritten on three zones (invariant Z5).

    `truth` is the last *acknowledged* put or delete; None while a failed write makes the truth unknown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.inner = {zone: MemoryStore(zone, now=self.clock.now) for zone in "123"}
        self.zones = {zone: FaultyStore(store) for zone, store in self.inner.items()}
        self.down: set[str] = set()
        self.truth: bool | None = False
        self.store = self.open()

    def open(self) -> ZoneRedundantStore:
        return ZoneRedundantStore(self.zones, monotonic=self.clock.monotonic)

    def teardown(self) -> None:
        self.store.close()

    @rule(zone=st.sampled_from("123"))
    def kill(self, zone: str) -> None:
        self.zones[zone].die()
        self.down.add(zone)

    @rule(zone=st.sampled_from("123"), seconds=st.sampled_from([0.0, 31.0, 61.0]))
    def revive(self, zone: str, seconds: float) -> None:
        """Recover a zone at once, after its rest, or after the notes have become old."""
        self.zones[zone].heal()
        self.down.discard(zone)
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.down) < 2)
    @rule()
    def reopen(self) -> None:
        """Open the store in another process without knowledge of faults.

        With two zones down it could not read the notes.
        """
        self.store.close()
        self.store = self.open()

    @rule()
    def put(self) -> None:
        try:
            self.store.put(KEY, BODY)
        except StoreUnreachable:
            self.truth = None
            assert len(self.down) >= 2
        else:
            self.truth = True

    @rule()
    def delete(self) -> None:
        try:
            self.store.delete([KEY])
        except StoreUnreachable:
            self.truth = None
            assert len(self.down) >= 2
        else:
            self.truth = False

    @rule()
    def get(self) -> None:
        self.look(lambda: self.store.get(KEY) == BODY)

    @rule()
    def head(self) -> None:
        self.look(lambda: self.store.head(KEY).stored_bytes == len(BODY))

    def look(self, call: Callable[[], bool]) -> None:
        try:
            assert call()
        except ObjectNotFound:
            assert self.truth is not True
        except StoreUnreachable:
            assert self.down or self.truth is None
        else:
            assert self.truth is not False

    @rule()
    def list(self) -> None:
        try:
            told = {info.key: info.certain for info in self.store.list("a")}
        except StoreUnreachable:
            assert len(self.down) >= 2
            return
        assert told.keys() <= {KEY}
        assert told or not self.truth, "what exists is never denied"
        assert not told.get(KEY) or self.truth is not False, "what was deleted is never certain"

    @invariant()
    def what_a_zone_missed_is_noted(self) -> None:
        """Each zone that differs from the truth has a note. A note may be outdated."""
        if self.down:
            return
        noted = {note.zone for note in self.store.list_pending_repairs()}
        holders = {zone for zone, inner in self.inner.items() if KEY in inner._objects}
        differ = set() if self.truth is None else set(self.inner) - holders if self.truth else holders
        assert differ <= noted


def test_zones_that_die() -> None:
    """Hypothesis minimizes each failure."""
    _run(DyingZones, 100)


def test_zones_that_die_over_and_over() -> None:
    """One long run, mostly with one zone down, with longer sequences than those of Hypothesis."""
    seed, model = Random(18), DyingZones()
    for _ in range(4000):
        zone = seed.choice("123")
        if zone in model.down:
            model.revive(zone=zone, seconds=seed.choice([0.0, 31.0, 61.0]))
        elif len(model.down) < seed.choice([1, 1, 1, 1, 2, 3]):
            model.kill(zone=zone)
        elif seed.random() < 0.05 and len(model.down) < 2:
            model.reopen()
        seed.choice([model.put, model.delete, model.get, model.get, model.head, model.list])()
        model.what_a_zone_missed_is_noted()
    model.teardown()
