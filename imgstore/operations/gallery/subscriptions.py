"""List subscriptions: the installation's own, subscriptions of tenants, and subscriptions with a resource group."""

from imgstore.domain.identity.access import Principal, has_related_role, subscription_not_found
from imgstore.operations.installation import Installation


def list_all_subscriptions(installation: Installation) -> list[str]:
    """List all subscriptions. The installation's own subscription is the first."""
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


def list_visible_subscriptions(installation: Installation, principal: Principal) -> list[str]:
    """List the subscriptions in which the principal has a role."""
    return [
        each for each in list_all_subscriptions(installation) if has_related_role(principal, f"/subscriptions/{each}")
    ]


def tenant_of(installation: Installation, principal: Principal, subscription: str) -> str:
    """Return the uid of a subscription's tenant. A subscription without a tenant shows the caller's tenant."""
    with installation.catalog.reading() as transaction:
        return transaction.tenants.owner_uid(subscription) or principal.tenant or ""


def check_subscription_known(installation: Installation, subscription: str) -> None:
    """Refuse an unknown subscription with the error that a caller without a role in an existing subscription gets.

    Raises:
        ScopeNotFound: the subscription has no resource and no tenant.
    """
    known = list_all_subscriptions(installation)
    if subscription.casefold() not in {each.casefold() for each in known}:
        raise subscription_not_found(subscription)
