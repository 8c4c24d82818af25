"""Show image versions with their replicas and definition path."""

from collections.abc import Sequence
from dataclasses import replace

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.identity.access import VERSIONS, Action, Principal, filter_readable, is_allowed
from imgstore.domain.names import VersionName
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import ImageVersion, Replica
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list
from imgstore.operations.installation import Installation
from imgstore.regions import ALL_ZONES


def view_of(transaction: Transaction, definition_path: DefinitionPath, version: ImageVersion) -> VersionView:
    """Return a version with its replicas."""
    return combine_view(definition_path, version, transaction.replicas.list(version.uid))


def combine_view(definition_path: DefinitionPath, version: ImageVersion, replicas: Sequence[Replica]) -> VersionView:
    """Combine a version with replicas that have been read."""
    living = tuple(replica for replica in replicas if replica.state is not ReplicaState.DELETING)
    return VersionView(version=version, replicas=living, definition_path=definition_path)


def show_version(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    replicas: bool = True,
) -> VersionView:
    """Return a version. Without `replicas` the catalog reads the version alone."""
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    permit(installation, principal, Action.READ, scope)
    if replicas:
        installation.locator.health.refresh()
    with installation.catalog.reading() as transaction:
        definition_path, found = lookup.find_definition_and_version(
            transaction, installation.subscription, group, gallery, definition, version
        )
        if not replicas:
            return combine_view(definition_path, found, ())
        view = view_of(transaction, definition_path, found)
        zoned = [each.slot.uid for each in view.replicas if each.slot.zone == ALL_ZONES]
        gaps = tuple(transaction.zone_gaps.of_slots(zoned))
        is_idle = _is_idle(installation, transaction, view, scope)
    silent = frozenset(each.slot.uid for each in view.replicas if installation.locator.is_avoided(each.slot))
    return replace(view, gaps=gaps, unreachable_slots=silent, is_idle=is_idle)


def _is_idle(installation: Installation, transaction: Transaction, view: VersionView, resource_id: str) -> bool:
    """Return whether the version has unfinished replicas and no process works on the version, or will by itself.

    Before the first complete replica, only a create with the source helps: a command, or a request that a server has
    accepted. Afterwards, any worker makes the other replicas.
    """
    states = {replica.state for replica in view.replicas}
    if not states.intersection((ReplicaState.PENDING, ReplicaState.REPLICATING)):
        return False
    keeper = installation.keeper
    holders = transaction.queue.holders_by_replica([view.version.uid]).values()
    if not all(keeper.is_dead(holder) for holder in holders):
        return False
    if ReplicaState.COMPLETED in states:
        workers = transaction.workers
        return not any(workers.is_alive(each) and not keeper.is_dead(each.holder) for each in workers.list())
    operations = transaction.operations
    return all(
        keeper.is_dead(each.holder) or operations.is_lease_expired(each) for each in operations.list_writes(resource_id)
    )


def list_versions(
    installation: Installation, principal: Principal, *, group: str, gallery: str, definition: str
) -> list[VersionView]:
    """List the versions of a definition, lowest first."""
    page = page_versions(installation, principal, PageRequest(), group=group, gallery=gallery, definition=definition)
    return list(page.items)


def page_versions(
    installation: Installation,
    principal: Principal,
    request: PageRequest,
    *,
    group: str,
    gallery: str,
    definition: str,
) -> Page[VersionView]:
    """List a page of the versions of a definition, lowest first.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    scope = names.definition_id(installation.subscription, group, gallery, definition)
    permit_list(installation, principal, scope)
    whole = is_allowed(principal, Action.READ, scope, VERSIONS)
    of = f"{scope}/versions"
    after = request.start_key(of)
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_definition_path(
            transaction, installation.subscription, group, gallery, definition
        )
        found = transaction.versions.list(
            definition_path.definition.uid,
            after=None if after is None else VersionName.parse(after),
            limit=request.limit if whole else None,
            visible=True,
        )
        found = filter_readable(principal, found, lambda each: definition_path.version_id(each.name), whole=whole)
        page = Page.from_rows(found, request, of=of, key=lambda version: str(version.name))
        replicas = transaction.replicas.list_by_version([version.uid for version in page.items])
        views = tuple(combine_view(definition_path, version, replicas[version.uid]) for version in page.items)
        return Page(items=views, next_token=page.next_token)
