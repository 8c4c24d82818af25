"""Test the sharing of galleries: changes of the owner, and the view of other subscriptions."""

from dataclasses import replace

import pytest
from api_server import Api, version_body

from imgstore.operations.gallery.groups import create_group
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN, GALLERY

pytest_plugins = ["api_fixtures"]

OTHER = "22222222-2222-2222-2222-222222222222"
COMMUNITY = {
    "permissions": "Community",
    "communityGalleryInfo": {
        "publisherUri": "https://example.org",
        "publisherContact": "images@example.org",
        "eula": "https://example.org/terms",
        "publicNamePrefix": "example",
    },
}


def share(api: Api, operation: str, *ids: str, kind: str = "Subscriptions") -> None:
    """Send a change, and check the result."""
    body = {"operationType": operation, "groups": [{"type": kind, "ids": list(ids)}] if ids else None}
    answer = api.ask("POST", f"{api.gallery}/share", body)
    assert (answer.status, answer.body) == (202, "")
    assert api.await_end(answer)["status"] == "Succeeded"
    assert api.ask("GET", api.path_of(answer.headers["location"])).status == 200


@pytest.fixture
def other(api: Api) -> str:
    """Return the path of another subscription with a resource."""
    create_group(replace(api.installation, subscription=OTHER), ADMIN, name="theirs", location="southcentralus")
    return f"/subscriptions/{OTHER}/providers/Microsoft.Compute/locations/southcentralus"


def test_gallery_is_shared_and_sharing_is_removed(api: Api, other: str) -> None:
    api.found()
    assert "sharingProfile" not in api.ask("GET", api.gallery).body["properties"]
    share(api, "Add", OTHER)
    share(api, "add", api.installation.subscription, kind="aadTenants")
    shown = api.ask("GET", api.gallery, query="$expand=sharingProfile/Groups").body["properties"]["sharingProfile"]
    assert shown == {
        "permissions": "Groups",
        "groups": [
            {"type": "Subscriptions", "ids": [OTHER]},
            {"type": "AADTenants", "ids": [api.installation.subscription]},
        ],
    }
    unique = f"{api.installation.subscription}-{GALLERY.upper()}"
    listed = api.ask("GET", f"{other}/sharedgalleries").body["value"]
    assert [each["name"] for each in listed] == [unique]
    assert listed[0]["identifier"] == {"uniqueId": f"/SharedGalleries/{unique}"}
    assert api.ask("GET", f"{other}/sharedGalleries", query="sharedTo=tenant").body["value"] == []
    assert api.ask("GET", f"{other}/sharedGalleries", query="sharedTo=all").status == 400
    assert api.ask("GET", f"{other}/sharedGalleries/{unique}").body == listed[0]
    share(api, "Remove", OTHER)
    assert api.ask("GET", f"{other}/sharedGalleries/{unique}").code == "GalleryNotFound"
    share(api, "Reset")
    assert api.ask("GET", api.gallery).body["properties"]["sharingProfile"] == {"permissions": "Private"}


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({}, "operationType"),
        ({"operationType": "Give"}, "operationType"),
        ({"operationType": "Add", "groups": {}}, "properties.sharingProfile.groups"),
        ({"operationType": "Add", "groups": "all"}, "groups"),
        ({"operationType": "Add", "groups": [{"type": "Everybody", "ids": [OTHER]}]}, "groups"),
        ({"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": "x"}]}, "groups"),
        (
            {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": ["x"]}]},
            "properties.sharingProfile.groups",
        ),
    ],
)
def test_invalid_sharing_is_refused(api: Api, body: object, target: str) -> None:
    api.found()
    refused = api.ask("POST", f"{api.gallery}/share", body)
    assert (refused.status, refused.body["error"]["target"]) == (400, target)


def test_content_of_a_shared_gallery_is_shown_and_used(api: Api, other: str, web: WebServer) -> None:
    api.found()
    api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
    share(api, "Add", OTHER)
    unique = f"{api.installation.subscription}-{GALLERY.upper()}"
    images = f"{other}/sharedGalleries/{unique}/images"
    (image,) = api.ask("GET", images).body["value"]
    assert (image["name"], image["properties"]["osType"]) == ("ubuntu", "Linux")
    assert api.ask("GET", f"{images}/ubuntu").body == image
    (version,) = api.ask("GET", f"{images}/ubuntu/versions").body["value"]
    assert version["identifier"]["uniqueId"] == f"/SharedGalleries/{unique}/Images/ubuntu/Versions/1.0.0"
    assert version["properties"]["storageProfile"]["osDiskImage"]["diskSizeGB"] == 1
    assert "source" not in str(version)
    assert api.ask("GET", f"{images}/ubuntu/versions/1.0.0").body == version
    for path in (f"{images}/none", f"{images}/ubuntu/versions/2.0.0", f"{other}/communityGalleries/{unique}/images"):
        assert api.ask("GET", path).status == 404, path
    disk = f"/subscriptions/{OTHER}/resourceGroups/theirs/providers/Microsoft.Compute/disks/d1"
    reference = {"sharedGalleryImageId": version["identifier"]["uniqueId"]}
    creation = {"createOption": "FromImage", "galleryImageReference": reference}
    body = {"location": "southcentralus", "properties": {"creationData": creation}}
    assert api.await_end(api.ask("PUT", disk, body))["status"] == "Succeeded"
    share(api, "Reset")
    assert api.ask("GET", disk).body["properties"]["provisioningState"] == "Succeeded", "it lives on"
    assert api.ask("PUT", disk.replace("d1", "d2"), body).status == 404


def test_community_gallery(api: Api, other: str) -> None:
    api.found()
    body = {"location": "southcentralus", "properties": {"sharingProfile": COMMUNITY}}
    missing = {"location": "southcentralus", "properties": {"sharingProfile": {"permissions": "Community"}}}
    assert api.ask("PUT", api.gallery, missing).status == 400
    api.await_end(api.ask("PUT", api.gallery, body))
    share(api, "EnableCommunity")
    read = api.ask("GET", api.gallery).body
    (public,) = read["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNames"]
    assert public.startswith("example-")
    assert api.ask("PUT", api.gallery, read).status == 200, "what is read is put"
    shown = api.ask("GET", f"{other}/communityGalleries/{public}").body
    assert shown["properties"]["communityMetadata"]["publicNames"] == [public]
    assert [each["name"] for each in api.ask("GET", f"{other}/communityGalleries/{public}/images").body["value"]] == [
        "ubuntu"
    ]
    asked = "communitygalleryresources| where type == 'microsoft.compute/locations/communitygalleries' "
    graph = "/providers/microsoft.resourcegraph/resources"
    for query, names in (
        (asked, [public]),
        (f"{asked}| where location == 'southcentralus' ", [public]),
        (f"{asked}| where location == 'eastus' ", []),
    ):
        told = api.ask("POST", graph, {"query": query}, version="2021-03-01")
        assert [each["name"] for each in told.body["data"]] == names
        assert told.body["count"] == len(names)
    assert api.ask("POST", graph, {"query": "resources | where name == 'x'"}, version="2021-03-01").status == 400
