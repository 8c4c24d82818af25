"""Check the right to change a resource. The answer shows the resource: Azure's PUT needs no right to read."""

from imgstore.api.http.long_running import Session
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.operations.activity_log import permit


def authorize_change(session: Session, scope: str, action: Action = Action.WRITE) -> Principal:
    """Check the caller's right to change a resource. Call this function before any lookup (invariant H9).

    Args:
        session: the session of the caller.
        scope: the id of the resource.
        action: the action on the resource.

    Returns:
        The caller, with the additional right to read this resource.

    Raises:
        ScopeNotFound, AccessDenied: the caller has no right to the action.
    """
    permit(session.installation, session.principal, action, scope)
    return as_reader(session.principal, scope)
