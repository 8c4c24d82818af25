"""Compare answers with the bodies of Azure's examples (2023-07-03): common fields have the same kind.

azure_shapes.json contains the path and the kind of each field of the examples, by resource.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from api_server import Api, version_body

from imgstore.operations.gallery.groups import create_group
from tests.support.http_server import WebServer
from tests.support.sample_gallery import ADMIN, GALLERY

pytest_plugins = ["api_fixtures"]

SHAPES: Final = json.loads(Path(__file__).with_name("azure_shapes.json").read_text())
OTHER: Final = "22222222-2222-2222-2222-222222222222"
OURS: Final = ("sizeInBytes", "diskDigest", "bytesDone", "bytesTotal", "bytesPerSecond", "etaSeconds", "replicas")
"""Fields that imgstore adds. Each resource has a type and tags, which the examples omit."""
BESIDE: Final[dict[str, tuple[str, ...]]] = {
    "definition": ("properties.architecture",),
    "version": (
        "properties.publishingProfile.replicationMode",
        "properties.publishingProfile.excludeFromLatest",
        "properties.publishingProfile.endOfLifeDate",
        "properties.storageProfile.osDiskImage.source.uri",
        "properties.storageProfile.dataDiskImages[].source.uri",
    ),
    "communityImage": ("properties.architecture",),
    "sharedImage": ("properties.architecture",),
    "sharedVersion": tuple(
        f"properties.storageProfile.dataDiskImages{rest}"
        for rest in ("", "[]", "[].lun", "[].diskSizeGB", "[].hostCaching")
    ),
}
"""Fields of the specification that no example contains."""
KINDS: Final = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Return the kind of each field by path. Tags have names of the caller."""
    if isinstance(value, dict):
        inner = value.items() if path != "tags" else ()
        below = {
            name: kind for key, each in inner for name, kind in shape(each, f"{path}.{key}" if path else key).items()
        }
        return below | ({path: "object"} if path else {})
    if isinstance(value, list):
        return {path: "array"} | {name: kind for each in value for name, kind in shape(each, f"{path}[]").items()}
    return {path: KINDS[type(value)]}


def check(resource: str, body: Any) -> None:
    """Check that each field of a body exists in Azure's body with the same kind."""
    azure, beside = SHAPES[resource], BESIDE.get(resource, ())
    ours = {
        path: kind
        for path, kind in shape(body).items()
        if path not in (*beside, "type", "tags") and not set(re.split(r"\.|\[\]\.?", path)) & set(OURS)
    }
    assert ours == {path: azure.get(path) for path in ours}


def test_answers_have_azures_shapes(api: Api, web: WebServer) -> None:
    api.found()
    body = version_body(web.url("/one.raw"), endOfLifeDate="2090-01-01T00:00:00Z")
    data = [{"lun": 1, "source": {"uri": web.url("/two.raw")}}]
    body["properties"]["storageProfile"]["dataDiskImages"] = data
    api.await_end(api.ask("PUT", api.version(), body))
    share = {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": [OTHER]}]}
    api.await_end(api.ask("POST", f"{api.gallery}/share", share))
    check("gallery", api.ask("GET", api.gallery, query="$expand=SharingProfile/Groups").body)
    check("definition", api.ask("GET", api.definition).body)
    check("version", api.ask("GET", api.version(), query="$expand=ReplicationStatus").body)
    create_group(replace(api.installation, subscription=OTHER), ADMIN, name="theirs", location="southcentralus")
    top = f"/subscriptions/{OTHER}/providers/Microsoft.Compute/locations/southcentralus"
    shared = f"{top}/sharedGalleries/{api.installation.subscription}-{GALLERY.upper()}"
    check("sharedGallery", api.ask("GET", shared).body)
    check("sharedImage", api.ask("GET", f"{shared}/images/ubuntu").body)
    check("sharedVersion", api.ask("GET", f"{shared}/images/ubuntu/versions/1.0.0").body)


def test_community_gallery_has_azures_shapes(api: Api, web: WebServer) -> None:
    api.found()
    api.await_end(api.ask("PUT", api.version(), version_body(web.url("/one.raw"))))
    info = {
        "publisherUri": "https://example.org",
        "publisherContact": "a@example.org",
        "eula": "e",
        "publicNamePrefix": "prefix",
    }
    profile = {"permissions": "Community", "communityGalleryInfo": info}
    changed = api.ask("PATCH", api.gallery, {"properties": {"sharingProfile": profile}})
    assert changed.status == 200, changed
    api.await_end(api.ask("POST", f"{api.gallery}/share", {"operationType": "EnableCommunity"}))
    read = api.ask("GET", api.gallery).body
    check("gallery", read)
    (public,) = read["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNames"]
    top = f"{api.top}/providers/Microsoft.Compute/locations/southcentralus/communityGalleries/{public}"
    check("communityGallery", api.ask("GET", top).body)
    check("communityImage", api.ask("GET", f"{top}/images/ubuntu").body)
    check("communityVersion", api.ask("GET", f"{top}/images/ubuntu/versions/1.0.0").body)
