"""Create managed disks from image versions, and show, list, update and delete disks, snapshots and managed images.

New disks are distributed over the replicas of a version round robin. A disk does not depend on the version afterwards.
Disks from other sources are made by ``from_source.py``, ``images.py`` and ``uploads.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.disk_details import NO_DETAILS, DiskDetails
from imgstore.domain.disks.export_tag import is_for_export
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import disk_key
from imgstore.domain.errors import Conflict, ImageNotAvailable, ObjectCorrupt, PropertyChangeNotAllowed
from imgstore.domain.identity.access import Action, Principal, filter_readable, is_allowed
from imgstore.domain.names import ImageReference
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.resources import (
    DiskKind,
    ManagedDisk,
    OsProperties,
    Slot,
    StorageAccountType,
)
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage import object_keys
from imgstore.domain.tags import apply_tags
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.billing.budgets import check_budget
from imgstore.operations.disks.changed_blocks import find_changes
from imgstore.operations.disks.placement import advise_replicas, find_degraded_offer, find_offer
from imgstore.operations.disks.remote_content import (
    ensure_slot,
    find_remote_offer,
    lease_content,
    make_content,
    name_remote_option,
)
from imgstore.operations.gallery.groups import ensure_group, permit_group
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.replication.disk_copy import DiskCopy
from imgstore.operations.slots.attribution import change_tags
from imgstore.operations.slots.held_works import run_or_follow
from imgstore.operations.slots.losses import check_no_loss
from imgstore.operations.slots.references import PlacedDisk, lock_disk
from imgstore.operations.slots.removal import remove_disks
from imgstore.transfer.spool import remove_spool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDiskRequest:
    """A request to create a disk from a disk of an image version."""

    group: str
    name: str
    region: str
    reference: ImageReference
    lun: int | None
    tags: Mapping[str, str] | None
    managed_by: str | None = None
    """The resource id of the machine that gets the disk."""
    details: DiskDetails = NO_DETAILS


def create_disk(
    installation: Installation,
    principal: Principal,
    request: DiskOfImageRequest,
    *,
    on_recorded: Callable[[ManagedDisk], None] = lambda _disk: None,
) -> ManagedDisk:
    """Create a managed disk from a complete replica of an image version. Replicas are chosen round robin.

    The same call after a completed call does nothing. After an interrupted call, the same call resumes. If the store of
    the replica fails, the disk is made from another complete replica of the region. If the region has no complete replica
    and the request allows another region, the missing segments are copied from the cheapest region (invariant M32).

    Args:
        installation: the installation.
        principal: the caller.
        request: the new disk and its image.
        on_recorded: a function that receives the new row before segments are copied from another region.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
        InvalidInput: the size or the zones in the details do not fit the disk.
        PropertyChangeNotAllowed: the disk exists, from another image or in another region.
        Conflict: the disk needs bytes of another region, and a budget of kind `refuse` is reached.
        StoreError: no complete replica of the region can be read.
        ObjectCorrupt: the disk is for an export, and bytes of the disk are lost. The error names the ranges.
    """
    group, name = request.group, request.name
    names.check_disk_name(name)
    scope = names.disk_id(installation.subscription, group, name)
    permit_group(installation, principal, group)
    with record_activity(installation, principal, Action.WRITE, scope):
        reference = admit_reader(installation, principal, request.reference)
        installation.locator.health.refresh()

        degraded = _find_intact_offer(installation, reference, request) if is_for_export(request.tags) else None
        if request.allow_remote:
            _check_remote_budget(installation, reference, request)

        def attempt() -> ManagedDisk:
            with installation.catalog.transaction() as transaction, enforce_quota(installation, transaction):
                disk = add_or_reuse_disk(installation, transaction, request, reference, degraded)
                leased = lease_content(installation, transaction, disk, allow_remote=request.allow_remote)
            if isinstance(leased, DiskCopy):
                on_recorded(disk)
            made = make_content(installation, leased)
            if isinstance(leased, PlacedDisk) and leased.lease is not None:
                advise_replicas(installation, made)
            return made

        return run_or_follow(installation, f"disk {name}", attempt)


def add_or_reuse_disk(
    installation: Installation,
    transaction: Transaction,
    request: DiskOfImageRequest,
    reference: ImageReference,
    degraded: ImageOffer | None = None,
) -> ManagedDisk:
    """Add the row of a disk of an image version, or compare the existing row with the request.

    A prediction also runs this (invariant M16).

    Args:
        installation: the installation.
        transaction: the open transaction.
        request: the disk.
        reference: the image of the disk.
        degraded: the Degraded replicas to use without a complete replica.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
        PropertyChangeNotAllowed: the disk exists, from another image or in another region.
    """
    group = request.group
    standing = transaction.disks.get(installation.subscription, group, request.name)
    wanted = ImageDiskRequest(
        group=group,
        name=request.name,
        region=choose_disk_region(installation, transaction, group, request.location, standing),
        reference=reference,
        lun=request.lun,
        tags=request.tags,
        details=request.details,
    )
    if standing is not None:
        return reuse_disk(installation, transaction, standing, wanted)
    ensure_group(installation, transaction, group, wanted.region)
    return _place_disk(installation, transaction, wanted, degraded, allow_remote=request.allow_remote)


def _check_remote_budget(installation: Installation, reference: ImageReference, request: DiskOfImageRequest) -> None:
    """Check the budget before a new disk needs bytes of another region. An accepted disk continues (invariant M30)."""
    with installation.catalog.reading() as transaction:
        if transaction.disks.get(installation.subscription, request.group, request.name) is not None:
            return
        region = choose_disk_region(installation, transaction, request.group, request.location, None)
        try:
            find_offer(installation, transaction, reference, region)
        except ImageNotAvailable:
            pass
        else:
            return
    check_budget(installation)


def choose_disk_region(
    installation: Installation, transaction: Transaction, group: str, location: str | None, standing: ManagedDisk | None
) -> str:
    """Return the requested region of a disk, else the region of the existing disk, else the region of the group."""
    asked = location or (standing.location if standing else None)
    if asked is None:
        above = transaction.groups.get(installation.subscription, group)
        asked = above.location if above else next(iter(installation.regions.regions))
    return installation.regions.get(asked, target="location").name


def reuse_disk(
    installation: Installation, transaction: Transaction, standing: ManagedDisk, wanted: ImageDiskRequest
) -> ManagedDisk:
    """Return the existing disk of a repeated request with the new tags and details.

    A request for `latest` matches a disk of an older version, too.

    Raises:
        Conflict: the disk is being deleted.
        PropertyChangeNotAllowed: the disk has another image, another LUN or another region.
    """
    check_existing(standing, wanted.region)
    image = "properties.creationData.galleryImageReference"
    check_same_image(installation, wanted.reference, standing.source_reference, f"{image}.id")
    if standing.source_lun != wanted.lun:
        raise PropertyChangeNotAllowed(
            f"{image}.lun", found=_format_lun(wanted.lun), expected=_format_lun(standing.source_lun)
        )
    return update_tags(installation, transaction, standing, wanted.tags, wanted.details)


def check_same_image(installation: Installation, named: ImageReference, standing: str, path: str) -> None:
    """Check that a request names the image of an existing resource. A reference without a version matches any version.

    Args:
        installation: the installation.
        named: the image of the request.
        standing: the resource id of the version that the resource was made from.
        path: the path of the property, for the error.

    Raises:
        PropertyChangeNotAllowed: the request names another image.
    """
    subscription = named.subscription or installation.subscription
    line_id = names.definition_id(subscription, named.group, named.gallery, named.definition)
    # Earlier code also stored the id of a shared image.
    spellings = [line_id, f"/SharedGalleries/{subscription}-{named.gallery}/Images/{named.definition}"]
    if named.shared is not None:
        spellings.append(str(named.shared).partition("/Versions/")[0])
    asked = [f"{each}/versions/{named.version or ''}".lower() for each in spellings]
    known = standing.lower()
    if not (known in asked if named.version else known.startswith(tuple(asked))):
        shown = "another image" if named.shared is not None and known.startswith("/subscriptions/") else standing
        raise PropertyChangeNotAllowed(path, found=str(named), expected=shown)


def check_existing(standing: ManagedDisk, region: str) -> None:
    """Check that an existing disk is not being deleted and is in the requested region.

    Raises:
        Conflict: the disk is being deleted.
        PropertyChangeNotAllowed: the disk is in another region.
    """
    if standing.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"The {standing.kind.noun} '{standing.name}' is marked for deletion.",
            found=f"provisioning state {standing.provisioning_state}",
            expected=f"a {standing.kind.noun} that is not being deleted, or a new name",
            hint=f"repeat the deletion, then create the {standing.kind.noun}",
            target=standing.name,
        )
    if standing.location != region:
        raise PropertyChangeNotAllowed("location", found=region, expected=standing.location)


def update_tags(
    installation: Installation,
    transaction: Transaction,
    standing: ManagedDisk,
    tags: Mapping[str, str] | None,
    details: DiskDetails = NO_DETAILS,
) -> ManagedDisk:
    """Store new tags and details of a disk, and return the disk. The value None keeps the present tags.

    Raises the errors of `DiskDetails.apply_to`.
    """

    def change(disk: ManagedDisk) -> ManagedDisk:
        return replace(details.apply_to(disk), tags=apply_tags(tags, disk.tags))

    if change(standing) == standing:
        return standing
    present = lock_disk(transaction, standing)  # Another process may have completed the disk.
    changed = change(present)
    if changed.tags != present.tags:
        change_tags(installation.effects, transaction, present.uid, changed.tags)
    transaction.disks.update(changed)
    return changed


def _format_lun(lun: int | None) -> str:
    return "the OS disk" if lun is None else f"LUN {lun}"


def _place_disk(
    installation: Installation,
    transaction: Transaction,
    wanted: ImageDiskRequest,
    degraded: ImageOffer | None,
    *,
    allow_remote: bool,
) -> ManagedDisk:
    """Add the row of a single disk, in state Creating, to the next slot of the round robin.

    Without a complete replica, the disk comes from the `degraded` offer, if there is one, or from another region.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is not complete in the region.
        Conflict: the definition disallows disks with the storage account type of the replica.
    """
    try:
        offer = find_offer(installation, transaction, wanted.reference, wanted.region)
    except ImageNotAvailable as error:
        if degraded is None:
            return _add_remote_disk(installation, transaction, wanted, error, allow_remote=allow_remote)
        offer = degraded
    slots = installation.prefer_responsive(_slots_of_type(offer.slots, wanted.details.sku))
    disk = transaction.placements.place(_new_disk(installation, wanted, offer, slots[0]), slots)
    _check_allowed_type(offer, disk.storage_account_type)
    return disk


def _add_remote_disk(
    installation: Installation,
    transaction: Transaction,
    wanted: ImageDiskRequest,
    refusal: ImageNotAvailable,
    *,
    allow_remote: bool,
) -> ManagedDisk:
    """Add the row of a disk whose content is in other regions only.

    Raises:
        ImageNotAvailable: the `refusal`, if no region has the image, or if the request does not allow other regions.
    """
    offer = find_remote_offer(installation, transaction, wanted.reference)
    if offer is None:
        raise refusal
    if not allow_remote:
        raise name_remote_option(refusal)
    is_zoned = wanted.details.sku is StorageAccountType.STANDARD_ZRS
    slot = ensure_slot(
        installation,
        transaction,
        sources=offer.slots,
        region=wanted.region,
        body_key=object_keys.manifest_key(offer.version_uid, disk_key(wanted.lun)),
        kind=StorageAccountType.STANDARD_ZRS if is_zoned else None,
    )
    return add_disk(installation, transaction, wanted, offer, slot)


def _find_intact_offer(
    installation: Installation, reference: ImageReference, request: DiskOfImageRequest
) -> ImageOffer | None:
    """Find the Degraded replicas of a version with an intact disk, for a disk that is only exported (invariant W15).

    Return None if a replica is complete, or if there is no Degraded replica.

    Raises:
        ObjectCorrupt: bytes of the disk are lost in each replica. The error names the ranges.
    """
    key = disk_key(request.lun)
    with installation.catalog.reading() as transaction:
        standing = transaction.disks.get(installation.subscription, request.group, request.name)
        region = choose_disk_region(installation, transaction, request.group, request.location, standing)
        try:
            find_offer(installation, transaction, reference, region)
        except ImageNotAvailable:
            offer = find_degraded_offer(installation, transaction, reference, region)
        else:
            return None
        found = (
            []
            if offer is None
            else [(slot, transaction.manifests.find(offer.version_uid, slot.uid, key)) for slot in offer.slots]
        )
    if offer is None:
        return None
    lost: ObjectCorrupt | None = None
    intact: list[Slot] = []
    for slot, row in found:
        try:
            if row is not None:
                check_no_loss(installation, slot, row, f"the disk '{key}' of {offer.source}")
                intact.append(slot)
        except ObjectCorrupt as error:
            lost = lost or error
    if lost is not None and not intact:
        raise lost
    return replace(offer, slots=tuple(intact)) if intact else None


def _slots_of_type(slots: Sequence[Slot], sku: StorageAccountType | None) -> Sequence[Slot]:
    """Return the zone-redundant slots if the SKU asks for zone redundancy and such slots exist, else all slots."""
    if sku is not StorageAccountType.STANDARD_ZRS:
        return slots
    return [slot for slot in slots if slot.key.storage_account_type is sku] or slots


def add_disk(
    installation: Installation, transaction: Transaction, wanted: ImageDiskRequest, offer: ImageOffer, slot: Slot
) -> ManagedDisk:
    """Add the row of a disk, in state Creating, to the slot that the other disks of the machine share.

    Raises:
        ImageNotAvailable: the version has no such disk.
        Conflict: the definition disallows disks with the storage account type of the replica.
    """
    disk = make_disk_row(installation, wanted, offer, slot)
    transaction.disks.add(disk)
    return disk


def make_disk_row(installation: Installation, wanted: ImageDiskRequest, offer: ImageOffer, slot: Slot) -> ManagedDisk:
    """Return the row of a disk, in state Creating, without adding the row. Raises the errors of `add_disk`."""
    _check_allowed_type(offer, slot.key.storage_account_type)
    return _new_disk(installation, wanted, offer, slot)


def _new_disk(installation: Installation, wanted: ImageDiskRequest, offer: ImageOffer, slot: Slot) -> ManagedDisk:
    content = offer.disk(disk_key(wanted.lun))
    assert content.virtual_bytes is not None, "the first complete replica sets the size"
    assert content.disk_digest is not None, "the first complete replica sets the digest"
    disk = ManagedDisk(
        uid=installation.effects.new_uid(),
        subscription=installation.subscription,
        group=wanted.group,
        name=wanted.name,
        location=wanted.region,
        tags=apply_tags(wanted.tags),
        source_version_uid=offer.version_uid,
        source_reference=offer.source,
        source_lun=wanted.lun,
        body_key=object_keys.manifest_key(offer.version_uid, content.key),
        os_properties=_choose_os_properties(offer, wanted),
        managed_by=wanted.managed_by,
        machine_lun=None if wanted.managed_by is None else wanted.lun,
        replica=slot.key.ordinal,
        slot=slot,
        storage_account_type=slot.key.storage_account_type,
        virtual_bytes=content.virtual_bytes,
        disk_digest=content.disk_digest,
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        source_format=DiskFormat.RAW,
    )
    return wanted.details.apply_to(disk)


def _choose_os_properties(offer: ImageOffer, wanted: ImageDiskRequest) -> OsProperties:
    """Return the OS properties of the definition. For the disk of a machine, the OS state is left out."""
    return offer.os_properties if wanted.managed_by is None else replace(offer.os_properties, os_state=None)


def _check_allowed_type(offer: ImageOffer, kind: StorageAccountType) -> None:
    """Check that the definition allows disks with the storage account type of the replica.

    Raises:
        Conflict: the definition disallows the type.
    """
    disallowed = [each.value for each in offer.disallowed_disk_types]
    if kind.value in disallowed:
        raise Conflict(
            f"Disks of type {kind} are not allowed by the image definition '{offer.definition}'.",
            found=f"a replica of type {kind}: a disk has the type of the replica",
            expected=f"none of {', '.join(disallowed)}",
            hint="choose a region with a replica of another type, or replicate the version in another type",
            target="properties.disallowed.diskTypes",
        )


def show_disk(
    installation: Installation, principal: Principal, *, group: str, name: str, kind: DiskKind = DiskKind.DISK
) -> ManagedDisk:
    """Return a managed disk or snapshot.

    Raises:
        NotFound: there is no such disk or snapshot.
    """
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, kind, name))
    with installation.catalog.reading() as transaction:
        return _drop_expired_grant(
            transaction, lookup.find_disk(transaction, installation.subscription, group, name, kind)
        )


def _drop_expired_grant(transaction: Transaction, disk: ManagedDisk) -> ManagedDisk:
    """Return the disk without an expired grant."""
    return disk if disk.grant is None else replace(disk, grant=disk.active_grant(transaction.now()))


def list_disks(
    installation: Installation, principal: Principal, *, group: str | None = None, kind: DiskKind = DiskKind.DISK
) -> list[ManagedDisk]:
    """List the readable disks, snapshots or disks of managed images, by name, in a group or in the subscription."""
    return list(page_disks(installation, principal, PageRequest(), group=group, kind=kind).items)


def page_disks(
    installation: Installation,
    principal: Principal,
    request: PageRequest,
    *,
    group: str | None = None,
    kind: DiskKind = DiskKind.DISK,
    part: str | None = None,
) -> Page[ManagedDisk]:
    """Return a page of the readable disks, snapshots or managed images, by name.

    With `part`, a managed image is represented by the disk with that disk key.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, f"Microsoft.Compute/{kind}")
    of = f"{names.group_id(subscription, group) if group is not None else subscription}/{kind}"
    after = request.start_key_pair(of)
    with installation.catalog.reading() as transaction:
        if group is not None:
            lookup.find_group(transaction, subscription, group)
        limit = request.limit if whole else None
        listed = transaction.disks.list(subscription, group, kind, part=part, after=after, limit=limit, visible=True)
        found = [_drop_expired_grant(transaction, each) for each in listed]
    seen = filter_readable(principal, found, lambda disk: disk.resource_id, whole=whole)
    # Two groups may have disks of the same name, so the key also contains the uid. Neither part contains a slash.
    return Page.from_rows(seen, request, of=of, key=lambda disk: f"{disk.name}/{disk.uid}")


def tag_disk(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    kind: DiskKind = DiskKind.DISK,
    tags: Mapping[str, str] | None,
    details: DiskDetails = NO_DETAILS,
) -> list[ManagedDisk]:
    """Replace the tags and details of a managed disk, a snapshot, or all disks of a managed image.

    Returns:
        The updated disks.

    Raises:
        NotFound: there is no such resource.
    """
    scope = names.compute_id(installation.subscription, group, kind, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        place = (installation.subscription, group, kind, name)
        for slot_uid in sorted({each.slot.uid for each in transaction.disks.list(*place)}):
            transaction.slots.lock(slot_uid)  # The completion of a disk takes the same lock.
        standing = [details.apply_to(each) for each in transaction.disks.list(*place)]
        changed = [replace(each, tags=apply_tags(tags, each.tags)) for each in standing]
        if not changed:
            raise lookup.disk_not_found(installation.subscription, group, name, kind)
        for before, each in zip(standing, changed, strict=True):
            transaction.disks.update(each)
            if each.tags != before.tags:
                change_tags(installation.effects, transaction, each.uid, each.tags)
        return changed


def delete_disk(
    installation: Installation, principal: Principal, *, group: str, name: str, kind: DiskKind = DiskKind.DISK
) -> None:
    """Delete a managed disk, a snapshot, or a managed image with all disks. May be repeated after an interruption.

    Raises:
        NotFound: there is no such resource.
        WorkHeld: a live process reads or makes a disk of the resource.
        Conflict: a signed URL of a disk is valid.
    """
    scope = names.compute_id(installation.subscription, group, kind, name)
    with record_resource_deletion(installation, principal, scope):
        with installation.catalog.reading() as transaction:
            found = transaction.disks.list(installation.subscription, group, kind, name)
            if not found:
                raise lookup.disk_not_found(installation.subscription, group, name, kind)
        remove_disks(installation, found)
        for each in found:
            remove_spool(installation.home, each.uid)
            find_changes(installation.home, each.uid).unlink(missing_ok=True)
