"""For those who watch over the server: does it live, is it ready, what does it do."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from imgstore.api.door import Asked
from imgstore.domain.errors import StoreError

router = APIRouter(tags=["Health"])


@router.get("/healthz", summary="Whether the server lives")
async def lives() -> Response:
    """Open to everybody."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", summary="Whether the server can do its work: its catalog answers")
async def ready(ask: Asked) -> Response:
    """Open to everybody."""

    def look() -> None:
        with ask.server.installation.catalog.reading() as facts:
            facts.now()

    try:
        await ask.in_thread(look)
    except StoreError as error:
        return PlainTextResponse(f"the catalog does not answer: {error.error_code}\n", status_code=503)
    return PlainTextResponse("ok\n")


@router.get("/metrics", summary="Counts of requests, as Prometheus reads them")
async def metrics(request: Request) -> Response:
    """Open to everybody: counts by route and status, and nothing of what they were about."""
    return Response(generate_latest(request.app.state.counts.registry), media_type=CONTENT_TYPE_LATEST)
