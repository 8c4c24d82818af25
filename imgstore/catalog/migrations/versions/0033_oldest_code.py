"""Add the oldest code that may use the catalog, and the revision of the code of each worker.

Revision: 0033, after 0032.
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None
oldest_code = "0032"


def upgrade() -> None:
    op.add_column("alembic_version", sa.Column("oldest_code", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("code_revision", sa.String(), nullable=True))
