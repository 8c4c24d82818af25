"""``imgstore auth sp`` and ``imgstore auth user``: principals. The names follow ``az ad sp``."""

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session, server_parts
from imgstore.domain.identity.principals import PrincipalKind
from imgstore.operations.identity import principals
from imgstore.wire.json_text import Json
from imgstore.wire.responses.principals import credential_json, principal_json

_DAYS = 365
_SP = columns(AppId="appId", Name="displayName", Id="id", Tenant="tenant")
_USER = columns(Name="displayName", Id="id", Issuer="issuer", Subject="subject")
_CREATE_EXAMPLE = """
imgstore auth sp create -n builder
imgstore auth sp create -n builder --tenant partners --app-id 4f5c2f1a-8a57-4d0c-9d8e-0d7a3c1b2e60
"""
_who = click.option(
    "--id",
    "who",
    required=True,
    metavar="ID",
    help="Object id, app id or name of the principal, or the subject of a user.",
)
_days = options.number(
    "--days", least=1, most=3650, default=_DAYS, text=f"Lifetime of the secret in days. Default: {_DAYS}."
)


@click.group(cls=Group)
def sp() -> None:
    """Manage service principals: applications with secrets."""


@sp.command(table=_SP, example=_CREATE_EXAMPLE)
@click.option("-n", "--name", "--display-name", "name", required=True, metavar="NAME", help="Display name.")
@click.option("--tenant", metavar="NAME|ID", help="Tenant of the principal. Default: the installation's own tenant.")
@click.option("--app-id", metavar="ID", help="Id of an application of another tenant, to add to this tenant.")
@_days
def create(session: Session, name: str, tenant: str | None, app_id: str | None, days: int) -> Json:
    """Create a service principal without roles, and print its secret once.

    A service principal for an application of another tenant uses the secrets of the application.
    """
    if app_id is not None:
        known = session.run(principals.add_service_principal, name=name, tenant=tenant, client_id=app_id, proof=None)
        return principal_json(known)
    with server_parts():
        from imgstore.api.auth.client_secrets import create_service_principal  # noqa: PLC0415 - an extra
    made = session.run(create_service_principal, name=name, tenant=tenant, days=days)
    return credential_json(made.known, made.secret)


@sp.command("list", table=_SP, example="imgstore auth sp list -o table")
def list_sp(session: Session) -> Json:
    """List the service principals."""
    return [principal_json(each) for each in session.run(principals.list_principals, PrincipalKind.SERVICE_PRINCIPAL)]


@sp.command(table=_SP, example="imgstore auth sp show --id builder")
@_who
def show(session: Session, who: str) -> Json:
    """Show a service principal, with the ids and dates of its secrets."""
    return principal_json(session.run(principals.show_principal, who=who))


@sp.command("delete", example="imgstore auth sp delete --id builder")
@_who
def delete_sp(session: Session, who: str) -> None:
    """Delete a service principal with its roles.

    Servers refuse tokens of the principal within 5 seconds.
    """
    session.run(principals.delete_principal, who=who)


@sp.command("revoke-tokens", table=_SP, example="imgstore auth sp revoke-tokens --id builder")
@_who
def revoke_sp(session: Session, who: str) -> Json:
    """Revoke all tokens of a service principal. The secrets stay valid for new tokens.

    Servers refuse the tokens within 5 seconds. Operations that a server has accepted continue.
    """
    return principal_json(session.run(principals.revoke_tokens, who=who))


@sp.group(cls=Group)
def credential() -> None:
    """Manage the secrets of a service principal."""


@credential.command(table=_SP, example="imgstore auth sp credential reset --id builder --append")
@_who
@click.option("--append", is_flag=True, help="Keep the existing secrets until the next reset without --append.")
@_days
def reset(session: Session, who: str, days: int, *, append: bool) -> Json:
    """Replace the secrets of a service principal by a new secret, and print the secret once.

    Servers refuse tokens of the old secrets within 5 seconds, unless --append keeps the secrets.
    """
    with server_parts():
        from imgstore.api.auth.client_secrets import reset_credential  # noqa: PLC0415 - an extra
    made = session.run(reset_credential, who=who, days=days, keep=append)
    return credential_json(made.known, made.secret)


@click.group(cls=Group)
def user() -> None:
    """Manage users of OIDC issuers."""


@user.command(
    "create",
    table=_USER,
    example="imgstore auth user create -n ann --issuer https://id.example/realms/main --subject 00u1a2b3",
)
@options.resource_name("user")
@click.option("--issuer", required=True, metavar="URL", help="A trusted issuer, see `imgstore auth issuer list`.")
@click.option("--subject", required=True, metavar="TEXT", help="The claim sub of the user's tokens.")
def create_user(session: Session, name: str, issuer: str, subject: str) -> Json:
    """Create a user without roles."""
    return principal_json(session.run(principals.add_user, issuer=issuer, subject=subject, name=name))


@user.command("list", table=_USER, example="imgstore auth user list -o table")
def list_users(session: Session) -> Json:
    """List the users."""
    return [principal_json(each) for each in session.run(principals.list_principals, PrincipalKind.USER)]


@user.command("delete", example="imgstore auth user delete --id ann")
@_who
def delete_user(session: Session, who: str) -> None:
    """Delete a user with the user's roles."""
    session.run(principals.delete_principal, who=who)


@user.command("revoke-tokens", table=_USER, example="imgstore auth user revoke-tokens --id ann")
@_who
def revoke_user(session: Session, who: str) -> Json:
    """Revoke all tokens of a user that the issuer has issued, by the issuer's clock. New tokens are accepted.

    Servers refuse the tokens within 5 seconds. Operations that a server has accepted continue.
    """
    return principal_json(session.run(principals.revoke_tokens, who=who))
