"""A long-running operation as ARM tells of it."""

from imgstore.domain.asynchronous import AsyncOperation
from imgstore.wire.text import Json, instant


def operation_json(operation: AsyncOperation) -> Json:
    """The operation resource that clients poll."""
    told: dict[str, Json] = {
        "name": operation.uid,
        "status": operation.status.value,
        "startTime": instant(operation.started_at),
    }
    if operation.finished_at is not None:
        told["endTime"] = instant(operation.finished_at)
    if operation.error is not None:
        told["error"] = operation.error
    return told
