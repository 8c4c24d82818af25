"""Add network resources without behaviour, the references between them, and the references of machines.

Revision: 0015, after 0014.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inert_resources",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("group_uid", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("refers_to", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["group_uid"], ["groups.uid"], name=op.f("fk_inert_resources_group_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_inert_resources")),
        sa.UniqueConstraint("group_uid", "type", "name_key", name=op.f("uq_inert_resources_group_uid_type_name_key")),
    )
    op.create_table(
        "inert_references",
        sa.Column("inert_uid", sa.String(), nullable=False),
        sa.Column("target_key", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["inert_uid"], ["inert_resources.uid"], name=op.f("fk_inert_references_inert_uid")),
        sa.PrimaryKeyConstraint("inert_uid", "target_key", name=op.f("pk_inert_references")),
    )
    op.create_index(op.f("ix_inert_references_target_key"), "inert_references", ["target_key"])
    op.create_table(
        "machine_interfaces",
        sa.Column("machine_uid", sa.String(), nullable=False),
        sa.Column("target_key", sa.String(), nullable=False),
        sa.Column("deleted_with_machine", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["machine_uid"], ["machines.uid"], name=op.f("fk_machine_interfaces_machine_uid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("machine_uid", "target_key", name=op.f("pk_machine_interfaces")),
    )
    op.create_index(op.f("ix_machine_interfaces_target_key"), "machine_interfaces", ["target_key"])
