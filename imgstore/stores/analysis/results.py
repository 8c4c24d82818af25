"""The properties that an analysis checks, and its results."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imgstore.domain.storage.sizes import MIB


class Check(StrEnum):
    """The name of a check."""

    READ_AFTER_WRITE = "read-after-write"
    OVERWRITE = "overwrite"
    CONTENT = "content"
    CHECKSUMS = "checksums"
    RANGES = "ranges"
    LISTING = "listing"
    DELETES = "deletes"
    CONDITIONAL_PUT = "conditional-put"
    LATE_REQUESTS = "late-requests"
    CLOCK = "clock"
    SIZES = "sizes"
    ANSWERS = "answers"
    RIGHTS = "rights"
    VERSIONING = "versioning"
    OBJECT_LOCK = "object-lock"


class Outcome(StrEnum):
    """The outcome of a check."""

    PROVEN = "proven"
    """No request contradicted the property."""
    DISPROVED = "disproved"
    NOT_APPLICABLE = "notApplicable"
    """The store has no such property, or the check could not run."""


EXPECTED: Final[Mapping[Check, str]] = {
    Check.READ_AFTER_WRITE: "a stored object is there for every connection, as soon as the put is acknowledged",
    Check.OVERWRITE: "a replaced object has the new content for every connection, and never a mixture of both",
    Check.CONTENT: "each read returns the bytes that were stored",
    Check.CHECKSUMS: "a body with a wrong checksum is refused and not stored, and the store reports right checksums",
    Check.RANGES: "a range returns exactly its bytes, and fewer bytes only at the end of the object",
    Check.LISTING: "a listing has each key with the prefix once, in order, with the right size, over any number of pages",
    Check.DELETES: "a deleted object is gone at once and stays gone, and no other object is deleted",
    Check.CONDITIONAL_PUT: "a put with If-None-Match creates an object once, and never replaces an object",
    Check.LATE_REQUESTS: "no request is carried out after a newer request for its key, and no part of a body is stored",
    Check.CLOCK: "times of one clock, at most 15 minutes from the clock of this machine",
    Check.SIZES: "objects from 0 bytes to the largest size are stored",
    Check.ANSWERS: "each request is answered completely",
    Check.RIGHTS: "the credentials may send each request",
    Check.VERSIONING: "no versions of deleted objects, or versions that the credentials may delete",
    Check.OBJECT_LOCK: "no retention of new objects",
}
"""The property of each check, in the order of reports."""

_CACHE_HINT: Final = "remove caches and proxies between imgstore and the store, or use a store with strong consistency"
_PATH_HINT: Final = "check the memory, disks and network of the store and every proxy on the way, and analyze again"
_RIGHTS_HINT: Final = "attach the policy that `imgstore regions policy` prints to the user of the credentials"
HINTS: Final[Mapping[Check, str]] = {
    Check.READ_AFTER_WRITE: _CACHE_HINT,
    Check.OVERWRITE: _CACHE_HINT,
    Check.CONTENT: _PATH_HINT,
    Check.CHECKSUMS: "run `imgstore regions init`, which measures the store again: imgstore then reads each segment back",
    Check.RANGES: "do not use the store for s3:// sources, and remove proxies that ignore the Range header",
    Check.LISTING: f"{_CACHE_HINT}: garbage collection and scrub rely on complete listings",
    Check.DELETES: f"{_CACHE_HINT}: an object that comes back is billed, and may return to a new owner of its key",
    Check.CONDITIONAL_PUT: "never point two installations at the bucket: the store cannot keep the second one out",
    Check.LATE_REQUESTS: "remove proxies that queue or repeat requests: imgstore writes no key again for 130 s after a delete "
    "without an answer, and relies on the end of the request by then",
    Check.CLOCK: "correct the clocks of the store and of this machine, for example with an NTP service",
    Check.SIZES: "raise the limits of the store and of every proxy on the way, such as client_max_body_size of nginx",
    Check.ANSWERS: "check the load and the time limits of the store and of every proxy on the way; imgstore repeats such requests",
    Check.RIGHTS: _RIGHTS_HINT,
    Check.VERSIONING: f"{_RIGHTS_HINT}, or let a lifecycle rule expire noncurrent versions",
    Check.OBJECT_LOCK: "use a bucket without object lock, or a short retention: locked objects are billed until the lock ends",
}
"""The remedy of each check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """The extent of an analysis."""

    objects: int = 1_005
    """Objects in the listing. More than 1,000 objects need a second page."""
    rounds: int = 12
    """Repetitions of each check. More repetitions find rarer faults."""
    object_bytes_max: int = 16 * MIB
    """The size of the largest object."""
    watch_seconds: float = 5.0
    """The time in which requests that were given up may still arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTotals:
    """Requests and bytes of bodies, without repeats."""

    requests: Mapping[str, int]
    """Requests by method: "PUT", "GET", "HEAD", "LIST", "DELETE", ..."""
    sent_bytes: int
    received_bytes: int

    @property
    def request_count(self) -> int:
        """The number of all requests."""
        return sum(self.requests.values())

    @property
    def wire_bytes(self) -> int:
        """Sent and received bytes."""
        return self.sent_bytes + self.received_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    check: Check
    outcome: Outcome
    found: str
    """The evidence, for people."""

    @property
    def expected(self) -> str:
        """The property."""
        return EXPECTED[self.check]

    @property
    def hint(self) -> str | None:
        """The remedy, for a disproved property."""
        return HINTS[self.check] if self.outcome is Outcome.DISPROVED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAnalysis:
    """The result of an analysis of one store."""

    results: Sequence[CheckResult]
    planned: RequestTotals
    sent: RequestTotals
    repeats: int
    """Requests that were sent again after an error."""
    leftovers: int
    """Objects of interrupted analyses that were removed before."""
    cleanup_problem: str | None
    """Why objects of the analysis stay in the store."""


class Findings:
    """Contradictions that checks found. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[Check, str] = {}
        self._counts: Counter[Check] = Counter()
        self._facts: dict[Check, str] = {}
        self._skipped: dict[Check, str] = {}

    def add(self, check: Check, found: str) -> None:
        """Add a contradiction."""
        with self._lock:
            self._first.setdefault(check, found)
            self._counts[check] += 1

    def note(self, check: Check, fact: str) -> None:
        """Note the evidence of a proven property."""
        with self._lock:
            self._facts[check] = fact

    def skip(self, check: Check, reason: str) -> None:
        """Note that a check does not apply."""
        with self._lock:
            self._skipped.setdefault(check, reason)

    def results(self) -> list[CheckResult]:
        """Return the result of every check."""
        return [self._result(check) for check in EXPECTED]

    def _result(self, check: Check) -> CheckResult:
        if check in self._first:
            more = self._counts[check] - 1
            found = self._first[check] + (f", and {more} more" if more else "")
            return CheckResult(check=check, outcome=Outcome.DISPROVED, found=found)
        if check in self._skipped:
            return CheckResult(check=check, outcome=Outcome.NOT_APPLICABLE, found=self._skipped[check])
        return CheckResult(check=check, outcome=Outcome.PROVEN, found=self._facts.get(check, "no contradiction"))
