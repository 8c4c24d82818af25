"""Tests of the guard of a zone: the contract of stores after the admission, and no request before."""

from collections.abc import Callable

import pytest

from imgstore.domain.errors import StoreMismatch
from imgstore.regions.zones import GuardedStore
from imgstore.stores import MemoryStore, ObjectStore
from imgstore.testing.store_contract import RawAccess, RawMemoryAccess, StoreContract


class TestGuarded(StoreContract):
    @pytest.fixture
    def within(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def store(self, within: MemoryStore) -> ObjectStore:
        return GuardedStore(within, lambda: None)

    @pytest.fixture
    def raw(self, within: MemoryStore) -> RawAccess:
        return RawMemoryAccess(within)


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "head": lambda store: store.head("a"),
    "list": lambda store: store.list(""),
    "put": lambda store: store.put("b", b""),
    "delete": lambda store: store.delete(["a"]),
    "copy_within": lambda store: store.copy_within("a", "b"),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_request_before_the_admission(name: str) -> None:
    within = MemoryStore()
    within.put("a", b"a")
    asked: list[bool] = []
    wrong = True

    def admit() -> None:
        asked.append(wrong)
        if wrong:
            raise StoreMismatch("not ours", found="x", expected="y", hint="z")

    guarded = GuardedStore(within, admit)
    assert (guarded.name, guarded.properties) == (within.name, within.properties)
    for _ in range(2):
        with pytest.raises(StoreMismatch):
            CALLS[name](guarded)
    assert [(info.key, info.stored_bytes) for info in within.list("")] == [("a", 1)]
    wrong = False
    for _ in range(3):
        guarded.list("")
    CALLS[name](guarded)
    assert asked == [True, True, False]
