"""Join the circuits that several hosts recorded for a zone into one state."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from imgstore.domain.status import ZoneStatus
from imgstore.domain.storage.circuits import CircuitState, ZoneHealth


def join_circuits(used: Collection[tuple[str, str]], circuits: Iterable[ZoneHealth], now: datetime) -> list[ZoneStatus]:
    """Return the state of each used zone: the state of the host that is longest without an answer.

    Args:
        used: the zones (region, zone) that were used at least once.
        circuits: the circuits of all hosts.
        now: the time of the result.
    """
    failing = defaultdict[tuple[str, str], list[ZoneHealth]](list)
    for each in circuits:
        if each.state is not CircuitState.CLOSED:
            failing[each.region, each.zone].append(each)
    found = []
    for region, zone in sorted({*used, *failing}):
        seen = failing.get((region, zone), [])
        worst = max(seen, key=lambda each: each.since_seconds, default=None)
        found.append(
            ZoneStatus(
                region=region,
                zone=zone,
                state=CircuitState.CLOSED if worst is None else worst.state,
                since=None if worst is None else now - timedelta(seconds=worst.since_seconds),
                error=None if worst is None else worst.error,
                observers=len(seen),
            )
        )
    return found
