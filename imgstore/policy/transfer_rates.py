"""Estimate the time of transfers from completed transfers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from imgstore.domain.storage.transfers import TimedTransfer


class RateKey(NamedTuple):
    """A kind of transfer with a common rate."""

    source: str | None
    """The region that supplies the bytes: the target region for copies inside a region. None for the source of an ingest,
    whose bytes are the bytes of the disk outside of holes.
    """
    target: str


def measure_rates(transfers: Iterable[TimedTransfer]) -> dict[RateKey, float]:
    """Return the mean rate of each kind of transfer in bytes per second, weighted by the bytes."""
    moved, seconds = defaultdict[RateKey, int](int), defaultdict[RateKey, float](float)
    for each in transfers:
        key = RateKey(source=each.source, target=each.target)
        moved[key] += each.moved_bytes
        seconds[key] += each.seconds
    return {key: count / seconds[key] for key, count in moved.items() if count and seconds[key] > 0}


def estimate_seconds(
    moved_bytes: Mapping[RateKey, int], rates: Mapping[RateKey, float], limit: Callable[[str, str], int | None]
) -> dict[str, float | None]:
    """Return the time of the transfers into each region, one after the other. None if a necessary rate is unknown.

    Args:
        moved_bytes: the bytes of each kind of transfer.
        rates: bytes per second, from `measure_rates`.
        limit: the present bandwidth limit of a pair of regions in bytes per second, or None.
    """
    found: dict[str, float | None] = {}
    for key, count in moved_bytes.items():
        seconds = _seconds(key, count, rates, limit)
        before = found.get(key.target, 0.0)
        found[key.target] = None if seconds is None or before is None else before + seconds
    return found


def _seconds(
    key: RateKey, count: int, rates: Mapping[RateKey, float], limit: Callable[[str, str], int | None]
) -> float | None:
    if not count:
        return 0.0
    rate = rates.get(key)
    most = None if key.source is None or key.source == key.target else limit(key.source, key.target)
    if rate is None:
        return None
    return count / (rate if most is None else min(rate, most))
