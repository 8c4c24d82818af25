"""The server that delivers the bytes of a source, behind redirects (invariants U4, U5, U8).

A redirector may lead each request to another mirror, and mirrors of equal files differ in ETag and Last-Modified. All
reads therefore stay with the first mirror. If the mirror refuses or does not answer, the redirector is asked again.
Another mirror must deliver the same length, and the bytes that were read before.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urljoin

from imgstore.domain.disks.source_urls import parse_source_url
from imgstore.domain.errors import (
    ImageRefused,
    ImgstoreError,
    InvalidInput,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from imgstore.domain.storage.digests import digest_of
from imgstore.stores.http.file_ranges import FileRange, parse_range
from imgstore.stores.http.range_requests import RangeRequests, Route
from imgstore.stores.http.read_samples import ReadSamples
from imgstore.stores.http.source_errors import SourceErrors

REDIRECTS_MAX: Final = 5
MIRRORS_MAX: Final = 4
"""The mirrors that the redirector is asked for in a row, before the read fails."""
FAILURES_MAX: Final = 2
"""The failed requests in a row to a mirror, before the redirector is asked for another mirror."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """The server of the bytes, after all redirects, and the file on this server."""

    route: Route
    file_bytes: int
    stamp: str
    digests: Mapping[str, str]
    """The digests of the file from the headers, by algorithm."""

    def is_same_file(self, other: "Mirror") -> bool | None:
        """Compare the headers of two mirrors. Return None if the headers prove nothing."""
        if self.file_bytes != other.file_bytes:
            return False
        if self.route.url.place == other.route.url.place:
            return self.stamp == other.stamp
        known = self.digests.keys() & other.digests.keys()
        return all(self.digests[name] == other.digests[name] for name in known) if known else None


class Mirrors:
    """Reads from the first mirror, or from another mirror with the same file. Safe for use from several threads."""

    def __init__(
        self, url: str, requests: RangeRequests, errors: SourceErrors, *, monotonic: Callable[[], float]
    ) -> None:
        self._url = url
        self._requests = requests
        self._errors = errors
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._mirror: Mirror | None = None
        self._first_stamp = ""
        self._failures = 0
        """The failed requests in a row to the mirror."""
        self._hops = 0
        """The number of redirects when the redirects were followed last."""
        self._switching = threading.Lock()
        self._switch_tries = 0
        self._switch_error: ImgstoreError | None = None
        self._samples = ReadSamples()

    def open(self) -> Mirror:
        """Follow the redirects to the first mirror. All attempts share the deadline of one request.

        After a redirect, the redirector is asked again for any failure: a mirror may be dead. The number of requests must
        not depend on the failure, because the redirector may be a stranger who probes the server's network (invariant U5).

        Raises:
            InvalidInput: a URL is invalid, or its server is not allowed.
            ImageRefused: the server supports no ranges, or sends neither ETag nor Last-Modified.
            StoreError: the redirector or the mirrors refuse or do not answer.
        """
        for attempt in range(1, MIRRORS_MAX + 1):
            try:
                mirror = self._follow()
            except ImgstoreError:
                if attempt == MIRRORS_MAX or not self._hops:
                    raise
            else:
                self._first_stamp = mirror.stamp
                self._keep(mirror)
                return mirror
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._mirror is not None:
                self._mirror.route.pool.close()

    def add_sample(self, offset: int, body: bytes) -> None:
        """Remember bytes of the file, for the comparison with another mirror."""
        self._samples.add(offset, body)

    def fetch(self, offset: int, length: int) -> FileRange:
        """Fetch a range from the mirror. If the mirror fails, the redirects are followed again.

        A refusal may mean that the signature of the mirror's URL has expired.

        Returns:
            The range, with the stamp of the first mirror if the file is still the same.

        Raises:
            SourceChanged: the mirrors have another file.
            ImgstoreError: the redirector or the mirrors refuse or do not answer.
        """
        mirror = self._present
        if self._failures < FAILURES_MAX:
            try:
                return self._read(mirror, offset, length)
            except StoreUnreachable:
                raise
            except (StoreError, ImageRefused):
                pass
        return self._read(self._switch(mirror), offset, length)

    def fetch_first_byte(self) -> FileRange:
        """Fetch the first byte, for the present length and stamp. Errors are as in `fetch`.

        Without redirects, the name of the source is resolved and checked again.
        """
        mirror = self._present
        route = mirror.route
        is_redirected = route.url != parse_source_url(self._url)
        if not is_redirected and route.address not in self._requests.resolve_addresses(route.url):
            self._switch(mirror)
        return self.fetch(0, 1)

    @property
    def _present(self) -> Mirror:
        assert self._mirror is not None, "open() was called"
        return self._mirror

    def _read(self, mirror: Mirror, offset: int, length: int) -> FileRange:
        """Fetch a range from a mirror. If the file is still the same, the range has the stamp of the first mirror."""
        self._requests.begin_head()
        try:
            part = parse_range(self._requests.send(mirror.route, offset, length), offset, length, self._errors)
        except StoreUnreachable:
            with self._lock:
                self._failures += mirror is self._mirror
            raise
        with self._lock:
            self._failures = 0
        is_same = (part.file_bytes, part.stamp) == (mirror.file_bytes, mirror.stamp)
        return replace(part, stamp=self._first_stamp) if is_same else part

    def _switch(self, old: Mirror) -> Mirror:
        """Follow the redirects to a mirror in place of `old`, unless another thread switched before.

        Raises:
            SourceChanged: the mirrors have another file.
            ImgstoreError: the redirector or the mirrors refuse or do not answer.
        """
        tries, began = self._switch_tries, self._monotonic()
        with self._switching:
            self._requests.spend(began - self._monotonic())  # Only the other thread sent requests in this time.
            if self._present is not old:
                return self._present
            if tries != self._switch_tries and self._switch_error is not None:
                raise self._switch_error  # Otherwise many threads would wait for a dead server one after another.
            self._switch_tries += 1
            try:
                mirror = self._find_same_file(old)
            except ImgstoreError as error:
                self._switch_error = error
                raise
            self._switch_error = None
            self._keep(mirror)
            return mirror

    def _find_same_file(self, old: Mirror) -> Mirror:
        """Follow the redirects until a mirror has the file that was read from `old`. Errors are as in `_switch`."""
        for attempt in range(1, MIRRORS_MAX + 1):
            self._requests.begin_head()
            try:
                mirror = self._follow()
                try:
                    self._check_same_file(old, mirror)
                except BaseException:
                    mirror.route.pool.close()
                    raise
            except (SourceChanged, ImageRefused, StoreDenied, ObjectNotFound):
                if attempt == MIRRORS_MAX or not self._hops:
                    raise
            else:
                return mirror
        raise AssertionError("the last attempt returns or raises")

    def _check_same_file(self, old: Mirror, new: Mirror) -> None:
        """Check that another mirror has the file that was read from `old` (invariant U8).

        Raises:
            SourceChanged: the mirror has another file.
        """
        is_same = old.is_same_file(new)
        difference = f"{new.file_bytes} bytes, {new.stamp}"
        for sample in self._samples.choose() if is_same is None else ():
            part = self._read(new, sample.offset, sample.length)
            self._requests.add_time_for(len(part.body))
            if digest_of(part.body) != sample.digest:
                is_same, difference = False, f"other bytes at offset {sample.offset}"
                break
        if is_same is False:
            raise self._errors.other_mirror(difference, f"{old.file_bytes} bytes, {old.stamp}")

    def _follow(self) -> Mirror:
        """Follow the redirects from the URL of the source, and fetch the first byte."""
        url = self._url
        for hop in range(REDIRECTS_MAX + 1):
            self._hops = hop
            route = self._requests.open_route(url)
            try:
                answer = self._requests.send(route, 0, 1)
                if answer.status not in _REDIRECTS:
                    part = parse_range(answer, 0, 1, self._errors)
                    return Mirror(route=route, file_bytes=part.file_bytes, stamp=part.stamp, digests=part.digests)
            except ImgstoreError:
                route.pool.close()
                if hop == 0:  # Without the redirector, the kept mirror is next.
                    with self._lock:
                        self._failures = 0
                raise
            route.pool.close()
            url = self._resolve_redirect(url, answer.headers.get("Location", ""))
        raise self._errors.endless_redirects(url, REDIRECTS_MAX)

    def _resolve_redirect(self, url: str, location: str) -> str:
        """Return the URL of a redirect.

        Raises:
            ImageRefused: the redirect has no valid URL.
        """
        try:
            target = urljoin(url, location)
            if location:
                parse_source_url(target)
                return target
        except (ValueError, InvalidInput):
            pass
        raise self._errors.bad_redirect(location)

    def _keep(self, mirror: Mirror) -> None:
        with self._lock:
            # If another thread still reads from a mirror, its connections are closed when they return to the pool.
            if self._mirror is not None:
                self._mirror.route.pool.close()
            self._mirror, self._failures = mirror, 0
