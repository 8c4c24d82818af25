"""Deploy a planned template: run the PUT command of each resource, one after the other.

The dependencies and references of a resource are deployed before the resource. A nested deployment has a row of its own.
The outputs of a nested deployment contain the results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from imgstore.api.arm.references import read_resource
from imgstore.api.http.long_running import Command, CommandCall
from imgstore.api.http.redaction import error_body
from imgstore.domain.deployments import Deployment
from imgstore.operations import deployments
from imgstore.operations.api_operations import OperationPreempted, operation_preempted, refresh_principal
from imgstore.templates.expressions import evaluate, evaluate_loop
from imgstore.templates.parameters import is_secret, kind_of
from imgstore.templates.plan import Plan, plan_nested
from imgstore.templates.resources import NESTED, PlannedResource
from imgstore.templates.scope import ELEMENTS_PER_REFERENCE, Scope, bad_template
from imgstore.wire.api_versions import check_api_version
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json
from imgstore.wire.responses.deployments import add_failed_resource, deployment_json

_LOOK_SECONDS: Final = 1.0
"""The interval of checks of replicas that workers make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutCommand:
    """The PUT command of a resource type."""

    command: Command
    fields: tuple[str, ...]
    """The keys of the command's request for the names in the resource id."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Additional values of the command's request."""
    is_continued: bool = False
    """Whether the command completes a resource in the state Creating, also if a newer request wrote the resource."""


class DeploymentRunner:
    """A running deployment, with the resources that exist so far."""

    def __init__(
        self,
        call: CommandCall,
        plan: Plan,
        name: str,
        types: Mapping[str, PutCommand],
        outer: "DeploymentRunner | None" = None,
    ) -> None:
        """Prepare a deployment.

        Args:
            call: the call of the outermost deployment's command.
            plan: the planned template.
            name: the name of the deployment.
            types: the commands by resource type in lower case.
            outer: the outer deployment, if the expressions of this deployment are evaluated in the outer scope.
        """
        self._call, self._plan, self._name, self._types, self._outer = call, plan, name, types, outer
        self._bodies: dict[str, Json] = {}
        self._in_progress: list[str] = []
        self._failed: str | None = None

    def run(self, holder: str, accept: Callable[[Json], None] = lambda _body: None) -> Json:
        """Deploy all resources.

        Args:
            holder: the uid of the operation in the row of the deployment.
            accept: called with the deployment as soon as the row is stored.

        Returns:
            The deployment at the end, as JSON.

        Raises:
            Conflict: another deployment with this name is running.
            ImgstoreError: a resource was refused. The error is stored in the row first.
        """
        installation, principal = self._call.session.installation, self._call.session.principal
        running = deployments.begin_deployment(
            installation,
            principal,
            group=self._plan.target_scope.group,
            name=self._name,
            parameters=self._plan.parameters,
            holder=holder,
        )
        accept(self._json(running))
        try:
            for key in self._plan.resources:
                installation.keeper.check_cancelled()
                self._make(key)
                deployments.note_deployment(installation, running, resources=self._resource_ids)
            outputs = self._outputs()
        except Exception as error:
            failure = add_failed_resource(error_body(installation, error)["error"], self._failed)
            deployments.end_deployment(installation, running, resources=self._resource_ids, error=failure)
            raise
        return self._json(
            deployments.end_deployment(installation, running, resources=self._resource_ids, outputs=outputs)
        )

    def _json(self, deployment: Deployment) -> Json:
        installation, group = self._call.session.installation, self._plan.target_scope.group
        return deployment_json(deployment, deployments.deployment_id(installation, group, deployment.name))

    @property
    def _resource_ids(self) -> tuple[str, ...]:
        made = (self._plan.resources[key] for key in self._bodies)
        return tuple(each.resource_id for each in made if not each.is_existing)

    def _make(self, key: str) -> None:
        """Deploy a resource after the dependencies. Do nothing if the resource is deployed. Do not read existing resources."""
        if key in self._bodies:
            return
        if key in self._in_progress:
            raise bad_template("Circular dependency detected.", found=", ".join((*self._in_progress, key)))
        self._in_progress.append(key)
        one = self._plan.resources[key]
        for each in one.depends_on:
            self._make(each)
        if not one.is_existing:
            try:
                self._bodies[key] = self._put(one)
            except Exception:
                self._failed = self._failed or one.resource_id
                raise
        self._in_progress.pop()

    def _put(self, one: PlannedResource) -> Json:
        scope = self._with_references(one.scope)
        if one.kind.lower() == NESTED:
            return self._deploy_nested(one, scope)
        kind, call = self._types[one.kind.lower()], self._call
        request = {
            **dict(zip(kind.fields, one.names, strict=True)),
            **kind.more,
            "group": one.group,
            "body": evaluate(one.body, scope),
            "whole": True,
            "conditions": {},
        }
        principal = refresh_principal(call.session.installation, call.session.principal)
        version = check_api_version(one.api_version, one.kind)
        inner = CommandCall(
            session=replace(call.session, principal=principal, api_version=version),
            request=request,
            accept=lambda _outcome: None,
            uid=call.uid,
            leaves_replicas=call.leaves_replicas,
            is_preempted=self._is_preempted(one),
        )
        try:
            if inner.is_preempted and not kind.is_continued:
                raise operation_preempted(one.resource_id)
            body = kind.command(inner)[1]
        except OperationPreempted:  # A newer request wrote this resource. The deployment continues with the new values.
            return read_resource(call.session, one.resource_id, one.api_version)
        # Later resources of the template may need the replicas.
        installation = call.session.installation
        while not all(is_done(installation) for is_done in inner.awaited):
            installation.keeper.stop.wait(_LOOK_SECONDS)
        return body

    def _is_preempted(self, one: PlannedResource) -> bool:
        """Return whether a newer request wrote the resource after this deployment, which was resumed, was stored."""
        return one.resource_id.lower() in self._call.preempted_resources

    def _deploy_nested(self, one: PlannedResource, scope: Scope) -> Json:
        """Run a nested deployment. The uid is derived from the outer uid, so a resumed process continues the same deployment.

        Raises:
            OperationPreempted: a newer request deploys another template with this name.
        """
        if self._is_preempted(one):
            raise operation_preempted(one.resource_id)
        plan = plan_nested(one, scope, self._plan.target_scope)
        inner = DeploymentRunner(self._call, plan, one.names[-1], self._types, self if plan.is_outer else None)
        return inner.run(deployments.make_nested_uid(self._call.uid, one.resource_id))

    def _with_references(self, scope: Scope) -> Scope:
        return replace(scope, reference=self._reference, references=self._references)

    def _reference(self, word: str, version: str | None, full: bool) -> Json:  # noqa: FBT001 - an argument of the expression
        effort = self._plan.scope.budget
        effort.spend(ELEMENTS_PER_REFERENCE)
        with effort.pause():
            body = self._find_resource(word, version)
        return body if full else body.get("properties")

    def _references(self, loop: str, full: bool) -> Json:  # noqa: FBT001 - an argument of the expression
        keys = self._plan.loops.get(loop.lower())
        if keys is None:
            raise bad_template(f"The loop '{loop}' is not defined in the template.", found=loop)
        return [self._reference(key, None, full) for key in keys]

    def _find_resource(self, word: str, version: str | None) -> Json:
        """Return a resource of this template, of the outer template, or an existing resource by id.

        A resource of a template is deployed first if necessary.
        """
        one = self._plan.find(word)
        if one is not None:
            self._make(one.key)
            if one.key not in self._bodies:
                self._bodies[one.key] = read_resource(self._call.session, one.resource_id, one.api_version)
            return self._bodies[one.key]
        if self._outer is not None:
            return self._outer._find_resource(word, version)
        if word.startswith("/"):
            return read_resource(self._call.session, word, version)
        raise bad_template(
            f"The resource '{word}' is not defined in the template.",
            found=word,
            expected="a resource of this template, or the id of an existing resource and an api-version",
        )

    def _outputs(self) -> Json:
        """Return the outputs of the template, without the values of secret outputs."""
        scope = self._with_references(self._plan.scope)
        return {
            name: self._output(name, declared, scope)
            for name, declared in self._plan.outputs.items()
            if evaluate(value_at(declared, "condition"), scope) is not False
        }

    def _output(self, name: str, declared: Json, scope: Scope) -> Json:
        how = self._plan.types.resolve(declared, name)
        loop = value_at(declared, "copy")
        value = evaluate(value_at(declared, "value"), scope) if loop is None else evaluate_loop(loop, scope)
        self._plan.types.check(name, how, value)
        return {"type": how["type"]} | ({} if is_secret(kind_of(how, name)) else {"value": value})
