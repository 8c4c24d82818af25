"""Add the runs of machines, and the secrets of the OS profiles of machines.

Revision: 0040, after 0039.
"""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None
oldest_code = "0032"


def upgrade() -> None:
    op.create_table(
        "machine_runs",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("run_uid", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("supervisor", sa.String(), nullable=True),
        sa.Column("qemu", sa.String(), nullable=True),
        sa.Column("servers", sa.JSON(), nullable=False),
        sa.Column("accelerator", sa.String(), nullable=True),
        sa.Column("forwards", sa.JSON(), nullable=False),
        sa.Column("runs_as", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["uid"], ["machines.uid"], name=op.f("fk_machine_runs_uid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_machine_runs")),
    )
    op.create_table(
        "machine_secrets",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("custom_data", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["uid"], ["machines.uid"], name=op.f("fk_machine_secrets_uid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_machine_secrets")),
    )
