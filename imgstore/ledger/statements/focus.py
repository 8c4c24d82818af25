"""The rows of a FOCUS cost and usage data set (FinOps Open Cost and Usage Specification 1.2 and 1.4).

A rated quantity gives a row for each tier, so that a row has one unit price, and the cost is exactly the product of
quantity and unit price (ListCost in the specification). A quantity without an end of its digits is rounded to
`QUANTITY_UNIT` (invariant M31).

A charge period is in whole seconds (attribute "Date/Time Format": YYYY-MM-DDTHH:mm:ssZ), begins at the inclusive bound and
ends at the exclusive bound (columns ChargePeriodStart and ChargePeriodEnd). The period of a transfer is the second of the
transfer.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from imgstore.domain.storage.sizes import GIGABYTE, HOURS_PER_MONTH
from imgstore.domain.text.decimals import decimal_text
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.prices.price_list import EXACT
from imgstore.ledger.prices.rating import TierPart, rate_quantity
from imgstore.ledger.statements.statement import to_decimal
from imgstore.ledger.statements.usage import RatedUsage

QUANTITY_UNIT: Final = Decimal("1e-18")
"""The smallest quantity, in GB or GB-months. The rounding of a million rows is far below the smallest coin."""
_PROVIDER: Final = "imgstore"
_SECOND: Final = timedelta(seconds=1)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"

_SHARED_COLUMNS: Final = (
    "AvailabilityZone",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingQuantity",
    "PricingUnit",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
)
_OWN_COLUMNS: Final = (
    "x_Kind",
    "x_LedgerEntry",
    "x_PriceListVersion",
    "x_SourceRegion",
    "x_TargetRegion",
    "x_WholeCopyCost",
)


class FocusVersion(StrEnum):
    """The supported versions of the specification."""

    V1_2 = "1.2"
    V1_4 = "1.4"

    @property
    def provider_columns(self) -> tuple[str, ...]:
        """The columns with the name of the provider. Version 1.4 replaced the columns of version 1.2."""
        if self is FocusVersion.V1_2:
            return ("ProviderName", "PublisherName")
        return ("HostProviderName", "ServiceProviderName")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in alphabetical order, and then the columns of imgstore."""
        return (*sorted((*_SHARED_COLUMNS, *self.provider_columns)), *_OWN_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusNames:
    """Names for rows, which the ledger does not contain."""

    billing_account: str
    """The uid of the installation."""
    regions: Mapping[str, str]
    """Display names of regions by key. A region that was removed from regions.yaml has its key as name."""
    whole_bytes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Virtual bytes of the disks of the version, by the key of the entry of an arrival. Empty for deleted versions."""
    late_corrections: frozenset[str] = frozenset()
    """The keys of corrections of entries of former months (column ChargeClass)."""


def make_focus_rows(
    rated: Iterable[RatedUsage], version: FocusVersion, described: FocusNames
) -> Iterator[dict[str, str | None]]:
    """Return the rows of rated quantities, as values by column. None is a null value.

    Args:
        rated: rated quantities, for example of a month.
        version: the version of the specification.
        described: names and sizes from outside of the ledger.
    """
    fixed = dict.fromkeys(version.provider_columns, _PROVIDER) | {
        "AvailabilityZone": None,
        "BillingAccountId": described.billing_account,
        "BillingAccountName": None,
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "InvoiceId": None,  # imgstore issues no invoices.
        "InvoiceIssuerName": _PROVIDER,
        "ServiceCategory": "Storage",
        "ServiceName": _PROVIDER,
        "ServiceSubcategory": "Storage Platforms",
    }
    for each in rated:
        whole = _whole_copy_cost(each, described)
        for part in each.parts:
            row = fixed | {"ChargeClass": "Correction" if each.usage.key in described.late_corrections else None}
            row |= _charge_columns(each, part) | _resource_columns(each, described)
            yield row | {"x_WholeCopyCost": whole}
            whole = None  # The first tier has the cost of the whole copy, so that a sum over rows counts the cost once.


def _charge_columns(rated: RatedUsage, part: TierPart) -> dict[str, str | None]:
    usage = rated.usage
    is_storage = usage.kind is ChargeKind.STORAGE
    quantity = _quantity(part.quantity)
    cost = _plain(EXACT.multiply(quantity, part.tier.unit_price))
    begin, end = _charge_period(usage.begin, usage.end)
    sku = rated.rate.meter if usage.unit_price is None else f"{usage.kind}/fixed"
    tier = _plain(part.tier.begin_gigabytes)
    price = _plain(part.tier.unit_price)
    return {
        "BilledCost": cost,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "BillingCurrency": rated.currency,
        "BillingPeriodStart": usage.month.begin.strftime(_TIME),
        "BillingPeriodEnd": usage.month.end.strftime(_TIME),
        "ChargePeriodStart": begin.strftime(_TIME),
        "ChargePeriodEnd": end.strftime(_TIME),
        "ConsumedQuantity": _plain(_quantity(part.quantity * HOURS_PER_MONTH) if is_storage else quantity),
        "ConsumedUnit": "GB-Hours" if is_storage else "GB",
        "PricingQuantity": _plain(quantity),
        "PricingUnit": "GB-Months" if is_storage else "GB",
        "ListUnitPrice": price,
        "SkuId": sku,
        "SkuMeter": sku,
        "SkuPriceId": f"{usage.price_list}/{sku}/{tier}/{price}",
        "SkuPriceDetails": _to_json({"x_PriceList": usage.price_list, "x_TierBegin": tier}),
        "x_Kind": usage.kind.value,
        "x_LedgerEntry": usage.key,
        "x_PriceListVersion": str(usage.price_list),
    }


def _resource_columns(rated: RatedUsage, described: FocusNames) -> dict[str, str | None]:
    usage, party = rated.usage, rated.usage.party
    name = party.resource_name
    route = f"in {usage.target}" if usage.source is None else f"from {usage.source} to {usage.target}"
    return {
        "ChargeDescription": f"{usage.kind} of {name} {route}",
        "RegionId": usage.target,
        "RegionName": described.regions.get(usage.target, usage.target),
        "ResourceId": party.resource_id,
        "ResourceName": name,
        "ResourceType": "Image Version" if party.disk is None else "Disk",
        "SubAccountId": party.subscription,
        "SubAccountName": party.subscription,
        "Tags": _to_json(party.tags) if party.tags else None,
        "x_SourceRegion": usage.source,
        "x_TargetRegion": usage.target,
    }


def _charge_period(begin: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the period in whole seconds. A period of less than a second is the second of its begin."""
    first = begin.astimezone(UTC).replace(microsecond=0)
    return first, max(end.astimezone(UTC).replace(microsecond=0), first + _SECOND)


def _whole_copy_cost(rated: RatedUsage, described: FocusNames) -> str | None:
    """Return the price of a transfer of the whole disks at the same place in the tiers, if the size is known."""
    whole_bytes = described.whole_bytes.get(rated.usage.key)
    if whole_bytes is None or rated.usage.kind is ChargeKind.STORAGE:
        return None
    return _plain(_quantity(rate_quantity(rated.rate, rated.before, Fraction(whole_bytes, GIGABYTE))))


def _quantity(value: Fraction) -> Decimal:
    return to_decimal(value, QUANTITY_UNIT)


def _plain(value: Decimal) -> str:
    """Return a decimal with a decimal point, so that readers infer a decimal column."""
    text = decimal_text(value)
    return text if "." in text else f"{text}.0"


def _to_json(value: Mapping[str, str | int]) -> str:
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
