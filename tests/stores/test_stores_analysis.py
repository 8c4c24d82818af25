"""The analysis of a store in memory with faults, without a server and without waits."""

import threading
from typing import Any

import pytest

from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreError, StoreSilent
from imgstore.stores.access import StoreAccess
from imgstore.stores.analysis import (
    AnalysisSettings,
    AnalyzedStore,
    Check,
    Outcome,
    StoreAnalysis,
    analyze_store,
    plan_analysis,
)
from imgstore.stores.interface import Body, ObjectInfo
from imgstore.stores.memory import MemoryStore
from tests.support.faulty_store import Fault, FaultyStore, Kind

SETTINGS = AnalysisSettings(objects=30, rounds=4, object_bytes_max=100_000, watch_seconds=0)
EFFECTS = Effects(wait=lambda _seconds: None)


def analyze(store: Any) -> StoreAnalysis:
    target = AnalyzedStore(store=store, access=StoreAccess(), unusual=None, versions=None)
    return analyze_store(
        target,
        SETTINGS,
        EFFECTS,
        name="a",
        is_alive=lambda _name: True,
        stop=threading.Event(),
        planned=plan_analysis(target, SETTINGS, EFFECTS),
        turn=threading.Lock(),
    )


def disproved(analysis: StoreAnalysis) -> set[Check]:
    return {each.check for each in analysis.results if each.outcome is Outcome.DISPROVED}


def test_a_store_without_a_fault_gets_the_planned_requests() -> None:
    store = MemoryStore()
    analysis = analyze(store)
    assert disproved(analysis) == set()
    assert analysis.sent == analysis.planned
    assert list(store.list("")) == []


def test_a_silent_store_gets_few_further_requests() -> None:
    """A store that dies has no other property disproved, and nobody waits for hundreds of requests."""
    refused: list[int] = []

    def silence() -> StoreError:
        refused.append(1)
        return StoreSilent("The store does not answer.", found="silence", expected="an answer", hint="none")

    analysis = analyze(FaultyStore(MemoryStore(), [Fault(calls=frozenset(range(250, 10_000)), error=silence)]))
    assert disproved(analysis) == {Check.ANSWERS}
    assert len(refused) < 40
    assert analysis.cleanup_problem == "silence"


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.LOST])
def test_two_passing_errors_are_no_finding(kind: Kind) -> None:
    faults = [
        Fault(method="list", calls=frozenset({3}), kind=kind),
        Fault(method="get", calls=frozenset({7}), kind=kind),
    ]
    analysis = analyze(FaultyStore(MemoryStore(), faults))
    assert disproved(analysis) == set()
    assert analysis.repeats == 2


def test_damage_of_each_third_read_is_found() -> None:
    fault = Fault(method="get", calls=frozenset(range(3, 1_000, 3)), kind=Kind.DAMAGED)
    assert Check.CONTENT in disproved(analyze(FaultyStore(MemoryStore(), [fault])))


class Tailed(MemoryStore):
    """A store in which a shorter body keeps the end of the longer body."""

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        """See `Puts.put`."""
        former = b"" if only_if_absent or not list(self.list(key)) else self.get(key)
        return super().put(key, bytes(body) + former[len(body) :], only_if_absent=only_if_absent)


def test_the_end_of_a_longer_body_is_found() -> None:
    assert Check.CONTENT in disproved(analyze(Tailed()))
