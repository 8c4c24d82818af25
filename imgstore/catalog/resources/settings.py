"""The settings that all processes of the installation share, a row with a JSON value for each key."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository

_table = schema.settings


class SharedSettings(Repository):
    """Shared settings by dotted keys ("limits.galleries_max")."""

    def all(self) -> dict[str, Any]:
        """Return all settings by key."""
        rows = self._session.all(select(_table.c.key, _table.c.value).order_by(_table.c.key))
        return {row.key: row.value for row in rows}

    def initialize(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set the values if no setting exists. Return the settings, which another process may have set."""
        self._session.lock_name("settings")
        if not self.all():
            self.replace(values)
        return self.all()

    def replace(self, values: Mapping[str, Any]) -> None:
        """Replace all settings by the values."""
        now = self._session.now()
        self._session.run(delete(_table))
        if values:
            rows = [{"key": key, "value": value, "set_at": now} for key, value in values.items()]
            self._session.run(_table.insert(), rows)
