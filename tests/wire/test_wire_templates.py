"""Plans of templates: names, order and types. Each invalid template is refused."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.templates.plan import Plan, plan_template
from imgstore.templates.resources import TargetScope
from imgstore.templates.scope import Scope

GALLERY = {"type": "Microsoft.Compute/galleries", "apiVersion": "2023-07-03"}
ABOVE = "/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/galleries"


def plan(template: Any, **parameters: Any) -> Plan:
    """Plan a template in a resource group."""
    given_values = {name: {"value": value} for name, value in parameters.items()}
    scope = Scope(subscription="s", group="rg", location="eastus", deployment="d")
    known = {"microsoft.compute/galleries", "microsoft.compute/galleries/images"}
    around = TargetScope(is_supported=known.__contains__, location=lambda _group: "westus", group="rg")
    return plan_template({"template": template, "parameters": given_values}, scope, around)


def test_dependency_on_a_symbol_includes_the_whole_loop() -> None:
    made = plan(
        {
            "resources": {
                "last": GALLERY | {"name": "z", "dependsOn": ["many", "gone", "there"]},
                "many": GALLERY | {"name": "[format('g{0}', copyIndex())]", "copy": {"name": "other", "count": 2}},
                "gone": GALLERY | {"name": "gone", "condition": False},
                "there": GALLERY | {"name": "old", "existing": True, "resourceGroup": "elsewhere"},
            }
        }
    )
    assert list(made.resources) == [f"{ABOVE}/z", f"{ABOVE}/g0", f"{ABOVE}/g1", "there"]
    assert made.resources[f"{ABOVE}/z"].depends_on == (f"{ABOVE}/g0", f"{ABOVE}/g1", "there")
    assert made.loops == {"many": (f"{ABOVE}/g0", f"{ABOVE}/g1"), "other": (f"{ABOVE}/g0", f"{ABOVE}/g1")}
    found = {word: made.find(word) for word in ("many[1]", "G1", "THERE", "none")}
    assert [each and each.resource_id for each in found.values()] == [
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g1",
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g1",
        "/subscriptions/s/resourceGroups/elsewhere/providers/Microsoft.Compute/galleries/old",
        None,
    ]


TYPES = {
    "_1.shape": {
        "type": "object",
        "discriminator": {
            "propertyName": "kind",
            "mapping": {
                "round": {
                    "type": "object",
                    "properties": {"kind": {"type": "string"}, "radius": {"type": "int", "minValue": 1}},
                    "additionalProperties": False,
                },
            },
        },
    },
    "list": {"type": "array", "prefixItems": [{"type": "int"}], "items": {"$ref": "#/definitions/_1.shape"}},
    "tree": {"type": "object", "properties": {"below": {"$ref": "#/definitions/tree", "nullable": True}}},
}


@pytest.mark.parametrize(
    ("how", "value", "named"),
    [
        ({"$ref": "#/definitions/list"}, [1, {"kind": "round", "radius": 2}], None),
        ({"$ref": "#/definitions/list"}, ["x"], "'x[0]' is not of type int"),
        ({"$ref": "#/definitions/list"}, [1, {"kind": "round", "radius": 0}], "'x[1].radius' is out of its range"),
        ({"$ref": "#/definitions/list"}, [1, {"kind": "round"}], "'x[1].radius' is not of type int"),
        ({"$ref": "#/definitions/list"}, [1, {"kind": "square"}], "'x[1].kind' is not declared"),
        ({"$ref": "#/definitions/list"}, [1, {"kind": "round", "radius": 2, "y": 1}], "'x[1].y' is not declared"),
        ({"$ref": "#/definitions/tree"}, {"below": {"below": {}}}, None),
        ({"$ref": "#/definitions/tree"}, {"below": {"below": 1}}, "'x.below.below' is not of type object"),
        ({"type": "array", "prefixItems": [{"type": "int"}], "items": False}, [1, 2], "too many items"),
        ({"type": "object", "additionalProperties": {"type": "bool"}}, {"a": 1}, "'x.a' is not of type bool"),
        ({"type": "array", "allowedValues": ["a", "b"]}, ["b"], None),
        ({"type": "array", "allowedValues": ["a", "b"]}, ["c"], "not allowed"),
        ({"type": "array", "allowedValues": 1}, ["c"], "not a list"),
        ({"type": "string", "nullable": True}, None, None),
        ({"type": "string"}, None, "not provided"),
        ({"type": "int"}, True, "not of type int"),
        ({"type": "string", "minLength": 2}, "a", "out of its range"),
        ({"type": "string", "minLength": "2"}, "a", "not a whole number"),
        ({"type": "nothing"}, "a", "no known type"),
    ],
)
def test_parameters_must_match_the_declaration(how: Any, value: Any, named: str | None) -> None:
    template = {"definitions": TYPES, "parameters": {"x": how}, "resources": {}}
    if named is None:
        assert plan(template, x=value).scope.parameters == {"x": value}
        return
    with pytest.raises(InvalidInput) as caught:
        plan(template, x=value)
    assert named in caught.value.message


def test_key_vault_secret_is_refused_by_name() -> None:
    scope = Scope(subscription="s", group="rg", location="eastus", deployment="d")
    around = TargetScope(is_supported=lambda _kind: True, location=lambda _group: "westus", group="rg")
    asked = {
        "template": {"parameters": {"p": {"type": "securestring"}}, "resources": []},
        "parameters": {"p": {"reference": {"keyVault": {"id": "x"}, "secretName": "s"}}},
    }
    with pytest.raises(InvalidInput, match="key vault"):
        plan_template(asked, scope, around)


WORDS = (
    "type", "name", "apiVersion", "dependsOn", "copy", "condition", "resources", "existing", "properties", "template",
    "parameters", "variables", "outputs", "functions", "definitions", "count", "input", "value", "$ref", "namespace",
    "members", "output", "resourceGroup", "scope", "prefixItems", "items", "discriminator", "mapping", "allowedValues",
    "defaultValue", "nullable", "minLength", "expressionEvaluationOptions", "x",
)  # fmt: skip
VALUES = (
    None, True, 0, 2, -1, "x", "", "Microsoft.Compute/galleries", "Microsoft.Resources/deployments", "2023-07-03", "string",
    "array", "object", "inner", "#/definitions/x", "[variables('x')]", "[parameters('x')]", "[copyIndex()]", "[x.x()]",
    "[reference('x')]", "[createObject('x', 1)]",
)  # fmt: skip
ANYTHING = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=30,
)
RESOURCE = st.fixed_dictionaries(
    {
        "type": st.sampled_from(("Microsoft.Compute/galleries", "Microsoft.Resources/deployments")),
        "apiVersion": st.just("2023-07-03"),
        "name": st.sampled_from(("x", "y", "[variables('x')]")),
    },
    optional=dict.fromkeys(("copy", "condition", "dependsOn", "resources", "existing", "properties"), ANYTHING),
)


@given(
    st.fixed_dictionaries(
        {"resources": ANYTHING | st.lists(RESOURCE, max_size=2) | st.dictionaries(st.just("x"), RESOURCE)},
        optional={
            **dict.fromkeys(("variables", "outputs", "functions", "definitions", "parameters"), ANYTHING),
        },
    )
)
def test_any_template_is_planned_or_refused(template: Any) -> None:
    with suppress(InvalidInput):
        plan(template)


def test_template_of_maximum_depth() -> None:
    deep: Any = "x"
    for _ in range(2_000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="too deeply"):
        plan({"resources": [GALLERY | {"name": "g", "properties": deep}]})
