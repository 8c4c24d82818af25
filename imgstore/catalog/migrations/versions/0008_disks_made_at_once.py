"""Add an index that counts the disks of a version by time.

Revision: 0008, after 0007.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    index = op.f("ix_disks_source_version_uid_created_at")
    op.create_index(index, "disks", ["source_version_uid", "created_at"], unique=False)
