"""Settings that all processes of an installation share: the tables of settings.toml in the catalog.

The table ``[disk_space]`` is not shared, because each machine has different limits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

SHARED_TABLES: Final = ("limits", "maintenance", "replication")

Values: TypeAlias = Mapping[str, Any]
"""Values by dotted key, such as "limits.galleries_max"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key with different values in a file and in the catalog. None is an unset key."""

    key: str
    in_file: Any
    in_catalog: Any

    def __str__(self) -> str:
        return f"{self.key} (file: {_text(self.in_file)}, installation: {_text(self.in_catalog)})"


def shared_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shared settings of a settings document with checked tables."""
    tables = {name: document.get(name, {}) for name in SHARED_TABLES}
    return {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}


def as_document(values: Values) -> dict[str, dict[str, Any]]:
    """Return the settings document with these values, as TOML would read the document."""
    document: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        document.setdefault(table, {})[name] = value
    return document


def differences(in_file: Values, in_catalog: Values) -> list[Difference]:
    """Return the differences between a file and the catalog, by key."""
    keys: Iterable[str] = sorted(in_file.keys() | in_catalog.keys())
    pairs = [Difference(key=key, in_file=in_file.get(key), in_catalog=in_catalog.get(key)) for key in keys]
    return [each for each in pairs if each.in_file != each.in_catalog]


def _text(value: Any) -> str:
    return "not set" if value is None else repr(value)
