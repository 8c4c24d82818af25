"""Record the price list of regions.yaml in the catalog, and apply it.

Entries of the ledger name their price list, so a new price never changes an old day (invariant M19).
"""

from dataclasses import dataclass
from datetime import datetime

from imgstore.catalog import Catalog, Transaction
from imgstore.domain.effects import Effects
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.ledger.prices.price_documents import digest_of
from imgstore.ledger.prices.price_list import PriceList, PriceLists
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPriceList:
    """A price list with the time from which it applies."""

    prices: PriceList
    effective_at: datetime
    is_in_file: bool
    """Whether regions.yaml contains this list."""


def record_prices(catalog: Catalog, effects: Effects, prices: PriceList) -> bool:
    """Record the price list of a regions.yaml that the catalog has not seen before. The list applies from now on.

    Returns:
        False if the catalog has a newer list: the file is older, and its list does not apply.

    Raises:
        InvalidInput: the list has no prices for today.
    """
    digest = digest_of(prices)
    with catalog.reading() as transaction:
        known = transaction.price_lists.digests()
    if digest not in known:
        with catalog.transaction() as transaction:
            prices.at(transaction.now())
            transaction.price_lists.lock()
            known = transaction.price_lists.digests()
            if digest not in known:
                transaction.price_lists.add(effects.new_uid(), prices)
                return True
    return known[-1] == digest


def list_prices(installation: Installation, principal: Principal) -> list[RecordedPriceList]:
    """List all price lists of the installation by number. The last list applies now."""
    authorize(principal, Action.READ, "/")
    with installation.catalog.reading() as transaction:
        found = read_prices(installation, transaction)
    own = digest_of(installation.regions.prices)
    return [
        RecordedPriceList(prices=each, effective_at=begin, is_in_file=digest_of(each) == own)
        for each, begin in zip(found.lists, found.begins, strict=True)
    ]


def apply_prices(installation: Installation, principal: Principal) -> PriceList:
    """Make the price list of regions.yaml the list that applies from now on. May be repeated.

    Returns:
        The list with its number.

    Raises:
        InvalidInput: the list has no prices for today.
    """
    wanted = installation.regions.prices
    with (
        record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/prices/apply"),
        installation.catalog.transaction() as transaction,
    ):
        wanted.at(transaction.now())
        transaction.price_lists.lock()
        newest = transaction.price_lists.newest()
        if newest is None or digest_of(newest) != digest_of(wanted):
            transaction.price_lists.add(installation.effects.new_uid(), wanted)
        return current_prices(installation, transaction)


def current_prices(installation: Installation, transaction: Transaction) -> PriceList:
    """Return the price list that applies now."""
    return transaction.price_lists.newest() or installation.regions.prices


def read_prices(installation: Installation, transaction: Transaction) -> PriceLists:
    """Return all price lists of the installation."""
    found = transaction.price_lists.all()
    return found if found.lists else PriceLists(lists=(installation.regions.prices,), begins=(transaction.now(),))
