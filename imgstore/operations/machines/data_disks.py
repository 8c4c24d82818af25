"""Attach data disks to machines, and detach them. A machine that runs on this host gets and loses the disks at once.

The rows change first, in one transaction (invariant V7). Then the supervisor of the machine plugs and unplugs. If that fails, the rows change
back. After a crash between the two steps, the supervisor follows the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.version_disks import LUN_MAX, check_luns, disk_key, lun_of
from imgstore.domain.errors import Conflict, HostFault, NotFound, PropertyChangeNotAllowed
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.machines import MACHINE, Machine, free_luns
from imgstore.domain.requests import MachineRequest
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import MachineView
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.changed_blocks import find_changes
from imgstore.operations.disks.sources import list_candidate_ids, source_not_found
from imgstore.operations.installation import Installation
from imgstore.operations.machines.machines import check_ready, view_of_machine
from imgstore.operations.machines.running import apply_disks, check_disks_changeable

_WHAT: Final = "virtual machine"
_DATA_DISKS: Final = "properties.storageProfile.dataDisks"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMoves:
    """Disks that a transaction attached to a machine or detached, as they are afterwards and were before."""

    attached: Sequence[ManagedDisk] = ()
    detached: Sequence[ManagedDisk] = ()


NO_MOVES: Final = DiskMoves()


def attach_disk(
    installation: Installation, principal: Principal, *, group: str, name: str, disk: str, lun: int | None = None
) -> MachineView:
    """Attach a managed disk to a machine as a data disk. A disk that is attached at the LUN stays unchanged.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the machine.
        disk: the name or id of the disk.
        lun: the LUN. None chooses the lowest free LUN.

    Raises:
        Conflict: the disk or the LUN is in use, or the machine runs on another host.
        InvalidInput: the disk does not exist, or is in another region.
        HostFault: QEMU refuses the disk.
    """
    check_luns([] if lun is None else [lun])
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_activity(installation, principal, Action.WRITE, scope):
        with installation.catalog.transaction() as transaction:
            machine = _lock(installation, transaction, group, name)
            found = find_attachable(installation, principal, transaction, group, disk, machine.location)
            there = transaction.disks.list_attached(machine.resource_id)
            moves = NO_MOVES
            present = next((each for each in there if each.uid == found.uid), None)
            if present is None or (lun is not None and present.machine_lun != lun):
                luns = {each.machine_lun for each in there if each.machine_lun is not None}
                moves = DiskMoves(attached=[_attach_at(transaction, machine, found, luns, lun)])
        apply_moves(installation, machine, moves)
        with installation.catalog.reading() as transaction:
            return view_of_machine(transaction, machine)


def detach_disk(installation: Installation, principal: Principal, *, group: str, name: str, disk: str) -> MachineView:
    """Detach a data disk of a machine. The changed blocks stay on this host, for the next machine with the disk.

    Raises:
        NotFound: no data disk of the machine has this name.
        Conflict: the disk is the OS disk, or the machine runs on another host.
        HostFault: the guest keeps the disk.
    """
    scope = names.compute_id(installation.subscription, group, MACHINE, name)
    with record_activity(installation, principal, Action.WRITE, scope):
        with installation.catalog.transaction() as transaction:
            machine = _lock(installation, transaction, group, name)
            (named,) = list_candidate_ids(installation, group, disk, (DiskKind.DISK,)) or (None,)
            there = transaction.disks.list_attached(machine.resource_id)
            wanted = "" if named is None else named.resource_id.lower()
            found = next((each for each in there if each.resource_id.lower() == wanted), None)
            if found is None:
                raise NotFound(
                    f"The disk '{disk}' is not attached to the virtual machine '{name}'.",
                    found=", ".join(each.name for each in there) or "no disks",
                    expected="a data disk of the machine",
                    hint=f"`imgstore vm show -g {group} -n {name}` lists the disks",
                    target=disk,
                )
            if found.machine_lun is None:
                raise Conflict(
                    f"The disk '{disk}' is the OS disk of the virtual machine '{name}'.",
                    found="the OS disk",
                    expected="a data disk",
                    hint="delete the machine: its disks stay",
                    target=disk,
                    code="OperationNotAllowed",
                )
            machine = _detach_row(principal, transaction, machine, found)
        apply_moves(installation, machine, DiskMoves(detached=[found]))
        changes = find_changes(installation.home, found.uid)
        if changes.exists():
            installation.note(f"disk {found.name}", f"the blocks that guests changed stay on this host, in {changes}")
        with installation.catalog.reading() as transaction:
            return view_of_machine(transaction, machine)


def move_disks(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    machine: Machine,
    request: MachineRequest,
) -> DiskMoves:
    """Attach and detach the data disks that a request names for an existing machine. Call `apply_moves` after the transaction.

    Raises:
        Conflict: a disk is attached to another machine, or the machine runs on another host.
        PropertyChangeNotAllowed: a disk would get another LUN, or a LUN another disk.
    """
    there = {each.machine_lun: each for each in transaction.disks.list_attached(machine.resource_id)}
    present = {each.resource_id.lower(): each for each in there.values()}
    attached: list[ManagedDisk] = []
    for lun, word in disks_at_luns(request).items():
        found = find_attachable(installation, principal, transaction, request.group, word, machine.location)
        known = present.get(found.resource_id.lower())
        if known is not None and known.machine_lun == lun:
            continue
        if known is not None or lun in there:
            raise PropertyChangeNotAllowed(
                _DATA_DISKS,
                found=f"'{word}' to be attached at LUN {lun}",
                expected=f"the disk at LUN {known.machine_lun}" if known is not None else "a free LUN",
                hint="detach the disk first, then attach the disk",
            )
        luns = {each for each in there if each is not None} | {each.machine_lun or 0 for each in attached}
        _check_movable(transaction, machine, attached)
        attached.append(_attach_at(transaction, machine, found, luns, lun))
    detached: list[ManagedDisk] = []
    if request.replaces_disks:
        for disk in there.values():
            if disk.machine_lun is not None and disk_key(disk.machine_lun) not in request.disks:
                _check_movable(transaction, machine, [*attached, *detached])
                machine = _detach_row(principal, transaction, machine, disk)
                detached.append(disk)
    return DiskMoves(attached=attached, detached=detached)


def apply_moves(installation: Installation, machine: Machine, moves: DiskMoves) -> None:
    """Plug and unplug moved disks in a machine that runs here. After a failure the rows are as before.

    Raises:
        HostFault: a disk cannot be plugged or unplugged.
    """
    if not moves.attached and not moves.detached:
        return
    try:
        apply_disks(installation, machine)
    except HostFault:
        with installation.catalog.transaction() as transaction:
            transaction.machines.lock(machine.uid)
            for each in moves.attached:
                transaction.disks.detach(machine.resource_id, each.uid)
            for each in moves.detached:
                transaction.disks.attach(each.uid, machine.resource_id, each.machine_lun)
        raise


def disks_at_luns(request: MachineRequest) -> dict[int, str]:
    """Return the managed disks to attach at the requested LUNs."""
    named = {lun_of(key): asked.attach for key, asked in request.disks.items()}
    return {lun: word for lun, word in named.items() if lun is not None and word is not None}


def find_attachable(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    group: str,
    word: str,
    region: str | None,
) -> ManagedDisk:
    """Return a managed disk that is ready and that the principal may change, in the region if there is one."""
    (named,) = list_candidate_ids(installation, group, word, (DiskKind.DISK,)) or (None,)
    if named is None:
        raise source_not_found(word, "a path, not a managed disk's name or id", what=_WHAT)
    authorize(principal, Action.WRITE, named.resource_id)
    found = transaction.disks.get(named.subscription, named.group, named.name)
    if found is None or found.provisioning_state is not ProvisioningState.SUCCEEDED:
        raise source_not_found(word, "no managed disk of that name that is ready", what=_WHAT)
    if region not in (None, found.location):
        raise source_not_found(word, f"it is in {found.location}", what=_WHAT, region=region)
    return found


def attach_row(transaction: Transaction, machine: Machine, disk: ManagedDisk, lun: int | None) -> None:
    """Attach a disk in the catalog.

    Raises:
        Conflict: the disk is attached to a machine.
    """
    if not transaction.disks.attach(disk.uid, machine.resource_id, lun):
        owner = transaction.disks.by_uid(disk.uid).managed_by
        raise Conflict(
            f"Disk '{disk.name}' cannot be attached as the disk is already owned by VM '{owner}'.",
            found=f"managed by {owner}",
            expected="a disk without a machine, named once",
            hint="detach the disk with `imgstore vm disk detach`, or attach a copy: `imgstore disk create --source`",
            target=disk.name,
            code="ConflictingUserInput",
        )


def _lock(installation: Installation, transaction: Transaction, group: str, name: str) -> Machine:
    found = lookup.find_machine(transaction, installation.subscription, group, name)
    machine = transaction.machines.get_for_update(found.uid)
    check_ready(machine)
    check_disks_changeable(transaction, machine)
    return machine


def _check_movable(transaction: Transaction, machine: Machine, earlier: Sequence[ManagedDisk]) -> None:
    """Check once, before the first move, that the disks of a machine may change."""
    if not earlier:
        check_disks_changeable(transaction, machine)


def _attach_at(
    transaction: Transaction, machine: Machine, disk: ManagedDisk, taken: set[int], lun: int | None
) -> ManagedDisk:
    """Attach a disk at a LUN, or at the lowest free LUN. Return the disk as attached."""
    (free,) = free_luns(taken, 1)
    chosen = free if lun is None else lun
    if chosen in taken or chosen > LUN_MAX:
        raise Conflict(
            f"A disk with LUN {chosen} is already attached to the virtual machine '{machine.name}'.",
            found=f"LUN {chosen}",
            expected=f"a free LUN up to {LUN_MAX}, such as {free}",
            hint="choose another LUN, or detach the other disk",
            target=disk.name,
            code="OperationNotAllowed",
        )
    attach_row(transaction, machine, disk, chosen)
    return replace(disk, managed_by=machine.resource_id, machine_lun=chosen)


def _detach_row(principal: Principal, transaction: Transaction, machine: Machine, disk: ManagedDisk) -> Machine:
    """Detach a disk in the catalog, with its settings in the machine."""
    authorize(principal, Action.WRITE, disk.resource_id)
    transaction.disks.detach(machine.resource_id, disk.uid)
    left = {key: each for key, each in machine.attachments.items() if key != disk_key(disk.machine_lun)}
    changed = replace(machine, attachments=left)
    if changed != machine:
        transaction.machines.update(changed)
    return changed
