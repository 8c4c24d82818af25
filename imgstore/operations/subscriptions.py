"""Subscriptions: the installation's own, and those that have a resource group."""

from imgstore.domain.access import INSTALLATION, Principal
from imgstore.domain.errors import NotFound
from imgstore.operations.installation import Installation


def known_subscriptions(installation: Installation) -> list[str]:
    """Every subscription, the installation's own first."""
    with installation.catalog.reading() as facts:
        others = [each for each in facts.groups.subscriptions() if each != installation.subscription.casefold()]
    return [installation.subscription, *others]


def seen_subscriptions(installation: Installation, principal: Principal) -> list[str]:
    """Those in which the principal has a role on anything."""
    scopes = [f"{grant.scope.rstrip('/')}/".casefold() for grant in principal.grants]
    return [
        each
        for each in known_subscriptions(installation)
        if any(scope == INSTALLATION or scope.startswith(f"/subscriptions/{each}/".casefold()) for scope in scopes)
    ]


def check_subscription_known(installation: Installation, subscription: str) -> None:
    """See that a subscription is known.

    Raises:
        NotFound: it is not.
    """
    known = known_subscriptions(installation)
    if subscription.casefold() not in {each.casefold() for each in known}:
        raise NotFound(
            f"The subscription '{subscription}' could not be found.",
            found="a subscription that nothing is in",
            expected="the installation's own, or one that has a resource group",
            hint="GET /subscriptions lists them",
            target=subscription,
            code="SubscriptionNotFound",
        )
