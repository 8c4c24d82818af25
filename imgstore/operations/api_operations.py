"""Long-running operations of the API as rows: what clients poll, and what a new process resumes.

A row is stored together with the first transaction that its operation commits, so after every right was checked that
the operation needs for it. A refused request leaves no row.
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
"""In the place of a request that was erased: how its operation ended, or None where its row is to be removed."""
_TARGET_UID: Final = "target_uid"
"""In the request of a deletion: the uid of the resource that it is about."""
_SECRET: Final = re.compile(r"://[^\s\"]*[?@]|\"(template|parameters)\":", re.IGNORECASE)


class PendingOperation:
    """An operation that has begun and whose row is not stored yet: the `OperationRecord` of its catalog."""

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
    """An operation that is resumed, whose row is stored: the `OperationRecord` of its catalog."""

    uid: str
    resource_id: str | None
    is_stored: bool = True

    def store(self, transaction: Transaction) -> None:
        """Store nothing."""

    def note_stored(self) -> None:
        """Do nothing."""


class OperationPreempted(Conflict):
    """A newer request about the same resource was accepted, so that a resumed operation changes nothing."""

    code = "OperationPreempted"


def close_operation(
    installation: Installation,
    uid: str,
    error: Mapping[str, Any] | None = None,
    *,
    status: OperationStatus | None = None,
) -> None:
    """Store how an operation ended.

    Args:
        installation: where. A companion of its catalog is stored first, if it is not yet.
        uid: the operation's.
        error: ARM's error; None is success.
        status: None is Succeeded, or Failed with an error.
    """
    installation.catalog.store_operation()
    _erase_secrets(installation, uid, {_ENDED: {"error": error, "status": status}})
    with installation.catalog.transaction() as transaction:
        transaction.operations.finish(uid, error, status=status)


def _erase_secrets(installation: Installation, uid: str, instead: Mapping[str, Any]) -> None:
    """Erase what an operation was asked with from the files of the catalog, before its end is seen.

    The signature of a source's URL, or a secret in a template, would stay in SQLite's log otherwise. A failure is no
    failure of the operation: the next one that is erased erases this one too.

    Args:
        installation: where.
        uid: the operation's.
        instead: what its row holds until its end is stored.
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
    """Tell whether a request may hold a secret: a URL with a query or a user, or a template with its parameters."""
    return bool(_SECRET.search(json.dumps(request)))


def drop_operation(installation: Installation, uid: str) -> None:
    """Remove the row of an operation whose uid nobody was given: its request was answered with an error."""
    _erase_secrets(installation, uid, {_ENDED: None})
    with installation.catalog.without_operation.transaction() as transaction:
        transaction.operations.remove(uid)


def load_caller(installation: Installation, operation: AsyncOperation) -> Principal:
    """The caller of an operation, with the rights that it has now.

    Raises:
        AccessDenied: the row names no caller, or the caller is not known any more, is of an issuer that is not trusted
            any more, or had its tokens taken back since.
    """
    if operation.principal_uid is None:
        raise _operation_not_resumed(operation, "a row of an older server, without a caller")
    with installation.catalog.reading() as transaction:
        identity = transaction.principals.get(operation.principal_uid)
        if identity is None or operation.tenant_uid not in (None, identity.tenant_uid):
            raise _operation_not_resumed(operation, "a caller that is not known any more")
        if identity.issuer is not None and transaction.issuers.get(identity.issuer) is None:
            raise _operation_not_resumed(operation, f"a caller of '{identity.issuer}', which is not trusted any more")
        if identity.tokens_valid_after is not None and identity.tokens_valid_after >= operation.started_at:
            raise _operation_not_resumed(operation, "a caller whose tokens were taken back after the request")
        return principal_of(transaction, identity)


def refresh_principal(installation: Installation, principal: Principal) -> Principal:
    """Return a caller with the rights that it has now. A caller without an object id, the command line's, has all of them.

    Raises:
        AccessDenied: the caller is not known any more, or is of an issuer that is not trusted any more.
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
                f"'{principal.name}' is not known any more.",
                found="a caller that was deleted, or whose issuer is not trusted any more",
                expected="a caller that is known",
                hint="send the request again as somebody else",
            )
        return principal_of(transaction, identity)


def name_target(installation: Installation, request: Mapping[str, Any], resource_id: str) -> dict[str, Any]:
    """Add the uid of the resource at an id to the request of a deletion, for `check_same_target`."""
    with installation.catalog.reading() as transaction:
        return {**request, _TARGET_UID: find_resource_uid(transaction, resource_id)}


def check_same_target(installation: Installation, operation: AsyncOperation) -> None:
    """Check that a deletion which is resumed finds the resource that it began to delete.

    Once it has deleted it, another resource of the same name may have been made, which nobody asked to delete.

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
            found="nothing at its id" if uid is None else "a new resource at its id",
            expected="the resource that it began to delete",
            target=operation.resource_id,
        )


def explain_lost_rights(operation: AsyncOperation, error: ImgstoreError) -> ImgstoreError:
    """The error of a resumed operation: where its caller has not the rights any more, one that says so."""
    if not isinstance(error, AccessDenied) and error.error_code != "SubscriptionNotFound":
        return error
    return AccessDenied(
        f"The operation of '{operation.principal}' was not resumed after a restart of the server: its caller does not "
        f"have the rights any more that it needs. {error.message}",
        found=error.found,
        expected=error.expected,
        hint="get the rights, then send the same request again",
        target=error.target,
    )


def preempted_resources(installation: Installation, operation: AsyncOperation) -> frozenset[str]:
    """Return the ids, in lower case, of the resources that newer requests wrote since an operation was stored."""
    with installation.catalog.reading() as transaction:
        return transaction.operations.preempted_resources(operation.uid)


def has_successor(installation: Installation, operation: AsyncOperation) -> bool:
    """Tell whether a newer operation in progress makes the same resource, so that a preempted one leaves it to that one."""
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
    """What ends a resumed operation whose resource a newer request wrote. The first sentence is Azure's."""
    return OperationPreempted(
        "Operation execution has been preempted by a more recent operation.",
        found="a newer request about the same resource, accepted before the server was started again",
        expected="the newest request about the resource",
        hint="look at the resource, and send the request again if it is still wanted",
        target=resource_id,
    )


def operation_canceled() -> Conflict:
    """What ends an operation that was canceled."""
    return Conflict(
        "The operation was canceled.",
        found="a request to cancel it",
        expected="an operation that runs to its end",
        hint="send the same request again to go on, or delete the resource",
        code="OperationCanceled",
    )


def _operation_not_resumed(operation: AsyncOperation, found: str) -> AccessDenied:
    return AccessDenied(
        f"The operation of '{operation.principal}' was not resumed after a restart of the server: its caller can't be "
        "authorized any more.",
        found=found,
        expected="a caller that is known, and whose tokens are good",
        hint="send the same request again",
        target=operation.resource_id,
    )


def show_operation(installation: Installation, principal: Principal, uid: str) -> AsyncOperation:
    """The operation of that uid. Who asked for it may see it; others need to read its subscription.

    Raises:
        NotFound: there is none, or it ended too long ago.
        AccessDenied: it is another's.
    """
    found = find_operation(installation, uid)
    if found is None or not is_caller(principal, found):
        # Before the operation is reported as missing: others must not learn which operations exist.
        authorize(principal, Action.READ, operation_scope(installation.subscription, uid))
    if found is None:
        raise operation_not_found(uid)
    return found


def find_operation(installation: Installation, uid: str) -> AsyncOperation | None:
    """The operation of that uid in the subscription, whoever asks; None if there is none."""
    with installation.catalog.reading() as transaction:
        found = transaction.operations.get(uid)
    return None if found is None or found.subscription.casefold() != installation.subscription.casefold() else found


def operation_not_found(uid: str) -> NotFound:
    """What is raised where there is no operation of that uid."""
    return NotFound(
        f"The operation '{uid}' was not found.",
        found="no operation of that id in this subscription",
        expected="the id that the answer to a request gave",
        hint="operations are kept for seven days after their end: look at the resource itself",
        target=uid,
    )


def is_caller(principal: Principal, operation: AsyncOperation) -> bool:
    """Whether it is the principal's own operation."""
    return principal.uid is not None and operation.principal_uid == principal.uid


def operation_scope(subscription: str, uid: str) -> str:
    """The resource id of an operation."""
    return f"/subscriptions/{subscription}/providers/Microsoft.Compute/locations/any/capsOperations/{uid}"


def take_over_operations(installation: Installation) -> list[AsyncOperation]:
    """Take over the unfinished operations of dead processes, and remove the rows of those that ended long ago."""
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
        installation.catalog.erase_deleted()  # what a process left that died at the end of an operation
    return unfinished


def is_abandoned(installation: Installation, transaction: Transaction, operation: AsyncOperation) -> bool:
    """Whether the process that ran an operation is dead: known to be on this machine, or silent for too long."""
    return installation.keeper.is_dead(operation.holder) or transaction.operations.is_lease_expired(operation)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationLeases:
    """What a look at the operations in progress has shown."""

    lost: tuple[str, ...]
    """The uids of those that another process has taken over."""
    abandoned: bool
    """Whether a dead process has left some."""


def renew_operations(installation: Installation, running: Collection[str]) -> OperationLeases:
    """Renew the leases of the operations that this process runs, and look at those of others. Writes only if it has some.

    Args:
        installation: where.
        running: the uids of the operations that run here.
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
    """Store the end of an operation whose process died after it had erased the request."""
    ended = operation.request[_ENDED]
    if ended is None:
        transaction.operations.remove(operation.uid)
        return
    status = None if ended["status"] is None else OperationStatus(ended["status"])
    transaction.operations.finish(operation.uid, ended["error"], status=status)
