"""More parallel requests to distant regions, with real servers behind a slow proxy.

The number of connections shows the parallelism. Each waiting thread has a connection, and all connections stay open
until the installation is closed.
"""

import filecmp
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from imgstore.domain.storage.latency import THREADS_MAX
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import Installation
from imgstore.operations.stores import regions
from imgstore.testing.engines import S3Engine
from imgstore.testing.latency_proxy import LatencyProxies, LatencyProxy
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.sample_gallery import ADMIN, audit, export, publish, retarget

ROUND_TRIP_SECONDS = 0.4
"""Long enough that a busy machine, too, has begun so many before the first is answered."""
CONNECTIONS_MIN, CONNECTIONS_MAX = 8, THREADS_MAX + 2
"""More than near by, where five threads put; of those that are allowed, as many as the processors have work for."""
BOTH = ["southcentralus", "eastus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Two regions with one disk of 24 segments between them."""

    scene: CrashScene
    far: S3Engine
    """The engine of eastus, from close by."""
    way: LatencyProxy
    """To that engine."""
    disk: Path


@pytest.fixture
def sites(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], latency_proxies: LatencyProxies
) -> Sites:
    near, far, other = minio_cluster(3)
    way = latency_proxies.to(far)
    scene = create_minio_scene(
        tmp_path / "scene", [near, way.engine, other], tmp_path.name.replace("_", "-"), zoned=False
    )
    scene.prepare()
    disk = scene.expected["1.0.0"] = tmp_path / "disk.raw"
    disk.write_bytes(np.random.default_rng(5).bytes(96 * MIB))
    return Sites(scene=scene, far=far, way=way, disk=disk)


@contextmanager
def counted(sites: Sites) -> Iterator[Installation]:
    """The installation, with a long way to eastus; afterwards, whether it was filled."""
    sites.way.set_round_trip(ROUND_TRIP_SECONDS)
    before = sites.way.connections()
    with sites.scene.open() as installation:
        yield installation
        made = sites.way.connections() - before
        assert CONNECTIONS_MIN <= made <= CONNECTIONS_MAX
        sites.way.set_round_trip(0)
        audit(installation)


def test_copy_and_export_use_more_connections_to_a_distant_region(sites: Sites, tmp_path: Path) -> None:
    with sites.scene.open() as installation:
        publish(installation, sites.disk, targets=BOTH[:1])
    with counted(sites) as installation:
        retarget(installation, BOTH)
    with counted(sites) as installation:
        export(installation, tmp_path / "out.raw", location="eastus")
    assert filecmp.cmp(tmp_path / "out.raw", sites.disk, shallow=False)


def test_distance_of_a_region_is_shown(sites: Sites) -> None:
    sites.way.set_round_trip(ROUND_TRIP_SECONDS)
    with sites.scene.open() as installation:
        found = {each.region: each.answer_seconds or 0.0 for each in regions.check_regions(installation, ADMIN)}
    assert found["eastus"] >= ROUND_TRIP_SECONDS
    assert all(found["eastus"] > found[near] > 0 for near in ("southcentralus", "westus2"))


def test_ingest_uses_more_connections_to_a_distant_region(sites: Sites) -> None:
    with counted(sites) as installation:
        publish(installation, sites.disk, targets=BOTH[1:], location="eastus")


def test_source_in_a_distant_region_is_read_with_more_connections(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = sites.far.make_bucket(sites.disk.parent.name.replace("_", "-"))
    client = sites.far.client()
    client.upload_file(str(sites.disk), bucket, "disk.raw")
    client.close()
    environ = sites.scene.settings["environ"]
    for name, value in environ.items():  # a source's credentials are the process's own
        monkeypatch.setenv(name, value)
    environ["IMGSTORE_SOURCE_S3_ENDPOINT"] = sites.way.engine.endpoint
    with counted(sites) as installation:
        publish(installation, f"s3://{bucket}/disk.raw", targets=BOTH[:1])
