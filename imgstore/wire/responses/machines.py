"""Machines as JSON (Microsoft.Compute/virtualMachines of 2024-07-01). The field ``osState`` belongs to imgstore."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from imgstore.domain.disks.disk_details import SKU
from imgstore.domain.machine_runs import PowerState
from imgstore.domain.names import shared_image_field
from imgstore.domain.resources import ManagedDisk, OsType
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import GIB
from imgstore.domain.views import MachineView
from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:
    from imgstore.domain.machine_runs import MachineRun
    from imgstore.domain.machines import Machine

_OF_A_GALLERY: Final = "/versions/"


def machine_json(view: "MachineView") -> Json:
    """Return a machine with its disks."""
    machine = view.machine
    option = "Attach" if machine.image_reference is None else "FromImage"
    os_type = {} if machine.os_type is None else {"osType": machine.os_type.value}
    storage: dict[str, Json] = {
        "osDisk": os_type | _disk(machine, view.os_disk, option),
        "dataDisks": [
            {"lun": each.machine_lun} | _disk(machine, each, _option(each, view)) for each in view.data_disks
        ],
    }
    if machine.image_reference is not None:
        field = shared_image_field(machine.image_reference) or "id"
        storage = {"imageReference": {field: machine.image_reference}} | storage
    profile = {"computerName": machine.computer_name, "adminUsername": machine.admin_username}
    body: dict[str, Json] = {
        "name": machine.name,
        "id": machine.resource_id,
        "type": "Microsoft.Compute/virtualMachines",
        "location": machine.location,
        "tags": dict(machine.tags),
        "properties": {
            "vmId": machine.uid,
            "hardwareProfile": {"vmSize": machine.size},
            "storageProfile": storage,
            **({} if machine.admin_username is None else {"osProfile": profile}),
            "osState": machine.os_properties.os_state,
            "timeCreated": instant(machine.created_at),
            "provisioningState": machine.provisioning_state.value,
        },
    }
    for path, value in machine.extra_properties.items():
        _place(body, path, value)
    _add_os_defaults(body, machine)
    body["etag"] = f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"'
    return _with_exact_version(body, machine)


def _place(body: dict[str, Json], path: str, value: Json) -> None:
    """Insert a stored field. The user name and the computer name come from columns of their own."""
    *above, name = path.split(".")
    here = body
    for each in above:
        here = here.setdefault(each, {})
    if path == "properties.osProfile":
        value = {**value, **here.get(name, {})}
    here[name] = value


_PATCHES: Final = {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"}
_OS_DEFAULTS: Final[Mapping[OsType, Mapping[str, Json]]] = {
    OsType.LINUX: {
        "linuxConfiguration": {
            "disablePasswordAuthentication": False,
            "provisionVMAgent": True,
            "patchSettings": _PATCHES,
        }
    },
    OsType.WINDOWS: {
        "windowsConfiguration": {
            "provisionVMAgent": True,
            "enableAutomaticUpdates": True,
            "patchSettings": _PATCHES | {"patchMode": "AutomaticByOS"},
        }
    },
}
_PROFILE_DEFAULTS: Final[Mapping[str, Json]] = {
    "secrets": [],
    "allowExtensionOperations": True,
    "requireGuestProvisionSignal": True,
}


def _add_os_defaults(body: dict[str, Json], machine: "Machine") -> None:
    """Add Azure's defaults to an OS profile. imgstore runs no agent, so nothing depends on the values."""
    properties = body["properties"]
    if "osProfile" not in properties:
        return
    of_system = {} if machine.os_type is None else _OS_DEFAULTS[machine.os_type]
    properties["osProfile"] = _with_defaults(properties["osProfile"], {**of_system, **_PROFILE_DEFAULTS})


def _with_defaults(value: Mapping[str, Json], defaults: Mapping[str, Json]) -> dict[str, Json]:
    """Return an object with the defaults of missing members, at each level. Names match without case."""
    names = {name.lower(): name for name in value}
    whole = dict(value)
    for name, default in defaults.items():
        found = names.get(name.lower())
        if found is None:
            whole[name] = _with_defaults({}, default) if isinstance(default, Mapping) else default
        elif isinstance(default, Mapping) and isinstance(value[found], Mapping):
            whole[found] = _with_defaults(value[found], default)
    return whole


def _with_exact_version(body: dict[str, Json], machine: "Machine") -> Json:
    """Add the version that `latest` selected. Azure shows the version beside the requested reference."""
    if machine.image_reference is not None and _OF_A_GALLERY in machine.image_reference.lower():
        storage = body["properties"]["storageProfile"]
        exact = machine.image_reference.rpartition("/")[2]
        storage["imageReference"] = {**storage["imageReference"], "exactVersion": exact}
    return body


def run_json(name: str, run: "MachineRun") -> Json:
    """Return the last start of a machine."""
    return {
        "name": name,
        "powerState": f"VM {run.state}",
        "host": run.host_name,
        "accelerator": run.accelerator,
        "forwards": [str(each) for each in run.forwards],
        "reason": run.reason,
        "timeStarted": instant(run.started_at),
    }


def power_json(run: "MachineRun | None") -> dict[str, Json]:
    """Return the field that az's option ``--show-details`` adds. A machine without a run is deallocated."""
    return {"powerState": f"VM {PowerState.DEALLOCATED if run is None else run.state}"}


def instance_view_json(view: "MachineView", run: "MachineRun | None" = None) -> Json:
    """Return the instance view. A machine without a run is deallocated.

    Args:
        view: the machine with its disks.
        run: the observed last start.
    """
    machine = view.machine
    power = PowerState.DEALLOCATED if run is None else run.state
    message = {} if run is None or run.reason is None else {"message": run.reason}
    generation = {} if machine.hyper_v_generation is None else {"hyperVGeneration": machine.hyper_v_generation.value}
    name = {} if machine.computer_name is None else {"computerName": machine.computer_name}
    generalized = [_status("OSState/generalized", "VM generalized")] if machine.generalized else []
    return {
        **name,
        **generation,
        "disks": [
            {"name": each.name, "statuses": [_provisioning_status(each.provisioning_state)]} for each in view.disks
        ],
        "statuses": [
            _provisioning_status(machine.provisioning_state),
            *generalized,
            _status(f"PowerState/{power}", f"VM {power}") | message,
        ],
    }


def _provisioning_status(state: ProvisioningState) -> Json:
    return _status(f"ProvisioningState/{state.value.lower()}", f"Provisioning {state.value.lower()}")


def _status(code: str, displayed: str) -> Json:
    return {"code": code, "level": "Info", "displayStatus": displayed}


def _option(disk: ManagedDisk, view: "MachineView") -> str:
    """Return the create option. A disk with the default name of the machine's disk was created for the machine."""
    made = disk.name == view.machine.disk_name(disk.machine_lun)
    return "FromImage" if made else "Attach"


def _disk(machine: "Machine", disk: ManagedDisk, option: str) -> dict[str, Json]:
    return {
        "name": disk.name,
        "createOption": option,
        "caching": machine.caching(disk.machine_lun).value,
        "diskSizeGB": -(-disk.virtual_bytes // GIB),
        "managedDisk": {
            "id": disk.resource_id,
            "storageAccountType": disk.extra_properties.get(SKU, disk.storage_account_type.value),
        },
        "deleteOption": "Delete" if machine.attachment(disk.machine_lun).deleted_with_machine else "Detach",
    }
