"""ARM templates over HTTP: each resource of a template is put as if it had been sent alone, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import APIRouter, Response

from imgstore.api import definitions, disks, galleries, images, machines, network, versions
from imgstore.api.discretion import told
from imgstore.api.door import RESOURCE, Asked, reply
from imgstore.api.groups import check_group
from imgstore.api.longrunning import Command, Outcome, Session, Task
from imgstore.api.paths import GROUP
from imgstore.domain.deployments import Deployment
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import DiskKind
from imgstore.operations import deployments
from imgstore.wire.api_versions import Kind, check_api_version
from imgstore.wire.deployments import deployment_json
from imgstore.wire.expressions import Scope, bad_template, evaluated
from imgstore.wire.network import NETWORK_TYPES
from imgstore.wire.reading import at
from imgstore.wire.templates import Plan, Planned, find, planned
from imgstore.wire.text import Json

router = APIRouter(tags=["Deployments"])
_KIND: Final = Kind.DEPLOYMENT
_ALL: Final = f"{GROUP}/providers/Microsoft.Resources/deployments"
_ONE: Final = f"{_ALL}/{{deployment}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Type:
    """How resources of a type are put."""

    command: Command
    fields: tuple[str, ...]
    """Of the command's request: what its names are called."""
    more: Mapping[str, Any] = field(default_factory=dict)


_TYPES: Final[Mapping[str, _Type]] = {
    "microsoft.compute/galleries": _Type(command=galleries.put_gallery, fields=("gallery",)),
    "microsoft.compute/galleries/images": _Type(command=definitions.put_definition, fields=("gallery", "definition")),
    "microsoft.compute/galleries/images/versions": _Type(
        command=versions.put_version, fields=("gallery", "definition", "version")
    ),
    "microsoft.compute/disks": _Type(command=disks.put_disk, fields=("disk",), more={"kind": DiskKind.DISK}),
    "microsoft.compute/snapshots": _Type(command=disks.put_disk, fields=("disk",), more={"kind": DiskKind.SNAPSHOT}),
    "microsoft.compute/images": _Type(command=images.put_image, fields=("disk",)),
    "microsoft.compute/virtualmachines": _Type(command=machines.put_machine, fields=("machine",)),
    **{
        kind.type.lower(): _Type(command=network.put_network, fields=("name",), more={"kind": kind.word})
        for kind in NETWORK_TYPES
    },
    **{
        f"{kind.type}/{kind.part}".lower(): _Type(
            command=network.put_part, fields=("name", "part"), more={"kind": kind.word}
        )
        for kind in NETWORK_TYPES
        if kind.is_part_written
    },
}


@router.put(_ONE, summary="Deploy a template", status_code=201, openapi_extra=RESOURCE)
async def put(ask: Asked, group: str, deployment: str) -> Response:
    """Azure's Deployments_CreateOrUpdate. What the template asks for is checked before anything is made."""
    body = await ask.template()
    accepted = await ask.begin("put-deployment", group=group, deployment=deployment, body=body)
    return ask.accepted(accepted, _KIND, 201 if accepted.created else 200)


@router.post(f"{_ONE}/validate", summary="Check a template", openapi_extra=RESOURCE)
async def validate(ask: Asked, group: str, deployment: str) -> Response:
    """Azure's Deployments_Validate. Nothing is made, and nothing is asked of what would be."""
    body = await ask.template()

    def checked(at_: Session) -> Json:
        plan = _plan(at_, group, deployment, body)
        return {
            "id": deployments.deployment_id(at_.installation, group, deployment),
            "name": deployment,
            "type": "Microsoft.Resources/deployments",
            "properties": {
                "mode": "Incremental",
                "provisioningState": "Succeeded",
                "parameters": plan.parameters,
                "validatedResources": [{"id": each.resource_id} for each in plan.resources.values()],
            },
        }

    return reply(200, await ask.run(checked))


@router.get(_ONE, summary="Show a deployment")
async def show(ask: Asked, group: str, deployment: str) -> Response:
    """Azure's Deployments_Get."""

    def found(at_: Session) -> Json:
        one = deployments.show_deployment(at_.installation, at_.principal, group=group, name=deployment)
        return _json(at_, group, one)

    return ask.shown(await ask.run(found), _KIND)


@router.get(_ALL, summary="List the deployments of a resource group")
async def list_of_group(ask: Asked, group: str) -> Response:
    """Azure's Deployments_ListByResourceGroup."""

    def listed(at_: Session, page: PageRequest) -> Page[Json]:
        found = deployments.list_deployments(at_.installation, at_.principal, group=group)
        of = f"{at_.installation.subscription}/{group}/deployments"
        shown = Page.among(found, page, of=of, key=lambda each: each.name.lower())
        return Page(items=tuple(_json(at_, group, each) for each in shown.items), next_token=shown.next_token)

    return await ask.listed(_KIND, listed, lambda each: each)


@router.delete(_ONE, summary="Forget a deployment; what it made stays", status_code=202)
async def delete(ask: Asked, group: str, deployment: str) -> Response:
    """Azure's Deployments_Delete."""
    return await ask.gone("delete-deployment", _KIND, group=group, deployment=deployment)


def _json(session: Session, group: str, deployment: Deployment) -> Json:
    return deployment_json(deployment, deployments.deployment_id(session.installation, group, deployment.name))


def _plan(session: Session, group: str, name: str, body: Json) -> Plan:
    above = check_group(session, group)
    scope = Scope(
        subscription=session.installation.subscription, group=above.name, location=above.location, deployment=name
    )
    return planned(at(body, "properties"), scope, _TYPES.__contains__)


def put_deployment(task: Task) -> Outcome:
    """The command of PUT."""
    session, request = task.session, task.request
    group, name = request["group"], request["deployment"]
    plan = _plan(session, group, name, request["body"])
    running = deployments.begin_deployment(
        session.installation, session.principal, group=group, name=name, parameters=plan.parameters, holder=task.uid
    )
    task.accept((True, _json(session, group, running)))
    made = _Made(task, plan)
    try:
        for key in plan.resources:
            made.make(key)
        outputs = made.outputs()
    except Exception as error:
        deployments.end_deployment(
            session.installation, running, resources=made.ids, error=told(session.installation, error)["error"]
        )
        raise
    ended = deployments.end_deployment(session.installation, running, resources=made.ids, outputs=outputs)
    return True, _json(session, group, ended)


class _Made:
    """What a deployment has made so far. What a resource depends on, or refers to, is made before it."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self._task, self._plan = task, plan
        self._bodies: dict[str, Json] = {}
        self._open: list[str] = []

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._plan.resources[key].resource_id for key in self._bodies)

    def make(self, key: str) -> Json:
        """The resource as it was answered, made now if it was not."""
        if key in self._bodies:
            return self._bodies[key]
        one = self._plan.resources[key]
        if key in self._open:
            raise bad_template("Circular dependency detected.", found=", ".join((*self._open, key)))
        self._open.append(key)
        for each in one.depends_on:
            self.make(each)
        body = evaluated(one.body, replace(one.scope, reference=self._reference))
        self._bodies[key] = self._put(one, body)
        self._open.pop()
        return self._bodies[key]

    def _put(self, one: Planned, body: Json) -> Json:
        kind, task = _TYPES[one.kind.lower()], self._task
        version = check_api_version(one.api_version, one.kind)
        request = {
            **dict(zip(kind.fields, one.names, strict=True)),
            **kind.more,
            "group": task.request["group"],
            "body": body,
            "whole": True,
            "conditions": {},
        }
        inner = Task(
            session=replace(task.session, api_version=version),
            request=request,
            accept=lambda _outcome: None,
            uid=task.uid,
        )
        return kind.command(inner)[1]

    def _reference(self, word: str, full: bool) -> Json:  # noqa: FBT001 - an argument of the expression
        one = find(self._plan, word)
        if one is None:
            raise bad_template(
                f"The resource '{word}' is not defined in the template.",
                found="a reference to what stands elsewhere",
                expected="a resource of this template",
            )
        body = self.make(one.resource_id.lower())
        return body if full else body["properties"]

    def outputs(self) -> Json:
        """The template's outputs, with their values."""
        scope = replace(self._plan.scope, reference=self._reference)
        return {
            name: {"type": at(said, "type"), "value": evaluated(at(said, "value"), scope)}
            for name, said in self._plan.outputs.items()
            if evaluated(at(said, "condition"), scope) is not False
        }


def delete_deployment(task: Task) -> Outcome:
    """The command of DELETE."""
    request, session = task.request, task.session
    deployments.delete_deployment(
        session.installation, session.principal, group=request["group"], name=request["deployment"]
    )
    return False, None


COMMANDS: Final[Mapping[str, Callable[[Task], Outcome]]] = {
    "put-deployment": put_deployment,
    "delete-deployment": delete_deployment,
}
