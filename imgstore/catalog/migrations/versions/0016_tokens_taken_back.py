"""Add the revocation of the tokens of a principal.

Revision: 0016, after 0015.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("principals", sa.Column("token_generation", sa.Integer(), server_default="0", nullable=False))
    op.add_column("principals", sa.Column("tokens_valid_after", sa.DateTime(timezone=True), nullable=True))
