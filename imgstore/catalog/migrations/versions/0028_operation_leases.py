"""Add leases to long-running operations.

Revision: 0028, after 0027.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operations", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
