"""Subscriptions: made by naming them, known by the groups that are in them."""

from imgstore.domain.access import Action, Principal, is_allowed
from imgstore.operations.installation import Installation


def list_subscriptions(installation: Installation, principal: Principal) -> list[str]:
    """The subscriptions that the principal may read, by id: those that have groups, the first one, and this one."""
    with installation.catalog.reading() as facts:
        known = [*facts.groups.subscriptions(), facts.installation.get().subscription, installation.subscription]
    every = {each.casefold(): each for each in known}
    return [each for _, each in sorted(every.items()) if is_allowed(principal, Action.READ, f"/subscriptions/{each}")]
