"""Plan a deployment: check the parameters of a template, prepare the variables, and order the resources."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from imgstore.templates.expressions import evaluate, evaluate_loop, validate_expressions
from imgstore.templates.parameters import Types, kind_of, read_parameters
from imgstore.templates.resources import NESTED, PlannedResource, ResourceCollector, TargetScope, joined_names
from imgstore.templates.scope import (
    NotDeployedYet,
    Scope,
    bad_template,
    first_names,
    raise_not_deployed,
    unavailable_function,
)
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import read_known_fields

_LEVELS_MAX: Final = 5
"""The limit for nested templates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A template with its parameters and resources."""

    resources: Mapping[str, PlannedResource]
    """The resources by key, in the order of the template."""
    loops: Mapping[str, tuple[str, ...]]
    """The keys of the resources of a loop, by the lower-case name and the lower-case symbolic name of the loop."""
    outputs: Mapping[str, Mapping[str, Json]]
    """The outputs, with expressions."""
    types: Types
    scope: Scope
    target_scope: TargetScope
    parameters: Json
    """The parameters for display, without secret values."""
    is_outer: bool = False
    """True if the expressions belong to the outer template."""

    def find(self, word: str) -> PlannedResource | None:
        """Return the resource that ``reference`` names by a symbolic name, an id or a name."""
        wanted = word.lower()
        if wanted in self.resources:
            return self.resources[wanted]
        symbolic = next((each for each in self.resources.values() if each.symbol.lower() == wanted), None)
        return symbolic or next((each for each in self.resources.values() if joined_names(each) == wanted), None)


def plan_template(properties: Json, scope: Scope, target_scope: TargetScope, *, is_outer: bool = False) -> Plan:
    """Plan the deployment of a template.

    Args:
        properties: The object with ``template``, ``parameters`` and ``mode``.
        scope: The scope without parameters and variables. For an outer template, the scope of that template.
        target_scope: Where to deploy.
        is_outer: True if the expressions belong to the outer template.

    Raises:
        InvalidInput: The template is invalid, or uses an unsupported feature. The code is ``InvalidTemplate``.
        NotFound: A target resource group does not exist.
        NotDeployedYet: The plan depends on a resource that is not deployed yet. Only with a scope that raises this
            error.
    """
    with scope.budget.run():
        try:
            plan = _plan(properties, scope, target_scope, is_outer=is_outer)
            _validate(plan)
        except RecursionError as error:
            raise bad_template("The template is nested too deeply.") from error
    return plan


def _plan(properties: Json, scope: Scope, target_scope: TargetScope, *, is_outer: bool) -> Plan:
    for link in ("templateLink", "parametersLink"):
        if value_at(properties, link) is not None:
            raise bad_template(f"The '{link}' is not supported.", found=link, expected="a template in the request")
    template = value_at(properties, "template")
    if not isinstance(template, Mapping):
        raise bad_template("The template is missing.", expected="properties.template, an object")
    if str(value_at(properties, "mode") or "Incremental").lower() != "incremental":
        raise bad_template("The deployment mode is not supported.", expected="Incremental: nothing is deleted")
    types = Types(definitions=_read_object(template, "definitions"), budget=scope.budget)
    inner, shown = scope, None
    if not is_outer:
        own = replace(scope, functions=_read_functions(template))
        declared = _read_object(template, "parameters")
        values, shown = read_parameters(declared, value_at(properties, "parameters") or {}, types, own)
        inner = _with_variables(replace(own, parameters=values), _read_object(template, "variables"))
    gathered = ResourceCollector(target_scope)
    gathered.add(template.get("resources") or [], inner)
    return Plan(
        resources={
            key: replace(each, depends_on=gathered.resolve_dependencies(each))
            for key, each in gathered.resources.items()
        },
        loops={name: tuple(keys) for name, keys in gathered.loops.items()},
        outputs=_read_object(template, "outputs"),
        types=types,
        scope=inner,
        target_scope=target_scope,
        parameters=shown or {},
        is_outer=is_outer,
    )


def plan_nested(one: PlannedResource, scope: Scope, target_scope: TargetScope) -> Plan:
    """Plan a nested deployment.

    Args:
        one: The nested deployment.
        scope: The scope of the outer template, with references.
        target_scope: The target scope of the outer template.

    Raises:
        InvalidInput: The template is invalid, uses an unsupported feature, or is nested too deeply.
        NotFound: The resource group does not exist.
        NotDeployedYet: The plan depends on a resource that is not deployed yet.
    """
    within = replace(target_scope, group=one.group, level=target_scope.level + 1)
    if within.level > _LEVELS_MAX:
        raise bad_template("Templates are nested too deeply.", found=one.resource_id, expected=f"{_LEVELS_MAX} levels")
    properties = value_at(read_known_fields({"properties": one.body.get("properties")}, Kind.DEPLOYMENT), "properties")
    evaluation = evaluate(value_at(properties, "expressionEvaluationOptions.scope") or "outer", scope)
    asked = {
        **(properties if isinstance(properties, Mapping) else {}),
        "parameters": evaluate(value_at(properties, "parameters") or {}, scope),
        "mode": evaluate(value_at(properties, "mode"), scope),
    }
    if str(evaluation).lower() != "inner":
        target_scope.location(one.group)
        return plan_template(asked, scope, within, is_outer=True)
    own = replace(
        scope,
        group=one.group,
        location=target_scope.location(one.group),
        tags=target_scope.tags(one.group),
        deployment=one.names[-1],
        parameters={},
        variable=unavailable_function("variables"),
        functions={},
        copies={},
        reference=unavailable_function("reference"),
        references=unavailable_function("references"),
    )
    return plan_template(asked, own, within)


def _validate(plan: Plan) -> None:
    """Find invalid expressions in resources, outputs and nested templates before anything is created."""
    for each in plan.resources.values():
        scope = replace(each.scope, reference=raise_not_deployed, references=raise_not_deployed)
        if each.kind.lower() == NESTED and not each.is_existing:
            with suppress(NotDeployedYet):
                plan_nested(each, scope, plan.target_scope)
        else:
            validate_expressions(each.body, scope)
    outside = replace(plan.scope, reference=raise_not_deployed, references=raise_not_deployed)
    for name, output in plan.outputs.items():
        with suppress(NotDeployedYet):
            _validate_output(plan, name, output, outside)


def _validate_output(plan: Plan, name: str, output: Json, scope: Scope) -> None:
    kind_of(plan.types.resolve(output, name), name)
    if evaluate(value_at(output, "condition"), scope) is False:
        return
    if value_at(output, "copy") is not None:
        evaluate_loop(value_at(output, "copy"), scope)
    validate_expressions(value_at(output, "value"), scope)


def _read_object(template: Mapping[str, Json], name: str) -> Mapping[str, Any]:
    raw = template.get(name) or {}
    if not isinstance(raw, Mapping):
        raise bad_template(f"The template's '{name}' are not an object.")
    return raw


def _read_functions(template: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """Return the functions that the template defines, by lower-case ``namespace.name``."""
    found: dict[str, Mapping[str, Json]] = {}
    spaces = template.get("functions") or []
    if not isinstance(spaces, list):
        raise bad_template("The template's 'functions' are not a list.")
    for space in spaces:
        for name, how in _read_object(space if isinstance(space, Mapping) else {}, "members").items():
            if not isinstance(how, Mapping) or not isinstance(how.get("parameters") or [], list):
                raise bad_template(f"The template function '{name}' is not an object with parameters and an output.")
            found[f"{value_at(space, 'namespace')}.{name}".lower()] = how
    return found


def _with_variables(scope: Scope, variables: Mapping[str, Json]) -> Scope:
    """Return a scope that evaluates each variable once, at the first use."""
    raw = {name.lower(): value for name, value in variables.items() if name.lower() != "copy"}
    loops = _variable_loops(variables)
    known: dict[str, Json] = {}
    open_ones: set[str] = set()

    def variable(name: str) -> Json:
        key = name.lower()
        if key not in raw and key not in loops:
            raise bad_template(f"The template variable '{name}' is not found.", found=first_names(chain(raw, loops)))
        if key in open_ones:
            raise bad_template(f"The template variable '{name}' depends on itself.")
        if key not in known:
            open_ones.add(key)
            loop = loops.get(key)
            known[key] = evaluate(raw[key], whole) if loop is None else evaluate({"copy": [loop]}, whole)[loop["name"]]
            open_ones.remove(key)
        return known[key]

    whole = replace(scope, variable=variable)
    return whole


def _variable_loops(variables: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """Return the loops that define variables, by lower-case name."""
    loops: Json = next((each for name, each in variables.items() if name.lower() == "copy"), [])
    if not isinstance(loops, list) or not all(
        isinstance(value_at(each, "name"), str) and "input" in each for each in loops
    ):
        raise bad_template("Each loop of a variable needs a name, a count and an input.", found="variables.copy")
    return {each["name"].lower(): each for each in loops}
