"""What PostgreSQL does alone, asked by its driver: the limits of what the catalog gets from it.

Nothing of imgstore runs here: statements that it was overheard to send are read again and what they give is thrown away,
and the rows that a placement locks and adds are stood in for by rows that mean nothing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event, make_url

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement as the driver is given it."""

    text: bytes
    values: Mapping[str, Any]
    """Of its parameters, by name."""


@contextmanager
def overheard() -> Iterator[list[Statement]]:
    """What any thread of this process has SQLAlchemy send meanwhile, in order; whoever listens may clear the list."""
    heard = list[Statement]()

    def hear(
        _connection: object, _cursor: object, text: str, values: Mapping[str, Any], _context: object, many: object
    ) -> None:
        assert not many, "a statement for many rows would be told once"
        if text.startswith("BEGIN"):
            return  # imgstore begins a transaction in SQL; the bench uses the driver's own transactions
        heard.append(Statement(text=text.encode(), values=values))

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(Engine, "before_cursor_execute", hear)


def connected(url: str) -> "psycopg.Connection":
    """A connection of the driver's own to what `url` names for SQLAlchemy."""
    import psycopg  # noqa: PLC0415 - part of the extra `postgresql`: other cases run without it

    return psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


@contextmanager
def reader(url: str) -> "Iterator[psycopg.Connection]":
    """A connection on which a transaction sees one snapshot and writes nothing, as when imgstore reads."""
    from psycopg import IsolationLevel  # noqa: PLC0415

    with connected(url) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def fetched(connection: "psycopg.Connection", statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
    """All rows of each of the statements, in one transaction."""
    with connection.transaction():
        return [connection.execute(each.text, each.values).fetchall() for each in statements]


def timed_reads(url: str, groups: Sequence[Sequence[Statement]]) -> list[tuple[float, int]]:
    """(seconds, rows) of each group of statements: a transaction each, one after another, on one connection."""
    found = []
    with reader(url) as connection:
        # A server's process reads the tables' descriptions at its first look at them: imgstore's did so long ago.
        fetched(connection, groups[0])
        for group in groups:
            began = time.perf_counter()
            rows = sum(map(len, fetched(connection, group)))
            found.append((time.perf_counter() - began, rows))
    return found


_BODY = bytes(440)
"""With it a row has 516 bytes by pg_column_size(); one of `disks`, as the case places them, has 513 to 521."""

_MAKE = (
    "CREATE TABLE bare_counters (name text PRIMARY KEY, turns bigint NOT NULL)",
    "CREATE TABLE bare_rows (uid text PRIMARY KEY, turn bigint NOT NULL, body bytea NOT NULL)",
    "INSERT INTO bare_counters VALUES ('one', 0)",
)
_TURN = "UPDATE bare_counters SET turns = turns + 1 WHERE name = 'one' RETURNING turns"
_ADD = "INSERT INTO bare_rows VALUES (%s, %s, %s)"
_COUNT = "SELECT turns, (SELECT count(*) FROM bare_rows) FROM bare_counters"
_DROP = "DROP TABLE bare_counters, bare_rows"


def turns_per_second(url: str, *, turns: int, threads: int) -> float:
    """Transactions of so many threads, a connection each: all turn one counter's row, and each adds a row of its own.

    Raises:
        AssertionError: a turn or a row was lost.
    """
    with _tables(url) as watcher:
        with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
            connections = [stack.enter_context(connected(url)) for _ in range(threads)]
            shares = [range(first, turns, threads) for first in range(threads)]
            began = time.perf_counter()
            list(pool.map(_take_turns, connections, shares))
            seconds = time.perf_counter() - began
        assert watcher.execute(_COUNT).fetchall() == [(turns, turns)], "a turn or a row was lost"
    return turns / seconds


@contextmanager
def _tables(url: str) -> "Iterator[psycopg.Connection]":
    """Both tables, dropped with the block: by then nobody else may be in a transaction that knows them."""
    with connected(url) as connection:
        for statement in _MAKE:
            connection.execute(statement)
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(_DROP)
            connection.commit()


def _take_turns(connection: "psycopg.Connection", numbers: Sequence[int]) -> None:
    for number in numbers:
        (turn,) = connection.execute(_TURN).fetchall()[0]
        connection.execute(_ADD, (f"{number:036}", turn, _BODY))
        connection.commit()
