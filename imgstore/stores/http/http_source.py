"""A disk image behind an https URL, read by ranges. Any URL may come from a stranger, so every address is checked.

The name is resolved here, and each address that it stands for is looked at before a connection is made to that very
address: a name that resolves anew to something else changes nothing. So at each redirect. Proxies of the environment
are not used: they would resolve for themselves.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import SSLError as TlsError
from urllib3.exceptions import TimeoutError as TimeoutOfUrllib3

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.disks.source_urls import parse_source_url, redact_location
from imgstore.domain.disks.sources import Extent, SourceIdentity
from imgstore.domain.errors import (
    ImageRefused,
    ImageTruncated,
    ImgstoreError,
    InvalidInput,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from imgstore.domain.stop_signal import StopSignal
from imgstore.stores.http.timed_connection import RequestTimer, SourceConnections
from imgstore.stores.wrappers.retry import Retrier

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], list[str]]
"""The addresses of a name."""

REDIRECTS_MAX: Final = 5

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out of the open IPv6 internet: https://www.iana.org/assignments/ipv6-address-space."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_CONNECTIONS_MAX: Final = 16
_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})", re.IGNORECASE)
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_STAMP: Final = re.compile(r"[\x21-\x7e\xa1-\xff][\x20-\x7e\xa1-\xff]{0,1023}")
"""An ETag or a date that the catalog keeps."""


def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver, in its order of preference."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(text: str) -> bool:
    """Whether an address is one of the open internet.

    Not: loopback, private, link-local, reserved, multicast; not even wrapped into an IPv6 address by one of the ways of
    transition.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _wrapped(address)
    if inner is not None:
        return is_public(str(inner))
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _wrapped(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """Where the bytes really are, after the redirects: a pool of connections to one checked address."""

    pool: urllib3.HTTPConnectionPool
    target: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Of a 206, and at most one byte more than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one answer tells."""

    body: bytes
    file_bytes: int
    stamp: str


class _Response(http.client.HTTPResponse):
    """An answer whose body and chunks have lengths.

    Of a negative chunk the standard library makes "read until the end"; of a length that is none, urllib3 loses the
    connection.
    """

    def begin(self) -> None:
        super().begin()
        lengths = self.headers.get_all("Content-Length") or []
        if len(lengths) > 1 or not all(_LENGTH.fullmatch(each.strip()) for each in lengths):
            raise http.client.HTTPException("a Content-Length that is not one number")

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc] # not in the stubs
        if size < 0:
            raise ValueError("a chunk of a negative length")
        return size


class _PlainConnection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _TlsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _NoAnswer(StoreUnreachable):
    """No whole answer came."""


class HttpSource:
    """A `domain.sources.ByteSource` over https."""

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
        """Ask for length and ETag, with a first byte.

        Args:
            url: an https URL; http too where `allow_private`. A name and password in it are sent to its own host only.
            allow_private: let it be a server on a private network, as a person on the machine may decide.
            retrier: how to try again what may pass.
            authorities: certificates to trust besides the system's.
            resolver: gives the addresses of a name.
            deadlines: how slow it may be.
            stop: ends what is asked, when it is set.
            monotonic: seconds of a clock that only goes on.

        Raises:
            InvalidInput: the URL, or one that it redirects to, may not be asked.
            ImageRefused: the server gives no ranges, or nothing to know a change by.
            StoreError: it does not answer in time, or not to us.
            KeyboardInterrupt: `stop` is set.
        """
        self._url = url
        self._private = allow_private
        self._stop = stop or StopSignal()
        self._persist = retrier or Retrier(wait=self._stop.wait)
        self._resolve = resolver
        self._deadlines = deadlines or SourceDeadlines()
        self._monotonic = monotonic
        self._timer = RequestTimer(self._deadlines.idle_seconds, monotonic)
        self._line = SourceConnections(self._timer)
        self._left_seconds = self._deadlines.total_seconds
        self._tls = ssl.create_default_context()
        if authorities is not None:
            self._tls.load_verify_locations(authorities)
        self._lock = threading.Lock()
        self._route: _Route | None = None
        self._closing = ExitStack()
        self._closing.enter_context(self._stop.call_on_stop(self._line.disconnect))
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
        """See `ByteSource.identity`. The location is the URL without its query, which may hold a signature."""
        return self._identity(self._persist(lambda: self._ask(0, 1, afresh=True)))

    def _first_identity(self) -> SourceIdentity:
        """See `identity`. A server that never answered is not asked again.

        Else a closed port would be refused later than an open one, and callers could search the network for servers.
        """
        try:
            return self._identity(self._ask(0, 1, afresh=True))
        except _NoAnswer:
            raise
        except StoreUnreachable:
            return self.identity()

    def _identity(self, part: _Part) -> SourceIdentity:
        return SourceIdentity(location=redact_location(self._url), file_bytes=part.file_bytes, stamp=part.stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.file_bytes:
            raise ImageTruncated(
                f"'{redact_location(self._url)}' ends too early.",
                found=f"{self.file_bytes} bytes",
                expected=f"at least {offset + length}",
                hint="look whether the file behind the URL is whole",
                target=redact_location(self._url),
            )
        if length == 0:
            return b""
        part = self._persist(lambda: self._ask(offset, length, afresh=False))
        if (part.file_bytes, part.stamp) != (self._opened.file_bytes, self._opened.stamp):
            raise SourceChanged(
                f"'{redact_location(self._url)}' was replaced while it was read.",
                found=f"{part.file_bytes} bytes, {part.stamp}",
                expected=f"{self._opened.file_bytes} bytes, {self._opened.stamp}",
                hint="leave the file alone while it is read, then run the same command again",
                target=redact_location(self._url),
            )
        return part.body

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`. HTTP tells of no holes."""
        if self.file_bytes:
            yield Extent(offset=0, length=self.file_bytes)

    def close(self) -> None:
        """See `ByteSource.close`."""
        self._closing.close()
        with self._lock:
            if self._route is not None:
                self._route.pool.close()
                self._route = None

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, offset: int, length: int, *, afresh: bool) -> _Part:
        """One range.

        The way that the redirects led is kept; where it is refused now (a signature in it may have run out), it is gone
        anew from the URL.
        """
        self._stop.check()
        began = self._monotonic()
        self._begin(self._deadlines.head_seconds, self._late_head())
        try:
            part = self._ask_timed(offset, length, afresh=afresh)
        finally:
            self._spend(self._monotonic() - began)
        self._spend(-self._deadlines.added_seconds(len(part.body)))
        return part

    def _left(self) -> float:
        """What is left of the time that all requests have together."""
        with self._lock:
            left = self._left_seconds
        if left <= 0:
            raise self._too_slow(self._late_in_all())
        return left

    def _spend(self, seconds: float) -> None:
        with self._lock:
            self._left_seconds = min(self._left_seconds - seconds, self._deadlines.total_seconds)

    def _begin(self, seconds: float, late: str) -> None:
        """Set the deadline of what the thread does now: `seconds`, or what is left for all requests if that is less."""
        left = self._left()
        self._timer.begin(min(seconds, left), late if seconds <= left else self._late_in_all())

    def _late_in_all(self) -> str:
        return f"all requests together took {self._deadlines.total_seconds:g} seconds too long"

    def _late_head(self) -> str:
        return f"no whole head of an answer within {self._deadlines.head_seconds:g} seconds"

    def _ask_timed(self, offset: int, length: int, *, afresh: bool) -> _Part:
        """The range, before the thread's deadline."""
        route = None if afresh else self._route
        if route is not None:
            answer = self._send(route, offset, length)
            if answer.status in {206, 416} or _passes(answer.status):
                return self._part(answer, offset, length)
        return self._follow(offset, length)

    def _follow(self, offset: int, length: int) -> _Part:
        url = self._url
        for _ in range(REDIRECTS_MAX + 1):
            route = self._open_route(url)
            try:
                answer = self._send(route, offset, length)
            except ImgstoreError:
                route.pool.close()
                raise
            if answer.status not in _REDIRECTS:
                self._keep(route)
                return self._part(answer, offset, length)
            route.pool.close()
            url = self._redirected(url, answer.headers.get("Location", ""))
        raise ImageRefused(
            f"'{redact_location(self._url)}' redirects without end.",
            found=f"more than {REDIRECTS_MAX} redirects, the last to '{redact_location(url)}'",
            expected=f"at most {REDIRECTS_MAX}",
            hint="give the URL that the file really has",
            target=redact_location(self._url),
        )

    def _redirected(self, url: str, location: str) -> str:
        """The URL that a redirect leads to.

        Raises:
            ImageRefused: it leads nowhere.
        """
        try:
            target = urljoin(url, location)
            if location:
                parse_source_url(target)
                return target
        except (ValueError, InvalidInput):
            pass
        raise ImageRefused(
            f"'{redact_location(self._url)}' redirects to what is not a URL.",
            found=repr(redact_location(location)[:200]),
            expected="a Location with an https URL",
            hint="give the URL that the file really has",
            target=redact_location(self._url),
        )

    def _keep(self, route: _Route) -> None:
        with self._lock:
            # A route that another thread still reads from closes its connections when they come back to the pool.
            if self._route is not None:
                self._route.pool.close()
            self._route = route

    def _send(self, route: _Route, offset: int, length: int) -> _Answer:
        headers = route.headers | {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        try:
            answer = route.pool.request(
                "GET", route.target, headers=headers, redirect=False, retries=False, preload_content=False
            )
            try:
                body = self._body(answer, length) if answer.status == 206 else b""
            except BaseException:
                answer.close()
                raise
            if answer.status != 206 or len(body) > length:
                answer.close()
            answer.release_conn()
            self._stop.check()  # A head that was cut off by `stop` looks like one with fewer headers.
            return _Answer(status=answer.status, headers=answer.headers, body=body)
        except TlsError as error:
            self._stop.check()
            raise StoreError(
                f"The server of '{redact_location(self._url)}' cannot be trusted.",
                found=str(error),
                expected="a certificate for its name, from an authority that this machine knows",
                hint="name the authority's file in SSL_CERT_FILE",
                target=redact_location(self._url),
            ) from error
        except LocationParseError as error:
            raise InvalidInput(
                f"'{redact_location(self._url)}' cannot be a source.",
                found=str(error)[:200],
                expected="https://host/path",
                hint="give the URL that the file really has",
                target=redact_location(self._url),
            ) from error
        except TimeoutError as error:
            raise self._too_slow(str(error), _NoAnswer) from error
        except NewConnectionError as error:  # A kind of ConnectTimeoutError, though nothing was late.
            raise self._unreachable(str(error), _NoAnswer) from error
        except ConnectTimeoutError as error:
            raise self._too_slow(
                f"no connection within {self._deadlines.connect_seconds:g} seconds", _NoAnswer
            ) from error
        except TimeoutOfUrllib3 as error:
            raise self._too_slow(self._timer.reason, _NoAnswer) from error
        except (HTTPError, ValueError) as error:  # ValueError: numbers that http.client cannot read
            self._stop.check()
            raise self._unreachable(str(error), _NoAnswer) from error

    def _body(self, answer: urllib3.BaseHTTPResponse, length: int) -> bytes:
        """At most one byte more than was asked for: a server may send more, and one byte is enough to know."""
        late = f"fewer than {self._deadlines.bytes_per_second_min} bytes a second of a body of {length} bytes"
        self._begin(self._deadlines.body_seconds(length), late)
        return answer.read(length + 1, decode_content=False)

    def _part(self, answer: _Answer, offset: int, length: int) -> _Part:
        said = answer.headers.get("Content-Range", "")
        stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        match = _CONTENT_RANGE.fullmatch(said.strip())
        file_bytes = int(match[3]) if match is not None and _STAMP.fullmatch(stamp) else None
        if answer.status == 416 and file_bytes == 0:
            return _Part(body=b"", file_bytes=0, stamp=stamp)
        if answer.status != 206:
            raise self._refusal(answer.status)
        if match is None or file_bytes is None:
            raise ImageRefused(
                f"The server of '{redact_location(self._url)}' does not tell what is needed to read it safely.",
                found=f"Content-Range '{said[:80]}', ETag or Last-Modified '{stamp[:80]}'",
                expected="the file's length, and an ETag or a Last-Modified to know a change by",
                hint="download the file first and give its path",
                target=redact_location(self._url),
            )
        if match[1] is None or int(match[1]) != offset:
            raise ImageRefused(
                f"The server of '{redact_location(self._url)}' gives another range than it was asked for.",
                found=f"Content-Range '{said[:80]}'",
                expected=f"the bytes from {offset} on",
                hint="download the file first and give its path",
                target=redact_location(self._url),
            )
        expected = max(0, min(length, file_bytes - offset))
        if len(answer.body) != expected:
            raise self._unreachable(f"{len(answer.body)} bytes where {expected} were announced")
        return _Part(body=answer.body, file_bytes=file_bytes, stamp=stamp)

    # -- addresses ----------------------------------------------------------------------------------------------------

    def _open_route(self, url: str) -> _Route:
        parts = parse_source_url(url)
        if parts.scheme != "https" and not self._private:
            raise InvalidInput(
                f"'{redact_location(url)}' cannot be a source.",
                found=f"scheme '{parts.scheme}'",
                expected="https://host/path",
                hint="give an https URL; http is for private servers: IMGSTORE_ALLOW_PRIVATE_SOURCES=1",
                target=redact_location(self._url),
            )
        address = self._checked_address(parts.host, parts.port)
        headers = {"Host": parts.host_header}
        if parts.authorization is not None:
            headers["Authorization"] = parts.authorization
        pool = self._pool(parts.scheme, address, parts.port, parts.host)
        return _Route(pool=pool, target=parts.target, headers=headers)

    def _pool(self, scheme: str, address: str, port: int, host: str) -> urllib3.HTTPConnectionPool:
        """Connections to the very address that was checked, under the name that was asked for."""
        try:
            seconds = min(self._deadlines.connect_seconds, self._timer.seconds_left())
        except TimeoutError as error:
            raise self._too_slow(str(error)) from error
        timeout = urllib3.Timeout(connect=seconds, read=self._deadlines.idle_seconds)
        if scheme == "http":
            pool: urllib3.HTTPConnectionPool = _PlainPool(address, port, maxsize=_CONNECTIONS_MAX, timeout=timeout)
        else:
            pool = _TlsPool(
                address,
                port,
                maxsize=_CONNECTIONS_MAX,
                timeout=timeout,
                ssl_context=self._tls,
                server_hostname=host,
                assert_hostname=host,
            )
        self._line.watch(pool)
        return pool

    def _checked_address(self, host: str, port: int) -> str:
        try:
            addresses = self._resolve(host, port)
        except OSError as error:
            # At once, as a private address: time must not tell which names exist inside the server's network.
            if not isinstance(error, socket.gaierror) or error.errno not in _NO_SUCH_NAME:
                raise self._unreachable(f"the name '{host}' does not resolve: {error}", _NoAnswer) from error
            addresses = []
        closed = [] if self._private else [address for address in addresses if not is_public(address)]
        if closed or not addresses:
            raise InvalidInput(
                f"'{host}' may not be asked for an image.",
                found=f"addresses {', '.join(addresses)}: not of the open internet"
                if closed
                else "a name that does not resolve",
                expected="public addresses only",
                hint="for a server of your own network set IMGSTORE_ALLOW_PRIVATE_SOURCES=1",
                target=redact_location(self._url),
            )
        return addresses[0]

    # -- errors -------------------------------------------------------------------------------------------------------

    def _refusal(self, status: int) -> ImgstoreError:
        found = f"HTTP {status}"
        if _passes(status):
            return self._unreachable(found)
        if status in {401, 403, 407}:
            return StoreDenied(
                f"The server of '{redact_location(self._url)}' refuses access.",
                found=found,
                expected="206",
                hint="give a URL that is signed and has not run out",
                target=redact_location(self._url),
            )
        if status in {404, 410}:
            return ObjectNotFound(
                f"There is no '{redact_location(self._url)}'.",
                found=found,
                expected="206",
                hint="look whether the URL is right",
                target=redact_location(self._url),
            )
        return ImageRefused(
            f"The server of '{redact_location(self._url)}' gives no ranges.",
            found=found,
            expected="206 Partial Content to a request with Range",
            hint="download the file first and give its path",
            target=redact_location(self._url),
        )

    def _too_slow(self, found: str, kind: type[StoreUnreachable] = StoreUnreachable) -> StoreUnreachable:
        return kind(
            f"'{redact_location(self._url)}' is too slow.",
            found=found,
            expected=f"an answer's head within {self._deadlines.head_seconds:g} seconds, a byte every "
            f"{self._deadlines.idle_seconds:g}, and {self._deadlines.bytes_per_second_min} bytes a second",
            hint="give a faster server; who runs imgstore may change source_head_seconds_max, source_idle_seconds_max and "
            "source_bytes_per_second_min under [limits] in settings.toml",
            target=redact_location(self._url),
        )

    def _unreachable(self, found: str, kind: type[StoreUnreachable] = StoreUnreachable) -> StoreUnreachable:
        return kind(
            f"'{redact_location(self._url)}' does not answer as it should.",
            found=found,
            expected="206 Partial Content",
            hint="look whether the server runs, then run the same command again",
            target=redact_location(self._url),
        )


def _passes(status: int) -> bool:
    """Whether the same request may be answered better a little later."""
    return status >= 500 or status in {408, 425, 429}
