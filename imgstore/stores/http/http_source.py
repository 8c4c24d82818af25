"""A disk image behind an https URL, read by ranges.

A URL may come from a stranger, so every address is checked (`range_requests`). The URL may be a redirector to mirrors
(`mirrors`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import StoreUnreachable
from imgstore.domain.host.stop_signal import StopSignal
from imgstore.stores.http.file_ranges import FileRange
from imgstore.stores.http.mirrors import Mirrors
from imgstore.stores.http.public_addresses import Resolve, resolve
from imgstore.stores.http.range_requests import RangeRequests
from imgstore.stores.http.source_errors import NoAnswer, SourceErrors
from imgstore.stores.wrappers.retry import Retrier

_T = TypeVar("_T")


class HttpSource:
    """A `ByteSource` over https."""

    def __init__(
        self,
        url: str,
        *,
        allow_private: bool,
        retrier: Retrier | None = None,
        authorities: Path | None = None,
        resolver: Resolve = resolve,
        deadlines: SourceDeadlines | None = None,
        stop: StopSignal | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch length and ETag with the first byte.

        Args:
            url: an https URL, or an http URL with `allow_private`. Credentials in the URL are sent only to its own
                host.
            allow_private: allow servers on private networks, as a person on the machine may decide.
            retrier: repeats requests after passing errors.
            authorities: additional trusted certificates.
            resolver: returns the addresses of a name.
            deadlines: the time limits.
            stop: ends the requests when set.
            monotonic: seconds of a monotonic clock.

        Raises:
            InvalidInput: the URL or the URL of a redirect is not allowed.
            ImageRefused: the server supports no ranges, or sends neither ETag nor Last-Modified.
            StoreError: the server does not answer in time, or refuses access.
            KeyboardInterrupt: `stop` is set.
        """
        self._stop = stop or StopSignal()
        self._retry = retrier or Retrier(wait=self._stop.wait)
        self._monotonic = monotonic
        deadlines = deadlines or SourceDeadlines()
        self._errors = SourceErrors(url, deadlines)
        self._requests = RangeRequests(
            allow_private=allow_private,
            authorities=authorities,
            resolver=resolver,
            deadlines=deadlines,
            stop=self._stop,
            monotonic=monotonic,
            errors=self._errors,
        )
        self._mirrors = Mirrors(url, self._requests, self._errors, monotonic=monotonic)
        self._closing = ExitStack()
        self._closing.enter_context(self._stop.call_on_stop(self._requests.disconnect))
        try:
            self._opened = self._first_identity()
        except BaseException:
            self.close()
            raise

    @property
    def file_bytes(self) -> int:
        """See `ByteSource.file_bytes`."""
        return self._opened.file_bytes

    def identity(self) -> SourceIdentity:
        """See `ByteSource.identity`. The location is the URL without the query, which may contain a signature.

        The stamp is the stamp of the first mirror, as long as the present mirror has the same file.
        """
        part = self._retry(lambda: self._ask(self._mirrors.fetch_first_byte))
        return SourceIdentity(location=self._errors.location, file_bytes=part.file_bytes, stamp=part.stamp)

    def _first_identity(self) -> SourceIdentity:
        """Fetch the identity, without a second attempt at a server that never answered.

        Otherwise a closed port would be refused later than an open port, and callers could scan the server's network.
        """
        try:
            first = self._ask(self._mirrors.open)
        except NoAnswer:
            raise
        except StoreUnreachable:
            first = self._retry(lambda: self._ask(self._mirrors.open))
        return SourceIdentity(location=self._errors.location, file_bytes=first.file_bytes, stamp=first.stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.file_bytes:
            raise self._errors.too_short(self.file_bytes, offset + length)
        if length == 0:
            return b""
        part = self._retry(lambda: self._ask(lambda: self._mirrors.fetch(offset, length)))
        if (part.file_bytes, part.stamp) != (self._opened.file_bytes, self._opened.stamp):
            raise self._errors.replaced(
                f"{part.file_bytes} bytes, {part.stamp}", f"{self._opened.file_bytes} bytes, {self._opened.stamp}"
            )
        self._mirrors.add_sample(offset, part.body)
        return part.body

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`. HTTP reports no holes."""
        if self.file_bytes:
            yield Extent(offset=0, length=self.file_bytes)

    def close(self) -> None:
        """See `ByteSource.close`."""
        self._closing.close()
        self._mirrors.close()

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Return the result of `call`, whose requests have the deadlines of one request."""
        self._stop.check()
        began = self._monotonic()
        self._requests.begin_head()
        try:
            result = call()
        finally:
            self._requests.spend(self._monotonic() - began)
        self._requests.add_time_for(len(result.body) if isinstance(result, FileRange) else 0)
        return result
