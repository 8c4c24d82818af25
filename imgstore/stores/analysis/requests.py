"""The requests of an analysis: counted, repeated after passing errors, and stopped after an interruption."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from imgstore.domain.errors import ObjectCorrupt, ObjectNotFound, StoreDenied, StoreError, StoreSilent
from imgstore.stores.access import DELETE, GET, LIST, PUT
from imgstore.stores.analysis.results import Check, Findings, RequestTotals
from imgstore.stores.interface import DELETE_KEYS_MAX, ObjectInfo, ObjectStore

LIST_KEYS_MAX: Final = 1_000
"""Keys in an answer of a listing, if the request names no smaller number (S3's ListObjectsV2)."""

SMALL_BYTES_MAX: Final = 4_096
"""The size of a small body, whose put takes about one round trip."""

_FAILURES_MAX: Final = 3
"""Requests that failed in spite of repeats, after which the store counts as silent and gets no further request."""

_ATTEMPTS_MAX: Final = 4
_SILENT_ATTEMPTS_MAX: Final = 2
"""Attempts for a request without an answer, whose time limit has passed."""
_WAIT_SECONDS: Final = 0.1
"""Before the second attempt; doubled for each further attempt."""

_T = TypeVar("_T")


class UnusualRequests(Protocol):
    """Requests that only an analysis sends, and that a directory does not have."""

    def list_in_pages(self, prefix: str, page_keys: int) -> Iterator[ObjectInfo]:
        """List with at most `page_keys` keys in each answer."""
        ...

    def put_damaged(self, key: str, body: bytes, announced: bytes) -> bool:
        """Put a body with the checksum of `announced`. Return whether the store accepted the body.

        Raises:
            StoreError: the store does not answer, is full, or refuses access.
        """
        ...

    def break_off_put(self, key: str, body: bytes) -> int:
        """Send a half of a body and close the connection. Return the number of sent bytes."""
        ...

    def give_up_put(self, key: str, body: bytes) -> None:
        """Send a put and close the connection without waiting for the answer."""
        ...

    def give_up_delete(self, key: str) -> None:
        """Send a delete and close the connection without waiting for the answer."""
        ...


class PutRefused(StoreError):
    """A put that the store refused, although the credentials may put objects."""


class AnalysisStopped(Exception):
    """The analysis was interrupted."""


class Requests:
    """The requests to one store below one prefix. Safe to use from several threads at once."""

    def __init__(
        self,
        store: ObjectStore,
        unusual: UnusualRequests | None,
        prefix: str,
        findings: Findings,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        wait: Callable[[float], None],
        stop: threading.Event,
        moved: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        """Prepare requests without sending one.

        Args:
            store: the bare store, without retries and circuits.
            unusual: the unusual requests of the store; None for a directory.
            prefix: the prefix of all keys.
            findings: gets refusals and answers that are no answers.
            now: the clock of this machine.
            monotonic: a clock in seconds.
            wait: waits for a number of seconds.
            stop: set after an interruption.
            moved: called with the number of bytes of each request.
        """
        self.store = store
        self.unusual = unusual
        self.findings = findings
        self.monotonic = monotonic
        self.wait = wait
        self.longest_small_put_seconds = 0.0
        """The time of the slowest put of a small body."""
        self.repeats = 0
        self.last_error = ""
        """The error before the last repeat."""
        self.stored_versions = 0
        """Versions and delete markers, if the bucket keeps versions."""
        self.present: set[str] = set()
        """The keys of objects that may exist. A listing may miss them."""
        self.clock_offsets: list[timedelta] = []
        """The times of acknowledged puts minus the clock of this machine."""
        self._prefix = prefix
        self._now = now
        self._stop = stop
        self._moved = moved
        self._lock = threading.Lock()
        self._failures = 0
        self._counts: Counter[str] = Counter()
        self._sent_bytes = 0
        self._received_bytes = 0

    @property
    def totals(self) -> RequestTotals:
        """The requests so far."""
        with self._lock:
            return RequestTotals(
                requests=MappingProxyType(dict(self._counts)),
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
            )

    def count(self, method: str, requests: int = 1, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """Count requests and their bytes."""
        with self._lock:
            self._counts[method] += requests
            self._sent_bytes += sent_bytes
            self._received_bytes += received_bytes
        self._moved(sent_bytes + received_bytes)

    # -- usual requests -----------------------------------------------------------------------------------------------

    def put(self, key: str, body: bytes, *, only_if_absent: bool = False) -> ObjectInfo:
        """Put an object. Raises the errors of `Puts.put`."""
        self.count("PUT", sent_bytes=len(body))
        with self._lock:
            self.present.add(key)
        began = self.monotonic()
        put = lambda: self.store.put(self._prefix + key, body, only_if_absent=only_if_absent)  # noqa: E731
        try:
            info = self._send(PUT, put, repeated=not only_if_absent)
        except (StoreDenied, ObjectCorrupt):
            raise
        except StoreError as error:
            if not error.retryable:
                self.findings.add(Check.SIZES, f"a put of {len(body):,} bytes failed: {error.found or error.message}")
                raise PutRefused(error.message, found=error.found) from error
            raise
        seconds = self.monotonic() - began
        with self._lock:
            if len(body) <= SMALL_BYTES_MAX:
                self.longest_small_put_seconds = max(seconds, self.longest_small_put_seconds)
            self.stored_versions += 1
            self.clock_offsets.append(info.last_modified - self._now())
        return info

    def get(self, key: str) -> bytes | None:
        """Return an object; None if there is none."""
        return self._receive(lambda: self.store.get(self._prefix + key))

    def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Return a range of an object; None if there is no object."""
        return self._receive(lambda: self.store.get_range(self._prefix + key, offset, length))

    def _receive(self, get: Callable[[], bytes]) -> bytes | None:
        self.count("GET")
        try:
            body = self._send(GET, get)
        except ObjectNotFound:
            return None
        self.count("GET", 0, received_bytes=len(body))
        return body

    def head(self, key: str) -> ObjectInfo | None:
        """Return the metadata of an object; None if there is none."""
        self.count("HEAD")
        try:
            return self._send(GET, lambda: self.store.head(self._prefix + key))
        except ObjectNotFound:
            return None

    def list(self, prefix: str = "", page_keys: int | None = None) -> list[ObjectInfo]:
        """List the objects with a prefix."""
        if page_keys is not None and self.unusual is not None:
            unusual = self.unusual
            found = self._send(LIST, lambda: list(unusual.list_in_pages(self._prefix + prefix, page_keys)))
        else:
            found = self._send(LIST, lambda: list(self.store.list(self._prefix + prefix)))
        self.count("LIST", max(1, -(-len(found) // (page_keys or LIST_KEYS_MAX))))
        return found

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. A repeated delete is harmless, because a check awaits the answer before the next request."""
        self.count("DELETE", -(-len(keys) // DELETE_KEYS_MAX))
        self._send(DELETE, lambda: self.store.delete([self._prefix + key for key in keys]))
        with self._lock:
            self.stored_versions += len(keys)
            self.present.difference_update(keys)

    def strip(self, info: ObjectInfo) -> str:
        """Return the key of a listed object without the prefix."""
        return info.key.removeprefix(self._prefix)

    # -- unusual requests ---------------------------------------------------------------------------------------------

    def put_damaged(self, key: str, body: bytes, announced: bytes) -> bool:
        """See `UnusualRequests.put_damaged`."""
        assert self.unusual is not None, "a check of S3"
        unusual = self.unusual
        self.count("PUT", sent_bytes=len(body))
        return self._send(PUT, lambda: unusual.put_damaged(self._prefix + key, body, announced))

    def break_off_put(self, key: str, body: bytes) -> None:
        """See `UnusualRequests.break_off_put`."""
        assert self.unusual is not None, "a check of S3"
        self._check_stop()
        self.count("PUT", sent_bytes=self.unusual.break_off_put(self._prefix + key, body))

    def give_up_put(self, key: str, body: bytes) -> None:
        """See `UnusualRequests.give_up_put`."""
        assert self.unusual is not None, "a check of S3"
        self._check_stop()
        self.count("PUT", sent_bytes=len(body))
        self.unusual.give_up_put(self._prefix + key, body)
        with self._lock:
            self.stored_versions += 1
            self.present.add(key)

    def give_up_delete(self, key: str) -> None:
        """See `UnusualRequests.give_up_delete`."""
        assert self.unusual is not None, "a check of S3"
        self._check_stop()
        self.count("DELETE")
        self.unusual.give_up_delete(self._prefix + key)
        with self._lock:
            self.stored_versions += 1

    # -- errors -------------------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Wait, and end the analysis after an interruption.

        Raises:
            AnalysisStopped: the analysis was interrupted.
        """
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            self._check_stop()
            self.wait(min(left, 0.2))

    def resume(self) -> None:
        """Send requests also after an interruption or to a silent store, to remove the objects."""
        self._stop = threading.Event()
        self._failures = min(self._failures, _FAILURES_MAX - 1)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise AnalysisStopped

    def _send(self, right: str, request: Callable[[], _T], *, repeated: bool = True) -> _T:
        """Send a request, and repeat the request after a retryable error.

        Raises:
            AnalysisStopped: the analysis was interrupted.
            StoreError: the request failed.
        """
        attempt = 1
        while True:
            self._check_stop()
            if self._failures >= _FAILURES_MAX:
                raise StoreSilent("The store does not answer.", found=self.last_error)
            try:
                return request()
            except StoreDenied as error:
                self.findings.add(Check.RIGHTS, f"{right} was refused: {error.found or error.message}")
                raise
            except StoreError as error:
                if not error.retryable:
                    raise
                with self._lock:
                    self.repeats += 1
                    self.last_error = error.found or error.message
                attempts_max = _SILENT_ATTEMPTS_MAX if isinstance(error, StoreSilent) else _ATTEMPTS_MAX
                if attempt >= attempts_max or not repeated:
                    with self._lock:
                        self._failures += isinstance(error, StoreSilent)
                    self.findings.add(
                        Check.ANSWERS, f"a request failed {attempt} times: {error.found or error.message}"
                    )
                    raise
            self.wait(_WAIT_SECONDS * 2 ** (attempt - 1))
            attempt += 1
