"""Add further properties of machines and of attached disks.

Revision: 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("machines", sa.Column("kept", sa.JSON(), nullable=False, server_default="{}"))
