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
    """List the stored operations of the subscription that the principal started or may read, newest first.

    Args:
        installation: the installation.
        principal: the caller.
        status: only operations with this status.

    Raises:
        NotFound: the principal has no role in the subscription.
    """
    permit_list(installation, principal, installation.scope)
    with installation.catalog.reading() as transaction:
        found = transaction.operations.list(installation.subscription, status=status)
    return [
        each
        for each in found
        if is_caller(principal, each)
        or is_allowed(principal, Action.READ, operation_scope(each.subscription, each.uid))
    ]


def cancel_operation(installation: Installation, principal: Principal, uid: str) -> AsyncOperation:
    """Request the cancellation of an operation.

    The caller of the operation and principals with the right to write the resource may cancel an operation. The process
    of the operation stops at the next step. Another process sees the request after about a second. The results so far
    stay, as after an interruption: the same request resumes, or the resource can be deleted. An operation of a dead
    process ends at once.

    Args:
        installation: the installation.
        principal: the caller.
        uid: the uid of the operation.

    Returns:
        The operation, with status InProgress until the stop and Canceled afterwards.

    Raises:
        NotFound: there is no such operation in the subscription.
        AccessDenied: the principal is not the caller of the operation, and may not write the resource.
        Conflict: the operation has succeeded or failed.
    """
    found = find_operation(installation, uid)
    scope = operation_scope(installation.subscription, uid)
    if found is None or not _may_cancel(principal, found):
        # Refuse an unknown operation and an operation of another caller in the same words.
        permit(installation, principal, Action.WRITE, scope)
    if found is None:
        raise operation_not_found(uid)
    with record_activity(installation, principal, Action.WRITE, found.resource_id or scope, _CANCEL, is_permitted=True):
        return _request_cancel(installation, principal, found)


def cancel_deployment(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Request the cancellation of a deployment, as Deployments_Cancel of Azure. Created resources stay.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the deployment, which must not be nested in another deployment.

    Raises:
        AccessDenied: the principal may not cancel the deployment.
        NotFound: there is no such deployment.
        Conflict: the deployment does not run, or is nested.
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
                expected="a running deployment that is not nested",
                hint="cancel the outer deployment" if is_nested else None,
                target=scope,
                code="DeploymentCannotBeCancelled",
            )
        _request_cancel(installation, principal, running)


def _request_cancel(installation: Installation, principal: Principal, operation: AsyncOperation) -> AsyncOperation:
    """Store the cancellation request, and end the operation of a dead process.

    Raises:
        NotFound: the operation is not stored any more.
        Conflict: the operation has succeeded or failed.
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
            hint="delete the resource, or send a request that reverts the change",
            target=uid,
            code="OperationNotAllowed",
        )
    return ended


def _may_cancel(principal: Principal, operation: AsyncOperation) -> bool:
    """Return whether the principal is the caller of the operation, or may write the resource of the operation."""
    target = operation.resource_id
    return is_caller(principal, operation) or (target is not None and is_allowed(principal, Action.WRITE, target))


def _end_operation(installation: Installation, operation: AsyncOperation) -> None:
    """End the operation of a dead process, and the deployments of the operation."""
    reason = operation_canceled()
    error = {"code": reason.error_code, "message": str(reason)}
    if operation.kind == PUT_DEPLOYMENT:
        end_deployments(installation, operation.uid, error, canceled=True)
    close_operation(installation, operation.uid, error, status=OperationStatus.CANCELED)
