"""The activity log: who did what to which resource, and how it ended."""

import builtins
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository

_activity = schema.activity

REFUSALS_PER_HOUR: Final = 100
"""Rows of one principal, or of all strangers together."""
_REFUSAL_WINDOW: Final = timedelta(hours=1)
_REFUSALS_LOOKED_AT: Final = 2_000
"""Among so many of the latest rows an earlier refusal is looked for: the log has no other index."""
_TRIMMED_AT_ONCE: Final = 1_000


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
    repeats: int = 0
    """How many more refusals the row stands for."""


class Activity(Repository):
    """The log. Rows are added, and deleted when they are old. Only the row of a refusal changes, when it repeats."""

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

    def add_refusal(
        self, *, principal: str, action: str, scope: str, detail: str, at: datetime, like: str | None = None
    ) -> None:
        """Write down a refusal, in the row of an earlier one where there is one.

        The same refusal within an hour has one row. Of others, a principal has at most `REFUSALS_PER_HOUR` rows an hour;
        then its latest row counts them.

        Args:
            principal: who asked.
            action: what for.
            scope: the resource id.
            detail: the error.
            at: when.
            like: all principals whose names begin with this share one number of rows: nobody has proven their names.
        """
        column = _activity.c
        newest = select(func.coalesce(func.max(column.id), 0)).scalar_subquery()
        asked = column.principal == principal if like is None else func.substr(column.principal, 1, len(like)) == like
        recent = self._session.all(
            select(column.id, column.principal, column.action, column.scope, column.detail)
            .where(column.id > newest - _REFUSALS_LOOKED_AT, asked, column.is_refusal)
            .where(column.started_at > at - _REFUSAL_WINDOW)
            .order_by(column.id.desc())
            .limit(REFUSALS_PER_HOUR)
        )
        same = [
            row
            for row in recent
            if (row.principal, row.action, row.scope, row.detail) == (principal, action, scope, detail)
        ]
        again = same or (recent[:1] if len(recent) >= REFUSALS_PER_HOUR else ())
        if again:
            self._session.run(
                update(_activity).where(column.id == again[0].id).values(repeats=column.repeats + 1, finished_at=at)
            )
            return
        self._session.run(
            _activity.insert(),
            {
                "principal": principal,
                "action": action,
                "scope": scope,
                "outcome": "Failed",
                "detail": detail,
                "started_at": at,
                "finished_at": at,
                "is_refusal": True,
            },
        )

    def trim(self, *, before: datetime, rows_max: int) -> int:
        """Delete up to a thousand of the oldest rows: those that began before `before`, and those above `rows_max`.

        Returns:
            How many were deleted; 0 if no row is too old, or too many.
        """
        column = _activity.c
        oldest = self._session.all(select(column.id, column.started_at).order_by(column.id).limit(_TRIMMED_AT_ONCE))
        count = int(self._session.value(select(func.count()).select_from(_activity)))
        surplus = max(0, count - rows_max)
        last = next(
            (place for place, row in enumerate(oldest) if place >= surplus and row.started_at >= before), len(oldest)
        )
        if not last:
            return 0
        return self._session.change(delete(_activity).where(column.id <= oldest[last - 1].id))

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
                repeats=row.repeats,
            )
            for row in rows
        ]
