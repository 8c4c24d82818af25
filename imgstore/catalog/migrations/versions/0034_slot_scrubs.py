"""Add the last finished scrub of each slot, and the objects of a slot that are known to be lost.

Revision: 0034, after 0033.
"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None
oldest_code = "0032"


def upgrade() -> None:
    op.create_table(
        "slot_scrubs",
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("complete_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_slot_scrubs_slot_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("slot_uid", name=op.f("pk_slot_scrubs")),
    )
    op.create_table(
        "lost_objects",
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_lost_objects_slot_uid"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("slot_uid", "key", name=op.f("pk_lost_objects")),
    )
