"""Limits of connections: how many may be open, and how long each may wait for its client. Pure.

A client that has sent no complete request yet, or that is idle, makes room for a new one; where there is none, a body
for which the server waits makes room, of the address that has most of them. So a caller with many half-open connections
or half-sent bodies keeps nobody out, and a client that sends its request at once is served.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

_FILES_RESERVED_MAX: Final = 512
"""File descriptors for the catalog, stores, uploads and threads."""
_REST_BYTES_MAX: Final = 64 << 20
"""What is still taken of a body behind its answer, so that the client comes to read the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What `imgstore serve` grants its connections."""

    connections_max: int = 2_048
    """Open at once. Fewer where the process may not open so many files."""
    connections_per_address_max: int = 512
    """Open at once from one address, or one /64 network of IPv6. Trusted proxies have no limit of their own."""
    head_seconds: float = 10.0
    """From a connection, or the first byte of a later request, to the end of the request's head. A TLS handshake has the
    same time."""
    keep_alive_seconds: float = 5.0
    """Between two requests."""
    body_idle_seconds: float = 60.0
    """Without a byte of a body that the server waits for. The client of an answer has the same time to take a byte."""
    body_bytes_per_second_min: int = 1_024
    """The rate of a body, over the time that the server has waited for it."""
    rest_seconds: float = 5.0
    """For the rest of a body whose answer was sent already, and for the client's part in closing a connection."""

    def within(self, files_max: int) -> int:
        """Return the connections that a process may hold that may open `files_max` files."""
        return max(1, min(self.connections_max, files_max - min(_FILES_RESERVED_MAX, files_max // 2)))


class Phase(Enum):
    """What a connection waits for."""

    HANDSHAKE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """The server works, or sends."""
    REST = auto()
    """The answer was sent before the body had ended."""
    IDLE = auto()
    """Between two requests."""
    CLOSING = auto()


_HALF_OPEN: Final = (Phase.HANDSHAKE, Phase.HEAD)


@dataclass(slots=True, eq=False, kw_only=True)
class ConnectionState:
    """A connection as the limits see it. Times are seconds of a monotonic clock."""

    group: str | None
    """Of its address; None has no limit of its own."""
    phase: Phase
    since: float
    """When the phase began."""
    body_bytes: int = 0
    """Received in this phase."""
    starved_seconds: float = 0.0
    """How long the server waited for the client in this phase, in all."""
    idle_seconds: float = 0.0
    """How long nothing moved while the client had to act."""
    unsent_bytes: int = 0
    _seen_bytes: int = 0
    _looked_at: float = field(default=-math.inf)

    def observe(self, now: float, *, starved: bool, unsent_bytes: int) -> None:
        """Note how things are, about once a second.

        Args:
            now: the time.
            starved: the server waits for the client's next byte.
            unsent_bytes: bytes of answers that the client has not taken.
        """
        seconds = 0.0 if self._looked_at == -math.inf else now - self._looked_at
        self._looked_at = now
        moved = self.body_bytes != self._seen_bytes or (unsent_bytes and unsent_bytes != self.unsent_bytes)
        waits = starved or unsent_bytes > 0
        self._seen_bytes, self.unsent_bytes = self.body_bytes, unsent_bytes
        self.starved_seconds += seconds if starved else 0.0
        self.idle_seconds = self.idle_seconds + seconds if waits and not moved else 0.0

    def enter(self, phase: Phase, now: float) -> None:
        """Begin a phase."""
        self.phase, self.since = phase, now
        self.body_bytes = self._seen_bytes = 0
        self.starved_seconds = self.idle_seconds = 0.0


def close_reason(state: ConnectionState, limits: ConnectionLimits, now: float) -> str | None:
    """Return why a connection is to be closed; None if it may stay. The reasons are few: they are labels of a metric."""
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
        """The connection that makes room: the oldest half-open one, else the one that is idle for the longest time."""
        return next(iter(self.half_open), None) or next(iter(self.idle), None)

    def slowest_body(self) -> ConnectionState | None:
        """Return the body for which the server has waited longest; None if there is no body."""
        return max(self.bodies, key=lambda state: state.starved_seconds, default=None)


class ConnectionTable:
    """The open connections, in all and for each address. Not safe for several threads: the event loop owns it."""

    def __init__(self, limits: ConnectionLimits, connections_max: int) -> None:
        self._limits, self._max = limits, connections_max
        self._all = _Group()
        self._groups: dict[str, _Group] = {}

    def __len__(self) -> int:
        return len(self._all.open)

    def check_capacity(self, group: str | None) -> "tuple[bool, ConnectionState | None]":
        """Decide about a new connection.

        Returns:
            Whether it is taken, and the connection that is to be closed for it, if any.
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
        """Return the connection that is closed where the system has no room for another."""
        most = max(self._groups.values(), key=lambda group: len(group.bodies), default=None)
        return self._all.next_to_close() or (None if most is None else most.slowest_body())

    def add(self, state: ConnectionState) -> None:
        """Count a new connection."""
        for group in self._groups_of(state):
            group.open.add(state)
            self._enqueue(group, state)

    def move(self, state: ConnectionState, phase: Phase, now: float) -> None:
        """Have a connection enter a phase."""
        if state.phase is phase or state not in self._all.open:
            return
        for group in self._groups_of(state):
            self._dequeue(group, state)
        state.enter(phase, now)
        for group in self._groups_of(state):
            self._enqueue(group, state)

    def remove(self, state: ConnectionState) -> None:
        """Forget a connection that has ended. May be repeated."""
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
