"""Prices. All prices are Decimal, in one currency, per gigabyte of 10^9 bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import MAX_PREC, Context, Decimal, Inexact, InvalidOperation
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.sizes import GIGABYTE

FREE: Final = Decimal(0)

EXACT: Final = Context(prec=min(400, MAX_PREC), traps=[Inexact, InvalidOperation])
"""The context for sums and products of money without loss of a digit. A result that does not fit raises an error.

The default context rounds at 28 digits, and a petabyte at a price with a dozen decimals has more digits.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The price list of an installation. Regions are named by key ("westus2")."""

    currency: str
    """Three capital letters (ISO 4217)."""
    egress_default: Decimal
    """Per GB from one region to another."""
    egress_pairs: Mapping[tuple[str, str], Decimal]
    """Per GB by (source, target), if different from the default. Each pair has one direction only."""
    repair: Decimal = FREE
    """Per GB of a repair, from any region."""
    storage: Mapping[StorageAccountType, Decimal]
    """Per GB and month. The ZRS price covers all three copies, so ZRS bytes count once (invariant M11)."""

    def egress(self, source: str, target: str) -> Decimal:
        """Return the price per GB from `source` to `target`. Transfers inside a region are free."""
        if source == target:
            return FREE
        return self.egress_pairs.get((source, target), self.egress_default)

    def storage_per_gb_month(self, storage_account_type: StorageAccountType) -> Decimal:
        """Return the price of a stored GB per month.

        Raises:
            InvalidInput: the list has no price for this type, although bytes of the type are stored.
        """
        price = self.storage.get(storage_account_type)
        if price is None:
            raise InvalidInput(
                f"There is no storage price for {storage_account_type}.",
                found=", ".join(f"{kind}" for kind in self.storage) or "no storage prices",
                expected=f"a price for {storage_account_type}, because the stores contain such bytes",
                hint=f"add a price for {storage_account_type} under prices.storage_per_gb_month in regions.yaml",
                target="prices.storage_per_gb_month",
            )
        return price


def price_of(moved_bytes: int, per_gb: Decimal) -> Decimal:
    """Return the exact price of `moved_bytes` at `per_gb`."""
    return EXACT.divide(EXACT.multiply(Decimal(moved_bytes), per_gb), Decimal(GIGABYTE))
