"""The queue that workers share: versions with replicas to be made, whoever waited longest first.

It is no table of its own but a view of replicas as they stand, so nothing has to be put in and nothing can be lost. A
worker looks (`due`), decides, and then holds one version's row (`hold`) while it opens a work on one of its replicas:
on PostgreSQL with FOR UPDATE SKIP LOCKED, so that workers pass each other by; on SQLite the transaction is immediate.
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

# Spelt as in the partial index of open works, which SQLite uses only then.
_OPEN: Final = text("works.state = 'Open'")

# As `ImageVersion.is_visible`: what was deleted softly is left as it is until it is had back.
_VISIBLE: Final = (_versions.c.provisioning_state != ProvisioningState.DELETING, _versions.c.soft_deleted_at.is_(None))


class Queue(Repository):
    """What there is to be replicated."""

    __slots__ = ()

    def list_due(
        self, *, limit: int, offset: int = 0, dead: Collection[str] = (), full_regions: Collection[str] = ()
    ) -> list[str]:
        """The uids of versions that have a replica to be made now and bytes to make it from, longest unserved first.

        The bytes are those of a complete replica or, where the version has none, those of one that was complete once:
        that one is checked and restored.
        To be made now is what is Pending, Degraded or Failed and rests no longer, and what is Replicating by nobody.

        Args:
            limit: at most so many.
            offset: after so many.
            dead: holders that are known to be dead: their leases count as run out.
            full_regions: regions to which nothing more is to be begun.
        """
        waiting = select(_replicas.c.version_uid).where(self._startable(dead))
        if full_regions:
            waiting = waiting.join(_slots).where(_slots.c.region.not_in(full_regions))
        if self._session.first(waiting.limit(1)) is None:
            return []  # The usual case, and quick whatever a database without statistics makes of the join below.
        return [row.uid for row in self._session.all(_longest_unserved_first(waiting).limit(limit).offset(offset))]

    def count_without_source(self) -> int:
        """How many versions have a replica to be made and none that ever was complete: only their source helps."""
        waiting = select(_replicas.c.version_uid).where(_replicas.c.state.in_((*_IDLE, ReplicaState.REPLICATING)))
        statement = select(func.count()).where(
            _versions.c.uid.in_(waiting), ~_has_complete_replica(), ~_has_restorable_replica(), *_VISIBLE
        )
        return int(self._session.value(statement))

    def waiting_retries(self) -> tuple[int, datetime | None]:
        """How many failed and degraded replicas wait for their next try, and when the first of them is due."""
        first = func.min(_replicas.c.retry_at).label("first")
        statement = select(func.count().label("number"), first).where(
            _replicas.c.state.in_((ReplicaState.FAILED, ReplicaState.DEGRADED)),
            _replicas.c.retry_at > self._session.now(),
        )
        row = self._session.all(statement)[0]
        return row.number, row.first

    def holders_by_replica(self, version_uids: Sequence[str]) -> Mapping[str, str]:
        """The replicas of those versions that some process makes under a lease that runs: uid and holder."""
        statement = (
            select(_replicas.c.uid, _works.c.holder)
            .join(_works, _is_work_of_replica())
            .where(_replicas.c.version_uid.in_(version_uids), _OPEN, _works.c.lease_expires_at > self._session.now())
        )
        return {row.uid: row.holder for row in self._session.all(statement)}

    def holders(self) -> frozenset[str]:
        """Everybody who has a lease on an open work."""
        statement = select(_works.c.holder).where(_OPEN, _works.c.holder.is_not(None)).distinct()
        return frozenset(row.holder for row in self._session.all(statement))

    def try_lock(self, version_uid: str) -> bool:
        """Hold the version's row until the transaction ends, unless another does or it is going: then False.

        While it is held nobody else begins a replica of the version.
        """
        statement = select(_versions.c.uid).where(_versions.c.uid == version_uid, *_VISIBLE)
        return self._session.first(self._session.add_row_locks(statement, skip_locked=True)) is not None

    def mark_served(self, version_uid: str) -> None:
        """It is the other versions' turn now."""
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
    """The version has bytes somewhere to copy from."""
    other = _replicas.alias("complete")
    # An expression that no index has: else SQLite goes through every complete replica there is, for each version.
    state = func.coalesce(other.c.state, "")
    return exists().where(other.c.version_uid == _versions.c.uid, state == ReplicaState.COMPLETED.value)


def _is_restorable() -> ColumnElement[bool]:
    """The replica was Completed before, and can be restored from its own bytes if they are right."""
    return and_(
        _replicas.c.state.in_(RESTORABLE_STATES),
        exists().where(
            _manifests.c.owner_uid == _replicas.c.version_uid,
            _manifests.c.slot_uid == _replicas.c.slot_uid,
            _manifests.c.complete,
        ),
    )


def _has_restorable_replica() -> ColumnElement[bool]:
    """The version has a replica that was Completed before."""
    return _versions.c.uid.in_(select(_replicas.c.version_uid).where(_is_restorable()))


def _is_work_of_replica() -> ColumnElement[bool]:
    """The work is one that writes the replica."""
    return and_(
        _works.c.slot_uid == _replicas.c.slot_uid,
        _works.c.owner_uid == _replicas.c.version_uid,
        _works.c.kind.in_((WorkKind.COPY, WorkKind.INGEST)),
    )
