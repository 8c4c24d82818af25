"""A long-running operation of the API: asked for, answered at once, done meanwhile. Its row outlives the process."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class OperationStatus(StrEnum):
    """Azure's words for how far it is."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


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
    """Who asked, by name; whether they may was decided then."""
    principal_uid: str | None = None
    """Who asked; None is whoever administers a local home."""
    status: OperationStatus = OperationStatus.IN_PROGRESS
    error: Mapping[str, Any] | None = None
    """ARM's error, of one that failed."""
    holder: str
    """The process that does it: as `Work.holder`."""
    started_at: datetime
    """The database's clock, as `finished_at`."""
    finished_at: datetime | None = None
