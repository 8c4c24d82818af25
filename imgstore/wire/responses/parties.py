"""Owners of billed bytes as JSON, and as a text for people."""

from typing import TYPE_CHECKING, Final

from imgstore.wire.json_text import Json

if TYPE_CHECKING:  # JSON does not need the ledger
    from imgstore.ledger.entries import Party

_FIELDS: Final = ("subscription", "group", "gallery", "definition", "version", "disk")


def party_json(party: "Party | None") -> dict[str, Json]:
    """Return the names of an owner. All names are null for an owner that the caller may not read."""
    return {name: None if party is None else getattr(party, name) for name in _FIELDS}


def party_path(party: Json) -> str:
    """Return the names of `party_json` below the subscription, for a table."""
    names = [party[name] for name in _FIELDS[1:] if party[name] is not None]
    return "/".join(names) or "another owner"
