"""Test that each list has pages, shows each item once, and rejects tokens of other lists."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import Api, definition_body, start_api

from imgstore.domain.names import VersionName
from imgstore.domain.requests import ImageRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.gallery import galleries, sharing
from imgstore.operations.gallery.groups import create_group
from imgstore.operations.machines import images
from imgstore.operations.versions import delete as versions_delete
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, publish

OTHER = "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Api]:
    """Run a server with two items on a page."""
    with start_api(tmp_path / "home", page_items=2) as api:
        api.found()
        yield api


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=MIB)


def walked(api: Api, path: str, **more: Any) -> list[list[Any]]:
    """Return the resources of all pages."""
    pages: list[list[Any]] = []
    answer = api.ask("GET", path, **more)
    while True:
        assert answer.status == 200, answer
        pages.append(answer.body["value"])
        if "nextLink" not in answer.body:
            return pages
        answer = api.ask("GET", api.path_of(answer.body["nextLink"]))


def names(pages: list[list[Any]]) -> list[list[str]]:
    return [[each["name"] for each in page] for page in pages]


def test_managed_images_with_all_disks(short: Api, disk: Path) -> None:
    create_group(short.installation, ADMIN, name="other", location="southcentralus")
    for group, name in ((GROUP, "b"), (GROUP, "A"), ("other", "a"), (GROUP, "c"), ("other", "d")):
        asked = ImageRequest(
            group=group, name=name, source=str(disk), data_sources=[str(disk)] * 2, location="southcentralus"
        )
        images.create_image(short.installation, ADMIN, asked)
    everywhere = walked(short, f"{short.top}/providers/Microsoft.Compute/images")
    assert [name.lower() for page in names(everywhere) for name in page] == ["a", "a", "b", "c", "d"]
    assert [len(page) for page in everywhere] == [2, 2, 1]
    for each in (image for page in everywhere for image in page):
        profile = each["properties"]["storageProfile"]
        assert [data["lun"] for data in profile["dataDisks"]] == [0, 1]
    assert len({each["id"] for page in everywhere for each in page}) == 5
    assert names(walked(short, f"{short.compute}/images")) == [["A", "b"], ["c"]]
    token = short.ask("GET", f"{short.compute}/images").body["nextLink"].partition("skiptoken=")[2]
    assert short.ask("GET", f"{short.compute}/disks", query=f"$skiptoken={token}").code == "InvalidParameter"


def test_shared_galleries(short: Api, disk: Path) -> None:
    for name in ("g2", "G3"):
        galleries.create_gallery(short.installation, ADMIN, group=GROUP, name=name, location="southcentralus")
    for name in (GALLERY, "g2", "G3"):
        sharing.share_add(short.installation, ADMIN, group=GROUP, name=name, subscriptions=[OTHER])
    for definition in ("a", "b"):
        unique = {"publisher": "p", "offer": "o", "sku": definition}
        body = definition_body(identifier=unique)
        assert short.ask("PUT", f"{short.gallery}/images/{definition}", body).status == 201
    for version in ("1.0.0", "1.0.2", "1.0.10"):
        publish(short.installation, disk, version, ["southcentralus"])
    create_group(replace(short.installation, subscription=OTHER), ADMIN, name="theirs", location="southcentralus")
    above = f"/subscriptions/{OTHER}/providers/Microsoft.Compute/locations/southcentralus/sharedGalleries"
    listed = names(walked(short, above))
    assert [len(page) for page in listed] == [2, 1]
    assert [name.rpartition("-")[2].lower() for page in listed for name in page] == [GALLERY, "g2", "g3"]
    shared = f"{above}/{listed[0][0]}/images"
    assert names(walked(short, shared)) == [["a", "b"], [DEFINITION]]
    assert names(walked(short, f"{shared}/{DEFINITION}/versions")) == [["1.0.0", "1.0.2"], ["1.0.10"]]
    assert short.ask("GET", above, query="$skiptoken=nonsense").code == "InvalidParameter"


def test_soft_deleted_versions(short: Api, disk: Path) -> None:
    galleries.create_gallery(short.installation, ADMIN, group=GROUP, name=GALLERY, soft_delete_enabled=True)
    for version in ("1.0.0", "1.0.2", "1.0.10"):
        publish(short.installation, disk, version, ["southcentralus"])
        versions_delete.delete_version(
            short.installation,
            ADMIN,
            group=GROUP,
            gallery=GALLERY,
            definition=DEFINITION,
            version=VersionName.parse(version),
        )
    path = f"{short.gallery}/softDeletedArtifactTypes/Images/artifacts/{DEFINITION}/versions"
    assert names(walked(short, path, version="2024-03-03")) == [["1.0.0", "1.0.2"], ["1.0.10"]]


def test_deployments(short: Api) -> None:
    above = f"{short.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments"
    body = {"properties": {"mode": "Incremental", "template": {"resources": []}}}
    for name in ("b", "C", "a"):
        short.await_end(short.ask("PUT", f"{above}/{name}", body, version="2021-04-01"))
    assert names(walked(short, above, version="2021-04-01")) == [["a", "b"], ["C"]]
