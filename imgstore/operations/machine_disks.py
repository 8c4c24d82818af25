"""The disks of one machine: an OS disk and data disks by LUN, all from one replica of an image version."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from imgstore.catalog import Facts
from imgstore.domain import names
from imgstore.domain.access import Action, Principal
from imgstore.domain.errors import Conflict
from imgstore.domain.names import ImageReference
from imgstore.domain.resources import ImageVersion, ManagedDisk, Replica
from imgstore.domain.states import ReplicaState
from imgstore.operations import finding
from imgstore.operations.disks import (
    ImageDiskRequest,
    add_disk,
    check_subscription,
    choose_replica,
    compare_disk,
    lease_disk,
    not_available,
    put_disk,
    region_of_disk,
)
from imgstore.operations.finding import Lineage
from imgstore.operations.groups import ensure_group
from imgstore.operations.installation import Installation
from imgstore.operations.recording import recorded


def create_disks(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name_of: Callable[[int | None], str],
    location: str | None = None,
    gallery_image_reference: ImageReference,
    tags: Mapping[str, str] | None = None,
) -> list[ManagedDisk]:
    """Make all the disks of one machine, with one turn of the round robin.

    Their rows are there together or not at all. The same call again does nothing, goes on where it was killed, and makes
    those anew that were deleted meanwhile, from the same replica.

    Args:
        installation: where.
        principal: who.
        group: the resource group's name; made where it is missing.
        name_of: the name of the OS disk (None) and of the data disk at each LUN; always the same.
        location: the region; None is the group's.
        gallery_image_reference: of which image; without a version the latest that is complete in the region.
        tags: None leaves them as they are.

    Returns:
        The OS disk, then the data disks by LUN.

    Raises:
        ImageNotAvailable: no such version, or it is not complete in the region.
        PropertyChangeNotAllowed: one of the disks exists, from another image or in another region.
        Conflict: one of them exists, from another replica than the OS disk.
    """
    check_subscription(installation, gallery_image_reference)
    os_name = name_of(None)
    names.check_disk_name(os_name)
    scope = names.disk_id(installation.subscription, group, os_name)
    with recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/disks/write"):
        with installation.catalog.transaction() as facts:
            os_disk = facts.disks.get(installation.subscription, group, os_name)
            request = ImageDiskRequest(
                group=group,
                name=os_name,
                region=region_of_disk(installation, facts, group, location, os_disk),
                reference=gallery_image_reference,
                lun=None,
                tags=tags,
            )
            ensure_group(installation, facts, group, request.region)
            line, version, replica = (
                choose_replica(installation, facts, request.reference, request.region)
                if os_disk is None
                else _chosen_before(installation, facts, os_disk)
            )
            disks = [
                _stands_or_added(
                    installation,
                    facts,
                    replace(request, name=name_of(each.lun), lun=each.lun),
                    line,
                    version,
                    replica,
                )
                for each in version.disks
            ]
            leases = [lease_disk(installation, facts, disk) for disk in disks]
        return [
            disk if lease is None else put_disk(installation, disk, lease)
            for disk, lease in zip(disks, leases, strict=True)
        ]


def _chosen_before(
    installation: Installation, facts: Facts, os_disk: ManagedDisk
) -> tuple[Lineage, ImageVersion, Replica]:
    """What the machine's disks were begun with, as far as it is there still."""
    for replica in facts.replicas.in_slot(os_disk.slot.uid):
        if replica.version_uid == os_disk.source_version_uid and replica.state is not ReplicaState.DELETING:
            version = facts.versions.by_uid(replica.version_uid)
            return finding.lineage_of(facts, version), version, replica
    raise not_available(installation, os_disk.source_reference, os_disk.location)


def _stands_or_added(
    installation: Installation,
    facts: Facts,
    request: ImageDiskRequest,
    line: Lineage,
    version: ImageVersion,
    replica: Replica,
) -> ManagedDisk:
    names.check_disk_name(request.name)
    standing = facts.disks.get(installation.subscription, request.group, request.name)
    if standing is None:
        if replica.state is not ReplicaState.COMPLETED:
            raise not_available(installation, line.version_id(version.name), request.region)
        return add_disk(installation, facts, request, line, version, replica)
    disk = compare_disk(installation, facts, standing, request)
    if (disk.slot.uid, disk.source_version_uid) != (replica.slot.uid, version.uid):
        raise Conflict(
            f"The disk '{disk.name}' exists, and was not made with the machine's other disks.",
            found=f"{disk.source_reference} from {disk.slot.key}",
            expected=f"{line.version_id(version.name)} from {replica.slot.key}",
            hint=f"`imgstore disk delete -g {disk.group} -n {disk.name}`, or give the disks other names",
            target=disk.name,
        )
    return disk
