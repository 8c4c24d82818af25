"""List the stored bytes that several owners name, with the owner that pays (invariant M10)."""

from imgstore.catalog import Transaction
from imgstore.domain.identity.access import USAGE_DETAILS, Action, Principal, authorize, is_allowed
from imgstore.domain.resources import Slot
from imgstore.ledger.storage.shared_bytes import SharedStorage, group_by_owners
from imgstore.operations.installation import Installation
from imgstore.operations.slot_owners import read_owners


def list_shared_storage(installation: Installation, principal: Principal) -> list[SharedStorage]:
    """Return the stored bytes of now that an owner of the subscription names together with other owners.

    Each byte of a replica is in at most one row. The rows are ordered by region, replica and owners.

    Args:
        installation: the installation.
        principal: a reader of the charges of the subscription. Owners of other subscriptions have no name, unless the
            principal also reads the charges of these subscriptions.
    """
    authorize(principal, Action.READ, installation.scope, USAGE_DETAILS)
    found: list[SharedStorage] = []
    with installation.catalog.reading() as transaction:
        for slot in transaction.slots.list_all():
            found += _list_in_slot(installation, principal, transaction, slot)
    return sorted(found, key=_order)


def _list_in_slot(
    installation: Installation, principal: Principal, transaction: Transaction, slot: Slot
) -> list[SharedStorage]:
    parties = {each.owner_uid: each.party for each in transaction.ledger.open_intervals(slot.uid)}
    subscription = installation.subscription.lower()
    own = {uid for uid, party in parties.items() if party.subscription.lower() == subscription}
    if not own:
        return []
    readable = {
        name: is_allowed(principal, Action.READ, f"/subscriptions/{name}", USAGE_DETAILS)
        for name in {party.subscription for party in parties.values()}
    }
    present = read_owners(transaction, slot)
    return [
        SharedStorage(
            region=slot.key.region,
            storage_account_type=slot.key.storage_account_type,
            replica=slot.key.ordinal,
            parties=tuple(
                party if (party := parties.get(uid)) is not None and readable[party.subscription] else None
                for uid in each.owner_uids
            ),
            stored_bytes=each.stored_bytes,
        )
        for each in group_by_owners(present.owners, present.stored_bytes)
        if len(each.owner_uids) > 1 and not own.isdisjoint(each.owner_uids)
    ]


def _order(row: SharedStorage) -> tuple[str, str, int, list[str]]:
    paths = ["" if party is None else party.path for party in row.parties]
    return row.region, row.storage_account_type, row.replica, paths
