"""Reports about recovery files and the recovery of a catalog as JSON."""

from collections.abc import Sequence

from imgstore.domain.recovery import (
    AdoptedResource,
    AdoptionReport,
    BucketAdoptionReport,
    LedgerRecovery,
    MissingManifest,
    RebuildReport,
    RecoveryFileReport,
    RefusedObject,
    RefusedResource,
)
from imgstore.wire.json_text import Json, instant


def recovery_file_json(report: RecoveryFileReport) -> Json:
    """Return a written or checked recovery file as JSON, without any key."""
    return {
        "path": str(report.path),
        "fileBytes": report.file_bytes,
        "writtenAt": instant(report.written_at),
        "installation": report.installation_uid,
        "keys": {
            "installation": 1,
            "pools": report.pools,
            "signingKeys": report.signing_keys,
            "ledgerKeys": report.ledger_keys,
        },
        "variables": list(report.variables),
        "storeCredentials": False,
        "current": report.is_current,
        "missingKeys": list(report.missing),
        "changedSettings": list(report.changed_settings),
    }


def rebuild_json(report: RebuildReport) -> Json:
    """Return the plan or the result of a rebuild as JSON."""
    return {
        "installation": report.installation_uid,
        "done": report.is_done,
        "complete": report.is_complete,
        "resources": dict(report.resources),
        "deletedResources": dict(report.deleted),
        "rows": dict(report.rows),
        "segments": report.segments,
        **_problems_json(report.refused, report.refused_resources, report.missing_manifests),
        "unfinishedManifests": report.unfinished_manifests,
        "newPoolKeys": list(report.new_pool_keys),
        "skippedZones": list(report.skipped_zones),
        "ledger": _ledger_json(report.ledger),
    }


def adoption_json(report: AdoptionReport) -> Json:
    """Return the plan or the result of an adoption as JSON."""
    return {
        "done": report.is_done,
        "complete": report.is_complete,
        "newerResources": len(report.resources),
        "newestChange": None if report.newest_at is None else instant(report.newest_at),
        "unknownCheckpoints": report.checkpoints,
        "newCharges": report.charges,
        "resources": [_adopted_json(each) for each in report.resources],
        **_problems_json(report.refused, report.refused_resources, report.missing_manifests),
        "newPoolKeys": list(report.new_pool_keys),
        "skippedZones": list(report.skipped_zones),
    }


def bucket_adoption_json(report: BucketAdoptionReport) -> Json:
    """Return the plan or the result of an adoption of buckets as JSON."""
    return {
        "done": report.is_done,
        "resumed": report.is_resumed,
        "complete": report.is_complete,
        "formerInstallation": report.former_uid,
        "regions": list(report.regions),
        "otherRegions": list(report.other_regions),
        "subscriptions": list(report.subscriptions),
        "ownSubscription": report.own_subscription,
        "counts": dict(report.counts),
        "storedBytes": report.stored_bytes,
        "lastChange": None if report.last_change_at is None else instant(report.last_change_at),
        "resources": [_adopted_json(each) for each in report.resources],
        "presentResources": report.present,
        "trimmedVersions": list(report.trimmed_versions),
        "unknownOwners": report.unknown_owners,
        "openWorks": list(report.open_works),
        **_problems_json(report.refused, report.refused_resources, report.missing_manifests),
        "newPoolKeys": list(report.new_pool_keys),
        "skippedZones": list(report.skipped_zones),
    }


def _adopted_json(each: AdoptedResource) -> Json:
    return {
        "kind": each.kind,
        "uid": each.uid,
        "name": each.name,
        "change": each.change,
        "changedAt": instant(each.changed_at),
    }


def _problems_json(
    refused: Sequence[RefusedObject], resources: Sequence[RefusedResource], missing: Sequence[MissingManifest]
) -> dict[str, Json]:
    return {
        "refusedObjects": [{"zone": each.place, "key": each.key, "reason": each.reason} for each in refused],
        "refusedResources": [{"kind": each.kind, "uid": each.uid, "reason": each.reason} for each in resources],
        "missingManifests": [
            {
                "kind": each.kind,
                "uid": each.owner_uid,
                "name": each.owner,
                "slot": each.slot,
                "disk": each.disk,
                "hasCopy": each.has_copy,
            }
            for each in missing
        ],
    }


def _ledger_json(ledger: LedgerRecovery) -> Json:
    return {
        "checkpoints": ledger.checkpoints,
        "charges": ledger.charges,
        "intervals": ledger.intervals,
        "lost": {
            "from": None if ledger.lost_since is None else instant(ledger.lost_since),
            "to": instant(ledger.lost_until),
        },
        "missingBefore": list(ledger.breaks),
        "openedIntervals": ledger.opened_intervals,
        "closedIntervals": ledger.closed_intervals,
    }
