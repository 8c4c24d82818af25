"""``imgstore auth role assignment``: role assignments. The names follow ``az role assignment``."""

from collections.abc import Sequence

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import Role
from imgstore.domain.identity.principals import RoleAssignment
from imgstore.operations.identity import roles
from imgstore.wire.json_text import Json
from imgstore.wire.responses.principals import assignment_json

_TABLE = columns(Principal="principalName", Role="roleDefinitionName", Scope="scope", Name="name")
_CREATE_EXAMPLE = """
imgstore auth role assignment create --assignee builder --role Contributor --scope /subscriptions/ID/resourceGroups/rg
imgstore auth role assignment create --assignee ann --role 'Compute Gallery Image Reader' --scope \\
    /subscriptions/ID/resourceGroups/rg/providers/Microsoft.Compute/galleries/myGallery
"""


def _assignee(*, required: bool) -> options.Decorator:
    return click.option("--assignee", required=required, metavar="ID", help="Object id, app id or name of a principal.")


def _role(*, required: bool) -> options.Decorator:
    return options.choice(
        "--role",
        "role_",
        members=tuple(Role),
        required=required,
        help="The role, with the name of Azure's built-in role.",
    )


def _scope(*, required: bool) -> options.Decorator:
    text = "Id of a subscription, resource group, gallery, definition or version; / is the whole installation."
    return click.option("--scope", required=required, metavar="ID", help=text)


@click.group(cls=Group)
def role() -> None:
    """Manage roles."""


@role.group(cls=Group)
def assignment() -> None:
    """Manage role assignments."""


@assignment.command(table=_TABLE, example=_CREATE_EXAMPLE)
@_assignee(required=True)
@_role(required=True)
@_scope(required=True)
def create(session: Session, assignee: str, role_: Role, scope: str) -> Json:
    """Assign a role to a principal, on a scope and all resources below the scope."""
    made = session.run(roles.assign, assignee=assignee, role=role_, scope=scope)
    return _assignments_json(session, [made])[0]


@assignment.command("list", table=_TABLE, example="imgstore auth role assignment list --assignee builder -o table")
@_assignee(required=False)
@_role(required=False)
@_scope(required=False)
def list_(session: Session, assignee: str | None, role_: Role | None, scope: str | None) -> Json:
    """List role assignments, by principal, role or scope."""
    found = session.run(roles.list_assignments, assignee=assignee, role=role_, scope=scope)
    return _assignments_json(session, found)


@assignment.command(
    example="imgstore auth role assignment delete --assignee builder --role Reader --scope /subscriptions/ID"
)
@_assignee(required=True)
@_role(required=False)
@_scope(required=False)
def delete(session: Session, assignee: str, role_: Role | None, scope: str | None) -> None:
    """Delete role assignments of a principal, by role or scope."""
    found = session.run(roles.list_assignments, assignee=assignee, role=role_, scope=scope)
    if not found:
        raise NotFound(
            "No matched assignments were found to delete.",
            found=f"no such role of {assignee}",
            expected="an existing role assignment",
            hint=f"imgstore auth role assignment list --assignee {assignee}",
            target="roleAssignment",
        )
    for each in found:
        session.run(roles.remove, uid=each.uid)


def _assignments_json(session: Session, assignments: Sequence[RoleAssignment]) -> list[Json]:
    known = roles.principals_of(session.installation, assignments)
    return [assignment_json(each, known[each.principal_uid]) for each in assignments if each.principal_uid in known]
