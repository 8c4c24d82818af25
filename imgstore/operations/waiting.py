"""Waits until an image version is as it should be, whoever makes it so: the catalog is asked now and then."""

from collections.abc import Callable

from imgstore.domain.access import Principal
from imgstore.domain.errors import Conflict, NotFound, ReplicationFailed
from imgstore.domain.names import VersionName
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.operations.installation import Installation
from imgstore.operations.versions import show_version
from imgstore.operations.viewing import VersionView


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
    """Look at a version until `until` holds of it.

    Args:
        installation: where; its effects wait and tell the time.
        principal: who.
        group: the resource group's name.
        gallery: the gallery's.
        definition: the definition's.
        version: the version's.
        until: of the version as it stands, None where there is none. What it raises ends the waiting.
        interval_seconds: from one look to the next.
        timeout_seconds: from the first look to the last.

    Returns:
        The version as `until` held of it.

    Raises:
        Conflict: the time is over.
    """
    effects = installation.effects
    end = effects.monotonic() + timeout_seconds
    while True:
        try:
            view: VersionView | None = show_version(
                installation, principal, group=group, gallery=gallery, definition=definition, version=version
            )
        except NotFound:
            view = None
        if until(view):
            return view
        left = end - effects.monotonic()
        if left <= 0:
            raise Conflict(
                f"Wait operation timed-out after {timeout_seconds:g} seconds",
                found="no such version" if view is None else f"provisioning state {view.version.provisioning_state}",
                expected="what was waited for",
                hint="wait again, with a longer --timeout",
                target=str(version),
                code="OperationTimedOut",
            )
        effects.wait(min(interval_seconds, left))


def is_made(view: VersionView | None) -> bool:
    """Whether a version is complete in all its regions.

    Raises:
        NotFound: there is none.
        ReplicationFailed: it failed in a region.
    """
    if view is None:
        raise NotFound(
            "The image version was not found.",
            found="no version of that name",
            expected="a version that is being made",
            hint="wait with --exists first",
        )
    state = view.version.provisioning_state
    if state is ProvisioningState.FAILED:
        failed = [each for each in view.replicas if each.state is not ReplicaState.COMPLETED]
        raise ReplicationFailed(
            "The operation failed.",
            found="; ".join(f"{each.slot.key}: {each.error or each.state}" for each in failed),
            expected="a version that is complete in all its regions",
            hint="repeat `imgstore sig image-version create` or `update`; the failed ones go on where they stood",
        )
    return state is ProvisioningState.SUCCEEDED
