"""Serve the routes of a login: the cloud's endpoints, OpenID metadata, tokens, tenants and subscriptions."""

import asyncio
import logging
from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Response

from imgstore.api.auth.secret_checks import TooManyAttempts
from imgstore.api.http.context import Context, RequestContext, json_response
from imgstore.api.http.fair_pool import CallerQueueFull, PoolQueueFull
from imgstore.api.http.long_running import Session
from imgstore.api.http.paths import SUBSCRIPTION
from imgstore.domain.errors import ClientRefused, ImgstoreError, InvalidInput
from imgstore.operations.gallery.subscriptions import list_visible_subscriptions, tenant_of
from imgstore.wire.cloud import endpoints_json, subscription_json, tenant_json
from imgstore.wire.json_text import Json

router = APIRouter(tags=["Identity"])
_FORM_BYTES_MAX: Final = 64 << 10
_FORM_SECONDS_MAX: Final = 10
_log: Final = logging.getLogger("imgstore.api")
_NOT_KEPT: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@router.get("/metadata/endpoints", summary="Show the endpoints of the cloud, for `az cloud register`")
async def endpoints(context: Context) -> Response:
    """Answer without a token. The answer contains only URLs of this server."""
    return json_response(200, endpoints_json(context.base_url))


@router.get("/{tenant}/v2.0/.well-known/openid-configuration", summary="Show the OpenID configuration")
@router.get("/{tenant}/.well-known/openid-configuration", include_in_schema=False)
async def openid(context: Context, tenant: str) -> Response:
    """Answer without a token."""
    return json_response(200, context.server.authority.openid_configuration(context.base_url, tenant))


@router.get("/{tenant}/discovery/v2.0/keys", summary="Show the public keys of tokens")
async def keys(context: Context, tenant: str) -> Response:  # noqa: ARG001 - one set of keys serves all tenants
    """Answer without a token."""
    return json_response(200, await context.run_without_caller(context.server.authority.jwks))


@router.post("/{tenant}/oauth2/v2.0/token", summary="Issue a token to a service principal")
@router.post("/{tenant}/oauth2/token", include_in_schema=False)
async def token(context: Context, tenant: str) -> Response:
    """Issue a token for client credentials in a form.

    Errors have OAuth's format (RFC 6749, section 5.2), with Microsoft's codes in the description.
    """
    form = await _read_form(context)
    authority, checks = context.server.authority, context.server.secret_checks
    address = context.request.client.host if context.request.client else ""
    try:
        _check_grant(form.get("grant_type", ""))
        scope = form.get("scope") or f"{form.get('resource', '').rstrip('/')}/.default"
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        issued = await checks.run(
            address,
            client,
            lambda: authority.issue_token(tenant, client, secret, scope),
            is_verified=authority.is_recently_verified(client, secret),
        )
    except (ClientRefused, InvalidInput, TooManyAttempts, CallerQueueFull, PoolQueueFull) as error:
        if error.status != 400:
            _log.warning("refused a token to the address %s: %s", address, error.error_code)
        return _error_response(error)
    body = {
        "token_type": "Bearer",
        "expires_in": issued.expires_in_seconds,
        "ext_expires_in": issued.expires_in_seconds,
        "access_token": issued.access_token,
        "client_info": issued.client_info,
    }
    return json_response(200, body, _NOT_KEPT)


@router.get("/tenants", summary="List the tenants of the caller")
async def list_tenants(context: Context) -> Response:
    """Serve Azure's Tenants_List."""
    return json_response(200, {"value": await context.run(lambda at: [tenant_json(at.principal.tenant or "")])})


@router.get("/subscriptions", summary="List the subscriptions of the caller")
async def list_subscriptions(context: Context) -> Response:
    """Serve Azure's Subscriptions_List."""
    return json_response(200, {"value": await context.run(_subscriptions)})


@router.get(SUBSCRIPTION, summary="Show a subscription")
async def show_subscription(context: Context) -> Response:
    """Serve Azure's Subscriptions_Get."""
    return json_response(200, await context.run(_subscription))


def _subscriptions(session: Session) -> Json:
    seen = session.run(list_visible_subscriptions)
    return [subscription_json(each, session.run(tenant_of, each)) for each in seen]


def _subscription(session: Session) -> Json:
    named = session.installation.subscription
    return subscription_json(named, session.run(tenant_of, named))


def _error_response(error: ImgstoreError) -> Response:
    """Answer with the error's status: 401 for a wrong secret, 429 or 503 for a client that has to wait, else 400."""
    body = {"error": error.error_code, "error_description": str(error)}
    seconds = getattr(error, "retry_after_seconds", None)
    return json_response(error.status, body, _NOT_KEPT | ({} if seconds is None else {"Retry-After": str(seconds)}))


def _check_grant(kind: str) -> None:
    if kind != "client_credentials":
        raise InvalidInput(
            f"AADSTS70003: The grant type '{kind[:64]}' is not supported.",
            expected="client_credentials",
            hint="log in as a service principal",
            code="unsupported_grant_type",
        )


async def _read_form(context: RequestContext) -> dict[str, str]:
    try:
        async with asyncio.timeout(_FORM_SECONDS_MAX):
            body = await context.read_body(_FORM_BYTES_MAX)
    except TimeoutError as error:
        raise InvalidInput(
            "The form of the request did not arrive in time.",
            found=f"an incomplete form after {_FORM_SECONDS_MAX} s",
            expected="the complete form",
            code="invalid_request",
        ) from error
    try:
        return {name: values[0] for name, values in parse_qs(body.decode("ascii"), max_num_fields=64).items()}
    except ValueError as error:
        raise InvalidInput(
            "The form of the request can't be read.", found=str(error), code="invalid_request"
        ) from error
