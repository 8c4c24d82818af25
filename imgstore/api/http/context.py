"""What every handler works with: the server, who asks, and how an answer is made.

A handler is async and makes one call into a thread: of the pool for requests, or of the one for what takes long.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Query, Request, Response

from imgstore.api.auth.rights import check_route, is_open
from imgstore.api.auth.secret_checks import FAILURES_PER_ADDRESS_MAX, SecretChecker
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.api.http.client_addresses import Network
from imgstore.api.http.connection_limits import ConnectionLimits
from imgstore.api.http.fair_pool import FairPool
from imgstore.api.http.long_running import AcceptedOperation, OperationRunner, Session
from imgstore.api.http.paths import resource_of, type_of
from imgstore.api.http.rate_limits import RateLimiter
from imgstore.domain.errors import ImgstoreError, InvalidInput, NotFound, ScopeNotFound
from imgstore.domain.identity.access import has_related_role
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.strict_json import finite_json, read_json
from imgstore.operations.gallery.subscriptions import check_subscription_known
from imgstore.operations.installation import Installation
from imgstore.templates.jsonc import read_jsonc
from imgstore.transfer.ranges import CACHE_BYTES
from imgstore.wire.api_versions import Kind, check_api_version, remove_newer_fields
from imgstore.wire.json_text import Json

_T = TypeVar("_T")

_WRITER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SORTER: Final = json.JSONEncoder(sort_keys=True)

_WITH_BODY: Final = ("PUT", "PATCH", "POST")

BODY_BYTES_MAX: Final = 1 << 20
"""A resource here is some kilobytes."""
TEMPLATE_BYTES_MAX: Final = 4 << 20
"""As ARM takes."""


RESOURCE_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}
"""What /docs says of a body that is a resource: its fields are Azure's, by the api-version."""


class BodyTooLarge(ImgstoreError):
    """The request's body is longer than any resource."""

    code = "RequestEntityTooLarge"
    status = 413


class PreconditionFailed(ImgstoreError):
    """If-Match names another state of the resource than it has, or If-None-Match one that it has."""

    code = "PreconditionFailed"
    status = 412


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The threads that serve requests. Each pool is shared fairly by its callers (`fair_pool`)."""

    requests: FairPool
    """Requests of known principals. The caller is the principal's object id."""
    logins: FairPool
    """Checks of tokens that this process has not seen yet. The caller is the issuer that a token names."""
    blobs: FairPool
    """Requests by signed URL. The caller is the disk."""
    server: FairPool
    """What serves nobody in particular: health, keys."""

    def close(self, wait_seconds: float) -> None:
        """Cancel what waits; give what runs so many seconds to end, in each pool."""
        for pool in (self.requests, self.logins, self.blobs, self.server):
            pool.close(wait_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the handlers share."""

    installation: Installation
    authority: TokenAuthority
    pools: "Pools"
    """Threads for what is done before the answer."""
    runner: OperationRunner
    """For what goes on after it."""
    rates: RateLimiter
    retry_after_seconds: int
    page_items: int
    trusted_proxies: tuple[Network, ...]
    secret_checks: SecretChecker


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """One request."""

    server: Server
    request: Request
    api_version: str | None

    def session(self) -> Session:
        """Authenticate the caller and check the right that the route takes (`ROUTE_RIGHTS`).

        The first call decides for the whole request. It reads the catalog: call it in a thread.

        Raises:
            Unauthenticated: the caller is not known.
            AccessDenied: the caller has no right to the route.
            ScopeNotFound: the subscription does not exist, or the caller has no role in it.
            InvalidInput: no api-version, or one that is not served.
            TooManyRequests: the subscription has made too many.
        """
        known: Session | None = getattr(self.request.state, "session", None)
        if known is None:
            known = self.request.state.session = self._admit()
        return known

    def _admit(self) -> Session:
        principal = self.server.authority.authenticate(self.request.headers.get("authorization"))
        installation = self.server.installation
        named = self.request.path_params.get("subscription")
        is_other = named is not None and named.casefold() != installation.subscription.casefold()
        if named is not None and is_other:
            installation = replace(installation, subscription=named.lower())
        method, route = self.request.method, self.request.scope["route"].path
        check_route(installation, principal, method, route, self.request.path_params)
        if named is not None and is_other:
            check_subscription_known(self.server.installation, named)
        version = check_api_version(self.api_version, type_of(self.request.scope["path"]))
        # Requests of callers without a role don't use the subscription's budget up, and don't learn what is left of it.
        if has_related_role(principal, f"/subscriptions/{installation.subscription}"):
            self.request.state.remaining = self.server.rates.take(installation.subscription, method, route)
        return Session(installation=installation, principal=principal, api_version=version)

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run `work` in a thread of the server's own, whoever asks."""
        return await asyncio.wrap_future(self.server.pools.server.submit("server", work))

    async def find_caller(self) -> str:
        """Return the object id of the principal that asks: whose share of a pool the request takes.

        The roles, and whether the token was taken back, are read later, in the pool (`session`).

        Raises:
            Unauthenticated: no token, or one that is not believed.
            CallerQueueFull, PoolQueueFull: too many new tokens wait to be checked.
        """
        authority, header = self.server.authority, self.request.headers.get("authorization")
        known = authority.find_cached_caller(header)
        if known is not None:
            return known
        logins = self.server.pools.logins
        return await asyncio.wrap_future(
            logins.submit(authority.read_issuer(header), lambda: str(authority.authenticate(header).uid))
        )

    async def run(self, work: Callable[[Session], _T]) -> _T:
        """Authenticate and run `work`, in a thread when it is the caller's turn.

        Raises:
            CallerQueueFull, PoolQueueFull: too many requests wait.
        """
        requests = self.server.pools.requests
        return await asyncio.wrap_future(requests.submit(await self.find_caller(), lambda: work(self.session())))

    async def begin(self, kind: str, /, **request: Any) -> AcceptedOperation:
        """Begin a command that may take long; wait until it is accepted or refused."""
        conditions = {
            name: value for name in ("if-match", "if-none-match") if (value := self.request.headers.get(name))
        }
        whole = {**request, "subscription": self.request.path_params.get("subscription"), "conditions": conditions}
        caller = await self.find_caller()
        begun = self.server.runner.begin(caller, self.session, kind, whole, resource_of(self.request.scope["path"]))
        return await asyncio.wrap_future(begun)

    async def read_body(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """The request's body.

        Raises:
            BodyTooLarge: longer than `bytes_max`.
        """
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise BodyTooLarge(
                    "The request's body is too large.",
                    found=f"more than {bytes_max} bytes",
                    expected=f"at most {bytes_max}",
                    hint="send the resource alone",
                )
        return bytes(body)

    async def read_json(self) -> Json:
        """Authenticate, then read the request's body as JSON.

        Raises:
            Unauthenticated: nobody that we know. Nothing of the body was read.
            InvalidInput: it is none.
            BodyTooLarge: as `body`.
        """
        return await self._read_document(json.loads, BODY_BYTES_MAX)

    async def read_template(self) -> Json:
        """The request's body, read as a template may be written. Raises as `json`, for more than `TEMPLATE_BYTES_MAX`."""
        return await self._read_document(read_jsonc, TEMPLATE_BYTES_MAX)

    async def _read_document(self, loads: Callable[..., Json], bytes_max: int) -> Json:
        """Strangers cost neither memory nor parsing; parsing, which may take a second, stops nobody else's requests."""
        caller = await self.find_caller()
        body = await self.read_body(bytes_max)
        return await asyncio.wrap_future(self.server.pools.requests.submit(caller, lambda: _read(body, loads)))

    @property
    def base_url(self) -> str:
        """How the client reached us: scheme, host and port."""
        return f"{self.request.url.scheme}://{self.request.url.netloc}"

    def page_request(self) -> PageRequest:
        """Which page of a list is asked for."""
        return PageRequest(items_max=self.server.page_items, token=self.request.query_params.get("$skiptoken"))

    def next_link(self, token: str) -> str:
        """The URL of the page behind `token`."""
        return str(self.request.url.include_query_params(**{"$skiptoken": token}))

    def resource_response(self, body: Json, kind: Kind, etag: str | None = None) -> Response:
        """A resource as the answer to a GET."""
        tag = etag or etag_of(body)
        if tag in _tags(self.request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"ETag": tag})
        return json_response(200, remove_newer_fields(body, kind, self._version()), {"ETag": tag})

    async def list_response(
        self, kind: Kind, work: Callable[[Session, PageRequest], Page[_T]], tell: Callable[[_T], Json]
    ) -> Response:
        """A page of a list."""

        def read(session: Session) -> Page[Json]:
            page = work(session, self.page_request())
            return Page(items=tuple(tell(each) for each in page.items), next_token=page.next_token)

        page = await self.run(read)
        items = [remove_newer_fields(each, kind, self._version()) for each in page.items]
        more = {} if page.next_token is None else {"nextLink": self.next_link(page.next_token)}
        return json_response(200, {"value": items, **more})

    def accepted_response(
        self, accepted: AcceptedOperation, kind: Kind, status: int, *, location: bool = False
    ) -> Response:
        """The answer to what goes on: where to ask how far it is.

        Args:
            accepted: what was begun.
            kind: of the resource.
            status: of the answer.
            location: whether it has a Location too, as Azure's 202 has.
        """
        subscription = self.request.path_params["subscription"]
        region = (accepted.body or {}).get("location") or next(iter(self.server.installation.regions.regions))
        provider = "Microsoft.Resources" if kind in (Kind.GROUP, Kind.DEPLOYMENT) else "Microsoft.Compute"
        url = (
            f"{self.base_url}/subscriptions/{subscription}/providers/{provider}/locations/{region}/capsOperations/"
            f"{accepted.operation_uid}?api-version={self.api_version}"
        )
        headers = {"Azure-AsyncOperation": url, **self.retry_headers}
        if location:
            headers["Location"] = f"{url}&monitor=true"
        if accepted.body is None:
            return Response(status_code=status, headers=headers)
        tag = {"ETag": etag_of(accepted.body)}
        return json_response(status, remove_newer_fields(accepted.body, kind, self._version()), headers | tag)

    async def delete_response(self, kind: str, of: Kind, /, *, absent: int = 204, **request: Any) -> Response:
        """The answer to a DELETE; `absent` is that to one of what is not there."""
        try:
            accepted = await self.begin(kind, **request)
        except ScopeNotFound:
            raise
        except NotFound:
            if absent != 204:
                raise
            return Response(status_code=absent)
        return self.accepted_response(accepted, of, 202, location=True)

    @property
    def retry_headers(self) -> dict[str, str]:
        """When to ask again."""
        return {"Retry-After": str(self.server.retry_after_seconds)}

    def _version(self) -> str:
        return (self.api_version or "")[:10]


def _read(body: bytes, loads: Callable[..., Json]) -> Json:
    try:
        return read_json(body.decode("utf-8-sig"), loads)
    except ValueError as error:
        raise InvalidInput(
            "The request content was invalid and could not be deserialized.",
            found=str(error),
            expected="a JSON document in UTF-8 (RFC 8259), with numbers of 64 bits and every name once in its object",
            hint="mend the request's body",
            code="InvalidRequestContent",
        ) from error


async def make_context(
    request: Request,
    api_version: Annotated[str | None, Query(alias="api-version", examples=["2023-07-03"])] = None,
) -> RequestContext:
    """The request, as FastAPI hands it to a handler; the right to a write is checked before its body is read."""
    asked = RequestContext(server=request.app.state.server, request=request, api_version=api_version)
    if request.method in _WITH_BODY and not is_open(request.method, request.scope["route"].path):
        await asked.run(lambda _session: None)
    return asked


Context = Annotated[RequestContext, Depends(make_context)]


def json_response(status: int, body: Json, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    try:
        text = _WRITER.encode(body)
    except ValueError:  # a number that an older version took
        text = _WRITER.encode(finite_json(body))
    return Response(
        content=text.encode(), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def etag_of(body: Json) -> str:
    """A resource's ETag: of all that may be changed of it."""
    properties = {name: value for name, value in body["properties"].items() if name != "replicationStatus"}
    text = _SORTER.encode({**body, "properties": properties})
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def check_conditions(conditions: Mapping[str, str], standing: Json | None) -> None:
    """If-Match and If-None-Match against the resource as it stands.

    Args:
        conditions: the two headers, as far as there are any.
        standing: the resource; None where there is none.

    Raises:
        PreconditionFailed: one does not hold.
    """
    now = None if standing is None else etag_of(standing)
    wanted, unwanted = _tags(conditions.get("if-match", "")), _tags(conditions.get("if-none-match", ""))
    met = not wanted or (now is not None and ("*" in wanted or now in wanted))
    if met and not (now is not None and ("*" in unwanted or now in unwanted)):
        return
    raise PreconditionFailed(
        "The condition '{}' evaluated to false.".format("If-Match" if not met else "If-None-Match"),
        found=f"ETag {now}" if now else "no such resource",
        expected=", ".join(f"{name}: {value}" for name, value in conditions.items()),
        hint="read the resource again, and repeat the change on what it is now",
    )


def _tags(header: str) -> list[str]:
    return [each.strip().removeprefix("W/") for each in header.split(",") if each.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a person may set of the server."""

    leaves_replicas: bool = False
    """Whether replicas are left to `imgstore worker`; only the source region is made by requests."""
    retry_after_seconds: int = 2
    """How long clients are asked to wait before they look again."""
    page_items: int = 100
    """In one answer of a list."""
    request_threads: int = 32
    """Requests of known principals at once; a quarter of them for one principal."""
    login_threads: int = 8
    """New tokens that are checked at once; a quarter of them for one issuer."""
    blob_threads: int = 32
    """Requests by signed URL at once; a quarter of them for one disk."""
    cache_bytes: int = CACHE_BYTES
    """Of decoded segments, for those who read disks by URL."""
    rate_limit_factor: int = 100
    """How many times Azure's budgets a subscription has; 0 counts nothing."""
    running_threads: int = 16
    """Long-running operations at once, a quarter of them for one principal; others wait."""
    queued_requests_max: int = 256
    """Requests of one caller that may wait for a thread."""
    queued_operations_max: int = 64
    """Long-running operations of one principal that may wait for a thread before they are accepted."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    trusted_proxies: tuple[Network, ...] = ()
    """Whose headers say who the client is."""
    secret_failures_max: int = FAILURES_PER_ADDRESS_MAX
    """Attempts with a wrong secret that an address has in a minute."""
