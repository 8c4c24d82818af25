"""ARM templates into the resources that are to be made: parameters checked, loops unrolled, names and order known. Pure.

Three kinds of things stand among a template's resources: what is put, deployments of templates of their own (Bicep's
modules), and, by symbolic names, what exists already and is only read.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from imgstore.domain.errors import InvalidInput
from imgstore.wire.expressions import COPIES_MAX, evaluated, listed, rehearse, turns
from imgstore.wire.functions import resource_id
from imgstore.wire.parameters import Types, kind_of, read_parameters
from imgstore.wire.reading import at
from imgstore.wire.scopes import NotYet, Scope, bad_template, not_yet, nowhere
from imgstore.wire.text import Json

NESTED: Final = "microsoft.resources/deployments"
_LEVELS_MAX: Final = 5
"""Of templates within each other."""
_WORDS: Final = frozenset({
    "type", "name", "apiVersion", "dependsOn", "copy", "condition", "resources", "comments", "metadata", "existing",
    "resourceGroup", "subscriptionId", "scope",
})  # fmt: skip
"""What a resource says to the template, and not of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Where a template is deployed."""

    known: Callable[[str], bool]
    """Whether a type, in lower case, is one that can be made."""
    location: Callable[[str], str]
    """A group's; raises NotFound where there is none."""
    group: str
    level: int = 0
    """How many templates are around this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A resource of a template."""

    resource_id: str
    kind: str
    """Its type, as the template spells it."""
    names: tuple[str, ...]
    """Of what is above it, and its own."""
    group: str
    api_version: str
    body: Mapping[str, Json]
    """As it is put, with expressions in it."""
    scope: Scope
    """For these, but for `Scope.reference`."""
    depends_on: tuple[str, ...]
    """Keys of resources of the template."""
    symbol: str = ""
    """Its symbolic name, if it has one; of a loop's with its turn: ``galleries[2]``."""
    is_there: bool = False
    """It is not made, only read (``existing``)."""

    @property
    def key(self) -> str:
        """What it is known by in its plan."""
        return self.symbol.lower() if self.is_there else self.resource_id.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A template with its parameters."""

    resources: Mapping[str, Planned]
    """By key, in the template's order."""
    loops: Mapping[str, tuple[str, ...]]
    """The keys of a loop's resources, by its name and its symbolic name, in lower case."""
    outputs: Mapping[str, Mapping[str, Json]]
    """With expressions in them."""
    types: Types
    scope: Scope
    around: Around
    parameters: Json
    """As they are shown: those that are secret are not."""
    is_outer: bool = False
    """Its expressions are those of the template around it."""

    def find(self, word: str) -> Planned | None:
        """The resource that ``reference`` means by a symbolic name, an id or a name."""
        wanted = word.lower()
        if wanted in self.resources:
            return self.resources[wanted]
        symbolic = next((each for each in self.resources.values() if each.symbol.lower() == wanted), None)
        return symbolic or next((each for each in self.resources.values() if _joined(each) == wanted), None)


def planned(properties: Json, scope: Scope, around: Around, *, is_outer: bool = False) -> Plan:
    """What a deployment's properties ask for.

    Args:
        properties: ``template``, ``parameters``, ``mode``.
        scope: without parameters and variables; or with those that the template has from outside.
        around: where.
        is_outer: its expressions are those of the template around it.

    Raises:
        InvalidInput: they ask for what is not done here, or mean nothing; its code is ``InvalidTemplate``.
        NotFound: a group that it deploys to is not there.
        NotYet: it depends on what is made first. Only with a scope that raises it.
    """
    for link in ("templateLink", "parametersLink"):
        if at(properties, link) is not None:
            raise bad_template(f"The '{link}' is not supported.", found=link, expected="a template in the request")
    template = at(properties, "template")
    if not isinstance(template, Mapping):
        raise bad_template("There is no template.", expected="properties.template, an object")
    if str(at(properties, "mode") or "Incremental").lower() != "incremental":
        raise bad_template("The deployment mode is not supported.", expected="Incremental: nothing is deleted")
    types = Types(definitions=_objects(template, "definitions"))
    inner, shown = scope, None
    if not is_outer:
        own = replace(scope, functions=_functions(template))
        declared = _objects(template, "parameters")
        values, shown = read_parameters(declared, at(properties, "parameters") or {}, types, own)
        inner = _with_variables(replace(own, parameters=values), _objects(template, "variables"))
    gathered = _Gathered(around)
    gathered.take(template.get("resources") or [], inner)
    plan = Plan(
        resources={key: replace(each, depends_on=gathered.depends(each)) for key, each in gathered.made.items()},
        loops={name: tuple(keys) for name, keys in gathered.loops.items()},
        outputs=_objects(template, "outputs"),
        types=types,
        scope=inner,
        around=around,
        parameters=shown or {},
        is_outer=is_outer,
    )
    _rehearse(plan)
    return plan


def planned_inside(one: Planned, scope: Scope, around: Around) -> Plan:
    """What a nested deployment asks for.

    Args:
        one: the deployment.
        scope: of the template around it, with its references.
        around: of the template around it.

    Raises:
        InvalidInput: as `planned`; or it is nested too deeply.
        NotFound: its group is not there.
        NotYet: it depends on what is made first.
    """
    within = replace(around, group=one.group, level=around.level + 1)
    if within.level > _LEVELS_MAX:
        raise bad_template("Templates are nested too deeply.", found=one.resource_id, expected=f"{_LEVELS_MAX} levels")
    properties = one.body.get("properties")
    evaluation = evaluated(at(properties, "expressionEvaluationOptions.scope") or "outer", scope)
    asked = {
        **(properties if isinstance(properties, Mapping) else {}),
        "parameters": evaluated(at(properties, "parameters") or {}, scope),
        "mode": evaluated(at(properties, "mode"), scope),
    }
    if str(evaluation).lower() != "inner":
        around.location(one.group)
        return planned(asked, scope, within, is_outer=True)
    own = replace(
        scope,
        group=one.group,
        location=around.location(one.group),
        deployment=one.names[-1],
        parameters={},
        variable=nowhere("variables"),
        functions={},
        copies={},
        reference=nowhere("reference"),
        references=nowhere("references"),
    )
    return planned(asked, own, within)


def _rehearse(plan: Plan) -> None:
    """Find out, before anything is made, what in the bodies, outputs and nested templates means nothing."""
    for each in plan.resources.values():
        scope = replace(each.scope, reference=not_yet, references=not_yet)
        if each.kind.lower() == NESTED and not each.is_there:
            with suppress(NotYet):
                planned_inside(each, scope, plan.around)
        else:
            rehearse(each.body, scope)
    outside = replace(plan.scope, reference=not_yet, references=not_yet)
    for name, output in plan.outputs.items():
        with suppress(NotYet):
            _rehearse_output(plan, name, output, outside)


def _rehearse_output(plan: Plan, name: str, output: Json, scope: Scope) -> None:
    kind_of(plan.types.resolved(output, name), name)
    if evaluated(at(output, "condition"), scope) is False:
        return
    if at(output, "copy") is not None:
        listed(at(output, "copy"), scope)
    rehearse(at(output, "value"), scope)


def _objects(template: Mapping[str, Json], name: str) -> Mapping[str, Any]:
    said = template.get(name) or {}
    if not isinstance(said, Mapping):
        raise bad_template(f"The template's '{name}' are no object.")
    return said


def _functions(template: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """The template's own functions, by lower-case ``namespace.name``."""
    found: dict[str, Mapping[str, Json]] = {}
    for space in template.get("functions") or []:
        for name, how in _objects(space if isinstance(space, Mapping) else {}, "members").items():
            if not isinstance(how, Mapping) or not isinstance(how.get("parameters") or [], list):
                raise bad_template(f"The template function '{name}' is no object with parameters and an output.")
            found[f"{at(space, 'namespace')}.{name}".lower()] = how
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
            raise bad_template(f"The template variable '{name}' is not found.", found=f"{sorted((*said, *loops))}")
        if key in open_ones:
            raise bad_template(f"The template variable '{name}' depends on itself.")
        if key not in known:
            open_ones.add(key)
            loop = loops.get(key)
            known[key] = (
                evaluated(said[key], whole) if loop is None else evaluated({"copy": [loop]}, whole)[loop["name"]]
            )
            open_ones.remove(key)
        return known[key]

    whole = replace(scope, variable=variable)
    return whole


def _variable_loops(variables: Mapping[str, Json]) -> dict[str, Mapping[str, Json]]:
    """The loops among a template's variables, each of which is one, by lower-case name."""
    said: Json = next((each for name, each in variables.items() if name.lower() == "copy"), [])
    if not isinstance(said, list) or not all(isinstance(at(each, "name"), str) and "input" in each for each in said):
        raise bad_template("Loops of variables need a name, a count and an input each.", found="variables.copy")
    return {each["name"].lower(): each for each in said}


@dataclass(slots=True, kw_only=True)
class _Words:
    """What a resource may be called by in ``dependsOn``."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    """Of those that a condition, or a loop of no turns, has left out."""


class _Gathered:
    """The resources of a template, those below others too."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._words = _Words()
        self.made: dict[str, Planned] = {}
        self.loops: dict[str, list[str]] = {}

    def take(self, said: Json, scope: Scope, above: Planned | None = None) -> None:
        """Plan a list of resources, or an object of them by symbolic names."""
        for symbol, resource in _by_symbol(said):
            loop = resource.get("copy")
            called = set() if loop is None else {str(at(loop, "name")).lower(), symbol.lower()} - {""}
            for word in called:
                self.loops.setdefault(word, [])
            for place, turn in enumerate([scope] if loop is None else turns(loop, scope)):
                if not _is_wanted(resource, turn):
                    self._leave_out(symbol, resource, turn, above)
                    continue
                one = _planned(resource, turn, self._around, above)
                one = replace(one, symbol=symbol if loop is None or not symbol else f"{symbol}[{place}]")
                if one.is_there and not symbol:
                    raise bad_template("What exists is named by a symbolic name.", found=one.resource_id)
                self._add(one)
                for word in called:
                    self.loops[word].append(one.key)
                self.take(resource.get("resources") or [], turn, one)

    def _add(self, one: Planned) -> None:
        if one.key in self.made:
            raise bad_template("A resource is defined multiple times in the template.", found=one.resource_id)
        if len(self.made) >= COPIES_MAX:
            raise bad_template("The template has too many resources.", expected=f"at most {COPIES_MAX}")
        self.made[one.key] = one
        for word in {one.key, one.symbol.lower(), _joined(one), _path(one)} - {""}:
            self._words.keys.setdefault(word, []).append(one.key)

    def _leave_out(self, symbol: str, resource: Mapping[str, Json], scope: Scope, above: Planned | None) -> None:
        """Its names may have no meaning without the condition."""
        self._words.left_out.add(symbol.lower())
        with suppress(InvalidInput):
            one = _planned(resource, scope, self._around, above)
            self._words.left_out |= {_joined(one), _path(one)}
            for inner, below in _by_symbol(resource.get("resources") or []):
                self._leave_out(inner, below, scope, one)

    def depends(self, one: Planned) -> tuple[str, ...]:
        """What a resource waits for, as keys: those that are named, and those of a loop."""
        found: list[str] = []
        for word in map(str.lower, one.depends_on):
            named = self.loops[word] if word in self.loops else self._words.keys.get(word)
            if named is None and word not in self._words.left_out and not word.startswith("/"):
                raise bad_template(f"The resource '{word}' is not defined in the template.", found=one.resource_id)
            found += named or []
        return tuple(dict.fromkeys(found))


def _by_symbol(said: Json) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Resources with their symbolic names, which those of a list do not have."""
    if not isinstance(said, list | Mapping):
        raise bad_template("The resources are neither a list nor an object.", found=type(said).__name__)
    for symbol, resource in said.items() if isinstance(said, Mapping) else (("", each) for each in said):
        if not isinstance(resource, Mapping):
            raise bad_template("A resource is no object.", found=symbol or None)
        yield symbol, resource


def _is_wanted(resource: Mapping[str, Json], scope: Scope) -> bool:
    wanted = evaluated(resource.get("condition", True), scope)
    if not isinstance(wanted, bool):
        raise bad_template("The condition of a resource is no boolean.", found=type(wanted).__name__)
    return wanted


def _planned(resource: Mapping[str, Json], scope: Scope, around: Around, above: Planned | None) -> Planned:
    kind, name = (evaluated(resource.get(word), scope) for word in ("type", "name"))
    version = evaluated(resource.get("apiVersion"), scope)
    if not all(isinstance(each, str) and each for each in (kind, name, version)):
        raise bad_template("A resource needs a type, an apiVersion and a name.", found=f"{kind}, {version}, {name}")
    if above is not None:
        kind, name = f"{above.kind}/{kind}", "/".join((*above.names, name))
    is_there = resource.get("existing") is True
    if not is_there and kind.lower() != NESTED and not around.known(kind.lower()):
        raise bad_template(f"The resource type '{kind}' is not supported.", found=kind)
    names = tuple(name.split("/"))
    if len(names) != kind.count("/"):
        raise bad_template(f"The template resource '{name}' of type '{kind}' has a wrong number of segments.")
    asked = evaluated(resource.get("dependsOn") or [], scope)
    if not isinstance(asked, list):
        raise bad_template(f"The 'dependsOn' of '{name}' is no list.")
    may_be_elsewhere = is_there or kind.lower() == NESTED
    group = _group(resource, scope, may_be_elsewhere=may_be_elsewhere) or (above or around).group
    return Planned(
        resource_id=resource_id(scope, group, kind, *names),
        kind=kind,
        names=names,
        group=group,
        api_version=version,
        body={word: value for word, value in resource.items() if word not in _WORDS},
        scope=scope,
        depends_on=(*([above.key] if above is not None else []), *map(str, asked)),
        is_there=is_there,
    )


def _group(resource: Mapping[str, Json], scope: Scope, *, may_be_elsewhere: bool) -> str | None:
    """The group that a resource names itself. Another subscription, or another scope than a group, is none of ours."""
    said = {word: evaluated(resource.get(word), scope) for word in ("scope", "subscriptionId", "resourceGroup")}
    subscription, group = said["subscriptionId"], said["resourceGroup"]
    if said["scope"] is not None:
        raise bad_template("The 'scope' of a resource is not supported.", expected="a resource of a group")
    if subscription is not None and str(subscription).lower() != scope.subscription.lower():
        raise bad_template("A template deploys to its own subscription only.", found=str(subscription))
    if group is None:
        return None
    if not may_be_elsewhere or not isinstance(group, str) or not group or "/" in group:
        raise bad_template(
            "A resource of a template is made in the group of the deployment.",
            found="resourceGroup",
            expected="'resourceGroup' at a nested deployment, or at what exists",
        )
    return group


def _joined(one: Planned) -> str:
    return "/".join(one.names).lower()


def _path(one: Planned) -> str:
    """``type/name``, as ``dependsOn`` may say it too: ``Microsoft.Compute/galleries/g/images/i``."""
    return one.resource_id.lower().partition("/providers/")[2]
