"""Wait for a state of an image version. The functions poll the catalog, so any process may bring the state about."""

from collections.abc import Callable
from typing import TypeVar

from imgstore.domain.errors import Conflict, NotFound, ReplicationFailed, ScopeNotFound
from imgstore.domain.identity.access import Principal
from imgstore.domain.names import VersionName
from imgstore.domain.resources import Replica
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.views import VersionView
from imgstore.operations.gallery.versions import show_version
from imgstore.operations.installation import Installation

_View = TypeVar("_View")


def wait_for_version(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    until: Callable[[VersionView | None], bool],
    interval_seconds: float,
    timeout_seconds: float,
) -> VersionView | None:
    """Poll a version until `until` returns true.

    Args:
        installation: the installation; its effects have the clock and the pause.
        principal: the caller.
        group: name of the resource group.
        gallery: name of the gallery.
        definition: name of the definition.
        version: name of the version.
        until: receives the version, or None if no version exists. An error of the function ends the wait.
        interval_seconds: the time between two requests.
        timeout_seconds: the time from the first request to the last request.

    Returns:
        The version for which `until` returned true.

    Raises:
        Conflict: the time is over.
    """

    def look() -> VersionView | None:
        try:
            return show_version(
                installation, principal, group=group, gallery=gallery, definition=definition, version=version
            )
        except ScopeNotFound:
            raise
        except NotFound:
            return None

    return look_until(
        look,
        until,
        state=lambda view: view.version.provisioning_state,
        target=str(version),
        interval_seconds=interval_seconds,
        timeout_seconds=timeout_seconds,
        monotonic=installation.effects.monotonic,
        pause=installation.effects.wait,
    )


def look_until(
    look: Callable[[], _View | None],
    until: Callable[[_View | None], bool],
    *,
    state: Callable[[_View], str],
    target: str,
    interval_seconds: float,
    timeout_seconds: float,
    monotonic: Callable[[], float],
    pause: Callable[[float], None],
) -> _View | None:
    """Poll a resource until `until` returns true, at a home or through a server.

    Args:
        look: returns the resource, or None if no resource exists.
        until: receives the result of `look`. An error of the function ends the wait.
        state: returns the provisioning state of the resource, for the error.
        target: the name of the resource, for the error.
        interval_seconds: the time between two requests.
        timeout_seconds: the time from the first request to the last request.
        monotonic: returns the seconds of a monotonic clock.
        pause: waits for a number of seconds.

    Returns:
        The result of `look` for which `until` returned true.

    Raises:
        Conflict: the time is over.
    """
    end = monotonic() + timeout_seconds
    while True:
        view = look()
        if until(view):
            return view
        left = end - monotonic()
        if left <= 0:
            raise Conflict(
                f"Wait operation timed-out after {timeout_seconds:g} seconds",
                found="no such version" if view is None else f"provisioning state {state(view)}",
                expected="the state that the command waits for",
                hint="run the command again with a longer --timeout",
                target=target,
                code="OperationTimedOut",
            )
        pause(min(interval_seconds, left))


def is_replicated(installation: Installation, version_uid: str) -> bool:
    """Return True if the workers have finished a version whose replicas were left to workers.

    A failed replica that waits for its next attempt counts as finished. A failed replica without a further attempt does not
    count as finished.

    Raises:
        NotFound: the version was deleted during the wait.
        ReplicationFailed: a replica failed, and no other replica is in progress.
        StoreError: the catalog does not answer.
    """
    with installation.catalog.reading() as transaction:
        version = transaction.versions.by_uid(version_uid)
        if not version.is_visible:
            raise not_created_error()
        replicas = [each for each in transaction.replicas.list(version_uid) if each.state is not ReplicaState.DELETING]
    missing = [each for each in replicas if each.state is not ReplicaState.COMPLETED]
    if any(_is_under_way(each) for each in missing):
        return False
    if missing:
        raise not_replicated_error("; ".join(f"{each.slot.key}: {each.error or each.state}" for each in missing))
    return True


def _is_under_way(replica: Replica) -> bool:
    return replica.state in (ReplicaState.PENDING, ReplicaState.REPLICATING) or replica.retry_at is None


def is_made(view: VersionView | None) -> bool:
    """Return True if a version is complete in all its regions.

    Raises:
        NotFound: the resource does not exist.
        ReplicationFailed: the version failed in a region.
    """
    if view is None:
        raise not_created_error()
    state = view.version.provisioning_state
    if state is ProvisioningState.FAILED:
        failed = [each for each in view.replicas if each.state is not ReplicaState.COMPLETED]
        raise not_replicated_error("; ".join(f"{each.slot.key}: {each.error or each.state}" for each in failed))
    return state is ProvisioningState.SUCCEEDED


def not_created_error() -> NotFound:
    """Make the error for a wait on a version that no process creates."""
    return NotFound(
        "The image version was not found.",
        found="no version with this name",
        expected="a version that a process creates",
        hint="wait with --exists first",
    )


def not_replicated_error(found: str) -> ReplicationFailed:
    """Make the error for a failed version. `found` names the regions and their errors."""
    return ReplicationFailed(
        "The operation failed.",
        found=found,
        expected="a version that is complete in all its regions",
        hint="repeat `imgstore sig image-version create` or `update`; failed replicas resume",
    )
