"""Find resources by names from a person. The error for a missing resource names the first missing part."""

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import NotFound, ParentNotFound
from imgstore.domain.machines import MACHINE, SCALE_SET, Machine
from imgstore.domain.names import ImageReference, SharedReference, VersionName
from imgstore.domain.resources import DiskKind, Gallery, Group, ImageVersion, ManagedDisk
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import DefinitionPath


def find_group(transaction: Transaction, subscription: str, name: str) -> Group:
    """Find a resource group by name."""
    found = transaction.groups.get(subscription, name)
    if found is None:
        raise _not_found("resource group", names.group_id(subscription, name), "imgstore group list")
    return found


def find_gallery(transaction: Transaction, subscription: str, group_name: str, name: str) -> Gallery:
    """Find a gallery by name."""
    found = transaction.galleries.get(subscription, group_name, name)
    if found is None:
        raise _not_found("gallery", names.gallery_id(subscription, group_name, name), "imgstore sig list")
    return found


def find_parent_gallery(transaction: Transaction, subscription: str, group_name: str, name: str) -> Gallery:
    """Find the gallery of a new resource; the error is about a missing parent."""
    found = transaction.galleries.get(subscription, group_name, name)
    if found is None:
        raise _parent_not_found(
            names.gallery_id(subscription, group_name, name), f"sig create -g {group_name} -r {name}"
        )
    return found


def find_definition_path(
    transaction: Transaction, subscription: str, group_name: str, gallery_name: str, name: str
) -> DefinitionPath:
    """Find a definition by name, with its gallery."""
    found = transaction.references.find(subscription, group_name, gallery_name, name)
    if found is None:
        raise _definition_not_found(transaction, subscription, group_name, gallery_name, name)
    return DefinitionPath(gallery=found[0], definition=found[1])


def find_referenced_definition(
    transaction: Transaction, subscription: str, reference: ImageReference
) -> DefinitionPath:
    """Find the definition that a reference names, from the view of a subscription.

    Raises:
        NotFound: the definition does not exist. The error does not contain the resource group of a shared gallery.
    """
    above = (reference.subscription or subscription, reference.group, reference.gallery, reference.definition)
    if reference.shared is None:
        return find_definition_path(transaction, *above)
    found = transaction.references.find(*above)
    if found is None:
        raise shared_image_not_found(reference.shared)
    return DefinitionPath(gallery=found[0], definition=found[1])


def shared_image_not_found(reference: SharedReference) -> NotFound:
    """Make the error for a missing definition or version in a shared gallery. The error contains no resource group."""
    kind = "community" if reference.community else "shared"
    return NotFound(
        f"The image '{reference}' was not found.",
        found="no such image definition or version in the gallery",
        expected="an existing image",
        hint=f"`imgstore sig image-definition list-{kind} ...` lists the known entries",
        target=str(reference),
    )


def find_definition_and_version(
    transaction: Transaction, subscription: str, group_name: str, gallery_name: str, name: str, number: VersionName
) -> tuple[DefinitionPath, ImageVersion]:
    """Find a definition and a version of the definition with a single query."""
    found = transaction.references.find_version(subscription, group_name, gallery_name, name, number)
    if found is None:
        raise _definition_not_found(transaction, subscription, group_name, gallery_name, name)
    definition_path = DefinitionPath(gallery=found[0], definition=found[1])
    return definition_path, _check_visible(definition_path, found[2], number)


def find_parent_definition(
    transaction: Transaction, subscription: str, group_name: str, gallery_name: str, name: str
) -> DefinitionPath:
    """Find the definition of a new version, with its gallery; the error is about a missing parent."""
    above = find_parent_gallery(transaction, subscription, group_name, gallery_name)
    if transaction.definitions.get(above.uid, name) is None:
        scope = names.definition_id(subscription, group_name, gallery_name, name)
        raise _parent_not_found(scope, f"sig image-definition create -g {group_name} -r {above.name} -i {name} ...")
    return find_definition_path(transaction, subscription, group_name, gallery_name, name)


def definition_path_of(transaction: Transaction, version: ImageVersion) -> DefinitionPath:
    """Return the definition and the gallery of a version."""
    definition = transaction.definitions.by_uid(version.definition_uid)
    return DefinitionPath(gallery=transaction.galleries.by_uid(definition.gallery_uid), definition=definition)


def find_version(transaction: Transaction, definition_path: DefinitionPath, name: VersionName) -> ImageVersion:
    """Find a version by name. Deleted and soft-deleted versions are not found."""
    return _check_visible(definition_path, transaction.versions.get(definition_path.definition.uid, name), name)


def _check_visible(definition_path: DefinitionPath, found: ImageVersion | None, name: VersionName) -> ImageVersion:
    if found is None or not found.is_visible:
        where = (
            f"-g {definition_path.gallery.group} -r {definition_path.gallery.name} -i {definition_path.definition.name}"
        )
        raise _not_found("image version", definition_path.version_id(name), f"imgstore sig image-version list {where}")
    return found


def find_disk(
    transaction: Transaction, subscription: str, group_name: str, name: str, kind: DiskKind = DiskKind.DISK
) -> ManagedDisk:
    """Find a managed disk or snapshot by name. Disks in state Deleting are not found."""
    found = transaction.disks.get(subscription, group_name, name, kind)
    if found is None or found.provisioning_state is ProvisioningState.DELETING:
        raise disk_not_found(subscription, group_name, name, kind)
    return found


def find_machine(transaction: Transaction, subscription: str, group_name: str, name: str) -> Machine:
    """Find a virtual machine by name. Machines in state Deleting are not found."""
    found = transaction.machines.get(subscription, group_name, name)
    if found is None or found.provisioning_state is ProvisioningState.DELETING:
        scope = names.compute_id(subscription, group_name, MACHINE, name)
        raise _not_found("virtual machine", scope, "imgstore vm list")
    return found


def find_scale_set(transaction: Transaction, subscription: str, group_name: str, name: str) -> ScaleSet:
    """Find a scale set by name. Scale sets in state Deleting are not found."""
    found = transaction.scale_sets.get(subscription, group_name, name)
    if found is None or found.provisioning_state is ProvisioningState.DELETING:
        scope = names.compute_id(subscription, group_name, SCALE_SET, name)
        raise _not_found("scale set", scope, "imgstore vmss list")
    return found


def find_instance(transaction: Transaction, scale_set: ScaleSet, instance_id: int) -> Machine:
    """Find an instance of a scale set. Instances in state Deleting are not found."""
    found = transaction.machines.get_instance(scale_set.uid, instance_id)
    if found is None or found.provisioning_state is ProvisioningState.DELETING:
        scope = f"{scale_set.resource_id}/{MACHINE}/{instance_id}"
        raise _not_found("instance", scope, f"imgstore vmss list-instances -g {scale_set.group} -n {scale_set.name}")
    return found


def disk_not_found(subscription: str, group_name: str, name: str, kind: DiskKind) -> NotFound:
    """Make the error for a missing disk of a kind."""
    scope = names.compute_id(subscription, group_name, kind, name)
    return _not_found(kind.noun, scope, f"imgstore {kind.removesuffix('s')} list")


def _definition_not_found(
    transaction: Transaction, subscription: str, group_name: str, gallery_name: str, name: str
) -> NotFound | ParentNotFound:
    """Make the error for a missing definition, or for a missing gallery above the definition."""
    try:
        above = find_parent_gallery(transaction, subscription, group_name, gallery_name)
    except ParentNotFound as error:
        return error
    scope = names.definition_id(subscription, group_name, gallery_name, name)
    return _not_found("image definition", scope, f"imgstore sig image-definition list -g {group_name} -r {above.name}")


def _not_found(what: str, scope: str, command: str) -> NotFound:
    return NotFound(
        f"The {what} '{scope.rsplit('/', 1)[-1]}' was not found.",
        found=f"nothing at {scope}",
        expected=f"an existing {what}",
        hint=f"`{command}` lists the known entries",
        target=scope,
    )


def _parent_not_found(scope: str, command: str) -> ParentNotFound:
    return ParentNotFound(
        f"Can not perform requested operation on nested resource. Parent resource '{scope.rsplit('/', 1)[-1]}' not "
        "found.",
        found=f"nothing at {scope}",
        expected="an existing parent resource",
        hint=f"`imgstore {command}` makes it",
        target=scope,
    )
