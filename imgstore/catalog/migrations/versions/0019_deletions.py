"""Add requests to delete objects that a store may still carry out.

Revision: 0019, after 0018.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deletions",
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_deletions_slot_uid")),
        sa.PrimaryKeyConstraint("slot_uid", "key", "token", name=op.f("pk_deletions")),
    )
