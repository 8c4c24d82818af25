"""Forecasts: the charges and the stored bytes of a change before the change (invariant M16).

A forecast contains the ledger rows that the execution would add, and the storage intervals before and after. This module
only adds up.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from imgstore.domain.resources import StorageAccountType
from imgstore.domain.settings.replication import ReplicationRoute
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.prices.price_list import EXACT, FREE, PriceLists, Rate
from imgstore.ledger.prices.rating import rate_quantity
from imgstore.ledger.statements.usage import list_usage, rate_all


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageChange:
    """The billed stored bytes of an owner in a slot, before and after."""

    party: Party | None
    """None for an owner whose name the caller may not read."""
    owner_uid: str
    region: str
    replica: int
    storage_account_type: StorageAccountType
    before_bytes: int
    after_bytes: int

    @property
    def is_takeover(self) -> bool:
        """Whether an owner of the slot pays for bytes that another owner paid for before."""
        return 0 < self.before_bytes < self.after_bytes

    @property
    def added_bytes(self) -> int:
        """The difference. Negative if the owner pays for fewer bytes."""
        return self.after_bytes - self.before_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeCopies:
    """The same change by a store that copies whole disks: each replica has all virtual bytes of its disks."""

    delivered_bytes: int = 0
    """One whole copy for each region that gets the first replica from another region."""
    egress: Decimal = FREE
    stored_bytes: int = 0
    """The virtual bytes of added replicas and disks, minus the virtual bytes of removed replicas and disks."""
    storage_per_month: Decimal = FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionForecast:
    """The effects of a change in a region."""

    region: str
    delivered_bytes: int
    """The stored bytes from other regions that are new in the region."""
    egress: Decimal
    copied_bytes: int
    """The stored bytes of free copies inside the region."""
    stored_bytes: Mapping[StorageAccountType, int]
    """The difference of the billed stored bytes, by storage account type."""
    storage_per_month: Decimal
    """The difference of the price of a month of 730 hours."""
    estimated_seconds: float | None
    """None while no rate is measured for a necessary transfer."""
    whole: WholeCopies

    @property
    def added_bytes(self) -> int:
        """The difference of the billed stored bytes of all types."""
        return sum(self.stored_bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteForecast:
    """The price and the time of a value of `replication.route`."""

    route: ReplicationRoute
    is_chosen: bool
    """Whether the installation uses this route."""
    egress: Decimal
    estimated_seconds: float
    """The time from the first complete region to the last complete region. Rates that are not measured are assumed."""
    parents: Mapping[str, str]
    """The region that each region is copied from, by region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The effects of a change on the bill."""

    currency: str
    charges: tuple[LedgerRow, ...]
    """The ledger rows that the execution would add. Tiers apply to the month's sum, so their amounts are by region."""
    storage: tuple[StorageChange, ...]
    """The owners with another number of billed bytes."""
    regions: tuple[RegionForecast, ...]
    """The regions with an effect, by name."""
    estimated_seconds: float | None
    """The time of the source region, and then of the slowest other region. None as in `RegionForecast`."""
    routes: tuple[RouteForecast, ...] = ()
    """The values of `replication.route`. Empty if no region gets a first replica."""
    notes: tuple[str, ...] = ()
    """Sentences for people, such as the end of a retention."""

    @property
    def delivered_bytes(self) -> int:
        """The stored bytes that cross regions."""
        return sum(each.delivered_bytes for each in self.regions)

    @property
    def egress(self) -> Decimal:
        """The price of the bytes that cross regions."""
        return add_amounts(each.egress for each in self.regions)

    @property
    def added_bytes(self) -> int:
        """The difference of the billed stored bytes."""
        return sum(each.added_bytes for each in self.regions)

    @property
    def storage_per_month(self) -> Decimal:
        """The difference of the price of a month."""
        return add_amounts(each.storage_per_month for each in self.regions)

    @property
    def whole(self) -> WholeCopies:
        """The sum of the whole copies of all regions."""
        return WholeCopies(
            delivered_bytes=sum(each.whole.delivered_bytes for each in self.regions),
            egress=add_amounts(each.whole.egress for each in self.regions),
            stored_bytes=sum(each.whole.stored_bytes for each in self.regions),
            storage_per_month=add_amounts(each.whole.storage_per_month for each in self.regions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionForecast:
    """The bytes of a region and storage account type that a collection deletes now, and at list prices."""

    region: str
    storage_account_type: StorageAccountType
    deleted_bytes: int
    """Unreferenced objects after the grace period. No bill contains the bytes (invariant M12)."""
    deleted_per_month: Decimal | None
    """The list price of the deleted bytes alone for a month of 730 hours. None without a price for the type."""
    grace_bytes: int
    """Unreferenced segments that a later collection deletes."""
    problem: str | None
    """The reason why a slot could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentUsage:
    """The usage of a subscription before a change, on which the tiers of the change depend (invariant M18)."""

    charges: Sequence[LedgerRow]
    """The charges of the month on the meters of the change."""
    stored_bytes: Mapping[StorageAccountType, int]
    """The billed stored bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastFacts:
    """The facts of a simulated change."""

    charges: Sequence[LedgerRow]
    whole_charges: Sequence[LedgerRow]
    """The charges for whole disks."""
    whole_stored_bytes: Mapping[tuple[str, StorageAccountType], int]
    """The virtual bytes of added minus removed replicas and disks, by region and type."""
    before: Sequence[StorageInterval]
    """The open intervals of all changed slots before the change."""
    after: Sequence[StorageInterval]
    seconds: Mapping[str, float | None]
    """The estimated time of each region with a transfer."""
    present: PresentUsage
    prices: PriceLists
    time: datetime
    routes: tuple[RouteForecast, ...] = ()


def make_forecast(
    facts: ForecastFacts,
    *,
    is_readable: Callable[[Party], bool],
    source_region: str | None = None,
    notes: Sequence[str] = (),
) -> Forecast:
    """Add up the facts of a change.

    Args:
        facts: the facts.
        is_readable: whether the caller may read the name of an owner.
        source_region: the region that is complete before the others begin.
        notes: sentences for people.

    Raises:
        InvalidInput: no prices are valid, or a storage account type has no price.
    """
    changes = compare_intervals(facts.before, facts.after)
    stored = Counter[tuple[str, StorageAccountType]]()
    for each in changes:
        stored[each.region, each.storage_account_type] += each.added_bytes
    touched = {row.target for row in facts.charges} | facts.seconds.keys()
    touched |= {region for added in (stored, facts.whole_stored_bytes) for (region, _), count in added.items() if count}
    egress = _rate_egress(facts, facts.charges)
    per_month = _rate_storage(facts, stored)
    whole_egress = _rate_egress(facts, facts.whole_charges)
    whole_per_month = _rate_storage(facts, facts.whole_stored_bytes)
    regions = tuple(
        RegionForecast(
            region=region,
            delivered_bytes=_delivered_bytes(facts.charges, region, ChargeKind.EGRESS),
            egress=egress.get(region, FREE),
            copied_bytes=_delivered_bytes(facts.charges, region, ChargeKind.COPY),
            stored_bytes={kind: count for (of, kind), count in stored.items() if of == region},
            storage_per_month=per_month.get(region, FREE),
            estimated_seconds=facts.seconds.get(region, 0.0),
            whole=WholeCopies(
                delivered_bytes=_delivered_bytes(facts.whole_charges, region, ChargeKind.EGRESS),
                egress=whole_egress.get(region, FREE),
                stored_bytes=sum(count for (of, _), count in facts.whole_stored_bytes.items() if of == region),
                storage_per_month=whole_per_month.get(region, FREE),
            ),
        )
        for region in sorted(touched)
    )
    named = tuple(
        each if each.party is not None and is_readable(each.party) else replace(each, party=None) for each in changes
    )
    return Forecast(
        currency=facts.prices.newest.currency,
        charges=tuple(facts.charges),
        storage=named,
        regions=regions,
        estimated_seconds=_add_seconds(facts.seconds, source_region),
        routes=facts.routes,
        notes=(*notes, *_make_notes(facts.seconds, named)),
    )


def _delivered_bytes(charges: Iterable[LedgerRow], region: str, kind: ChargeKind) -> int:
    return sum(row.delivered_bytes for row in charges if row.target == region and row.kind is kind)


def _rate_egress(facts: ForecastFacts, charges: Sequence[LedgerRow]) -> dict[str, Decimal]:
    """Return the amounts of new charges by target region, by the rating of a statement."""
    keys = {row.key for row in charges}
    usage = list_usage([*facts.present.charges, *charges], (), facts.prices, facts.time)
    amounts = defaultdict[str, Fraction](Fraction)
    for each in rate_all(usage, facts.prices):
        if each.usage.key in keys:
            amounts[each.usage.target] += each.amount
    return {region: to_exact_decimal(amount) for region, amount in amounts.items()}


def _rate_storage(facts: ForecastFacts, added: Mapping[tuple[str, StorageAccountType], int]) -> dict[str, Decimal]:
    """Return the differences of the price of a month by region. The regions use up the tiers in order of their names."""
    stored = dict(facts.present.stored_bytes)
    found = defaultdict[str, Decimal](lambda: FREE)
    for (region, kind), count in sorted(added.items()):
        if count:
            rate = facts.prices.newest.storage(kind, facts.time)
            found[region] = EXACT.add(found[region], price_month(rate, stored.get(kind, 0), count))
            stored[kind] = max(0, stored.get(kind, 0) + count)
    return found


def price_month(rate: Rate, stored_bytes: int, added_bytes: int) -> Decimal:
    """Return the difference of the price of a month of 730 hours if bytes are added to the stored bytes.

    Args:
        rate: the tiers of the storage account type.
        stored_bytes: the bytes that the subscription stores for the whole month.
        added_bytes: the difference. If more bytes are removed than stored, the price is that of the removed bytes alone.
    """
    if stored_bytes + added_bytes < 0:
        return -price_month(rate, 0, -added_bytes)
    low, high = sorted((stored_bytes, stored_bytes + added_bytes))
    amount = rate_quantity(rate, Fraction(low, GIGABYTE), Fraction(high - low, GIGABYTE))
    return to_exact_decimal(amount if added_bytes >= 0 else -amount)


def to_exact_decimal(amount: Fraction) -> Decimal:
    """Return an amount of whole bytes. Prices are decimals and a GB is a power of ten, so the amount has an end."""
    return EXACT.divide(Decimal(amount.numerator), Decimal(amount.denominator))


def compare_intervals(before: Iterable[StorageInterval], after: Iterable[StorageInterval]) -> tuple[StorageChange, ...]:
    """Return the owners whose open intervals have another number of bytes, by region, replica and owner."""
    bytes_before, bytes_after = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    known: dict[tuple[str, str], StorageInterval] = {}
    for intervals, counter in ((before, bytes_before), (after, bytes_after)):
        for each in intervals:
            counter[each.slot_uid, each.owner_uid] += each.stored_bytes
            known[each.slot_uid, each.owner_uid] = each
    changes = [
        StorageChange(
            party=each.party,
            owner_uid=each.owner_uid,
            region=each.region,
            replica=each.replica,
            storage_account_type=each.storage_account_type,
            before_bytes=bytes_before[key],
            after_bytes=bytes_after[key],
        )
        for key, each in known.items()
        if bytes_before[key] != bytes_after[key]
    ]
    return tuple(
        sorted(changes, key=lambda each: (each.region, each.storage_account_type, each.replica, each.owner_uid))
    )


def add_amounts(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    total = FREE
    for each in amounts:
        total = EXACT.add(total, each)
    return total


def _add_seconds(seconds: Mapping[str, float | None], source_region: str | None) -> float | None:
    """Return the time of the source region plus the longest time of the other regions."""
    known = [each for each in seconds.values() if each is not None]
    if len(known) < len(seconds):
        return None
    others = (each for region, each in seconds.items() if region != source_region)
    return ((seconds.get(source_region) or 0.0) if source_region is not None else 0.0) + max(
        (each for each in others if each is not None), default=0.0
    )


def _make_notes(seconds: Mapping[str, float | None], storage: Iterable[StorageChange]) -> Iterator[str]:
    unknown = sorted(region for region, each in seconds.items() if each is None)
    if unknown:
        yield f"No rate measured yet for the transfers into {', '.join(unknown)}: a time needs a completed transfer."
    for each in storage:
        if each.is_takeover:
            payer = "another owner" if each.party is None else each.party.path
            yield (
                f"Next payer: {payer} pays for {each.added_bytes} bytes more in {each.region}, replica {each.replica}."
            )
