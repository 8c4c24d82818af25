"""An installation as far as the locator needs it, with a registry in memory instead of the catalog."""

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.effects import Effects
from imgstore.domain.resources import Slot, SlotKey, StorageAccountType
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneRecord
from imgstore.regions import Locator, ZoneReport
from imgstore.regions.regions_file import parse_regions
from imgstore.stores import ObjectStore
from imgstore.stores.wrappers.retry import RetryPolicy
from imgstore.testing.engines import S3Engine

LRS, ZRS = StorageAccountType.STANDARD_LRS, StorageAccountType.STANDARD_ZRS
NUMBERS = itertools.count()

DOCUMENT = """
currency: USD
regions:
  south:
    bucket: {name}-south
    policy: ZRS
    storage_account_types: [Standard_LRS, Standard_ZRS]
    zones:
      "1": {{endpoint: "${{SOUTH_1:-}}"}}
      "2": {{}}
      "3": {{}}
  east:
    bucket: {name}-east
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones: {{"1": {{}}}}
prices:
  egress_per_gb: {{default: 0}}
  storage_per_gb_month: {{Standard_LRS: 0, Standard_ZRS: 0}}
"""


@dataclass(kw_only=True)
class MemoryRegistry:
    """The catalog's records of zones, shared by the processes of one installation."""

    records: dict[tuple[str, str], ZoneRecord] = field(default_factory=dict)
    slots: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """The prefixes of the slots in each zone."""
    manifests: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    unknown: set[Checkpoint] = field(default_factory=set)
    """Checkpoints that the catalog does not know."""
    is_new: bool = True
    """The installation was begun by code that records zones."""

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        return self.records.get((region, zone))

    def add(self, record: ZoneRecord) -> ZoneRecord:
        return self.records.setdefault((record.region, record.zone), record)

    def replace(self, record: ZoneRecord) -> None:
        self.records[record.region, record.zone] = record

    def list_prefixes(self, region: str, zone: str) -> list[str]:
        return self.slots.get((region, zone), [])

    def records_every_zone(self) -> bool:
        return self.is_new

    def list_sample_keys(self, region: str, zone: str) -> list[str]:
        return self.manifests.get((region, zone), [])

    def filter_known_checkpoints(self, region: str, zone: str, found: Sequence[Checkpoint]) -> list[Checkpoint]:
        return [each for each in found if each not in self.unknown]


@dataclass(kw_only=True)
class House:
    """An installation as far as the locator needs it. Each `locator()` simulates a new process."""

    home: Path
    stack: ExitStack
    environ: dict[str, str] = field(default_factory=dict)
    installation_uid: str = "installation-1"
    name: str = field(default_factory=lambda: f"b{next(NUMBERS)}")
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)

    def locator(self, **changes: Any) -> Locator:
        regions = parse_regions(DOCUMENT.format(name=self.name).encode(), self.environ, path="regions.yaml")
        made = Locator(
            changes.pop("regions", regions),
            home=self.home,
            installation_uid=changes.pop("installation_uid", self.installation_uid),
            environ=self.environ,
            effects=Effects(),
            registry=changes.pop("registry", self.registry),
            policy=RetryPolicy(attempts_max=1),
        )
        assert not changes
        self.stack.callback(made.close)
        return made


def on(house: House, engine: S3Engine) -> House:
    """Move all zones of the installation to one S3 server."""
    house.environ = {
        "IMGSTORE_S3_ENDPOINT": engine.endpoint,
        "AWS_ACCESS_KEY_ID": engine.access_key,
        "AWS_SECRET_ACCESS_KEY": engine.secret_key,
    }
    return house


S3_ENGINES = [
    pytest.param("moto_s3", marks=pytest.mark.engine("moto")),
    pytest.param("minio", marks=pytest.mark.engine("minio")),
]


def init_all(locator: Locator) -> list[ZoneReport]:
    return [report for name in ("south", "east") for report in locator.init(region_of(locator, name))]


def region_of(locator: Locator, name: str) -> Any:
    return locator._regions.get(name)


def problems(reports: list[ZoneReport], *, none: bool = False) -> list[str]:
    found = [report.problem for report in reports if report.problem]
    assert not none or not found, found
    return found


def slot_of(
    locator: Locator, region: str, kind: StorageAccountType = LRS, ordinal: int = 0, pool: str = "pool"
) -> Slot:
    key = SlotKey(pool_uid=pool, region=region, storage_account_type=kind, ordinal=ordinal)
    zone, bucket = locator.choose_zone(key)
    return Slot(uid="s", key=key, zone=zone, bucket=bucket)


def use(store: ObjectStore, slot: Slot) -> None:
    key = slot.prefix + "segments/00/x"
    store.put(key, b"body")
    assert store.get(key) == b"body"
    assert [info.key for info in store.list(slot.prefix)] == [key]
