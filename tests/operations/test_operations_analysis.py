"""`regions check --analyze` (invariant Z14): real engines raise no alarm, and a check names each lie of a proxy."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.stores.analysis.requests import Requests
from imgstore.testing.engines import S3Engine
from tests.support.bucket_home import BucketHome, write_regions
from tests.support.lying_s3 import LIES, Liar, compose
from tests.support.s3_proxy import S3Proxy, start_s3_proxy

SMALL = ("--objects", "23", "--rounds", "4", "--max-object-bytes", "1300000", "--watch-seconds", "0")

"""Enough for the lies of the proxy."""
LEAST = ("--objects", "10", "--rounds", "1", "--max-object-bytes", "70000", "--watch-seconds", "0")


class House(BucketHome):
    """A home to analyze, directly or through a proxy."""

    def analyze(self, *words: str, endpoint: str | None = None) -> tuple[int, Any]:
        """Return the exit code and the analysis."""
        write_regions(self.regions, bucket=self.bucket, endpoint=endpoint or self.engine.endpoint)
        try:
            result = self.run("regions", "check", "--analyze", *(words or SMALL))
        finally:
            write_regions(self.regions, bucket=self.bucket, endpoint=self.engine.endpoint)
        assert result.stdout, (result.stderr, result.exception)
        (zone,) = json.loads(result.stdout)
        return result.exit_code, zone["analysis"]

    def stored_keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix="imgstore-probe/").get("Contents", [])
        return [each["Key"] for each in found]


@pytest.fixture(scope="module")
def new_house(tmp_path_factory: pytest.TempPathFactory) -> Callable[[S3Engine], House]:
    def make(engine: S3Engine) -> House:
        house = House(
            engine=engine,
            bucket="analysis-" + os.urandom(4).hex(),
            home=tmp_path_factory.mktemp("house") / "home",
            client=engine.client(),
            environ={"AWS_ACCESS_KEY_ID": engine.access_key, "AWS_SECRET_ACCESS_KEY": engine.secret_key},
        )
        write_regions(house.regions, bucket=house.bucket, endpoint=engine.endpoint)
        assert house.run("regions", "init").exit_code == 0
        return house

    return make


@pytest.fixture(scope="module")
def on_minio(minio: S3Engine, new_house: Callable[[S3Engine], House]) -> House:
    return new_house(minio)


@pytest.fixture(scope="module")
def proxy(minio: S3Engine) -> Iterator[S3Proxy]:
    with start_s3_proxy(minio.endpoint) as proxy:
        yield proxy


def tell(house: House, proxy: S3Proxy, names: Sequence[str]) -> tuple[int, Any]:
    """Analyze while the proxy tells lies."""
    liar = Liar(house.client, house.bucket)
    proxy.exchange = compose([LIES[name][0](liar) for name in names])
    return house.analyze(endpoint=proxy.endpoint)


TOGETHER = (
    ("stale read", "shifted range", "lossy pages", "wrong clock", "late put"),
    ("flipped read", "delayed listing", "ignored condition", "late delete"),
    ("ignored checksum", "ignored delete", "lost put", "ignored range", "kept part"),
)
"""Lies that do not hide each other, to save time: a run with -m long tells each lie alone."""


@pytest.mark.parametrize("names", TOGETHER, ids=",".join)
def test_lies_are_found_by_the_names_of_their_checks(on_minio: House, proxy: S3Proxy, names: Sequence[str]) -> None:
    code, analysis = tell(on_minio, proxy, names)
    assert {LIES[name][1] for name in names} <= set(analysis["disproved"]), analysis
    assert code == 1


@pytest.mark.long
@pytest.mark.parametrize("name", LIES)
def test_each_lie_alone_is_found_by_the_name_of_its_check(on_minio: House, proxy: S3Proxy, name: str) -> None:
    code, analysis = tell(on_minio, proxy, [name])
    assert LIES[name][1] in analysis["disproved"], analysis
    assert code == 1


def test_the_announced_requests_are_those_of_the_server(
    minio: S3Engine, new_house: Callable[[S3Engine], House]
) -> None:
    house = new_house(minio)
    requests, (received_bytes, sent_bytes) = house.engine.requests(), house.engine.traffic()
    result = house.run("regions", "check", "--analyze", *SMALL)
    (zone,) = json.loads(result.stdout)
    announced, sent = zone["analysis"]["announced"], zone["analysis"]["sent"]
    assert announced == sent
    assert (zone["analysis"]["disproved"], zone["analysis"]["repeatedRequests"]) == ([], 0)
    assert f": {announced['requests']:,} requests (" in result.stderr
    assert house.engine.requests() - requests == announced["requests"]
    received, given = house.engine.traffic()
    # The server also counts the documents of listings and deletes.
    assert announced["sentBytes"] <= received - received_bytes <= 1.02 * announced["sentBytes"]
    assert announced["receivedBytes"] <= given - sent_bytes <= 1.02 * announced["receivedBytes"]
    assert house.stored_keys() == []


def test_versions_are_deleted(minio: S3Engine, new_house: Callable[[S3Engine], House]) -> None:
    house = new_house(minio)
    house.client.put_bucket_versioning(Bucket=house.bucket, VersioningConfiguration={"Status": "Enabled"})
    code, analysis = house.analyze(*LEAST)
    assert (code, analysis["disproved"]) == (0, [])
    assert analysis["announced"] == analysis["sent"]
    left = house.client.list_object_versions(Bucket=house.bucket, Prefix="imgstore-probe/")
    assert "Versions" not in left
    assert "DeleteMarkers" not in left


def test_seaweedfs_raises_no_alarm(seaweedfs: S3Engine, new_house: Callable[[S3Engine], House]) -> None:
    code, analysis = new_house(seaweedfs).analyze()
    assert (code, analysis["disproved"]) == (0, []), analysis
    assert analysis["announced"] == analysis["sent"]


def test_moto_verifies_no_checksums(moto_s3: S3Engine, new_house: Callable[[S3Engine], House]) -> None:
    code, analysis = new_house(moto_s3).analyze(*LEAST)
    assert (code, analysis["disproved"]) == (1, ["checksums"]), analysis
    assert next(each for each in analysis["checks"] if each["check"] == "checksums")["hint"]


def run_at(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["regions", "check", *words, "--home", str(home)], prog_name="imgstore")


def test_directories_raise_no_alarm_and_keep_no_file(tmp_path: Path) -> None:
    result = run_at(tmp_path / "home", "eastus", "--analyze", *LEAST)
    assert result.exit_code == 0, result.output
    for zone in json.loads(result.stdout):
        assert zone["ready"]
        assert zone["analysis"]["disproved"] == []
        assert zone["analysis"]["announced"] == zone["analysis"]["sent"]
    assert not list((tmp_path / "home/regions").glob("*/*/imgstore-probe/analysis"))


def test_zones_test_the_largest_object_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Requests]()

    def noted(real: Callable[..., Any]) -> Callable[..., Any]:
        def note(self: Requests, key: str, *args: Any) -> Any:
            seen.extend([self] if key.endswith("-max") else [])
            return real(self, key, *args)

        return note

    monkeypatch.setattr(Requests, "get", noted(Requests.get))
    monkeypatch.setattr(Requests, "head", noted(Requests.head))
    zones = json.loads(run_at(tmp_path / "home", "eastus", "westus2", "--analyze", *LEAST).stdout)
    assert len(zones) > 2
    turns = [zone for zone, _ in itertools.groupby(seen)]
    assert len(turns) == 2 * len(zones), "one for each plan and one for each run"


def test_a_largest_object_above_the_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgstore.operations.stores.analysis.available_memory_bytes", lambda: 40_000_000)
    refused = run_at(tmp_path / "home", "eastus", "--analyze", *LEAST, "--max-object-bytes", "10000001")
    assert refused.exit_code == 1
    assert "name at most 10000000 bytes" in refused.stderr
    assert run_at(tmp_path / "home", "eastus", "--analyze", *LEAST).exit_code == 0


def test_no_object_is_put_below_a_retention(minio: S3Engine, new_house: Callable[[S3Engine], House]) -> None:
    house = new_house(minio)
    bucket = "locked-" + os.urandom(4).hex()
    house.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    house.bucket = bucket
    house.home = house.home.with_name("other")
    write_regions(house.regions, bucket=bucket, endpoint=minio.endpoint)
    assert house.run("regions", "init").exit_code == 0
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    house.client.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    code, analysis = house.analyze()
    assert code == 1
    assert "object-lock" in analysis["disproved"]
    outcomes = {each["check"]: (each["outcome"], each["found"]) for each in analysis["checks"]}
    assert outcomes["listing"] == (
        "notApplicable", "not run: object lock (GOVERNANCE, 1 days) would keep the objects of the analysis"
    )  # fmt: skip
    assert not [key for key in house.stored_keys() if "analysis" in key]


def test_no_object_is_put_without_the_right_to_delete(
    minio: S3Engine, new_house: Callable[[S3Engine], House], proxy: S3Proxy
) -> None:
    house = new_house(minio)
    proxy.exchange = compose([])
    proxy.refusal = lambda method, _path: "AccessDenied" if method == "DELETE" else None
    try:
        code, analysis = house.analyze(endpoint=proxy.endpoint)
    finally:
        proxy.refusal = lambda _method, _path: None
    assert (code, analysis["disproved"]) == (1, ["rights"])
    assert len(house.stored_keys()) == 1, "the probe of the check, which cannot be deleted"


@contextmanager
def analysis_in_background(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[Path]]]:
    """Yield the process of an analysis that has put its objects into directories and watches for late requests."""
    words = [sys.executable, "-m", "imgstore", "regions", "check", "eastus", "--analyze", *LEAST[:-1], "600"]
    process = subprocess.Popen([*words, "--home", str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (found := objects_of(home, "clock/0")):
            assert process.poll() is None
        yield process, found
    finally:
        process.kill()
        process.wait()


def objects_of(home: Path, end: str = "*") -> list[Path]:
    found = home.glob(f"regions/*/*/imgstore-probe/analysis/**/{end}")
    return [path for path in found if path.is_file()]


def test_an_interrupted_analysis_removes_its_objects(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with analysis_in_background(home) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert objects_of(home) == []


def test_the_next_analysis_removes_the_objects_of_a_dead_one_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with analysis_in_background(home) as (_, found):
        (zone, *_) = json.loads(run_at(home, "eastus", "--analyze", *LEAST).stdout)
        assert (zone["analysis"]["removedLeftovers"], zone["analysis"]["disproved"]) == (0, [])
        assert all(path.exists() for path in found)
    assert CliRunner().invoke(main, ["gc", "--dry-run", "--home", str(home)]).exit_code == 0
    assert objects_of(home)
    (zone, *_) = json.loads(run_at(home, "eastus", "--analyze", *LEAST).stdout)
    assert zone["analysis"]["removedLeftovers"] > 0
    assert objects_of(home) == []


def test_a_zone_that_is_not_ready_is_named(new_house: Callable[[S3Engine], House], minio: S3Engine) -> None:
    house = new_house(minio)
    write_regions(house.regions, bucket="missing-" + os.urandom(4).hex(), endpoint=minio.endpoint)
    result = house.run("regions", "check", "--analyze", "-o", "table")
    assert result.exit_code == 1
    assert "not ready" in result.stdout


def test_the_extent_needs_the_analysis(tmp_path: Path) -> None:
    refused = run_at(tmp_path / "home", "--rounds", "3")
    assert refused.exit_code == 2
    assert "--rounds needs --analyze, which tests the stores." in refused.output
    assert not (tmp_path / "home").exists()


def test_a_person_may_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), modules=sys.modules)
    for module in ("commands.operator.regions", "framework.command"):
        monkeypatch.setattr(f"imgstore.cli.{module}.sys", at_terminal)
    words = ["regions", "check", "eastus", "--analyze", "--home", str(tmp_path / "home")]
    refused = CliRunner().invoke(main, words, input="n\n")
    assert refused.exit_code == 1
    assert "Nothing was analyzed." in refused.output
    assert CliRunner().invoke(main, [*words, *LEAST, "--yes"]).exit_code == 0
