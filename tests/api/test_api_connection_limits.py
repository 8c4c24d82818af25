"""Test the decisions about connections with a clock of the test. Pure."""

import pytest

from imgstore.api.http.connection_limits import (
    ConnectionLimits,
    ConnectionState,
    ConnectionTable,
    Phase,
    find_close_reason,
)

LIMITS = ConnectionLimits(connections_max=4, connections_per_address_max=2)


def opened(table: ConnectionTable, group: str | None, phase: Phase = Phase.HEAD) -> ConnectionState:
    state = ConnectionState(group=group, phase=phase, since=0.0)
    table.add(state)
    return state


def test_oldest_half_open_connection_of_an_address_is_replaced() -> None:
    table = ConnectionTable(LIMITS, 4)
    works = opened(table, "a", Phase.ANSWER)
    half_open = opened(table, "a", Phase.HANDSHAKE)
    assert table.check_capacity("b") == (True, None)
    assert table.check_capacity("a") == (True, half_open)
    table.move(half_open, Phase.BODY, 1.0)
    assert table.check_capacity("a") == (False, None)
    table.move(works, Phase.IDLE, 2.0)
    assert table.check_capacity("a") == (True, works)


def test_half_open_connection_is_closed_before_an_idle_connection() -> None:
    table = ConnectionTable(LIMITS, 3)
    idle, first, second = opened(table, "a", Phase.IDLE), opened(table, "b"), opened(table, "c")
    assert table.check_capacity("d") == (True, first)
    table.remove(first)
    assert table.check_capacity("d") == (True, None)
    opened(table, "d", Phase.ANSWER)
    assert table.check_capacity("e") == (True, second)
    table.remove(second)
    table.remove(second)
    opened(table, "e", Phase.ANSWER)
    assert table.check_capacity("f") == (True, idle)
    assert len(table) == 3


def test_connection_with_a_slow_body_is_closed_last() -> None:
    """Half-sent bodies of many addresses block no client: the address with the most bodies loses a connection."""
    table = ConnectionTable(LIMITS, 4)
    opened(table, "a", Phase.ANSWER)
    opened(table, "b", Phase.BODY).starved_seconds = 50.0
    first, second = (opened(table, "c", Phase.BODY) for _ in range(2))
    second.starved_seconds = 5.0
    assert table.check_capacity("d") == (True, second)
    table.remove(second)
    idle = opened(table, "d", Phase.IDLE)
    assert table.check_capacity("e") == (True, idle), "what asks nothing goes first"
    table.remove(idle)
    table.move(first, Phase.ANSWER, 1.0)
    opened(table, None, Phase.BODY)
    (oldest,) = [state for state in (table.next_to_close(),) if state is not None]
    assert oldest.group == "b", "a trusted proxy's bodies stay"


def test_address_limit_does_not_apply_to_trusted_proxies() -> None:
    table = ConnectionTable(LIMITS, 4)
    for _ in range(3):
        opened(table, None, Phase.ANSWER)
    assert table.check_capacity(None) == (True, None)


def test_limits_reserve_files_for_the_process() -> None:
    assert [ConnectionLimits().within(files) for files in (1, 64, 1_024, 65_536)] == [1, 32, 512, 2_048]


@pytest.mark.parametrize(
    ("phase", "seconds", "expected"),
    [
        (Phase.HANDSHAKE, 10, None),
        (Phase.HANDSHAKE, 11, "handshake"),
        (Phase.HEAD, 10, None),
        (Phase.HEAD, 11, "head"),
        (Phase.IDLE, 5, None),
        (Phase.IDLE, 6, "idle"),
        (Phase.REST, 6, "rest"),
        (Phase.CLOSING, 6, "closing"),
        (Phase.ANSWER, 10_000, None),
    ],
)
def test_each_phase_has_a_deadline(phase: Phase, seconds: float, expected: str | None) -> None:
    state = ConnectionState(group="a", phase=phase, since=0.0)
    assert find_close_reason(state, ConnectionLimits(), seconds) == expected


def body(rate: int, *, starved: bool = True, seconds: int = 300) -> str | None:
    """Return the close reason of a body with this rate in bytes a second."""
    state = ConnectionState(group="a", phase=Phase.BODY, since=0.0)
    for now in range(seconds):
        state.body_bytes += rate
        state.observe(now, starved=starved, unsent_bytes=0)
        if reason := find_close_reason(state, ConnectionLimits(), now):
            return reason
    return None


def test_body_has_a_minimum_rate() -> None:
    assert body(0) == "body"
    assert body(10) == "body"
    assert body(2_000) is None
    assert body(0, starved=False) is None, "the server is at work, not the client"


def test_client_that_reads_no_answer_is_closed() -> None:
    state = ConnectionState(group="a", phase=Phase.ANSWER, since=0.0)
    for now in range(60):
        state.observe(now, starved=False, unsent_bytes=1_000 - now)
        assert find_close_reason(state, ConnectionLimits(), now) is None
    for now in range(60, 130):
        state.observe(now, starved=False, unsent_bytes=900)
    assert find_close_reason(state, ConnectionLimits(), 130) == "answer"
