"""Completed transfers with their time, for estimates."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTransfer:
    """The bytes and the time of the last work that made a replica."""

    source: str | None
    """The region that supplied the bytes. None for an ingest."""
    target: str
    moved_bytes: int
    seconds: float
