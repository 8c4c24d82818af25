"""Test galleries, definitions, versions, disks and groups: statuses, headers, bodies and refusals as in ARM."""

import json
from typing import Any

import pytest
from api_server import NEW, Api, definition_body, version_body

from imgstore.domain.identity.sharing import SharingPermission
from imgstore.operations.gallery import galleries
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN, GALLERY, GROUP

pytest_plugins = ["api_fixtures"]

OLD = "2018-06-01"


def test_gallery_is_created_replaced_changed_and_deleted(api: Api) -> None:
    missing = api.ask("PUT", api.gallery, {"location": "southcentralus"})
    assert (missing.status, missing.code) == (404, "ResourceGroupNotFound")
    assert api.ask("PUT", f"{api.top}/resourcegroups/{GROUP}", {"location": "westus2"}).status == 201
    made = api.ask(
        "PUT", api.gallery, {"location": "South Central US", "tags": {"a": "b"}, "properties": {"description": "d"}}
    )
    assert made.status == 201
    assert list(made.body) == ["name", "id", "type", "location", "tags", "properties"]
    assert (made.body["location"], made.body["tags"]) == ("southcentralus", {"a": "b"})
    assert made.body["properties"]["identifier"]["uniqueName"].endswith(f"-{GALLERY.upper()}")
    assert "location" not in made.headers, "Azure's PUT has no Location"
    assert made.headers["retry-after"] == "0"
    assert api.await_end(made)["status"] == "Succeeded"
    patched = api.ask("PATCH", api.gallery, {"properties": {"description": "e"}})
    assert (patched.status, patched.body["properties"]["description"], patched.body["tags"]) == (
        200,
        "e",
        {"a": "b"},
    )
    replaced = api.ask("PUT", api.gallery, {"location": "southcentralus", "properties": {}})
    assert (replaced.status, replaced.body["tags"], "description" in replaced.body["properties"]) == (200, {}, False)
    moved = api.ask("PUT", api.gallery, {"location": "eastus"})
    assert (moved.status, moved.code, moved.body["error"]["target"]) == (409, "PropertyChangeNotAllowed", "location")
    gone = api.ask("DELETE", api.gallery)
    assert (gone.status, gone.body) == (202, "")
    assert gone.headers["location"] == gone.headers["azure-asyncoperation"] + "&monitor=true"
    assert api.ask("GET", api.path_of(gone.headers["location"])).status == 200
    assert api.ask("DELETE", api.gallery).status == 204
    assert api.ask("GET", api.gallery).code == "ResourceNotFound"


def test_body_of_a_shared_gallery_can_be_put_again(api: Api) -> None:
    api.found()
    galleries.create_gallery(api.installation, ADMIN, group=GROUP, name=GALLERY, permission=SharingPermission.GROUPS)
    read = api.ask("GET", api.gallery, query="$select=Permissions")
    assert read.body["properties"]["sharingProfile"]["permissions"] == "Groups"
    assert "sharingProfile" not in api.ask("GET", api.gallery, version=OLD).body["properties"]
    assert api.ask("PUT", api.gallery, read.body).status == 200
    read.body["properties"]["sharingProfile"]["permissions"] = "Private"
    refused = api.ask("PUT", api.gallery, read.body)
    assert (refused.status, refused.body["error"]["target"]) == (409, "properties.sharingProfile.permissions")
    assert api.ask("PUT", api.gallery, {"location": "southcentralus"}, version=OLD).status == 200
    assert api.ask("GET", api.gallery).body["properties"]["sharingProfile"]["permissions"] == "Groups"


def test_paths_are_found_in_any_case(api: Api) -> None:
    api.found()
    for path in (api.gallery.upper(), api.gallery.lower(), api.gallery + "/"):
        assert api.ask("GET", path).body["name"] == GALLERY
    named = f"{api.top}/RESOURCEGROUPS/{GROUP}/PROVIDERS/MICROSOFT.COMPUTE/GALLERIES/gallerieS"
    assert api.ask("PUT", named, {"location": "eastus"}).body["name"] == "gallerieS", "a name is no word"


def test_definition_requires_fields_and_allows_changes(api: Api) -> None:
    api.found()
    for path in ("osType", "osState", "identifier"):
        body = definition_body()
        del body["properties"][path]
        refused = api.ask("PUT", f"{api.gallery}/images/other", body)
        assert (refused.status, refused.code) == (400, "InvalidParameter")
        assert refused.body["error"]["target"].startswith(f"galleryImage.properties.{path}")
    changed = definition_body(description="d", recommended={"vCPUs": {"min": 1, "max": 4}}, architecture="arm64")
    refused = api.ask("PUT", api.definition, changed)
    assert (refused.code, refused.body["error"]["target"]) == ("PropertyChangeNotAllowed", "properties.architecture")
    changed["properties"]["architecture"] = "X64"
    body = api.ask("PUT", api.definition, changed).body["properties"]
    assert (body["recommended"], body["architecture"]) == ({"vCPUs": {"min": 1, "max": 4}}, "x64")
    body = api.ask("PATCH", api.definition, {"properties": {"recommended": {"memory": {"max": 8}}}}).body["properties"]
    assert body["recommended"] == {"vCPUs": {"min": 1, "max": 4}, "memory": {"max": 8}}
    assert api.ask("DELETE", api.gallery).code == "CannotDeleteResource"


@pytest.mark.parametrize(("version", "generation", "features"), [(NEW, "V1", None), ("2025-03-03", "V2", 1)])
def test_defaults_of_a_definition_depend_on_the_api_version(
    api: Api, version: str, generation: str, features: int | None
) -> None:
    api.found()
    body = definition_body()
    body["properties"]["identifier"]["sku"] = "other"
    made = api.ask("PUT", f"{api.gallery}/images/other", body, version=version).body["properties"]
    assert made["hyperVGeneration"] == generation
    assert (len(made["features"]) if features else made.get("features")) == features


def test_newer_fields_are_hidden_from_old_api_versions_but_kept(api: Api) -> None:
    api.found()
    policy = {"softDeletePolicy": {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 3}}
    body = {"location": "southcentralus", "properties": policy}
    assert api.ask("PUT", api.gallery, body, version="2026-03-03").status == 200
    shown = api.ask("GET", api.gallery, version="2026-03-03").body["properties"]["softDeletePolicy"]
    assert shown == {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 3}
    assert api.ask("GET", api.gallery).body["properties"]["softDeletePolicy"] == {"isSoftDeleteEnabled": True}
    assert "softDeletePolicy" not in api.ask("GET", api.gallery, version=OLD).body["properties"]
    told = api.ask("PUT", api.gallery, {"location": "southcentralus", "properties": {"description": "x"}}, version=OLD)
    assert told.status == 200
    shown = api.ask("GET", api.gallery, version="2026-03-03").body["properties"]["softDeletePolicy"]
    assert shown == {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 3}
    api.ask("PUT", api.gallery, {"location": "southcentralus"}, version="2026-03-03")
    shown = api.ask("GET", api.gallery, version="2026-03-03").body["properties"]["softDeletePolicy"]
    assert shown == {"isSoftDeleteEnabled": False, "retentionPeriodInDays": 7}


def test_version_is_published_updated_and_deleted(api: Api, web: WebServer) -> None:
    api.found()
    south = {"name": "South Central US", "regionalReplicaCount": 2, "storageAccountType": "standard_lrs"}
    body = version_body(web.url("/one.raw"), south, "eastus", endOfLifeDate="2090-01-01T00:00:00Z")
    made = api.ask("PUT", api.version(), body)
    assert (made.status, made.body["properties"]["provisioningState"]) == (201, "Creating")
    assert api.await_end(made)["status"] == "Succeeded"
    shown = api.ask("GET", api.version(), query="$expand=replicationStatus").body["properties"]
    assert shown["provisioningState"] == "Succeeded"
    assert [each["name"] for each in shown["publishingProfile"]["targetRegions"]] == ["South Central US", "East US"]
    assert shown["replicationStatus"]["aggregatedState"] == "Completed"
    assert "replicationStatus" not in api.ask("GET", api.version()).body["properties"]
    assert "storageAccountType" not in json.dumps(api.ask("GET", api.version(), version=OLD).body)
    again = api.ask("PUT", api.version(), body)
    assert (again.status, api.await_end(again)["status"]) == (200, "Succeeded")
    other = api.ask("PUT", api.version(), version_body(web.url("/two.raw"), south))
    assert (other.status, other.code) == (409, "PropertyChangeNotAllowed")
    # az's update: what was read, with one region less, and no source; then a PATCH.
    whole = api.ask("GET", api.version()).body
    whole["properties"]["storageProfile"] = {}
    whole["properties"]["publishingProfile"]["targetRegions"] = ["southcentralus"]
    del whole["properties"]["publishingProfile"]["endOfLifeDate"]
    updated = api.ask("PUT", api.version(), whole)
    assert (updated.status, api.await_end(updated)["status"]) == (200, "Succeeded")
    profile = api.ask("GET", api.version()).body["properties"]["publishingProfile"]
    assert [(each["name"], each["regionalReplicaCount"]) for each in profile["targetRegions"]] == [
        ("South Central US", 1)
    ]
    assert "endOfLifeDate" not in profile
    patched = api.ask(
        "PATCH", api.version(), {"tags": {"x": "y"}, "properties": {"publishingProfile": {"excludeFromLatest": True}}}
    )
    assert (patched.status, patched.body["tags"]) == (200, {"x": "y"})
    assert patched.body["properties"]["publishingProfile"]["excludeFromLatest"] is True
    assert api.ask("DELETE", api.definition).code == "CannotDeleteResource"
    gone = api.ask("DELETE", api.version())
    assert (gone.status, api.await_end(gone)["status"]) == (202, "Succeeded")
    assert api.ask("GET", api.version()).status == 404
    assert api.ask("DELETE", api.version()).status == 204


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"osDiskImage": {"source": {"uri": "/etc/passwd"}}}, "osDiskImage.source.uri"),
        ({"osDiskImage": {"source": {"uri": "file:///etc/passwd"}}}, "osDiskImage.source.uri"),
        ({"osDiskImage": {"source": {"uri": "s3://bucket/key"}}}, "osDiskImage.source.uri"),
        ({"osDiskImage": {"source": {"id": "/subscriptions/s/x"}}}, "osDiskImage.source.id"),
        ({"source": {"id": "/subscriptions/s/x"}}, "storageProfile.source.id"),
        ({"dataDiskImages": [{"lun": 0}]}, "galleryImageVersion.properties.storageProfile"),
        ({"dataDiskImages": [{}]}, "dataDiskImages.lun"),
        ({"dataDiskImages": [{"lun": 64}]}, "dataDiskImages.lun"),
        ({"dataDiskImages": [{"lun": 5}, {"lun": 5}]}, "dataDiskImages.lun"),
        ({"dataDiskImages": [{"lun": 5, "source": {"uri": "/etc/passwd"}}]}, "dataDiskImages[5].source.uri"),
        ({}, "galleryImageVersion.properties.storageProfile"),
    ],
)
def test_unsupported_source_is_refused(api: Api, change: Any, target: str) -> None:
    api.found()
    body = version_body("https://x.example/a.vhd")
    body["properties"]["storageProfile"] = change
    refused = api.ask("PUT", api.version(), body)
    assert (refused.status, refused.code) == (400, "InvalidParameter")
    assert refused.body["error"]["target"].endswith(target)
    assert api.ask("GET", api.version()).status == 404


def test_failed_operation_reports_the_region_and_the_error(api: Api, web: WebServer) -> None:
    api.found()
    zone = api.installation.home / "regions" / "imgstore-eastus"
    zone.parent.mkdir(exist_ok=True)
    zone.symlink_to(zone)
    made = api.ask("PUT", api.version(), version_body(web.url("/one.raw"), "southcentralus", "eastus"))
    assert made.status == 201
    told = api.await_end(made)
    assert (told["status"], told["error"]["code"]) == ("Failed", "ReplicationJobsFailed")
    assert [each["target"] for each in told["error"]["details"]] == ["eastus"]
    assert api.ask("GET", api.path_of(made.headers["azure-asyncoperation"]) + "&monitor=true").status == 409
    shown = api.ask("GET", api.version(), query="$expand=ReplicationStatus").body["properties"]
    assert shown["provisioningState"] == "Failed"
    assert [each["state"] for each in shown["replicationStatus"]["summary"]] == ["Completed", "Failed"]
    zone.unlink()
    again = api.ask("PUT", api.version(), version_body(web.url("/one.raw"), "southcentralus", "eastus"))
    assert api.await_end(again)["status"] == "Succeeded", "the same request goes on"


def test_soft_deleted_version_is_listed_and_restored(api: Api, web: WebServer) -> None:
    api.found()
    api.ask("PATCH", api.gallery, {"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": True}}})
    api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
    api.await_end(api.ask("DELETE", api.version()))
    softly = f"{api.gallery}/softdeletedartifacttypes/images/artifacts/ubuntu/versions"
    listed = api.ask("GET", softly, version="2026-03-03").body["value"]
    assert [each["name"] for each in listed] == ["1.0.0"]
    assert "hardDeletionTargetTime" not in api.ask("GET", softly, version="2024-03-03").body["value"][0]["properties"]
    back = api.ask("PUT", api.version(), {"location": "southcentralus", "tags": {}})  # as az undelete sends it
    assert (back.status, api.await_end(back)["status"]) == (200, "Succeeded")
    assert api.ask("GET", api.version()).status == 200
    gone = api.ask("DELETE", api.version(), query="bypassSoftDelete=true")
    assert api.await_end(gone)["status"] == "Succeeded"
    assert api.ask("GET", softly).body["value"] == []


def test_disk_is_created_shown_listed_and_deleted(api: Api, web: WebServer) -> None:
    api.found()
    api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
    path = f"{api.compute}/disks/d1"
    image = {"createOption": "FromImage", "galleryImageReference": {"id": api.version()}}
    body = {"location": "southcentralus", "properties": {"creationData": image}}
    made = api.ask("PUT", path, body, version="2025-01-02")
    assert made.status == 202, "az disk create takes no 201"
    assert "location" not in made.headers
    assert api.await_end(made)["status"] == "Succeeded"
    assert api.ask("PUT", path, body).status == 200
    assert api.ask("GET", path).body["properties"]["provisioningState"] == "Succeeded"
    for above in (api.compute, f"{api.top}/providers/Microsoft.Compute"):
        assert [each["name"] for each in api.ask("GET", f"{above}/disks").body["value"]] == ["d1"]
    image["createOption"] = "Empty"
    refused = api.ask("PUT", f"{api.compute}/disks/d2", body)
    assert (refused.status, refused.body["error"]["target"]) == (400, "properties.creationData.createOption")
    assert api.ask("DELETE", f"{api.top}/resourceGroups/{GROUP}").code == "CannotDeleteResource"
    assert api.await_end(api.ask("DELETE", path))["status"] == "Succeeded"
    assert api.ask("GET", path).status == 404


def test_disk_is_created_from_a_data_disk_of_a_version(api: Api, web: WebServer) -> None:
    api.found()
    body = version_body(web.url("/one.raw"))
    data = {"lun": 5, "hostCaching": "none", "source": {"uri": web.url("/two.raw")}}
    body["properties"]["storageProfile"]["dataDiskImages"] = [data]
    assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    shown = api.ask("GET", api.version()).body
    (image,) = shown["properties"]["storageProfile"]["dataDiskImages"]
    assert (image["lun"], image["hostCaching"], image["sizeInGB"]) == (5, "None", 1)
    assert api.ask("PUT", api.version(), shown).status == 200, "what is read is put"
    for change, target in (
        ({"lun": 6}, "dataDiskImages"),
        ({"hostCaching": "ReadOnly"}, "dataDiskImages[5].hostCaching"),
        ({"source": {"uri": web.url("/one.raw")}}, "dataDiskImages[5].source.uri"),
    ):
        shown["properties"]["storageProfile"]["dataDiskImages"] = [image | change]
        refused = api.ask("PUT", api.version(), shown)
        assert (refused.code, refused.body["error"]["target"].rpartition("storageProfile.")[2]) == (
            "PropertyChangeNotAllowed",
            target,
        )
    reference = {"id": api.version(), "lun": 5}
    creation = {"createOption": "FromImage", "galleryImageReference": reference}
    disk = {"location": "southcentralus", "properties": {"creationData": creation}}
    assert api.await_end(api.ask("PUT", f"{api.compute}/disks/data", disk))["status"] == "Succeeded"
    made = api.ask("GET", f"{api.compute}/disks/data").body["properties"]
    assert (made["creationData"]["galleryImageReference"], made["diskDigest"]) == (reference, image["diskDigest"])
    reference["lun"] = 4
    assert api.ask("PUT", f"{api.compute}/disks/none", disk).code == "GalleryImageNotFound"


def test_patch_of_a_disk_changes_only_tags(api: Api, web: WebServer) -> None:
    api.found()
    api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
    path = f"{api.compute}/disks/d1"
    creation = {"createOption": "FromImage", "galleryImageReference": {"id": api.version()}}
    api.await_end(api.ask("PUT", path, {"location": "southcentralus", "properties": {"creationData": creation}}))
    patched = api.ask("PATCH", path, {"tags": {"team": "images"}})
    assert (patched.status, patched.body["tags"], api.await_end(patched)["status"]) == (
        200,
        {"team": "images"},
        "Succeeded",
    )
    assert api.ask("PATCH", path, {}).body["tags"] == {"team": "images"}
    refused = api.ask("PATCH", path, {"properties": {"diskSizeGB": 64}})
    assert (refused.status, refused.body["error"]["target"]) == (409, "properties.diskSizeGB")
    assert api.ask("PATCH", f"{api.compute}/disks/none", {"tags": {}}).status == 404


def test_resource_groups(api: Api) -> None:
    path = f"{api.top}/resourcegroups/rg2"
    assert (api.ask("HEAD", path).status, api.ask("GET", path).code) == (404, "ResourceGroupNotFound")
    assert api.ask("PUT", path, {}).code == "LocationRequired"
    assert api.ask("PUT", path, {"location": "eastus"}, version="2024-11-01").status == 201
    assert api.ask("PUT", path, {"location": "eastus", "tags": {"a": "b"}}).status == 200
    assert api.ask("HEAD", path).status == 204
    assert [each["name"] for each in api.ask("GET", f"{api.top}/resourceGroups").body["value"]] == ["rg2"]
    gone = api.ask("DELETE", path)
    assert (gone.status, api.await_end(gone)["status"]) == (202, "Succeeded")
    assert api.ask("DELETE", path).status == 404


def test_change_with_a_stale_etag_is_refused(api: Api) -> None:
    api.found()
    read = api.ask("GET", api.gallery)
    tag = read.headers["etag"]
    assert api.ask("GET", api.gallery, headers={"If-None-Match": tag}).status == 304
    change = {"properties": {"description": "mine"}}
    assert api.ask("PATCH", api.gallery, change, headers={"If-Match": tag}).status == 200
    late = api.ask("PATCH", api.gallery, {"properties": {"description": "late"}}, headers={"If-Match": tag})
    assert (late.status, late.code) == (412, "PreconditionFailed")
    assert api.ask("PUT", api.gallery, {"location": "southcentralus"}, headers={"If-None-Match": "*"}).status == 412
    assert api.ask("DELETE", api.definition, headers={"If-Match": tag}).status == 412
    assert api.ask("GET", api.gallery).body["properties"]["description"] == "mine"
    own = api.ask("GET", api.definition).headers["etag"]
    assert api.ask("DELETE", api.definition, headers={"If-Match": own}).status == 202
