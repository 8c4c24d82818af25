"""Update the target regions and the properties of an existing image version."""

from collections.abc import Callable, Mapping

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, VersionUpdate
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.gallery.versions import show_version
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import converge, leave_to_workers
from imgstore.operations.replication.targets import check_replication, retarget
from imgstore.operations.slots.attribution import change_tags, lock_slots
from imgstore.operations.slots.completion import update_version_state
from imgstore.operations.versions.create import make_replication_error
from imgstore.operations.versions.request import check_updatable
from imgstore.policy.version_update import apply_update


def update_version(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    update: VersionUpdate,
    wait: bool = True,
    on_recorded: Callable[[ImageVersion], None] = lambda _version: None,
) -> VersionView:
    """Update the properties of a version, make replicas in new target regions, and remove replicas in former regions.

    A repeated command resumes an interrupted update, or does nothing. An empty update resumes replication, too.
    `on_recorded` is called with the version when the row has changed, before bytes are copied or removed. Without
    `wait`, the replicas are left to workers.

    Raises:
        InvalidInput: the update is refused. Nothing was changed.
        Conflict: the safety profile of the version keeps a region that would be removed, the version was deleted, or the
            budget of the month refuses new replicas.
        ReplicationFailed: one or more target regions failed. The other regions are usable.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    with record_activity(installation, principal, Action.WRITE, scope):
        with installation.catalog.reading() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            existing = lookup.find_version(transaction, definition_path, version)
            replicas = transaction.replicas.list(existing.uid)
            check_updatable(existing, scope)
            wanted = apply_update(existing, update, installation.regions, installation.limits, now=transaction.now())
        check_replication(installation, replicas, wanted.target_regions, existing.location)
        if update.target_regions is not None:
            installation.locator.refresh_checkpoints()  # `retarget` refuses a removal if the catalog is outdated.
        with installation.catalog.transaction() as transaction:
            changed = record_update(installation, transaction, definition_path, existing.uid, update)
        on_recorded(changed)
        failed: Mapping[str, ImgstoreError] = {}
        if wait:
            failed = converge(installation, definition_path, changed)
        else:
            leave_to_workers(installation, changed)
        reader = as_reader(principal, scope)
        view = show_version(installation, reader, group=group, gallery=gallery, definition=definition, version=version)
        if failed:
            raise make_replication_error(view, failed)
        return view


def record_update(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    version_uid: str,
    update: VersionUpdate,
) -> ImageVersion:
    """Write the row of the version, the new Pending replicas and the Deleting replicas. A prediction also runs this.

    Raises:
        InvalidInput, Conflict: the update is refused.
    """
    if update.tags is not None:
        lock_slots(transaction, version_uid)
    existing = transaction.versions.get_for_update(version_uid)
    check_updatable(existing, definition_path.version_id(existing.name))
    changed = apply_update(existing, update, installation.regions, installation.limits, now=transaction.now())
    if changed != existing:
        transaction.versions.update(changed)
    if changed.tags != existing.tags:
        change_tags(installation.effects, transaction, changed.uid, changed.tags)
    retarget(installation, transaction, definition_path, changed)
    return update_version_state(transaction, changed)
