"""Add the log of sealed entries of the ledger, and the keys that sign its checkpoints.

Revision: 0038, after 0037.
"""

import sqlalchemy as sa
from alembic import op

from imgstore.catalog.engine.revision_triggers import MarkedTable, install_triggers, replace_region_trigger

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None
oldest_code = "0032"

_KEYS = MarkedTable(
    table="ledger_keys",
    kind="ledger-keys",
    identity=("kid",),
    loud=("number", "public_key", "created_at", "retired_at", "endorsement"),
)
_LOG = (
    MarkedTable(
        table="ledger_leaves", kind="ledger_leaves", identity=("entry",), loud=("position", "hash"), is_urgent=False
    ),
    MarkedTable(table="ledger_heads", kind="ledger_heads", identity=("root",), loud=("size", "note"), is_urgent=False),
)
_IN_EACH_REGION = (
    _KEYS,
    MarkedTable(table="placements", kind="placements", identity=("version_uid",), loud=()),
    MarkedTable(table="deployments", kind="deployments", identity=("uid",), loud=()),
    MarkedTable(table="inert_resources", kind="network-records", identity=("uid",), loud=()),
    MarkedTable(table="machines", kind="machines", identity=("uid",), loud=()),
    MarkedTable(table="definitions", kind="definitions", identity=("uid",), loud=()),
    MarkedTable(table="galleries", kind="galleries", identity=("uid",), loud=()),
    MarkedTable(table="pools", kind="pools", identity=("uid",), loud=()),
    MarkedTable(table="groups", kind="groups", identity=("uid",), loud=()),
    MarkedTable(table="issuers", kind="issuers", identity=("uid",), loud=()),
    MarkedTable(table="secrets", kind="secrets", identity=("uid",), loud=()),
    MarkedTable(table="principals", kind="principals", identity=("uid",), loud=()),
    MarkedTable(table="subscriptions", kind="subscriptions", identity=("subscription_key",), loud=()),
    MarkedTable(table="tenants", kind="tenants", identity=("uid",), loud=()),
    MarkedTable(table="zones", kind="zones", identity=("region", "zone"), loud=()),
    MarkedTable(table="settings", kind="settings", identity=("key",), loud=()),
    MarkedTable(table="installation", kind="installation", identity=("uid",), loud=()),
)


def upgrade() -> None:
    op.create_table(
        "ledger_leaves",
        sa.Column("entry", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_ledger_leaves")),
        sa.UniqueConstraint("position", name=op.f("uq_ledger_leaves_position")),
    )
    op.create_table(
        "ledger_subtrees",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name=op.f("pk_ledger_subtrees")),
    )
    op.create_table(
        "ledger_heads",
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("root", name=op.f("pk_ledger_heads")),
        sa.UniqueConstraint("size", name=op.f("uq_ledger_heads_size")),
    )
    op.create_table(
        "ledger_keys",
        sa.Column("kid", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("endorsement", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_ledger_keys")),
        sa.UniqueConstraint("number", name=op.f("uq_ledger_keys_number")),
    )
    connection = op.get_bind()
    install_triggers(connection, (_KEYS, *_LOG))
    replace_region_trigger(connection, _IN_EACH_REGION)
