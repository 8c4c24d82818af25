"""How slow a source over the network may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDeadlines:
    """The bounds of one request to a source, and of all requests to it together."""

    connect_seconds: float = 10.0
    """For a connection, its TLS handshake included."""
    idle_seconds: float = 30.0
    """For any silence while an answer comes."""
    head_seconds: float = 60.0
    """For everything before an answer's body: redirects, connections, heads."""
    bytes_per_second_min: int = 65_536
    """The least rate of a body, once `idle_seconds` have passed."""
    total_seconds: float = 300.0
    """For all requests together; each body adds the time that it has at the least rate, each request two seconds."""

    def body_seconds(self, length: int) -> float:
        """The time that a body of `length` bytes has."""
        return self.idle_seconds + length / self.bytes_per_second_min

    def added_seconds(self, length: int) -> float:
        """The time that an answer with `length` bytes adds to the total."""
        return 2.0 + length / self.bytes_per_second_min
