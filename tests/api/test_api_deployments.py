"""Test deployments of templates: order of resources, results and refusals."""

import random
from typing import Any

import pytest
from api_server import Api, bearer

from imgstore.domain.identity.access import Role
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.identity import roles
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_gallery import ADMIN, GROUP

pytest_plugins = ["api_fixtures"]

NEW = "2024-11-01"
API = "2023-07-03"


def template(resources: list[Any], **more: Any) -> Any:
    """Return a template with these resources."""
    return {"contentVersion": "1.0.0.0", "resources": resources, **more}


def whole() -> Any:
    """Return a template with many features and resources in a random order."""
    gallery = "[variables('gallery')]"
    return template(
        [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2025-01-02",
                "name": "[format('disk{0}', copyIndex(1))]",
                "location": "[parameters('location')]",
                "copy": {"name": "disks", "count": "[parameters('disks')]"},
                "properties": {
                    "creationData": {
                        "createOption": "FromImage",
                        "galleryImageReference": {"id": "[reference(variables('version'), '2023-07-03', 'Full').id]"},
                    }
                },
            },
            {
                "type": "Microsoft.Compute/galleries/images/versions",
                "apiVersion": API,
                "name": "[concat(variables('gallery'), '/ubuntu/1.0.0')]",
                "location": "[parameters('location')]",
                "dependsOn": ["definitions"],
                "properties": {
                    "publishingProfile": {"targetRegions": [{"name": "[parameters('location')]"}]},
                    "storageProfile": {"osDiskImage": {"source": {"uri": "[parameters('source')]"}}},
                },
            },
            {
                "type": "Microsoft.Compute/galleries/images",
                "apiVersion": API,
                "name": "[concat(variables('gallery'), '/', variables('images')[copyIndex()])]",
                "location": "[parameters('location')]",
                "copy": {"name": "definitions", "count": "[length(variables('images'))]"},
                "dependsOn": ["[resourceId('Microsoft.Compute/galleries', variables('gallery'))]"],
                "properties": {
                    "osType": "Linux",
                    "osState": "Generalized",
                    "identifier": {"publisher": "p", "offer": "o", "sku": "[variables('images')[copyIndex()]]"},
                },
            },
            {
                "type": "Microsoft.Compute/galleries",
                "apiVersion": API,
                "name": gallery,
                "location": "[parameters('location')]",
                "tags": {"team": "[toLower('IMAGES')]"},
                "properties": {"description": "[if(equals(parameters('disks'), 2), 'two', 'more')]"},
            },
            {
                "type": "Microsoft.Compute/galleries",
                "apiVersion": API,
                "name": "never",
                "condition": "[greater(parameters('disks'), 5)]",
                "location": "eastus",
            },
        ],
        parameters={
            "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
            "disks": {"type": "int", "minValue": 1, "maxValue": 4},
            "source": {"type": "secureString"},
        },
        variables={
            "gallery": "[concat('gallery', length(variables('images')))]",
            "images": ["ubuntu", "debian"],
            "version": "[resourceId('Microsoft.Compute/galleries/images/versions', variables('gallery'), 'ubuntu', '1.0.0')]",
        },
        outputs={
            "description": {"type": "string", "value": "[reference(variables('gallery')).description]"},
            "never": {"type": "string", "condition": "[false()]", "value": "x"},
        },
    )


def asked(what: Any, **parameters: Any) -> Any:
    """Return the body of a deployment."""
    values = {name: {"value": value} for name, value in parameters.items()}
    return {"properties": {"mode": "Incremental", "template": what, "parameters": values}}


@pytest.fixture
def path(api: Api) -> str:
    """Return the path of a deployment."""
    group = f"{api.top}/resourcegroups/{GROUP}"
    assert api.ask("PUT", group, {"location": "southcentralus"}).status == 201
    return f"{group}/providers/Microsoft.Resources/deployments/d1"


def test_template_is_deployed_in_the_order_of_dependencies(api: Api, web: WebServer, path: str) -> None:
    body = asked(whole(), disks=2, source=web.url("/one.raw"))
    checked = api.ask("POST", f"{path}/validate", body, version=NEW)
    assert (checked.status, len(checked.body["properties"]["validatedResources"])) == (200, 6)
    assert api.ask("GET", path, version=NEW).code == "DeploymentNotFound"
    made = api.ask("PUT", path, body, version=NEW)
    assert (made.status, made.body["properties"]["provisioningState"]) == (201, "Running")
    assert api.await_end(made)["status"] == "Succeeded"
    shown = api.ask("GET", path, version=NEW).body["properties"]
    assert shown["provisioningState"] == "Succeeded"
    assert shown["outputs"] == {"description": {"type": "string", "value": "two"}}
    assert shown["parameters"]["source"] == {"type": "secureString"}, "secrets are not shown"
    made_ids = [each["id"].rsplit("/", 1)[1] for each in shown["outputResources"]]
    assert made_ids == ["gallery2", "ubuntu", "debian", "1.0.0", "disk1", "disk2"]
    gallery = api.ask("GET", f"{api.compute}/galleries/gallery2").body
    assert (gallery["tags"], gallery["location"]) == ({"team": "images"}, "southcentralus")
    assert [each["name"] for each in api.ask("GET", f"{api.compute}/disks").body["value"]] == ["disk1", "disk2"]
    assert api.ask("GET", f"{api.compute}/galleries/never").status == 404
    again = api.ask("PUT", path, body, version=NEW)
    assert api.await_end(again)["status"] == "Succeeded", "the same again changes nothing"
    above = path.rsplit("/", 1)[0]
    assert [each["name"] for each in api.ask("GET", above, version=NEW).body["value"]] == ["d1"]
    assert api.await_end(api.ask("DELETE", path, version=NEW))["status"] == "Succeeded"
    assert api.ask("GET", above, version=NEW).body["value"] == []


def one(**more: Any) -> Any:
    """Return a gallery of a template."""
    return {"type": "Microsoft.Compute/galleries", "apiVersion": API, "name": "g", "location": "eastus", **more}


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (None, "template is missing"),
        (template([one(type="Microsoft.Web/sites")]), "'Microsoft.Web/sites'"),
        (template([one(name="[nosuch('a')]")]), "'nosuch'"),
        (template([one(dependsOn=["other"])]), "'other'"),
        (template([one(), one()]), "multiple times"),
        (template([one(name="a/b")]), "segments"),
        (template([one(name=None)]), "needs a type"),
        (template([one(copy={"name": "l", "count": 100_000})]), "copy loop"),
        (template([one(copy={"name": "l", "count": 2})]), "multiple times"),
        (template([one()], parameters={"x": {"type": "string"}}), "'x' is not provided"),
        (template([one(name="[variables('a')]")], variables={"a": "[variables('a')]"}), "depends on itself"),
        (template([one(properties={"description": "[nosuch('a')]"})]), "'nosuch'"),
        (template([one(existing=True)]), "symbolic name"),
        (template([one(scope="/")]), "'scope'"),
        (template([one(resourceGroup="other")]), "group of the deployment"),
        ({"resources": ["x"]}, "not an object"),
    ],
)
def test_invalid_template_is_refused_before_the_first_resource(api: Api, path: str, what: Any, named: str) -> None:
    refused = api.ask("PUT", path, asked(what), version=NEW)
    assert (refused.status, refused.code) == (400, "InvalidTemplate")
    assert named in refused.body["error"]["message"]
    assert api.ask("GET", path, version=NEW).status == 404
    assert api.ask("GET", f"{api.compute}/galleries").body["value"] == []


def test_failed_deployment_reports_the_error_and_created_resources(api: Api, path: str) -> None:
    bad = one(name="no-dashes", dependsOn=["g"])
    made = api.ask("PUT", path, asked(template([bad, one()])), version=NEW)
    told = api.await_end(made)
    assert (made.status, told["status"], told["error"]["code"]) == (201, "Failed", "InvalidParameter")
    shown = api.ask("GET", path, version=NEW).body["properties"]
    assert (shown["provisioningState"], shown["error"]["code"]) == ("Failed", "InvalidParameter")
    assert [each["id"].rsplit("/", 1)[1] for each in shown["outputResources"]] == ["g"]


def test_circular_dependency_is_refused(api: Api, path: str) -> None:
    both = [one(name="a", dependsOn=["b"]), one(name="b", dependsOn=["a"])]
    told = api.await_end(api.ask("PUT", path, asked(template(both)), version=NEW))
    assert (told["status"], told["error"]["code"]) == ("Failed", "InvalidTemplate")
    assert "Circular" in told["error"]["message"]


def test_group_is_deleted_with_deployments(api: Api, path: str) -> None:
    api.await_end(api.ask("PUT", path, asked(template([])), version=NEW))
    group = path.partition("/providers")[0]
    assert api.await_end(api.ask("DELETE", group, version=NEW))["status"] == "Succeeded"
    assert api.ask("GET", group, version=NEW).status == 404


def test_a_role_that_is_taken_away_ends_a_deployment_at_its_next_resource(api: Api, path: str) -> None:
    page = Page(body=random.Random(1).randbytes(24 * MIB), held_at=range(8 * MIB, 16 * MIB))
    with start_web({"/held.raw": page}) as web:
        creation = {"createOption": "Import", "sourceUri": web.url("/held.raw")}
        disk = {
            "type": "Microsoft.Compute/disks",
            "apiVersion": API,
            "name": "d",
            "location": "southcentralus",
            "properties": {"creationData": creation},
        }
        gallery = {
            "type": "Microsoft.Compute/galleries",
            "apiVersion": API,
            "name": "after",
            "location": "southcentralus",
            "dependsOn": ["[resourceId('Microsoft.Compute/disks', 'd')]"],
        }
        builder = bearer(api, Role.CONTRIBUTOR, GROUP)
        begun = api.ask("PUT", path, asked(template([disk, gallery])), version=NEW, headers=builder)
        assert begun.status == 201, begun
        assert page.held.acquire(timeout=60)
        with api.installation.catalog.reading() as transaction:
            (given,) = (each for each in transaction.assignments.list() if each.role is Role.CONTRIBUTOR)
        roles.assign(api.installation, ADMIN, assignee=given.principal_uid, role=Role.READER, scope=given.scope)
        roles.remove(api.installation, ADMIN, uid=given.uid)
        page.held_at = range(0)
        ended = api.await_end(begun)
    assert ended["status"] == "Failed", ended
    assert "AuthorizationFailed" in str(ended["error"])
    assert api.ask("GET", f"{api.compute}/galleries/after").status == 404
    # Invariant H18.
    assert api.ask("GET", f"{api.compute}/disks/d").body["properties"]["provisioningState"] == "Succeeded"
