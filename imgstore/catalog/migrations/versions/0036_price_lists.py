"""Add numbered price lists, and the price list, the meter and the tags of entries of the ledger.

Revision: 0036, after 0035.
"""

import sqlalchemy as sa
from alembic import op

from imgstore.catalog.engine.revision_triggers import MarkedTable, install_triggers, replace_triggers

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None
oldest_code = "0032"

_PRICE_LISTS = MarkedTable(
    table="price_lists",
    kind="price_lists",
    identity=("uid",),
    loud=("number", "digest", "document", "effective_at"),
    is_urgent=False,
)
_CHANGED = (
    MarkedTable(
        table="ledger",
        kind="ledger",
        identity=('key',),
        loud=('kind', 'subscription', 'subscription_key', 'group_name', 'gallery', 'definition', 'version', 'disk', 'source', 'target', 'replica', 'delivered_bytes', 'unit_price', 'amount', 'time', 'tags', 'price_list', 'meter'), is_urgent=False,
    ),
    MarkedTable(
        table="intervals",
        kind="intervals",
        identity=('uid',),
        loud=('subscription', 'subscription_key', 'group_name', 'gallery', 'definition', 'version', 'disk', 'owner_uid', 'slot_uid', 'region', 'replica', 'storage_account_type', 'stored_bytes', 'opened_at', 'closed_at', 'tags'), is_urgent=False,
    ),
)


def upgrade() -> None:
    op.create_table(
        "price_lists",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_price_lists")),
        sa.UniqueConstraint("number", name=op.f("uq_price_lists_number")),
    )
    for table in ("ledger", "intervals"):
        op.add_column(table, sa.Column("tags", sa.JSON(), nullable=True))
    op.add_column("ledger", sa.Column("price_list", sa.Integer(), nullable=True))
    op.add_column("ledger", sa.Column("meter", sa.String(), nullable=True))
    install_triggers(op.get_bind(), [_PRICE_LISTS])
    replace_triggers(op.get_bind(), _CHANGED)
