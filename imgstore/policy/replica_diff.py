"""Compare the replicas of a version with its target regions (docs/internals/replication.md).

The comparison is level-triggered, like `policy/copy_plan.py`. The target regions are the desired state, and the
replicas are the observed state. Work that an earlier run did not finish is decided again from both.
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
"""The order in which replicas of a region are kept. The last state is removed first, because its loss costs least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDiff:
    """The replicas to add and to remove."""

    missing: tuple[tuple[TargetRegion, int], ...]
    """The target region and the ordinal of each replica to add."""
    surplus: tuple[Replica, ...]
    """Replicas to remove now."""
    outgoing: tuple[Replica, ...]
    """Replicas to remove after another replica is complete. Until then these replicas serve reads and copies (invariant
    R14).
    """


def diff_replicas(replicas: Sequence[Replica], targets: Sequence[TargetRegion]) -> ReplicaDiff:
    """Compare all replicas of one version with the target regions."""
    live = [replica for replica in replicas if replica.state is not ReplicaState.DELETING]
    missing: list[tuple[TargetRegion, int]] = []
    staying: list[Replica] = []
    for target in targets:
        inside = [replica for replica in live if _matches(replica, target)]
        kept = sorted(inside, key=_keep_rank)[: target.regional_replica_count]
        taken = {replica.slot.key.ordinal for replica in kept}
        free = [ordinal for ordinal in range(target.regional_replica_count) if ordinal not in taken]
        staying += kept
        missing += [(target, ordinal) for ordinal in free[: target.regional_replica_count - len(kept)]]
    leaving = [replica for replica in live if replica not in staying]
    wanted = {target.name for target in targets}
    outgoing = [replica for replica in leaving if _still_needed(replica, staying, wanted)]
    return ReplicaDiff(
        missing=tuple(missing),
        surplus=tuple(replica for replica in leaving if replica not in outgoing),
        outgoing=tuple(outgoing),
    )


def starts_replication(replicas: Sequence[Replica], targets: Sequence[TargetRegion], location: str) -> bool:
    """Return whether the target regions need a new replica, other than the first replica of a new version.

    Args:
        replicas: all replicas of the version.
        targets: the target regions.
        location: the source region, which the ingest of a new version fills.
    """
    missing = {(target.name, ordinal) for target, ordinal in diff_replicas(replicas, targets).missing}
    return bool(missing if replicas else missing - {(location, 0)})


def find_removed_regions(replicas: Sequence[Replica], targets: Sequence[TargetRegion]) -> list[str]:
    """Return the regions with a complete replica that are no longer target regions."""
    wanted = {target.name for target in targets}
    complete = (replica.slot.key.region for replica in replicas if replica.state is ReplicaState.COMPLETED)
    return sorted({region for region in complete if region not in wanted})


def _matches(replica: Replica, target: TargetRegion) -> bool:
    key = replica.slot.key
    return (key.region, key.storage_account_type) == (target.name, target.storage_account_type)


def _keep_rank(replica: Replica) -> tuple[int, int]:
    return _KEEP_ORDER.index(replica.state), replica.slot.key.ordinal


def _still_needed(replica: Replica, staying: Sequence[Replica], wanted: set[str]) -> bool:
    """Return whether no remaining replica serves the same region yet or, outside the target regions, the version."""
    region = replica.slot.key.region
    serving = {each.slot.key.region for each in staying if each.state is ReplicaState.COMPLETED}
    return replica.state is ReplicaState.COMPLETED and (region not in serving if region in wanted else not serving)
