"""Usage details as JSON, in Azure's legacy form of Microsoft.Consumption."""

import json
from datetime import UTC, datetime, time, timedelta
from typing import Final

from imgstore.domain.identity.access import USAGE_DETAILS
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.months import Month
from imgstore.ledger.statements.usage_details import CHARGE_TYPE, UsageDetail
from imgstore.wire.cloud import subscription_json
from imgstore.wire.json_text import Json

_OFFER: Final = "imgstore"
_SECOND: Final = timedelta(seconds=1)


def usage_detail_json(detail: UsageDetail, expand: str | None = None) -> Json:
    """Return a usage detail. Quantities and costs are `Decimal` values, which `json_text.dumps` writes with all digits.

    The old names of api-versions before 2019-10-01 are also present, because az shows only these names.

    Args:
        detail: the usage detail.
        expand: Azure's `$expand`: properties/meterDetails, properties/additionalInfo, or both.
    """
    subscription = detail.party.subscription
    name = subscription_json(subscription, "")["displayName"]
    begin = datetime.combine(detail.day, time(), UTC)
    month = Month.of(begin)
    unit_price = detail.effective_price if detail.unit_price is None else detail.unit_price
    properties = {
        "billingAccountId": subscription,
        "billingAccountName": name,
        "billingPeriodStartDate": _instant(month.begin),
        "billingPeriodEndDate": _instant(month.end - timedelta(days=1)),
        "billingProfileId": subscription,
        "billingProfileName": name,
        "subscriptionId": subscription,
        "subscriptionName": name,
        "date": _instant(begin),
        "product": _product(detail),
        "meterId": detail.meter_uid,
        "quantity": detail.quantity,
        "effectivePrice": detail.effective_price,
        "cost": detail.cost,
        "unitPrice": unit_price,
        "payGPrice": unit_price,
        "billingCurrency": detail.currency,
        "resourceLocation": detail.region,
        "consumedService": "Microsoft.Compute",
        "resourceId": detail.resource_id,
        "resourceName": detail.resource_name,
        "resourceGroup": detail.party.group,
        "offerId": _OFFER,
        "isAzureCreditEligible": False,
        "publisherName": _OFFER,
        "publisherType": _OFFER,
        "chargeType": CHARGE_TYPE,
        "frequency": "UsageBased",
        "pricingModel": "OnDemand",
        # Names of older api-versions.
        "usageStart": _instant(begin),
        "usageEnd": _instant(begin + timedelta(days=1) - _SECOND),
        "usageQuantity": detail.quantity,
        "billableQuantity": detail.quantity,
        "pretaxCost": detail.cost,
        "currency": detail.currency,
        "isEstimated": False,
        "instanceId": detail.resource_id,
        "instanceName": detail.resource_name,
        "instanceLocation": detail.region,
        "subscriptionGuid": subscription,
    }
    parts = [part.strip().casefold().removeprefix("properties/") for part in (expand or "").split(",")]
    if "meterdetails" in parts:
        properties["meterDetails"] = _meter_json(detail)
    if "additionalinfo" in parts or "additionalproperties" in parts:
        text = json.dumps(
            {
                "kind": detail.kind,
                "sourceRegion": detail.source,
                "storageAccountType": detail.storage_account_type,
                "meter": detail.meter,
                "priceList": detail.price_list,
            }
        )
        properties |= {"additionalInfo": text, "additionalProperties": text}
    period = (
        f"/subscriptions/{subscription}/providers/Microsoft.Billing/billingPeriods/{month.year:04}{month.number:02}"
    )
    return {
        "kind": "legacy",
        "id": f"{period}/providers/{USAGE_DETAILS}/{detail.name}",
        "name": detail.name,
        "type": USAGE_DETAILS,
        "tags": dict(detail.party.tags) or None,
        "properties": properties,
    }


def _meter_json(detail: UsageDetail) -> Json:
    return {
        "meterName": detail.meter,
        "meterCategory": "Storage" if detail.kind is ChargeKind.STORAGE else "Bandwidth",
        "meterSubCategory": detail.kind.value,
        "meterLocation": detail.region,
        "unitOfMeasure": _unit(detail),
        "unit": _unit(detail),
        "serviceFamily": "Storage" if detail.kind is ChargeKind.STORAGE else "Networking",
        "pretaxStandardRate": detail.effective_price if detail.unit_price is None else detail.unit_price,
        "totalIncludedQuantity": 0,
    }


def _unit(detail: UsageDetail) -> str:
    return "1 GB/Month" if detail.kind is ChargeKind.STORAGE else "1 GB"


def _product(detail: UsageDetail) -> str:
    if detail.storage_account_type is not None:
        return f"Compute Gallery storage - {detail.storage_account_type} - {detail.region}"
    return f"Compute Gallery {detail.kind} - {detail.source} to {detail.region}"


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}0Z"
