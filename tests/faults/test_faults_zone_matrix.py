"""Faults of one zone of three, on real servers, in the middle of each operation that uses the zones.

The table of DESIGN.md, section 10, has a row for each fault and a column for each operation. A fault begins when the
server has received some requests of the operation, and ends after the operation. Then a worker runs its maintenance,
and the three zones must have the same objects.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from zone_site import DESIGN, HIT, OPERATIONS, Site, check_cell, make_disks, read_table

from imgstore.testing import engines
from imgstore.testing.engines import EngineMissing
from imgstore.testing.latency_proxy import LatencyProxies
from imgstore.testing.pytest_plugin import require
from tests.support.zone_servers import FAULTS, ZoneServer, start_zone_servers

QUICK: Final = {
    ("lost", "gc"),
    ("full", "replication"),
    ("read-only", "ingest"),
    ("slow", "disk"),
    ("half-open", "ingest"),
    ("empty", "rebuild"),
    ("wrong bytes", "scrub"),
    ("unstored", "ingest"),
}
"""The cells of the usual run: each fault and each operation at least once."""
CELLS: Final = [
    pytest.param(
        fault, operation, id=f"{fault}-{operation}", marks=[] if (fault, operation) in QUICK else [pytest.mark.long]
    )
    for fault in FAULTS
    for operation in OPERATIONS
]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_disks(tmp_path_factory.mktemp("zone-disks"))


@pytest.fixture(scope="module")
def minio_servers(
    tmp_path_factory: pytest.TempPathFactory, latency_proxies: LatencyProxies
) -> Iterator[tuple[ZoneServer, ...]]:
    require("minio")
    try:
        engines.find("loop-device")
        mounted: tuple[str, ...] = (HIT,)
    except EngineMissing:
        mounted = ()
    with start_zone_servers(tmp_path_factory.mktemp("zones"), latency_proxies, "minio", mounted) as servers:
        yield servers


@pytest.fixture(scope="module")
def seaweedfs_servers(
    tmp_path_factory: pytest.TempPathFactory, latency_proxies: LatencyProxies
) -> Iterator[tuple[ZoneServer, ...]]:
    require("seaweedfs")
    require("loop-device")
    with start_zone_servers(tmp_path_factory.mktemp("zones"), latency_proxies, "seaweedfs", (HIT,)) as servers:
        yield servers


def test_each_cell_of_the_table_has_a_test() -> None:
    table = read_table()
    assert list(table) == [(fault, operation) for fault in FAULTS for operation in OPERATIONS]
    assert set(table.values()) == {"succeeds", "reports"}
    assert {fault for fault, _ in QUICK} >= set(FAULTS) - {"old bytes"}
    named = re.findall(r"`(tests/faults/test_faults_zone_\w+\.py)::(test_\w+)`", DESIGN.read_text())
    assert len(named) >= 4
    for path, name in named:
        assert f"def {name}(" in (Path(__file__).parents[2] / path).read_text(), f"{path} has no test {name}"


@pytest.mark.parametrize(("fault", "operation"), CELLS)
def test_a_fault_of_a_zone_on_minio(
    tmp_path: Path, minio_servers: tuple[ZoneServer, ...], disks: dict[str, Path], fault: str, operation: str
) -> None:
    if FAULTS[fault].needs_disk:
        require("loop-device")
    check_cell(Site(tmp_path, minio_servers, disks), fault, operation)


@pytest.mark.long
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_zone_on_seaweedfs(
    tmp_path: Path, seaweedfs_servers: tuple[ZoneServer, ...], disks: dict[str, Path], fault: str, operation: str
) -> None:
    check_cell(Site(tmp_path, seaweedfs_servers, disks), fault, operation)
