"""Select the next replicas of a worker: fair between versions, with limits per target region and in total."""

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
    """A version with replicas to make."""

    uid: str
    source_region: str
    replicas: Sequence[Replica]
    """All replicas of the version."""
    busy: frozenset[str]
    """The uids of replicas that any process makes now."""
    once_complete: frozenset[str] = frozenset()
    """The uids of replicas that were `Completed` before, in whatever state now."""
    parents: Mapping[str, str] | None = None
    """The region that each region without a complete replica is copied from. None for the route `source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """The number of replicas that one worker makes at the same time."""

    replicas: int = 4
    replicas_per_region: int = 2
    """The limit for each target region."""


def find_resting(replicas: Sequence[Replica], now: datetime) -> set[str]:
    """Return the uids of the replicas that failed and wait until `retry_at`."""
    return {
        replica.uid
        for replica in replicas
        if replica.state in _RESTING_STATES and replica.retry_at is not None and replica.retry_at > now
    }


def startable_steps(queued: QueuedVersion, now: datetime) -> list[CopyStep]:
    """Return the replicas of a version that can start now. Failed replicas wait until `retry_at`."""
    return ready_steps(
        queued.replicas,
        source_region=queued.source_region,
        busy=queued.busy,
        failed=find_resting(queued.replicas, now),
        once_complete=queued.once_complete,
        parents=queued.parents,
    )


def next_steps(
    queue: Sequence[QueuedVersion], *, now: datetime, at_work: Mapping[str, int], limits: WorkerLimits
) -> list[CopyStep]:
    """Select the next replicas in order: one replica of each version, then a second of each version.

    A version with a hundred replicas, or with a terabyte in each replica, therefore delays a small version by one
    replica only.

    Args:
        queue: The versions, the longest waiting version first.
        now: The time of the database's clock.
        at_work: The number of replicas that this worker makes now, by target region.
        limits: The limits of this worker.
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
    """Return the regions in which a worker starts no further replica."""
    return frozenset(region for region, count in at_work.items() if count >= limits.replicas_per_region)


def _interleave(lists: Sequence[Sequence[CopyStep]]) -> Iterator[CopyStep]:
    for turn in range(max(map(len, lists), default=0)):
        yield from (steps[turn] for steps in lists if turn < len(steps))


BACKOFF_SECONDS_FIRST: Final = 30.0


BACKOFF_SECONDS_MAX: Final = 3600.0


def backoff_seconds(attempts: int, chance: float) -> float:
    """Return how long a replica waits after `attempts` failures in a row: 30 s, doubled each time up to one hour.

    The result is scaled by 0.5 to 1.5. Replicas that failed together at one store therefore do not retry together.

    Args:
        attempts: Failures since the replica was last complete, from 1.
        chance: A random number from 0 to below 1, uniformly distributed.
    """
    doubled = BACKOFF_SECONDS_FIRST * 2.0 ** min(attempts - 1, 16)
    return min(doubled, BACKOFF_SECONDS_MAX) * (0.5 + chance)
