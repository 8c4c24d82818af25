"""Comparable rows of a catalog, for tests that lose a catalog and get the catalog back."""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from imgstore.catalog import Catalog, schema
from imgstore.catalog.storage.revisions import KINDS

PASSPHRASE: Final = "correct horse battery"
COMPARED: Final = sorted(
    {member.table.name for kind in KINDS.values() for member in kind.members}
    | {"signing_keys", "recovery_keys", "ledger_checkpoints"}
)
NOT_RESTORED: Final = {
    "versions": {"served_at"},
    "replicas": {"bytes_done", "bytes_total", "progress_at"},
    "scale_sets": {"holder", "token", "lease_expires_at"},
    "disks": {"grant_uid", "grant_level", "grant_expires_at"},
}
"""Columns that no revision contains, or whose last change needs no revision."""


def dump(catalog: Catalog) -> dict[str, list[Any]]:
    """Return the comparable rows of all tables. Ids of segments are replaced by the content."""
    with catalog.reading() as transaction:
        session = transaction._session
        segments = {
            row.id: (row.pool_uid, row.name.hex(), row.blocks, row.stored_bytes, row.work_uid)
            for row in session.all(select(schema.segments))
        }
        found: dict[str, list[Any]] = {}
        for name in COMPARED:
            table = schema.metadata.tables[name]
            rows = []
            for row in session.all(select(table)):
                values = {key: value for key, value in row._asdict().items() if key not in NOT_RESTORED.get(name, ())}
                if name == "manifests":
                    ids = memoryview(values["segment_ids"]).cast("I")
                    values["segment_ids"] = sorted(segments[each] for each in ids)
                rows.append(values)
            found[name] = sorted(rows, key=repr)
        named = {each for row in found["manifests"] for each in row["segment_ids"]}
        found["segments"] = sorted(named)
        return found


def remove_catalog(home: Path) -> None:
    """Remove the SQLite catalog of a home."""
    for path in home.glob("catalog.sqlite*"):
        path.unlink()
