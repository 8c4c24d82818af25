"""Assign, list and remove roles."""

from collections.abc import Sequence

from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import ROLE_ASSIGNMENTS, Action, Principal, Role, check_scope, is_allowed
from imgstore.domain.identity.principals import PrincipalRecord, RoleAssignment
from imgstore.operations.activity_log import record_activity
from imgstore.operations.identity.principals import find_principal
from imgstore.operations.installation import Installation


def assign(
    installation: Installation, principal: Principal, *, assignee: str, role: Role, scope: str
) -> RoleAssignment:
    """Assign a role to a principal on a scope and all scopes below.

    Args:
        installation: the installation.
        principal: the caller, who needs the right to assign roles on the scope. An Owner has this right.
        assignee: object id, client id or name of a principal.
        role: the role.
        scope: a resource id; "/" is the installation.

    Raises:
        NotFound: the assignee is not known, or the scope is malformed.
        Conflict: the principal has the role on the scope already.
    """
    where = check_scope(scope)
    with (
        record_activity(installation, principal, Action.WRITE, where, of=ROLE_ASSIGNMENTS),
        installation.catalog.transaction() as transaction,
    ):
        identity = find_principal(transaction, assignee)
        for standing in transaction.assignments.list_of_principal(identity.uid):
            if standing.role is role and standing.scope.casefold() == where.casefold():
                raise Conflict(
                    "The role assignment already exists.",
                    found=f"{role} on {standing.scope}, assignment {standing.uid}",
                    expected="a role that is new for the principal on the scope",
                    hint="imgstore auth role assignment list",
                    target="roleAssignment",
                    code="RoleAssignmentExists",
                )
        made = RoleAssignment(
            uid=installation.effects.new_uid(),
            principal_uid=identity.uid,
            role=role,
            scope=where,
            created_at=installation.effects.now(),
        )
        transaction.assignments.add(made)
        return made


def list_assignments(
    installation: Installation,
    principal: Principal,
    *,
    assignee: str | None = None,
    role: Role | None = None,
    scope: str | None = None,
) -> list[RoleAssignment]:
    """List the role assignments that `principal` may see, by assignee, role or scope."""
    where = None if scope is None else check_scope(scope).casefold()
    with installation.catalog.reading() as transaction:
        who = None if assignee is None else find_principal(transaction, assignee).uid
        found = transaction.assignments.list() if who is None else transaction.assignments.list_of_principal(who)
    return [
        each
        for each in found
        if role in (None, each.role)
        and where in (None, each.scope.casefold())
        and is_allowed(principal, Action.READ, each.scope, ROLE_ASSIGNMENTS)
    ]


def principals_of(installation: Installation, assignments: Sequence[RoleAssignment]) -> dict[str, PrincipalRecord]:
    """Return the principals of role assignments by object id."""
    with installation.catalog.reading() as transaction:
        known = {each.uid: each for each in transaction.principals.list()}
    return {each.principal_uid: known[each.principal_uid] for each in assignments if each.principal_uid in known}


def remove(installation: Installation, principal: Principal, *, uid: str) -> None:
    """Remove a role assignment.

    Raises:
        NotFound: the assignment does not exist, or the principal may not remove the assignment.
    """
    with installation.catalog.reading() as transaction:
        found = next((each for each in transaction.assignments.list() if each.uid == uid), None)
    # The error does not reveal an assignment that the principal may not remove.
    if found is None or not is_allowed(principal, Action.DELETE, found.scope, ROLE_ASSIGNMENTS):
        raise NotFound(
            f"The role assignment '{uid}' is not found.",
            found="no assignment with this id",
            expected="an existing assignment",
            hint="imgstore auth role assignment list",
            target=uid,
            code="RoleAssignmentNotFound",
        )
    with (
        record_activity(installation, principal, Action.DELETE, found.scope, of=ROLE_ASSIGNMENTS),
        installation.catalog.transaction() as transaction,
    ):
        transaction.assignments.delete(uid)
