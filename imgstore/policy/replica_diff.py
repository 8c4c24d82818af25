"""Which replicas a version lacks and which it has too many of, when its target regions change (DESIGN.md, "Across").

Level-triggered, like ``policy/copy_plan.py``: the targets are what is desired, the replicas what is observed, and whatever
an earlier run left half done is decided anew from both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imgstore.domain.resources import Replica, TargetRegion
from imgstore.domain.states import ReplicaState

_KEEP_ORDER: Final = (
    ReplicaState.COMPLETED,
    ReplicaState.REPLICATING,
    ReplicaState.DEGRADED,
    ReplicaState.FAILED,
    ReplicaState.PENDING,
)
"""Of too many in one region those go whose loss costs least: the last of these first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDiff:
    """What makes the replicas what the targets ask for."""

    missing: tuple[tuple[TargetRegion, int], ...]
    """Target and ordinal of each replica that is to be made."""
    surplus: tuple[Replica, ...]
    """Replicas that can go now."""
    outgoing: tuple[Replica, ...]
    """Replicas that go once one that stays is complete: until then they serve, and the others are copied from them."""


def diff_replicas(replicas: Sequence[Replica], targets: Sequence[TargetRegion]) -> ReplicaDiff:
    """Compare the replicas of one version, all of them, with its targets."""
    standing = [replica for replica in replicas if replica.state is not ReplicaState.DELETING]
    missing: list[tuple[TargetRegion, int]] = []
    staying: list[Replica] = []
    for target in targets:
        inside = [replica for replica in standing if _matches(replica, target)]
        kept = sorted(inside, key=_keep_rank)[: target.regional_replica_count]
        taken = {replica.slot.key.ordinal for replica in kept}
        free = [ordinal for ordinal in range(target.regional_replica_count) if ordinal not in taken]
        staying += kept
        missing += [(target, ordinal) for ordinal in free[: target.regional_replica_count - len(kept)]]
    leaving = [replica for replica in standing if replica not in staying]
    wanted = {target.name for target in targets}
    outgoing = [replica for replica in leaving if _still_needed(replica, staying, wanted)]
    return ReplicaDiff(
        missing=tuple(missing),
        surplus=tuple(replica for replica in leaving if replica not in outgoing),
        outgoing=tuple(outgoing),
    )


def find_removed_regions(replicas: Sequence[Replica], targets: Sequence[TargetRegion]) -> list[str]:
    """The regions where a version is complete and that are no targets any more."""
    wanted = {target.name for target in targets}
    complete = (replica.slot.key.region for replica in replicas if replica.state is ReplicaState.COMPLETED)
    return sorted({region for region in complete if region not in wanted})


def _matches(replica: Replica, target: TargetRegion) -> bool:
    key = replica.slot.key
    return (key.region, key.storage_account_type) == (target.name, target.storage_account_type)


def _keep_rank(replica: Replica) -> tuple[int, int]:
    return _KEEP_ORDER.index(replica.state), replica.slot.key.ordinal


def _still_needed(replica: Replica, staying: Sequence[Replica], wanted: set[str]) -> bool:
    """Whether it serves what no replica that stays serves yet: its region, if that is a target, or the version."""
    region = replica.slot.key.region
    serving = {each.slot.key.region for each in staying if each.state is ReplicaState.COMPLETED}
    return replica.state is ReplicaState.COMPLETED and (region not in serving if region in wanted else not serving)
