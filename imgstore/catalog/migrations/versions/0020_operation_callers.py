"""Add tenant, resource and requested cancellation to long-running operations.

Revision: 0020, after 0019.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("tenant_uid", "resource_id", "cancel_requested_by"):
        op.add_column("operations", sa.Column(name, sa.String(), nullable=True))
