"""Rolling updates of scale sets: the steps of the instances, the batch size, and the status."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from imgstore.domain.errors import InvalidInput

DEFAULT_BATCH_PERCENT: Final = 20
"""Azure's default of ``maxBatchInstancePercent``."""
_BATCH_SIZE: Final = re.compile(r"0*([0-9]{1,4})(%?)")
_INSTANCES_MAX: Final = 1000
_PERCENT_MAX: Final = 100


class StepState(StrEnum):
    """The state of an instance in a rolling update."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class UpdateStatus(StrEnum):
    """The status of a rolling update, in Azure's words."""

    ROLLING_FORWARD = "RollingForward"
    CANCELLED = "Cancelled"
    COMPLETED = "Completed"
    FAULTED = "Faulted"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStep:
    """The step of one instance."""

    instance_id: int
    state: StepState = StepState.PENDING
    reason: str | None = None
    """The reason for a failure."""
    starts_again: bool = False
    """Whether the instance ran before the step. The instance is started after the change of its OS disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """The largest number of instances that are updated at the same time: a number, or a percentage of the set."""

    number: int | None = None
    percent: int | None = None

    @classmethod
    def parse(cls, word: str, *, target: str = "batch-size") -> "BatchSize":
        """Parse ``5`` or ``20%``.

        Raises:
            InvalidInput: The text is not a number from 1 to 1000, and not a percentage from 1 to 100.
        """
        found = _BATCH_SIZE.fullmatch(word)
        value = 0 if found is None else int(found[1])
        is_percent = found is not None and found[2] == "%"
        if not 1 <= value <= (_PERCENT_MAX if is_percent else _INSTANCES_MAX):
            raise InvalidInput(
                "The batch size is invalid.",
                found=repr(word),
                expected=f"1 to {_INSTANCES_MAX} instances, or 1% to {_PERCENT_MAX}%",
                hint=f"the default is {DEFAULT_BATCH_PERCENT}%",
                target=target,
            )
        return cls(percent=value) if is_percent else cls(number=value)

    def __str__(self) -> str:
        """Return the notation of the command line."""
        return f"{self.percent}%" if self.percent is not None else str(self.number)

    def count(self, instances: int) -> int:
        """Return the number of instances in a batch. A batch has at least one instance."""
        if self.percent is None:
            return min(self.number or 1, max(instances, 1))
        return max(instances * self.percent // 100, 1)

    def percent_of(self, instances: int) -> int:
        """Return the size as a percentage of the set, for Azure's ``maxBatchInstancePercent``."""
        if self.percent is not None:
            return self.percent
        return max(self.count(instances) * 100 // max(instances, 1), 1)


DEFAULT_BATCH_SIZE: Final = BatchSize(percent=DEFAULT_BATCH_PERCENT)
"""The batch size of a request without a batch size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateProgress:
    """The numbers of instances by state."""

    succeeded: int = 0
    failed: int = 0
    in_progress: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingUpdate:
    """The last rolling update of a scale set."""

    source_reference: str
    """The resource id of the image version or managed image that the instances get."""
    batch_size: BatchSize
    continues_on_failure: bool = False
    """Whether the update continues after a failed instance."""
    is_cancelled: bool = False
    replaces_equal: bool = False
    """Whether an instance with a disk of this image also gets a new disk, as a reimage does."""
    steps: Sequence[InstanceStep] = ()
    """A step for each instance, by id."""
    started_at: datetime
    changed_at: datetime
    """The time of the last start or cancellation."""
