"""Add the queue of workers: attempts and retry times of replicas, service times of versions, and running workers.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("replicas", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("replicas", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("replicas", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("replicas", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_replicas_state_retry_at"), "replicas", ["state", "retry_at"], unique=False)
    op.create_table(
        "workers",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_workers")),
    )
