"""Correct a transfer of the ledger with a further row (invariant M28)."""

from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.ledger.corrections import charge_correction, corrected_key
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.ledger.statements.usage import list_usage, rate_all
from imgstore.operations.activity_log import record_activity
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation


def correct_entry(
    installation: Installation, principal: Principal, entry: str, corrected_bytes: int, reason: str
) -> list[LedgerRow]:
    """Add bytes to a transfer, or take bytes from the transfer, at its price. The row of the transfer stays.

    Args:
        installation: the installation.
        principal: an administrator of the installation.
        entry: the key of the transfer, which may begin with "ledger/".
        corrected_bytes: the bytes to add, or to take if negative.
        reason: the reason, for the activity log.

    Returns:
        The rows of the correction: one for each price.

    Raises:
        NotFound: no transfer has this key.
        InvalidInput: the correction is empty, has no reason, takes more than the transfer has, or corrects a correction.
        AccessDenied: the principal is no administrator of the installation.
    """
    key = entry.removeprefix("ledger/")
    about = f"{key[:200]}: {corrected_bytes:+} bytes, {reason[:1000]}"
    with record_activity(
        installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/bill/correct", about=about
    ):
        _check_request(corrected_bytes, reason)
        with installation.catalog.transaction() as transaction:
            transaction.price_lists.lock()  # Only one correction at a time, so that the numbers are free.
            row = transaction.ledger.find(key)
            if row is None:
                raise NotFound(
                    f"The transfer '{key[:200]}' of the ledger could not be found.",
                    found="no row of the ledger with this key",
                    expected="the key of a transfer. A storage interval cannot be corrected",
                    hint="`imgstore bill verify` lists the entries that are not sealed",
                    target="ENTRY",
                )
            if row.kind is ChargeKind.CORRECTION:
                raise InvalidInput(
                    f"The entry {key} is a correction, and cannot be corrected.",
                    found="a correction",
                    expected="a transfer",
                    hint="correct the transfer again, with the opposite number of bytes",
                    target="ENTRY",
                )
            now = transaction.now()
            rows = transaction.ledger.rows(row.party.subscription)
            prices = read_prices(installation, transaction)
            rated = next(each for each in rate_all(list_usage(rows, [], prices, now), prices) if each.usage.key == key)
            earlier = [each for each in rows if each.kind is ChargeKind.CORRECTION and corrected_key(each.key) == key]
            added = charge_correction(row, rated, earlier, corrected_bytes, now)
            for each in added:
                is_new = transaction.ledger.add(each)
                assert is_new, f"{each.key} exists"
    return added


def _check_request(corrected_bytes: int, reason: str) -> None:
    if not corrected_bytes:
        raise InvalidInput(
            "A correction of 0 bytes changes nothing.",
            found="0 bytes",
            expected="bytes to add, or a negative number of bytes to take",
            hint="give another number, for example --bytes -1000",
            target="--bytes",
        )
    if not reason.strip():
        raise InvalidInput(
            "A correction needs a reason.",
            found="an empty text",
            expected="the reason, for the activity log",
            hint="give the reason, for example --reason 'ticket 17'",
            target="--reason",
        )
