"""${message}.

Revision: ${up_revision}, after ${down_revision}.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
oldest_code = ""  # The oldest revision of code that may use the catalog afterwards: see schema.REVISION.


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
