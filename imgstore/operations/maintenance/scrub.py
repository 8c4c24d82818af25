"""Scrub: read the objects that manifests name, verify the objects, and repair damage (invariants W15, Z6 and M7).

The bytes for a repair come from a zone with matching bytes, in a slot with three zones. Otherwise the bytes come from
another slot of the pool with the same segment, preferably in the same region. Damage without a repair degrades the
replicas that name the object. At the end, Degraded replicas with only right objects become Completed again.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from imgstore.catalog.storage.manifests import unpack_ids
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound, ReadBackMismatch, StoreError
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.reports import SlotScrub, SlotScrubStatus
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.ledger.egress import Transfer, charge_repair
from imgstore.ledger.entries import Party
from imgstore.operations.activity_log import record_activity
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.pace import make_pace
from imgstore.operations.maintenance.revision_upkeep import check_revisions, repair_installation_zones
from imgstore.operations.maintenance.scrub_progress import ScrubProgress
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.boot_packs import read_pack_key, repair_pack
from imgstore.operations.slots.degrade import degrade, degrade_owners, remove_damaged
from imgstore.operations.slots.key_deletions import delete_objects, record_deletion, send_deletion
from imgstore.operations.slots.losses import find_losses, read_manifest_copy
from imgstore.operations.slots.restore import restore_replicas
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.regions import ALL_ZONES
from imgstore.segments import codec
from imgstore.segments.boot_pack import PackCheck
from imgstore.segments.manifest import ManifestCheck, decode_manifest
from imgstore.segments.reference import Reference, encode_reference
from imgstore.stores.interface import Accept
from imgstore.stores.zone_redundant import QUORUM, ZoneRedundantStore
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.slot_access import CheckCancelled

_FINGERPRINTS_END: Final = object_keys.FINGERPRINTS + "~"
"""A text after the keys of all fingerprints, which scrub reads first."""


class _ReadResult(NamedTuple):
    """The result of reading an object."""

    read_bytes: int
    is_known: bool = True
    """Whether each zone answered. Otherwise the object must be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamedObject:
    """An object that a manifest row names."""

    key: str
    """The key below the slot."""
    stored_bytes: int
    accept: Accept
    name: Digest | None
    """The name of a segment. None for other objects."""
    row: ManifestRow | None
    """The row of a manifest or of the reference of a disk. None for other objects."""
    is_derived: bool = False
    """Whether the object can be computed again, as fingerprints and boot packs. Such an object may be missing."""


def scrub(installation: Installation, principal: Principal, request: ScrubRequest) -> list[SlotScrub]:
    """Read, verify and repair the objects of slots. May be repeated, killed at any time, and run during any operation.

    Raises:
        InvalidInput: the region does not exist.
        CatalogOutdated: the catalog is older than its buckets. A dry run does not check this.
    """
    if request.dry_run:
        authorize(principal, Action.READ, INSTALLATION)
        return _scrub(installation, request)
    if not request.is_recorded:
        authorize(principal, Action.ADMINISTER, INSTALLATION)
        return _scrub(installation, request)
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/scrub"):
        check_catalog_is_current(installation)
        return _scrub(installation, request)


def list_scrubs(installation: Installation, principal: Principal) -> list[SlotScrubStatus]:
    """Return the last scrub of each slot, by region, storage account type and ordinal."""
    authorize(principal, Action.READ, INSTALLATION)
    with installation.catalog.reading() as transaction:
        slots = sorted(transaction.slots.list_all(), key=lambda slot: (slot.key.region, slot.prefix))
        last = {each.slot_uid: each for each in transaction.slot_scrubs.list()}
        running = {slot.uid: tuple(transaction.scrub_passes.in_slot(slot.uid)) for slot in slots}
        lost = {slot.uid: transaction.lost_objects.list(slot.uid) for slot in slots}
    return [
        SlotScrubStatus(
            slot=slot,
            last=last.get(slot.uid),
            running=running[slot.uid],
            lost_objects=len(lost[slot.uid]),
            losses=find_losses(installation, slot, lost[slot.uid]),
        )
        for slot in slots
    ]


def _scrub(installation: Installation, request: ScrubRequest) -> list[SlotScrub]:
    request = _with_rate(installation, request)
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
    _check_revisions(installation, slots, request)
    for each, progress in scrubbed:  # Last, because the repair of one slot may help a replica of another.
        restoration = restore_replicas(
            installation, each.slot, each.unrepaired, dry_run=request.dry_run, pace=request.pace
        )
        each.restored, each.unrestored = restoration.restored, restoration.unrestored
        if progress is not None and (each.problem is None or request.runner is ScrubRunner.COMMAND):
            progress.end()  # After a problem, a worker resumes; a command begins again.
    return done


def _with_rate(installation: Installation, request: ScrubRequest) -> ScrubRequest:
    """Return the request with a pace that also keeps `bytes_per_second_max`."""
    if not request.bytes_per_second_max:
        return request
    given = request.pace
    limited = make_pace(
        request.bytes_per_second_max,
        check=installation.keeper.check_cancelled,
        wait=installation.effects.wait,
        monotonic=installation.effects.monotonic,
    )

    def pace(length: int) -> None:
        given(length)
        limited(length)

    return replace(request, pace=pace)


def _check_revisions(installation: Installation, slots: Sequence[Slot], request: ScrubRequest) -> None:
    """Compare the revisions in the slots with the catalog.

    Also compare the revisions in each region of the request. A scrub of one slot includes the region if the slot is the
    first one there.
    """
    if request.slot_uid is None:
        names = {region.name for region in installation.regions.regions.values()}
        regions = {slot.key.region for slot in slots} if request.region is not None else names
    else:
        with installation.catalog.reading() as transaction:
            first = {slot.key.region: slot.uid for slot in reversed(transaction.slots.list_all())}
        regions = {region for region, uid in first.items() if uid == request.slot_uid}
    check = check_revisions(installation, slots, regions, dry_run=request.dry_run)
    if not request.dry_run:
        repair_installation_zones(installation)
    if check.wrong:
        written = "" if request.dry_run else " and written again"
        installation.note("scrub", f"{check.wrong} of {check.read} revisions missing or wrong{written}")
    if check.problem is not None:
        installation.note("scrub", f"some revisions were not read: {check.problem}")


def _scrub_slot(
    installation: Installation, slot: Slot, request: ScrubRequest
) -> tuple[SlotScrub, ScrubProgress | None]:
    """Scrub a slot. Also return the progress of the pass, if the request reads the slot and may write."""
    found = SlotScrub(slot=slot)
    progress = None
    started = installation.effects.monotonic()
    try:
        if request.repair_notes_only and slot.zone == ALL_ZONES and not _has_notes(installation, slot):
            return found, None
        if not (request.dry_run or request.repair_notes_only):
            progress = ScrubProgress.open(installation, found, request)
            request = replace(request, seed=progress.scrub_pass.seed)
        named = _list_named_objects(installation, slot)
        if not request.repair_notes_only and (progress is None or progress.scrub_pass.position < _FINGERPRINTS_END):
            named |= _list_fingerprints(installation, found, named.values(), request.pace)
        if not request.repair_notes_only:
            named |= _list_packs(installation, slot)
        with installation.catalog.reading() as transaction:
            lost = transaction.lost_objects.list(slot.uid)
        if slot.zone == ALL_ZONES:
            _read_zones(installation, found, named, request, progress, lost)
        else:
            _read_one(installation, found, named, request, progress, lost)
        if not request.dry_run and found.unrepaired:
            _repair(installation, found, named, request.pace)
        if not request.dry_run:
            _record_lost(installation, found, () if request.repair_notes_only or found.problem else lost)
            found.losses = find_losses(installation, slot, found.unrepaired)
    except ImgstoreError as error:  # The store fails, or regions.yaml does not contain the region any more.
        found.problem = str(error)
    finally:
        found.seconds = installation.effects.monotonic() - started
        if progress is not None:
            progress.interrupt()
    return found, progress


def _record_lost(installation: Installation, found: SlotScrub, lost: Collection[str]) -> None:
    """Record the objects without a right copy.

    Args:
        installation: the installation.
        found: the result of the scrub.
        lost: the known lost objects that this scrub has read again.
    """
    unrepaired = found.unrepaired
    right = found.repaired.union(lost).difference(unrepaired)
    if unrepaired or right:
        with installation.catalog.transaction() as transaction:
            transaction.lost_objects.remove(found.slot.uid, right)
            transaction.lost_objects.add(found.slot.uid, unrepaired)


def _has_notes(installation: Installation, slot: Slot) -> bool:
    store = installation.locator.store(slot)
    assert isinstance(store, ZoneRedundantStore), "the slot has three zones"
    return any(note.key.startswith(slot.prefix) for note in store.list_pending_repairs())


def _list_named_objects(installation: Installation, slot: Slot) -> dict[str, _NamedObject]:
    with installation.catalog.reading() as transaction:
        rows = transaction.manifests.in_slot(slot.uid)
        segments = transaction.segments.rows(slot.key.pool_uid, transaction.manifests.segment_ids_in_slot(slot.uid))
    every = chain(
        chain.from_iterable(map(_objects_of, rows)),
        (
            _NamedObject(
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


def _list_fingerprints(
    installation: Installation, scrubbed: SlotScrub, named: Collection[_NamedObject], pace: Callable[[int], None]
) -> dict[str, _NamedObject]:
    """List the stored fingerprints that a manifest of the slot names by digest, by key. Other fingerprints are garbage.

    A damaged manifest is read from another copy. Without a copy nothing is known about its fingerprints.
    """
    slot = scrubbed.slot
    access = installation.access(slot)
    listed = {
        info.key.removeprefix(access.prefix): info.stored_bytes
        for info in access.store.list(access.prefix + object_keys.FINGERPRINTS)
    }
    if not listed:
        return {}
    found: dict[str, _NamedObject] = {}
    for row in [each.row for each in named if each.row is not None and each.key == each.row.body_key]:
        data: bytes | None = None
        try:
            data = access.get_object(row.body_key, ManifestCheck(row.digest))
        except (ObjectNotFound, ObjectCorrupt):
            with suppress(StoreError):
                data = read_manifest_copy(installation, slot, row)
        if data is None:
            continue
        scrubbed.read_bytes += len(data)
        pace(len(data))
        for work in decode_manifest(data).works:
            key = object_keys.fingerprints_key(work.uid)
            if key in listed:
                found[key] = _NamedObject(
                    key=key,
                    stored_bytes=listed[key],
                    accept=partial(_has_digest, work.fingerprints_digest),
                    name=None,
                    row=None,
                    is_derived=True,
                )
    return found


def _list_packs(installation: Installation, slot: Slot) -> dict[str, _NamedObject]:
    """List the stored boot packs of disks of the slot, by key. Other packs are garbage."""
    access = installation.access(slot)
    listed = {
        info.key.removeprefix(access.prefix): info.stored_bytes
        for info in access.store.list(access.prefix + object_keys.PACKS)
    }
    if not listed:
        return {}
    with installation.catalog.reading() as transaction:
        digests = {row.digest for row in transaction.manifests.in_slot(slot.uid)}
    pack_key = read_pack_key(installation, slot)
    return {
        key: _NamedObject(
            key=key,
            stored_bytes=listed[key],
            accept=PackCheck(pack_key, digest),
            name=None,
            row=None,
            is_derived=True,
        )
        for digest in digests
        if (key := object_keys.pack_key(digest)) in listed
    }


def _has_digest(digest: Digest, body: bytes) -> bool:
    return digest_of(body) == digest


def _objects_of(row: ManifestRow) -> Iterable[_NamedObject]:
    """Yield the manifest of a row. For a managed disk, also yield the reference that names the manifest."""
    own = object_keys.manifest_key(row.owner_uid, row.disk)
    yield _NamedObject(
        key=row.body_key, stored_bytes=row.object_bytes, accept=ManifestCheck(row.digest), name=None, row=row
    )
    if own != row.body_key:
        reference = _reference(row)
        yield _NamedObject(
            key=own, stored_bytes=len(reference), accept=lambda body: body == reference, name=None, row=row
        )


def _reference(row: ManifestRow) -> bytes:
    return encode_reference(Reference(digest=row.digest, body_key=row.body_key))


def _choose_sample(
    named: Mapping[str, _NamedObject], request: ScrubRequest, always: Collection[str] = ()
) -> list[_NamedObject]:
    """Choose the objects to read. The seed and the name decide on each segment; other objects are always read."""
    below = request.percent / 100 * 2**64

    def is_chosen(each: _NamedObject) -> bool:
        if each.name is None or each.key in always:
            return True
        mixed = digest_of(request.seed.to_bytes(8, "little", signed=True) + each.name)
        return int.from_bytes(mixed[:8], "little") < below

    return [each for each in named.values() if is_chosen(each)]


def _read_all(
    installation: Installation,
    found: SlotScrub,
    some: Sequence[_NamedObject],
    look: Callable[[_NamedObject], _ReadResult],
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

    def read_one(each: _NamedObject) -> None:
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
                pool.submit(read_one, each)
    except StoreError as error:
        counter.fail(error.message)
        raise
    counter.end()


def _read_one(
    installation: Installation,
    found: SlotScrub,
    named: Mapping[str, _NamedObject],
    request: ScrubRequest,
    progress: ScrubProgress | None,
    lost: Collection[str],
) -> None:
    """Scrub a slot in one zone. The known lost objects are read in any case."""
    access = installation.access(found.slot)

    def look(each: _NamedObject) -> _ReadResult:
        try:
            return _ReadResult(read_bytes=len(access.get_object(each.key, each.accept)))
        except ObjectNotFound:
            if not each.is_derived:  # Otherwise the object was deleted after the listing.
                found.damaged.add(each.key)
            return _ReadResult(read_bytes=0)
        except ObjectCorrupt:
            found.damaged.add(each.key)
            return _ReadResult(read_bytes=each.stored_bytes)  # The length is a guess; the bandwidth was used.

    _read_all(installation, found, _choose_sample(named, request, lost), look, request.pace, progress, lost)


def _read_zones(
    installation: Installation,
    found: SlotScrub,
    named: Mapping[str, _NamedObject],
    request: ScrubRequest,
    progress: ScrubProgress | None,
    lost: Collection[str],
) -> None:
    """Scrub a slot in three zones: read each copy, and replace wrong and missing copies by a right copy.

    The known lost objects are read in any case.
    """
    store, prefix = installation.locator.store(found.slot), found.slot.prefix
    assert isinstance(store, ZoneRedundantStore), "the slot has three zones"
    noted = {note.key.removeprefix(prefix) for note in store.list_pending_repairs() if note.key.startswith(prefix)}

    def look(each: _NamedObject) -> _ReadResult:
        copies = store.read_copies(prefix + each.key, each.accept)
        defective = [] if copies.unknown else [*copies.wrong, *copies.absent]
        if copies.silent:
            found.problem = f"zone {', '.join(copies.silent)} does not answer, so its objects are not known"
        repairs = copies.body is not None and not request.dry_run
        failed = store.restore(prefix + each.key, copies) if defective and repairs else {}
        if failed:
            found.problem = _format_untaken(failed)
        elif defective:
            found.damaged.add(each.key)
            found.repaired.update([each.key] if repairs else [])
        is_known = not (copies.silent or failed)
        if repairs and is_known and (each.key in noted or store.has_notes(prefix + each.key)):
            store.delete_notes(prefix + each.key)
        return _ReadResult(read_bytes=copies.read_bytes, is_known=is_known)

    some = _choose_sample(named, request, noted.union(lost))
    if request.repair_notes_only:
        some = [each for each in some if each.key in noted]
    _read_all(installation, found, some, look, request.pace, progress, noted.union(lost))
    if not request.dry_run:
        unequal = (
            set[str]()
            if found.problem or request.repair_notes_only
            else {key.removeprefix(prefix) for key in store.list_unequal_keys(prefix)}
        )
        for key in sorted((noted | unequal) - named.keys()):
            _resolve_unnamed(installation, found, store, prefix + key)
        record_zone_gaps(installation, found.slot)


def _format_untaken(failed: Mapping[str, StoreError]) -> str:
    """Describe the zones that did not take an object. The object has a right copy in another zone."""
    errors = "; ".join(f"{error.message} ({error.found})" for error in failed.values())
    return f"zone {', '.join(failed)} does not take its missing objects: {errors}"


def _resolve_unnamed(installation: Installation, found: SlotScrub, store: ZoneRedundantStore, key: str) -> None:
    """Resolve an object that no row names and that a zone missed, such as an object of an interrupted work.

    Complete an object of two zones, and delete an object of one zone. If two zones have different bytes, and the key
    does not tell the right bytes, leave both copies. A start marker is not completed, because the time of a second
    marker is not the start of the work (invariant W1).

    Nothing is deleted while a writing work is open in the slot, because the work may be putting the object into the
    other zones.
    """
    slot = found.slot
    accept = codec.matches_name(object_keys.segment_name(key)) if object_keys.is_segment_key(key) else None
    copies = store.read_copies(key, accept)
    is_marker = key.removeprefix(slot.prefix).startswith(object_keys.WORKS)
    is_undecided = accept is None and not copies.right and len(copies.wrong) >= QUORUM
    if copies.silent or is_undecided or (is_marker and len(copies.right) >= QUORUM):
        return
    if len(copies.right) >= QUORUM:
        failed = store.restore(key, copies)
        if failed:
            found.problem = _format_untaken(failed)
            return
    elif copies.right or copies.wrong:
        recorded_at = installation.effects.monotonic()
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            if any(work.kind.writes for work in transaction.works.list_open(slot.uid)):
                return
            below = key.removeprefix(slot.prefix)
            deletion = record_deletion(installation, transaction, slot, [below], recorded_at)

        def delete_copies(keys_below: Collection[str], check_cancelled: CheckCancelled) -> bool:
            check_cancelled()
            for each in keys_below:
                store.delete_in(slot.prefix + each, [*copies.right, *copies.wrong])
            return True

        send_deletion(installation, deletion, send=delete_copies)
    store.delete_notes(key)


def _repair(
    installation: Installation, found: SlotScrub, named: Mapping[str, _NamedObject], pace: Callable[[int], None]
) -> None:
    """Repair damaged objects from other slots.

    Replicas are degraded before the repair, because another process may read a damaged object at the same time.
    """
    slot = found.slot
    bad = [named[key] for key in found.unrepaired]
    names = {each.name for each in bad if each.name is not None}
    if names:
        degrade(installation, slot, names, "missing or damaged when scrubbed")
    owners = {object_keys.manifest_owner(each.key) for each in bad if each.row is not None}
    if owners:
        degrade_owners(installation, slot, owners, "its manifest is missing or damaged")
    repaired: list[_RepairedSegment] = []
    holders = _find_holders(installation, slot, names)
    for each in bad:
        try:
            if each.name is not None:
                repaired.append(_repair_segment(installation, slot, each, each.name, holders[each.name]))
            elif each.row is not None:
                _repair_manifest(installation, slot, each, each.row)
            elif not repair_pack(installation, slot, each.key):
                delete_objects(installation, slot, [each.key])  # The next ingest computes fingerprints from segments.
        except ReadBackMismatch as error:
            remove_damaged(installation, slot, error)
            continue
        except (ObjectNotFound, ObjectCorrupt):
            continue  # No other slot has a right copy. The object stays in the report.
        except StoreError as error:
            found.problem = str(error)
            continue
        found.repaired.add(each.key)
        pace(each.stored_bytes)
    found.repaired_bytes = sum(each.stored_bytes for each in repaired)
    _charge_repairs(installation, slot, repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RepairedSegment:
    """A segment that was copied from another slot."""

    name: Digest
    stored_bytes: int
    source: Slot


def _repair_segment(
    installation: Installation, slot: Slot, each: _NamedObject, name: Digest, holders: Sequence[Slot]
) -> _RepairedSegment:
    source, body = _read_from_another(installation, slot, each, holders)
    installation.access(slot).put_segment(name, body)
    return _RepairedSegment(name=name, stored_bytes=len(body), source=source)


def _repair_manifest(installation: Installation, slot: Slot, each: _NamedObject, row: ManifestRow) -> None:
    if each.key != row.body_key:
        installation.access(slot).put_manifest(each.key, _reference(row))
    else:
        body = read_manifest_copy(installation, slot, row)
        if body is None:
            raise _no_copy_error(each)
        installation.access(slot).put_manifest(each.key, body)


def _find_holders(installation: Installation, slot: Slot, names: Collection[Digest]) -> dict[Digest, list[Slot]]:
    """Return the other slots of the pool that name each segment."""
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


def _read_from_another(
    installation: Installation, slot: Slot, named: _NamedObject, holders: Sequence[Slot]
) -> tuple[Slot, bytes]:
    """Read a segment from one of the holders, holders of the same region first.

    Raises:
        ObjectNotFound: there is no holder.
        StoreError: no holder has the segment; the error of the first holder.
    """
    if not holders:
        raise _no_copy_error(named)
    first: StoreError | None = None
    for other in sorted(holders, key=lambda holder: holder.key.region != slot.key.region):
        try:
            return other, installation.access(other).get_object(named.key, named.accept)
        except StoreError as error:
            first = first or error
    assert first is not None, "one place or more was asked"
    raise first


def _no_copy_error(named: _NamedObject) -> ObjectNotFound:
    return ObjectNotFound(
        f"No other replica has '{named.key}'.", found="one slot", expected="another", target=named.key
    )


def _charge_repairs(installation: Installation, slot: Slot, repaired: Sequence[_RepairedSegment]) -> None:
    """Add a ledger row for each pair of a source region and a party that is billed for repaired segments."""
    moved: defaultdict[tuple[str, Party], int] = defaultdict(int)
    with installation.catalog.transaction() as transaction:
        billed = {each.owner_uid: each.party for each in transaction.ledger.open_intervals(slot.uid)}
        naming = [
            (billed[row.owner_uid], unpack_ids(row.segment_ids))
            for row in transaction.manifests.in_slot(slot.uid)
            if row.owner_uid in billed
        ]
        known = transaction.segments.find_ids(slot.key.pool_uid, [each.name for each in repaired])
        for each in repaired:
            party = next((party for party, ids in naming if np.isin(known.get(each.name, 0), ids)), None)
            if party is not None:  # Otherwise the last owner of the segment was deleted.
                moved[each.source.key.region, party] += each.stored_bytes
        for (region, party), moved_bytes in moved.items():
            repair = Transfer(
                key=f"repair/{installation.effects.new_uid()}",
                party=party,
                source=region,
                target=slot.key.region,
                replica=slot.key.ordinal,
                moved_bytes=moved_bytes,
                time=transaction.now(),
            )
            transaction.ledger.add(charge_repair(repair, current_prices(installation, transaction)))
