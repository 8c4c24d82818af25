"""Export the bill as a FOCUS data set."""

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from imgstore.catalog import Transaction
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import USAGE_DETAILS, Action, Principal, authorize
from imgstore.domain.resources import DiskKind
from imgstore.ledger.corrections import corrected_key
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.months import Month
from imgstore.ledger.statements.focus import FocusNames, FocusVersion, make_focus_rows
from imgstore.ledger.statements.usage import Usage, list_usage, rate_all
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation


def export_focus(
    installation: Installation,
    principal: Principal,
    *,
    focus: FocusVersion,
    first: Month | None = None,
    last: Month | None = None,
) -> Iterator[dict[str, str | None]]:
    """Return the rows of the subscription's bill until now by column of the specification, in the order of the charges.

    Args:
        installation: the installation.
        principal: a reader of the charges of the subscription.
        focus: the version of the specification.
        first: the first month. None means the month of the first charge.
        last: the last month, included. None means the present month.

    Raises:
        InvalidInput: the last month is before the first month, or no prices are valid in a month of the bill.
    """
    authorize(principal, Action.READ, installation.scope, USAGE_DETAILS)
    if first is not None and last is not None and last < first:
        raise InvalidInput(
            "The last month of the export is before the first month.",
            found=f"{first} to {last}",
            expected="a first month, and the same or a later month",
            hint=f"export {last} to {first}",
            target="--to",
        )
    with installation.catalog.reading() as transaction:
        prices = read_prices(installation, transaction)
        usage = list_usage(
            transaction.ledger.rows(installation.subscription),
            transaction.ledger.intervals(installation.subscription),
            prices,
            transaction.now(),
        )
        described = FocusNames(
            billing_account=installation.uid,
            regions={name: region.display_name for name, region in installation.regions.regions.items()},
            whole_bytes=_read_whole_bytes(transaction, installation.subscription),
            late_corrections=_find_late_corrections(usage),
        )
    chosen = (
        each
        for each in rate_all(usage, prices)
        if (first is None or each.usage.month >= first) and (last is None or each.usage.month <= last)
    )
    return make_focus_rows(chosen, focus, described)


def _read_whole_bytes(transaction: Transaction, subscription: str) -> MappingProxyType[str, int]:
    """Return the virtual bytes of the version of each replica, and of each stored disk, by the key of an arrival (M4)."""
    sizes = {
        version.uid: sum(disk.virtual_bytes or 0 for disk in version.disks)
        for version in transaction.versions.list_all()
    }
    replicas = transaction.replicas.list_by_version(list(sizes))
    disks = (disk for kind in DiskKind for disk in transaction.disks.list(subscription, kind=kind))
    return MappingProxyType(
        {each.uid: sizes[uid] for uid, found in replicas.items() for each in found}
        | {disk.uid: disk.virtual_bytes for disk in disks}
    )


def _find_late_corrections(usage: Sequence[Usage]) -> frozenset[str]:
    months = {each.key: each.month for each in usage}
    corrections = (each for each in usage if each.kind is ChargeKind.CORRECTION)
    return frozenset(each.key for each in corrections if months[corrected_key(each.key)] < each.month)
