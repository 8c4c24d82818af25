"""Create, change, scale, show, list and delete scale sets.

Each command takes the lease of the set, and first finishes or rolls back the change of a killed command.
"""

import re
from dataclasses import replace

from imgstore.domain import names
from imgstore.domain.errors import Conflict, ImgstoreError, LeaseLost, PropertyChangeNotAllowed
from imgstore.domain.identity.access import (
    INSTANCES,
    SCALE_SETS,
    Action,
    Principal,
    authorize,
    filter_readable,
    is_allowed,
)
from imgstore.domain.machines import NO_SECRETS, SCALE_SET, SIZE
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.requests import ScaleSetRequest
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease, check_capacity, check_scale_set_name
from imgstore.domain.states import ProvisioningState
from imgstore.domain.tags import apply_tags
from imgstore.domain.views import MachineView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.billing.budgets import check_budget
from imgstore.operations.disks.disks import choose_disk_region
from imgstore.operations.gallery.groups import ensure_group, permit_group
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import gallery_image
from imgstore.operations.machines.images import find_image
from imgstore.operations.scale_sets.change import (
    InstanceSource,
    authorize_instances,
    change_capacity,
    find_source,
    run_change,
)
from imgstore.operations.scale_sets.leases import hold_scale_set
from imgstore.operations.scale_sets.removal import remove_instances
from imgstore.policy.image_change import check_disk_settings
from imgstore.policy.os_profile import check_os_profile


def create_scale_set(installation: Installation, principal: Principal, request: ScaleSetRequest) -> ScaleSet:
    """Create a scale set with all instances, or nothing.

    The same call after a kill resumes. On a complete set the call changes nothing.

    Raises:
        InvalidInput: a name or the capacity is invalid, or the image requires or forbids an OS profile.
        ImageNotAvailable: the image is missing, or not complete in the region.
        PropertyChangeNotAllowed: the set exists with another image, region or capacity.
        Conflict: a quota or budget is reached, or the set is being deleted.
        StoreError: no replica of the region can be used. Nothing is left.
    """
    check_scale_set_name(request.name)
    check_capacity(request.capacity, is_managed_image=gallery_image(request.image) is None)
    scope = names.compute_id(installation.subscription, request.group, SCALE_SET, request.name)
    permit_group(installation, principal, request.group)
    with record_activity(installation, principal, Action.WRITE, scope):
        authorize_instances(installation, principal, request.group)
        installation.locator.health.refresh()
        with installation.catalog.reading() as transaction:
            region = choose_disk_region(installation, transaction, request.group, request.location, None)
            standing = transaction.scale_sets.get(installation.subscription, request.group, request.name)
        source = find_source(
            installation,
            principal,
            image=request.image if standing is None else standing.source_reference,
            group=request.group,
            region=region if standing is None else standing.location,
            allow_remote=request.allow_remote,
        )
        if standing is None:
            if source.is_remote:
                check_budget(installation)
            standing = _add_scale_set(installation, request, region, source)
        _check_same(installation, principal, standing, request)
        with hold_scale_set(installation, standing) as lease:
            return _finish_creation(installation, lease, standing, source)


def _finish_creation(
    installation: Installation, lease: ScaleSetLease, standing: ScaleSet, source: InstanceSource
) -> ScaleSet:
    with installation.catalog.transaction() as transaction:
        present = transaction.scale_sets.guard(lease)
    if present.former_capacity is None:
        return present  # Another process has created the set.
    is_new = present.provisioning_state is ProvisioningState.CREATING
    try:
        return run_change(installation, lease, present, source)
    except LeaseLost:
        raise
    except ImgstoreError:
        if is_new:
            with installation.catalog.transaction() as transaction:
                transaction.scale_sets.guard(lease)
                transaction.scale_sets.delete(standing.uid)
        raise


def _add_scale_set(
    installation: Installation, request: ScaleSetRequest, region: str, source: InstanceSource
) -> ScaleSet:
    check_disk_settings(request.attachments, source.luns)
    profile = check_os_profile(
        source.os_state,
        request.profile,
        specialized=False,
        source=source.source_reference,
        name=request.name,
    )
    with installation.catalog.transaction() as transaction:
        standing = transaction.scale_sets.get(installation.subscription, request.group, request.name)
        if standing is not None:
            return standing  # Another process has added the set since.
        made = ScaleSet(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            group=ensure_group(installation, transaction, request.group, region).name,
            name=request.name,
            location=region,
            tags=apply_tags(request.tags),
            size=request.size or SIZE,
            capacity=request.capacity,
            former_capacity=0,
            image_reference=_named_image(source.source_reference, source.reference),
            source_reference=source.source_reference,
            os_type=source.os_properties.os_type,
            hyper_v_generation=source.os_properties.hyper_v_generation,
            admin_username=profile.admin_username,
            computer_name_prefix=profile.computer_name,
            upgrade_mode=request.upgrade_mode,
            rolling=request.rolling,
            placement=request.placement,
            allow_remote=request.allow_remote,
            attachments=dict(request.attachments),
            extra_properties=dict(request.extra_properties),
            created_at=installation.effects.now(),
            provisioning_state=ProvisioningState.CREATING,
        )
        transaction.scale_sets.add(made)
        if request.secrets != NO_SECRETS:
            transaction.scale_set_secrets.put(made.uid, request.secrets)
        return made


def _named_image(version_id: str, reference: ImageReference | None) -> str:
    """Return the id of the definition if the reference names no version, else the id of the version or managed image."""
    if reference is None or reference.version is not None:
        return version_id
    definition_id, _, _ = re.split("(/versions/)", version_id, flags=re.IGNORECASE)
    return definition_id


def _requested_image(installation: Installation, principal: Principal, request: ScaleSetRequest) -> str:
    """Return the id of the image that a request names, as `ScaleSet.image_reference` has the id."""
    word = gallery_image(request.image)
    if word is None:
        with installation.catalog.reading() as transaction:
            image = find_image(installation, principal, transaction, request.group, request.image, what="scale set")
        return image.os.resource_id
    reference = admit_reader(installation, principal, word)
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    version_id = definition_path.version_id(reference.version or VersionName.parse("0.0.0"))
    return _named_image(reference.display_id(version_id), reference)


def _check_same(installation: Installation, principal: Principal, standing: ScaleSet, request: ScaleSetRequest) -> None:
    """Check that an existing set is the requested set."""
    _check_not_deleting(standing)
    image = _requested_image(installation, principal, request)
    if image.lower() != standing.image_reference.lower():
        raise PropertyChangeNotAllowed(
            "imageReference",
            found=image,
            expected=standing.image_reference,
            hint="`imgstore vmss update --image` changes the image",
        )
    if request.location is not None:
        region = installation.regions.get(request.location, target="location").name
        if region != standing.location:
            raise PropertyChangeNotAllowed("location", found=region, expected=standing.location)
    if request.capacity != standing.capacity:
        raise PropertyChangeNotAllowed(
            "sku.capacity",
            found=str(request.capacity),
            expected=str(standing.capacity),
            hint="`imgstore vmss scale --new-capacity` changes the number of instances",
        )


def _check_not_deleting(scale_set: ScaleSet) -> None:
    if scale_set.provisioning_state is ProvisioningState.DELETING:
        raise Conflict(
            f"The scale set '{scale_set.name}' is marked for deletion.",
            found=f"provisioning state {scale_set.provisioning_state}",
            expected="a set that is not being deleted, or a new name",
            hint="repeat the deletion, then create the scale set",
            target=scale_set.name,
        )


def scale_scale_set(
    installation: Installation, principal: Principal, *, group: str, name: str, capacity: int
) -> ScaleSet:
    """Give a scale set the number of instances `capacity`, or leave the former number.

    New instances have new ids. A lower number removes the instances with the highest ids, with their disks. Of two
    calls at the same time, the later one waits for the earlier one.

    Raises:
        InvalidInput: the capacity is above Azure's limit.
        ImageNotAvailable: the image is missing or not complete in the region. Nothing was changed.
        Conflict: a quota is reached, or an instance cannot be stopped.
        StoreError: no replica of the region can be used. The set has its former number.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_activity(installation, principal, Action.WRITE, scope):
        installation.locator.health.refresh()
        with installation.catalog.reading() as transaction:
            standing = lookup.find_scale_set(transaction, installation.subscription, group, name)
        check_capacity(capacity, is_managed_image=standing.is_from_managed_image)
        with hold_scale_set(installation, standing) as lease:
            with installation.catalog.transaction() as transaction:
                present = transaction.scale_sets.guard(lease)
            _check_not_deleting(present)
            _check_created(present)
            return change_capacity(installation, principal, lease, present, capacity)


def _check_created(scale_set: ScaleSet) -> None:
    if scale_set.provisioning_state is ProvisioningState.CREATING:
        raise Conflict(
            f"The scale set '{scale_set.name}' is not created completely.",
            found="a creation that was interrupted",
            expected="a complete scale set",
            hint="repeat `imgstore vmss create`, which resumes, or delete the scale set",
            target=scale_set.resource_id,
            code="OperationNotAllowed",
        )


def show_scale_set(installation: Installation, principal: Principal, *, group: str, name: str) -> ScaleSet:
    """Return a scale set."""
    permit(installation, principal, Action.READ, names.compute_id(installation.subscription, group, SCALE_SET, name))
    with installation.catalog.reading() as transaction:
        return lookup.find_scale_set(transaction, installation.subscription, group, name)


def list_scale_sets(installation: Installation, principal: Principal, *, group: str | None = None) -> list[ScaleSet]:
    """List the scale sets of a group or of the subscription that the principal may see, by name."""
    return list(page_scale_sets(installation, principal, PageRequest(), group=group).items)


def page_scale_sets(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str | None = None
) -> Page[ScaleSet]:
    """List a page.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, SCALE_SETS)
    of = f"{above}/{SCALE_SET}"
    with installation.catalog.reading() as transaction:
        if group is not None:
            lookup.find_group(transaction, subscription, group)
        limit = request.limit if whole else None
        standing = transaction.scale_sets.list(
            subscription, group, after=request.start_key_pair(of), limit=limit, visible=True
        )
        seen = filter_readable(principal, standing, lambda each: each.resource_id, whole=whole)
        return Page.from_rows(seen, request, of=of, key=lambda each: f"{each.name}/{each.uid}")


def list_instances(installation: Installation, principal: Principal, *, group: str, name: str) -> list[MachineView]:
    """List the instances of a scale set with their disks, by id."""
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    permit(installation, principal, Action.READ, scope, INSTANCES)
    with installation.catalog.reading() as transaction:
        scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
        instances = transaction.machines.list_instances(scale_set.uid)
        disks = transaction.disks.list_of_scale_set(scale_set.resource_id)
    attached: dict[str, list[ManagedDisk]] = {each.resource_id: [] for each in instances}
    for disk in disks:
        attached.setdefault(disk.managed_by or "", []).append(disk)
    return [
        MachineView(
            machine=each,
            disks=tuple(
                sorted(
                    attached[each.resource_id],
                    key=lambda disk: -1 if disk.machine_lun is None else disk.machine_lun,
                )
            ),
        )
        for each in instances
        if each.provisioning_state is not ProvisioningState.DELETING
    ]


def delete_scale_set(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Stop and delete all instances of a set with their disks, then the set. May be repeated after an interruption.

    Raises:
        Conflict: an instance runs on another host, or a signed URL of a disk is valid.
        WorkHeld: a live process reads a disk.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_resource_deletion(installation, principal, scope):
        authorize(principal, Action.DELETE, names.group_id(installation.subscription, group), "Microsoft.Compute/disks")
        with installation.catalog.reading() as transaction:
            standing = transaction.scale_sets.get(installation.subscription, group, name)
            if standing is None:
                standing = lookup.find_scale_set(transaction, installation.subscription, group, name)
        with hold_scale_set(installation, standing) as lease:
            _remove_scale_set(installation, lease)


def _remove_scale_set(installation: Installation, lease: ScaleSetLease) -> None:
    with installation.catalog.transaction() as transaction:
        scale_set = replace(transaction.scale_sets.guard(lease), provisioning_state=ProvisioningState.DELETING)
        transaction.scale_sets.update(scale_set)
        instances = transaction.machines.list_instances(scale_set.uid)
        disks = transaction.disks.list_of_scale_set(scale_set.resource_id)
    remove_instances(installation, lease, instances, disks)
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.guard(lease)
        transaction.scale_sets.delete(scale_set.uid)
