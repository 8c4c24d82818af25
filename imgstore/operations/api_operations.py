"""Rows of long-running API operations. Clients poll the rows, and a new process resumes the operations.

The first transaction that an operation commits also stores the row of the operation. All rights for that transaction
were checked before. A refused request leaves no row.
"""

import json
import re
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.catalog.resources.api_operations import Operations
from imgstore.domain.async_operations import AsyncOperation, OperationStatus
from imgstore.domain.errors import AccessDenied, Conflict, ImgstoreError, NotFound, StoreError
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.operations.identity.principals import principal_of
from imgstore.operations.installation import Installation
from imgstore.operations.resource_uids import find_resource_uid

_ENDED: Final = "ended"
"""The key of the outcome in an erased request. The outcome is None if the row is to be removed."""
_TARGET_UID: Final = "target_uid"
"""The key of the uid of the deleted resource in the request of a deletion."""
_SECRET: Final = re.compile(r"://[^\s\"]*[?@]|\"(template|parameters)\":", re.IGNORECASE)


class PendingOperation:
    """An operation that was started and is not stored yet. Implements `OperationRecord`."""

    def __init__(
        self,
        installation: Installation,
        principal: Principal,
        *,
        kind: str,
        request: Mapping[str, Any],
        resource_id: str | None = None,
    ) -> None:
        self.uid = installation.effects.new_uid()
        self.resource_id = resource_id
        self._add = partial(
            Operations.add,
            uid=self.uid,
            subscription=installation.subscription,
            kind=kind,
            request=request,
            principal=principal.name,
            principal_uid=principal.uid,
            tenant_uid=principal.tenant,
            resource_id=resource_id,
            holder=installation.keeper.holder,
        )
        self._stored = threading.Event()

    @property
    def is_stored(self) -> bool:
        """See `OperationRecord.is_stored`."""
        return self._stored.is_set()

    def store(self, transaction: Transaction) -> None:
        """See `OperationRecord.store`."""
        self._add(transaction.operations)

    def note_stored(self) -> None:
        """See `OperationRecord.note_stored`."""
        self._stored.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedOperation:
    """A resumed operation with a stored row. Implements `OperationRecord`."""

    uid: str
    resource_id: str | None
    is_stored: bool = True

    def store(self, transaction: Transaction) -> None:
        """Do nothing, because the row is stored."""

    def note_stored(self) -> None:
        """Do nothing, because the row was stored before."""


class OperationPreempted(Conflict):
    """The error of a resumed operation that changes nothing, because a newer request for the resource was accepted."""

    code = "OperationPreempted"


def close_operation(
    installation: Installation,
    uid: str,
    error: Mapping[str, Any] | None = None,
    *,
    status: OperationStatus | None = None,
) -> None:
    """Store the outcome of an operation.

    Args:
        installation: the installation. The row of the operation of the catalog is stored first, if necessary.
        uid: the uid of the operation.
        error: the ARM error, None after success.
        status: the final status. None means Succeeded without an error and Failed with an error.
    """
    installation.catalog.store_operation()
    _erase_secrets(installation, uid, {_ENDED: {"error": error, "status": status}})
    with installation.catalog.transaction() as transaction:
        transaction.operations.finish(uid, error, status=status)


def _erase_secrets(installation: Installation, uid: str, instead: Mapping[str, Any]) -> None:
    """Erase a request with secrets from the catalog files before the end of the operation becomes visible.

    Otherwise, the signature of a source URL or a secret of a template stays in the write-ahead log of SQLite. A failed
    erasure does not fail the operation. The next erasure also erases this request.

    Args:
        installation: the installation.
        uid: the uid of the operation.
        instead: the content of the request column until the outcome is stored.
    """
    catalog = installation.catalog.without_operation
    if not catalog.is_erasable:
        return
    try:
        with catalog.reading() as transaction:
            found = transaction.operations.get(uid)
        if found is None or not may_hold_secret(found.request):
            return
        with catalog.transaction() as transaction:
            transaction.operations.replace_request(uid, instead)
        if not catalog.erase_deleted():
            installation.note("catalog", "the write-ahead log could not be emptied: another process reads the catalog")
    except StoreError as failure:
        installation.note("catalog", f"the write-ahead log could not be emptied: {failure.message}")


def may_hold_secret(request: Mapping[str, Any]) -> bool:
    """Return whether a request may contain a secret: a URL with a query or user info, or a template or parameters."""
    return bool(_SECRET.search(json.dumps(request)))


def drop_operation(installation: Installation, uid: str) -> None:
    """Remove the row of an operation with an unpublished uid, because the request was answered with an error."""
    _erase_secrets(installation, uid, {_ENDED: None})
    with installation.catalog.without_operation.transaction() as transaction:
        transaction.operations.remove(uid)


def load_caller(installation: Installation, operation: AsyncOperation) -> Principal:
    """Load the caller of a stored operation with the present rights of the caller.

    Raises:
        AccessDenied: the row names no caller, the caller was deleted, the issuer is not trusted any more, or the tokens
            of the caller were revoked after the request.
    """
    if operation.principal_uid is None:
        raise _operation_not_resumed(operation, "a row of an older server, without a caller")
    with installation.catalog.reading() as transaction:
        identity = transaction.principals.get(operation.principal_uid)
        if identity is None or operation.tenant_uid not in (None, identity.tenant_uid):
            raise _operation_not_resumed(operation, "a caller that was deleted")
        if identity.issuer is not None and transaction.issuers.get(identity.issuer) is None:
            raise _operation_not_resumed(
                operation, f"a caller of the issuer '{identity.issuer}', which is not trusted any more"
            )
        if identity.tokens_valid_after is not None and identity.tokens_valid_after >= operation.started_at:
            raise _operation_not_resumed(operation, "a caller with tokens that were revoked after the request")
        return principal_of(transaction, identity)


def refresh_principal(installation: Installation, principal: Principal) -> Principal:
    """Return a caller with the present rights. The caller of the command line has no uid and keeps all rights.

    Raises:
        AccessDenied: the caller was deleted, or the issuer is not trusted any more.
    """
    if principal.uid is None:
        return principal
    with installation.catalog.reading() as transaction:
        identity = transaction.principals.get(principal.uid)
        is_trusted = identity is not None and (
            identity.issuer is None or transaction.issuers.get(identity.issuer) is not None
        )
        if identity is None or not is_trusted:
            raise AccessDenied(
                f"The caller '{principal.name}' is not known any more.",
                found="a caller that was deleted, or a caller of an issuer that is not trusted any more",
                expected="a known caller of a trusted issuer",
                hint="send the request again as another principal",
            )
        return principal_of(transaction, identity)


def name_target(installation: Installation, request: Mapping[str, Any], resource_id: str) -> dict[str, Any]:
    """Return the request of a deletion with the uid of the resource, for `check_same_target`."""
    with installation.catalog.reading() as transaction:
        return {**request, _TARGET_UID: find_resource_uid(transaction, resource_id)}


def check_same_target(installation: Installation, operation: AsyncOperation) -> None:
    """Check that a resumed deletion still finds the resource of the request.

    After the deletion, a client may have created a new resource of the same name. That resource must not be deleted.

    Raises:
        NotFound: the resource is deleted.
    """
    if operation.resource_id is None or _TARGET_UID not in operation.request:
        return
    with installation.catalog.reading() as transaction:
        uid = find_resource_uid(transaction, operation.resource_id)
    if uid is None or uid != operation.request[_TARGET_UID]:
        raise NotFound(
            f"The resource of the operation '{operation.uid}' is deleted.",
            found="no resource at the id" if uid is None else "a new resource at the id",
            expected="the resource that the request named",
            target=operation.resource_id,
        )


def explain_lost_rights(operation: AsyncOperation, error: ImgstoreError) -> ImgstoreError:
    """Return the error of a resumed operation, extended by an explanation if the caller lost rights."""
    if not isinstance(error, AccessDenied) and error.error_code != "SubscriptionNotFound":
        return error
    return AccessDenied(
        f"The operation of '{operation.principal}' was not resumed after a restart of the server, because the caller "
        f"lost rights that the operation needs. {error.message}",
        found=error.found,
        expected=error.expected,
        hint="request the rights, then send the same request again",
        target=error.target,
    )


def preempted_resources(installation: Installation, operation: AsyncOperation) -> frozenset[str]:
    """Return the ids, in lower case, of the resources that newer requests wrote since an operation was stored."""
    with installation.catalog.reading() as transaction:
        return transaction.operations.preempted_resources(operation.uid)


def has_successor(installation: Installation, operation: AsyncOperation) -> bool:
    """Return whether a newer operation in progress makes the resource, so that a preempted operation need not."""
    assert operation.resource_id is not None, "a preempted operation is about a resource"
    key = operation.resource_id.lower()
    with installation.catalog.reading() as transaction:
        return any(
            (each.resource_id or "").lower() == key
            and each.kind == operation.kind
            and each.request.get("whole", True)
            and key not in transaction.operations.preempted_resources(each.uid)
            for each in transaction.operations.list_in_progress()
        )


def operation_preempted(resource_id: str) -> OperationPreempted:
    """Return the error of a resumed operation after a newer request for the resource. Azure defines the first sentence."""
    return OperationPreempted(
        "Operation execution has been preempted by a more recent operation.",
        found="a newer request for the same resource, accepted before the restart of the server",
        expected="the newest request for the resource",
        hint="show the resource, and send the request again if necessary",
        target=resource_id,
    )


def operation_canceled() -> Conflict:
    """Return the error of a canceled operation."""
    return Conflict(
        "The operation was canceled.",
        found="a request to cancel the operation",
        expected="an operation that runs until the end",
        hint="send the same request again to resume, or delete the resource",
        code="OperationCanceled",
    )


def _operation_not_resumed(operation: AsyncOperation, found: str) -> AccessDenied:
    return AccessDenied(
        f"The operation of '{operation.principal}' was not resumed after a restart of the server, because the caller "
        "can't be authorized any more.",
        found=found,
        expected="a known caller with valid tokens",
        hint="send the same request again",
        target=operation.resource_id,
    )


def show_operation(installation: Installation, principal: Principal, uid: str) -> AsyncOperation:
    """Return an operation to the caller of the operation, or to a principal with the right to read operations.

    Raises:
        NotFound: there is no such operation, or the operation ended too long ago.
        AccessDenied: the operation has another caller, and the principal does not have the right.
    """
    found = find_operation(installation, uid)
    if found is None or not is_caller(principal, found):
        # Authorize before reporting a missing operation, so that others cannot learn which operations exist.
        authorize(principal, Action.READ, operation_scope(installation.subscription, uid))
    if found is None:
        raise operation_not_found(uid)
    return found


def find_operation(installation: Installation, uid: str) -> AsyncOperation | None:
    """Return an operation of the subscription without authorization, or None if no operation has the uid."""
    with installation.catalog.reading() as transaction:
        found = transaction.operations.get(uid)
    return None if found is None or found.subscription.casefold() != installation.subscription.casefold() else found


def operation_not_found(uid: str) -> NotFound:
    """Return the error for an unknown operation uid."""
    return NotFound(
        f"The operation '{uid}' was not found.",
        found="no operation with the id in this subscription",
        expected="the id from the response to a request",
        hint="show the resource: an operation is deleted seven days after the end",
        target=uid,
    )


def is_caller(principal: Principal, operation: AsyncOperation) -> bool:
    """Return whether the principal is the caller of an operation."""
    return principal.uid is not None and operation.principal_uid == principal.uid


def operation_scope(subscription: str, uid: str) -> str:
    """Return the resource id of an operation, for authorization."""
    return f"/subscriptions/{subscription}/providers/Microsoft.Compute/locations/any/capsOperations/{uid}"


def take_over_operations(installation: Installation) -> list[AsyncOperation]:
    """Take over the unfinished operations of dead processes, and remove the rows of operations that ended long ago.

    Returns:
        The operations to resume. Operations with an erased request are ended here and are not returned.
    """
    with installation.catalog.transaction() as transaction:
        transaction.operations.remove_expired()
        abandoned = [
            each for each in transaction.operations.list_in_progress() if is_abandoned(installation, transaction, each)
        ]
        ours = [each for each in abandoned if transaction.operations.take_over(each, installation.keeper.holder)]
        for each in ours:
            if _ENDED in each.request:
                _store_end(transaction, each)
        unfinished = [each for each in ours if _ENDED not in each.request]
    with suppress(StoreError):
        installation.catalog.erase_deleted()  # secrets of a process that died at the end of an operation
    return unfinished


def is_abandoned(installation: Installation, transaction: Transaction, operation: AsyncOperation) -> bool:
    """Return whether the process of an operation is dead: a dead process of this machine, or an expired lease."""
    return installation.keeper.is_dead(operation.holder) or transaction.operations.is_lease_expired(operation)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationLeases:
    """The state of the operations in progress after a renewal."""

    lost: tuple[str, ...]
    """The uids of the operations of this process that another process has taken over."""
    abandoned: bool
    """Whether there are operations of a dead process."""


def renew_operations(installation: Installation, running: Collection[str]) -> OperationLeases:
    """Renew the leases of the operations of this process, and check the leases of other processes.

    The catalog is written only if this process has operations.

    Args:
        installation: the installation.
        running: the uids of the operations that run in this process.
    """
    holder = installation.keeper.holder
    with installation.catalog.reading() as transaction:
        unfinished = transaction.operations.list_in_progress()
        abandoned = any(each.holder != holder and is_abandoned(installation, transaction, each) for each in unfinished)
    if any(each.holder == holder for each in unfinished):
        with installation.catalog.transaction() as transaction:
            transaction.operations.renew(holder)
    lost = tuple(each.uid for each in unfinished if each.uid in running and each.holder != holder)
    return OperationLeases(lost=lost, abandoned=abandoned)


def _store_end(transaction: Transaction, operation: AsyncOperation) -> None:
    """Store the outcome of an operation after the process died between erasing the request and storing the outcome."""
    ended = operation.request[_ENDED]
    if ended is None:
        transaction.operations.remove(operation.uid)
        return
    status = None if ended["status"] is None else OperationStatus(ended["status"])
    transaction.operations.finish(operation.uid, ended["error"], status=status)
