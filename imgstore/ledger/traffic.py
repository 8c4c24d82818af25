"""Compare the ledger and the listings with the traffic counters of the stores, between two readings (invariant M15)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

TOLERANCE: Final = Fraction(5, 1_000)
"""The part of the received bytes that may stay unexplained: the XML of deletions, and bytes of retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReading:
    """The counters of a server, and the bytes that the listings and the ledger give to its zones, at one time."""

    received_bytes: int
    sent_bytes: int
    segment_bytes: int
    """Listed segments of all slots in the zones of the server."""
    other_bytes: int
    """Listed manifests and overhead."""
    egress_bytes: int
    """Egress of the ledger into the regions of the server."""
    repaired_bytes: int
    """Repairs of the ledger into the regions of the server."""
    copied_bytes: int
    """Free copies of the ledger inside the regions of the server."""
    supplied_bytes: int
    """Egress and cross-region reads of the ledger out of the regions of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTraffic:
    """The traffic of a server between two readings."""

    endpoint: str
    received_bytes: int
    """By the server's counter, as `sent_bytes`."""
    egress_bytes: int
    repaired_bytes: int
    copied_bytes: int
    """Copies that crossed the network. A copy by the server itself sends no body."""
    ingested_bytes: int
    """New segments without a charge: the bytes of ingests."""
    other_bytes: int
    """New manifests and overhead."""
    sent_bytes: int
    supplied_bytes: int
    """Egress and cross-region reads of the ledger. Exports and listings are sent, too, and are no charge."""

    @property
    def unexplained_bytes(self) -> int:
        """The received bytes without all named bytes."""
        named = self.egress_bytes + self.repaired_bytes + self.copied_bytes + self.ingested_bytes + self.other_bytes
        return self.received_bytes - named

    @property
    def agrees(self) -> bool:
        """Whether the received bytes are explained, and the server sent the supplied bytes."""
        is_explained = abs(self.unexplained_bytes) <= TOLERANCE * self.received_bytes
        return is_explained and self.sent_bytes >= self.supplied_bytes * (1 - TOLERANCE)


def compare_readings(endpoint: str, begin: EndpointReading, end: EndpointReading) -> EndpointTraffic:
    """Name the bytes that a server received between two readings, without deletions between the readings."""
    segments = end.segment_bytes - begin.segment_bytes
    copied = end.copied_bytes - begin.copied_bytes
    egress = end.egress_bytes - begin.egress_bytes
    ingested = max(0, segments - egress - copied)
    received = end.received_bytes - begin.received_bytes
    other = end.other_bytes - begin.other_bytes
    repaired = end.repaired_bytes - begin.repaired_bytes
    rest = received - egress - repaired - ingested - other
    return EndpointTraffic(
        endpoint=endpoint,
        received_bytes=received,
        egress_bytes=egress,
        repaired_bytes=repaired,
        copied_bytes=copied if abs(rest - copied) < abs(rest) else 0,
        ingested_bytes=ingested,
        other_bytes=other,
        sent_bytes=end.sent_bytes - begin.sent_bytes,
        supplied_bytes=end.supplied_bytes - begin.supplied_bytes,
    )
