"""A ledger of a million entries: added up for a statement on both databases, and sealed, verified and proven on SQLite."""

import json
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from bench.database import connected
from bench.measuring import Case, Found, Samples, World, timed
from bench.processes import Finished, run_timed
from bench.results import Door, Goal, Unit
from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.progress import ignore_event
from imgstore.operations.ledger_log.seal import seal_entries
from imgstore.testing.engines import start_postgresql

_FILL = """
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?)
INSERT INTO ledger (key, kind, subscription, subscription_key, group_name, gallery, definition, version, source, target,
                    replica, delivered_bytes, unit_price, amount, time)
SELECT printf('%s-%08x', lower(hex(randomblob(16))), i), 'egress', ?, ?, 'rg', 'g1', 'ubuntu', '1.0.' || (i % 1000),
       'southcentralus', 'westus2', 0, i * 4096, '0.02', '0.0000' || i,
       datetime('2026-01-01', '+' || i || ' seconds') || '.000000'
FROM numbers
"""
_FILL_INTERVALS = """
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?)
INSERT INTO intervals (uid, subscription, subscription_key, group_name, gallery, definition, version, owner_uid, slot_uid,
                       region, replica, storage_account_type, stored_bytes, opened_at, closed_at)
SELECT printf('%s-%08x', lower(hex(randomblob(16))), i), ?, ?, 'rg', 'g1', 'ubuntu', '1.0.' || (i % 1000),
       'owner-' || i, 'slot-' || (i % 50), 'westus2', 0, 'Standard_LRS', i * 4096,
       datetime('2026-01-01', '+' || i || ' seconds') || '.000000',
       datetime('2026-01-01', '+' || (2 * i) || ' seconds') || '.500000'
FROM numbers
"""
_FILL_POSTGRESQL = """
INSERT INTO ledger (key, kind, subscription, subscription_key, group_name, gallery, definition, version, source, target,
                    replica, delivered_bytes, unit_price, amount, time)
SELECT gen_random_uuid()::text, 'egress', %(whose)s, %(whose)s, 'rg', 'g1', 'ubuntu', '1.0.' || (i %% 1000),
       'southcentralus', 'westus2', 0, i::bigint * 4096, '0.02', '0.0000' || i,
       timestamptz '2026-01-01 00:00Z' + i * interval '1 second'
FROM generate_series(0, %(count)s - 1) AS i
"""
_FILL_POSTGRESQL_INTERVALS = """
INSERT INTO intervals (uid, subscription, subscription_key, group_name, gallery, definition, version, owner_uid, slot_uid,
                       region, replica, storage_account_type, stored_bytes, opened_at, closed_at)
SELECT gen_random_uuid()::text, %(whose)s, %(whose)s, 'rg', 'g1', 'ubuntu', '1.0.' || (i %% 1000),
       'owner-' || i, 'slot-' || (i %% 50), 'westus2', 0, 'Standard_LRS', i::bigint * 4096,
       timestamptz '2026-01-01 00:00Z' + i * interval '1 second',
       timestamptz '2026-01-01 00:00Z' + (2 * i + 0.5) * interval '1 second'
FROM generate_series(0, %(count)s - 1) AS i
"""
_STATEMENT = ("bill", "show", "--month", "2026-01", "--by", "region")


def measure_sealing(world: World) -> Found:
    samples = world.samples()
    entries = world.sized(1_000_000, 600)
    home = world.scratch / "sealing"
    with open_installation(Settings(home=home, environ={}), ignore_event) as installation:
        with closing(sqlite3.connect(home / "catalog.sqlite")) as connection, connection:
            values = [entries // 2, installation.subscription, installation.subscription]
            connection.execute(_FILL, values)
            connection.execute(_FILL_INTERVALS, values)
            (key,) = connection.execute("SELECT key FROM ledger WHERE rowid = ?", [entries // 4]).fetchone()
        samples.settle()
        began = installation.effects.monotonic()
        seal_entries(installation)
        seconds = installation.effects.monotonic() - began
        samples.add("seal_rate", entries / seconds, Unit.PER_SECOND, Door.INSIDE, f"{entries} entries")
    for _ in range(world.rounds):
        said = timed(samples, "statement_seconds", Door.PUBLIC, _run, home, *_STATEMENT)
        assert json.loads(said.output)["rows"]
        samples.add("statement_resident_bytes", said.peak_bytes, Unit.BYTES, Door.PUBLIC)
    kept = world.scratch / "kept.json"
    kept.write_text(_run(home, "bill", "checkpoint").output)
    for _ in range(world.rounds):
        said = timed(samples, "verify_seconds", Door.PUBLIC, _run, home, "bill", "verify")
        assert json.loads(said.output)["verified"] >= entries
        samples.add("verify_resident_bytes", said.peak_bytes, Unit.BYTES, Door.PUBLIC)
        newer = "bill", "verify", "--checkpoint", str(kept), "--newer-only"
        timed(samples, "verify_newer_seconds", Door.PUBLIC, _run, home, *newer)
        timed(samples, "prove_seconds", Door.PUBLIC, _run, home, "bill", "prove", key)
    _measure_postgresql(world, samples, entries)
    figures = samples.figures()
    goals = [
        Goal.of("statement_seconds", figures, at_most=2),
        Goal.of("statement_resident_bytes", figures, at_most=300e6),
        Goal.of("statement_postgresql_seconds", figures, at_most=2),
        Goal.of("statement_postgresql_resident_bytes", figures, at_most=300e6),
        Goal.of("verify_seconds", figures, at_most=15),
        Goal.of("verify_newer_seconds", figures, at_most=5),
    ]
    return Found(figures=figures, goals=goals)


def _measure_postgresql(world: World, samples: Samples, entries: int) -> None:
    home = world.scratch / "postgresql"
    with tempfile.TemporaryDirectory() as folder, start_postgresql(Path(folder)) as server, server.database() as url:
        with open_installation(Settings(home=home, database=url, environ={}), ignore_event) as installation:
            values = {"count": entries // 2, "whose": installation.subscription}
        with connected(url) as connection:
            connection.execute(_FILL_POSTGRESQL, values)
            connection.execute(_FILL_POSTGRESQL_INTERVALS, values)
            connection.execute("ANALYZE")
        samples.settle()
        for _ in range(world.rounds):
            said = timed(
                samples, "statement_postgresql_seconds", Door.PUBLIC, _run, home, *_STATEMENT, "--database", url
            )
            assert json.loads(said.output)["rows"]
            samples.add("statement_postgresql_resident_bytes", said.peak_bytes, Unit.BYTES, Door.PUBLIC)


def _run(home: Path, *words: str) -> Finished:
    return run_timed([Path(sys.executable).parent / "imgstore", *words], os.environ | {"IMGSTORE_HOME": str(home)})


CASES = (
    Case(
        name="sealing",
        title="a ledger of a million entries: added up, sealed, verified, verified from a checkpoint, one entry proven",
        measure=measure_sealing,
        regions=1,
    ),
)
