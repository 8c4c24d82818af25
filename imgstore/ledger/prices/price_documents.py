"""Price lists as JSON documents, which the catalog stores, with the digest that names their content."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from imgstore.domain.resources import StorageAccountType
from imgstore.domain.text.decimals import decimal_text
from imgstore.ledger.prices.price_list import PriceList, Prices, Tier, Tiers


def to_document(prices: PriceList) -> dict[str, Any]:
    """Return a price list as a JSON document. Prices are texts with all digits, and equal prices have equal texts."""
    return {
        "currency": prices.currency,
        "zoneGroups": dict(sorted(prices.zone_groups.items())),
        "periods": [_period_document(each) for each in prices.periods],
    }


def from_document(document: Mapping[str, Any], number: int) -> PriceList:
    """Return the price list of a document from `to_document`."""
    return PriceList(
        currency=document["currency"],
        zone_groups=MappingProxyType(document["zoneGroups"]),
        periods=tuple(_read_period(each) for each in document["periods"]),
        number=number,
    )


def digest_of(prices: PriceList) -> str:
    """Return the SHA-256 (hexadecimal) of the content of a price list. Equal lists have equal digests."""
    text = json.dumps(to_document(prices), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _period_document(period: Prices) -> dict[str, Any]:
    return {
        "validFrom": None if period.valid_from is None else period.valid_from.isoformat(),
        "egressDefault": _tiers_document(period.egress_default),
        "egressZoneGroups": _pairs_document(period.egress_zone_groups),
        "egressPairs": _pairs_document(period.egress_pairs),
        "repair": _tiers_document(period.repair),
        "storage": {kind.value: _tiers_document(tiers) for kind, tiers in sorted(period.storage.items())},
    }


def _read_period(document: Mapping[str, Any]) -> Prices:
    begin = document["validFrom"]
    return Prices(
        valid_from=None if begin is None else datetime.fromisoformat(begin),
        egress_default=_read_tiers(document["egressDefault"]),
        egress_zone_groups=_read_pairs(document["egressZoneGroups"]),
        egress_pairs=_read_pairs(document["egressPairs"]),
        repair=_read_tiers(document["repair"]),
        storage=MappingProxyType(
            {StorageAccountType(kind): _read_tiers(tiers) for kind, tiers in document["storage"].items()}
        ),
    )


def _tiers_document(tiers: Tiers) -> list[dict[str, str]]:
    return [
        {"beginGigabytes": decimal_text(tier.begin_gigabytes), "price": decimal_text(tier.unit_price)} for tier in tiers
    ]


def _read_tiers(document: list[dict[str, str]]) -> Tiers:
    return tuple(
        Tier(begin_gigabytes=Decimal(each["beginGigabytes"]), unit_price=Decimal(each["price"])) for each in document
    )


def _pairs_document(pairs: Mapping[tuple[str, str], Tiers]) -> list[dict[str, Any]]:
    return [
        {"source": source, "target": target, "tiers": _tiers_document(tiers)}
        for (source, target), tiers in sorted(pairs.items())
    ]


def _read_pairs(document: list[dict[str, Any]]) -> Mapping[tuple[str, str], Tiers]:
    return MappingProxyType({(each["source"], each["target"]): _read_tiers(each["tiers"]) for each in document})
