"""Add the region that each replica is copied from on the cheapest route.

Revision: 0037, after 0036.
"""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None
oldest_code = "0032"


def upgrade() -> None:
    op.add_column("replicas", sa.Column("parent_region", sa.String(), nullable=True))
