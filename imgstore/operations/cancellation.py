"""List long-running operations, and cancel them."""

from imgstore.domain.access import Action, Principal, may
from imgstore.domain.asynchronous import AsyncOperation, OperationStatus
from imgstore.domain.errors import Conflict
from imgstore.operations.deployments import end_deployments
from imgstore.operations.installation import Installation
from imgstore.operations.long_running import (
    PUT_DEPLOYMENT,
    canceled,
    close_operation,
    find_operation,
    is_caller,
    missing_operation,
    operation_scope,
)
from imgstore.operations.recording import permit, permit_list, recorded

_CANCEL = "imgstore/operations/cancel/action"


def list_operations(
    installation: Installation, principal: Principal, *, status: OperationStatus | None = None
) -> list[AsyncOperation]:
    """List the stored operations of the subscription, newest first: the principal's own, and those that it may read.

    Args:
        installation: where.
        principal: who asks.
        status: only those of this status.

    Raises:
        NotFound: the principal has no role in the subscription.
    """
    permit_list(installation, principal, f"/subscriptions/{installation.subscription}")
    with installation.catalog.reading() as facts:
        found = facts.operations.list(installation.subscription, status=status)
    return [
        each
        for each in found
        if is_caller(principal, each) or may(principal, Action.READ, operation_scope(each.subscription, each.uid))
    ]


def cancel_operation(installation: Installation, principal: Principal, uid: str) -> AsyncOperation:
    """Ask that an operation stops. Its caller may, and whoever may write the resource that it is about.

    The process that runs it stops it at its next step, within about a second where that is another process. What it
    has made stays as if the process had been interrupted: the same request goes on with it, or it can be deleted. An
    operation whose process is dead ends at once.

    Args:
        installation: where.
        principal: who asks.
        uid: the operation's.

    Returns:
        The operation: InProgress until it has stopped, then Canceled.

    Raises:
        NotFound: there is no such operation in the subscription.
        AccessDenied: the principal is not its caller, and may not write its resource.
        Conflict: it has ended in another way.
    """
    found = find_operation(installation, uid)
    scope = operation_scope(installation.subscription, uid)
    if found is None or not _may_cancel(principal, found):
        # The same refusal whether or not there is such an operation.
        permit(installation, principal, Action.WRITE, scope)
    if found is None:
        raise missing_operation(uid)
    with recorded(installation, principal, Action.WRITE, found.resource_id or scope, _CANCEL, is_permitted=True):
        with installation.catalog.transaction() as facts:
            is_open = facts.operations.request_cancel(uid, principal.name)
        if is_open and installation.keeper.is_dead(found.holder):
            _end(installation, found)
        ended = find_operation(installation, uid)
        if ended is None:
            raise missing_operation(uid)
        if ended.has_ended and ended.status is not OperationStatus.CANCELED:
            raise Conflict(
                f"The operation '{uid}' has ended.",
                found=f"status {ended.status}",
                expected=f"status {OperationStatus.IN_PROGRESS}",
                hint="delete the resource, or send the request that undoes it",
                target=uid,
                code="OperationNotAllowed",
            )
        return ended


def _may_cancel(principal: Principal, operation: AsyncOperation) -> bool:
    """Whether it is the principal's own operation, or about a resource that it may write."""
    target = operation.resource_id
    return is_caller(principal, operation) or (target is not None and may(principal, Action.WRITE, target))


def _end(installation: Installation, operation: AsyncOperation) -> None:
    """End an operation that no process runs."""
    reason = canceled()
    error = {"code": reason.error_code, "message": str(reason)}
    if operation.kind == PUT_DEPLOYMENT:
        end_deployments(installation, operation.uid, error, canceled=True)
    close_operation(installation, operation.uid, error, status=OperationStatus.CANCELED)
