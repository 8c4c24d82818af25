"""``imgstore sig share`` and what others see: two subscriptions on one home, each with its own galleries."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.errors import AccessDenied, ImgstoreError, NotFound
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.names import ImageReference, SharedReference
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.operations.disks import disks
from imgstore.operations.gallery import sharing
from tests.support.sample_gallery import open_home

OWNER = "11111111-1111-1111-1111-111111111111"
GUEST = "22222222-2222-2222-2222-222222222222"
UNIQUE = f"{OWNER}-G1"
VERSION = f"/SharedGalleries/{UNIQUE}/Images/ubuntu/Versions/1.0.0"
COMMUNITY = (
    "sig create -g rg -r g1 --permissions community --publisher-uri https://p --publisher-email m@p --eula terms "
    "--public-name-prefix contoso"
)


class Line:
    """Runs lines on one home, as the owner's subscription or the guest's."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, subscription: str, line: str) -> Result:
        env = {"IMGSTORE_HOME": str(self.home), "IMGSTORE_SUBSCRIPTION": subscription}
        return CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=env)

    def owner(self, line: str) -> Any:
        return self._ok(OWNER, line)

    def guest(self, line: str) -> Any:
        return self._ok(GUEST, line)

    def fails(self, subscription: str, line: str, code: int = 1) -> str:
        result = self.run(subscription, line)
        assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
        return result.stderr

    def _ok(self, subscription: str, line: str) -> Any:
        result = self.run(subscription, line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout) if result.stdout else None


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    for name in ("IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "disk.raw").write_bytes(b"disk\0" * 2048)
    made = Line(tmp_path / "home")
    made.owner("sig create -g rg -r g1 -l southcentralus")
    made.owner("sig image-definition create -g rg -r g1 -i ubuntu --publisher p --offer o --sku s --os-type Linux")
    made.owner(
        f"sig image-version create -g rg -r g1 -i ubuntu -e 1.0.0 --os-vhd-uri {tmp_path}/disk.raw "
        "--target-regions southcentralus"
    )
    return made


def make(line: Line, reference: str, name: str = "d1") -> str:
    return f"disk create -g mine -n {name} -l southcentralus --gallery-image-reference {reference}"


def test_a_gallery_shows_whom_it_is_shared_with_when_asked(line: Line) -> None:
    show = "sig show -g rg -r g1"
    assert "sharingProfile" not in line.owner(show)["properties"]
    added = line.owner(f"sig share add -g rg -r g1 --subscription-ids {GUEST} --tenant-ids {OWNER}")
    groups = [{"type": "Subscriptions", "ids": [GUEST]}, {"type": "AADTenants", "ids": [OWNER]}]
    assert added["properties"]["sharingProfile"] == {"permissions": "Groups", "groups": groups}
    assert line.owner(show)["properties"]["sharingProfile"] == {"permissions": "Groups"}
    for asked in ("--select Permissions", "--sharing-groups"):
        assert line.owner(f"{show} {asked}")["properties"]["sharingProfile"]["groups"] == groups
    line.owner(f"sig share remove -g rg -r g1 --tenant-ids {OWNER}")
    assert line.owner(f"{show} --select permissions")["properties"]["sharingProfile"]["groups"] == groups[:1]
    line.owner("sig update -g rg -r g1 --set tags.a=b")
    assert line.owner(f"{show} --select permissions")["properties"]["sharingProfile"]["groups"] == groups[:1]
    line.owner("sig share reset -g rg -r g1")
    assert line.owner(f"{show} --sharing-groups")["properties"]["sharingProfile"] == {"permissions": "Private"}


def test_who_it_is_shared_with_finds_it_and_makes_disks(line: Line) -> None:
    lists = "sig list-shared -l southcentralus"
    inside = f"-l southcentralus -u {UNIQUE.lower()}"
    line.owner("sig share add -g rg -r g1 --subscription-ids 33333333-3333-3333-3333-333333333333")
    assert line.guest(lists) == [], "shared with somebody, not with us"
    line.fails(GUEST, make(line, VERSION), 3)
    line.fails(GUEST, f"sig show-shared {inside}", 3)
    line.owner(f"sig share add -g rg -r g1 --subscription-ids {GUEST}")
    seen = {"location": "southcentralus", "name": UNIQUE, "identifier": {"uniqueId": f"/SharedGalleries/{UNIQUE}"}}
    assert line.guest(lists) == [{**seen, "properties": {}}]
    assert line.guest("sig list-shared -l eastus") == []
    assert line.owner(lists) == [], "of others"
    assert line.guest(f"{lists} --shared-to tenant") == []
    assert line.guest(f"sig show-shared {inside}")["name"] == UNIQUE
    assert [each["name"] for each in line.guest(f"sig image-definition list-shared {inside}")] == ["ubuntu"]
    assert line.guest(f"sig image-definition show-shared {inside} -i ubuntu")["properties"]["osType"] == "Linux"
    line.fails(GUEST, f"sig image-definition show-shared {inside} -i other", 3)
    assert [each["name"] for each in line.guest(f"sig image-version list-shared {inside} -i ubuntu")] == ["1.0.0"]
    version = line.guest(f"sig image-version show-shared {inside} -i ubuntu -e 1.0.0")
    assert version["identifier"]["uniqueId"] == VERSION
    assert "id" not in version
    made = line.guest(make(line, VERSION))
    assert made["id"].startswith(f"/subscriptions/{GUEST}/")
    assert line.guest(make(line, VERSION)) == made
    assert line.guest(make(line, VERSION.rsplit("/Versions", 1)[0], "latest"))["properties"]["diskSizeGB"]
    line.owner("sig share reset -g rg -r g1")
    assert line.guest(lists) == []
    line.fails(GUEST, make(line, VERSION, "d2"), 3)
    assert line.guest("disk show -g mine -n d1") == made, "a disk outlives the sharing"


def test_a_tenant_reaches_the_subscriptions_that_belong_to_it(line: Line) -> None:
    partners = line.owner(f"auth tenant create -n partners --subscription-ids {GUEST}")["tenantId"]
    line.owner(f"sig share add -g rg -r g1 --tenant-ids {partners}")
    assert line.guest("sig list-shared -l southcentralus") == []
    assert [each["name"] for each in line.guest("sig list-shared -l southcentralus --shared-to tenant")] == [UNIQUE]
    line.guest(make(line, VERSION))
    assert "belongs to" in line.fails(OWNER, f"auth tenant create -n more --subscription-ids {GUEST}")


def test_a_community_gallery_is_found_by_everybody(line: Line) -> None:
    line.fails(OWNER, "sig share enable-community -g rg -r g1")
    line.fails(OWNER, "sig create -g rg -r g1 --permissions community")
    told = line.owner(COMMUNITY)["properties"]["sharingProfile"]
    assert told["communityGalleryInfo"]["communityGalleryEnabled"] is False
    assert line.guest("sig list-community") == []
    enabled = line.owner("sig share enable-community -g rg -r g1")["properties"]["sharingProfile"]
    info = enabled["communityGalleryInfo"]
    name = info["publicNames"][0]
    assert name.startswith("contoso-")
    assert (info["publisherContact"], info["communityGalleryEnabled"]) == ("m@p", True)
    assert [each["name"] for each in line.guest("sig list-community -l southcentralus")] == [name]
    assert line.guest("sig list-community -l eastus") == []
    inside = f"-l southcentralus --public-gallery-name {name}"
    seen = line.guest(f"sig show-community {inside}")
    assert seen["identifier"] == {"uniqueId": f"/CommunityGalleries/{name}"}
    assert OWNER not in json.dumps(seen)
    assert [each["name"] for each in line.guest(f"sig image-definition list-community {inside}")] == ["ubuntu"]
    assert line.guest(f"sig image-definition show-community {inside} -i ubuntu")["properties"]["disclaimer"] == "terms"
    assert [each["name"] for each in line.guest(f"sig image-version list-community {inside} -i ubuntu")] == ["1.0.0"]
    line.guest(f"sig image-version show-community {inside} -i ubuntu -e 1.0.0")
    line.guest(make(line, f"/CommunityGalleries/{name}/Images/ubuntu/Versions/1.0.0"))
    line.fails(GUEST, make(line, VERSION, "d2"), 3)
    line.owner("sig share reset -g rg -r g1")
    line.fails(GUEST, f"sig show-community {inside}", 3)


def test_a_shared_gallery_opens_to_a_principal_with_a_role_here(line: Line) -> None:
    """Shared with the subscription is not shared with whoever names it, and the owner's own doors stay shut."""
    line.owner(f"sig share add -g rg -r g1 --subscription-ids {GUEST}")
    whole = f"/subscriptions/{GUEST}"
    outsider = Principal(name="mallory")
    maker = Principal(name="ann", grants=(Grant(role=Role.CONTRIBUTOR, scope=whole),))
    publisher = Principal(name="bob", grants=(Grant(role=Role.ARTIFACTS_PUBLISHER, scope=f"{whole}/resourceGroups/x"),))
    local = Principal(name="kim", grants=(Grant(role=Role.CONTRIBUTOR, scope=f"{whole}/resourceGroups/mine"),))
    direct = ImageReference.parse(
        f"/subscriptions/{OWNER}/resourceGroups/rg/providers/Microsoft.Compute/galleries/g1/images/ubuntu"
    )
    reader = Principal(
        name="eve",
        grants=(*maker.grants, Grant(role=Role.IMAGE_READER, scope=f"/subscriptions/{OWNER}/resourceGroups/rg")),
    )

    with open_home(line.home, subscription=GUEST) as installation:

        def disk(who: Principal, reference: Any, name: str) -> None:
            disks.create_disk(
                installation,
                who,
                DiskOfImageRequest(group="mine", name=name, location="southcentralus", reference=reference),
            )

        shared = SharedReference.parse(VERSION)
        refused: list[tuple[Principal, Any, type[ImgstoreError]]] = [
            (outsider, shared, NotFound),
            (publisher, shared, AccessDenied),
            (maker, direct, NotFound),
        ]
        for who, reference, error in refused:
            with pytest.raises(error):
                disk(who, reference, "no")
        with pytest.raises(NotFound):
            sharing.admit_reader(installation, outsider, shared)
        disk(maker, shared, "shared")
        disk(local, shared, "local")
        disk(reader, direct, "direct")
        for look in (
            lambda who: sharing.list_shared(installation, who, location="southcentralus"),
            lambda who: sharing.show_shared(installation, who, unique_name=UNIQUE),
            lambda who: sharing.list_definitions_shared(installation, who, shared),
            lambda who: sharing.list_versions_shared(installation, who, shared),
            lambda who: sharing.list_community(installation, who),
        ):
            assert look(maker) is not None
            with pytest.raises(NotFound):
                look(outsider)
            with pytest.raises(AccessDenied):
                look(publisher)


@pytest.mark.parametrize("role", list(Role))
def test_sharing_is_the_owners_and_the_sharing_admins(line: Line, role: Role) -> None:
    who = Principal(name="ann", grants=(Grant(role=role, scope=f"/subscriptions/{OWNER}"),))
    with open_home(line.home, subscription=OWNER) as installation:
        if role in (Role.OWNER, Role.SHARING_ADMIN):
            sharing.share_add(installation, who, group="rg", name="g1", subscriptions=[GUEST])
            sharing.share_remove(installation, who, group="rg", name="g1", subscriptions=[GUEST])
            sharing.share_reset(installation, who, group="rg", name="g1")
            return
        for change in (sharing.share_reset, sharing.share_add, sharing.share_remove, sharing.enable_community):
            with pytest.raises(AccessDenied, match="galleries/share/action"):
                change(installation, who, group="rg", name="g1")
