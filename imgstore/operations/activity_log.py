"""The activity log: who did what to which resource, when, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from imgstore.catalog import ActivityRow
from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError, InvalidInput, StoreError
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

_WRITES: Final = (Action.WRITE, Action.DELETE, Action.SHARE, Action.GENERALIZE, Action.EXPORT)
"""The actions that change a resource, or the access to its bytes."""
_TRANSACTIONS_MAX: Final = 100
"""Of one call of `trim_activity`; each deletes up to a thousand rows."""


def permit(installation: Installation, principal: Principal, action: Action, scope: str, of: str | None = None) -> None:
    """`authorize` for what only reads: what is granted leaves no row, what is refused does.

    Raises:
        AccessDenied: the principal may not.
        NotFound: nor may it know of the subscription.
    """
    if not is_allowed(principal, action, scope, of):
        with record_activity(installation, principal, action, scope, operation_name(action, scope, of), of=of):
            pass


def permit_list(installation: Installation, principal: Principal, scope: str) -> None:
    """`authorize_list`, with a row where it refuses.

    Raises:
        AccessDenied: the principal has no role at, above or below the scope.
        NotFound: nor in the whole subscription.
    """
    if not has_related_role(principal, scope):
        permit(installation, principal, Action.READ, scope)


@contextmanager
def record_activity(
    installation: Installation,
    principal: Principal,
    action: Action,
    scope: str,
    what: str,
    *,
    about: str = "",
    of: str | None = None,
    is_permitted: bool = False,
) -> Iterator[None]:
    """Ask whether `principal` may, then run the block and leave a row that says how it ended.

    Args:
        installation: where.
        principal: who.
        action: what kind.
        scope: the resource's id.
        what: the operation's name, as Azure's ("Microsoft.Compute/galleries/write").
        about: which part of the resource, where the id does not tell: a replica of a version.
        of: the type of resource, where it is not that of the scope (`access.operation_name`).
        is_permitted: the caller has asked already, and `principal` may.

    Raises:
        AccessDenied: before the block runs.
    """
    begun_at = installation.effects.monotonic()
    outcome, detail, is_refused = "Succeeded", about, True
    older: list[str] = []
    try:
        if not is_permitted:
            authorize(principal, action, scope, of)
        is_refused = False
        if action in _WRITES and what.casefold() == operation_name(action, scope).casefold():
            older = _find_older(installation, action, scope)
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
            installation.note("activity log", f"could not be written for {what} on {scope}")


def _find_older(installation: Installation, action: Action, scope: str) -> list[str]:
    """Find the operations in progress that a write of a resource preempts: no server may undo the write later."""
    companion = installation.catalog.operation
    if companion is not None and companion.resource_id is not None and companion.resource_id.lower() == scope.lower():
        return []  # Its row did so when it was stored.
    uid = None if companion is None else companion.uid
    with installation.catalog.reading() as transaction:
        return transaction.operations.find_older(scope, is_access=action is Action.EXPORT, operation_uid=uid)


@contextmanager
def record_resource_deletion(installation: Installation, principal: Principal, scope: str, what: str) -> Iterator[None]:
    """Do as `record_activity` for the deletion of a resource, and cancel the operations that began to write it before.

    A server that resumes such an operation would make the resource again.

    Raises:
        AccessDenied: before the block runs.
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
    """Delete the oldest rows of the activity log that are beyond the bounds of maintenance, in short transactions.

    One call deletes up to about 100,000 rows, so that it ends soon; the next call goes on.

    Returns:
        How many were deleted.
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
    """What was done, the latest first.

    Args:
        installation: where.
        principal: who asks: one that may read what is asked for.
        group: only what was done to this resource group, and in it.
        resource_id: only what was done to this resource, and below it.
        within: until so long ago.
        events_max: the last so many.

    Raises:
        InvalidInput: both a group and a resource are named.
        AccessDenied: the principal may not read there; all that the installation did takes one who may read all of it.
    """
    if group is not None and resource_id is not None:
        raise InvalidInput(
            "What was done is listed of one group, or of one resource.",
            found=f"the group {group} and the resource {resource_id}",
            expected="one of them, or neither",
            hint="leave --resource-group out: the id of a resource names its group",
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
        return None  # Before the first of all years: everything.
