"""Reports without an Azure resource: exports, inspections, verifications and regions. Names follow ARM's style."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from imgstore.domain.reports import BenchPlan, BenchReport, QuickstartSummary, Verification, WorkerReport
from imgstore.domain.views import Export
from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:  # JSON needs no image formats and no stores at run time
    from imgstore.catalog import ActivityRow
    from imgstore.domain.storage.circuits import ZoneHealth
    from imgstore.domain.storage.works import Worker
    from imgstore.formats import Inspection
    from imgstore.regions import Region, ZoneReport
    from imgstore.stores.access import StoreAccess
    from imgstore.stores.interface import StoreProperties


def export_json(export: "Export") -> Json:
    """Return an exported disk as JSON."""
    return {
        "path": str(export.path),
        "format": export.format.value,
        "virtualBytes": export.virtual_bytes,
        "fileBytes": export.file_bytes,
        "diskDigest": export.disk_digest.hex(),
        "source": export.source,
        "replica": export.replica,
    }


def inspection_json(inspection: "Inspection") -> Json:
    """Return the inspection of an image file as JSON."""
    generation = inspection.generation
    return {
        "location": inspection.location,
        "format": inspection.format.value,
        "virtualBytes": inspection.virtual_bytes,
        "fileBytes": inspection.file_bytes,
        "dataBytes": inspection.data_bytes,
        "hyperVGeneration": None if generation is None else generation.value,
        "azure": {"ready": inspection.azure_ready, "reasons": list(inspection.azure_reasons)},
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in inspection.checks],
        "notes": list(inspection.notes),
    }


def verification_json(verification: Verification) -> Json:
    """Return the comparison of a file with a stored disk."""
    return {
        "matches": verification.matches,
        "path": str(verification.path),
        "image": verification.image,
        "file": {
            "virtualBytes": verification.file_virtual_bytes,
            "diskDigest": verification.file_disk_digest.hex(),
        },
        "stored": {
            "virtualBytes": verification.image_virtual_bytes,
            "diskDigest": verification.image_disk_digest.hex(),
        },
        "firstDifference": verification.first_difference,
    }


def quickstart_json(summary: QuickstartSummary) -> Json:
    """Return the result of the quickstart."""
    return {
        "group": summary.group,
        "virtualBytes": summary.virtual_bytes,
        "firstDeliveredBytes": summary.first_delivered_bytes,
        "secondDeliveredBytes": summary.second_delivered_bytes,
        "wholeCopiesBytes": summary.whole_copies_bytes,
        "replicasUsed": list(summary.replicas_used),
        "identical": summary.identical,
    }


def bench_plan_json(plan: BenchPlan) -> Json:
    """Return the plan of a benchmark with the maximum cost."""
    return {
        "group": plan.group,
        "location": plan.source,
        "targetRegions": list(plan.targets),
        "virtualBytes": plan.virtual_bytes,
        "dataBytes": plan.data_bytes,
        "atMost": {
            "deliveredBytes": plan.egress_bytes_max,
            "egress": plan.egress_price_max,
            "storedBytes": plan.stored_bytes_max,
            "storagePerMonth": plan.storage_price_per_month_max,
            "currency": plan.currency,
        },
    }


def bench_json(report: BenchReport) -> Json:
    """Return the measurements of a benchmark."""
    return bench_plan_json(report.plan) | {
        "uploadSeconds": round(report.upload_seconds, 3),
        "regions": [
            {
                "region": each.region,
                "replicateSeconds": None if each.replicate_seconds is None else round(each.replicate_seconds, 3),
                "deliveredBytes": each.delivered_bytes,
                "placementSeconds": round(each.placement_seconds, 4),
                "firstReadSeconds": round(each.first_read_seconds, 4),
                "diskSeconds": round(each.disk_seconds, 3),
            }
            for each in report.regions
        ],
        "removedObjects": report.removed_objects,
    }


def worker_json(worker: "Worker") -> Json:
    """Return a live worker as JSON."""
    host, _, pid, _ = [*worker.holder.split("/"), "", "", ""][:4]
    return {
        "id": worker.uid,
        "host": host,
        "pid": int(pid) if pid.isdecimal() else None,
        "startedAt": instant(worker.started_at),
        "seenAt": instant(worker.seen_at),
        "replicas": worker.works,
        "codeRevision": worker.code_revision,
    }


def activity_json(row: "ActivityRow") -> Json:
    """Return an operation in the format of Azure's activity log."""
    parts = row.scope.split("/")
    above = dict(zip(parts[1::2], parts[2::2], strict=False))
    return {
        "eventTimestamp": instant(row.started_at),
        "endTimestamp": instant(row.finished_at),
        "caller": row.principal,
        "operationName": {"value": row.action},
        "status": {"value": row.outcome},
        "description": (row.detail or "") + (f" (repeated {row.repeats} times)" if row.repeats else ""),
        "resourceId": row.scope,
        "resourceGroupName": above.get("resourceGroups"),
        "subscriptionId": above.get("subscriptions"),
    }


def worker_report_json(report: WorkerReport) -> Json:
    """Return the work that a worker did, and the replicas that still wait."""
    return {
        "completed": report.completed,
        "failed": [{"replica": uid, "error": error} for uid, error in report.failed.items()],
        "resting": report.waiting_for_retry,
        "nextRetryAt": None if report.next_retry_at is None else instant(report.next_retry_at),
        "versionsWithoutSource": report.without_source,
    }


def region_json(region: "Region") -> Json:
    """Return a region of the installation."""
    return {
        "name": region.name,
        "displayName": region.display_name,
        "policy": region.policy.value,
        "storageAccountTypes": [kind.value for kind in region.storage_account_types],
        "bucket": region.bucket,
        "zones": [{"name": zone.name, "endpoint": zone.endpoint, "bucket": zone.bucket} for zone in region.zones],
    }


def zone_json(report: "ZoneReport", circuits: "Sequence[ZoneHealth]" = (), now: datetime | None = None) -> Json:
    """Return the state of one zone of a region.

    Args:
        report: The result of the current check.
        circuits: The last result of each observer.
        now: The time from which ages count.
    """
    return {
        "region": report.region,
        "zone": report.zone,
        "store": report.store,
        "ready": report.problem is None,
        "reachable": report.reachable,
        "bucketExists": report.bucket_exists,
        "marked": report.marked,
        "answerSeconds": None if report.answer_seconds is None else round(report.answer_seconds, 4),
        "properties": None if report.properties is None else _properties_json(report.properties),
        "problem": report.problem,
        **({} if report.access is None else _access_json(report.access)),
        "circuit": max(circuits, key=lambda each: each.avoided).state.value if circuits else "closed",
        "circuits": [] if now is None else [_circuit_json(each, now) for each in circuits],
    }


def _access_json(access: "StoreAccess") -> dict[str, Json]:
    return {
        "versioning": access.versioning.state.value,
        "mfaDelete": access.versioning.mfa_delete,
        "objectLock": access.object_lock,
        "missingRights": access.missing_rights,
        "warnings": access.warnings,
    }


def _circuit_json(health: "ZoneHealth", now: datetime) -> Json:
    return {
        "observer": health.observer,
        "state": health.state.value,
        "since": instant(now - timedelta(seconds=health.since_seconds)),
        "failures": health.failures,
        "nextProbe": instant(now + timedelta(seconds=health.probe_seconds)) if health.avoided else None,
        "lastError": health.error,
    }


def _properties_json(properties: "StoreProperties") -> Json:
    return {
        "verifiesChecksum": properties.verifies_checksum,
        "serverSideCopy": properties.server_side_copy,
        "atomicCreate": properties.atomic_create,
    }
