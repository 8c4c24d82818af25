"""Decide about connections: the number of open connections, and the time that a connection may wait for the client. Pure.

At the limit, a new connection replaces an open connection. A half-open connection, without a complete request, is closed
first, then an idle connection. If there is none, the server closes a connection with an incomplete body, from the address
with the largest number of such connections. Many half-open connections or incomplete bodies of a caller therefore never
block other clients, and a client that sends a request at once is served (invariant H15).
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

_FILES_RESERVED_MAX: Final = 512
"""File descriptors for the catalog, stores, uploads and threads."""
_REST_BYTES_MAX: Final = 64 << 20
"""The bytes of a body that are still read after the answer. A client that is still sending can then read the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits of the connections of `imgstore serve`."""

    connections_max: int = 2_048
    """Open connections. The number is smaller if the process may not open enough files (`within`)."""
    connections_per_address_max: int = 512
    """Open connections from one address, or one /64 network of IPv6. The limit does not apply to trusted proxies."""
    head_seconds: float = 10.0
    """Time for the head of a request, from the connection or from the first byte of a later request. A TLS handshake has
    the same time."""
    keep_alive_seconds: float = 5.0
    """Time between two requests."""
    body_idle_seconds: float = 60.0
    """Time without a byte of a body that the server waits for. The reader of an answer has the same time for a byte."""
    body_bytes_per_second_min: int = 1_024
    """The minimum rate of a body. Only the time that the server waits for the body counts."""
    rest_seconds: float = 5.0
    """Time for the rest of a body after the answer, and time for the client to close a connection."""

    def within(self, files_max: int) -> int:
        """Return the maximum number of connections of a process that may open `files_max` files."""
        return max(1, min(self.connections_max, files_max - min(_FILES_RESERVED_MAX, files_max // 2)))


class Phase(Enum):
    """The phase of a connection."""

    HANDSHAKE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """The server processes the request or sends the answer."""
    REST = auto()
    """The answer was sent before the end of the body."""
    IDLE = auto()
    """The connection is between two requests."""
    CLOSING = auto()


_HALF_OPEN: Final = (Phase.HANDSHAKE, Phase.HEAD)


@dataclass(slots=True, eq=False, kw_only=True)
class ConnectionState:
    """The values of a connection that the limits use. Times are seconds of a monotonic clock."""

    group: str | None
    """The key of the address (`address_group`). None means that the limit for each address does not apply."""
    phase: Phase
    since: float
    """The start of the phase."""
    body_bytes: int = 0
    """The bytes that were received in this phase."""
    starved_seconds: float = 0.0
    """The total time that the server waited for the client in this phase."""
    idle_seconds: float = 0.0
    """The time since the last byte, while the server waits for the client."""
    unsent_bytes: int = 0
    _seen_bytes: int = 0
    _looked_at: float = field(default=-math.inf)

    def observe(self, now: float, *, starved: bool, unsent_bytes: int) -> None:
        """Update the times from an observation, about once a second.

        Args:
            now: the time.
            starved: whether the server waits for the next byte of the client.
            unsent_bytes: the bytes of answers that the client has not read.
        """
        seconds = 0.0 if self._looked_at == -math.inf else now - self._looked_at
        self._looked_at = now
        moved = self.body_bytes != self._seen_bytes or (unsent_bytes and unsent_bytes != self.unsent_bytes)
        waits = starved or unsent_bytes > 0
        self._seen_bytes, self.unsent_bytes = self.body_bytes, unsent_bytes
        self.starved_seconds += seconds if starved else 0.0
        self.idle_seconds = self.idle_seconds + seconds if waits and not moved else 0.0

    def enter(self, phase: Phase, now: float) -> None:
        """Start a phase, and reset the bytes and times."""
        self.phase, self.since = phase, now
        self.body_bytes = self._seen_bytes = 0
        self.starved_seconds = self.idle_seconds = 0.0


def find_close_reason(state: ConnectionState, limits: ConnectionLimits, now: float) -> str | None:
    """Return the reason to close a connection, or None. The number of reasons is small, because metrics use them as labels."""
    seconds = now - state.since
    if state.phase is Phase.HANDSHAKE and seconds > limits.head_seconds:
        return "handshake"
    if state.phase is Phase.HEAD and seconds > limits.head_seconds:
        return "head"
    if state.phase is Phase.IDLE and seconds > limits.keep_alive_seconds and not state.unsent_bytes:
        return "idle"
    if state.phase is Phase.REST and (seconds > limits.rest_seconds or state.body_bytes > _REST_BYTES_MAX):
        return "rest"
    if state.phase is Phase.BODY:
        due_bytes = (state.starved_seconds - limits.body_idle_seconds) * limits.body_bytes_per_second_min
        if state.idle_seconds > limits.body_idle_seconds or state.body_bytes < due_bytes:
            return "body"
    if (
        state.phase is Phase.CLOSING
        and (seconds if not state.unsent_bytes else state.idle_seconds) > limits.rest_seconds
    ):
        return "closing"
    return "answer" if state.idle_seconds > limits.body_idle_seconds else None


@dataclass(slots=True)
class _Group:
    open: set[ConnectionState] = field(default_factory=set)
    half_open: "OrderedDict[ConnectionState, None]" = field(default_factory=OrderedDict)
    idle: "OrderedDict[ConnectionState, None]" = field(default_factory=OrderedDict)
    bodies: "OrderedDict[ConnectionState, None]" = field(default_factory=OrderedDict)

    def queue(self, phase: Phase) -> "OrderedDict[ConnectionState, None] | None":
        if phase in _HALF_OPEN:
            return self.half_open
        if phase is Phase.BODY:
            return self.bodies
        return self.idle if phase is Phase.IDLE else None

    def next_to_close(self) -> ConnectionState | None:
        """Return the half-open connection with the oldest phase, else the connection with the longest idle time, or None."""
        return next(iter(self.half_open), None) or next(iter(self.idle), None)

    def slowest_body(self) -> ConnectionState | None:
        """Return the connection with the body that the server has waited for longest. Return None if there is no body."""
        return max(self.bodies, key=lambda state: state.starved_seconds, default=None)


class ConnectionTable:
    """The open connections, in total and for each address. Use from the event loop only."""

    def __init__(self, limits: ConnectionLimits, connections_max: int) -> None:
        self._limits, self._max = limits, connections_max
        self._all = _Group()
        self._groups: dict[str, _Group] = {}

    def __len__(self) -> int:
        return len(self._all.open)

    def check_capacity(self, group: str | None) -> "tuple[bool, ConnectionState | None]":
        """Decide about a new connection.

        Returns:
            Whether to accept the new connection, and the open connection to close in exchange, if any.
        """
        mine = None if group is None else self._groups.get(group)
        if mine is not None and len(mine.open) >= self._limits.connections_per_address_max:
            next_to_close = mine.next_to_close()
            return next_to_close is not None, next_to_close
        if len(self._all.open) >= self._max:
            next_to_close = self.next_to_close()
            return next_to_close is not None, next_to_close
        return True, None

    def next_to_close(self) -> ConnectionState | None:
        """Return the connection to close if the system lacks resources for a new connection, or None."""
        most = max(self._groups.values(), key=lambda group: len(group.bodies), default=None)
        return self._all.next_to_close() or (None if most is None else most.slowest_body())

    def add(self, state: ConnectionState) -> None:
        """Add a new connection."""
        for group in self._groups_of(state):
            group.open.add(state)
            self._enqueue(group, state)

    def move(self, state: ConnectionState, phase: Phase, now: float) -> None:
        """Set the phase of a connection. Do nothing if the phase is the same or the connection has ended."""
        if state.phase is phase or state not in self._all.open:
            return
        for group in self._groups_of(state):
            self._dequeue(group, state)
        state.enter(phase, now)
        for group in self._groups_of(state):
            self._enqueue(group, state)

    def remove(self, state: ConnectionState) -> None:
        """Remove a connection that has ended. Repeated calls are harmless."""
        if state not in self._all.open:
            return
        for group in self._groups_of(state):
            group.open.discard(state)
            self._dequeue(group, state)
        if state.group is not None and not self._groups[state.group].open:
            del self._groups[state.group]

    def _groups_of(self, state: ConnectionState) -> list[_Group]:
        mine = [] if state.group is None else [self._groups.setdefault(state.group, _Group())]
        return [self._all, *mine]

    def _enqueue(self, group: _Group, state: ConnectionState) -> None:
        queue = group.queue(state.phase)
        if queue is not None:
            queue[state] = None

    def _dequeue(self, group: _Group, state: ConnectionState) -> None:
        queue = group.queue(state.phase)
        if queue is not None:
            queue.pop(state, None)
