"""Serve the status of long-running operations: Azure's operation resource, and the Location URL with ``monitor=true``."""

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


@router.get(OPERATION, summary="Show the status of a long-running operation")
async def show(context: Context, operation: str, monitor: bool = False) -> Response:  # noqa: FBT001, FBT002 - a query's value
    """Answer 200 with the status of the operation.

    With ``monitor=true``, answer 202 while the operation runs, then 200 without a body, or the error of the operation.
    """
    found = await context.run_operation(show_operation, operation)
    return (
        _monitor_response(context, found)
        if monitor
        else json_response(
            200,
            operation_json(found, context.server.runner.percent_complete(operation)),
            (context.retry_headers if found.status is OperationStatus.IN_PROGRESS else {}),
        )
    )


@router.get(OPERATIONS, summary="List long-running operations")
async def list_all(context: Context, status: str | None = None) -> Response:
    """List the operations that the caller started or may read, the newest first.

    With ``status=InProgress``, list only running operations.
    """

    def read(at: Session) -> list[Json]:
        wanted = None if status is None else read_status(status)
        return [operation_details_json(each) for each in at.run(list_operations, status=wanted)]

    return json_response(200, {"value": await context.run(read)})


@router.post(f"{OPERATION}/cancel", summary="Cancel a long-running operation", status_code=202)
async def cancel(context: Context, operation: str) -> Response:
    """Answer 202 while the operation runs, else 200. The operation stops at the next step with the status Canceled."""

    def request_cancel(at: Session) -> AsyncOperation:
        found = at.run(cancel_operation, operation)
        context.server.runner.cancel_operations()
        return found

    found = await context.run(request_cancel)
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
    # Node's client parses a SharingUpdate here, and fails without a body.
    return json_response(200, {}) if operation.kind == "share-gallery" else Response(status_code=200)
