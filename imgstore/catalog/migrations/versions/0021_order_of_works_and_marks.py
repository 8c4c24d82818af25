"""Record the order of opened works and of marks for deletion, by the catalog's sequence.

Revision: 0021, after 0020.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("works", sa.Column("opened_sequence", sa.BigInteger(), nullable=True))
    op.add_column("condemned", sa.Column("since_sequence", sa.BigInteger(), nullable=True))
