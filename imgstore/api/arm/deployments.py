"""Serve the deployments of ARM templates."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from fastapi import APIRouter, Response

from imgstore.api.arm import definitions, disks, galleries, images, machines, network, scale_sets, versions
from imgstore.api.arm.deployment_runner import DeploymentRunner, PutCommand
from imgstore.api.arm.groups import check_group, get_group
from imgstore.api.http.context import RESOURCE_BODY, Context, RequestContext, json_response
from imgstore.api.http.long_running import CommandCall, Outcome, Session
from imgstore.api.http.paths import GROUP
from imgstore.domain.async_operations import PUT_DEPLOYMENT
from imgstore.domain.deployments import Deployment
from imgstore.domain.errors import InvalidInput, NotFound
from imgstore.domain.identity.access import Action, as_reader
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import DiskKind
from imgstore.operations import deployments
from imgstore.operations.activity_log import permit
from imgstore.operations.cancellation import cancel_deployment
from imgstore.operations.gallery.subscriptions import tenant_of
from imgstore.templates.plan import Plan, plan_template
from imgstore.templates.resources import TargetScope
from imgstore.templates.scope import EvaluationBudget, Scope
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json, instant
from imgstore.wire.network import NETWORK_TYPES
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.responses.deployments import deployment_json, operations_json

router = APIRouter(tags=["Deployments"])
_KIND: Final = Kind.DEPLOYMENT
_ALL: Final = f"{GROUP}/providers/Microsoft.Resources/deployments"
_ONE: Final = f"{_ALL}/{{deployment}}"
_OPERATIONS: Final = f"{GROUP}/deployments/{{deployment}}/operations"
"""The only path of deployments without the provider, as in Azure."""


_TYPES: Final[Mapping[str, PutCommand]] = {
    "microsoft.compute/galleries": PutCommand(command=galleries.put_gallery, fields=("gallery",)),
    "microsoft.compute/galleries/images": PutCommand(
        command=definitions.put_definition, fields=("gallery", "definition")
    ),
    "microsoft.compute/galleries/images/versions": PutCommand(
        command=versions.put_version, fields=("gallery", "definition", "version"), is_continued=True
    ),
    "microsoft.compute/disks": PutCommand(
        command=disks.put_disk, fields=("disk",), more={"kind": DiskKind.DISK}, is_continued=True
    ),
    "microsoft.compute/snapshots": PutCommand(
        command=disks.put_disk, fields=("disk",), more={"kind": DiskKind.SNAPSHOT}, is_continued=True
    ),
    "microsoft.compute/images": PutCommand(command=images.put_image, fields=("disk",), is_continued=True),
    "microsoft.compute/virtualmachines": PutCommand(
        command=machines.put_machine, fields=("machine",), is_continued=True
    ),
    "microsoft.compute/virtualmachinescalesets": PutCommand(
        command=scale_sets.put_scale_set, fields=("scale_set",), is_continued=True
    ),
    **{
        kind.type.lower(): PutCommand(command=network.put_network, fields=("name",), more={"kind": kind.word})
        for kind in NETWORK_TYPES
    },
    **{
        f"{kind.type}/{kind.part}".lower(): PutCommand(
            command=network.put_part, fields=("name", "part"), more={"kind": kind.word}
        )
        for kind in NETWORK_TYPES
        if kind.has_writable_parts
    },
}


@router.put(_ONE, summary="Deploy a template", status_code=201, openapi_extra=RESOURCE_BODY)
async def put(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's Deployments_CreateOrUpdate. The template is checked before the first resource is created."""
    body = await context.read_template()
    accepted = await context.begin(
        "put-deployment", group=group, deployment=deployment, body=body, asked=_template_inputs(context)
    )
    return context.accepted_response(accepted, _KIND, 201 if accepted.created else 200)


@router.post(f"{_ONE}/validate", summary="Check a template", openapi_extra=RESOURCE_BODY)
async def validate(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's Deployments_Validate. The check creates no resource and runs no command of a resource."""
    body, asked = await context.read_template(), _template_inputs(context)

    def check(at_: Session) -> Json:
        scope = deployments.deployment_id(at_.installation, group, deployment)
        permit(at_.installation, at_.principal, Action.VALIDATE, scope)
        plan = _plan(at_, group, deployment, body, asked)
        return {
            "id": deployments.deployment_id(at_.installation, group, deployment),
            "name": deployment,
            "type": "Microsoft.Resources/deployments",
            "properties": {
                "mode": "Incremental",
                "provisioningState": "Succeeded",
                "parameters": plan.parameters,
                "validatedResources": [
                    {"id": each.resource_id} for each in plan.resources.values() if not each.is_existing
                ],
            },
        }

    return json_response(200, await context.run(check))


@router.post(f"{_ONE}/whatIf", summary="Refuse what-if, which is not supported", openapi_extra=RESOURCE_BODY)
async def what_if(context: Context, group: str, deployment: str) -> Response:
    """Refuse Azure's Deployments_WhatIf, which is not supported."""

    def refuse(_session: Session) -> Response:
        raise InvalidInput(
            "The what-if of a deployment is not supported.",
            found=f"whatIf of '{deployment}' in '{group}'",
            expected="validate, or a deployment",
            hint="`az deployment group validate` checks a template without creating resources",
            target="whatIf",
            code="WhatIfNotSupported",
        )

    return await context.run(refuse)


@router.post(f"{_ONE}/cancel", summary="Cancel a running deployment; created resources stay", status_code=204)
async def cancel(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's Deployments_Cancel. The deployment stops at the next step with the state Canceled."""

    def request_cancel(at_: Session) -> None:
        at_.run(cancel_deployment, group=group, name=deployment)
        context.server.runner.cancel_operations()

    await context.run(request_cancel)
    return Response(status_code=204)


@router.get(_OPERATIONS, summary="List the operations of a deployment")
async def list_operations(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's DeploymentOperations_List."""

    def read_page(at_: Session, _page: Any) -> Page[Json]:
        return Page(items=tuple(_operations(at_, group, deployment)))

    return await context.list_response(_KIND, read_page, lambda each: each)


@router.get(f"{_OPERATIONS}/{{operation}}", summary="Show an operation of a deployment")
async def show_operation(context: Context, group: str, deployment: str, operation: str) -> Response:
    """Serve Azure's DeploymentOperations_Get."""

    def read(at_: Session) -> Json:
        for each in _operations(at_, group, deployment):
            if each["operationId"] == operation.upper():
                return each
        raise NotFound(
            f"The deployment operation '{operation}' could not be found.",
            hint="list the deployment's operations",
            target=operation,
            code="DeploymentOperationNotFound",
        )

    return context.resource_response(await context.run(read), _KIND)


@router.get(_ONE, summary="Show a deployment")
async def show(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's Deployments_Get."""

    def read(at_: Session) -> Json:
        return _json(at_, group, at_.run(deployments.show_deployment, group=group, name=deployment))

    return context.resource_response(await context.run(read), _KIND)


@router.get(_ALL, summary="List the deployments of a resource group")
async def list_of_group(context: Context, group: str) -> Response:
    """Serve Azure's Deployments_ListByResourceGroup."""

    def read_page(at_: Session, page: PageRequest) -> Page[Json]:
        found = at_.run(deployments.list_deployments, group=group)
        of = f"{at_.installation.subscription}/{group}/deployments"
        shown = Page.from_all(found, page, of=of, key=lambda each: each.name.lower())
        return Page(items=tuple(_json(at_, group, each) for each in shown.items), next_token=shown.next_token)

    return await context.list_response(_KIND, read_page, lambda each: each)


@router.delete(_ONE, summary="Delete a deployment; created resources stay", status_code=202)
async def delete(context: Context, group: str, deployment: str) -> Response:
    """Serve Azure's Deployments_Delete."""
    return await context.delete_response("delete-deployment", _KIND, group=group, deployment=deployment)


def _operations(session: Session, group: str, name: str) -> list[Json]:
    """Return the operations of a deployment. The check of the route covers the right to read the operations."""
    reader = as_reader(session.principal, deployments.deployment_id(session.installation, group, name))
    one = deployments.show_deployment(session.installation, reader, group=group, name=name)
    return operations_json(one, deployments.deployment_id(session.installation, group, one.name))


def _json(session: Session, group: str, deployment: Deployment) -> Json:
    return deployment_json(deployment, deployments.deployment_id(session.installation, group, deployment.name))


def _template_inputs(context: RequestContext) -> Json:
    """Return the values of a request that template functions read. A resumed deployment needs the same values."""
    effects = context.server.installation.effects
    return {"base_url": context.base_url, "now": instant(effects.now()), "seed": effects.new_uid()}


def _plan(session: Session, group: str, name: str, body: Json, asked: Json) -> Plan:
    """Plan a template with the values of `_template_inputs`. Deployments of older versions lack these values."""
    above = check_group(session, group)
    installation = session.installation
    scope = Scope(
        subscription=installation.subscription,
        tenant=tenant_of(installation, session.principal, installation.subscription),
        group=above.name,
        location=above.location,
        tags=above.tags,
        deployment=name,
        base_url=asked.get("base_url", ""),
        now=datetime.fromisoformat(asked["now"]) if "now" in asked else None,
        seed=asked.get("seed", ""),
        budget=EvaluationBudget(installation.effects.monotonic),
    )
    around = TargetScope(
        is_supported=_TYPES.__contains__,
        location=lambda named: get_group(session, named).location,
        tags=lambda named: get_group(session, named).tags,
        group=above.name,
    )
    return plan_template(value_at(read_known_fields(body, _KIND), "properties"), scope, around)


def put_deployment(call: CommandCall) -> Outcome:
    """Run the command of PUT."""
    session, request = call.session, call.request
    scope = deployments.deployment_id(session.installation, request["group"], request["deployment"])
    permit(session.installation, session.principal, Action.WRITE, scope)
    plan = _plan(session, request["group"], request["deployment"], request["body"], request.get("asked", {}))
    deploying = DeploymentRunner(call, plan, request["deployment"], _TYPES)
    return True, deploying.run(call.uid, lambda body: call.accept((True, body)))


def delete_deployment(call: CommandCall) -> Outcome:
    """Run the command of DELETE."""
    request, session = call.request, call.session
    session.run(deployments.delete_deployment, group=request["group"], name=request["deployment"])
    return False, None


COMMANDS: Final[Mapping[str, Callable[[CommandCall], Outcome]]] = {
    PUT_DEPLOYMENT: put_deployment,
    "delete-deployment": delete_deployment,
}
