"""A long-running operation of the API: asked for, answered at once, done meanwhile. Its row outlives the process."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

PUT_DEPLOYMENT: Final = "put-deployment"
"""The command that makes deployments: it writes other resources too, and their rows end with their operation's."""
END_DISK_ACCESS: Final = "end-disk-access"
"""The command that revokes the access to a disk's bytes: it writes nothing else of the disk."""
LEASE_SECONDS: Final = 60.0
"""A process that has not renewed the leases of its operations for so long is taken for dead."""


class OperationStatus(StrEnum):
    """Azure's words for how far it is."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncOperation:
    """One request that goes on after its answer."""

    uid: str
    subscription: str
    kind: str
    """Which command of the API it is: "put-version"."""
    request: Mapping[str, Any]
    """JSON: all that the command needs to be done again. Emptied at the end, since a source's URL may be signed."""
    principal: str
    """The caller's name."""
    principal_uid: str | None = None
    """The caller's object id. An operation is resumed with the rights that the caller has at that time; without a
    caller it is not resumed."""
    tenant_uid: str | None = None
    """The tenant of the caller; None in rows of older servers."""
    resource_id: str | None = None
    """The resource that the operation is about; None in rows of older servers."""
    status: OperationStatus = OperationStatus.IN_PROGRESS
    error: Mapping[str, Any] | None = None
    """ARM's error, of one that failed or was canceled."""
    holder: str
    """The process that does it: as `Work.holder`."""
    started_at: datetime
    """The database's clock, as `finished_at`."""
    finished_at: datetime | None = None
    cancel_requested_by: str | None = None
    """The name of the principal that asked to cancel it."""
    lease_expires_at: datetime | None = None
    """The holder is taken for dead after that, by the database's clock; None in rows of older servers."""

    @property
    def has_ended(self) -> bool:
        """Whether its status is final."""
        return self.status is not OperationStatus.IN_PROGRESS
