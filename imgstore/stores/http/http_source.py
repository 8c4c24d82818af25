"""A disk image behind an https URL, read by ranges. A URL may come from a stranger, so every address is checked.

This module resolves the name, checks each address, and then connects to a checked address. A later change of the name
has no effect. Each redirect is checked in the same way. Proxies of the environment are not used, because a proxy
resolves names itself.

A redirector may lead each request to another mirror, and mirrors of equal files differ in ETag and Last-Modified. All
reads therefore stay with the first mirror (invariant U8). If the mirror refuses or does not answer, the redirector is
asked again. Another mirror must deliver the same length, and the bytes that were read before.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import SSLError as TlsError
from urllib3.exceptions import TimeoutError as TimeoutOfUrllib3

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.disks.source_urls import SourceUrl, parse_source_url, redact_location
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
from imgstore.domain.storage.digests import digest_of
from imgstore.stores.http.read_samples import ReadSamples
from imgstore.stores.http.timed_connection import RequestTimer, SourceConnections
from imgstore.stores.tls_errors import (
    TlsServer,
    connect_to,
    find_plain_http_failure,
    find_tls_failure,
)
from imgstore.stores.wrappers.retry import Retrier

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_T = TypeVar("_T")
Resolve: TypeAlias = Callable[[str, int], list[str]]
"""Returns the addresses of a name."""

REDIRECTS_MAX: Final = 5
MIRRORS_MAX: Final = 4
"""The mirrors that are compared with the first mirror, before the read fails."""
FAILURES_MAX: Final = 2
"""The failed requests in a row to a mirror, before the redirector is asked for another mirror."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All global unicast addresses of IANA: https://www.iana.org/assignments/ipv6-address-space."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_CONNECTIONS_MAX: Final = 16
_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})", re.IGNORECASE)
_DIGEST: Final = re.compile(r"(sha-(?:256|512))=:?([A-Za-z0-9+/]{43,88}={0,2}):?", re.IGNORECASE)
"""A digest of the whole file, in Repr-Digest (RFC 9530) or Digest (RFC 3230)."""
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_STAMP: Final = re.compile(r"[\x21-\x7e\xa1-\xff][\x20-\x7e\xa1-\xff]{0,1023}")
"""An ETag or a date that the catalog can store."""


def resolve(host: str, port: int) -> list[str]:
    """Resolve a name with the system's resolver, in its order of preference."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(text: str) -> bool:
    """Return whether an address belongs to the public internet.

    Loopback, private, link-local, reserved and multicast addresses do not, and neither do IPv6 addresses that contain
    such an IPv4 address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _embedded_ipv4(address)
    if inner is not None:
        return is_public(str(inner))
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _embedded_ipv4(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """A pool of connections to one checked address, for one URL."""

    url: SourceUrl
    address: str
    pool: urllib3.HTTPConnectionPool
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mirror:
    """The server of the bytes, after all redirects."""

    route: _Route
    file_bytes: int
    stamp: str
    digests: Mapping[str, str]
    """The digests of the file from the headers, by algorithm."""

    def is_same_file(self, other: "_Mirror") -> bool | None:
        """Compare the headers of two mirrors. Return None if the headers prove nothing."""
        if self.file_bytes != other.file_bytes:
            return False
        if self.route.url.place == other.route.url.place:
            return self.stamp == other.stamp
        known = self.digests.keys() & other.digests.keys()
        return all(self.digests[name] == other.digests[name] for name in known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """The body of a 206, with at most one byte more than requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileRange:
    """A range of the file, with the file's length and stamp."""

    body: bytes
    file_bytes: int
    stamp: str
    digests: Mapping[str, str]


class _Response(http.client.HTTPResponse):
    """A response with checks of the lengths of body and chunks.

    The standard library reads until the end after a negative chunk length. urllib3 loses the connection after an
    invalid Content-Length.
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
    """The error of a request without a whole response."""


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
        self._url = url
        self._private = allow_private
        self._stop = stop or StopSignal()
        self._retry = retrier or Retrier(wait=self._stop.wait)
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
        self._mirror: _Mirror | None = None
        self._failures = 0
        """The failed requests in a row to the mirror."""
        self._hops = 0
        """The number of redirects when the redirects were followed last."""
        self._switching = threading.Lock()
        self._switch_tries = 0
        self._switch_error: ImgstoreError | None = None
        self._samples = ReadSamples()
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
        """See `ByteSource.identity`. The location is the URL without the query, which may contain a signature.

        The stamp is the stamp of the first mirror, as long as the present mirror has the same file.
        """
        part = self._retry(lambda: self._ask(self._check_mirror))
        return SourceIdentity(location=redact_location(self._url), file_bytes=part.file_bytes, stamp=part.stamp)

    def _first_identity(self) -> SourceIdentity:
        """Fetch the identity, without a second attempt at a server that never answered.

        Otherwise a closed port would be refused later than an open port, and callers could scan the server's network.
        """

        def ask() -> _Mirror:
            return self._ask(lambda: self._switch(None))

        try:
            first = ask()
        except _NoAnswer:
            raise
        except StoreUnreachable:
            first = self._retry(ask)
        return SourceIdentity(location=redact_location(self._url), file_bytes=first.file_bytes, stamp=first.stamp)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.file_bytes:
            raise ImageTruncated(
                f"'{redact_location(self._url)}' ends too early.",
                found=f"{self.file_bytes} bytes",
                expected=f"at least {offset + length}",
                hint="check that the file behind the URL is complete",
                target=redact_location(self._url),
            )
        if length == 0:
            return b""
        part = self._retry(lambda: self._ask(lambda: self._fetch(offset, length)))
        if (part.file_bytes, part.stamp) != (self._opened.file_bytes, self._opened.stamp):
            raise SourceChanged(
                f"'{redact_location(self._url)}' was replaced during the read.",
                found=f"{part.file_bytes} bytes, {part.stamp}",
                expected=f"{self._opened.file_bytes} bytes, {self._opened.stamp}",
                hint="do not change the file during the read, then run the same command again",
                target=redact_location(self._url),
            )
        self._samples.add(offset, part.body)
        return part.body

    def extents(self) -> Iterator[Extent]:
        """See `ByteSource.extents`. HTTP reports no holes."""
        if self.file_bytes:
            yield Extent(offset=0, length=self.file_bytes)

    def close(self) -> None:
        """See `ByteSource.close`."""
        self._closing.close()
        with self._lock:
            if self._mirror is not None:
                self._mirror.route.pool.close()
                self._mirror = None

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Return the result of `call`, whose requests have the deadlines of one request."""
        self._stop.check()
        began = self._monotonic()
        self._begin_head()
        try:
            result = call()
        finally:
            self._spend(self._monotonic() - began)
        self._spend(-self._deadlines.added_seconds(len(result.body) if isinstance(result, _FileRange) else 0))
        return result

    def _total_seconds_left(self) -> float:
        """Return the time that remains for all requests together."""
        with self._lock:
            left = self._left_seconds
        if left <= 0:
            raise self._too_slow(self._describe_late_total())
        return left

    def _spend(self, seconds: float) -> None:
        with self._lock:
            self._left_seconds = min(self._left_seconds - seconds, self._deadlines.total_seconds)

    def _begin(self, seconds: float, late: str) -> None:
        """Set the deadline of the thread's next step: `seconds`, or the remaining time of all requests if shorter."""
        left = self._total_seconds_left()
        self._timer.begin(min(seconds, left), late if seconds <= left else self._describe_late_total())

    def _begin_head(self) -> None:
        self._begin(self._deadlines.head_seconds, self._describe_late_head())

    def _describe_late_total(self) -> str:
        return f"all requests together took {self._deadlines.total_seconds:g} seconds too long"

    def _describe_late_head(self) -> str:
        return f"no whole head of an answer within {self._deadlines.head_seconds:g} seconds"

    def _fetch(self, offset: int, length: int) -> _FileRange:
        """Fetch a range from the mirror. If the mirror fails, the redirects are followed again.

        A refusal may mean that the signature of the mirror's URL has expired.
        """
        mirror = self._mirror
        if mirror is not None and self._failures < FAILURES_MAX:
            try:
                return self._read(mirror, offset, length)
            except StoreUnreachable:
                raise
            except (StoreError, ImageRefused):
                pass
        return self._read(self._switch(mirror), offset, length)

    def _check_mirror(self) -> _FileRange:
        """Fetch the first byte, for the present length and stamp.

        Without redirects, the name of the source is resolved and checked again.
        """
        mirror = self._mirror
        if (
            mirror is not None
            and mirror.route.url == parse_source_url(self._url)
            and mirror.route.address not in self._resolve_public_addresses(mirror.route.url)
        ):
            self._switch(mirror)
        return self._fetch(0, 1)

    def _read(self, mirror: _Mirror, offset: int, length: int) -> _FileRange:
        """Fetch a range from a mirror. If the file is still the same, the range has the stamp of the first mirror."""
        self._begin_head()
        try:
            part = self._parse_range(self._send(mirror.route, offset, length), offset, length)
        except StoreUnreachable:
            with self._lock:
                self._failures += mirror is self._mirror
            raise
        with self._lock:
            self._failures = 0
        is_same = (part.file_bytes, part.stamp) == (mirror.file_bytes, mirror.stamp)
        return replace(part, stamp=self._opened.stamp) if is_same else part

    def _switch(self, old: _Mirror | None) -> _Mirror:
        """Follow the redirects to a mirror in place of `old`, unless another thread has done so.

        Raises:
            SourceChanged: the mirrors have another file.
            ImgstoreError: the redirector or the mirrors refuse or do not answer.
        """
        tries, began = self._switch_tries, self._monotonic()
        with self._switching:
            self._spend(began - self._monotonic())  # Only the other thread sent requests in this time.
            if self._mirror is not None and self._mirror is not old:
                return self._mirror
            if tries != self._switch_tries and self._switch_error is not None:
                raise self._switch_error  # Otherwise many threads would wait for a dead server one after another.
            self._switch_tries += 1
            try:
                mirror = self._follow() if old is None else self._find_same_file(old)
            except ImgstoreError as error:
                self._switch_error = error
                raise
            self._switch_error = None
            self._keep(mirror)
            return mirror

    def _find_same_file(self, old: _Mirror) -> _Mirror:
        """Follow the redirects until a mirror has the file that was read from `old`. Errors are as in `_switch`."""
        for attempt in range(1, MIRRORS_MAX + 1):
            self._begin_head()
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

    def _check_same_file(self, old: _Mirror, new: _Mirror) -> None:
        """Check that another mirror has the file that was read from `old` (invariant U8).

        Raises:
            SourceChanged: the mirror has another file.
        """
        is_same = old.is_same_file(new)
        difference = f"{new.file_bytes} bytes, {new.stamp}"
        for sample in self._samples.choose() if is_same is None else ():
            part = self._read(new, sample.offset, sample.length)
            self._spend(-self._deadlines.added_seconds(len(part.body)))
            if digest_of(part.body) != sample.digest:
                is_same, difference = False, f"other bytes at offset {sample.offset}"
                break
        if is_same is False:
            raise SourceChanged(
                f"'{redact_location(self._url)}' was replaced during the read, or redirects to servers with another file.",
                found=difference,
                expected=f"{old.file_bytes} bytes, {old.stamp}, or a mirror with equal bytes",
                hint="run the same command again. If the error repeats, give the URL of one mirror",
                target=redact_location(self._url),
            )

    def _follow(self) -> _Mirror:
        """Follow the redirects from the URL of the source, and fetch the first byte."""
        url = self._url
        for hop in range(REDIRECTS_MAX + 1):
            self._hops = hop
            route = self._open_route(url)
            try:
                answer = self._send(route, 0, 1)
                if answer.status not in _REDIRECTS:
                    part = self._parse_range(answer, 0, 1)
                    return _Mirror(route=route, file_bytes=part.file_bytes, stamp=part.stamp, digests=part.digests)
            except ImgstoreError:
                route.pool.close()
                if hop == 0:  # Without the redirector, the kept mirror is next.
                    with self._lock:
                        self._failures = 0
                raise
            route.pool.close()
            url = self._resolve_redirect(url, answer.headers.get("Location", ""))
        raise ImageRefused(
            f"'{redact_location(self._url)}' redirects without end.",
            found=f"more than {REDIRECTS_MAX} redirects, the last to '{redact_location(url)}'",
            expected=f"at most {REDIRECTS_MAX}",
            hint="give the URL that the file really has",
            target=redact_location(self._url),
        )

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
        raise ImageRefused(
            f"'{redact_location(self._url)}' redirects to an invalid URL.",
            found=repr(redact_location(location)[:200]),
            expected="a Location with an https URL",
            hint="give the URL that the file really has",
            target=redact_location(self._url),
        )

    def _keep(self, mirror: _Mirror) -> None:
        with self._lock:
            # If another thread still reads from a mirror, its connections are closed when they return to the pool.
            if self._mirror is not None:
                self._mirror.route.pool.close()
            self._mirror, self._failures = mirror, 0

    def _send(self, route: _Route, offset: int, length: int) -> _Answer:
        headers = route.headers | {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        try:
            answer = route.pool.request(
                "GET", route.url.target, headers=headers, redirect=False, retries=False, preload_content=False
            )
            try:
                body = self._read_body(answer, length) if answer.status == 206 else b""
            except BaseException:
                answer.close()
                raise
            if answer.status != 206 or len(body) > length:
                answer.close()
            answer.release_conn()
            self._stop.check()  # After `stop`, a truncated head looks like a head with fewer headers.
            return _Answer(status=answer.status, headers=answer.headers, body=body)
        except TlsError as error:
            self._stop.check()
            failure = find_tls_failure(error, self._tls_server(route))
            if failure is None:
                raise self._unreachable(str(error)) from error
            raise failure.to_error(redact_location(self._url)) from error
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
        except NewConnectionError as error:  # A subclass of ConnectTimeoutError, although nothing was late.
            raise self._unreachable(str(error), _NoAnswer) from error
        except ConnectTimeoutError as error:
            raise self._too_slow(
                f"no connection within {self._deadlines.connect_seconds:g} seconds", _NoAnswer
            ) from error
        except TimeoutOfUrllib3 as error:
            raise self._too_slow(self._timer.reason, _NoAnswer) from error
        except (HTTPError, ValueError) as error:  # ValueError: invalid numbers for http.client
            self._stop.check()
            if not isinstance(route.pool, urllib3.HTTPSConnectionPool):
                failure = find_plain_http_failure(error, self._tls_server(route))
                if failure is not None:
                    raise failure.to_error(redact_location(self._url)) from error
            raise self._unreachable(str(error), _NoAnswer) from error

    def _tls_server(self, route: _Route) -> TlsServer:
        """Return the server of a route, at the checked address."""
        return TlsServer(
            place=f"the server of '{redact_location(self._url)}'",
            host=route.url.host,
            connect=lambda: connect_to(route.address, route.url.port),
            authority_hint="set SSL_CERT_FILE to the file of the authority",
        )

    def _read_body(self, answer: urllib3.BaseHTTPResponse, length: int) -> bytes:
        """Read at most one byte more than requested, which reveals a server that sends more."""
        late = f"fewer than {self._deadlines.bytes_per_second_min} bytes a second of a body of {length} bytes"
        self._begin(self._deadlines.body_seconds(length), late)
        return answer.read(length + 1, decode_content=False)

    def _parse_range(self, answer: _Answer, offset: int, length: int) -> _FileRange:
        said = answer.headers.get("Content-Range", "")
        stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        match = _CONTENT_RANGE.fullmatch(said.strip())
        file_bytes = int(match[3]) if match is not None and _STAMP.fullmatch(stamp) else None
        if answer.status == 416 and file_bytes == 0:
            return _FileRange(body=b"", file_bytes=0, stamp=stamp, digests={})
        if answer.status != 206:
            raise self._create_status_error(answer.status)
        if match is None or file_bytes is None:
            raise ImageRefused(
                f"The server of '{redact_location(self._url)}' does not send the headers for a safe read.",
                found=f"Content-Range '{said[:80]}', ETag or Last-Modified '{stamp[:80]}'",
                expected="the file's length, and an ETag or a Last-Modified that reveals changes",
                hint="download the file first and give its path",
                target=redact_location(self._url),
            )
        if match[1] is None or int(match[1]) != offset:
            raise ImageRefused(
                f"The server of '{redact_location(self._url)}' sends another range than requested.",
                found=f"Content-Range '{said[:80]}'",
                expected=f"the bytes from {offset} on",
                hint="download the file first and give its path",
                target=redact_location(self._url),
            )
        expected = max(0, min(length, file_bytes - offset))
        if len(answer.body) != expected:
            raise self._unreachable(f"{len(answer.body)} bytes instead of the announced {expected}")
        said = f"{answer.headers.get('Repr-Digest', '')}, {answer.headers.get('Digest', '')}"
        digests = {name.lower(): value for name, value in _DIGEST.findall(said)}
        return _FileRange(body=answer.body, file_bytes=file_bytes, stamp=stamp, digests=digests)

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
        address = self._resolve_public_addresses(parts)[0]
        headers = {"Host": parts.host_header}
        if parts.authorization is not None:
            headers["Authorization"] = parts.authorization
        pool = self._pool(parts.scheme, address, parts.port, parts.host)
        return _Route(url=parts, address=address, pool=pool, headers=headers)

    def _pool(self, scheme: str, address: str, port: int, host: str) -> urllib3.HTTPConnectionPool:
        """Create a pool of connections to the checked address, under the requested host name."""
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

    def _resolve_public_addresses(self, url: SourceUrl) -> list[str]:
        host = url.host
        try:
            addresses = self._resolve(host, url.port)
        except OSError as error:
            # Refused at once like a private address: the time must not reveal the names of the server's network.
            if not isinstance(error, socket.gaierror) or error.errno not in _NO_SUCH_NAME:
                raise self._unreachable(f"the name '{host}' does not resolve: {error}", _NoAnswer) from error
            addresses = []
        closed = [] if self._private else [address for address in addresses if not is_public(address)]
        if closed or not addresses:
            raise InvalidInput(
                f"'{host}' is not allowed as the host of an image.",
                found=f"addresses {', '.join(addresses)}, not of the public internet"
                if closed
                else "a name that does not resolve",
                expected="public addresses only",
                hint="for a server of your own network set IMGSTORE_ALLOW_PRIVATE_SOURCES=1",
                target=redact_location(self._url),
            )
        return addresses

    # -- errors -------------------------------------------------------------------------------------------------------

    def _create_status_error(self, status: int) -> ImgstoreError:
        found = f"HTTP {status}"
        if _is_passing(status):
            return self._unreachable(found)
        if status in {401, 403, 407}:
            return StoreDenied(
                f"The server of '{redact_location(self._url)}' refuses access.",
                found=found,
                expected="206",
                hint="give a signed URL that has not expired",
                target=redact_location(self._url),
            )
        if status in {404, 410}:
            return ObjectNotFound(
                f"'{redact_location(self._url)}' does not exist.",
                found=found,
                expected="206",
                hint="check the URL",
                target=redact_location(self._url),
            )
        return ImageRefused(
            f"The server of '{redact_location(self._url)}' does not support ranges.",
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
            hint="use a faster server; the operator of imgstore may change source_head_seconds_max, "
            "source_idle_seconds_max and source_bytes_per_second_min under [limits] in settings.toml",
            target=redact_location(self._url),
        )

    def _unreachable(self, found: str, kind: type[StoreUnreachable] = StoreUnreachable) -> StoreUnreachable:
        return kind(
            f"'{redact_location(self._url)}' does not answer as expected.",
            found=found,
            expected="206 Partial Content",
            hint="check that the server runs, then run the same command again",
            target=redact_location(self._url),
        )


def _is_passing(status: int) -> bool:
    """Return whether a later repeat of the request may succeed."""
    return status >= 500 or status in {408, 425, 429}
