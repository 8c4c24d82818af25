"""Unknown objects of slots, listed for a person and removed at a person's word after a grace (invariant G12).

A PUT that arrives after its work was closed, or after its owner was deleted, leaves a manifest without a row. Collection
keeps it with all that it names, for it may belong to somebody. Here it is shown; and removed, once it was seen without an
owner for longer than the grace, by one recorded request (invariant G14).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import ImgstoreError, LeaseLost, NotFound, ObjectNotFound, StoreError
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.reports import ObjectReferences, SlotUnknownObjects, UnknownObjectReport
from imgstore.domain.resources import Slot
from imgstore.operations.activity_log import recorded
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc_survey import list_manifests, unknown_manifests
from imgstore.operations.slots.key_deletions import record_deletion, send_deletion
from imgstore.operations.stores.catalog_checks import check_unknown_removable
from imgstore.segments.manifest import ManifestCheck, decode_manifest
from imgstore.segments.reference import MAGIC as REFERENCE_MAGIC
from imgstore.segments.reference import decode_reference
from imgstore.stores.interface import DELETE_KEYS_MAX

UNKNOWN_GRACE_DAYS: Final = 7.0


def list_unknown(installation: Installation, principal: Principal, *, grace: timedelta) -> list[SlotUnknownObjects]:
    """List the unknown objects of all slots, and record those that were not seen before. Deletes nothing."""
    authorize(principal, Action.READ, INSTALLATION)
    return _looked_at(installation, grace)


def remove_unknown(installation: Installation, principal: Principal, *, grace: timedelta) -> list[SlotUnknownObjects]:
    """Remove the unknown objects whose grace has passed. May be repeated, and killed at any moment.

    What they alone named is unreferenced from here on, and collected after its own grace.

    Args:
        installation: the installation.
        principal: an administrator.
        grace: how long an object must have been seen without an owner.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or was once accepted as that.
    """
    with recorded(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/gc/removeUnknown"):
        check_unknown_removable(installation)
        found = _looked_at(installation, grace)
        for each in found:
            removable = [one for one in each.objects if one.is_removable]
            for first in range(0, len(removable), DELETE_KEYS_MAX):
                _remove(installation, each, removable[first : first + DELETE_KEYS_MAX], grace)
        return found


def record_unknown(installation: Installation, slot: Slot, objects: Mapping[str, int]) -> None:
    """Record what a survey saw of a slot: stored bytes by key below the slot. The grace of new ones begins."""
    with installation.catalog.reading() as transaction:
        known = {each.key for each in transaction.unknown_objects.list(slot.uid)}
    if known != objects.keys():
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            transaction.unknown_objects.record(slot.uid, objects)


def _looked_at(installation: Installation, grace: timedelta) -> list[SlotUnknownObjects]:
    with installation.catalog.reading() as transaction:
        slots = transaction.slots.list_all()
    found = [_look(installation, slot, grace) for slot in slots]
    return [each for each in found if each.objects or each.problem]


def _look(installation: Installation, slot: Slot, grace: timedelta) -> SlotUnknownObjects:
    looked = SlotUnknownObjects(slot=slot)
    try:
        access = installation.access(slot)
        listed = list_manifests(access)
        with installation.catalog.reading() as transaction:
            unknown = unknown_manifests(transaction, slot, listed)
        record_unknown(installation, slot, {key: listed[key].stored_bytes for key in unknown})
        with installation.catalog.reading() as transaction:
            rows, now = transaction.unknown_objects.list(slot.uid), transaction.now()
            owners = {row.key: _owner(transaction, row.key) for row in rows}
    except ImgstoreError as error:  # Its store does not answer, or regions.yaml no longer has it.
        looked.problem = str(error)
        return looked
    for row in rows:
        report = UnknownObjectReport(
            object=row,
            last_modified=listed[row.key].last_modified if row.key in listed else now,
            known_for=now - row.first_seen_at,
            references=_naming(installation, slot, row.key),
            removable_at=row.first_seen_at + grace,
            kept_reason=owners[row.key],
        )
        looked.objects.append(report)
    return looked


def _naming(installation: Installation, slot: Slot, key: str) -> ObjectReferences:
    try:
        data = installation.access(slot).get_object(key, ManifestCheck())
        if data.startswith(REFERENCE_MAGIC):
            return ObjectReferences(body_key=decode_reference(data).body_key)
        segments = decode_manifest(data).segments
    except ObjectNotFound:
        return ObjectReferences(problem="it is gone since it was listed")
    except ImgstoreError as error:
        return ObjectReferences(problem=error.message)
    return ObjectReferences(segments=len(segments.all_names()), stored_bytes=int(segments.stored_bytes.sum()))


def _owner(transaction: Transaction, key: str) -> str | None:
    """Tell who may still want an object: a version or disk of that uid stands in the catalog, or one that it lost."""
    if transaction.installation.get().keeps_unknown:
        return "the catalog was older than its buckets when it was accepted: a newer one may know the object"
    owner_uid = key.split("/")[1]
    with suppress(NotFound):
        version = transaction.versions.by_uid(owner_uid)
        return f"version {version.name} stands: repeat its create, or delete it"
    with suppress(NotFound):
        disk = transaction.disks.by_uid(owner_uid)
        return f"{disk.kind.noun} {disk.name} stands: repeat its create, or delete it"
    return None


def _remove(
    installation: Installation, found: SlotUnknownObjects, chosen: Sequence[UnknownObjectReport], grace: timedelta
) -> None:
    """Delete objects with one request. Each is looked at again under the slot's lock, in which owners are written."""
    slot = found.slot
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        now = transaction.now()
        seen = {row.key for row in transaction.unknown_objects.list(slot.uid) if row.first_seen_at + grace <= now}
        unknown = unknown_manifests(transaction, slot, [one.object.key for one in chosen])
        doomed = [key for key in unknown if key in seen and _owner(transaction, key) is None]
        deletion = record_deletion(installation, transaction, slot, doomed, recorded_at)
    try:
        send_deletion(installation, deletion)
    except (StoreError, LeaseLost) as error:
        found.problem = str(error)
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.unknown_objects.remove(slot.uid, doomed)
    gone = set(doomed)
    found.objects = [replace(one, removed=True) if one.object.key in gone else one for one in found.objects]
    installation.note(str(slot.key), f"{len(gone)} unknown objects removed")
