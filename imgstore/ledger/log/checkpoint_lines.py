"""The further lines of a checkpoint: its coverage, the checkpoint before it, and its signing key (invariants M21 to M23).

Checkpoints of earlier releases have no such lines. Other programs ignore the lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from imgstore.ledger.log.log_entries import LogHead, LogKey

_COMPLETE_UNTIL: Final = "complete-until"
_OPEN_SINCE: Final = "open-since"
_PREVIOUS: Final = "previous"
_KEY: Final = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The entries that a checkpoint covers."""

    complete_until: datetime
    """The log has all entries up to this time."""
    open_since: datetime
    """Each interval that was open at `complete_until` was opened at this time or later."""


def format_lines(coverage: Coverage | None, previous: LogHead | None, key: LogKey) -> list[str]:
    """Return the further lines of a checkpoint.

    Args:
        coverage: the coverage, or None for a checkpoint that does not end a run of sealing.
        previous: the checkpoint before.
        key: the key that signs.
    """
    lines = [describe_key(key)]
    if previous is not None:
        lines.append(describe_previous(previous))
    if coverage is not None:
        lines.append(f"{_COMPLETE_UNTIL} {_format(coverage.complete_until)}")
        lines.append(f"{_OPEN_SINCE} {_format(coverage.open_since)}")
    return lines


def describe_key(key: LogKey) -> str:
    """Return the line that names a key with its properties, so that a change of the key is found."""
    endorsed = "unendorsed" if key.endorsement is None else "endorsed"
    return f"{_KEY} {key.kid} {key.number} {_format(key.created_at)} {endorsed}"


def describe_previous(head: LogHead) -> str:
    """Return the line that names the checkpoint before, so that a removal of the checkpoint is found."""
    return f"{_PREVIOUS} {head.size} {head.root}"


def read_coverage(lines: Sequence[str]) -> Coverage | None:
    """Return the coverage, or None if the checkpoint states none."""
    values = {name: value for name, _, value in (line.partition(" ") for line in lines)}
    try:
        complete_until = datetime.fromisoformat(values[_COMPLETE_UNTIL])
        open_since = datetime.fromisoformat(values[_OPEN_SINCE])
    except (KeyError, ValueError):
        return None
    return Coverage(complete_until=complete_until, open_since=open_since)


def find_line_faults(lines: Sequence[str], previous: LogHead | None, keys: Sequence[LogKey]) -> list[tuple[str, str]]:
    """Compare the lines of a checkpoint with the checkpoint before and with the keys.

    Returns:
        (id of a key, text) of each fault. The id of a missing checkpoint is empty.
    """
    faults: list[tuple[str, str]] = []
    known = {key.kid: key for key in keys}
    for line in lines:
        name, _, value = line.partition(" ")
        if name == _PREVIOUS and (previous is None or line != describe_previous(previous)):
            faults.append(("", f"the checkpoint before, with {value.partition(' ')[0]} entries, is missing"))
        elif name == _KEY:
            kid = value.partition(" ")[0]
            if kid not in known or line != describe_key(known[kid]):
                faults.append((kid, f"the key has other properties than at its checkpoint: {value}"))
    return faults


def _format(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
