"""Record whether an installation has recorded all zones since its creation.

Revision: 0022, after 0021.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "installation", sa.Column("records_every_zone", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
