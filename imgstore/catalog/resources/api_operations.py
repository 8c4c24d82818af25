"""Long-running operations of the API. Clients poll the rows, and a new server resumes operations from the rows."""

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import and_, delete, func, or_, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.async_operations import (
    END_DISK_ACCESS,
    LEASE_SECONDS,
    PUT_DEPLOYMENT,
    AsyncOperation,
    OperationStatus,
)

_operations = schema.operations
_preemptions = schema.preemptions
_OPEN: Final = OperationStatus.IN_PROGRESS

RETENTION: Final = timedelta(days=7)
"""The time for which a finished operation can be polled."""


class Operations(Repository):
    """The long-running operations of the installation."""

    def add(
        self,
        *,
        uid: str,
        subscription: str,
        kind: str,
        request: Mapping[str, Any],
        principal: str,
        principal_uid: str | None,
        holder: str,
        tenant_uid: str | None = None,
        resource_id: str | None = None,
    ) -> AsyncOperation:
        """Store an operation that begins now, and preempt older operations on the same resource.

        Do nothing if the operation is stored already.
        """
        operation = AsyncOperation(
            uid=uid,
            subscription=subscription,
            kind=kind,
            request=request,
            principal=principal,
            principal_uid=principal_uid,
            holder=holder,
            tenant_uid=tenant_uid,
            resource_id=resource_id,
            started_at=self._session.now(),
            lease_expires_at=self._lease_end(),
        )
        values = to_columns(_operations, operation)
        is_new = self._session.change(self._session.upsert(_operations).values(values).on_conflict_do_nothing())
        if is_new and resource_id is not None:
            is_access = kind == END_DISK_ACCESS
            self.preempt(self.find_older(resource_id, is_access=is_access, operation_uid=uid), resource_id)
        return operation

    def find_older(self, resource_id: str, *, is_access: bool, operation_uid: str | None) -> "builtins.list[str]":
        """Return the uids of operations in progress that a request preempts by a write to a resource.

        Args:
            resource_id: the resource.
            is_access: True if the request changes the access to the resource's bytes, False if it changes the resource.
            operation_uid: the operation of the request, or None.
        """
        is_same_part = _operations.c.kind == END_DISK_ACCESS if is_access else _operations.c.kind != END_DISK_ACCESS
        is_about = and_(func.lower(_operations.c.resource_id) == resource_id.lower(), is_same_part)
        may_write = is_about if is_access else or_(is_about, _operations.c.kind == PUT_DEPLOYMENT)
        found = select(_operations.c.uid).where(_operations.c.status == _OPEN, may_write)
        return [row.uid for row in self._session.all(found) if row.uid != operation_uid]

    def preempt(self, uids: Sequence[str], resource_id: str) -> None:
        """Record that a request which is newer than these operations wrote a resource."""
        rows = [{"operation_uid": uid, "resource_key": resource_id.lower()} for uid in uids]
        if rows:
            self._session.run(self._session.upsert(_preemptions).on_conflict_do_nothing(), rows)

    def preempted_resources(self, uid: str) -> frozenset[str]:
        """Return the ids, in lower case, of resources to which a request newer than the operation has written."""
        found = select(_preemptions.c.resource_key).where(_preemptions.c.operation_uid == uid)
        return frozenset(row.resource_key for row in self._session.all(found))

    def get(self, uid: str) -> AsyncOperation | None:
        """Return the operation with this uid, or None."""
        row = self._session.first(select(_operations).where(_operations.c.uid == uid))
        return None if row is None else to_value(AsyncOperation, row)

    def list_in_progress(self) -> "builtins.list[AsyncOperation]":
        """Return the operations in progress, oldest first."""
        order = (_operations.c.started_at, _operations.c.uid)
        rows = self._session.all(select(_operations).where(_operations.c.status == _OPEN).order_by(*order))
        return [to_value(AsyncOperation, row) for row in rows]

    def take_over(self, operation: AsyncOperation, holder: str) -> bool:
        """Make `holder` the holder of an operation.

        Return False if another process has changed or renewed the operation.
        """
        as_read = (
            _operations.c.uid == operation.uid,
            _operations.c.status == _OPEN,
            _operations.c.holder == operation.holder,
            _operations.c.lease_expires_at.is_not_distinct_from(operation.lease_expires_at),
        )
        values = {"holder": holder, "lease_expires_at": self._lease_end()}
        return bool(self._session.change(update(_operations).where(*as_read).values(values)))

    def renew(self, holder: str) -> None:
        """Renew the leases of a holder's operations in progress."""
        mine = (_operations.c.holder == holder, _operations.c.status == _OPEN)
        self._session.run(update(_operations).where(*mine).values(lease_expires_at=self._lease_end()))

    def is_lease_expired(self, operation: AsyncOperation) -> bool:
        """Return whether the lease has expired. Return False for rows of older servers, which do not renew leases."""
        return operation.lease_expires_at is not None and operation.lease_expires_at < self._session.now()

    def _lease_end(self) -> datetime:
        return self._session.now() + timedelta(seconds=LEASE_SECONDS)

    def list(self, subscription: str, *, status: OperationStatus | None = None) -> "builtins.list[AsyncOperation]":
        """Return the operations of a subscription, newest first, optionally only those with a status."""
        of = select(_operations).where(_operations.c.subscription == subscription)
        chosen = of if status is None else of.where(_operations.c.status == status)
        rows = self._session.all(chosen.order_by(_operations.c.started_at.desc(), _operations.c.uid))
        return [to_value(AsyncOperation, row) for row in rows]

    def list_writes(self, resource_id: str) -> "builtins.list[AsyncOperation]":
        """Return the operations in progress that change a resource, except deletions."""
        about = func.lower(_operations.c.resource_id) == resource_id.lower()
        which = (_operations.c.status == _OPEN, about, _operations.c.kind.not_like("delete-%"))
        return [to_value(AsyncOperation, row) for row in self._session.all(select(_operations).where(*which))]

    def request_cancel(self, uid: str, principal: str) -> bool:
        """Record that `principal` asks to cancel an operation. Return False if the operation has ended."""
        which = (_operations.c.uid == uid, _operations.c.status == _OPEN)
        return bool(self._session.change(update(_operations).where(*which).values(cancel_requested_by=principal)))

    def list_cancel_requested(self, holder: str) -> "builtins.list[AsyncOperation]":
        """Return the operations in progress of a holder for which a cancellation was requested."""
        which = (_operations.c.holder == holder, _operations.c.cancel_requested_by.is_not(None))
        return [
            to_value(AsyncOperation, row)
            for row in self._session.all(select(_operations).where(_operations.c.status == _OPEN, *which))
        ]

    def replace_request(self, uid: str, request: Mapping[str, Any]) -> None:
        """Replace the stored request of an operation."""
        self._session.run(update(_operations).where(_operations.c.uid == uid).values(request=request))

    def finish(self, uid: str, error: Mapping[str, Any] | None, *, status: OperationStatus | None = None) -> None:
        """Record the end of an operation and erase its request.

        Args:
            uid: the operation.
            error: ARM's error, or None after success.
            status: the final status. None means Succeeded, or Failed with an error.
        """
        status = status or (OperationStatus.SUCCEEDED if error is None else OperationStatus.FAILED)
        values = {"status": status, "error": error, "request": {}, "finished_at": self._session.now()}
        self._session.run(update(_operations).where(_operations.c.uid == uid).values(**values))
        self._session.run(delete(_preemptions).where(_preemptions.c.operation_uid == uid))

    def remove(self, uid: str) -> None:
        """Remove an operation that no client has received."""
        self._session.run(delete(_operations).where(_operations.c.uid == uid))
        self._session.run(delete(_preemptions).where(_preemptions.c.operation_uid == uid))

    def remove_expired(self) -> int:
        """Remove the operations that ended more than `RETENTION` ago. Return their number."""
        before = self._session.now() - RETENTION
        in_progress = select(_operations.c.uid).where(_operations.c.status == _OPEN)
        self._session.run(delete(_preemptions).where(_preemptions.c.operation_uid.not_in(in_progress)))
        return self._session.change(delete(_operations).where(_operations.c.finished_at < before))
