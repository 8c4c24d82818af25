"""Add machines, the attachment of disks, and versions with shallow replication.

Revision: 0011, after 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "machines",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("group_uid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("size", sa.String(), nullable=False),
        sa.Column("image_reference", sa.String(), nullable=True),
        sa.Column("os_type", sa.String(), nullable=True),
        sa.Column("hyper_v_generation", sa.String(), nullable=True),
        sa.Column("admin_username", sa.String(), nullable=True),
        sa.Column("computer_name", sa.String(), nullable=True),
        sa.Column("generalized", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provisioning_state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["group_uid"], ["groups.uid"], name=op.f("fk_machines_group_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_machines")),
        sa.UniqueConstraint("group_uid", "name_key", name=op.f("uq_machines_group_uid_name_key")),
    )
    op.add_column("disks", sa.Column("managed_by", sa.String(), nullable=True))
    op.add_column("disks", sa.Column("machine_lun", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_disks_managed_by"), "disks", ["managed_by"], unique=False)
    op.add_column("versions", sa.Column("replication_mode", sa.String(), server_default="Full", nullable=False))
