"""Give instances of a scale set a new OS disk of the image in the model. Data disks stay.

The new disk is made first, while the instance runs. Then the instance stops, one transaction exchanges the disks, and the
instance starts again. After an interruption at any step, the same call continues: the name of the new disk follows from the
instance, and an instance with a disk of the model's image needs no exchange.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, ImgstoreError, LeaseLost, NotFound
from imgstore.domain.identity.access import Principal
from imgstore.domain.machines import Machine
from imgstore.domain.names import ImageReference, parse_image_reference
from imgstore.domain.resources import DiskKind, ManagedDisk, Slot
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease
from imgstore.domain.states import ProvisioningState
from imgstore.operations.disks.disks import ImageDiskRequest, add_disk
from imgstore.operations.disks.from_source import copy_disk_row
from imgstore.operations.disks.placed_disks import make_placed_disks
from imgstore.operations.disks.placement import find_offer
from imgstore.operations.installation import Installation
from imgstore.operations.leases import this_host
from imgstore.operations.machines.images import find_image
from imgstore.operations.machines.running import STOP_SECONDS, StartRequest, start_run
from imgstore.operations.machines.runs import check_not_active, find_run, machine_folder, stop_run
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.scale_sets.health_probes import HealthProbe, await_healthy
from imgstore.operations.slots.held_works import run_or_follow
from imgstore.operations.slots.references import lease_disk
from imgstore.operations.slots.removal import begin_deleting, check_no_signed_url, remove_disks
from imgstore.policy.selection import next_slot

_NAME_CHARACTERS: Final = 32
_THREADS: Final = 8
_CHANGES: Final = f"{OS_DISK}.qcow2"
_REPLACED: Final = f"{OS_DISK}.replaced"
_FIRMWARE_VARIABLES: Final = "variables.fd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReimageRequest:
    """The instances to change, and the treatment of their power state."""

    instances: Sequence[Machine]
    starts_again: Mapping[int, bool]
    """Whether the instance starts afterwards, by instance id."""
    replaces_equal: bool = False
    """Whether an instance with a disk of the model's image also gets a new disk."""
    probe: HealthProbe | None = None
    """The condition of a healthy instance. None: no check after the start."""
    runs_as: str | None = None
    """The user for QEMU of an instance without an earlier start."""


def reimage_instances(
    installation: Installation,
    lease: ScaleSetLease,
    scale_set: ScaleSet,
    request: ReimageRequest,
    principal: Principal,
) -> dict[int, str | None]:
    """Give instances a new OS disk, some at a time, and start them again.

    Args:
        installation: the installation.
        lease: the lease of the set.
        scale_set: the set with the new model.
        request: the instances.
        principal: the caller, who may read a managed image of the model.

    Returns:
        The reason of each failure by instance id. None for a healthy instance.

    Raises:
        ImageNotAvailable: the image version of the model is not complete in the region.
        LeaseLost: another process changes the set.
    """
    changing = [
        each
        for each in request.instances
        if request.replaces_equal or each.image_reference != scale_set.source_reference
    ]
    spares = _add_spare_disks(installation, principal, lease, scale_set, changing)

    def run(instance: Machine) -> str | None:
        try:
            return _reimage(installation, lease, scale_set, request, instance, spares.get(instance.uid))
        except LeaseLost:
            raise
        except ImgstoreError as error:
            return f"{error.message}{f' Found: {error.found}.' if error.found else ''}"

    with ThreadPoolExecutor(max_workers=min(_THREADS, max(len(request.instances), 1))) as threads:
        outcomes = list(threads.map(run, request.instances))
    return {
        each.instance_id: outcome
        for each, outcome in zip(request.instances, outcomes, strict=True)
        if each.instance_id is not None
    }


def _add_spare_disks(
    installation: Installation,
    principal: Principal,
    lease: ScaleSetLease,
    scale_set: ScaleSet,
    instances: Sequence[Machine],
) -> dict[str, ManagedDisk]:
    """Add the rows of the new OS disks in one transaction, so that the round robin counts all. Return the rows by machine."""
    _remove_outdated_spares(installation, scale_set, instances)
    spares: dict[str, ManagedDisk] = {}
    with installation.catalog.transaction() as transaction, enforce_quota(installation, transaction):
        transaction.scale_sets.guard(lease)
        missing = []
        for each in instances:
            name = _spare_name(each, find_os_disk(transaction, each))
            standing = transaction.disks.get(each.subscription, each.group, name)
            if standing is None:
                missing.append((each, name))
            else:
                spares[each.uid] = standing
        if missing:
            spares |= _add_rows(installation, principal, transaction, scale_set, missing)
    return spares


def _add_rows(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    scale_set: ScaleSet,
    missing: Sequence[tuple[Machine, str]],
) -> dict[str, ManagedDisk]:
    if scale_set.is_from_managed_image:
        image = find_image(
            installation,
            principal,
            transaction,
            scale_set.group,
            scale_set.source_reference,
            what="scale set",
        )
        copies = {
            each.uid: replace(
                copy_disk_row(installation, image.os),
                kind=DiskKind.DISK,
                group=each.group,
                name=name,
                disk_key=OS_DISK,
                tags=each.tags,
                os_properties=replace(image.os.os_properties, os_state=None),
            )
            for each, name in missing
        }
        for disk in copies.values():
            transaction.disks.add(disk)
        return copies
    reference = parse_image_reference(scale_set.source_reference)
    assert isinstance(reference, ImageReference), "the id of a version is stored"
    offer = find_offer(installation, transaction, reference, scale_set.location)
    slots = choose_slots(installation, transaction, scale_set, offer, len(missing))
    return {
        each.uid: add_disk(
            installation,
            transaction,
            ImageDiskRequest(
                group=each.group,
                name=name,
                region=scale_set.location,
                reference=reference,
                lun=None,
                tags=each.tags,
            ),
            offer,
            slot,
        )
        for (each, name), slot in zip(missing, slots, strict=True)
    }


def choose_slots(
    installation: Installation, transaction: Transaction, scale_set: ScaleSet, offer: ImageOffer, count: int
) -> list[Slot]:
    """Choose slots for new disks of a version, round robin."""
    slots = installation.prefer_responsive(offer.slots)
    first = transaction.placements.advance_counter(offer.version_uid, scale_set.location, turns=count)
    return [next_slot(first + each, slots) for each in range(count)]


def _remove_outdated_spares(installation: Installation, scale_set: ScaleSet, instances: Sequence[Machine]) -> None:
    """Remove unattached disks of an interrupted change to another image."""
    with installation.catalog.reading() as transaction:
        names = [(each, _spare_name(each, find_os_disk(transaction, each))) for each in instances]
        found = [transaction.disks.get(each.subscription, each.group, name) for each, name in names]
    outdated = [
        each
        for each in found
        if each is not None
        and each.managed_by is None
        and (
            each.source_reference != scale_set.source_reference or each.provisioning_state is ProvisioningState.DELETING
        )
    ]
    if outdated:
        remove_disks(installation, outdated)


def _reimage(
    installation: Installation,
    lease: ScaleSetLease,
    scale_set: ScaleSet,
    request: ReimageRequest,
    instance: Machine,
    spare: ManagedDisk | None,
) -> str | None:
    """Exchange the OS disk of an instance, and start the instance. Return the reason of a failed probe."""
    installation.keeper.check_cancelled()
    _check_this_host(installation, instance)
    if spare is not None:
        _make_disk(installation, spare)
    with installation.catalog.reading() as transaction:
        run = find_run(transaction, instance)
    stop_run(installation, instance, shutdown_seconds=STOP_SECONDS)
    old = _exchange(installation, lease, scale_set, instance, spare)
    if old is not None:
        remove_disks(installation, [old])
    if not request.starts_again.get(instance.instance_id or 0, False):
        return None
    probe = request.probe or HealthProbe()
    start = StartRequest(
        forwards=probe.add_forward(() if run is None else run.forwards),
        runs_as=request.runs_as if run is None else run.runs_as,
    )
    start_run(installation, instance, start)
    return None if request.probe is None else await_healthy(installation, instance, request.probe)


def _make_disk(installation: Installation, spare: ManagedDisk) -> None:
    """Make the content of a new OS disk."""

    def attempt() -> None:
        with installation.catalog.transaction() as transaction:
            placed = lease_disk(installation, transaction, transaction.disks.by_uid(spare.uid))
        make_placed_disks(installation, [placed])

    run_or_follow(installation, f"disk {spare.name}", attempt)


def _exchange(
    installation: Installation,
    lease: ScaleSetLease,
    scale_set: ScaleSet,
    instance: Machine,
    spare: ManagedDisk | None,
) -> ManagedDisk | None:
    """Attach the new OS disk in place of the old disk, and give the instance the model. Return the old disk.

    The blocks that the guest changed belong to the old disk (invariant V9). The file is renamed before the transaction and removed
    afterwards, because a start must not apply the blocks to another disk.
    """
    folder = machine_folder(installation, instance.uid)
    changes, replaced = folder / _CHANGES, folder / _REPLACED
    if spare is not None and changes.exists():
        changes.replace(replaced)
    try:
        with installation.catalog.transaction() as transaction:
            transaction.scale_sets.guard(lease)
            held = transaction.machines.get_for_update(instance.uid)
            check_not_active(transaction, held, "a new OS disk")
            old = None
            if spare is not None:
                old = find_os_disk(transaction, held)
                if old is not None:
                    check_no_signed_url(transaction, old)
                    transaction.disks.detach(held.resource_id, old.uid)
                    begin_deleting(transaction, old)
                _attach(transaction, held, spare)
            transaction.machines.update(
                replace(
                    held,
                    size=scale_set.size,
                    image_reference=scale_set.source_reference,
                    os_type=scale_set.os_type,
                    hyper_v_generation=scale_set.hyper_v_generation,
                )
            )
    except BaseException:
        if spare is not None and replaced.exists():
            replaced.replace(changes)
        raise
    if spare is not None:
        replaced.unlink(missing_ok=True)
        (folder / _FIRMWARE_VARIABLES).unlink(missing_ok=True)
    return old


def find_os_disk(transaction: Transaction, instance: Machine) -> ManagedDisk | None:
    """Return the OS disk of an instance. None after an interruption of a creation."""
    disks = transaction.disks.list_attached(instance.resource_id)
    return next((each for each in disks if each.machine_lun is None), None)


def _spare_name(instance: Machine, os_disk: ManagedDisk | None) -> str:
    """Return the name for the next OS disk. Two names take turns, so that an interrupted exchange finds its disk."""
    first = instance.disk_name(None)
    if os_disk is None or os_disk.name.casefold() != first.casefold():
        return first
    return f"{instance.name[:_NAME_CHARACTERS]}_OsDisk_2_{instance.uid.replace('-', '')}"


def _check_this_host(installation: Installation, instance: Machine) -> None:
    """Refuse an instance of another host: the blocks that its guest changed are there (invariant V5).

    Raises:
        Conflict: the last start was on another host.
    """
    with installation.catalog.reading() as transaction, suppress(NotFound):
        run = transaction.machine_runs.by_uid(instance.uid)
        here = this_host().partition("/")[0]
        if run.host_name != here:
            raise Conflict(
                f"The instance '{instance.name}' belongs to another host.",
                found=f"host {run.host_name}",
                expected=f"host {here}",
                hint=f"run the update on host {run.host_name}, or delete the instance and scale out",
                target=instance.resource_id,
                code="OperationNotAllowed",
            )


def _attach(transaction: Transaction, instance: Machine, spare: ManagedDisk) -> None:
    if not transaction.disks.attach(spare.uid, instance.resource_id, None):
        raise Conflict(
            f"The new OS disk '{spare.name}' cannot be attached.",
            found="a disk that is not ready, or is attached",
            expected="a disk that is ready and not attached",
            hint="repeat the update",
            target=spare.resource_id,
        )
