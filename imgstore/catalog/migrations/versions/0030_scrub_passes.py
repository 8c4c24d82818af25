"""Add the progress of scrub passes, so that a restarted process resumes a pass.

Revision: 0030, after 0029.
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scrub_passes",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("runner", sa.String(), nullable=False),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.String(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_scrub_passes_slot_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_scrub_passes")),
        sa.UniqueConstraint("slot_uid", "runner", name=op.f("uq_scrub_passes_slot_uid_runner")),
    )
    op.create_table(
        "scrub_damages",
        sa.Column("pass_uid", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("is_repaired", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["pass_uid"], ["scrub_passes.uid"], name=op.f("fk_scrub_damages_pass_uid")),
        sa.PrimaryKeyConstraint("pass_uid", "key", name=op.f("pk_scrub_damages")),
    )
