"""Each setting of settings.toml and regions.yaml changes what imgstore does. A new setting without an entry here fails.

Each entry has two values and an observation, which must differ between the values.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from imgstore.domain.errors import ImgstoreError, InvalidRegions
from imgstore.domain.identity.access import Principal
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest, UploadRequest
from imgstore.domain.resources import ReplicationMode, Slot, SlotKey, StorageAccountType
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.settings.limits import Limits
from imgstore.domain.settings.maintenance import MaintenanceSettings
from imgstore.domain.settings.replication import ReplicationSettings
from imgstore.domain.storage.sizes import MIB
from imgstore.formats import LocalFile
from imgstore.operations.activity_log import trim_activity
from imgstore.operations.diagnosis.segment_cache import show_cache
from imgstore.operations.disks.sources import open_source
from imgstore.operations.disks.uploads import create_upload, open_spool, sweep_uploads
from imgstore.operations.gallery import galleries
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import pace, scheduler
from imgstore.operations.stores.readiness import check_readiness
from imgstore.policy.maintenance_schedule import maintenance_tasks
from imgstore.regions import Regions
from imgstore.regions.regions_file import KEYS, parse_regions
from imgstore.stores.http import http_source
from imgstore.stores.s3 import store as s3_store
from imgstore.stores.s3.store import S3Store
from imgstore.transfer.spool import spool_folder
from imgstore.wire.responses.reports import region_json
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    create_definition,
    create_sample_gallery,
    create_version,
    make_disk,
    open_home,
    publish,
    publish_disks,
    request,
)

TODAY = datetime(2026, 11, 30, tzinfo=UTC)

HERE = ["southcentralus"]
Observe = Callable[[Installation, Path], object]


def outcome(act: Callable[[], object]) -> str:
    """Return the text of the refusal; "done" without one."""
    try:
        act()
    except ImgstoreError as error:
        return str(error)
    return "done"


def raw(folder: Path, name: str = "disk") -> Path:
    file = folder / f"{name}.raw"
    return file if file.exists() else make_raw(file, seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)


def more_galleries(installation: Installation, _folder: Path) -> object:
    return outcome(lambda: galleries.create_gallery(installation, ADMIN, group=GROUP, name="other", location=HERE[0]))


def more_definitions(installation: Installation, _folder: Path) -> object:
    return outcome(lambda: create_definition(installation, "other"))


def more_versions(installation: Installation, folder: Path) -> object:
    publish(installation, raw(folder), "1.0.0", HERE)
    return outcome(lambda: publish(installation, raw(folder), "1.0.1", HERE))


def two_replicas(installation: Installation, folder: Path) -> object:
    return outcome(lambda: publish(installation, raw(folder), "1.0.0", ["southcentralus=2"]))


def the_way_of_the_bytes(installation: Installation, folder: Path) -> object:
    """Return the recorded parents. test_operations_replication_routes.py proves the effect on the bytes."""
    view = publish(installation, raw(folder), "1.0.0", [*HERE, "eastus"])
    return [each.parent_region for each in view.replicas]


def many_replicas(installation: Installation, folder: Path) -> object:
    return outcome(lambda: publish(installation, raw(folder), "1.0.0", ["southcentralus=101"]))


def one_version(installation: Installation, folder: Path) -> object:
    return outcome(lambda: publish(installation, raw(folder), "1.0.0", HERE))


def a_data_disk(installation: Installation, folder: Path) -> object:
    return outcome(lambda: publish_disks(installation, raw(folder), {0: raw(folder, "data")}, "1.0.0", HERE))


def a_shallow_version(installation: Installation, folder: Path) -> object:
    publish(installation, raw(folder), "1.0.0", HERE)
    make_disk(installation, "d1")
    asked = request("2.0.0", HERE, replication_mode=ReplicationMode.SHALLOW)
    return outcome(lambda: create_version(installation, ADMIN, asked, os_snapshot="d1"))


def a_web_source(installation: Installation, _folder: Path) -> object:
    """Return the deadlines of a source over https. tests/stores/test_stores_http_slow.py proves their effects."""
    seen: list[object] = []

    def opened(_uri: str, *, deadlines: object, **_more: object) -> LocalFile:
        seen.append(deadlines)
        return LocalFile(Path(__file__))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http_source, "HttpSource", opened)
        open_source(installation, "https://images.example/disk.raw").close()
    return seen


def scratch(installation: Installation, folder: Path) -> object:
    work = installation.scratch / "work"
    work.mkdir(exist_ok=True)
    (work / "file").write_bytes(bytes(MIB))
    return outcome(lambda: installation.check_scratch(work, 1))


def cache_limit(installation: Installation, _folder: Path) -> object:
    return show_cache(installation, ADMIN).bytes_max


def readiness(installation: Installation, _folder: Path) -> object:
    return check_readiness(installation).free_space


def an_idle_upload(installation: Installation, _folder: Path) -> object:
    disk = create_upload(installation, ADMIN, UploadRequest(group=GROUP, name="up", upload_bytes=MIB + 512))
    with closing(open_spool(installation, disk)) as spool:
        spool.write(0, [bytes(4096)])
    sweep_uploads(installation)
    return spool_folder(installation.home, disk.uid).exists()


def trimmed_rows(installation: Installation, _folder: Path) -> object:
    with installation.catalog.transaction() as transaction:
        transaction.activity.trim(before=transaction.now() + timedelta(days=1), rows_max=0)
        for days in (50, 1):
            at = installation.effects.now() - timedelta(days=days)
            transaction.activity.add(
                principal="p", action="a", scope="/", outcome="Succeeded", detail=None, started_at=at, finished_at=at
            )
    return trim_activity(installation)


def planned_tasks(installation: Installation, _folder: Path) -> object:
    key = SlotKey(pool_uid="p", region=HERE[0], storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=0)
    slots = [Slot(uid=uid, key=key, zone="1", bucket="b") for uid in "ab"]
    return maintenance_tasks(installation.maintenance, slots, zoned_regions=HERE, degraded=["b"])


def scrub_request(installation: Installation, _folder: Path) -> object:
    """Return the share and the rate of a scrub by a worker."""
    seen: list[object] = []

    def scrub(_installation: Installation, _principal: Principal, asked: ScrubRequest) -> list[SlotScrub]:
        seen.append(asked.percent)
        return []

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scheduler, "scrub", scrub)
        patched.setattr(pace, "TokenBucket", lambda rate, _clock: seen.append(rate))
        scheduler.MaintenanceRunner(installation, ADMIN)._scrub("a")
    return seen


SETTINGS: Mapping[str, tuple[object, object, Observe]] = {
    "limits.preset": ('"azure-2019"', '"azure-2026"', many_replicas),
    "limits.galleries_max": (1, 2, more_galleries),
    "limits.definitions_max": (1, 2, more_definitions),
    "limits.versions_max": (1, 2, more_versions),
    "limits.replicas_per_region_max": (1, 2, two_replicas),
    "limits.replicas_per_version_max": (1, 2, two_replicas),
    "limits.image_bytes_max": (4096, 4 * MIB, one_version),
    "limits.data_disk_bytes_max": (4096, 4 * MIB, a_data_disk),
    "limits.shallow_image_bytes_max": (4096, 4 * MIB, a_shallow_version),
    "limits.bytes_per_subscription_max": (4096, 64 * MIB, one_version),
    "limits.machines_per_replica": (7, 8, many_replicas),
    "limits.source_connect_seconds_max": (1, 2, a_web_source),
    "limits.source_idle_seconds_max": (1, 2, a_web_source),
    "limits.source_head_seconds_max": (1, 2, a_web_source),
    "limits.source_total_seconds_max": (1, 2, a_web_source),
    "limits.source_bytes_per_second_min": (1, 2, a_web_source),
    "disk_space.free_bytes_min": (0, 2**62, readiness),
    "disk_space.scratch_bytes_per_work_max": (4096, 64 * MIB, scratch),
    "disk_space.scratch_bytes_max": (4096, 64 * MIB, scratch),
    "disk_space.cache_bytes_max": (4096, 64 * MIB, cache_limit),
    "disk_space.upload_days_max": (0, 30, an_idle_upload),
    "maintenance.deletions_interval_seconds": (0, 60, planned_tasks),
    "maintenance.activity_interval_seconds": (0, 60, planned_tasks),
    "maintenance.activity_days": (7, 70, trimmed_rows),
    "maintenance.activity_rows_max": (1, 1_000, trimmed_rows),
    "maintenance.revisions_interval_seconds": (0, 60, planned_tasks),
    "maintenance.ledger_interval_seconds": (0, 60, planned_tasks),
    "maintenance.repairs_interval_seconds": (0, 60, planned_tasks),
    "maintenance.scrub_interval_seconds": (0, 60, planned_tasks),
    "maintenance.degraded_scrub_interval_seconds": (60, 120, planned_tasks),
    "maintenance.scrub_percent": (10, 20, scrub_request),
    "maintenance.gc_interval_seconds": (0, 60, planned_tasks),
    "maintenance.bytes_per_second_max": (10, 20, scrub_request),
    "replication.route": ('"source"', '"cheapest"', the_way_of_the_bytes),
}


def test_each_setting_is_in_the_table() -> None:
    tables = {
        "limits": Limits,
        "disk_space": DiskSpace,
        "maintenance": MaintenanceSettings,
        "replication": ReplicationSettings,
    }
    known = {f"{name}.{each.name}" for name, table in tables.items() for each in fields(table) if each.name != "file"}
    assert set(SETTINGS) == known | {"limits.preset"}


@pytest.fixture(scope="module")
def gallery_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty gallery, which each observation copies."""
    home = tmp_path_factory.mktemp("template") / "home"
    with open_home(home) as installation:
        create_sample_gallery(installation)
    return home


@pytest.mark.parametrize("key", SETTINGS)
def test_each_setting_has_an_effect(gallery_home: Path, tmp_path: Path, key: str) -> None:
    first, second, observe = SETTINGS[key]
    table, _, name = key.partition(".")
    seen = []
    for number, value in enumerate((first, second)):
        home = shutil.copytree(gallery_home, tmp_path / str(number))
        (home / "settings.toml").write_text(f"[{table}]\n{name} = {value}\n")
        with open_home(home) as installation:
            seen.append(str(observe(installation, tmp_path)).replace(str(home), "HOME"))
    assert seen[0] != seen[1]


# -- regions.yaml -----------------------------------------------------------------------------------------------------

DOCUMENT = """
currency: USD
regions:
  fra:
    display_name: Frankfurt
    zone_group: west
    bucket: images-fra
    policy: ZRS
    storage_account_types: [Standard_LRS, Standard_ZRS, Premium_LRS]
    zones:
      a: {endpoint: "http://localhost:1", profile: one, signing_region: eu-1, path_style: "true"}
      b: {endpoint: "http://localhost:2"}
      c: {endpoint: "http://localhost:3"}
  ber:
    zone_group: east
    bucket: images-ber
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones: {"1": {}}
prices:
  egress_per_gb:
    default: 0.02
    zone_groups: {east: {west: 0.03}}
    pairs: {fra: {ber: 0.01}}
  repair_per_gb: 0.5
  storage_per_gb_month: {Standard_LRS: 1, Standard_ZRS: 2, Premium_LRS: 3}
bandwidth_bytes_per_second: {default: 20000, pairs: {fra: {ber: 30000}}}
"""
SWAPPED_GROUPS = yaml.load(
    DOCUMENT.replace("group: west", "group: x")
    .replace("group: east", "group: west")
    .replace("group: x", "group: east"),
    Loader=yaml.BaseLoader,
)["regions"]
TIERS = [{"up_to_gb": "10", "price": "9"}, {"price": "8"}]
FRA = ("regions", "fra")
ZONE_A = (*FRA, "zones", "a")


def regions_of(text: str) -> Regions:
    return parse_regions(text.encode(), {}, path="regions.yaml")


def listed(text: str, _folder: Path) -> object:
    """Return the regions as `regions list` shows them."""
    return [region_json(each) for each in regions_of(text).regions.values()]


def priced(text: str, _folder: Path) -> object:
    """Return the prices of transfers, repairs and storage."""
    regions = regions_of(text)
    prices, kinds = regions.prices, list(StorageAccountType)
    egress = [prices.egress(*pair, TODAY) for pair in (("fra", "ber"), ("ber", "fra"), ("fra", "x"))]
    return regions.currency, egress, prices.repair(TODAY), [prices.storage(kind, TODAY) for kind in kinds]


def periods(text: str, _folder: Path) -> object:
    """Return the begins of the periods of prices, or the faults."""
    try:
        return [each.valid_from for each in regions_of(text).prices.periods]
    except InvalidRegions as error:
        return str(error)


def limited(text: str, _folder: Path) -> object:
    """Return the rates of the token buckets of copies."""
    return [regions_of(text).bandwidth.of(*pair) for pair in (("fra", "ber"), ("ber", "fra"))]


def requested(text: str, folder: Path) -> object:
    """Return URL and credential scope of the first request to the zone."""
    (folder / "credentials").write_text(
        "".join(f"[{name}]\naws_access_key_id = {name}\naws_secret_access_key = s\n" for name in ("one", "two"))
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
        s3_store._session.cache_clear()
        zone = regions_of(text).regions["fra"].zones[0]
        store = S3Store(
            endpoint=zone.endpoint,
            bucket=zone.bucket,
            profile=zone.profile,
            signing_region=zone.signing_region,
            path_style=zone.path_style,
        )
        url: str = store._client.generate_presigned_url("get_object", Params={"Bucket": store.bucket, "Key": "k"})
        store.close()
    query = parse_qs(urlsplit(url).query)
    return url.partition("?")[0], query["X-Amz-Credential"][0].split("/")[0], query["X-Amz-Credential"][0].split("/")[2]


REGIONS: Mapping[str, tuple[tuple[str, ...], object, Callable[[str, Path], object]]] = {
    "document.currency": (("currency",), "EUR", priced),
    "document.regions": (("regions", "new"), {"bucket": "new-bucket", "policy": "LRS",
        "storage_account_types": ["Standard_LRS"], "zones": {"1": {}}}, listed),
    "document.prices": (("prices", "repair_per_gb"), "7", priced),
    "document.bandwidth_bytes_per_second": (("bandwidth_bytes_per_second",), {}, limited),
    "region.display_name": ((*FRA, "display_name"), "Another name", listed),
    "region.zone_group": (("regions",), SWAPPED_GROUPS, priced),
    "region.bucket": ((*FRA, "bucket"), "another-bucket", requested),
    "region.policy": (FRA, {"bucket": "images-fra", "zone_group": "west", "policy": "LRS", "storage_account_types": ["Standard_LRS"],
        "zones": {"a": {}}}, listed),
    "region.storage_account_types": ((*FRA, "storage_account_types"), ["Standard_LRS"], listed),
    "region.zones": (("regions", "ber", "zones"), {"1": {}, "2": {}}, listed),
    "zone.endpoint": ((*ZONE_A, "endpoint"), "http://other.example", requested),
    "zone.profile": ((*ZONE_A, "profile"), "two", requested),
    "zone.signing_region": ((*ZONE_A, "signing_region"), "eu-2", requested),
    "zone.path_style": ((*ZONE_A, "path_style"), "false", requested),
    "prices.valid_from": (("prices", "valid_from"), "2026-01-01", periods),
    "prices.valid_until": (("prices", "valid_until"), "2027-01-01", periods),
    "prices.egress_per_gb": (("prices", "egress_per_gb"), {"default": "9"}, priced),
    "prices.repair_per_gb": (("prices", "repair_per_gb"), "9", priced),
    "prices.storage_per_gb_month": (("prices", "storage_per_gb_month", "Standard_LRS"), "9", priced),
    "egress_per_gb.default": (("prices", "egress_per_gb", "default"), "9", priced),
    "egress_per_gb.zone_groups": (("prices", "egress_per_gb", "zone_groups"), {}, priced),
    "tier.up_to_gb": (("prices", "repair_per_gb"), TIERS, priced),
    "tier.price": (("prices", "repair_per_gb"), [{"price": "8"}], priced),
    "egress_per_gb.pairs": (("prices", "egress_per_gb", "pairs"), {}, priced),
    "storage_per_gb_month.Standard_LRS": (("prices", "storage_per_gb_month", "Standard_LRS"), "9", priced),
    "storage_per_gb_month.Standard_ZRS": (("prices", "storage_per_gb_month", "Standard_ZRS"), "9", priced),
    "storage_per_gb_month.Premium_LRS": (("prices", "storage_per_gb_month", "Premium_LRS"), "9", priced),
    "bandwidth_bytes_per_second.default": (("bandwidth_bytes_per_second", "default"), "50000", limited),
    "bandwidth_bytes_per_second.pairs": (("bandwidth_bytes_per_second", "pairs"), {}, limited),
}  # fmt: skip


def test_each_key_of_regions_is_in_the_table() -> None:
    assert set(REGIONS) == {f"{section}.{key}" for section, keys in KEYS.items() for key in keys}


@pytest.mark.parametrize("key", REGIONS)
def test_each_key_of_regions_has_an_effect(tmp_path: Path, key: str) -> None:
    steps, value, observe = REGIONS[key]
    document = yaml.load(DOCUMENT, Loader=yaml.BaseLoader)
    parent = document
    for step in steps[:-1]:
        parent = parent[step]
    parent[steps[-1]] = value
    changed = yaml.safe_dump(document, sort_keys=False)
    assert observe(DOCUMENT, tmp_path) != observe(changed, tmp_path)
