"""Lists: page by page, by tag, of every subscription; and the log of what was done."""

import json
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks import disks as disk_operations
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    create_sample_gallery,
    make_disk,
    open_home,
    publish,
    reference,
)

pytest_plugins = ["tests.support.published_gallery"]

OTHER = "00000000-0000-0000-0000-00000000000b"


class Line:
    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, line: str) -> Result:
        return CliRunner().invoke(main, [*shlex.split(line), "--home", str(self.home)], prog_name="imgstore")

    def ok(self, line: str) -> Any:
        result = self.run(line)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if result.stdout else None

    def walked(self, line: str, size: int) -> list[list[str]]:
        """The names of page after page."""
        pages, token = [], ""
        while True:
            result = self.run(f"{line} --max-items {size} {token}")
            assert result.exit_code == 0, result.output
            pages.append([each["name"] for each in json.loads(result.stdout)])
            if "--next-token" not in result.stderr:
                return pages
            token = "--next-token " + result.stderr.split("--next-token ")[1].split()[0]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "home")


def test_groups_come_page_by_page_and_by_tag(line: Line) -> None:
    for name, tags in (("b", "team=images"), ("a", "team=web"), ("C", "Team=images extra=1"), ("d", "")):
        line.ok(f"group create -n {name} -l westus2 --tags {tags or chr(39) * 2}")
    assert line.walked("group list", 3) == [["a", "b", "C"], ["d"]]
    assert line.walked("group list", 2) == [["a", "b"], ["C", "d"]]
    assert line.walked("group list --tag team=images", 1) == [["b"], ["C"]]
    assert line.walked("group list --tag team", 9) == [["a", "b", "C"]]
    assert line.ok("group list --tag team=") == []
    refused = line.run("group list --tag =images")
    assert refused.exit_code == 1
    assert "the key is missing" in refused.stderr


def test_disks_come_page_by_page_though_two_groups_have_the_same_names(line: Line, samples: SampleImages) -> None:
    with open_home(line.home) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
        for name in ("d2", "d1"):
            make_disk(installation, name)
            disk_operations.create_disk(
                installation,
                ADMIN,
                DiskOfImageRequest(group="other", name=name.upper(), location="southcentralus", reference=reference()),
            )
    pages = line.walked("disk list", 1)
    assert [len(page) for page in pages] == [1, 1, 1, 1]
    assert [name.lower() for page in pages for name in page] == ["d1", "d1", "d2", "d2"]
    assert sorted(name for page in pages for name in page) == ["D1", "D2", "d1", "d2"]
    assert line.walked(f"disk list -g {GROUP}", 1) == [["d1"], ["d2"]]
    token = line.run("disk list --max-items 1").stderr.split("--next-token ")[1].strip()
    assert "does not belong to this list" in line.run(f"disk list -g {GROUP} --next-token {token}").stderr
    line.ok("disk delete -g other -n D1 --yes")
    assert line.walked("disk list", 9) == [["d1", *sorted(["d2", "D2"], key=lambda each: names(line).index(each))]]


def names(line: Line) -> list[str]:
    return [each["name"] for each in line.ok("disk list")]


def test_accounts_are_the_subscriptions_that_hold_something(line: Line) -> None:
    mine = line.ok("account list")
    assert [(each["isDefault"], each["state"]) for each in mine] == [(True, "Enabled")]
    line.ok(f"group create -n there -l westus2 --subscription {OTHER}")
    assert line.ok("group list") == []
    assert sorted(each["id"] for each in line.ok("account list")) == sorted([mine[0]["id"], OTHER])
    told = line.ok(f"account list --subscription {OTHER.upper()}")
    assert [each["isDefault"] for each in told].count(True) == 1
    assert len(told) == 2
    assert [each["name"] for each in line.ok(f"group list --subscription {OTHER}")] == ["there"]


def test_the_log_names_principal_action_and_outcome(line: Line) -> None:
    line.ok("group create -n rg -l westus2")
    line.ok("group create -n rg2 -l westus2")
    line.ok("sig create -g rg -r g1")
    assert line.run("group delete -n rg --yes").exit_code == 1
    rows = line.ok("monitor activity-log list -g RG")
    told = [(each["operationName"]["value"].rsplit("/", 1)[-1], each["status"]["value"]) for each in rows]
    assert told == [("delete", "Failed"), ("write", "Succeeded"), ("write", "Succeeded")], "rg2 is another group"
    assert rows[0]["description"].startswith("CannotDeleteResource: Cannot delete resource")
    assert {each["resourceGroupName"] for each in rows} == {"rg"}
    assert len(line.ok("monitor activity-log list")) == 4
    assert len(line.ok("monitor activity-log list --max-events 2")) == 2
    gallery = rows[1]["resourceId"]
    assert gallery.endswith("/galleries/g1")
    assert line.ok(f"monitor activity-log list --resource-id {gallery.upper()}") == [rows[1]]
    assert "Operation" in line.run("monitor activity-log list -o table").stdout


def test_the_log_goes_back_to_the_given_time(line: Line) -> None:
    with open_home(line.home) as installation, installation.catalog.transaction() as transaction:
        for hours in (200, 100, 10, 1):
            began = installation.effects.now() - timedelta(hours=hours)
            transaction.activity.add(
                principal=f"{hours} hours ago",
                action="test",
                scope="/",
                outcome="Succeeded",
                detail=None,
                started_at=began,
                finished_at=began,
            )
    for offset, count in (("", 1), ("--offset 12h", 2), ("--offset 4d5h", 3), ("--offset 99999999d", 4)):
        assert len(line.ok(f"monitor activity-log list {offset}")) == count, offset


@pytest.mark.parametrize("offset", ["''", "week", "7", "1h2d", "-1d", "9999999999999999d"])
def test_a_span_that_is_none(line: Line, offset: str) -> None:
    assert line.run(f"monitor activity-log list --offset {offset}").exit_code == 2


def test_a_group_and_a_resource_are_one_too_many(line: Line) -> None:
    assert "at the same time" in line.run("monitor activity-log list -g rg --resource-id /subscriptions/x").stderr


def test_too_many_disks_for_the_replicas_warn_on_standard_error(line: Line, samples: SampleImages) -> None:
    line.home.mkdir()
    (line.home / "settings.toml").write_text("[limits]\nmachines_per_replica = 1\n")
    with open_home(line.home) as installation:
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus"])
    create = f"disk create -g {GROUP} --gallery-image-reference {reference()} -l southcentralus -n "
    assert "disks within a minute" not in line.run(create + "d1").stderr
    told = line.run(create + "d2")
    assert (told.exit_code, json.loads(told.stdout)["name"]) == (0, "d2")
    assert "2 disks within a minute from 1 replica in South Central US: 2 replicas are advised" in told.stderr
    assert "disks within" not in line.run(create + "d3 --only-show-errors").stderr


def test_snapshots_images_and_machines_come_page_by_page(line: Line, tmp_path: Path) -> None:
    file = make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=MIB)
    for name in ("b", "a", "C"):
        line.ok(f"snapshot create -g rg -n {name} --source {file} -l westus2")
        line.ok(f"image create -g rg -n {name} --source {name} --data-disk-sources {name} {name} --os-type Linux")
        line.ok(f"disk create -g rg -n {name} --source {name}")
        line.ok(f"vm create -g rg -n {name} --attach-os-disk {name} --os-type Linux")
    line.ok(f"image create -g other -n b --source {file} --os-type Linux -l westus2")
    for kind in ("snapshot", "image", "vm"):
        assert line.walked(f"{kind} list -g rg", 2) == [["a", "b"], ["C"]]
        assert line.walked(f"{kind} list -g RG", 1) == [["a"], ["b"], ["C"]]
    assert line.walked("image list", 2) == [["a", "b"], ["b", "C"]]
    assert [len(each["properties"]["storageProfile"]["dataDisks"]) for each in line.ok("image list -g rg")] == [2, 2, 2]
    token = line.run("vm list --max-items 1").stderr.split("--next-token ")[1].split()[0]
    assert line.run(f"snapshot list --next-token {token}").exit_code == 1
