"""``imgstore doctor`` on real homes, as a person and a monitoring system run it."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.operations.ledger_log.verify import verify_log
from imgstore.testing.engines import S3Engine
from tests.support.bucket_home import write_regions
from tests.support.certificates import issue
from tests.support.mounted_folder import mount_folder
from tests.support.sample_gallery import ADMIN, SampleImages, make_disk, open_home

pytest_plugins = ["tests.support.published_gallery"]


@pytest.fixture
def home(tmp_path: Path, samples: SampleImages) -> Path:
    shutil.copytree(samples.home, tmp_path / "home")
    return tmp_path / "home"


def run(home: Path, *words: str, **environ: str) -> Result:
    line = ["doctor", "--home", str(home), *words]
    return CliRunner().invoke(main, line, prog_name="imgstore", env=environ)


def found(home: Path, code: int, *words: str, **environ: str) -> dict[str, list[Any]]:
    """Return the findings by check."""
    result = run(home, "-o", "json", *words, **environ)
    assert result.exit_code == code, result.output
    by_check: dict[str, list[Any]] = {}
    for each in json.loads(result.stdout)["findings"]:
        by_check.setdefault(each["check"], []).append(each)
    return by_check


def levels(findings: list[Any]) -> list[str]:
    return [each["level"] for each in findings]


def test_each_line_is_a_finding_with_a_next_step(home: Path) -> None:
    result = run(home)
    assert result.exit_code == 1
    lines = {(line.split()[0], line.split()[1]): line for line in result.stdout.splitlines()}
    assert lines["warning", "recovery-file"].endswith("; next step: imgstore catalog recovery-file PATH")
    assert lines["warning", "workers"].endswith("; next step: imgstore worker")
    assert "next step" not in lines["ok", "catalog"]
    assert "eastus/1: answers in" in lines["ok", "zone"] or "not used yet" in lines["ok", "zone"]
    assert json.loads(run(home, "-o", "json").stdout)["level"] == "warning"
    assert "Found" in run(home, "-o", "table").stdout


def test_a_recovery_file_ends_the_warning_of_both_commands(home: Path, tmp_path: Path) -> None:
    def check() -> tuple[list[str], bool]:
        regions = CliRunner().invoke(main, ["regions", "check", "--home", str(home)], prog_name="imgstore")
        return levels(found(home, 1)["recovery-file"]), "no recovery file was written" in regions.stderr

    assert check() == (["warning"], True)
    line = ["catalog", "recovery-file", str(tmp_path / "keys"), "--home", str(home)]
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("four words of a passphrase\n")
    written = CliRunner().invoke(main, [*line, "--passphrase-file", str(passphrase)], prog_name="imgstore")
    assert written.exit_code == 0, written.output
    assert check() == (["ok"], False)


def test_a_killed_worker_is_found(home: Path) -> None:
    words = [sys.executable, "-m", "imgstore", "worker", "--home", str(home), "--poll-seconds", "0.1"]
    worker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while levels(found(home, 1)["workers"]) != ["ok"]:
            assert worker.poll() is None, "the worker runs"
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    none, dead = found(home, 1)["workers"]
    assert "no worker is alive" in none["found"]
    assert (dead["level"], str(worker.pid) in dead["subject"]) == ("warning", True)
    assert dead in found(home, 1)["workers"], "doctor changes nothing"


def test_an_older_catalog_is_an_error(home: Path) -> None:
    shutil.copyfile(home / "catalog.sqlite", home / "backup.sqlite")
    with open_home(home) as installation:
        make_disk(installation, "d1", "eastus")
    shutil.copyfile(home / "backup.sqlite", home / "catalog.sqlite")
    (age,) = found(home, 2)["catalog-age"]
    assert (age["level"], age["nextStep"]) == ("error", "imgstore catalog adopt")


def test_open_keys_and_old_certificates(home: Path, tmp_path: Path) -> None:
    (home / "tls").mkdir()
    shutil.move(issue("localhost", ends=timedelta(days=3)).write(tmp_path / "issued")[0], home / "tls/server.pem")
    (home / "tls/server-key.pem").touch(mode=0o644)
    (home / "tls/server-key.pem").chmod(0o644)
    expired, _ = issue("localhost", ends=timedelta(days=-1)).write(tmp_path / "expired")
    other = tmp_path / "no.pem"
    findings = found(home, 2, "--tls-cert", str(expired), "--tls-cert", str(other))
    assert levels(findings["certificate"]) == ["warning", "error", "error"]
    (key,) = findings["file-rights"]
    assert (key["level"], key["nextStep"]) == ("error", f"chmod go-rwx {home}/tls/server-key.pem")
    (home / "tls/server-key.pem").chmod(0o600)
    assert levels(found(home, 2, "--tls-cert", str(expired))["file-rights"]) == ["ok"]


def test_a_full_disk_is_an_error(home: Path) -> None:
    (home / "settings.toml").write_text(f"[disk_space]\nfree_bytes_min = {2**62}\n")
    (space,) = found(home, 2)["disk-space"]
    assert (space["level"], "must stay free" in space["found"]) == ("error", True)


def test_a_home_that_can_be_read_only_is_a_warning(home: Path, tmp_path: Path) -> None:
    home.rename(tmp_path / "backing")
    with mount_folder(tmp_path, {}, read_only=True) as mounted:
        findings = found(mounted.path, 1)
    assert levels(findings["catalog"]) == ["warning"]
    assert set(levels(findings["zone"])) == {"ok"}, "no zone gets an object"


def test_a_lost_zone_of_three_and_a_lost_region(home: Path) -> None:
    shutil.rmtree(home / "regions/imgstore-westus2/zone-2")
    shutil.rmtree(home / "regions/imgstore-eastus")
    zones = {each["subject"]: each for each in found(home, 2)["zone"] if each["level"] != "ok"}
    assert {name: each["level"] for name, each in zones.items()} == {"westus2/2": "warning", "eastus/1": "error"}
    assert zones["eastus/1"]["nextStep"] == "imgstore regions check eastus"


def test_a_folder_without_an_installation_is_an_error_and_stays_empty(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, 2)["installation"]
    assert (finding["level"], list(tmp_path.iterdir())) == ("error", [])


def test_a_lost_catalog_is_named_with_the_ways_back(home: Path) -> None:
    for file in home.glob("catalog.sqlite*"):
        file.unlink()
    present = sorted(home.iterdir())
    (finding,) = found(home, 2)["installation"]
    assert "catalog.sqlite is missing" in finding["found"]
    assert "imgstore catalog rebuild" in finding["nextStep"]
    assert sorted(home.iterdir()) == present


def test_a_lost_home_is_noticed_by_its_buckets(tmp_path: Path, minio: S3Engine) -> None:
    regions = write_regions(tmp_path / "regions.yaml", bucket=minio.make_bucket("doctor"), endpoint=minio.endpoint)
    environ = {
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "IMGSTORE_REGIONS": str(regions),
    }
    lost, empty = tmp_path / "lost", tmp_path / "empty"
    made = CliRunner().invoke(main, ["regions", "init", "--home", str(lost)], prog_name="imgstore", env=environ)
    assert made.exit_code == 0, made.output
    (finding,) = found(empty, 2, **environ)["installation"]
    assert ("imgstore catalog rebuild" in finding["nextStep"], empty.exists()) == (True, False)


def test_a_damaged_catalog_is_an_error(home: Path) -> None:
    (home / "catalog.sqlite").write_bytes(b"no database " * 1_000)
    (finding,) = found(home, 2)["installation"]
    assert (finding["level"], bool(finding["nextStep"])) == ("error", True)


def test_a_server_cannot_be_asked(home: Path) -> None:
    refused = run(home, "--server", "https://images.example")
    assert (refused.exit_code, "`imgstore doctor` works on a home here" in refused.stderr) == (1, True)


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A store that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_store_is_reported_within_the_time_limit(tmp_path: Path, silent_endpoint: str) -> None:
    """A process of its own, because the end of the process must not wait for the store either."""
    regions = tmp_path / "regions.yaml"
    places: dict[str, dict[str, str]] = {"eastus": {"endpoint": silent_endpoint}, "westus2": {}}
    document = {
        "currency": "USD",
        "regions": {
            name: {
                "display_name": name,
                "bucket": f"bucket-{name}",
                "policy": "LRS",
                "storage_account_types": ["Standard_LRS"],
                "zones": {"1": zone},
            }
            for name, zone in places.items()
        },
        "prices": {"egress_per_gb": {"default": 0}, "storage_per_gb_month": {"Standard_LRS": 0}},
    }
    regions.write_text(json.dumps(document))
    with open_home(tmp_path / "home"):
        pass
    words = [sys.executable, "-m", "imgstore", "doctor", "--home", str(tmp_path / "home"), "--regions", str(regions)]
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(
        [*words, "--timeout-seconds", "2.5"], env=environ, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("eastus/1: no answer within 2.5 s") == 1
    assert "westus2/1: not used yet" in done.stdout
    assert "waiting for eastus/1" in done.stderr


def test_entries_that_wait_for_two_intervals_are_a_warning(home: Path) -> None:
    """A new home has recent entries. The clock of the catalog makes the entries old, and a seal ends the wait."""
    with open_home(home) as installation:
        count = len(verify_log(installation, ADMIN).unsealed)
    assert count > 0
    (recent,) = found(home, 1)["ledger"]
    assert (recent["level"], recent["nextStep"]) == ("ok", None)
    assert recent["found"].startswith(f"{count} entries wait to be sealed, the oldest since 20")
    with closing(sqlite3.connect(home / "catalog.sqlite")) as database, database:
        database.execute("UPDATE price_lists SET effective_at = '2020-01-01 00:00:00.000000'")
    (old,) = found(home, 1)["ledger"]
    assert (old["level"], old["nextStep"]) == ("warning", "imgstore worker, or imgstore bill seal")
    assert old["found"] == f"{count} entries wait to be sealed, the oldest since 2020-01-01 00:00:00 UTC"
    assert CliRunner().invoke(main, ["--home", str(home), "bill", "seal"]).exit_code == 0
    assert [each["found"] for each in found(home, 1)["ledger"]] == ["all entries are sealed"]
