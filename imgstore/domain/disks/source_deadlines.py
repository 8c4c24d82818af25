"""Time limits for sources over the network."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDeadlines:
    """The time limits of a request to a source, and of all requests to the source together."""

    connect_seconds: float = 10.0
    """The limit for a connection, including the TLS handshake."""
    idle_seconds: float = 30.0
    """The limit for a pause in an answer."""
    head_seconds: float = 60.0
    """The limit for everything before the body of an answer: redirects, connections, heads."""
    bytes_per_second_min: int = 65_536
    """The lowest rate of a body after `idle_seconds`."""
    total_seconds: float = 300.0
    """The limit for all requests together.

    Each request extends the limit by two seconds, and each body by the time at the lowest rate.
    """

    def body_seconds(self, length: int) -> float:
        """Return the time limit of a body of `length` bytes."""
        return self.idle_seconds + length / self.bytes_per_second_min

    def added_seconds(self, length: int) -> float:
        """Return the seconds that an answer with `length` bytes adds to the total limit."""
        return 2.0 + length / self.bytes_per_second_min
