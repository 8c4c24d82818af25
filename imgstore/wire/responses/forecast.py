"""Forecasts as JSON. Azure has no such format. Amounts are text, because a JSON number loses digits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgstore.domain.text.decimals import decimal_text
from imgstore.wire.json_text import Json
from imgstore.wire.responses.parties import party_json

if TYPE_CHECKING:  # JSON does not need the ledger's arithmetic, which imports numpy
    from imgstore.ledger.forecast import (
        CollectionForecast,
        Forecast,
        RegionForecast,
        RouteForecast,
        StorageChange,
        WholeCopies,
    )


def forecast_json(forecast: "Forecast") -> Json:
    """Return a forecast: the sums, the regions, and the owners with another number of billed bytes."""
    return {
        "currency": forecast.currency,
        "deliveredBytes": forecast.delivered_bytes,
        "egress": decimal_text(forecast.egress),
        "storedBytes": forecast.added_bytes,
        "storagePerMonth": decimal_text(forecast.storage_per_month),
        "estimatedSeconds": _seconds(forecast.estimated_seconds),
        "wholeCopies": _whole_json(forecast.whole),
        "regions": [_region_json(each) for each in forecast.regions],
        "routes": [_route_json(each) for each in forecast.routes],
        "payers": [_payer_json(each) for each in forecast.storage],
        "notes": list(forecast.notes),
    }


def _region_json(region: "RegionForecast") -> Json:
    return {
        "region": region.region,
        "deliveredBytes": region.delivered_bytes,
        "egress": decimal_text(region.egress),
        "copiedBytes": region.copied_bytes,
        "storedBytes": region.added_bytes,
        "storedBytesByType": {kind.value: count for kind, count in region.stored_bytes.items()},
        "storagePerMonth": decimal_text(region.storage_per_month),
        "estimatedSeconds": _seconds(region.estimated_seconds),
        "wholeCopies": _whole_json(region.whole),
    }


def _route_json(route: "RouteForecast") -> Json:
    return {
        "route": route.route.value,
        "isChosen": route.is_chosen,
        "egress": decimal_text(route.egress),
        "estimatedSeconds": _seconds(route.estimated_seconds),
        "copies": [{"source": parent, "target": region} for region, parent in sorted(route.parents.items())],
    }


def _whole_json(whole: "WholeCopies") -> Json:
    return {
        "deliveredBytes": whole.delivered_bytes,
        "egress": decimal_text(whole.egress),
        "storedBytes": whole.stored_bytes,
        "storagePerMonth": decimal_text(whole.storage_per_month),
    }


def _payer_json(change: "StorageChange") -> Json:
    return {
        **party_json(change.party),
        "region": change.region,
        "replica": change.replica,
        "storageAccountType": change.storage_account_type.value,
        "storedBytesBefore": change.before_bytes,
        "storedBytesAfter": change.after_bytes,
    }


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def collection_forecast_json(found: Sequence["CollectionForecast"], currency: str) -> Json:
    """Return the forecast of a garbage collection. The bytes are on no bill (invariant M12)."""
    return {
        "currency": currency,
        "regions": [
            {
                "region": each.region,
                "storageAccountType": each.storage_account_type.value,
                "deletedBytes": each.deleted_bytes,
                "deletedPerMonth": None if each.deleted_per_month is None else decimal_text(each.deleted_per_month),
                "inGraceBytes": each.grace_bytes,
                "problem": each.problem,
            }
            for each in found
        ],
    }


def forecast_rows(body: Json) -> Sequence[dict[str, Json]]:
    """Return the rows of a table: a row for each region, the sum, the sum of whole copies, and each route."""
    sums = ({**body, "region": "total"}, {**body["wholeCopies"], "region": "whole copies"})
    routes = [
        {
            **_row(body),
            "Region": f"route {each['route']}",
            "Egress": each["egress"],
            "Seconds": each["estimatedSeconds"],
        }
        for each in body.get("routes", ())
    ]
    return [*(_row(each) for each in (*body["regions"], *sums)), *routes]


def _row(region: Json) -> dict[str, Json]:
    seconds = region.get("estimatedSeconds", "")
    return {
        "Region": region.get("region", ""),
        "DeliveredBytes": region["deliveredBytes"],
        "Egress": region["egress"],
        "StoredBytes": region["storedBytes"],
        "StoragePerMonth": region["storagePerMonth"],
        "Seconds": "unknown" if seconds is None else seconds,
    }
