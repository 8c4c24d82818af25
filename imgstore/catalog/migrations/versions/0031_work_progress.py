"""Add the progress and the last error of a work, so that other processes report both.

Revision: 0031, after 0030.
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("works", sa.Column("bytes_done", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("works", sa.Column("bytes_total", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("works", sa.Column("failure", sa.JSON(), nullable=True))
