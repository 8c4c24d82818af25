"""The state of an installation as JSON."""

from imgstore.domain.states import ReplicaState
from imgstore.domain.status import GalleryTotals, InstallationStatus, ReplicaStatus, ZoneStatus
from imgstore.wire.json_text import Json, instant
from imgstore.wire.responses.diagnosis import finding_json


def status_json(status: InstallationStatus) -> Json:
    """Return the state of all galleries, the unfinished replicas, the zones and the findings."""
    counts = status.counts
    return {
        "level": status.level.value,
        "time": instant(status.now),
        "catalog": status.place,
        "galleries": [_gallery_json(each) for each in status.galleries],
        "disks": counts.disks,
        "snapshots": counts.snapshots,
        "images": counts.images,
        "virtualMachines": counts.machines,
        "runningVirtualMachines": counts.running_machines,
        "unfinishedReplicas": status.unfinished,
        "queuedReplicas": status.queued,
        "queuedSince": None if status.queued_since is None else instant(status.queued_since),
        "replicas": [_replica_json(each) for each in status.replicas],
        "zones": [_zone_json(each) for each in status.zones],
        "findings": [finding_json(each) for each in status.findings],
    }


def _gallery_json(each: GalleryTotals) -> Json:
    return {
        "subscription": each.subscription,
        "resourceGroup": each.group,
        "gallery": each.gallery,
        "definitions": each.definitions,
        "versions": each.versions,
        "softDeletedVersions": each.soft_deleted,
        "replicas": {state.value: each.replicas.get(state, 0) for state in ReplicaState if state != "Deleting"},
    }


def _replica_json(each: ReplicaStatus) -> Json:
    replica = each.replica
    return {
        "level": each.level.value,
        "subscription": replica.subscription,
        "image": replica.image,
        "region": replica.region,
        "replica": replica.ordinal,
        "state": replica.state.value,
        "bytesDone": replica.bytes_done,
        "bytesTotal": replica.bytes_total,
        "bytesPerSecond": None if each.bytes_per_second is None else round(each.bytes_per_second),
        "remainingSeconds": None if each.remaining is None else round(each.remaining.total_seconds()),
        "attempts": replica.attempts,
        "retryTime": None if replica.retry_at is None else instant(replica.retry_at),
        "holder": replica.holder,
        "error": replica.error,
        "nextStep": each.next_step,
    }


def _zone_json(each: ZoneStatus) -> Json:
    return {
        "region": each.region,
        "zone": each.zone,
        "circuit": each.state.value,
        "since": None if each.since is None else instant(each.since),
        "observers": each.observers,
        "error": each.error,
    }
