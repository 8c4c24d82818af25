"""Test the checks of every request, the errors, the documentation and the routes for monitoring."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, start_api
from fastapi import FastAPI

from imgstore.domain.identity.access import Role
from tests.support.sample_gallery import GALLERY, GROUP

pytest_plugins = ["api_fixtures"]


def test_request_without_token_is_refused(api: Api) -> None:
    for authorization in ({"Authorization": ""}, {"Authorization": "Bearer a.b.c"}, {"Authorization": "Basic eDp5"}):
        for path in (api.gallery, f"{api.top}/resourceGroups", "/subscriptions", "/tenants", f"{api.compute}/disks"):
            refused = api.ask("GET", path, headers=authorization)
            assert refused.status == 401, path
            assert refused.headers["www-authenticate"].startswith("Bearer ")
        assert api.ask("PUT", api.gallery, {"location": "eastus"}, headers=authorization).status == 401
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/metadata/endpoints"):
        assert api.ask("GET", path, headers={"Authorization": ""}).status == 200, path


def test_documentation_is_built_once_outside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[bool] = []
    make = FastAPI.openapi

    def counted(app: FastAPI) -> Any:
        with suppress(RuntimeError):
            made_in.append(asyncio.get_running_loop() is not None)
            return make(app)
        made_in.append(False)
        return make(app)

    monkeypatch.setattr(FastAPI, "openapi", counted)
    with start_api(tmp_path / "home") as api:
        answers = [api.ask("GET", "/openapi.json", version=None, headers={"Authorization": ""}) for _ in range(3)]
        assert all(answer.status == 200 and answer.body["paths"] for answer in answers)
        assert "swagger-ui" in api.ask("GET", "/docs", version=None, headers={"Authorization": ""}).body
    assert made_in == [False]


def test_readiness_shows_only_states_of_parts(api: Api) -> None:
    seen = api.ask("GET", "/readyz", headers={"Authorization": ""})
    assert seen.body["status"] == "ready"
    assert seen.body["checks"].keys() == {"database", "stores", "freeSpace", "worker"}
    assert set(seen.body["checks"].values()) <= {"ok", "degraded", "missing"}
    metrics = str(api.ask("GET", "/metrics", headers={"Authorization": ""}).body)
    assert 'imgstore_zone_circuit_open{region="eastus",zone="1"} 0.0' in metrics


def test_token_requires_the_correct_secret(api: Api) -> None:
    assert api.credential is not None
    identity = api.credential.known.identity
    form = f"grant_type=client_credentials&client_id={identity.client_id}&scope={api.url}/.default&client_secret="
    path = f"/{identity.tenant_uid}/oauth2/v2.0/token"
    given = api.ask("POST", path, (form + api.credential.secret).encode(), version=None)
    assert (given.status, given.body["token_type"], given.headers["cache-control"]) == (200, "Bearer", "no-store")
    bearer = {"Authorization": f"Bearer {given.body['access_token']}"}
    assert [each["tenantId"] for each in api.ask("GET", "/tenants", headers=bearer).body["value"]] == [
        identity.tenant_uid
    ]
    wrong = api.ask("POST", path, (form + "wrong").encode(), version=None)
    assert (wrong.status, wrong.body["error"]) == (401, "invalid_client")
    other = api.ask("POST", path, b"grant_type=password", version=None)
    assert (other.status, other.body["error"]) == (400, "unsupported_grant_type")
    told = api.ask("GET", f"/{identity.tenant_uid}/v2.0/.well-known/openid-configuration").body
    assert api.ask("GET", api.path_of(told["jwks_uri"])).body["keys"]
    assert api.ask("GET", "/metadata/endpoints").body["authentication"]["audiences"] == [f"http://127.0.0.1:{api.port}"]


def test_openapi_document_names_operations_that_need_a_token(api: Api) -> None:
    document = api.ask("GET", "/openapi.json", version=None, headers={"Authorization": ""}).body
    (name,) = document["components"]["securitySchemes"]
    assert document["paths"]["/subscriptions"]["get"]["security"] == [{name: []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "security" not in operation and method == "get" and "{" not in path:
                assert api.ask("GET", path, version=None, headers={"Authorization": ""}).status in (200, 503), path


@pytest.mark.parametrize(
    ("version", "code"),
    [
        (None, "MissingApiVersionParameter"),
        ("yesterday", "InvalidApiVersionParameter"),
        ("2017-12-01", "NoRegisteredProviderFound"),
        ("2018-06-01", None),
        ("2019-07-01-preview", None),
        ("2099-01-01", None),
    ],
)
def test_supported_api_versions(api: Api, version: str | None, code: str | None) -> None:
    told = api.ask("GET", f"{api.top}/providers/Microsoft.Compute/galleries", version=version)
    assert (told.status, told.code if code else None) == (400 if code else 200, code)
    if code == "NoRegisteredProviderFound":
        assert "for type 'galleries'" in told.body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "first", "before"),
    [
        ("{compute}/virtualMachines", "2015-06-15", "2015-05-01"),
        ("{compute}/disks", "2016-04-30-preview", "2015-06-15"),
        ("{compute}/snapshots", "2017-03-30", "2016-03-30"),
        ("{compute}/images", "2016-08-30", "2016-03-30"),
        ("{compute}/galleries", "2018-06-01", "2018-04-01"),
        ("{compute}/locations/southcentralus/sharedGalleries", "2020-09-30", "2019-12-01"),
        ("{top}/resourceGroups", "2014-04-01", "2014-01-01"),
        ("{top}/locations", "2015-01-01", "2013-01-01"),
        ("{top}/providers", "2015-11-01", "2013-01-01"),
        ("{top}", "2016-06-01", "2013-01-01"),
        ("/tenants", "2015-11-01", "2013-01-01"),
        ("/subscriptions", "2016-06-01", "2013-01-01"),
    ],
)
def test_each_type_has_its_own_first_api_version(api: Api, path: str, first: str, before: str) -> None:
    place = path.format(compute=f"{api.top}/providers/Microsoft.Compute", top=api.top)
    assert api.ask("GET", place, version=first).status == 200
    refused = api.ask("GET", place, version=before)
    assert (refused.status, refused.code) == (400, "NoRegisteredProviderFound")
    assert first in refused.body["error"]["message"]


def test_providers_list_the_api_versions_of_each_type(api: Api) -> None:
    of_tenant = api.ask("GET", "/providers", version="2021-04-01").body["value"]
    of_subscription = api.ask("GET", f"{api.top}/providers", version="2021-04-01").body["value"]
    assert [each["namespace"] for each in of_tenant] == [each["namespace"] for each in of_subscription]
    for above in ("", api.top):
        found = api.ask("GET", f"{above}/providers/microsoft.compute", version="2021-04-01").body
        assert found["id"] == f"{above}/providers/Microsoft.Compute"
        assert ("registrationState" in found) == bool(above)
        versions = {each["resourceType"]: each["apiVersions"] for each in found["resourceTypes"]}
        assert {"2018-04-01", "2024-11-01", "2026-04-01", "2015-06-15"} <= set(versions["virtualMachines"])
        assert (versions["disks"][0], versions["galleries"][-1]) == ("2026-03-02", "2018-06-01")
    assert api.ask("GET", "/providers/Microsoft.Nothing", version="2021-04-01").code == "InvalidResourceNamespace"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'"x"',
        b'{"location": NaN}',
        b'{"tags": {"a": "\\u0000"}}',
        b'{"t": "\\ud800"}',
        b"[" * 9_999,
    ],
)
def test_invalid_body_is_refused(api: Api, body: bytes) -> None:
    refused = api.ask("PUT", api.gallery, body)
    assert (refused.status, refused.code) == (400, "InvalidRequestContent")


def test_body_over_the_limit_is_refused(api: Api) -> None:
    refused = api.ask("PUT", api.gallery, b" " * (1 << 20) + b"{}")
    assert (refused.status, refused.code) == (413, "RequestEntityTooLarge")


def test_missing_resources_get_arms_errors(api: Api) -> None:
    unknown = api.ask("GET", f"{api.compute}/proximityPlacementGroups/x")
    assert (unknown.status, unknown.code) == (404, "InvalidResourceType")
    verb = api.ask("POST", api.gallery)
    assert (verb.status, verb.code) == (405, "UnsupportedHttpMethod")
    other = api.ask("GET", f"/subscriptions/{'0' * 8}/resourceGroups")
    assert (other.status, other.code) == (404, "SubscriptionNotFound")
    operation = api.ask("GET", f"{api.top}/providers/Microsoft.Compute/locations/x/capsOperations/none")
    assert (operation.status, operation.code) == (404, "ResourceNotFound")
    provider = api.ask("POST", f"{api.top}/providers/Microsoft.Nothing/register")
    assert (provider.status, provider.code) == (404, "InvalidResourceNamespace")
    known = api.ask("POST", f"{api.top}/providers/microsoft.compute/register")
    assert known.body["registrationState"] == "Registered"


def test_answers_have_a_request_id_and_the_clients_ids(api: Api) -> None:
    told = api.ask("GET", "/healthz").headers
    assert told["x-ms-request-id"] == told["x-ms-correlation-request-id"]
    given = {"x-ms-correlation-request-id": "chain-7", "x-ms-client-request-id": "mine"}
    told = api.ask("GET", api.gallery, headers=given).headers
    assert (told["x-ms-correlation-request-id"], told["x-ms-client-request-id"]) == ("chain-7", "mine")
    assert told["x-ms-request-id"] != "chain-7"


def test_readers_may_not_write_and_others_see_nothing(api: Api) -> None:
    api.found()
    reader = token_of(api, Role.READER, f"{api.top}/resourceGroups/{GROUP}")
    assert api.ask("GET", api.gallery, headers=reader).status == 200
    for method, body in (("PUT", {"location": "southcentralus"}), ("PATCH", {}), ("DELETE", None)):
        refused = api.ask(method, api.gallery, body, headers=reader)
        assert (refused.status, refused.code) == (403, "AuthorizationFailed"), method
    assert [each["subscriptionId"] for each in api.ask("GET", "/subscriptions", headers=reader).body["value"]] == [
        api.installation.subscription
    ]
    stranger = token_of(api, None, "")
    assert api.ask("GET", "/subscriptions", headers=stranger).body["value"] == []
    assert api.ask("GET", api.gallery, headers=stranger).code == "SubscriptionNotFound"
    made = api.ask("PATCH", api.gallery, {"tags": {}})
    polled = api.path_of(made.headers["azure-asyncoperation"])
    assert api.ask("GET", polled).status == 200
    assert api.ask("GET", polled, headers=stranger).status == 404, "another's operation"


def token_of(api: Api, role: Role | None, scope: str) -> dict[str, str]:
    """Return the authorization header of a principal with this role."""
    from imgstore.api.auth import client_secrets
    from imgstore.operations.identity import roles
    from tests.support.sample_gallery import ADMIN

    made = client_secrets.create_service_principal(api.installation, ADMIN, name=f"p{scope[-3:]}")
    identity = made.known.identity
    if role is not None:
        roles.assign(api.installation, ADMIN, assignee=identity.uid, role=role, scope=scope)
    form = f"grant_type=client_credentials&client_id={identity.client_id}&scope={api.url}/.default"
    form += f"&client_secret={made.secret}"
    given = api.ask("POST", f"/{identity.tenant_uid}/oauth2/v2.0/token", form.encode(), version=None)
    assert given.status == 200, given
    return {"Authorization": f"Bearer {given.body['access_token']}"}


def test_metrics_name_routes_but_no_resources(api: Api) -> None:
    api.ask("GET", api.gallery)
    told = api.ask("GET", "/metrics").body
    assert (
        'route="/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/galleries/{gallery}"'
        in told
    )
    assert f"galleries/{GALLERY}" not in told


def test_page_length_is_a_setting(tmp_path: Path) -> None:
    with start_api(tmp_path / "home", page_items=2) as api:
        api.ask("PUT", f"{api.top}/resourceGroups/{GROUP}", {"location": "eastus"})
        for number in range(5):
            assert api.ask("PUT", f"{api.compute}/galleries/g{number}", {"location": "eastus"}).status == 201
        names, path = [], f"{api.compute}/galleries"
        while path:
            page = api.ask("GET", path).body
            assert len(page["value"]) <= 2
            names += [each["name"] for each in page["value"]]
            path = api.path_of(page["nextLink"]) if "nextLink" in page else ""
        assert names == [f"g{number}" for number in range(5)]
        assert api.ask("GET", f"{api.compute}/galleries", query="$skiptoken=nonsense").code == "InvalidParameter"
