"""Scrub: what manifests name is read again, checked against its name, and made good (invariants W15, Z7 and M7).

From a zone whose bytes match, where the slot has three; else from another slot of the pool that names the same segment,
those of the region first. What can't be made good degrades the replicas that name it. Last, replicas that are Degraded
and read right from end to end are Completed again.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound, ReadBackMismatch, StoreError
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.ledger.egress import charge_repair
from imgstore.ledger.entries import Party
from imgstore.operations.activity_log import recorded
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.scrub_progress import ScrubProgress
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.degrade import degrade, degrade_owners, remove_damaged
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.operations.slots.restore import restore_replicas
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.regions import ALL_ZONES
from imgstore.segments import codec
from imgstore.segments.manifest import ManifestCheck
from imgstore.segments.reference import Reference, encode_reference
from imgstore.stores.interface import Accept
from imgstore.stores.zone_redundant import QUORUM, Zoned
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.slot_access import CheckCancelled


class _Look(NamedTuple):
    """What was seen of an object."""

    read_bytes: int
    is_known: bool = True
    """Whether every zone answered: else the object is to be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An object that a manifest's row asks for."""

    key: str
    """Below the slot."""
    stored_bytes: int
    accept: Accept
    name: Digest | None
    """A segment's."""
    row: ManifestRow | None
    """A manifest's, or a managed disk's reference's."""


def scrub(installation: Installation, principal: Principal, request: ScrubRequest) -> list[SlotScrub]:
    """Read, check and repair, slot by slot. May be repeated, killed at any moment, and run beside everything else.

    Raises:
        InvalidInput: no such region.
        CatalogOutdated: the catalog is older than its buckets. A dry run goes on.
    """
    if request.dry_run:
        authorize(principal, Action.READ, INSTALLATION)
        return _scrub(installation, request)
    if not request.is_recorded:
        authorize(principal, Action.ADMINISTER, INSTALLATION)
        return _scrub(installation, request)
    with recorded(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/scrub"):
        check_catalog_is_current(installation)
        return _scrub(installation, request)


def _scrub(installation: Installation, request: ScrubRequest) -> list[SlotScrub]:
    region = None if request.region is None else installation.regions.get(request.region, target="region").name
    with installation.catalog.reading() as transaction:
        slots = [
            slot
            for slot in transaction.slots.list_all()
            if region in (None, slot.key.region) and request.slot_uid in (None, slot.uid)
        ]
    scrubbed = [_scrub_slot(installation, slot, request) for slot in slots]
    done = [found for found, _ in scrubbed]
    if request.repair_notes_only:
        return done
    for each, progress in scrubbed:  # Last: what one slot repaired may be what a replica in another one lacked.
        restoration = restore_replicas(
            installation, each.slot, each.unrepaired, dry_run=request.dry_run, pace=request.pace
        )
        each.restored, each.unrestored = restoration.restored, restoration.unrestored
        if progress is not None and (each.problem is None or request.runner is ScrubRunner.COMMAND):
            progress.end()  # A worker tries the rest again; a person who saw the problem wants all of it read.
    return done


def _scrub_slot(
    installation: Installation, slot: Slot, request: ScrubRequest
) -> tuple[SlotScrub, ScrubProgress | None]:
    """Scrub a slot; also returns the progress of its pass, for a request that reads the slot and may write."""
    found = SlotScrub(slot=slot)
    progress = None
    try:
        if request.repair_notes_only and slot.zone == ALL_ZONES and not _has_notes(installation, slot):
            return found, None
        if not (request.dry_run or request.repair_notes_only):
            progress = ScrubProgress.open(installation, found, request)
            request = replace(request, seed=progress.scrub_pass.seed)
        wanted = _wanted(installation, slot)
        if slot.zone == ALL_ZONES:
            _read_zones(installation, found, wanted, request, progress)
        else:
            _read_one(installation, found, wanted, request, progress)
        if not request.dry_run and found.unrepaired:
            _repair(installation, found, wanted, request.pace)
    except ImgstoreError as error:  # Its store does not answer, or regions.yaml no longer has it: the others can be.
        found.problem = str(error)
    finally:
        if progress is not None:
            progress.interrupt()
    return found, progress


def _has_notes(installation: Installation, slot: Slot) -> bool:
    store = installation.locator.store(slot)
    assert isinstance(store, Zoned), "the slot lies in three zones"
    return any(note.key.startswith(slot.prefix) for note in store.list_pending_repairs())


def _wanted(installation: Installation, slot: Slot) -> dict[str, _Wanted]:
    with installation.catalog.reading() as transaction:
        rows = transaction.manifests.in_slot(slot.uid)
        segments = transaction.segments.rows(slot.key.pool_uid, transaction.manifests.segment_ids_in_slot(slot.uid))
    every = chain(
        chain.from_iterable(map(_objects_of, rows)),
        (
            _Wanted(
                key=object_keys.segment_key(each.name),
                stored_bytes=each.stored_bytes,
                accept=codec.matches_name(each.name),
                name=each.name,
                row=None,
            )
            for each in segments
        ),
    )
    return {each.key: each for each in every}


def _objects_of(row: ManifestRow) -> Iterable[_Wanted]:
    """A version's manifest; of a managed disk its reference, and the manifest that it refers to."""
    own = object_keys.manifest_key(row.owner_uid, row.disk)
    yield _Wanted(key=row.body_key, stored_bytes=row.object_bytes, accept=ManifestCheck(row.digest), name=None, row=row)
    if own != row.body_key:
        reference = _reference(row)
        yield _Wanted(key=own, stored_bytes=len(reference), accept=lambda body: body == reference, name=None, row=row)


def _reference(row: ManifestRow) -> bytes:
    return encode_reference(Reference(digest=row.digest, body_key=row.body_key))


def _sampled(wanted: Mapping[str, _Wanted], request: ScrubRequest, always: Collection[str] = ()) -> list[_Wanted]:
    """Those to read: a segment's turn comes by the seed and its name."""
    below = request.percent / 100 * 2**64

    def chosen(each: _Wanted) -> bool:
        if each.name is None or each.key in always:
            return True
        mixed = digest_of(request.seed.to_bytes(8, "little", signed=True) + each.name)
        return int.from_bytes(mixed[:8], "little") < below

    return [each for each in wanted.values() if chosen(each)]


def _read_all(
    installation: Installation,
    found: SlotScrub,
    some: Sequence[_Wanted],
    look: Callable[[_Wanted], _Look],
    pace: Callable[[int], None],
    progress: ScrubProgress | None,
    always: Collection[str] = (),
) -> None:
    key = found.slot.key
    found.objects = len(some)
    if progress is not None:
        by_key = {each.key: each for each in some}
        some = [by_key[each] for each in progress.begin(by_key.keys(), always)]
    counter = ProgressCounter(
        installation, f"scrub {key.region}/{key.ordinal}", sum(each.stored_bytes for each in some)
    )
    counter.begin()

    adding = threading.Lock()

    def looked(each: _Wanted) -> None:
        seen = look(each)
        with adding:
            found.read_bytes += seen.read_bytes
        if progress is not None and seen.is_known:
            progress.add(each.key)
        counter.add_bytes(each.stored_bytes)
        pace(seen.read_bytes)

    workers = installation.threads(installation.tuning.copy_workers, key.region)
    try:
        with BoundedPool(workers, workers * 2, "scrub") as pool:
            for each in some:
                pool.submit(looked, each)
    except StoreError as error:
        counter.fail(error.message)
        raise
    counter.end()


def _read_one(
    installation: Installation,
    found: SlotScrub,
    wanted: Mapping[str, _Wanted],
    request: ScrubRequest,
    progress: ScrubProgress | None,
) -> None:
    """A slot in one zone."""
    access = installation.access(found.slot)

    def look(each: _Wanted) -> _Look:
        try:
            return _Look(read_bytes=len(access.get_object(each.key, each.accept)))
        except (ObjectNotFound, ObjectCorrupt):
            found.damaged.add(each.key)
            return _Look(read_bytes=0)

    _read_all(installation, found, _sampled(wanted, request), look, request.pace, progress)


def _read_zones(
    installation: Installation,
    found: SlotScrub,
    wanted: Mapping[str, _Wanted],
    request: ScrubRequest,
    progress: ScrubProgress | None,
) -> None:
    """A slot in three zones: each copy is read, and made like one that is right."""
    store, prefix = installation.locator.store(found.slot), found.slot.prefix
    assert isinstance(store, Zoned), "the slot lies in three zones"
    noted = {note.key.removeprefix(prefix) for note in store.list_pending_repairs() if note.key.startswith(prefix)}

    def look(each: _Wanted) -> _Look:
        copies = store.copies(prefix + each.key, each.accept)
        lacking = [] if copies.unknown else [*copies.wrong, *copies.absent]
        if copies.silent:
            found.problem = f"zone {', '.join(copies.silent)} does not answer: what it has is not known"
        if lacking:
            found.damaged.add(each.key)
        seen = _Look(read_bytes=copies.read_bytes, is_known=not copies.silent)
        if request.dry_run or copies.body is None:
            return seen
        if lacking:
            store.restore(prefix + each.key, copies.body, lacking)
            found.repaired.add(each.key)
        if each.key in noted and not copies.silent:
            store.settle(prefix + each.key)
        return seen

    some = _sampled(wanted, request, noted)
    if request.repair_notes_only:
        some = [each for each in some if each.key in noted]
    _read_all(installation, found, some, look, request.pace, progress, noted)
    if not request.dry_run:
        lone = (
            set[str]()
            if found.problem or request.repair_notes_only
            else {key.removeprefix(prefix) for key in store.list_lone_keys(prefix)}
        )
        for key in sorted((noted | lone) - wanted.keys()):
            _agree(installation, found.slot, store, prefix + key)
        record_zone_gaps(installation, found.slot)


def _agree(installation: Installation, slot: Slot, store: Zoned, key: str) -> None:
    """Of an object that no row asks for, a zone missed a write: what two zones have, the third gets; else it goes.

    While a work that writes is open in the slot nothing goes: it may be on its way into the other zones at this moment.
    """
    accept = codec.matches_name(object_keys.segment_name(key)) if object_keys.is_segment_key(key) else None
    copies = store.copies(key, accept)
    if copies.silent:
        return
    if len(copies.right) >= QUORUM and copies.body is not None:
        store.restore(key, copies.body, [*copies.wrong, *copies.absent])
    elif copies.right or copies.wrong:
        recorded_at = installation.effects.monotonic()
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            if any(work.kind.writes for work in transaction.works.list_open(slot.uid)):
                return
            below = key.removeprefix(slot.prefix)
            deletion = record_deletion(installation, transaction, slot, [below], recorded_at)

        def withdraw(keys_below: Collection[str], check_cancelled: CheckCancelled) -> None:
            check_cancelled()
            for each in keys_below:
                store.withdraw(slot.prefix + each, [*copies.right, *copies.wrong])

        send_deletion(installation, deletion, send=withdraw)
    store.settle(key)


def _repair(
    installation: Installation, found: SlotScrub, wanted: Mapping[str, _Wanted], pace: Callable[[int], None]
) -> None:
    """From other slots. What was wrong is told and distrusted first: another process may read it at this moment."""
    slot = found.slot
    bad = [wanted[key] for key in found.unrepaired]
    names = {each.name for each in bad if each.name is not None}
    if names:
        degrade(installation, slot, names, "missing or damaged when scrubbed")
    owners = {each.key.split("/")[1] for each in bad if each.row is not None}
    if owners:
        degrade_owners(installation, slot, owners, "its manifest is missing or damaged")
    brought: list[_Brought] = []
    holders = _holders(installation, slot, names)
    for each in bad:
        try:
            if each.name is not None:
                brought.append(_bring_segment(installation, slot, each, each.name, holders[each.name]))
            elif each.row is not None:
                _bring_manifest(installation, slot, each, each.row)
        except ReadBackMismatch as error:
            remove_damaged(installation, slot, error)
            continue
        except (ObjectNotFound, ObjectCorrupt):
            continue  # Nobody else has it right: it remains, and is told.
        except StoreError as error:
            found.problem = str(error)
            continue
        found.repaired.add(each.key)
        pace(each.stored_bytes)
    found.repaired_bytes = sum(each.stored_bytes for each in brought)
    _write_down(installation, slot, brought)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Brought:
    """A segment that another slot gave."""

    name: Digest
    stored_bytes: int
    source: Slot


def _bring_segment(
    installation: Installation, slot: Slot, each: _Wanted, name: Digest, holders: Sequence[Slot]
) -> _Brought:
    places = [(other, each.key) for other in holders]
    source, body = _from_another(installation, slot, each, places)
    installation.access(slot).put_segment(name, body)
    return _Brought(name=name, stored_bytes=len(body), source=source)


def _bring_manifest(installation: Installation, slot: Slot, each: _Wanted, row: ManifestRow) -> None:
    if each.key != row.body_key:
        installation.access(slot).put_manifest(each.key, _reference(row))
    else:
        with installation.catalog.reading() as transaction:
            same = {
                (other.slot_uid, other.body_key)
                for other in transaction.manifests.list_with_digest(slot.key.pool_uid, row.digest)
            }
            places = [(transaction.slots.get(uid), key) for uid, key in sorted(same - {(slot.uid, each.key)})]
        _, body = _from_another(installation, slot, each, places)
        installation.access(slot).put_manifest(each.key, body)


def _holders(installation: Installation, slot: Slot, names: Collection[Digest]) -> dict[Digest, list[Slot]]:
    """Of each segment the other slots of the pool that name it."""
    holders: dict[Digest, list[Slot]] = {name: [] for name in names}
    with installation.catalog.reading() as transaction:
        known = transaction.segments.find_ids(slot.key.pool_uid, names)
        ids = np.array(list(known.values()), dtype=np.uint32)
        for other in transaction.slots.list(slot.key.pool_uid) if names else ():
            if other.uid != slot.uid:
                there = np.isin(ids, transaction.manifests.segment_ids_in_slot(other.uid)).tolist()
                for name, is_there in zip(known, there, strict=True):
                    holders[name] += [other] if is_there else []
    return holders


def _from_another(
    installation: Installation, slot: Slot, wanted: _Wanted, places: Sequence[tuple[Slot, str]]
) -> tuple[Slot, bytes]:
    """An object as another place has it, each a slot and a key in it: those of the region first.

    Raises:
        ObjectNotFound: no other place should have it.
        StoreError: none serves it; the first one's error.
    """
    if not places:
        raise ObjectNotFound(
            f"No other replica has '{wanted.key}'.", found="one slot", expected="another", target=wanted.key
        )
    first: StoreError | None = None
    for other, key in sorted(places, key=lambda place: place[0].key.region != slot.key.region):
        try:
            return other, installation.access(other).get_object(key, wanted.accept)
        except StoreError as error:
            first = first or error
    assert first is not None, "one place or more was asked"
    raise first


def _write_down(installation: Installation, slot: Slot, brought: Sequence[_Brought]) -> None:
    """A row of the ledger for each region that segments came from and each party that is billed for them here."""
    moved: defaultdict[tuple[str, Party], int] = defaultdict(int)
    with installation.catalog.transaction() as transaction:
        billed = {each.owner_uid: each.party for each in transaction.ledger.open_intervals(slot.uid)}
        naming = [
            (billed[row.owner_uid], unpack_ids(row.segment_ids))
            for row in transaction.manifests.in_slot(slot.uid)
            if row.owner_uid in billed
        ]
        known = transaction.segments.find_ids(slot.key.pool_uid, [each.name for each in brought])
        for each in brought:
            party = next((party for party, ids in naming if np.isin(known.get(each.name, 0), ids)), None)
            if party is not None:  # Else its last owner was deleted meanwhile.
                moved[each.source.key.region, party] += each.stored_bytes
        for (region, party), moved_bytes in moved.items():
            transaction.ledger.add(
                charge_repair(
                    key=f"repair/{installation.effects.new_uid()}",
                    party=party,
                    source=region,
                    target=slot.key.region,
                    replica=slot.key.ordinal,
                    moved_bytes=moved_bytes,
                    prices=installation.regions.prices,
                    time=transaction.now(),
                )
            )
