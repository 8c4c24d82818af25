"""Create the row of a machine and its disks. The disks come from one replica or one managed image, or exist already.

One transaction writes all rows and advances the round robin once. Then each disk's reference is stored. After an
interruption the same call resumes with the placed disks.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.disk_details import DiskDetails
from imgstore.domain.disks.version_disks import OS_DISK, check_has_disk, disk_key, lun_of
from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.identity.access import VERSIONS, Action, Principal, authorize
from imgstore.domain.machines import (
    MACHINE,
    NO_ATTACHMENT_SETTINGS,
    NO_SECRETS,
    SIZE,
    DiskAttachment,
    Machine,
    check_machine_name,
    free_luns,
)
from imgstore.domain.names import ImageReference, SharedReference, parse_image_reference
from imgstore.domain.requests import MachineRequest
from imgstore.domain.resources import DiskKind, ManagedDisk, OsProperties, OsState
from imgstore.domain.states import ProvisioningState
from imgstore.domain.storage.sizes import GIB
from imgstore.domain.tags import apply_tags
from imgstore.domain.views import MachineView, ManagedImage
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.disks import (
    ImageDiskRequest,
    add_disk,
    check_same_image,
    choose_disk_region,
    update_tags,
)
from imgstore.operations.disks.from_source import copy_disk_row
from imgstore.operations.disks.placed_disks import make_placed_disks
from imgstore.operations.disks.placement import advise_replicas, choose_slot
from imgstore.operations.disks.sources import list_candidate_ids, source_not_found
from imgstore.operations.gallery.groups import ensure_group, permit_group
from imgstore.operations.gallery.sharing import admit_reader, image_scope
from imgstore.operations.installation import Installation
from imgstore.operations.machines.data_disks import (
    NO_MOVES,
    apply_moves,
    attach_row,
    disks_at_luns,
    find_attachable,
    move_disks,
)
from imgstore.operations.machines.images import find_image
from imgstore.operations.network_records import authorize_interfaces
from imgstore.operations.quotas import enforce_quota
from imgstore.operations.slots.held_works import run_or_follow
from imgstore.operations.slots.references import PlacedDisk, lease_disk
from imgstore.policy.os_compatibility import check_os_compatibility
from imgstore.policy.os_profile import check_os_profile
from imgstore.policy.purchase_plan import check_purchase_plan

_WHAT = "virtual machine"
_IMAGE = "properties.storageProfile.imageReference.id"
_DATA_DISKS = "properties.storageProfile.dataDisks"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request with its image resolved."""

    request: MachineRequest
    reference: ImageReference | None
    """Reference to a version or a definition."""


def create_machine(installation: Installation, principal: Principal, request: MachineRequest) -> MachineView:
    """Create a machine and its disks.

    The same call resumes an interrupted call. On a complete machine the call changes size and tags.

    Raises:
        InvalidInput: the request has no source or two sources, the source is missing or in another region, or the image
            requires or forbids an OS profile.
        ImageNotAvailable: the version does not exist, or is not complete in the region.
        PropertyChangeNotAllowed: the machine exists, with another source, region or OS profile.
        Conflict: a disk is attached to another machine.
    """
    check_machine_name(request.name)
    _check_one_source(request)
    scope = names.compute_id(installation.subscription, request.group, MACHINE, request.name)
    permit_group(installation, principal, request.group)
    with record_activity(installation, principal, Action.WRITE, scope):
        asked = _Asked(request=request, reference=_find_gallery_image(installation, principal, request))
        installation.locator.health.refresh()
        return run_or_follow(
            installation,
            f"virtual machine {request.name}",
            lambda: _make_machine(installation, principal, asked, scope),
        )


def _make_machine(installation: Installation, principal: Principal, asked: _Asked, scope: str) -> MachineView:
    """Write or compare the rows of a machine, and make its unfinished disks."""
    request = asked.request
    moves = NO_MOVES
    with installation.catalog.transaction() as transaction, enforce_quota(installation, transaction):
        standing = transaction.machines.get(installation.subscription, request.group, request.name)
        authorize_interfaces(transaction, principal, scope, standing, request.interfaces or ())
        if standing is None and not request.may_create:
            lookup.find_machine(transaction, installation.subscription, request.group, request.name)
        if standing is None:
            machine, disks = _write_rows(installation, principal, transaction, asked)
        else:
            machine = _compare_machine(
                installation, principal, transaction, transaction.machines.get_for_update(standing.uid), asked
            )
            if machine.provisioning_state is ProvisioningState.CREATING:
                _authorize_rest(installation, principal, transaction, machine, asked)
            moves = move_disks(installation, principal, transaction, machine, request)
            machine = transaction.machines.get_for_update(machine.uid)
            disks = transaction.disks.list_attached(machine.resource_id)
        _check_disks(request, machine, disks)
        disks = [_with_sku(installation, transaction, request, disk) for disk in disks]
        if request.interfaces is not None:
            transaction.network_records.set_interfaces(machine.uid, request.interfaces)
        placed = [lease_disk(installation, transaction, disk) for disk in disks]
    apply_moves(installation, machine, moves)
    for together in _group_by_slot(machine, placed):
        begun = {each.disk.uid for each in together if each.lease is not None}
        for made in make_placed_disks(installation, together):
            if made.uid in begun and made.machine_lun is None and made.source_version_uid is not None:
                advise_replicas(installation, made)
    return _finish(installation, machine)


def _group_by_slot(machine: Machine, placed: Sequence[PlacedDisk]) -> Iterator[list[PlacedDisk]]:
    """Group the machine's new disks by slot. Disks of an image version share a slot and stay in one slot; each other disk is alone."""
    own = [
        each
        for each in placed
        if each.disk.source_reference == machine.image_reference
        and each.disk.name == machine.disk_name(each.disk.machine_lun)
        and each.disk.source_version_uid is not None
    ]
    yield own
    yield from ([each] for each in placed if each not in own)


def _finish(installation: Installation, machine: Machine) -> MachineView:
    with installation.catalog.transaction() as transaction:
        held = transaction.machines.get_for_update(machine.uid)
        if held.provisioning_state is ProvisioningState.CREATING:
            held = replace(held, provisioning_state=ProvisioningState.SUCCEEDED)
            transaction.machines.update(held)
        return MachineView(machine=held, disks=tuple(transaction.disks.list_attached(held.resource_id)))


def _check_one_source(request: MachineRequest) -> None:
    changes_alone = not request.may_create and request.image is None
    if (request.image is None) is (request.attach_os_disk is None) and not changes_alone:
        raise InvalidInput(
            "A virtual machine needs one image, or one OS disk to attach.",
            found="neither" if request.image is None else "both",
            expected="one of --image and --attach-os-disk",
            hint="use one of the two options",
            target="properties.storageProfile",
        )


def _find_gallery_image(
    installation: Installation, principal: Principal, request: MachineRequest
) -> ImageReference | None:
    """Return the version or definition of the request's image if the principal may read the image. None for a managed image."""
    reference = None if request.image is None else gallery_image(request.image)
    return None if reference is None else admit_reader(installation, principal, reference)


def gallery_image(word: str) -> ImageReference | SharedReference | None:
    """Return the version or definition that `word` names. None for the name or id of a managed image.

    Raises:
        InvalidInput: the text is no reference and no id of an image.
    """
    return None if "/" not in word or names.ComputeId.parse(word) is not None else parse_image_reference(word)


def _write_rows(
    installation: Installation, principal: Principal, transaction: Transaction, asked: _Asked
) -> tuple[Machine, list[ManagedDisk]]:
    """Write the rows of a new machine and of all its disks."""
    request = asked.request
    if asked.reference is not None:
        return _disks_of_version(installation, principal, transaction, request, asked.reference)
    if request.image is not None:
        return _disks_of_image(installation, principal, transaction, request, request.image)
    assert request.attach_os_disk is not None, "it has one source"
    os_disk = find_attachable(
        installation, principal, transaction, request.group, request.attach_os_disk, _region(installation, request)
    )
    check_os_compatibility(
        os_disk.os_properties, OsProperties(os_type=request.os_type), source_name=os_disk.name, target_name=request.name
    )
    said = replace(os_disk.os_properties, os_type=os_disk.os_properties.os_type or request.os_type)
    machine = _new_machine(
        installation, transaction, request, os_disk.location, OsState.SPECIALIZED, os_disk.name, said
    )
    _add_machine(transaction, request, machine)
    attach_row(transaction, machine, os_disk, None)
    return machine, _all_disks(installation, principal, transaction, request, machine)


def _disks_of_version(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    request: MachineRequest,
    reference: ImageReference,
) -> tuple[Machine, list[ManagedDisk]]:
    """Make the disks of a version from the next replica in the round robin."""
    region = choose_disk_region(installation, transaction, request.group, request.location, None)
    offer, slot = choose_slot(installation, transaction, reference, region)
    machine = _new_machine(
        installation, transaction, request, region, offer.os_state, offer.source, offer.os_properties
    )
    machine = replace(machine, image_reference=offer.source)
    definition = lookup.find_referenced_definition(transaction, installation.subscription, reference).definition
    check_purchase_plan(definition.purchase_plan, request.extra_properties.get("plan"), machine.resource_id)
    _authorize_disks(principal, machine, [each.lun for each in offer.disks])
    _add_machine(transaction, request, machine)
    for each in offer.disks:
        wanted = ImageDiskRequest(
            group=machine.group,
            name=machine.disk_name(each.lun),
            region=region,
            reference=reference,
            lun=each.lun,
            tags=request.tags,
            managed_by=machine.resource_id,
        )
        add_disk(installation, transaction, wanted, offer, slot)
    return machine, _all_disks(installation, principal, transaction, request, machine)


def _disks_of_image(
    installation: Installation, principal: Principal, transaction: Transaction, request: MachineRequest, word: str
) -> tuple[Machine, list[ManagedDisk]]:
    """Make a copy of each disk of a managed image."""
    image = find_image(installation, principal, transaction, request.group, word, what=_WHAT)
    region = image.os.location
    if request.location is not None:
        region = installation.regions.get(request.location, target="location").name
    if region != image.os.location:
        raise source_not_found(word, f"it is in {image.os.location}", what=_WHAT, region=region)
    said = image.os.os_properties
    machine = _new_machine(installation, transaction, request, region, said.os_state or OsState.GENERALIZED, word, said)
    machine = replace(machine, image_reference=image.os.resource_id)
    _authorize_disks(principal, machine, map(lun_of, image.by_key))
    _add_machine(transaction, request, machine)
    for disk in _copies(installation, request, machine, image):
        transaction.disks.add(disk)
    return machine, _all_disks(installation, principal, transaction, request, machine)


def _copies(
    installation: Installation, request: MachineRequest, machine: Machine, image: ManagedImage
) -> list[ManagedDisk]:
    return [
        replace(
            copy_disk_row(installation, original),
            kind=DiskKind.DISK,
            group=machine.group,
            name=machine.disk_name(lun_of(part)),
            disk_key=OS_DISK,
            tags=apply_tags(request.tags),
            os_properties=replace(original.os_properties, os_state=None),
            managed_by=machine.resource_id,
            machine_lun=lun_of(part),
        )
        for part, original in image.by_key.items()
    ]


def _authorize_disks(principal: Principal, machine: Machine, luns: Iterable[int | None]) -> None:
    """Check the right to create disks in the group, since a machine's disks are resources of their own."""
    for lun in luns:
        authorize(principal, Action.WRITE, names.disk_id(machine.subscription, machine.group, machine.disk_name(lun)))


def _authorize_rest(
    installation: Installation, principal: Principal, transaction: Transaction, machine: Machine, asked: _Asked
) -> None:
    """Check the rights that an unfinished machine still needs: the rights to create the machine."""
    disks = transaction.disks.list_attached(machine.resource_id)
    for each in disks:
        authorize(principal, Action.WRITE, each.resource_id)
    if machine.image_reference is None:
        return
    image = names.ComputeId.parse(machine.image_reference)
    if image is not None:
        authorize(principal, Action.READ, image.resource_id)
    elif (
        asked.reference is None
    ):  # A version that this request does not name: `_find_gallery_image` has not checked it.
        reference = parse_image_reference(machine.image_reference)
        assert isinstance(reference, ImageReference), "the id of a version is stored"
        authorize(principal, Action.READ, image_scope(installation, reference), VERSIONS)


def _new_machine(
    installation: Installation,
    transaction: Transaction,
    request: MachineRequest,
    region: str,
    state: OsState,
    source: str,
    said: OsProperties,
) -> Machine:
    """Make the row of a new machine, and create a missing group."""
    profile = check_os_profile(
        state, request.profile, specialized=request.specialized, source=source, name=request.name
    )
    return Machine(
        uid=installation.effects.new_uid(),
        subscription=installation.subscription,
        group=ensure_group(installation, transaction, request.group, region).name,
        name=request.name,
        location=region,
        tags=apply_tags(request.tags),
        size=request.size or SIZE,
        image_reference=None,
        os_type=said.os_type,
        hyper_v_generation=said.hyper_v_generation,
        admin_username=profile.admin_username,
        computer_name=profile.computer_name,
        attachments=_make_attachments(request),
        extra_properties=dict(request.extra_properties),
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.CREATING,
    )


def _add_machine(transaction: Transaction, request: MachineRequest, machine: Machine) -> None:
    """Add the row of a new machine, and the secrets for its first start."""
    transaction.machines.add(machine)
    if request.secrets != NO_SECRETS:
        transaction.machine_secrets.put(machine.uid, request.secrets)


def _region(installation: Installation, request: MachineRequest) -> str | None:
    return None if request.location is None else installation.regions.get(request.location, target="location").name


def _make_attachments(request: MachineRequest) -> dict[str, DiskAttachment]:
    """Make the disk attachments of a new machine. An attached disk keeps its name."""
    attached = {key for key, asked in request.disks.items() if asked.attach is not None}
    if request.attach_os_disk is not None:
        attached.add(OS_DISK)
    said = {
        key: replace(asked.attachment, name=None) if key in attached else asked.attachment
        for key, asked in request.disks.items()
        if asked.attachment != NO_ATTACHMENT_SETTINGS
    }
    for manner in said.values():
        if manner.name is not None:
            names.check_disk_name(manner.name)
    return said


def _all_disks(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    request: MachineRequest,
    machine: Machine,
) -> list[ManagedDisk]:
    """Return all disks of the machine, with the existing disks to attach."""
    there = transaction.disks.list_attached(machine.resource_id)
    taken = {disk.machine_lun for disk in there if disk.machine_lun is not None}
    for lun, word in disks_at_luns(request).items():
        if lun in taken:
            raise InvalidInput(
                f"A disk with LUN {lun} is already specified.",
                found=f"'{word}' to be attached at LUN {lun}, where the image has a disk of its own",
                expected="a LUN without a disk of the image",
                hint="choose another LUN",
                target=f"{_DATA_DISKS}.lun",
            )
        taken.add(lun)
        attach_row(
            transaction,
            machine,
            find_attachable(installation, principal, transaction, request.group, word, machine.location),
            lun,
        )
    luns = free_luns(taken, len(request.attach_data_disks))
    for word, lun in zip(request.attach_data_disks, luns, strict=True):
        attach_row(
            transaction,
            machine,
            find_attachable(installation, principal, transaction, request.group, word, machine.location),
            lun,
        )
    return transaction.disks.list_attached(machine.resource_id)


def _compare_machine(
    installation: Installation, principal: Principal, transaction: Transaction, standing: Machine, asked: _Asked
) -> Machine:
    """Compare a request with an existing machine. Size and tags may change."""
    request = asked.request
    if standing.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"The virtual machine '{standing.name}' is marked for deletion.",
            found=f"provisioning state {standing.provisioning_state}",
            expected="a machine that is not being deleted, or a new name",
            hint="repeat the deletion, then create the machine",
            target=standing.name,
        )
    if request.location is not None:
        region = installation.regions.get(request.location, target="location").name
        if region != standing.location:
            raise PropertyChangeNotAllowed("location", found=region, expected=standing.location)
    _check_same_source(installation, principal, transaction, standing, asked)
    if request.profile.has_fields and standing.admin_username is None:
        raise PropertyChangeNotAllowed("properties.osProfile", found="an OS profile", expected="none")
    for path, said, known in (
        ("properties.osProfile.adminUsername", request.profile.admin_username, standing.admin_username),
        ("properties.osProfile.computerName", request.profile.computer_name, standing.computer_name),
    ):
        if said not in (None, known):
            raise PropertyChangeNotAllowed(path, found=said or "", expected=known or "none")
    changed = replace(
        standing,
        size=request.size or standing.size,
        tags=apply_tags(request.tags, standing.tags),
        attachments={**standing.attachments, **_change_attachments(request, standing)},
        extra_properties={**standing.extra_properties, **request.extra_properties},
    )
    if changed != standing:
        transaction.machines.update(changed)
    return changed


def _change_attachments(request: MachineRequest, standing: Machine) -> dict[str, DiskAttachment]:
    """Return the changed attachments of existing disks. Every attribute may change, except the name."""
    return {
        key: replace(asked.attachment, name=None).with_defaults(standing.attachment(lun_of(key)))
        for key, asked in request.disks.items()
        if replace(asked.attachment, name=None) != NO_ATTACHMENT_SETTINGS
    }


def _check_disks(request: MachineRequest, machine: Machine, disks: Sequence[ManagedDisk]) -> None:
    """Check that the machine's disks are the requested disks.

    Raises:
        ImageNotAvailable: the image has no disk at a requested LUN.
        InvalidInput: the request has another size for a disk.
        PropertyChangeNotAllowed: the request has another disk, or another name for a disk.
    """
    there = {disk_key(each.machine_lun): each for each in disks}
    for key, asked in request.disks.items():
        check_has_disk(there, key, machine.image_reference or machine.name)
        disk = there[key]
        size_gib = -(-disk.virtual_bytes // GIB)
        if asked.size_gib not in (None, size_gib):
            raise InvalidInput(
                "A disk of a virtual machine has the size of the image's disk: another size is not built.",
                found=f"{asked.size_gib} GiB asked, {size_gib} GiB there",
                expected=f"diskSizeGB {size_gib}, or none",
                hint="leave diskSizeGB out",
                target="properties.storageProfile.osDisk.diskSizeGB" if key == OS_DISK else f"{_DATA_DISKS}.diskSizeGB",
            )
        path = "properties.storageProfile.osDisk" if key == OS_DISK else _DATA_DISKS
        if asked.attachment.name is not None and asked.attachment.name.casefold() != disk.name.casefold():
            raise PropertyChangeNotAllowed(f"{path}.name", found=asked.attachment.name, expected=disk.name)
        if asked.resource_id is not None and asked.resource_id.casefold() != disk.resource_id.casefold():
            raise PropertyChangeNotAllowed(f"{path}.managedDisk.id", found=asked.resource_id, expected=disk.resource_id)


def _with_sku(
    installation: Installation, transaction: Transaction, request: MachineRequest, disk: ManagedDisk
) -> ManagedDisk:
    """Return the disk with the requested storage type. Raises the errors of `DiskDetails.apply_to`."""
    asked = request.disks.get(disk_key(disk.machine_lun))
    if asked is None or asked.sku is None:
        return disk
    path = "properties.storageProfile.osDisk" if disk.machine_lun is None else f"{_DATA_DISKS}[{disk.machine_lun}]"
    details = DiskDetails(sku=asked.sku, sku_path=f"{path}.managedDisk.storageAccountType")
    return update_tags(installation, transaction, disk, None, details)


def _check_same_source(
    installation: Installation, principal: Principal, transaction: Transaction, standing: Machine, asked: _Asked
) -> None:
    request, known = asked.request, standing.image_reference
    if asked.reference is not None:
        check_same_image(installation, asked.reference, known or "attached disks", _IMAGE)
    elif request.image is not None:
        named = list_candidate_ids(installation, request.group, request.image, (DiskKind.IMAGE,))
        if (known or "").lower() not in {each.resource_id.lower() for each in named}:
            raise PropertyChangeNotAllowed(_IMAGE, found=request.image, expected=known or "attached disks")
    there = {disk.resource_id.lower() for disk in transaction.disks.list_attached(standing.resource_id)}
    words = [*([request.attach_os_disk] if request.attach_os_disk is not None else []), *request.attach_data_disks]
    for word in words:
        for each in list_candidate_ids(installation, request.group, word, (DiskKind.DISK,)):
            authorize(principal, Action.WRITE, each.resource_id)
            if each.resource_id.lower() not in there:
                raise PropertyChangeNotAllowed(
                    "properties.storageProfile.dataDisks",
                    found=each.resource_id,
                    expected="the disks of the existing machine",
                )
