"""Attached disks while stores fail: real MinIO servers, real clients of the socket, and kills of the server.

The version has two replicas in westus2, in two zones on two servers behind proxies.
"""

import dataclasses
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from imgstore.domain.names import ImageReference
from imgstore.domain.storage.sizes import MIB
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.nbd.listeners import listen_unix
from imgstore.nbd.protocol import Command, ErrorNumber
from imgstore.nbd.server import NbdServer
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_disk, open_lazy_image
from imgstore.operations.installation import Installation
from imgstore.testing.engines import S3Engine
from imgstore.testing.latency_proxy import LatencyProxies, LatencyProxy
from imgstore.testing.pytest_plugin import require
from tests.nbd.memory_disk import Client
from tests.support.attached_disk import start_attach
from tests.support.crash_scenes import create_minio_scene
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    charges,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

_log = logging.getLogger(__name__)
WEST: Final = "westus2"
REFERENCE: Final = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")
READ: Final = ChargeKind.CROSS_REGION_READ


@dataclasses.dataclass(kw_only=True)
class Site:
    """The installation, and the servers and proxies of the zones of westus2 by zone name."""

    installation: Installation
    engines: dict[str, S3Engine]
    ways: dict[str, LatencyProxy]


@pytest.fixture
def site(
    tmp_path: Path,
    samples: SampleImages,
    minio_cluster: Callable[[int], tuple[S3Engine, ...]],
    latency_proxies: LatencyProxies,
) -> Iterator[Site]:
    """1.0.0 has two replicas in westus2."""
    engines = {str(number): engine for number, engine in enumerate(minio_cluster(3), start=1)}
    ways = {zone: latency_proxies.to(engine) for zone, engine in engines.items()}
    name = tmp_path.name.replace("_", "-")[:40].strip("-")
    scene = create_minio_scene(tmp_path / "scene", [way.engine for way in ways.values()], name)
    scene.prepare()
    with scene.open() as installation:
        publish(installation, samples.first, targets=["westus2=2"], location=WEST)
        yield Site(installation=installation, engines=engines, ways=ways)


@contextmanager
def serve(disk: LazyDisk, path: Path) -> Iterator[list[str]]:
    """Serve a disk, and yield the notes of the server."""
    notes: list[str] = []
    server = NbdServer(disk, description="a test", note=notes.append)
    with listen_unix(path) as listener:
        server.start(listener)
        try:
            yield notes
        finally:
            server.stop()


@contextmanager
def open_image(installation: Installation, outage_seconds: float = 60) -> Iterator[LazyDisk]:
    opening = open_lazy_image(installation, ADMIN, reference=REFERENCE, location=WEST, outage_seconds=outage_seconds)
    with opening as opened:
        yield opened


def read(client: Client, offset: int, length: int) -> bytes:
    """Read a range that the server serves without an error."""
    client.request(Command.READ, offset, length)
    assert client.simple() == 0
    return client.receive(length)


def connect(stack: ExitStack, path: Path) -> Client:
    client = Client(path)
    client.socket.settimeout(120)
    stack.callback(client.socket.close)
    client.start(structured=False)
    return client


def refuse(site: Site, zone: str) -> None:
    site.ways[zone].set_enabled(enabled=False)


def hold(site: Site, zone: str) -> None:
    site.ways[zone].hold()


@pytest.mark.parametrize("fail", [refuse, hold, "freeze"])
def test_a_replica_that_fails_during_a_stream_of_reads_is_no_error(
    site: Site, samples: SampleImages, tmp_path: Path, fail: Callable[[Site, str], None] | str
) -> None:
    source, path = samples.first.read_bytes(), tmp_path / "nbd.sock"
    with ExitStack() as stack:
        opened = stack.enter_context(open_image(site.installation))
        notes = stack.enter_context(serve(opened, path))
        zone = opened.pinned.slot.zone
        client = connect(stack, path)
        longest = 0.0
        for number, offset in enumerate(range(0, len(source), 64 << 10)):
            if number == 4:
                if isinstance(fail, str):
                    stack.enter_context(site.engines[zone].freeze())
                else:
                    fail(site, zone)
            length = min(64 << 10, len(source) - offset)
            began = time.monotonic()
            assert read(client, offset, length) == source[offset : offset + length]
            longest = max(longest, time.monotonic() - began)
        _log.info("the longest read took %.2f s", longest)
        assert notes == []
        assert opened.fetched_bytes == sum(opened.reads.stored_bytes.values())


def test_nbdcopy_and_qemu_see_no_error_when_a_replica_fails(site: Site, samples: SampleImages, tmp_path: Path) -> None:
    require("nbdcopy")
    path, copy = tmp_path / "nbd.sock", tmp_path / "copy.raw"
    with open_image(site.installation) as opened, serve(opened, path) as notes:
        for way in site.ways.values():
            way.set_round_trip(0.05)
        with subprocess.Popen(["nbdcopy", f"nbd+unix:///?socket={path}", copy]) as client:
            while not opened.fetched_bytes:
                site.installation.effects.wait(0.01)
            refuse(site, opened.pinned.slot.zone)
            assert client.wait(timeout=60) == 0
        compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", f"nbd+unix:///?socket={path}", str(samples.first)]
        subprocess.run(compare, check=True, timeout=60)
        assert notes == []
    assert copy.read_bytes() == samples.first.read_bytes()


def test_reads_wait_for_the_stores_and_then_succeed(site: Site, samples: SampleImages, tmp_path: Path) -> None:
    source, path, waited = samples.first.read_bytes(), tmp_path / "nbd.sock", threading.Event()

    def wait(seconds: float) -> None:
        waited.set()
        time.sleep(seconds)

    patient = dataclasses.replace(site.installation, effects=dataclasses.replace(site.installation.effects, wait=wait))
    with ExitStack() as stack:
        opened = stack.enter_context(open_image(patient))
        notes = stack.enter_context(serve(opened, path))
        client = connect(stack, path)
        zones = {slot.zone for slot in (opened.pinned.slot, *opened.pinned.others)}
        for zone in zones:
            refuse(site, zone)
        client.request(Command.READ, 0, 4096)
        assert waited.wait(60)
        for zone in zones:
            site.ways[zone].set_enabled(enabled=True)
        assert client.simple() == 0
        assert client.receive(4096) == source[:4096]
        assert notes == []


def test_after_the_limit_a_read_fails_and_a_later_read_succeeds(
    site: Site, samples: SampleImages, tmp_path: Path
) -> None:
    source, path = samples.first.read_bytes(), tmp_path / "nbd.sock"
    with ExitStack() as stack:
        opened = stack.enter_context(open_image(site.installation, outage_seconds=0))
        notes = stack.enter_context(serve(opened, path))
        client = connect(stack, path)
        zones = {slot.zone for slot in (opened.pinned.slot, *opened.pinned.others)}
        for zone in zones:
            refuse(site, zone)
        client.request(Command.READ, 0, 4096)
        assert client.simple() == ErrorNumber.EIO
        assert len(notes) == 1
        for zone in zones:
            site.ways[zone].set_enabled(enabled=True)
        while True:  # The circuit of the zone closes after a probe.
            client.request(Command.READ, 0, 4096)
            if client.simple() == 0:
                break
            site.installation.effects.wait(0.05)
        assert client.receive(4096) == source[:4096]


def east_zone(installation: Installation) -> Path:
    return installation.home / "regions" / "imgstore-eastus" / "zone-1"


def reads(installation: Installation) -> list[LedgerRow]:
    return [row for row in charges(installation) if row.kind is READ]


def test_reads_return_to_the_store_of_the_region(published: Installation, samples: SampleImages) -> None:
    make_disk(published, "d1", "eastus")
    source, zone = samples.first.read_bytes(), east_zone(published)
    with open_lazy_disk(published, ADMIN, group=GROUP, name="d1") as opened:
        parts = [each for each in range(0, len(source) - 4096, MIB) if any(source[each : each + 4096])]
        zone.rename(zone.with_name("away"))
        assert bytes(opened.read_at(parts[0], 4096)) == source[parts[0] :][:4096]
        zone.with_name("away").rename(zone)
        charged = reads(published)
        assert charged
        while published.locator.is_avoided(opened.pinned.slot):
            opened.cache.clear()
            opened.read_at(parts[0], 4096)
            published.effects.wait(0.05)
        charged = reads(published)
        opened.cache.clear()
        assert bytes(opened.read_at(0, len(source))) == source
        assert reads(published) == charged, "the store of the region serves again"


def test_each_byte_from_another_region_is_charged_when_the_server_is_killed(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """Invariant M17: a read that was answered is charged, once if the server is killed after the answer."""
    make_disk(published, "d1", "eastus")
    source, zone = samples.first.read_bytes(), east_zone(published)
    words = ["-g", GROUP, "-n", "d1", "--socket", str(tmp_path / "s")]
    with open_lazy_disk(published, ADMIN, group=GROUP, name="d1") as opened:
        stored_bytes = sum(opened.reads.stored_bytes.values())
    charged = [0]
    for parts in ((0, 4096), range(0, len(source), MIB)):
        with ExitStack() as stack:
            running, _ = stack.enter_context(start_attach(published.home, *words))
            zone.rename(zone.with_name("away"))
            stack.callback(zone.with_name("away").rename, zone)
            client = connect(stack, tmp_path / "s")
            for offset in parts:
                length = min(MIB, len(source) - offset)
                assert read(client, offset, length) == source[offset : offset + length]
            running.kill()
            running.wait(timeout=60)
        with open_home(published.home) as other:
            rows = reads(other)
        charged.append(sum(row.delivered_bytes for row in rows))
    assert 0 < charged[1] < charged[2]
    assert charged[2] == stored_bytes, "cached segments crossed once"
    assert len({row.key for row in rows}) == len(rows)
