"""Add maintenance tasks, and the numbers of objects that zones miss.

Revision: 0023, after 0022.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "maintenance_turns",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_maintenance_turns")),
    )
    op.create_table(
        "zone_gaps",
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("zone", sa.String(), nullable=False),
        sa.Column("objects", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_zone_gaps_slot_uid")),
        sa.PrimaryKeyConstraint("slot_uid", "zone", name=op.f("pk_zone_gaps")),
    )
