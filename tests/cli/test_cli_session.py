"""The whole session of the README on the embedded default: what a person types, and what comes of it.

qemu-img, which we did not write, judges every file that comes out.
"""

import json
import random
import shlex
import signal
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.framework import command
from imgstore.cli.main import main

MIB = 2**20
DISK_BYTES = 40 * MIB

pytestmark = pytest.mark.engine("qemu-img")


def make_disk(path: Path, seed: int, *, data_pieces: int = 5) -> Path:
    """A sparse raw disk: some pieces of noise, some of text, the rest holes. The same seed gives the same disk."""
    noise = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        for piece in range(data_pieces):
            file.seek(piece * 7 * MIB)
            file.write(noise.randbytes(MIB))
            file.write(f"line {piece} of a file that compresses well\n".encode() * 20_000)
    return path


def qemu(*args: str) -> str:
    return subprocess.run(["qemu-img", *args], check=True, capture_output=True, text=True).stdout


class Terminal:
    """Runs lines as a person types them, in one folder, on one home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"IMGSTORE_HOME": str(folder / "home")}

    def run(self, line: str) -> Result:
        return CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=self.env)

    def ok(self, line: str) -> Any:
        """The JSON that a line prints; None where it prints nothing."""
        result = self.run(line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout, parse_float=Decimal) if result.stdout else None

    def fails(self, line: str, code: int) -> str:
        result = self.run(line)
        assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
        return result.stderr


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    for name in ("IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION", "IMGSTORE_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return Terminal(tmp_path)


@pytest.fixture
def prepared(terminal: Terminal) -> Terminal:
    """With a gallery and a definition, and the disks ``disk.vhd`` and, a little changed, ``next.raw``."""
    raw = make_disk(terminal.folder / "disk.raw", 1)
    qemu("convert", "-O", "vpc", "-o", "subformat=fixed,force_size=on", str(raw), str(terminal.folder / "disk.vhd"))
    changed = make_disk(terminal.folder / "next.raw", 1)
    with changed.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"patched" * 1000)
    terminal.ok("group create -n rg -l southcentralus")
    terminal.ok("sig create -g rg -r myGallery")
    terminal.ok(
        "sig image-definition create -g rg -r myGallery -i ubuntu --publisher p --offer o --sku s "
        "--os-type Linux --os-state Generalized"
    )
    return terminal


CREATE = (
    "sig image-version create -g rg -r myGallery -i ubuntu -e 1.0.0 --os-vhd-uri ./disk.vhd --location southcentralus "
    "--target-regions southcentralus=2 westus2=1=standard_zrs eastus --replica-count 1"
)


@pytest.fixture
def published(prepared: Terminal) -> Terminal:
    prepared.ok(CREATE)
    return prepared


def same(raw: Path, file: Path, form: str) -> bool:
    return "identical" in qemu("compare", "-f", "raw", "-F", form, str(raw), str(file))


def test_a_version_comes_to_all_its_regions(prepared: Terminal) -> None:
    made = prepared.ok(CREATE)
    assert made["properties"]["provisioningState"] == "Succeeded"
    shown = prepared.ok("sig image-version show -g rg -r myGallery -i ubuntu -e 1.0.0 --expand ReplicationStatus")
    status = shown["properties"]["replicationStatus"]
    assert status["aggregatedState"] == "Completed"
    assert [(each["region"], len(each["replicas"])) for each in status["summary"]] == [
        ("South Central US", 2),
        ("West US 2", 1),
        ("East US", 1),
    ]
    targets = shown["properties"]["publishingProfile"]["targetRegions"]
    assert [each["storageAccountType"] for each in targets] == ["Standard_LRS", "Standard_ZRS", "Standard_LRS"]
    plain = prepared.ok("sig image-version show -g rg -r myGallery -i ubuntu -e 1.0.0")
    assert "replicationStatus" not in plain["properties"]


def test_the_same_line_again_does_nothing_and_charges_nothing(published: Terminal) -> None:
    before = published.ok("bill show --query \"rows[?kind=='egress']\"")
    assert published.ok(CREATE)["properties"]["provisioningState"] == "Succeeded"
    assert published.ok("bill show --query \"rows[?kind=='egress']\"") == before


def test_replicas_are_handed_out_round_robin(published: Terminal) -> None:
    disks = [
        published.ok(f"disk create -g rg -n s{n} -l 'South Central US' --gallery-image-reference rg/myGallery/ubuntu")
        for n in range(4)
    ]
    given = [disk["replica"] for disk in disks]
    assert sorted(given) == [0, 0, 1, 1]
    assert given[0] != given[1]
    assert published.ok("disk show -g rg -n s1 -o json")["replica"] == given[1]
    assert published.run("disk list -g rg --query '[].replica' -o tsv").stdout.split() == [str(n) for n in given]


def test_files_come_out_as_they_went_in(published: Terminal) -> None:
    folder = published.folder
    made = published.ok(
        "disk create -g rg -n d1 --location westus2 --gallery-image-reference rg/myGallery/ubuntu/1.0.0"
    )
    assert made["properties"]["creationData"]["galleryImageReference"]["id"].endswith("/ubuntu/versions/1.0.0")
    written = published.ok("disk export -g rg -n d1 --file d1.vhd --format vhd")
    assert written["virtualBytes"] == DISK_BYTES
    assert (folder / "d1.vhd").read_bytes() == (folder / "disk.vhd").read_bytes(), "a fixed VHD, byte for byte"
    for name, form, judge in (
        ("d1.raw", "raw", "raw"),
        ("d1-dyn.vhd", "vhd-dynamic", "vpc"),
        ("d1.qcow2", "qcow2", "qcow2"),
    ):
        published.ok(f"disk export -g rg -n d1 --file {name} --format {form}")
        assert same(folder / "disk.raw", folder / name, judge), name
    qemu("check", "-f", "qcow2", "d1.qcow2")


def test_latest_is_the_highest_that_the_region_has(published: Terminal) -> None:
    folder = published.folder
    published.ok(
        "sig image-version create -g rg -r myGallery -i ubuntu -e 1.0.1 --os-vhd-uri next.raw -l southcentralus "
        "--target-regions southcentralus westus2=1=standard_zrs --source-format raw"
    )
    made = published.ok(
        "disk create -g rg -n d2 --location westus2 --gallery-image-reference rg/myGallery/ubuntu/latest "
        "--file out.raw --format raw"
    )
    assert made["properties"]["creationData"]["galleryImageReference"]["id"].endswith("/versions/1.0.1")
    assert made["export"]["path"] == "out.raw"
    assert same(folder / "next.raw", folder / "out.raw", "raw")
    published.ok(
        "disk export --gallery-image-reference rg/myGallery/ubuntu --location eastus --file o.raw --format raw"
    )
    assert same(folder / "disk.raw", folder / "o.raw", "raw"), "1.0.1 was never brought to eastus"
    assert published.run("disk list --query '[].name' -o tsv").stdout.split() == ["d2"], "no resource left behind"
    listed = published.run("sig image-version list -g rg -r myGallery -i ubuntu --query '[].name' -o tsv")
    assert listed.stdout.split() == ["1.0.0", "1.0.1"]


def test_a_small_change_costs_little_and_the_bill_adds_up(published: Terminal) -> None:
    first = delivered(published)
    published.ok(
        "sig image-version create -g rg -r myGallery -i ubuntu -e 1.0.1 --os-vhd-uri next.raw -l southcentralus "
        "--target-regions southcentralus westus2 eastus --source-format raw"
    )
    bill = published.ok("bill show -o json")
    assert bill["currency"] == "USD"
    difference = abs(sum(Decimal(row["amount"]) for row in bill["rows"]) - Decimal(bill["total"]))
    assert difference <= len(bill["rows"]) * Decimal("1e-12"), "each row of storage is rounded once"
    for row in bill["rows"]:
        if row["kind"] == "egress":
            assert Decimal(row["amount"]) == Decimal(row["unitPrice"]) * row["deliveredBytes"] / 10**9
            assert row["source"] != row["target"]
        if row["kind"] == "copy":
            assert row["amount"] == "0"
    kinds = {row["kind"] for row in bill["rows"]}
    assert kinds == {"egress", "copy", "storage"}
    again = delivered(published)
    assert first["eastus"] > 5 * MIB
    assert again["eastus"] - first["eastus"] < MIB // 4


def delivered(terminal: Terminal) -> dict[str, int]:
    bill = terminal.ok("bill show")
    totals: dict[str, int] = {}
    for row in bill["rows"]:
        if row["kind"] == "egress":
            totals[row["target"]] = totals.get(row["target"], 0) + row["deliveredBytes"]
    return totals


def test_verify_distinguishes_the_same_disk_from_another(published: Terminal) -> None:
    assert published.ok("verify --file disk.vhd --image rg/myGallery/ubuntu/1.0.0")["matches"] is True
    qemu("convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
    assert published.ok("verify --file disk.qcow2 --image rg/myGallery/ubuntu --location eastus")["matches"] is True
    result = published.run("verify --file next.raw --image rg/myGallery/ubuntu/1.0.0")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["matches"] is False
    assert told["firstDifference"] == 0, "the change at 3 MiB lies in the first piece of 4 MiB"


def test_inspect_names_the_format(prepared: Terminal) -> None:
    told = prepared.ok("inspect disk.vhd")
    assert told["format"] == "vhd"
    assert told["azure"] == {"ready": True, "reasons": []}
    assert told["checks"]
    assert all(check["passed"] for check in told["checks"])
    (prepared.folder / "cut.vhd").write_bytes((prepared.folder / "disk.vhd").read_bytes()[MIB:])
    result = prepared.run("inspect cut.vhd -o table")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout


def test_a_disk_outlives_its_version_and_deletes_go_from_the_leaves(published: Terminal) -> None:
    published.ok("disk create -g rg -n d1 -l eastus --gallery-image-reference rg/myGallery/ubuntu/1.0.0")
    assert "CannotDeleteResource" in published.fails("sig image-definition delete -g rg -r myGallery -i ubuntu", 1)
    assert "CannotDeleteResource" in published.fails("sig delete -g rg -r myGallery", 1)
    published.ok("sig image-version delete -g rg -r myGallery -i ubuntu -e 1.0.0")
    published.fails("sig image-version show -g rg -r myGallery -i ubuntu -e 1.0.0", 3)
    published.ok("disk export -g rg -n d1 --file d1.raw")
    assert same(published.folder / "disk.raw", published.folder / "d1.raw", "raw")
    published.ok("disk delete -g rg -n d1 --yes")
    published.ok("sig image-definition delete -g rg -r myGallery -i ubuntu")
    published.ok("sig delete -g rg -r myGallery")
    assert published.ok("sig list") == []
    published.ok("group delete -n rg -y")
    assert published.ok("group list") == []


def test_a_disk_stays_when_its_export_fails_and_the_error_names_it(published: Terminal) -> None:
    told = published.fails(
        "disk create -g rg -n d1 -l eastus --gallery-image-reference rg/myGallery/ubuntu --file absent/out.raw", 1
    )
    assert "the managed disk 'd1' was made and stays" in told
    assert published.ok("disk show -g rg -n d1")["properties"]["provisioningState"] == "Succeeded"


def test_a_missing_group_is_made_on_first_use(terminal: Terminal) -> None:
    terminal.ok("sig create -g other -r g1 -l 'West US 2'")
    assert terminal.ok("group show -n other")["location"] == "westus2"


def test_whoever_sits_at_a_terminal_is_asked_before_a_delete(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.ok("group create -n rg -l eastus")
    at_terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), modules=sys.modules)
    monkeypatch.setattr(command, "sys", at_terminal)
    result = CliRunner().invoke(main, ["group", "delete", "-n", "rg"], input="n\n", env=terminal.env)
    assert result.exit_code == 1
    assert "Delete the resource group 'rg'?" in result.stderr
    assert [each["name"] for each in terminal.ok("group list")] == ["rg"]
    terminal.ok("group delete -n rg --yes")
    assert terminal.ok("group list") == []


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("eastus", "nowhere"), 1, "nowhere"),
        (("southcentralus=2", ""), 1, "must contain the location"),
        (("eastus", "eastus eastus"), 1, "Duplicate regions are not allowed"),
        (("southcentralus=2", "southcentralus=1000"), 1, "out of range"),
        (("eastus", "eastus=1=standard_zrs"), 1, "Standard_ZRS"),
        (("-e 1.0.0", "-e 1.0"), 1, "Major(int).Minor(int).Patch(int)"),
        (("./disk.vhd", "./absent.vhd"), 1, "absent.vhd"),
        (("-i ubuntu", "-i debian"), 3, "debian"),
        (("--replica-count 1", "--target-region-encryption k"), 2, "not supported by imgstore"),
    ],
)
def test_bad_input_is_refused_by_name_and_leaves_nothing(
    prepared: Terminal, change: tuple[str, str], code: int, told: str
) -> None:
    stderr = prepared.fails(CREATE.replace(*change), code)
    assert told in stderr
    if code != 2:
        assert stderr.splitlines()[0].startswith("ERROR: (")
        assert "what to do: " in stderr
    assert prepared.ok("sig image-version list -g rg -r myGallery -i ubuntu") == []


def test_another_source_under_the_same_name_is_refused(published: Terminal) -> None:
    assert "PropertyChangeNotAllowed" in published.fails(CREATE.replace("./disk.vhd", "./next.raw"), 1)


def test_regions(terminal: Terminal) -> None:
    listed = terminal.ok("regions list")
    assert [region["name"] for region in listed][:2] == ["southcentralus", "westus2"]
    assert [len(region["zones"]) for region in listed][:2] == [3, 3]
    assert all(zone["ready"] and zone["answerSeconds"] is None for zone in terminal.ok("regions check"))
    made = terminal.ok("regions init eastus")
    assert [(zone["region"], zone["bucketExists"], zone["marked"]) for zone in made] == [("eastus", True, True)]


def test_tables_are_readable(published: Terminal) -> None:
    published.ok("disk create -g rg -n d1 -l eastus --gallery-image-reference rg/myGallery/ubuntu/1.0.0")
    for line, words in (
        ("sig image-version list -g rg -r myGallery -i ubuntu", ["1.0.0", "Succeeded"]),
        ("disk list", ["d1", "eastus", "Standard_LRS"]),
        ("bill show", ["egress", "eastus", "total", "USD"]),
        ("sig image-definition list -g rg -r myGallery", ["ubuntu", "Linux", "Generalized"]),
        ("regions list", ["West US 2", "ZRS"]),
    ):
        text = published.run(f"{line} -o table").stdout
        for word in words:
            assert word in text, line


def test_progress_is_printed_in_lines_and_can_be_silenced(prepared: Terminal) -> None:
    result = prepared.run(CREATE)
    for task in ("southcentralus/0", "southcentralus/1", "westus2/0", "eastus/0"):
        assert f"{task}: completed" in result.stderr
    quiet = prepared.run(
        "disk create -g rg -n q -l eastus --gallery-image-reference rg/myGallery/ubuntu --only-show-errors"
    )
    assert quiet.stderr == ""
    json.loads(quiet.stdout)


def test_a_repeated_line_continues_after_an_interruption(terminal: Terminal, prepared: Terminal) -> None:
    big = prepared.folder / "big.raw"
    with big.open("wb") as file:
        noise = random.Random(2)
        for _ in range(160):
            file.write(noise.randbytes(MIB))
    line = CREATE.replace("./disk.vhd", "./big.raw --source-format raw")
    process = subprocess.Popen(
        [sys.executable, "-m", "imgstore", *shlex.split(line), "--home", prepared.env["IMGSTORE_HOME"]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("southcentralus/0"), first
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().endswith("Interrupted. Run the same command again to resume.")
    assert "Traceback" not in stderr
    assert stdout == ""
    prepared.fails("disk create -g rg -n d1 -l eastus --gallery-image-reference rg/myGallery/ubuntu/1.0.0", 3)
    assert prepared.ok(line)["properties"]["provisioningState"] == "Succeeded"
    prepared.ok("disk export --gallery-image-reference rg/myGallery/ubuntu -l eastus --file big-again.raw")
    assert same(big, prepared.folder / "big-again.raw", "raw")


def test_the_quickstart_shows_the_main_job_in_a_home_of_its_own(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(terminal.folder))
    disk = make_disk(terminal.folder / "disk.raw", 1)
    before = disk.read_bytes()
    terminal.env |= {"IMGSTORE_S3_ENDPOINT": "http://127.0.0.1:9", "IMGSTORE_DATABASE": "postgresql://127.0.0.1:9/none"}
    result = terminal.run(f"quickstart {disk}")
    assert result.exit_code == 0, result.output
    folder = next(terminal.folder.glob("imgstore-quickstart-*"))
    for words in (
        f"To remove the folder: rm -r {folder}",
        "replicas 0 and 1",
        "equals the source",
        "The bill",
        "egress",
    ):
        assert words in result.stdout
    assert disk.read_bytes() == before, "a given disk is never written"
    assert same(disk, folder / "exported.raw", "raw")
    assert not (terminal.folder / "home").exists(), "the home that the environment names is let alone"


def test_the_quickstart_prints_json_for_programs(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(terminal.folder))
    make_disk(terminal.folder / "disk.raw", 1)
    home = terminal.folder / "chosen"
    told = terminal.ok(f"quickstart disk.raw --home {home} -o json")
    assert told["identical"] is True
    assert sorted(told["replicasUsed"]) == [0, 1]
    assert told["home"] == str(home)
    assert told["secondDeliveredBytes"] * 10 < told["firstDeliveredBytes"]
    assert terminal.run(f"group list --home {home} --query '[].name' -o tsv").stdout == "quickstart\n"


def test_a_range_of_a_disk(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    source = make_disk(tmp_path / "disk.raw", 11)
    terminal.ok("sig create -g rg -r g --location eastus")
    terminal.ok("sig image-definition create -g rg -r g -i d -p p -f o -s s --os-type Linux --os-state Generalized")
    terminal.ok(f"sig image-version create -g rg -r g -i d -e 1.0.0 --os-vhd-uri {source} --location eastus")
    terminal.ok("disk create -g rg -n d --location eastus --gallery-image-reference rg/g/d")
    part = tmp_path / "part.raw"
    for offset, length in ((0, 512), (6 * MIB + 17, 3 * MIB), (DISK_BYTES - 1, 1)):
        line = f"disk export -g rg -n d --file {part} --offset {offset} --length {length} --overwrite"
        assert terminal.ok(line)["virtualBytes"] == length
        assert part.read_bytes() == source.read_bytes()[offset : offset + length]
    part.unlink()
    beyond = terminal.run(f"disk export -g rg -n d --file {part} --offset {DISK_BYTES - 1} --length 2")
    assert beyond.exit_code == 1
    assert f"inside 0 to {DISK_BYTES}" in beyond.output
    assert not part.exists()
    assert terminal.run(f"disk export -g rg -n d --file {part} --offset 0").exit_code == 2
