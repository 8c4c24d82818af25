"""Finish deletions that a dead process began, for any caller, with the rights of the system."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from imgstore.domain.errors import ImgstoreError, NotFound
from imgstore.domain.identity.access import administrator
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.operations.installation import Installation
from imgstore.operations.machines.machines import delete_machine
from imgstore.operations.scale_sets.scale_sets import delete_scale_set
from imgstore.operations.slots.removal import remove_disks, remove_version
from imgstore.transfer.spool import remove_spool


def finish_deletes(installation: Installation) -> int:
    """Finish the deletion of every machine, scale set, disk, snapshot, managed image and version in state Deleting.

    The deletion of such a resource was authorized, and the resource is invisible and cannot be restored. So the
    deletion is finished even if the caller has lost the right since. A resource in use, or in a store that does not
    answer, stays for the next call and delays no other deletion. May be called at any time, also while deletions run.

    Returns:
        The number of deletions that were finished.
    """
    with installation.catalog.reading() as transaction:
        scale_sets = [
            each
            for each in transaction.scale_sets.list_unfinished()
            if each.provisioning_state is ProvisioningState.DELETING
        ]
        machines, disks, versions = (
            transaction.machines.list_deleting(),
            transaction.disks.list_deleting(),
            transaction.versions.list_deleting(),
        )
    maintenance = administrator("imgstore maintenance")
    deletions: list[tuple[str, Callable[[], None]]] = []
    for machine in machines:
        home = replace(installation, subscription=machine.subscription)
        delete = partial(delete_machine, home, maintenance, group=machine.group, name=machine.name)
        deletions.append((machine.name, delete))
    for scale_set in scale_sets:
        home = replace(installation, subscription=scale_set.subscription)
        delete = partial(delete_scale_set, home, maintenance, group=scale_set.group, name=scale_set.name)
        deletions.append((scale_set.name, delete))
    deletions += [(disk.name, partial(_forget_disk, installation, disk)) for disk in disks]
    deletions += [(str(version.name), partial(remove_version, installation, version)) for version in versions]
    return sum(_finish(installation, name, delete) for name, delete in deletions)


def _forget_disk(installation: Installation, disk: ManagedDisk) -> None:
    remove_disks(installation, [disk], attached_to=disk.managed_by)
    remove_spool(installation.home, disk.uid)


def _finish(installation: Installation, name: str, delete: Callable[[], None]) -> bool:
    try:
        delete()
    except NotFound:  # Another process has finished the deletion.
        return False
    except ImgstoreError as error:
        installation.note(name, f"its deletion was not finished; its bytes stay for now: {error.message}")
        return False
    return True
