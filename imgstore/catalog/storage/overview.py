"""Totals over all galleries, each in one statement, so that an overview of ten thousand versions takes milliseconds."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, case, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.machine_runs import PowerState
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskKind
from imgstore.domain.states import ProvisioningState, ReplicaState, WorkState
from imgstore.domain.status import GalleryTotals, ResourceCounts, UnfinishedReplica

_groups = schema.groups
_galleries = schema.galleries
_definitions = schema.definitions
_versions = schema.versions
_replicas = schema.replicas
_slots = schema.slots
_works = schema.works

_FINAL: Final = (ReplicaState.COMPLETED, ReplicaState.DELETING)
_WORST_FIRST: Final = (ReplicaState.FAILED, ReplicaState.DEGRADED, ReplicaState.REPLICATING, ReplicaState.PENDING)


class Overview(Repository):
    """Totals of galleries, and the replicas that are not complete."""

    def list_galleries(self) -> Sequence[GalleryTotals]:
        """Return the totals of each gallery, by subscription, group and name."""
        counted = select(_definitions.c.gallery_uid, func.count().label("number")).group_by(_definitions.c.gallery_uid)
        definitions = {row.gallery_uid: row.number for row in self._session.all(counted)}
        is_deleted = _versions.c.soft_deleted_at.is_not(None)
        versions = {
            row.gallery_uid: (row.living, row.deleted)
            for row in self._session.all(
                select(
                    _definitions.c.gallery_uid,
                    func.sum(case((is_deleted, 0), else_=1)).label("living"),
                    func.sum(case((is_deleted, 1), else_=0)).label("deleted"),
                )
                .join(_versions, _versions.c.definition_uid == _definitions.c.uid)
                .where(_versions.c.provisioning_state != ProvisioningState.DELETING)
                .group_by(_definitions.c.gallery_uid)
            )
        }
        replicas = defaultdict[str, dict[ReplicaState, int]](dict)
        statement = (
            select(_definitions.c.gallery_uid, _replicas.c.state, func.count().label("number"))
            .join(_versions, _versions.c.definition_uid == _definitions.c.uid)
            .join(_replicas, _replicas.c.version_uid == _versions.c.uid)
            .where(_versions.c.soft_deleted_at.is_(None), _replicas.c.state != ReplicaState.DELETING)
            .group_by(_definitions.c.gallery_uid, _replicas.c.state)
        )
        for row in self._session.all(statement):
            replicas[row.gallery_uid][row.state] = row.number
        found = select(_galleries, _groups.c.name.label("group_name"), _groups.c.subscription).join(_groups)
        order = (_groups.c.subscription, _groups.c.name_key, _galleries.c.name_key)
        return [
            GalleryTotals(
                subscription=row.subscription,
                group=row.group_name,
                gallery=row.name,
                definitions=definitions.get(row.uid, 0),
                versions=versions.get(row.uid, (0, 0))[0],
                soft_deleted=versions.get(row.uid, (0, 0))[1],
                replicas=replicas.get(row.uid, {}),
            )
            for row in self._session.all(found.order_by(*order))
        ]

    def list_unfinished(self, limit: int) -> Sequence[UnfinishedReplica]:
        """Return the replicas that are not complete: failed, degraded, in progress, then pending ones, oldest first.

        Args:
            limit: the maximum number of replicas.
        """
        rank = case({state: number for number, state in enumerate(_WORST_FIRST)}, value=_replicas.c.state, else_=9)
        lease = and_(
            _works.c.owner_uid == _versions.c.uid,
            _works.c.slot_uid == _replicas.c.slot_uid,
            _works.c.state == WorkState.OPEN,
            _works.c.lease_expires_at > self._session.now(),
        )
        holder = select(func.max(_works.c.holder)).where(lease).correlate(_versions, _replicas).scalar_subquery()
        statement = (
            select(
                _replicas,
                _slots.c.region,
                _slots.c.ordinal,
                _versions.c.major,
                _versions.c.minor,
                _versions.c.patch,
                _versions.c.published_at,
                _definitions.c.name.label("definition"),
                _galleries.c.name.label("gallery"),
                _groups.c.name.label("group_name"),
                _groups.c.subscription,
                holder.label("holder"),
            )
            .join(_slots, _replicas.c.slot_uid == _slots.c.uid)
            .join(_versions, _replicas.c.version_uid == _versions.c.uid)
            .join(_definitions, _versions.c.definition_uid == _definitions.c.uid)
            .join(_galleries, _definitions.c.gallery_uid == _galleries.c.uid)
            .join(_groups, _galleries.c.group_uid == _groups.c.uid)
            .where(*_unfinished())
            .order_by(rank, _versions.c.published_at, _replicas.c.uid)
            .limit(limit)
        )
        return [_read_unfinished(row) for row in self._session.all(statement)]

    def count_unfinished(self) -> int:
        """Return the number of replicas that are not complete."""
        statement = select(func.count()).select_from(_replicas).join(_versions).where(*_unfinished())
        return int(self._session.value(statement))

    def measure_queue(self) -> tuple[int, datetime | None]:
        """Return the number of replicas that no process has begun, and the oldest publication among their versions."""
        statement = (
            select(func.count().label("number"), func.min(_versions.c.published_at).label("oldest"))
            .select_from(_replicas)
            .join(_versions)
            .where(_replicas.c.state == ReplicaState.PENDING, _versions.c.soft_deleted_at.is_(None))
        )
        row = self._session.all(statement)[0]
        return row.number, row.oldest

    def count_resources(self) -> ResourceCounts:
        """Return the numbers of disks, snapshots, images and machines of all subscriptions."""
        # A managed image has a row for each of its disks.
        first = (schema.disks.c.kind != DiskKind.IMAGE) | (schema.disks.c.part == OS_DISK)
        counted = select(schema.disks.c.kind, func.count().label("number")).where(first).group_by(schema.disks.c.kind)
        by_kind = {row.kind: row.number for row in self._session.all(counted)}
        running = select(func.count()).where(schema.machine_runs.c.state == PowerState.RUNNING)
        return ResourceCounts(
            disks=by_kind.get(DiskKind.DISK, 0),
            snapshots=by_kind.get(DiskKind.SNAPSHOT, 0),
            images=by_kind.get(DiskKind.IMAGE, 0),
            machines=int(self._session.value(select(func.count()).select_from(schema.machines))),
            running_machines=int(self._session.value(running)),
        )


def _unfinished() -> tuple[Any, ...]:
    return _replicas.c.state.not_in(_FINAL), _versions.c.soft_deleted_at.is_(None)


def _read_unfinished(row: Row[Any]) -> UnfinishedReplica:
    return UnfinishedReplica(
        subscription=row.subscription,
        group=row.group_name,
        gallery=row.gallery,
        definition=row.definition,
        version=str(VersionName(row.major, row.minor, row.patch)),
        region=row.region,
        ordinal=row.ordinal,
        state=row.state,
        error=row.error,
        attempts=row.attempts,
        retry_at=row.retry_at,
        bytes_done=row.bytes_done,
        bytes_total=row.bytes_total,
        started_at=row.started_at,
        progress_at=row.progress_at,
        wanted_at=row.published_at,
        holder=row.holder,
    )
