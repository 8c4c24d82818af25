"""Two zones of three lost, and disturbed networks, on real servers."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from zone_site import WEST, ZONED, Site, check_recovery, make_disks

from imgstore.testing.latency_proxy import LatencyProxies
from imgstore.testing.pytest_plugin import require
from tests.support.s3_proxy import Forward, ProxiedAnswer, ProxiedRequest, pass_through
from tests.support.zone_servers import FAULTS, ZoneServer, start_zone_servers

TWO_LOST = ("2", "3")


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_disks(tmp_path_factory.mktemp("zone-disks"))


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, latency_proxies: LatencyProxies
) -> Iterator[tuple[ZoneServer, ...]]:
    require("minio")
    with start_zone_servers(tmp_path_factory.mktemp("zones"), latency_proxies, "minio") as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, servers: tuple[ZoneServer, ...], disks: dict[str, Path]) -> Site:
    made = Site(tmp_path, servers, disks)
    made.prepare()
    return made


def test_two_lost_zones_refuse_writes_by_name(site: Site) -> None:
    site.ok(site.create("1.0.0"))
    site.ok(site.create("3.0.0", "southcentralus", "southcentralus"))
    site.ok(f"disk create -g rg -n d1 -l {WEST} --gallery-image-reference rg/g1/ubuntu/1.0.0")
    lost = [site.server(zone) for zone in TWO_LOST]
    for server in lost:
        FAULTS["lost"].begin(server)
    for line in (
        site.create("2.0.0"),
        f"disk create -g rg -n d2 -l {WEST} --gallery-image-reference rg/g1/ubuntu/1.0.0",
        f"sig image-version update -g rg -r g1 -i ubuntu -e 3.0.0 --target-regions southcentralus {ZONED}",
    ):
        result = site.run(line)
        assert result.exit_code == 1, result.output
        for zone in TWO_LOST:
            assert f"zone {zone}" in result.output, result.output
    site.check_export("1.0.0")
    for server in lost:
        FAULTS["lost"].end(server)
    site.ok("regions check")
    kill_amid(site, site.create("2.0.0"), lost)
    view = site.ok("sig image-version show -g rg -r g1 -i ubuntu -e 2.0.0")
    assert view["properties"]["provisioningState"] != "Succeeded"
    refused = site.run(f"disk create -g rg -n d3 -l {WEST} --gallery-image-reference rg/g1/ubuntu/2.0.0")
    assert refused.exit_code == 3, "a version that is not complete was served"
    site.check_export("1.0.0")
    for line in (
        site.create("2.0.0"),
        f"disk create -g rg -n d2 -l {WEST} --gallery-image-reference rg/g1/ubuntu/1.0.0",
        f"sig image-version update -g rg -r g1 -i ubuntu -e 3.0.0 --target-regions southcentralus {ZONED}",
    ):
        site.ok(line)
    check_recovery(site, ("3.0.0", "1.0.0", "2.0.0"))


def kill_amid(site: Site, line: str, lost: Sequence[ZoneServer]) -> None:
    """Run a command, make zones half-open when the first of them gets a segment, and kill the command then."""
    held = threading.Event()

    def hold(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        if request.method == "PUT" and "/segments/" in request.path and not held.is_set():
            for server in lost:
                server.way.hold()
            held.set()
        return forward()

    command = [sys.executable, "-m", "imgstore", *shlex.split(line)]
    lost[0].proxy.exchange = hold
    try:
        with subprocess.Popen(command, env=os.environ | site.environ, stderr=subprocess.DEVNULL) as process:
            assert held.wait(120), "no segment was sent"
            process.kill()
        assert process.returncode == -signal.SIGKILL
    finally:
        lost[0].proxy.exchange = pass_through
        for server in lost:
            server.way.release()


NETWORKS = {
    "latency": ("latency", {"latency": 60, "jitter": 30}),
    "bandwidth": ("bandwidth", {"rate": 4000}),
    "slicer": ("slicer", {"average_size": 1200, "size_variation": 600, "delay": 10}),
    "limit": ("limit_data", {"bytes": 6_000_000}),
}
"""Toxics of each network: type and attributes (KB/s, bytes, milliseconds, microseconds of the slicer)."""


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[] if name == "limit" else [pytest.mark.long]) for name in NETWORKS]
)
def test_disturbed_networks_to_all_zones(site: Site, network: str) -> None:
    kind, attributes = NETWORKS[network]
    for server in site.servers:
        server.way.add_toxic(network, kind, **attributes)
    try:
        site.ok(site.create("1.0.0"))
        site.check_export("1.0.0")
    finally:
        for server in site.servers:
            server.way.remove_toxic(network)
    check_recovery(site, ("1.0.0",))
    site.audit()


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        pytest.param("reset_peer", {"timeout": 20}, id="reset"),
        pytest.param("timeout", {"timeout": 0}, id="half-open", marks=pytest.mark.long),
    ],
)
def test_a_network_that_ends_the_connections_of_a_zone(site: Site, kind: str, attributes: dict[str, int]) -> None:
    way = site.server("2").way
    way.add_toxic("broken", kind, **attributes)
    try:
        site.ok(site.create("1.0.0"))
        site.check_export("1.0.0")
    finally:
        way.remove_toxic("broken")
    check_recovery(site, ("1.0.0",))
    site.audit()
