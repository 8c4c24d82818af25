"""Versions as they are changed, deleted, had back and waited for at the terminal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import open_home
from tests.support.terminal import Terminal, enter_folder

WHERE = "-g rg -r g1 -i ubuntu"
V1 = f"{WHERE} -e 1.0.0"


class VersionTerminal(Terminal):
    """The command line with the words `sig image-version` before each line of `ok` and `fails`."""

    def ok(self, line: str) -> Any:
        return super().ok(f"sig image-version {line}")

    def fails(self, line: str, code: int) -> str:
        return super().fails(f"sig image-version {line}", code)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionTerminal:
    enter_folder(tmp_path, monkeypatch)
    terminal = VersionTerminal(tmp_path)
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 << 20, content_bytes=2 << 20)
    assert terminal.run("sig create -g rg -r g1 -l southcentralus").exit_code == 0
    made = terminal.run(f"sig image-definition create {WHERE} -p p -f o -s s --os-type Linux")
    assert made.exit_code == 0, made.output
    terminal.ok(
        f"create {V1} --os-vhd-uri disk.raw --target-regions southcentralus=2 westus2=1=standard_zrs "
        "--end-of-life-date 2099-12-02 --allow-replicated-location-deletion true"
    )
    return terminal


def regions(shown: Any) -> dict[str, tuple[int, str]]:
    targets = shown["properties"]["publishingProfile"]["targetRegions"]
    return {each["name"]: (each["regionalReplicaCount"], each["storageAccountType"]) for each in targets}


def complete(shown: Any) -> set[str]:
    status = shown["properties"]["replicationStatus"]
    assert status["aggregatedState"] == "Completed"
    return {each["region"] for each in status["summary"]}


def test_target_regions_are_changed_in_all_of_azs_ways(terminal: VersionTerminal) -> None:
    before = terminal.ok(f"show {V1}")
    shown = terminal.ok(f"update {V1} --target-regions 'South Central US=2' 'West US 2' eastus=2")
    assert regions(shown) == {
        "South Central US": (2, "Standard_LRS"),
        "West US 2": (1, "Standard_ZRS"),
        "East US": (2, "Standard_LRS"),
    }
    assert complete(shown) == {"South Central US", "West US 2", "East US"}
    shown = terminal.ok(f"update {V1} --remove publishingProfile.targetRegions 1")
    assert complete(shown) == {"South Central US", "East US"}
    shown = terminal.ok(f"update {V1} --add publishingProfile.targetRegions name=northeurope")
    assert regions(shown)["North Europe"] == (1, "Standard_LRS")
    shown = terminal.ok(f"update {V1} --set publishingProfile.targetRegions[name=northeurope].regionalReplicaCount=2")
    assert regions(shown)["North Europe"] == (2, "Standard_LRS")
    shown = terminal.ok(f"update {V1} --replica-count 3")
    assert [count for count, _ in regions(shown).values()] == [2, 2, 2], "none had the version's count of one"
    shown = terminal.ok(f"create {V1} --os-vhd-uri disk.raw --target-regions southcentralus")
    assert complete(shown) == {"South Central US"}
    assert (
        terminal.ok(f"show {V1}")["properties"]["publishingProfile"]["publishedDate"]
        == (before["properties"]["publishingProfile"]["publishedDate"])
    )


def test_freed_and_kept_bytes_are_reported(terminal: VersionTerminal) -> None:
    made = terminal.run("disk create -g rg -n d1 -l westus2 --gallery-image-reference rg/g1/ubuntu/1.0.0")
    assert made.exit_code == 0, made.output
    result = terminal.run(f"sig image-version update {V1} --target-regions southcentralus")
    assert result.exit_code == 0, result.output
    assert "bytes freed" in result.stderr
    assert "bytes stay for the disks d1" in result.stderr


def test_properties_are_changed_by_flags_and_by_paths(terminal: VersionTerminal) -> None:
    shown = terminal.ok(
        f"update {V1} --end-of-life-date 2100-01-31 --exclude-from-latest --tags a=1 "
        "--allow-replicated-location-deletion false --block-deletion-before-end-of-life"
    )
    profile = shown["properties"]["publishingProfile"]
    assert profile["endOfLifeDate"] == "2100-01-31T12:59:59.0000000+00:00"
    assert profile["excludeFromLatest"] is True
    assert shown["tags"] == {"a": "1"}
    assert shown["properties"]["safetyProfile"] == {
        "reportedForPolicyViolation": False,
        "allowDeletionOfReplicatedLocations": False,
        "blockDeletionBeforeEndOfLife": True,
    }
    assert "allowDeletionOfReplicatedLocations" in terminal.fails(f"update {V1} --target-regions southcentralus", 1)
    told = terminal.fails(f"delete {V1} -y", 1)
    assert "DeleteGalleryImageVersionBlockedBeforeEndOfLife" in told
    shown = terminal.ok(
        f"update {V1} --set publishingProfile.excludeFromLatest=false tags.b=2 "
        "safetyProfile.blockDeletionBeforeEndOfLife=false "
        "publishingProfile.targetRegions[0].excludeFromLatest=true "
        "--remove publishingProfile.endOfLifeDate --remove tags.a"
    )
    profile = shown["properties"]["publishingProfile"]
    assert "endOfLifeDate" not in profile
    assert (profile["excludeFromLatest"], profile["targetRegions"][0]["excludeFromLatest"]) == (False, True)
    assert shown["tags"] == {"b": "2"}
    assert shown["properties"]["safetyProfile"]["blockDeletionBeforeEndOfLife"] is False


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("--set location=eastus", "Changing property 'location' is not allowed"),
        ("--set publishingProfile.publishedDate=2020-01-01", "'properties.publishingProfile.publishedDate'"),
        ("--set storageProfile.osDiskImage.source.uri=/x", "'properties.storageProfile.osDiskImage.source.uri'"),
        ("--set publishingProfile.storageAccountType=Premium_LRS", "'properties.publishingProfile.storageAccountType'"),
        ("--remove publishingProfile.targetRegions 0", "must contain the location of image version"),
        ("--remove publishingProfile.targetRegions", "a list of at least one region"),
        ("--add publishingProfile.targetRegions name=atlantis", "atlantis"),
        ("--add publishingProfile.targetRegions name=eastus colour=red", "colour"),
        ("--set publishingProfile.targetRegions[0].regionalReplicaCount=many", "a whole number"),
        ("--end-of-life-date 2001-01-01", "EndOfLifeDate must be set to a future date"),
        ("--replica-count 11", "out of range"),
        ("--replica-count 0", "out of range"),
        ("--set publishingProfile.replicaCount=0", "out of range"),
        ("--set publishingProfile.targetRegions[0].regionalReplicaCount=2147483647", "out of range"),
    ],
)
def test_a_change_that_is_refused_is_named(terminal: VersionTerminal, change: str, told: str) -> None:
    before = terminal.ok(f"show {V1}")
    assert told in terminal.fails(f"update {V1} {change}", 1)
    assert terminal.ok(f"show {V1}") == before


def test_deleted_softly_listed_and_had_back(terminal: VersionTerminal) -> None:
    with open_home(terminal.home) as installation, installation.catalog.transaction() as transaction:
        gallery = transaction.galleries.list(installation.subscription)[0]
        transaction.galleries.update(replace(gallery, soft_delete_enabled=True))
    before = terminal.ok(f"show {V1}")
    terminal.ok(f"delete {V1}")
    assert terminal.ok(f"list {WHERE}") == []
    listed = terminal.ok(f"list-soft-deleted {WHERE}")
    assert [each["name"] for each in listed] == ["1.0.0"]
    assert listed[0]["properties"]["resourceArmId"] == before["id"]
    assert terminal.ok(f"undelete {V1}") == before
    terminal.ok(f"delete {V1} --bypass-soft-delete")
    assert terminal.ok(f"list-soft-deleted {WHERE}") == []
    terminal.fails(f"undelete {V1}", 3)


def test_waiting_for_what_is_so_already(terminal: VersionTerminal) -> None:
    for condition in ("--created", "--updated", "--exists", "--custom \"properties.provisioningState == 'Succeeded'\""):
        assert terminal.ok(f"wait {V1} {condition}") is None
    terminal.ok(f"wait {WHERE} -e 2.0.0 --deleted")
    told = terminal.fails(f"wait {V1} --deleted --timeout 0", 1)
    assert "Wait operation timed-out after 0 seconds" in told
    terminal.fails(f"wait {WHERE} -e 2.0.0 --created", 3)
    terminal.fails(f"wait {V1}", 2)
    terminal.fails(f"wait {V1} --custom 'a['", 2)


def test_data_disks_go_in_and_come_out_by_lun(terminal: VersionTerminal, tmp_path: Path) -> None:
    for number, name in enumerate(("data.raw", "logs.raw"), start=5):
        make_raw(tmp_path / name, seed=number, virtual_bytes=6 << 20, content_bytes=1 << 20)
    v2 = f"{WHERE} -e 2.0.0"
    line = f"create {v2} --os-vhd-uri disk.raw --data-vhds-uris data.raw logs.raw"
    shown = terminal.ok(f"{line} --data-vhds-luns 0 5 --data-vhds-formats raw raw")
    images = shown["properties"]["storageProfile"]["dataDiskImages"]
    assert [(each["lun"], each["sizeInGB"], each["hostCaching"]) for each in images] == [
        (0, 1, "ReadOnly"),
        (5, 1, "ReadOnly"),
    ]
    assert terminal.ok(f"show {v2}")["properties"]["storageProfile"]["dataDiskImages"] == images
    assert "Adding new Data Disks or changing the LUN" in terminal.fails(line, 1)
    image = "--gallery-image-reference rg/g1/ubuntu/2.0.0 --gallery-image-reference-lun 5"
    made = terminal.run(f"disk create -g rg -n logs {image}")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["properties"]["creationData"]["galleryImageReference"]["lun"] == 5
    for line in ("disk export -g rg -n logs --file one.raw", f"disk export {image} --file two.raw"):
        assert terminal.run(line).exit_code == 0
    logs = (tmp_path / "logs.raw").read_bytes()
    assert all((tmp_path / name).read_bytes() == logs for name in ("one.raw", "two.raw"))
    for lun, code in ((5, 0), (0, 1)):
        line = f"verify --file logs.raw --image rg/g1/ubuntu/2.0.0 --lun {lun}"
        assert terminal.run(line).exit_code == code
    refused = terminal.run(
        "disk create -g rg -n d --gallery-image-reference rg/g1/ubuntu --gallery-image-reference-lun 1"
    )
    assert refused.exit_code == 3
    assert "the OS disk and data disks at LUN 0, 5" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--data-vhds-uris a.raw b.raw --data-vhds-luns 1", 2, "--data-vhds-luns names 1, --data-vhds-uris 2"),
        ("--data-vhds-luns 1", 2, "--data-vhds-luns names 1, --data-vhds-uris 0"),
        ("--data-vhds-uris a.raw --data-vhds-luns x", 1, "'x' is not a LUN"),
        ("--data-vhds-uris a.raw b.raw --data-vhds-luns 1 1", 1, "duplicate LUNs"),
        ("--data-vhds-uris disk.raw", 1, "OSDiskImage and DataDiskImage cannot point to same blob"),
        ("--data-vhds-uris a.raw --data-vhds-formats tar", 2, "'tar' is not one of"),
    ],
)
def test_data_disks_that_are_refused(terminal: VersionTerminal, flags: str, code: int, message: str) -> None:
    assert message in terminal.fails(f"create {WHERE} -e 2.0.0 --os-vhd-uri disk.raw {flags}", code)


def test_storage_accounts_are_taken_and_not_used(terminal: VersionTerminal, tmp_path: Path) -> None:
    make_raw(tmp_path / "data.raw", seed=5, virtual_bytes=6 << 20, content_bytes=1 << 20)
    line = "--os-vhd-uri disk.raw --data-vhds-uris data.raw --data-vhds-sa account"
    result = terminal.run(f"sig image-version create {WHERE} -e 2.0.0 {line}")
    assert result.exit_code == 0, result.output
    assert "storage accounts are ignored" in result.stderr
