"""Record the resources that newer requests wrote while an operation was in progress.

Revision: 0029, after 0028.
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "preemptions",
        sa.Column("operation_uid", sa.String(), primary_key=True),
        sa.Column("resource_key", sa.String(), primary_key=True),
    )
