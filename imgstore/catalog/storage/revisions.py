"""The tables of each kind of revision, and the conversion of rows to plain JSON values (invariant B18).

Each table of the catalog belongs to kinds of revisions, or is left out for a reason in `LEFT_OUT`. A test compares both
with the schema, so a new table needs a line here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Column, LargeBinary, Table

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import DecimalText, EnumText, UtcDateTime
from imgstore.catalog.engine.revision_triggers import MarkedTable
from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.revisions import JsonRow

_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The rows of a table that belong to a resource."""

    table: Table
    identity: tuple[str, ...]
    """The columns with the uid of the resource. The values of several columns are joined by "/"."""
    quiet: frozenset[str] = frozenset()
    """Columns whose change alone needs no new revision. The values are those at the last other change."""
    omitted: frozenset[str] = frozenset()
    """Columns that no revision contains."""
    null_column: str | None = None
    """A column that is null in the rows. Rows with a value belong to another kind."""
    value_column: str | None = None
    """A column that is not null in the rows. Rows without a value belong to another kind."""

    @property
    def columns(self) -> "Sequence[Column[Any]]":
        """The columns that a revision contains."""
        return [column for column in self.table.c if column.name not in self.omitted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of resource with a revision for each change. The first member has the row of the resource itself."""

    name: str
    members: tuple[Member, ...]
    is_deferred: bool = False
    """Whether only the background pass writes the revisions, because a change is frequent and of small worth."""
    is_ledger: bool = False
    """Whether a revision contains the rows since the previous checkpoint, instead of the rows of a resource."""

    @property
    def root(self) -> Member:
        """The member with the row of the resource itself."""
        return self.members[0]


def _kind(name: str, *members: Member, is_deferred: bool = False, is_ledger: bool = False) -> Kind:
    return Kind(name=name, members=members, is_deferred=is_deferred, is_ledger=is_ledger)


def _member(
    table: Table,
    *identity: str,
    quiet: Iterable[str] = (),
    omitted: Iterable[str] = (),
    null_column: str | None = None,
    value_column: str | None = None,
) -> Member:
    return Member(
        table=table,
        identity=identity or ("uid",),
        quiet=frozenset(quiet),
        omitted=frozenset(omitted),
        null_column=null_column,
        value_column=value_column,
    )


# A manifest names its segments, so the packed ids of the catalog's rows can be computed.
_MANIFESTS: Final = _member(schema.manifests, "owner_uid", omitted=["segment_ids"])

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        each.name: each
        for each in (
            # Keys are in the recovery file only. Whoever reads a bucket must not be able to sign.
            _kind("installation", _member(schema.installation, omitted=["hmac_key"])),
            _kind("settings", _member(schema.settings, "key")),
            _kind("zones", _member(schema.zones, "region", "zone")),
            _kind("tenants", _member(schema.tenants)),
            _kind("subscriptions", _member(schema.subscriptions, "subscription_key")),
            _kind("principals", _member(schema.principals), _member(schema.role_assignments, "principal_uid")),
            # An Argon2id hash of 30 random bytes. No search finds the secret.
            _kind("secrets", _member(schema.secrets)),
            _kind("issuers", _member(schema.issuers)),
            _kind("budgets", _member(schema.budgets, quiet=["reached_month"])),
            _kind("groups", _member(schema.groups)),
            _kind("pools", _member(schema.pools, omitted=["fingerprint_key"]), _member(schema.slots, "pool_uid")),
            _kind("galleries", _member(schema.galleries)),
            _kind("definitions", _member(schema.definitions)),
            # One revision has a set with all instances, so a set of 1,000 instances is one object in each region.
            _kind(
                "scale-sets",
                _member(schema.scale_sets, omitted=["holder", "token", "lease_expires_at"]),
                _member(schema.machines, "scale_set_uid", value_column="scale_set_uid"),
            ),
            _kind(
                "machines",
                _member(schema.machines, null_column="scale_set_uid"),
                _member(schema.machine_interfaces, "machine_uid"),
            ),
            _kind("network-records", _member(schema.inert_resources), _member(schema.inert_references, "inert_uid")),
            _kind("deployments", _member(schema.deployments)),
            _kind(
                "versions",
                # The queue of workers orders versions by `served_at`. After a rebuild, no version was served.
                _member(schema.versions, omitted=["served_at"]),
                _member(
                    schema.replicas, "version_uid", quiet=["bytes_done", "bytes_total", "progress_at", "parent_region"]
                ),
                _MANIFESTS,
            ),
            # Each new disk advances a counter. A revision of the version for each disk would double the requests.
            _kind("placements", _member(schema.placements, "version_uid"), is_deferred=True),
            # A grant is the token of a signed URL. A revoked grant must not come back.
            _kind(
                "disks",
                _member(schema.disks, omitted=["grant_uid", "grant_level", "grant_expires_at"]),
                _MANIFESTS,
            ),
            _kind("ledger-keys", _member(schema.ledger_keys, "kid", omitted=["private_key"])),
            _kind(
                "ledger",
                _member(schema.ledger, "key"),
                _member(schema.intervals),
                _member(schema.price_lists),
                _member(schema.ledger_leaves, "entry"),
                _member(schema.ledger_heads, "root"),
                is_deferred=True,
                is_ledger=True,
            ),
        )
    }
)
"""All kinds by name, in an order in which rows may be inserted: a row refers to rows of earlier kinds only."""

LEFT_OUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "works": "leases of processes, and plans that a repeated command makes again",
        "work_pins": "pins of works",
        "operations": "operations of the API, kept for seven days",
        "preemptions": "the order of operations in progress",
        "activity": "the activity log",
        "machine_runs": "processes of a host",
        "machine_secrets": "secrets of the first start of a machine",
        "scale_set_secrets": "secrets of the first start of instances",
        "checkpoints": "the zones contain the checkpoints of works (`zone/checkpoints/`)",
        "segments": "the manifests and listings contain names, blocks, bytes and works of segments",
        "condemned": "garbage collection marks unreferenced segments again, with a new grace",
        "deletions": "delete requests of the last minutes",
        "maintenance_turns": "leases and times of maintenance tasks",
        "zone_gaps": "counts that `repairs` makes again from the notes of the zones",
        "unknown_objects": "first sightings, from which a grace counts; a new grace is safe",
        "scrub_passes": "the progress of scrubs",
        "scrub_damages": "the progress of scrubs",
        "slot_scrubs": "the times of scrubs",
        "lost_objects": "damage that the next scrub finds again",
        "workers": "running processes",
        "zone_health": "the circuits of zones in the view of hosts",
        "recovery_keys": "the coverage of the newest recovery file, which `catalog recovery-file` records again",
        "revision_marks": "revisions that remain to be written",
        "ledger_checkpoints": "the buckets contain the checkpoints (`installation/ledger/`)",
        "ledger_subtrees": "hashes that are computed again from the leaves of the log",
        "signing_keys": "private keys, which no bucket may contain; the recovery file has the keys",
    }
)
"""The reason for each table without revisions."""


def list_marked_tables() -> list[MarkedTable]:
    """Return the triggers that all kinds need. A test compares the result with the triggers of the migrations."""
    found: list[MarkedTable] = []
    for kind in KINDS.values():
        for member in kind.members:
            quiet = {*member.identity, *member.quiet, *member.omitted}
            is_shared = sum(member in other.members for other in KINDS.values()) > 1
            found.append(
                MarkedTable(
                    table=member.table.name,
                    kind=member.table.name if kind.is_ledger else kind.name,
                    identity=member.identity,
                    loud=tuple(column.name for column in member.table.c if column.name not in quiet),
                    is_urgent=not kind.is_deferred,
                    root=kind.root.table.name if is_shared else None,
                    null_column=member.null_column,
                    value_column=member.value_column,
                )
            )
    return found


def select_loud_rows(kind: str, rows: Mapping[str, Sequence[JsonRow]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a resource that need a new revision if they change, without quiet columns.

    A table without rows is left out, because a revision of an older release lacks newer tables.
    """
    quiet = {member.table.name: member.quiet for member in KINDS[kind].members}
    return {
        name: [{key: value for key, value in row.items() if key not in quiet.get(name, ())} for row in found]
        for name, found in rows.items()
        if found
    }


def encode_row(member: Member, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row as plain JSON values.

    Bytes are hexadecimal text, times are ISO 8601 in UTC with microseconds, decimals and enumerations are text.

    Args:
        member: the table, with the omitted columns.
        row: the values by column name, as SQLAlchemy returns the values.
    """
    return {column.name: _encode(column, row[column.name]) for column in member.columns}


def decode_row(member: Member, row: JsonRow) -> dict[str, Any]:
    """Return the values for an INSERT from a row of a revision. Omitted columns are missing.

    A revision of an older release may lack a newer column. Such a column is missing from the result, too, and the
    INSERT uses the default of the column.

    Raises:
        StoreMismatch: the row has a column that the table does not have. A newer imgstore wrote the row.
    """
    columns = {column.name: column for column in member.columns}
    unknown = sorted(row.keys() - columns.keys())
    if unknown:
        raise StoreMismatch(
            f"A revision has unknown columns of the table {member.table.name}.",
            found=", ".join(unknown),
            expected=", ".join(columns),
            hint="use the version of imgstore that wrote the revision, or a newer version",
            target=member.table.name,
        )
    return {name: _decode(columns[name], value) for name, value in row.items()}


def _encode(column: "Column[Any]", value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return value.astimezone(UTC).strftime(_TIME_FORMAT)
    if isinstance(column.type, LargeBinary):
        return bytes(value).hex()
    if isinstance(column.type, DecimalText | EnumText):
        return str(value)
    return value


def _decode(column: "Column[Any]", value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat(value)
    if isinstance(column.type, LargeBinary):
        return bytes.fromhex(value)
    if isinstance(column.type, DecimalText):
        return Decimal(value)
    if isinstance(column.type, EnumText):
        return column.type.members(value)
    return value
