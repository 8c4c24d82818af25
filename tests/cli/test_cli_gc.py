"""``imgstore gc`` as a person and a script meet it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.requests import DiskRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import definitions, galleries
from imgstore.transfer.slot_access import SlotAccess
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    SampleImages,
    delete,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

SLOTS = 4


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    """With a version that was deleted."""
    shutil.copytree(samples.home, tmp_path / "home")
    with open_home(tmp_path / "home") as installation:
        other = make_raw(tmp_path / "other.raw", seed=77, virtual_bytes=16 * MIB, content_bytes=5 * MIB)
        publish(installation, other, "1.0.1")
        delete(installation, "1.0.1")
    return tmp_path / "home"


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["gc", "--home", str(home), *words], prog_name="imgstore")


def told(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_plan_changes_nothing(home: Path) -> None:
    before = sorted(path for path in home.rglob("*") if path.is_file() and "regions" in path.parts)
    plan = told(run(home, "--dry-run", "--grace-hours", "0"))
    assert (plan["dryRun"], plan["graceHours"], len(plan["slots"])) == (True, 0.0, SLOTS)
    for slot in plan["slots"]:
        assert slot["unreferenced"]["objects"] >= 1
        assert slot["deletable"]["storedBytes"] >= slot["unreferenced"]["storedBytes"] > 0
        assert slot["collected"] == {"objects": 0, "storedBytes": 0}
        assert slot["oldestOpenWork"] is None
    assert before == sorted(path for path in home.rglob("*") if path.is_file() and "regions" in path.parts)


def test_without_a_terminal_a_confirmation_option_is_required(home: Path) -> None:
    result = run(home)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "DeletableBytes" in result.stderr, "the plan is shown first"
    assert "Use --yes" in result.stderr


def test_collected_after_the_grace(home: Path) -> None:
    plan = told(run(home, "--dry-run", "--grace-hours", "0"))
    first = told(run(home, "--yes"))
    assert first["graceHours"] == 24.0
    assert all(slot["inGrace"] == slot["unreferenced"] for slot in first["slots"])
    done = run(home, "--yes", "--grace-hours", "0")
    for was, planned in zip(told(done)["slots"], plan["slots"], strict=True):
        assert was["collected"]["storedBytes"] >= planned["unreferenced"]["storedBytes"]
    assert done.stderr.index("DeletableBytes") < done.stderr.index("completed"), "the plan comes first"
    again = told(run(home, "--yes", "--grace-hours", "0"))
    assert all(slot["unreferenced"]["objects"] == slot["collected"]["objects"] == 0 for slot in again["slots"])
    assert "CollectedBytes" in run(home, "--yes", "-o", "table").stdout


def test_a_grace_below_zero_is_no_grace(home: Path) -> None:
    assert run(home, "--yes", "--grace-hours", "-1").exit_code == 2


def test_killed_work_is_abandoned_on_request_and_listed_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    with open_home(home) as installation, monkeypatch.context() as patch:
        patch.setattr(SlotAccess, "put_manifest", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(installation, home.parent / "other.raw", "1.0.2")
    assert told(run(home, "--dry-run"))["abandonedWorks"] == [], "not for a week"
    planned = told(run(home, "--dry-run", "--work-abandon-days", "0"))["abandonedWorks"]
    assert [each["kind"] for each in planned] == ["ingest"]
    done = run(home, "--yes", "--work-abandon-days", "0")
    assert told(done)["abandonedWorks"] == planned
    assert "To be abandoned: ingest for" in done.stderr
    assert told(run(home, "--dry-run", "--work-abandon-days", "0"))["abandonedWorks"] == []


def test_the_owner_of_the_pool_is_reported(home: Path, tmp_path: Path) -> None:
    file = make_raw(tmp_path / "file.raw", seed=5, virtual_bytes=8 * MIB, content_bytes=MIB)
    with open_home(home) as installation:
        own = installation.subscription
        asked = DiskRequest(group="rg", name="d1", source=str(file), location="westus2")
        create_from_source(installation, ADMIN, asked)
        make_disk(installation, "d2", "westus2")
        delete(installation)
        definitions.delete_definition(installation, ADMIN, group="rg", gallery=GALLERY, name=DEFINITION)
        galleries.delete_gallery(installation, ADMIN, group="rg", name=GALLERY)
    slots = told(run(home, "--dry-run"))["slots"]
    assert {(each["poolKind"], each["gallery"], each["subscription"]) for each in slots} == {
        ("Subscription", None, own),
        ("DeletedGallery", None, None),
    }
    table = run(home, "--dry-run", "-o", "table").stdout
    assert table.split()[0] == "Pool"
    assert own in table
    assert "DeletedGallery" in table
