"""Test snapshots, managed images and disks from disks and files, and versions from these resources."""

import json
from typing import Any

import pytest
from api_server import Api, version_body

from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]

SOUTH = "southcentralus"


def made_of(option: str, **more: Any) -> Any:
    """Return the body of a disk or snapshot."""
    return {"location": SOUTH, "properties": {"creationData": {"createOption": option, **more}}}


def succeeds(api: Api, path: str, body: Any) -> Any:
    """Put a resource, wait for the operation, and return the resource."""
    answer = api.ask("PUT", path, body)
    assert answer.status in (200, 201, 202), answer
    told = api.await_end(answer)
    assert told["status"] == "Succeeded", told
    return api.ask("GET", path).body


def test_disk_from_file_snapshot_of_disk_and_disk_of_snapshot(api: Api, web: WebServer) -> None:
    api.found()
    disk = f"{api.compute}/disks/d1"
    imported = made_of("Import", sourceUri=web.url("/one.raw"))
    imported["properties"] |= {"osType": "linux", "hyperVGeneration": "V1"}
    imported["sku"] = {"name": "standard_zrs"}
    shown = succeeds(api, disk, imported)
    assert (shown["sku"]["name"], shown["properties"]["osType"]) == ("Standard_ZRS", "Linux")
    snapshot = f"{api.compute}/snapshots/s1"
    made = api.ask("PUT", snapshot, made_of("copy", sourceResourceId=disk))
    assert made.status == 202, "az takes no 201"
    assert api.await_end(made)["status"] == "Succeeded"
    kept = api.ask("GET", snapshot.upper().replace("/S1", "/s1")).body
    assert (kept["type"], kept["properties"]["diskDigest"]) == (
        "Microsoft.Compute/snapshots",
        shown["properties"]["diskDigest"],
    )
    assert api.ask("PATCH", snapshot, {"tags": {"a": "b"}}).body["tags"] == {"a": "b"}
    copied = succeeds(api, f"{api.compute}/disks/d2", made_of("Copy", sourceResourceId=snapshot))
    assert copied["properties"]["creationData"] == {"createOption": "Copy", "sourceResourceId": kept["id"]}
    for above in (api.compute, f"{api.top}/providers/Microsoft.Compute"):
        assert [each["name"] for each in api.ask("GET", f"{above}/snapshots").body["value"]] == ["s1"]
        assert [each["name"] for each in api.ask("GET", f"{above}/disks").body["value"]] == ["d1", "d2"]
    assert api.await_end(api.ask("DELETE", snapshot))["status"] == "Succeeded"
    assert api.ask("GET", snapshot).status == 404
    assert api.ask("DELETE", snapshot).status == 204
    assert api.ask("GET", f"{api.compute}/disks/d2").status == 200


@pytest.mark.parametrize(
    ("kind", "creation", "target"),
    [
        ("snapshots", {"createOption": "FromImage"}, "createOption"),
        ("disks", {"createOption": "Empty"}, "createOption"),
        ("disks", {"createOption": "Import"}, "sourceUri"),
        ("disks", {"createOption": "Import", "sourceUri": "/etc/passwd"}, "sourceUri"),
        ("snapshots", {"createOption": "Import", "sourceUri": "s3://bucket/key"}, "sourceUri"),
        ("disks", {"createOption": "Copy", "sourceResourceId": "/etc/passwd"}, "sourceResourceId"),
        ("disks", {"createOption": "Copy", "sourceResourceId": "d1"}, "sourceResourceId"),
        ("disks", {"createOption": "FromImage"}, "galleryImageReference.id"),
        ("disks", {"createOption": "FromImage", "galleryImageReference": {"id": "x", "sharedGalleryImageId": "y"}},
         "galleryImageReference"),
    ],
)  # fmt: skip
def test_invalid_disk_sources_are_refused(api: Api, kind: str, creation: Any, target: str) -> None:
    api.found()
    body = {"location": SOUTH, "properties": {"creationData": creation}}
    refused = api.ask("PUT", f"{api.compute}/{kind}/x", body)
    # Invariants U1 and U2.
    assert (refused.status, refused.body["error"]["target"].removeprefix("disk.")) == (
        400,
        f"properties.creationData.{target}",
    )


def image_body(**profile: Any) -> Any:
    """Return the body of a managed image."""
    return {"location": SOUTH, "properties": {"hyperVGeneration": "V1", "storageProfile": profile}}


def test_version_from_an_image_of_a_snapshot_and_a_file(api: Api, web: WebServer) -> None:
    api.found()
    snapshot = f"{api.compute}/snapshots/s1"
    succeeds(api, snapshot, made_of("Import", sourceUri=web.url("/one.raw")))
    image = f"{api.compute}/images/i1"
    os_disk = {"osType": "Linux", "osState": "Generalized", "snapshot": {"id": snapshot}}
    body = image_body(osDisk=os_disk, dataDisks=[{"lun": 0, "blobUri": web.url("/two.raw")}])
    made = api.ask("PUT", image, body)
    assert (made.status, api.await_end(made)["status"]) == (201, "Succeeded"), "az image create takes 200 and 201"
    shown = api.ask("GET", image).body["properties"]["storageProfile"]
    assert (shown["osDisk"]["osType"], [each["lun"] for each in shown["dataDisks"]]) == ("Linux", [0])
    assert [each["name"] for each in api.ask("GET", f"{api.compute}/images").body["value"]] == ["i1"]
    assert api.ask("PATCH", image, {"tags": {"a": "b"}}).body["tags"] == {"a": "b"}
    version = version_body("")
    version["properties"]["storageProfile"] = {"source": {"id": image}}
    published = succeeds(api, api.version(), version)["properties"]["storageProfile"]
    assert published["source"]["id"].lower() == image.lower()
    assert [each["lun"] for each in published["dataDiskImages"]] == [0]
    assert published["osDiskImage"]["diskDigest"] == shown["osDisk"]["diskDigest"]
    again = api.ask("PUT", api.version(), api.ask("GET", api.version()).body)
    assert again.status == 200, "what is read is put"
    version["properties"]["storageProfile"] = {"source": {"id": snapshot}}
    refused = api.ask("PUT", api.version(), version)
    assert (refused.code, refused.body["error"]["target"]) == (
        "PropertyChangeNotAllowed",
        "galleryImageVersion.properties.storageProfile.source.id",
    )
    version["properties"]["storageProfile"] = {"source": {"id": api.version()}}
    copied = succeeds(api, api.version("2.0.0"), version)["properties"]["storageProfile"]
    assert copied["dataDiskImages"][0]["diskDigest"] == published["dataDiskImages"][0]["diskDigest"]
    assert api.await_end(api.ask("DELETE", image))["status"] == "Succeeded"
    assert api.ask("GET", api.version()).status == 200


def test_version_from_separate_disks(api: Api, web: WebServer) -> None:
    api.found()
    disk = f"{api.compute}/disks/d1"
    shown = succeeds(api, disk, made_of("Import", sourceUri=web.url("/one.raw")))["properties"]
    version = version_body("")
    data = [{"lun": 1, "source": {"uri": web.url("/two.raw"), "id": "/subscriptions/s/storageAccounts/a"}}]
    version["properties"]["storageProfile"] = {"osDiskImage": {"source": {"id": disk}}, "dataDiskImages": data}
    published = succeeds(api, api.version(), version)["properties"]["storageProfile"]
    assert published["osDiskImage"]["source"]["id"].lower() == disk.lower()
    assert published["osDiskImage"]["diskDigest"] == shown["diskDigest"]
    assert published["dataDiskImages"][0]["source"] == {"uri": web.url("/two.raw")}
    assert api.ask("PUT", api.version(), api.ask("GET", api.version()).body).status == 200


@pytest.mark.parametrize(
    ("profile", "target"),
    [
        ({"source": {"id": "/etc/passwd"}}, "storageProfile.source.id"),
        ({"source": {"virtualMachineId": "/x"}}, "storageProfile.source"),
        ({"source": {"id": 7}}, "storageProfile.source.id"),
        ({"source": {"id": "%s/images/none", "uri": "x"}}, "storageProfile.source.uri"),
        ({"source": "x"}, "storageProfile.source"),
        ({"osDiskImage": {"source": {"id": "/etc/passwd"}}}, "storageProfile.osDiskImage.source.id"),
        ({"source": {"id": "%s/images/none"}}, "source"),
    ],
)
def test_invalid_version_sources_are_refused(api: Api, profile: Any, target: str) -> None:
    api.found()
    body = version_body("")
    body["properties"]["storageProfile"] = json.loads(json.dumps(profile).replace("%s", api.compute))
    refused = api.ask("PUT", api.version(), body)
    assert refused.status == 400, refused
    assert refused.body["error"]["target"].endswith(target)
    assert api.ask("GET", api.version()).status == 404


@pytest.mark.parametrize(
    ("profile", "target"),
    [
        ({}, "osDisk.managedDisk.id"),
        ({"osDisk": {"blobUri": "/etc/passwd"}}, "osDisk.blobUri"),
        ({"osDisk": {"snapshot": {"id": "s1"}}}, "osDisk.snapshot.id"),
        ({"osDisk": {"blobUri": "https://x.example/a"}, "dataDisks": [{"lun": 1}]}, "dataDisks"),
    ],
)
def test_invalid_images_are_refused(api: Api, profile: Any, target: str) -> None:
    api.found()
    refused = api.ask("PUT", f"{api.compute}/images/x", image_body(**profile))
    assert (refused.status, refused.body["error"]["target"]) == (400, f"properties.storageProfile.{target}")
