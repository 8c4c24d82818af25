"""Machines in ARM's shape (Microsoft.Compute/virtualMachines of 2024-07-01); ``osState`` is ours."""

from typing import TYPE_CHECKING

from imgstore.domain.geometry import GIB
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.version_disks import default_caching
from imgstore.wire.text import Json, instant

if TYPE_CHECKING:
    from imgstore.operations.machines import MachineView


def machine_json(view: "MachineView") -> Json:
    """A machine with its disks."""
    machine = view.machine
    option = "Attach" if machine.image_reference is None else "FromImage"
    os_type = {} if machine.os_type is None else {"osType": machine.os_type.value}
    storage: dict[str, Json] = {
        "osDisk": os_type | _disk(view.os_disk, option),
        "dataDisks": [{"lun": each.machine_lun} | _disk(each, _option(each, view)) for each in view.data_disks],
    }
    if machine.image_reference is not None:
        storage = {"imageReference": {"id": machine.image_reference}} | storage
    profile = {"computerName": machine.computer_name, "adminUsername": machine.admin_username}
    return {
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
            "osState": machine.declared.os_state,
            "timeCreated": instant(machine.created_at),
            "provisioningState": machine.provisioning_state.value,
        },
    }


def _option(disk: ManagedDisk, view: "MachineView") -> str:
    """What was made for a machine bears its name."""
    made = disk.name == view.machine.disk_name(disk.machine_lun)
    return "FromImage" if made else "Attach"


def _disk(disk: ManagedDisk, option: str) -> dict[str, Json]:
    return {
        "name": disk.name,
        "createOption": option,
        "caching": default_caching(disk.machine_lun).value,
        "diskSizeGB": -(-disk.virtual_bytes // GIB),
        "managedDisk": {"id": disk.resource_id, "storageAccountType": disk.storage_account_type.value},
        "deleteOption": "Detach",
    }
