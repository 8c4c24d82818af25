"""Tenants, principals, secrets of applications, and role assignments."""

import builtins
from datetime import datetime

from sqlalchemy import delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository, missing_row_error
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment, Secret, Tenant

_tenants = schema.tenants
_subscriptions = schema.subscriptions
_principals = schema.principals
_secrets = schema.secrets
_assignments = schema.role_assignments


class Tenants(Repository):
    """The tenants and the subscriptions of each tenant."""

    def add(self, tenant: Tenant) -> None:
        """Add a tenant.

        Raises:
            Conflict: a tenant of this name exists.
        """
        self._session.run(_tenants.insert(), to_columns(_tenants, tenant, name_key=fold_name(tenant.name)))

    def list(self) -> builtins.list[Tenant]:
        """Return all tenants, oldest first."""
        rows = self._session.all(select(_tenants).order_by(_tenants.c.created_at, _tenants.c.uid))
        return [to_value(Tenant, row) for row in rows]

    def find(self, name: str) -> Tenant | None:
        """Return the tenant with this uid or name, or None."""
        wanted = (_tenants.c.uid == name.lower()) | (_tenants.c.name_key == fold_name(name))
        row = self._session.first(select(_tenants).where(wanted))
        return None if row is None else to_value(Tenant, row)

    def lock(self) -> None:
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


class Principals(Repository):
    """The service principals and users of all tenants."""

    def add(self, identity: PrincipalRecord) -> None:
        """Add a principal.

        Raises:
            Conflict: the tenant has a service principal of this application, or a user with this issuer and subject
                exists.
        """
        self._session.run(_principals.insert(), to_columns(_principals, identity))

    def get(self, uid: str) -> PrincipalRecord | None:
        """Return the principal with this object id, or None."""
        row = self._session.first(select(_principals).where(_principals.c.uid == uid))
        return None if row is None else to_value(PrincipalRecord, row)

    def find_by_client(self, tenant_uid: str, client_id: str) -> PrincipalRecord | None:
        """Return the service principal of an application in a tenant, or None."""
        wanted = (_principals.c.tenant_uid == tenant_uid) & (_principals.c.client_id == client_id)
        row = self._session.first(select(_principals).where(wanted))
        return None if row is None else to_value(PrincipalRecord, row)

    def is_client_known(self, client_id: str) -> bool:
        """Return whether any tenant has a service principal of the application."""
        uid = self._session.value(select(_principals.c.uid).where(_principals.c.client_id == client_id))
        return uid is not None

    def find_by_subject(self, issuer: str, subject: str) -> PrincipalRecord | None:
        """Return the user with this subject at an issuer, or None."""
        wanted = (_principals.c.issuer == issuer) & (_principals.c.subject == subject)
        row = self._session.first(select(_principals).where(wanted))
        return None if row is None else to_value(PrincipalRecord, row)

    def list(self) -> builtins.list[PrincipalRecord]:
        """Return all principals, oldest first."""
        rows = self._session.all(select(_principals).order_by(_principals.c.created_at, _principals.c.uid))
        return [to_value(PrincipalRecord, row) for row in rows]

    def revoke_tokens(self, uid: str, now: datetime) -> None:
        """Invalidate all tokens that the principal received before `now`.

        Raises:
            NotFound: no row has this uid.
        """
        values = {"token_generation": _principals.c.token_generation + 1, "tokens_valid_after": now}
        if self._session.run(update(_principals).where(_principals.c.uid == uid).values(values)).rowcount == 0:
            raise missing_row_error("principal", uid)

    def delete(self, uid: str) -> None:
        """Remove a principal and its role assignments.

        Raises:
            NotFound: no row has this uid.
        """
        # Do not rely on the cascade alone, because SQLite runs cascades only with a setting of the connection.
        self._session.run(delete(_assignments).where(_assignments.c.principal_uid == uid))
        self._remove(_principals, uid, "principal")


class Secrets(Repository):
    """The hashes of the secrets of applications."""

    def add(self, secret: Secret) -> None:
        """Add a secret. Other secrets of the application stay valid."""
        self._session.run(_secrets.insert(), to_columns(_secrets, secret))

    def find(self, client_id: str, hint: str) -> Secret | None:
        """Return the secret of an application that begins with `hint`, or None."""
        wanted = (_secrets.c.client_id == client_id) & (_secrets.c.hint == hint)
        row = self._session.first(select(_secrets).where(wanted))
        return None if row is None else to_value(Secret, row)

    def list(self, client_id: str) -> builtins.list[Secret]:
        """Return the secrets of an application, oldest first."""
        wanted = select(_secrets).where(_secrets.c.client_id == client_id)
        return [
            to_value(Secret, row) for row in self._session.all(wanted.order_by(_secrets.c.created_at, _secrets.c.uid))
        ]

    def delete_all(self, client_id: str) -> None:
        """Remove all secrets of an application."""
        self._session.run(delete(_secrets).where(_secrets.c.client_id == client_id))


class Assignments(Repository):
    """The role assignments of all principals."""

    def add(self, assignment: RoleAssignment) -> None:
        """Add a role assignment.

        Raises:
            Conflict: the principal has the role on the scope already.
        """
        values = to_columns(_assignments, assignment, scope_key=fold_name(assignment.scope))
        self._session.run(_assignments.insert(), values)

    def list_of_principal(self, principal_uid: str) -> builtins.list[RoleAssignment]:
        """Return the role assignments of a principal, by scope."""
        wanted = select(_assignments).where(_assignments.c.principal_uid == principal_uid)
        return [to_value(RoleAssignment, row) for row in self._session.all(wanted.order_by(_assignments.c.scope_key))]

    def list(self) -> builtins.list[RoleAssignment]:
        """Return all role assignments, by scope."""
        order = (_assignments.c.scope_key, _assignments.c.created_at, _assignments.c.uid)
        return [to_value(RoleAssignment, row) for row in self._session.all(select(_assignments).order_by(*order))]

    def delete(self, uid: str) -> None:
        """Remove a role assignment.

        Raises:
            NotFound: no row has this uid.
        """
        self._remove(_assignments, uid, "role assignment")
