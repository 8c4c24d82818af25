"""Add the budgets of subscriptions.

Revision: 0039, after 0038.
"""

import sqlalchemy as sa
from alembic import op

from imgstore.catalog.engine.revision_triggers import MarkedTable, install_triggers, replace_region_trigger

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None
oldest_code = "0032"

_BUDGETS = MarkedTable(
    table="budgets",
    kind="budgets",
    identity=("uid",),
    loud=("subscription", "subscription_key", "month", "amount", "currency", "at_limit", "set_at"),
    is_urgent=True,
)
_IN_EACH_REGION = (
    MarkedTable(table="ledger_keys", kind="ledger-keys", identity=("kid",), loud=()),
    MarkedTable(table="placements", kind="placements", identity=("version_uid",), loud=()),
    MarkedTable(table="deployments", kind="deployments", identity=("uid",), loud=()),
    MarkedTable(table="inert_resources", kind="network-records", identity=("uid",), loud=()),
    MarkedTable(table="machines", kind="machines", identity=("uid",), loud=()),
    MarkedTable(table="definitions", kind="definitions", identity=("uid",), loud=()),
    MarkedTable(table="galleries", kind="galleries", identity=("uid",), loud=()),
    MarkedTable(table="pools", kind="pools", identity=("uid",), loud=()),
    MarkedTable(table="groups", kind="groups", identity=("uid",), loud=()),
    _BUDGETS,
    MarkedTable(table="issuers", kind="issuers", identity=("uid",), loud=()),
    MarkedTable(table="secrets", kind="secrets", identity=("uid",), loud=()),
    MarkedTable(table="principals", kind="principals", identity=("uid",), loud=()),
    MarkedTable(table="subscriptions", kind="subscriptions", identity=("subscription_key",), loud=()),
    MarkedTable(table="tenants", kind="tenants", identity=("uid",), loud=()),
    MarkedTable(table="zones", kind="zones", identity=("region", "zone"), loud=()),
    MarkedTable(table="settings", kind="settings", identity=("key",), loud=()),
    MarkedTable(table="installation", kind="installation", identity=("uid",), loud=()),
)


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("subscription_key", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("amount", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("at_limit", sa.String(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reached_month", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_budgets")),
        sa.UniqueConstraint("subscription_key", "month", name=op.f("uq_budgets_subscription_key_month")),
    )
    install_triggers(op.get_bind(), [_BUDGETS])
    replace_region_trigger(op.get_bind(), _IN_EACH_REGION)
