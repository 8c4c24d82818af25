"""Corrections of transfers: further rows of the ledger, because a row never changes (invariant M28)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.ledger.prices.price_list import price_of
from imgstore.ledger.statements.usage import RatedUsage


def corrected_key(key: str) -> str:
    """Return the key of the transfer that a correction corrects.

    The key of a transfer may begin with the key of another transfer and a slash, so a prefix does not separate corrections.
    """
    return key.removeprefix("correction/").rpartition("/")[0]


def charge_correction(
    entry: LedgerRow, rated: RatedUsage, earlier: Iterable[LedgerRow], corrected_bytes: int, time: datetime
) -> list[LedgerRow]:
    """Return the rows of a correction, one for each price.

    A transfer may cross several tiers. The correction takes the most recent tier first, because the transfer
    used up the tiers in order. Added bytes have the price of the last tier.

    Args:
        entry: the transfer.
        rated: the amount of the transfer.
        earlier: the earlier corrections of the transfer.
        corrected_bytes: the bytes to add, or to take if negative.
        time: the time of the correction. The month of this time is billed.

    Raises:
        InvalidInput: the transfer has fewer bytes.
    """
    remaining: defaultdict[Decimal, int] = defaultdict(int)
    rest = entry.delivered_bytes
    parts = rated.parts
    for part in parts[:-1]:
        remaining[part.tier.unit_price] += int(part.quantity * GIGABYTE)
        rest -= int(part.quantity * GIGABYTE)
    remaining[parts[-1].tier.unit_price] += rest
    number = 1
    for row in earlier:
        remaining[row.unit_price] += row.delivered_bytes
        number = max(number, int(row.key.rpartition("/")[2]) + 1)
    left = sum(remaining.values())
    if left + corrected_bytes < 0:
        raise InvalidInput(
            f"The correction takes more bytes than the entry {entry.key} has.",
            found=f"{-corrected_bytes} bytes to take",
            expected=f"at most {left} bytes, with all earlier corrections",
            hint="`imgstore bill show` shows the entry and its corrections",
            target="--bytes",
        )
    prices = [part.tier.unit_price for part in reversed(parts)]
    taken = {prices[0]: corrected_bytes} if corrected_bytes > 0 else _take(remaining, prices, -corrected_bytes)
    return [
        replace(
            entry,
            key=f"correction/{entry.key}/{at}",
            kind=ChargeKind.CORRECTION,
            delivered_bytes=part,
            unit_price=price,
            amount=price_of(part, price),
            time=time,
            price_list=rated.usage.price_list,
            meter=None,
        )
        for at, (price, part) in enumerate(taken.items(), start=number)
    ]


def _take(remaining: dict[Decimal, int], prices: list[Decimal], wanted: int) -> dict[Decimal, int]:
    taken: dict[Decimal, int] = {}
    for price in dict.fromkeys(prices):
        part = min(wanted, max(0, remaining[price]))
        wanted -= part
        if part:
            taken[price] = -part
    return taken
