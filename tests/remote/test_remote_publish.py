"""A build machine publishes a file with only the address and a secret of a server, and exports the disk again."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from remote_server import Machine, serving

from imgstore.api.dev_tls import make_certificates
from imgstore.cli.framework import progress
from imgstore.cli.main import main
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind
from tests.support.sample_disks import compute_sha256, make_raw, write_vhd
from tests.support.sample_gallery import charges, open_home

WHERE = ("-g", "rg", "-r", "g1", "-i", "ubuntu")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Return a machine with a gallery, a definition and a disk in three containers."""
    with serving(tmp_path_factory.mktemp("remote")) as machine:
        raw = make_raw(machine.folder / "disk.raw", seed=1, virtual_bytes=64 * MIB, content_bytes=10 * MIB)
        write_vhd(raw, machine.folder / "disk.vhd")
        write_vhd(raw, machine.folder / "dynamic.vhd", DiskFormat.VHD_DYNAMIC)
        machine.ok(
            "sig", "create", "-g", "rg", "-r", "g1", "-l", "southcentralus"
        )  # Creates the resource group, as at a home.
        made = ("--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux")
        machine.ok("sig", "image-definition", "create", *WHERE, *made)
        yield machine


def publish(machine: Machine, version: str, path: str, *more: str) -> Any:
    return machine.ok("sig", "image-version", "create", *WHERE, "-e", version, "--os-vhd-uri", path, *more)


def noise(path: Path, megabytes: int) -> Path:
    path.write_bytes(os.urandom(megabytes * MIB))
    return path


def export_to_pipe(machine: Machine, *words: str) -> bytes:
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as thread, open(reader, "rb") as read:
        received = thread.submit(read.read)
        try:
            machine.inside("disk", "export", *words, "--file", f"/dev/fd/{writer}")
        finally:
            os.close(writer)
        return received.result()


def test_published_file_is_exported_byte_for_byte(machine: Machine) -> None:
    done = machine.run(
        "sig", "image-version", "create", *WHERE, "-e", "1.0.0", "--os-vhd-uri", "disk.vhd",
        "--target-regions", "southcentralus=2", "westus2", "--tags", "team=images",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    properties = done.out["properties"]
    assert (properties["provisioningState"], done.out["tags"]) == ("Succeeded", {"team": "images"})
    assert {each["state"] for each in properties["replicationStatus"]["summary"]} == {"Completed"}
    for task in ("upload disk.vhd", "southcentralus/0", "southcentralus/1", "westus2/0"):
        assert f"{task}: completed" in done.stderr, done.stderr
    assert machine.ok("disk", "list") == [], "the temporary disk is deleted"

    made = machine.ok(
        "disk", "create", "-g", "rg", "-n", "d1", "-l", "westus2", "--gallery-image-reference", "rg/g1/ubuntu"
    )
    assert made["properties"]["diskDigest"] == properties["storageProfile"]["osDiskImage"]["diskDigest"]
    export = machine.ok("disk", "export", "-g", "rg", "-n", "d1", "--file", "back.vhd")
    assert (machine.folder / "back.vhd").read_bytes() == (machine.folder / "disk.vhd").read_bytes()
    assert (export["source"], export["format"], export["diskDigest"]) == (
        made["id"],
        "vhd",
        made["properties"]["diskDigest"],
    )
    assert machine.ok("disk", "show", "-g", "rg", "-n", "d1")["properties"]["diskState"] == "Unattached"

    machine.ok("disk", "export", "--gallery-image-reference", "rg/g1/ubuntu/1.0.0", "--file", "back.raw")
    assert (machine.folder / "back.raw").read_bytes() == (machine.folder / "disk.raw").read_bytes()
    for form, name in (("raw", "disk.raw"), ("vhd", "disk.vhd")):
        assert export_to_pipe(machine, "-g", "rg", "-n", "d1", "--format", form) == (machine.folder / name).read_bytes()
    part = ("--offset", "1000000", "--length", "5000000")
    machine.ok("disk", "export", "-g", "rg", "-n", "d1", "--file", "part.raw", *part)
    assert (machine.folder / "part.raw").read_bytes() == (machine.folder / "disk.raw").read_bytes()[1_000_000:6_000_000]
    assert [each["name"] for each in machine.ok("disk", "list")] == ["d1"]
    machine.ok("disk", "delete", "-g", "rg", "-n", "d1", "--yes")
    assert list((machine.folder / "empty").iterdir()) == [], "a build machine stores nothing"


def test_repeated_publish_sends_nothing_and_refuses_another_file(machine: Machine) -> None:
    first = publish(machine, "2.0.0", "disk.raw")
    sent = machine.puts()
    again = publish(machine, "2.0.0", "dynamic.vhd", "--target-regions", "southcentralus", "eastus")
    assert machine.puts() == sent, "a file of the same disk is the same source"
    digest = first["properties"]["storageProfile"]["osDiskImage"]["diskDigest"]
    assert again["properties"]["storageProfile"]["osDiskImage"]["diskDigest"] == digest
    assert len(again["properties"]["publishingProfile"]["targetRegions"]) == 2

    make_raw(machine.folder / "other.raw", seed=2, virtual_bytes=64 * MIB, content_bytes=10 * MIB)
    done = machine.run("sig", "image-version", "create", *WHERE, "-e", "2.0.0", "--os-vhd-uri", "other.raw")
    assert (done.exit_code, machine.puts()) == (1, sent)
    assert "(PropertyChangeNotAllowed)" in done.stderr
    assert digest in done.stderr
    done = machine.run(
        "sig", "image-version", "create", *WHERE, "-e", "2.0.0", "--os-vhd-uri", "disk.raw", "-l", "eastus"
    )
    assert "Changing property 'location' is not allowed" in done.stderr


def test_the_same_file_repairs_the_only_replica(machine: Machine) -> None:
    """On the server, as a local command does. Another file is refused before a byte is sent."""
    where = ("-g", "rg", "-r", "lost", "-i", "ubuntu")
    machine.inside("sig", "create", "-g", "rg", "-r", "lost", "-l", "eastus")
    made = ("--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux")
    machine.inside("sig", "image-definition", "create", *where, *made)
    disk = make_raw(machine.folder / "lost.raw", seed=7, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    other = make_raw(machine.folder / "lost2.raw", seed=8, virtual_bytes=8 * MIB, content_bytes=3 * MIB)
    create = ("sig", "image-version", "create", *where, "-e", "1.0.0", "--os-vhd-uri")
    before = set(machine.server_home.glob("regions/imgstore-eastus/*/pools/**/segments/*/*"))
    machine.inside(*create, str(disk))
    reference = ("--gallery-image-reference", "rg/lost/ubuntu/1.0.0", "-l", "eastus")
    machine.inside("disk", "create", "-g", "rg", "-n", "lost", *reference)
    for path in set(machine.server_home.glob("regions/imgstore-eastus/*/pools/**/segments/*/*")) - before:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    read = ("disk", "export", "-g", "rg", "-n", "lost", "--file", str(machine.folder / "read.raw"))
    assert machine.run(*read).exit_code == 1, "the signed URL of the disk serves no wrong bytes"
    assert not (machine.folder / "read.raw").exists()
    scrub = ["scrub", "--region", "eastus", "--home", str(machine.server_home)]
    assert CliRunner().invoke(main, scrub).exit_code == 1
    sent = machine.puts()
    refused = machine.run(*create, str(other))
    assert (refused.exit_code, machine.puts()) == (1, sent), refused.stderr
    assert "(PropertyChangeNotAllowed)" in refused.stderr
    again = machine.inside(*create, str(disk))
    assert again["properties"]["provisioningState"] == "Succeeded"
    result = CliRunner().invoke(main, scrub)
    assert result.exit_code == 0, result.output
    machine.inside("disk", "export", *reference, "--file", str(machine.folder / "found.raw"))
    machine.inside(*read)
    for name in ("found.raw", "read.raw"):
        assert (machine.folder / name).read_bytes() == disk.read_bytes()
    machine.inside("disk", "delete", "-g", "rg", "-n", "lost", "--yes")


def test_an_intact_disk_of_a_degraded_version_is_exported(machine: Machine, tmp_path: Path) -> None:
    """The error for the lost disk names the lost ranges, and no other disk is made of the version."""
    make = {"virtual_bytes": 8 * MIB, "content_bytes": 3 * MIB}
    disks = {number: make_raw(tmp_path / f"{number}.raw", seed=number, **make) for number in (11, 12)}
    where = ("-g", "rg", "-r", "partial", "-i", "ubuntu")
    machine.inside("sig", "create", "-g", "rg", "-r", "partial", "-l", "westus2")
    made = ("--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux")
    machine.inside("sig", "image-definition", "create", *where, *made)
    create = ("sig", "image-version", "create", *where, "--target-regions", "westus2=1=Standard_LRS")
    machine.inside(*create, "-e", "0.9.0", "--os-vhd-uri", str(disks[11]))
    kept = set(machine.server_home.glob("regions/imgstore-westus2/*/pools/**/segments/*/*"))
    data = ("--data-vhds-luns", "5", "--data-vhds-uris", str(disks[12]))
    machine.inside(*create, "-e", "1.0.0", "--os-vhd-uri", str(disks[11]), *data)
    for path in set(machine.server_home.glob("regions/imgstore-westus2/*/pools/**/segments/*/*")) - kept:
        path.unlink()
    scrub = ["scrub", "--region", "westus2", "--home", str(machine.server_home)]
    assert CliRunner().invoke(main, scrub).exit_code == 1
    image = ("--gallery-image-reference", "rg/partial/ubuntu/1.0.0", "-l", "westus2")
    machine.inside("disk", "export", *image, "--file", str(tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == disks[11].read_bytes()
    lost = machine.run(
        "disk", "export", *image, "--gallery-image-reference-lun", "5", "--file", str(tmp_path / "x.raw")
    )
    assert lost.exit_code == 1
    assert "(ObjectCorrupt) Bytes of the disk 'lun-5'" in lost.stderr
    first = next(at for at in range(0, 8 * MIB, 4096) if any(disks[12].read_bytes()[at : at + 4096]))
    assert f" lost bytes: {first} to " in lost.stderr
    assert not (tmp_path / "x.raw").exists()
    assert "is not available" in machine.run("disk", "create", "-g", "rg", "-n", "no", *image).stderr
    assert machine.inside("disk", "list", "-g", "rg", "--query", "[].name") == []


def test_the_ingest_of_an_uploaded_disk_reports_progress(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS_MIN", 0)
    noise(machine.folder / "noise.raw", 64)
    machine.inside("disk", "create", "-g", "rg", "-n", "moves", "--source", str(machine.folder / "noise.raw"))
    lines = [line for line in machine.last_stderr.splitlines() if line.startswith("ingest noise.raw: ")]
    assert lines[0] == "ingest noise.raw: 67.1 MB to do"
    assert lines[-1].startswith("ingest noise.raw: completed, 67.1 MB in ")
    assert any(" of 67.1 MB (" in line for line in lines[1:-1]), lines
    machine.inside("disk", "delete", "-g", "rg", "-n", "moves", "--yes")


def test_the_check_of_a_sha256_reports_progress(machine: Machine) -> None:
    file = noise(machine.folder / "checked.raw", 4)
    line = ("sig", "image-version", "create", *WHERE, "-e", "9.0.0", "--os-vhd-uri", str(file), "--sha256")
    machine.inside(*line, compute_sha256(file))
    assert "check checked.raw: completed, 4.2 MB in " in machine.last_stderr


def test_data_disks_are_uploaded_without_zeros(machine: Machine) -> None:
    with (machine.folder / "data.raw").open("wb") as file:
        file.truncate(256 * MIB)
        file.seek(100 * MIB + 70_000)
        file.write(b"data")
    before = machine.puts()
    data = ("--data-vhds-uris", "data.raw", "--data-vhds-luns", "5")
    made = publish(machine, "3.0.0", "disk.raw", *data)
    assert [each["lun"] for each in made["properties"]["storageProfile"]["dataDiskImages"]] == [5]
    publish(machine, "3.0.1", "data.raw")
    pieces_of_disk = 64 // 4
    assert machine.puts() - before <= 4 * pieces_of_disk + 2 + 1 + 2, "one range and a footer for an almost empty disk"
    export = machine.ok(
        "disk", "export", "--gallery-image-reference", "rg/g1/ubuntu/3.0.0", "--gallery-image-reference-lun", "5",
        "--file", "data-back.raw",
    )  # fmt: skip
    assert export["virtualBytes"] == 256 * MIB
    assert (machine.folder / "data-back.raw").read_bytes() == (machine.folder / "data.raw").read_bytes()


def kill_during_upload(machine: Machine, *words: str) -> int:
    """Kill a command with SIGKILL after the first ranges arrived, and return the number of received ranges."""
    before = machine.puts()
    with machine.start(*words) as running:
        until = time.monotonic() + 120
        while machine.puts() < before + 4:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < until
        running.kill()
    return machine.puts() - before


@pytest.mark.parametrize(
    ("size", "begin", "message"),
    [
        (4096, b"<html>403 Forbidden</html>", "is not a disk"),
        (1000, b"", "cannot be uploaded to a server"),
        (0, b"", "is empty"),
    ],
)
def test_bad_data_disk_is_refused_before_the_upload_of_the_os_disk(
    machine: Machine, size: int, begin: bytes, message: str
) -> None:
    (machine.folder / "bad.img").write_bytes(begin.ljust(size, b"\0"))
    before = machine.puts()
    data = ("--data-vhds-uris", "bad.img", "--data-vhds-luns", "0")
    done = machine.run("sig", "image-version", "create", *WHERE, "-e", "9.1.0", "--os-vhd-uri", "disk.raw", *data)
    assert done.exit_code == 1
    assert message in done.stderr
    assert machine.puts() == before
    assert machine.ok("disk", "list", "-g", "rg") == []


def test_killed_upload_resumes(machine: Machine) -> None:
    noise(machine.folder / "big.raw", 160)
    words = ("sig", "image-version", "create", *WHERE, "-e", "4.0.0", "--os-vhd-uri", "big.raw")
    arrived = kill_during_upload(machine, *words)
    assert arrived < 40, "otherwise the kill came too late for this test"
    assert machine.run("sig", "image-version", "show", *WHERE, "-e", "4.0.0").exit_code == 3, (
        "no partial version is visible"
    )
    before = machine.puts()
    machine.ok(*words)
    # Requests in progress at the kill may have arrived after the count.
    assert machine.puts() - before <= 40 - arrived + 1
    assert machine.ok("disk", "list") == []
    machine.ok("disk", "export", "--gallery-image-reference", "rg/g1/ubuntu/4.0.0", "--file", "big-back.raw")
    assert (machine.folder / "big-back.raw").read_bytes() == (machine.folder / "big.raw").read_bytes()
    for name in ("big.raw", "big-back.raw"):
        (machine.folder / name).unlink()


def test_rebuilt_file_is_not_mixed_with_an_interrupted_upload(machine: Machine) -> None:
    path = noise(machine.folder / "mixed.raw", 120)
    words = ("disk", "create", "-g", "rg", "-n", "mixed", "-l", "southcentralus", "--source", "mixed.raw")
    kill_during_upload(machine, *words, "--tags", "kept=yes")
    noise(path, 120)
    made = machine.ok(*words, "--os-type", "Linux")
    machine.ok("disk", "export", "-g", "rg", "-n", "mixed", "--file", "mixed-back.raw")
    assert (machine.folder / "mixed-back.raw").read_bytes() == path.read_bytes()
    assert (made["tags"], made["properties"]["osType"]) == ({"kept": "yes"}, "Linux")
    assert machine.ok(*words)["properties"]["uniqueId"] == made["properties"]["uniqueId"]
    noise(path, 120)
    done = machine.run(*words)
    assert (done.exit_code, "(PropertyChangeNotAllowed)" in done.stderr) == (1, True), done.stderr
    machine.ok("disk", "delete", "-g", "rg", "-n", "mixed", "--yes")


def test_missing_credentials_and_untrusted_certificates(machine: Machine, tmp_path: Path) -> None:
    for wrong, code, words in (
        ({"IMGSTORE_TOKEN": "a.b.c"}, "InvalidAuthenticationToken", "The access token is invalid."),
        ({"IMGSTORE_CLIENT_SECRET": "guessed"}, "invalid_client", "AADSTS7000215"),
        (
            {"IMGSTORE_CLIENT_SECRET": ""},
            "InvalidAuthenticationToken",
            "no IMGSTORE_TOKEN, and no IMGSTORE_CLIENT_SECRET",
        ),
        (
            {"REQUESTS_CA_BUNDLE": str(make_certificates(tmp_path).authority)},
            "ServerNotTrusted",
            "comes from an authority that is not trusted",
        ),
        ({"REQUESTS_CA_BUNDLE": "/nowhere.pem"}, "InvalidParameter", "The certificates in /nowhere.pem can't be read"),
        ({"IMGSTORE_SERVER": "http://images.example"}, "InvalidParameter", "http:// for this machine only"),
        ({"IMGSTORE_SERVER": "https://localhost:1"}, "ServerUnreachable", "https://localhost:1 does not answer"),
        ({"IMGSTORE_SUBSCRIPTION": "none"}, "SubscriptionNotFound", "'none'"),
    ):
        done = machine.run("sig", "list", **wrong)
        assert done.exit_code == (3 if code == "SubscriptionNotFound" else 1), done
        assert done.stderr.startswith(f"ERROR: ({code}) "), done.stderr
        assert words in done.stderr
        assert "what to do: " in done.stderr


def test_only_subscription_is_the_default(machine: Machine) -> None:
    done = machine.run("group", "show", "-n", "rg", IMGSTORE_SUBSCRIPTION_ID="")
    assert done.out["id"].split("/")[2] == machine.settings["IMGSTORE_SUBSCRIPTION_ID"], done.stderr


def test_errors_equal_those_of_a_home(machine: Machine) -> None:
    done = machine.run("sig", "show", "-g", "rg", "-r", "none")
    assert done.exit_code == 3
    assert done.stderr.splitlines()[0] == "ERROR: (ResourceNotFound) The gallery 'none' was not found."
    done = machine.run("sig", "image-version", "create", *WHERE, "-e", "9.0.0", "--os-vhd-uri", "https://127.0.0.1:9/x")
    assert done.exit_code == 1
    assert "127.0.0.1" in done.stderr
    done = machine.run("sig", "image-version", "create", *WHERE, "-e", "9.0.0", "--os-vhd-uri", "none.vhd")
    assert "There is no file" in done.stderr
    done = machine.run("sig", "image-version", "create", *WHERE, "-e", "9.0.0", "--os-vhd-uri", "s3://bucket/key")
    assert "reads no source of the scheme 's3'" in done.stderr


@pytest.mark.parametrize("line", ["vm list", "gc", "serve --dev-tls", "sig update -g rg -r g1", "auth sp list"])
def test_local_command_is_refused_with_a_server(machine: Machine, line: str) -> None:
    done = machine.run(*line.split())
    assert done.exit_code == 1, done
    assert f"(LocalHomeOnly) `imgstore {line.partition(' -')[0]}` works on a home here" in done.stderr
    assert "expected: no server, or a command of group create/show/list/delete" in done.stderr
    assert "what to do: leave --server out" in done.stderr


def test_inspect_reads_a_local_file(machine: Machine) -> None:
    assert machine.ok("inspect", "disk.vhd")["format"] == "vhd"


def test_what_if_through_the_server_equals_the_bill(machine: Machine) -> None:
    """The client reads the file, and the predicted bytes are the bytes of the bill. No disk stays (invariant M16)."""
    file = noise(machine.folder / "forecast.raw", 6)
    disks = machine.inside("disk", "list")
    version = (*WHERE, "-e", "8.0.0")
    create = [
        "sig", "image-version", "create", *version, "--os-vhd-uri", str(file),
        "--target-regions", "southcentralus", "westus2", "northeurope=2",
    ]  # fmt: skip
    found = machine.inside(*create, "--what-if")
    assert machine.inside("disk", "list") == disks
    assert "8.0.0" not in {each["name"] for each in machine.inside("sig", "image-version", "list", *WHERE)}
    machine.inside(*create)
    with open_home(machine.server_home) as home:
        egress = [row for row in charges(home) if row.party.version == "8.0.0" and row.kind is ChargeKind.EGRESS]
    assert found["deliveredBytes"] == sum(row.delivered_bytes for row in egress) > 12 * MIB
    assert Decimal(found["egress"]) == sum(row.amount for row in egress)

    repeated = machine.inside(*create, "--what-if")
    assert (repeated["deliveredBytes"], repeated["payers"]) == (0, [])

    disk = [
        "disk",
        "create",
        "-g",
        "rg",
        "-n",
        "far",
        "-l",
        "eastus",
        "--gallery-image-reference",
        "rg/g1/ubuntu/8.0.0",
    ]
    done = machine.run(*disk)
    assert (done.exit_code, "repeat `imgstore disk create` with --allow-remote" in done.stderr) == (3, True)
    found = machine.inside(*disk, "--allow-remote", "--what-if")
    assert machine.inside(*disk, "--allow-remote")["properties"]["provisioningState"] == "Succeeded"
    with open_home(machine.server_home) as home:
        (row,) = [row for row in charges(home) if row.party.disk == "far"]
    assert (found["deliveredBytes"], Decimal(found["egress"])) == (row.delivered_bytes, row.amount)
    machine.inside("disk", "delete", "-g", "rg", "-n", "far")
    less = machine.inside("sig", "image-version", "update", *version, "--target-regions", "southcentralus", "--what-if")
    gone = machine.inside("sig", "image-version", "delete", *version, "--what-if")
    assert gone["storedBytes"] < less["storedBytes"] < 0
    machine.inside("sig", "image-version", "delete", *version)
