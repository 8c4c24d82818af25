"""Subscriptions: the installation's own, those of a tenant, and those that have a resource group."""

from imgstore.domain.identity.access import Principal, has_related_role, subscription_not_found
from imgstore.operations.installation import Installation


def known_subscriptions(installation: Installation) -> list[str]:
    """Every subscription, the installation's own first."""
    with installation.catalog.reading() as transaction:
        first = transaction.installation.get().subscription
        others = {
            first,
            *transaction.groups.subscriptions(),
            *(each for each, _ in transaction.tenants.subscriptions()),
        }
    return [
        installation.subscription,
        *sorted({each.casefold() for each in others} - {installation.subscription.casefold()}),
    ]


def seen_subscriptions(installation: Installation, principal: Principal) -> list[str]:
    """Those in which the principal has a role on anything."""
    return [each for each in known_subscriptions(installation) if has_related_role(principal, f"/subscriptions/{each}")]


def tenant_of(installation: Installation, principal: Principal, subscription: str) -> str:
    """The uid of the tenant that a subscription belongs to; one that belongs to none is shown as the caller's."""
    with installation.catalog.reading() as transaction:
        return transaction.tenants.owner_uid(subscription) or principal.tenant or ""


def check_subscription_known(installation: Installation, subscription: str) -> None:
    """Refuse an unknown subscription in the words that a caller without a role in an existing one gets.

    Raises:
        ScopeNotFound: nothing is in the subscription, and no tenant has it.
    """
    known = known_subscriptions(installation)
    if subscription.casefold() not in {each.casefold() for each in known}:
        raise subscription_not_found(subscription)
