"""Plan and run the analysis of one store, and remove its objects (invariant Z14).

The plan is a run on a model: a store in memory that keeps every promise. So the plan has the same requests and bytes as
a run on a store without a fault.
"""

import itertools
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreError
from imgstore.stores.access import DELETE_VERSION, LIST_VERSIONS, PROBES, REQUIRED, StoreAccess
from imgstore.stores.analysis.checks import Checks
from imgstore.stores.analysis.requests import LIST_KEYS_MAX, Requests, UnusualRequests
from imgstore.stores.analysis.results import (
    AnalysisSettings,
    Check,
    Findings,
    Outcome,
    RequestTotals,
    StoreAnalysis,
)
from imgstore.stores.interface import ObjectInfo, ObjectStore
from imgstore.stores.memory import MemoryStore
from imgstore.stores.object_versions import KeepsVersions, VersioningState

ANALYSES: Final = f"{PROBES}analysis/"
"""The prefix of the objects of all analyses. The next part of a key is the name of the analysis."""

FOREIGN_SECONDS: Final = 24 * 3600
"""The age of objects of an analysis on another machine that certainly does not run any more."""

_REPEATS_MAX: Final = 2
_REPEATS_PER_REQUEST_MAX: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedStore:
    """A store with everything that an analysis needs."""

    store: ObjectStore
    """The bare store, without retries and circuits."""
    access: StoreAccess
    """The rights and locks of the store."""
    unusual: UnusualRequests | None
    """None for a directory."""
    versions: KeepsVersions | None
    """None for a directory."""
    check_requests: int = 0
    """Requests that opened and checked the store before."""
    prune: Callable[[str], None] = lambda _prefix: None
    """Removes empty folders below a prefix, which only directories have."""

    @property
    def keeps_versions(self) -> bool:
        """Whether deleted objects stay as versions, as far as known."""
        return self.versions is not None and self.access.versioning.state is not VersioningState.OFF

    @property
    def refusal(self) -> str | None:
        """Why no object may be put into the store, because the object would stay. None without a reason."""
        if missing := [each for each in self.access.missing_rights if each in REQUIRED]:
            return f"the credentials lack {', '.join(missing)}"
        if self.access.error is not None:
            return f"the store failed a small request: {self.access.error.found or self.access.error.message}"
        if self.access.has_retention:
            return f"object lock ({self.access.object_lock}) would keep the objects of the analysis"
        return None


class _Model:
    """The unusual requests of a store that keeps every promise."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def list_in_pages(self, prefix: str, page_keys: int) -> Iterator[ObjectInfo]:
        """See `UnusualRequests.list_in_pages`."""
        return self._store.list(prefix)

    def put_damaged(self, key: str, body: bytes, announced: bytes) -> bool:
        """See `UnusualRequests.put_damaged`."""
        return False

    def break_off_put(self, key: str, body: bytes) -> int:
        """See `UnusualRequests.break_off_put`."""
        return len(body) // 2

    def give_up_put(self, key: str, body: bytes) -> None:
        """See `UnusualRequests.give_up_put`. The model never carries out such a request."""

    def give_up_delete(self, key: str) -> None:
        """See `UnusualRequests.give_up_delete`. The model never carries out such a request."""


def plan_analysis(target: AnalyzedStore, settings: AnalysisSettings, effects: Effects) -> RequestTotals:
    """Compute the requests and bytes of an analysis, without a request to the store."""
    memory = MemoryStore()
    clock = itertools.count()
    requests = Requests(
        memory,
        None if target.unusual is None else _Model(memory),
        ANALYSES,
        findings := Findings(),
        now=effects.now,
        monotonic=lambda: float(next(clock)),  # No wait takes time.
        wait=lambda _seconds: None,
        stop=threading.Event(),
    )
    _count_check(target, requests)
    if target.refusal is not None:
        return requests.totals
    Checks(requests, findings, settings, seed="", turn=nullcontext()).run()
    wrong = [each for each in findings.results() if each.outcome is Outcome.DISPROVED]
    assert not wrong, f"the model keeps every promise: {wrong}"
    _delete_objects(requests)
    if target.keeps_versions:
        _count_version_requests(requests, requests.stored_versions)
    requests.list()
    requests.count("LIST")  # Leftovers of interrupted analyses.
    return requests.totals


def analyze_store(
    target: AnalyzedStore,
    settings: AnalysisSettings,
    effects: Effects,
    *,
    name: str,
    is_alive: Callable[[str], bool | None],
    stop: threading.Event,
    planned: RequestTotals,
    turn: AbstractContextManager[object],
    moved: Callable[[int], None] = lambda _bytes: None,
) -> StoreAnalysis:
    """Analyze a store. All objects are removed afterwards, also after an interruption.

    Args:
        target: the store.
        settings: the extent.
        effects: time.
        name: the name of the analysis, a part of a key that no other analysis has.
        is_alive: returns whether the analysis of another name runs; None for an analysis on another machine, whose
            objects are removed after a day.
        stop: set after an interruption.
        planned: the plan of this analysis.
        turn: held during the check of the largest object, so that analyses of several stores need less memory.
        moved: called with the number of bytes of each request.

    Raises:
        AnalysisStopped: the analysis was interrupted.
    """
    findings = Findings()
    requests = Requests(
        target.store,
        target.unusual,
        f"{ANALYSES}{name}/",
        findings,
        now=effects.now,
        monotonic=effects.monotonic,
        wait=effects.wait,
        stop=stop,
        moved=moved,
    )
    _count_check(target, requests)
    _judge_access(target, findings)
    problem, leftovers = None, 0
    if target.refusal is not None:
        for check in Check:
            findings.skip(check, f"not run: {target.refusal}")
    else:
        try:
            leftovers = _remove_leftovers(target, requests, is_alive, effects)
            Checks(requests, findings, settings, seed=name, turn=turn).run()
        finally:
            problem = _remove_objects(target, requests, findings, name)
        _judge_repeats(requests, findings)
    return StoreAnalysis(
        results=findings.results(),
        planned=planned,
        sent=requests.totals,
        repeats=requests.repeats,
        leftovers=leftovers,
        cleanup_problem=problem,
    )


def _remove_leftovers(
    target: AnalyzedStore, requests: Requests, is_alive: Callable[[str], bool | None], effects: Effects
) -> int:
    """Remove the objects of analyses that were interrupted. Return the number of objects."""
    requests.count("LIST")
    try:
        found = list(target.store.list(ANALYSES))
        newest = max((info.last_modified for info in found), default=effects.now())
        dead = [info.key for info in found if _is_dead(info, is_alive, max(newest, effects.now()))]
        target.store.delete(dead)
        if target.keeps_versions and target.versions is not None:
            _delete_versions(target.versions, {key.removeprefix(ANALYSES).partition("/")[0] for key in dead})
    except StoreError:  # The checks find the cause, and a later analysis removes the objects.
        return 0
    return len(dead)


def _is_dead(info: ObjectInfo, is_alive: Callable[[str], bool | None], now: datetime) -> bool:
    alive = is_alive(info.key.removeprefix(ANALYSES).partition("/")[0])
    return not alive if alive is not None else now - info.last_modified > timedelta(seconds=FOREIGN_SECONDS)


def _delete_versions(versions: KeepsVersions, names: Collection[str]) -> str | None:
    """Delete all versions of the objects of analyses. Return the reason if a version stays."""
    reason = None
    for name in names:
        every = [each for found in versions.list_versions(f"{ANALYSES}{name}/") for each in found.versions]
        kept = versions.delete_versions(every)
        reason = next(iter(kept.values()), reason)
    return reason


def _remove_objects(target: AnalyzedStore, requests: Requests, findings: Findings, name: str) -> str | None:
    """Remove all objects of an analysis. Return the reason if an object stays."""
    requests.resume()
    try:
        _delete_objects(requests)
        if target.keeps_versions and target.versions is not None:
            _count_version_requests(requests, requests.stored_versions)
            if reason := _delete_versions(target.versions, [name]):
                findings.add(Check.VERSIONING, f"versions stay: {reason}")
                return f"versions stay: {reason}"
        left = requests.list()
        target.prune(ANALYSES)
    except StoreError as error:
        return error.found or error.message
    if not left:
        return None
    findings.add(Check.DELETES, f"{len(left)} objects stay after their delete, as {left[0].key}")
    return f"{len(left)} objects stay, as {left[0].key}"


def _delete_objects(requests: Requests) -> None:
    """Delete the objects of an analysis, also objects that a listing misses."""
    listed = {requests.strip(info) for info in requests.list()}
    requests.delete(sorted(listed | requests.present))


def _count_check(target: AnalyzedStore, requests: Requests) -> None:
    """Count the requests that opened and checked the store, so that the totals are those of the whole command."""
    if target.check_requests:
        requests.count("CHECK", target.check_requests)


def _count_version_requests(requests: Requests, versions: int) -> None:
    """Count the requests that remove versions: a listing in pages, and deletes in batches."""
    pages = max(1, -(-versions // LIST_KEYS_MAX))
    requests.count("LIST", pages)
    requests.count("DELETE", pages)


def _judge_access(target: AnalyzedStore, findings: Findings) -> None:
    """Judge rights, versioning and locks by the result of the probe."""
    access = target.access
    for right in access.missing_rights:
        findings.add(Check.RIGHTS, f"the credentials lack {right}")
    findings.note(Check.RIGHTS, "no request was refused")
    if target.versions is None:
        findings.skip(Check.VERSIONING, "a directory keeps no versions")
        findings.skip(Check.OBJECT_LOCK, "a directory has no object lock")
        return
    state = access.versioning.state
    findings.note(
        Check.VERSIONING, "off" if state is VersioningState.OFF else f"{state.value}: versions can be deleted"
    )
    if access.versioning.mfa_delete:
        findings.add(Check.VERSIONING, "MFA delete is on: no version can be deleted")
    elif state is VersioningState.UNKNOWN:
        findings.add(Check.VERSIONING, "it is unknown whether deleted objects stay as versions")
    elif lacking := [each for each in (LIST_VERSIONS, DELETE_VERSION) if each in access.missing_rights]:
        findings.add(Check.VERSIONING, f"{state.value}, and the credentials lack {', '.join(lacking)}")
    elif access.kept_reason is not None:
        findings.add(Check.VERSIONING, f"the store keeps versions: {access.kept_reason}")
    findings.note(Check.OBJECT_LOCK, access.object_lock or "no object lock")
    if access.has_retention:
        findings.add(Check.OBJECT_LOCK, f"each new object is locked: {access.object_lock}")


def _judge_repeats(requests: Requests, findings: Findings) -> None:
    """Judge requests that succeeded after an error. A few such requests are usual on a network."""
    count = requests.totals.request_count
    findings.note(Check.ANSWERS, f"{count:,} requests, {requests.repeats} repeated")
    if requests.repeats > max(_REPEATS_MAX, _REPEATS_PER_REQUEST_MAX * count):
        findings.add(Check.ANSWERS, f"{requests.repeats} of {count:,} requests failed at first: {requests.last_error}")
