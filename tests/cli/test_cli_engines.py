"""The main job as typed, where the bytes are not on this machine's disk: on MinIO, from URLs, with PostgreSQL's facts."""

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.testing.engines import PgBouncer, S3Engine
from tests.support.certificates import issue
from tests.support.http_server import Page, start_web

MIB = 2**20

REGIONS = """
currency: USD
regions:
  here: {bucket: BUCKET-here, policy: LRS, storage_account_types: [Standard_LRS], zones: {"1": {endpoint: "HERE"}}}
  there: {bucket: BUCKET-there, policy: LRS, storage_account_types: [Standard_LRS], zones: {"1": {endpoint: "THERE"}}}
prices:
  egress_per_gb: {default: "0.02"}
  storage_per_gb_month: {Standard_LRS: "0.05"}
"""


def disk_bytes(seed: int) -> bytes:
    noise = random.Random(seed)
    return b"".join(noise.randbytes(MIB) + bytes(3 * MIB) for _ in range(6))


class Terminal:
    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def run(self, line: str) -> Result:
        return CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env=self.env)

    def ok(self, line: str) -> Any:
        result = self.run(line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout, parse_float=Decimal) if result.stdout else None

    def gallery(self, location: str) -> None:
        self.ok(f"sig create -g rg -r g --location {location}")
        self.ok("sig image-definition create -g rg -r g -i d -p p -f o -s s --os-type Linux --os-state Generalized")


@pytest.fixture
def embedded(tmp_path: Path) -> Terminal:
    terminal = Terminal({"IMGSTORE_HOME": str(tmp_path / "home")})
    terminal.gallery("eastus")
    return terminal


CREATE = "sig image-version create -g rg -r g -i d -e {version} --os-vhd-uri {uri} --location {location}"


@pytest.mark.parametrize("transaction", ["sqlite", "postgresql"])
def test_the_main_job_on_a_minio_a_region(
    transaction: str,
    minio_cluster: Callable[[int], tuple[S3Engine, ...]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    here, there = minio_cluster(2)
    bucket = f"job-{transaction}"
    document = REGIONS.replace("BUCKET", bucket).replace("THERE", there.endpoint).replace("HERE", here.endpoint)
    regions = tmp_path / "regions.yaml"
    regions.write_text(document)
    terminal = Terminal(
        {
            "IMGSTORE_HOME": str(tmp_path / "home"),
            "IMGSTORE_REGIONS": str(regions),
            "AWS_ACCESS_KEY_ID": here.access_key,
            "AWS_SECRET_ACCESS_KEY": here.secret_key,
        }
    )
    if transaction == "postgresql":
        terminal.env["IMGSTORE_DATABASE"] = request.getfixturevalue("postgresql")
    first, second = tmp_path / "first.raw", tmp_path / "second.raw"
    first.write_bytes(disk_bytes(1))
    second.write_bytes(disk_bytes(1)[: 20 * MIB] + disk_bytes(2)[20 * MIB :])

    terminal.gallery("here")
    create = CREATE + " --target-regions here=2 there"
    refused = terminal.run(create.format(version="1.0.0", uri=first, location="here"))
    assert refused.exit_code == 1
    assert "imgstore regions init" in refused.output  # no bucket was made behind anyone's back
    assert {zone["bucketExists"] for zone in terminal.ok("regions init")} == {True}
    assert all(0 < zone["answerSeconds"] < 60 for zone in terminal.ok("regions check"))

    made = terminal.ok(create.format(version="1.0.0", uri=first, location="here"))
    assert made["properties"]["provisioningState"] == "Succeeded"
    terminal.ok(create.format(version="1.0.1", uri=second, location="here"))
    given = [
        terminal.ok(f"disk create -g rg -n d{number} --location here --gallery-image-reference rg/g/d")["replica"]
        for number in range(4)
    ]
    assert sorted(given) == [0, 0, 1, 1]
    terminal.ok(f"disk export -g rg -n d0 --file {tmp_path}/out.raw --format raw")
    assert (tmp_path / "out.raw").read_bytes() == second.read_bytes()

    rows = [row for row in terminal.ok("bill show")["rows"] if row["kind"] == "egress"]
    assert [(row["version"], row["target"]) for row in rows] == [("1.0.0", "there"), ("1.0.1", "there")]
    assert 6 * MIB < rows[0]["deliveredBytes"] < 7 * MIB  # what does not compress, once
    assert MIB < rows[1]["deliveredBytes"] < 1.1 * MIB  # what is new


def test_a_source_on_https(embedded: Terminal, tmp_path: Path) -> None:
    body = disk_bytes(3)
    with start_web({"/disk.raw": Page(body=body)}, tls=issue("127.0.0.1").context(tmp_path)) as server:
        line = CREATE.format(version="1.0.0", uri=server.url("/disk.raw"), location="eastus")
        embedded.env["SSL_CERT_FILE"] = str(tmp_path / "cert.pem")
        refused = embedded.run(line)  # a private address
        assert refused.exit_code == 1
        assert "IMGSTORE_ALLOW_PRIVATE_SOURCES" in refused.output
        assert embedded.ok("sig image-version list -g rg -r g -i d") == []
        embedded.env["IMGSTORE_ALLOW_PRIVATE_SOURCES"] = "1"
        embedded.ok(line)
    embedded.ok(f"disk export --gallery-image-reference rg/g/d --location eastus --file {tmp_path}/out.raw")
    assert (tmp_path / "out.raw").read_bytes() == body


def test_a_source_on_s3(embedded: Terminal, minio: S3Engine, tmp_path: Path) -> None:
    body = disk_bytes(4)
    bucket = minio.make_bucket("sources")
    minio.client().put_object(Bucket=bucket, Key="disks/disk.raw", Body=body)
    embedded.env |= {
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "IMGSTORE_SOURCE_S3_ENDPOINT": minio.endpoint,
    }
    embedded.ok(CREATE.format(version="1.0.0", uri=f"s3://{bucket}/disks/disk.raw", location="eastus"))
    embedded.ok(f"disk export --gallery-image-reference rg/g/d --location eastus --file {tmp_path}/out.raw")
    assert (tmp_path / "out.raw").read_bytes() == body


def test_a_source_as_a_file_url(embedded: Terminal, tmp_path: Path) -> None:
    source = tmp_path / "a disk.raw"
    source.write_bytes(disk_bytes(5))
    embedded.ok(CREATE.format(version="1.0.0", uri=source.as_uri(), location="eastus"))
    assert embedded.ok(f"verify --file '{source}' --image rg/g/d/1.0.0")["matches"] is True


def test_processes_share_a_catalog_behind_pgbouncer(postgresql: str, pgbouncer: PgBouncer, tmp_path: Path) -> None:
    terminal = Terminal({"IMGSTORE_HOME": str(tmp_path / "home"), "IMGSTORE_DATABASE": pgbouncer.url(postgresql)})
    source = tmp_path / "disk.raw"
    source.write_bytes(disk_bytes(6))
    terminal.gallery("eastus")
    create = CREATE + " --target-regions eastus=2 westus2 --only-show-errors"
    program = [sys.executable, "-m", "imgstore"]
    lines = [shlex.split(create.format(version=f"1.0.{n}", uri=source, location="eastus")) for n in range(2)]
    running = [
        subprocess.Popen(
            [*program, *line], env=os.environ | terminal.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for line in lines
    ]
    for process in running:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["properties"]["provisioningState"] == "Succeeded"
    terminal.ok("sig image-version delete -g rg -r g -i d -e 1.0.0 --yes")
    assert terminal.run("worker --once").exit_code == 0
    left = terminal.ok("sig image-version list -g rg -r g -i d")
    assert [version["name"] for version in left] == ["1.0.1"]
    terminal.ok(
        f"disk export --gallery-image-reference rg/g/d --location westus2 --file {tmp_path}/out.raw --format raw"
    )
    assert (tmp_path / "out.raw").read_bytes() == source.read_bytes()
