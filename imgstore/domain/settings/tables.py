"""Tables of a settings document, with checks of keys and numbers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from imgstore.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsTable:
    """A table of a settings document."""

    name: str
    """``limits`` for ``[limits]``."""
    file: str
    """The path of the document, for errors."""
    example: str
    """The example in the hint of an error."""

    def read(self, settings: Mapping[str, Any], known: Collection[str]) -> Mapping[str, Any]:
        """Return the table. A missing table is empty.

        Args:
            settings: the document, as TOML reads the file.
            known: the permitted keys.

        Raises:
            InvalidInput: the value is not a table, or has an unknown key. The target is the key.
        """
        table = settings.get(self.name, {})
        if not isinstance(table, Mapping):
            raise self.refusal(self.name, repr(table), f"a table: [{self.name}]")
        for key in table:
            if key not in known:
                raise self.refusal(f"{self.name}.{key}", f"the key {key}", f"one of {', '.join(known)}")
        return table

    def check_number(self, key: str, value: object, lowest: int, highest: int) -> int:
        """Return the value of a key if the value is a whole number within limits.

        Raises:
            InvalidInput: the value is no such number. The target is the key.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.refusal(f"{self.name}.{key}", repr(value), f"a whole number from {lowest} to {highest}")
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
