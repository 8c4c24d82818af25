"""The log of sealed entries of the ledger: leaves, stored hashes of subtrees, signed checkpoints and keys (M20 to M23).

An entry is a row of `ledger`, a closed row of `intervals`, or a row of `price_lists`. Entries are read as stored, without
the conversion of columns, because a changed row may have values that no conversion accepts.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, column, delete, func, literal, null, select, table, update

from imgstore.catalog import schema
from imgstore.catalog.engine.database import Session
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.storage.leaf_encoding import LeafEncoder
from imgstore.ledger.log.log_entries import LogHead, LogKey, ReadEntry, UnsealedCount, UnsealedEntry
from imgstore.ledger.log.merkle_tree import HASH_BYTES, StoredTree, is_hash

_leaves = schema.ledger_leaves
_subtrees = schema.ledger_subtrees
_heads = schema.ledger_heads
_keys = schema.ledger_keys
_untyped = table("ledger_leaves", column("entry"), column("position"), column("hash"))
_stored = _untyped.c
"""The columns of the leaves with the values of the driver."""

LOG_TABLES: Final = frozenset({_leaves.name, _heads.name})
"""The tables of the log in the checkpoints of the ledger."""
_LOCK: Final = "ledger-log"
_ROWS_AT_ONCE: Final = 500
_STREAM_ROWS: Final = 5_000


class _EntryTable:
    """A table with entries, in the stored types of an engine."""

    def __init__(self, name: str, *, key: str, time: str, begin: str | None = None, is_sqlite: bool) -> None:
        self.prefix = f"{name}/"
        self.encoder = LeafEncoder(schema.metadata.tables[name], is_sqlite=is_sqlite)
        columns = self.encoder.source.c
        self.key, self.end = columns[key], columns[time]
        self.subscription: ColumnElement[Any] = columns["subscription"] if "subscription" in columns else null()
        self._key_index, self._time_index = (2 + self.encoder.names.index(name) for name in (key, time))
        self._begin_index = None if begin is None else 2 + self.encoder.names.index(begin)
        self.time = self.encoder.selected[self.encoder.names.index(time)]
        self.begin = None if begin is None else self.encoder.selected[self.encoder.names.index(begin)]
        leaf = _stored.entry == literal(self.prefix) + self.key
        self.joined = self.encoder.source.outerjoin(_untyped, leaf)

    def select(self) -> Select[Any]:
        """Return a SELECT of all rows with their leaves, for `read`."""
        return select(_stored.position, _stored.hash, *self.encoder.selected).select_from(self.joined)

    def select_unsealed(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """Return a SELECT of the entries that are not sealed. An open interval is no entry yet."""
        return select(*columns).select_from(self.joined).where(_stored.entry.is_(None), self.end.is_not(None))

    def read(self, row: Any) -> ReadEntry:
        """Return a row of `select`."""
        return ReadEntry(
            f"{self.prefix}{row[self._key_index]}",
            self.encoder.encode(row[2:]),
            row[self._time_index],
            row[0],
            row[1],
            None if self._begin_index is None else row[self._begin_index],
        )


class LedgerLog(Repository):
    """The log of all subscriptions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry_tables: Sequence[_EntryTable] = ()

    def lock(self) -> None:
        """Lock the log until the end of the transaction. So entries have one order, and one key is active."""
        self._session.lock_name(_LOCK)

    def list_unsealed(self) -> list[UnsealedEntry]:
        """Return the entries that are not sealed, the oldest first."""
        found: list[UnsealedEntry] = []
        for each in self._tables:
            statement = each.select_unsealed(each.key.label("key"), each.time.label("time"))
            found += (
                UnsealedEntry(entry=f"{each.prefix}{row.key}", time=str(row.time))
                for row in self._session.stream(statement, rows_at_once=_STREAM_ROWS)
            )
        return sorted(found, key=lambda each: (each.time, each.entry))

    def count_unsealed(self) -> UnsealedCount:
        """Count the entries that are not sealed."""
        entries, times = 0, list[datetime]()
        for each in self._tables:
            columns: list[ColumnElement[Any]] = [func.count().label("entries"), func.min(each.time).label("oldest")]
            for row in self._session.all(each.select_unsealed(*columns)):
                entries += row.entries
                if (oldest := _read_time(row.oldest)) is not None:
                    times.append(oldest)
        return UnsealedCount(entries=entries, oldest=min(times, default=None))

    def read_entries(self, entries: Collection[str]) -> list[ReadEntry]:
        """Read entries and open intervals by id, in the given order. Ids without a row are left out."""
        order = {entry: number for number, entry in enumerate(entries)}
        found: list[ReadEntry] = []
        for each in self._tables:
            keys = [entry.removeprefix(each.prefix) for entry in order if entry.startswith(each.prefix)]
            for at in range(0, len(keys), _ROWS_AT_ONCE):
                statement = each.select().where(each.key.in_(keys[at : at + _ROWS_AT_ONCE]))
                found += map(each.read, self._session.all(statement))
        return sorted(found, key=lambda read: order[read.entry])

    def stream_entries(self, first: int = 0) -> Iterator[ReadEntry]:
        """Yield the entries in any order: sealed entries from a position on, and all entries that are not sealed."""
        for each in self._tables:
            statement = each.select().where(each.end.is_not(None) | _stored.entry.is_not(None))
            if first:
                statement = statement.where(_stored.entry.is_(None) | (_stored.position >= first))
            yield from map(each.read, self._session.stream(statement, rows_at_once=_STREAM_ROWS))

    def stream_open_intervals(self) -> Iterator[tuple[str, str]]:
        """Yield (id, begin) of the open storage intervals that are not sealed. A begin is as in a leaf."""
        for each in self._tables:
            if each.begin is not None:
                columns: list[ColumnElement[Any]] = [each.key.label("key"), each.begin.label("begin")]
                statement = select(*columns).select_from(each.joined).where(_stored.entry.is_(None), each.end.is_(None))
                for row in self._session.stream(statement, rows_at_once=_STREAM_ROWS):
                    yield f"{each.prefix}{row.key}", str(row.begin)

    def list_price_lists(self) -> list[ReadEntry]:
        """Return all price lists in any order, sealed or not."""
        return [each.read(row) for each in self._tables[2:] for row in self._session.all(each.select())]

    def find_newest_sealed_time(self) -> str | None:
        """Return the time of the newest sealed transfer, as in its leaf, or None without a sealed transfer."""
        transfers = self._tables[0]
        newest = select(transfers.time).select_from(transfers.joined).where(_stored.entry.is_not(None))
        row = self._session.first(newest.order_by(transfers.end.desc()).limit(1))
        return None if row is None else str(row[0])

    def find_entry(self, name: str) -> tuple[str, str | None] | None:
        """Return the id and the subscription of an entry or open interval, or None. A price list has no subscription.

        Args:
            name: the id, or the key of a transfer, or the uid of an interval or a price list.
        """
        for each in self._tables:
            key = name.removeprefix(each.prefix)
            row = self._session.first(select(each.subscription).select_from(each.encoder.source).where(each.key == key))
            if row is not None:
                return each.prefix + key, row[0]
        return None

    def count_leaves(self) -> int:
        """Return the number of leaves."""
        return int(self._session.value(select(func.count()).select_from(_leaves)) or 0)

    def next_position(self) -> int:
        """Return the position after the last leaf."""
        found = self._session.value(select(func.max(_leaves.c.position)))
        return found + 1 if isinstance(found, int) else self.count_leaves()

    def stream_leaves(self, first: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (position, entry, hash) of the leaves from a position on, in order, as stored."""
        columns: list[ColumnElement[Any]] = [_stored.position, _stored.entry, _stored.hash]
        statement = select(*columns).where(_stored.position >= first).order_by(_stored.position)
        for row in self._session.stream(statement, rows_at_once=_STREAM_ROWS):
            yield row.position, row.entry, row.hash

    def list_subtrees(self) -> list[tuple[Any, Any, Any]]:
        """Return (level, number, hash) of all stored subtrees, as stored."""
        columns: list[ColumnElement[Any]] = [column("level"), column("number"), column("hash")]
        statement = select(*columns).select_from(_subtrees)
        return [(row.level, row.number, row.hash) for row in self._session.all(statement)]

    def read_hashes(self, level: int, first: int, count: int) -> bytes:
        """Return consecutive hashes of a stored level. See `StoredHashes`.

        Raises:
            LookupError: a hash is missing.
        """
        if level:
            number: ColumnElement[Any] = _subtrees.c.number
            statement: Select[Any] = select(column("hash")).select_from(_subtrees).where(_subtrees.c.level == level)
        else:
            number = _leaves.c.position
            statement = select(column("hash")).select_from(_leaves)
        statement = statement.where(number >= first, number < first + count).order_by(number)
        found = [row[0] for row in self._session.all(statement)]
        if len(found) != count or not all(map(is_hash, found)):
            raise LookupError(f"{len(found)} of {count} hashes of level {level} from {first} on")
        return b"".join(found)

    def append(self, size: int, leaves: Sequence[tuple[str, bytes]]) -> None:
        """Add (entry, hash) of new leaves at the end, and the hashes of the subtrees that the leaves complete.

        Args:
            size: the number of leaves before.
            leaves: the new leaves.
        """
        hashes = b"".join(each for _, each in leaves)
        subtrees = list(StoredTree(self).complete_subtrees(size, hashes))
        values = [
            {"entry": entry, "position": size + number, "hash": each} for number, (entry, each) in enumerate(leaves)
        ]
        for at in range(0, len(values), _ROWS_AT_ONCE):
            self._session.run(_leaves.insert(), values[at : at + _ROWS_AT_ONCE])
        self._add_subtrees(subtrees)

    def rebuild_subtrees(self) -> bool:
        """Compute the hashes of all subtrees again, from the leaves. Return False if a leaf is missing."""
        self._session.run(delete(_subtrees))
        hashes = bytearray()
        for position, _, found in self.stream_leaves():
            if position * HASH_BYTES != len(hashes) or not is_hash(found):
                return False
            hashes += found
        self._add_subtrees(list(StoredTree(_NoHashes()).complete_subtrees(0, bytes(hashes))))
        return True

    def _add_subtrees(self, subtrees: Sequence[tuple[int, int, bytes]]) -> None:
        values = [{"level": level, "number": number, "hash": each} for level, number, each in subtrees]
        for at in range(0, len(values), _ROWS_AT_ONCE):
            self._session.run(_subtrees.insert(), values[at : at + _ROWS_AT_ONCE])

    def newest_head(self) -> LogHead | None:
        """Return the newest checkpoint, or None before the first."""
        row = self._session.first(select(_heads).order_by(_heads.c.size.desc()).limit(1))
        return None if row is None else to_value(LogHead, row)

    def list_heads(self) -> list[LogHead]:
        """Return all checkpoints, the oldest first."""
        return [to_value(LogHead, row) for row in self._session.all(select(_heads).order_by(_heads.c.size))]

    def add_head(self, head: LogHead) -> None:
        """Add a checkpoint."""
        self._session.run(_heads.insert(), to_columns(_heads, head))

    def replace_note(self, head: LogHead, note: str) -> None:
        """Replace the signed text of a checkpoint."""
        self._session.run(update(_heads).where(_heads.c.root == head.root).values(note=note))

    def list_keys(self) -> list[LogKey]:
        """Return all keys, the first key first."""
        return [to_value(LogKey, row) for row in self._session.all(select(_keys).order_by(_keys.c.number))]

    def add_key(self, key: LogKey) -> None:
        """Add a key, which signs all further checkpoints."""
        self._session.run(_keys.insert(), to_columns(_keys, key))

    def retire_key(self, kid: str, retired_at: datetime) -> None:
        """Remove the private part of a key."""
        statement = update(_keys).where(_keys.c.kid == kid)
        self._session.run(statement.values(private_key=None, retired_at=retired_at))

    def remove_unwritten(self, marks: Iterable[tuple[str, str]]) -> None:
        """Remove leaves and checkpoints that are in no bucket, before an older catalog takes those of the buckets.

        The older catalog may have sealed other entries at the same positions. These entries are sealed again.

        Args:
            marks: (table, key) of the rows of the ledger and its log that are in no bucket.
        """
        found = list(marks)
        for key in (_leaves.c.entry, _heads.c.root):
            values = sorted(uid for name, uid in found if name == key.table.name)
            for at in range(0, len(values), _ROWS_AT_ONCE):
                self._session.run(delete(key.table).where(key.in_(values[at : at + _ROWS_AT_ONCE])))

    @property
    def _tables(self) -> Sequence[_EntryTable]:
        if not self._entry_tables:
            is_sqlite = self._session.is_sqlite
            self._entry_tables = (
                _EntryTable("ledger", key="key", time="time", is_sqlite=is_sqlite),
                _EntryTable("intervals", key="uid", time="closed_at", begin="opened_at", is_sqlite=is_sqlite),
                _EntryTable("price_lists", key="uid", time="effective_at", is_sqlite=is_sqlite),
            )
        return self._entry_tables


def _read_time(text: object) -> datetime | None:
    """Return the time of an entry. None for no entry, and for a value that no code would write."""
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


class _NoHashes:
    """The stored hashes of an empty tree."""

    def read_hashes(self, level: int, first: int, count: int) -> bytes:
        raise LookupError(f"no hash {first} of level {level}")
