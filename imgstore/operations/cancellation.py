"""List long-running operations, and cancel them."""

from typing import Final

from imgstore.domain.async_operations import PUT_DEPLOYMENT, AsyncOperation, OperationStatus
from imgstore.domain.deployments import DeploymentState
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import Action, Principal, as_reader, is_allowed
from imgstore.operations.activity_log import permit, permit_list, record_activity
from imgstore.operations.api_operations import (
    close_operation,
    find_operation,
    is_abandoned,
    is_caller,
    operation_canceled,
    operation_not_found,
    operation_scope,
)
from imgstore.operations.deployments import deployment_id, end_deployments, show_deployment
from imgstore.operations.installation import Installation

_CANCEL: Final = "imgstore/operations/cancel/action"
_CANCEL_DEPLOYMENT: Final = "Microsoft.Resources/deployments/cancel/action"


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
    with installation.catalog.reading() as transaction:
        found = transaction.operations.list(installation.subscription, status=status)
    return [
        each
        for each in found
        if is_caller(principal, each)
        or is_allowed(principal, Action.READ, operation_scope(each.subscription, each.uid))
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
        raise operation_not_found(uid)
    with record_activity(installation, principal, Action.WRITE, found.resource_id or scope, _CANCEL, is_permitted=True):
        return _request_cancel(installation, principal, found)


def cancel_deployment(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Ask that a deployment stops, as Azure's Deployments_Cancel does. What it has made stays.

    Args:
        installation: where.
        principal: who asks.
        group: the resource group's name.
        name: the deployment's. It is not one that is nested in another.

    Raises:
        AccessDenied: the principal may not cancel it.
        NotFound: there is no such deployment.
        Conflict: it does not run, or is nested.
    """
    scope = deployment_id(installation, group, name)
    with record_activity(installation, principal, Action.CANCEL, scope, _CANCEL_DEPLOYMENT):
        found = show_deployment(installation, as_reader(principal, scope), group=group, name=name)
        running = find_operation(installation, found.uid) if found.state is DeploymentState.RUNNING else None
        if running is None:
            is_nested = found.state is DeploymentState.RUNNING
            raise Conflict(
                f"The deployment '{name}' cannot be cancelled.",
                found="a deployment that is nested in another" if is_nested else f"state {found.state}",
                expected="a deployment of its own that runs",
                hint="cancel the deployment around it" if is_nested else None,
                target=scope,
                code="DeploymentCannotBeCancelled",
            )
        _request_cancel(installation, principal, running)


def _request_cancel(installation: Installation, principal: Principal, operation: AsyncOperation) -> AsyncOperation:
    """Store the request, and end an operation that no process runs.

    Raises:
        NotFound: the operation is not stored any more.
        Conflict: it has ended in another way.
    """
    uid = operation.uid
    with installation.catalog.transaction() as transaction:
        is_open = transaction.operations.request_cancel(uid, principal.name)
        has_no_process = is_abandoned(installation, transaction, operation)
    if is_open and has_no_process:
        _end_operation(installation, operation)
    ended = find_operation(installation, uid)
    if ended is None:
        raise operation_not_found(uid)
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
    return is_caller(principal, operation) or (target is not None and is_allowed(principal, Action.WRITE, target))


def _end_operation(installation: Installation, operation: AsyncOperation) -> None:
    """End an operation that no process runs."""
    reason = operation_canceled()
    error = {"code": reason.error_code, "message": str(reason)}
    if operation.kind == PUT_DEPLOYMENT:
        end_deployments(installation, operation.uid, error, canceled=True)
    close_operation(installation, operation.uid, error, status=OperationStatus.CANCELED)
