"""Settings that all processes of an installation share: the tables of settings.toml that the catalog keeps.

What bounds one machine, ``[disk_space]``, is not among them: each machine has its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

SHARED_TABLES: Final = ("limits", "maintenance")

Values: TypeAlias = Mapping[str, Any]
"""By dotted key: "limits.galleries_max"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key with one value in a file and another in the catalog; None is a key that is not set."""

    key: str
    in_file: Any
    in_catalog: Any

    def __str__(self) -> str:
        return f"{self.key} (file: {_text(self.in_file)}, installation: {_text(self.in_catalog)})"


def shared_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """The shared settings of a settings document, whose tables were checked before."""
    tables = {name: document.get(name, {}) for name in SHARED_TABLES}
    return {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}


def as_document(values: Values) -> dict[str, dict[str, Any]]:
    """The settings document that sets these values, as TOML would read it."""
    document: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        document.setdefault(table, {})[name] = value
    return document


def differences(in_file: Values, in_catalog: Values) -> list[Difference]:
    """What a file and the catalog disagree on, by key."""
    keys: Iterable[str] = sorted(in_file.keys() | in_catalog.keys())
    pairs = [Difference(key=key, in_file=in_file.get(key), in_catalog=in_catalog.get(key)) for key in keys]
    return [each for each in pairs if each.in_file != each.in_catalog]


def _text(value: Any) -> str:
    return "not set" if value is None else repr(value)
