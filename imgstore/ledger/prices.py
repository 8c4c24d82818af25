"""What things cost. All prices are Decimal, in one currency, by the gigabyte of 10^9 bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import MAX_PREC, Context, Decimal, Inexact, InvalidOperation
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.sizes import GIGABYTE

FREE: Final = Decimal(0)

EXACT: Final = Context(prec=min(400, MAX_PREC), traps=[Inexact, InvalidOperation])
"""Sums and products of money lose no digit: a result that would not fit raises instead of being rounded. The default
context rounds at 28 digits, which a petabyte at a price with a dozen decimals passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The price list of an installation. Regions go by their keys ("westus2")."""

    currency: str
    """Three capital letters (ISO 4217)."""
    egress_default: Decimal
    """Per GB that crosses from one region into another."""
    egress_pairs: Mapping[tuple[str, str], Decimal]
    """Per GB by (source, target), where it differs from the default. One direction only."""
    repair: Decimal = FREE
    """Per GB that a repair brings, from wherever."""
    storage: Mapping[StorageAccountType, Decimal]
    """Per GB and month. ZRS counts bytes once: its three copies are in its price (rules.md, rule 22)."""

    def egress(self, source: str, target: str) -> Decimal:
        """The price per GB from `source` to `target`; nothing inside a region."""
        if source == target:
            return FREE
        return self.egress_pairs.get((source, target), self.egress_default)

    def storage_per_gb_month(self, storage_account_type: StorageAccountType) -> Decimal:
        """The price of a GB that lies for a month.

        Raises:
            InvalidInput: the list has no price for that type (it was taken out while bytes of that type still lie).
        """
        price = self.storage.get(storage_account_type)
        if price is None:
            raise InvalidInput(
                f"There is no storage price for {storage_account_type}.",
                found=", ".join(f"{kind}" for kind in self.storage) or "no storage prices",
                expected=f"a price for {storage_account_type}, of which there are bytes to bill",
                hint=f"give {storage_account_type} a price under prices.storage_per_gb_month in regions.yaml",
                target="prices.storage_per_gb_month",
            )
        return price


def price_of(moved_bytes: int, per_gb: Decimal) -> Decimal:
    """What `moved_bytes` cost at `per_gb`, to the last digit."""
    return EXACT.divide(EXACT.multiply(Decimal(moved_bytes), per_gb), Decimal(GIGABYTE))
