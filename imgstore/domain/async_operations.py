"""Long-running operations of the API. The answer comes at once, the work continues, and the row outlives a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

PUT_DEPLOYMENT: Final = "put-deployment"
"""The command that creates deployments.

A deployment also writes other resources. A newer request about any resource therefore preempts open deployments for
this resource.
"""
END_DISK_ACCESS: Final = "end-disk-access"
"""The command that revokes the access to the bytes of a disk. The command changes no other property of the disk."""
LEASE_SECONDS: Final = 60.0
"""A process that does not renew the leases of operations for this time counts as dead."""


class OperationStatus(StrEnum):
    """The status of an operation, in Azure's words."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncOperation:
    """A request that continues after the first answer."""

    uid: str
    subscription: str
    kind: str
    """The command of the API, such as "put-version"."""
    request: Mapping[str, Any]
    """JSON with all arguments for a repetition. Emptied at the end, because the URL of a source may be signed."""
    principal: str
    """The name of the caller."""
    principal_uid: str | None = None
    """The object id of the caller.

    A resumed operation has the rights of the caller at that time. An operation without a caller is not resumed.
    """
    tenant_uid: str | None = None
    """The tenant of the caller. None in rows of older servers."""
    resource_id: str | None = None
    """The resource of the operation. None in rows of older servers."""
    status: OperationStatus = OperationStatus.IN_PROGRESS
    error: Mapping[str, Any] | None = None
    """ARM's error of a failed or canceled operation."""
    holder: str
    """The process that performs the operation, in the notation of `Work.holder`."""
    started_at: datetime
    """The start by the clock of the database, like `finished_at`."""
    finished_at: datetime | None = None
    cancel_requested_by: str | None = None
    """The name of the principal that requested the cancellation."""
    lease_expires_at: datetime | None = None
    """The holder counts as dead after this time, by the clock of the database. None in rows of older servers."""

    @property
    def has_ended(self) -> bool:
        """Whether the status is final."""
        return self.status is not OperationStatus.IN_PROGRESS
