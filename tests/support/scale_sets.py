"""Make scale sets whose instances have disks of an image version, balanced over the replicas."""

from dataclasses import replace
from typing import Any

from imgstore.domain.machines import Machine
from imgstore.domain.names import ImageReference
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.operations.disks.disks import ImageDiskRequest, add_disk
from imgstore.operations.disks.placed_disks import make_placed_disks
from imgstore.operations.disks.placement import find_offer
from imgstore.operations.installation import Installation
from imgstore.operations.slots.references import lease_disk
from imgstore.policy.selection import next_slot
from tests.support.sample_gallery import GROUP


def make_scale_set(
    installation: Installation, name: str, image: str, capacity: int, *, region: str, **values: Any
) -> ScaleSet:
    """Add the rows of a scale set and its instances, and make their disks.

    Args:
        installation: the installation.
        name: the name of the set.
        image: an image version as group/gallery/definition/version.
        capacity: the number of instances.
        region: the region of the set.
        values: further fields of the set.
    """
    reference = ImageReference.parse(image)
    with installation.catalog.transaction() as transaction:
        offer = find_offer(installation, transaction, reference, region)
        scale_set = ScaleSet(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            group=GROUP,
            name=name,
            location=region,
            capacity=capacity,
            next_instance_id=capacity,
            image_reference=offer.source,
            source_reference=offer.source,
            os_type=offer.os_properties.os_type,
            hyper_v_generation=offer.os_properties.hyper_v_generation,
            admin_username="ops",
            created_at=installation.effects.now(),
            provisioning_state=ProvisioningState.SUCCEEDED,
        )
        scale_set = replace(scale_set, **values)
        transaction.scale_sets.add(scale_set)
        machines = [
            Machine(
                uid=installation.effects.new_uid(),
                subscription=installation.subscription,
                group=GROUP,
                name=scale_set.instance_name(number),
                location=region,
                image_reference=offer.source,
                os_type=scale_set.os_type,
                hyper_v_generation=scale_set.hyper_v_generation,
                created_at=scale_set.created_at,
                provisioning_state=ProvisioningState.SUCCEEDED,
                scale_set_uid=scale_set.uid,
                instance_id=number,
            )
            for number in range(capacity)
        ]
        transaction.machines.add_instances(machines)
        first = transaction.placements.advance_counter(offer.version_uid, region, turns=capacity)
        placed = []
        for number, each in enumerate(machines):
            for disk in offer.disks:
                wanted = ImageDiskRequest(
                    group=GROUP,
                    name=each.disk_name(disk.lun),
                    region=region,
                    reference=reference,
                    lun=disk.lun,
                    tags=None,
                    managed_by=each.resource_id,
                )
                row = add_disk(installation, transaction, wanted, offer, next_slot(first + number, offer.slots))
                placed.append(lease_disk(installation, transaction, row))
    for one in placed:
        make_placed_disks(installation, [one])
    return scale_set
