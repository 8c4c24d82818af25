"""Plan copies: select the replicas that can be made now, and the sources of each (docs/internals/replication.md).

The plan is level-triggered (invariant R1). Only the current replicas count, never the event that woke the caller.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from imgstore.domain.resources import Replica
from imgstore.domain.states import RESTORABLE_STATES, ReplicaState

_STAND_INS_MAX: Final = 8
"""Replicas of third regions that may replace the preferred source. Versions may have thousands of complete regions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """A replica that can be made now."""

    replica: Replica
    sources: tuple[Replica, ...]
    """Complete replicas, the preferred source first. The others serve segments that the preferred source cannot serve.
    The tuple is empty if the version has no complete replica. Then the worker checks the replica's own bytes, and
    restores the replica if the bytes are right.
    """
    is_cross_region: bool
    """True if the preferred source is in another region."""


def ready_steps(
    replicas: Sequence[Replica],
    *,
    source_region: str,
    busy: Collection[str],
    failed: Collection[str],
    once_complete: Collection[str] = (),
    parents: Mapping[str, str] | None = None,
) -> list[CopyStep]:
    """Select the replicas to start now.

    The first replica of a region comes from the source region, or else from any complete replica. With `parents`, the
    first replica comes from the parent of the region, and waits until the parent has a complete replica. Further replicas come
    from complete replicas of the same region. At most one copy runs per complete replica of a region, so sources
    double. If the first replica of a region failed, the next ordinal is tried, because the next slot may be in another
    zone. While an old replica of the version leaves a slot, no new replica starts in the slot.

    Args:
        replicas: All replicas of one version.
        source_region: The source region of the version.
        busy: The uids of replicas that any process makes now.
        failed: The uids of replicas to leave alone. Such replicas failed in this run, or wait for the next attempt.
        once_complete: The uids of replicas that were `Completed` before. If no replica is complete now, these replicas
            are restored from their own bytes, because no other copy exists.
        parents: The region to copy from, by region. None is the source region for all.
    """
    complete = [replica for replica in replicas if replica.state is ReplicaState.COMPLETED]
    if not complete:
        return [
            CopyStep(replica=replica, sources=(), is_cross_region=False)
            for replica in replicas
            if is_restorable(replica, once_complete) and replica.uid not in busy and replica.uid not in failed
        ]
    steps: list[CopyStep] = []
    leaving = {replica.slot.uid for replica in replicas if replica.state is ReplicaState.DELETING}
    finished = _by_region(complete)
    for region, inside in _by_region(replicas).items():
        here = finished.get(region, [])
        parent = source_region if parents is None or here else parents.get(region)
        if parents is not None and not here and parent not in finished:
            continue  # The copy waits for the parent.
        at_work = sum(replica.uid in busy for replica in inside)
        room = max(len(here), 1) - at_work
        waiting = [
            replica
            for replica in inside
            if replica.state not in (ReplicaState.COMPLETED, ReplicaState.DELETING)
            and replica.slot.uid not in leaving
            and replica.uid not in busy
            and replica.uid not in failed
        ]
        for turn, replica in enumerate(waiting[: max(room, 0)], at_work):
            steps.append(
                CopyStep(
                    replica=replica,
                    sources=_order_sources(region, (parent, source_region), finished, complete, turn),
                    is_cross_region=not here,
                )
            )
    return steps


def is_restorable(replica: Replica, once_complete: Collection[str]) -> bool:
    """Return whether a replica that was `Completed` before may still have all bytes."""
    return replica.uid in once_complete and replica.state in RESTORABLE_STATES


def _by_region(replicas: Sequence[Replica]) -> dict[str, list[Replica]]:
    found: defaultdict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        found[replica.slot.key.region].append(replica)
    return dict(found)


def _order_sources(
    region: str,
    preferred: Sequence[str | None],
    finished: Mapping[str, list[Replica]],
    complete: list[Replica],
    turn: int,
) -> tuple[Replica, ...]:
    """Order the sources of a replica.

    Replicas of the same region come first, rotated by `turn`. Replicas of the preferred regions follow, then a few of
    other regions.
    """
    here = finished.get(region, [])
    begin = turn % len(here) if here else 0
    near = [*here[begin:], *here[:begin]]
    first = [each for each in dict.fromkeys(preferred) if each is not None and each != region]
    chosen = [replica for each in first for replica in finished.get(each, ())]
    others = (replica for replica in complete if replica.slot.key.region not in (region, *first))
    return (*near, *chosen, *islice(others, _STAND_INS_MAX))
