"""Test templates as Bicep writes them: modules, symbolic names, loops, references and secrets."""

import json
from typing import Any

import pytest
from api_server import Api, definition_body

from tests.support.sample_gallery import GROUP

pytest_plugins = ["api_fixtures"]

NEW = "2024-11-01"
API = "2023-07-03"
DEPLOYMENTS = "Microsoft.Resources/deployments"


@pytest.fixture
def group(api: Api) -> str:
    """Return the path of a resource group."""
    path = f"{api.top}/resourceGroups/{GROUP}"
    assert api.ask("PUT", path, {"location": "southcentralus"}).status == 201
    return path


def gallery(name: str = "g", description: Any = "d", **more: Any) -> Any:
    """Return a gallery of a template."""
    kind = {"type": "Microsoft.Compute/galleries", "apiVersion": API, "name": name, "location": "eastus"}
    return {**kind, "properties": {"description": description}, **more}


def module(name: str, template: Any, parameters: Any = None, *, scope: str | None = "inner", **more: Any) -> Any:
    """Return a nested deployment as Bicep writes it."""
    evaluation = {} if scope is None else {"expressionEvaluationOptions": {"scope": scope}}
    given = {key: {"value": value} for key, value in (parameters or {}).items()}
    properties = {"mode": "Incremental", "parameters": given, "template": template, **evaluation}
    return {"type": DEPLOYMENTS, "apiVersion": "2022-09-01", "name": name, "properties": properties, **more}


def deploy(api: Api, group: str, template: Any, name: str = "d1", **parameters: Any) -> tuple[Any, Any]:
    """Deploy a template. Return the result of the operation and the deployment."""
    given = {key: {"value": value} for key, value in parameters.items()}
    body = {"properties": {"mode": "Incremental", "template": template, "parameters": given}}
    path = f"{group}/providers/{DEPLOYMENTS}/{name}"
    put = api.ask("PUT", path, body, version=NEW)
    if put.status >= 400:
        return put.body, None
    return api.await_end(put), api.ask("GET", path, version=NEW).body["properties"]


def outputs(api: Api, group: str, template: Any, **parameters: Any) -> dict[str, Any]:
    """Return the values of the outputs of a template."""
    told, shown = deploy(api, group, template, **parameters)
    assert told["status"] == "Succeeded", told
    return {name: each.get("value") for name, each in shown["outputs"].items()}


def refused(api: Api, group: str, template: Any, **parameters: Any) -> str:
    """Return the message of the refusal of a template, at once or later."""
    told, _ = deploy(api, group, template, **parameters)
    return str(told["error"]["message"])


def described(api: Api, name: str) -> Any:
    """Return the description of a gallery."""
    return api.ask("GET", f"{api.compute}/galleries/{name}").body["properties"]["description"]


def test_loops_of_variables_properties_and_outputs(api: Api, group: str) -> None:
    template = {
        "variables": {
            "copy": [{"name": "squares", "count": 3, "input": "[mul(copyIndex('squares'), copyIndex('squares'))]"}],
            "inside": {"copy": [{"name": "odd", "count": 2, "input": {"n": "[add(1, mul(2, copyIndex('odd')))]"}}]},
        },
        "resources": [
            gallery("[format('g{0}', copyIndex())]", "[string(variables('squares'))]", copy={"name": "all", "count": 2})
        ],
        "outputs": {
            "inside": {"type": "object", "value": "[variables('inside')]"},
            "names": {
                "type": "array",
                "copy": {"count": 2, "input": "[reference(format('g{0}', copyIndex()), '2023-07-03', 'full').name]"},
            },
        },
    }
    assert outputs(api, group, template) == {"inside": {"odd": [{"n": 1}, {"n": 3}]}, "names": ["g0", "g1"]}
    assert described(api, "g1") == "[0,1,4]"


def test_property_loop_creates_the_regions_of_a_version(api: Api, group: str) -> None:
    features = {"name": "[variables('names')[copyIndex('features')]]", "value": "True"}
    definition = {
        **definition_body(copy=[{"name": "features", "count": "[length(variables('names'))]", "input": features}]),
        "type": "Microsoft.Compute/galleries/images",
        "apiVersion": API,
        "name": "g/i",
        "dependsOn": ["g"],
    }
    template = {
        "variables": {"names": ["IsAcceleratedNetworkSupported", "IsHibernateSupported"]},
        "resources": [definition, gallery()],
    }
    assert deploy(api, group, template)[0]["status"] == "Succeeded"
    made = api.ask("GET", f"{api.compute}/galleries/g/images/i").body["properties"]["features"]
    assert [each["name"] for each in made] == ["IsAcceleratedNetworkSupported", "IsHibernateSupported"]


INNER = {
    "languageVersion": "2.0",
    "definitions": {"text": {"type": "string", "maxLength": 8}},
    "parameters": {"name": {"$ref": "#/definitions/text"}, "about": {"type": "string", "nullable": True}},
    "resources": {"it": gallery("[parameters('name')]", "[coalesce(tryGet(parameters('about')), 'none')]")},
    "outputs": {
        "id": {"type": "string", "value": "[resourceId('Microsoft.Compute/galleries', parameters('name'))]"},
        "about": {"type": "string", "value": "[reference('it').description]"},
        "in": {"type": "string", "value": "[format('{0} {1}', deployment().name, resourceGroup().name)]"},
    },
}


def test_modules_pass_outputs(api: Api, group: str) -> None:
    template = {
        "languageVersion": "2.0",
        "parameters": {"names": {"type": "array", "items": {"type": "string"}}},
        "resources": {
            "second": module("two", INNER, {"name": "last", "about": "[reference('first[1]').outputs.id.value]"}),
            "first": module(
                "[format('one{0}', copyIndex())]",
                INNER,
                {"name": "[parameters('names')[copyIndex()]]"},
                copy={"name": "first", "count": "[length(parameters('names'))]"},
            ),
        },
        "outputs": {
            "about": {"type": "string", "value": "[reference('second').outputs.about.value]"},
            "all": {
                "type": "array",
                "copy": {"count": 2, "input": "[references('first')[copyIndex()].outputs.in.value]"},
            },
        },
    }
    assert outputs(api, group, template, names=["a", "b"]) == {
        "about": f"{api.compute}/galleries/b".replace("resourcegroups", "resourceGroups"),
        "all": [f"one0 {GROUP}", f"one1 {GROUP}"],
    }
    assert [described(api, each) for each in ("a", "b")] == ["none", "none"]
    path = f"{group}/providers/{DEPLOYMENTS}"
    assert sorted(each["name"] for each in api.ask("GET", path, version=NEW).body["value"]) == [
        "d1", "one0", "one1", "two",
    ]  # fmt: skip
    shown = api.ask("GET", f"{path}/two", version=NEW).body["properties"]
    assert [each["id"].rsplit("/", 1)[1] for each in shown["outputResources"]] == ["last"]
    assert "'name' is out of its range" in refused(api, group, template, names=["a", "far too long a name"])
    assert api.ask("GET", f"{path}/one1", version=NEW).body["properties"]["provisioningState"] == "Succeeded"


def test_inner_template_in_outer_scope(api: Api, group: str) -> None:
    inner = {"parameters": {"x": {"type": "int"}}, "resources": [gallery("[parameters('target')]", "[variables('v')]")]}
    template = {
        "parameters": {"target": {"type": "string"}},
        "variables": {"v": "outside"},
        "resources": [module("outer", inner, scope=None)],
    }
    assert deploy(api, group, template, target="given")[0]["status"] == "Succeeded"
    assert described(api, "given") == "outside"


@pytest.mark.parametrize("scope", ["outer", "inner"])
def test_outer_values_are_visible_only_in_outer_scope(api: Api, group: str, scope: str) -> None:
    inner = {"resources": [gallery("below", "[reference('above').description]")]}
    template = {"resources": [module("m", inner, scope=scope), gallery("above", "from above")]}
    told, shown = deploy(api, group, template)
    if scope == "outer":
        assert told["status"] == "Succeeded", told
        assert described(api, "below") == "from above"
        assert len(shown["outputResources"]) == 2
    else:
        assert "'above' is not defined in the template" in told["error"]["message"]


def test_module_in_another_group(api: Api, group: str) -> None:
    other = f"{api.top}/resourceGroups/other"
    elsewhere = {"resources": [gallery("x", "[resourceGroup().location]")]}
    template = {"resources": [module("there", elsewhere, resourceGroup="other")]}
    assert "'other' could not be found" in refused(api, group, template)
    assert api.ask("PUT", other, {"location": "westus2"}).status == 201
    assert deploy(api, group, template)[0]["status"] == "Succeeded"
    made = api.ask("GET", f"{other}/providers/Microsoft.Compute/galleries/x").body
    assert made["properties"]["description"] == "westus2"


def test_existing_resources_are_referenced_by_id_and_symbolic_name(api: Api, group: str) -> None:
    assert api.ask("PUT", api.gallery, {"location": "southcentralus"}).status == 201
    assert api.ask("PUT", api.definition, definition_body()).status == 201
    there = {"existing": True, "type": "Microsoft.Compute/galleries", "apiVersion": API}
    name = api.gallery.rsplit("/", 1)[1]
    template = {
        "languageVersion": "2.0",
        "resources": {
            "old": there | {"name": name},
            "absent": there | {"name": "absent"},
            "new": gallery("g", "[reference('old', '2023-07-03', 'full').location]", dependsOn=["old", "absent"]),
        },
        "outputs": {
            "os": {
                "type": "string",
                "value": f"[reference(resourceId('Microsoft.Compute/galleries/images', '{name}', "
                f"'{api.definition.rsplit('/', 1)[1]}'), '2023-07-03').osType]",
            },
            "group": {"type": "string", "value": "[reference(resourceGroup().id, '2022-09-01', 'Full').location]"},
        },
    }
    assert outputs(api, group, template) == {"os": "Linux", "group": "southcentralus"}
    assert described(api, "g") == "southcentralus"
    shown = api.ask("GET", f"{group}/providers/{DEPLOYMENTS}/d1", version=NEW).body["properties"]
    assert [each["id"].rsplit("/", 1)[1] for each in shown["outputResources"]] == ["g"], "what exists is not made"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("[reference(resourceId('Microsoft.Compute/galleries', 'none'), '2023-07-03').x]", "'none'"),
        ("[reference(resourceId('Microsoft.Compute/galleries', 'none')).x]", "api-version"),
        ("[reference(resourceId('Microsoft.Web/sites', 'w'), '2023-07-03').x]", "'Microsoft.Web/sites'"),
        ("[reference(resourceId('other', 'rg', 'Microsoft.Compute/disks', 'd'), '2023-07-03').x]", "referred"),
        ("[reference('none')]", "'none'"),
        ("[references('none')]", "'none'"),
        ("[1]", "not of type string"),
    ],
)
def test_invalid_reference_is_named(api: Api, group: str, value: str, named: str) -> None:
    template = {"resources": [], "outputs": {"x": {"type": "string", "value": value}}}
    assert named in refused(api, group, template)


def test_operations_show_created_and_failed_resources(api: Api, group: str) -> None:
    template = {"resources": [gallery("fine"), gallery("no-dashes", dependsOn=["fine"])]}
    told, _ = deploy(api, group, template)
    assert told["error"]["code"] == "InvalidParameter"
    path = f"{group}/providers/{DEPLOYMENTS}/d1"
    operations = f"{group}/deployments/d1/operations"
    listed = api.ask("GET", operations, version=NEW).body["value"]
    assert api.ask("GET", f"{operations}/{listed[1]['operationId']}", version=NEW).body == listed[1]
    assert api.ask("GET", f"{operations}/none", version=NEW).code == "DeploymentOperationNotFound"
    states = {each["properties"]["targetResource"]["resourceName"]: each["properties"] for each in listed}
    assert {name: each["provisioningState"] for name, each in states.items()} == {
        "fine": "Succeeded",
        "no-dashes": "Failed",
    }
    assert states["no-dashes"]["statusMessage"]["error"]["code"] == "InvalidParameter"
    assert states["fine"]["targetResource"]["resourceType"] == "Microsoft.Compute/galleries"
    assert api.ask("GET", f"{group}/deployments/d2/operations", version=NEW).code == "DeploymentNotFound"
    assert api.ask("POST", f"{path}/whatIf", {}, version=NEW).code == "WhatIfNotSupported"


def test_secrets_are_neither_shown_nor_stored(api: Api, group: str) -> None:
    inner = {
        "parameters": {"key": {"type": "secureObject"}},
        "resources": [],
        "outputs": {"key": {"type": "secureObject", "value": "[parameters('key')]"}},
    }
    template = {
        "parameters": {"word": {"type": "securestring"}},
        "resources": [module("m", inner, {"key": {"inside": "[parameters('word')]"}})],
        "outputs": {"word": {"type": "secureString", "value": "[parameters('word')]"}},
    }
    assert outputs(api, group, template, word="hush-hush") == {"word": None}
    wrong = template | {"outputs": {"n": {"type": "int", "value": "[int(parameters('word'))]"}}}
    assert "'int'" in refused(api, group, wrong, word="hush-hush")
    path = f"{group}/providers/{DEPLOYMENTS}"
    assert "hush" not in json.dumps(api.ask("GET", path, version=NEW).body)


def deep(levels: int) -> Any:
    """Return nested templates."""
    inner: Any = {"resources": [gallery("bottom")]}
    for level in range(levels):
        inner = {"resources": [module(f"l{level}", inner)]}
    return inner


def test_templates_nest_at_most_five_levels(api: Api, group: str) -> None:
    assert deploy(api, group, deep(5))[0]["status"] == "Succeeded"
    assert "nested too deeply" in refused(api, group, deep(6))


DOUBLING = {f"v{n}": f"[createArray(variables('v{n + 1}'), variables('v{n + 1}'))]" for n in range(60)} | {"v60": "x"}
NINE = {"copy": [{"name": "x", "count": 800, "input": {"copy": [{"name": "y", "count": 800, "input": {
    "copy": [{"name": "z", "count": 800, "input": "[copyIndex('z')]"}]}}]}}]}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"outputs": {"x": {"type": "array", "value": "[variables('v0')]"}}, "variables": DOUBLING}, "exceeds a limit"),
        ({"outputs": {"x": {"type": "object", "value": NINE}}}, "exceeds a limit"),
        ({"outputs": {"x": {"type": "array", "copy": {"count": 801, "input": 1}}}}, "out of its range"),
        ({"variables": {"copy": [{"name": "v", "count": 801, "input": 1}]}, "outputs": {
            "x": {"type": "array", "value": "[variables('v')]"}}}, "out of its range"),
        ({"resources": [module("m", {"resources": []}) | {"properties": {"templateLink": {"uri": "https://x"}}}]},
         "'templateLink'"),
        ({"resources": [gallery(f"g{n}") for n in range(801)]}, "too many resources"),
        ({"parameters": {"x": {"type": "string", "allowedValues": ["a"]}}}, "'x' is not provided"),
        ({"parameters": {"x": {"type": "string", "defaultValue": "b", "allowedValues": ["a"]}}}, "not allowed"),
        ({"parameters": {"x": {"$ref": "#/definitions/none"}}}, "'x' is not found"),
        ({"definitions": {"a": {"$ref": "#/definitions/a"}}, "parameters": {"x": {"$ref": "#/definitions/a"}}},
         "too many others"),
        ({"parameters": {"x": {"type": "object", "defaultValue": {"y": 1}, "additionalProperties": False}}},
         "'x.y' is not declared"),
    ],
)  # fmt: skip
def test_expensive_templates_are_refused(api: Api, group: str, more: Any, named: str) -> None:
    assert named in refused(api, group, {"resources": [], **more})


def test_false_condition_omits_a_dependency(api: Api, group: str) -> None:
    child = {"type": "images", "apiVersion": API, "name": "i", **definition_body()}
    template = {
        "resources": [
            gallery("not", condition="[not(true())]", resources=[child]),
            gallery("never", copy={"name": "none", "count": 0}),
            gallery("g", dependsOn=["not", "none", "not/i"], resources=[child | {"dependsOn": ["g"]}]),
        ]
    }
    told, shown = deploy(api, group, template)
    assert told["status"] == "Succeeded", told
    assert [each["id"].rsplit("/", 1)[1] for each in shown["outputResources"]] == ["g", "i"]


def test_user_functions_and_utc_now(api: Api, group: str) -> None:
    double = {
        "parameters": [{"name": "n", "type": "int"}],
        "output": {"type": "int", "value": "[mul(2, parameters('n'))]"},
    }
    template = {
        "functions": [{"namespace": "my", "members": {"double": double}}],
        "parameters": {
            "now": {"type": "string", "defaultValue": "[utcNow('yyyy')]"},
            "id": {"type": "string", "defaultValue": "[newGuid()]", "minLength": 36, "maxLength": 36},
        },
        "resources": [],
        "outputs": {
            "n": {"type": "int", "value": "[my.double(my.Double(3))]"},
            "year": {"type": "string", "value": "[parameters('now')]"},
            "cloud": {"type": "string", "value": "[environment().resourceManager]"},
        },
    }
    year = str(api.installation.effects.now().year)
    assert outputs(api, group, template) == {"n": 12, "year": year, "cloud": f"http://127.0.0.1:{api.port}"}


def test_existing_network_records_are_referenced(api: Api, group: str) -> None:
    path = f"{group}/providers/Microsoft.Network/networkSecurityGroups/rules"
    assert api.ask("PUT", path, {"location": "eastus", "tags": {"team": "net"}}, version=NEW).status == 201
    template = {
        "resources": [],
        "outputs": {
            "team": {"type": "string", "value": f"[reference('{path}', '{NEW}', 'Full').tags.team]"},
            "state": {"type": "string", "value": f"[reference('{path}', '{NEW}').provisioningState]"},
        },
    }
    assert outputs(api, group, template) == {"team": "net", "state": "Succeeded"}
