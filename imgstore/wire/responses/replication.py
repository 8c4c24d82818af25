"""The field ``properties.replicationStatus``: Azure's fields per region, and further fields per replica.

Each process that makes a replica writes the progress into the replica's row once per second. All servers therefore show
the same status. The state of a region follows from its replicas:

- A region without replicas is Unknown.
- A region with a Pending or Replicating replica is Replicating.
- A region with Completed replicas only is Completed.
- A region with a Failed or Degraded replica, and no copy in progress, is Failed, with `details`.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from imgstore.domain.names import region_key
from imgstore.domain.resources import Replica, TargetRegion, ZoneGap
from imgstore.domain.states import ReplicaState
from imgstore.wire.json_text import Json, instant

_IN_FLIGHT = (ReplicaState.PENDING, ReplicaState.REPLICATING)


def replication_status_json(
    targets: Sequence[TargetRegion],
    replicas: Sequence[Replica],
    display_names: Mapping[str, str],
    gaps: Sequence[ZoneGap] = (),
    *,
    unreachable_slots: Collection[str] = (),
    is_idle: bool = False,
) -> Json:
    """Return the status of each target region, in the order of the request.

    Args:
        targets: The target regions of the version.
        replicas: The replicas of the version.
        display_names: The display names of regions, by name.
        gaps: The missing objects of a zone, for replicas in three zones. Such a replica is `Completed`, because two zones
            have all objects.
        unreachable_slots: The uids of slots with a store that does not answer. The states do not change.
        is_idle: Whether no process works on the version.
    """
    finished = {one.slot.key.region for one in replicas if one.state is ReplicaState.COMPLETED}
    summary = [
        _region_json(target, replicas, display_names, gaps, unreachable_slots, finished=finished, is_idle=is_idle)
        for target in targets
    ]
    return {"aggregatedState": _aggregate_state([region["state"] for region in summary]), "summary": summary}


def _region_json(
    target: TargetRegion,
    replicas: Sequence[Replica],
    display_names: Mapping[str, str],
    gaps: Sequence[ZoneGap],
    unreachable_slots: Collection[str],
    *,
    finished: Collection[str],
    is_idle: bool,
) -> Json:
    key = region_key(target.name)
    mine = sorted(
        (one for one in replicas if one.slot.key.region == key and one.state is not ReplicaState.DELETING),
        key=lambda one: one.slot.key.ordinal,
    )
    return {
        "region": display_names.get(key, target.name),
        "state": _region_state([one.state for one in mine]),
        "details": "; ".join(
            f"replica {one.slot.key.ordinal}: {text}"
            for one in mine
            if (
                text := _details(
                    one,
                    gaps,
                    finished=finished,
                    is_idle=is_idle,
                    unreachable=one.slot.uid in unreachable_slots,
                )
            )
        ),
        "progress": min((_percent(one) for one in mine), default=0),
        "bytesDone": sum(one.bytes_done for one in mine),
        "bytesTotal": sum(one.bytes_total for one in mine),
        "bytesPerSecond": sum(map(_bytes_per_second, mine)),
        "etaSeconds": max((eta for one in mine if (eta := _eta_seconds(one)) is not None), default=None),
        "replicas": [_replica_json(one, gaps, unreachable=one.slot.uid in unreachable_slots) for one in mine],
    }


def _replica_json(replica: Replica, gaps: Sequence[ZoneGap], *, unreachable: bool) -> Json:
    missed = [
        {"zone": gap.zone, "objects": gap.objects, "seenAt": instant(gap.seen_at)}
        for gap in gaps
        if gap.slot_uid == replica.slot.uid
    ]
    return {
        "replica": replica.slot.key.ordinal,
        "state": replica.state.value,
        "storeAnswers": not unreachable,
        "progress": _percent(replica),
        "bytesDone": replica.bytes_done,
        "bytesTotal": replica.bytes_total,
        "bytesPerSecond": _bytes_per_second(replica),
        "etaSeconds": _eta_seconds(replica),
        **({"zoneGaps": missed} if missed else {}),
    }


def _details(
    replica: Replica, gaps: Sequence[ZoneGap], *, finished: Collection[str], is_idle: bool, unreachable: bool
) -> str:
    """Return the error of a replica with the next attempt, or the reason for waiting, and whether the store answers."""
    texts = [_state_details(replica, gaps, finished)]
    if is_idle and replica.state in _IN_FLIGHT:
        texts.append("no process works on this replica")
    if unreachable:
        texts.append("the store does not answer now")
    return ", ".join(text for text in texts if text)


def _state_details(replica: Replica, gaps: Sequence[ZoneGap], finished: Collection[str]) -> str:
    if replica.error and replica.state is ReplicaState.FAILED and replica.retry_at is not None:
        return f"{replica.error} (a worker tries again at {instant(replica.retry_at)})"
    if replica.state is ReplicaState.PENDING and not finished:
        return "waits for the source region"
    parent = replica.parent_region
    if (
        replica.state is ReplicaState.PENDING
        and parent not in (None, *finished)
        and replica.slot.key.region not in finished
    ):
        return f"waits for the replica in {parent}, on the cheapest route"
    missed = [f"zone {gap.zone} misses {gap.objects} objects" for gap in gaps if gap.slot_uid == replica.slot.uid]
    if missed and not replica.error:
        return f"{', '.join(missed)} of the slot; workers copy the objects when the zone answers"
    return replica.error or ""


def _bytes_per_second(replica: Replica) -> int:
    """Return the mean rate since the start of the copy, or 0 if no copy runs."""
    if replica.state is not ReplicaState.REPLICATING or replica.started_at is None or replica.progress_at is None:
        return 0
    seconds = (replica.progress_at - replica.started_at).total_seconds()
    return round(replica.bytes_done / seconds) if seconds > 0 else 0


def _eta_seconds(replica: Replica) -> int | None:
    """Return the remaining seconds at the mean rate, or None if no copy runs."""
    rate = _bytes_per_second(replica)
    return math.ceil((replica.bytes_total - replica.bytes_done) / rate) if rate else None


def _percent(replica: Replica) -> int:
    """Return the progress in whole percent.

    Only a `Completed` replica has 100, because sent bytes are not confirmed bytes.
    """
    if replica.state is ReplicaState.COMPLETED:
        return 100
    return min(99, 100 * replica.bytes_done // replica.bytes_total) if replica.bytes_total else 0


def _region_state(states: Sequence[ReplicaState]) -> str:
    if not states:
        return "Unknown"
    if any(state in _IN_FLIGHT for state in states):
        return "Replicating"
    return "Completed" if all(state is ReplicaState.COMPLETED for state in states) else "Failed"


def _aggregate_state(states: Sequence[str]) -> str:
    if "Replicating" in states:
        return "InProgress"
    return next((state for state in ("Failed", "Unknown") if state in states), "Completed")
