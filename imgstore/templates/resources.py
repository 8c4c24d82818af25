"""Collect the resources of a template: evaluate conditions and loops, names and ids, and resolve dependencies.

A resource has one of three kinds. The deployment creates a resource, deploys a nested template (a Bicep module), or
only reads an existing resource.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.tags import NO_TAGS
from imgstore.templates.expressions import COPIES_MAX, evaluate, expand_loop
from imgstore.templates.scope import Scope, bad_template
from imgstore.templates.scope_functions import resource_id
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json

NESTED: Final = "microsoft.resources/deployments"
_WORDS: Final = frozenset({
    "type", "name", "apiVersion", "dependsOn", "copy", "condition", "resources", "comments", "metadata", "existing",
    "resourceGroup", "subscriptionId", "scope",
})  # fmt: skip
"""The properties of a resource that control the deployment. The other properties are the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScope:
    """The place of a deployment."""

    is_supported: Callable[[str], bool]
    """Return whether a lower-case resource type can be created."""
    location: Callable[[str], str]
    """Return the location of a resource group. Raises NotFound if the group does not exist."""
    tags: Callable[[str], Mapping[str, str]] = lambda _group: NO_TAGS
    """Return the tags of a resource group."""
    group: str
    level: int = 0
    """The number of outer templates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedResource:
    """A resource of a template."""

    resource_id: str
    kind: str
    """The resource type, in the spelling of the template."""
    names: tuple[str, ...]
    """The names of the parent resources and of the resource."""
    group: str
    api_version: str
    body: Mapping[str, Json]
    """The body of the PUT, with expressions."""
    scope: Scope
    """The scope of the expressions. `Scope.reference` is set at the deployment."""
    depends_on: tuple[str, ...]
    """The keys of resources of the template."""
    symbol: str = ""
    """The symbolic name, or an empty string. In a loop, the name with the index: ``galleries[2]``."""
    is_existing: bool = False
    """True for a resource that is only read (``existing``)."""

    @property
    def key(self) -> str:
        """The key of the resource in the plan."""
        return self.symbol.lower() if self.is_existing else self.resource_id.lower()


@dataclass(slots=True, kw_only=True)
class _DependencyNames:
    """The names of resources that ``dependsOn`` may use."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    """Names of resources that a condition or an empty loop excludes."""


class ResourceCollector:
    """The resources of a template and their child resources."""

    def __init__(self, target_scope: TargetScope) -> None:
        self._target_scope = target_scope
        self._words = _DependencyNames()
        self.resources: dict[str, PlannedResource] = {}
        self.loops: dict[str, list[str]] = {}

    def add(self, raw: Json, scope: Scope, above: PlannedResource | None = None) -> None:
        """Add a list of resources, or an object of resources by symbolic name."""
        for symbol, resource in _by_symbol(raw):
            loop = resource.get("copy")
            called = set() if loop is None else {str(value_at(loop, "name")).lower(), symbol.lower()} - {""}
            for word in called:
                self.loops.setdefault(word, [])
            for place, turn in enumerate([scope] if loop is None else expand_loop(loop, scope)):
                if not _is_wanted(resource, turn):
                    self._leave_out(symbol, resource, turn, above)
                    continue
                one = _plan_resource(resource, turn, self._target_scope, above)
                one = replace(one, symbol=symbol if loop is None or not symbol else f"{symbol}[{place}]")
                if one.is_existing and not symbol:
                    raise bad_template("An existing resource needs a symbolic name.", found=one.resource_id)
                self._add(one)
                for word in called:
                    self.loops[word].append(one.key)
                self.add(resource.get("resources") or [], turn, one)

    def _add(self, one: PlannedResource) -> None:
        if one.key in self.resources:
            raise bad_template("A resource is defined multiple times in the template.", found=one.resource_id)
        if len(self.resources) >= COPIES_MAX:
            raise bad_template("The template has too many resources.", expected=f"at most {COPIES_MAX}")
        self.resources[one.key] = one
        for word in {one.key, one.symbol.lower(), joined_names(one), _type_and_names(one)} - {""}:
            self._words.keys.setdefault(word, []).append(one.key)

    def _leave_out(
        self, symbol: str, resource: Mapping[str, Json], scope: Scope, above: PlannedResource | None
    ) -> None:
        """Record the names of an excluded resource, so that other resources may depend on the resource."""
        scope.budget.spend(1)
        self._words.left_out.add(symbol.lower())
        with suppress(InvalidInput):
            one = _plan_resource(resource, scope, self._target_scope, above)
            self._words.left_out |= {joined_names(one), _type_and_names(one)}
            for inner, below in _by_symbol(resource.get("resources") or []):
                self._leave_out(inner, below, scope, one)

    def resolve_dependencies(self, one: PlannedResource) -> tuple[str, ...]:
        """Return the keys of the resources that a resource depends on.

        The name of a loop means all resources of the loop.
        """
        found: list[str] = []
        for word in dict.fromkeys(map(str.lower, one.depends_on)):
            named = self.loops[word] if word in self.loops else self._words.keys.get(word)
            if named is None and word not in self._words.left_out and not word.startswith("/"):
                raise bad_template(f"The resource '{word}' is not defined in the template.", found=one.resource_id)
            one.scope.budget.spend(1 + len(named or ()))
            found += named or []
        return tuple(dict.fromkeys(found))


def _by_symbol(raw: Json) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Yield resources with symbolic names. The symbolic name of a list element is empty."""
    if not isinstance(raw, list | Mapping):
        raise bad_template("The resources are neither a list nor an object.", found=type(raw).__name__)
    for symbol, resource in raw.items() if isinstance(raw, Mapping) else (("", each) for each in raw):
        if not isinstance(resource, Mapping):
            raise bad_template("A resource is not an object.", found=symbol or None)
        yield symbol, resource


def _is_wanted(resource: Mapping[str, Json], scope: Scope) -> bool:
    wanted = evaluate(resource.get("condition", True), scope)
    if not isinstance(wanted, bool):
        raise bad_template("The condition of a resource is not a boolean.", found=type(wanted).__name__)
    return wanted


def _plan_resource(
    resource: Mapping[str, Json], scope: Scope, target_scope: TargetScope, above: PlannedResource | None
) -> PlannedResource:
    kind, name = (evaluate(resource.get(word), scope) for word in ("type", "name"))
    version = evaluate(resource.get("apiVersion"), scope)
    if not all(isinstance(each, str) and each for each in (kind, name, version)):
        raise bad_template("A resource needs a type, an apiVersion and a name.", found=f"{kind}, {version}, {name}")
    if above is not None:
        kind, name = f"{above.kind}/{kind}", "/".join((*above.names, name))
    is_existing = resource.get("existing") is True
    if not is_existing and kind.lower() != NESTED and not target_scope.is_supported(kind.lower()):
        raise bad_template(f"The resource type '{kind}' is not supported.", found=kind)
    names = tuple(name.split("/"))
    if len(names) != kind.count("/"):
        raise bad_template(f"The template resource '{name}' of type '{kind}' has a wrong number of segments.")
    asked = evaluate(resource.get("dependsOn") or [], scope)
    if not isinstance(asked, list):
        raise bad_template(f"The 'dependsOn' of '{name}' is not a list.")
    may_be_elsewhere = is_existing or kind.lower() == NESTED
    group = _group(resource, scope, may_be_elsewhere=may_be_elsewhere) or (above or target_scope).group
    return PlannedResource(
        resource_id=resource_id(scope, group, kind, *names),
        kind=kind,
        names=names,
        group=group,
        api_version=version,
        body={word: value for word, value in resource.items() if word not in _WORDS},
        scope=scope,
        depends_on=(*([above.key] if above is not None else []), *map(str, asked)),
        is_existing=is_existing,
    )


def _group(resource: Mapping[str, Json], scope: Scope, *, may_be_elsewhere: bool) -> str | None:
    """Return the resource group that a resource names, or None. Other subscriptions and other scopes are refused."""
    raw = {word: evaluate(resource.get(word), scope) for word in ("scope", "subscriptionId", "resourceGroup")}
    subscription, group = raw["subscriptionId"], raw["resourceGroup"]
    if raw["scope"] is not None:
        raise bad_template("The 'scope' of a resource is not supported.", expected="a resource of a group")
    if subscription is not None and str(subscription).lower() != scope.subscription.lower():
        raise bad_template("A template deploys to its own subscription only.", found=str(subscription))
    if group is None:
        return None
    if not may_be_elsewhere or not isinstance(group, str) or not group or "/" in group:
        raise bad_template(
            "A resource of a template is created in the resource group of the deployment.",
            found="resourceGroup",
            expected="'resourceGroup' of a nested deployment or of an existing resource",
        )
    return group


def joined_names(one: PlannedResource) -> str:
    """Return the names of a resource in lower case: ``g/i``."""
    return "/".join(one.names).lower()


def _type_and_names(one: PlannedResource) -> str:
    """Return ``type/name`` in lower case: ``microsoft.compute/galleries/g/images/i``.

    The property ``dependsOn`` accepts this form.
    """
    return one.resource_id.lower().partition("/providers/")[2]
