"""Add a column with the OS disk and the data disks of a version, and move the properties of the OS disk there.

Revision: 0006, after 0005.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MOVED: Final[dict[str, sa.types.TypeEngine[Any]]] = {
    "source_location": sa.String(),
    "source_file_bytes": sa.BigInteger(),
    "source_stamp": sa.String(),
    "source_sha256": sa.String(),
    "virtual_bytes": sa.BigInteger(),
    "disk_digest": sa.LargeBinary(),
}


def upgrade() -> None:
    op.add_column("versions", sa.Column("disks", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("disks", sa.Column("source_lun", sa.Integer(), nullable=True))
    _move()
    for name in _MOVED:
        op.drop_column("versions", name)


def _move() -> None:
    versions = sa.table(
        "versions",
        sa.column("uid", sa.String()),
        sa.column("disks", sa.JSON()),
        *(sa.column(name, kind) for name, kind in _MOVED.items()),
    )
    connection = op.get_bind()
    moving = [
        {
            "moving": row.uid,
            "disks": [
                {name: getattr(row, name) for name in _MOVED}
                | {
                    "lun": None,
                    "host_caching": "ReadWrite",
                    "disk_digest": None if row.disk_digest is None else bytes(row.disk_digest).hex(),
                }
            ],
        }
        for row in connection.execute(sa.select(versions.c.uid, *(versions.c[name] for name in _MOVED)))
    ]
    if moving:
        connection.execute(sa.update(versions).where(versions.c.uid == sa.bindparam("moving")), moving)
