"""Measure the user's regions: upload, replication, export, first bytes and creation of disks. All test data is removed."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import DiskFormat, DiskReader
from imgstore.domain.errors import ImgstoreError, InvalidInput, NotFound
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.reports import BenchPlan, BenchReport, RegionMeasurements
from imgstore.domain.requests import DiskOfImageRequest, VersionRequest
from imgstore.domain.resources import HyperVGeneration, OsType, TargetRegionRequest, VersionUpdate
from imgstore.domain.storage.sizes import MIB
from imgstore.formats import LocalFile, detect_generation, open_disk
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.prices.price_list import EXACT, price_of
from imgstore.operations.billing import statements
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import definitions, galleries, groups
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from imgstore.operations.versions.create import publish_reader

DEFINITION: Final = "disk"
VERSION: Final = VersionName(1, 0, 0)
FIRST_READ_BYTES: Final = MIB
"""Bytes of a first read: enough for a boot loader."""


def plan_bench(
    installation: Installation,
    principal: Principal,
    reader: DiskReader,
    *,
    location: str | None = None,
    target_regions: Sequence[str] | None = None,
) -> BenchPlan:
    """Plan a bench with a disk, with the largest cost. Changes nothing.

    Args:
        installation: the installation.
        principal: the caller.
        reader: the disk.
        location: the source region; None is the first region.
        target_regions: the other regions; None is every other region, and empty is no region.

    Raises:
        InvalidInput: a region does not exist, or the source region is among the targets.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)  # it collects what it leaves
    known = installation.regions
    with installation.catalog.reading() as transaction:
        prices, now = current_prices(installation, transaction), transaction.now()
    source = known.get(location or next(iter(known.regions)), target="location").name
    asked = [name for name in known.regions if name != source] if target_regions is None else target_regions
    targets = tuple(dict.fromkeys(known.get(name, target="targetRegions").name for name in asked))
    if source in targets:
        raise InvalidInput(
            f"The disk goes into {source}, and cannot be copied there from there.",
            found=f"target regions {', '.join(targets)}",
            expected="regions other than the source region",
            hint="leave the region out, or use another --location",
            target="targetRegions",
        )
    data_bytes = sum(extent.length for extent in reader.extents())
    kinds = [known.get(name, target="location").storage_account_types[0] for name in (source, *targets)]
    return BenchPlan(
        group=groups.free_group_name(installation, principal, "imgstore-bench"),
        source=source,
        targets=targets,
        virtual_bytes=reader.virtual_bytes,
        data_bytes=data_bytes,
        egress_bytes_max=data_bytes * len(targets),
        egress_price_max=_total(price_of(data_bytes, prices.egress(source, to, now).highest_price) for to in targets),
        stored_bytes_max=data_bytes * (1 + len(targets)),
        storage_price_per_month_max=_total(
            price_of(data_bytes, prices.storage(kind, now).highest_price) for kind in kinds
        ),
        currency=prices.currency,
    )


def run_bench(
    installation: Installation,
    principal: Principal,
    plan: BenchPlan,
    reader: DiskReader,
    *,
    folder: Path,
    disks_each: int = 5,
    say: Callable[[str], None],
) -> BenchReport:
    """Run a planned bench and remove all test data, also after an error. The charges stay on the bill.

    Args:
        installation: the installation.
        principal: the caller.
        plan: from `plan_bench`.
        reader: the same disk, which the caller closes.
        folder: the folder for temporary files, with space for the data of the disk.
        disks_each: the number of managed disks in each region.
        say: receives a line for each step.

    Raises:
        ImgstoreError: an error of a step. Notes of the error name the resources that could not be removed.
    """
    without_cache = replace(installation, host_cache=installation.host_cache.switch_off())  # The stores are measured.
    bench = _Bench(installation=without_cache, principal=principal, plan=plan)
    try:
        with ExitStack() as undo:
            bench.begin(undo, detect_generation(reader) or HyperVGeneration.V1)
            say(f"Into {plan.source} ...")
            upload_seconds = bench.upload(reader)
            figures = []
            for number, region in enumerate(plan.regions):
                if number:
                    say(f"To {region} ...")
                seconds = bench.replicate(plan.targets[:number]) if number else None
                say(f"Disks in {region} ...")
                figures.append(bench.measure(undo, region, seconds, _first_data(reader), folder, disks_each))
            say(f"Removing the resource group {plan.group} with all resources ...")
    except ImgstoreError as error:
        for each in bench.left:
            error.add_note(f"left behind in the resource group {plan.group}: {each}")
        raise
    if bench.left:
        raise bench.left[0]
    return BenchReport(
        plan=plan, upload_seconds=upload_seconds, regions=tuple(figures), removed_objects=bench.removed_objects
    )


@contextmanager
def open_disk_file(installation: Installation, path: Path) -> Iterator[DiskReader]:
    """Open a disk file of any format while the block runs.

    Raises:
        ImageRefused, InvalidInput: the file is missing or no supported disk.
    """
    local = LocalFile(path)
    try:
        reader = open_disk(local, scratch=installation.scratch)
        try:
            yield reader
        finally:
            reader.close()
    finally:
        local.close()


def _first_data(reader: DiskReader) -> int:
    """Return the first offset with data, or 0 for an empty disk."""
    return next((extent.offset for extent in reader.extents()), 0)


def _total(prices: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for price in prices:
        total = EXACT.add(total, price)
    return total


@dataclass(slots=True, kw_only=True)
class _Bench:
    """A running bench."""

    installation: Installation
    principal: Principal
    plan: BenchPlan
    left: list[ImgstoreError] = field(default_factory=list)
    """Errors of removals."""
    removed_objects: int = 0

    @property
    def gallery(self) -> str:
        """Name of the gallery, without a hyphen, which gallery names forbid."""
        return self.plan.group.replace("-", "_")

    @property
    def reference(self) -> ImageReference:
        """Reference to the published version."""
        return ImageReference(group=self.plan.group, gallery=self.gallery, definition=DEFINITION, version=VERSION)

    def begin(self, undo: ExitStack, generation: HyperVGeneration) -> None:
        """Create the group, the gallery and the definition. Closing `undo` removes the resources in reverse order."""
        who = self.installation, self.principal
        group, source = self.plan.group, self.plan.source
        groups.create_group(*who, name=group, location=source)
        undo.callback(self._remove, lambda: groups.delete_group(*who, name=group))
        gallery = galleries.create_gallery(*who, group=group, name=self.gallery, location=source)
        undo.callback(self._remove, lambda: self._collect(gallery.pool_uid))
        undo.callback(self._remove, lambda: galleries.delete_gallery(*who, group=group, name=self.gallery))
        definitions.create_definition(
            *who,
            group=group,
            gallery=self.gallery,
            name=DEFINITION,
            publisher="imgstore",
            offer="bench",
            sku=group,
            os_type=OsType.LINUX,
            hyper_v_generation=generation,
        )
        undo.callback(
            self._remove,
            lambda: definitions.delete_definition(*who, group=group, gallery=self.gallery, name=DEFINITION),
        )
        undo.callback(self._remove, self._delete_version)

    def upload(self, reader: DiskReader) -> float:
        """Publish the disk in the source region and return the seconds."""
        request = VersionRequest(
            group=self.plan.group,
            gallery=self.gallery,
            definition=DEFINITION,
            version=VERSION,
            location=self.plan.source,
            target_regions=self._targets(()),
        )
        return self._seconds(lambda: publish_reader(self.installation, self.principal, request, reader))

    def replicate(self, targets: Sequence[str]) -> float:
        """Add target regions to the version and return the seconds of the new region."""
        update = VersionUpdate(target_regions=self._targets(targets))
        act = partial(versions_update.update_version, self.installation, self.principal, version=VERSION, update=update)
        return self._seconds(partial(act, group=self.plan.group, gallery=self.gallery, definition=DEFINITION))

    def measure(
        self, undo: ExitStack, region: str, replicate_seconds: float | None, data_at: int, folder: Path, disks_each: int
    ) -> RegionMeasurements:
        """Create disks from the region's replica, read the beginning of a disk, and export the disk."""
        names = [f"{region}-{number}" for number in range(disks_each)]
        placements = [self._seconds(partial(self._place, undo, region, name)) for name in names]
        who, group = (self.installation, self.principal), self.plan.group
        first, whole = folder / f"{region}.first", folder / f"{region}.raw"
        length = min(FIRST_READ_BYTES, self.plan.virtual_bytes - data_at)
        read = partial(disks_export.export_range, *who, group=group, name=names[0])
        write = partial(disks_export.export_disk, *who, group=group, name=names[0])
        try:
            first_read_seconds = self._seconds(partial(read, path=first, offset=data_at, length=length))
            disk_seconds = self._seconds(partial(write, path=whole, format=DiskFormat.RAW))
        finally:
            first.unlink(missing_ok=True)
            whole.unlink(missing_ok=True)
        return RegionMeasurements(
            region=region,
            replicate_seconds=replicate_seconds,
            delivered_bytes=self._delivered_bytes(region),
            placement_seconds=statistics.median(placements),
            first_read_seconds=first_read_seconds,
            disk_seconds=disk_seconds,
        )

    def _place(self, undo: ExitStack, region: str, name: str) -> None:
        who, group = (self.installation, self.principal), self.plan.group
        undo.callback(self._remove, lambda: disks.delete_disk(*who, group=group, name=name))
        disks.create_disk(*who, DiskOfImageRequest(group=group, name=name, location=region, reference=self.reference))

    def _targets(self, others: Sequence[str]) -> tuple[TargetRegionRequest, ...]:
        """Return the source region and other regions, one replica each, of the first storage type of the region."""
        known = self.installation.regions
        return tuple(
            TargetRegionRequest(
                name=name,
                regional_replica_count=1,
                storage_account_type=known.get(name, target="targetRegions").storage_account_types[0],
            )
            for name in (self.plan.source, *others)
        )

    def _delivered_bytes(self, region: str) -> int:
        rows = statements.show_bill(self.installation, self.principal).rows
        mine = (row for row in rows if row.kind is ChargeKind.EGRESS and row.gallery == self.gallery)
        return sum(row.delivered_bytes for row in mine if row.target == region)

    def _seconds(self, act: Callable[[], object]) -> float:
        began = self.installation.effects.monotonic()
        act()
        return self.installation.effects.monotonic() - began

    def _remove(self, act: Callable[[], object]) -> None:
        """Run one removal. A missing resource is ignored, and a failure does not stop the next removal."""
        try:
            act()
        except NotFound:
            return
        except ImgstoreError as error:
            self.left.append(error)

    def _delete_version(self) -> None:
        versions_delete.delete_version(
            self.installation,
            self.principal,
            group=self.plan.group,
            gallery=self.gallery,
            definition=DEFINITION,
            version=VERSION,
            bypass_soft_delete=True,
        )

    def _collect(self, pool_uid: str) -> None:
        """Collect the bench's pool without a grace period, since no other writer uses the pool."""
        for report in maintenance_gc.collect_pool(self.installation, self.principal, pool_uid):
            self.removed_objects += len(report.collected)
            if report.problem is not None:
                self.installation.note(str(report.slot.key), f"something is left: {report.problem}")
