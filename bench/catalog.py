"""The catalog on PostgreSQL, at ten thousand versions: a page of a list, placement, planning, a pass with nothing to do.

No bytes move here: the rows stand as replication leaves them. Everything goes through imgstore.operations,
imgstore.policy and the catalog's own repositories, in this process; but for the limits of a page and of placement,
which are what the database does without them.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

from bench.database import Statement, overheard, timed_reads, turns_per_second
from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog import Transaction
from imgstore.cli.main import OBJECTS_BEFORE_COLLECTION
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.disks.sources import DiskFormat, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk
from imgstore.domain.identity.access import administrator
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import (
    ImageVersion,
    ManagedDisk,
    OsType,
    Replica,
    Slot,
    SlotKey,
    StorageAccountType,
    TargetRegion,
)
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.views import DefinitionPath, VersionView
from imgstore.operations.diagnosis.status import read_status
from imgstore.operations.disks.placement import find_offer
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.worker import run_worker
from imgstore.policy.copy_plan import ready_steps
from imgstore.policy.replication_routes import RouteCosts, plan_routes
from imgstore.testing.engines import start_postgresql

REGION = "southcentralus"
REPLICAS = 3
PAGE_ITEMS = 100
THREADS = 16

GROUP, GALLERY, DEFINITION = "bench", "bench", "image"

_WHO = administrator("bench")
_NAMES = {"group": GROUP, "gallery": GALLERY, "definition": DEFINITION}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSize:
    """How much there is."""

    versions: int = 10_000
    placements: int = 4_000
    regions: int = 10_000
    passes: int = 200


@contextmanager
def furnished(size: CatalogSize) -> Iterator[tuple[Installation, str]]:
    """An installation with so many complete versions of one definition, and the URL of the PostgreSQL it has for itself."""
    with (
        tempfile.TemporaryDirectory() as folder,
        start_postgresql(Path(folder)) as server,
        server.database() as url,
        open_installation(Settings(home=Path(folder) / "home", database=url)) as installation,
    ):
        furnish(installation, size.versions)
        with collected_as_in_the_command():
            yield installation, url


@contextmanager
def collected_as_in_the_command() -> Iterator[None]:
    """Python's garbage collector set as `imgstore serve` has it: its default stops two pages of a hundred for 40 ms each."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def furnish(installation: Installation, count: int) -> None:
    """Complete versions of one definition, so many, their rows alone; in a gallery, group and pool made for them."""
    galleries.create_gallery(installation, _WHO, group=GROUP, name=GALLERY, location=REGION)
    line = definitions.create_definition(
        installation,
        _WHO,
        group=GROUP,
        gallery=GALLERY,
        name=DEFINITION,
        publisher="bench",
        offer="bench",
        sku="bench",
        os_type=OsType.LINUX,
    )
    with installation.catalog.transaction() as transaction:
        slots = [_slot(installation, transaction, line.gallery.pool_uid, ordinal) for ordinal in range(REPLICAS)]
        for number in range(count):
            _add(installation, transaction, line, slots, number)


def version_name(number: int) -> VersionName:
    """The name of the version of that number, from 0."""
    return VersionName(1, number // 100, number % 100)


def _slot(installation: Installation, transaction: Transaction, pool_uid: str, ordinal: int) -> Slot:
    key = SlotKey(
        pool_uid=pool_uid, region=REGION, storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=ordinal
    )
    zone, bucket = installation.locator.choose_zone(key)
    return transaction.slots.get_or_add(key, zone=zone, bucket=bucket)


def _add(
    installation: Installation, transaction: Transaction, line: DefinitionPath, slots: list[Slot], number: int
) -> None:
    target = TargetRegion(
        name=REGION, regional_replica_count=REPLICAS, storage_account_type=StorageAccountType.STANDARD_LRS
    )
    version = ImageVersion(
        uid=installation.effects.new_uid(),
        definition_uid=line.definition.uid,
        name=version_name(number),
        location=REGION,
        target_regions=(target,),
        disks=(
            VersionDisk(
                source=SourceIdentity(location="/disk.raw", file_bytes=1 << 30, stamp=str(number)),
                virtual_bytes=1 << 30,
                disk_digest=bytes(32),
            ),
        ),
        published_at=installation.effects.now(),
        provisioning_state=ProvisioningState.SUCCEEDED,
    )
    transaction.versions.add(version)
    for slot in slots:
        replica = Replica(
            uid=installation.effects.new_uid(), version_uid=version.uid, slot=slot, state=ReplicaState.COMPLETED
        )
        transaction.replicas.add(replica)


def pages(installation: Installation) -> Iterator[Page[VersionView]]:
    """The whole list, a page of 100 with its replicas at a time, each read when it is asked for."""
    token = None
    while True:
        page = gallery_versions.page_versions(
            installation, _WHO, PageRequest(items_max=PAGE_ITEMS, token=token), **_NAMES
        )
        yield page
        token = page.next_token
        if token is None:
            return


def list_seconds_p99(installation: Installation, size: CatalogSize) -> float:
    """One page of 100 with its replicas, walked through the whole list."""
    seconds = []
    began = time.perf_counter()
    for _ in pages(installation):
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    assert len(seconds) >= size.versions // PAGE_ITEMS
    return percentile(99, seconds)


def page_statements(installation: Installation) -> list[list[Statement]]:
    """What each page of the list asks of the database, page by page."""
    asked = []
    with overheard() as heard:
        for _ in pages(installation):
            asked.append(heard.copy())
            heard.clear()
    return asked


def bare_page_seconds_p99(installation: Installation, url: str, size: CatalogSize) -> float:
    """The limit of `list_seconds_p99`: the same walk, by the driver alone."""
    reads = timed_reads(url, page_statements(installation))
    assert sum(rows for _, rows in reads) >= size.versions * (1 + REPLICAS), "versions and replicas, all of them"
    return percentile(99, [seconds for seconds, _ in reads])


def placements_per_second(installation: Installation, size: CatalogSize) -> float:
    """The transaction of a placement (the turn, the replica, the disk's row), from 16 threads, all of one version."""
    reference = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/{version_name(size.versions - 1)}")
    given = [0] * REPLICAS

    def place(number: int) -> int:
        with installation.catalog.transaction() as transaction:
            offer = find_offer(installation, transaction, reference, REGION)
            disk = transaction.placements.place(_disk(installation, offer, number), offer.slots)
        return disk.replica

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for ordinal in pool.map(place, range(size.placements)):
            given[ordinal] += 1
    seconds = time.perf_counter() - began
    assert max(given) - min(given) <= 1, "round robin"
    return size.placements / seconds


def bare_placements_per_second(url: str, size: CatalogSize) -> float:
    """The limit of `placements_per_second`: as many transactions of as many threads, by the driver alone."""
    return turns_per_second(url, turns=size.placements, threads=THREADS)


def _disk(installation: Installation, offer: ImageOffer, number: int) -> ManagedDisk:
    return ManagedDisk(
        uid=installation.effects.new_uid(),
        subscription=installation.subscription,
        group="bench",
        name=f"disk-{number}",
        location=REGION,
        source_version_uid=offer.version_uid,
        source_reference=offer.source,
        body_key=object_keys.manifest_key(offer.version_uid, OS_DISK),
        replica=offer.slots[0].key.ordinal,
        slot=offer.slots[0],
        storage_account_type=offer.slots[0].key.storage_account_type,
        virtual_bytes=1 << 30,
        disk_digest=bytes(32),
        created_at=installation.effects.now(),
        provisioning_state=ProvisioningState.SUCCEEDED,
        source_format=DiskFormat.RAW,
    )


def planning_seconds(size: CatalogSize) -> float:
    """`ready_steps` for one version with so many target regions, one of them complete."""
    replicas = [_replica(number) for number in range(size.regions)]

    def plan() -> None:
        steps = ready_steps(replicas, source_region="region-0", busy=(), failed=())
        assert len(steps) == size.regions - 1

    return _seconds(plan)


ROUTED_REGIONS = 50


def routing_seconds(seed: int) -> float:
    """`plan_routes` for one version with 50 target regions and a price of its own for each pair.

    The time rule holds back the cheapest tree, as the slowest way of planning.
    """
    random = Random(seed)
    regions = [f"region-{number}" for number in range(1, ROUTED_REGIONS + 1)]
    every = [(parent, region) for parent in ["region-0", *regions] for region in regions if parent != region]
    costs = RouteCosts(
        price={pair: Fraction(random.randrange(10**9), 10**9) for pair in every},
        seconds={pair: random.uniform(1, 5) for pair in every},
    )

    def plan() -> None:
        routes = plan_routes(finished=["region-0"], waiting=regions, source_region="region-0", costs=costs)
        assert len(routes) == ROUTED_REGIONS

    return _seconds(plan)


def _replica(number: int) -> Replica:
    key = SlotKey(
        pool_uid="pool",
        region=f"region-{number}",
        storage_account_type=StorageAccountType.STANDARD_LRS,
        ordinal=0,
    )
    return Replica(
        uid=str(number),
        version_uid="version",
        slot=Slot(uid=str(number), key=key, zone="1", bucket="bucket"),
        state=ReplicaState.PENDING if number else ReplicaState.COMPLETED,
    )


def idle_pass_seconds(installation: Installation, size: CatalogSize) -> float:
    """A worker that looks, finds nothing to do among all these versions, and ends: the median of many."""
    passes = [_seconds(lambda: run_worker(installation, _WHO, once=True)) for _ in range(size.passes)]
    return statistics.median(passes)


def status_seconds(installation: Installation) -> float:
    """All galleries at a glance, as `imgstore status` reads the versions and their replicas: the median of nine."""
    return statistics.median(_seconds(lambda: read_status(installation, _WHO)) for _ in range(9))


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def percentile(part: int, seconds: Sequence[float]) -> float:
    """What so many of a hundred do not exceed, between two neighbours in proportion."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[part - 1]
