"""Long-running operations as clients poll them: Azure's operation resource, and with ``monitor=true`` its Location."""

from fastapi import APIRouter, Response

from imgstore.api.door import Ask, Asked, reply
from imgstore.api.paths import OPERATION
from imgstore.domain.asynchronous import AsyncOperation, OperationStatus
from imgstore.domain.errors import ImgstoreError
from imgstore.operations.long_running import show_operation
from imgstore.wire.operations import operation_json

router = APIRouter(tags=["Long-running operations"])


@router.get(OPERATION, summary="Ask how far a long-running operation is")
async def show(ask: Asked, operation: str, monitor: bool = False) -> Response:  # noqa: FBT001, FBT002 - a query's value
    """200 with its status; with ``monitor=true`` 202 while it runs, then 200 without a body, or its error."""
    found = await ask.run(lambda at: show_operation(at.installation, at.principal, operation))
    return _monitored(ask, found) if monitor else reply(200, operation_json(found), _patience(ask, found))


def _monitored(ask: Ask, operation: AsyncOperation) -> Response:
    if operation.status is OperationStatus.IN_PROGRESS:
        return Response(status_code=202, headers={"Location": str(ask.request.url), **ask.patience})
    if operation.error is not None:
        return reply(
            ImgstoreError.status if operation.error["code"] == ImgstoreError.code else 409, {"error": operation.error}
        )
    # Node's client reads a SharingUpdate here, and stumbles over none.
    return reply(200, {}) if operation.kind == "share-gallery" else Response(status_code=200)


def _patience(ask: Ask, operation: AsyncOperation) -> dict[str, str]:
    return ask.patience if operation.status is OperationStatus.IN_PROGRESS else {}
