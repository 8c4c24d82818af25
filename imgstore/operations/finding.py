"""Finding resources by the names that a person gives, with an error that says which of them is missing."""

from dataclasses import dataclass

from imgstore.catalog import Facts
from imgstore.domain import names
from imgstore.domain.errors import NotFound, ParentNotFound
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskKind, Gallery, Group, ImageDefinition, ImageVersion, ManagedDisk
from imgstore.domain.states import ProvisioningState


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A definition and the gallery that it is in."""

    gallery: Gallery
    definition: ImageDefinition

    def version_id(self, version: VersionName) -> str:
        """The resource id of one of its versions."""
        gallery = self.gallery
        return names.version_id(gallery.subscription, gallery.group, gallery.name, self.definition.name, version)


def group(facts: Facts, subscription: str, name: str) -> Group:
    """The group of that name."""
    found = facts.groups.get(subscription, name)
    if found is None:
        raise _missing("resource group", names.group_id(subscription, name), "imgstore group list")
    return found


def gallery(facts: Facts, subscription: str, group_name: str, name: str) -> Gallery:
    """The gallery of that name."""
    found = facts.galleries.get(subscription, group_name, name)
    if found is None:
        raise _missing("gallery", names.gallery_id(subscription, group_name, name), "imgstore sig list")
    return found


def parent_gallery(facts: Facts, subscription: str, group_name: str, name: str) -> Gallery:
    """The gallery that something is to be made in."""
    found = facts.galleries.get(subscription, group_name, name)
    if found is None:
        raise _parent_missing(names.gallery_id(subscription, group_name, name), f"sig create -g {group_name} -r {name}")
    return found


def lineage(facts: Facts, subscription: str, group_name: str, gallery_name: str, name: str) -> Lineage:
    """The definition of that name, with its gallery."""
    found = facts.lineages.find(subscription, group_name, gallery_name, name)
    if found is None:
        above = parent_gallery(facts, subscription, group_name, gallery_name)
        scope = names.definition_id(subscription, group_name, gallery_name, name)
        raise _missing("image definition", scope, f"imgstore sig image-definition list -g {group_name} -r {above.name}")
    return Lineage(gallery=found[0], definition=found[1])


def parent_lineage(facts: Facts, subscription: str, group_name: str, gallery_name: str, name: str) -> Lineage:
    """The definition that a version is to be made in, with its gallery."""
    above = parent_gallery(facts, subscription, group_name, gallery_name)
    if facts.definitions.get(above.uid, name) is None:
        scope = names.definition_id(subscription, group_name, gallery_name, name)
        raise _parent_missing(scope, f"sig image-definition create -g {group_name} -r {above.name} -i {name} ...")
    return lineage(facts, subscription, group_name, gallery_name, name)


def lineage_of(facts: Facts, version: ImageVersion) -> Lineage:
    """What a version is in."""
    definition = facts.definitions.by_uid(version.definition_uid)
    return Lineage(gallery=facts.galleries.by_uid(definition.gallery_uid), definition=definition)


def version(facts: Facts, line: Lineage, name: VersionName) -> ImageVersion:
    """The version of that name. One that was deleted, softly or not, is not found."""
    found = facts.versions.get(line.definition.uid, name)
    if found is None or not found.is_visible:
        where = f"-g {line.gallery.group} -r {line.gallery.name} -i {line.definition.name}"
        raise _missing("image version", line.version_id(name), f"imgstore sig image-version list {where}")
    return found


def disk(facts: Facts, subscription: str, group_name: str, name: str, kind: DiskKind = DiskKind.DISK) -> ManagedDisk:
    """The managed disk, or snapshot, of that name. One that is being deleted is not found."""
    found = facts.disks.get(subscription, group_name, name, kind)
    if found is None or found.provisioning_state is ProvisioningState.DELETING:
        raise no_disk(subscription, group_name, name, kind)
    return found


def no_disk(subscription: str, group_name: str, name: str, kind: DiskKind) -> NotFound:
    """What is raised where there is none of that kind and name."""
    scope = names.compute_id(subscription, group_name, kind, name)
    return _missing(kind.noun, scope, f"imgstore {kind.removesuffix('s')} list")


def _missing(what: str, scope: str, command: str) -> NotFound:
    return NotFound(
        f"The {what} '{scope.rsplit('/', 1)[-1]}' was not found.",
        found=f"nothing at {scope}",
        expected=f"an existing {what}",
        hint=f"`{command}` shows what there is",
        target=scope,
    )


def _parent_missing(scope: str, command: str) -> ParentNotFound:
    return ParentNotFound(
        f"Can not perform requested operation on nested resource. Parent resource '{scope.rsplit('/', 1)[-1]}' not "
        "found.",
        found=f"nothing at {scope}",
        expected="an existing parent resource",
        hint=f"`imgstore {command}` makes it",
        target=scope,
    )
