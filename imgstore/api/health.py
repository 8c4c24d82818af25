"""For those who watch over the server: does it live, is it ready, what does it do."""

from collections.abc import Iterable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imgstore.api.http.context import Context
from imgstore.operations.installation import Installation
from imgstore.operations.stores.readiness import Readiness, check_readiness

router = APIRouter(tags=["Health"])


class ZoneCircuits(Collector):
    """A gauge for each zone of regions.yaml, which fixes the labels. It shows what this process knows, and asks nobody."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def collect(self) -> Iterable[Metric]:
        """See `Collector.collect`."""
        gauge = GaugeMetricFamily(
            "imgstore_zone_circuit_open", "1 where the zone's store does not answer, else 0.", labels=("region", "zone")
        )
        for region in self._installation.regions.regions.values():
            for zone in region.zones:
                avoided = self._installation.locator.health.is_avoided(region.name, zone.name)
                gauge.add_metric((region.name, zone.name), float(avoided))
        yield gauge


@router.get("/healthz", summary="Whether the server lives")
async def lives() -> Response:
    """Open to everybody."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", summary="Whether the server can do its work: database, stores, free space, worker")
async def ready(context: Context) -> Response:
    """Open to everybody, and so without names and errors: 200 where requests can be served, else 503."""
    found: Readiness = await context.in_thread(lambda: check_readiness(context.server.installation))
    body = {
        "status": "ready" if found.ready else "notReady",
        "checks": {
            "database": found.database,
            "stores": found.stores,
            "freeSpace": found.free_space,
            "worker": found.worker,
        },
    }
    return JSONResponse(body, status_code=200 if found.ready else 503)


@router.get("/metrics", summary="Counts of requests, as Prometheus reads them")
async def metrics(request: Request) -> Response:
    """Open to everybody: counts by route and status, and nothing of what they were about."""
    return Response(generate_latest(request.app.state.counts.registry), media_type=CONTENT_TYPE_LATEST)
