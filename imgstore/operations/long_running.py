"""Long-running operations of the API as rows: written down before they begin, found again by whoever comes after."""

from collections.abc import Mapping
from typing import Any

from imgstore.domain.access import Action, Principal, authorize
from imgstore.domain.asynchronous import AsyncOperation
from imgstore.domain.errors import NotFound
from imgstore.operations.installation import Installation


def open_operation(
    installation: Installation, principal: Principal, *, kind: str, request: Mapping[str, Any]
) -> AsyncOperation:
    """Write down that this process begins an operation. What it is about asks by itself whether it may be."""
    with installation.catalog.transaction() as facts:
        return facts.operations.add(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            kind=kind,
            request=request,
            principal=principal.name,
            principal_uid=principal.uid,
            holder=installation.keeper.holder,
        )


def close_operation(installation: Installation, uid: str, error: Mapping[str, Any] | None = None) -> None:
    """Write down how it ended.

    Args:
        installation: where.
        uid: the operation's.
        error: ARM's error; None is well.
    """
    with installation.catalog.transaction() as facts:
        facts.operations.finish(uid, error)


def drop_operation(installation: Installation, uid: str) -> None:
    """Forget an operation that nobody was told of: it was refused before it began."""
    with installation.catalog.transaction() as facts:
        facts.operations.remove(uid)


def show_operation(installation: Installation, principal: Principal, uid: str) -> AsyncOperation:
    """The operation of that uid. Who asked for it may see it; others need to read its subscription.

    Raises:
        NotFound: there is none, or it ended too long ago.
        AccessDenied: it is another's.
    """
    with installation.catalog.reading() as facts:
        found = facts.operations.get(uid)
    if found is None or found.subscription.casefold() != installation.subscription.casefold():
        raise NotFound(
            f"The operation '{uid}' was not found.",
            found="no operation of that id in this subscription",
            expected="the id that the answer to a request gave",
            hint="operations are kept for seven days after their end: look at the resource itself",
            target=uid,
        )
    if principal.uid is None or found.principal_uid != principal.uid:
        scope = f"/subscriptions/{found.subscription}/providers/Microsoft.Compute/locations/any/capsOperations/{uid}"
        authorize(principal, Action.READ, scope)
    return found


def take_up_operations(installation: Installation) -> list[AsyncOperation]:
    """The unfinished operations of dead processes, which are this process's from now on; old ones are forgotten."""
    with installation.catalog.transaction() as facts:
        facts.operations.forget_old()
        keeper = installation.keeper
        dead = [each for each in facts.operations.unfinished() if keeper.is_dead(each.holder)]
        return [each for each in dead if facts.operations.take_over(each, keeper.holder)]
