"""Replicas, a version in a slot each, and the only method that changes the state of a replica (`move`)."""

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Rows, missing_row_error
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.storage.slots import SLOT_COLUMNS, slot_from_row
from imgstore.domain.errors import LostRace
from imgstore.domain.resources import Replica
from imgstore.domain.states import REPLICA_TRANSITIONS, ReplicaState, is_allowed_transition
from imgstore.domain.storage.transfers import TimedTransfer
from imgstore.ledger.entries import ChargeKind

_replicas = schema.replicas
_slots = schema.slots
_SELECT = select(_replicas, *SLOT_COLUMNS).join(_slots)
_ORDER: Final = (_slots.c.region, _slots.c.ordinal, _slots.c.storage_account_type, _replicas.c.uid)
_OF_VERSION: Final = _SELECT.where(_replicas.c.version_uid == bindparam("version_uid")).order_by(*_ORDER)
_IN_REGION: Final = _OF_VERSION.where(_slots.c.region == bindparam("region"))
_TRANSFERS_MAX: Final = 1_000
"""The number of transfers that estimates use."""
_UIDS_AT_ONCE: Final = 1_000
"""The number of uids in a query, because engines limit the parameters of a statement."""


class Replicas(Rows[Replica], table=_replicas, noun="replica", value=Replica, statement=_SELECT):
    """The replicas of all versions."""

    def list(self, version_uid: str) -> builtins.list[Replica]:
        """Return the replicas of a version in all states, by region and ordinal."""
        return self._list(_OF_VERSION, {"version_uid": version_uid})

    def in_region(self, version_uid: str, region: str) -> builtins.list[Replica]:
        """Return the replicas of a version in a region in all states, by ordinal."""
        return self._list(_IN_REGION, {"version_uid": version_uid, "region": region})

    def list_by_version(self, version_uids: Sequence[str]) -> dict[str, builtins.list[Replica]]:
        """Return the replicas of several versions, by region and ordinal, for each version uid."""
        found: dict[str, builtins.list[Replica]] = {uid: [] for uid in version_uids}
        for first in range(0, len(version_uids), _UIDS_AT_ONCE):
            some = version_uids[first : first + _UIDS_AT_ONCE]
            for replica in self._list(_SELECT.where(_replicas.c.version_uid.in_(some)).order_by(*_ORDER)):
                found[replica.version_uid].append(replica)
        return found

    def in_slot(self, slot_uid: str) -> builtins.list[Replica]:
        """Return the replicas of all versions in a slot."""
        return self._list(_SELECT.where(_replicas.c.slot_uid == slot_uid).order_by(_replicas.c.uid))

    def list_timed_transfers(self) -> builtins.list[TimedTransfer]:
        """Return the transfers of the newest completed replicas, newest first.

        The charge of a replica shows whether the bytes came from another region. A replica without a charge was ingested.
        """
        ledger = schema.ledger
        statement = (
            select(
                _replicas.c.started_at,
                _replicas.c.completed_at,
                _replicas.c.bytes_total,
                _slots.c.region,
                ledger.c.kind,
                ledger.c.source,
            )
            .join(_slots, _replicas.c.slot_uid == _slots.c.uid)
            .join(ledger, ledger.c.key == _replicas.c.uid, isouter=True)
            .where(_replicas.c.state == ReplicaState.COMPLETED, _replicas.c.bytes_total > 0)
            .where(_replicas.c.started_at < _replicas.c.completed_at)
            .order_by(_replicas.c.completed_at.desc(), _replicas.c.uid)
            .limit(_TRANSFERS_MAX)
        )
        return [_timed_transfer(row) for row in self._session.all(statement)]

    def degraded_slots(self) -> frozenset[str]:
        """Return the uids of the slots with a Degraded replica."""
        statement = select(_replicas.c.slot_uid).where(_replicas.c.state == ReplicaState.DEGRADED).distinct()
        return frozenset(row.slot_uid for row in self._session.all(statement))

    def count_by_region(self) -> dict[tuple[str, ReplicaState], int]:
        """Return the number of replicas by region and state."""
        statement = (
            select(_slots.c.region, _replicas.c.state, func.count().label("number"))
            .join_from(_replicas, _slots)
            .group_by(_slots.c.region, _replicas.c.state)
        )
        return {(row.region, row.state): row.number for row in self._session.all(statement)}

    def move(
        self, uid: str, state: ReplicaState, *, error: str | None = None, completed_at: datetime | None = None
    ) -> None:
        """Change the state of a replica, if the table in domain/states.py allows the transition.

        Args:
            uid: the replica.
            state: the new state.
            error: the reason of a failure or degradation. None removes the previous reason.
            completed_at: the time at which the bytes were confirmed. None keeps the previous time.

        Raises:
            NotFound: no row has this uid.
            Conflict: the present state does not allow the new state.
        """
        present = self._session.value(
            self._session.add_row_locks(select(_replicas.c.state).where(_replicas.c.uid == uid))
        )
        if present is None:
            raise missing_row_error("replica", uid)
        if not is_allowed_transition(present, state):
            raise _transition_error(uid, present, state)
        values: dict[str, Any] = {"state": state, "error": error}
        if completed_at is not None:
            values["completed_at"] = completed_at
        if state is ReplicaState.COMPLETED:
            values |= {"attempts": 0, "retry_at": None, "bytes_done": _replicas.c.bytes_total}
        self._session.run(update(_replicas).where(_replicas.c.uid == uid).values(values))

    def record_failure(
        self, uid: str, *, error: str, attempts: int, retry_at: datetime, state: ReplicaState = ReplicaState.FAILED
    ) -> None:
        """Move a replica to Failed, or back to Degraded, and record the number of failed attempts and the retry time.

        Raises:
            NotFound: no row has this uid.
            Conflict: the present state does not allow the new state.
        """
        self.move(uid, state, error=error)
        self._replace(_replicas, uid, {"attempts": attempts, "retry_at": retry_at}, "replica")

    def retry_now(self, version_uid: str) -> None:
        """Remove the retry times of a version's replicas, so that workers retry at once."""
        self._session.run(update(_replicas).where(_replicas.c.version_uid == version_uid).values(retry_at=None))

    def record_start(self, uid: str, bytes_total: int) -> None:
        """Record the start of a transfer with its total stored bytes.

        Raises:
            NotFound: no row has this uid.
        """
        now = self._session.now()
        values = {"bytes_done": 0, "bytes_total": bytes_total, "started_at": now, "progress_at": now}
        self._replace(_replicas, uid, values, "replica")

    def record_progress(self, uid: str, bytes_done: int, bytes_total: int) -> None:
        """Record the transferred and total stored bytes of the present work, and the time.

        Raises:
            NotFound: no row has this uid.
        """
        values = {"bytes_done": bytes_done, "bytes_total": bytes_total, "progress_at": self._session.now()}
        self._replace(_replicas, uid, values, "replica")

    def record_parent(self, uid: str, region: str | None) -> None:
        """Record the region that a replica is copied from on the cheapest route.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_replicas, uid, {"parent_region": region}, "replica")

    def _columns(self, replica: Replica) -> dict[str, Any]:
        return to_columns(_replicas, replica, slot_uid=replica.slot.uid)

    @classmethod
    def from_row(cls, row: Any) -> Replica:
        """Return the replica in the columns of a row, with its slot."""
        return to_value(Replica, row, slot=slot_from_row(row))


def _timed_transfer(row: Row[Any]) -> TimedTransfer:
    source = None if row.kind is None else row.source if row.kind is ChargeKind.EGRESS else row.region
    return TimedTransfer(
        source=source,
        target=row.region,
        moved_bytes=row.bytes_total,
        seconds=(row.completed_at - row.started_at).total_seconds(),
    )


def _transition_error(uid: str, present: ReplicaState, state: ReplicaState) -> LostRace:
    allowed = ", ".join(sorted(REPLICA_TRANSITIONS[present])) or "nothing, because this state is final"
    return LostRace(
        f"The state of the replica may not become {state}.",
        found=f"{present}",
        expected=f"a state that allows {state}; {present} allows {allowed}",
        hint="another process changed the state: show the version with --expand ReplicationStatus, then run again",
        target=uid,
    )
