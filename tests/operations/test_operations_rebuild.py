"""A lost catalog comes back from the buckets and the recovery file, column by column (K6 to K8)."""

import filecmp
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgstore.api.auth.signing_keys import KeyRing
from imgstore.bootstrap import Settings, open_rebuild
from imgstore.catalog import schema
from imgstore.catalog.storage.revisions import LEFT_OUT
from imgstore.cli.main import main
from imgstore.domain.errors import Conflict, InvalidInput, StoreMismatch
from imgstore.domain.names import disk_id
from imgstore.domain.network_records import NetworkContent
from imgstore.domain.progress import ignore_event
from imgstore.domain.recovery import RebuildReport
from imgstore.domain.requests import MachineRequest, ScrubRequest
from imgstore.domain.states import ReplicaState
from imgstore.operations.deployments import begin_deployment, end_deployment
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import create_machine
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.network_records import NetworkScope, put_network_record
from imgstore.operations.recovery.rebuild import rebuild_catalog
from imgstore.operations.recovery.recovery_file import read_present_keys, read_recovery_file, write_recovery_file
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.recovery.restore_mark import mark_path
from imgstore.testing.engines import S3Engine
from tests.support import crash_process
from tests.support.catalog_dump import NOT_RESTORED, PASSPHRASE, dump, remove_catalog
from tests.support.crash_scenes import create_minio_scene
from tests.support.sample_gallery import (
    ADMIN,
    SampleImages,
    audit,
    create_sample_gallery,
    delete,
    export,
    make_disk,
    open_home,
    publish,
    show,
    states,
)

pytest_plugins = ["tests.support.published_gallery"]

ROOT = Path(__file__).parents[2]


def run(home: Path, *words: str) -> Any:
    done = CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if done.stdout else None


COMMANDS = """
group create -n other -l westus2 --tags a=1
disk create -g rg -n copy --source d1 --tags a=1
disk create -g rg -n temporary --source d1
disk delete -g rg -n temporary --yes
disk create -g rg -n waiting -l eastus --upload-type Upload --upload-size-bytes 1049088
disk create -g rg -n local --source {first} -l eastus
snapshot create -g rg -n s1 --source d1
disk create -g rg -n far -l northeurope --gallery-image-reference rg/g1/ubuntu/1.0.0 --allow-remote
disk create -g rg -n far2 -l northeurope --gallery-image-reference rg/g1/ubuntu/1.0.0 --allow-remote
snapshot create -g rg -n far-copy -l northeurope --source local --allow-remote
image create -g rg -n i1 --source {first} --data-disk-sources {second} -l eastus --os-type Linux
sig create -g other -r g2 --description text --soft-delete true --permissions Groups --tags a=1
sig share add -g other -r g2 --subscription-ids 11111111-1111-1111-1111-111111111111
sig image-definition create -g other -r g2 -i win -p p -f o -s s --os-type Windows --os-state specialized
sig image-definition create -g other -r g2 -i all -p p -f o -s t --os-type Linux --tags a=1 --description text --eula e \
    --privacy-statement-uri https://p.example --release-note-uri https://r.example --end-of-life-date 2035-12-02 \
    --minimum-cpu-core 1 --maximum-cpu-core 2 --minimum-memory 3 --maximum-memory 4 --plan-name n --plan-publisher p \
    --plan-product q --disallowed-disk-types Premium_LRS --features IsAcceleratedNetworkSupported=true
sig image-version create -g other -r g2 -i win -e 1.0.0 --os-vhd-uri {first} --target-regions eastus -l eastus
sig image-version create -g other -r g2 -i win -e 2.0.0 --os-vhd-uri {first} --target-regions eastus -l eastus \
    --replication-mode Shallow
sig image-version create -g other -r g2 -i all -e 1.2.3 --os-vhd-uri {first} --data-vhds-uris {second} \
    --data-vhds-luns 5 --target-regions southcentralus=2 -l southcentralus --tags a=1 --end-of-life-date 2035-12-02 \
    --exclude-from-latest --allow-replicated-location-deletion --block-deletion-before-end-of-life
sig image-version delete -g other -r g2 -i win -e 1.0.0 --yes
vm create -g rg -n m1 --image other/g2/win/2.0.0 -l eastus
vm create -g rg -n m2 --image other/g2/all/1.2.3 -l southcentralus --admin-username u --computer-name c --tags a=1 \
    --plan-name n --plan-publisher p --plan-product q
vm create -g rg -n m3 --image rg/g1/ubuntu/1.0.0 -l eastus --admin-username u
vm create -g rg -n m4 --image other/g2/all/1.2.3 -l southcentralus --admin-username u --plan-name n --plan-publisher p --plan-product q
vm generalize -g rg -n m3
vmss create -g rg -n set1 --image other/g2/all/1.2.3 -l southcentralus --instance-count 2 --admin-username u --tags a=1 --allow-remote
auth tenant create -n partners
auth issuer add --tenant partners --issuer https://login.example --audience a --jwks https://login.example/keys
auth init
auth user create -n ann --issuer https://login.example --subject s
bill seal
bill rotate-key
budget set --amount 100.00 --month 2030-01 --at-limit refuse
auth sp create -n builder
auth sp revoke-tokens --id builder
auth role assignment create --assignee ann --role Reader --scope /subscriptions/{subscription}/resourceGroups/rg
"""


def furnish(home: Path, samples: SampleImages) -> None:
    """Add resources of all kinds to a home with a published version."""
    with open_home(home) as installation:
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        publish(installation, samples.rebuilt, "1.0.2", ["southcentralus"])
        delete(installation, "1.0.2")
        make_disk(installation, "d1", "eastus", "1.0.0")
        make_disk(installation, "d2", "westus2", "1.0.0")
        KeyRing(installation).rotate(ADMIN)
        values = {"first": samples.first, "second": samples.second, "subscription": installation.subscription}
    for line in COMMANDS.format(**values).replace("\\\n", "").strip().splitlines():
        run(home, *line.split())
    (home / "settings.toml").write_text("[limits]\ngalleries_max = 7\n")
    run(home, "settings", "apply")
    with open_home(home) as installation:
        add_network_records(installation)
        running = begin_deployment(
            installation, ADMIN, group="rg", name="ended", parameters={"a": {"value": 1}}, holder="o1"
        )
        error = {"code": "DeploymentFailed", "message": "text"}
        end_deployment(installation, running, resources=(disk_id(installation.subscription, "rg", "d1"),), error=error)
        running = begin_deployment(installation, ADMIN, group="rg", name="good", parameters={}, holder="o2")
        end_deployment(installation, running, resources=(), outputs={"b": {"value": 2}})


def add_network_records(installation: Installation) -> None:
    """Add a network with a subnet, and an interface that names the subnet and belongs to a machine."""
    net = NetworkScope(group="rg", type="Microsoft.Network/virtualNetworks", name="net")
    content = NetworkContent(location="eastus", tags={"a": "1"}, body={"x": [1]}, parts=("subnets/one",))
    put_network_record(installation, ADMIN, net, lambda _: content)
    nic = NetworkScope(group="rg", type="Microsoft.Network/networkInterfaces", name="nic")
    subnet = f"{net.scope(installation)}/subnets/one".lower()
    put_network_record(installation, ADMIN, nic, lambda _: NetworkContent(location="eastus", references=(subnet,)))
    create_machine(
        installation,
        ADMIN,
        MachineRequest(group="rg", name="m1", image="other/g2/win/2.0.0", interfaces={nic.scope(installation): True}),
    )


def lose(home: Path, file: Path) -> dict[str, list[Any]]:
    """Write everything that waits and the recovery file, dump the catalog, and remove the catalog."""
    with open_home(home) as installation:
        write_recovery_file(installation, ADMIN, file, passphrase=PASSPHRASE, overwrite=True)
        write_all_revisions(installation)
        before = dump(installation.catalog)
    remove_catalog(home)
    return before


def rebuild(
    home: Path, keys: RecoveryKeys, *, dry_run: bool = False, skipped: Sequence[str] = (), **settings: Any
) -> RebuildReport:
    settings.setdefault("environ", {})
    with open_rebuild(Settings(home=home, **settings), keys, ignore_event, dry_run=dry_run) as context:
        return rebuild_catalog(context, "test", dry_run=dry_run, skipped=skipped)


def present_keys(installation: Installation) -> RecoveryKeys:
    """Return the keys that a recovery file would have now."""
    with installation.catalog.reading() as transaction:
        return read_present_keys(installation, transaction)


def contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted((home / "regions").rglob("*")) if path.is_file()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A home with resources of all kinds and without a catalog."""

    home: Path
    keys: RecoveryKeys
    file: Path
    """The recovery file with the keys."""
    before: Mapping[str, Any]
    """The comparable rows of the lost catalog."""


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, samples: SampleImages) -> Lost:
    home = tmp_path_factory.mktemp("rebuild") / "home"
    shutil.copytree(samples.home, home)
    furnish(home, samples)
    file = home.parent / "file"
    before = lose(home, file)
    return Lost(home=home, keys=read_recovery_file(file, PASSPHRASE)[0], file=file, before=before)


@pytest.fixture
def lost(tmp_path: Path, furnished: Lost) -> Lost:
    shutil.copytree(furnished.home, tmp_path / "home")
    return replace(furnished, home=tmp_path / "home")


def test_each_table_is_equal_column_by_column(lost: Lost, tmp_path: Path, samples: SampleImages) -> None:
    stored = contents(lost.home)
    plan = rebuild(lost.home, lost.keys, dry_run=True)
    assert not (lost.home / "catalog.sqlite").exists()
    report = rebuild(lost.home, lost.keys)
    assert contents(lost.home) == stored  # invariant K6: a rebuild with all keys writes into no bucket
    assert report.is_complete
    assert not report.refused
    assert (plan.resources, plan.rows) == (report.resources, report.rows)
    assert report.ledger.opened_intervals == report.ledger.closed_intervals == 0
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="not empty"):
            rebuild(lost.home, lost.keys, dry_run=dry_run)
    with open_home(lost.home) as installation:
        after = dump(installation.catalog)
        assert {name: rows for name, rows in after.items() if rows != lost.before[name]} == {}
        assert after == lost.before
        audit(installation)
        for name in ("1.0.0", "1.0.1"):
            export(installation, tmp_path / "out.raw", "eastus", name)
            original = samples.first if name == "1.0.0" else samples.second
            assert filecmp.cmp(tmp_path / "out.raw", original, shallow=False)
        sent = installation.locator.traffic()["southcentralus"].sent_bytes
        publish(installation, samples.second, "3.0.0", ["southcentralus"])
        assert installation.locator.traffic()["southcentralus"].sent_bytes - sent < 100_000
        audit(installation)


WITHOUT_VALUE = {
    "budgets.reached_month", "definitions.allow_update_image", "disks.kept", "installation.keeps_unknown", "installation.outdated",
    "replicas.attempts", "replicas.error", "replicas.parent_region", "replicas.retry_at", "scale_sets.former_capacity", "signing_keys.retired_at", "signing_keys.trusted_until",
}  # fmt: skip
"""The columns that have their first value in each row of the furnished home, because only a failure or time changes it."""


def test_the_lost_catalog_has_a_value_in_each_column(furnished: Lost) -> None:
    """A new table or column of the schema needs a resource in `furnish`, or a reason in `LEFT_OUT` or above."""
    assert furnished.before.keys() >= schema.metadata.tables.keys() - LEFT_OUT.keys()
    without = {
        f"{name}.{column}"
        for name, rows in furnished.before.items()
        if name != "segments"
        for column in set(schema.metadata.tables[name].c.keys()) - NOT_RESTORED.get(name, set())
        if not any(row[column] for row in rows)
    }
    assert without == WITHOUT_VALUE


def test_killed_rebuild_is_no_installation_and_continues(lost: Lost, tmp_path: Path) -> None:
    """Kill a rebuild at several commits (invariant K7)."""
    program = (
        "import signal, sys; from pathlib import Path; from tests.support.crash_process import StepCounter;"
        "import test_operations_rebuild as t; counter = StepCounter(int(sys.argv[3]), signal.SIGKILL);"
        "counter.wrap_commits(); t.rebuild(Path(sys.argv[1]), t.read_recovery_file(Path(sys.argv[2]), t.PASSPHRASE)[0])"
    )
    environ = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    for fatal in (15, 31):
        words = [sys.executable, "-c", program, str(lost.home), str(lost.file), str(fatal)]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        with pytest.raises(StoreMismatch, match="is not complete"), open_home(lost.home):
            pass
    report = rebuild(lost.home, lost.keys)
    assert report.is_complete
    with open_home(lost.home) as installation:
        assert dump(installation.catalog) == lost.before
        audit(installation)


def test_the_home_of_an_unfinished_restore_gets_no_catalog(lost: Lost) -> None:
    """Refuse the rebuild at once, because no command would open the home afterwards."""
    mark_path(lost.home).write_text('{"digest": "", "file": "b.tar", "place": ""}')
    with pytest.raises(Conflict, match="restore into the home was interrupted"):
        rebuild(lost.home, lost.keys)
    assert not (lost.home / "catalog.sqlite").exists()


def test_other_keys_open_no_zone(lost: Lost) -> None:
    with pytest.raises(Conflict) as caught:
        rebuild(lost.home, replace(lost.keys, installation_uid="other"))
    assert "southcentralus/1: the zone belongs to installation" in (caught.value.found or "")
    forged = rebuild(lost.home, replace(lost.keys, hmac_key=bytes(32)), dry_run=True)
    assert not forged.is_complete
    assert {each.reason for each in forged.refused} == {"a wrong HMAC"}
    assert not any(forged.resources.values())


def test_a_lost_zone_is_given_up_by_name_only(lost: Lost, tmp_path: Path, samples: SampleImages) -> None:
    shutil.rmtree(lost.home / "regions" / "imgstore-eastus")
    with pytest.raises(Conflict, match="Not all zones") as caught:
        rebuild(lost.home, lost.keys)
    assert "eastus/1: the zone uid" in (caught.value.found or "")
    with pytest.raises(InvalidInput, match="not known"):
        rebuild(lost.home, lost.keys, skipped=["eastus/2"])
    report = rebuild(lost.home, lost.keys, skipped=["eastus/1"])
    assert not report.is_complete
    assert report.skipped_zones == ["eastus/1"]
    assert {(each.owner, each.slot.partition("/")[0]) for each in report.missing_manifests if each.kind == "versions"} >= {
        ("1.0.0", "eastus"), ("1.0.1", "eastus")
    }  # fmt: skip
    with open_home(lost.home) as installation:
        assert states(show(installation))["eastus/0"] is ReplicaState.DEGRADED
        with installation.catalog.reading() as transaction:
            assert transaction.installation.get().keeps_unknown
        export(installation, tmp_path / "out.raw", "southcentralus")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)


def test_damaged_and_forged_revisions_are_refused_by_name(lost: Lost, tmp_path: Path) -> None:
    (group,) = [row for row in lost.before["groups"] if row["name"] == "other"]
    copies = sorted((lost.home / "regions").glob(f"*/zone-*/installation/groups/{group['uid']}/*"))
    assert len(copies) > 2
    first, *others = copies
    first.write_bytes(first.read_bytes().replace(b'"other"', b'"forge"'))
    report = rebuild(lost.home, lost.keys, dry_run=True)
    assert [each.key for each in report.refused] in ([], [str(first.relative_to(first.parents[3]))])
    assert report.is_complete
    for each in others:
        each.write_bytes(each.read_bytes()[:-1])
    report = rebuild(lost.home, lost.keys)
    assert len(report.refused) == len(copies)
    assert {each.reason for each in report.refused} >= {"a wrong HMAC"}
    galleries = [each for each in report.refused_resources if each.kind == "galleries"]
    assert [each.reason for each in galleries] == [f"galleries.group_uid {group['uid']}, which was not found"]
    assert {each.kind for each in report.refused_resources} == {
        "groups",
        "galleries",
        "definitions",
        "versions",
        "placements",
    }
    with open_home(lost.home) as installation:
        assert "other" not in {row["name"] for row in dump(installation.catalog)["groups"]}
        show(installation)


def test_a_missing_manifest_is_reported_and_restored(lost: Lost, tmp_path: Path, samples: SampleImages) -> None:
    with_content = "IMGSTMAN"
    found = sorted((lost.home / "regions").glob("*/zone-*/pools/*/*/*/manifests/*/os"))
    by_owner: dict[str, list[Path]] = {}
    for path in found:
        if path.read_bytes().startswith(with_content.encode()):
            by_owner.setdefault(path.parent.name, []).append(path)
    everywhere = max(by_owner.values(), key=len)  # version 1.0.0, with a copy in each zone
    pairs = [paths for paths in by_owner.values() if len(paths) == 2]
    second = next(paths for paths in pairs if "northeurope" not in str(paths))  # version 1.0.1, not the remote snapshot
    east = next(path for path in everywhere if "eastus" in str(path))
    for path in (east, *second):
        path.unlink()
    plan = rebuild(lost.home, lost.keys, dry_run=True)
    report = rebuild(lost.home, lost.keys)
    assert plan.missing_manifests == report.missing_manifests
    found_missing = {(each.owner, each.slot.partition("/")[0], each.has_copy) for each in report.missing_manifests}
    assert found_missing >= {("1.0.0", "eastus", True), ("1.0.1", "eastus", False), ("1.0.1", "southcentralus", False)}
    with open_home(lost.home) as installation:
        assert states(show(installation))["eastus/0"] is ReplicaState.DEGRADED
        assert set(states(show(installation, "1.0.1")).values()) == {ReplicaState.FAILED}
        scrub(installation, ADMIN, ScrubRequest())
        assert states(show(installation))["eastus/0"] is ReplicaState.COMPLETED
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        export(installation, tmp_path / "out.raw", "eastus", "1.0.1")
        assert filecmp.cmp(tmp_path / "out.raw", samples.second, shallow=False)
        audit(installation)


def test_an_unfinished_manifest_that_cannot_be_read_is_left_out(tmp_path: Path, samples: SampleImages) -> None:
    """Rebuild a version whose work put its manifest and ended before the catalog recorded the manifest as complete."""
    home = tmp_path / "home"
    shutil.copytree(samples.home, home)
    with closing(sqlite3.connect(home / "catalog.sqlite")) as connection, connection:
        connection.execute("UPDATE manifests SET complete = 0")
        connection.execute("UPDATE replicas SET state = 'Replicating'")
    with open_home(home) as installation:
        keys = present_keys(installation)
        write_all_revisions(installation)
    remove_catalog(home)
    damaged = [path for path in home.glob("regions/*/zone-*/pools/**/manifests/**/*") if path.is_file()]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1])
    assert damaged
    report = rebuild(home, keys)
    assert report.is_complete
    assert report.unfinished_manifests == 4
    with open_home(home) as installation:
        publish(installation, samples.first)
        audit(installation)


def test_a_pool_without_a_key_gets_a_new_key(tmp_path: Path, samples: SampleImages) -> None:
    """Rebuild with a recovery file that is older than the gallery (invariant K8)."""
    home = tmp_path / "home"
    with open_home(home) as installation:
        keys = present_keys(installation)
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
        write_all_revisions(installation)
        with installation.catalog.reading() as transaction:
            (pool,) = transaction.pools.list()
    remove_catalog(home)
    report = rebuild(home, keys)
    assert report.new_pool_keys == [pool.uid]
    with open_home(home) as installation:
        with installation.catalog.reading() as transaction:
            (changed,) = transaction.pools.list()
        assert changed.fingerprint_key != pool.fingerprint_key
        before = stored_segment_bytes(home)
        publish(installation, samples.second, "2.0.0", ["southcentralus"])
        assert stored_segment_bytes(home) - before < 300_000
        export(installation, tmp_path / "out.raw", "southcentralus", "2.0.0")
        assert filecmp.cmp(tmp_path / "out.raw", samples.second, shallow=False)
        audit(installation)


def test_storage_after_the_newest_checkpoint_is_billed_from_the_rebuild(tmp_path: Path, samples: SampleImages) -> None:
    home = tmp_path / "home"
    shutil.copytree(samples.home, home)
    with open_home(home) as installation:
        keys = present_keys(installation)
        make_disk(installation, "gone", "eastus")
        write_all_revisions(installation)
        delete_disk(installation, ADMIN, group="rg", name="gone")
        publish(installation, samples.second, "2.0.0", ["southcentralus", "eastus"])
    remove_catalog(home)
    report = rebuild(home, keys)
    assert report.ledger.lost_since is not None
    assert report.ledger.lost_since < report.ledger.lost_until
    assert (report.ledger.opened_intervals, report.ledger.closed_intervals) == (2, 1)
    with open_home(home) as installation:
        delete(installation)
        delete(installation, "2.0.0")


def test_the_next_steps_are_commands_of_a_shell_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, regions, file = tmp_path / "my home", tmp_path / "regions.yaml", tmp_path / "file"
    document = (ROOT / "imgstore/regions.yaml").read_text()
    regions.write_text(document.replace("display_name: East US", "display_name: ${EAST_NAME:-East US}"))
    with open_home(home, regions=regions, environ={"EAST_NAME": "East; Coast"}) as installation:
        write_recovery_file(installation, ADMIN, file, passphrase=PASSPHRASE)
    remove_catalog(home)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    words = ["--recovery-file", str(file), "--passphrase-file", str(tmp_path / "passphrase"), "--yes"]
    monkeypatch.chdir(tmp_path)
    steps = run(Path(home.name), "catalog", "rebuild", *words)["nextSteps"]
    exports = [shlex.split(step.partition("export ")[2]) for step in steps if "export " in step]
    assert exports == [[f"IMGSTORE_REGIONS={home}/regions.yaml"], ["EAST_NAME=East; Coast"]]


def test_each_kind_of_problem_is_a_warning(tmp_path: Path, samples: SampleImages) -> None:
    home, file, passphrase = tmp_path / "home", tmp_path / "file", tmp_path / "passphrase"
    with open_home(home) as installation:
        write_recovery_file(installation, ADMIN, file, passphrase=PASSPHRASE)
        create_sample_gallery(installation)
        publish(installation, samples.first, targets=["southcentralus", "eastus"])
        make_disk(installation, "d1", "eastus")
    remove_catalog(home)
    slots = list(home.glob("regions/imgstore-eastus/zone-1/pools/*/*/*"))
    for path in [path for slot in slots for path in slot.glob("owners/*/*") if b'"d1"' in path.read_bytes()]:
        path.write_bytes(b"damaged")
    for path in [path for slot in slots for path in slot.glob("manifests/*/os")]:
        path.unlink()
    passphrase.write_text(PASSPHRASE)
    words = [
        "catalog",
        "rebuild",
        "--recovery-file",
        str(file),
        "--passphrase-file",
        str(passphrase),
        "--home",
        str(home),
    ]
    done = CliRunner().invoke(main, words, prog_name="imgstore")
    assert done.exit_code == 1, done.output
    warnings = [line.partition(" ")[2] for line in done.stderr.splitlines() if line.startswith("WARNING: ")]
    assert [each.split()[:2] for each in warnings] == [
        ["objects", "that"],
        ["resources", "without"],
        ["missing", "manifests:"],
        ["fingerprint", "keys"],
        ["the", "buckets"],
    ]


def test_a_regions_file_that_cannot_be_written_is_named_and_the_rebuild_continues(
    tmp_path: Path, samples: SampleImages
) -> None:
    home, regions, file = tmp_path / "home", tmp_path / "regions.yaml", tmp_path / "file"
    shutil.copytree(samples.home, home)
    document = (ROOT / "imgstore/regions.yaml").read_text()
    regions.write_text(document.replace("display_name: East US", "display_name: East Coast"))
    with open_home(home, regions=regions) as installation:
        write_recovery_file(installation, ADMIN, file, passphrase=PASSPHRASE)
        write_all_revisions(installation)
        before = dump(installation.catalog)
    remove_catalog(home)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    words = ["catalog", "rebuild", "--recovery-file", str(file), "--passphrase-file", str(tmp_path / "passphrase")]
    line = [*words, "--home", str(home), "--yes"]
    (home / "regions.yaml").mkdir()
    refused = CliRunner().invoke(main, line)
    assert refused.exit_code == 1
    assert str(home / "regions.yaml") in refused.stderr
    assert "the same command continues the rebuild" in refused.stderr
    (home / "regions.yaml").rmdir()
    done = CliRunner().invoke(main, line)
    assert (done.exit_code, json.loads(done.stdout)["complete"]) == (0, True)
    assert (home / "regions.yaml").read_bytes() == regions.read_bytes()
    with open_home(home, regions=regions) as installation:
        assert dump(installation.catalog) == before


def stored_segment_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "regions").glob("*/zone-*/pools/*/*/*/segments/*/*"))


@pytest.mark.engine("postgresql")
def test_a_catalog_is_rebuilt_into_postgresql(
    lost: Lost, postgresql: str, tmp_path: Path, samples: SampleImages
) -> None:
    report = rebuild(lost.home, lost.keys, database=postgresql)
    assert report.is_complete
    with open_home(lost.home, database=postgresql) as installation:
        assert dump(installation.catalog) == lost.before
        make_disk(installation, "new", "eastus")
        publish(installation, samples.first, "4.0.0", ["southcentralus", "eastus"])
        export(installation, tmp_path / "out.raw", "eastus", "4.0.0")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)


@pytest.mark.engine("minio")
def test_a_catalog_is_rebuilt_from_buckets(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], samples: SampleImages
) -> None:
    scene = create_minio_scene(tmp_path / "scene", minio_cluster(3), "rebuild")
    scene.prepare()
    own = crash_process.parse_settings({"home": str(scene.folder / "home"), **scene.settings})
    with scene.open() as installation:
        publish(installation, samples.first)
        publish(installation, samples.second, "1.0.1", ["southcentralus"])
        make_disk(installation, "d1", "eastus", "1.0.0")
        delete_disk(installation, ADMIN, group="rg", name="d1")
        keys = present_keys(installation)
        write_all_revisions(installation)
        before = dump(installation.catalog)
        objects = list_objects(installation)
    remove_catalog(own.home)
    report = rebuild(own.home, keys, environ=own.environ)
    assert report.is_complete
    with scene.open() as installation:
        assert dump(installation.catalog) | {"recovery_keys": []} == before
        assert list_objects(installation) == objects
        export(installation, tmp_path / "out.raw", "westus2")
        assert filecmp.cmp(tmp_path / "out.raw", samples.first, shallow=False)
        audit(installation)


def list_objects(installation: Installation) -> set[tuple[str, str]]:
    return {
        (zone.zone, info.key)
        for zone in installation.locator.find_zones()
        if zone.store is not None
        for info in zone.store.list("")
    }
