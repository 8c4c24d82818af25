"""An installation with a region of three real zones, the operations on the zones, and the checks after a fault."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest
from click.testing import Result

import imgstore
from imgstore.catalog.engine.database import Session
from imgstore.domain.storage.sizes import MIB
from tests.support.s3_proxy import Forward, ProxiedAnswer, ProxiedRequest, pass_through
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import audit, open_home
from tests.support.terminal import Terminal
from tests.support.zone_servers import FAULTS, ZoneFault, ZoneServer

DESIGN: Final = Path(imgstore.__file__).parent / "DESIGN.md"
WEST: Final = "westus2"
ZONED: Final = f"{WEST}=1=Standard_ZRS"
HIT: Final = "2"
"""The zone with the fault."""
OTHER: Final = "1"
"""A zone that is rebuilt while zone `HIT` has the fault."""
_ROUNDS_MAX: Final = 4

MAINTENANCE: Final = timedelta(days=8)
"""A time in which each task of the maintenance is due, with the intervals of a new installation."""


class Site(Terminal):
    """An installation with a region of three zones."""

    def __init__(self, folder: Path, servers: tuple[ZoneServer, ...], disks: dict[str, Path]) -> None:
        """Choose a bucket and a home for a test with its own folder. `disks` are raw disks by version."""
        super().__init__(folder / "site")
        self.bucket = folder.name.replace("_", "-")[:50].strip("-").lower()
        self.servers = servers
        self.disks = disks

    def server(self, zone: str) -> ZoneServer:
        """Return the server of a zone."""
        return self.servers[int(zone) - 1]

    def objects(self) -> list[dict[str, bytes]]:
        """Return the objects of each zone."""
        return [server.objects(self.bucket) for server in self.servers]

    def prepare(self) -> None:
        """Create the home, the buckets, a gallery and a definition."""
        self.folder.mkdir(parents=True)
        document = {
            "currency": "USD",
            "regions": {
                "southcentralus": {
                    "bucket": "south",
                    "policy": "LRS",
                    "storage_account_types": ["Standard_LRS"],
                    "zones": {"1": {}},
                },
                WEST: {
                    "bucket": self.bucket,
                    "policy": "ZRS",
                    "storage_account_types": ["Standard_LRS", "Standard_ZRS"],
                    "zones": {each.zone: {"endpoint": each.way.engine.endpoint} for each in self.servers},
                },
            },
            "prices": {
                "egress_per_gb": {"default": 0.02},
                "storage_per_gb_month": {"Standard_LRS": 0.05, "Standard_ZRS": 0.0625},
            },
        }
        (self.folder / "regions.yaml").write_text(json.dumps(document))
        engine = self.servers[0].engine
        self.environ |= {
            "IMGSTORE_REGIONS": str(self.folder / "regions.yaml"),
            "AWS_ACCESS_KEY_ID": engine.access_key,
            "AWS_SECRET_ACCESS_KEY": engine.secret_key,
        }
        self.ok("regions init")
        self.ok(f"sig create -g rg -r g1 --location {WEST}")
        self.ok(
            "sig image-definition create -g rg -r g1 -i ubuntu -p p -f o -s s --os-type Linux --os-state Generalized"
        )

    def create(self, version: str, source_region: str = WEST, targets: str = ZONED) -> str:
        """Return the command that creates a version."""
        return (
            f"sig image-version create -g rg -r g1 -i ubuntu -e {version} --os-vhd-uri '{self.disks[version]}' "
            f"-l {source_region} --target-regions {targets}"
        )

    def check_export(self, version: str) -> None:
        """Compare an export of a version from the zones byte for byte."""
        out = self.folder / "out.raw"
        self.ok(
            f"disk export --gallery-image-reference rg/g1/ubuntu/{version} --location {WEST} --file '{out}' --overwrite"
        )
        assert out.read_bytes() == self.disks[version].read_bytes()

    def audit(self) -> None:
        """Compare stores, catalog and bill."""
        with open_home(self.home, regions=self.folder / "regions.yaml", environ=self.environ) as installation:
            audit(installation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation that uses the zones."""

    prepare: Callable[[Site], None]
    run: Callable[[Site], Result]
    method: str
    """The method of the requests that are counted."""
    part: str
    """A part of the paths of these requests."""
    count: int
    """The request at which the fault begins."""
    versions: tuple[str, ...]
    """The versions that exist after the operation."""


def _publish(site: Site) -> None:
    site.ok(site.create("1.0.0"))


def _publish_elsewhere(site: Site) -> None:
    site.ok(site.create("1.0.0", "southcentralus", "southcentralus"))


def _publish_and_delete(site: Site) -> None:
    _publish(site)
    site.ok(site.create("2.0.0"))
    site.ok("sig image-version delete -g rg -r g1 -i ubuntu -e 1.0.0 --yes")


def _empty_zone(zone: str) -> Callable[[Site], None]:
    """Return a preparation that deletes every object of a zone, and lets the operator prepare the empty zone."""

    def prepare(site: Site) -> None:
        _publish(site)
        site.server(zone).clear(site.bucket)
        site.ok(f"regions init --zone {WEST}/{zone}")

    return prepare


def _scrub(prepare: Callable[[Site], None], method: str, count: int) -> Operation:
    return Operation(
        prepare=prepare,
        run=lambda site: site.run("scrub"),
        method=method,
        part="/segments/",
        count=count,
        versions=("1.0.0",),
    )


OPERATIONS: Final = {
    "ingest": Operation(
        prepare=_publish,
        run=lambda site: site.run(site.create("2.0.0")),
        method="PUT",
        part="/segments/",
        count=1,
        versions=("1.0.0", "2.0.0"),
    ),
    "replication": Operation(
        prepare=_publish_elsewhere,
        run=lambda site: site.run(
            f"sig image-version update -g rg -r g1 -i ubuntu -e 1.0.0 --target-regions southcentralus {ZONED}"
        ),
        method="PUT",
        part="/segments/",
        count=2,
        versions=("1.0.0",),
    ),
    "disk": Operation(
        prepare=_publish,
        run=lambda site: site.run(f"disk create -g rg -n d1 -l {WEST} --gallery-image-reference rg/g1/ubuntu/1.0.0"),
        method="PUT",
        part="/works/",
        count=1,
        versions=("1.0.0",),
    ),
    "gc": Operation(
        prepare=_publish_and_delete,
        run=lambda site: site.run("gc --yes --grace-hours 0"),
        method="POST",
        part="?delete",
        count=1,
        versions=("2.0.0",),
    ),
    "scrub": _scrub(_publish, "GET", 1),
    "rebuild": _scrub(_empty_zone(HIT), "PUT", 1),
    "rebuild of another zone": _scrub(_empty_zone(OTHER), "GET", 2),
}


class _Trigger:
    """Begins a fault at a request of the server."""

    def __init__(self, server: ZoneServer, fault: ZoneFault, operation: Operation) -> None:
        self._server, self._fault, self._operation = server, fault, operation
        self._left = operation.count
        self._lock = threading.Lock()
        self._has_begun = False

    def check_begun(self) -> None:
        """Wait until the begin of the fault has ended, and check that the fault has begun without an error."""
        with self._lock:
            assert self._has_begun, f"the fault did not begin: {self._server.proxy.requests[-20:]}"

    def __call__(self, request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        with self._lock:
            if self._left and request.method == self._operation.method and self._operation.part in request.path:
                self._left -= 1
                if self._left == 0:
                    self._server.proxy.exchange = pass_through
                    self._fault.begin(self._server)
                    self._has_begun = True
        exchange = self._server.proxy.exchange
        return forward() if exchange is self else exchange(request, forward)


def read_table() -> dict[tuple[str, str], str]:
    """Read the table of DESIGN.md: by fault and operation, the caller's view: "succeeds" or "reports"."""
    lines = DESIGN.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| fault of one zone |"))
    header, _, *rows = takewhile(lambda line: line.startswith("|"), lines[start:])
    operations = _split_row(header)[1:]
    return {
        (fault, operation): view
        for fault, *views in map(_split_row, rows)
        for operation, view in zip(operations, views, strict=True)
    }


def _split_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def check_cell(site: Site, fault_name: str, operation_name: str) -> None:
    """Run an operation with a fault in its middle, and check everything that the table promises."""
    fault, operation, server = FAULTS[fault_name], OPERATIONS[operation_name], site.server(HIT)
    site.prepare()
    operation.prepare(site)
    trigger = _Trigger(server, fault, operation)
    server.proxy.exchange = trigger
    try:
        result = operation.run(site)
        trigger.check_begun()
        reports = read_table()[fault_name, operation_name] == "reports"
        assert result.exit_code == int(reports), f"{result.output}\n{result.exception!r}"
        assert not reports or f"zone {HIT}" in result.output, result.output
        for version in operation.versions:
            site.check_export(version)
    finally:
        server.proxy.exchange = pass_through
        fault.end(server)
    if fault.loses_content:
        site.ok(f"regions init --zone {WEST}/{HIT}")
    check_recovery(site, operation.versions)
    site.audit()
    for each in site.servers:
        each.remove_bucket(site.bucket)


def check_recovery(site: Site, versions: tuple[str, ...]) -> None:
    """Let the worker repair the zones, and check that scrub finds nothing and that all zones are equal."""
    for weeks in range(_ROUNDS_MAX):
        with _time_passed(weeks * MAINTENANCE):
            site.run("worker --once")
        if not find_differences(site.objects()):
            break
    else:
        pytest.fail(f"the zones differ: {find_differences(site.objects())}")
    report = site.ok("scrub")
    assert not [each for each in report["slots"] if each["damaged"] or each["problem"]], report
    for version in versions:
        site.check_export(version)


@contextmanager
def _time_passed(time: timedelta) -> Iterator[None]:
    """Let the clock of the database be so much later during the block."""
    real_now = Session.now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "now", lambda session: real_now(session) + time)
        yield


def make_disks(folder: Path) -> dict[str, Path]:
    """Create a different disk for each version."""
    return {
        version: make_raw(folder / f"{seed}.raw", seed=seed, virtual_bytes=16 * MIB, content_bytes=7 * MIB)
        for seed, version in enumerate(("1.0.0", "2.0.0", "3.0.0"), start=1)
    }


def find_differences(zones: Sequence[dict[str, bytes]]) -> dict[str, list[int | None]]:
    """Return the length of each copy of the objects on which the zones differ; None for a missing copy."""
    keys = sorted(set().union(*zones))
    return {
        key: [len(zone[key]) if key in zone else None for zone in zones]
        for key in keys
        if len({zone.get(key) for zone in zones}) > 1 or key.startswith("repairs/")
    }
