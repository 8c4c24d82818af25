"""What a worker begins next: fair between versions, bounded for each target region and in all. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from imgstore.domain.resources import Replica
from imgstore.domain.states import ReplicaState
from imgstore.policy.copy_plan import CopyStep, ready_steps

_RESTING_STATES: Final = (ReplicaState.FAILED, ReplicaState.DEGRADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedVersion:
    """One version with replicas to be made."""

    uid: str
    source_region: str
    replicas: Sequence[Replica]
    """All of them."""
    busy: frozenset[str]
    """uids of the replicas that some process makes now."""
    once_complete: frozenset[str] = frozenset()
    """uids of the replicas that were Completed before, whatever they are now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """How much one worker makes at once."""

    replicas: int = 4
    replicas_per_region: int = 2
    """Into one target region."""


def startable_steps(queued: QueuedVersion, now: datetime) -> list[CopyStep]:
    """The replicas of a version that may be begun now: those that failed rest until their time."""
    resting = {
        replica.uid
        for replica in queued.replicas
        if replica.state in _RESTING_STATES and replica.retry_at is not None and replica.retry_at > now
    }
    return ready_steps(
        queued.replicas,
        source_region=queued.source_region,
        busy=queued.busy,
        failed=resting,
        once_complete=queued.once_complete,
    )


def next_steps(
    queue: Sequence[QueuedVersion], *, now: datetime, at_work: Mapping[str, int], limits: WorkerLimits
) -> list[CopyStep]:
    """What to begin with, in order: one replica of each version in turn, then a second of each.

    So a version with a hundred replicas to be made, or with a terabyte in each, keeps a small one waiting for one turn.

    Args:
        queue: the one that waited longest first.
        now: the database's clock.
        at_work: replicas that this worker makes, by target region.
        limits: of this worker.
    """
    here = Counter(at_work)
    room = limits.replicas - here.total()
    chosen: list[CopyStep] = []
    for step in _interleave([startable_steps(queued, now) for queued in queue]):
        region = step.replica.slot.key.region
        if len(chosen) < room and here[region] < limits.replicas_per_region:
            here[region] += 1
            chosen.append(step)
    return chosen


def full_regions(at_work: Mapping[str, int], limits: WorkerLimits) -> frozenset[str]:
    """The regions to which a worker begins nothing more."""
    return frozenset(region for region, count in at_work.items() if count >= limits.replicas_per_region)


def _interleave(lists: Sequence[Sequence[CopyStep]]) -> Iterator[CopyStep]:
    for turn in range(max(map(len, lists), default=0)):
        yield from (steps[turn] for steps in lists if turn < len(steps))


BACKOFF_SECONDS_FIRST: Final = 30.0


BACKOFF_SECONDS_MAX: Final = 3600.0


def backoff_seconds(attempts: int, chance: float) -> float:
    """How long a replica rests after its `attempts`-th failure in a row: 30 s, doubled each time up to an hour.

    Jitter of half of it to either side keeps replicas that failed together, at one store, from coming back together.

    Args:
        attempts: failures since it was last complete, from 1.
        chance: from 0 to below 1, evenly spread.
    """
    doubled = BACKOFF_SECONDS_FIRST * 2.0 ** min(attempts - 1, 16)
    return min(doubled, BACKOFF_SECONDS_MAX) * (0.5 + chance)
