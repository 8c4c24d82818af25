"""Commands with a server print the same as at a home. Lists are paged, and operations are polled."""

import json
import random
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from remote_server import Machine, serving

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from imgstore.testing.pytest_plugin import require
from tests.support.sample_disks import make_raw

DEFINITION = "sig image-definition create -g rg -r g1 -i ubuntu -p p -f o -s s --os-type Linux"
CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00"
)
LINES = (
    "group create -n rg -l southcentralus --tags team=images",
    "group create -n rg -l southcentralus",
    "group show -n rg",
    "sig create -g rg -r g1 --description golden --tags a=b",
    "sig create -g rg -r g1 --soft-delete true --soft-delete-retention 9",
    "sig create -g other -r g2 -l 'West US 2' --permissions groups",
    "sig show -g rg -r g1 --select Permissions",
    DEFINITION,
    (
        f"{DEFINITION} --description d --end-of-life-date 2035-12-02 --minimum-cpu-core 2 --maximum-memory 64 "
        "--release-note-uri https://example.org/notes --tags x=y"
    ),
    (
        "sig image-definition create -g rg -r g1 -i second -p p -f o -s s2 --os-type Windows --os-state Specialized "
        "--hyper-v-generation V2 --features 'SecurityType=TrustedLaunchSupported' --disallowed-disk-types Premium_LRS "
        "--plan-name n --plan-publisher pp --plan-product pr --eula e --privacy-statement-uri https://example.org/p"
    ),
    "sig image-definition create -g rg -r g1 -i third -p p -f o -s s3 --os-type Linux --hyper-v-generation V2",
    "sig image-definition show -g rg -r g1 -i ubuntu",
    "sig image-definition list -g rg -r g1",
    "sig image-definition delete -g rg -r g1 -i third",
    "disk create -g rg -n up -l westus2 --upload-type Upload --upload-size-bytes 1048576 --tags a=b",
    "disk create -g rg -n up -l westus2 --upload-type Upload --upload-size-bytes 1048576",
    "disk show -g rg -n up",
    "disk list",
    "disk delete -g rg -n up --yes",
    "group list --tag team",
    "sig list",
    "sig delete -g other -r g2",
    "group delete -n other --yes",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serving(tmp_path_factory.mktemp("commands"), "--page-items", "2") as machine:
        yield machine


def plain(body: Any) -> Any:
    """Remove the values that differ between two installations."""
    return json.loads(CHANGING.sub("...", json.dumps(body)))


def test_server_and_home_print_the_same(machine: Machine, tmp_path: Path) -> None:
    for line in LINES:
        here = CliRunner().invoke(
            main, shlex.split(line), prog_name="imgstore", env={"IMGSTORE_HOME": str(tmp_path / "home")}
        )
        assert here.exit_code == 0, f"{line}\n{here.output}"
        over = machine.inside(*shlex.split(line))
        assert plain(over) == plain(json.loads(here.stdout) if here.stdout else None), line


def test_lists_are_paged_across_server_pages(machine: Machine) -> None:
    for number in range(5):
        machine.inside("group", "create", "-n", f"page{number}", "-l", "eastus", "--tags", "paged=1")
    names = [each["name"] for each in machine.inside("group", "list")]
    assert {f"page{number}" for number in range(5)} < set(names)
    for size in (1, 2, 3, 4, 100):
        found, more = list[str](), list[str]()
        while True:
            page = [each["name"] for each in machine.inside("group", "list", "--max-items", str(size), *more)]
            assert len(page) <= size
            found += page
            token = re.search(r"--next-token (\S+)", machine.last_stderr)
            if token is None:
                break
            assert len(page) == size
            more = ["--next-token", token[1]]
        assert found == names
    with pytest.raises(AssertionError, match="The token does not belong to this list"):
        machine.inside("group", "list", "--next-token", "xxxx")
    with pytest.raises(AssertionError, match="A page has at least one item"):
        machine.inside("group", "list", "--max-items", "0")


def test_operations_are_listed_shown_and_canceled(machine: Machine) -> None:
    machine.inside("group", "create", "-n", "ops", "-l", "eastus")
    machine.inside("sig", "create", "-g", "ops", "-r", "ops", "-l", "eastus")
    listed = machine.inside("operation", "list", "--status", "Succeeded")
    made = next(each for each in listed if each["properties"]["resourceId"].endswith("/galleries/ops"))
    assert machine.inside("operation", "show", "-n", made["name"]) == made
    assert machine.inside("operation", "list", "--status", "InProgress") == []
    with pytest.raises(AssertionError, match="has ended"):
        machine.inside("operation", "cancel", "-n", made["name"])
    with pytest.raises(AssertionError, match="was not found"):
        machine.inside("operation", "show", "-n", "no-such-operation")


def test_version_is_updated_awaited_and_deleted(machine: Machine, tmp_path: Path) -> None:
    where = ("-g", "rv", "-r", "gv", "-i", "ubuntu")
    machine.inside("sig", "create", "-g", "rv", "-r", "gv", "-l", "southcentralus")
    machine.inside("sig", "image-definition", "create", *where, "-p", "p", "-f", "o", "-s", "s", "--os-type", "Linux")
    path = str(make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=2 * MIB))
    version = ("sig", "image-version")
    one = (*where, "-e", "1.0.0")
    machine.inside(
        *version, "create", *one, "--os-vhd-uri", path, "--target-regions", "southcentralus=2", "westus2",
        "--end-of-life-date", "2035-12-02", "--tags", "a=b", "--no-wait",
    )  # fmt: skip
    machine.inside(*version, "wait", *one, "--created", "--timeout", "120", "--interval", "1")
    shown = machine.inside(*version, "show", *one, "--expand", "ReplicationStatus")
    assert shown["properties"]["replicationStatus"]["aggregatedState"] == "Completed"
    assert "replicationStatus" not in machine.inside(*version, "show", *one)["properties"]

    changed = machine.inside(
        *version, "update", *one, "--target-regions", "southcentralus=1", "eastus", "--tags", "c=d"
    )
    regions = [each["name"] for each in changed["properties"]["publishingProfile"]["targetRegions"]]
    assert (regions, changed["tags"]) == (["South Central US", "East US"], {"c": "d"})
    assert changed["properties"]["publishingProfile"]["endOfLifeDate"].startswith("2035-12-02")
    changed = machine.inside(*version, "update", *one, "--remove", "publishingProfile.endOfLifeDate")
    assert "endOfLifeDate" not in changed["properties"]["publishingProfile"]
    assert changed["tags"] == {"c": "d"}, "properties that the request leaves out stay"
    assert len(changed["properties"]["publishingProfile"]["targetRegions"]) == 2
    changed = machine.inside(
        *version, "update", *one, "--set", "publishingProfile.targetRegions[name=East US].excludeFromLatest=true"
    )
    assert [each["excludeFromLatest"] for each in changed["properties"]["publishingProfile"]["targetRegions"]] == [
        False,
        True,
    ]

    machine.inside("disk", "create", "-g", "rv", "-n", "d1", "--location", "southcentralus", "--source", path)
    machine.inside("disk", "create", "-g", "rv", "-n", "d2", "--source", "d1", "--os-type", "Linux")
    machine.inside(*version, "create", *where, "-e", "1.1.0", "--os-snapshot", "d2", "-l", "southcentralus")
    machine.inside(*version, "create", *where, "-e", "1.2.0", "--image-version", "rv/gv/ubuntu/1.1.0")
    listed = machine.inside(*version, "list", *where)
    assert [each["name"] for each in listed] == ["1.0.0", "1.1.0", "1.2.0"]
    digests = {each["properties"]["storageProfile"]["osDiskImage"]["diskDigest"] for each in listed}
    assert len(digests) == 1

    machine.inside(*version, "delete", *one)
    machine.inside(*version, "wait", *one, "--deleted")
    with pytest.raises(AssertionError, match="The image version was not found"):
        machine.inside(*version, "wait", *one, "--created")
    with pytest.raises(AssertionError, match="OperationTimedOut"):
        machine.inside(*version, "wait", *where, "-e", "1.1.0", "--custom", "name == 'x'", "--timeout", "0")


@pytest.mark.parametrize("words", [["--base", "1.0.0"], ["--verify", "full"]])
def test_unsupported_option_is_refused_by_name(machine: Machine, tmp_path: Path, words: list[str]) -> None:
    line = ["sig", "image-version", "create", "-g", "rg", "-r", "g1", "-i", "ubuntu", "-e", "5.0.0"]
    with pytest.raises(AssertionError, match=rf"\(LocalHomeOnly\) {words[0]}"):
        machine.inside(*line, "--os-vhd-uri", str(tmp_path / "none.raw"), *words)


def test_signed_urls_are_granted_and_revoked(machine: Machine) -> None:
    words = ("-g", "rs", "-n", "up")
    upload = ("--upload-type", "Upload", "--upload-size-bytes", "1048576")
    machine.inside("disk", "create", *words, "-l", "westus2", *upload)
    given = machine.inside("disk", "grant-access", *words, "--access-level", "Write", "--duration-in-seconds", "60")
    assert given["accessSAS"].startswith(machine.url)
    assert machine.inside("disk", "show", *words)["properties"]["diskState"] == "ActiveUpload"
    machine.inside("disk", "revoke-access", *words)
    assert machine.inside("disk", "show", *words)["properties"]["diskState"] == "ReadyToUpload"


@pytest.mark.engine("nbdcopy")
def test_a_disk_of_the_server_is_attached(machine: Machine, tmp_path: Path) -> None:
    require("nbdcopy")
    raw = tmp_path / "disk.raw"
    raw.write_bytes(random.Random(5).randbytes(3 << 20) + bytes(2 << 20) + b"end" + bytes(509))
    machine.inside("group", "create", "-n", "ra", "-l", "westus2")
    machine.inside(
        "disk", "create", "-g", "ra", "-n", "d1", "-l", "westus2", "--source", str(raw), "--os-type", "Linux"
    )
    with machine.start("disk", "attach", "-g", "ra", "-n", "d1", "--socket", str(tmp_path / "s")) as running:
        assert running.stdout is not None
        shown = ""
        while not shown.endswith("}\n"):
            shown += running.stdout.readline()
        subprocess.run(["nbdcopy", json.loads(shown)["uri"], str(tmp_path / "copy")], check=True, timeout=60)
        assert machine.inside("disk", "show", "-g", "ra", "-n", "d1")["properties"]["diskState"] == "ActiveSAS"
        running.terminate()
        assert running.wait(timeout=60) == 0
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()
    assert machine.inside("disk", "show", "-g", "ra", "-n", "d1")["properties"]["diskState"] == "Unattached"
