"""ARM templates into the resources that are to be made: parameters checked, loops unrolled, names and order known. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.wire.expressions import Scope, bad_template, evaluated, resource_id
from imgstore.wire.reading import at
from imgstore.wire.text import Json

_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "array": list,
    "object": dict,
    "secureobject": dict,
}
_SECURE: Final = ("securestring", "secureobject")
_FIELDS: Final = ("location", "tags", "sku", "zones", "plan", "identity", "properties")
"""Of a resource in a template, those of its body."""
_COPIES_MAX: Final = 800
"""Azure's limit of one loop, and of a template's resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A resource of a template."""

    resource_id: str
    kind: str
    """Its type, as the template spells it."""
    names: tuple[str, ...]
    """Of what is above it, and its own."""
    api_version: str
    body: Mapping[str, Json]
    """As it is put, with expressions in it."""
    scope: Scope
    """For these, but for `Scope.reference`."""
    depends_on: tuple[str, ...]
    """Ids of resources of the template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A template with its parameters."""

    resources: Mapping[str, Planned]
    """By lower-case id, in the template's order."""
    outputs: Mapping[str, Mapping[str, Json]]
    """With expressions in them."""
    scope: Scope
    parameters: Json
    """As they are shown: those that are secret are not."""


def planned(properties: Json, scope: Scope, known: Callable[[str], bool]) -> Plan:
    """What a deployment's properties ask for.

    Args:
        properties: ``template``, ``parameters``, ``mode``.
        scope: where; without parameters and variables.
        known: whether a type, in lower case, is one that can be made.

    Raises:
        InvalidInput: they ask for what is not done here, or mean nothing; its code is ``InvalidTemplate``.
    """
    template = at(properties, "template")
    if not isinstance(template, Mapping):
        raise bad_template("There is no template.", expected="properties.template, an object")
    if str(at(properties, "mode") or "Incremental").lower() != "incremental":
        raise bad_template("The deployment mode is not supported.", expected="Incremental: nothing is deleted")
    values, shown = _parameters(_objects(template, "parameters"), at(properties, "parameters") or {}, scope)
    inner = _with_variables(replace(scope, parameters=values), _objects(template, "variables"))
    resources = template.get("resources") or []
    if not isinstance(resources, list):
        raise bad_template("Resources by symbolic names are not supported.", expected="a list of resources")
    made, loops = _resources(resources, inner, known)
    whole = {each.resource_id.lower(): each for each in made}
    if len(whole) != len(made):
        raise bad_template("A resource is defined multiple times in the template.")
    resolved = {key: replace(each, depends_on=_depends(each, whole, loops)) for key, each in whole.items()}
    return Plan(resources=resolved, outputs=_objects(template, "outputs"), scope=inner, parameters=shown)


def _objects(template: Mapping[str, Json], name: str) -> Mapping[str, Any]:
    said = template.get(name) or {}
    if not isinstance(said, Mapping):
        raise bad_template(f"The template's '{name}' are no object.")
    return said


def _parameters(declared: Mapping[str, Any], given: Json, scope: Scope) -> tuple[dict[str, Json], Json]:
    """Their values by lower-case name, and how they are shown."""
    said = (
        {str(name).lower(): at(value, "value") for name, value in given.items()} if isinstance(given, Mapping) else {}
    )
    if unknown := sorted(set(said) - {name.lower() for name in declared}):
        raise bad_template(f"The template parameters '{', '.join(unknown)}' are not valid; they are not present in it.")
    values: dict[str, Json] = {}
    shown: dict[str, Json] = {}
    for name, how in declared.items():
        kind = str(at(how, "type")).lower()
        if kind not in _KINDS:
            raise bad_template(f"The parameter '{name}' has no known type.", found=kind, expected=", ".join(_KINDS))
        value = said.get(name.lower())
        if value is None:
            if "defaultValue" not in how:
                raise bad_template(f"The value for the template parameter '{name}' is not provided.")
            value = evaluated(how["defaultValue"], replace(scope, parameters=values))
        _check_parameter(name, kind, how, value)
        values[name.lower()] = value
        shown[name] = {"type": at(how, "type")} | ({} if kind in _SECURE else {"value": value})
    return values, shown


def _check_parameter(name: str, kind: str, how: Mapping[str, Any], value: Any) -> None:
    if not isinstance(value, _KINDS[kind]) or (kind == "int" and isinstance(value, bool)):
        raise bad_template(f"The provided value for the template parameter '{name}' is not of type {kind}.")
    allowed = how.get("allowedValues")
    if allowed is not None and (not isinstance(allowed, list) or value not in allowed):
        raise bad_template(f"The value of the template parameter '{name}' is not allowed.", expected=str(allowed))
    measured: Any = value
    size = measured if kind in ("int", "bool") else len(measured)
    end = "Value" if kind == "int" else "Length"
    low, high = (_bound(name, how.get(f"{which}{end}")) for which in ("min", "max"))
    if (low is not None and size < low) or (high is not None and size > high):
        raise bad_template(f"The template parameter '{name}' is out of its range.", expected=f"{low} to {high}")


def _bound(name: str, said: Json) -> int | None:
    if said is not None and (not isinstance(said, int) or isinstance(said, bool)):
        raise bad_template(f"A bound of the template parameter '{name}' is no whole number.", found=str(said))
    return said


def _with_variables(scope: Scope, variables: Mapping[str, Json]) -> Scope:
    """A scope in which variables are evaluated when they are asked for, each once."""
    if "copy" in variables:
        raise bad_template("Loops of variables are not supported.", found="variables.copy")
    said = {name.lower(): value for name, value in variables.items()}
    known: dict[str, Json] = {}
    open_ones: set[str] = set()

    def variable(name: str) -> Json:
        key = name.lower()
        if key not in said:
            raise bad_template(f"The template variable '{name}' is not found.", found=f"{sorted(said)}")
        if key in open_ones:
            raise bad_template(f"The template variable '{name}' depends on itself.")
        if key not in known:
            open_ones.add(key)
            known[key] = evaluated(said[key], whole)
            open_ones.remove(key)
        return known[key]

    whole = replace(scope, variable=variable)
    return whole


def _resources(
    said: list[Json], scope: Scope, known: Callable[[str], bool], above: Planned | None = None
) -> tuple[list[Planned], dict[str, list[str]]]:
    """The resources of a list with those below them, and the ids of each loop's."""
    made: list[Planned] = []
    loops: dict[str, list[str]] = {}
    for resource in said:
        if not isinstance(resource, Mapping):
            raise bad_template("A resource is no object.")
        loop = resource.get("copy")
        for turn in _turns(loop, scope):
            if not _is_wanted(resource, turn):
                continue
            one = _planned(resource, turn, known, above)
            below, inner = _resources(resource.get("resources") or [], turn, known, one)
            made += [one, *below]
            loops |= inner
            if loop is not None:
                loops.setdefault(str(loop["name"]).lower(), []).append(one.resource_id)
        if len(made) > _COPIES_MAX:
            raise bad_template("The template has too many resources.", expected=f"at most {_COPIES_MAX}")
    return made, loops


def _turns(loop: Json, scope: Scope) -> list[Scope]:
    if loop is None:
        return [scope]
    name, count = at(loop, "name"), evaluated(at(loop, "count"), scope)
    if not isinstance(name, str) or not isinstance(count, int) or not 0 <= count <= _COPIES_MAX:
        raise bad_template("A copy loop needs a name and a count.", expected=f"a count from 0 to {_COPIES_MAX}")
    return [replace(scope, copies={**scope.copies, name.lower(): turn, "": turn}) for turn in range(count)]


def _is_wanted(resource: Mapping[str, Json], scope: Scope) -> bool:
    wanted = evaluated(resource.get("condition", True), scope)
    if not isinstance(wanted, bool):
        raise bad_template("The condition of a resource is no boolean.", found=str(wanted))
    return wanted


def _planned(
    resource: Mapping[str, Json], scope: Scope, known: Callable[[str], bool], above: Planned | None
) -> Planned:
    kind, name = (evaluated(resource.get(field), scope) for field in ("type", "name"))
    version = evaluated(resource.get("apiVersion"), scope)
    if not all(isinstance(each, str) and each for each in (kind, name, version)):
        raise bad_template("A resource needs a type, an apiVersion and a name.", found=f"{kind}, {version}, {name}")
    if above is not None:
        kind, name = f"{above.kind}/{kind}", "/".join((*above.names, name))
    if not known(kind.lower()):
        raise bad_template(f"The resource type '{kind}' is not supported.", found=kind)
    names = tuple(name.split("/"))
    if len(names) != kind.count("/"):
        raise bad_template(f"The template resource '{name}' of type '{kind}' has a wrong number of segments.")
    asked = evaluated(resource.get("dependsOn") or [], scope)
    if not isinstance(asked, list):
        raise bad_template(f"The 'dependsOn' of '{name}' is no list.")
    body = {field: resource[field] for field in _FIELDS if field in resource}
    return Planned(
        resource_id=resource_id(scope, kind, *names),
        kind=kind,
        names=names,
        api_version=version,
        body=body,
        scope=scope,
        depends_on=(*([above.resource_id] if above is not None else []), *map(str, asked)),
    )


def _depends(one: Planned, whole: Mapping[str, Planned], loops: Mapping[str, list[str]]) -> tuple[str, ...]:
    """What a resource waits for, as ids: those that are named, and those of a loop. A condition may have left one out."""
    found: list[str] = []
    for word in one.depends_on:
        if word.lower() in whole:
            found.append(word.lower())
        elif word.lower() in loops:
            found += [each.lower() for each in loops[word.lower()]]
        elif word.startswith("/"):
            continue
        else:
            named = [key for key, each in whole.items() if word.lower() in ("/".join(each.names).lower(), _path(each))]
            if not named:
                raise bad_template(f"The resource '{word}' is not defined in the template.", found=one.resource_id)
            found += named
    return tuple(dict.fromkeys(found))


def _path(one: Planned) -> str:
    """``type/name``, as ``dependsOn`` may say it too: ``Microsoft.Compute/galleries/g/images/i``."""
    return one.resource_id.lower().partition("/providers/")[2]


def find(plan: Plan, word: str) -> Planned | None:
    """The resource of a template that ``reference`` means by an id or a name."""
    if word.lower() in plan.resources:
        return plan.resources[word.lower()]
    return next((each for each in plan.resources.values() if "/".join(each.names).lower() == word.lower()), None)
