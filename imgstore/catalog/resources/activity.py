"""The activity log: operations with their principals, resources and outcomes."""

import builtins
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value

_activity = schema.activity

REFUSALS_PER_HOUR: Final = 100
"""The maximum number of rows for refusals of one principal, or of all unauthenticated callers together."""
_REFUSAL_WINDOW: Final = timedelta(hours=1)
_REFUSALS_LOOKED_AT: Final = 2_000
"""The number of latest rows that are searched for an earlier refusal, because the log has no other index."""
_TRIMMED_AT_ONCE: Final = 1_000
_TEXT_CHARACTERS_MAX: Final = 4_000
"""The length of a scope and of a detail in the log. Both may contain text of the caller, such as an id in a tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityRow:
    """An entry of the activity log."""

    principal: str
    """The name of the caller."""
    action: str
    """The requested action, in the operation's own words."""
    scope: str
    """The id of the resource."""
    outcome: str
    """"Succeeded", "Failed" or "Interrupted"."""
    detail: str | None
    """The code and text of the error, or a note for people."""
    started_at: datetime
    finished_at: datetime
    repeats: int = 0
    """The number of further refusals that the row counts."""


class Activity(Repository):
    """The activity log. Old rows are deleted. Only the row of a refusal changes, when the refusal repeats."""

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
        """Add an entry. `ActivityRow` describes the arguments."""
        self._session.run(
            _activity.insert(),
            {
                "principal": principal,
                "action": action,
                "scope": scope[:_TEXT_CHARACTERS_MAX],
                "outcome": outcome,
                "detail": None if detail is None else detail[:_TEXT_CHARACTERS_MAX],
                "started_at": started_at,
                "finished_at": finished_at,
            },
        )

    def add_refusal(
        self, *, principal: str, action: str, scope: str, detail: str, at: datetime, like: str | None = None
    ) -> None:
        """Record a refusal, in the row of an earlier refusal if there is such a row.

        Equal refusals within an hour share a row. A principal has at most `REFUSALS_PER_HOUR` rows an hour for
        different refusals. Further refusals increment the counter of the latest row.

        Args:
            principal: the name of the caller.
            action: the requested action.
            scope: the resource id.
            detail: the error.
            at: the time of the refusal.
            like: a prefix of names. All principals with this prefix share one limit, because the names are unproven.
        """
        scope, detail = scope[:_TEXT_CHARACTERS_MAX], detail[:_TEXT_CHARACTERS_MAX]
        column = _activity.c
        newest = select(func.coalesce(func.max(column.id), 0)).scalar_subquery()
        is_caller = (
            column.principal == principal if like is None else func.substr(column.principal, 1, len(like)) == like
        )
        recent = self._session.all(
            select(column.id, column.principal, column.action, column.scope, column.detail)
            .where(column.id > newest - _REFUSALS_LOOKED_AT, is_caller, column.is_refusal)
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

    def find_last_success(self, action: str) -> datetime | None:
        """Return the end of the last success of an action, or None. The search reads the whole log."""
        succeeded = (_activity.c.action == action) & (_activity.c.outcome == "Succeeded")
        found: datetime | None = self._session.value(select(func.max(_activity.c.finished_at)).where(succeeded))
        return found

    def trim(self, *, before: datetime, rows_max: int) -> int:
        """Delete up to a thousand of the oldest rows: rows from before `before`, and rows above `rows_max`.

        Returns:
            The number of deleted rows. 0 means that no row is too old or above the limit.
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
        """Return the last `limit` entries, latest first.

        Args:
            limit: the maximum number of entries.
            scope: a resource id. Only entries of the resource, or of a resource below, are returned. None means all
                entries.
            since: the earliest start.
        """
        statement = select(_activity)
        if scope is not None:
            # The engine converts both sides to lower case, because engines differ in the letters that they convert.
            stored_scope, above = func.lower(_activity.c.scope), scope.rstrip("/")
            below = func.substr(stored_scope, 1, len(above) + 1) == func.lower(f"{above}/")
            statement = statement.where((stored_scope == func.lower(above)) | below)
        if since is not None:
            statement = statement.where(_activity.c.started_at >= since)
        rows = self._session.all(statement.order_by(_activity.c.id.desc()).limit(limit))
        return [to_value(ActivityRow, row) for row in rows]
