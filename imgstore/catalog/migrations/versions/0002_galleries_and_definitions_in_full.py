"""Add the soft delete policy of galleries, and further properties of definitions.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "galleries", sa.Column("soft_delete_enabled", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column(
        "galleries", sa.Column("soft_delete_retention_days", sa.Integer(), nullable=False, server_default="7")
    )
    for column in (
        sa.Column("eula", sa.String(), nullable=True),
        sa.Column("privacy_statement_uri", sa.String(), nullable=True),
        sa.Column("release_note_uri", sa.String(), nullable=True),
        sa.Column("end_of_life_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("vcpus_min", sa.Integer(), nullable=True),
        sa.Column("vcpus_max", sa.Integer(), nullable=True),
        sa.Column("memory_min_gib", sa.Integer(), nullable=True),
        sa.Column("memory_max_gib", sa.Integer(), nullable=True),
        sa.Column("disallowed_disk_types", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("plan_name", sa.String(), nullable=True),
        sa.Column("plan_publisher", sa.String(), nullable=True),
        sa.Column("plan_product", sa.String(), nullable=True),
        sa.Column("features", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("allow_update_image", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("definitions", column)


