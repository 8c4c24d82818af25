"""The activity log: who did what to which resource, and how it ended."""

import builtins
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.repository import Repository

_activity = schema.activity


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityRow:
    """One operation that was asked for."""

    principal: str
    """Who asked."""
    action: str
    """What for, in the operation's own words."""
    scope: str
    """The resource id that it was asked for."""
    outcome: str
    """"Succeeded", "Failed" or "Interrupted"."""
    detail: str | None
    """The error's code and text, or what a person should know besides."""
    started_at: datetime
    finished_at: datetime


class Activity(Repository):
    """The log. Rows are added and never changed."""

    __slots__ = ()

    def add(
        self,
        *,
        principal: str,
        action: str,
        scope: str,
        outcome: str,
        detail: str | None,
        started_at: datetime,
        finished_at: datetime,
    ) -> None:
        """Write down one operation (see `ActivityRow`)."""
        self._session.run(
            _activity.insert(),
            {
                "principal": principal,
                "action": action,
                "scope": scope,
                "outcome": outcome,
                "detail": detail,
                "started_at": started_at,
                "finished_at": finished_at,
            },
        )

    def list(
        self, limit: int, *, scope: str | None = None, since: datetime | None = None
    ) -> builtins.list[ActivityRow]:
        """The last `limit` operations, the latest first.

        Args:
            limit: at most so many.
            scope: a resource id: what was asked for it, or for what is below it. None is everything.
            since: those that began then or later.
        """
        statement = select(_activity)
        if scope is not None:
            # Both made small by the engine: what letters have two cases is its own opinion.
            asked, above = func.lower(_activity.c.scope), scope.rstrip("/")
            below = func.substr(asked, 1, len(above) + 1) == func.lower(f"{above}/")
            statement = statement.where((asked == func.lower(above)) | below)
        if since is not None:
            statement = statement.where(_activity.c.started_at >= since)
        rows = self._session.all(statement.order_by(_activity.c.id.desc()).limit(limit))
        return [
            ActivityRow(
                principal=row.principal,
                action=row.action,
                scope=row.scope,
                outcome=row.outcome,
                detail=row.detail,
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
            for row in rows
        ]
