"""Add unknown objects of a slot with the time of discovery.

Revision: 0024, after 0023.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unknown_objects",
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_unknown_objects_slot_uid")),
        sa.PrimaryKeyConstraint("slot_uid", "key", name=op.f("pk_unknown_objects")),
    )
