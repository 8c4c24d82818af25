"""Add end of life, protection from deletion, and soft deletion of versions.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("end_of_life_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("allow_deletion_of_replicated_locations", sa.Boolean(), nullable=True),
        sa.Column("block_deletion_before_end_of_life", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("soft_deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hard_deletion_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("versions", column)
