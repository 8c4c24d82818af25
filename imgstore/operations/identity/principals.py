"""Manage tenants, service principals, users and trusted issuers. `roles.py` manages roles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import INSTALLATION, Action, Grant, Principal, Role
from imgstore.domain.identity.principals import Issuer, PrincipalKind, PrincipalRecord, RoleAssignment, Secret, Tenant
from imgstore.domain.reports import PrincipalDetails
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.revisions import flush_revisions

FIRST_TENANT: Final = "default"
_NAME_CHARACTERS_MAX: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A stored form of a secret."""

    hint: str
    hashed: str
    days: int
    """Lifetime of the secret."""


def principal_of(transaction: Transaction, identity: PrincipalRecord) -> Principal:
    """Return the caller with all roles."""
    grants = tuple(
        Grant(role=each.role, scope=each.scope) for each in transaction.assignments.list_of_principal(identity.uid)
    )
    return Principal(name=identity.name, grants=grants, uid=identity.uid, tenant=identity.tenant_uid)


def ensure_tenant(installation: Installation, transaction: Transaction) -> Tenant:
    """Return the installation's own tenant. Create a missing tenant, with the installation's subscription."""
    transaction.tenants.lock_creation()
    tenants = transaction.tenants.list()
    own = tenants[0] if tenants else _new_tenant(installation, transaction, FIRST_TENANT)
    transaction.tenants.assign_subscription(installation.subscription, own.uid)
    return own


def create_tenant(
    installation: Installation, principal: Principal, *, name: str, subscriptions: Sequence[str] = ()
) -> Tenant:
    """Create a tenant.

    Args:
        installation: the installation.
        principal: the caller.
        name: display name.
        subscriptions: subscriptions of the tenant.

    Raises:
        InvalidInput: the name is malformed.
        Conflict: a tenant has the name, or a subscription belongs to another tenant.
    """
    _check_name(name)
    with _administer(installation, principal, "tenants/write") as transaction:
        ensure_tenant(installation, transaction)
        if transaction.tenants.find(name) is not None:
            raise Conflict(
                f"The tenant '{name}' exists.",
                found=f"a tenant of the name or id {name}",
                expected="a name that is new",
                hint="imgstore auth tenant list",
                target="name",
            )
        made = _new_tenant(installation, transaction, name)
        for each in subscriptions:
            owner = transaction.tenants.owner_uid(each)
            if owner is not None:
                raise Conflict(
                    f"The subscription '{each}' belongs to another tenant.",
                    found=f"the tenant {owner}",
                    expected="a subscription without a tenant",
                    hint="leave it out",
                    target="subscriptions",
                )
            transaction.tenants.assign_subscription(each, made.uid)
        return made


def list_tenants(installation: Installation, principal: Principal) -> list[Tenant]:
    """List the tenants. The installation's own tenant is the first."""
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    with installation.catalog.discarding_writes(), installation.catalog.transaction() as transaction:
        is_first = not transaction.tenants.list()
        ensure_tenant(installation, transaction)
        found = transaction.tenants.list()
    if is_first:
        flush_revisions(installation)
    return found


def add_service_principal(
    installation: Installation,
    principal: Principal,
    *,
    name: str,
    proof: Proof | None,
    tenant: str | None = None,
    client_id: str | None = None,
) -> PrincipalDetails:
    """Create a service principal.

    Args:
        installation: the installation.
        principal: the caller.
        name: display name.
        proof: the stored form of the first secret; None if the application has secrets already.
        tenant: name or id; None for the installation's own tenant.
        client_id: client id of an application that another tenant knows; None makes a new application.

    Raises:
        NotFound: the tenant or the application does not exist.
        Conflict: the tenant knows the application.
    """
    _check_name(name)
    with _administer(installation, principal, "servicePrincipals/write") as transaction:
        home = _tenant(installation, transaction, tenant)
        if client_id is not None and not transaction.principals.is_client_known(client_id):
            raise _unknown(client_id, "an application that a tenant knows")
        made = PrincipalRecord(
            uid=installation.effects.new_uid(),
            kind=PrincipalKind.SERVICE_PRINCIPAL,
            tenant_uid=home.uid,
            name=name,
            client_id=client_id or installation.effects.new_uid(),
            created_at=installation.effects.now(),
        )
        transaction.principals.add(made)
        if proof is not None:
            _add_secret(installation, transaction, made, proof)
        return _read_details(transaction, made)


def create_administrator(installation: Installation, proof: Proof) -> PrincipalDetails | None:
    """Create the first service principal, with the role Owner on the installation. None if a principal exists.

    No right is needed: the operator who starts the server on the catalog creates the first principal.
    """
    with installation.catalog.transaction() as transaction:
        home = ensure_tenant(installation, transaction)
        if transaction.principals.list():
            return None
        now = installation.effects.now()
        made = PrincipalRecord(
            uid=installation.effects.new_uid(),
            kind=PrincipalKind.SERVICE_PRINCIPAL,
            tenant_uid=home.uid,
            name="administrator",
            client_id=installation.effects.new_uid(),
            created_at=now,
        )
        transaction.principals.add(made)
        _add_secret(installation, transaction, made, proof)
        transaction.assignments.add(
            RoleAssignment(
                uid=installation.effects.new_uid(),
                principal_uid=made.uid,
                role=Role.OWNER,
                scope=INSTALLATION,
                created_at=now,
            )
        )
        transaction.activity.add(
            principal="imgstore",
            action="imgstore/servicePrincipals/write",
            scope=INSTALLATION,
            outcome="Succeeded",
            detail=f"the first administrator: {made.uid}",
            started_at=now,
            finished_at=now,
        )
        details = _read_details(transaction, made)
    flush_revisions(installation)
    return details


def add_user(
    installation: Installation, principal: Principal, *, issuer: str, subject: str, name: str
) -> PrincipalDetails:
    """Create a user with the issuer's subject.

    Raises:
        NotFound: the issuer is not trusted.
        Conflict: the subject is known.
    """
    _check_name(name)
    with _administer(installation, principal, "users/write") as transaction:
        trusted = _issuer(transaction, issuer)
        made = PrincipalRecord(
            uid=installation.effects.new_uid(),
            kind=PrincipalKind.USER,
            tenant_uid=trusted.tenant_uid,
            name=name,
            issuer=trusted.url,
            subject=subject,
            created_at=installation.effects.now(),
        )
        transaction.principals.add(made)
        return _read_details(transaction, made)


def list_principals(installation: Installation, principal: Principal, kind: PrincipalKind) -> list[PrincipalDetails]:
    """List the principals of a kind, oldest first."""
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    with installation.catalog.reading() as transaction:
        return [PrincipalDetails(identity=each) for each in transaction.principals.list() if each.kind is kind]


def show_principal(installation: Installation, principal: Principal, *, who: str) -> PrincipalDetails:
    """Return a principal by object id, client id or name (see `find_principal`)."""
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    with installation.catalog.reading() as transaction:
        return _read_details(transaction, find_principal(transaction, who))


def delete_principal(installation: Installation, principal: Principal, *, who: str) -> None:
    """Delete a principal with its roles and tokens. The secrets of an application are deleted with its last principal."""
    with _administer(installation, principal, "principals/delete") as transaction:
        found = find_principal(transaction, who)
        transaction.principals.delete(found.uid)
        if found.client_id is not None and not transaction.principals.is_client_known(found.client_id):
            transaction.secrets.delete_all(found.client_id)


def revoke_tokens(installation: Installation, principal: Principal, *, who: str) -> PrincipalDetails:
    """Revoke all tokens of a principal that have been issued. New tokens are valid.

    Running operations continue, and interrupted operations do not resume. A server may accept a revoked token for up to 5
    seconds, from its cache of token owners.

    Raises:
        NotFound: the principal does not exist.
    """
    with _administer(installation, principal, "principals/revokeTokens/action") as transaction:
        found = find_principal(transaction, who)
        transaction.principals.revoke_tokens(found.uid, transaction.now())
        return _read_details(transaction, find_principal(transaction, found.uid))


def reset_credential(
    installation: Installation, principal: Principal, *, who: str, proof: Proof, keep: bool = False
) -> PrincipalDetails:
    """Add a secret to an application. Unless `keep` is set, the other secrets and their tokens are revoked.

    Args:
        installation: the installation.
        principal: the caller.
        who: object id, client id or name of a principal of the application.
        proof: the stored form of the new secret.
        keep: keep the present secrets, so that users of the application can change to the new secret one after another.

    Raises:
        NotFound: the principal does not exist.
        InvalidInput: the principal is a user.
    """
    with _administer(installation, principal, "servicePrincipals/credentials/write") as transaction:
        found = find_principal(transaction, who)
        if found.client_id is None:
            raise InvalidInput(
                f"'{found.name}' has no secrets here.",
                found="a user of an issuer",
                expected="a service principal",
                hint="imgstore auth sp list",
                target="id",
            )
        if not keep:
            transaction.secrets.delete_all(found.client_id)
            for each in transaction.principals.list():
                if each.client_id == found.client_id:
                    transaction.principals.revoke_tokens(each.uid, transaction.now())
        _add_secret(installation, transaction, found, proof)
        return _read_details(transaction, found)


def add_issuer(
    installation: Installation, principal: Principal, *, url: str, audience: str, jwks: str, tenant: str | None = None
) -> Issuer:
    """Trust an OIDC issuer for the users of a tenant.

    Args:
        installation: the installation.
        principal: the caller.
        url: the exact claim ``iss`` of the issuer's tokens.
        audience: the claim ``aud`` that the tokens must have.
        jwks: an https URL, or the absolute path of a file.
        tenant: name or id; None for the installation's own tenant.

    Raises:
        InvalidInput: `url`, `audience` or `jwks` is malformed.
        Conflict: the issuer is already trusted.
    """
    for value, what in ((url, "issuer"), (audience, "audience")):
        if not value or len(value) > 2_000:
            raise InvalidInput(
                f"The {what} is invalid.",
                found=repr(value[:80]),
                expected="the exact text in the issuer's tokens",
                hint="decode a token of the issuer and compare the text",
                target=what,
            )
    if not jwks.startswith(("https://", "/")):
        raise InvalidInput(
            "The location of the issuer's keys is invalid.",
            found=repr(jwks[:80]),
            expected="an https URL, or the absolute path of a file",
            hint="`jwks_uri` in the issuer's /.well-known/openid-configuration",
            target="jwks",
        )
    with _administer(installation, principal, "issuers/write") as transaction:
        made = Issuer(
            uid=installation.effects.new_uid(),
            tenant_uid=_tenant(installation, transaction, tenant).uid,
            url=url,
            audience=audience,
            jwks=jwks,
            created_at=installation.effects.now(),
        )
        transaction.issuers.add(made)
        return made


def list_issuers(installation: Installation, principal: Principal) -> list[Issuer]:
    """List the trusted issuers."""
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    with installation.catalog.reading() as transaction:
        return transaction.issuers.list()


def remove_issuer(installation: Installation, principal: Principal, *, url: str) -> None:
    """Remove an issuer from the trusted issuers. Its users stay, and cannot sign in."""
    with _administer(installation, principal, "issuers/delete") as transaction:
        transaction.issuers.delete(_issuer(transaction, url).uid)


def find_principal(transaction: Transaction, who: str) -> PrincipalRecord:
    """Find the principal with `who` as object id, client id, subject or name.

    Raises:
        NotFound: the resource does not exist.
        Conflict: several principals match; only the object id is unique.
    """
    exact = transaction.principals.get(who)
    if exact is not None:
        return exact
    found = [each for each in transaction.principals.list() if who in (each.client_id, each.subject, each.name)]
    if not found:
        raise _unknown(who, "the object id, client id or name of a principal")
    if len(found) > 1:
        raise Conflict(
            f"'{who}' is the name of several principals.",
            found=", ".join(each.uid for each in found),
            expected="one principal",
            hint="use the object id",
            target="id",
        )
    return found[0]


@contextmanager
def _administer(installation: Installation, principal: Principal, what: str) -> Iterator[Transaction]:
    """Authorize and record a change of principals, and run the block in a transaction."""
    with (
        record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, f"imgstore/{what}"),
        installation.catalog.transaction() as transaction,
    ):
        yield transaction


def _read_details(transaction: Transaction, identity: PrincipalRecord) -> PrincipalDetails:
    secrets: Sequence[Secret] = transaction.secrets.list(identity.client_id) if identity.client_id else ()
    return PrincipalDetails(
        identity=identity,
        secrets=tuple(secrets),
        assignments=tuple(transaction.assignments.list_of_principal(identity.uid)),
    )


def _add_secret(installation: Installation, transaction: Transaction, identity: PrincipalRecord, proof: Proof) -> None:
    assert identity.client_id is not None
    now = transaction.now()
    transaction.secrets.add(
        Secret(
            uid=installation.effects.new_uid(),
            client_id=identity.client_id,
            hint=proof.hint,
            hashed=proof.hashed,
            created_at=now,
            expires_at=now + timedelta(days=proof.days),
        )
    )


def _new_tenant(installation: Installation, transaction: Transaction, name: str) -> Tenant:
    made = Tenant(uid=installation.effects.new_uid(), name=name, created_at=installation.effects.now())
    transaction.tenants.add(made)
    return made


def _tenant(installation: Installation, transaction: Transaction, name: str | None) -> Tenant:
    own = ensure_tenant(installation, transaction)
    found = own if name is None else transaction.tenants.find(name)
    if found is None:
        raise _unknown(str(name), "the name or id of a tenant", "imgstore auth tenant list")
    return found


def _issuer(transaction: Transaction, url: str) -> Issuer:
    found = transaction.issuers.get(url)
    if found is None:
        raise _unknown(url, "an issuer that is trusted, to the letter", "imgstore auth issuer list")
    return found


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidInput(
            "The name is invalid.",
            found=repr(name[:_NAME_CHARACTERS_MAX]),
            expected=f"1 to {_NAME_CHARACTERS_MAX} printable characters",
            hint="choose another name",
            target="name",
        )


def _unknown(who: str, expected: str, command: str = "imgstore auth sp list") -> NotFound:
    return NotFound(
        f"'{who}' is not known.",
        found="no entry with this name or id",
        expected=expected,
        hint=f"`{command}` lists the known entries",
        target=who,
        code="Request_ResourceNotFound",
    )
