"""Judge the progress of unfinished replicas: rate, remaining time, and what to do. No function reads or asks anything."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from imgstore.domain.diagnosis import Level
from imgstore.domain.states import ReplicaState
from imgstore.domain.status import ReplicaStatus, UnfinishedReplica
from imgstore.domain.text.durations import format_duration, format_time_until

SILENT: Final = timedelta(minutes=2)
"""A copy without a progress report for this time is late. Processes report once per second."""
_WORKER: Final = "imgstore worker"


def judge_replicas(
    replicas: Iterable[UnfinishedReplica], *, now: datetime, living_workers: Collection[str]
) -> list[ReplicaStatus]:
    """Judge each replica.

    Args:
        replicas: the replicas, in the order of the result.
        now: the time by the clock of the database.
        living_workers: the uids of the living workers.
    """
    return [_judge(each, now, has_worker=bool(living_workers)) for each in replicas]


def _judge(replica: UnfinishedReplica, now: datetime, *, has_worker: bool) -> ReplicaStatus:
    rate = _measure_rate(replica)
    left = replica.bytes_total - replica.bytes_done
    level, step = _decide(replica, now, has_worker=has_worker)
    return ReplicaStatus(
        replica=replica,
        level=level,
        bytes_per_second=rate,
        remaining=timedelta(seconds=left / rate) if rate else None,
        next_step=step,
    )


def _measure_rate(replica: UnfinishedReplica) -> float | None:
    """Return the mean rate since the start, until the last report. None if no copy runs, or nothing has moved."""
    if replica.state is not ReplicaState.REPLICATING or replica.holder is None:
        return None
    if replica.started_at is None or replica.progress_at is None or not replica.bytes_done:
        return None
    seconds = (replica.progress_at - replica.started_at).total_seconds()
    return replica.bytes_done / seconds if seconds > 0 else None


def _decide(replica: UnfinishedReplica, now: datetime, *, has_worker: bool) -> tuple[Level, str | None]:
    repeat = f"repeat `imgstore sig image-version create` of {replica.image}"
    if replica.state is ReplicaState.DEGRADED:
        return Level.ERROR, f"imgstore scrub --region {replica.region}"
    if replica.state is ReplicaState.FAILED:
        if not has_worker:
            return Level.ERROR, f"{_WORKER}, or {repeat}"
        when = f" at {format_time_until(replica.retry_at, now)}" if replica.retry_at and replica.retry_at > now else ""
        return Level.ERROR, f"a worker tries again{when}"
    if replica.state is ReplicaState.REPLICATING and replica.holder is not None:
        silent = now - (replica.progress_at or replica.started_at or replica.wanted_at)
        if silent <= SILENT:
            return Level.OK, None
        step = f"look at the process {replica.holder}, which has reported nothing for {format_duration(silent)}"
        return Level.WARNING, step
    if not has_worker:
        return Level.WARNING, f"{_WORKER}, or {repeat}"
    return Level.OK, None
