"""Send requests to a server, with retries and access tokens.

Errors of the server are raised as the same errors here.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as TlsError

import imgstore
from imgstore.domain.errors import ImgstoreError, InvalidInput, StoreUnreachable
from imgstore.remote.credentials import Address, Application, create_tls_context
from imgstore.stores.tls_errors import find_plain_http_failure, find_tls_failure, tls_server
from imgstore.stores.wrappers.retry import Retrier, RetryPolicy
from imgstore.wire.blob_protocol import read_error_xml
from imgstore.wire.errors import read_error
from imgstore.wire.json_text import Json

CONNECTIONS_MAX: Final = 8
_SKEW_SECONDS: Final = 60
"""A token is renewed this long before its end."""
_ARM_SECONDS_MAX: Final = 3600.0
"""The limit for an answer of the API. Some answers come only after the ingest of a disk."""
_BYTES_SECONDS_MAX: Final = 120.0
"""The limit for silence during the transfer of bytes."""
_FIRST: Final = RetryPolicy(attempts_max=3)
"""The retries before the first answer of the server, because the address may be wrong."""
_POLICY: Final = RetryPolicy(attempts_max=12, total_seconds_max=120.0)
"""The retries after the first answer, which cover a restart of the server."""
_AUDIENCE: Final = "https://management.azure.com"
"""The audience of tokens, whatever name a server has."""
_RETRY_DIGITS_MAX: Final = 6
"""The limit for the digits of a Retry-After header."""
_BROKEN: Final = "ConnectionBroken"
"""The code of a request without an answer that may have been executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    """Header names are case-insensitive."""
    body: bytes

    @property
    def json(self) -> Json:
        """The body as JSON, or None."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None

    def error(self) -> ImgstoreError:
        """Return the error in the body."""
        body = self.json
        return read_error(read_error_xml(self.body.decode(errors="replace")) if body is None else body, self.status)


class Connection:
    """Requests to one server. Threads may share a connection."""

    def __init__(
        self,
        address: Address,
        *,
        wait: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a connection. No request is sent.

        Raises:
            InvalidInput: The certificates cannot be read.
        """
        self.address: Final = address
        self._pool = urllib3.PoolManager(
            num_pools=4, maxsize=CONNECTIONS_MAX, block=True, ssl_context=create_tls_context(address.authorities)
        )
        self._server = tls_server(
            f"the server {address.url}",
            address.url,
            "name the file of the authority with --ca-file, or in REQUESTS_CA_BUNDLE",
        )
        self._retry = Retrier(_FIRST, wait=wait, monotonic=monotonic)
        self._patience = Retrier(_POLICY, wait=wait, monotonic=monotonic)
        self._wait, self._monotonic = wait, monotonic
        self._lock = threading.Lock()
        self._token = ""
        self._token_until = 0.0

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def request(self, method: str, target: str, body: Json = None) -> Response:
        """Send a request to the API with the caller's token.

        A GET is retried. Another request is sent again only if the server certainly did not receive the request. A
        rejected token is renewed once.

        Args:
            method: GET, PUT, PATCH, POST or DELETE.
            target: The path and the query.
            body: The JSON of the body, or None for no body.

        Raises:
            StoreUnreachable: The server does not answer.
            ImgstoreError: The error of the server, with code and message.
        """
        data = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            headers = {"Authorization": f"Bearer {self._bearer()}", "Accept": "application/json"}
            if data is not None:
                headers["Content-Type"] = "application/json"
            answer = self._send_with_retries(method, target, data, headers)
            if answer.status != 401 or attempt == 2 or not self._discard_token():
                break
        if answer.status >= 400:
            raise answer.error()
        return answer

    def transfer(self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None = None) -> Response:
        """Send a request to the blob endpoint. The signed URL grants access. The request is retried.

        Raises:
            StoreUnreachable: The server does not answer within the time limit of the retries.
            InvalidInput: The URL is not https, so the signature would not be encrypted.
            ImgstoreError: The error of the server.
        """
        mine, theirs = urlsplit(self.address.url), urlsplit(url)
        if mine.scheme == "https" and theirs.scheme != "https":
            raise InvalidInput(
                "The server gave a URL that is not https.",
                found=f"{theirs.scheme}://{theirs.netloc}",
                expected="https",
                hint="correct the scheme that the proxy in front of the server reports",
                target="accessSAS",
            )

        def call() -> Response:
            answer = self._send(method, url, data, headers, _BYTES_SECONDS_MAX)
            if answer.status >= 400:
                raise answer.error()
            return answer

        return self._retry(call)

    def pause(self, seconds: float) -> None:
        """Wait for some seconds."""
        self._wait(seconds)

    def monotonic(self) -> float:
        """Return the seconds of a clock that never steps back."""
        return self._monotonic()

    # -- the caller ---------------------------------------------------------------------------------------------------

    def _discard_token(self) -> bool:
        """Discard a rejected token, and return whether the client can request another."""
        with self._lock:
            self._token_until = 0.0
        return isinstance(self.address.credentials, Application)

    def _bearer(self) -> str:
        credentials = self.address.credentials
        if not isinstance(credentials, Application):
            return credentials.token
        with self._lock:
            if self._monotonic() >= self._token_until:
                answer = self._retry(lambda: self._request_token(credentials))
                self._token = str(answer["access_token"])
                self._token_until = self._monotonic() + max(1, int(answer["expires_in"]) - _SKEW_SECONDS)
            return self._token

    def _request_token(self, application: Application) -> Json:
        """Request a token with client credentials (RFC 6749, section 4.4)."""
        form = {
            "grant_type": "client_credentials",
            "client_id": application.client_id,
            "client_secret": application.client_secret,
            "scope": f"{_AUDIENCE}/.default",
        }
        url = f"{self.address.url}/{quote(application.tenant_id, safe='')}/oauth2/v2.0/token"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._send("POST", url, urlencode(form).encode(), headers, _BYTES_SECONDS_MAX)
        if answer.status >= 400 or not isinstance(answer.json, Mapping) or "access_token" not in answer.json:
            raise answer.error()
        return answer.json

    def _send_with_retries(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> Response:
        attempt, began = 1, self._monotonic()
        while True:
            try:
                return self._send(method, self.address.url + target, data, headers, _ARM_SECONDS_MAX)
            except StoreUnreachable as error:
                if method != "GET" and error.error_code == _BROKEN:
                    raise
                self._retry.pause(error, attempt, began)
                attempt += 1

    # -- one request --------------------------------------------------------------------------------------------------

    def _send(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], silence_seconds_max: float
    ) -> Response:
        sent = {"User-Agent": f"imgstore/{imgstore.__version__}", **headers}
        try:
            answer = self._pool.request(
                method,
                url,
                body=data,
                headers=sent,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=10.0, read=silence_seconds_max),
            )
        except TlsError as error:
            failure = find_tls_failure(error, self._server)
            if failure is None:
                raise self._unreachable(error, _BROKEN) from error
            raise failure.to_error(self.address.url, "ServerNotTrusted") from error
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise self._unreachable(error, "ServerUnreachable") from error
        except (HTTPError, ValueError) as error:  # http.client raises ValueError for malformed numbers.
            self._check_scheme(error)
            raise self._unreachable(error, _BROKEN) from error
        response = Response(status=answer.status, headers=answer.headers, body=answer.data)
        if response.status == 400 and response.json is None:
            self._check_scheme(None)
        if response.status == 429:
            self._wait(min(60.0, retry_after_seconds(answer.headers.get("Retry-After"))))
        refusal = response.error() if response.status >= 400 else None
        if isinstance(refusal, StoreUnreachable):
            raise refusal
        self._retry = self._patience
        return response

    def _check_scheme(self, error: Exception | None) -> None:
        """Raise a StoreError if an address with http:// belongs to a server of https."""
        if self.address.url.startswith("http:"):
            failure = find_plain_http_failure(error, self._server)
            if failure is not None:
                raise failure.to_error(self.address.url) from error

    def _unreachable(self, error: Exception, code: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"The server {self.address.url} does not answer.",
            found=_describe_error(error),
            expected="an answer of `imgstore serve`",
            hint="check that the server runs and is reachable, then run the same command again: the command resumes",
            target=self.address.url,
            code=code,
        )


def _describe_error(error: Exception) -> str:
    """Describe an error without the objects that urllib3 names, and therefore without a signed URL."""
    text = str(error).partition(": ")[2] or str(error)
    return text.partition("?")[0]


def retry_after_seconds(header: str | None) -> float:
    """Return the seconds in a Retry-After header, or 1 if the header is missing or invalid."""
    usable = header and header.isascii() and header.isdigit() and len(header) <= _RETRY_DIGITS_MAX
    return float(header) if header and usable else 1.0
