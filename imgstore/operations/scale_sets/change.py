"""Change the number of instances of a set (invariants D22 and D23).

The row of the set has the wanted and the former number before the first instance is written. Batches follow, each with one
transaction for the rows. A killed change resumes if the next command wants the same number. Otherwise it is rolled back
first. A change that fails is rolled back at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.disks.version_disks import OS_DISK, lun_of
from imgstore.domain.errors import ImageNotAvailable, ImgstoreError, LeaseLost
from imgstore.domain.identity.access import DISKS, Action, Principal, authorize
from imgstore.domain.machines import Machine
from imgstore.domain.names import ImageReference, group_id
from imgstore.domain.resources import DiskKind, ManagedDisk, OsProperties, OsState, Slot
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.tags import apply_tags
from imgstore.domain.views import ManagedImage
from imgstore.operations.disks.disks import ImageDiskRequest, make_disk_row
from imgstore.operations.disks.from_source import copy_disk_row
from imgstore.operations.disks.placement import find_offer
from imgstore.operations.disks.remote_content import ensure_slot, find_remote_offer
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import gallery_image
from imgstore.operations.machines.images import find_image
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.revisions import flush_revisions
from imgstore.operations.scale_sets.content import make_disks
from imgstore.operations.scale_sets.leases import renew
from imgstore.operations.scale_sets.removal import finish_removals, remove_instances
from imgstore.policy.instance_placement import place_instances

BATCH_INSTANCES: Final = 250
"""Instances of a batch. A batch has one transaction for rows, and one for each slot."""
_WHAT: Final = "scale set"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSource:
    """The image of new instances: a gallery image, or a managed image."""

    source_reference: str
    os_state: OsState
    os_properties: OsProperties
    offer: ImageOffer | None = None
    reference: ImageReference | None = None
    is_remote: bool = False
    """Whether the region has no complete replica, so that content comes from another region."""
    image: ManagedImage | None = None

    @property
    def luns(self) -> list[int]:
        """The LUNs of the data disks."""
        if self.image is not None:
            return [lun for key in self.image.by_key if (lun := lun_of(key)) is not None]
        assert self.offer is not None, "a source is an offer or an image"
        return [disk.lun for disk in self.offer.disks if disk.lun is not None]

    @property
    def virtual_bytes(self) -> int:
        """The bytes of the disks of one instance."""
        if self.image is not None:
            return sum(disk.virtual_bytes for disk in self.image.by_key.values())
        assert self.offer is not None, "a source is an offer or an image"
        return sum(disk.virtual_bytes or 0 for disk in self.offer.disks)


def find_source(
    installation: Installation, principal: Principal, *, image: str, group: str, region: str, allow_remote: bool
) -> InstanceSource:
    """Find the image of a set in a region, if the principal may read the image.

    Raises:
        ImageNotAvailable: the image does not exist, or is not complete in the region.
        InvalidInput: the managed image does not exist, or is in another region.
    """
    word = gallery_image(image)
    if word is None:
        with installation.catalog.reading() as transaction:
            found = find_image(installation, principal, transaction, group, image, what=_WHAT)
        if found.os.location != region:
            raise ImageNotAvailable(
                f"The managed image '{found.os.name}' is not in {region}.",
                found=f"an image in {found.os.location}",
                expected=f"an image in {region}",
                hint="choose the region of the image, or publish the image in a gallery",
                target="imageReference",
            )
        said = found.os.os_properties
        return InstanceSource(
            source_reference=found.os.resource_id,
            os_state=said.os_state or OsState.GENERALIZED,
            os_properties=said,
            image=found,
        )
    reference = admit_reader(installation, principal, word)
    is_remote = False
    with installation.catalog.reading() as transaction:
        try:
            offer = find_offer(installation, transaction, reference, region)
        except ImageNotAvailable:
            remote = find_remote_offer(installation, transaction, reference) if allow_remote else None
            if remote is None:
                raise
            offer, is_remote = remote, True
    return InstanceSource(
        source_reference=offer.source,
        os_state=offer.os_state,
        os_properties=offer.os_properties,
        offer=offer,
        reference=reference,
        is_remote=is_remote,
    )


def authorize_instances(installation: Installation, principal: Principal, group: str) -> None:
    """Check the right to create disks in the group, since the disks of instances are resources of their own."""
    authorize(principal, Action.WRITE, group_id(installation.subscription, group), DISKS)


def change_capacity(
    installation: Installation, principal: Principal, lease: ScaleSetLease, scale_set: ScaleSet, capacity: int
) -> ScaleSet:
    """Give a set the number of instances `capacity`, or leave the number as it was.

    Raises:
        ImageNotAvailable: the image is missing or not complete in the region. Nothing was changed.
        Conflict: a quota is reached. Nothing remains of the change.
        StoreError: no replica of the region can be used. Nothing remains of the change.
        LeaseLost: another process changes the set, and decides about the change.
    """
    finish_removals(installation, lease)
    if scale_set.former_capacity is not None and scale_set.capacity != capacity:
        scale_set = roll_back(installation, lease, scale_set)
    with installation.catalog.reading() as transaction:
        instances = transaction.machines.list_instances(scale_set.uid)
    if scale_set.former_capacity is None and len(instances) == capacity:
        return scale_set
    source = None
    if capacity > scale_set_floor(scale_set, instances):
        authorize_instances(installation, principal, scale_set.group)
        source = find_source(
            installation,
            principal,
            image=scale_set.source_reference,
            group=scale_set.group,
            region=scale_set.location,
            allow_remote=scale_set.allow_remote,
        )
    scale_set = begin_change(installation, lease, scale_set, capacity)
    return run_change(installation, lease, scale_set, source)


def scale_set_floor(scale_set: ScaleSet, instances: Sequence[Machine]) -> int:
    """Return the number of instances that need no image: those that existed before the present change."""
    return len(instances) if scale_set.former_capacity is None else scale_set.former_capacity


def begin_change(installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet, capacity: int) -> ScaleSet:
    """Record the wanted number, before the first instance is written or removed."""
    with installation.catalog.transaction() as transaction:
        present = transaction.scale_sets.guard(lease)
        if present.former_capacity is not None:
            return present
        state = present.provisioning_state
        if state is not ProvisioningState.CREATING:
            state = ProvisioningState.UPDATING
        changed = replace(present, capacity=capacity, former_capacity=scale_set.capacity, provisioning_state=state)
        transaction.scale_sets.update(changed)
        return changed


def run_change(
    installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet, source: InstanceSource | None
) -> ScaleSet:
    """Do a recorded change. Roll the change back if it fails."""
    try:
        finish_removals(installation, lease)
        _remove_surplus(installation, lease, scale_set, scale_set.capacity)
        if source is not None:
            _add_missing(installation, lease, scale_set, source)
    except LeaseLost:
        raise
    except ImgstoreError:
        if scale_set.former_capacity is not None and scale_set.former_capacity < scale_set.capacity:
            roll_back(installation, lease, scale_set)
        raise
    return _end_change(installation, lease, scale_set.capacity)


def roll_back(installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet) -> ScaleSet:
    """Return a set to the capacity before the recorded change. Remaining instances of a reduction stay as they are."""
    assert scale_set.former_capacity is not None, "a change is recorded"
    _remove_surplus(installation, lease, scale_set, scale_set.former_capacity)
    with installation.catalog.reading() as transaction:
        left = len(transaction.machines.list_instances(scale_set.uid))
    return _end_change(installation, lease, min(left, scale_set.former_capacity))


def _end_change(installation: Installation, lease: ScaleSetLease, capacity: int) -> ScaleSet:
    with installation.catalog.transaction() as transaction:
        present = transaction.scale_sets.guard(lease)
        ended = replace(
            present, capacity=capacity, former_capacity=None, provisioning_state=ProvisioningState.SUCCEEDED
        )
        transaction.scale_sets.update(ended)
        return ended


def _remove_surplus(installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet, capacity: int) -> None:
    """Remove the instances with the highest ids."""
    with installation.catalog.reading() as transaction:
        surplus = transaction.machines.list_instances(scale_set.uid)[capacity:]
        disks = transaction.disks.list_of_scale_set(scale_set.resource_id) if surplus else []
    for begin in range(max(0, len(surplus) - 1) // BATCH_INSTANCES * BATCH_INSTANCES, -1, -BATCH_INSTANCES):
        remove_instances(installation, lease, surplus[begin : begin + BATCH_INSTANCES], disks)
        flush_revisions(installation)


def _add_missing(installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet, source: InstanceSource) -> None:
    """Finish the instances of a killed change, then add batches until the set has its capacity."""
    with installation.catalog.reading() as transaction:
        instances = transaction.machines.list_instances(scale_set.uid)
        disks = transaction.disks.list_of_scale_set(scale_set.resource_id)
    unmade = [disk for disk in disks if disk.provisioning_state is not ProvisioningState.SUCCEEDED]
    have = len(instances)
    progress = ProgressCounter(
        installation,
        f"scale set {scale_set.name}",
        sum(disk.virtual_bytes for disk in unmade) + max(0, scale_set.capacity - have) * source.virtual_bytes,
    )

    def report(made: Sequence[ManagedDisk]) -> None:
        progress.add_bytes(sum(disk.virtual_bytes for disk in made))

    progress.begin()
    while unmade or have < scale_set.capacity:
        if not unmade:
            count = min(BATCH_INSTANCES, scale_set.capacity - have)
            unmade = _add_batch(installation, lease, source, count)
            have += count
        make_disks(installation, lease, unmade, allow_remote=scale_set.allow_remote, on_made=report)
        _complete_instances(installation, lease, scale_set)
        flush_revisions(installation)
        unmade = []
        renew(installation, lease)
    _complete_instances(installation, lease, scale_set)
    progress.end()


def _complete_instances(installation: Installation, lease: ScaleSetLease, scale_set: ScaleSet) -> None:
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        made = [
            each.uid
            for each in transaction.machines.list_instances(scale_set.uid)
            if each.provisioning_state is ProvisioningState.CREATING
        ]
        transaction.machines.set_instance_states(made, ProvisioningState.SUCCEEDED)


def _add_batch(
    installation: Installation, lease: ScaleSetLease, source: InstanceSource, count: int
) -> list[ManagedDisk]:
    """Write the rows of a batch of instances and their disks, and advance the round robin by the batch."""
    with installation.catalog.transaction() as transaction, enforce_quota(installation, transaction):
        scale_set = transaction.scale_sets.guard(lease)
        first = scale_set.next_instance_id
        machines = [_new_instance(installation, scale_set, first + number) for number in range(count)]
        if source.image is not None:
            disks = [disk for each in machines for disk in _copies(installation, each, source.image)]
        else:
            disks = _disks_of_version(installation, transaction, scale_set, source, machines)
        transaction.machines.add_instances(machines)
        transaction.disks.add_all(disks)
        transaction.scale_sets.update(replace(scale_set, next_instance_id=first + count))
        return disks


def _new_instance(installation: Installation, scale_set: ScaleSet, instance_id: int) -> Machine:
    return Machine(
        uid=installation.effects.new_uid(),
        subscription=scale_set.subscription,
        group=scale_set.group,
        name=scale_set.instance_name(instance_id),
        location=scale_set.location,
        tags=scale_set.tags,
        size=scale_set.size,
        image_reference=scale_set.source_reference,
        os_type=scale_set.os_type,
        hyper_v_generation=scale_set.hyper_v_generation,
        admin_username=scale_set.admin_username,
        computer_name=scale_set.computer_name(instance_id),
        attachments=scale_set.attachments,
        extra_properties=_instance_properties(scale_set),
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        scale_set_uid=scale_set.uid,
        instance_id=instance_id,
    )


def _instance_properties(scale_set: ScaleSet) -> dict[str, object]:
    """Return the OS profile of the set, whose SSH keys the first start needs."""
    profile = scale_set.extra_properties.get("properties.virtualMachineProfile.osProfile")
    return (
        {}
        if profile is None
        else {"properties.osProfile": {name: profile[name] for name in profile if name != "computerNamePrefix"}}
    )


def _disks_of_version(
    installation: Installation,
    transaction: Transaction,
    scale_set: ScaleSet,
    source: InstanceSource,
    machines: Sequence[Machine],
) -> list[ManagedDisk]:
    assert source.offer is not None, "the source is no managed image"
    assert source.reference is not None, "the source is no managed image"
    offer = source.offer
    slots: Sequence[Slot]
    if source.is_remote:
        body_key = object_keys.manifest_key(offer.version_uid, OS_DISK)
        region = scale_set.location
        slots = [
            ensure_slot(installation, transaction, sources=offer.slots, region=region, body_key=body_key, kind=None)
        ]
    else:
        slots = installation.prefer_responsive(offer.slots)
    turn = transaction.placements.advance_counter(offer.version_uid, scale_set.location, len(machines))
    loads = transaction.disks.count_by_slot(offer.version_uid, scale_set.location)
    chosen = place_instances(len(machines), slots, scale_set.placement, turn=turn, loads=loads)
    return [
        make_disk_row(
            installation,
            ImageDiskRequest(
                group=machine.group,
                name=machine.disk_name(disk.lun),
                region=machine.location,
                reference=source.reference,
                lun=disk.lun,
                tags=scale_set.tags,
                managed_by=machine.resource_id,
            ),
            offer,
            slot,
        )
        for machine, slot in zip(machines, chosen, strict=True)
        for disk in offer.disks
    ]


def _copies(installation: Installation, machine: Machine, image: ManagedImage) -> list[ManagedDisk]:
    return [
        replace(
            copy_disk_row(installation, original),
            kind=DiskKind.DISK,
            group=machine.group,
            name=machine.disk_name(lun_of(part)),
            disk_key=OS_DISK,
            tags=apply_tags(machine.tags),
            os_properties=replace(original.os_properties, os_state=None),
            managed_by=machine.resource_id,
            machine_lun=lun_of(part),
        )
        for part, original in image.by_key.items()
    ]
