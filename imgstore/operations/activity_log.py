"""The activity log: a row for each change of a resource, with caller, time and outcome, and for each refusal."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from imgstore.catalog import ActivityRow
from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError, InvalidInput, StoreError
from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.identity.access import (
    INSTALLATION,
    Action,
    Principal,
    authorize,
    has_related_role,
    is_allowed,
    operation_name,
)
from imgstore.operations.installation import Installation
from imgstore.operations.revisions import flush_revisions

_WRITES: Final = (Action.WRITE, Action.DELETE, Action.SHARE, Action.GENERALIZE, Action.EXPORT)
"""The actions that change a resource, or the access to its bytes."""
_TRANSACTIONS_MAX: Final = 100
"""The maximum number of transactions in a call of `trim_activity`. Each transaction deletes up to 1,000 rows."""


def permit(installation: Installation, principal: Principal, action: Action, scope: str, of: str | None = None) -> None:
    """Authorize an operation that only reads. A refusal is recorded in the activity log, a permission is not.

    Raises:
        AccessDenied: the principal does not have the right.
        NotFound: the principal has no role in the subscription.
    """
    if not is_allowed(principal, action, scope, of):
        with record_activity(installation, principal, action, scope, of=of):
            pass


def permit_list(installation: Installation, principal: Principal, scope: str) -> None:
    """Authorize a list. A refusal is recorded in the activity log.

    Raises:
        AccessDenied: the principal has no role at, above or below the scope.
        NotFound: the principal has no role in the whole subscription.
    """
    if not has_related_role(principal, scope):
        permit(installation, principal, Action.READ, scope)


@contextmanager
def record_activity(
    installation: Installation,
    principal: Principal,
    action: Action,
    scope: str,
    what: str | None = None,
    *,
    about: str = "",
    of: str | None = None,
    is_permitted: bool = False,
) -> Iterator[None]:
    """Authorize an action, run the block, and record the outcome in the activity log.

    A successful write also preempts the older operations in progress that write the same resource. The revisions of all
    changed resources are in the buckets before the return (invariant B18).

    Args:
        installation: the installation.
        principal: the caller.
        action: the kind of action.
        scope: the id of the resource.
        what: the name of the operation, such as "imgstore/gc". None uses Azure's name (`access.operation_name`).
        about: the part of the resource, such as a replica of a version, if the id does not name the part.
        of: the type of the resource, if the type differs from the type of the scope (`access.operation_name`).
        is_permitted: True if the action was authorized before.

    Raises:
        AccessDenied: the principal does not have the right. The block did not run.
    """
    begun_at = installation.effects.monotonic()
    outcome, detail, is_refused = "Succeeded", about, True
    what = what or operation_name(action, scope, of)
    older: list[str] = []
    try:
        if not is_permitted:
            authorize(principal, action, scope, of)
        is_refused = False
        if action in _WRITES and what.casefold() == operation_name(action, scope).casefold():
            older = _find_older(installation, action, scope)
        with translate_host_faults():
            yield
    except ImgstoreError as error:
        outcome, detail = "Failed", _join_detail(about, f"{error.error_code}: {error.message}")
        raise
    except BaseException as error:
        outcome, detail = "Interrupted", _join_detail(about, type(error).__name__)
        raise
    finally:
        try:
            with installation.catalog.without_operation.transaction() as transaction:
                now = transaction.now()
                if is_refused:
                    transaction.activity.add_refusal(
                        principal=principal.name, action=what, scope=scope, detail=detail, at=now
                    )
                else:
                    if outcome == "Succeeded":
                        transaction.operations.preempt(older, scope)
                    transaction.activity.add(
                        principal=principal.name,
                        action=what,
                        scope=scope,
                        outcome=outcome,
                        detail=detail,
                        started_at=now - timedelta(seconds=installation.effects.monotonic() - begun_at),
                        finished_at=now,
                    )
        except StoreError:
            if installation.catalog.write_fault is None:  # Otherwise the error of the operation says so.
                installation.note("activity log", f"could not be written for {what} on {scope}")
        if outcome == "Succeeded":
            flush_revisions(installation)


def _find_older(installation: Installation, action: Action, scope: str) -> list[str]:
    """Find the operations in progress that a write preempts, so that no server reverts the write later."""
    companion = installation.catalog.operation
    if companion is not None and companion.resource_id is not None and companion.resource_id.lower() == scope.lower():
        return []  # The transaction that stored the row of this operation has preempted older operations.
    uid = None if companion is None else companion.uid
    with installation.catalog.reading() as transaction:
        return transaction.operations.find_older(scope, is_access=action is Action.EXPORT, operation_uid=uid)


@contextmanager
def record_resource_deletion(
    installation: Installation, principal: Principal, scope: str, what: str | None = None
) -> Iterator[None]:
    """Authorize and record the deletion of a resource, and cancel the older operations that write the resource.

    A server that resumed such an operation would create the resource again.

    Raises:
        AccessDenied: the principal does not have the right. The block did not run.
    """
    with record_activity(installation, principal, Action.DELETE, scope, what):
        with installation.catalog.reading() as transaction:
            writes = transaction.operations.list_writes(scope)
        yield
        if writes:
            with installation.catalog.transaction() as transaction:
                for each in writes:
                    transaction.operations.request_cancel(each.uid, principal.name)


def trim_activity(installation: Installation) -> int:
    """Delete the oldest rows of the activity log beyond the maintenance limits, in short transactions.

    A call deletes up to about 100,000 rows, so that the call ends soon. The next call deletes further rows.

    Returns:
        The number of deleted rows.
    """
    bounds = installation.maintenance
    deleted = 0
    for _ in range(_TRANSACTIONS_MAX):
        with installation.catalog.transaction() as transaction:
            before = transaction.now() - timedelta(days=bounds.activity_days)
            found = transaction.activity.trim(before=before, rows_max=bounds.activity_rows_max)
        deleted += found
        if not found:
            break
    return deleted


def _join_detail(about: str, detail: str) -> str:
    return f"{about}: {detail}" if about else detail


def list_activity(
    installation: Installation,
    principal: Principal,
    *,
    group: str | None = None,
    resource_id: str | None = None,
    within: timedelta,
    events_max: int,
) -> list[ActivityRow]:
    """List rows of the activity log, newest first.

    Args:
        installation: the installation.
        principal: the caller, with the right to read the scope of the list.
        group: only rows of this resource group and of the resources in the group.
        resource_id: only rows of this resource and of the resources below.
        within: the age of the oldest row.
        events_max: the maximum number of rows.

    Raises:
        InvalidInput: the call names both a group and a resource.
        AccessDenied: the principal may not read the scope. Without a group and a resource, the scope is the installation.
    """
    if group is not None and resource_id is not None:
        raise InvalidInput(
            "The activity log cannot be listed for a resource group and a resource at the same time.",
            found=f"the group {group} and the resource {resource_id}",
            expected="a group, a resource, or neither",
            hint="leave --resource-group out: the resource id contains the group",
            target="resourceId",
        )
    scope = names.group_id(installation.subscription, group) if group is not None else resource_id
    authorize(principal, Action.READ, INSTALLATION if scope is None else scope)
    with installation.catalog.reading() as transaction:
        return transaction.activity.list(events_max, scope=scope, since=_window_start(transaction.now(), within))


def _window_start(now: datetime, within: timedelta) -> datetime | None:
    try:
        return now - within
    except OverflowError:
        return None  # The start would be before year 1: list all rows.
