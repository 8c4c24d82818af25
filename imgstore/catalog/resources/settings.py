"""The settings that all processes of the installation share: one row a key, its value as JSON."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository

_table = schema.settings


class SharedSettings(Repository):
    """Keys are dotted ("limits.galleries_max")."""

    __slots__ = ()

    def all(self) -> dict[str, Any]:
        """Every setting, by key; empty where nothing was ever set."""
        rows = self._session.all(select(_table.c.key, _table.c.value).order_by(_table.c.key))
        return {row.key: row.value for row in rows}

    def initialize(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set these keys where nothing was ever set; what is set then, perhaps by another process."""
        self._session.lock_name("settings")
        if not self.all():
            self.replace(values)
        return self.all()

    def replace(self, values: Mapping[str, Any]) -> None:
        """Set these keys, and no others."""
        now = self._session.now()
        self._session.run(delete(_table))
        if values:
            rows = [{"key": key, "value": value, "set_at": now} for key, value in values.items()]
            self._session.run(_table.insert(), rows)
