"""Galleries and definitions through the command line: all flags, generic updates, pages, and limits of the home."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from tests.support.sample_disks import make_raw


class Line:
    """Runs lines on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, line: str) -> Result:
        env = {"IMGSTORE_HOME": str(self.home)}
        return CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=env)

    def ok(self, line: str) -> Any:
        result = self.run(line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout) if result.stdout else None

    def fails(self, line: str, code: int = 1) -> str:
        result = self.run(line)
        assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
        assert result.stdout == ""
        return result.stderr

    def paged(self, line: str, size: int) -> list[list[str]]:
        """The names on each page."""
        pages, token = [], ""
        while True:
            result = self.run(f"{line} --max-items {size} --only-show-errors {token}")
            assert result.exit_code == 0, result.output
            pages.append([each["name"] for each in json.loads(result.stdout)])
            _, told, rest = result.stderr.partition("--next-token")
            if not told:
                return pages
            token = told + rest


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    for name in ("IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION"):
        monkeypatch.delenv(name, raising=False)
    made = Line(tmp_path / "home")
    made.ok("sig create -g rg -r g1 -l southcentralus")
    return made


DEFINITION = "sig image-definition {} -g rg -r g1 -i ubuntu "
CREATE = DEFINITION.format("create") + "--publisher p --offer o --sku s --os-type Linux "
UPDATE = DEFINITION.format("update")
SHOW = DEFINITION.format("show")
FULL = (
    "--description d --eula e --privacy-statement-uri https://p --release-note-uri https://r "
    "--end-of-life-date 2999-12-02 --minimum-cpu-core 1 --maximum-cpu-core 4 --minimum-memory 2 --maximum-memory 8 "
    "--disallowed-disk-types premium_lrs UltraSSD_LRS --plan-name n --plan-publisher q --plan-product r "
    "--features 'IsHibernateSupported=True SecurityType=TrustedLaunch' --architecture arm64 --hyper-v-generation v2"
)


def test_a_definition_shows_the_values_of_all_flags(line: Line) -> None:
    made = line.ok(CREATE + FULL)
    assert made["properties"] == {
        "description": "d",
        "eula": "e",
        "privacyStatementUri": "https://p",
        "releaseNoteUri": "https://r",
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": "V2",
        "architecture": "Arm64",
        "identifier": {"publisher": "p", "offer": "o", "sku": "s"},
        "endOfLifeDate": "2999-12-02T12:59:59.0000000+00:00",
        "recommended": {"vCPUs": {"min": 1, "max": 4}, "memory": {"min": 2, "max": 8}},
        "disallowed": {"diskTypes": ["Premium_LRS", "UltraSSD_LRS"]},
        "purchasePlan": {"name": "n", "publisher": "q", "product": "r"},
        "features": [
            {"name": "IsHibernateSupported", "value": "True"},
            {"name": "SecurityType", "value": "TrustedLaunch"},
        ],
        "provisioningState": "Succeeded",
    }
    assert line.ok(SHOW) == made
    assert line.ok(CREATE + FULL) == made


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--minimum-cpu-core 8 --maximum-cpu-core 4", "(InvalidParameter) The value 8 of properties.recommended.vCPUs"),
        ("--end-of-life-date 2020-01-01", "(InvalidParameter) EndOfLifeDate must be set to a future date."),
        ("--end-of-life-date soon", "'soon' is not a date"),
        ("--disallowed-disk-types Floppy", "'Floppy' is not a disk type"),
        ("--features SecurityType", "'SecurityType' is not a feature"),
        (
            "--features SecurityType=A --hyper-v-generation V2",
            "(InvalidParameter) The value 'A' for feature 'SecurityType'",
        ),
        ("--features SecurityType=TrustedLaunch", "needs the Hyper-V generation V2"),
        ("--features 'A=x a=y'", "(InvalidParameter) The features of an image definition are invalid."),
        ("--minimum-memory 0", "(InvalidParameter) The value 0 of parameter properties.recommended.memory.min"),
        (f"--sku {'s' * 65}", "(InvalidParameter) The sku of an image definition is invalid."),
        (f"--offer {'o' * 65}", "(InvalidParameter) The offer of an image definition is invalid."),
        (f"--publisher {'p' * 129}", "(InvalidParameter) The publisher of an image definition is invalid."),
        (f"--tags {' '.join(f'k{number}=v' for number in range(51))}", "(InvalidTags) Too many tags specified."),
        ("--tags a/b=v", "(InvalidTagNameCharacters) The tag names 'a/b' have reserved characters"),
        (f"--tags k={'v' * 257}", "(InvalidTagValueLength) Tag value too large."),
        (f"--tags {'n' * 513}=v", "(InvalidTagName)"),
        ("--tags Env=a env=b", "(InvalidRequestContent)"),
    ],
)
def test_a_definition_that_can_not_be_is_refused(line: Line, flags: str, text: str) -> None:
    assert text in line.fails(CREATE + flags)
    line.fails(SHOW, 3)


def test_a_definition_is_updated_by_paths(line: Line) -> None:
    line.ok(CREATE + FULL)
    changed = line.ok(
        UPDATE + "--set description='with nginx' recommended.memory.max=16 tags.team=images tags.build=7 "
        "endOfLifeDate=2999-12-03 properties.releaseNoteUri=https://new --remove recommended.vCPUs "
        "--set recommended.vCPUs.min=2"
    )
    properties = changed["properties"]
    assert changed["tags"] == {"team": "images", "build": "7"}
    assert properties["description"] == "with nginx"
    assert properties["recommended"] == {"vCPUs": {"min": 2}, "memory": {"min": 2, "max": 16}}
    assert properties["endOfLifeDate"] == "2999-12-03T12:59:59.0000000+00:00"
    assert properties["releaseNoteUri"] == "https://new"
    assert line.ok(SHOW) == changed
    assert line.ok(UPDATE) == changed, "nothing to do is nothing done"
    bare = line.ok(UPDATE + "--remove tags.team --remove description --remove endOfLifeDate --remove recommended")
    assert bare["tags"] == {"build": "7"}
    assert not {"description", "endOfLifeDate", "recommended"} & set(bare["properties"])


def test_an_edit_may_be_one_word_and_needs_one(line: Line) -> None:
    line.ok(CREATE)
    assert line.ok(UPDATE + "--set=description=a=b -o json")["properties"]["description"] == "a=b"
    for verb, text in (
        ("--set", "is not an assignment"),
        ("--add", "path is missing"),
        ("--remove", "path is missing"),
    ):
        assert text in line.fails(UPDATE + verb)


def test_features_change_with_leave_only(line: Line) -> None:
    line.ok(CREATE + FULL)
    add = "--add features name=DiskControllerTypes value=SCSI,NVMe startsAtVersion=2.0.0"
    refused = line.fails(UPDATE + add)
    assert "(PropertyChangeNotAllowed) Changing property 'properties.features' is not allowed." in refused
    assert "--allow-update-image" in refused
    changed = line.ok(UPDATE + "--allow-update-image true --remove features 0 " + add)["properties"]
    assert changed["allowUpdateImage"] is True
    assert changed["features"] == [
        {"name": "SecurityType", "value": "TrustedLaunch"},
        {"name": "DiskControllerTypes", "value": "SCSI,NVMe", "startsAtVersion": "2.0.0"},
    ]
    line.ok(UPDATE + "--set features[name=SecurityType].value=Standard")
    line.ok(UPDATE + "--allow-update-image false")
    assert "properties.features" in line.fails(UPDATE + "--remove features")
    assert line.ok(UPDATE + "--allow-update-image --remove features")["properties"].get("features") is None


@pytest.mark.parametrize(
    ("edit", "code", "told"),
    [
        ("--set osType=Windows", "PropertyChangeNotAllowed", "'properties.osType'"),
        ("--set identifier.sku=x", "PropertyChangeNotAllowed", "'properties.identifier.sku'"),
        ("--set eula=x", "PropertyChangeNotAllowed", "'properties.eula'"),
        ("--remove purchasePlan", "PropertyChangeNotAllowed", "'properties.purchasePlan.name'"),
        ("--add disallowed.diskTypes Standard_LRS", "PropertyChangeNotAllowed", "'properties.disallowed.diskTypes'"),
        ("--set name=x", "PropertyChangeNotAllowed", "'name'"),
        ("--set provisioningState=Failed", "PropertyChangeNotAllowed", "'properties.provisioningState'"),
        ("--set descriptoin=x", "PropertyChangeNotAllowed", "'properties.descriptoin'"),
        ("--set recommended.memory.max=lots", "InvalidParameter", "'properties.recommended.memory.max'"),
        ("--set recommended.memory.max=1", "InvalidParameter", "properties.recommended.memory.min"),
        ("--set endOfLifeDate=1999-01-01", "InvalidParameter", "must be set to a future date"),
        ("--set endOfLifeDate=soon", "InvalidParameter", "not a date"),
        ("--set tags=[1]", "InvalidParameter", "'tags'"),
        ("--set description={}", "InvalidParameter", "'properties.description'"),
        ("--allow-update-image --add features name=x", "InvalidParameter", "'properties.features[2]'"),
        ("--set description", "InvalidParameter", "is not an assignment"),
        ("--remove tags.nowhere", "InvalidParameter", "Couldn't find 'nowhere'"),
    ],
)  # fmt: skip
def test_an_update_that_can_not_be_changes_nothing(line: Line, edit: str, code: str, told: str) -> None:
    made = line.ok(CREATE + FULL + " --tags a=b")
    refused = line.fails(UPDATE + edit)
    assert f"({code})" in refused
    assert told in refused
    assert line.ok(SHOW) == made


def test_a_gallery_is_updated(line: Line) -> None:
    off = {"isSoftDeleteEnabled": False, "retentionPeriodInDays": 7}
    assert line.ok("sig show -g rg -r g1")["properties"]["softDeletePolicy"] == off
    line.ok("sig update -g rg -r g1 --set description=d tags.a=1 --force-string")
    changed = line.ok("sig update -g rg -r g1 --soft-delete --soft-delete-retention 14")
    assert (changed["tags"], changed["properties"]["description"]) == ({"a": "1"}, "d")
    assert changed["properties"]["softDeletePolicy"] == {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 14}
    by_path = line.ok("sig update -g rg -r g1 --set softDeletePolicy.retentionPeriodInDays=3")
    assert by_path["properties"]["softDeletePolicy"] == {"isSoftDeleteEnabled": True, "retentionPeriodInDays": 3}
    assert line.ok("sig create -g rg -r g1 --soft-delete false --soft-delete-retention-period 7") == (
        line.ok("sig show -g rg -r g1")
    )
    assert line.ok("sig show -g rg -r g1")["properties"]["softDeletePolicy"] == off
    assert "between 1 and 365" in line.fails("sig update -g rg -r g1 --soft-delete-retention 0")
    refused = line.fails("sig update -g rg -r g1 --set identifier.uniqueName=x")
    assert "(PropertyChangeNotAllowed) Changing property 'properties.identifier.uniqueName'" in refused
    assert "(ResourceNotFound)" in line.fails("sig update -g rg -r nowhere --set description=d", 3)


def test_lists_come_by_pages(line: Line, tmp_path: Path) -> None:
    for group, name in (("a", "g3"), ("b", "G2"), ("b", "g4")):
        line.ok(f"sig create -g {group} -r {name} -l southcentralus")
    assert line.paged("sig list", 3) == [["g1", "G2", "g3"], ["g4"]]
    assert line.paged("sig list -g b", 1) == [["G2"], ["g4"]]
    for name in ("x", "y", "z"):
        line.ok(f"sig image-definition create -g rg -r g1 -i {name} -p p -f o -s {name} --os-type Linux")
    assert line.paged("sig image-definition list -g rg -r g1", 2) == [["x", "y"], ["z"]]
    disk = make_raw(tmp_path / "disk.raw", seed=1)
    for version in ("1.10.0", "1.9.0", "2.0.0"):
        line.ok(f"sig image-version create -g rg -r g1 -i x -e {version} --os-vhd-uri {disk}")
    assert line.paged("sig image-version list -g rg -r g1 -i x", 2) == [["1.9.0", "1.10.0"], ["2.0.0"]]
    assert "token does not belong to this list" in line.fails("sig list --next-token x")
    assert "at least one item" in line.fails("sig list --max-items 0")


def test_the_homes_settings_limit_what_may_be_made(line: Line) -> None:
    (line.home / "settings.toml").write_text("[limits]\ngalleries_max = 1\nimage_bytes_max = 4096\n")
    refused = line.fails("sig create -g rg -r g2")
    assert "(QuotaExceeded) The limit of 1 galleries" in refused
    assert f"raise galleries_max under [limits] in {line.home / 'settings.toml'}" in refused
    line.ok(CREATE)
    disk = make_raw(line.home.parent / "disk.raw", seed=1)
    refused = line.fails(f"sig image-version create -g rg -r g1 -i ubuntu -e 1.0.0 --os-vhd-uri {disk}")
    assert "raise image_bytes_max under [limits]" in refused
    (line.home / "settings.toml").write_text("[limits]\ngalleries_max = 'many'\n")
    refused = line.fails("sig list")
    assert f"{line.home / 'settings.toml'} cannot be used: limits.galleries_max." in refused
    assert "found: 'many'" in refused


def test_an_update_finds_a_tag_in_any_case(line: Line) -> None:
    line.ok(CREATE + "--tags Env=a")
    assert line.ok(UPDATE + "--set tags.ENV=b")["tags"] == {"Env": "b"}
    assert "(InvalidTagName)" in line.fails(UPDATE + f"--set tags.{'n' * 513}=b")
    assert line.ok(SHOW)["tags"] == {"Env": "b"}
