"""Managed disks: made from a replica, handed out round robin, independent of the version from then on."""

from collections.abc import Mapping
from dataclasses import replace

from imgstore.catalog import Facts
from imgstore.control.choices import healthy, latest, next_replica
from imgstore.domain import keys, names
from imgstore.domain.access import DISKS, Action, Principal, may, visible
from imgstore.domain.errors import Conflict, ImageNotAvailable, PropertyChangeNotAllowed
from imgstore.domain.names import ImageReference, SharedReference
from imgstore.domain.resources import (
    NO_TAGS,
    OS_DISK,
    ImageVersion,
    ManagedDisk,
    ManifestRow,
    Replica,
    StorageAccountType,
)
from imgstore.domain.sources import DiskFormat
from imgstore.domain.states import ProvisioningState
from imgstore.domain.works import Lease, WorkKind
from imgstore.ledger.rows import Party
from imgstore.operations import finding
from imgstore.operations.finding import Lineage
from imgstore.operations.forgetting import forget_disk
from imgstore.operations.groups import ensure_group, permit_group
from imgstore.operations.installation import Installation
from imgstore.operations.recording import permit, permit_list, recorded
from imgstore.operations.settling import open_interval
from imgstore.operations.sharing import admitted
from imgstore.operations.working import at_work, take_up
from imgstore.segments.manifest import decode_manifest, intact
from imgstore.segments.reference import Reference, encode_reference


def create_disk(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    location: str | None = None,
    gallery_image_reference: ImageReference | SharedReference,
    tags: Mapping[str, str] | None = None,
) -> ManagedDisk:
    """Make a managed disk from a complete replica of an image version, whichever's turn it is.

    The same command again does nothing, or goes on where it was killed: with the replica that the disk was given.

    Args:
        installation: where.
        principal: who.
        group: the resource group's name; made where it is missing.
        name: the disk's.
        location: the region; None is the group's.
        gallery_image_reference: of which image; without a version the latest that is complete in the region.
        tags: None leaves them as they are.

    Raises:
        ImageNotAvailable: no such version, or not complete in the region.
        PropertyChangeNotAllowed: the disk exists, from another image or in another region.
    """
    names.check_disk_name(name)
    scope = names.disk_id(installation.subscription, group, name)
    permit_group(installation, principal, group)
    with recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/disks/write"):
        reference = admitted(installation, principal, gallery_image_reference)
        disk, lease = _plan(installation, group, name, location, reference, tags)
        return disk if lease is None else _put(installation, disk, lease)


def check_subscription(installation: Installation, reference: ImageReference) -> None:
    """Refuse a full resource id of another subscription: nothing of it can be seen from here."""
    if reference.subscription not in (None, installation.subscription):
        raise ImageNotAvailable(
            f"The gallery image {reference} is of another subscription.",
            found=f"subscription {reference.subscription}",
            expected=f"subscription {installation.subscription}",
            hint="give --subscription, or a reference of this one",
            target="galleryImageReference",
        )


def _plan(
    installation: Installation,
    group: str,
    name: str,
    location: str | None,
    reference: ImageReference,
    tags: Mapping[str, str] | None,
) -> tuple[ManagedDisk, Lease | None]:
    """The disk's row with its replica, its turn and its pin, in one transaction (rules.md, rule 3).

    Returns:
        The disk, and a lease where its manifest is still to be put.
    """
    with installation.catalog.transaction() as facts:
        standing = facts.disks.get(installation.subscription, group, name)
        above = facts.groups.get(installation.subscription, group)
        region = _region(installation, location, standing, above.location if above else None)
        if standing is not None:
            disk = _compared(facts, installation, standing, region, reference, tags)
            if disk.provisioning_state is ProvisioningState.SUCCEEDED:
                return disk, None
        else:
            ensure_group(installation, facts, group, region)
            disk = _added(installation, facts, group, name, region, reference, tags)
        origin = _origin(facts, disk)
        _, lease = take_up(
            installation,
            facts,
            kind=WorkKind.DISK,
            slot=disk.slot,
            owner_uid=disk.uid,
            plan={"digest": origin.digest.hex(), "body_key": origin.body_key, "manifest": origin.uid},
            pins=(origin.uid,),
        )
        return disk, lease


def _region(
    installation: Installation, location: str | None, standing: ManagedDisk | None, of_group: str | None
) -> str:
    asked = location or (standing.location if standing else None) or of_group
    return installation.regions.get(asked or next(iter(installation.regions.regions)), target="location").name


def _compared(
    facts: Facts,
    installation: Installation,
    standing: ManagedDisk,
    region: str,
    reference: ImageReference,
    tags: Mapping[str, str] | None,
) -> ManagedDisk:
    """A disk that stands already: the same image is the same disk, also when `latest` has moved on since."""
    if standing.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"The disk '{standing.name}' is marked for deletion.",
            found=f"provisioning state {standing.provisioning_state}",
            expected="a disk that stands, or none of that name",
            hint="delete it again, then make it",
            target=standing.name,
        )
    if standing.location != region:
        raise PropertyChangeNotAllowed("location", found=region, expected=standing.location)
    subscription = reference.subscription or installation.subscription
    line_id = names.definition_id(subscription, reference.group, reference.gallery, reference.definition)
    wanted = f"{line_id}/versions/{reference.version or ''}".lower()
    if not standing.source_reference.lower().startswith(wanted) or (
        reference.version and standing.source_reference.lower() != wanted
    ):
        raise PropertyChangeNotAllowed(
            "properties.creationData.galleryImageReference.id", found=wanted, expected=standing.source_reference
        )
    changed = standing if tags is None else replace(standing, tags=dict(tags))
    if changed != standing:
        facts.disks.update(changed)
    return changed


def _added(
    installation: Installation,
    facts: Facts,
    group: str,
    name: str,
    region: str,
    reference: ImageReference,
    tags: Mapping[str, str] | None,
) -> ManagedDisk:
    line, version, replica = choose_replica(installation, facts, reference, region)
    _check_allowed(line, replica.slot.key.storage_account_type)
    assert version.virtual_bytes is not None
    assert version.disk_digest is not None
    disk = ManagedDisk(
        uid=installation.effects.new_uid(),
        subscription=installation.subscription,
        group=group,
        name=name,
        location=region,
        tags=dict(tags) if tags else NO_TAGS,
        source_version_uid=version.uid,
        source_reference=line.version_id(version.name),
        replica=replica.slot.key.ordinal,
        slot=replica.slot,
        storage_account_type=replica.slot.key.storage_account_type,
        virtual_bytes=version.virtual_bytes,
        disk_digest=version.disk_digest,
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
        source_format=DiskFormat.RAW,
    )
    facts.disks.add(disk)
    return disk


def _check_allowed(line: Lineage, kind: StorageAccountType) -> None:
    """Refuse a disk of a type that its definition disallows: a managed disk has the type of its replica."""
    disallowed = [each.value for each in line.definition.disallowed_disk_types]
    if kind.value in disallowed:
        raise Conflict(
            f"Disks of type {kind} are not allowed by the image definition '{line.definition.name}'.",
            found=f"a replica of type {kind}, which its disks would have",
            expected=f"none of {', '.join(disallowed)}",
            hint="ask for a region where the version is kept in another type, or publish it in one",
            target="properties.disallowed.diskTypes",
        )


def choose_replica(
    installation: Installation, facts: Facts, reference: ImageReference, region: str
) -> tuple[Lineage, ImageVersion, Replica]:
    """The version that is meant and the replica whose turn it is; the turn counts in this transaction.

    Raises:
        ImageNotAvailable: no such version, or not complete in the region.
    """
    subscription = reference.subscription or installation.subscription
    line = finding.lineage(facts, subscription, reference.group, reference.gallery, reference.definition)
    version = named_version(installation, facts, line, reference, region)
    fit = healthy(facts.replicas.list(version.uid), region)
    if not fit:
        raise _not_available(installation, line.version_id(version.name), region)
    turn = facts.placements.next_turn(version.uid, region)
    return line, version, next_replica(turn, fit)


def named_version(
    installation: Installation, facts: Facts, line: Lineage, reference: ImageReference, region: str
) -> ImageVersion:
    """The version that a reference means in a region.

    Raises:
        ImageNotAvailable: no such version, or none that may be the latest there.
    """
    if reference.version is not None:
        found = facts.versions.get(line.definition.uid, reference.version)
        if found is None or not found.is_visible:
            raise _not_available(installation, line.version_id(reference.version), region)
        return found
    versions = facts.versions.list(line.definition.uid)
    found = latest([(each, facts.replicas.list(each.uid)) for each in versions], region)
    if found is None:
        raise ImageNotAvailable(
            f"There is no latest image version of '{line.definition.name}' in {_display(installation, region)} region.",
            found=f"{len(versions)} versions, none that is complete there and not excluded from latest",
            expected="a version that is complete in the region",
            hint="name a version, replicate one to this region, or ask for another region",
            target="galleryImageReference",
        )
    return found


def _not_available(installation: Installation, scope: str, region: str) -> ImageNotAvailable:
    return ImageNotAvailable(
        f"The gallery image {scope} is not available in {_display(installation, region)} region. Please contact image "
        "owner to replicate to this region, or change your requested region.",
        found="no complete replica there",
        expected="a version that is complete in the region",
        hint="`imgstore sig image-version show ... --expand ReplicationStatus` shows where it is complete",
        target="galleryImageReference",
    )


def _display(installation: Installation, region: str) -> str:
    return installation.regions.get(region).display_name


def _origin(facts: Facts, disk: ManagedDisk) -> ManifestRow:
    origin = facts.manifests.find(disk.source_version_uid, disk.slot.uid, OS_DISK)
    if origin is None:
        raise Conflict(
            f"The image version of disk '{disk.name}' was deleted before the disk was made.",
            found="a disk that an earlier run left unfinished",
            expected="its image version",
            hint=f"`imgstore disk delete -g {disk.group} -n {disk.name}`, then make it from another version",
            target=disk.name,
        )
    return origin


def _put(installation: Installation, disk: ManagedDisk, lease: Lease) -> ManagedDisk:
    """Put the disk's manifest, a reference to its replica's, and make the disk Succeeded."""
    key = keys.manifest_key(disk.uid, OS_DISK)
    with installation.catalog.reading() as facts:
        origin = facts.manifests.get(facts.works.get(lease.work_uid).pins[0])
    access = installation.access(disk.slot)
    body = access.object(origin.body_key, intact(origin.digest))
    data = encode_reference(Reference(digest=origin.digest, body_key=origin.body_key))
    made = replace(
        disk, provisioning_state=ProvisioningState.SUCCEEDED, source_format=decode_manifest(body).trimmings.format
    )
    with at_work(installation, disk.slot, lease) as hold:
        hold.go_on()
        access.put_manifest(key, data)
        with installation.catalog.transaction() as facts:
            facts.works.guard(lease)
            facts.slots.lock(disk.slot.uid)
            row = replace(origin, uid=installation.effects.new_uid(), owner_uid=disk.uid, object_bytes=len(data))
            facts.manifests.add(row)
            facts.manifests.complete(row.uid)
            open_interval(
                installation, facts, owner_uid=disk.uid, slot=disk.slot, party=_party(disk), own=row.object_bytes
            )
            facts.disks.update(made)
            facts.works.complete(lease)
    return made


def _party(disk: ManagedDisk) -> Party:
    return Party(
        subscription=disk.subscription, group=disk.group, gallery=None, definition=None, version=None, disk=disk.name
    )


def show_disk(installation: Installation, principal: Principal, *, group: str, name: str) -> ManagedDisk:
    """The managed disk of that name."""
    permit(installation, principal, Action.READ, names.disk_id(installation.subscription, group, name))
    with installation.catalog.reading() as facts:
        return finding.disk(facts, installation.subscription, group, name)


def list_disks(installation: Installation, principal: Principal, *, group: str | None = None) -> list[ManagedDisk]:
    """The managed disks of a group, or of the subscription, that the principal may see."""
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = may(principal, Action.READ, above, DISKS)
    with installation.catalog.reading() as facts:
        if group is not None:
            finding.group(facts, installation.subscription, group)
        standing = facts.disks.list(installation.subscription, group)
    standing = [each for each in standing if each.provisioning_state is not ProvisioningState.DELETING]
    return visible(
        principal, standing, lambda disk: names.disk_id(disk.subscription, disk.group, disk.name), whole=whole
    )


def delete_disk(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Remove a managed disk.

    Raises:
        WorkHeld: a live process reads it.
    """
    scope = names.disk_id(installation.subscription, group, name)
    with recorded(installation, principal, Action.DELETE, scope, "Microsoft.Compute/disks/delete"):
        with installation.catalog.reading() as facts:
            subscription = installation.subscription
            found = facts.disks.get(subscription, group, name) or finding.disk(facts, subscription, group, name)
        forget_disk(installation, found)
