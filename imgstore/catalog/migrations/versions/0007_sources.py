"""Add sources and properties of disks, snapshots and managed images, and pools of subscriptions.

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pools", sa.Column("subscription", sa.String(), nullable=True))
    op.add_column("pools", sa.Column("subscription_key", sa.String(), nullable=True))
    op.add_column("pools", sa.Column("region", sa.String(), nullable=True))
    op.create_index("uq_pools_subscription_key_region", "pools", ["subscription_key", "region"], unique=True)
    for column in (
        sa.Column("kind", sa.String(), server_default="disks", nullable=False),
        sa.Column("part", sa.String(), server_default="os", nullable=False),
        sa.Column("body_key", sa.String(), nullable=True),
        sa.Column("source_file_bytes", sa.BigInteger(), nullable=True),
        sa.Column("source_stamp", sa.String(), nullable=True),
        sa.Column("os_type", sa.String(), nullable=True),
        sa.Column("os_state", sa.String(), nullable=True),
        sa.Column("hyper_v_generation", sa.String(), nullable=True),
    ):
        op.add_column("disks", column)
    # Until now every disk stood on its image version's manifest: the OS disk's, or that of the data disk at its LUN.
    op.execute(
        "UPDATE disks SET body_key = 'manifests/' || source_version_uid || '/' || "
        "CASE WHEN source_lun IS NULL THEN 'os' ELSE 'lun-' || source_lun END"
    )
    with op.batch_alter_table("disks") as disks:
        disks.alter_column("body_key", existing_type=sa.String(), nullable=False)
        disks.alter_column("source_version_uid", existing_type=sa.String(), nullable=True)
        disks.drop_constraint(op.f("uq_disks_group_uid_name_key"), type_="unique")
        disks.create_unique_constraint(
            op.f("uq_disks_group_uid_kind_name_key_part"), ["group_uid", "kind", "name_key", "part"]
        )
