"""Test all routes with random values of the OpenAPI document. No request may cause a server error."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from api_server import NEW, definition_body, start_api
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP

QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture)


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.long)])
def test_requests_of_the_schema_cause_no_server_error(tmp_path: Path, examples: int) -> None:
    with start_api(tmp_path / "home") as api:
        api.found()
        schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
        asked = set()
        for found in schema.get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]  # none of ours is invalid
            asked.add((operation.method.upper(), operation.path))

            @settings(
                max_examples=examples,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=QUIET,
                deadline=None,
            )
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                known = {"subscription": api.installation.subscription, "group": GROUP}
                case.path_parameters |= {name: known[name] for name in known if name in case.path_parameters}
                case.query["api-version"] = NEW
                answer = case.call(headers=api.headers)
                assert answer.status_code < 500, (case.operation.label, answer.text[:500])

            ask()
        assert len(asked) > 60


ID = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Compute"
WHOLE: dict[str, Any] = {
    "galleries/g2": {
        "location": "eastus",
        "tags": {"a": "b"},
        "properties": {
            "description": "d",
            "softDeletePolicy": {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 3, "gracePeriodInDays": None},
            "sharingProfile": {
                "permissions": "Community",
                "groups": [],
                "communityGalleryInfo": {"publisherUri": "u", "eula": "e", "publicNamePrefix": "prefix"},
            },
        },
    },
    f"galleries/{GALLERY}/images/other": definition_body(
        features=[{"name": "SecurityType", "value": "TrustedLaunch", "startsAtVersion": "1.0.0"}],
        recommended={"vCPUs": {"min": 1, "max": 2}, "memory": {"min": 1}},
        disallowed={"diskTypes": ["Premium_LRS"]},
        purchasePlan={"name": "n", "publisher": "p", "product": "q"},
        endOfLifeDate="2090-01-01T00:00:00Z",
    ),
    f"galleries/{GALLERY}/images/{DEFINITION}/versions/1.0.0": {
        "location": "southcentralus",
        "properties": {
            "publishingProfile": {
                "targetRegions": [{"name": "eastus", "regionalReplicaCount": 1, "storageAccountType": "Standard_LRS"}],
                "endOfLifeDate": "2090-01-01",
                "replicaCount": 1,
            },
            "storageProfile": {
                "source": {"id": f"{ID}/images/none"},
                "osDiskImage": {"hostCaching": "None", "source": {"uri": "https://x.invalid/a", "id": ID}},
                "dataDiskImages": [{"lun": 1, "source": {"id": f"{ID}/disks/none"}}],
            },
            "safetyProfile": {"blockDeletionBeforeEndOfLife": True},
        },
    },
    "disks/d1": {
        "location": "eastus",
        "sku": {"name": "Standard_LRS"},
        "properties": {
            "osType": "Linux",
            "creationData": {
                "createOption": "FromImage",
                "galleryImageReference": {"id": f"{ID}/galleries/g/images/i/versions/1.0.0", "lun": 0},
            },
        },
    },
    "snapshots/s1": {
        "location": "eastus",
        "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": f"{ID}/disks/none"}},
    },
    "images/i1": {
        "location": "eastus",
        "properties": {
            "hyperVGeneration": "V1",
            "storageProfile": {
                "osDisk": {"osType": "Linux", "snapshot": {"id": f"{ID}/snapshots/none"}},
                "dataDisks": [{"lun": 0, "managedDisk": {"id": f"{ID}/disks/none"}}],
            },
        },
    },
}
SHARE = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [ID.split("/")[2]]}]}
TEMPLATE = {
    "properties": {
        "mode": "Incremental",
        "parameters": {"name": {"value": "made"}},
        "template": {
            "parameters": {
                "name": {"type": "string", "minLength": 1, "allowedValues": ["made"]},
                "number": {"type": "int", "defaultValue": "[add(1, 1)]", "maxValue": 3},
            },
            "variables": {"list": ["a", "[parameters('name')]"], "o": {"a": 1}},
            "resources": [
                {
                    "type": "Microsoft.Compute/galleries",
                    "apiVersion": "2023-07-03",
                    "name": "[concat(variables('list')[1], copyIndex(1))]",
                    "location": "[resourceGroup().location]",
                    "copy": {"name": "loop", "count": "[parameters('number')]"},
                    "condition": "[not(false())]",
                    "tags": {"a": "[string(variables('o'))]"},
                    "dependsOn": [],
                    "resources": [],
                }
            ],
            "outputs": {"o": {"type": "object", "value": "[reference('made1')]", "condition": True}},
        },
    }
}
TEXTS = st.sampled_from(
    ["[", "[]", "[reference('made1')]", "[copyIndex()]", "[variables('o')]", "[range(0,9)]", "[[x]"]
)
ANYTHING = TEXTS | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """Return the path of each value in a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((name, *below) for name, each in items for below in places(each))]


def with_other(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """Return a copy of a body with another value at a path."""
    if not place:
        return other
    copy = value.copy()
    copy[place[0]] = with_other(value[place[0]], place[1:], other)
    return copy


def test_values_in_bodies_cause_no_server_error(tmp_path: Path) -> None:
    with start_api(tmp_path / "home", rate_limit_factor=0) as api:
        api.found()
        bodies = [("PUT", f"{api.compute}/{path}", body) for path, body in WHOLE.items()]
        deployment = f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/d"
        bodies += 3 * [
            (method, path, TEMPLATE) for method, path in (("PUT", deployment), ("POST", f"{deployment}/validate"))
        ]
        bodies += [
            ("PATCH", api.gallery, WHOLE["galleries/g2"]),
            ("POST", f"{api.gallery}/share", SHARE),
        ]

        @settings(max_examples=100, database=None, suppress_health_check=QUIET, deadline=None)
        @given(data=st.data())
        def ask(data: st.DataObject) -> None:
            method, path, whole = data.draw(st.sampled_from(bodies))
            body = with_other(whole, data.draw(st.sampled_from(places(whole))), data.draw(ANYTHING))
            answer = api.ask(method, path, body, version="2026-03-03")
            assert answer.status < 500, (path, body, answer)
            if answer.status in (200, 201) and "azure-asyncoperation" in answer.headers:
                told = api.await_end(answer)
                assert told.get("error", {}).get("code") != "InternalError", (path, body, told)

        ask()
