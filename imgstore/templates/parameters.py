"""Check the parameters of a template against the declarations, and prepare the values for display."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from imgstore.templates.expressions import evaluate
from imgstore.templates.scope import EvaluationBudget, Scope, bad_template, first_names
from imgstore.wire.json_fields import value_at
from imgstore.wire.json_text import Json

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
_REFERENCES_MAX: Final = 16
"""The limit for a chain of ``$ref``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Types:
    """The types that a template defines. Parameters and outputs name such types with ``$ref``."""

    definitions: Mapping[str, Json]
    budget: EvaluationBudget

    def resolve(self, how: Json, name: str) -> Mapping[str, Json]:
        """Return a declaration with the properties of the referenced type.

        The properties of the declaration take precedence.

        Raises:
            InvalidInput: The declaration is not an object, or the referenced type does not exist.
        """
        for _ in range(_REFERENCES_MAX):
            if not isinstance(how, Mapping):
                raise bad_template(f"'{name}' is not declared as an object.")
            word = how.get("$ref")
            if word is None:
                return how
            there = self.definitions.get(str(word).removeprefix("#/definitions/"))
            if not isinstance(there, Mapping):
                raise bad_template(f"The type of '{name}' is not found.", found=str(word), expected="#/definitions/...")
            self.budget.spend(len(there) + len(how))
            how = {**there, **{field: value for field, value in how.items() if field != "$ref"}}
            if "$ref" in there:
                how["$ref"] = there["$ref"]
        raise bad_template(f"The type of '{name}' refers to too many others.", expected=f"at most {_REFERENCES_MAX}")

    def check(self, name: str, declared: Json, value: Any) -> None:
        """Check a value and all nested values against a declaration. Errors never contain the value.

        Raises:
            InvalidInput: The value does not match. The code is ``InvalidTemplate``.
        """
        self.budget.spend(1)
        how = self.resolve(declared, name)
        if value is None and how.get("nullable") is True:
            return
        kind = kind_of(how, name)
        if not isinstance(value, _KINDS[kind]) or (kind == "int" and isinstance(value, bool)):
            raise bad_template(f"The provided value for the template parameter '{name}' is not of type {kind}.")
        self._check_allowed(name, how, value)
        _check_size(name, kind, how, value)
        if isinstance(value, list):
            self._check_items(name, how, value)
        if isinstance(value, Mapping):
            self._check_properties(name, how, value)

    def _check_allowed(self, name: str, how: Mapping[str, Json], value: Any) -> None:
        """Check ``allowedValues``. For a list, each item may be an allowed value too."""
        allowed = how.get("allowedValues")
        if allowed is None:
            return
        if not isinstance(allowed, list):
            raise bad_template(f"The 'allowedValues' of '{name}' are not a list.")
        for each in value if isinstance(value, list) else (value,):
            self.budget.spend_on(allowed)
            if each not in allowed and value not in allowed:
                raise bad_template(
                    f"The value of the template parameter '{name}' is not allowed.",
                    expected=first_names(map(str, allowed)),
                )

    def _check_items(self, name: str, how: Mapping[str, Json], value: list[Json]) -> None:
        first = how.get("prefixItems") or []
        if not isinstance(first, list):
            raise bad_template(f"The 'prefixItems' of '{name}' are not a list.")
        for place, each in enumerate(value):
            declared = first[place] if place < len(first) else how.get("items")
            if declared is False:
                raise bad_template(f"The template parameter '{name}' has too many items.", expected=f"{len(first)}")
            if isinstance(declared, Mapping):
                self.check(f"{name}[{place}]", declared, each)

    def _check_properties(self, name: str, how: Mapping[str, Json], value: Mapping[str, Json]) -> None:
        chosen = how.get("discriminator")
        if isinstance(chosen, Mapping):
            field = str(chosen.get("propertyName"))
            kinds = chosen.get("mapping")
            how = self.resolve(kinds.get(value.get(field)) if isinstance(kinds, Mapping) else None, f"{name}.{field}")
        declared = how.get("properties") or {}
        if not isinstance(declared, Mapping):
            raise bad_template(f"The 'properties' of '{name}' are not an object.")
        self.budget.spend(len(declared) + len(value))
        for field, inner in declared.items():
            if field in value or self.resolve(inner, f"{name}.{field}").get("nullable") is not True:
                self.check(f"{name}.{field}", inner, value.get(field))
        others = how.get("additionalProperties")
        for field in sorted(set(value) - set(declared)):
            if others is False:
                raise bad_template(f"The property '{name}.{field}' is not declared.", expected=", ".join(declared))
            if isinstance(others, Mapping):
                self.check(f"{name}.{field}", others, value[field])


def kind_of(how: Mapping[str, Json], name: str) -> str:
    """Return the type of a declaration in lower case.

    Raises:
        InvalidInput: The type is unknown.
    """
    kind = str(how.get("type")).lower()
    if kind not in _KINDS:
        raise bad_template(f"'{name}' has no known type.", found=kind, expected=", ".join(_KINDS))
    return kind


def is_secret(kind: str) -> bool:
    """Return whether values of a lower-case type are never shown."""
    return kind in _SECURE


def read_parameters(
    declared: Mapping[str, Json], given: Json, types: Types, scope: Scope
) -> tuple[dict[str, Json], Json]:
    """Return the parameters of a template by lower-case name, and the parameters for display.

    Args:
        declared: The ``parameters`` of the template.
        given: The ``parameters`` of the deployment: an object of ``{"value": ...}``.
        types: The types of the template.
        scope: The scope of the default values.

    Raises:
        InvalidInput: A parameter is not declared, is missing, or does not match the declaration.
    """
    by_name = _read_given(given, {name.lower() for name in declared})
    values: dict[str, Json] = {}
    shown: dict[str, Json] = {}
    for name, declaration in declared.items():
        how = types.resolve(declaration, name)
        kind = kind_of(how, name)
        value = by_name.get(name.lower())
        if value is None and "defaultValue" in how:
            value = evaluate(how["defaultValue"], replace(scope, parameters=values, default_of=name.lower()))
        if value is None and how.get("nullable") is not True:
            raise bad_template(f"The value for the template parameter '{name}' is not provided.")
        types.check(name, how, value)
        values[name.lower()] = value
        shown[name] = {"type": how["type"]} | ({} if is_secret(kind) else {"value": value})
    return values, shown


def _read_given(given: Json, names: set[str]) -> dict[str, Json]:
    by_name = {str(name).lower(): value for name, value in given.items()} if isinstance(given, Mapping) else {}
    if unknown := sorted(set(by_name) - names):
        raise bad_template(
            f"The template parameters '{', '.join(unknown)}' are not valid, because the template does not declare them."
        )
    for name, value in by_name.items():
        if value_at(value, "reference") is not None:
            raise bad_template(f"The template parameter '{name}' refers to a key vault.", expected="a value")
    return {name: value_at(value, "value") for name, value in by_name.items()}


def _check_size(name: str, kind: str, how: Mapping[str, Json], value: Any) -> None:
    size = value if kind in ("int", "bool") else len(value)
    end = "Value" if kind == "int" else "Length"
    low, high = (_check_bound(name, how.get(f"{which}{end}")) for which in ("min", "max"))
    if (low is not None and size < low) or (high is not None and size > high):
        bounds = f"{'' if low is None else low} to {'' if high is None else high}"
        raise bad_template(f"The template parameter '{name}' is out of its range.", expected=f"a {end} of {bounds}")


def _check_bound(name: str, limit: Json) -> int | None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise bad_template(f"A limit of the template parameter '{name}' is not a whole number.", found=str(limit))
    return limit
