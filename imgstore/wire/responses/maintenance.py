"""Plans and results of garbage collection and scrub as JSON, with names in ARM's style."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from imgstore.policy.gc_plan import unleased_since
from imgstore.wire.json_text import Json

if TYPE_CHECKING:
    from imgstore.domain.reports import OwnerLoss, SlotScrub, SlotScrubStatus, SlotUnknownObjects, UnknownObjectReport
    from imgstore.domain.requests import ScrubRequest
    from imgstore.domain.resources import Slot
    from imgstore.domain.storage.works import Work
    from imgstore.policy.gc_plan import GcReport, SlotReport, SlotSurvey, UnfinishedDelete
    from imgstore.policy.old_versions import VersionSweep

LOST_RANGES_SHOWN_MAX: Final = 1_000
"""The number of lost ranges of a disk in an answer. A further field counts the others."""


def gc_report_json(collection: "GcReport", *, dry_run: bool) -> Json:
    """Return a garbage collection as JSON, with one entry per slot. Sizes are stored bytes."""
    return {
        "graceHours": collection.grace.total_seconds() / 3600,
        "dryRun": dry_run,
        "slots": [_slot_json(report) for report in collection.slots],
        "oldVersions": [_old_versions_json(each) for each in collection.old_versions],
        "abandonedWorks": [
            _work_json(work) | {"unleasedSince": unleased_since(work).isoformat()} for work in collection.abandoned
        ],
        "forgottenSegments": collection.removed_segment_rows,
        "forgottenPools": collection.removed_pools,
        "settledNotes": collection.resolved_notes,
    }


def _slot_json(report: "SlotReport") -> Json:
    survey = report.survey
    key = report.slot.key
    return {
        "pool": key.pool_uid,
        "poolKind": _pool_kind(report),
        "gallery": report.gallery,
        "subscription": report.subscription,
        "region": key.region,
        "storageAccountType": key.storage_account_type.value,
        "replica": key.ordinal,
        **({} if survey is None else _survey_json(survey)),
        "collected": _sum(report.freed),
        "keptAsOldVersions": _sum(report.kept) if report.kept else None,
        "problem": report.problem,
    }


def _old_versions_json(sweep: "VersionSweep") -> Json:
    return {
        "region": sweep.region,
        "zone": sweep.zone,
        "store": sweep.store,
        "versioning": sweep.versioning.state.value,
        "mfaDelete": sweep.versioning.mfa_delete,
        "removed": {"versions": sweep.removed, "storedBytes": sweep.removed_bytes},
        "kept": {"versions": sweep.kept, "storedBytes": sweep.kept_bytes, "deleteMarkers": sweep.kept_markers},
        "reasons": [{"versions": count, "reason": reason} for reason, count in sweep.reasons.most_common()],
        "problem": sweep.problem,
    }


def _pool_kind(report: "SlotReport") -> str:
    """Return the kind of a pool: of a gallery, of a deleted gallery, or of a subscription."""
    if report.subscription is not None:
        return "Subscription"
    return "DeletedGallery" if report.gallery is None else "Gallery"


def _survey_json(survey: "SlotSurvey") -> dict[str, Json]:
    plan = survey.plan
    return {
        "objects": len(survey.segments) + survey.others,
        "storedBytes": sum(info.stored_bytes for info in survey.segments.values()) + survey.other_bytes,
        "unreferenced": _sum(plan.unreferenced),
        "inGrace": _sum(plan.in_grace),
        "held": _sum(plan.held),
        "unfinishedDelete": None if plan.unfinished is None else _unfinished_json(plan.unfinished),
        "deletable": _sum({**_by_text(plan.deletable), **survey.stale}),
        "oldestOpenWork": None if survey.oldest_work is None else _work_json(survey.oldest_work),
        "unknownManifestCount": len(survey.unknown_manifests) or None,
        "unknownManifests": list(survey.unknown_manifests),
    }


def _unfinished_json(unfinished: "UnfinishedDelete") -> Json:
    return {
        "objects": unfinished.segments,
        "storedBytes": unfinished.stored_bytes,
        "takeoverAt": unfinished.takeover_at.isoformat(),
        "takeoverSeconds": round(unfinished.wait.total_seconds()),
    }


def _by_text(sizes: Mapping[bytes, int]) -> dict[str, int]:
    return {name.hex(): size for name, size in sizes.items()}


def _sum(sizes: Mapping[Any, int]) -> Json:
    return {"objects": len(sizes), "storedBytes": sum(sizes.values())}


def _work_json(work: "Work") -> dict[str, Json]:
    return {"kind": work.kind.value, "owner": work.owner_uid, "openedAt": work.opened_at.isoformat()}


def scrub_json(request: "ScrubRequest", slots: "Sequence[SlotScrub]") -> Json:
    """Return a scrub as JSON, with one entry per slot."""
    return {
        "samplePercent": request.percent,
        "seed": request.seed,
        "dryRun": request.dry_run,
        "slots": [_scrub_slot_json(each) for each in slots],
    }


def _scrub_slot_json(found: "SlotScrub") -> Json:
    key = found.slot.key
    return {
        "pool": key.pool_uid,
        "region": key.region,
        "storageAccountType": key.storage_account_type.value,
        "replica": key.ordinal,
        "objects": found.objects,
        "readBytes": found.read_bytes,
        "seconds": round(found.seconds, 3),
        "bytesPerSecond": found.bytes_per_second,
        "beganAt": None if found.began_at is None else found.began_at.isoformat(),
        "damaged": len(found.damaged),
        "repaired": len(found.repaired),
        "repairedBytes": found.repaired_bytes,
        "unrepairedCount": len(found.unrepaired),
        "unrepaired": found.unrepaired,
        "losses": [_loss_json(each) for each in found.losses],
        "restoredReplicas": found.restored,
        "unrestoredReplicaCount": len(found.unrestored),
        "unrestoredReplicas": list(found.unrestored),
        "problem": found.problem,
        "resumedFrom": None if found.resumed_from is None else found.resumed_from.isoformat(),
        "earlierObjects": found.earlier_objects,
    }


def _loss_json(loss: "OwnerLoss") -> Json:
    """Return the lost ranges of each disk of an owner. Offsets and lengths are bytes of the disk."""
    return {
        "id": loss.resource_id,
        "disks": [
            {
                "disk": disk.disk_key,
                "virtualBytes": disk.virtual_bytes,
                "lostBytes": disk.lost_bytes,
                "lostRanges": [
                    {"offset": each.offset, "length": each.length} for each in disk.lost[:LOST_RANGES_SHOWN_MAX]
                ],
                "moreLostRanges": max(0, len(disk.lost) - LOST_RANGES_SHOWN_MAX),
            }
            for disk in loss.disks
        ],
        "intactDisks": [disk.disk_key for disk in loss.disks if not disk.lost],
    }


def scrub_status_json(status: "SlotScrubStatus", now: datetime) -> Json:
    """Return the last scrub of a slot as JSON. `lastScrubbed` is the time when all objects had been read last."""
    key, last = status.slot.key, status.last
    complete_at = None if last is None else last.complete_at
    return {
        "pool": key.pool_uid,
        "region": key.region,
        "storageAccountType": key.storage_account_type.value,
        "replica": key.ordinal,
        "lastScrubbed": None if complete_at is None else complete_at.isoformat(),
        "ageSeconds": None if complete_at is None else max(0, round((now - complete_at).total_seconds())),
        "lastSample": None
        if last is None
        else {
            "samplePercent": last.percent,
            "objects": last.objects,
            "beganAt": last.began_at.isoformat(),
            "endedAt": last.ended_at.isoformat(),
        },
        "runningSince": min((each.began_at.isoformat() for each in status.running), default=None),
        "lostObjects": status.lost_objects,
        "losses": [_loss_json(each) for each in status.losses],
    }


def unknown_objects_json(slots: "Sequence[SlotUnknownObjects]", *, grace_days: float, dry_run: bool) -> Json:
    """Return the unknown objects of all slots, each with the named objects and the time of a possible removal."""
    return {
        "graceDays": grace_days,
        "dryRun": dry_run,
        "objects": [_unknown_object_json(each.slot, one) for each in slots for one in each.objects],
        "problems": [{"slot": str(each.slot.key), "problem": each.problem} for each in slots if each.problem],
    }


def _unknown_object_json(slot: "Slot", one: "UnknownObjectReport") -> Json:
    return {
        "pool": slot.key.pool_uid,
        "slot": str(slot.key),
        "key": one.object.key,
        "storedBytes": one.object.stored_bytes,
        "lastModified": one.last_modified.isoformat(),
        "firstSeenAt": one.object.first_seen_at.isoformat(),
        "seenSeconds": round(one.known_for.total_seconds()),
        "names": {
            "segments": one.references.segments,
            "storedBytes": one.references.stored_bytes,
            "manifest": one.references.body_key,
            "problem": one.references.problem,
        },
        "removableAt": one.removable_at.isoformat(),
        "removable": one.is_removable,
        "keptBecause": one.kept_reason,
        "removed": one.removed,
    }
