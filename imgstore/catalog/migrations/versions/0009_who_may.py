"""Add tenants, principals, secrets, roles, issuers, signing keys and the sharing of galleries.

Revision: 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "tenants",
        _text("uid"),
        _text("name"),
        _text("name_key"),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name_key", name=op.f("uq_tenants_name_key")),
    )
    op.create_table(
        "subscriptions",
        _text("subscription_key"),
        _text("subscription"),
        _text("tenant_uid"),
        sa.ForeignKeyConstraint(["tenant_uid"], ["tenants.uid"], name=op.f("fk_subscriptions_tenant_uid")),
        sa.PrimaryKeyConstraint("subscription_key", name=op.f("pk_subscriptions")),
    )
    op.create_table(
        "principals",
        _text("uid"),
        _text("kind"),
        _text("tenant_uid"),
        _text("name"),
        _text("client_id", nullable=True),
        _text("issuer", nullable=True),
        _text("subject", nullable=True),
        _instant("created_at"),
        sa.ForeignKeyConstraint(["tenant_uid"], ["tenants.uid"], name=op.f("fk_principals_tenant_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_principals")),
        sa.UniqueConstraint("tenant_uid", "client_id", name=op.f("uq_principals_tenant_uid_client_id")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_principals_issuer_subject")),
    )
    op.create_table(
        "secrets",
        _text("uid"),
        _text("client_id"),
        _text("hint"),
        _text("hashed"),
        _instant("created_at"),
        _instant("expires_at"),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_secrets")),
        sa.UniqueConstraint("client_id", "hint", name=op.f("uq_secrets_client_id_hint")),
    )
    op.create_table(
        "role_assignments",
        _text("uid"),
        _text("principal_uid"),
        _text("role"),
        _text("scope"),
        _text("scope_key"),
        _instant("created_at"),
        sa.ForeignKeyConstraint(
            ["principal_uid"],
            ["principals.uid"],
            name=op.f("fk_role_assignments_principal_uid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_role_assignments")),
        sa.UniqueConstraint(
            "principal_uid", "role", "scope_key", name=op.f("uq_role_assignments_principal_uid_role_scope_key")
        ),
    )
    op.create_table(
        "issuers",
        _text("uid"),
        _text("tenant_uid"),
        _text("url"),
        _text("audience"),
        _text("jwks"),
        _instant("created_at"),
        sa.ForeignKeyConstraint(["tenant_uid"], ["tenants.uid"], name=op.f("fk_issuers_tenant_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_issuers")),
        sa.UniqueConstraint("url", name=op.f("uq_issuers_url")),
    )
    op.create_table(
        "signing_keys",
        _text("kid"),
        sa.Column("pem", sa.LargeBinary(), nullable=False),
        _instant("created_at"),
        _instant("retired_at", nullable=True),
        _instant("trusted_until", nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_signing_keys")),
    )
    op.add_column("galleries", _text("sharing_permission", nullable=True))
    op.add_column("galleries", sa.Column("sharing", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_galleries_sharing_permission"), "galleries", ["sharing_permission"], unique=False)
