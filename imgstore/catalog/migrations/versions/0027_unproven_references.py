"""Drop references to network resources of other groups, which older code stored without the right to join.

A network resource cannot be deleted while a reference exists, so strangers could block the deletion. The creator of a
reference is not recorded. Bodies stay unchanged. The next PUT with the reference needs the right to join, and stores
the reference again.

Revision: 0027, after 0026.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_groups = sa.table(
    "groups", sa.column("uid", sa.String), sa.column("subscription_key", sa.String), sa.column("name_key", sa.String)
)
_resources = sa.table(
    "inert_resources", sa.column("uid", sa.String), sa.column("group_uid", sa.String), sa.column("refers_to", sa.JSON)
)
_references = sa.table("inert_references", sa.column("inert_uid", sa.String), sa.column("target_key", sa.String))
_machines = sa.table("machines", sa.column("uid", sa.String), sa.column("group_uid", sa.String))
_interfaces = sa.table("machine_interfaces", sa.column("machine_uid", sa.String), sa.column("target_key", sa.String))


def upgrade() -> None:
    connection = op.get_bind()
    resources = connection.execute(_in_groups(_resources)).all()
    for row in resources:
        kept = [each for each in row.refers_to if each.casefold().startswith(_inside(row))]
        if kept != list(row.refers_to):
            mine = _resources.c.uid == row.uid
            connection.execute(sa.update(_resources).where(mine).values(refers_to=kept))
    _drop_outside(connection, resources, _references, _references.c.inert_uid)
    _drop_outside(connection, connection.execute(_in_groups(_machines)).all(), _interfaces, _interfaces.c.machine_uid)


def _in_groups(table: sa.TableClause) -> sa.Select[tuple[object, ...]]:
    return sa.select(table, _groups.c.subscription_key, _groups.c.name_key).join_from(
        table, _groups, table.c.group_uid == _groups.c.uid
    )


def _inside(row: sa.Row[tuple[object, ...]]) -> str:
    """How the ids of resources begin that are in the group of a row."""
    return f"/subscriptions/{row.subscription_key}/resourcegroups/{row.name_key}/"


def _drop_outside(
    connection: sa.Connection,
    rows: Sequence[sa.Row[tuple[object, ...]]],
    table: sa.TableClause,
    owner: sa.ColumnElement[str],
) -> None:
    inside = {row.uid: _inside(row) for row in rows}
    for named in connection.execute(sa.select(owner.label("owner"), table.c.target_key)).all():
        if not named.target_key.startswith(inside[named.owner]):
            connection.execute(sa.delete(table).where(owner == named.owner, table.c.target_key == named.target_key))
