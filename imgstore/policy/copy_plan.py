"""Replication, decided: which replicas can be made now, and from where (DESIGN.md, "Across").

Level-triggered: everything is read from the replicas as they stand; nothing depends on what woke the caller.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from imgstore.domain.resources import Replica
from imgstore.domain.states import RESTORABLE_STATES, ReplicaState

_STAND_INS_MAX: Final = 8
"""So many replicas of third regions stand in for the preferred source: a version may be complete in thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """One replica that can be made now."""

    replica: Replica
    sources: tuple[Replica, ...]
    """Complete replicas, the preferred first; the others stand in for a segment that it can't serve. Empty where no
    replica of the version is complete: then the replica's own bytes are checked, and it is restored if they are right."""
    is_cross_region: bool
    """The preferred source is in another region."""


def ready_steps(
    replicas: Sequence[Replica],
    *,
    source_region: str,
    busy: Collection[str],
    failed: Collection[str],
    once_complete: Collection[str] = (),
) -> list[CopyStep]:
    """The replicas to begin with now.

    A region's first replica comes from the source region, else from any complete one; the others from a complete one
    of their region, at most as many at once as there are complete ones, so that sources double. A region whose first
    replica failed tries the next of its ordinals: its zone may be another. A slot that the version is still leaving
    takes it in again once it has left.

    Args:
        replicas: of one version, all of them.
        source_region: the version's.
        busy: uids of the replicas that are being made, by whomever.
        failed: uids of those that are left alone: they failed in this run, or rest until their time.
        once_complete: uids of the replicas that were Completed before. Where none is now, these are restored from their
            own bytes: nobody else has any.
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
    origin = [replica for replica in complete if replica.slot.key.region == source_region]
    by_region: defaultdict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        by_region[replica.slot.key.region].append(replica)
    for inside in by_region.values():
        at_work = sum(replica.uid in busy for replica in inside)
        here = [replica for replica in inside if replica.state is ReplicaState.COMPLETED]
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
                    sources=_sources(replica.slot.key.region, here, source_region, origin, complete, turn),
                    is_cross_region=not here,
                )
            )
    return steps


def is_restorable(replica: Replica, once_complete: Collection[str]) -> bool:
    """Whether a replica was Completed before and is not now, so that its own bytes may be all right."""
    return replica.uid in once_complete and replica.state in RESTORABLE_STATES


def _sources(
    region: str, here: list[Replica], source_region: str, origin: list[Replica], complete: list[Replica], turn: int
) -> tuple[Replica, ...]:
    """Those of the region first, beginning with another at each turn; then the source region's; then some others."""
    begin = turn % len(here) if here else 0
    near = [*here[begin:], *here[:begin]]
    others = (replica for replica in complete if replica.slot.key.region not in (region, source_region))
    return (*near, *(origin if region != source_region else ()), *islice(others, _STAND_INS_MAX))
