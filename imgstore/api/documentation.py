"""Serve /openapi.json and /docs without authentication.

A thread builds the OpenAPI document at the first request. Later requests get the document from memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from imgstore.api.auth.rights import is_open

_SCHEMA_PATH: Final = "/openapi.json"
_PAGE_PATH: Final = "/docs"
_REDIRECT_PATH: Final = "/docs/oauth2-redirect"
_SCHEME: Final = "bearer"
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token of `POST /{tenant}/oauth2/v2.0/token`, or of a registered issuer.",
}
_PIECE_BYTES: Final = 64 << 10
"""The size of a part of the response. A client that reads nothing keeps at most one part in memory."""


class _Schema:
    """The OpenAPI document of an application, as bytes. Use from the event loop only."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: asyncio.Task[bytes] | None = None

    async def read(self) -> bytes:
        """Return the document. The first caller starts the build, and other callers wait for the end of the build."""
        if self._made is None or (self._made.done() and (self._made.cancelled() or self._made.exception())):
            self._made = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._made)

    def _make(self) -> bytes:
        document = _with_security(self._app.openapi())
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _with_security(document: dict[str, Any]) -> dict[str, Any]:
    """Add the bearer scheme, and the requirement of a token to each operation that needs a token."""
    document.setdefault("components", {})["securitySchemes"] = {_SCHEME: _BEARER}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not is_open(method.upper(), path):
                operation["security"] = [{_SCHEME: []}]
    return document


def add_documentation(app: FastAPI) -> None:
    """Add the routes of the OpenAPI document and of the documentation page."""
    schema = _Schema(app)
    page = get_swagger_ui_html(
        openapi_url=_SCHEMA_PATH, title=f"{app.title} - Swagger UI", oauth2_redirect_url=_REDIRECT_PATH
    ).body
    redirect = get_swagger_ui_oauth2_redirect_html().body

    async def show_schema(_request: Request) -> Response:
        document = await schema.read()
        length = {"Content-Length": str(len(document))}
        return StreamingResponse(_pieces(document), media_type="application/json", headers=length)

    async def show_page(_request: Request) -> Response:
        return HTMLResponse(page)

    async def show_redirect(_request: Request) -> Response:
        return HTMLResponse(redirect)

    app.add_route(_SCHEMA_PATH, show_schema, include_in_schema=False)
    app.add_route(_PAGE_PATH, show_page, include_in_schema=False)
    app.add_route(_REDIRECT_PATH, show_redirect, include_in_schema=False)


async def _pieces(document: bytes) -> AsyncIterator[memoryview]:
    whole = memoryview(document)
    for start in range(0, len(whole), _PIECE_BYTES):
        yield whole[start : start + _PIECE_BYTES]
