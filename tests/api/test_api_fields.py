"""Test that each field of Azure's models is supported, shown as sent, or refused by path.

`api_fields.json` contains the treatment of each field of the pinned azure-mgmt-compute. A field of a newer release is
missing there, and fails the test.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from api_requests import COMPUTE, HERE, requests_of
from api_server import Answer, Api, start_api, version_body

from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]

EXPECTED: Final = Path(__file__).with_name("api_fields.json")

DONE: Final = {
    "location": "a resource is in its region, or refused: test_api_resources.py",
    "properties.osProfile.adminPassword": "Azure shows it to nobody: test_api_machines.py",
    "properties.osProfile.customData": "likewise",
    "properties.osProfile.windowsConfiguration.additionalUnattendContent[].content": "likewise",
    "properties.osProfile.windowsConfiguration.additionalUnattendContent[].passName": "likewise: as a whole",
    "properties.osProfile.windowsConfiguration.additionalUnattendContent[].componentName": "likewise",
    "properties.osProfile.windowsConfiguration.additionalUnattendContent[].settingName": "likewise",
    "properties.userData": "likewise",
    **dict.fromkeys(
        (
            "properties.virtualMachineProfile.osProfile.adminPassword",
            "properties.virtualMachineProfile.osProfile.customData",
            *(
                f"properties.virtualMachineProfile.osProfile.windowsConfiguration.additionalUnattendContent[].{name}"
                for name in ("content", "passName", "componentName", "settingName")
            ),
            "properties.virtualMachineProfile.userData",
        ),
        "likewise, of a scale set: test_wire_scale_sets.py",
    ),
    "properties.restore": "brings a softly deleted version back, which shows no word of it: test_operations_lifetimes.py",
    "properties.completionPercent": "Azure alone says how far a copy in the background is; copies here are made at once",
    "properties.copyCompletionError.errorCode": "likewise",
    "properties.copyCompletionError.errorMessage": "likewise",
}
"""Fields that are accepted and not shown, with the reason and the test."""


def fields_of_models(package: str) -> Any:
    """Return the fields of the models of an Azure package with kinds, by type and verb."""
    command = [require("azure-sdk").command, str(LOCKS / "model_fields.py"), package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def models() -> Any:
    """Return the fields with kinds, by type and verb."""
    return fields_of_models("compute")


@pytest.fixture
def published(tmp_path: Path, web: WebServer) -> Iterator[tuple[Api, dict[tuple[str, str], Any]]]:
    """Run a server with a resource of each type. Return the server and the bodies by method and path."""
    with start_api(tmp_path / "home", rate_limit_factor=0, worker=True) as api:
        found = requests_of(api, web)
        for each in found:
            answer = api.ask(each.method, each.path, each.body, version=each.version)
            if "azure-asyncoperation" in answer.headers:
                api.await_end(answer)
        yield api, {(each.method, each.path): each.body for each in found}


def value_of(how: Any, leaf: str) -> Any:
    """Return a plausible value that differs from the default."""
    if words := how.get("words"):
        return words[-1] if words[-1] != "None" else words[0]
    named = leaf.rpartition(".")[2].rstrip("[]")
    if named == "name" and "targetRegions" in leaf:
        return "South Central US"
    if leaf == "properties.features[].value":
        return "SCSI, NVMe"
    return {"bool": True, "int": 7, "float": 0.5, "datetime": "2091-01-01T00:00:00Z"}.get(how["kind"], "value1")


def with_value(body: Any, leaf: str, value: Any) -> Any:
    """Return a copy of a body with a value at a path."""
    copy = json.loads(json.dumps(body))
    here, steps = copy, re.findall(r"[^.\[\]]+|\[\]", leaf)
    for place, step in enumerate(steps):
        last = place == len(steps) - 1
        below: Any = value if last else ([] if steps[place + 1] == "[]" else {})
        if step == "[]":
            if not here:
                here.append(below)
            elif last or type(here[0]) is not type(below):
                here[0] = below
            here = here[0]
        else:
            key = "n" if step == "*" else step
            if last or type(here.get(key)) is not type(below):
                here[key] = below
            here = here[key]
    return copy


def at(body: Any, leaf: str) -> Any:
    """Return the value at a path. The path takes the first item of a list."""
    for step in re.findall(r"[^.\[\]]+|\[\]", leaf):
        if step == "[]":
            body = body[0] if isinstance(body, list) and body else None
        else:
            body = body.get("n" if step == "*" else step) if isinstance(body, dict) else None
    return body


def outcome(api: Api, path: str, answer: Answer, leaf: str, value: Any, version: str) -> str:
    """Return the treatment of a field."""
    if answer.status in (400, 404, 409):
        error = answer.body["error"]
        named = re.sub(r"\[[^\]]*\]", "", f"{error.get('target', '')} {error['message']}").lower()
        steps = [step for step in re.findall(r"[^.\[\]*]+", leaf) if step != "properties"]
        return "refused" if any(step.lower() in named for step in steps) else f"refused without its path: {error}"
    assert answer.status < 300, (leaf, answer)
    if "azure-asyncoperation" in answer.headers:
        ended = api.await_end(answer)
        assert ended["status"] == "Succeeded", (leaf, ended)
    shown = at(api.ask("GET", path, version=version).body, leaf)
    same = str(shown).lower() == str(value).lower() or (leaf.endswith("Date") and str(shown)[:10] == str(value)[:10])
    return "shown" if same else "done" if leaf in DONE else f"dropped: {shown!r} is shown for {value!r}"


def part_of(shown: Any, leaf: str) -> Any:
    """Return a PATCH with the current values of the data disk that contains the field."""
    above, found, _ = leaf.partition("storageProfile.dataDisks")
    if not found:
        return {}
    return with_value({}, f"{above}storageProfile.dataDisks", at(shown, f"{above}storageProfile.dataDisks"))


def with_no_clash(body: Any, kind: str, verb: str, leaf: str, number: int) -> Any:
    """Return a body with other identifiers, because the definitions of a gallery must differ."""
    if kind == "galleries/images" and verb == "PUT" and "identifier" not in leaf:
        body["properties"]["identifier"]["sku"] = f"s{number}"
    return body


ONE: Final = {
    "galleries": ("galleries/g1", "galleries/f{}"),
    "galleries/images": ("galleries/g1/images/ubuntu", "galleries/g1/images/f{}"),
    "galleries/images/versions": ("galleries/g1/images/ubuntu/versions/1.0.0", None),
    "disks": ("disks/d", "disks/f{}"),
    "snapshots": ("snapshots/s", "snapshots/f{}"),
    "images": ("images/i", "images/f{}"),
    "virtualMachines": ("virtualMachines/vm", None),
    "virtualMachineScaleSets": ("virtualMachineScaleSets/set", None),
}
"""An existing resource of each type, and the names of new resources. Slow types put the existing resource again."""


def observed(api: Api, bodies: dict[tuple[str, str], Any], models: Any, version: str) -> Any:
    """Return the treatment of each field, by type and verb."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for kind, (standing, new) in ONE.items():
        for verb in ("PUT", "PATCH"):
            outcomes = found.setdefault(kind, {}).setdefault(verb, {})
            shown = api.ask("GET", f"{api.compute}/{standing}", version=version).body
            base = shown if new is None else bodies["PUT", f"{api.compute}/{standing}"]
            for number, (leaf, how) in enumerate(models[kind][verb].items()):
                if how["readOnly"]:
                    continue
                path = f"{api.compute}/{new.format(number) if new and verb == 'PUT' else standing}"
                whole = with_value(base if verb == "PUT" else part_of(shown, leaf), leaf, value_of(how, leaf))
                body = with_no_clash(whole, kind, verb, leaf, number)
                answer = api.ask(verb, path, body, version=version)
                outcomes[leaf] = outcome(api, path, answer, leaf, value_of(how, leaf), version)
    return found


@pytest.mark.engine("azure-sdk")
@pytest.mark.timeout(900)
def test_no_field_of_azures_models_is_dropped(published: tuple[Api, dict[tuple[str, str], Any]], models: Any) -> None:
    api, bodies = published
    found = observed(api, bodies, models, COMPUTE)
    told = {
        f"{kind} {verb} {leaf}": what
        for kind, verbs in found.items()
        for verb, leaves in verbs.items()
        for leaf, what in leaves.items()
    }
    assert {where: what for where, what in told.items() if what not in ("refused", "shown", "done")} == {}
    classified = {
        f"{kind} {verb}": {
            what: sorted(leaf for leaf, each in leaves.items() if each == what) for what in ("done", "shown", "refused")
        }
        for kind, verbs in found.items()
        for verb, leaves in verbs.items()
    }
    # Invariant H14.
    assert classified == json.loads(EXPECTED.read_text()), "a newer release has other fields: classify them"


def objects(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each object of a body with the path, except tags and the content of templates, which have names of the caller."""
    if isinstance(value, dict):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        if name not in ("tags", "template", "parameters"):
            yield from objects(each, f"{path}.{name}".lstrip(".") if isinstance(name, str) else f"{path}[{name}]")


def test_no_route_drops_an_unknown_field(tmp_path: Path, web: WebServer) -> None:
    with start_api(tmp_path / "home", rate_limit_factor=0, worker=True) as api:
        found = requests_of(api, web)
        for each in found:
            answer = api.ask(each.method, each.path, each.body, version=each.version)
            if "azure-asyncoperation" in answer.headers:
                api.await_end(answer)
        for each in found:
            body = json.loads(json.dumps(each.body))
            for path, held in list(objects(body)) if each.done else []:
                held["unheardOf"] = 4711
                answer = api.ask(each.method, each.path, body, version=each.version)
                if answer.status < 300:
                    shown = json.dumps(api.ask("GET", each.path, version=each.version).body)
                    assert "unheardOf" in shown, (each.method, each.path, path)
                else:
                    assert answer.status == 400, (each.method, each.path, path, answer)
                    assert "unheardOf" in answer.body["error"]["message"], (each.method, each.path, path, answer)
                del held["unheardOf"]


@pytest.mark.parametrize(
    "account", ["value1", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d", 7, {}, []]
)
@pytest.mark.parametrize("name", ["id", "storageAccountId"])
def test_source_url_allows_only_a_storage_account_id(api: Api, web: WebServer, name: str, account: Any) -> None:
    api.found()
    version = version_body(web.url("/one.raw"))
    version["properties"]["storageProfile"]["osDiskImage"]["source"][name] = account
    answer = api.ask("PUT", api.version(), version, version=COMPUTE)
    if account in ({}, []):
        assert answer.status == 201
        assert api.await_end(answer)["status"] == "Succeeded"
    else:
        target = f"properties.storageProfile.osDiskImage.source.{name}"
        assert (answer.status, answer.body["error"]["target"]) == (400, target)


DEFAULTS: Final[dict[str, Any]] = {
    "sku": {"name": "Premium_LRS", "tier": "Premium"},
    "zones": [],
    "extendedLocation": None,
    "properties": {
        "networkAccessPolicy": "AllowAll",
        "publicNetworkAccess": "Enabled",
        "dataAccessAuthMode": "None",
        "diskSizeGB": 1,
        "maxShares": 1,
        "burstingEnabled": False,
        "optimizedForFrequentAttach": False,
        "supportsHibernation": False,
        "diskAccessId": None,
        "encryption": {"type": "EncryptionAtRestWithPlatformKey", "diskEncryptionSetId": None},
        "encryptionSettingsCollection": {"enabled": False, "encryptionSettings": []},
        "securityProfile": {"securityType": "Standard"},
        "availabilityPolicy": {"actionOnDiskDelay": "None"},
    },
}
"""Values that Azure's clients send by default."""


def test_defaults_of_azure_clients_are_accepted_and_shown(
    published: tuple[Api, dict[tuple[str, str], Any]],
) -> None:
    api, bodies = published
    disk = bodies["PUT", f"{api.compute}/disks/d"]
    path = f"{api.compute}/disks/defaults"
    body = DEFAULTS | {"location": HERE, "properties": disk["properties"] | DEFAULTS["properties"]}
    answer = api.ask("PUT", path, body, version=COMPUTE)
    assert answer.status == 202, answer
    assert api.await_end(answer)["status"] == "Succeeded"
    shown = api.ask("GET", path, version=COMPUTE).body
    assert shown["sku"]["name"] == "Premium_LRS"
    for name in ("networkAccessPolicy", "publicNetworkAccess", "diskSizeGB", "maxShares", "securityProfile"):
        assert shown["properties"][name] == DEFAULTS["properties"][name]
    assert shown["properties"]["encryption"] == {"type": "EncryptionAtRestWithPlatformKey"}
    assert api.ask("PUT", path, shown | {"tags": {"c": "d"}}, version=COMPUTE).status in (200, 202)
    patch = {"properties": {"networkAccessPolicy": "allowall", "diskSizeGB": 1}, "sku": {"name": "premium_lrs"}}
    assert api.ask("PATCH", path, patch, version=COMPUTE).status == 200


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"zones": ["1"]}, "zones"),
        ({"sku": {"name": "UltraSSD_LRS"}}, "sku.name"),
        ({"sku": {"name": "Premium_ZRS"}}, "sku.name"),
        ({"Properties": {"NetworkAccessPolicy": "DenyAll"}}, "properties.networkAccessPolicy"),
        ({"properties": {"encryption": {"diskEncryptionSetId": "/x"}}}, "properties.encryption.diskEncryptionSetId"),
        ({"properties": {"diskSizeGB": 64}}, "properties.diskSizeGB"),
        (
            {"properties": {"securityProfile": {"securityType": "TrustedLaunch"}}},
            "properties.securityProfile.securityType",
        ),
        ({"properties": {"unheardOf": False}}, "properties.unheardOf"),
    ],
)
def test_unsupported_disk_fields_are_refused_by_path(
    published: tuple[Api, dict[tuple[str, str], Any]], change: Any, target: str
) -> None:
    api, _ = published
    for kind, creation in (
        ("disks", {"createOption": "FromImage", "galleryImageReference": {"id": api.version()}}),
        ("disks", {"createOption": "Copy", "sourceResourceId": f"{api.compute}/disks/d"}),
        ("disks", {"createOption": "Upload", "uploadSizeBytes": 20_972_032}),
        ("snapshots", {"createOption": "Copy", "sourceResourceId": f"{api.compute}/disks/d"}),
    ):
        word = next((name for name in change if name.lower() == "properties"), "properties")
        body = {"location": HERE, **change, word: {"creationData": creation, **change.get(word, {})}}
        path = f"{api.compute}/{kind}/refused"
        answer = api.ask("PUT", path, body, version=COMPUTE)
        assert (answer.status, answer.body["error"]["target"]) == (400, target)
        assert api.ask("GET", path, version=COMPUTE).status == 404
