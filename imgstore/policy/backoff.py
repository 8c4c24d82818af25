"""When a failed replica is tried again."""

from typing import Final

FIRST_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 3600.0


def backoff_seconds(attempts: int, chance: float) -> float:
    """How long a replica rests after its `attempts`-th failure in a row: 30 s, doubled each time up to an hour.

    Jitter of half of it to either side keeps replicas that failed together, at one store, from coming back together.

    Args:
        attempts: failures since it was last complete, from 1.
        chance: from 0 to below 1, evenly spread.
    """
    doubled = FIRST_SECONDS * 2.0 ** min(attempts - 1, 16)
    return min(doubled, LONGEST_SECONDS) * (0.5 + chance)
