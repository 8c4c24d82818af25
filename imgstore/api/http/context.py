"""Define the request context of the handlers: the shared objects of the server, the caller, and the answers.

A handler is async and makes one call into a thread: a thread of the request pool, or a thread for long-running operations
(invariant A3).
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar

from fastapi import Depends, Query, Request, Response

from imgstore.api.auth.rights import check_route, is_open
from imgstore.api.auth.secret_checks import FAILURES_PER_ADDRESS_MAX, SecretChecker
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.api.http.client_addresses import Network
from imgstore.api.http.connection_limits import ConnectionLimits
from imgstore.api.http.fair_pool import FairPool
from imgstore.api.http.long_running import AcceptedOperation, OperationRunner, Session
from imgstore.api.http.paths import parse_resource_id, parse_resource_type
from imgstore.api.http.rate_limits import RateLimiter
from imgstore.domain.errors import ImgstoreError, InvalidInput, NotFound, ScopeNotFound
from imgstore.domain.identity.access import Principal, has_related_role
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.text.strict_json import finite_json, read_json
from imgstore.operations.gallery.subscriptions import check_subscription_known
from imgstore.operations.installation import Installation, MachineHost
from imgstore.templates.jsonc import read_jsonc
from imgstore.wire.api_versions import Kind, check_api_version, remove_newer_fields
from imgstore.wire.json_text import Json, dumps

_P = ParamSpec("_P")
_T = TypeVar("_T")

_WRITER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SORTER: Final = json.JSONEncoder(sort_keys=True)

_WITH_BODY: Final = ("PUT", "PATCH", "POST")

BODY_BYTES_MAX: Final = 1 << 20
"""The limit for the body of a resource. Resources have a few kilobytes."""
TEMPLATE_BYTES_MAX: Final = 4 << 20
"""ARM's limit for a template."""


RESOURCE_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}
"""The OpenAPI description of a body with a resource. Azure's api-version defines the fields."""


class BodyTooLarge(ImgstoreError):
    """The request's body exceeds the limit."""

    code = "RequestEntityTooLarge"
    status = 413


class PreconditionFailed(ImgstoreError):
    """If-Match does not contain the ETag of the resource, or If-None-Match contains the ETag."""

    code = "PreconditionFailed"
    status = 412


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The threads that serve requests. The callers of a pool share the pool fairly (`fair_pool`)."""

    requests: FairPool
    """Requests of known principals. The caller is the principal's object id."""
    logins: FairPool
    """Checks of tokens that are new to this process. The caller is the issuer that a token names."""
    blobs: FairPool
    """Requests with a signed URL. The caller is the disk."""
    server: FairPool
    """Requests without a caller: health, public keys."""

    def close(self, wait_seconds: float) -> None:
        """Cancel the waiting jobs of each pool, and wait for the running jobs of a pool for at most `wait_seconds`."""
        for pool in (self.requests, self.logins, self.blobs, self.server):
            pool.close(wait_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The objects that all handlers share."""

    installation: Installation
    authority: TokenAuthority
    pools: "Pools"
    """Threads for requests."""
    runner: OperationRunner
    """Threads for long-running operations, which may continue after the answer."""
    rates: RateLimiter
    retry_after_seconds: int
    page_items: int
    trusted_proxies: tuple[Network, ...]
    secret_checks: SecretChecker


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """A request with the shared objects of the server."""

    server: Server
    request: Request
    api_version: str | None

    def session(self) -> Session:
        """Authenticate the caller and check the right that the route requires (`ROUTE_RIGHTS`).

        The result of the first call holds for the whole request. Call this method in a thread, because the check reads
        the catalog.

        Raises:
            Unauthenticated: the caller is not known.
            AccessDenied: the caller has no right to the route.
            ScopeNotFound: the subscription does not exist, or the caller has no role in the subscription.
            InvalidInput: the api-version is missing or not supported.
            TooManyRequests: the subscription has reached a rate limit.
        """
        known: Session | None = getattr(self.request.state, "session", None)
        if known is None:
            known = self.request.state.session = self._authorize()
        return known

    def _authorize(self) -> Session:
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
        version = check_api_version(self.api_version, parse_resource_type(self.request.scope["path"]))
        # Requests of callers without a role don't count, and the answers don't show the remaining requests.
        if has_related_role(principal, installation.scope):
            self.request.state.remaining = self.server.rates.take(installation.subscription, method, route)
        return Session(installation=installation, principal=principal, api_version=version)

    async def run_without_caller(self, work: Callable[[], _T]) -> _T:
        """Run `work` in a thread of the pool for requests without a caller."""
        return await asyncio.wrap_future(self.server.pools.server.submit("server", work))

    async def find_caller(self) -> str:
        """Return the object id of the caller's principal. The request counts for the share of this principal in a pool.

        `session` reads the roles and the revocation of the token later, in a thread of the pool.

        Raises:
            Unauthenticated: the token is missing or not valid.
            CallerQueueFull, PoolQueueFull: too many new tokens wait for a check.
        """
        authority, header = self.server.authority, self.request.headers.get("authorization")
        known = authority.find_cached_caller(header)
        if known is not None:
            return known
        logins = self.server.pools.logins
        return await asyncio.wrap_future(
            logins.submit(authority.read_issuer(header), lambda: str(authority.authenticate(header).uid))
        )

    async def run(self, work: Callable[Concatenate[Session, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Authenticate the caller and run `work` with a session, in a thread of the request pool.

        Raises:
            Unauthenticated, AccessDenied, ScopeNotFound, InvalidInput, TooManyRequests: see `session`.
            CallerQueueFull, PoolQueueFull: too many requests wait.
        """
        requests = self.server.pools.requests
        caller = await self.find_caller()
        return await asyncio.wrap_future(requests.submit(caller, lambda: work(self.session(), *args, **kwargs)))

    async def run_operation(
        self, operation: Callable[Concatenate[Installation, Principal, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run an operation of the installation for the caller. See `run`."""
        return await self.run(lambda session: session.run(operation, *args, **kwargs))

    async def begin(self, kind: str, /, **request: Any) -> AcceptedOperation:
        """Start a command that may take long. Wait until the command is accepted or refused."""
        conditions = {
            name: value for name in ("if-match", "if-none-match") if (value := self.request.headers.get(name))
        }
        whole = {**request, "subscription": self.request.path_params.get("subscription"), "conditions": conditions}
        caller = await self.find_caller()
        begun = self.server.runner.begin(
            caller, self.session, kind, whole, parse_resource_id(self.request.scope["path"])
        )
        return await asyncio.wrap_future(begun)

    async def read_body(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """Read the request's body.

        Raises:
            BodyTooLarge: the body has more than `bytes_max` bytes.
        """
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise BodyTooLarge(
                    "The request's body is too large.",
                    found=f"more than {bytes_max} bytes",
                    expected=f"at most {bytes_max}",
                    hint="send only the resource",
                )
        return bytes(body)

    async def read_json(self) -> Json:
        """Authenticate the caller, then read the request's body as JSON.

        Raises:
            Unauthenticated: the caller is not known. Nothing of the body was read.
            InvalidInput: the body is no JSON document.
            BodyTooLarge: the body has more than `BODY_BYTES_MAX` bytes.
        """
        return await self._read_document(json.loads, BODY_BYTES_MAX)

    async def read_optional_json(self) -> Json | None:
        """Read the request's body as JSON. None for an empty body. See `read_json`."""
        caller = await self.find_caller()
        body = await self.read_body()
        if not body.strip():
            return None
        return await asyncio.wrap_future(self.server.pools.requests.submit(caller, lambda: _read(body, json.loads)))

    async def read_template(self) -> Json:
        """Authenticate the caller, then read the request's body as JSON with the extensions of templates.

        Raises:
            Unauthenticated: the caller is not known. Nothing of the body was read.
            InvalidInput: the body is no JSON document.
            BodyTooLarge: the body has more than `TEMPLATE_BYTES_MAX` bytes.
        """
        return await self._read_document(read_jsonc, TEMPLATE_BYTES_MAX)

    async def _read_document(self, loads: Callable[..., Json], bytes_max: int) -> Json:
        """Authenticate, read and parse a body.

        A stranger's body costs neither memory nor parsing (invariant H15). Parsing may take a second, and therefore runs
        in the share of the caller.
        """
        caller = await self.find_caller()
        body = await self.read_body(bytes_max)
        return await asyncio.wrap_future(self.server.pools.requests.submit(caller, lambda: _read(body, loads)))

    @property
    def base_url(self) -> str:
        """The URL of the server from the view of the client: scheme, host and port."""
        return f"{self.request.url.scheme}://{self.request.url.netloc}"

    def page_request(self) -> PageRequest:
        """Return the requested page of a list."""
        return PageRequest(items_max=self.server.page_items, token=self.request.query_params.get("$skiptoken"))

    def next_link(self, token: str) -> str:
        """Return the URL of the next page, which begins at `token`."""
        return str(self.request.url.include_query_params(**{"$skiptoken": token}))

    def resource_response(self, body: Json, kind: Kind, etag: str | None = None) -> Response:
        """Answer a GET of a resource. Answer 304 if If-None-Match contains the ETag.

        Args:
            body: the resource.
            kind: the kind of the resource.
            etag: the ETag. None computes the ETag of `body`.
        """
        tag = etag or compute_etag(body)
        if tag in _tags(self.request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"ETag": tag})
        return json_response(200, remove_newer_fields(body, kind, self._version()), {"ETag": tag})

    async def list_response(
        self,
        kind: Kind,
        work: Callable[[Session, PageRequest], Page[_T]],
        to_json: Callable[[_T], Json],
        *,
        exact: bool = False,
    ) -> Response:
        """Answer with the requested page of a list.

        Args:
            kind: the kind of the listed resources.
            work: returns a page. Runs in a thread.
            to_json: converts an item of the page. Runs in a thread.
            exact: whether the items have `Decimal` numbers.
        """

        def read(session: Session) -> Page[Json]:
            page = work(session, self.page_request())
            return Page(items=tuple(to_json(each) for each in page.items), next_token=page.next_token)

        page = await self.run(read)
        items = [remove_newer_fields(each, kind, self._version()) for each in page.items]
        more = {} if page.next_token is None else {"nextLink": self.next_link(page.next_token)}
        return (exact_response if exact else json_response)(200, {"value": items, **more})

    def accepted_response(
        self, accepted: AcceptedOperation, kind: Kind, status: int, *, location: bool = False
    ) -> Response:
        """Answer a request that started an operation. The headers contain the URL of the operation's status.

        Args:
            accepted: the operation.
            kind: the kind of the resource.
            status: the status of the answer.
            location: whether to add a Location header, as Azure's 202 has.
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
        tag = {"ETag": compute_etag(accepted.body)}
        return json_response(status, remove_newer_fields(accepted.body, kind, self._version()), headers | tag)

    async def put_response(self, kind: str, of: Kind, /, *, created: int = 201, **request: Any) -> Response:
        """Answer a PUT with the body of a resource, which starts a command.

        Args:
            kind: the name of the command.
            of: the kind of the resource.
            created: the status for a new resource. An existing resource has the status 200.
            request: the request of the command. The default of `body` is the JSON of the request's body.
        """
        body = request.pop("body") if "body" in request else await self.read_json()
        accepted = await self.begin(kind, **request, body=body)
        return self.accepted_response(accepted, of, created if accepted.created else 200)

    async def patch_response(self, kind: str, of: Kind, /, **request: Any) -> Response:
        """Answer a PATCH, which starts a command. The arguments are as in `put_response`."""
        return await self.put_response(kind, of, created=200, **request)

    @property
    def place(self) -> dict[str, Any]:
        """The names in the path, without the subscription, such as ``{"group": "rg", "gallery": "golden"}``."""
        return {name: value for name, value in self.request.path_params.items() if name != "subscription"}

    async def delete_response(self, kind: str, of: Kind, /, *, absent: int = 204, **request: Any) -> Response:
        """Answer a DELETE, which starts a command.

        Args:
            kind: the name of the command.
            of: the kind of the resource.
            absent: the status for a missing resource: 204, or 404 with an error.
            request: the request of the command.

        Raises:
            ScopeNotFound: the subscription does not exist, or the caller has no role in the subscription.
            NotFound: the resource does not exist, and `absent` is not 204.
        """
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
        """The header for the wait of the client before the next poll."""
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
            expected="a JSON document in UTF-8 (RFC 8259), with 64-bit numbers and without duplicate names in an object",
            hint="correct the request's body",
            code="InvalidRequestContent",
        ) from error


async def make_context(
    request: Request,
    api_version: Annotated[str | None, Query(alias="api-version", examples=["2023-07-03"])] = None,
) -> RequestContext:
    """Make the request context of a handler. Check the right to a write before the body is read (invariant H9)."""
    made = RequestContext(server=request.app.state.server, request=request, api_version=api_version)
    if request.method in _WITH_BODY and not is_open(request.method, request.scope["route"].path):
        await made.run(lambda _session: None)
    return made


Context = Annotated[RequestContext, Depends(make_context)]


# The arguments of these functions describe the path in the OpenAPI document. Handlers read `RequestContext.place`.
# ruff: noqa: ARG001
async def in_gallery(context: Context, group: str, gallery: str) -> RequestContext:
    """Give the context of a handler for a gallery."""
    return context


async def in_definition(context: Context, group: str, gallery: str, definition: str) -> RequestContext:
    """Give the context of a handler for an image definition."""
    return context


async def in_version(context: Context, group: str, gallery: str, definition: str, version: str) -> RequestContext:
    """Give the context of a handler for an image version."""
    return context


GalleryContext = Annotated[RequestContext, Depends(in_gallery)]
DefinitionContext = Annotated[RequestContext, Depends(in_definition)]
VersionContext = Annotated[RequestContext, Depends(in_version)]


def json_response(status: int, body: Json, headers: Mapping[str, str] | None = None) -> Response:
    """Make an answer with a JSON body."""
    try:
        text = _WRITER.encode(body)
    except ValueError:  # A stored number that is not finite: older versions accepted such numbers (invariant H13).
        text = _WRITER.encode(finite_json(body))
    return Response(
        content=text.encode(), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def exact_response(status: int, body: Json) -> Response:
    """Make an answer with a JSON body with `Decimal` numbers, which keep all digits."""
    return Response(content=dumps(body).encode(), status_code=status, media_type="application/json")


def compute_etag(body: Json) -> str:
    """Return the ETag of a resource: the ETag in the body, or a digest of the body.

    The state of processes does not count, because no request changes it.
    """
    if shown := body.get("etag"):
        return str(shown).removeprefix("W/")
    unstable = ("replicationStatus", "provisioningStateDetails")
    properties = {name: value for name, value in body["properties"].items() if name not in unstable}
    text = _SORTER.encode({**body, "properties": properties})
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def check_conditions(conditions: Mapping[str, str], current: Json | None) -> None:
    """Check If-Match and If-None-Match against the current resource.

    Args:
        conditions: the values of the two headers, by lower-case name. A missing header has no entry.
        current: the resource. None if the resource does not exist.

    Raises:
        PreconditionFailed: a condition does not hold.
    """
    now = None if current is None else compute_etag(current)
    wanted, unwanted = _tags(conditions.get("if-match", "")), _tags(conditions.get("if-none-match", ""))
    met = not wanted or (now is not None and ("*" in wanted or now in wanted))
    if met and not (now is not None and ("*" in unwanted or now in unwanted)):
        return
    raise PreconditionFailed(
        "The condition '{}' evaluated to false.".format("If-Match" if not met else "If-None-Match"),
        found=f"ETag {now}" if now else "no such resource",
        expected=", ".join(f"{name}: {value}" for name, value in conditions.items()),
        hint="read the resource again, and repeat the change on the new state",
    )


def _tags(header: str) -> list[str]:
    return [each.strip().removeprefix("W/") for each in header.split(",") if each.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of a server."""

    leaves_replicas: bool = False
    """Whether `imgstore worker` makes the replicas. The server then ingests into the source region only."""
    retry_after_seconds: int = 2
    """The interval at which clients are asked to poll."""
    page_items: int = 100
    """The items of a list in one answer."""
    request_threads: int = 32
    """Concurrent requests of known principals. A principal gets at most a quarter."""
    login_threads: int = 8
    """Concurrent checks of new tokens. An issuer gets at most a quarter."""
    blob_threads: int = 32
    """Concurrent requests with a signed URL. A disk gets at most a quarter."""
    rate_limit_factor: int = 100
    """The factor of Azure's rate limits for a subscription. 0 disables the limits."""
    running_threads: int = 16
    """Concurrent long-running operations. A principal gets at most a quarter. Other operations wait."""
    queued_requests_max: int = 256
    """Requests of one caller that may wait for a thread."""
    queued_operations_max: int = 64
    """Long-running operations of one principal that may wait for a thread before they are accepted."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    trusted_proxies: tuple[Network, ...] = ()
    """The networks of proxies with trusted headers about the address of the client."""
    secret_failures_max: int = FAILURES_PER_ADDRESS_MAX
    """The attempts with a wrong secret that an address has in a minute."""
    machines: MachineHost | None = None
    """None: the server starts no machines."""
