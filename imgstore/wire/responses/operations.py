"""Long-running operations as JSON."""

from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.errors import InvalidInput
from imgstore.wire.json_text import Json, instant


def operation_json(operation: AsyncOperation, percent_complete: float | None = None) -> Json:
    """Return the operation resource that clients poll.

    Args:
        operation: The operation.
        percent_complete: The progress of a running operation, if known. The name of the property is ARM's.
    """
    fields: dict[str, Json] = {
        "name": operation.uid,
        "status": operation.status.value,
        "startTime": instant(operation.started_at),
    }
    if percent_complete is not None and not operation.has_ended:
        fields["percentComplete"] = percent_complete
    if operation.finished_at is not None:
        fields["endTime"] = instant(operation.finished_at)
    if operation.error is not None:
        fields["error"] = operation.error
    return fields


def operation_details_json(operation: AsyncOperation) -> Json:
    """Return an operation for lists: also with the command, the resource and the caller."""
    properties: dict[str, Json] = {"command": operation.kind, "caller": operation.principal}
    if operation.resource_id is not None:
        properties["resourceId"] = operation.resource_id
    if operation.cancel_requested_by is not None:
        properties["cancelRequestedBy"] = operation.cancel_requested_by
    return {**operation_json(operation), "properties": properties}


def read_status(word: str) -> OperationStatus:
    """Parse the name of a status in any case.

    Raises:
        InvalidInput: The name is unknown.
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
