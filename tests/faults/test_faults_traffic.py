"""Tests of the ledger and the meters against the listings and the traffic counters of MinIO.

MinIO counts the bodies of requests and responses without headers. For objects, its counts equal the counts of our
meters. MinIO also counts the XML of listings and deletions, which is the only allowed difference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from imgstore.domain.storage import object_keys
from imgstore.ledger.entries import ChargeKind
from imgstore.operations.installation import Installation
from imgstore.stores.wrappers.metering import Traffic
from imgstore.testing.engines import S3Engine
from tests.support.crash_scenes import CrashScene, create_minio_scene
from tests.support.sample_disks import compute_sha256
from tests.support.sample_gallery import (
    SampleImages,
    all_slots,
    audit,
    charges,
    collect,
    content,
    export,
    make_disk,
    publish,
    retarget,
)

pytest_plugins = ["tests.support.published_gallery"]

Cluster = Callable[[int], tuple[S3Engine, ...]]

REGIONS = ("southcentralus", "eastus", "westus2")
TARGETS = ["southcentralus=2", "eastus", "westus2"]

XML_OF_DELETE = 400
"""Bytes at most of a deletion's request and of its answer; ours remove a key or two each."""
XML_OF_LIST = 1000
"""Bytes at most of an empty listing."""
XML_OF_OBJECT = 600
"""Bytes at most of one object in a listing."""


@dataclass(slots=True)
class Watched:
    """The traffic of a block, by the servers and by our meters."""

    servers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes of bodies (received, sent) by region."""
    meters: dict[str, Traffic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Places:
    scene: CrashScene
    engines: tuple[S3Engine, ...]

    @contextmanager
    def watched(self) -> Iterator[tuple[Installation, Watched]]:
        found = Watched()
        before = [engine.traffic() for engine in self.engines]
        with self.scene.open() as installation:
            yield installation, found
            found.meters = dict(installation.locator.traffic())
        for region, engine, (received, sent) in zip(REGIONS, self.engines, before, strict=True):
            now = engine.traffic()
            found.servers[region] = now[0] - received, now[1] - sent

    def listed(self, region: str) -> dict[str, int]:
        """List every object of the region's bucket with the server's own listing."""
        client = self.engines[REGIONS.index(region)].client()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=f"{region}-traffic")
            return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
        finally:
            client.close()


@pytest.fixture
def places(tmp_path: Path, minio_cluster: Cluster) -> Iterator[Places]:
    engines = minio_cluster(3)
    scene = create_minio_scene(tmp_path / "scene", engines, "traffic", zoned=False)
    scene.prepare()
    yield Places(scene, engines)
    remove_buckets(engines, "traffic")


def remove_buckets(engines: tuple[S3Engine, ...], name: str) -> None:
    for region, engine in zip(REGIONS, engines, strict=True):
        client = engine.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=f"{region}-{name}"):
            for each in page.get("Contents", []):
                client.delete_object(Bucket=f"{region}-{name}", Key=each["Key"])
        client.delete_bucket(Bucket=f"{region}-{name}")
        client.close()


@pytest.fixture
def detour(tmp_path: Path, minio_cluster: Cluster) -> Iterator[Places]:
    """Places with cheapest routes, where westus2 is cheaper by eastus."""
    engines = minio_cluster(3)
    prices = {"southcentralus": {"westus2": 0.09}, "eastus": {"westus2": 0.01}}
    scene = create_minio_scene(tmp_path / "scene", engines, "detour", zoned=False, egress_pairs=prices)
    (scene.folder / "home").mkdir()
    (scene.folder / "home" / "settings.toml").write_text('[replication]\nroute = "cheapest"\n')
    scene.prepare()
    yield Places(scene, engines)
    remove_buckets(engines, "detour")


def test_servers_count_the_bytes_of_the_cheapest_route(detour: Places, samples: SampleImages) -> None:
    with detour.watched() as (installation, watched):
        publish(installation, samples.first, targets=["southcentralus"])
        before = dict(installation.locator.traffic())
        publish(installation, samples.first, targets=["southcentralus", "eastus", "westus2"])
        rows = {(row.source, row.target): row for row in charges(installation)}
        assert rows.keys() == {("southcentralus", "eastus"), ("eastus", "westus2")}
        sizes = {row.delivered_bytes for row in rows.values()}
        segments = sizes.pop()
        assert sizes == set()
        # Invariant M5: 0.02 and 0.01 per GB instead of 0.02 and 0.09.
        assert sum(row.amount for row in rows.values()) == segments * Decimal("0.03") / 10**9
    assert_agree(watched, objects=16)
    served = {
        region: watched.meters[region].received_bytes - before[region].received_bytes
        for region in ("southcentralus", "eastus")
    }
    # Each of both regions served the segments once, and the manifests and small objects.
    assert all(segments <= each < segments * 1.5 for each in served.values())


def assert_agree(watched: Watched, objects: int) -> None:
    """Check that servers and meters agree up to the XML of a limited number of listed objects."""
    for region, (received, sent) in watched.servers.items():
        meter = watched.meters[region]
        deletes, lists = (meter.requests.get(name, 0) for name in ("delete", "list"))
        up = received - meter.sent_bytes
        assert 0 <= up <= deletes * XML_OF_DELETE, f"{region}: the server received {up} bytes that we did not count"
        down = sent - meter.received_bytes
        xml = deletes * XML_OF_DELETE + lists * (XML_OF_LIST + objects * XML_OF_OBJECT)
        assert 0 <= down <= xml, f"{region}: the server sent {down} bytes that we did not count"


def test_the_main_job_is_charged_for_what_the_servers_list(
    places: Places, samples: SampleImages, tmp_path: Path
) -> None:
    earlier = {region: places.listed(region) for region in REGIONS}
    with places.watched() as (installation, first):
        publish(installation, samples.first, targets=TARGETS)
    with places.watched() as (installation, second):
        publish(installation, samples.second, "1.0.1", TARGETS)
        publish(installation, samples.rebuilt, "1.0.2", TARGETS)
        make_disk(installation, "d1", "eastus", "1.0.0")
    listed = {region: places.listed(region) for region in REGIONS}
    for watched in (first, second):
        assert_agree(watched, max(map(len, listed.values())))
    with places.watched() as (installation, _):
        audit(installation)
        rows = charges(installation)
        for slot in all_slots(installation):
            sizes = sum(size for key, size in listed[slot.key.region].items() if f"{slot.prefix}segments/" in key)
            assert sizes == sum(content(installation, slot).segments.values())
            kind = ChargeKind.COPY if slot.key.region == "southcentralus" else ChargeKind.EGRESS
            mine = [row for row in rows if (row.target, row.replica) == (slot.key.region, slot.key.ordinal)]
            if (slot.key.region, slot.key.ordinal) != ("southcentralus", 0):
                assert sum(row.delivered_bytes for row in mine if row.kind is kind) == sizes
            else:
                assert mine == []
        for region in ("eastus", "westus2"):
            # What was put there is what was charged, the manifests, and the revisions.
            sent = first.meters[region].sent_bytes + second.meters[region].sent_bytes
            manifests = sum(size for key, size in listed[region].items() if "/manifests/" in key)
            revisions = sum(
                size
                for key, size in listed[region].items()
                if key not in earlier[region] and (key.startswith(object_keys.INSTALLATION) or "/owners/" in key)
            )
            assert revisions > 0
            charged = sum(row.delivered_bytes for row in rows if row.target == region)
            assert sent == charged + manifests + revisions, f"{region}: bytes were sent twice"


def test_an_export_reads_each_stored_byte_once(places: Places, samples: SampleImages, tmp_path: Path) -> None:
    """Only objects are transferred, and the listing that identifies the zone."""
    with places.watched() as (installation, _):
        publish(installation, samples.first, targets=TARGETS)
    with places.watched() as (installation, watched):
        export(installation, tmp_path / "o.raw", "eastus")
    assert compute_sha256(tmp_path / "o.raw") == compute_sha256(samples.first)
    assert_agree(watched, objects=8)
    assert {meter.requests.get("list", 0) for meter in watched.meters.values()} <= {0, 1}
    stored = sum(size for key, size in places.listed("eastus").items() if "/segments/" in key or "/manifests/" in key)
    marks = places.listed("eastus")["FORMAT"]
    meter = watched.meters["eastus"]
    assert (meter.sent_bytes, meter.received_bytes) == (0, stored + marks)


def test_a_repeat_moves_no_segment(places: Places, samples: SampleImages) -> None:
    with places.watched() as (installation, _):
        publish(installation, samples.first, targets=TARGETS)
    with places.watched() as (installation, watched):
        publish(installation, samples.first, targets=TARGETS)
    assert set(watched.servers.values()) == {(0, 0)}, "nothing to do, and a server was asked"


def test_a_region_added_again_is_charged_for_what_its_server_receives(places: Places, samples: SampleImages) -> None:
    """The segments of a removed region stay until a collection, and cross again only afterwards (invariants M2, M15)."""
    alone, both = ["southcentralus"], ["southcentralus", "eastus"]
    with places.watched() as (installation, _):
        publish(installation, samples.first, targets=both)
        once = charges(installation)[-1].delivered_bytes
        retarget(installation, alone)
    for is_collected in (False, True):
        if is_collected:
            with places.watched() as (installation, _):
                retarget(installation, alone)
                collect(installation)
        segments = sum(size for key, size in places.listed("eastus").items() if "/segments/" in key)
        with places.watched() as (installation, again):
            known = {row.key for row in charges(installation)}
            retarget(installation, both)
            (row,) = (each for each in charges(installation) if each.key not in known)
        received, _ = again.servers["eastus"]
        assert row.delivered_bytes == (once if is_collected else 0) == once - segments
        assert 0 < received - row.delivered_bytes < once // 100, "more than manifests, revisions and requests crossed"
