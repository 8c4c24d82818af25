"""An image version that stands is given other target regions and properties."""

from collections.abc import Callable, Mapping

from imgstore.domain import names
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.identity.access import Action, Principal, as_reader
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, VersionUpdate
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import recorded
from imgstore.operations.gallery.versions import show_version
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import converge, leave_to_workers
from imgstore.operations.replication.targets import retarget
from imgstore.operations.slots.completion import write_version_state
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
    """Change what may change of a version; copy it to what is new, and take it away from what is no target any more.

    The same command again does nothing, or goes on where it stood; so does an update of nothing. `on_recorded` is told of
    the version when its row has changed and its bytes are yet to move. Without `wait`, replicas are left to workers.

    Raises:
        InvalidInput: the update is refused; nothing changed.
        Conflict: a region is to go that the version's safety profile keeps, or the version was deleted.
        ReplicationFailed: one or more target regions failed; the others serve.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    with recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/images/versions/write"):
        with installation.catalog.reading() as transaction:
            definition_path = lookup.find_definition_path(
                transaction, installation.subscription, group, gallery, definition
            )
            standing = lookup.find_version(transaction, definition_path, version)
        if update.target_regions is not None:
            installation.locator.refresh_checkpoints()  # `retarget` refuses a removal by what they show.
        changed = _written_down(installation, definition_path, standing, update)
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


def _written_down(
    installation: Installation, definition_path: DefinitionPath, found: ImageVersion, update: VersionUpdate
) -> ImageVersion:
    """The version's row, the replicas that it lacks and the tombstones of those that go, in one transaction."""
    with installation.catalog.transaction() as transaction:
        transaction.versions.lock(found.uid)
        standing = transaction.versions.by_uid(found.uid)
        check_updatable(standing, definition_path.version_id(standing.name))
        changed = apply_update(standing, update, installation.regions, installation.limits, now=transaction.now())
        if changed != standing:
            transaction.versions.update(changed)
        retarget(installation, transaction, definition_path, changed)
        return write_version_state(transaction, changed)
