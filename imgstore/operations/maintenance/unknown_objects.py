"""List unknown objects of slots, and remove unknown objects on request after a grace period (invariant G12).

A PUT that arrives after the end of its work, or after the deletion of the owner, leaves a manifest without a row.
Garbage collection keeps the manifest and its segments, because another catalog may need both. A person can list such
objects, and can remove objects that were seen without an owner for the whole grace period. The removal is one recorded
request (invariant G14).
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
from imgstore.domain.storage import object_keys
from imgstore.operations.activity_log import record_activity
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
    """List the unknown objects of all slots, and record new unknown objects. Deletes nothing."""
    authorize(principal, Action.READ, INSTALLATION)
    return _survey_all(installation, grace)


def remove_unknown(installation: Installation, principal: Principal, *, grace: timedelta) -> list[SlotUnknownObjects]:
    """Remove the unknown objects after the grace period. May be repeated, and may be killed at any time.

    Segments that only these objects name become unreferenced, and are collected after a separate grace period.

    Args:
        installation: the installation.
        principal: an administrator.
        grace: the time from the first sight of an object without an owner to the removal.

    Raises:
        CatalogOutdated: the catalog is older than its buckets, or was accepted as such.
    """
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/gc/removeUnknown"):
        check_unknown_removable(installation)
        found = _survey_all(installation, grace)
        for each in found:
            removable = [one for one in each.objects if one.is_removable]
            for first in range(0, len(removable), DELETE_KEYS_MAX):
                _remove(installation, each, removable[first : first + DELETE_KEYS_MAX], grace)
        return found


def record_unknown(installation: Installation, slot: Slot, objects: Mapping[str, int]) -> None:
    """Record the unknown objects of a survey: stored bytes by key below the slot. The grace of new objects begins."""
    with installation.catalog.reading() as transaction:
        known = {each.key for each in transaction.unknown_objects.list(slot.uid)}
    if known != objects.keys():
        with installation.catalog.transaction() as transaction:
            transaction.slots.lock(slot.uid)
            transaction.unknown_objects.record(slot.uid, objects)


def _survey_all(installation: Installation, grace: timedelta) -> list[SlotUnknownObjects]:
    with installation.catalog.reading() as transaction:
        slots = transaction.slots.list_all()
    found = [_survey(installation, slot, grace) for slot in slots]
    return [each for each in found if each.objects or each.problem]


def _survey(installation: Installation, slot: Slot, grace: timedelta) -> SlotUnknownObjects:
    survey = SlotUnknownObjects(slot=slot)
    try:
        access = installation.access(slot)
        listed = list_manifests(access)
        with installation.catalog.reading() as transaction:
            unknown = unknown_manifests(transaction, slot, listed)
        record_unknown(installation, slot, {key: listed[key].stored_bytes for key in unknown})
        with installation.catalog.reading() as transaction:
            rows, now = transaction.unknown_objects.list(slot.uid), transaction.now()
            owners = {row.key: _find_owner(transaction, row.key) for row in rows}
    except ImgstoreError as error:  # The store fails, or regions.yaml does not contain the region any more.
        survey.problem = str(error)
        return survey
    for row in rows:
        report = UnknownObjectReport(
            object=row,
            last_modified=listed[row.key].last_modified if row.key in listed else now,
            known_for=now - row.first_seen_at,
            references=_read_references(installation, slot, row.key),
            removable_at=row.first_seen_at + grace,
            kept_reason=owners[row.key],
        )
        survey.objects.append(report)
    return survey


def _read_references(installation: Installation, slot: Slot, key: str) -> ObjectReferences:
    try:
        data = installation.access(slot).get_object(key, ManifestCheck())
        if data.startswith(REFERENCE_MAGIC):
            return ObjectReferences(body_key=decode_reference(data).body_key)
        segments = decode_manifest(data).segments
    except ObjectNotFound:
        return ObjectReferences(problem="the object was deleted after the listing")
    except ImgstoreError as error:
        return ObjectReferences(problem=error.message)
    return ObjectReferences(segments=len(segments.all_names()), stored_bytes=int(segments.stored_bytes.sum()))


def _find_owner(transaction: Transaction, key: str) -> str | None:
    """Return why an object may still be needed: the catalog contains the owner, or has lost rows.

    None if there is no reason.
    """
    if transaction.installation.get().keeps_unknown:
        return "the catalog was older than its buckets when it was accepted: a newer one may know the object"
    owner_uid = object_keys.manifest_owner(key)
    with suppress(NotFound):
        version = transaction.versions.by_uid(owner_uid)
        return f"version {version.name} exists: repeat its creation, or delete the version"
    with suppress(NotFound):
        disk = transaction.disks.by_uid(owner_uid)
        return f"{disk.kind.noun} {disk.name} exists: repeat its creation, or delete the {disk.kind.noun}"
    return None


def _remove(
    installation: Installation, found: SlotUnknownObjects, chosen: Sequence[UnknownObjectReport], grace: timedelta
) -> None:
    """Delete objects with one request.

    Each object is checked again under the slot lock, because owners write under this lock.
    """
    slot = found.slot
    recorded_at = installation.effects.monotonic()
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        now = transaction.now()
        seen = {row.key for row in transaction.unknown_objects.list(slot.uid) if row.first_seen_at + grace <= now}
        unknown = unknown_manifests(transaction, slot, [one.object.key for one in chosen])
        removable_keys = [key for key in unknown if key in seen and _find_owner(transaction, key) is None]
        deletion = record_deletion(installation, transaction, slot, removable_keys, recorded_at)
    try:
        send_deletion(installation, deletion)
    except (StoreError, LeaseLost) as error:
        found.problem = str(error)
        return
    with installation.catalog.transaction() as transaction:
        transaction.slots.lock(slot.uid)
        transaction.unknown_objects.remove(slot.uid, removable_keys)
    removed = set(removable_keys)
    found.objects = [replace(one, removed=True) if one.object.key in removed else one for one in found.objects]
    installation.note(str(slot.key), f"{len(removed)} unknown objects removed")
