"""Find an entry of the ledger for a caller."""

from imgstore.domain.errors import NotFound
from imgstore.domain.identity.access import USAGE_DETAILS, Action, Principal, is_allowed
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation


def find_entry(
    installation: Installation, principal: Principal, name: str, *, expected: str, hint: str
) -> tuple[str, str | None]:
    """Return the id and the subscription of an entry. A price list has no subscription.

    A foreign entry looks like a missing entry (invariant H20).

    Args:
        installation: the installation.
        principal: a reader of the charges of the entry's subscription.
        name: the key of a transfer, or the uid of a storage interval or a price list, or an id with the name of the table.
        expected: the names that the caller's command accepts, for the error.
        hint: the way to such names, for the error.

    Raises:
        NotFound: the principal can see no such entry.
        AccessDenied: the principal may not read the charges of the installation's subscription, and can see no such entry
            in another subscription.
    """
    with installation.catalog.reading() as transaction:
        found = transaction.ledger_log.find_entry(name)
    scope = installation.scope if found is None or found[1] is None else f"/subscriptions/{found[1]}"
    if found is None or not is_allowed(principal, Action.READ, scope, USAGE_DETAILS):
        permit(installation, principal, Action.READ, installation.scope, USAGE_DETAILS)
        raise entry_not_found(name, expected=expected, hint=hint)
    return found


def entry_not_found(name: str, *, expected: str, hint: str) -> NotFound:
    """Return the error for a name without an entry that the caller may see."""
    return NotFound(
        f"The entry '{name[:200]}' of the ledger could not be found.",
        found="no such entry in a subscription that the caller may read",
        expected=expected,
        hint=hint,
        target="entry",
    )
