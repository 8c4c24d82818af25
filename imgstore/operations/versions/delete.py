"""Delete image versions: soft deletion, undeletion, and purge after the retention."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError, NotFound
from imgstore.domain.identity.access import VERSIONS, Action, Principal, as_reader, authorize
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity, record_resource_deletion
from imgstore.operations.gallery.versions import show_version, view_of
from imgstore.operations.installation import Installation
from imgstore.operations.slots.removal import abandon_writers, remove_version
from imgstore.policy.version_update import check_deletable


def delete_version(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    bypass_soft_delete: bool = False,
    on_allowed: Callable[[ImageVersion], None] = lambda _version: None,
) -> None:
    """Delete a version, or soft-delete the version if the gallery has soft deletion. Disks made from the version stay.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        gallery: the name of the gallery.
        definition: the name of the definition.
        version: the name of the version.
        bypass_soft_delete: delete without retention, also a version that is soft-deleted already.
        on_allowed: called with the version when the deletion is permitted, before the deletion begins.

    Raises:
        Conflict: the version must be kept until its end of life.
        WorkHeld: a live process writes or reads a replica of the version. If the deletion has begun, the version stays
            as an invisible tombstone until the command is repeated.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    with record_resource_deletion(installation, principal, scope):
        with installation.catalog.reading() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            found = transaction.versions.get(definition_path.definition.uid, version) or lookup.find_version(
                transaction, definition_path, version
            )
            now = transaction.now()
        check_deletion(found, scope, now, bypass_soft_delete=bypass_soft_delete)
        on_allowed(found)
        if is_soft_deletion(definition_path, found, bypass_soft_delete=bypass_soft_delete):
            _delete_softly(installation, definition_path, found)
        else:
            remove_version(installation, found)
    purge_soft_deleted(installation)


def check_deletion(version: ImageVersion, scope: str, now: datetime, *, bypass_soft_delete: bool) -> None:
    """Refuse the deletion of a version that must be kept, or is soft-deleted already.

    Raises:
        NotFound: the version is soft-deleted.
        Conflict: the version must be kept until its end of life.
    """
    if version.provisioning_state is not ProvisioningState.DELETING:
        if version.soft_deleted_at is not None and not bypass_soft_delete:
            raise _soft_deleted_error(version, scope)
        check_deletable(version, now, scope)


def is_soft_deletion(definition_path: DefinitionPath, version: ImageVersion, *, bypass_soft_delete: bool) -> bool:
    """Return whether a deletion keeps the bytes for the retention of the gallery."""
    soft = definition_path.gallery.soft_delete_enabled and not bypass_soft_delete
    return soft and version.provisioning_state is not ProvisioningState.DELETING


def _delete_softly(installation: Installation, definition_path: DefinitionPath, version: ImageVersion) -> None:
    """Make a version invisible. The replicas stay, and the bytes are billed until the removal."""
    with installation.catalog.transaction() as transaction:
        abandon_writers(transaction, version.uid, str(version.name))
        existing = transaction.versions.get_for_update(version.uid)
        now = transaction.now()
        until = now + timedelta(days=definition_path.gallery.soft_delete_retention_days)
        transaction.versions.update(replace(existing, soft_deleted_at=now, hard_deletion_at=until))


def _soft_deleted_error(version: ImageVersion, scope: str) -> NotFound:
    return NotFound(
        f"The image version '{version.name}' was not found.",
        found="a soft-deleted version",
        expected="a version that is not deleted",
        hint="`imgstore sig image-version undelete` restores the version; `delete --bypass-soft-delete` removes it",
        target=scope,
    )


def list_soft_deleted(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str
) -> list[VersionView]:
    """List the soft-deleted versions of a definition that can be restored, in ascending order."""
    scope = names.definition_id(installation.subscription, group, gallery, definition)
    authorize(principal, Action.READ, scope, VERSIONS)
    purge_soft_deleted(installation)
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_definition_path(
            transaction, installation.subscription, group, gallery, definition
        )
        kept = [
            each
            for each in transaction.versions.list_soft_deleted(definition_path.definition.uid)
            if each.provisioning_state is not ProvisioningState.DELETING
        ]
        return [view_of(transaction, definition_path, each) for each in kept]


def undelete_version(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str, version: VersionName
) -> VersionView:
    """Restore a soft-deleted version. Do nothing for a version that is not deleted.

    Raises:
        NotFound: the version does not exist, or its removal has begun.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    with record_activity(installation, principal, Action.WRITE, scope):
        purge_soft_deleted(installation)
        with installation.catalog.transaction() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            found = transaction.versions.get(definition_path.definition.uid, version)
            existing = None if found is None else transaction.versions.get_for_update(found.uid)
            if existing is None or existing.provisioning_state is ProvisioningState.DELETING:
                raise _not_soft_deleted_error(definition_path, version, scope)
            if existing.soft_deleted_at is not None:
                transaction.versions.update(replace(existing, soft_deleted_at=None, hard_deletion_at=None))
        reader = as_reader(principal, scope)
        return show_version(installation, reader, group=group, gallery=gallery, definition=definition, version=version)


def _not_soft_deleted_error(definition_path: DefinitionPath, version: VersionName, scope: str) -> NotFound:
    where = f"-g {definition_path.gallery.group} -r {definition_path.gallery.name} -i {definition_path.definition.name}"
    return NotFound(
        f"The soft-deleted image version '{version}' was not found.",
        found=f"nothing at {scope}",
        expected="a soft-deleted version within its retention",
        hint=f"`imgstore sig image-version list-soft-deleted {where}` lists the versions that can be restored",
        target=scope,
    )


def purge_soft_deleted(installation: Installation) -> list[ImageVersion]:
    """Remove the soft-deleted versions after the retention. Any process may call this at any time.

    A version that cannot be removed yet is reported and left to the next call: a live process reads the version, or a
    store does not answer.

    Returns:
        The removed versions.
    """
    with installation.catalog.reading() as transaction:
        now = transaction.now()
        due = [each for each in transaction.versions.list_soft_deleted() if _is_over(each, now)]
    removed = []
    for version in due:
        if not _begin_purge(installation, version):
            continue
        try:
            remove_version(installation, version)
        except ImgstoreError as error:
            installation.note(str(version.name), f"its retention has passed; its bytes stay for now: {error.message}")
        else:
            removed.append(version)
    return removed


def _begin_purge(installation: Installation, version: ImageVersion) -> bool:
    """Set a version to Deleting; return False if the version was restored or removed in the mean time."""
    with installation.catalog.transaction() as transaction:
        try:
            existing = transaction.versions.get_for_update(version.uid)
        except NotFound:
            return False
        if not _is_over(existing, transaction.now()):
            return False
        transaction.versions.update(replace(existing, provisioning_state=ProvisioningState.DELETING))
        return True


def _is_over(version: ImageVersion, now: datetime) -> bool:
    """Return whether the retention of a version has passed, by the clock of the database (invariant W22)."""
    return version.hard_deletion_at is not None and version.hard_deletion_at <= now
