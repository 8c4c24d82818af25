"""``properties.replicationStatus``: Azure's fields per region, and beside them what ours know more, per replica.

====================================  =================================
replicas of a region                  its state
====================================  =================================
none yet                              Unknown
one is Pending or Replicating         Replicating
all are Completed                     Completed
else: one is Failed or Degraded       Failed, with `details`
====================================  =================================
"""

from collections.abc import Mapping, Sequence

from imgstore.domain.names import region_key
from imgstore.domain.resources import Replica, TargetRegion
from imgstore.domain.states import ReplicaState
from imgstore.wire.text import Json

_IN_FLIGHT = (ReplicaState.PENDING, ReplicaState.REPLICATING)


def replication_status_json(
    targets: Sequence[TargetRegion], replicas: Sequence[Replica], display_names: Mapping[str, str]
) -> Json:
    """The status of each target region, in the order of the request."""
    summary = [_region_json(target, replicas, display_names) for target in targets]
    return {"aggregatedState": _aggregated([region["state"] for region in summary]), "summary": summary}


def _region_json(target: TargetRegion, replicas: Sequence[Replica], display_names: Mapping[str, str]) -> Json:
    key = region_key(target.name)
    mine = sorted(
        (one for one in replicas if one.slot.key.region == key and one.state is not ReplicaState.DELETING),
        key=lambda one: one.slot.key.ordinal,
    )
    return {
        "region": display_names.get(key, target.name),
        "state": _region_state([one.state for one in mine]),
        "details": "; ".join(f"replica {one.slot.key.ordinal}: {one.error}" for one in mine if one.error),
        "progress": min((_percent(one) for one in mine), default=0),
        "bytesDone": sum(one.bytes_done for one in mine),
        "bytesTotal": sum(one.bytes_total for one in mine),
        "replicas": [_replica_json(one) for one in mine],
    }


def _replica_json(replica: Replica) -> Json:
    return {
        "replica": replica.slot.key.ordinal,
        "state": replica.state.value,
        "progress": _percent(replica),
        "bytesDone": replica.bytes_done,
        "bytesTotal": replica.bytes_total,
    }


def _percent(replica: Replica) -> int:
    """Whole percent, 100 only when it is Completed: all bytes sent is not yet all bytes confirmed."""
    if replica.state is ReplicaState.COMPLETED:
        return 100
    return min(99, 100 * replica.bytes_done // replica.bytes_total) if replica.bytes_total else 0


def _region_state(states: Sequence[ReplicaState]) -> str:
    if not states:
        return "Unknown"
    if any(state in _IN_FLIGHT for state in states):
        return "Replicating"
    return "Completed" if all(state is ReplicaState.COMPLETED for state in states) else "Failed"


def _aggregated(states: Sequence[str]) -> str:
    if "Replicating" in states:
        return "InProgress"
    return next((state for state in ("Failed", "Unknown") if state in states), "Completed")
