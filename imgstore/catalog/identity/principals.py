"""Tenants, principals, the secrets of applications, and roles given."""

import builtins
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository, missing_row_error
from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment, Secret, Tenant

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_tenants = schema.tenants
_subscriptions = schema.subscriptions
_principals = schema.principals
_secrets = schema.secrets
_assignments = schema.role_assignments


class Tenants(Repository):
    """The tenants, and which of them owns a subscription."""

    __slots__ = ()

    def add(self, tenant: Tenant) -> None:
        """Write a new tenant down.

        Raises:
            Conflict: there is one of that name.
        """
        values = {"uid": tenant.uid, "name": tenant.name, "name_key": fold_name(tenant.name)}
        self._session.run(_tenants.insert(), {**values, "created_at": tenant.created_at})

    def list(self) -> builtins.list[Tenant]:
        """Every tenant, oldest first."""
        rows = self._session.all(select(_tenants).order_by(_tenants.c.created_at, _tenants.c.uid))
        return [_tenant(row) for row in rows]

    def find(self, name: str) -> Tenant | None:
        """The tenant of that uid or name, if there is one."""
        wanted = (_tenants.c.uid == name.lower()) | (_tenants.c.name_key == fold_name(name))
        row = self._session.first(select(_tenants).where(wanted))
        return None if row is None else _tenant(row)

    def lock(self) -> None:
        """Hold the making of first tenants, keys and administrators, until the end of the transaction."""
        self._session.lock_name("imgstore who may")

    def assign_subscription(self, subscription: str, tenant_uid: str) -> None:
        """Give a subscription that nobody owns yet to a tenant."""
        row = {"subscription_key": fold_name(subscription), "subscription": subscription, "tenant_uid": tenant_uid}
        self._session.run(self._session.upsert(_subscriptions).values(row).on_conflict_do_nothing())

    def owner_uid(self, subscription: str) -> str | None:
        """The uid of the tenant that a subscription belongs to; None where it was never said."""
        wanted = _subscriptions.c.subscription_key == fold_name(subscription)
        uid: str | None = self._session.value(select(_subscriptions.c.tenant_uid).where(wanted))
        return uid

    def subscriptions(self) -> builtins.list[tuple[str, str]]:
        """Each subscription with its tenant's uid."""
        rows = self._session.all(select(_subscriptions).order_by(_subscriptions.c.subscription_key))
        return [(row.subscription, row.tenant_uid) for row in rows]


class Principals(Repository):
    """Service principals and users, of all tenants."""

    __slots__ = ()

    def add(self, identity: PrincipalRecord) -> None:
        """Write a new one down.

        Raises:
            Conflict: the tenant has the application, or somebody has the issuer's subject, already.
        """
        self._session.run(
            _principals.insert(),
            {
                "uid": identity.uid,
                "kind": identity.kind,
                "tenant_uid": identity.tenant_uid,
                "name": identity.name,
                "client_id": identity.client_id,
                "issuer": identity.issuer,
                "subject": identity.subject,
                "created_at": identity.created_at,
            },
        )

    def get(self, uid: str) -> PrincipalRecord | None:
        """The principal of that object id, if there is one."""
        row = self._session.first(select(_principals).where(_principals.c.uid == uid))
        return None if row is None else _identity(row)

    def find_by_client(self, tenant_uid: str, client_id: str) -> PrincipalRecord | None:
        """The service principal of an application in a tenant, if it has one there."""
        wanted = (_principals.c.tenant_uid == tenant_uid) & (_principals.c.client_id == client_id)
        row = self._session.first(select(_principals).where(wanted))
        return None if row is None else _identity(row)

    def is_client_known(self, client_id: str) -> bool:
        """Whether any tenant knows the application."""
        uid = self._session.value(select(_principals.c.uid).where(_principals.c.client_id == client_id))
        return uid is not None

    def find_by_subject(self, issuer: str, subject: str) -> PrincipalRecord | None:
        """The user whom an issuer calls so, if it is known."""
        wanted = (_principals.c.issuer == issuer) & (_principals.c.subject == subject)
        row = self._session.first(select(_principals).where(wanted))
        return None if row is None else _identity(row)

    def list(self) -> builtins.list[PrincipalRecord]:
        """Every principal, oldest first."""
        rows = self._session.all(select(_principals).order_by(_principals.c.created_at, _principals.c.uid))
        return [_identity(row) for row in rows]

    def revoke_tokens(self, uid: str, now: datetime) -> None:
        """Let no token be good any more that it was given until now.

        Raises:
            NotFound: no row has this uid.
        """
        values = {"token_generation": _principals.c.token_generation + 1, "tokens_valid_after": now}
        if self._session.run(update(_principals).where(_principals.c.uid == uid).values(values)).rowcount == 0:
            raise missing_row_error("principal", uid)

    def delete(self, uid: str) -> None:
        """Remove it and its roles.

        Raises:
            NotFound: no row has this uid.
        """
        # Said here too: SQLite's cascades are a setting of the connection.
        self._session.run(delete(_assignments).where(_assignments.c.principal_uid == uid))
        self._remove(_principals, uid, "principal")


class Secrets(Repository):
    """The hashes of applications' secrets."""

    __slots__ = ()

    def add(self, secret: Secret) -> None:
        """Write a new one down, beside those that stand."""
        self._session.run(
            _secrets.insert(),
            {
                "uid": secret.uid,
                "client_id": secret.client_id,
                "hint": secret.hint,
                "hashed": secret.hashed,
                "created_at": secret.created_at,
                "expires_at": secret.expires_at,
            },
        )

    def find(self, client_id: str, hint: str) -> Secret | None:
        """The application's secret that begins so, if there is one."""
        wanted = (_secrets.c.client_id == client_id) & (_secrets.c.hint == hint)
        row = self._session.first(select(_secrets).where(wanted))
        return None if row is None else _secret(row)

    def list(self, client_id: str) -> builtins.list[Secret]:
        """Those of an application, oldest first."""
        wanted = select(_secrets).where(_secrets.c.client_id == client_id)
        return [_secret(row) for row in self._session.all(wanted.order_by(_secrets.c.created_at, _secrets.c.uid))]

    def delete_all(self, client_id: str) -> None:
        """Remove every secret of an application."""
        self._session.run(delete(_secrets).where(_secrets.c.client_id == client_id))


class Assignments(Repository):
    """Roles that were given."""

    __slots__ = ()

    def add(self, assignment: RoleAssignment) -> None:
        """Write a new one down.

        Raises:
            Conflict: the principal has the role on the scope.
        """
        self._session.run(
            _assignments.insert(),
            {
                "uid": assignment.uid,
                "principal_uid": assignment.principal_uid,
                "role": assignment.role,
                "scope": assignment.scope,
                "scope_key": fold_name(assignment.scope),
                "created_at": assignment.created_at,
            },
        )

    def list_of_principal(self, principal_uid: str) -> builtins.list[RoleAssignment]:
        """A principal's roles."""
        wanted = select(_assignments).where(_assignments.c.principal_uid == principal_uid)
        return [_assignment(row) for row in self._session.all(wanted.order_by(_assignments.c.scope_key))]

    def list(self) -> builtins.list[RoleAssignment]:
        """Every role that was given, by scope."""
        order = (_assignments.c.scope_key, _assignments.c.created_at, _assignments.c.uid)
        return [_assignment(row) for row in self._session.all(select(_assignments).order_by(*order))]

    def delete(self, uid: str) -> None:
        """Take it away.

        Raises:
            NotFound: no row has this uid.
        """
        self._remove(_assignments, uid, "role assignment")


def _tenant(row: "Row[Any]") -> Tenant:
    return Tenant(uid=row.uid, name=row.name, created_at=row.created_at)


def _identity(row: "Row[Any]") -> PrincipalRecord:
    return PrincipalRecord(
        uid=row.uid,
        kind=row.kind,
        tenant_uid=row.tenant_uid,
        name=row.name,
        client_id=row.client_id,
        issuer=row.issuer,
        subject=row.subject,
        token_generation=row.token_generation,
        tokens_valid_after=row.tokens_valid_after,
        created_at=row.created_at,
    )


def _secret(row: "Row[Any]") -> Secret:
    return Secret(
        uid=row.uid,
        client_id=row.client_id,
        hint=row.hint,
        hashed=row.hashed,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _assignment(row: "Row[Any]") -> RoleAssignment:
    return RoleAssignment(
        uid=row.uid, principal_uid=row.principal_uid, role=row.role, scope=row.scope, created_at=row.created_at
    )
