"""Works and leases on works (invariants W1 to W19).

A work is a row that survives crashes. A lease permits a process to continue the work until a given time of the
database's clock. Each lease increments the token of the work. Each write of a worker depends on the token of the lease.
A process with an outdated lease finds another token and stops, even if the clock of the process is wrong.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.engine.sequence import CatalogSequence
from imgstore.domain.errors import Conflict, LeaseLost, LostRace, WorkLeased
from imgstore.domain.states import WorkState
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.domain.text.durations import format_time

_works = schema.works
_pins = schema.work_pins

_UNLEASED = {"holder": None, "lease_expires_at": None}


class Works(Repository):
    """The works of all slots."""

    def open(
        self, *, kind: WorkKind, slot_uid: str, owner_uid: str, plan: Mapping[str, Any], pins: Sequence[str]
    ) -> Work:
        """Open a work without a lease.

        Args:
            kind: the kind of the work.
            slot_uid: the slot in which the work writes.
            owner_uid: the version or managed disk of the work.
            plan: JSON with the decisions that a process which resumes the work must follow.
            pins: the uids of the manifests that the work may refer to.

        Raises:
            Conflict: a work of this kind, slot and owner is open, or a pinned manifest was deleted.
        """
        work = Work(
            uid=self._session.effects.new_uid(),
            kind=kind,
            slot_uid=slot_uid,
            owner_uid=owner_uid,
            plan=dict(plan),
            pins=tuple(dict.fromkeys(pins)),
            opened_at=self._session.now(),
            opened_sequence=CatalogSequence(self._session).next().sequence,
        )
        self._session.run(_works.insert(), to_columns(_works, work))
        self._pin(work.uid, work.pins)
        return work

    def get(self, uid: str) -> Work:
        """Return the work with this uid. A closed work has no pins.

        Raises:
            NotFound: no work has this uid.
        """
        return self._read([self._row(select(_works).where(_works.c.uid == uid), "work", uid)])[0]

    def find_open(self, kind: WorkKind, slot_uid: str, owner_uid: str) -> Work | None:
        """Return the open work of this kind, slot and owner, or None. The caller may adopt the work."""
        found = self._open(
            (_works.c.kind == kind) & (_works.c.slot_uid == slot_uid) & (_works.c.owner_uid == owner_uid)
        )
        return found[0] if found else None

    def find_first_completed(self, kind: WorkKind, owner_uid: str) -> Work | None:
        """Return the oldest completed work of this kind and owner, or None. A closed work keeps its plan."""
        mine = (_works.c.kind == kind) & (_works.c.owner_uid == owner_uid) & (_works.c.state == WorkState.COMPLETED)
        row = self._session.first(select(_works).where(mine).order_by(_works.c.opened_at, _works.c.uid).limit(1))
        return None if row is None else self._read([row])[0]

    def list_open(self, slot_uid: str | None = None) -> list[Work]:
        """Return the open works of a slot, or of all slots, oldest first."""
        return self._open() if slot_uid is None else self._open(_works.c.slot_uid == slot_uid)

    def lock_open(self, kind: WorkKind, slot_uid: str) -> list[Work]:
        """Lock the open works of a kind and slot until the end of the transaction, and return the works by uid."""
        open_works = (_works.c.kind == kind) & (_works.c.slot_uid == slot_uid) & (_works.c.state == WorkState.OPEN)
        statement = select(_works).where(open_works).order_by(_works.c.uid)
        return self._read(self._session.all(self._session.add_row_locks(statement)))

    def filter_closed(self, slot_uid: str, uids: Sequence[str]) -> list[str]:
        """Return the uids of closed works of the slot among `uids`."""
        closed = (_works.c.slot_uid == slot_uid) & (_works.c.state != WorkState.OPEN)
        rows = self._session.all(select(_works.c.uid).where(closed, _works.c.uid.in_(uids)).order_by(_works.c.uid))
        return [row.uid for row in rows]

    def is_pinned(self, manifest_uid: str) -> bool:
        """Return whether an open work pins the manifest."""
        return self._session.first(select(_pins.c.work_uid).where(_pins.c.manifest_uid == manifest_uid)) is not None

    def lease(
        self,
        work_uid: str,
        *,
        holder: str,
        lease_seconds: float,
        own_token: int | None = None,
        steal: bool = False,
        wait: bool = True,
    ) -> Lease:
        """Lease a work that is free, has an expired lease, or is leased by the holder already.

        A work that writes also gets a checkpoint. The holder stores the checkpoint in the slot before anything else.

        Each call increments the token. Therefore an older lease of the same holder, for example of a thread that hung,
        is fenced off too.

        Args:
            work_uid: the work.
            holder: the process that asks (see `Work.holder`).
            lease_seconds: the length of the lease from now on, by the database's clock.
            own_token: the token of the lease under which another thread of the holder does this work now. That thread
                counts as another process.
            steal: ignore the lease of another holder. Use this only if that holder is known to be dead.
            wait: wait for another transaction that has locked the row. Otherwise treat the row as leased.

        Raises:
            NotFound: no work has this uid.
            WorkLeased: the lease of another holder has not expired.
            LostRace: the work is closed.
        """
        statement = select(_works).where(_works.c.uid == work_uid)
        row = self._session.first(self._session.add_row_locks(statement, skip_locked=not wait))
        if row is None:
            raise _work_held_error(self._row(statement, "work", work_uid))
        if row.state is not WorkState.OPEN:
            raise _work_closed_error(work_uid, row.state)
        # Read the clock after the row is locked, because the wait for the lock may be long.
        now = self._session.now()
        is_foreign = row.holder not in (None, holder) or (row.holder is not None and row.token == own_token)
        if is_foreign and row.lease_expires_at > now and not steal:
            raise _work_held_error(row)
        checkpoint = CatalogSequence(self._session).next() if row.kind.writes else None
        lease = Lease(work_uid=work_uid, token=row.token + 1, checkpoint=checkpoint)
        self._set(
            _works.c.uid == work_uid,
            holder=holder,
            token=lease.token,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            bytes_done=0,
            bytes_total=0,
            failure=None,
        )
        return lease

    def record_progress(self, lease: Lease, bytes_done: int, bytes_total: int) -> None:
        """Record the progress of a work. Do nothing if the lease was lost."""
        self._set(_is_leased(lease), bytes_done=bytes_done, bytes_total=bytes_total)

    def renew(self, lease: Lease, *, lease_seconds: float) -> None:
        """Let the lease end `lease_seconds` from now.

        An expired lease is renewed too, if no process took over the work.

        Raises:
            LeaseLost: another process took over the work, or the work is closed.
        """
        self.guard(lease)
        self._set(_is_leased(lease), lease_expires_at=self._session.now() + timedelta(seconds=lease_seconds))

    def guard(self, lease: Lease) -> None:
        """Check that the lease is valid, and lock the work until the end of the transaction.

        Raises:
            LeaseLost: another process took over the work, or the work is closed.
        """
        if self._session.first(self._session.add_row_locks(select(_works.c.uid).where(_is_leased(lease)))) is None:
            raise self._lease_lost_error(lease)

    def update_plan(self, lease: Lease, plan: Mapping[str, Any], pins: Sequence[str]) -> None:
        """Replace the plan and the pins of a work.

        Raises:
            LeaseLost: another process took over the work, or the work is closed.
            Conflict: a pinned manifest was deleted.
        """
        self.guard(lease)
        self._set(_is_leased(lease), plan=dict(plan))
        self._unpin(lease.work_uid)
        self._pin(lease.work_uid, tuple(dict.fromkeys(pins)))

    def set_plan(self, work_uid: str, plan: Mapping[str, Any]) -> None:
        """Replace the plan of an open work of any process. The caller has locked the work (`lock_open`)."""
        self._set((_works.c.uid == work_uid) & (_works.c.state == WorkState.OPEN), plan=dict(plan))

    def complete(self, lease: Lease) -> None:
        """Close the work as completed and remove the pins.

        Raises:
            LeaseLost: another process took over the work, or the work is closed.
        """
        self.guard(lease)
        self._set(_is_leased(lease), state=WorkState.COMPLETED, **_UNLEASED)
        self._unpin(lease.work_uid)

    def abandon(self, work_uid: str) -> None:
        """Close the work as abandoned, even if a process has a lease, and remove the pins. May be repeated.

        Raises:
            NotFound: no work has this uid.
            Conflict: the work was completed.
        """
        still_open = (_works.c.uid == work_uid) & (_works.c.state == WorkState.OPEN)
        if self._set(still_open, state=WorkState.ABANDONED, **_UNLEASED):
            self._unpin(work_uid)
            return
        state = self.get(work_uid).state
        if state is WorkState.COMPLETED:
            raise _work_closed_error(work_uid, state)

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """End the lease and leave the work open for another process. Do nothing if the lease was lost already.

        The end of the lease is recorded, because a work that no process resumes is abandoned later.

        Args:
            lease: the lease.
            failure: the error that ended the lease, for the processes that wait for the work. None keeps the recorded
                error.
        """
        values = {} if failure is None else {"failure": dict(failure)}
        self._set(_is_leased(lease), holder=None, lease_expires_at=self._session.now(), **values)

    def try_lock(self, work_uid: str) -> Work | None:
        """Lock an open work until the end of the transaction, so that no other process leases or closes the work.

        Returns:
            The work, or None if it is closed or another transaction has locked the row.
        """
        statement = select(_works).where(_works.c.uid == work_uid, _works.c.state == WorkState.OPEN)
        row = self._session.first(self._session.add_row_locks(statement, skip_locked=True))
        return None if row is None else self._read([row])[0]

    def _open(self, *conditions: ColumnElement[bool]) -> list[Work]:
        statement = select(_works).where(_works.c.state == WorkState.OPEN, *conditions)
        return self._read(self._session.all(statement.order_by(_works.c.opened_at, _works.c.uid)))

    def _read(self, rows: Sequence[Row[Any]]) -> list[Work]:
        pins: dict[str, list[str]] = {row.uid: [] for row in rows}
        statement = select(_pins).where(_pins.c.work_uid.in_(pins)).order_by(_pins.c.position)
        for pin in self._session.all(statement):
            pins[pin.work_uid].append(pin.manifest_uid)
        return [to_value(Work, row, pins=tuple(pins[row.uid])) for row in rows]

    def _set(self, condition: ColumnElement[bool], **values: Any) -> int:
        return self._session.change(update(_works).where(condition).values(values))

    def _pin(self, work_uid: str, pins: Sequence[str]) -> None:
        rows = [
            {"work_uid": work_uid, "manifest_uid": manifest_uid, "position": position}
            for position, manifest_uid in enumerate(pins)
        ]
        if rows:
            self._session.run(_pins.insert(), rows)

    def _unpin(self, work_uid: str) -> None:
        self._session.run(delete(_pins).where(_pins.c.work_uid == work_uid))

    def _lease_lost_error(self, lease: Lease) -> LeaseLost:
        row = self._session.first(select(_works).where(_works.c.uid == lease.work_uid))
        found = "no such work" if row is None else f"{row.state}, token {row.token}, held by {row.holder or 'nobody'}"
        return LeaseLost(
            "The lease expired. Another process has taken over or closed the work.",
            found=found,
            expected=f"{WorkState.OPEN}, token {lease.token}",
            hint="nothing is lost: wait for the other process, or run the command again to resume the work",
            target=lease.work_uid,
        )


def _is_leased(lease: Lease) -> ColumnElement[bool]:
    """The fence: each write of a worker has this condition."""
    return (_works.c.uid == lease.work_uid) & (_works.c.token == lease.token) & (_works.c.state == WorkState.OPEN)


def _work_held_error(row: Row[Any]) -> WorkLeased:
    until = f" until {format_time(row.lease_expires_at)}" if row.lease_expires_at else ""
    return WorkLeased(
        "Another process does this work at the moment.",
        found=f"held by {row.holder or 'another transaction'}{until}",
        expected="no holder, or an expired lease",
        hint="wait for the process. If the process is dead, its lease expires at the time above. Then run the command again",
        target=row.uid,
    )


def _work_closed_error(work_uid: str, state: WorkState) -> Conflict:
    return LostRace(
        "The work is closed.",
        found=f"{state}",
        expected=f"{WorkState.OPEN}",
        hint="another process closed the work: run the command again",
        target=work_uid,
    )
