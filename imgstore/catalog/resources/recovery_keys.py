"""The keys that the newest recovery file contains, by id. The keys themselves are in their own tables."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository

_table = schema.recovery_keys


class RecoveryKeys(Repository):
    """The ids of the keys in the newest recovery file."""

    def ids(self) -> frozenset[str]:
        """Return the ids of the keys in the newest recovery file. The set is empty before the first file."""
        return frozenset(row.key_id for row in self._session.all(select(_table.c.key_id)))

    def written_at(self) -> datetime | None:
        """Return the time of the newest recovery file, or None before the first file."""
        found: datetime | None = self._session.value(select(func.max(_table.c.written_at)))
        return found

    def replace(self, ids: Collection[str], written_at: datetime) -> None:
        """Record the keys of a new recovery file in place of the former file."""
        self._session.lock_name("recovery keys")
        self._session.run(delete(_table))
        self._session.run(_table.insert(), [{"key_id": each, "written_at": written_at} for each in sorted(ids)])
