"""Tables of a settings document: read with their keys and numbers checked, and refused by key."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from imgstore.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsTable:
    """One table of a settings document."""

    name: str
    """``limits`` of ``[limits]``."""
    file: str
    """The document's path, for errors."""
    example: str
    """What a refusal gives as an example."""

    def read(self, settings: Mapping[str, Any], known: Collection[str]) -> Mapping[str, Any]:
        """Return the table; an empty one if the document has none.

        Args:
            settings: the document, as TOML reads it.
            known: the keys that the table may have.

        Raises:
            InvalidInput: it is no table, or has a key that is not known; its target is the key.
        """
        table = settings.get(self.name, {})
        if not isinstance(table, Mapping):
            raise self.refusal(self.name, repr(table), f"a table: [{self.name}]")
        for key in table:
            if key not in known:
                raise self.refusal(f"{self.name}.{key}", f"the key {key}", f"one of {', '.join(known)}")
        return table

    def check_number(self, key: str, value: object, least: int, most: int) -> int:
        """Return the value of a key, which is a whole number within bounds.

        Raises:
            InvalidInput: it is not; its target is the key.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refusal(f"{self.name}.{key}", repr(value), f"a whole number from {least} to {most}")
        return value

    def refusal(self, target: str, found: str, expected: str) -> InvalidInput:
        """Return the error for a part of the document: ``limits.galleries_max``, or the table itself."""
        return InvalidInput(
            f"{self.file} cannot be used: {target}.",
            found=found,
            expected=expected,
            hint=f"for example: {self.example}",
            target=target,
        )
