"""A home on which processes are killed repeatedly, with an audit after each kill."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from imgstore.domain.errors import NotFound
from imgstore.domain.progress import Subscriber, ignore_event
from imgstore.domain.storage import object_keys
from imgstore.operations.installation import Installation
from imgstore.operations.stores import regions
from imgstore.testing.engines import S3Engine
from tests.support import crash_process
from tests.support.sample_gallery import (
    ADMIN,
    all_slots,
    audit,
    audit_served,
    create_sample_gallery,
    open_home,
    own_slots,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashScene:
    """A home, its settings, and the expected versions."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings as JSON for `crash_process.parse_settings`, without the home."""
    expected: dict[str, Path] = field(default_factory=dict)
    """The raw disk of each requested version, and of its data disks under ``1.0.0/lun-5``."""

    def open(self, subscriber: Subscriber = ignore_event) -> AbstractContextManager[Installation]:
        """Open the installation in this process."""
        own = crash_process.parse_settings(self._orders())
        return open_home(own.home, subscriber, regions=own.regions, database=own.database, environ=own.environ)

    def prepare(self) -> None:
        """Create folders, buckets, gallery and definition."""
        for name in ("out", "served"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with self.open() as installation:
            problems = [each.problem for each in regions.init_regions(installation, ADMIN) if each.problem]
            assert problems == []
            create_sample_gallery(installation)

    def run_job(self, job: str, *, fatal: int = 0, number: int = signal.SIGKILL, **more: Any) -> int:
        """Run a command in a separate process, which is killed at the step `fatal`.

        Returns:
            The number of steps of a process that was not killed.

        Raises:
            AssertionError: the process neither succeeded nor ended by the signal.
        """
        orders = self._orders() | {"job": job, "fatal": fatal, "signal": number} | more
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.crash_process", json.dumps(orders)],
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        interrupted = number == signal.SIGINT and "KeyboardInterrupt" in done.stderr
        assert done.returncode in (0, -number) or interrupted, done.stderr
        return int(done.stdout) if done.returncode == 0 else 0

    def crash_and_repeat(self, job: str, *, fatal: int, number: int = signal.SIGKILL, **more: Any) -> bool:
        """Kill a command, audit the visible state, repeat the command, and audit again.

        Returns:
            Whether the command was killed before its end.

        Raises:
            AssertionError: a promise was broken, before or after the repeat.
        """
        took = self.run_job(job, fatal=fatal, number=number, **more)
        with self.open() as installation:
            audit(installation, quiet=False)
            audit_served(installation, self.expected, self.folder / "served")
            sent = self._segments(installation)
            try:
                crash_process.run(job, self._orders() | more, installation)
            except NotFound:
                assert job.startswith("delete"), f"{job} at step {fatal} lost what it worked on"
            again = self._segments(installation)
            assert sent.items() <= again.items(), f"{job} at step {fatal}: the repeat sent what was there"
            audit(installation, struck=True)
            left = [path.name for path in (self.folder / "out").iterdir() if ".imgstore-" in path.name]
            assert left == [], f"{job} at step {fatal}: {left} were left"
            scratch = installation.scratch.parent
            assert list(scratch.iterdir()) == [installation.scratch], f"{job} at step {fatal}: scratch was left"
        return took == 0

    def check(self) -> None:
        """Audit the installation, and compare every byte of every version and disk."""
        with self.open() as installation:
            audit(installation, struck=True)
            audit_served(installation, self.expected, self.folder / "served")

    def _orders(self) -> dict[str, Any]:
        return {"home": str(self.folder / "home"), **self.settings}

    @staticmethod
    def _segments(installation: Installation) -> dict[str, datetime]:
        """Return the write time of each segment in each slot, by the store's clock."""
        return {
            f"{slot.key.region}/{info.key}": info.last_modified
            for slot in (*all_slots(installation), *own_slots(installation))
            for info in installation.locator.store(slot).list(slot.prefix + object_keys.SEGMENTS)
        }


def create_minio_scene(
    folder: Path,
    engines: Sequence[S3Engine],
    name: str,
    *,
    zoned: bool = True,
    egress_pairs: Mapping[str, Mapping[str, float]] | None = None,
) -> CrashScene:
    """Create a scene on three MinIO processes with the regions southcentralus, eastus and westus2.

    Args:
        folder: the folder of the scene.
        engines: three engines.
        name: the suffix of the bucket names, so that scenes on the same engines are separate.
        zoned: westus2 has a zone on each process; otherwise each region has one zone on a separate process.
        egress_pairs: the prices by source and target that differ from 0.02.
    """
    south, east, west = (engine.endpoint for engine in engines)
    places = {
        "southcentralus": ("South Central US", [south]),
        "eastus": ("East US", [east]),
        "westus2": ("West US 2", [south, east, west] if zoned else [west]),
    }
    document = {
        "currency": "USD",
        "regions": {
            region: {
                "display_name": display_name,
                "bucket": f"{region}-{name}",
                "policy": "ZRS" if len(zones) > 1 else "LRS",
                "storage_account_types": ["Standard_LRS", *["Standard_ZRS"] * (len(zones) > 1)],
                "zones": {str(number): {"endpoint": endpoint} for number, endpoint in enumerate(zones, start=1)},
            }
            for region, (display_name, zones) in places.items()
        },
        "prices": {
            "egress_per_gb": {"default": 0.02, "pairs": egress_pairs or {}},
            "storage_per_gb_month": {"Standard_LRS": 0.05, "Standard_ZRS": 0.0625},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "regions.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML too
    environ = {"AWS_ACCESS_KEY_ID": engines[0].access_key, "AWS_SECRET_ACCESS_KEY": engines[0].secret_key}
    return CrashScene(folder=folder, settings={"regions": str(path), "environ": environ})
