"""The end of a version: deleted, softly where its gallery says so, had back, or gone for good when its time has come."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError, NotFound
from imgstore.domain.identity.access import VERSIONS, Action, Principal, as_reader, authorize
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion
from imgstore.domain.states import ProvisioningState
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import recorded, recorded_deletion
from imgstore.operations.gallery.versions import show_version, view_of
from imgstore.operations.installation import Installation
from imgstore.operations.slots.removal import end_writing, forget_version
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
    """Remove a version; where its gallery deletes softly, for the time being only. Disks made from it live on.

    Args:
        installation: where.
        principal: who.
        group: the resource group's name.
        gallery: the gallery's.
        definition: the definition's.
        version: the version's.
        bypass_soft_delete: for good, whatever the gallery says; also one that was deleted softly before.
        on_allowed: called with the version when the deletion is permitted, before it begins.

    Raises:
        Conflict: it is to be kept until its end of life.
        WorkHeld: a live process is writing or reading one of its replicas; a version that goes for good stays as a
            tombstone, invisible, until the command is repeated.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    what = "Microsoft.Compute/galleries/images/versions/delete"
    with recorded_deletion(installation, principal, scope, what):
        with installation.catalog.reading() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            found = transaction.versions.get(definition_path.definition.uid, version) or lookup.find_version(
                transaction, definition_path, version
            )
            now = transaction.now()
        if found.provisioning_state is not ProvisioningState.DELETING:
            if found.soft_deleted_at is not None and not bypass_soft_delete:
                raise _gone_softly(found, scope)
            check_deletable(found, now, scope)
        on_allowed(found)
        soft = definition_path.gallery.soft_delete_enabled and not bypass_soft_delete
        if soft and found.provisioning_state is not ProvisioningState.DELETING:
            _delete_softly(installation, definition_path, found)
        else:
            forget_version(installation, found)
    purge_soft_deleted(installation)


def _delete_softly(installation: Installation, definition_path: DefinitionPath, version: ImageVersion) -> None:
    """Make the version invisible. Its replicas, its bytes and what is billed for them stay."""
    with installation.catalog.transaction() as transaction:
        end_writing(installation, transaction, version.uid, str(version.name))
        standing = _locked(transaction, version)
        now = transaction.now()
        until = now + timedelta(days=definition_path.gallery.soft_delete_retention_days)
        transaction.versions.update(replace(standing, soft_deleted_at=now, hard_deletion_at=until))


def _locked(transaction: Transaction, version: ImageVersion) -> ImageVersion:
    transaction.versions.lock(version.uid)
    return transaction.versions.by_uid(version.uid)


def _gone_softly(version: ImageVersion, scope: str) -> NotFound:
    return NotFound(
        f"The image version '{version.name}' was not found.",
        found="a version that was deleted softly",
        expected="a version that stands",
        hint="`imgstore sig image-version undelete` brings it back; `delete --bypass-soft-delete` ends it for good",
        target=scope,
    )


def list_soft_deleted(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str
) -> list[VersionView]:
    """The softly deleted versions of a definition that can be had back, lowest first."""
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
    """Have a softly deleted version back as it was. On one that stands it does nothing.

    Raises:
        NotFound: no such version, or it is gone for good.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    with recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/images/versions/write"):
        purge_soft_deleted(installation)
        with installation.catalog.transaction() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            found = transaction.versions.get(definition_path.definition.uid, version)
            if found is None or _locked(transaction, found).provisioning_state is ProvisioningState.DELETING:
                raise _not_kept(definition_path, version, scope)
            standing = transaction.versions.by_uid(found.uid)
            if standing.soft_deleted_at is not None:
                transaction.versions.update(replace(standing, soft_deleted_at=None, hard_deletion_at=None))
        reader = as_reader(principal, scope)
        return show_version(installation, reader, group=group, gallery=gallery, definition=definition, version=version)


def _not_kept(definition_path: DefinitionPath, version: VersionName, scope: str) -> NotFound:
    where = f"-g {definition_path.gallery.group} -r {definition_path.gallery.name} -i {definition_path.definition.name}"
    return NotFound(
        f"The image version '{version}' was not found among the softly deleted ones.",
        found=f"nothing at {scope}",
        expected="a version that was deleted softly, and whose retention has not passed",
        hint=f"`imgstore sig image-version list-soft-deleted {where}` lists the known entries",
        target=scope,
    )


def purge_soft_deleted(installation: Installation) -> list[ImageVersion]:
    """End for good every softly deleted version whose retention has passed. May be called at any time, by anyone.

    What can't go yet (a live process reads it, a store does not answer) is told, and goes at the next call.

    Returns:
        Those that went.
    """
    with installation.catalog.reading() as transaction:
        now = transaction.now()
        due = [each for each in transaction.versions.list_soft_deleted() if _is_over(each, now)]
    gone = []
    for version in due:
        if not _condemned(installation, version):
            continue
        try:
            forget_version(installation, version)
        except ImgstoreError as error:
            installation.note(str(version.name), f"its retention has passed; its bytes stay for now: {error.message}")
        else:
            gone.append(version)
    return gone


def _condemned(installation: Installation, version: ImageVersion) -> bool:
    """Mark a version Deleting, unless someone had it back meanwhile, or another process ends it."""
    with installation.catalog.transaction() as transaction:
        try:
            standing = _locked(transaction, version)
        except NotFound:
            return False
        if not _is_over(standing, transaction.now()):
            return False
        transaction.versions.update(replace(standing, provisioning_state=ProvisioningState.DELETING))
        return True


def _is_over(version: ImageVersion, now: datetime) -> bool:
    """Tell whether the retention of a version has passed, by the database's clock: any machine may end the version."""
    return version.hard_deletion_at is not None and version.hard_deletion_at <= now
