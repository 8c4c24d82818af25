"""Survey a slot: its objects, and the objects that the catalog needs.

The store is read before the catalog (invariant G10).

Writers use the reverse order: the work row, the start marker, the segments, the manifest row, the manifest. So each
listed object either belongs to a manifest row or an open work of the later reading, or is unreferenced.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.errors import ObjectNotFound, StoreError
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Work
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.revision_upkeep import stale_slot_revisions
from imgstore.operations.slot_owners import body_bytes
from imgstore.policy.gc_plan import GcClock, SlotSurvey, plan_slot, writer_sequences
from imgstore.segments.manifest import ManifestCheck, decode_manifest
from imgstore.segments.reference import MAGIC as REFERENCE_MAGIC
from imgstore.stores.interface import ObjectInfo
from imgstore.transfer.slot_access import SlotAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    segments: dict[Digest, ObjectInfo]
    manifests: dict[str, ObjectInfo]
    fingerprints: dict[str, ObjectInfo]
    """Fingerprint objects by packing uid."""
    revisions: dict[str, ObjectInfo]
    """Revisions of versions and stored disks, by key below the slot."""
    packs: dict[str, ObjectInfo]
    """Boot packs, by key below the slot."""
    start_markers: dict[str, ObjectInfo]
    """Start markers by work uid, listed after the segments.

    A work without a marker here had stored no listed segment.
    """


def read_gc_clock(installation: Installation, transaction: Transaction, slot: Slot, grace: timedelta) -> GcClock:
    """Read the time and the open works of a slot that decide on deletions."""
    return GcClock(
        now=transaction.now(),
        grace=grace,
        delete_bound=timedelta(seconds=installation.tuning.delete_seconds_max),
        writer_sequences=writer_sequences(transaction.works.list_open(slot.uid)),
    )


def find_named_segments(transaction: Transaction, slot: Slot, names: Sequence[Digest]) -> frozenset[Digest]:
    """Return the names that a manifest row of the slot contains, complete or not."""
    known = transaction.segments.find_ids(slot.key.pool_uid, names)
    ids = transaction.manifests.segment_ids_in_slot(slot.uid, complete_only=False)
    found = np.isin(np.array(list(known.values()), dtype=np.uint32), ids).tolist()
    return frozenset(name for name, is_named in zip(known, found, strict=True) if is_named)


def survey_slot(installation: Installation, slot: Slot, grace: timedelta) -> SlotSurvey:
    """Survey a slot. Nothing is changed.

    Raises:
        StoreError: the store does not answer, or a manifest that the catalog does not know cannot be read. Then the
            named segments are unknown.
    """
    access = installation.access(slot)
    listing = _list(access)
    with installation.catalog.reading() as transaction:
        works = transaction.works.list_open(slot.uid)
        rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
        ids = transaction.manifests.segment_ids_in_slot(slot.uid, complete_only=False)
        named = set(ids.tolist())
        closed_works = transaction.works.filter_closed(slot.uid, list(listing.start_markers))
        keeps_unknown = transaction.installation.get().keeps_unknown
        known = transaction.segments.find_ids(slot.key.pool_uid, listing.segments)
        packed_by = transaction.segments.work_uids(slot.key.pool_uid, ids) if listing.fingerprints else frozenset()
        marked = {each.name: each for each in transaction.deletion_marks.list(slot.uid)}
        clock = read_gc_clock(installation, transaction, slot, grace)
        unknown = _find_unknown(transaction, slot, listing.manifests, rows, works)
        complete = [row for row in rows if transaction.manifests.is_complete(row.uid)] if listing.fingerprints else []
        # An accepted catalog does not know some owners.
        old_revisions = {} if keeps_unknown else stale_slot_revisions(transaction, slot, listing.revisions)
    if keeps_unknown:
        listing = replace(listing, segments={name: info for name, info in listing.segments.items() if name in known})
    in_catalog = frozenset(name for name, number in known.items() if number in named)
    protected = frozenset().union(*(_read_segment_names(access, key) for key in unknown)) - in_catalog
    plan = plan_slot(
        listing.segments,
        in_catalog | protected,
        marked,
        marker_at=_first_start_at(listing, works),
        clock=clock,
    )
    open_uids = {work.uid for work in works}
    stale = {object_keys.work_key(uid): listing.start_markers[uid].stored_bytes for uid in closed_works}
    stale |= old_revisions
    packing = frozenset[str]().union(*map(object_keys.packing_uids, open_uids))
    # An accepted catalog does not know some works and their fingerprints, so all fingerprints stay.
    closed = {uid: info for uid, info in listing.fingerprints.items() if uid not in packing and not keeps_unknown}
    if closed and (plan.unreferenced or not closed.keys() <= packed_by):
        with suppress(StoreError):  # A manifest cannot be read, and may need fingerprints. So all stay.
            needed = _find_needed_packings(access, complete, unknown)
            stale |= {
                object_keys.fingerprints_key(uid): info.stored_bytes
                for uid, info in closed.items()
                if uid not in needed
            }
    if not keeps_unknown:
        stale |= _find_unneeded_packs(listing, rows)
    others = [
        *listing.manifests.values(),
        *listing.fingerprints.values(),
        *listing.start_markers.values(),
        *listing.revisions.values(),
        *listing.packs.values(),
    ]
    return SlotSurvey(
        slot=slot,
        segments=listing.segments,
        others=len(others),
        other_bytes=sum(info.stored_bytes for info in others),
        plan=plan,
        unknown_manifests=tuple(unknown),
        unknown_manifest_bytes={key: listing.manifests[key].stored_bytes for key in unknown},
        unaccounted_manifests={
            key: listing.manifests[key].stored_bytes for key in _find_unaccounted(rows) if key in listing.manifests
        },
        protected=protected,
        stale=stale,
        owners_with_revisions=frozenset(
            parsed[0] for key in listing.revisions if (parsed := object_keys.parse_owner_revision(key)) is not None
        ),
        oldest_work=works[0] if works else None,
    )


def list_manifests(access: SlotAccess) -> dict[str, ObjectInfo]:
    """List the manifests and references of a slot, by key below the slot."""
    return _list_keys(access, object_keys.MANIFESTS)


def unknown_manifests(transaction: Transaction, slot: Slot, listed: Iterable[str]) -> list[str]:
    """Return the manifests without a row. Leave out owners with an open work or with a deletion in progress.

    Args:
        transaction: a transaction that began after the listing.
        slot: the slot.
        listed: keys below the slot.
    """
    rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
    return _find_unknown(transaction, slot, listed, rows, transaction.works.list_open(slot.uid))


def _list_keys(access: SlotAccess, folder: str) -> dict[str, ObjectInfo]:
    return {folder + name: info for name, info in _list_folder(access, folder).items()}


def _list_folder(access: SlotAccess, folder: str) -> dict[str, ObjectInfo]:
    return {
        info.key.removeprefix(access.prefix).removeprefix(folder): info
        for info in access.store.list(access.prefix + folder)
    }


def _list(access: SlotAccess) -> _Listing:

    segments = {
        object_keys.segment_name(info.key): info
        for info in access.store.list(access.prefix + object_keys.SEGMENTS)
        if object_keys.is_segment_key(info.key)
    }
    return _Listing(
        segments=segments,
        manifests=list_manifests(access),
        fingerprints=_list_folder(access, object_keys.FINGERPRINTS),
        revisions=_list_keys(access, object_keys.OWNERS),
        packs=_list_keys(access, object_keys.PACKS),
        start_markers=_list_folder(access, object_keys.WORKS),
    )


def _find_unneeded_packs(listing: _Listing, rows: Iterable[ManifestRow]) -> dict[str, int]:
    """Return the stored bytes of boot packs without a manifest row, by key below the slot (invariant D18)."""
    needed = {object_keys.pack_key(row.digest) for row in rows}
    return {key: info.stored_bytes for key, info in listing.packs.items() if key not in needed}


def _first_start_at(listing: _Listing, works: list[Work]) -> datetime | None:
    return min(
        (listing.start_markers[work.uid].last_modified for work in works if work.uid in listing.start_markers),
        default=None,
    )


def _find_unknown(
    transaction: Transaction, slot: Slot, manifests: Iterable[str], rows: list[ManifestRow], works: list[Work]
) -> list[str]:
    """Return the manifests without a row. Leave out owners with an open work or with a deletion in progress."""
    known = {row.body_key for row in rows} | {object_keys.manifest_key(row.owner_uid, row.disk) for row in rows}
    at_work = {work.owner_uid for work in works}
    owner_of = {key: object_keys.manifest_owner(key) for key in manifests if key not in known}
    # After a crash between the deletion of the row and of the object, the repeated deletion removes the object.
    leaving = {
        replica.version_uid
        for replica in transaction.replicas.in_slot(slot.uid)
        if replica.state is ReplicaState.DELETING
    } | {
        uid for uid, state in transaction.disks.states_in_slot(slot.uid).items() if state is ProvisioningState.DELETING
    }
    return [key for key, owner in owner_of.items() if owner not in at_work | leaving]


def _find_unaccounted(rows: Iterable[ManifestRow]) -> frozenset[str]:
    """Return the keys of the manifests that rows name and no row accounts for."""
    accounted: dict[str, bool] = {}
    for row in rows:
        accounted[row.body_key] = accounted.get(row.body_key, False) or body_bytes(row) > 0
    return frozenset(key for key, is_accounted in accounted.items() if not is_accounted)


def _read_segment_names(access: SlotAccess, key: str) -> frozenset[Digest]:
    """Return the segments that an unknown manifest names. A reference names the segments of another manifest."""
    with suppress(ObjectNotFound):  # The manifest was deleted after the listing.
        data = access.get_object(key, ManifestCheck())
        if not data.startswith(REFERENCE_MAGIC):
            return frozenset(decode_manifest(data).segments.all_names())
    return frozenset()


def _find_needed_packings(access: SlotAccess, rows: list[ManifestRow], unknown: list[str]) -> frozenset[str]:
    """Return the packing uids of the fingerprints that a manifest of the slot names."""
    bodies = {row.body_key: row.digest for row in rows}
    manifests = [access.get_manifest(key, digest) for key, digest in bodies.items()]
    for key in unknown:
        data = access.get_object(key, ManifestCheck())
        if not data.startswith(REFERENCE_MAGIC):
            manifests.append(decode_manifest(data))
    return frozenset(work.uid for manifest in manifests for work in manifest.works)
