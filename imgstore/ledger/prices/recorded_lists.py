"""Find recorded price lists that no code has written: a changed content, number or order (invariant M19)."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

_TOLERANCE: Final = timedelta(hours=1)
"""The clock of the database may step back."""


class PriceListFault(NamedTuple):
    """A fault of a recorded price list."""

    entry: str
    """The id of the entry of the ledger."""
    text: str


def find_price_list_faults(lists: Sequence[tuple[str, str]]) -> list[PriceListFault]:
    """Return the faults of recorded price lists.

    Each list applies from its time to the next list, so the order of numbers is the order of times. A statement finds the
    list of an entry by its number.

    Args:
        lists: (id of the entry, canonical JSON of the row) of all lists.
    """
    faults: list[PriceListFault] = []
    rows: list[tuple[int, datetime, str]] = []
    for entry, leaf in lists:
        row = _read_row(leaf)
        if row is None:
            faults.append(PriceListFault(entry, "the row of the price list cannot be read"))
            continue
        if row["digest"] != _digest(row["document"]):
            faults.append(PriceListFault(entry, "the digest of the price list does not match its prices"))
        rows.append((row["number"], datetime.fromisoformat(row["effective_at"]), entry))
    newest: datetime | None = None
    for expected, (number, effective_at, entry) in enumerate(sorted(rows), start=1):
        if number != expected:
            text = f"the price list has the number {number} at the place {expected} in the order of numbers"
            faults.append(PriceListFault(entry, text))
        if newest is not None and effective_at < newest - _TOLERANCE:
            text = f"the price list applies from {effective_at.isoformat()} on, before the list with the number before"
            faults.append(PriceListFault(entry, text))
        newest = effective_at if newest is None else max(newest, effective_at)
    return faults


def _digest(document: Any) -> str:
    """Return the digest of a document, which `digest_of` gave to the list of the document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_row(leaf: str) -> dict[str, Any] | None:
    row = json.loads(leaf)
    try:
        datetime.fromisoformat(row["effective_at"])
        is_usable = isinstance(row["number"], int) and {"digest", "document"} <= row.keys()
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    return row if is_usable else None
