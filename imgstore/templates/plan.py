"""ARM templates into what is to be deployed: parameters checked, variables ready, resources in order. Pure."""

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
"""Of templates within each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A template with its parameters."""

    resources: Mapping[str, PlannedResource]
    """By key, in the template's order."""
    loops: Mapping[str, tuple[str, ...]]
    """The keys of a loop's resources, by its name and its symbolic name, in lower case."""
    outputs: Mapping[str, Mapping[str, Json]]
    """With expressions in them."""
    types: Types
    scope: Scope
    target_scope: TargetScope
    parameters: Json
    """As they are shown: those that are secret are not."""
    is_outer: bool = False
    """Its expressions are those of the template around it."""

    def find(self, word: str) -> PlannedResource | None:
        """The resource that ``reference`` means by a symbolic name, an id or a name."""
        wanted = word.lower()
        if wanted in self.resources:
            return self.resources[wanted]
        symbolic = next((each for each in self.resources.values() if each.symbol.lower() == wanted), None)
        return symbolic or next((each for each in self.resources.values() if joined_names(each) == wanted), None)


def plan_template(properties: Json, scope: Scope, target_scope: TargetScope, *, is_outer: bool = False) -> Plan:
    """What a deployment's properties ask for.

    Args:
        properties: ``template``, ``parameters``, ``mode``.
        scope: without parameters and variables; or with those that the template has from outside.
        target_scope: where.
        is_outer: its expressions are those of the template around it.

    Raises:
        InvalidInput: they ask for what is not done here, or mean nothing; its code is ``InvalidTemplate``.
        NotFound: a group that it deploys to is not there.
        NotDeployedYet: it depends on what is made first. Only with a scope that raises it.
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
        raise bad_template("There is no template.", expected="properties.template, an object")
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
    """What a nested deployment asks for.

    Args:
        one: the deployment.
        scope: of the template around it, with its references.
        target_scope: of the template around it.

    Raises:
        InvalidInput: as `plan_template`; or it is nested too deeply.
        NotFound: its group is not there.
        NotDeployedYet: it depends on what is made first.
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
    """Find out, before anything is made, what in the bodies, outputs and nested templates means nothing."""
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
    said = template.get(name) or {}
    if not isinstance(said, Mapping):
        raise bad_template(f"The template's '{name}' are no object.")
    return said


def _read_functions(template: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """The template's own functions, by lower-case ``namespace.name``."""
    found: dict[str, Mapping[str, Json]] = {}
    spaces = template.get("functions") or []
    if not isinstance(spaces, list):
        raise bad_template("The template's 'functions' are no list.")
    for space in spaces:
        for name, how in _read_object(space if isinstance(space, Mapping) else {}, "members").items():
            if not isinstance(how, Mapping) or not isinstance(how.get("parameters") or [], list):
                raise bad_template(f"The template function '{name}' is no object with parameters and an output.")
            found[f"{value_at(space, 'namespace')}.{name}".lower()] = how
    return found


def _with_variables(scope: Scope, variables: Mapping[str, Json]) -> Scope:
    """A scope in which variables are evaluated when they are asked for, each once."""
    said = {name.lower(): value for name, value in variables.items() if name.lower() != "copy"}
    loops = _variable_loops(variables)
    known: dict[str, Json] = {}
    open_ones: set[str] = set()

    def variable(name: str) -> Json:
        key = name.lower()
        if key not in said and key not in loops:
            raise bad_template(f"The template variable '{name}' is not found.", found=first_names(chain(said, loops)))
        if key in open_ones:
            raise bad_template(f"The template variable '{name}' depends on itself.")
        if key not in known:
            open_ones.add(key)
            loop = loops.get(key)
            known[key] = evaluate(said[key], whole) if loop is None else evaluate({"copy": [loop]}, whole)[loop["name"]]
            open_ones.remove(key)
        return known[key]

    whole = replace(scope, variable=variable)
    return whole


def _variable_loops(variables: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """The loops among a template's variables, each of which is one, by lower-case name."""
    said: Json = next((each for name, each in variables.items() if name.lower() == "copy"), [])
    if not isinstance(said, list) or not all(
        isinstance(value_at(each, "name"), str) and "input" in each for each in said
    ):
        raise bad_template("Loops of variables need a name, a count and an input each.", found="variables.copy")
    return {each["name"].lower(): each for each in said}
