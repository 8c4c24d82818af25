"""Every operation authorizes the caller first. A caller without a role sees and changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain import names
from imgstore.domain.errors import AccessDenied, ImgstoreError, NotFound
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.resources import OsType
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import definitions, galleries, groups
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.versions import delete as versions_delete
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home, publish

VERSION = VersionName.parse("1.0.0")


def made(folder: Path) -> Iterator[Installation]:
    disk = folder / "disk.raw"
    disk.write_bytes(b"disk\0" * 2048)
    with open_home(folder / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, disk, "1.0.0", ["southcentralus"])
        publish(installation, disk, "1.0.1", ["southcentralus"])
        galleries.create_gallery(installation, ADMIN, group="other", name="g2", location="southcentralus")
        make_disk(installation, ADMIN, GROUP, "d1")
        yield installation


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One that tests knock at, and never change."""
    yield from made(tmp_path_factory.mktemp("access"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    """One that a test may change."""
    yield from made(tmp_path)


def scopes(installation: Installation) -> dict[str, str]:
    sub = installation.subscription
    return {
        "subscription": f"/subscriptions/{sub}",
        "group": names.group_id(sub, GROUP),
        "gallery": names.gallery_id(sub, GROUP, GALLERY),
        "definition": names.definition_id(sub, GROUP, GALLERY, DEFINITION),
        "version": names.version_id(sub, GROUP, GALLERY, DEFINITION, VERSION),
        "other": names.group_id(sub, "other"),
        "elsewhere": "/subscriptions/elsewhere",
    }


def ann(installation: Installation, *grants: tuple[Role, str]) -> Principal:
    places = scopes(installation)
    return Principal(name="ann", uid="7", grants=tuple(Grant(role=role, scope=places[at]) for role, at in grants))


def outcome(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except ImgstoreError as error:
        return error.error_code


def seen(installation: Installation, who: Principal) -> dict[str, Any]:
    """What each list shows."""
    inside = {"group": GROUP, "gallery": GALLERY}
    return {
        "groups": outcome(lambda: [each.name for each in groups.list_groups(installation, who)]),
        "galleries": outcome(lambda: [each.name for each in galleries.list_galleries(installation, who)]),
        "definitions": outcome(
            lambda: [each.definition.name for each in definitions.list_definitions(installation, who, **inside)]
        ),
        "versions": outcome(
            lambda: [
                str(each.version.name)
                for each in gallery_versions.list_versions(installation, who, definition=DEFINITION, **inside)
            ]
        ),
        "disks": outcome(lambda: [each.name for each in disks.list_disks(installation, who)]),
    }


DENIED, UNKNOWN = "AuthorizationFailed", "SubscriptionNotFound"
ALL = {
    "groups": ["other", "rg"],
    "galleries": ["g1", "g2"],
    "definitions": ["ubuntu"],
    "versions": ["1.0.0", "1.0.1"],
    "disks": ["d1"],
}


@pytest.mark.parametrize(
    ("role", "at", "shows"),
    [
        (Role.READER, "subscription", ALL),
        (Role.READER, "group", ALL | {"groups": ["rg"], "galleries": ["g1"]}),
        (Role.READER, "gallery", ALL | {"groups": [], "galleries": ["g1"], "disks": []}),
        (Role.READER, "definition", ALL | {"groups": [], "galleries": [], "disks": []}),
        (
            Role.READER,
            "version",
            {"groups": [], "galleries": [], "definitions": [], "versions": ["1.0.0"], "disks": []},
        ),
        (Role.IMAGE_READER, "gallery", ALL | {"groups": [], "galleries": [], "disks": []}),
        (Role.SHARING_ADMIN, "gallery", {key: [] for key in ALL}),
        (
            Role.OWNER,
            "other",
            {"groups": ["other"], "galleries": ["g2"], "definitions": DENIED, "versions": DENIED, "disks": []},
        ),
        (Role.OWNER, "elsewhere", dict.fromkeys(ALL, UNKNOWN)),
    ],
)
def test_lists_contain_only_readable_resources(home: Installation, role: Role, at: str, shows: dict[str, Any]) -> None:
    assert seen(home, ann(home, (role, at))) == shows


def test_page_is_filled_with_readable_resources(home: Installation) -> None:
    """The token continues behind the page and skips hidden resources."""
    reader = ann(home, (Role.READER, "other"))
    page = galleries.page_galleries(home, reader, PageRequest(items_max=1))
    assert ([each.name for each in page.items], page.next_token) == (["g2"], None)
    whole = galleries.page_galleries(home, ADMIN, PageRequest(items_max=1))
    assert [each.name for each in whole.items] == ["g1"]
    rest = galleries.page_galleries(home, ADMIN, PageRequest(items_max=1, token=whole.next_token))
    assert [each.name for each in rest.items] == ["g2"]


@pytest.mark.parametrize("name", [GALLERY, "missing"])
def test_refusal_does_not_reveal_existing_resources(home: Installation, name: str) -> None:
    who, stranger = ann(home, (Role.READER, "other")), ann(home, (Role.OWNER, "elsewhere"))
    reads: list[Callable[[Principal], Any]] = [
        lambda each: galleries.show_gallery(home, each, group=GROUP, name=name),
        lambda each: definitions.show_definition(home, each, group=GROUP, gallery=name, name=DEFINITION),
        lambda each: definitions.list_definitions(home, each, group=GROUP, gallery=name),
        lambda each: gallery_versions.show_version(
            home, each, group=GROUP, gallery=name, definition=DEFINITION, version=VERSION
        ),
        lambda each: gallery_versions.list_versions(home, each, group=GROUP, gallery=name, definition=DEFINITION),
        lambda each: groups.show_group(home, each, name=name),
        lambda each: disks.show_disk(home, each, group=GROUP, name=name),
        lambda each: galleries.delete_gallery(home, each, group=GROUP, name=name),
    ]
    for read in reads:
        with pytest.raises(AccessDenied, match=r"does not have authorization to perform action 'Microsoft\."):
            read(who)
        with pytest.raises(NotFound, match="The subscription '"):
            read(stranger)


def test_every_refusal_is_in_the_activity_log(home: Installation) -> None:
    stranger = Principal(name="mallory")
    with pytest.raises(NotFound):
        galleries.show_gallery(home, stranger, group=GROUP, name=GALLERY)
    with pytest.raises(NotFound):
        galleries.list_galleries(home, stranger)
    with pytest.raises(NotFound):
        galleries.delete_gallery(home, stranger, group=GROUP, name=GALLERY)
    with home.catalog.reading() as transaction:
        rows = [row for row in transaction.activity.list(3) if row.principal == "mallory"]
    assert [(row.action, row.outcome) for row in rows] == [
        ("Microsoft.Compute/galleries/delete", "Failed"),
        ("Microsoft.Resources/subscriptions/read", "Failed"),
        ("Microsoft.Compute/galleries/read", "Failed"),
    ]


def make_disk(home: Installation, who: Principal, group: str, name: str, version: str = "/1.0.0") -> None:
    reference = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}{version}")
    disks.create_disk(
        home, who, DiskOfImageRequest(group=group, name=name, location="southcentralus", reference=reference)
    )


def test_disk_needs_rights_on_version_and_group(own: Installation) -> None:
    reads, makes = (Role.IMAGE_READER, "version"), (Role.CONTRIBUTOR, "other")
    for lacking, action in ((ann(own, reads), "disks/write"), (ann(own, makes), "images/versions/read")):
        with pytest.raises(AccessDenied, match=action):
            make_disk(own, lacking, "other", "mine")
    both = ann(own, reads, makes)
    make_disk(own, both, "other", "mine")
    with pytest.raises(AccessDenied, match="images/versions/read"):
        make_disk(own, both, "other", "second", "/1.0.1")
    with pytest.raises(AccessDenied, match="images/versions/read"):
        make_disk(own, both, "other", "second", "")
    make_disk(own, ann(own, (Role.IMAGE_READER, "definition"), makes), "other", "second", "")
    with pytest.raises(AccessDenied):
        make_disk(own, both, GROUP, "third")


def test_right_to_create_disks_does_not_create_groups(own: Installation) -> None:
    publisher = ann(own, (Role.ARTIFACTS_PUBLISHER, "subscription"))
    with pytest.raises(AccessDenied, match="subscriptions/resourceGroups/write"):
        make_disk(own, publisher, "fresh", "d")
    with pytest.raises(AccessDenied, match="subscriptions/resourceGroups/write"):
        galleries.create_gallery(own, publisher, group="fresh", name="g9")
    make_disk(own, publisher, "other", "published")
    make_disk(own, ann(own, (Role.CONTRIBUTOR, "subscription")), "fresh", "d")


def test_reader_may_not_export_a_disk(home: Installation, tmp_path: Path) -> None:
    def export(who: Principal, name: str) -> None:
        disks_export.export_disk(home, who, group=GROUP, name="d1", path=tmp_path / name)

    with pytest.raises(AccessDenied, match="disks/beginGetAccess/action"):
        export(ann(home, (Role.READER, "subscription")), "a.vhd")
    export(ann(home, (Role.CONTRIBUTOR, "group")), "b.vhd")
    image = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")
    disks_export.export_image(home, ann(home, (Role.READER, "version")), reference=image, path=tmp_path / "c.vhd")
    with pytest.raises(AccessDenied):
        disks_export.export_image(home, ann(home, (Role.OWNER, "other")), reference=image, path=tmp_path / "d.vhd")


def test_each_write_needs_its_own_right(home: Installation) -> None:
    reader = ann(home, (Role.READER, "subscription"))
    inside: dict[str, Any] = {"group": GROUP, "gallery": GALLERY}
    writes: list[Callable[[], Any]] = [
        lambda: groups.create_group(home, reader, name="g", location="southcentralus"),
        lambda: groups.delete_group(home, reader, name="other"),
        lambda: galleries.create_gallery(home, reader, group=GROUP, name="g3"),
        lambda: galleries.update_gallery(home, reader, lambda each: each, group=GROUP, name=GALLERY),
        lambda: galleries.delete_gallery(home, reader, group="other", name="g2"),
        lambda: definitions.create_definition(
            home, reader, name="x", publisher="p", offer="o", sku="x", os_type=OsType.LINUX, **inside
        ),
        lambda: definitions.delete_definition(home, reader, name=DEFINITION, **inside),
        lambda: versions_delete.delete_version(home, reader, definition=DEFINITION, version=VERSION, **inside),
        lambda: disks.delete_disk(home, reader, group=GROUP, name="d1"),
    ]
    for write in writes:
        with pytest.raises(AccessDenied):
            write()
    assert seen(home, ADMIN) == seen(home, reader)
