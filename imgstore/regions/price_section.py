"""Read the prices of regions.yaml: periods, zone groups, pairs of regions and tiers."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from imgstore.domain.names import region_key
from imgstore.domain.resources import StorageAccountType
from imgstore.ledger.prices.price_list import FREE, PriceList, Prices, Tier, Tiers, flat
from imgstore.regions.model import Region
from imgstore.regions.yaml_sections import Section

PRICE_KEYS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "prices": ("valid_from", "valid_until", "egress_per_gb", "repair_per_gb", "storage_per_gb_month"),
        "egress_per_gb": ("default", "zone_groups", "pairs"),
        "storage_per_gb_month": tuple(StorageAccountType),
        "tier": ("up_to_gb", "price"),
    }
)
"""The known keys of each section."""

_PRICE: Final = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?")
"""Nine digits before the decimal point and twelve after it: a sum of products with any number of bytes stays exact.

YAML 1.1 reads a number with a leading zero as octal, and people as decimal, so such a price is refused.
"""
_PRICE_MEANING: Final = "a price such as 0.02, 0 or more, with at most 12 digits after the decimal point"
_GIGABYTES_MEANING: Final = "a number of GB such as 10240, more than the tier before"
_DATE: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")

_T = TypeVar("_T")

Regions: TypeAlias = Mapping[str, Region | None]
"""The regions of the document by key. None marks a region with faults."""


def read_prices(document: Section, currency: str, regions: Regions) -> PriceList:
    """Read `prices`: the prices of all times, or a list of periods without gaps and overlaps."""
    if not document.is_list("prices"):
        document.require_section("prices")
    sections = document.sections("prices", known=PRICE_KEYS["prices"])
    if not sections:
        document.add_fault("is missing or empty", "prices")
        return PriceList(currency=currency, periods=())
    begins = _read_begins(sections)
    groups = {name: region.zone_group for name, region in regions.items() if region and region.zone_group}
    known = frozenset(groups.values()) if all(regions.values()) else None
    return PriceList(
        currency=currency,
        periods=tuple(_read_period(each, begin, regions, known) for each, begin in zip(sections, begins, strict=True)),
        zone_groups=MappingProxyType(groups),
    )


def read_pairs(
    pairs: Section, regions: Regions, inside: str, read: Callable[[Section, str], _T]
) -> dict[tuple[str, str], _T]:
    """Read values by source and target region.

    Args:
        pairs: the section of sources with sections of targets.
        regions: the known regions. Without regions, no name is checked.
        inside: the meaning of the values, for the fault of a pair inside a region: nothing is "charged" there.
        read: reads a value.
    """
    found: dict[tuple[str, str], _T] = {}
    for source in pairs:
        targets = pairs.section(source)
        if regions and region_key(source) not in regions:
            pairs.add_fault(f"unknown region '{source}'", source)
        for target in targets:
            pair = region_key(source), region_key(target)
            if regions and pair[1] not in regions:
                targets.add_fault(f"unknown region '{target}'", target)
            if pair[0] == pair[1]:
                targets.add_fault(f"inside a region nothing is {inside}: remove this entry", target)
            if pair in found:
                targets.add_fault(f"the pair {pair[0]}, {pair[1]} has an entry already", target)
            found[pair] = read(targets, target)
    return found


def _read_begins(sections: Sequence[Section]) -> Sequence[datetime | None]:
    """Return the begins of periods. A period without a begin, a gap, an overlap or an end of all periods is a fault."""
    for section in sections[1:]:
        if "valid_from" not in section:
            section.add_fault("is missing; only the first period may begin before all times", "valid_from")
    begins = [_read_date(each, "valid_from") for each in sections]
    ends = [_read_date(each, "valid_until") for each in sections]
    for at, (begin, following) in enumerate(pairwise(begins)):
        end = ends[at]
        if begin is not None and end is not None and end <= begin:
            sections[at].add_fault(f"is not after the begin of the period on {begin:%F}", "valid_until")
        elif begin is not None and following is not None and following <= begin:
            sections[at + 1].add_fault(f"is not after the period before, which begins on {begin:%F}", "valid_from")
        elif end is not None and following is not None and end != following:
            fault = "leaves a gap" if end < following else "overlaps"
            sections[at].add_fault(f"{fault}: the next period begins on {following:%F}", "valid_until")
    if "valid_until" in sections[-1]:
        sections[-1].add_fault("later months would have no price: remove the end of the last period", "valid_until")
    return begins


def _read_date(section: Section, key: str) -> datetime | None:
    if key not in section:
        return None
    text = section.read_matching(key, _DATE, "a date such as 2026-12-01, the first day in UTC")
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        section.add_fault(f"'{text}' is no day of the calendar", key)
        return None


def _read_period(section: Section, begin: datetime | None, regions: Regions, groups: Collection[str] | None) -> Prices:
    egress = section.section("egress_per_gb", known=PRICE_KEYS["egress_per_gb"])
    storage = section.section("storage_per_gb_month", known=PRICE_KEYS["storage_per_gb_month"])
    stored = {kind: _read_tiers(storage, kind) for kind in StorageAccountType if kind.value in storage}
    offered = {kind for region in regions.values() if region for kind in region.storage_account_types}
    for kind in sorted(offered - stored.keys()) if section else ():
        storage.add_fault(f"is missing; regions offer {kind}, so a price is needed (0 is a price)", kind)
    return Prices(
        valid_from=begin,
        egress_default=_read_tiers(egress, "default") if section else flat(FREE),
        egress_zone_groups=MappingProxyType(_read_group_pairs(egress.section("zone_groups"), groups)),
        egress_pairs=MappingProxyType(read_pairs(egress.section("pairs"), regions, "charged", _read_tiers)),
        repair=_read_tiers(section, "repair_per_gb") if "repair_per_gb" in section else flat(FREE),
        storage=MappingProxyType(stored),
    )


def _read_group_pairs(section: Section, groups: Collection[str] | None) -> dict[tuple[str, str], Tiers]:
    """Read prices by source and target group. None for the groups means that a region has a fault: no name is checked."""
    found: dict[tuple[str, str], Tiers] = {}
    for source in section:
        targets = section.section(source)
        if groups is not None and source not in groups:
            section.add_fault(f"no region has the zone_group '{source}'", source)
        for target in targets:
            if groups is not None and target not in groups:
                targets.add_fault(f"no region has the zone_group '{target}'", target)
            found[source, target] = _read_tiers(targets, target)
    return found


def _read_tiers(section: Section, key: str) -> Tiers:
    """Read a price, or a list of tiers. Each tier but the last ends at `up_to_gb`, where the next tier begins."""
    if not section.is_list(key):
        return flat(Decimal(section.read_matching(key, _PRICE, _PRICE_MEANING) or FREE))
    tiers = section.sections(key, known=PRICE_KEYS["tier"])
    found: list[Tier] = []
    begin = FREE
    for at, each in enumerate(tiers):
        price = Decimal(each.read_matching("price", _PRICE, _PRICE_MEANING) or FREE)
        found.append(Tier(begin_gigabytes=begin, unit_price=price))
        if at == len(tiers) - 1:
            if "up_to_gb" in each:
                each.add_fault("larger sums would have no price: remove the end of the last tier", "up_to_gb")
            continue
        text = each.read_matching("up_to_gb", _PRICE, _GIGABYTES_MEANING)
        if text is not None and Decimal(text) <= begin:
            each.add_fault(f"'{text}' is not {_GIGABYTES_MEANING}, which ends at {begin}", "up_to_gb")
        begin = Decimal(text or begin)
    if not found:
        section.add_fault("is empty; the value must be a price, or a list of tiers", key)
    return tuple(found) or flat(FREE)
