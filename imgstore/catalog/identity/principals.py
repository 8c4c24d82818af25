"""Tenants, principals, secrets of applications, and role assignments."""

import builtins
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Rows
from imgstore.catalog.engine.rows import to_columns
from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment, Secret, Tenant

_tenants = schema.tenants
_subscriptions = schema.subscriptions
_principals = schema.principals
_secrets = schema.secrets
_assignments = schema.role_assignments


class Tenants(Rows[Tenant], table=_tenants, noun="tenant", value=Tenant):
    """The tenants and the subscriptions of each tenant."""

    def list(self) -> builtins.list[Tenant]:
        """Return all tenants, oldest first."""
        return self._list(select(_tenants).order_by(_tenants.c.created_at, _tenants.c.uid))

    def find(self, name: str) -> Tenant | None:
        """Return the tenant with this uid or name, or None."""
        return self._find((_tenants.c.uid == name.lower()) | (_tenants.c.name_key == fold_name(name)))

    def lock_creation(self) -> None:
        """Lock the creation of first tenants, keys and administrators until the end of the transaction."""
        self._session.lock_name("imgstore who may")

    def assign_subscription(self, subscription: str, tenant_uid: str) -> None:
        """Assign a subscription without a tenant to a tenant."""
        row = {"subscription_key": fold_name(subscription), "subscription": subscription, "tenant_uid": tenant_uid}
        self._session.run(self._session.upsert(_subscriptions).values(row).on_conflict_do_nothing())

    def owner_uid(self, subscription: str) -> str | None:
        """Return the uid of the tenant of a subscription, or None if the subscription has no tenant."""
        wanted = _subscriptions.c.subscription_key == fold_name(subscription)
        uid: str | None = self._session.value(select(_subscriptions.c.tenant_uid).where(wanted))
        return uid

    def subscriptions(self) -> builtins.list[tuple[str, str]]:
        """Return each subscription with the uid of its tenant."""
        rows = self._session.all(select(_subscriptions).order_by(_subscriptions.c.subscription_key))
        return [(row.subscription, row.tenant_uid) for row in rows]

    def _columns(self, tenant: Tenant) -> dict[str, Any]:
        return to_columns(_tenants, tenant, name_key=fold_name(tenant.name))


class Principals(Rows[PrincipalRecord], table=_principals, noun="principal", value=PrincipalRecord):
    """The service principals and users of all tenants."""

    def get(self, uid: str) -> PrincipalRecord | None:
        """Return the principal with this object id, or None."""
        return self._find(_principals.c.uid == uid)

    def find_by_client(self, tenant_uid: str, client_id: str) -> PrincipalRecord | None:
        """Return the service principal of an application in a tenant, or None."""
        return self._find(_principals.c.tenant_uid == tenant_uid, _principals.c.client_id == client_id)

    def is_client_known(self, client_id: str) -> bool:
        """Return whether any tenant has a service principal of the application."""
        uid = self._session.value(select(_principals.c.uid).where(_principals.c.client_id == client_id))
        return uid is not None

    def find_by_subject(self, issuer: str, subject: str) -> PrincipalRecord | None:
        """Return the user with this subject at an issuer, or None."""
        return self._find(_principals.c.issuer == issuer, _principals.c.subject == subject)

    def list(self) -> builtins.list[PrincipalRecord]:
        """Return all principals, oldest first."""
        return self._list(select(_principals).order_by(_principals.c.created_at, _principals.c.uid))

    def revoke_tokens(self, uid: str, now: datetime) -> None:
        """Invalidate all tokens that the principal received before `now`.

        Raises:
            NotFound: no row has this uid.
        """
        values = {"token_generation": _principals.c.token_generation + 1, "tokens_valid_after": now}
        self._replace(_principals, uid, values, "principal")

    def delete(self, uid: str) -> None:
        """Remove a principal and its role assignments.

        Raises:
            NotFound: no row has this uid.
        """
        # Do not rely on the cascade alone, because SQLite runs cascades only with a setting of the connection.
        self._session.run(delete(_assignments).where(_assignments.c.principal_uid == uid))
        self._remove(_principals, uid, "principal")


class Secrets(Rows[Secret], table=_secrets, noun="secret", value=Secret):
    """The hashes of the secrets of applications."""

    def find(self, client_id: str, hint: str) -> Secret | None:
        """Return the secret of an application that begins with `hint`, or None."""
        return self._find(_secrets.c.client_id == client_id, _secrets.c.hint == hint)

    def list(self, client_id: str) -> builtins.list[Secret]:
        """Return the secrets of an application, oldest first."""
        wanted = select(_secrets).where(_secrets.c.client_id == client_id)
        return self._list(wanted.order_by(_secrets.c.created_at, _secrets.c.uid))

    def delete_all(self, client_id: str) -> None:
        """Remove all secrets of an application."""
        self._session.run(delete(_secrets).where(_secrets.c.client_id == client_id))


class Assignments(Rows[RoleAssignment], table=_assignments, noun="role assignment", value=RoleAssignment):
    """The role assignments of all principals."""

    def list_of_principal(self, principal_uid: str) -> builtins.list[RoleAssignment]:
        """Return the role assignments of a principal, by scope."""
        wanted = select(_assignments).where(_assignments.c.principal_uid == principal_uid)
        return self._list(wanted.order_by(_assignments.c.scope_key))

    def list(self) -> builtins.list[RoleAssignment]:
        """Return all role assignments, by scope."""
        order = (_assignments.c.scope_key, _assignments.c.created_at, _assignments.c.uid)
        return self._list(select(_assignments).order_by(*order))

    def _columns(self, assignment: RoleAssignment) -> dict[str, Any]:
        return to_columns(_assignments, assignment, scope_key=fold_name(assignment.scope))
