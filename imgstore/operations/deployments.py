"""Create, end, show, list and delete deployments. Each deployed resource is authorized when the resource is made."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from imgstore.domain import names
from imgstore.domain.deployments import Deployment, DeploymentState
from imgstore.domain.errors import Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.installation import Installation

DEPLOYMENTS_MAX: Final = 800
"""The maximum number of deployments in a resource group, as in Azure. Each row holds up to 4 MiB."""

_NAME: Final = re.compile(r"[\w().-]{1,64}", re.ASCII)


def begin_deployment(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    parameters: Mapping[str, Any],
    holder: str,
) -> Deployment:
    """Store a running deployment. The same call after a crash restarts the deployment.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the deployment.
        parameters: the parameters, in the form that responses show.
        holder: the uid of the operation that runs the deployment. A running deployment of another operation is kept.

    Raises:
        InvalidInput: the name is invalid.
        NotFound: there is no such group.
        Conflict: another operation runs a deployment of the name, or the group has too many deployments.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "The deployment name is invalid.",
            found=repr(name[:80]),
            expected="1 to 64 letters, digits, _ . - ( )",
            hint="choose another name",
            target="deploymentName",
            code="InvalidDeploymentName",
        )
    scope = deployment_id(installation, group, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        above = lookup.find_group(transaction, installation.subscription, group)
        standing = transaction.deployments.get(above.uid, name)
        if standing is not None and standing.state is DeploymentState.RUNNING and standing.uid != holder:
            raise Conflict(
                f"Unable to edit or replace deployment '{name}': previous deployment is still active.",
                found="a running deployment of the same name",
                expected="no deployment of the name, or an ended deployment",
                hint="wait for the end of the deployment, or choose another name",
                target=name,
                code="DeploymentActive",
            )
        if standing is None:
            _check_count(transaction.deployments.count(above.uid), group)
        begun = Deployment(
            uid=holder,
            group_uid=above.uid,
            name=name,
            state=DeploymentState.RUNNING,
            parameters=parameters,
            started_at=installation.effects.now(),
        )
        transaction.deployments.put(begun)
        return begun


def _check_count(count: int, group: str) -> None:
    if count >= DEPLOYMENTS_MAX:
        raise Conflict(
            f"Creating the deployment would exceed the quota of '{DEPLOYMENTS_MAX}' deployments of the resource group "
            f"'{group}'.",
            found=f"{count} deployments",
            expected=f"at most {DEPLOYMENTS_MAX} with the new deployment",
            hint="delete old deployments; the deployed resources stay",
            target=group,
            code="DeploymentQuotaExceeded",
        )


def note_deployment(installation: Installation, running: Deployment, *, resources: tuple[str, ...]) -> None:
    """Store the resources that a running deployment has made so far, for other readers of the deployment."""
    with installation.catalog.transaction() as transaction:
        transaction.deployments.put(replace(running, resources=resources))


def end_deployment(
    installation: Installation,
    running: Deployment,
    *,
    resources: tuple[str, ...],
    outputs: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> Deployment:
    """Store the end of a deployment: Succeeded with outputs, or Failed with an error."""
    ended = replace(
        running,
        state=DeploymentState.SUCCEEDED if error is None else DeploymentState.FAILED,
        resources=resources,
        outputs=outputs or {},
        error=error,
        finished_at=installation.effects.now(),
    )
    with installation.catalog.transaction() as transaction:
        transaction.deployments.put(ended)
    return ended


def make_nested_uid(operation_uid: str, resource_id: str) -> str:
    """Derive the uid of a nested deployment from the outermost operation, so that a resumed operation finds the row."""
    return str(uuid.uuid5(uuid.UUID(operation_uid), resource_id.lower()))


def end_deployments(
    installation: Installation, operation_uid: str, error: Mapping[str, Any], *, canceled: bool = False
) -> None:
    """End the running deployments of an operation, including nested deployments, as Failed or Canceled with an error."""
    state = DeploymentState.CANCELED if canceled else DeploymentState.FAILED
    with installation.catalog.transaction() as transaction:
        for group in transaction.groups.list(installation.subscription):
            for each in transaction.deployments.list(group.uid):
                nested = make_nested_uid(operation_uid, deployment_id(installation, group.name, each.name))
                if each.state is DeploymentState.RUNNING and each.uid in (operation_uid, nested):
                    ended_at = installation.effects.now()
                    transaction.deployments.put(replace(each, state=state, error=error, finished_at=ended_at))


def show_deployment(installation: Installation, principal: Principal, *, group: str, name: str) -> Deployment:
    """Return the last deployment of a name.

    Raises:
        NotFound: there is no such group or deployment.
    """
    permit(installation, principal, Action.READ, deployment_id(installation, group, name))
    with installation.catalog.reading() as transaction:
        found = transaction.deployments.get(lookup.find_group(transaction, installation.subscription, group).uid, name)
    if found is None:
        raise _deployment_not_found(installation, group, name)
    return found


def list_deployments(installation: Installation, principal: Principal, *, group: str) -> list[Deployment]:
    """List the deployments of a group by name."""
    permit(installation, principal, Action.READ, deployment_id(installation, group, "any"))
    with installation.catalog.reading() as transaction:
        return transaction.deployments.list(lookup.find_group(transaction, installation.subscription, group).uid)


def delete_deployment(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Delete the record of a deployment. The deployed resources stay.

    Raises:
        NotFound: there is no such group or deployment.
    """
    scope = deployment_id(installation, group, name)
    with (
        record_activity(installation, principal, Action.DELETE, scope),
        installation.catalog.transaction() as transaction,
    ):
        if not transaction.deployments.remove(
            lookup.find_group(transaction, installation.subscription, group).uid, name
        ):
            raise _deployment_not_found(installation, group, name)


def deployment_id(installation: Installation, group: str, name: str) -> str:
    """Return the resource id of a deployment."""
    return f"{names.group_id(installation.subscription, group)}/providers/Microsoft.Resources/deployments/{name}"


def _deployment_not_found(installation: Installation, group: str, name: str) -> NotFound:
    return NotFound(
        f"Deployment '{name}' could not be found.",
        hint="list the deployments of the group",
        target=deployment_id(installation, group, name),
        code="DeploymentNotFound",
    )
