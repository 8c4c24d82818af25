"""Sealed entries of the ledger: each change is found, and each entry is provable (M20 to M23)."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from sqlalchemy import JSON, text

from imgstore.catalog import schema
from imgstore.catalog.storage.leaf_encoding import LeafEncoder
from imgstore.catalog.storage.revisions import KINDS, encode_row
from imgstore.cli.main import main
from imgstore.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound, ObjectCorrupt
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.storage.object_keys import LEDGER_CHECKPOINTS
from imgstore.ledger.log.log_entries import LogFindingKind, LogVerification, UnsealedCount
from imgstore.ledger.log.merkle_tree import hash_leaf
from imgstore.ledger.storage.periods import settle_interval
from imgstore.operations.billing.price_lists import apply_prices, record_prices
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.keys import rotate_key
from imgstore.operations.ledger_log.proofs import prove_entry, show_checkpoint
from imgstore.operations.ledger_log.seal import seal_entries, seal_now
from imgstore.operations.ledger_log.verify import verify_log
from imgstore.operations.maintenance.worker import run_worker
from tests.support.sample_gallery import ADMIN, SampleImages, open_home, publish
from tests.support.sealed_ledger import NOON, add_entries, make_charge, make_interval, open_ledger

pytest_plugins = ["tests.support.published_gallery"]

ENGINES: Final = ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))]
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(params=ENGINES)
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """An installation on each engine, without entries."""
    url = None if request.param == "sqlite" else str(request.getfixturevalue("postgresql"))
    with open_ledger(tmp_path / "home", url) as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Installation]:
    """An installation on SQLite with a few sealed entries in two checkpoints."""
    with open_ledger(tmp_path / "home") as opened:
        add_entries(opened, range(1, 20), closed=range(1, 6), opened=range(6, 8))
        seal_entries(opened)
        add_entries(opened, range(20, 30))
        seal_entries(opened)
        yield opened


def execute(installation: Installation, *statements: str, **values: Any) -> None:
    with installation.catalog.transaction() as transaction:
        for each in statements:
            transaction._session.run(text(each), values)


def kinds(report: LogVerification) -> set[LogFindingKind]:
    return {each.kind for each in report.findings}


def count_unsealed(installation: Installation) -> UnsealedCount:
    with installation.catalog.reading() as transaction:
        return transaction.ledger_log.count_unsealed()


def test_entries_are_sealed_in_the_order_of_time_and_verified(installation: Installation) -> None:
    report = verify_log(installation, ADMIN)
    assert (report.size, report.is_intact, report.newest) == (0, True, None)
    add_entries(installation, range(1, 700), closed=range(1, 4), opened=range(4, 6))
    report = verify_log(installation, ADMIN)
    assert (len(report.unsealed), report.unsealed[0].entry) == (702, "ledger/charge-00001")
    assert count_unsealed(installation) == (702, datetime.fromisoformat(report.unsealed[0].time))
    first = seal_entries(installation)
    assert count_unsealed(installation) == (0, None)
    assert (first.sealed, first.size) == (702, 702)
    assert seal_entries(installation).sealed == 0, "the newest checkpoint stays"
    add_entries(installation, range(700, 703))
    with installation.catalog.transaction() as transaction:
        transaction.ledger.close_interval("interval-00004", NOON + timedelta(days=30))
    assert seal_entries(installation).sealed == 4
    for newer_only, verified in ((False, 706), (True, 706 - 512)):
        report = verify_log(installation, ADMIN, older=first.checkpoint, newer_only=newer_only)
        assert (report.findings, report.unsealed, report.verified) == ([], [], verified)
        assert report.verified + report.skipped == report.size
        assert report.extends is not None
        assert report.extends.size == 702
    proof = prove_entry(installation, ADMIN, "charge-00300")
    assert json.loads(proof.leaf)["amount"] == "0.00600001800"
    assert proof.hashes <= 10


def test_leaf_is_the_canonical_json_of_the_row(installation: Installation) -> None:
    add_entries(installation, range(1, 3), closed=range(1, 3))
    with installation.catalog.transaction() as transaction:
        transaction.ledger.add(make_charge(installation, 9, key="tab\t and \\ and \x7f"))
    with installation.catalog.reading() as transaction:
        found = {each.entry: each.leaf for each in transaction.ledger_log.stream_entries()}
        session = transaction._session
        transaction_tables = ("ledger", "intervals")
        for member in (each for each in KINDS["ledger"].members if each.table.name in transaction_tables):
            for row in session.all(member.table.select()):
                plain = encode_row(member, row._asdict()) | {"table": member.table.name}
                expected = json.dumps(
                    {name: value for name, value in plain.items() if value is not None},
                    sort_keys=True,
                    separators=(",", ":"),
                )
                assert found.pop(f"{member.table.name}/{plain[member.identity[0]]}") == expected
    assert not found


def test_columns_of_entries_are_null_in_older_rows() -> None:
    """A column with a default would change the leaves of sealed rows (M20)."""
    first = {
        "ledger": "key kind source target replica delivered_bytes unit_price amount time",
        "intervals": "uid owner_uid slot_uid region replica storage_account_type stored_bytes opened_at closed_at",
        "price_lists": "uid number digest document effective_at",
    }
    party = "subscription subscription_key group_name gallery definition version disk"
    for name, columns in first.items():
        for column in schema.metadata.tables[name].c:
            if column.name not in f"{columns} {party}".split():
                assert column.nullable, column
                assert column.server_default is None, column


_KEYS: Final = {
    "ledger": "key",
    "intervals": "uid",
    "price_lists": "uid",
    "ledger_leaves": "entry",
    "ledger_heads": "root",
    "ledger_keys": "kid",
}
"""The column that identifies a row of a table."""


class Mutator:
    """Makes random changes of sealed entries and of their log. Each change is another statement of SQL."""

    def __init__(self, installation: Installation, seed: int) -> None:
        self._random = random.Random(seed)
        with installation.catalog.reading() as transaction:
            session = transaction._session
            self._is_sqlite = session.is_sqlite
            self._rows = {
                name: [row._asdict() for row in session.all(schema.metadata.tables[name].select())]
                for name in ("ledger", "intervals", "price_lists", "ledger_leaves", "ledger_heads", "ledger_keys")
            }
        sealed = {row["entry"] for row in self._rows["ledger_leaves"]}
        self._unsealed: list[tuple[str, dict[str, Any]]] = []
        for name in ("ledger", "intervals", "price_lists"):
            key, rows = _KEYS[name], self._rows[name]
            self._rows[name] = [row for row in rows if f"{name}/{row[key]}" in sealed]
            self._unsealed += [(name, row) for row in rows if f"{name}/{row[key]}" not in sealed]

    def change(self) -> tuple[list[tuple[str, dict[str, Any]]], str]:
        """Return statements with values, and a description."""
        act: Callable[[], list[tuple[str, dict[str, Any]]]] = self._random.choice(
            [
                *(4 * [self._change_value]),
                self._swap_values,
                self._delete_row,
                self._delete_row_and_leaf,
                self._reopen,
                *(2 * [self._insert_late]),
                *(2 * [self._back_date]),
                *(2 * [self._forge]),
                self._insert_price_list,
                self._insert_open_interval,
                self._swap_leaves,
                self._change_leaf,
                self._change_row_and_leaf,
                self._delete_leaf,
                self._change_head,
                self._delete_head,
                self._delete_newest_head,
                self._change_key,
            ]
        )
        statements = act()
        return statements, f"{act.__name__} {statements}"

    def _pick(self, name: str) -> tuple[dict[str, Any], str]:
        return self._random.choice(self._rows[name]), _KEYS[name]

    def _other(self, table: str, column: str, value: Any) -> Any:
        stored = schema.metadata.tables[table].c[column].type
        kind = stored.python_type
        if isinstance(stored, JSON):
            return '{"a": "1"}'
        if value is None:
            return 7 if kind is int else "x"
        if kind is int:
            return value + self._random.choice([-1, 1, 1000])
        if isinstance(value, bytes):
            place = self._random.randrange(len(value))
            return value[:place] + bytes([value[place] ^ (1 << self._random.randrange(8))]) + value[place + 1 :]
        if hasattr(value, "isoformat"):
            changed = value + timedelta(microseconds=self._random.choice([-1, 1, 10**9]))
            return changed.strftime("%Y-%m-%d %H:%M:%S.%f") if self._is_sqlite else changed
        word = changed = str(value)
        while changed == word:
            place = self._random.randrange(len(word) + 1)
            added = self._random.choice("0123456789 azAZ.'\"\\\n")
            changed = word[:place] + added + word[place + self._random.randrange(2) :]
        return changed

    def _entry_table(self) -> str:
        return self._random.choice(["ledger", "intervals", "price_lists"])

    def _set(self, table: str, row: dict[str, Any], key: str, column: str, value: Any) -> tuple[str, dict[str, Any]]:
        return f"UPDATE {table} SET {column} = :value WHERE {key} = :key", {"value": value, "key": str(row[key])}

    def _change_value(self) -> list[tuple[str, dict[str, Any]]]:
        table = self._entry_table()
        row, key = self._pick(table)
        column = self._random.choice([each for each in row if each != key])
        return [self._set(table, row, key, column, self._other(table, column, row[column]))]

    def _swap_values(self) -> list[tuple[str, dict[str, Any]]]:
        (one, key), (other, _) = self._pick("ledger"), self._pick("ledger")
        if one["amount"] == other["amount"]:
            return self._change_value()
        return [
            self._set("ledger", one, key, "amount", str(other["amount"])),
            self._set("ledger", other, key, "amount", str(one["amount"])),
        ]

    def _delete_row(self) -> list[tuple[str, dict[str, Any]]]:
        table = self._entry_table()
        row, key = self._pick(table)
        return [(f"DELETE FROM {table} WHERE {key} = :key", {"key": row[key]})]

    def _delete_row_and_leaf(self) -> list[tuple[str, dict[str, Any]]]:
        table = self._entry_table()
        row, key = self._pick(table)
        entry = {"entry": f"{table}/{row[key]}"}
        return [
            (f"DELETE FROM {table} WHERE {key} = :key", {"key": row[key]}),
            ("DELETE FROM ledger_leaves WHERE entry = :entry", entry),
        ]

    def _reopen(self) -> list[tuple[str, dict[str, Any]]]:
        row, _ = self._pick("intervals")
        return [("UPDATE intervals SET closed_at = NULL WHERE uid = :key", {"key": row["uid"]})]

    def _insert_late(self) -> list[tuple[str, dict[str, Any]]]:
        """Insert a further transfer, interval or price list with earlier times."""
        table = self._entry_table()
        row, key = self._pick(table)
        late = self._earlier()
        values = {
            "ledger": {"key": "late", "time": late},
            "intervals": {
                "uid": "late",
                "opened_at": late - timedelta(days=self._random.randrange(40)),
                # A month end is the usual end of an interval.
                "closed_at": self._random.choice([late, NOON, datetime(2026, 3, 1, tzinfo=UTC)]),
            },
            "price_lists": {"uid": "late", "number": len(self._rows["price_lists"]) + 2, "effective_at": late},
        }[table]
        return [self._copy(table, row, key, values)]

    def _insert_open_interval(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("intervals")
        return [self._copy("intervals", row, key, {"uid": "late", "opened_at": self._earlier(), "closed_at": None})]

    def _insert_price_list(self) -> list[tuple[str, dict[str, Any]]]:
        """Insert a price list with other prices, a number out of order, or an earlier time."""
        row, key = self._pick("price_lists")
        number = len(self._rows["price_lists"]) + 2
        values: dict[str, Any] = {"uid": "late", "number": number, "effective_at": NOON}
        values |= self._random.choice(
            [
                {"document": '{"currency": "EUR"}'},
                {"number": 0},
                {"number": number + 1},
                {"effective_at": self._earlier()},
            ]
        )
        return [self._copy("price_lists", row, key, values)]

    def _back_date(self) -> list[tuple[str, dict[str, Any]]]:
        """Move the time of a row that is not sealed yet."""
        table, row = self._random.choice(self._unsealed)
        column = {"ledger": "time", "intervals": "opened_at", "price_lists": "effective_at"}[table]
        return [self._set(table, row, _KEYS[table], column, self._stored(self._earlier()))]

    def _forge(self) -> list[tuple[str, dict[str, Any]]]:
        """Insert a row of the log, or seal a forged entry without a checkpoint."""
        size = len(self._rows["ledger_leaves"])
        head, _ = self._pick("ledger_heads")
        leaf = {"entry": f"ledger/{self._rows['ledger'][0]['key']}x", "hash": self._random.randbytes(32)}
        forged: dict[str, dict[str, Any]] = {
            "ledger_leaves": leaf | {"position": size},
            "ledger_heads": {"root": "x" * 44, "size": size + 1, "note": head["note"]},
            "ledger_subtrees": {"level": 1, "number": 0, "hash": leaf["hash"]},
        }
        table = self._random.choice(sorted(forged))
        columns = forged[table]
        return [
            (
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})",
                columns,
            )
        ]

    def _earlier(self) -> datetime:
        return NOON - timedelta(days=self._random.randrange(1, 90), seconds=self._random.randrange(86_400))

    def _stored(self, value: Any) -> Any:
        is_text = self._is_sqlite and isinstance(value, datetime)
        return value.strftime("%Y-%m-%d %H:%M:%S.%f") if is_text else value

    def _copy(self, table: str, row: dict[str, Any], key: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a statement that inserts a row again, with other values."""
        others = ", ".join(name for name in row if name not in values)
        named = ", ".join(
            f"CAST(:new_{name} AS JSON)" if name == "document" and not self._is_sqlite else f":new_{name}"
            for name in values
        )
        return (
            f"INSERT INTO {table} ({', '.join(values)}, {others}) SELECT {named}, {others} FROM {table} WHERE {key} = :old",
            {"old": row[key]} | {f"new_{name}": self._stored(value) for name, value in values.items()},
        )

    def _swap_leaves(self) -> list[tuple[str, dict[str, Any]]]:
        one, other = self._random.sample(self._rows["ledger_leaves"], 2)
        return [
            self._set("ledger_leaves", one, "entry", "position", -1),
            self._set("ledger_leaves", other, "entry", "position", one["position"]),
            self._set("ledger_leaves", one, "entry", "position", other["position"]),
        ]

    def _change_leaf(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger_leaves")
        column = self._random.choice(["hash", "entry"])
        return [self._set("ledger_leaves", row, key, column, self._other("ledger_leaves", column, row[column]))]

    def _change_row_and_leaf(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger")
        changed = row | {"amount": row["amount"] + 1}
        member = KINDS["ledger"].members[0]
        plain = {name: value for name, value in encode_row(member, changed).items() if value is not None}
        leaf = json.dumps(plain | {"table": "ledger"}, sort_keys=True, separators=(",", ":"))
        return [
            self._set("ledger", row, key, "amount", str(changed["amount"])),
            self._set("ledger_leaves", {"entry": f"ledger/{row['key']}"}, "entry", "hash", hash_leaf(leaf.encode())),
        ]

    def _delete_leaf(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger_leaves")
        return [(f"DELETE FROM ledger_leaves WHERE {key} = :key", {"key": row[key]})]

    def _change_head(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger_heads")
        column = self._random.choice(["note", "root", "size"])
        if column == "size":
            return [self._set("ledger_heads", row, key, column, row["size"] + 1000)]
        return [self._set("ledger_heads", row, key, column, self._other("ledger_heads", column, row[column]))]

    def _delete_head(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger_heads")
        return [(f"DELETE FROM ledger_heads WHERE {key} = :key", {"key": row[key]})]

    def _delete_newest_head(self) -> list[tuple[str, dict[str, Any]]]:
        return [("DELETE FROM ledger_heads WHERE size = (SELECT max(size) FROM ledger_heads)", {})]

    def _change_key(self) -> list[tuple[str, dict[str, Any]]]:
        row, key = self._pick("ledger_keys")
        column = self._random.choice([each for each in row if each != key and row[each]])
        return [self._set("ledger_keys", row, key, column, self._other("ledger_keys", column, row[column]))]


class _Undo(Exception):
    pass


def find_missed(installation: Installation, count: int, seed: int) -> list[str]:
    """Make changes one after the other, and return those that a verification misses. Each change is undone."""
    from imgstore.ledger.log.signed_notes import make_origin
    from imgstore.operations.ledger_log.verify import _Verification

    assert verify_log(installation, ADMIN).is_intact
    mutator = Mutator(installation, seed)
    missed: list[str] = []
    origin, refused = make_origin(installation.uid), 0
    with pytest.raises(_Undo), installation.catalog.transaction() as transaction:
        session = transaction._session
        for _ in range(count):
            statements, description = mutator.change()
            savepoint = session.connection.begin_nested()
            try:
                for statement, values in statements:
                    session.run(text(statement), values)
            except Conflict:  # The database refuses an existing key.
                refused += 1
                savepoint.rollback()
                continue
            report = _Verification(transaction, origin, NOON).run(None, newer_only=False)
            if report.is_intact or report.verified > report.size:
                missed.append(description)
            savepoint.rollback()
        raise _Undo
    assert verify_log(installation, ADMIN).is_intact
    assert refused <= count / 100
    return missed


def fill(installation: Installation) -> None:
    """Seal entries in three checkpoints of two keys. A few further entries are not sealed."""
    add_entries(installation, range(1, 9), closed=range(1, 5), opened=range(5, 6))
    add_price_list(installation, "EUR")
    seal_entries(installation)
    rotate_key(installation, ADMIN)
    for first in (9, 12):
        add_entries(installation, range(first, first + 3))
        seal_entries(installation)
    add_entries(installation, range(15, 17), closed=range(15, 16))
    add_price_list(installation, "USD")


def add_price_list(installation: Installation, currency: str) -> None:
    with installation.catalog.transaction() as transaction:
        prices = replace(installation.regions.prices, currency=currency)
        transaction.price_lists.add(f"list-{currency}", prices)


def test_random_changes_of_the_ledger_and_the_log_are_found(installation: Installation) -> None:
    fill(installation)
    assert find_missed(installation, 150, seed=20) == []


@pytest.mark.long
def test_ten_thousand_random_changes_are_found(installation: Installation) -> None:
    fill(installation)
    assert find_missed(installation, 10_000, seed=4) == []


def test_ten_thousand_random_values_change_the_leaf(small: Installation) -> None:
    """The comparison of rows with leaves, without a database for each change."""
    choose = random.Random(7)
    for name, key in (("ledger", "key"), ("intervals", "uid")):
        encoder = LeafEncoder(schema.metadata.tables[name], is_sqlite=True)
        with small.catalog.reading() as transaction:
            from sqlalchemy import select

            statement: Any = select(*encoder.selected).select_from(encoder.source)
            rows = [tuple(row) for row in transaction._session.all(statement)]
        assert len(rows) >= 5, key
        for _ in range(5_000):
            row = choose.choice(rows)
            place = choose.randrange(len(row))
            value = row[place]
            others: list[Any] = [None, "", "x", 0, -1, 1.5, b"x", f"{value} ", f'{value}","a":"', str(value), [], True]
            if isinstance(value, str) and value:
                at = choose.randrange(len(value))
                others += [value[:at] + value[at + 1 :], value[:at] + chr(choose.randrange(1, 300)) + value[at:]]
            if isinstance(value, int):
                others += [value + 1, -value - 1, value * 10]
            other = choose.choice([each for each in others if type(each) is not type(value) or each != value])
            changed = (*row[:place], other, *row[place + 1 :])
            assert encoder.encode(changed) != encoder.encode(row), (encoder.names[place], value, other)


@pytest.mark.parametrize(
    ("statement", "kind", "subject"),
    [
        ("UPDATE ledger SET amount = '9' WHERE key = 'charge-00003'", "changed", "ledger/charge-00003"),
        ("DELETE FROM ledger WHERE key = 'charge-00003'", "missing", "ledger/charge-00003"),
        ("DELETE FROM intervals WHERE uid = 'interval-00002'", "missing", "intervals/interval-00002"),
        ("UPDATE intervals SET closed_at = NULL WHERE uid = 'interval-00002'", "reopened", "intervals/interval-00002"),
        ("UPDATE ledger_leaves SET hash = 'x' WHERE position = 3", "leaf", "3"),
        ("UPDATE ledger_leaves SET position = 'x' WHERE position = 3", "leaf", "x"),
        ("DELETE FROM ledger_leaves WHERE position = 33", "checkpoint", "34"),
        ("DELETE FROM ledger_leaves", "checkpoint", "34"),
        ("DELETE FROM ledger_heads", "checkpoint", "none"),
        ("UPDATE ledger_heads SET size = 'x' WHERE size = 34", "checkpoint", "x"),
        ("UPDATE ledger_keys SET private_key = NULL, public_key = x'00'", "key", None),
        ("INSERT INTO ledger_subtrees VALUES (1, 0, x'00')", "subtree", "leaves 0 to 255"),
    ],
)
def test_findings_name_the_place(small: Installation, statement: str, kind: str, subject: str | None) -> None:
    execute(small, statement)
    report = verify_log(small, ADMIN)
    assert any(each.kind == kind and subject in {None, each.subject} for each in report.findings), report.findings


def test_numbers_of_a_damaged_log_are_those_of_its_entries(small: Installation) -> None:
    """Behind a missing leaf, the positions are out of order, and the entries are compared all the same."""
    execute(small, "DELETE FROM ledger_leaves WHERE position = 3")
    result = CliRunner().invoke(main, ["--home", str(small.home), "bill", "verify", "-o", "csv"])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith('NOT INTACT,log,"33 of 33 sealed entries compared, ')


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(3, 7, ["3, 7"]), (3, 4, ["3, 4"]), (3, 27, ["3", "27"])],
    ids=["same checkpoint", "neighbours", "two checkpoints"],
)
def test_exchanged_leaves_are_named(small: Installation, one: int, other: int, expected: list[str]) -> None:
    for old, new in ((one, -1), (other, one), (-1, other)):
        execute(small, f"UPDATE ledger_leaves SET position = {new} WHERE position = {old}")
    found = [each for each in verify_log(small, ADMIN).findings if each.kind != "late"]
    assert [each.subject for each in found if each.kind == "leaf"] == expected
    assert [each.kind.value for each in found][: len(expected)] == ["leaf"] * len(expected)
    assert next(each.text for each in found if each.kind == "checkpoint").startswith("the leaves 0 to 23 give")


def test_stored_hashes_are_compared_and_made_again(small: Installation) -> None:
    add_entries(small, range(30, 600))
    seal_entries(small)
    execute(small, "UPDATE ledger_subtrees SET hash = x'00' WHERE number = 1")
    report = verify_log(small, ADMIN)
    assert [(each.kind, each.subject) for each in report.findings] == [("subtree", "leaves 256 to 511")]
    with pytest.raises(ObjectCorrupt, match="cannot be proven"):
        prove_entry(small, ADMIN, "charge-00001")
    seal_entries(small)
    assert verify_log(small, ADMIN).is_intact
    assert prove_entry(small, ADMIN, "charge-00001").index == 0


def test_changed_log_is_never_extended(small: Installation) -> None:
    execute(small, "UPDATE ledger_leaves SET hash = zeroblob(32) WHERE position = 3")
    add_entries(small, range(30, 31))
    with pytest.raises(ObjectCorrupt, match="nothing was sealed"):
        seal_entries(small)
    with pytest.raises(ObjectCorrupt, match="cannot be proven"):
        prove_entry(small, ADMIN, "charge-00001")
    assert LogFindingKind.CHECKPOINT in kinds(verify_log(small, ADMIN))


def test_older_checkpoint_finds_a_log_that_was_sealed_again(small: Installation) -> None:
    """A person with the signing key changes an entry, and seals all entries again. Only the kept checkpoint shows this."""
    kept, _ = show_checkpoint(small, ADMIN)
    execute(
        small,
        "UPDATE ledger SET amount = '0' WHERE key = 'charge-00003'",
        "DELETE FROM ledger_leaves",
        "DELETE FROM ledger_heads",
        "DELETE FROM ledger_subtrees",
    )
    seal_entries(small)
    assert verify_log(small, ADMIN).is_intact
    for newer_only in (False, True):
        report = verify_log(small, ADMIN, older=kept, newer_only=newer_only)
        assert LogFindingKind.EXTENSION in kinds(report)
    execute(small, "DELETE FROM ledger_leaves WHERE position > 3", "DELETE FROM ledger_heads")
    assert LogFindingKind.EXTENSION in kinds(verify_log(small, ADMIN, older=kept))
    execute(small, "DELETE FROM ledger_leaves", "DELETE FROM ledger_keys")
    seal_entries(small)
    assert kinds(verify_log(small, ADMIN, older=kept)) == {LogFindingKind.EXTENSION}, "no key of the log has signed"
    with pytest.raises(InvalidInput, match="no checkpoint of this log"):
        verify_log(small, ADMIN, older="text")
    with pytest.raises(InvalidInput, match="needs an older checkpoint"):
        verify_log(small, ADMIN, newer_only=True)


LATE: Final = {
    "transfer": ("ledger/late", {"time": NOON - timedelta(days=40)}),
    "ended interval": ("intervals/late", {"opened_at": NOON, "closed_at": NOON - timedelta(days=3)}),
    "opened interval": ("intervals/late", {"opened_at": NOON - timedelta(days=40), "closed_at": NOON}),
    "month": (
        "intervals/late",
        {"opened_at": NOON - timedelta(days=40), "closed_at": datetime(2026, 2, 1, tzinfo=UTC)},
    ),
}
"""The entry and the times of rows that were added behind the checkpoints that should cover the rows."""


@pytest.mark.parametrize("case", LATE)
def test_late_entries_are_found_before_and_after_their_sealing(small: Installation, case: str) -> None:
    entry, times = LATE[case]
    with small.catalog.transaction() as transaction:
        if "time" in times:
            transaction.ledger.add(make_charge(small, 30, key="late", time=times["time"]))
        else:
            transaction.ledger.open_interval(make_interval(small, 30, uid="late", **times))
    for _ in range(2):
        report = verify_log(small, ADMIN)
        assert [(each.kind, each.subject) for each in report.findings] == [("late", entry)]
        seal_entries(small)


def test_checkpoints_of_earlier_releases_find_entries_behind_newer_transfers(
    small: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such checkpoints state no coverage. A settlement of older months is no late entry."""
    from imgstore.operations.ledger_log import seal

    execute(small, "DELETE FROM ledger_leaves", "DELETE FROM ledger_heads", "DELETE FROM ledger_subtrees")
    monkeypatch.setattr(seal, "format_lines", lambda *_: [])
    seal_entries(small)
    monkeypatch.undo()
    whole = make_interval(small, 30, opened_at=NOON - timedelta(days=80))
    *closed, opened = settle_interval(whole, NOON)
    with small.catalog.transaction() as transaction:
        for part in (*closed, opened):
            transaction.ledger.open_interval(part)
    assert verify_log(small, ADMIN).is_intact
    seal_entries(small)
    assert verify_log(small, ADMIN).is_intact
    with small.catalog.transaction() as transaction:
        forged = replace(closed[0], uid="forged", stored_bytes=10**12)
        transaction.ledger.open_interval(forged)
        transaction.ledger.add(make_charge(small, 30, key="late", time=NOON - timedelta(days=40)))
    for _ in range(2):
        found = [(each.kind, each.subject) for each in verify_log(small, ADMIN).findings]
        assert sorted(found) == [("late", "intervals/forged"), ("late", "ledger/late")]
        seal_entries(small)


def test_clocks_and_commits_may_differ_by_less_than_an_hour(small: Installation) -> None:
    earlier = NOON - timedelta(minutes=30)  # The newest sealed transfer is 29 minutes after noon.
    with small.catalog.transaction() as transaction:
        transaction.ledger.add(make_charge(small, 30, time=earlier))
        for number, end in ((30, None), (31, earlier)):
            transaction.ledger.open_interval(make_interval(small, number, opened_at=earlier, closed_at=end))
    for _ in range(2):
        assert verify_log(small, ADMIN).findings == []
        assert seal_entries(small).refused == []


def test_unsealed_entries_are_reported(small: Installation) -> None:
    add_entries(small, range(30, 31))
    report = verify_log(small, ADMIN)
    assert (report.is_intact, [each.entry for each in report.unsealed]) == (True, ["ledger/charge-00030"])
    for name, reason in (("charge-00030", "not sealed yet"), ("intervals/interval-00006", "is open")):
        with pytest.raises(Conflict, match=reason):
            prove_entry(small, ADMIN, name)
    with pytest.raises(NotFound, match="could not be found"):
        prove_entry(small, ADMIN, "charge-99999")


def test_price_lists_are_sealed(tmp_path: Path) -> None:
    """A statement rates the entries by price lists, so a changed list changes the bill."""
    with open_home(tmp_path / "home") as installation:
        assert seal_entries(installation).size == 1
        with installation.catalog.reading() as transaction:
            (uid,) = (row.uid for row in transaction._session.all(schema.price_lists.select()))
        proof = prove_entry(installation, ADMIN, uid)
        assert json.loads(proof.leaf)["number"] == 1
        execute(installation, "UPDATE price_lists SET document = replace(document, '0.0', '0.1')")
        report = verify_log(installation, ADMIN)
        assert [(each.kind, each.subject) for each in report.findings] == [
            ("changed", f"price_lists/{uid}"),
            ("price-list", f"price_lists/{uid}"),
        ]


FORGED: Final = {
    "document": ({"document": 'replace(document, \'"price": "\', \'"price": "9\')'}, {"price-list"}),
    "time": ({"effective_at": "'2026-02-11 00:00:00.000000'"}, {"late", "price-list"}),
    "first": ({"number": "0", "effective_at": "'2026-02-11 00:00:00.000000'"}, {"late", "price-list"}),
    "number": ({"number": "3"}, {"price-list"}),
    "value": ({"effective_at": "'x'"}, {"late", "price-list"}),
}
"""Values of a forged second price list as SQL, and the kinds of findings."""


@pytest.mark.parametrize("case", FORGED)
def test_forged_price_lists_are_found_and_not_sealed(tmp_path: Path, case: str) -> None:
    """A forged list would change the amounts of sealed months, although no sealed entry changes."""
    values, expected = FORGED[case]
    with open_home(tmp_path / "home") as installation:
        seal_entries(installation)
        row = {"number": "2", "digest": "digest", "document": "document", "effective_at": "effective_at"} | values
        execute(
            installation,
            f"INSERT INTO price_lists (uid, {', '.join(row)}) SELECT 'forged', {', '.join(row.values())} FROM price_lists",
        )
        for _ in range(2):
            report = verify_log(installation, ADMIN)
            assert {(each.kind.value, each.subject) for each in report.findings} >= {
                (kind, "price_lists/forged") for kind in expected
            }
            assert [each.entry for each in report.unsealed] == ["price_lists/forged"]
            sealed = seal_entries(installation)
            assert (sealed.sealed, {each.subject for each in sealed.refused}) == (0, {"price_lists/forged"})


def test_new_price_list_of_an_operator_is_sealed(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        seal_entries(installation)
        prices = installation.regions.prices
        record_prices(installation.catalog, installation.effects, replace(prices, currency="EUR"))
        report = verify_log(installation, ADMIN)
        assert (report.findings, len(report.unsealed)) == ([], 1)
        assert seal_entries(installation).sealed == 1
        assert apply_prices(installation, ADMIN).number == 3
        seal_entries(installation)
        assert verify_log(installation, ADMIN).findings == []


def test_rights(small: Installation) -> None:
    scope = f"/subscriptions/{small.subscription}"
    reader = Principal(name="reader", grants=(Grant(role=Role.READER, scope=scope),))
    other = Principal(name="other", grants=(Grant(role=Role.OWNER, scope="/subscriptions/other"),))
    assert prove_entry(small, reader, "charge-00003").entry == "ledger/charge-00003"
    billing = Principal(name="billing", grants=(Grant(role=Role.BILLING_READER, scope=scope),))
    assert prove_entry(small, billing, "charge-00003").entry == "ledger/charge-00003"
    elsewhere = replace(small, subscription="other")
    refusals = []
    for name in ("charge-00003", "charge-99999"):
        with pytest.raises(NotFound, match="could not be found"):
            prove_entry(small, other, name)
        with pytest.raises(NotFound, match="could not be found") as caught:
            prove_entry(elsewhere, other, name)
        refusals.append(str(caught.value).replace(name, "NAME"))
        for role in (Role.IMAGE_READER, Role.ARTIFACTS_PUBLISHER, Role.SHARING_ADMIN):
            with pytest.raises(AccessDenied):
                prove_entry(small, Principal(name="x", grants=(Grant(role=role, scope=scope),)), name)
    # A foreign entry looks like a missing entry.
    assert refusals[0] == refusals[1]
    for act in (verify_log, show_checkpoint, seal_now, rotate_key):
        with pytest.raises((AccessDenied, NotFound)):
            act(small, reader)


def test_key_rotation_keeps_older_checkpoints(small: Installation) -> None:
    kept, _ = show_checkpoint(small, ADMIN)
    first, second = rotate_key(small, ADMIN)[0], rotate_key(small, ADMIN)[0]
    assert second.number == first.number + 1 == 3
    with small.catalog.reading() as transaction:
        stored = transaction.ledger_log.list_keys()
    assert [each.private_key is not None for each in stored] == [False, False, True]
    assert [each.endorsement is not None for each in stored] == [False, True, True]
    assert prove_entry(small, ADMIN, "charge-00003").verifier_key.split("+")[1] == second.kid
    add_entries(small, range(30, 31))
    seal_entries(small)
    assert verify_log(small, ADMIN, older=kept).is_intact
    execute(small, "UPDATE ledger_keys SET private_key = NULL")
    add_entries(small, range(31, 32))
    seal_entries(small)
    report = verify_log(small, ADMIN, older=kept)
    assert report.is_intact
    assert [each.endorsement is not None for each in report.keys] == [False, True, True, False], "the key was lost"


def test_two_sealers_give_one_order(installation: Installation) -> None:
    add_entries(installation, range(1, 40))
    for first in range(40, 200, 40):
        add_entries(installation, range(first, first + 40))
        with ThreadPoolExecutor(3) as pool:
            reports = list(pool.map(lambda _: seal_entries(installation), range(3)))
        assert max(each.size for each in reports) == first + 39
    report = verify_log(installation, ADMIN)
    assert (report.findings, report.verified) == ([], 199)


@pytest.mark.parametrize("fatal", [1, 2])
def test_killed_sealing_is_repeated(tmp_path: Path, fatal: int) -> None:
    """Kill the process before and after the commit of a batch."""
    with open_home(tmp_path / "home") as installation:
        add_entries(installation, range(1, 20))
    program = (
        "import signal, sys; from pathlib import Path; from tests.support.crash_process import StepCounter;"
        "from tests.support.sample_gallery import open_home; from imgstore.operations.ledger_log.seal import seal_entries\n"
        "with open_home(Path(sys.argv[1])) as installation:\n"
        "    counter = StepCounter(int(sys.argv[2]), signal.SIGKILL); counter.wrap_commits(); seal_entries(installation)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "home"), str(fatal)]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open_home(tmp_path / "home") as installation:
        assert seal_entries(installation).sealed == (20 if fatal == 1 else 0)
        report = verify_log(installation, ADMIN)
        assert (report.findings, report.verified) == ([], 20), "19 charges and the price list"


def test_worker_seals_and_writes_checkpoints_into_the_buckets(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    publish(published, samples.second, "1.0.1")
    run_worker(published, ADMIN, once=True)
    report = verify_log(published, ADMIN)
    assert (report.findings, report.unsealed) == ([], [])
    note, checkpoint = show_checkpoint(published, ADMIN)
    assert checkpoint.size == report.verified > 0
    for region in ("southcentralus", "westus2", "eastus"):
        store = published.locator.installation_store(region)
        (key,) = [info.key for info in store.list(LEDGER_CHECKPOINTS)]
        assert store.get(key).decode() == note
    assert seal_now(published, ADMIN).sealed == 0
    rotate_key(published, ADMIN)
    assert seal_now(published, ADMIN).checkpoint != note, "a further signature is no other checkpoint"


def test_removed_log_differs_from_the_buckets(published: Installation, samples: SampleImages) -> None:
    """All tables of the log are emptied, so only the buckets know the sealed entries."""
    seal_now(published, ADMIN)
    with published.catalog.reading() as transaction:
        head = transaction.ledger_log.newest_head()
    assert head is not None
    publish(published, samples.second, "1.0.1")
    seal_now(published, ADMIN)
    assert verify_log(published, ADMIN).is_intact
    execute(
        published,
        *(f"DELETE FROM {name}" for name in ("ledger_leaves", "ledger_heads", "ledger_subtrees", "ledger_keys")),
    )
    regions = {f"region {name}" for name in ("southcentralus", "westus2", "eastus")}
    report = verify_log(published, ADMIN)
    assert {(each.kind.value, each.subject) for each in report.findings} == {("extension", each) for each in regions}
    seal_entries(published)  # Another key seals all entries again.
    assert {each.subject for each in verify_log(published, ADMIN).findings} == regions


def test_cut_log_differs_from_the_buckets(published: Installation, samples: SampleImages) -> None:
    """The newest entries, their leaves and their checkpoint are removed."""
    kept = seal_now(published, ADMIN).size
    publish(published, samples.second, "1.0.1")
    seal_now(published, ADMIN)
    with published.catalog.reading() as transaction:
        removed = [entry for _, entry, _ in transaction.ledger_log.stream_leaves(kept)]
    execute(published, f"DELETE FROM ledger_heads WHERE size > {kept}")
    execute(published, f"DELETE FROM ledger_leaves WHERE position >= {kept}")
    for entry in removed:
        table, _, key = entry.partition("/")
        execute(published, f"DELETE FROM {table} WHERE {_KEYS[table]} = :key", key=key)
    report = verify_log(published, ADMIN)
    assert {each.kind.value for each in report.findings} == {"extension"}
    assert "catalog adopt" in report.findings[0].text


def test_region_without_an_answer_is_reported(published: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    seal_now(published, ADMIN)
    store = published.locator.installation_store("eastus")
    (key,) = [info.key for info in store.list(LEDGER_CHECKPOINTS)]
    store.put(key, b"text")
    opened, answer = published.locator.installation_store, threading.Event()

    def open_store(name: str) -> Any:
        if name == "westus2":
            answer.wait()
        return opened(name)

    monkeypatch.setattr(published.locator, "installation_store", open_store)
    report = verify_log(published, ADMIN, seconds_max=0.1)
    answer.set()
    assert {each.region: each.problem for each in report.buckets}["westus2"] == "no answer within 0.1 s"
    report = verify_log(published, ADMIN)
    assert [(each.kind.value, each.subject) for each in report.findings] == [("checkpoint", "region eastus")]
    assert {each.problem for each in report.buckets} == {None}


def test_damaged_log_keeps_no_charge_out_of_the_buckets(published: Installation) -> None:
    seal_now(published, ADMIN)
    add_entries(published, range(1, 3))
    execute(published, "UPDATE ledger_leaves SET hash = zeroblob(32) WHERE position = 0")
    run_worker(published, ADMIN, once=True)
    with published.catalog.reading() as transaction:
        assert not transaction.revision_marks.list_for_ledger(1), "all rows are in the buckets"
        outcomes = {each.name: each.outcome for each in transaction.maintenance_tasks.list()}
        assert transaction.ledger_log.list_unsealed()
    assert "nothing was sealed" in str(outcomes["ledger"])


def test_verifier_of_the_page_needs_no_imgstore(small: Installation, tmp_path: Path) -> None:
    """Run the program of docs/billing.md on a proof, and on changed proofs."""
    page = (ROOT / "docs" / "billing.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"<!-- verifier -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(program.splitlines()) <= 60
    assert not re.search(r"^\s*(?:import|from) imgstore", program, re.MULTILINE)
    (tmp_path / "verifier.py").write_text(program)
    from imgstore.wire.responses.ledger_log import proof_json

    answer = proof_json(prove_entry(small, ADMIN, "charge-00003"))

    def verify(body: Any, key: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "entry.json").write_text(json.dumps(body))
        words = [sys.executable, "-I", str(tmp_path / "verifier.py"), str(tmp_path / "entry.json"), key]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    key = answer["verifierKey"]
    done = verify(answer, key)
    assert done.returncode == 0, done.stderr
    assert "sealed in a log of 34 entries" in done.stdout
    assert '"key": "charge-00003"' in done.stdout
    other = format_other_key(key)
    wrong = {
        "leaf": (answer | {"leaf": answer["leaf"].replace("0.00006", "0.00007")}, key),
        "index": (answer | {"proof": answer["proof"].replace("index ", "index 1", 1)}, key),
        "size": (answer | {"proof": answer["proof"].replace("\n34\n", "\n35\n")}, key),
        "key": (answer, other),
    }
    for name, (body, used) in wrong.items():
        assert verify(body, used).returncode == 1, name


def format_other_key(verifier_key: str) -> str:
    from imgstore.ledger.log.signed_notes import format_verifier_key
    from imgstore.operations.ledger_log.keys import find_public_key

    return format_verifier_key(verifier_key.partition("+")[0], find_public_key(bytes(32)))
