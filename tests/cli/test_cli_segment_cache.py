"""The segment cache below commands and the blob endpoint, counted by the requests that a store gets."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.api.blob.open_disks import OpenBlobs
from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from imgstore.testing.engines import S3Engine
from tests.support.bucket_home import write_regions
from tests.support.s3_proxy import S3Proxy, start_s3_proxy
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    DEFINITION,
    GALLERY,
    GROUP,
    create_sample_gallery,
    export_disk,
    make_disk,
    open_home,
    publish,
)


def run(home: Path, *words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore", env=environ)


def told(home: Path, *words: str, **environ: str) -> Any:
    result = run(home, *words, "-o", "json", **environ)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Bucket:
    """A home with a version and two disks in a bucket of MinIO, behind a proxy that records the requests."""

    def __init__(self, folder: Path, minio: S3Engine, proxy: S3Proxy) -> None:
        self.home = folder / "home"
        self.proxy = proxy
        self.source = make_raw(folder / "d.raw", seed=3, virtual_bytes=32 * MIB, content_bytes=16 * MIB)
        self.regions = write_regions(
            folder / "regions.yaml", bucket=minio.make_bucket(f"cache-{os.urandom(4).hex()}"), endpoint=proxy.endpoint
        )
        self.environ = {
            "AWS_ACCESS_KEY_ID": minio.access_key,
            "AWS_SECRET_ACCESS_KEY": minio.secret_key,
            "IMGSTORE_REGIONS": str(self.regions),
        }
        self.run("regions", "init")
        with self.open() as installation:
            create_sample_gallery(installation)
            publish(installation, self.source, "1.0.0", ["southcentralus"])
            for name in ("d1", "d2"):
                make_disk(installation, name)

    def open(self, **more: Any) -> Any:
        return open_home(self.home, environ=self.environ, regions=self.regions, **more)

    def run(self, *words: str, **environ: str) -> None:
        result = run(self.home, *words, **self.environ, **environ)
        assert result.exit_code == 0, result.output

    def segment_gets(self) -> int:
        """The number of GETs of segments since the last call."""
        count = sum(method == "GET" and "/segments/" in path for method, path in self.proxy.requests)
        self.proxy.requests.clear()
        return count


@pytest.fixture
def bucket(tmp_path: Path, minio: S3Engine) -> Iterator[Bucket]:
    with start_s3_proxy(minio.endpoint) as proxy:
        bucket = Bucket(tmp_path, minio, proxy)
        bucket.segment_gets()
        yield bucket


def test_the_second_disk_of_a_version_needs_no_segment_of_the_store(bucket: Bucket, tmp_path: Path) -> None:
    """Invariants D7 and D17: separate commands, an image version, a range and a reader by URL share the segments."""
    target = tmp_path / "o.raw"
    raw = "--format", "raw", "--overwrite", "--file", str(target)
    content = bucket.source.read_bytes()
    bucket.run("disk", "export", "-g", GROUP, "-n", "d1", *raw)
    assert target.read_bytes() == content
    assert bucket.segment_gets() > 0
    bucket.run("disk", "export", "-g", GROUP, "-n", "d2", *raw)
    assert target.read_bytes() == content
    bucket.run("disk", "export", "--gallery-image-reference", f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0", *raw)
    assert target.read_bytes() == content
    bucket.run("disk", "export", "-g", GROUP, "-n", "d2", "--offset", "5", "--length", "9000000", *raw)
    assert target.read_bytes() == content[5:9000005]
    with bucket.open() as installation, installation.catalog.reading() as transaction:
        disk = transaction.disks.get(installation.subscription, GROUP, "d2")
        assert disk is not None
        opened = OpenBlobs(installation).reader(disk)
        assert opened.read_at(0, len(content)) == content
    assert bucket.segment_gets() == 0
    assert told(bucket.home, "cache", "clear", **bucket.environ)["segments"] > 0
    bucket.run("disk", "export", "-g", GROUP, "-n", "d2", *raw)
    assert bucket.segment_gets() > 0


def test_a_large_disk_and_a_switched_off_cache_add_nothing(bucket: Bucket, tmp_path: Path) -> None:
    for limit in (0, 16 * MIB):
        with bucket.open(cache_bytes=limit) as installation:
            bucket.segment_gets()
            for name in ("d1", "d2"):
                export_disk(installation, tmp_path / f"{name}-{limit}.raw", name)
                assert (tmp_path / f"{name}-{limit}.raw").read_bytes() == bucket.source.read_bytes()
                assert bucket.segment_gets() > 0
            assert installation.host_cache.open().measure().segments == 0


def test_rot_in_the_cache_is_no_error_of_an_export(bucket: Bucket, tmp_path: Path) -> None:
    """Invariant D12."""
    raw = "--format", "raw", "--overwrite", "--file", str(tmp_path / "o.raw")
    bucket.run("disk", "export", "-g", GROUP, "-n", "d1", *raw)
    segments = [each for each in (bucket.home / "cache" / "segments-1").iterdir() if each.name[-64:].isalnum()]
    for path in segments:
        if path.stat().st_size > MIB:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    bucket.segment_gets()
    bucket.run("disk", "export", "-g", GROUP, "-n", "d2", *raw)
    assert (tmp_path / "o.raw").read_bytes() == bucket.source.read_bytes()
    assert 0 < bucket.segment_gets() <= len(segments)


def test_an_export_from_the_home_adds_nothing(tmp_path: Path) -> None:
    """Invariant D17."""
    source = make_raw(tmp_path / "d.raw", seed=3, virtual_bytes=16 * MIB, content_bytes=6 * MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, source, "1.0.0", ["southcentralus"])
        make_disk(installation, "d")
        export_disk(installation, tmp_path / "o.raw", "d")
        assert installation.host_cache.open().measure().segments == 0


# -- show, clear and doctor


def test_show_and_clear_name_the_folder_and_the_limit(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "elsewhere"
    shown = told(home, "cache", "show")
    assert shown == {
        "folder": str(home / "cache"),
        "segments": 0,
        "usedBytes": 0,
        "bytesMax": 10 << 30,
        "problem": None,
    }
    assert not (home / "cache").exists()
    (home / "settings.toml").write_text("[disk_space]\ncache_bytes_max = 7\n")
    assert told(home, "cache", "show")["bytesMax"] == 7
    environ = {"IMGSTORE_CACHE_DIR": str(place), "IMGSTORE_CACHE_BYTES": "4096"}
    shown = told(home, "cache", "clear", **environ)
    assert (shown["folder"], shown["bytesMax"], shown["segments"]) == (str(place), 4096, 0)
    refused = run(home, "cache", "show", IMGSTORE_CACHE_BYTES="10 GiB")
    assert (refused.exit_code, "IMGSTORE_CACHE_BYTES is no number of bytes" in refused.stderr) == (1, True)


def test_doctor_and_show_report_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "open"
    told(home, "regions", "list")
    place.mkdir()
    place.chmod(0o777)
    environ = {"IMGSTORE_CACHE_DIR": str(place)}
    assert "other users may write" in told(home, "cache", "show", **environ)["problem"]
    refused = run(home, "cache", "clear", **environ)
    assert (refused.exit_code, "other users may write" in refused.stderr) == (1, True)
    assert stat.S_IMODE(place.stat().st_mode) == 0o777
    for level, variables in (
        ("warning", environ),
        ("ok", {}),
        ("ok", {"IMGSTORE_CACHE_BYTES": "0"}),
    ):
        findings = json.loads(run(home, "doctor", "-o", "json", **variables).stdout)["findings"]
        (finding,) = [each for each in findings if each["check"] == "cache"]
        assert finding["level"] == level
