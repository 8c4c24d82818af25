"""Requests for ranges to servers that may be strangers: each address is checked, and each step has a deadline.

This module resolves the name, checks each address, and then connects to a checked address. A later change of the name
has no effect. Proxies of the environment are not used, because a proxy resolves names itself.
"""

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import SSLError as TlsError
from urllib3.exceptions import TimeoutError as TimeoutOfUrllib3

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.disks.source_urls import SourceUrl, parse_source_url
from imgstore.domain.host.stop_signal import StopSignal
from imgstore.stores.http.file_ranges import Answer
from imgstore.stores.http.public_addresses import Resolve, is_public
from imgstore.stores.http.source_errors import NoAnswer, SourceErrors
from imgstore.stores.http.timed_connection import RequestTimer, SourceConnections
from imgstore.stores.tls_errors import TlsServer, connect_to, find_plain_http_failure, find_tls_failure

_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_CONNECTIONS_MAX: Final = 16
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A pool of connections to one checked address, for one URL."""

    url: SourceUrl
    address: str
    pool: urllib3.HTTPConnectionPool
    headers: dict[str, str]


class RangeRequests:
    """Sends requests for ranges, within the deadlines of one source. Safe for use from several threads."""

    def __init__(
        self,
        *,
        allow_private: bool,
        authorities: Path | None,
        resolver: Resolve,
        deadlines: SourceDeadlines,
        stop: StopSignal,
        monotonic: Callable[[], float],
        errors: SourceErrors,
    ) -> None:
        self._private = allow_private
        self._authorities = authorities
        self._resolve = resolver
        self._deadlines = deadlines
        self._stop = stop
        self._errors = errors
        self._timer = RequestTimer(deadlines.idle_seconds, monotonic)
        self._line = SourceConnections(self._timer)
        self._left_seconds = deadlines.total_seconds
        self._lock = threading.Lock()

    def disconnect(self) -> None:
        """End all requests. A later request fails."""
        self._line.disconnect()

    # -- deadlines ----------------------------------------------------------------------------------------------------

    def begin_head(self) -> None:
        """Begin the deadline of the thread's next request, up to the body of the answer.

        Raises:
            StoreUnreachable: all requests together took too long.
        """
        self._begin(
            self._deadlines.head_seconds, f"no whole head of an answer within {self._deadlines.head_seconds:g} seconds"
        )

    def spend(self, seconds: float) -> None:
        """Take seconds from the time that remains for all requests together, or give negative seconds back."""
        with self._lock:
            self._left_seconds = min(self._left_seconds - seconds, self._deadlines.total_seconds)

    def add_time_for(self, body_bytes: int) -> None:
        """Extend the total limit after an answer with a body."""
        self.spend(-self._deadlines.added_seconds(body_bytes))

    def _begin(self, seconds: float, late: str) -> None:
        """Set the deadline of the thread's next step: `seconds`, or the remaining time of all requests if shorter."""
        late_total = f"all requests together took {self._deadlines.total_seconds:g} seconds too long"
        with self._lock:
            left = self._left_seconds
        if left <= 0:
            raise self._errors.too_slow(late_total)
        self._timer.begin(min(seconds, left), late if seconds <= left else late_total)

    # -- requests -----------------------------------------------------------------------------------------------------

    def send(self, route: Route, offset: int, length: int) -> Answer:
        """Request a range and return the response, whatever the status.

        Raises:
            NoAnswer: the server does not answer in time, or sends an invalid response.
            StoreError: the TLS handshake fails.
            InvalidInput: urllib3 refuses the URL.
            KeyboardInterrupt: the stop signal is set.
        """
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
            return Answer(status=answer.status, headers=answer.headers, body=body)
        except TlsError as error:
            self._stop.check()
            failure = find_tls_failure(error, self._tls_server(route))
            if failure is None:
                raise self._errors.unreachable(str(error)) from error
            raise failure.to_error(self._errors.location) from error
        except LocationParseError as error:
            raise self._errors.bad_url(str(error)) from error
        except TimeoutError as error:
            raise self._errors.too_slow(str(error), NoAnswer) from error
        except NewConnectionError as error:  # A subclass of ConnectTimeoutError, although nothing was late.
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
            found = f"no connection to port {route.url.port} of {route.address}: {reason or 'unknown reason'}"
            raise self._errors.unreachable(found, NoAnswer) from error
        except ConnectTimeoutError as error:
            raise self._errors.too_slow(
                f"no connection within {self._deadlines.connect_seconds:g} seconds", NoAnswer
            ) from error
        except TimeoutOfUrllib3 as error:
            raise self._errors.too_slow(self._timer.reason, NoAnswer) from error
        except (HTTPError, ValueError) as error:  # ValueError: invalid numbers for http.client
            self._stop.check()
            if not isinstance(route.pool, urllib3.HTTPSConnectionPool):
                failure = find_plain_http_failure(error, self._tls_server(route))
                if failure is not None:
                    raise failure.to_error(self._errors.location) from error
            raise self._errors.unreachable(str(error), NoAnswer) from error

    def _tls_server(self, route: Route) -> TlsServer:
        """Return the server of a route, at the checked address."""
        return TlsServer(
            place=f"the server of '{self._errors.location}'",
            host=route.url.host,
            connect=lambda: connect_to(route.address, route.url.port),
            authority_hint="set SSL_CERT_FILE to the file of the authority",
        )

    def _read_body(self, answer: urllib3.BaseHTTPResponse, length: int) -> bytes:
        """Read at most one byte more than requested, which reveals a server that sends more."""
        late = f"fewer than {self._deadlines.bytes_per_second_min} bytes a second of a body of {length} bytes"
        self._begin(self._deadlines.body_seconds(length), late)
        return answer.read(length + 1, decode_content=False)

    # -- addresses ----------------------------------------------------------------------------------------------------

    def open_route(self, url: str) -> Route:
        """Resolve the host of a URL, and check its addresses. The caller closes the pool.

        Raises:
            InvalidInput: the URL is invalid, or the host or the scheme is not allowed.
            NoAnswer: the resolver does not answer.
        """
        parts = parse_source_url(url)
        if parts.scheme != "https" and not self._private:
            raise self._errors.plain_http(url, parts.scheme)
        address = self.resolve_addresses(parts)[0]
        headers = {"Host": parts.host_header}
        if parts.authorization is not None:
            headers["Authorization"] = parts.authorization
        pool = self._pool(parts.scheme, address, parts.port, parts.host)
        return Route(url=parts, address=address, pool=pool, headers=headers)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The context of connections with TLS. The authorities of the system take 20 ms to load."""
        context = ssl.create_default_context()
        if self._authorities is not None:
            context.load_verify_locations(self._authorities)
        return context

    def _pool(self, scheme: str, address: str, port: int, host: str) -> urllib3.HTTPConnectionPool:
        """Create a pool of connections to the checked address, under the requested host name."""
        try:
            seconds = min(self._deadlines.connect_seconds, self._timer.seconds_left())
        except TimeoutError as error:
            raise self._errors.too_slow(str(error)) from error
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

    def resolve_addresses(self, url: SourceUrl) -> list[str]:
        """Return the addresses of a host, which are public unless private servers are allowed. Errors as in `open_route`."""
        host = url.host
        try:
            addresses = self._resolve(host, url.port)
        except OSError as error:
            # Refused at once like a private address: the time must not reveal the names of the server's network.
            if not isinstance(error, socket.gaierror) or error.errno not in _NO_SUCH_NAME:
                raise self._errors.unreachable(f"the name '{host}' does not resolve: {error}", NoAnswer) from error
            addresses = []
        closed = [] if self._private else [address for address in addresses if not is_public(address)]
        if closed or not addresses:
            raise self._errors.not_public(host, addresses)
        return addresses
