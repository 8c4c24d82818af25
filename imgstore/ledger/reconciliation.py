"""Compare the bill with the listings of the stores (invariants M12, M14 and M29)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from imgstore.domain.storage.object_keys import is_segment_key
from imgstore.ledger.entries import ChargeKind, LedgerRow, StorageInterval
from imgstore.ledger.months import Month

DIFFERENCES_MAX: Final = 1_000
"""The number of differences in a report. Further differences are counted."""
_LAST: Final = datetime.max.replace(tzinfo=UTC)


class OverheadKind(StrEnum):
    """Stored bytes that nobody is billed for (invariant M12)."""

    FINGERPRINTS = "fingerprints"
    PACKS = "packs"
    """Boot packs."""
    REVISIONS = "revisions"
    """Revisions of versions and stored disks. At the top of a zone: revisions of all resources, and of the ledger."""
    NOTES = "notes"
    """Start markers of works."""
    WORKS = "works"
    """Segments and manifests of works in progress, and of deletions in progress."""
    UNREFERENCED = "unreferenced"
    """Segments without a manifest since a deletion or an abandoned work. `gc` marks the segments next."""
    GRACE = "grace"
    """Segments that `gc` has marked for deletion."""


class DifferenceKind(StrEnum):
    """The kind of a difference."""

    MISSING = "missing"
    """A manifest or a segment of a manifest that is not in the listing."""
    SIZE = "size"
    """An object with another number of bytes than the catalog records."""
    EXTRA = "extra"
    """An object that no manifest, no work and no overhead explains."""
    UNCERTAIN = "uncertain"
    """An object of unknown existence, because a zone does not answer or missed a write."""
    MANIFEST = "manifest"
    """A manifest that cannot be read, or that names other segments than the catalog records."""
    INTERVAL = "interval"
    """An owner whose open intervals bill other bytes than its manifests name."""
    OVERLAP = "overlap"
    """Two intervals that bill the same owner in the same slot at the same time."""


class Difference(NamedTuple):
    """A difference between bill, manifests and listing."""

    kind: DifferenceKind
    region: str
    slot: str
    subject: str
    """The key of the object in the bucket, or the uid of an owner."""
    name: str
    """The owner for people. Empty for an object."""
    found_bytes: int
    expected_bytes: int


class ListedObject(NamedTuple):
    """An object in the listing of a slot."""

    stored_bytes: int
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """The bill, the manifests and the listing of a slot at one time."""

    region: str
    slot: str
    zone: str
    prefix: str
    """The beginning of all keys of the slot."""
    billed: Mapping[str, int]
    """The bytes of the open intervals, by owner."""
    attributed: Mapping[str, int]
    """The bytes that the complete manifests give to each owner."""
    owner_names: Mapping[str, str]
    named: Mapping[str, int]
    """The recorded bytes of all manifests and segments of complete manifests, by key below the slot."""
    listed: Mapping[str, ListedObject]
    overhead: Mapping[str, OverheadKind]
    """The overhead in the listing, by key."""
    wrong_manifests: Sequence[str]
    """Keys of manifests that cannot be read, or that differ from the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReconciliation:
    """The bytes of a slot."""

    region: str
    slot: str
    zone: str
    """The zone, or "zrs" for all three zones."""
    billed_bytes: int
    named_bytes: int
    listed_bytes: int
    segment_bytes: int
    """The listed bytes of segments."""
    overhead: Mapping[OverheadKind, int]

    @property
    def billable_bytes(self) -> int:
        """The listed bytes without overhead."""
        return self.listed_bytes - sum(self.overhead.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionEgress:
    """The bytes of the ledger that arrived in a region, and that a region supplied."""

    region: str
    arrived: Mapping[ChargeKind, int]
    supplied: Mapping[ChargeKind, int]


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """The result of `bill reconcile`."""

    month: Month | None
    slots: list[SlotReconciliation] = field(default_factory=list)
    installation_overhead: dict[str, int] = field(default_factory=dict)
    """Stored bytes of revisions at the top of the zones, by region."""
    egress: list[RegionEgress] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    more_differences: int = 0

    @property
    def agrees(self) -> bool:
        """Whether bill, manifests and listings agree to the byte."""
        return not self.differences and not self.more_differences

    def add(self, differences: Iterable[Difference]) -> None:
        """Add differences up to `DIFFERENCES_MAX`, and count the others."""
        for each in differences:
            if len(self.differences) < DIFFERENCES_MAX:
                self.differences.append(each)
            else:
                self.more_differences += 1


def summarize_slot(facts: SlotFacts) -> SlotReconciliation:
    """Return the bytes of a slot."""
    overhead = Counter[OverheadKind]()
    for key, kind in facts.overhead.items():
        overhead[kind] += facts.listed[key].stored_bytes
    return SlotReconciliation(
        region=facts.region,
        slot=facts.slot,
        zone=facts.zone,
        billed_bytes=sum(facts.billed.values()),
        named_bytes=sum(facts.named.values()),
        listed_bytes=sum(each.stored_bytes for each in facts.listed.values()),
        segment_bytes=sum(each.stored_bytes for key, each in facts.listed.items() if is_segment_key(key)),
        overhead=dict(overhead),
    )


def find_differences(facts: SlotFacts) -> Iterable[Difference]:
    """Find the differences of a slot. Without one, the billed, named and listed bytes are equal."""

    def differ(kind: DifferenceKind, subject: str, found: int, expected: int, name: str = "") -> Difference:
        return Difference(kind, facts.region, facts.slot, subject, name, found, expected)

    def differ_at(kind: DifferenceKind, key: str, found: int, expected: int) -> Difference:
        return differ(kind, facts.prefix + key, found, expected)

    for key, expected in facts.named.items():
        there = facts.listed.get(key)
        if there is None:
            yield differ_at(DifferenceKind.MISSING, key, 0, expected)
        elif not there.certain:
            yield differ_at(DifferenceKind.UNCERTAIN, key, there.stored_bytes, expected)
        elif there.stored_bytes != expected:
            yield differ_at(DifferenceKind.SIZE, key, there.stored_bytes, expected)
    for key, there in facts.listed.items():
        if key not in facts.named and key not in facts.overhead:
            kind = DifferenceKind.EXTRA if there.certain else DifferenceKind.UNCERTAIN
            yield differ_at(kind, key, there.stored_bytes, 0)
    for key in facts.wrong_manifests:
        there = facts.listed.get(key, ListedObject(0, certain=True))
        yield differ_at(DifferenceKind.MANIFEST, key, there.stored_bytes, facts.named.get(key, 0))
    for owner in sorted(facts.billed.keys() | facts.attributed.keys()):
        found, expected = facts.billed.get(owner, 0), facts.attributed.get(owner, 0)
        if found != expected:
            yield differ(DifferenceKind.INTERVAL, owner, found, expected, facts.owner_names.get(owner, ""))


def find_overlaps(intervals: Iterable[StorageInterval], month: Month | None) -> Iterable[Difference]:
    """Find intervals that bill an owner twice at the same time in a slot, in a month or at any time."""
    of_owner: defaultdict[tuple[str, str], list[StorageInterval]] = defaultdict(list)
    for each in intervals:
        is_inside = month is None or (each.opened_at < month.end and (each.closed_at or _LAST) > month.begin)
        if is_inside and each.opened_at < (each.closed_at or _LAST):
            of_owner[each.owner_uid, each.slot_uid].append(each)
    for (owner, _), group in of_owner.items():
        group.sort(key=lambda each: (each.opened_at, each.closed_at or _LAST))
        for first, second in pairwise(group):
            if second.opened_at < (first.closed_at or _LAST):
                slot = f"{first.region}/{first.storage_account_type}/{first.replica}"
                yield Difference(
                    DifferenceKind.OVERLAP, first.region, slot, owner, second.party.path, second.stored_bytes, 0
                )


def sum_egress(rows: Iterable[LedgerRow], month: Month | None) -> list[RegionEgress]:
    """Return the bytes of the ledger by region, in a month or at any time."""
    arrived: defaultdict[str, Counter[ChargeKind]] = defaultdict(Counter)
    supplied: defaultdict[str, Counter[ChargeKind]] = defaultdict(Counter)
    for row in rows:
        if month is None or Month.of(row.time) == month:
            arrived[row.target][row.kind] += row.delivered_bytes
            supplied[row.source][row.kind] += row.delivered_bytes
    return [
        RegionEgress(region=region, arrived=dict(arrived[region]), supplied=dict(supplied[region]))
        for region in sorted(arrived.keys() | supplied.keys())
    ]
