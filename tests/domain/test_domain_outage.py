"""Tests of the wait for stores during an outage (D21)."""

import pytest

from imgstore.domain.disks.outage import Outage
from imgstore.domain.effects import Effects
from imgstore.domain.errors import LeaseLost, ObjectNotFound, StoreError, StoreUnreachable
from tests.support.manual_clock import ManualClock

AWAY = StoreUnreachable("The store does not answer.", found="silence", expected="an answer", hint="wait")
MISSING = ObjectNotFound("The object is missing.", found="nothing", expected="an object", hint="none")


class Store:
    """A store that fails a number of times, then answers."""

    def __init__(self, failures: int, error: StoreError = AWAY) -> None:
        self.failures = failures
        self.error = error
        self.requests = 0

    def ask(self) -> str:
        self.requests += 1
        if self.failures:
            self.failures -= 1
            raise self.error
        return "bytes"


def make(seconds: float) -> tuple[Outage, ManualClock]:
    clock = ManualClock()
    return Outage(seconds, Effects(wait=clock.wait, monotonic=clock.monotonic)), clock


def never() -> None:
    """Cancel nothing."""


def test_an_attempt_is_repeated_until_the_store_answers() -> None:
    outage, clock = make(60)
    store = Store(9)
    assert outage.wait_out(store.ask, never) == "bytes"
    assert store.requests == 10
    assert clock.waits[:5] == [0.05, 0.1, 0.2, 0.4, 0.5]


def test_all_attempts_fail_after_the_limit_until_the_store_answers() -> None:
    outage, clock = make(10)
    store = Store(1_000)
    with pytest.raises(StoreUnreachable):
        outage.wait_out(store.ask, never)
    assert 10 <= clock.monotonic() < 11
    asked = store.requests
    with pytest.raises(StoreUnreachable):
        outage.wait_out(store.ask, never)
    assert store.requests == asked + 1, "the second reader does not wait"
    store.failures = 0
    assert outage.wait_out(store.ask, never) == "bytes"
    store.failures = 3
    assert outage.wait_out(store.ask, never) == "bytes", "the next outage has its own time"


def test_a_missing_object_is_not_awaited() -> None:
    outage, clock = make(10)
    with pytest.raises(ObjectNotFound):
        outage.wait_out(Store(1, MISSING).ask, never)
    assert not clock.waits
    assert outage.wait_out(Store(1, MISSING).ask, never, lambda _error: True) == "bytes"


def test_a_lost_lease_and_the_end_of_the_disk_end_the_wait() -> None:
    outage, _ = make(10)
    lost = LeaseLost("This process was too slow.", found="no renewal", expected="a renewal", hint="repeat the command")

    def check() -> None:
        raise lost

    with pytest.raises(LeaseLost):
        outage.wait_out(Store(1).ask, check)
    outage, _ = make(10)
    with pytest.raises(StoreUnreachable):
        outage.wait_out(Store(1_000).ask, outage.close)
