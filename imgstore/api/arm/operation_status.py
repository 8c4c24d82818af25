"""Long-running operations as clients poll them: Azure's operation resource, and with ``monitor=true`` its Location."""

from fastapi import APIRouter, Response

from imgstore.api.http.context import Context, RequestContext, json_response
from imgstore.api.http.long_running import Session
from imgstore.api.http.paths import OPERATION, OPERATIONS
from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.errors import ImgstoreError
from imgstore.operations.api_operations import show_operation
from imgstore.operations.cancellation import cancel_operation, list_operations
from imgstore.wire.json_text import Json
from imgstore.wire.responses.operations import operation_details_json, operation_json, read_status

router = APIRouter(tags=["Long-running operations"])


@router.get(OPERATION, summary="Ask how far a long-running operation is")
async def show(context: Context, operation: str, monitor: bool = False) -> Response:  # noqa: FBT001, FBT002 - a query's value
    """200 with its status; with ``monitor=true`` 202 while it runs, then 200 without a body, or its error."""
    found = await context.run(lambda at: show_operation(at.installation, at.principal, operation))
    return (
        _monitor_response(context, found)
        if monitor
        else json_response(200, operation_json(found), _retry_headers(context, found))
    )


@router.get(OPERATIONS, summary="List long-running operations")
async def list_all(context: Context, status: str | None = None) -> Response:
    """The caller's own and those that it may read, newest first; with ``status=InProgress`` only those that run."""

    def found(at: Session) -> list[Json]:
        wanted = None if status is None else read_status(status)
        listed = list_operations(at.installation, at.principal, status=wanted)
        return [operation_details_json(each) for each in listed]

    return json_response(200, {"value": await context.run(found)})


@router.post(f"{OPERATION}/cancel", summary="Cancel a long-running operation", status_code=202)
async def cancel(context: Context, operation: str) -> Response:
    """202 while it has not stopped yet, then 200. It stops at its next step; polling shows the status Canceled."""

    def asked(at: Session) -> AsyncOperation:
        found = cancel_operation(at.installation, at.principal, operation)
        context.server.runner.cancel_requested()
        return found

    found = await context.run(asked)
    status = 200 if found.has_ended else 202
    return json_response(
        status, operation_details_json(found), {"Location": str(context.request.url).replace("/cancel?", "?")}
    )


def _monitor_response(context: RequestContext, operation: AsyncOperation) -> Response:
    if operation.status is OperationStatus.IN_PROGRESS:
        return Response(status_code=202, headers={"Location": str(context.request.url), **context.retry_headers})
    if operation.error is not None:
        return json_response(
            ImgstoreError.status if operation.error["code"] == ImgstoreError.code else 409, {"error": operation.error}
        )
    # Node's client reads a SharingUpdate here, and stumbles over none.
    return json_response(200, {}) if operation.kind == "share-gallery" else Response(status_code=200)


def _retry_headers(context: RequestContext, operation: AsyncOperation) -> dict[str, str]:
    return context.retry_headers if operation.status is OperationStatus.IN_PROGRESS else {}
