"""A long-running operation as ARM tells of it."""

from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.errors import InvalidInput
from imgstore.wire.json_text import Json, instant


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


def operation_details_json(operation: AsyncOperation) -> Json:
    """An operation as lists show it: also what it does, to which resource, and for whom."""
    properties: dict[str, Json] = {"command": operation.kind, "caller": operation.principal}
    if operation.resource_id is not None:
        properties["resourceId"] = operation.resource_id
    if operation.cancel_requested_by is not None:
        properties["cancelRequestedBy"] = operation.cancel_requested_by
    return {**operation_json(operation), "properties": properties}


def read_status(word: str) -> OperationStatus:
    """The status that `word` names, in any case.

    Raises:
        InvalidInput: it names none.
    """
    for each in OperationStatus:
        if each.value.lower() == word.lower():
            return each
    raise InvalidInput(
        "The status is invalid.",
        found=repr(word[:64]),
        expected=", ".join(OperationStatus),
        hint="leave the status out to list all operations",
        target="status",
    )
