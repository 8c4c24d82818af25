"""The activity log: who did what to which resource, when, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager

from imgstore.domain.access import Action, Principal, authorize, knows, may, operation
from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.operations.installation import Installation


def permit(installation: Installation, principal: Principal, action: Action, scope: str, of: str | None = None) -> None:
    """`authorize` for what only reads: what is granted leaves no row, what is refused does.

    Raises:
        AccessDenied: the principal may not.
        NotFound: nor may it know of the subscription.
    """
    if not may(principal, action, scope, of):
        with recorded(installation, principal, action, scope, operation(action, scope, of), of=of):
            pass


def permit_list(installation: Installation, principal: Principal, scope: str) -> None:
    """`authorize_list`, with a row where it refuses.

    Raises:
        AccessDenied: the principal has no role at, above or below the scope.
        NotFound: nor in the whole subscription.
    """
    if not knows(principal, scope):
        permit(installation, principal, Action.READ, scope)


@contextmanager
def recorded(
    installation: Installation, principal: Principal, action: Action, scope: str, what: str, *, of: str | None = None
) -> Iterator[None]:
    """Ask whether `principal` may, then run the block and leave a row that says how it ended.

    Args:
        installation: where.
        principal: who.
        action: what kind.
        scope: the resource's id.
        what: the operation's name, as Azure's ("Microsoft.Compute/galleries/write").
        of: the type of resource, where it is not that of the scope (`access.operation`).

    Raises:
        AccessDenied: before the block runs.
    """
    started_at = installation.effects.now()
    outcome, detail = "Succeeded", ""
    try:
        authorize(principal, action, scope, of)
        yield
    except ImgstoreError as error:
        outcome, detail = "Failed", f"{error.error_code}: {error.message}"
        raise
    except BaseException as error:
        outcome, detail = "Interrupted", type(error).__name__
        raise
    finally:
        try:
            with installation.catalog.transaction() as facts:
                facts.activity.add(
                    principal=principal.name,
                    action=what,
                    scope=scope,
                    outcome=outcome,
                    detail=detail,
                    started_at=started_at,
                    finished_at=installation.effects.now(),
                )
        except StoreError:
            installation.note("activity log", f"could not be written for {what} on {scope}")
