"""Add disks that are created from an upload, and grants of signed URLs.

Revision: 0012, after 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("disks", sa.Column("upload_bytes", sa.BigInteger(), nullable=True))
    op.add_column("disks", sa.Column("grant_uid", sa.String(), nullable=True))
    op.add_column("disks", sa.Column("grant_level", sa.String(), nullable=True))
    op.add_column("disks", sa.Column("grant_expires_at", sa.DateTime(timezone=True), nullable=True))
