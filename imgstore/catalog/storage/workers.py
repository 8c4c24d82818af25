"""Running workers: a row for each `imgstore worker`, renewed by heartbeats. People and upgrades read the rows."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, text, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.storage.works import WORKER_ALIVE_SECONDS, Worker

_workers = schema.workers
_works = schema.works


class Workers(Repository):
    """The workers of the installation."""

    def record_heartbeat(self, uid: str, holder: str) -> None:
        """Record that a worker is alive.

        Add a row if there is none, or if the row was removed while the worker hung.
        """
        now = self._session.now()
        if not self._session.change(update(_workers).where(_workers.c.uid == uid).values(seen_at=now)):
            row = {
                "uid": uid,
                "holder": holder,
                "started_at": now,
                "seen_at": now,
                "code_revision": schema.REVISION,
            }
            self._session.run(_workers.insert(), row)

    def list(self) -> "Sequence[Worker]":
        """Return all workers, oldest first, with the number of works that each process has leased."""
        leased = (
            select(func.count())
            .where(_works.c.holder == _workers.c.holder, text("works.state = 'Open'"))
            .scalar_subquery()
        )
        order = (_workers.c.started_at, _workers.c.uid)
        return [
            Worker(
                uid=row.uid,
                holder=row.holder,
                started_at=row.started_at,
                seen_at=row.seen_at,
                works=row[-1],
                code_revision=row.code_revision,
            )
            for row in self._session.all(select(_workers, leased).order_by(*order))
        ]

    def is_alive(self, worker: Worker) -> bool:
        """Return whether the worker has sent a heartbeat in the last `WORKER_ALIVE_SECONDS`."""
        return worker.seen_at > self._session.now() - timedelta(seconds=WORKER_ALIVE_SECONDS)

    def remove(self, uid: str) -> None:
        """Remove a row. A uid without a row is ignored."""
        self._session.run(delete(_workers).where(_workers.c.uid == uid))
