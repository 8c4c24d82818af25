"""Process each request: normalize the path, add request ids, count the request, and answer errors in ARM's format."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgstore.api.auth.issuers import IssuerBusy
from imgstore.api.http.client_addresses import Network, find_client
from imgstore.api.http.context import json_response
from imgstore.api.http.fair_pool import CallerQueueFull, PoolQueueFull
from imgstore.api.http.paths import normalize_path
from imgstore.api.http.rate_limits import HEADER, TooManyRequests
from imgstore.api.http.redaction import InternalError, error_body
from imgstore.domain.errors import ImgstoreError, InvalidInput, NotFound, Unauthenticated
from imgstore.domain.host.os_errors import find_os_error, host_fault
from imgstore.wire.errors import error_json

_log: Final = logging.getLogger("imgstore.api")
_ID_CHARACTERS_MAX: Final = 128
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEAD_BYTES_MAX: Final = 32 << 10
"""The maximum size of a request's target and headers together. A token has at most 16 KiB."""
_HEADERS_MAX: Final = 100


class HeadTooLarge(ImgstoreError):
    """The request has too many headers, or the headers are too long."""

    code = "RequestHeaderFieldsTooLarge"
    status = 431


class RequestMetrics:
    """The metrics of requests and connections that /metrics shows."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self._requests = Counter(
            "imgstore_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "imgstore_http_request_seconds",
            "Seconds from a request to the end of the answer.",
            ("method", "route"),
            registry=self.registry,
        )

        self._connections = Gauge("imgstore_http_connections", "Connections that are open.", registry=self.registry)
        self._closed = Counter(
            "imgstore_http_connections_closed",
            "Connections that the server closed.",
            ("reason",),
            registry=self.registry,
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request.

        The labels are the route and a known method, because the number of paths and of invented methods is unbounded.
        """
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Set the function that returns the number of open connections. Each read of the metrics calls `count`."""
        self._connections.set_function(count)

    def count_closed_connection(self, reason: str) -> None:
        """Count a connection that the server closed or refused. The number of different reasons must be small."""
        self._closed.labels(reason).inc()


class RequestMiddleware:
    """The outermost ASGI middleware. Requests pass through this class before routing."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, trusted: Sequence[Network]) -> None:
        self._app = app
        self._metrics = metrics
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. A request with an invalid head or target gets an answer without routing."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        peer, port = scope.get("client") or ("", 0)
        address, scheme = find_client(peer, scope["scheme"], scope["headers"], self._trusted)
        client = (address, port if address == peer else 0)
        scope = {**scope, "path": normalize_path(scope["path"]), "client": client, "scheme": scheme}
        ids = _request_ids(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = ids["x-ms-request-id"]
        status = 500

        async def send_answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(ids)
                headers.setdefault("Cache-Control", "no-cache")
                if remaining := scope["state"].get("remaining"):
                    headers.setdefault(HEADER, remaining)
            await send(message)

        try:
            refusal = _check_head(scope) or _check_target(scope)
            if refusal is None:
                await self._app(scope, receive, send_answer)
            else:
                await refusal(scope, receive, send_answer)
        finally:
            self._metrics.count(scope, status, time.perf_counter() - began)


def _check_head(scope: Scope) -> Response | None:
    """Return the error response if the head is too large, else None."""
    headers = scope["headers"]
    head_bytes = (
        len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    )
    if len(headers) <= _HEADERS_MAX and head_bytes <= HEAD_BYTES_MAX:
        return None
    refusal = HeadTooLarge(
        "The head of the request is too large.",
        found=f"{len(headers)} headers, {head_bytes} bytes",
        expected=f"at most {_HEADERS_MAX} headers and {HEAD_BYTES_MAX} bytes",
        hint="send fewer or shorter headers",
    )
    return json_response(refusal.status, error_json(refusal), {"Connection": "close"})


def _check_target(scope: Scope) -> Response | None:
    """Return the error response if path or query contain a control character, else None.

    No name of a resource contains control characters, and some databases reject them.
    """
    if not (_CONTROL.search(scope["path"]) or _CONTROL.search(unquote(scope["query_string"].decode("latin-1")))):
        return None
    refusal = InvalidInput(
        "The request's URL is invalid.",
        found="a control character",
        expected="a path and a query without control characters",
        hint="remove the characters that the client escapes as %00 to %1F or %7F",
        code="InvalidRequestUri",
    )
    return json_response(refusal.status, error_json(refusal))


def _request_ids(headers: Headers) -> dict[str, str]:
    """Return the ids of a request: a new id, and the ids of the client, without characters that a header forbids."""
    request_id = str(uuid.uuid4())
    ids = {
        "x-ms-request-id": request_id,
        "x-ms-correlation-request-id": _clean(headers.get("x-ms-correlation-request-id")) or request_id,
    }
    client = _clean(headers.get("x-ms-client-request-id"))
    return ids | ({"x-ms-client-request-id": client} if client else {})


def _clean(text: str | None) -> str:
    return "".join(each for each in (text or "")[:_ID_CHARACTERS_MAX] if each.isascii() and each.isprintable())


def add_error_handlers(app: FastAPI) -> None:
    """Add the handlers that answer each error in ARM's envelope."""
    app.add_exception_handler(ImgstoreError, _answer_error)
    app.add_exception_handler(OSError, _answer_os_error)
    app.add_exception_handler(HTTPException, _answer_unknown_route)
    app.add_exception_handler(RequestValidationError, _answer_invalid_parameter)
    app.add_exception_handler(ClientDisconnect, _answer_disconnect)
    app.add_exception_handler(Exception, _answer_internal_error)


async def _answer_error(request: Request, error: Any) -> Response:
    headers = {}
    if isinstance(error, (TooManyRequests, CallerQueueFull, PoolQueueFull, IssuerBusy)):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, TooManyRequests):
        headers[HEADER] = error.remaining
    if isinstance(error, Unauthenticated):
        shown = error if error.public is None else error.public
        why = _clean(shown.message.replace('"', "'").replace("\\", "/"))
        headers["WWW-Authenticate"] = f'Bearer error="invalid_token", error_description="{why}"'
    status = error.status if error.public is None else error.public.status
    return json_response(status, error_body(request.app.state.server.installation, error), headers)


async def _answer_os_error(request: Request, error: Any) -> Response:
    """Answer an error of the operating system, such as too many open files. The log contains the details."""
    return await _answer_error(request, host_fault(error))


async def _answer_unknown_route(request: Request, error: Any) -> Response:
    """Answer a request without a route. ARM reports an unknown resource type or an unsupported method."""
    if error.status_code == 405:
        refusal: ImgstoreError = InvalidInput(
            f"The requested resource does not support http method '{request.method}'.",
            expected=(error.headers or {}).get("Allow"),
            code="UnsupportedHttpMethod",
        )
        return json_response(405, error_json(refusal), error.headers)
    refusal = NotFound(
        f"The resource type of '{request.url.path[:500]}' could not be found.",
        expected="a path that /docs shows",
        hint="use a resource type that imgstore supports, such as galleries, images, versions, disks or resource groups",
        code="InvalidResourceType",
    )
    return json_response(error.status_code, error_json(refusal))


async def _answer_invalid_parameter(_request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(each) for each in first["loc"][1:])
    return json_response(
        400, error_json(InvalidInput(f"The value of '{where}' is invalid.", found=first["msg"], target=where))
    )


async def _answer_disconnect(_request: Request, _error: Any) -> Response:
    """Return a status for /metrics. The client disconnected within the request's body and reads no answer."""
    return Response(status_code=400)


async def _answer_internal_error(request: Request, error: Exception) -> Response:
    if (found := find_os_error(error)) is not None:
        return await _answer_os_error(request, found)
    _log.error("request %s failed with an unexpected error", request.state.request_id, exc_info=error)
    internal = InternalError(
        "The server failed with an unexpected error.",
        hint=f"search the server's log for the request {request.state.request_id}",
    )
    return json_response(500, error_json(internal))
