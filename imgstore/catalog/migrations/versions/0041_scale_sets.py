"""Add scale sets. An instance is a machine with the uid of its scale set.

Revision: 0041, after 0040.
"""

import sqlalchemy as sa
from alembic import op

from imgstore.catalog.engine.revision_triggers import (
    MarkedTable,
    install_triggers,
    replace_region_trigger,
    replace_triggers,
)

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None
oldest_code = "0032"

_SETS = MarkedTable(
    table="scale_sets",
    kind="scale-sets",
    identity=("uid",),
    loud=(
        "group_uid", "name", "name_key", "location", "tags", "size", "capacity", "former_capacity", "next_instance_id",
        "image_reference", "source_reference", "os_type", "hyper_v_generation", "admin_username", "computer_name_prefix",
        "upgrade_mode", "placement", "allow_remote", "created_at", "provisioning_state", "kept",
    ),
)  # fmt: skip
_OF_MACHINES = (
    "group_uid", "name", "name_key", "location", "tags", "size", "image_reference", "os_type", "hyper_v_generation",
    "admin_username", "computer_name", "generalized", "created_at", "provisioning_state", "kept",
)  # fmt: skip
_INSTANCES = MarkedTable(
    table="machines",
    kind="scale-sets",
    identity=("scale_set_uid",),
    loud=("uid", *_OF_MACHINES, "instance_id"),
    value_column="scale_set_uid",
)
_MACHINES = MarkedTable(
    table="machines",
    kind="machines",
    identity=("uid",),
    loud=(*_OF_MACHINES, "scale_set_uid", "instance_id"),
    null_column="scale_set_uid",
)
_IN_EACH_REGION = (
    MarkedTable(table="ledger_keys", kind="ledger-keys", identity=("kid",), loud=()),
    MarkedTable(table="placements", kind="placements", identity=("version_uid",), loud=()),
    MarkedTable(table="deployments", kind="deployments", identity=("uid",), loud=()),
    MarkedTable(table="inert_resources", kind="network-records", identity=("uid",), loud=()),
    _MACHINES,
    _SETS,
    MarkedTable(table="definitions", kind="definitions", identity=("uid",), loud=()),
    MarkedTable(table="galleries", kind="galleries", identity=("uid",), loud=()),
    MarkedTable(table="pools", kind="pools", identity=("uid",), loud=()),
    MarkedTable(table="groups", kind="groups", identity=("uid",), loud=()),
    MarkedTable(table="budgets", kind="budgets", identity=("uid",), loud=()),
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
        "scale_sets",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("group_uid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("size", sa.String(), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("former_capacity", sa.Integer(), nullable=True),
        sa.Column("next_instance_id", sa.Integer(), nullable=False),
        sa.Column("image_reference", sa.String(), nullable=False),
        sa.Column("source_reference", sa.String(), nullable=False),
        sa.Column("os_type", sa.String(), nullable=True),
        sa.Column("hyper_v_generation", sa.String(), nullable=True),
        sa.Column("admin_username", sa.String(), nullable=True),
        sa.Column("computer_name_prefix", sa.String(), nullable=True),
        sa.Column("upgrade_mode", sa.String(), nullable=False),
        sa.Column("placement", sa.String(), nullable=False),
        sa.Column("allow_remote", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provisioning_state", sa.String(), nullable=False),
        sa.Column("kept", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["group_uid"], ["groups.uid"], name=op.f("fk_scale_sets_group_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_scale_sets")),
        sa.UniqueConstraint("group_uid", "name_key", name=op.f("uq_scale_sets_group_uid_name_key")),
    )
    op.create_table(
        "scale_set_secrets",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("custom_data", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["uid"], ["scale_sets.uid"], name=op.f("fk_scale_set_secrets_uid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_scale_set_secrets")),
    )
    op.add_column("machines", sa.Column("scale_set_uid", sa.String(), nullable=True))
    op.add_column("machines", sa.Column("instance_id", sa.Integer(), nullable=True))
    op.create_index(
        op.f("ix_machines_scale_set_uid_instance_id"), "machines", ["scale_set_uid", "instance_id"], unique=True
    )
    install_triggers(op.get_bind(), [_SETS, _INSTANCES])
    replace_triggers(op.get_bind(), [_MACHINES])
    replace_region_trigger(op.get_bind(), _IN_EACH_REGION)
