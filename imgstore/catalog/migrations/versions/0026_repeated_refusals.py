"""Count repeated refusals in a single row of the activity log.

Revision: 0026, after 0025.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("activity", sa.Column("is_refusal", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("activity", sa.Column("repeats", sa.BigInteger(), server_default="0", nullable=False))
