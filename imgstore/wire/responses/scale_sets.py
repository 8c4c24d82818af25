"""Scale sets and instances as JSON (Microsoft.Compute/virtualMachineScaleSets of 2024-07-01).

https://learn.microsoft.com/rest/api/compute/virtual-machine-scale-sets
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from imgstore.domain.disks.version_disks import OS_DISK, default_caching, lun_of
from imgstore.domain.identity.access import INSTANCES, SCALE_SETS
from imgstore.domain.machine_runs import MachineRun, PowerState
from imgstore.domain.names import shared_image_field
from imgstore.domain.rolling_updates import RollingUpdate, StepState
from imgstore.domain.states import ProvisioningState
from imgstore.domain.text.durations import format_iso_duration
from imgstore.domain.views import MachineView
from imgstore.policy.rolling import progress_of, status_of
from imgstore.wire.json_text import Json, instant
from imgstore.wire.requests.body_fields import place_field
from imgstore.wire.responses.machines import machine_json

if TYPE_CHECKING:
    from imgstore.domain.scale_sets import ScaleSet

_PROFILE: Final = "properties.virtualMachineProfile"
_TIER: Final = "Standard"


def scale_set_json(scale_set: "ScaleSet") -> Json:
    """Return a scale set."""
    body: dict[str, Json] = {
        "name": scale_set.name,
        "id": scale_set.resource_id,
        "type": SCALE_SETS,
        "location": scale_set.location,
        "tags": dict(scale_set.tags),
        "sku": {"name": scale_set.size, "tier": _TIER, "capacity": scale_set.capacity},
        "properties": {
            "singlePlacementGroup": False,
            "orchestrationMode": "Uniform",
            "upgradePolicy": {
                "mode": scale_set.upgrade_mode.value,
                "rollingUpgradePolicy": {
                    "maxBatchInstancePercent": scale_set.rolling.batch_percent,
                    "maxUnhealthyInstancePercent": scale_set.rolling.unhealthy_percent_max,
                    "maxUnhealthyUpgradedInstancePercent": scale_set.rolling.unhealthy_updated_percent_max,
                    "pauseTimeBetweenBatches": format_iso_duration(scale_set.rolling.pause_seconds),
                },
            },
            "virtualMachineProfile": {"storageProfile": _storage_json(scale_set)},
            "provisioningState": scale_set.provisioning_state.value,
            "overprovision": False,
            "uniqueId": scale_set.uid,
            "timeCreated": instant(scale_set.created_at),
        },
    }
    for path, value in scale_set.extra_properties.items():
        place_field(body, path, value)
    profile = body["properties"]["virtualMachineProfile"]
    if scale_set.admin_username is not None or scale_set.computer_name_prefix is not None:
        profile["osProfile"] = {
            **profile.get("osProfile", {}),
            "computerNamePrefix": scale_set.computer_name_prefix,
            "adminUsername": scale_set.admin_username,
        }
    return body


def _storage_json(scale_set: "ScaleSet") -> Json:
    """Return the storage profile of the model. Data disks without settings come from the image and are not shown."""
    field = shared_image_field(scale_set.image_reference) or "id"
    reference: dict[str, Json] = {field: scale_set.image_reference}
    if scale_set.source_reference != scale_set.image_reference:
        reference["exactVersion"] = scale_set.source_reference.rpartition("/")[2]
    os_type = {} if scale_set.os_type is None else {"osType": scale_set.os_type.value}
    disks = {key: scale_set.attachments.get(key) for key in (OS_DISK, *sorted(scale_set.attachments))}
    shown = {
        key: {
            "createOption": "FromImage",
            "caching": ((None if settings is None else settings.caching) or default_caching(lun_of(key))).value,
            "deleteOption": "Delete",
        }
        for key, settings in disks.items()
    }
    data = [{"lun": lun_of(key)} | each for key, each in shown.items() if key != OS_DISK]
    return {"imageReference": reference, "osDisk": os_type | shown[OS_DISK]} | ({"dataDisks": data} if data else {})


def instance_json(view: MachineView, scale_set: "ScaleSet") -> Json:
    """Return an instance of a scale set."""
    machine = view.machine
    body = machine_json(view)
    properties = {name: value for name, value in body["properties"].items() if name != "osState"}
    return {
        **body,
        "type": INSTANCES,
        "instanceId": str(machine.instance_id),
        "sku": {"name": machine.size, "tier": _TIER},
        "properties": {
            "latestModelApplied": machine.image_reference == scale_set.source_reference
            and machine.size == scale_set.size,
            "modelDefinitionApplied": "VirtualMachineScaleSet",
            **properties,
        },
    }


def set_instance_view_json(
    scale_set: "ScaleSet", instances: Iterable[tuple[ProvisioningState, MachineRun | None]]
) -> Json:
    """Return the instance view of a scale set: the numbers of instances by status.

    Args:
        scale_set: the scale set.
        instances: the provisioning state and the observed last start of each instance.
    """
    counts = Counter[str]()
    for provisioning, run in instances:
        counts[f"ProvisioningState/{provisioning.value.lower()}"] += 1
        counts[f"PowerState/{PowerState.DEALLOCATED if run is None else run.state}"] += 1
    state = scale_set.provisioning_state.value
    status = {"code": f"ProvisioningState/{state.lower()}", "level": "Info"}
    return {
        "virtualMachine": {
            "statusesSummary": [{"code": code, "count": count} for code, count in sorted(counts.items(), reverse=True)]
        },
        "statuses": [status | {"displayStatus": f"Provisioning {state.lower()}"}],
    }


def rolling_update_json(scale_set: "ScaleSet", update: RollingUpdate) -> Json:
    """Return the status of the last rolling update (VirtualMachineScaleSetRollingUpgrades_GetLatest)."""
    status = status_of(update.steps, continues_on_failure=update.continues_on_failure, is_cancelled=update.is_cancelled)
    counts = progress_of(update.steps)
    failed = [each for each in update.steps if each.state is StepState.FAILED]
    action = "Cancel" if update.is_cancelled else "Start"
    error = {
        "code": "RollingUpgradeFailed",
        "message": "; ".join(f"instance {each.instance_id}: {each.reason}" for each in failed),
        "details": [
            {"code": "InstanceUpgradeFailed", "target": str(each.instance_id), "message": each.reason}
            for each in failed
        ],
    }
    return {
        "name": "latest",
        "id": f"{scale_set.resource_id}/rollingUpgrades/latest",
        "type": f"{SCALE_SETS}/rollingUpgrades",
        "location": scale_set.location,
        "properties": {
            "policy": {"maxBatchInstancePercent": update.batch_size.percent_of(len(update.steps))},
            "runningStatus": {
                "code": status.value,
                "startTime": instant(update.started_at),
                "lastAction": action,
                "lastActionTime": instant(update.changed_at),
            },
            "progress": {
                "successfulInstanceCount": counts.succeeded,
                "failedInstanceCount": counts.failed,
                "inProgressInstanceCount": counts.in_progress,
                "pendingInstanceCount": counts.pending,
            },
            **({"error": error} if failed else {}),
        },
    }
