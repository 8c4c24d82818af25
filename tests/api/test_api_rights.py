"""Test that each route requires the right of Azure's action, and that a refusal never depends on existing resources."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from api_server import Answer, Api, definition_body, start_api, version_body
from fastapi import FastAPI

from imgstore.api.auth.rights import ROUTE_RIGHTS, Check, RouteRight, check_rows
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.domain.identity.access import Grant, Permission, Principal, Role
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.gallery.groups import create_group
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP

HERE = "southcentralus"
UNKNOWN = "99999999-9999-9999-9999-999999999999"
NETWORK_VERSION = "2023-09-01"
UPLOAD = {"location": HERE, "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": MIB + 512}}}
TEMPLATE = {"properties": {"mode": "Incremental", "template": {"contentVersion": "1.0.0.0", "resources": []}}}
IP_CONFIGURATIONS = {"ipConfigurations": [{"name": "a", "properties": {}}]}

NAMES = {
    "resourceGroups/{group}": GROUP,
    "galleries/{gallery}": GALLERY,
    "images/{definition}": DEFINITION,
    "artifacts/{definition}": DEFINITION,
    "versions/{version}": "1.0.0",
    "disks/{disk}": "d1",
    "snapshots/{disk}": "s1",
    "images/{image}": "i1",
    "virtualMachines/{machine}": "m1",
    "virtualMachineScaleSets/{scale_set}": "set",
    "virtualMachines/{instance}": "0",
    "virtualNetworks/{name}": "net",
    "networkSecurityGroups/{name}": "nsg",
    "publicIPAddresses/{name}": "pip",
    "loadBalancers/{name}": "lb",
    "networkInterfaces/{name}": "nic",
    "subnets/{part}": "a",
    "securityRules/{part}": "a",
    "inboundNatRules/{part}": "a",
    "ipConfigurations/{part}": "a",
    "deployments/{deployment}": "dep",
    "communityGalleries/{gallery}": "public",
}
"""The names of existing resources, by the end of a route."""
FIXED = {"{location}": HERE, "{provider}": "Microsoft.Compute", "{artifact_type}": "Images"}
MISSING = {"1.0.0": "9.9.9"}
"""The names of missing resources. Other names get the suffix "x"."""


class TestAuthority(TokenAuthority):
    """A token authority with named callers of any rights. Other callers need a token."""

    __test__ = False
    callers: ClassVar[dict[str, Principal]] = {}

    def authenticate(self, authorization_header: str | None) -> Principal:
        found = self.callers.get((authorization_header or "").removeprefix("Test "))
        return found if found is not None else super().authenticate(authorization_header)

    def find_cached_caller(self, authorization_header: str | None) -> str | None:
        found = self.callers.get((authorization_header or "").removeprefix("Test "))
        return found.uid if found is not None else super().find_cached_caller(authorization_header)


def calling(name: str, *grants: Grant) -> dict[str, str]:
    """Return the authorization header of a caller with these grants."""
    TestAuthority.callers[name] = Principal(name=name, uid=f"uid-{name}", grants=grants, tenant="t")
    return {"Authorization": f"Test {name}"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    disk = tmp_path_factory.mktemp("web") / "disk.raw"
    make_raw(disk, seed=1, virtual_bytes=8 * MIB, content_bytes=MIB)
    with start_web({"/one.raw": Page(body=disk.read_bytes())}) as server:
        yield server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, web: WebServer) -> Iterator[Api]:
    """Create a resource of each type."""
    with start_api(tmp_path_factory.mktemp("rights") / "home", authority_type=TestAuthority) as server:
        found_all(server, web)
        yield server


def found_all(api: Api, web: WebServer) -> None:
    api.found()
    put(api, f"{api.top}/resourceGroups/near", {"location": HERE})
    put(api, api.version(), version_body(web.url("/one.raw")))
    for name in ("d1", "d2"):
        put(api, f"{api.compute}/disks/{name}", imported(web))
    put(api, f"{api.compute}/snapshots/s1", copied(f"{api.compute}/disks/d1"))
    put(api, f"{api.compute}/images/i1", image_of(f"{api.compute}/snapshots/s1"))
    put(api, f"{api.compute}/virtualMachines/m1", machine_of(f"{api.compute}/disks/d2"))
    put(api, f"{api.compute}/virtualMachineScaleSets/set", scale_set_of(api.version()))
    network = api.compute.replace("Compute", "Network")
    for word, properties in NETWORKS.items():
        put(api, f"{network}/{word}", {"location": HERE, "properties": properties}, NETWORK_VERSION)
    put(api, f"{api.compute.replace('Compute', 'Resources')}/deployments/dep", TEMPLATE, "2024-11-01")


NETWORKS: dict[str, Any] = {
    "virtualNetworks/net": {"subnets": [{"name": "a", "properties": {}}]},
    "networkSecurityGroups/nsg": {"securityRules": [{"name": "a", "properties": {}}]},
    "publicIPAddresses/pip": {},
    "loadBalancers/lb": {"inboundNatRules": [{"name": "a", "properties": {}}]},
    "networkInterfaces/nic": IP_CONFIGURATIONS,
}


def imported(web: WebServer) -> Any:
    creation = {"createOption": "Import", "sourceUri": web.url("/one.raw")}
    return {"location": HERE, "properties": {"osType": "Linux", "hyperVGeneration": "V1", "creationData": creation}}


def copied(source: str) -> Any:
    return {"location": HERE, "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": source}}}


def image_of(snapshot: str) -> Any:
    os_disk = {"osType": "Linux", "osState": "Generalized", "snapshot": {"id": snapshot}}
    return {"location": HERE, "properties": {"hyperVGeneration": "V1", "storageProfile": {"osDisk": os_disk}}}


def machine_of(disk: str) -> Any:
    os_disk = {"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": disk}}
    return {"location": HERE, "properties": {"storageProfile": {"osDisk": os_disk}}}


def scale_set_of(version: str) -> Any:
    storage = {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}}
    profile = {"storageProfile": storage, "osProfile": {"computerNamePrefix": "set", "adminUsername": "ops"}}
    sku = {"name": "Standard_B1s", "capacity": 3}
    return {"location": HERE, "sku": sku, "properties": {"virtualMachineProfile": profile}}


def put(api: Api, path: str, body: Any, version: str = "2023-07-03") -> None:
    answer = api.ask("PUT", path, body, version=version)
    assert answer.status in (200, 201, 202), (path, answer)
    if "azure-asyncoperation" in answer.headers:
        assert api.await_end(answer)["status"] == "Succeeded", path


def path_of(api: Api, route: str, *, missing: bool = False, subscription: str | None = None) -> str:
    """Return the path of a route with names of existing or missing resources."""
    unique = f"{api.installation.subscription}-{GALLERY}"
    names = {**NAMES, "sharedGalleries/{gallery}": unique, "operations/{operation}": "none"}

    def filled(match: re.Match[str]) -> str:
        name = names.get(f"{match[1]}/{match[2]}") or FIXED.get(match[2], "none")
        return f"{match[1]}/{MISSING.get(name, name + 'x') if missing and match[2] not in FIXED else name}"

    path = route.replace("{subscription}", subscription or api.installation.subscription)
    return re.sub(r"([^/{}]+)/(\{\w+\})", filled, path)


def plain(api: Api, answer: Answer) -> tuple[int, dict[str, str], str]:
    """Return an answer without request id and date, and with missing names replaced by existing names."""
    text = repr(answer.body).replace(UNKNOWN, api.installation.subscription)
    for name in sorted({*NAMES.values(), f"{api.installation.subscription}-{GALLERY}", "none"}, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(MISSING.get(name, name + 'x'))}\b", name, text)
    headers = {
        name: re.sub(r";\d+", "", value)  # Each request reduces the number of remaining requests.
        for name, value in answer.headers.items()
        if name not in ("date", "content-length") and not name.endswith("request-id")
    }
    return answer.status, headers, text


GUARDED = {key: right for key, right in ROUTE_RIGHTS.items() if right.check is not Check.OPEN}
ABOUT_RESOURCES = {key: right for key, right in GUARDED.items() if right.check is not Check.AUTHENTICATED}


def ids(routes: Mapping[tuple[str, str], RouteRight]) -> list[str]:
    return [f"{method} {path.removeprefix('/subscriptions/{subscription}')}" for method, path in routes]


def test_every_route_has_a_row(api: Api) -> None:
    """The server does not start with a route without a row. Each row belongs to a served route."""
    app = FastAPI()
    app.add_api_route("/subscriptions/{subscription}/fresh", lambda: None)
    with pytest.raises(AssertionError, match="fresh"):
        check_rows(app)
    served = {
        (method.upper(), path)
        for path, methods in api.ask("GET", "/openapi.json", version=None).body["paths"].items()
        for method in methods
    }
    assert served <= ROUTE_RIGHTS.keys()
    hidden = {"/docs", "/openapi.json", "/docs/oauth2-redirect", "/{tenant}/oauth2/token"}
    assert {path for _, path in ROUTE_RIGHTS.keys() - served} <= {
        *hidden,
        "/{tenant}/.well-known/openid-configuration",
    }


def test_rows_name_azures_actions() -> None:
    """Compare the rows with Azure's lists of the actions of resource providers."""
    names = {
        f"{method} {path.rpartition('/providers/')[2]}": each.operation for (method, path), each in GUARDED.items()
    }
    machine, disk = "Microsoft.Compute/virtualMachines/{machine}", "Microsoft.Compute/disks/{disk}"
    deployment, network = "Microsoft.Resources/deployments/{deployment}", "Microsoft.Network"
    expected = {
        f"POST {machine}/generalize": "Microsoft.Compute/virtualMachines/generalize/action",
        f"POST {machine}/deallocate": "Microsoft.Compute/virtualMachines/deallocate/action",
        f"POST {machine}/powerOff": "Microsoft.Compute/virtualMachines/powerOff/action",
        f"POST {machine}/start": "Microsoft.Compute/virtualMachines/start/action",
        f"GET {machine}/instanceView": "Microsoft.Compute/virtualMachines/instanceView/read",
        f"PUT {disk}": "Microsoft.Compute/disks/write",
        f"DELETE {disk}": "Microsoft.Compute/disks/delete",
        f"POST {disk}/beginGetAccess": "Microsoft.Compute/disks/beginGetAccess/action",
        f"POST {disk}/endGetAccess": "Microsoft.Compute/disks/endGetAccess/action",
        "POST Microsoft.Compute/galleries/{gallery}/share": "Microsoft.Compute/galleries/share/action",
        f"POST {deployment}/validate": "Microsoft.Resources/deployments/validate/action",
        f"POST {deployment}/whatIf": "Microsoft.Resources/deployments/whatIf/action",
        f"POST {deployment}/cancel": "Microsoft.Resources/deployments/cancel/action",
        "POST {provider}/register": "{provider}/register/action",
        f"PUT {network}/virtualNetworks/{{name}}/subnets/{{part}}": f"{network}/virtualNetworks/subnets/write",
        f"DELETE {network}/networkInterfaces/{{name}}": f"{network}/networkInterfaces/delete",
    }
    assert {name: names[name] for name in expected} == expected


@pytest.mark.parametrize(("method", "route"), GUARDED, ids=ids(GUARDED))
def test_caller_without_token_gets_401(api: Api, method: str, route: str) -> None:
    for missing in (False, True):
        refused = ask(api, method, path_of(api, route, missing=missing), {"Authorization": ""})
        assert refused.status == 401


def ask(api: Api, method: str, path: str, headers: dict[str, str], body: Any = b"{no JSON") -> Answer:
    """Return a request with a condition and a body, if allowed. No refusal may depend on these values."""
    sent = body if method in ("PUT", "PATCH", "POST") else None
    return api.ask(method, path, sent, headers={"If-Match": '"0"', **headers}, version="2023-07-03")


@pytest.mark.parametrize(("method", "route"), ABOUT_RESOURCES, ids=ids(ABOUT_RESOURCES))
def test_stranger_does_not_learn_which_resources_exist(api: Api, method: str, route: str) -> None:
    """The answers show neither resources nor subscriptions."""
    stranger = calling("stranger", Grant(role=Role.OWNER, scope="/subscriptions/elsewhere"))
    paths = [
        path_of(api, route),
        path_of(api, route, missing=True),
        path_of(api, route, subscription=UNKNOWN),
        path_of(api, route, missing=True, subscription=UNKNOWN),
    ]
    answers = [plain(api, ask(api, method, path, stranger)) for path in paths]
    assert answers[0][0] == 404
    assert answers[1:] == answers[:1] * 3


WITHIN = {
    key: each for key, each in ABOUT_RESOURCES.items() if not (each.check is Check.LIST and "{group}" not in key[1])
}
"""All routes except the lists of a subscription, which show each caller with a role the readable resources."""


@pytest.mark.parametrize(("method", "route"), WITHIN, ids=ids(WITHIN))
def test_caller_of_another_group_does_not_learn_which_resources_exist(api: Api, method: str, route: str) -> None:
    """The caller has a role on another group of the subscription."""
    near = calling("near", Grant(role=Role.OWNER, scope=f"{api.top}/resourceGroups/near"))
    answers = [plain(api, ask(api, method, path_of(api, route, missing=each), near)) for each in (False, True)]
    assert answers[0][0] == 403
    assert answers[0] == answers[1]


def body_of(api: Api, web: WebServer, method: str, route: str) -> tuple[Any, tuple[str, ...]]:
    """Return a valid body for a route, and the rights that the references of the body require."""
    end = route.rpartition("/providers/")[2]
    if method == "DELETE" and "virtualMachineScaleSets" in route:
        return None, ("Microsoft.Compute/disks/delete",)
    if "virtualMachineScaleSets" in route and end.endswith("}/delete"):
        return {"instanceIds": ["2"]}, ("Microsoft.Compute/disks/delete",)
    if "virtualMachineScaleSets" in route and method == "POST":
        return {"instanceIds": ["1"]}, ()
    if method == "PATCH":
        return {"tags": {"a": "b"}}, ()
    if method == "POST":
        if end.endswith("{version}/whatIf"):
            return version_body(web.url("/one.raw")), ()
        if end.endswith("{disk}/whatIf"):
            return UPLOAD, ()
        bodies = {"share": {"operationType": "Reset"}, "beginGetAccess": {"access": "Read", "durationInSeconds": 60}}
        return bodies.get(end.rpartition("/")[2], TEMPLATE), ()
    write, export = "Microsoft.Compute/disks/write", "Microsoft.Compute/{}/beginGetAccess/action"
    disk, snapshot = f"{api.compute}/disks/d1", f"{api.compute}/snapshots/s1"
    table: dict[str, tuple[Any, tuple[str, ...]]] = {
        "{version}": (version_body(web.url("/one.raw")), ()),
        "{definition}": (definition_body(identifier={"publisher": "q", "offer": "o", "sku": "s"}), ()),
        "disks/{disk}": (UPLOAD, ()),
        "snapshots/{disk}": (copied(disk), (export.format("disks"),)),
        "{image}": (image_of(snapshot), (export.format("snapshots"),)),
        "{machine}": (machine_of(f"{api.compute}/disks/d2"), (write,)),
        "{scale_set}": (scale_set_of(api.version()), (write, "Microsoft.Compute/galleries/images/versions/read")),
        "{deployment}": (TEMPLATE, ()),
        "networkInterfaces/{name}": ({"location": HERE, "properties": IP_CONFIGURATIONS}, ()),
        "{part}": ({"properties": {}}, ()),
    }
    found = next((value for tail, value in table.items() if end.endswith(tail)), None)
    return found or ({"location": HERE, "properties": {}}, ())


EXISTING_PUT = ("{machine}", "{group}", "{part}")
"""Routes that put existing resources again, because a new machine would need another disk."""


@pytest.mark.parametrize(("method", "route"), ABOUT_RESOURCES, ids=ids(ABOUT_RESOURCES))
def test_action_of_a_route_is_sufficient_and_necessary(api: Api, web: WebServer, method: str, route: str) -> None:
    right = ROUTE_RIGHTS[method, route]
    is_put = method == "PUT" and not route.endswith(EXISTING_PUT)
    is_new = is_put or method == "DELETE"
    body, more = body_of(api, web, method, route)
    path = path_of(api, route)
    if is_new:
        fresh = {"{version}": "3.0.0", "{instance}": "99"}.get(route.rpartition("/")[2], "fresh")
        path = f"{path.rpartition('/')[0]}/{fresh}"
    match = re.fullmatch(_pattern(route), path)
    assert match is not None
    values = match.groupdict()
    kind = right.operation.format_map(values)
    everything_else = Permission(actions=("*",), not_actions=(kind, *([] if right.check is Check.ACTION else ["*"])))
    without = calling("without", Grant(role=everything_else, scope=api.top))
    if right.check is Check.ACTION:
        assert send(api, method, path, body, without).status == 403
    exact = calling(
        "exact",
        Grant(role=Permission(actions=(kind,)), scope=right.scope.format_map(values)),
        *(Grant(role=Permission(actions=(each,)), scope=api.top) for each in more),
    )
    answer = send(api, method, path, body, exact)
    known = EXPECTED | EXPECTED_OF_SETS if "virtualMachineScaleSets" in route else EXPECTED
    word = route.rpartition("/")[2]
    expected = (200, 404) if "{location}" in route else known.get(word, (200, 201, 202, 204))
    assert answer.status in expected, (path, answer)
    if "azure-asyncoperation" in answer.headers:
        assert api.await_end(answer)["status"] == "Succeeded", path


EXPECTED = {
    **dict.fromkeys(("start", "restart", "redeploy", "reimage", "reapply"), (409,)),
    "whatIf": (200, 400, 409),  # Deployments and uploads have no forecast, and the version has another source.
    "whatIfDelete": (200, 409),
    "cancel": (404, 409),
    "{operation}": (404,),
    "{group}": (200, 201, 202, 204, 404),
    "{deployment}": (200, 201, 202, 204, 404),
}


EXPECTED_OF_SETS = {"reimage": (202,), "latest": (200, 404)}  # A set has no rolling update before the first reimage.


def _pattern(route: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route))


def send(api: Api, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
    version = NETWORK_VERSION if "Microsoft.Network" in path else "2024-11-01" if "Resources" in path else "2023-07-03"
    return api.ask(method, path, body if method in ("PUT", "PATCH", "POST") else None, headers=headers, version=version)


def test_operation_is_shown_to_the_caller_only(api: Api) -> None:
    """Other callers need the right to read the subscription. Without the right, existing operations look like missing operations."""
    mine = calling("mine", Grant(role=Role.CONTRIBUTOR, scope=f"{api.top}/resourceGroups/{GROUP}"))
    near = calling("near", Grant(role=Role.OWNER, scope=f"{api.top}/resourceGroups/near"))
    made = api.ask("PATCH", api.gallery, {"tags": {"a": "c"}}, headers=mine)
    path = api.path_of(made.headers["azure-asyncoperation"])
    assert api.ask("GET", path, headers=mine).status == 200
    uid = path.partition("?")[0].rpartition("/")[2]
    answers = [api.ask("GET", each, headers=near) for each in (path, path.replace(uid, "0" * 8))]
    assert [(each.status, each.code) for each in answers] == [(403, "AuthorizationFailed")] * 2
    assert api.ask("GET", path, headers=calling("all", Grant(role=Role.READER, scope=api.top))).status == 200


def test_sharing_gives_no_right_in_the_owning_subscription(api: Api) -> None:
    shared = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [UNKNOWN]}]}
    api.await_end(api.ask("POST", f"{api.gallery}/share", shared))
    unique = f"{api.installation.subscription}-{GALLERY}"
    near = calling("near", Grant(role=Role.CONTRIBUTOR, scope=f"{api.top}/resourceGroups/near"))
    path = f"{api.top}/resourceGroups/near/providers/Microsoft.Compute/disks/x"
    answers = []
    for name in (unique, f"{api.installation.subscription}-missing"):
        word = f"/SharedGalleries/{name}/Images/{DEFINITION}/Versions/1.0.0"
        creation = {"createOption": "FromImage", "galleryImageReference": {"sharedGalleryImageId": word}}
        answers.append(api.ask("PUT", path, {"location": HERE, "properties": {"creationData": creation}}, headers=near))
    assert [(each.status, each.code) for each in answers] == [(404, "GalleryNotFound")] * 2
    reads = Grant(role=Permission(actions=("*/sharedGalleries/*", "*/sharedGalleries/read")), scope=api.top)
    looking = calling("looking", reads)
    above = f"{api.top}/providers/Microsoft.Compute/locations/{HERE}/sharedGalleries/{unique}"
    inside = (
        "",
        "/images",
        f"/images/{DEFINITION}",
        f"/images/{DEFINITION}/versions",
        f"/images/{DEFINITION}/versions/1.0.0",
    )
    for each in inside:
        assert api.ask("GET", f"{above}{each}", headers=looking).code == "GalleryNotFound", each
        assert api.ask("GET", f"{above}{each}").status == 200, "its owner looks at it"
    # Invariant H11.
    api.await_end(api.ask("POST", f"{api.gallery}/share", {"operationType": "Reset"}))


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("virtualNetworks/net/subnets/a", "virtualNetworks/subnets"),
        ("networkSecurityGroups/nsg", "networkSecurityGroups"),
        ("publicIPAddresses/pip", "publicIPAddresses"),
        ("loadBalancers/lb/inboundNatRules/a", "loadBalancers/inboundNatRules"),
        ("networkInterfaces/nic", "networkInterfaces"),
        ("networkInterfaces/none", "networkInterfaces"),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_reference_to_a_network_resource_requires_join(api: Api, named: str, kind: str, elsewhere: bool) -> None:
    """The right is also required from another subscription, because references block the deletion by the owner."""
    linked = f"{api.compute.replace('Compute', 'Network')}/{named}"
    top = api.top
    if elsewhere:
        top = "/subscriptions/elsewhere"
        there = replace(api.installation, subscription="elsewhere")
        create_group(there, ADMIN, name="near", location=HERE)
    group = f"{top}/resourceGroups/near"
    owner = Grant(role=Role.OWNER, scope=group)
    reads = Grant(role=Role.READER, scope=api.top)
    joins = Grant(role=Permission(actions=(f"Microsoft.Network/{kind}/join/action",)), scope=linked)
    path, body = naming(group, linked)
    refused = api.ask("PUT", path, body, headers=calling("reader", owner, reads), version=NETWORK_VERSION)
    assert (refused.status, refused.code) == (403, "LinkedAuthorizationFailed"), refused
    assert f"'Microsoft.Network/{kind}/join/action'" in refused.body["error"]["message"]
    joining = api.ask("PUT", path, body, headers=calling("joining", owner, joins), version=NETWORK_VERSION)
    # Invariant H10.
    assert joining.status != 403, joining


def naming(group: str, linked: str) -> tuple[str, Any]:
    """A resource of the group with a reference to another resource."""
    if "/networkInterfaces/" in linked:
        path = f"{group}/providers/Microsoft.Compute/virtualMachines/m"
        body = machine_of(f"{group}/providers/Microsoft.Compute/disks/none")
        body["properties"]["networkProfile"] = {"networkInterfaces": [{"id": linked}]}
        return path, body
    word = {
        "virtualNetworks": "subnet",
        "networkSecurityGroups": "networkSecurityGroup",
        "loadBalancers": "loadBalancerInboundNatRule",
    }.get(linked.split("/")[7], "publicIPAddress")
    configuration = {"name": "a", "properties": {word: {"id": linked}}}
    body = {"location": HERE, "properties": {"ipConfigurations": [configuration]}}
    return f"{group}/providers/Microsoft.Network/networkInterfaces/pin", body


def requests_naming(api: Api, named: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Return requests of a caller for resources with references to another group, by the referenced type."""
    near = f"{api.top}/resourceGroups/near/providers/Microsoft.Compute"
    image = f"{near}/galleries/mine/images/mine/versions/1.0.0"

    def disk(creation: Any) -> tuple[str, Any]:
        return f"{near}/disks/x", {"location": HERE, "properties": {"creationData": creation}}

    def version(**profile: Any) -> tuple[str, Any]:
        body = version_body("")
        body["properties"]["storageProfile"] = profile
        return image, body

    def machine(reference: Any) -> tuple[str, Any]:
        storage = {"imageReference": reference, "osDisk": {"createOption": "FromImage"}}
        profile = {"computerName": "host", "adminUsername": "azureuser"}
        return f"{near}/virtualMachines/x", {
            "location": HERE,
            "properties": {"storageProfile": storage, "osProfile": profile},
        }

    def template(value: str) -> tuple[str, Any]:
        whole = {**TEMPLATE["properties"]["template"], "outputs": {"a": {"type": "object", "value": value}}}  # type: ignore[dict-item]
        path = f"{near.replace('Compute', 'Resources')}/deployments/{abs(hash(value))}"
        return path, {"properties": {"mode": "Incremental", "template": whole}}

    shared = {"sharedGalleryImageId": named["shared"]}
    return {
        "disk of a disk": disk({"createOption": "Copy", "sourceResourceId": named["disk"]}),
        "disk of a snapshot": disk({"createOption": "Copy", "sourceResourceId": named["snapshot"]}),
        "disk of a version": disk({"createOption": "FromImage", "galleryImageReference": {"id": named["version"]}}),
        "disk of a shared version": disk({"createOption": "FromImage", "galleryImageReference": shared}),
        "image of a snapshot": (f"{near}/images/x", image_of(named["snapshot"])),
        "version of a version": version(source={"id": named["version"]}),
        "version of an image": version(source={"id": named["image"]}),
        "version of a snapshot": version(osDiskImage={"source": {"id": named["snapshot"]}}),
        "version of a shared version": version(source={"id": named["shared"]}),
        "machine of a version": machine({"id": named["version"]}),
        "machine of an image": machine({"id": named["image"]}),
        "machine of a shared version": machine(shared),
        "machine with a disk": (f"{near}/virtualMachines/x", machine_of(named["disk"])),
        "reference to a disk": template(f"[reference('{named['disk']}', '2023-04-02')]"),
        "reference to a version": template(f"[reference('{named['version']}', '2023-07-03')]"),
        "reference to a group": template(f"[reference('{named['group']}', '2021-04-01', 'Full')]"),
    }


def named_in(api: Api, end: str) -> dict[str, str]:
    """Return the ids of the resources of a group. A suffix `end` makes ids of missing resources."""
    return {
        "group": f"{api.top}/resourceGroups/{GROUP}{end}",
        "disk": f"{api.compute}/disks/d1{end}",
        "snapshot": f"{api.compute}/snapshots/s1{end}",
        "image": f"{api.compute}/images/i1{end}",
        "version": f"{api.gallery}{end}/images/{DEFINITION}/versions/1.0.0",
        "shared": f"/SharedGalleries/{api.installation.subscription}-{GALLERY}{end}/Images/{DEFINITION}/Versions/1.0.0",
    }


def test_references_in_a_request_require_rights(api: Api) -> None:
    """A refusal does not show whether the referenced resource exists, also while the gallery is shared with others."""
    near = calling("near", Grant(role=Role.CONTRIBUTOR, scope=f"{api.top}/resourceGroups/near"))
    mine = f"{api.top}/resourceGroups/near/providers/Microsoft.Compute/galleries/mine"
    put(api, mine, {"location": HERE})
    put(api, f"{mine}/images/mine", definition_body())
    shared = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [UNKNOWN]}]}
    api.await_end(api.ask("POST", f"{api.gallery}/share", shared))
    there, missing = (requests_naming(api, named_in(api, end)) for end in ("", "x"))
    for what, (path, body) in there.items():
        answers = [outcome(api, path, body, near), outcome(api, *missing[what], near)]
        assert answers[0] == answers[1], what
        assert re.match(r"40[034]", answers[0]), (what, answers[0])
    api.await_end(api.ask("POST", f"{api.gallery}/share", {"operationType": "Reset"}))


def outcome(api: Api, path: str, body: Any, headers: dict[str, str]) -> str:
    """Return the result of a PUT, with the names of missing resources replaced by names of existing resources."""
    answer = send(api, "PUT", path, body, headers)
    ended = answer.body
    if answer.status < 300:
        ended = api.await_end(answer)
        assert ended["status"] == "Failed", ended
    code = 400 if answer.status < 300 else answer.status
    text = f"{code} {ended['error']}"
    for name in (GROUP, "d1", "s1", "i1", GALLERY):
        text = re.sub(rf"\b{name}x\b", name, text)
    return re.sub(r"deployments/\d+|\d{10,}", "N", text)


def test_forged_url_does_not_show_which_disks_exist(api: Api) -> None:
    """The answers also do not show which disks have a valid URL."""
    granted = api.ask("POST", f"{api.compute}/disks/d1/beginGetAccess", {"access": "Read", "durationInSeconds": 60})
    url = api.path_of(granted.body["accessSAS"])
    uid = url.split("/")[2]
    with api.installation.catalog.reading() as transaction:
        other = transaction.disks.get(api.installation.subscription, GROUP, "d2")
    assert other is not None
    forged = re.sub("sig=[0-9a-f]+", f"sig={'0' * 64}", url)
    answers = [api.ask("GET", forged.replace(uid, each)) for each in (uid, other.uid, "0" * len(uid))]
    assert {(each.status, each.body) for each in answers} == {(403, answers[0].body)}
    api.await_end(api.ask("POST", f"{api.compute}/disks/d1/endGetAccess"))


def test_query_shows_strangers_neither_galleries_nor_subscriptions(api: Api) -> None:
    query = {"query": "communitygalleryresources | where type == 'microsoft.compute/locations/communitygalleries'"}
    path, stranger = "/providers/Microsoft.ResourceGraph/resources", calling("nobody")
    answer = api.ask("POST", path, query, headers=stranger, version="2021-03-01")
    assert api.installation.subscription not in repr(answer.body)
    assert answer.body["data"] == [], answer


SHAREE = "22222222-2222-2222-2222-222222222222"


@pytest.mark.parametrize("community", [False, True])
def test_sharee_does_not_see_the_group_of_a_shared_gallery(api: Api, web: WebServer, community: bool) -> None:
    """Neither resources from the image nor errors show the group. Azure also shows the reference by the shared name."""
    mine = f"/subscriptions/{SHAREE}/resourceGroups/near/providers/Microsoft.Compute"
    create_group(replace(api.installation, subscription=SHAREE), ADMIN, name="near", location=HERE)
    near = calling("sharee", Grant(role=Role.OWNER, scope=f"/subscriptions/{SHAREE}"))
    word, name = share(api, web, community=community)
    field = f"{word}GalleryImageId"
    suffix = word[0]

    def image(definition: str = DEFINITION, version: str = "1.0.0") -> str:
        return f"/{word.capitalize()}Galleries/{name}/Images/{definition}/Versions/{version}"

    def wanted(what: str, named: str, end: str) -> tuple[str, Any]:
        if what == "disk":
            creation = {"createOption": "FromImage", "galleryImageReference": {field: named}}
            return f"{mine}/disks/d{end}", {"location": HERE, "properties": {"creationData": creation}}
        if what == "machine":
            storage = {"imageReference": {field: named}, "osDisk": {"createOption": "FromImage"}}
            profile = {"computerName": "host", "adminUsername": "azureuser"}
            properties = {"storageProfile": storage, "osProfile": profile}
            return f"{mine}/virtualMachines/m{end}", {"location": HERE, "properties": properties}
        body = version_body("")
        key = "communityGalleryImageId" if community else "id"
        body["properties"]["storageProfile"] = {"source": {key: named}}
        return f"{mine}/galleries/{word}/images/i/versions/1.0.{len(end)}", body

    for path, body in ((f"{mine}/galleries/{word}", {"location": HERE}),
                       (f"{mine}/galleries/{word}/images/i", definition_body())):  # fmt: skip
        assert api.ask("PUT", path, body, headers=near).status == 201
    answers = []
    for what in ("disk", "machine", "version"):
        path, body = wanted(what, image(), suffix)
        for _ in range(2):  # The same request again is no change.
            made = api.ask("PUT", path, body, headers=near)
            answers.append(made)
            assert made.status < 300, made
            assert api.await_end(made)["status"] == "Succeeded", made
        shown = api.ask("GET", path, headers=near)
        answers.append(shown)
        assert image().lower() in repr(shown.body).lower(), shown
        for named in (image(version="9.9.9"), image("none"), image("none", "latest")):
            answers.append(api.ask("PUT", *wanted(what, named, f"{suffix}xx"), headers=near))
            assert answers[-1].status in (400, 404), answers[-1]
    above = f"/subscriptions/{SHAREE}/providers/Microsoft.Compute/locations/{HERE}/{word}Galleries/{name}"
    ends = ("", "/images", "/images/none", "/images/none/versions", f"/images/{DEFINITION}/versions/9.9.9")
    answers += [api.ask("GET", f"{above}{end}", headers=near) for end in ends]
    for each in answers:
        text = repr(each.body)
        assert not re.search(rf"resourceGroups/{GROUP}\b|-g {GROUP}\b|\b{GROUP}/\w", text), text
        assert not (community and api.installation.subscription in text), text


def share(api: Api, web: WebServer, *, community: bool) -> tuple[str, str]:
    """Share a gallery with the sharee or with everybody. Return the kind of the sharing and the shared name."""
    if not community:
        shared = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [SHAREE]}]}
        api.await_end(api.ask("POST", f"{api.gallery}/share", shared))
        return "shared", f"{api.installation.subscription}-{GALLERY}"
    gallery = f"{api.compute}/galleries/everybodys"
    info = {"publisherUri": "https://x.example", "publisherContact": "a@b.example", "eula": "x"}
    profile = {"permissions": "Community", "communityGalleryInfo": {**info, "publicNamePrefix": "public"}}
    put(api, gallery, {"location": HERE, "properties": {"sharingProfile": profile}})
    put(api, f"{gallery}/images/{DEFINITION}", definition_body())
    put(api, f"{gallery}/images/{DEFINITION}/versions/1.0.0", version_body(web.url("/one.raw")))
    api.await_end(api.ask("POST", f"{gallery}/share", {"operationType": "EnableCommunity"}))
    told = api.ask("GET", gallery).body["properties"]["sharingProfile"]["communityGalleryInfo"]
    return "community", told["publicNames"][0]
