"""What lies in a slot, and what of it is named by whom: read from the store first and from the catalog then.

In this order, since whoever writes does it the other way round: a work is opened before its mark is laid, its mark
before its segments, a manifest's row is written before the manifest. So whatever was listed is either named or owned by
an open work in what the catalog says afterwards, or nobody's.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from imgstore.catalog import Transaction
from imgstore.domain.errors import ObjectNotFound, StoreError
from imgstore.domain.resources import ManifestRow, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Work
from imgstore.operations.installation import Installation
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
    """By what packed them."""
    marks: dict[str, ObjectInfo]
    """By work. PendingManifest after the segments: a work that has none here had put none of them."""


def read_gc_clock(installation: Installation, transaction: Transaction, slot: Slot, grace: timedelta) -> GcClock:
    """The present, as far as it matters to a slot."""
    return GcClock(
        now=transaction.now(),
        grace=grace,
        delete_bound=timedelta(seconds=installation.tuning.delete_seconds_max),
        writer_sequences=writer_sequences(transaction.works.list_open(slot.uid)),
    )


def survey_slot(installation: Installation, slot: Slot, grace: timedelta) -> SlotSurvey:
    """Look at a slot; nothing is changed.

    Raises:
        StoreError: its store does not answer, or a manifest that the catalog does not know can't be read: then nobody
            can tell what is named.
    """
    access = installation.access(slot)
    listing = _list(access)
    with installation.catalog.reading() as transaction:
        works = transaction.works.list_open(slot.uid)
        rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
        ids = transaction.manifests.segment_ids_in_slot(slot.uid, complete_only=False)
        named = set(ids.tolist())
        closed_works = transaction.works.filter_closed(slot.uid, list(listing.marks))
        keeps_unknown = transaction.installation.get().keeps_unknown
        known = transaction.segments.find_ids(slot.key.pool_uid, listing.segments)
        packed_by = transaction.segments.work_uids(slot.key.pool_uid, ids) if listing.fingerprints else frozenset()
        condemned = {each.name: each for each in transaction.deletion_marks.list(slot.uid)}
        clock = read_gc_clock(installation, transaction, slot, grace)
        strangers = _strangers(transaction, slot, listing.manifests, rows, works)
        complete = [row for row in rows if transaction.manifests.is_complete(row.uid)] if listing.fingerprints else []
    if keeps_unknown:
        listing = replace(listing, segments={name: info for name, info in listing.segments.items() if name in known})
    in_catalog = frozenset(name for name, number in known.items() if number in named)
    protected = frozenset().union(*(_names(access, key) for key in strangers)) - in_catalog
    plan = plan_slot(
        listing.segments,
        in_catalog | protected,
        condemned,
        marker_at=_first_mark(listing, works),
        clock=clock,
    )
    open_uids = {work.uid for work in works}
    stale = {object_keys.work_key(uid): listing.marks[uid].stored_bytes for uid in closed_works}
    packing = frozenset[str]().union(*map(object_keys.packing_uids, open_uids))
    # Those of works that an accepted catalog does not know are not told apart: all stay then.
    closed = {uid: info for uid, info in listing.fingerprints.items() if uid not in packing and not keeps_unknown}
    if closed and (plan.unreferenced or not closed.keys() <= packed_by):
        with suppress(StoreError):  # A manifest can't be read now: its fingerprints may be needed, so all stay.
            needed = _needed(access, complete, strangers)
            stale |= {
                object_keys.fingerprints_key(uid): info.stored_bytes
                for uid, info in closed.items()
                if uid not in needed
            }
    others = [*listing.manifests.values(), *listing.fingerprints.values(), *listing.marks.values()]
    return SlotSurvey(
        slot=slot,
        segments=listing.segments,
        others=len(others),
        other_bytes=sum(info.stored_bytes for info in others),
        plan=plan,
        unknown_manifests=tuple(strangers),
        unknown_manifest_bytes={key: listing.manifests[key].stored_bytes for key in strangers},
        protected=protected,
        stale=stale,
        oldest_work=works[0] if works else None,
    )


def list_manifests(access: SlotAccess) -> dict[str, ObjectInfo]:
    """List the manifests and references of a slot, by key below it."""
    return {object_keys.MANIFESTS + key: info for key, info in _below(access, object_keys.MANIFESTS).items()}


def unknown_manifests(transaction: Transaction, slot: Slot, listed: Iterable[str]) -> list[str]:
    """Return the manifests that no row accounts for, that no open work may have put, and whose owner is not on its way out.

    Args:
        transaction: read after the store was listed.
        slot: the slot.
        listed: keys below the slot.
    """
    rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
    return _strangers(transaction, slot, listed, rows, transaction.works.list_open(slot.uid))


def _below(access: SlotAccess, folder: str) -> dict[str, ObjectInfo]:
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
        fingerprints=_below(access, object_keys.FINGERPRINTS),
        marks=_below(access, object_keys.WORKS),
    )


def _first_mark(listing: _Listing, works: list[Work]) -> datetime | None:
    return min((listing.marks[work.uid].last_modified for work in works if work.uid in listing.marks), default=None)


def _strangers(
    transaction: Transaction, slot: Slot, manifests: Iterable[str], rows: list[ManifestRow], works: list[Work]
) -> list[str]:
    """Manifests that no row accounts for, but for those of an open work and those whose owner is being deleted."""
    known = {row.body_key for row in rows} | {object_keys.manifest_key(row.owner_uid, row.disk) for row in rows}
    at_work = {work.owner_uid for work in works}
    owner_of = {key: key.split("/")[1] for key in manifests if key not in known}
    # A deletion that was killed between row and object: its tombstone is there, and its repeat takes the object.
    leaving = {
        replica.version_uid
        for replica in transaction.replicas.in_slot(slot.uid)
        if replica.state is ReplicaState.DELETING
    } | {
        uid for uid, state in transaction.disks.states_in_slot(slot.uid).items() if state is ProvisioningState.DELETING
    }
    return [key for key, owner in owner_of.items() if owner not in at_work | leaving]


def _names(access: SlotAccess, key: str) -> frozenset[Digest]:
    """What a manifest that nobody knows names. A reference names what its replica's manifest does."""
    with suppress(ObjectNotFound):  # Gone since it was listed.
        data = access.get_object(key, ManifestCheck())
        if not data.startswith(REFERENCE_MAGIC):
            return frozenset(decode_manifest(data).segments.all_names())
    return frozenset()


def _needed(access: SlotAccess, rows: list[ManifestRow], strangers: list[str]) -> frozenset[str]:
    """What packed the fingerprints that a manifest of the slot names."""
    bodies = {row.body_key: row.digest for row in rows}
    manifests = [access.get_manifest(key, digest) for key, digest in bodies.items()]
    for key in strangers:
        data = access.get_object(key, ManifestCheck())
        if not data.startswith(REFERENCE_MAGIC):
            manifests.append(decode_manifest(data))
    return frozenset(work.uid for manifest in manifests for work in manifest.works)
