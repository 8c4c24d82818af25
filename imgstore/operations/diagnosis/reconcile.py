"""Compare the ledger with the manifests and the listings of all slots (invariant M29). Nothing is changed.

A slot is read while other processes work. So the catalog is read before and after the listing, and the listing counts only
if the bill, the manifests, the works and the deletion marks of the slot are the same.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.errors import Conflict, ObjectCorrupt, ObjectNotFound
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.months import Month
from imgstore.ledger.reconciliation import (
    ListedObject,
    OverheadKind,
    Reconciliation,
    SlotFacts,
    find_differences,
    find_overlaps,
    sum_egress,
    summarize_slot,
)
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc_survey import read_gc_clock, unknown_manifests
from imgstore.operations.revisions import list_used_regions
from imgstore.operations.slot_owners import reference_bytes, sum_bodies
from imgstore.operations.slots.attribution import attribute_slot
from imgstore.policy.gc_plan import plan_slot
from imgstore.stores.interface import ObjectInfo
from imgstore.transfer.slot_access import SlotAccess

_TRIES: Final = 5
_REPORT_OBJECTS: Final = 10_000
"""Objects of a listing between two reports of progress."""
_TOP_PREFIXES: Final = (object_keys.INSTALLATION, object_keys.LEDGER_CHECKPOINTS)


def reconcile(installation: Installation, principal: Principal, month: Month | None = None) -> Reconciliation:
    """Compare the bill of all subscriptions with the complete manifests and the listings of all slots.

    The listings are those of now, so the storage of past months is compared with itself: no owner may be billed twice.

    Args:
        installation: the installation.
        principal: an administrator of the installation.
        month: the month of transfers and of overlaps. None for all months.

    Raises:
        StoreError: a store does not answer.
        Conflict: a slot changes all the time.
        AccessDenied: the principal is no administrator of the installation.
    """
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    with installation.catalog.reading() as transaction:
        slots = transaction.slots.list_all()
        regions = list_used_regions(installation, transaction)
    report = Reconciliation(month=month)
    for slot in sorted(slots, key=lambda each: (each.key.region, str(each.key))):
        facts = _read_slot(installation, slot)
        report.slots.append(summarize_slot(facts))
        report.add(find_differences(facts))
    for region in regions:
        store = installation.locator.installation_store(region)
        report.installation_overhead[region] = sum(
            each.stored_bytes for prefix in _TOP_PREFIXES for each in store.list(prefix)
        )
    with installation.catalog.reading() as transaction:
        intervals, rows = transaction.ledger.intervals(), transaction.ledger.rows()
    report.add(find_overlaps(intervals, month))
    report.egress = sum_egress(rows, month)
    return report


class _SlotState(NamedTuple):
    """The rows of a slot that decide on the comparison."""

    intervals: tuple[str, ...]
    manifests: tuple[tuple[str, int, bool], ...]
    works: tuple[str, ...]
    marks: frozenset[bytes]


def _read_slot(installation: Installation, slot: Slot) -> SlotFacts:
    access = installation.access(slot)
    for _ in range(_TRIES):
        installation.keeper.check_cancelled()
        with installation.catalog.reading() as transaction:
            before = _read_state(transaction, slot)
        listed = _list(installation, slot, access)
        with installation.catalog.reading() as transaction:
            if _read_state(transaction, slot) != before:
                continue
            facts = _read_facts(installation, transaction, slot, listed)
            rows = transaction.manifests.in_slot(slot.uid)
            segments = {
                row.uid: {
                    each.name: each.stored_bytes
                    for each in transaction.segments.rows(slot.key.pool_uid, named_segments([row]))
                }
                for row in {row.body_key: row for row in rows}.values()
            }
        wrong = [row.body_key for row in rows if row.uid in segments and not _matches(access, row, segments[row.uid])]
        return replace(facts, wrong_manifests=tuple(sorted(wrong)))
    raise Conflict(
        f"The slot {slot.key} changed during each of {_TRIES} listings.",
        found="other intervals, manifests, works or deletion marks after the listing",
        expected="a slot that stays the same during a listing",
        hint="run the command again while fewer versions are created or deleted",
        target=str(slot.key),
    )


def _read_state(transaction: Transaction, slot: Slot) -> _SlotState:
    return _SlotState(
        intervals=tuple(each.uid for each in transaction.ledger.open_intervals(slot.uid)),
        manifests=tuple(
            (row.uid, row.object_bytes, transaction.manifests.is_complete(row.uid))
            for row in transaction.manifests.in_slot(slot.uid, complete_only=False)
        ),
        works=tuple(work.uid for work in transaction.works.list_open(slot.uid)),
        marks=frozenset(mark.name for mark in transaction.deletion_marks.list(slot.uid)),
    )


def _list(installation: Installation, slot: Slot, access: SlotAccess) -> dict[str, ObjectInfo]:
    listed: dict[str, ObjectInfo] = {}
    for info in access.store.list(access.prefix):
        listed[info.key.removeprefix(access.prefix)] = info
        if len(listed) % _REPORT_OBJECTS == 0:
            installation.keeper.check_cancelled()
            text = f"{slot.key}: {len(listed)} objects listed"
            installation.subscriber(ProgressEvent(task="reconcile", stage=Stage.NOTE, detail=text))
    return listed


def _read_facts(
    installation: Installation, transaction: Transaction, slot: Slot, listed: Mapping[str, ObjectInfo]
) -> SlotFacts:
    billed = Counter[str]()
    names = {}
    for each in transaction.ledger.open_intervals(slot.uid):
        billed[each.owner_uid] += each.stored_bytes
        names[each.owner_uid] = each.party.path
    named = _named_objects(transaction, slot)
    return SlotFacts(
        region=slot.key.region,
        slot=str(slot.key),
        zone=slot.zone,
        prefix=slot.prefix,
        billed=billed,
        attributed=attribute_slot(transaction, slot),
        owner_names=names,
        named=named,
        listed={key: ListedObject(info.stored_bytes, info.certain) for key, info in listed.items()},
        overhead=_find_overhead(installation, transaction, slot, listed, named),
        wrong_manifests=(),
    )


def _named_objects(transaction: Transaction, slot: Slot) -> dict[str, int]:
    """Return the recorded bytes of all objects of complete manifests, by key below the slot."""
    rows = transaction.manifests.in_slot(slot.uid)
    named = sum_bodies(rows)
    for row in rows:
        if size := reference_bytes(row):
            named[object_keys.manifest_key(row.owner_uid, row.disk)] = size
    for segment in transaction.segments.rows(slot.key.pool_uid, named_segments(rows)):
        named[object_keys.segment_key(segment.name)] = segment.stored_bytes
    return named


def _find_overhead(
    installation: Installation,
    transaction: Transaction,
    slot: Slot,
    listed: Mapping[str, ObjectInfo],
    named: Collection[str],
) -> dict[str, OverheadKind]:
    """Return the objects of the listing that are not billed and have a reason, by key."""
    found: dict[str, OverheadKind] = {}
    segments: dict[Digest, ObjectInfo] = {}
    manifests = []
    for key, info in listed.items():
        if key in named:
            continue
        if object_keys.is_segment_key(key):
            segments[object_keys.segment_name(key)] = info
        elif key.startswith(object_keys.MANIFESTS):
            manifests.append(key)
        elif key.startswith(object_keys.FINGERPRINTS):
            found[key] = OverheadKind.FINGERPRINTS
        elif object_keys.packed_manifest(key) is not None:
            found[key] = OverheadKind.PACKS
        elif key.startswith(object_keys.WORKS):
            found[key] = OverheadKind.NOTES
        elif object_keys.parse_owner_revision(key) is not None:
            found[key] = OverheadKind.REVISIONS
    unknown = set(unknown_manifests(transaction, slot, manifests))
    found |= {key: OverheadKind.WORKS for key in manifests if key not in unknown}
    return found | {
        object_keys.segment_key(name): kind
        for name, kind in _find_unbilled_segments(installation, transaction, slot, listed, segments).items()
    }


def _find_unbilled_segments(
    installation: Installation,
    transaction: Transaction,
    slot: Slot,
    listed: Mapping[str, ObjectInfo],
    segments: Mapping[Digest, ObjectInfo],
) -> dict[Digest, OverheadKind]:
    """Return the reason of each segment that no complete manifest names. A segment without a reason is left out."""
    known = transaction.segments.find_ids(slot.key.pool_uid, segments)
    incomplete = set(transaction.manifests.segment_ids_in_slot(slot.uid, complete_only=False).tolist())
    starts = [
        info.last_modified
        for work in transaction.works.list_open(slot.uid)
        if (info := listed.get(object_keys.work_key(work.uid))) is not None
    ]
    plan = plan_slot(
        segments,
        [name for name, number in known.items() if number in incomplete],
        {each.name: each for each in transaction.deletion_marks.list(slot.uid)},
        marker_at=min(starts, default=None),
        clock=read_gc_clock(installation, transaction, slot, timedelta(0)),
    )
    abandoned_at = _first_abandoned_start(transaction, slot, listed)
    found = {}
    for name, info in segments.items():
        if name not in plan.unreferenced:
            found[name] = OverheadKind.WORKS
        elif name in plan.to_mark:
            if name in known or (abandoned_at is not None and info.last_modified >= abandoned_at):
                found[name] = OverheadKind.UNREFERENCED
        else:
            is_marked = name in plan.deletable or name in plan.in_grace
            found[name] = OverheadKind.GRACE if is_marked else OverheadKind.WORKS
    return found


def _first_abandoned_start(transaction: Transaction, slot: Slot, listed: Mapping[str, ObjectInfo]) -> datetime | None:
    """Return the store's time of the oldest start marker of a closed work, which `gc` removes with the segments."""
    markers = {
        key.removeprefix(object_keys.WORKS): info.last_modified
        for key, info in listed.items()
        if key.startswith(object_keys.WORKS)
    }
    closed = transaction.works.filter_closed(slot.uid, list(markers))
    return min((markers[uid] for uid in closed), default=None)


def _matches(access: SlotAccess, row: ManifestRow, segments: Mapping[Digest, int]) -> bool:
    """Return whether the manifest in the store names the segments that the catalog records."""
    try:
        table = access.get_manifest(row.body_key, row.digest).segments
    except (ObjectNotFound, ObjectCorrupt):
        return False
    return dict(zip(table.all_names(), table.stored_bytes.tolist(), strict=True)) == segments
