"""Build the FastAPI application: the routes, the objects that handlers share, and the background tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from fastapi import FastAPI

import imgstore
from imgstore.api import health
from imgstore.api.arm import (
    definitions,
    deployments,
    disks,
    galleries,
    groups,
    images,
    login,
    machines,
    network,
    operation_status,
    scale_sets,
    sharing,
    usage_details,
    versions,
)
from imgstore.api.auth.rights import check_rows
from imgstore.api.auth.secret_checks import SecretChecker
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.api.blob import routes as blob_routes
from imgstore.api.blob.open_disks import OpenBlobs
from imgstore.api.documentation import add_documentation
from imgstore.api.http.context import Pools, Server, ServerSettings
from imgstore.api.http.fair_pool import FairPool, PoolLimits
from imgstore.api.http.long_running import Command, OperationRunner
from imgstore.api.http.rate_limits import RateLimiter
from imgstore.api.middleware import RequestMetrics, RequestMiddleware, add_error_handlers
from imgstore.domain import async_operations
from imgstore.domain.errors import ImgstoreError
from imgstore.operations.activity_log import trim_activity
from imgstore.operations.disks.uploads import sweep_uploads
from imgstore.operations.installation import Installation
from imgstore.operations.machines.running import reconcile_machines

COMMANDS: Final[dict[str, Command]] = {
    "put-gallery": galleries.put_gallery,
    "delete-gallery": galleries.delete_gallery,
    "put-definition": definitions.put_definition,
    "delete-definition": definitions.delete_definition,
    "put-version": versions.put_version,
    "delete-version": versions.delete_version,
    "share-gallery": sharing.share_gallery,
    "put-disk": disks.put_disk,
    "patch-disk": disks.patch_disk,
    "put-image": images.put_image,
    "delete-disk": disks.delete_disk,
    "end-disk-access": disks.end_disk_access,
    "put-machine": machines.put_machine,
    "delete-machine": machines.delete_machine,
    **scale_sets.COMMANDS,
    "delete-group": groups.delete_group,
    **deployments.COMMANDS,
}
"""Commands of long-running operations. The keys are stored in the catalog: a server resumes operations of older versions."""


_SERVER_THREADS: Final = 8
_log: Final = logging.getLogger("imgstore.api")
_CANCELLATION_SECONDS: Final = 1.0
"""The interval of checks for cancellation requests that other processes recorded for operations of this process."""
_RENEWAL_SECONDS: Final = async_operations.LEASE_SECONDS / 6
_RECONCILE_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 3.0
"""The time for running operations to stop at shutdown. The request to stop was sent when the signal arrived."""


def _make_pools(settings: ServerSettings) -> Pools:
    def pool(name: str, threads: int) -> FairPool:
        return FairPool(PoolLimits(threads=threads, queued_per_caller_max=settings.queued_requests_max), name)

    return Pools(
        requests=pool("request", settings.request_threads),
        logins=pool("login", settings.login_threads),
        blobs=pool("blob", settings.blob_threads),
        server=pool("server", _SERVER_THREADS),
    )


async def _watch_operations(look: Callable[[], None], seconds: float, pools: Pools) -> None:
    """Call a check of long-running operations at a fixed interval, until canceled."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.wrap_future(pools.server.submit("operations", look))
        except ImgstoreError as error:  # The catalog does not answer, or the server is stopping.
            _log.debug("could not check the rows of long-running operations: %s", error)


async def _reconcile_machines(installation: Installation) -> None:
    """Record the ends of machines of this host at a fixed interval, and start missing supervisors."""
    while True:
        try:
            await asyncio.to_thread(reconcile_machines, installation)
        except (ImgstoreError, OSError) as error:
            _log.warning("could not look at the machines of this host: %s", error)
        await asyncio.sleep(_RECONCILE_SECONDS)


async def _trim_activity(installation: Installation) -> None:
    """Trim the activity log at the interval of the maintenance settings. No worker is needed."""
    while seconds := installation.maintenance.activity_interval_seconds:
        try:
            await asyncio.to_thread(trim_activity, installation)
        except ImgstoreError as error:
            _log.warning("could not trim the activity log: %s", error)
        await asyncio.sleep(seconds)


def make_application(installation: Installation, authority: TokenAuthority, settings: ServerSettings) -> FastAPI:
    """Build the application of an installation.

    At startup the application resumes the long-running operations of processes that ended.
    """
    installation = replace(installation, machine_host=settings.machines)
    runner = OperationRunner(
        installation,
        COMMANDS,
        PoolLimits(threads=settings.running_threads, queued_per_caller_max=settings.queued_operations_max),
        leaves_replicas=settings.leaves_replicas,
    )
    pools = _make_pools(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweep_uploads(installation)
        runner.resume()
        background = [
            asyncio.create_task(_watch_operations(runner.cancel_operations, _CANCELLATION_SECONDS, pools)),
            asyncio.create_task(_watch_operations(runner.renew_leases, _RENEWAL_SECONDS, pools)),
            asyncio.create_task(_trim_activity(installation)),
        ]
        if settings.machines is not None:
            background.append(asyncio.create_task(_reconcile_machines(installation)))
        yield
        for task in background:
            task.cancel()
        app.state.server.secret_checks.close()
        app.state.blobs.close()
        # The pools of requests close first and without a wait: uvicorn has already waited for these requests.
        pools.close(0)
        runner.close(_CLOSE_SECONDS)

    app = FastAPI(
        title="imgstore",
        version=imgstore.__version__,
        description="Azure Compute Gallery's part of Azure Resource Manager, on your own storage.",
        lifespan=lifespan,
        openapi_url=None,  # `documentation` serves it.
        redirect_slashes=False,
    )
    app.state.metrics = RequestMetrics()
    app.state.metrics.registry.register(health.ZoneCircuits(installation))
    app.state.server = Server(
        installation=installation,
        authority=authority,
        pools=pools,
        runner=runner,
        rates=RateLimiter(settings.rate_limit_factor, installation.effects.monotonic),
        retry_after_seconds=settings.retry_after_seconds,
        page_items=settings.page_items,
        trusted_proxies=settings.trusted_proxies,
        secret_checks=SecretChecker(installation.effects.monotonic, settings.secret_failures_max),
    )
    app.state.connections = settings.connections
    app.state.blobs = OpenBlobs(installation)
    for module in (
        versions,
        definitions,
        galleries,
        sharing,
        disks,
        images,
        machines,
        scale_sets,
        network,
        deployments,
        groups,
        usage_details,
        blob_routes,
        operation_status,
        login,
        health,
    ):
        # include_router would match each path twice, router by router, which costs 0.1 ms a request.
        app.router.routes.extend(module.router.routes)
    add_documentation(app)
    check_rows(app)
    add_error_handlers(app)
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics, trusted=settings.trusted_proxies)
    return app
