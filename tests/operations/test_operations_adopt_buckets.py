"""The buckets of another installation become buckets of this installation, with all resources (K10)."""

import filecmp
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, InvalidInput, ReplicationFailed, StoreMismatch
from imgstore.domain.requests import DiskRequest, ScrubRequest
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import galleries, groups
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.recovery.adopt_buckets import adopt_buckets
from imgstore.operations.recovery.recovery_file import read_present_keys, write_recovery_file
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.stores.regions import init_regions
from imgstore.testing.engines import S3Engine
from tests.support import crash_process
from tests.support.adoption_process import kill_adoption, run_adoption
from tests.support.catalog_dump import PASSPHRASE, dump
from tests.support.crash_scenes import create_minio_scene
from tests.support.revision_audit import check_revisions
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    collect,
    delete,
    export,
    export_disk,
    make_disk,
    open_home,
    publish,
    retarget,
    show,
)

pytest_plugins = ["tests.support.published_gallery"]

ROOT = Path(__file__).parents[2]
REGIONS = ("southcentralus", "westus2", "eastus")
NORTH = {
    "display_name": "North Europe",
    "bucket": "north",
    "policy": "LRS",
    "storage_account_types": ["Standard_LRS"],
    "zones": {"1": {}},
}
"""The region of the own installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    """A foreign home whose region folders are in the own home, and the own home."""

    foreign: Path
    own: Path
    regions: Path
    keys: RecoveryKeys
    subscription: str

    def open(self, **settings: Any) -> Any:
        return open_home(self.own, regions=self.regions, **settings)

    def open_adopted(self) -> Any:
        return self.open(subscription=self.subscription)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, samples: SampleImages) -> Path:
    """Two homes. The own home uses only the region northeurope."""
    folder = tmp_path_factory.mktemp("adopt")
    shutil.copytree(samples.home, folder / "foreign")
    with open_home(folder / "foreign") as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        publish(installation, samples.rebuilt, "1.0.2", ["southcentralus"])
        make_disk(installation, "d1", "eastus", "1.0.1")
        make_disk(installation, "d2", "westus2", "1.0.0")
        make_disk_of_file(installation, "single", samples.second)
        write_all_revisions(installation)
        write_recovery_file(installation, ADMIN, folder / "file", passphrase=PASSPHRASE)
    document = yaml.safe_load((ROOT / "imgstore/regions.yaml").read_text())
    north = {
        "display_name": "North Europe",
        "bucket": "north",
        "policy": "LRS",
        "storage_account_types": ["Standard_LRS"],
    }
    document["regions"] = {"northeurope": north | {"zones": {"1": {}}}, **document["regions"]}
    (folder / "regions.yaml").write_text(json.dumps(document))
    with open_home(folder / "own", regions=folder / "regions.yaml", environ={}) as installation:
        groups.create_group(installation, ADMIN, name="mine", location="northeurope")
    return folder


@pytest.fixture
def homes(template: Path, tmp_path: Path) -> Homes:
    return place(template, tmp_path, REGIONS)


def make_disk_of_file(installation: Installation, name: str, source: Path) -> None:
    request = DiskRequest(group="rg", name=name, location="eastus", source=str(source))
    create_from_source(installation, ADMIN, request)


def place(template: Path, folder: Path, regions: Sequence[str]) -> Homes:
    """Copy the homes, and put the folders of regions into the own home. The foreign home still reaches the folders."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    (folder / "own/regions").mkdir(exist_ok=True)
    for name in regions:
        there, here = folder / "foreign/regions" / f"imgstore-{name}", folder / "own/regions" / f"imgstore-{name}"
        there.rename(here)
        there.symlink_to(here)
    with open_home(folder / "foreign", environ={}) as installation, installation.catalog.reading() as transaction:
        keys = read_present_keys(installation, transaction)
        return Homes(
            foreign=folder / "foreign",
            own=folder / "own",
            regions=folder / "regions.yaml",
            keys=keys,
            subscription=installation.subscription,
        )


def adopt(installation: Installation, homes: Homes, regions: Sequence[str] = REGIONS, **more: Any) -> Any:
    more = dict[str, Any](keys=homes.keys, dry_run=False) | more
    return adopt_buckets(installation, ADMIN, regions=regions, **more)


def contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted((home / "regions").rglob("*")) if path.is_file()}


def test_all_resources_of_another_installation_come_with_its_buckets(
    homes: Homes, tmp_path: Path, samples: SampleImages
) -> None:
    with open_home(homes.foreign) as installation:
        export_disk(installation, tmp_path / "before.raw", "d1")
        before = dump(installation.catalog)
    with homes.open() as installation:
        own = dump(installation.catalog)
        stored = contents(homes.own)
        with pytest.raises(StoreMismatch, match="differs in installation") as caught:
            installation.locator.installation_store("eastus")
        assert "catalog adopt --recovery-file FILE --region eastus" in (caught.value.hint or "")
        plan = adopt(installation, homes, dry_run=True)
        assert contents(homes.own) == stored
        assert dump(installation.catalog) == own
        assert plan.is_complete
        assert {name: number for name, number in plan.counts.items() if number} == {
            "groups": 1, "galleries": 1, "definitions": 1, "versions": 3, "disks": 3
        }  # fmt: skip
        assert ("versions", "rg/g1/ubuntu/1.0.1", "new") in {
            (each.kind, each.name, each.change) for each in plan.resources
        }
        assert plan.stored_bytes > 20_000_000
        report = adopt(installation, homes)
        assert (report.is_done, report.counts) == (True, plan.counts)
        after = dump(installation.catalog)
        for name in (
            "galleries",
            "definitions",
            "versions",
            "replicas",
            "manifests",
            "slots",
            "pools",
            "disks",
            "placements",
        ):
            assert [row for row in after[name] if row not in own[name]] == before[name], name
        assert after["ledger"] == own["ledger"]
        check_revisions(installation, deferred=True)
        with pytest.raises(Conflict, match="belong to this installation"):
            adopt(installation, homes, dry_run=True)
    with open_home(homes.foreign) as installation:
        for act in (
            lambda: publish(installation, samples.first, "9.0.0"),
            lambda: export_disk(installation, tmp_path / "x", "d1"),
        ):
            with pytest.raises(Exception, match="differs in installation"):
                act()
    with homes.open_adopted() as installation:
        audit(installation, adopted=True)
        export_disk(installation, tmp_path / "after.raw", "d1")
        assert filecmp.cmp(tmp_path / "before.raw", tmp_path / "after.raw", shallow=False)
        assert not any(each.damaged or each.problem for each in scrub(installation, ADMIN, ScrubRequest()))
        delete(installation, "1.0.2")
        collect(installation)
        publish(installation, samples.second, "2.0.0", ["southcentralus", "eastus"])
        for name, image in (("1.0.0", samples.first), ("1.0.1", samples.second), ("2.0.0", samples.second)):
            export(installation, tmp_path / "out.raw", "eastus", name)
            assert filecmp.cmp(tmp_path / "out.raw", image, shallow=False)
        audit(installation, adopted=True)


def list_users(homes: Homes) -> dict[str, list[str]]:
    """Return the installations that can use each region now."""
    found: dict[str, list[str]] = {region: [] for region in REGIONS}
    for name, home in (("foreign", open_home(homes.foreign)), ("own", homes.open())):
        with home as installation:
            for region, users in found.items():
                with suppress(StoreMismatch):
                    installation.locator.installation_store(region)
                    users.append(name)
    return found


def kill(homes: Homes, function: str, fatal: int) -> None:
    kill_adoption(homes.own, homes.foreign.parent / "file", REGIONS, function, fatal)


_ADOPTION = "imgstore.operations.recovery.adopt_buckets"
_ZONE = "imgstore.regions.zones:OpenedZone"
STEPS: Sequence[tuple[str, int]] = (
    (f"{_ADOPTION}:remove_fingerprints", 1),
    (f"{_ADOPTION}:write_rows", 2),
    (f"{_ADOPTION}:_write_rows", 2),
    (f"{_ZONE}.clean_claimed", 6),
    (f"{_ADOPTION}:write_all_revisions", 2),
    (f"{_ADOPTION}:_remove_former_revisions", 2),
)
"""A function, and the step before or after a call at which the process dies."""


@pytest.mark.parametrize("steps", [STEPS[2:3], pytest.param(STEPS, marks=pytest.mark.long)], ids=["some", "all"])
def test_a_killed_adoption_leaves_one_user_at_most_and_continues(
    homes: Homes, tmp_path: Path, samples: SampleImages, steps: Sequence[tuple[str, int]]
) -> None:
    kill(homes, f"{_ZONE}.claim", 8)
    # Four zones were claimed: three of southcentralus, and one of westus2.
    assert list_users(homes) == {"southcentralus": [], "westus2": ["foreign"], "eastus": ["foreign"]}
    with homes.open() as installation:
        (zone,) = init_regions(installation, ADMIN, zone="westus2/1")
        assert "is not finished" in (zone.problem or "")
    with open_home(homes.foreign) as installation:  # The former owner takes its zones back.
        for name in ("southcentralus/1", "southcentralus/2", "southcentralus/3", "westus2/1"):
            init_regions(installation, ADMIN, zone=name)
    assert list_users(homes) == {region: ["foreign"] for region in REGIONS}
    for step in steps:
        kill(homes, *step)
        assert list_users(homes) == {region: [] for region in REGIONS}
    kill(homes, f"{_ZONE}.finish_claim", 8)
    assert list_users(homes) == {"southcentralus": ["own"], "westus2": [], "eastus": []}
    report = run_adoption(homes.own, homes.foreign.parent / "file", REGIONS)
    assert report.is_resumed
    assert list_users(homes) == {region: ["own"] for region in REGIONS}
    with homes.open_adopted() as installation:
        check_revisions(installation, deferred=True)
        audit(installation, adopted=True)
        export(installation, tmp_path / "out.raw", "westus2")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)


def test_a_running_process_of_the_former_owner_is_refused(homes: Homes, samples: SampleImages) -> None:
    """Each deletion checks the zone again, and each work whose last check is old."""
    clock = SteppedClock()
    with open_home(homes.foreign) as deleter, open_home(homes.foreign, effects=clock.effects) as publisher:
        publish(publisher, samples.first, "3.0.0", ["southcentralus"])
        export(deleter, homes.foreign / "out.raw", "southcentralus", "3.0.0")
        with homes.open() as installation:
            adopt(installation, homes)
        stored = contents(homes.own)
        with pytest.raises(StoreMismatch, match="differs in installation"):
            delete(deleter, "3.0.0")
        clock.seconds += 61
        with pytest.raises(StoreMismatch, match="differs in installation"):
            publish(publisher, samples.second, "3.0.1", ["southcentralus"])
        assert contents(homes.own) == stored


def test_what_cannot_be_verified_is_refused(homes: Homes) -> None:
    keys = homes.keys
    with homes.open() as installation:
        own = present_keys(installation)
        for given, error, text in (
            (None, InvalidInput, "Without the recovery file"),
            (own, InvalidInput, "does not belong to the bucket"),
            (replace(keys, installation_uid="other"), InvalidInput, "does not belong to the bucket"),
            (replace(keys, hmac_key=bytes(32)), Conflict, "valid signature"),
        ):
            with pytest.raises(error, match=text):
                adopt(installation, homes, keys=given)
        with pytest.raises(Conflict, match="belong to this installation"):
            adopt(installation, homes, ["northeurope"])
        mark = homes.own / "regions/imgstore-eastus/zone-1/FORMAT"
        body = mark.read_bytes()
        mark.write_bytes(body.replace(b'"layout": 1', b'"layout": 2'))
        with pytest.raises(StoreMismatch, match="differs in layout"):
            adopt(installation, homes)
        mark.write_bytes(body)
        version = min(homes.own.glob("regions/imgstore-southcentralus/zone-*/pools/*/*/*/owners/*/*"))
        version.write_bytes(version.read_bytes().replace(b'"versions"', b'"version5"', 1))
        plan = adopt(installation, homes, dry_run=True)
        assert [each.kind for each in plan.refused_resources][:1] == ["owners"]
        stored = contents(homes.own)
        with pytest.raises(Conflict, match="cannot be verified"):
            adopt(installation, homes)
        assert contents(homes.own) == stored
    assert list_users(homes) == {region: ["foreign"] for region in REGIONS}
    with homes.open() as installation:
        report = adopt(installation, homes, is_partial=True)
        assert not report.is_complete
        assert report.unknown_owners == 1
        with installation.catalog.reading() as transaction:
            assert transaction.installation.get().keeps_unknown


def test_a_lost_zone_is_left_out_by_name_only(homes: Homes, tmp_path: Path, samples: SampleImages) -> None:
    shutil.rmtree(homes.own / "regions/imgstore-westus2/zone-3")
    with homes.open() as installation:
        with pytest.raises(Conflict, match="Not all zones"):
            adopt(installation, homes)
        report = adopt(installation, homes, skipped=["westus2/3"])
        assert (report.skipped_zones, report.is_complete) == (["westus2/3"], False)
    with homes.open_adopted() as installation:
        reports = scrub(installation, ADMIN, ScrubRequest())
        assert not any(each.problem or each.unrepaired for each in reports)
        export(installation, tmp_path / "out.raw", "westus2")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)


def test_an_unfinished_work_of_the_other_installation_is_named(homes: Homes) -> None:
    slot = next(iter(homes.own.glob("regions/imgstore-eastus/zone-1/pools/*/*/*")))
    (slot / "works").mkdir(exist_ok=True)
    (slot / "works" / "0c3f61e7-7c8e-4f5c-8d0b-5f0a6d0f8b8e").touch()
    with homes.open() as installation:
        (work,) = adopt(installation, homes, dry_run=True).open_works
        assert work.startswith("eastus/Standard_LRS/0 since ")
        with pytest.raises(Conflict, match="are not finished"):
            adopt(installation, homes)
        assert adopt(installation, homes, is_partial=True).is_done


@pytest.mark.engine("postgresql")
def test_a_reset_installation_refuses_equal_names_and_merges_equal_groups(
    template: Path, tmp_path: Path, samples: SampleImages, postgresql: str
) -> None:
    """Adopt into an installation with the same subscription, after a failed use of the region."""
    with open_home(template / "foreign") as installation:
        subscription = installation.subscription
    (tmp_path / "new").mkdir()
    with open_home(tmp_path / "new", regions=template / "regions.yaml", database=postgresql, subscription=subscription):
        pass  # A first start is refused beside the folders of another installation.
    homes = place(template, tmp_path, REGIONS)
    with homes.open(database=postgresql) as installation:
        groups.create_group(installation, ADMIN, name="RG", location="northeurope")
        galleries.create_gallery(installation, ADMIN, group="rg", name="G1", location="northeurope")
        with pytest.raises(StoreMismatch, match="differs in installation"):
            make_disk_of_file(installation, "own", samples.first)
        for dry_run in (True, False):
            with pytest.raises(Conflict, match="have names of resources here") as caught:
                adopt(installation, homes, dry_run=dry_run)
            assert caught.value.found == "galleries rg/g1"
        galleries.delete_gallery(installation, ADMIN, group="rg", name="g1")
        report = adopt(installation, homes)
        assert ("groups", "rg", "merged") in {(each.kind, each.name, each.change) for each in report.resources}
        assert [each.name for each in groups.list_groups(installation, ADMIN)] == ["RG"]
        make_disk_of_file(installation, "own", samples.first)
        for name, image in (("own", samples.first), ("single", samples.second)):
            export_disk(installation, tmp_path / "out.raw", name)
            assert filecmp.cmp(tmp_path / "out.raw", image, shallow=False)
        collect(installation)
        audit(installation, adopted=True)
        check_revisions(installation)


def test_one_region_after_the_other(homes: Homes, tmp_path: Path, samples: SampleImages) -> None:
    with homes.open() as installation:
        report = adopt(installation, homes, ["eastus"])
        assert report.other_regions == ["southcentralus", "westus2"]
        # The versions are described in their source region, and the disk of eastus in eastus.
        assert (report.counts["versions"], report.counts["disks"]) == (0, 2)
        assert report.unknown_owners == 2
        report = adopt(installation, homes, ["southcentralus"])
        assert (report.counts["versions"], report.counts["galleries"], report.present) == (3, 0, 3)
        assert report.trimmed_versions == ["rg/g1/ubuntu/1.0.0", "rg/g1/ubuntu/1.0.1"]
        for region in ("southcentralus", "eastus"):
            with pytest.raises(Conflict, match="belong to this installation"):
                adopt(installation, homes, [region])
    with homes.open_adopted() as installation:
        with pytest.raises(ReplicationFailed, match="differs in installation"):
            retarget(installation, ["southcentralus=2", "westus2"])  # Makes a slot in the last region.
        retarget(installation, ["southcentralus=2"])
    with homes.open() as installation:
        assert adopt(installation, homes, ["westus2"]).counts["disks"] == 1
    with homes.open_adopted() as installation:
        assert {each.name for each in show(installation).version.target_regions} == {"southcentralus"}
        retarget(installation, ["southcentralus=2", "eastus"])
        export(installation, tmp_path / "out.raw", "eastus")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)
        collect(installation)
        export_disk(installation, tmp_path / "out.raw", "d1")
        assert filecmp.cmp(tmp_path / "out.raw", samples.second, shallow=False)


def test_the_command_prints_what_would_come_and_the_next_steps(homes: Homes, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        line = [*words, "--home", str(homes.own), "--regions", str(homes.regions)]
        return CliRunner().invoke(main, line, prog_name="imgstore")

    (tmp_path / "passphrase").write_text(PASSPHRASE)
    keys = ["--recovery-file", str(tmp_path / "file"), "--passphrase-file", str(tmp_path / "passphrase")]
    words = ["catalog", "adopt", *(word for region in REGIONS for word in ("--region", region))]
    assert "`imgstore catalog adopt --region REGION`" in run("catalog", "adopt").stderr
    assert "--partial needs --region" in run("catalog", "adopt", "--partial").stderr
    refused = run(*words)
    assert refused.exit_code != 0
    assert "the other installation writes the file with `imgstore catalog recovery-file FILE`" in refused.stderr
    (tmp_path / "wrong").write_text(f"not {PASSPHRASE}")
    assert "passphrase" in run(*words, *keys[:2], "--passphrase-file", str(tmp_path / "wrong")).stderr
    plan = run(*words, *keys)
    assert plan.exit_code == 0, plan.output
    body = json.loads(plan.stdout)
    assert (body["done"], body["counts"]["versions"], body["subscriptions"]) == (False, 3, [homes.subscription])
    assert "use --yes to take over the buckets of southcentralus, westus2, eastus" in plan.stderr
    table = run(*words, *keys, "-o", "table").stdout
    assert "rg/g1/ubuntu/1.0.1" in table
    done = run(*words, *keys, "--yes")
    assert done.exit_code == 0, done.output
    (step,) = [each for each in json.loads(done.stdout)["nextSteps"] if "sig list" in each]
    listed = run(*shlex.split(step.partition(": imgstore ")[2]))
    assert [each["name"] for each in json.loads(listed.stdout)] == ["g1"]


@pytest.mark.engine("minio")
def test_buckets_are_adopted(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], samples: SampleImages
) -> None:
    scene = create_minio_scene(tmp_path / "scene", minio_cluster(3), "adopt")
    scene.prepare()
    with scene.open() as installation:
        publish(installation, samples.first)
        publish(installation, samples.second, "1.0.1", ["southcentralus", "westus2=1=Standard_ZRS"])
        make_disk(installation, "d1", "eastus", "1.0.0")
        keys, subscription = present_keys(installation), installation.subscription
        write_all_revisions(installation)
    foreign = crash_process.parse_settings({"home": str(scene.folder / "home"), **scene.settings})
    document = json.loads(Path(scene.settings["regions"]).read_text())
    document["regions"] = {"northeurope": NORTH, **document["regions"]}
    (tmp_path / "regions.yaml").write_text(json.dumps(document))
    # The first start is refused in buckets of another installation, so the regions come later.
    (tmp_path / "north.yaml").write_text(json.dumps(document | {"regions": {"northeurope": NORTH}}))
    with open_home(tmp_path / "own", regions=tmp_path / "north.yaml"):
        pass
    settings = dict[str, Any](regions=tmp_path / "regions.yaml", environ=foreign.environ)
    with open_home(tmp_path / "own", **settings) as installation:
        report = adopt_buckets(installation, ADMIN, regions=REGIONS, keys=keys, dry_run=False)
        assert report.is_complete
        check_revisions(installation, deferred=True)
    with scene.open() as installation, pytest.raises(StoreMismatch, match="differs in installation"):
        installation.locator.installation_store("westus2")
    with open_home(tmp_path / "own", subscription=subscription, **settings) as installation:
        audit(installation, adopted=True)
        collect(installation)
        for version, image in (("1.0.0", samples.first), ("1.0.1", samples.second)):
            export(installation, tmp_path / "out.raw", "westus2", version)
            assert filecmp.cmp(tmp_path / "out.raw", image, shallow=False)
        publish(installation, samples.second, "2.0.0", ["southcentralus", "eastus"])
        audit(installation, adopted=True)


def present_keys(installation: Installation) -> RecoveryKeys:
    with installation.catalog.reading() as transaction:
        return read_present_keys(installation, transaction)


class SteppedClock:
    """Effects with a monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 0.0
        real = time.monotonic
        self.effects = Effects(monotonic=lambda: real() + self.seconds)
