"""Make disks whose content is in other regions only (`--allow-remote`, invariant M32)."""

from collections.abc import Sequence

from imgstore.catalog import Transaction
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.errors import ImageNotAvailable
from imgstore.domain.names import ImageReference
from imgstore.domain.resources import ImageVersion, ManagedDisk, Slot, SlotKey, StorageAccountType
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.disks.placed_disks import make_placed_disks
from imgstore.operations.disks.placement import find_latest_version, image_not_available, make_offer
from imgstore.operations.installation import Installation
from imgstore.operations.replication.disk_copy import (
    DiskCopy,
    RemoteSources,
    begin_disk_copy,
    copy_disk,
    find_remote_sources,
)
from imgstore.operations.slots.references import PlacedDisk, lease_disk
from imgstore.policy.target_regions import check_storage_account_type


def find_remote_offer(
    installation: Installation, transaction: Transaction, reference: ImageReference
) -> ImageOffer | None:
    """Find the version of a reference that is complete in any region, with its complete slots.

    A reference without a version means the highest version among the latest versions of all regions.
    """
    definition_path = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    version = _find_version(installation, transaction, definition_path, reference)
    if version is None:
        return None
    replicas = transaction.replicas.list(version.uid)
    slots = [each.slot for each in replicas if each.state is ReplicaState.COMPLETED]
    return make_offer(definition_path, version, reference, slots) if slots else None


def _find_version(
    installation: Installation, transaction: Transaction, definition_path: DefinitionPath, reference: ImageReference
) -> ImageVersion | None:
    if reference.version is None:
        found = (find_latest_version(transaction, definition_path, region) for region in installation.regions.regions)
        return max((each for each in found if each is not None), key=lambda each: each.name, default=None)
    version = transaction.versions.get(definition_path.definition.uid, reference.version)
    return version if version is not None and version.is_visible else None


def ensure_slot(
    installation: Installation,
    transaction: Transaction,
    *,
    sources: Sequence[Slot],
    region: str,
    body_key: str,
    kind: StorageAccountType | None,
) -> Slot:
    """Return the slot in a region for content of other slots of the pool.

    A slot of the type that has the content already is preferred to the slot of replica 0, which is created at first use.

    Args:
        installation: the installation.
        transaction: the open transaction.
        sources: slots with the content, in one pool.
        region: the region of the new disk.
        body_key: the key of the manifest below the slots.
        kind: the storage account type. None is Standard_LRS, or the first type of the region.

    Raises:
        InvalidInput: the region does not offer the type.
    """
    offered = installation.regions.get(region)
    if kind is None:
        types = offered.storage_account_types
        kind = StorageAccountType.STANDARD_LRS if StorageAccountType.STANDARD_LRS in types else types[0]
    check_storage_account_type(kind, offered)
    pool_uid = sources[0].key.pool_uid
    for slot in transaction.slots.list(pool_uid, region):
        if slot.key.storage_account_type is kind and transaction.manifests.find_by_body(slot.uid, body_key) is not None:
            return slot
    key = SlotKey(pool_uid=pool_uid, region=region, storage_account_type=kind, ordinal=0)
    zone, bucket = installation.locator.choose_zone(key)
    return transaction.slots.get_or_add(key, zone=zone, bucket=bucket)


def name_remote_option(error: ImageNotAvailable) -> ImageNotAvailable:
    """Return the refusal of a disk with the option that permits another region, and with the commands for prices."""
    return ImageNotAvailable(
        error.message,
        found=error.found,
        expected=error.expected,
        hint="replicate the version to the region, or repeat `imgstore disk create` with --allow-remote, which copies the "
        "disk from another region. --what-if predicts the bytes and the price, and `imgstore prices list` shows all prices",
        target=error.target,
    )


def choose_sources(
    installation: Installation, transaction: Transaction, disk: ManagedDisk, *, allow_remote: bool
) -> RemoteSources | None:
    """Choose the slots that a disk in state Creating is copied from. A prediction also runs this (invariant M16).

    Args:
        installation: the installation.
        transaction: the open transaction.
        disk: the disk.
        allow_remote: whether the request permits bytes from other regions.

    Returns:
        None if the disk is made as a reference to content of its slot.

    Raises:
        ImageNotAvailable: an interrupted copy needs bytes of other regions, and the request does not permit these.
    """
    sources = find_remote_sources(installation, transaction, disk)
    if sources is None or allow_remote or sources.parent == disk.location:
        return sources
    if not sources.is_begun:
        return None
    raise name_remote_option(image_not_available(installation, disk.source_reference, disk.location))


def lease_content(
    installation: Installation, transaction: Transaction, disk: ManagedDisk, *, allow_remote: bool
) -> PlacedDisk | DiskCopy:
    """Lease the work that makes a disk: a reference to content of the slot, or a copy from other regions.

    Raises:
        ImageNotAvailable: see `choose_sources`.
        Conflict: no slot has the content any more.
        WorkHeld: another process makes the disk.
    """
    if disk.provisioning_state is ProvisioningState.SUCCEEDED:
        return PlacedDisk(disk=disk)
    sources = choose_sources(installation, transaction, disk, allow_remote=allow_remote)
    if sources is None:
        return lease_disk(installation, transaction, disk)
    return begin_disk_copy(installation, transaction, disk, sources)


def make_content(installation: Installation, leased: PlacedDisk | DiskCopy) -> ManagedDisk:
    """Make a leased disk. Return a complete disk unchanged.

    Raises:
        StoreError: no region delivers the content, or the slot refused the content.
    """
    if isinstance(leased, DiskCopy):
        return copy_disk(installation, leased)
    return leased.disk if leased.lease is None else make_placed_disks(installation, [leased])[0]
