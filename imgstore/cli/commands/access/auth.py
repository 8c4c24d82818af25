"""``imgstore auth``: tenants, issuers and keys. Principals and roles have modules of their own."""

from collections.abc import Sequence

import click

from imgstore.cli.commands.access.auth_principals import sp, user
from imgstore.cli.commands.access.auth_roles import role
from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session, server_parts
from imgstore.domain.errors import Conflict
from imgstore.operations.identity import principals
from imgstore.wire.json_text import Json
from imgstore.wire.responses.principals import credential_json, issuer_json, key_json, tenant_json

_ISSUERS = columns(Issuer="issuer", Audience="audience", Jwks="jwks", Tenant="tenant")
_KEYS = columns(Kid="kid", State="state", Created="createdDateTime", TrustedUntil="trustedUntil")
_TENANTS = columns(TenantId="tenantId", Name="displayName")


@click.group(cls=Group)
def auth() -> None:
    """Manage tenants, principals, roles, issuers and keys."""


auth.add_command(sp)
auth.add_command(user)
auth.add_command(role)


@auth.command(example="imgstore auth init")
def init(session: Session) -> Json:
    """Create the first administrator, Owner of the installation, and print the secret once.

    A server does the same at its first start.
    """
    with server_parts():
        from imgstore.api.auth.client_secrets import create_first_administrator  # noqa: PLC0415 - an extra
    made = create_first_administrator(session.installation)
    if made is None:
        raise Conflict(
            "The installation has principals already.",
            found="at least one principal",
            expected="no principal: the command creates the first principal",
            hint="imgstore auth sp list, then imgstore auth sp credential reset --id ID",
            target="administrator",
        )
    return credential_json(made.known, made.secret)


@auth.group(cls=Group)
def tenant() -> None:
    """Manage tenants: organisations with principals of their own."""


@tenant.command("create", table=_TENANTS, example="imgstore auth tenant create -n partners")
@options.resource_name("tenant")
@options.words("--subscription-ids", "subscriptions", metavar="ID ...", help="Subscriptions that belong to the tenant.")
def create_tenant(session: Session, name: str, subscriptions: Sequence[str] | None) -> Json:
    """Create a tenant."""
    return tenant_json(session.run(principals.create_tenant, name=name, subscriptions=subscriptions or ()))


@tenant.command("list", table=_TENANTS, example="imgstore auth tenant list -o table")
def list_tenants(session: Session) -> Json:
    """List the tenants. The installation's own tenant is the first."""
    return [tenant_json(each) for each in session.run(principals.list_tenants)]


@auth.group(cls=Group)
def issuer() -> None:
    """Manage OIDC issuers, whose tokens identify users."""


_url = click.option("--issuer", "url", required=True, metavar="URL", help="The exact claim iss of the issuer's tokens.")


@issuer.command(
    table=_ISSUERS,
    example="imgstore auth issuer add --issuer https://id.example/realms/main --audience imgstore "
    "--jwks https://id.example/realms/main/certs",
)
@_url
@click.option("--audience", required=True, metavar="TEXT", help="The claim aud that a token must contain.")
@click.option(
    "--jwks", required=True, metavar="URL|FILE", help="The issuer's keys: an https URL, or the full path of a file."
)
@click.option(
    "--tenant",
    "tenant_",
    metavar="NAME|ID",
    help="The tenant of the issuer's users. Default: the installation's own tenant.",
)
def add(session: Session, url: str, audience: str, jwks: str, tenant_: str | None) -> Json:
    """Trust an OIDC issuer.

    A user of the issuer signs in after `imgstore auth user create`.
    """
    made = session.run(principals.add_issuer, url=url, audience=audience, jwks=jwks, tenant=tenant_)
    return issuer_json(made)


@issuer.command("list", table=_ISSUERS, example="imgstore auth issuer list -o table")
def list_issuers(session: Session) -> Json:
    """List the trusted issuers."""
    return [issuer_json(each) for each in session.run(principals.list_issuers)]


@issuer.command(example="imgstore auth issuer remove --issuer https://id.example/realms/main")
@_url
def remove(session: Session, url: str) -> None:
    """Remove an issuer from the trusted issuers.

    The users of the issuer stay, and cannot sign in.
    """
    session.run(principals.remove_issuer, url=url)


@auth.group(cls=Group)
def keys() -> None:
    """Manage the keys that sign tokens."""


@keys.command("list", table=_KEYS, example="imgstore auth keys list -o table")
def list_keys(session: Session) -> Json:
    """List the keys of tokens that may still be valid. The signing key is the first."""
    with server_parts():
        from imgstore.api.auth.signing_keys import KeyRing  # noqa: PLC0415 - an extra
    return [key_json(each) for each in KeyRing(session.installation).list(session.principal)]


@keys.command(table=_KEYS, example="imgstore auth keys rotate")
def rotate(session: Session) -> Json:
    """Sign new tokens with a new key.

    Tokens of the old key stay valid until they expire.
    """
    with server_parts():
        from imgstore.api.auth.signing_keys import KeyRing  # noqa: PLC0415 - an extra
    return key_json(KeyRing(session.installation).rotate(session.principal))
