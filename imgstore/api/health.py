"""Serve the routes for monitoring: liveness, readiness and metrics. None of the routes needs a token."""

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
    """A gauge of the circuit of each zone.

    The labels are the zones of regions.yaml, so their number is bounded. The value is the state in this process: reading
    the gauge sends no request to a store.
    """

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
    """Answer 200 while the event loop runs."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", summary="Whether the server can do its work: database, stores, free space, worker")
async def ready(context: Context) -> Response:
    """Answer 200 if the server can serve requests, else 503.

    The answer needs no token and therefore contains no names and no errors.
    """
    found: Readiness = await context.run_without_caller(lambda: check_readiness(context.server.installation))
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
    """Answer with the metrics of the server. The metrics contain routes and statuses, but no names of resources."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
