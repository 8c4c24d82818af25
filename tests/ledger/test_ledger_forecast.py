"""The price of a month before a change: tiers apply to the stored bytes of the subscription (invariants M16 and M18)."""

from decimal import Decimal

import pytest

from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.forecast import price_month
from imgstore.ledger.prices.price_list import Rate, Tier

RATE = Rate(
    meter="storage/Standard_LRS",
    tiers=(
        Tier(begin_gigabytes=Decimal(0), unit_price=Decimal("0.5")),
        Tier(begin_gigabytes=Decimal(10), unit_price=Decimal("0.1")),
    ),
)


@pytest.mark.parametrize(
    ("stored", "added", "price"),
    [
        (0, 4, "2"),
        (8, 4, "1.2"),
        (12, 5, "0.5"),
        (12, -4, "-1.2"),
        (0, 0, "0"),
        (2, -4, "-2"),
    ],
)
def test_price_of_a_month(stored: int, added: int, price: str) -> None:
    """More removed than stored bytes have the price of the removed bytes alone."""
    assert price_month(RATE, stored * GIGABYTE, added * GIGABYTE) == Decimal(price)
