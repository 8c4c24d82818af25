"""Buckets with versioning, object lock and missing rights: garbage collection and `regions check` on a real MinIO."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc import plan_collection
from imgstore.operations.stores.regions import check_regions, init_regions
from imgstore.policy.gc_plan import GcReport
from imgstore.regions import store_locator
from imgstore.stores.object_versions import VersioningState
from imgstore.testing.engines import S3Engine
from tests.support.bucket_home import BucketHome, write_regions
from tests.support.s3_proxy import Forward, ProxiedAnswer, ProxiedRequest, S3Proxy, start_s3_proxy
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    audit,
    collect,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
)

USUAL = ("s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject")
VERSIONS = ("s3:GetBucketVersioning", "s3:ListBucketVersions", "s3:DeleteObjectVersion")


@dataclass(kw_only=True)
class House(BucketHome):
    """A home whose requests go through a proxy."""

    proxy: S3Proxy

    @contextmanager
    def refuse(self, choose: Callable[[str, str], str | None]) -> Iterator[None]:
        """Refuse requests during the block: see `S3Proxy.refusal`."""
        before, self.proxy.refusal = self.proxy.refusal, choose
        try:
            yield
        finally:
            self.proxy.refusal = before

    @contextmanager
    def open(self) -> Iterator[Installation]:
        with open_home(self.home, regions=self.regions, environ=dict(os.environ)) as installation:
            yield installation

    def check(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("regions", "check").stdout)[0]
        return found

    def versioning(self, status: str) -> None:
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def versions(self, prefix: str = "") -> list[dict[str, Any]]:
        """All versions and delete markers."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix)
        return [each for page in pages for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ())]

    def old(self, prefix: str = "") -> list[dict[str, Any]]:
        return [each for each in self.versions(prefix) if not each["IsLatest"] or "Size" not in each]

    def old_bytes(self) -> int:
        return sum(each.get("Size", 0) for each in self.old())

    def restrict(self, monkeypatch: pytest.MonkeyPatch, allowed: Sequence[str]) -> None:
        """Use temporary credentials with these actions only."""
        statements = [{"Effect": "Allow", "Action": list(allowed), "Resource": ["arn:aws:s3:::*"]}]
        sts = boto3.client(
            "sts",
            endpoint_url=self.engine.endpoint,
            aws_access_key_id=self.engine.access_key,
            aws_secret_access_key=self.engine.secret_key,
            region_name="us-east-1",
        )
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        found = sts.assume_role(RoleArn="arn:aws:iam::x:role/x", RoleSessionName="test", Policy=policy)["Credentials"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", found["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", found["SecretAccessKey"])
        monkeypatch.setenv("AWS_SESSION_TOKEN", found["SessionToken"])

    def allow_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.engine.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.engine.secret_key)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)


@pytest.fixture(scope="module")
def new_house(minio: S3Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., House]]:
    """Make buckets with homes. Every home is a copy of one home with an empty gallery."""
    folder = tmp_path_factory.mktemp("homes")
    client = minio.client()
    template = folder / "template"
    regions = write_regions(folder / "template.yaml", bucket="no-bucket", endpoint=minio.endpoint)
    with open_home(template, regions=regions) as installation:
        create_sample_gallery(installation)

    def make(status: str | None = None, *, lock: str | None = None) -> House:
        bucket = "versions-" + os.urandom(6).hex()
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock is not None)
        if lock is not None:
            rule = {"DefaultRetention": {"Mode": lock, "Days": 1}}
            client.put_object_lock_configuration(
                Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
            )
        home = shutil.copytree(template, folder / bucket)
        house = House(engine=minio, client=client, bucket=bucket, home=home, proxy=proxy)
        write_regions(house.regions, bucket=bucket, endpoint=proxy.endpoint)
        if status is not None:
            house.versioning(status)
        with house.open() as installation:
            (report,) = init_regions(installation, ADMIN)
            assert report.problem is None
        return house

    with start_s3_proxy(minio.endpoint) as proxy, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
        environment.delenv("AWS_SESSION_TOKEN", raising=False)
        yield make
    client.close()


@pytest.fixture(scope="module")
def plain(new_house: Callable[..., House]) -> House:
    """A bucket without versioning."""
    return new_house()


@pytest.fixture(scope="module")
def versioned(new_house: Callable[..., House]) -> House:
    """A bucket with versioning. Each test leaves no old versions."""
    return new_house("Enabled")


def disk(house: House, seed: int) -> Path:
    return make_raw(house.home / f"{seed}.raw", seed=seed, virtual_bytes=8 * MIB, content_bytes=MIB)


def fill(house: House, major: int = 1) -> None:
    """Publish two versions and a disk, and delete the first version, so that much is not needed."""
    with house.open() as installation:
        for minor in (0, 1):
            publish(installation, disk(house, 10 * major + minor), f"{major}.{minor}.0", ["southcentralus"])
        make_disk(installation, f"d{major}", version=f"{major}.1.0")
        delete(installation, f"{major}.0.0")


def gc(house: House) -> GcReport:
    with house.open() as installation:
        done = collect(installation)
        audit(installation, collected=True)
        return done


def freed_bytes(done: GcReport) -> int:
    return sum(sum(each.freed.values()) for each in done.slots)


def test_a_bucket_without_versioning_costs_one_more_request(plain: House) -> None:
    house = plain
    fill(house)
    house.proxy.requests.clear()
    done = gc(house)
    assert done.old_versions == []
    asked = [path.partition("?")[2] for method, path in house.proxy.requests if method == "GET"]
    assert sum("versioning" in query for query in asked) == 1
    assert not any("versions" in query for query in asked)
    assert freed_bytes(done) > 0
    found = house.check()
    assert (found["versioning"], found["warnings"], found["missingRights"]) == ("Off", [], [])
    assert house.versions("imgstore-probe/") == []


def test_a_zone_that_fails_is_not_asked_for_its_versioning(plain: House) -> None:
    """The request with its retries would cost a minute at a zone that never answers."""
    with plain.open() as installation:
        plain.proxy.requests.clear()
        with plain.refuse(lambda _method, path: None if "FORMAT" in path or "zone" in path else "AccessDenied"):
            done = collect(installation)
    assert all(report.problem for report in done.slots)
    assert not any("versioning" in path for _, path in plain.proxy.requests)


def test_a_zone_that_is_silent_about_its_versioning_is_asked_once(
    plain: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_locator, "_VERSIONING_SECONDS_MAX", 0.5)
    answered = threading.Event()

    def hold(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if "versioning" in request.path:
            answered.wait()
        return forward()

    monkeypatch.setattr(plain.proxy, "exchange", hold)
    with plain.open() as installation:
        plain.proxy.requests.clear()
        try:
            done = collect(installation)
        finally:
            answered.set()
    assert not [report.problem for report in done.slots if report.problem]
    assert sum("versioning" in path for _, path in plain.proxy.requests) == 1


def test_old_versions_are_deleted(versioned: House) -> None:
    """Invariant G17: also versions of manifests, and of objects that were put twice. Keys of other programs stay."""
    house = versioned
    fill(house)
    client = house.client
    present = [each["Key"] for each in house.versions() if each["IsLatest"] and each.get("Size")]
    for key in present:
        client.put_object(
            Bucket=house.bucket, Key=key, Body=client.get_object(Bucket=house.bucket, Key=key)["Body"].read()
        )
    foreign = ["mine.txt", "pools/north/plan.pdf", "repairs/car.jpg", "zone/map.svg"]
    for key in (*foreign, *foreign):
        client.put_object(Bucket=house.bucket, Key=key, Body=b"1")
    client.delete_object(Bucket=house.bucket, Key=foreign[1])
    assert house.old_bytes() > 1_000_000
    with house.open() as installation:
        (planned,) = plan_collection(installation, ADMIN, grace=timedelta(0)).old_versions
    assert planned.removed_bytes == house.old_bytes() - len(foreign) - 1, "the deleted key has two old versions"
    done = gc(house)
    (sweep,) = done.old_versions
    assert (sweep.kept, sweep.kept_bytes, sweep.problem) == (0, 0, None)
    assert sorted({each["Key"] for each in house.old()}) == foreign, "versions of other keys are somebody else's"
    assert freed_bytes(done) > 0
    found = house.check()
    assert found["versioning"] == "Enabled"
    assert "`imgstore gc` deletes the versions" in found["warnings"][0]
    assert found["ready"]
    assert house.old("imgstore-probe/") == []
    for each in house.versions():
        if each["Key"] in foreign:
            client.delete_object(Bucket=house.bucket, Key=each["Key"], VersionId=each["VersionId"])
    assert house.old() == []


def test_versions_of_needed_objects_stay(versioned: House) -> None:
    """Invariant G17: a needed object that somebody deleted or replaced can be restored from its old version."""
    house = versioned
    with house.open() as installation:
        publish(installation, disk(house, 20), "2.0.0", ["southcentralus"])
    gc(house)
    deleted, replaced, *_ = [each["Key"] for each in house.versions("pools/") if "/segments/" in each["Key"]]
    client = house.client
    client.delete_object(Bucket=house.bucket, Key=deleted)
    client.put_object(Bucket=house.bucket, Key=replaced, Body=b"damage")
    lost_bytes = house.old_bytes()
    with house.open() as installation:
        (sweep,) = collect(installation).old_versions
    assert (sweep.kept, sweep.kept_bytes, sweep.kept_markers) == (2, lost_bytes, 1)
    assert "the catalog names the object" in next(iter(sweep.reasons))
    assert house.old_bytes() == lost_bytes
    for key in (deleted, replaced):
        for each in house.versions(key):
            if each["IsLatest"]:
                client.delete_object(Bucket=house.bucket, Key=key, VersionId=each["VersionId"])
    with house.open() as installation:
        audit(installation)


@pytest.mark.parametrize(
    ("major", "allowed", "lists"),
    [
        (3, USUAL, True),
        (4, (*USUAL, *VERSIONS), False),
        (5, USUAL, False),
    ],
    ids=["the usual rights", "no right to list versions", "no right to any"],
)
def test_versions_without_rights_are_never_free(
    versioned: House,
    monkeypatch: pytest.MonkeyPatch,
    major: int,
    allowed: Sequence[str],
    lists: bool,
) -> None:
    """The proxy refuses the listing, because MinIO permits the listing of versions with s3:ListBucket."""
    house = versioned
    fill(house, major)
    house.restrict(monkeypatch, allowed)
    with house.refuse(
        lambda method, path: (
            "AccessDenied" if not lists and method == "GET" and "versions" in path.partition("?")[2] else None
        )
    ):
        done = gc(house)
        (sweep,) = done.old_versions
        assert freed_bytes(done) == 0
        assert sum(sum(each.kept.values()) for each in done.slots) > 0
        if lists:
            assert sweep.kept_bytes == house.old_bytes()
            assert any("AccessDenied" in reason for reason in sweep.reasons)
        else:
            assert "AccessDenied" in (sweep.problem or "")
        told = house.run("gc", "--yes", "--grace-hours", "0", "-o", "table")
        assert "old versions" in told.stderr
        assert "billed" in told.stderr
        found = house.check()
    assert found["versioning"] == "Enabled"
    assert ("s3:DeleteObjectVersion" in found["missingRights"]) is ("s3:DeleteObjectVersion" not in allowed)
    assert ("s3:ListBucketVersions" in found["missingRights"]) is not lists
    house.allow_all(monkeypatch)
    gc(house)
    assert house.old() == [], "rights that come later are used"


def test_old_versions_are_deleted_in_a_store_that_cannot_tell_its_versioning_now(versioned: House) -> None:
    """Invariant G17: without an answer about the versioning, the store may keep versions."""
    house = versioned
    fill(house, 6)
    with house.refuse(lambda method, path: "SlowDown" if method == "GET" and path.endswith("?versioning") else None):
        done = gc(house)
    (sweep,) = done.old_versions
    assert (sweep.versioning.state, sweep.problem) == (VersioningState.UNKNOWN, None)
    assert sweep.removed_bytes >= freed_bytes(done) > 0
    assert house.old() == []


def test_locked_versions_are_never_free(new_house: Callable[..., House]) -> None:
    house = new_house(lock="COMPLIANCE")
    fill(house)
    done = gc(house)
    (sweep,) = done.old_versions
    assert freed_bytes(done) == 0
    assert sweep.kept_bytes == house.old_bytes() > 0
    told = house.run("gc", "--yes", "--grace-hours", "0")
    assert f"{house.old_bytes()} bytes stay and are billed" in told.stderr
    assert json.loads(told.stdout)["oldVersions"][0]["kept"]["storedBytes"] == house.old_bytes()
    found = house.check()
    assert found["objectLock"] == "COMPLIANCE, 1 days"
    assert any("object lock" in each for each in found["warnings"])


def test_suspended_versioning(new_house: Callable[..., House]) -> None:
    """A null version has the id of the next put, so no null version is deleted by its id (invariant G17)."""
    house = new_house("Enabled")
    fill(house)
    house.versioning("Suspended")
    with house.open() as installation:
        publish(installation, disk(house, 3), "3.0.0", ["southcentralus"])
        delete(installation, "3.0.0")
    done = gc(house)
    (sweep,) = done.old_versions
    assert sweep.kept_bytes == house.old_bytes() == 0
    assert freed_bytes(done) > 0
    assert all(each["VersionId"] == "null" for each in house.old())
    assert sweep.kept_markers == len(house.old())
    assert house.check()["versioning"] == "Suspended"


@pytest.mark.parametrize("right", USUAL)
def test_a_missing_right_is_found(plain: House, monkeypatch: pytest.MonkeyPatch, right: str) -> None:
    house = plain
    house.restrict(monkeypatch, [each for each in USUAL if each != right])
    result = house.run("regions", "check")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert not found["ready"]
    assert right in str(found["problem"])
    house.allow_all(monkeypatch)
    if right == "s3:DeleteObject":
        for each in house.versions("imgstore-probe/"):
            house.client.delete_object(Bucket=house.bucket, Key=each["Key"])
    assert house.versions("imgstore-probe/") == []


@pytest.mark.parametrize("code", ["XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"])
def test_a_full_store_is_found(plain: House, code: str) -> None:
    with plain.refuse(lambda method, _path: code if method == "PUT" else None):
        result = plain.run("regions", "check", "-o", "table")
        assert result.exit_code == 1
        assert "The store is full." in result.stdout
        assert all(len(line) <= 100 for line in result.stdout.split("\n"))
        assert code in plain.check()["problem"]


def test_a_full_file_system_is_found(tmp_path: Path) -> None:
    """The reserve of free space counts, and a file system without a free block."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(
            installation,
            make_raw(tmp_path / "d.raw", seed=1, virtual_bytes=4 * MIB, content_bytes=MIB),
            targets=["southcentralus"],
        )
        assert all(each.problem is None for each in check_regions(installation, ADMIN, names=["southcentralus"]))
    before = sorted(path for path in (tmp_path / "home" / "regions").rglob("*") if path.is_file())
    with open_home(tmp_path / "home", space=DiskSpace(free_bytes_min=2**62)) as installation:
        problems = [each.problem for each in check_regions(installation, ADMIN, names=["southcentralus"])]
    assert any("No space is left outside of the reserve" in str(each) for each in problems)
    assert sorted(path for path in (tmp_path / "home" / "regions").rglob("*") if path.is_file()) == before
    zone = next(path.parent for path in before if path.name == "FORMAT")
    zone.rename(tmp_path / "saved")
    zone.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", zone], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system: {mounted.stderr.decode().strip()}")
    try:
        shutil.copytree(tmp_path / "saved", zone, dirs_exist_ok=True)
        with suppress(OSError), (zone / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with open_home(tmp_path / "home", space=DiskSpace(free_bytes_min=0)) as installation:
            reports = check_regions(installation, ADMIN, names=["southcentralus"])
        assert any("No space is left" in str(each.problem) for each in reports), [each.problem for each in reports]
    finally:
        subprocess.run(["umount", "--lazy", zone], check=True)
