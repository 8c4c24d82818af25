"""The right to change a resource, which includes the right to see it in the answer (Azure's PUT needs no right to read)."""

from imgstore.api.http.long_running import Session
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.operations.activity_log import permit


def authorize_change(session: Session, scope: str, action: Action = Action.WRITE) -> Principal:
    """Check the caller's right to change a resource before anything is looked up.

    Args:
        session: of the caller.
        scope: the resource's id.
        action: what the caller is about to do.

    Returns:
        The caller, allowed to read this resource too.

    Raises:
        ScopeNotFound, AccessDenied: the caller may not.
    """
    permit(session.installation, session.principal, action, scope)
    return as_reader(session.principal, scope)
