"""The queue of the workers: versions with replicas that must be made, longest unserved first.

The queue is a view of the replicas and has no table, so no entry can be lost. A worker lists versions (`list_due`) and
chooses one. The worker then locks the row of the version (`try_lock`) and opens a work for one of the replicas. On
PostgreSQL, FOR UPDATE SKIP LOCKED lets other workers skip a locked row. On SQLite, the transaction is immediate.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, text, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.states import RESTORABLE_STATES, ProvisioningState, ReplicaState
from imgstore.domain.storage.works import WorkKind

_replicas = schema.replicas
_slots = schema.slots
_versions = schema.versions
_works = schema.works
_manifests = schema.manifests

_IDLE: Final = (ReplicaState.PENDING, ReplicaState.FAILED, ReplicaState.DEGRADED)

# SQLite uses the partial index of open works only with exactly this text.
_OPEN: Final = text("works.state = 'Open'")

# The condition of `ImageVersion.is_visible`. Workers do not serve soft-deleted versions.
_VISIBLE: Final = (_versions.c.provisioning_state != ProvisioningState.DELETING, _versions.c.soft_deleted_at.is_(None))


class Queue(Repository):
    """The replicas that must be made."""

    def list_due(
        self, *, limit: int, offset: int = 0, dead: Collection[str] = (), full_regions: Collection[str] = ()
    ) -> list[str]:
        """Return the uids of versions with a replica that can be made now, longest unserved first.

        The bytes come from a complete replica of the version. If there is none, a replica that was complete once is
        checked and restored. A Pending, Degraded or Failed replica can be made when its retry time has passed. A
        Replicating replica can be made when no valid lease exists.

        Args:
            limit: the maximum number of versions.
            offset: the number of versions to skip.
            dead: holders that are known to be dead. Their leases count as expired.
            full_regions: regions in which no new replica may begin.
        """
        waiting = select(_replicas.c.version_uid).where(self._startable(dead))
        if full_regions:
            waiting = waiting.join(_slots).where(_slots.c.region.not_in(full_regions))
        if self._session.first(waiting.limit(1)) is None:
            return []  # The usual case, which stays fast even if the database plans the join below badly.
        return [row.uid for row in self._session.all(_longest_unserved_first(waiting).limit(limit).offset(offset))]

    def count_without_source(self) -> int:
        """Return the number of versions with an incomplete replica, and without any replica that ever was complete.

        Only the original source can complete such a version.
        """
        waiting = select(_replicas.c.version_uid).where(_replicas.c.state.in_((*_IDLE, ReplicaState.REPLICATING)))
        statement = select(func.count()).where(
            _versions.c.uid.in_(waiting), ~_has_complete_replica(), ~_has_restorable_replica(), *_VISIBLE
        )
        return int(self._session.value(statement))

    def waiting_retries(self) -> tuple[int, datetime | None]:
        """Return the number of failed and degraded replicas that wait for a retry, and the earliest time of a retry."""
        first = func.min(_replicas.c.retry_at).label("first")
        statement = select(func.count().label("number"), first).where(
            _replicas.c.state.in_((ReplicaState.FAILED, ReplicaState.DEGRADED)),
            _replicas.c.retry_at > self._session.now(),
        )
        row = self._session.all(statement)[0]
        return row.number, row.first

    def holders_by_replica(self, version_uids: Sequence[str]) -> Mapping[str, str]:
        """Return the holder of each replica that a process makes under a valid lease, by the replica's uid."""
        statement = (
            select(_replicas.c.uid, _works.c.holder)
            .join(_works, _is_work_of_replica())
            .where(_replicas.c.version_uid.in_(version_uids), _OPEN, _works.c.lease_expires_at > self._session.now())
        )
        return {row.uid: row.holder for row in self._session.all(statement)}

    def holders(self) -> frozenset[str]:
        """Return all holders of leases on open works."""
        statement = select(_works.c.holder).where(_OPEN, _works.c.holder.is_not(None)).distinct()
        return frozenset(row.holder for row in self._session.all(statement))

    def try_lock(self, version_uid: str) -> bool:
        """Lock the row of a version until the end of the transaction.

        No other process begins a replica of the version then.

        Returns:
            False if another transaction has the lock, or if the version is deleted or soft-deleted.
        """
        statement = select(_versions.c.uid).where(_versions.c.uid == version_uid, *_VISIBLE)
        return self._session.first(self._session.add_row_locks(statement, skip_locked=True)) is not None

    def mark_served(self, version_uid: str) -> None:
        """Move a version to the end of the queue."""
        served = update(_versions).where(_versions.c.uid == version_uid).values(served_at=self._session.now())
        self._session.run(served)

    def _startable(self, dead: Collection[str]) -> ColumnElement[bool]:
        now = self._session.now()
        lives = exists().where(
            _is_work_of_replica(), _OPEN, _works.c.lease_expires_at > now, _works.c.holder.not_in(dead)
        )
        due = or_(_replicas.c.retry_at.is_(None), _replicas.c.retry_at <= now)
        return or_(and_(_replicas.c.state.in_(_IDLE), due), and_(_replicas.c.state == ReplicaState.REPLICATING, ~lives))


def _longest_unserved_first(waiting: Select[Any]) -> Select[Any]:
    return (
        select(_versions.c.uid)
        .where(
            _versions.c.uid.in_(waiting),
            or_(_has_complete_replica(), _versions.c.uid.in_(waiting.where(_is_restorable()))),
            *_VISIBLE,
        )
        .order_by(_versions.c.served_at.asc().nulls_first(), _versions.c.published_at, _versions.c.uid)
    )


def _has_complete_replica() -> ColumnElement[bool]:
    """Select versions with a complete replica."""
    other = _replicas.alias("complete")
    # No index contains this expression. Otherwise SQLite would scan all complete replicas for each version.
    state = func.coalesce(other.c.state, "")
    return exists().where(other.c.version_uid == _versions.c.uid, state == ReplicaState.COMPLETED.value)


def _is_restorable() -> ColumnElement[bool]:
    """Select replicas that were Completed before.

    A worker can check and restore such a replica from the bytes in its slot.
    """
    return and_(
        _replicas.c.state.in_(RESTORABLE_STATES),
        exists().where(
            _manifests.c.owner_uid == _replicas.c.version_uid,
            _manifests.c.slot_uid == _replicas.c.slot_uid,
            _manifests.c.complete,
        ),
    )


def _has_restorable_replica() -> ColumnElement[bool]:
    """Select versions with a replica that was Completed before."""
    return _versions.c.uid.in_(select(_replicas.c.version_uid).where(_is_restorable()))


def _is_work_of_replica() -> ColumnElement[bool]:
    """Select works that write the replica."""
    return and_(
        _works.c.slot_uid == _replicas.c.slot_uid,
        _works.c.owner_uid == _replicas.c.version_uid,
        _works.c.kind.in_((WorkKind.COPY, WorkKind.INGEST)),
    )
