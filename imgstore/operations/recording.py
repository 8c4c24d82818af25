"""The activity log: who did what to which resource, when, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager

from imgstore.domain.access import Action, Principal, authorize
from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.operations.installation import Installation


@contextmanager
def recorded(installation: Installation, principal: Principal, action: Action, scope: str, what: str) -> Iterator[None]:
    """Ask whether `principal` may, then run the block and leave a row that says how it ended.

    Args:
        installation: where.
        principal: who.
        action: what kind.
        scope: the resource's id.
        what: the operation's name, as Azure's ("Microsoft.Compute/galleries/write").

    Raises:
        AccessDenied: before the block runs.
    """
    started_at = installation.effects.now()
    outcome, detail = "Succeeded", ""
    try:
        authorize(principal, action, scope)
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
