"""Predict the creation of managed disks and snapshots, and the deletion of disks, snapshots and managed images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from imgstore.domain import names
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest, NewDisk
from imgstore.domain.resources import DiskKind, ManagedDisk
from imgstore.domain.states import ProvisioningState
from imgstore.ledger.forecast import Forecast, ForecastFacts
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit
from imgstore.operations.disks.disks import add_or_reuse_disk
from imgstore.operations.disks.from_source import make_rows, open_files, verify_changed_files
from imgstore.operations.disks.remote_content import choose_sources
from imgstore.operations.gallery.groups import permit_group
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.replication.disk_ingest import DiskPrediction, plan_prediction, predict_disk_packing
from imgstore.operations.replication.slot_ingest import manifest_row, touched_bytes
from imgstore.operations.slots.completion import add_manifest, record_disk_completion
from imgstore.operations.slots.references import add_reference, disk_party, find_origin, reference_to
from imgstore.operations.slots.removal import begin_deleting, check_no_signed_url, end_works
from imgstore.operations.what_if.simulation import Simulation, forecast_of, simulate
from imgstore.transfer.receipts import IngestReceipt


def forecast_image_disk(installation: Installation, principal: Principal, request: DiskOfImageRequest) -> Forecast:
    """Predict the effects of `create_disk`: a reference to a replica of the region, or a copy from another region.

    Raises:
        ImageNotAvailable, Conflict, PropertyChangeNotAllowed: the creation would be refused.
    """
    names.check_disk_name(request.name)
    _permit_creation(installation, principal, request.group, request.name, DiskKind.DISK)
    reference = admit_reader(installation, principal, request.reference)

    def add(simulation: Simulation) -> ManagedDisk:
        return add_or_reuse_disk(installation, simulation.transaction, request, reference)

    with _simulate_creation(installation, request, add) as simulation:
        _make(simulation, add(simulation), request)
        found = simulation.read_facts()
    return forecast_of(installation, principal, found)


@contextmanager
def _simulate_creation(
    installation: Installation, request: NewDisk, add: Callable[[Simulation], ManagedDisk]
) -> Iterator[Simulation]:
    """Simulate the creation of a disk in the block. The slot of a disk from another region is listed before."""
    pool_uid, regions = None, list[str]()
    if request.allow_remote:
        with simulate(installation) as simulation:
            disk = add(simulation)
            pool_uid, regions = disk.slot.key.pool_uid, [disk.slot.key.region]
    with simulate(installation, pool_uid, regions) as simulation:
        yield simulation


def forecast_source_disk(installation: Installation, principal: Principal, request: DiskRequest) -> Forecast:
    """Predict the effects of `create_from_source`. A file is read and packed, and nothing is stored.

    Raises:
        InvalidInput, ImageRefused, PropertyChangeNotAllowed, Conflict: the creation would be refused.
        SourceNotFound, StoreError: the source is not available.
    """
    names.check_disk_name(request.name, request.kind.noun)
    _permit_creation(installation, principal, request.group, request.name, request.kind)
    with ExitStack() as stack:
        readers = open_files(installation, principal, [request], stack)
        verified = verify_changed_files(installation, [request], readers, lambda _disks: None)
        creation = _Creation(
            installation=installation, principal=principal, request=request, readers=readers, verified=verified
        )
        found = creation.predict()
    return forecast_of(installation, principal, found)


def forecast_disk_deletion(
    installation: Installation, principal: Principal, *, group: str, name: str, kind: DiskKind = DiskKind.DISK
) -> Forecast:
    """Predict the effects of `delete_disk`. The storage changes name the next owners of shared bytes (M10).

    Raises:
        NotFound: there is no such resource.
        Conflict: a disk is attached to a machine, or a signed URL of a disk is valid.
        WorkHeld: a live process reads or makes a disk.
    """
    scope = names.compute_id(installation.subscription, group, kind, name)
    permit(installation, principal, Action.DELETE, scope)
    with simulate(installation) as simulation:
        transaction = simulation.transaction
        disks = transaction.disks.list(installation.subscription, group, kind, name)
        if not disks:
            raise lookup.disk_not_found(installation.subscription, group, name, kind)
        for disk in disks:
            check_no_signed_url(transaction, disk)
            end_works(transaction, disk.uid, disk.name)
            begin_deleting(transaction, disk)
        for disk in disks:
            simulation.remove_owner(disk.slot, disk.uid)
        found = simulation.read_facts()
    return forecast_of(installation, principal, found)


def _permit_creation(installation: Installation, principal: Principal, group: str, name: str, kind: DiskKind) -> None:
    permit_group(installation, principal, group)
    permit(installation, principal, Action.WRITE, names.compute_id(installation.subscription, group, kind, name))


def _make(simulation: Simulation, disk: ManagedDisk, request: NewDisk) -> None:
    """Add the reference of a disk, or copy its content from other regions, unless the disk is complete."""
    installation, transaction = simulation.installation, simulation.transaction
    if disk.provisioning_state is ProvisioningState.SUCCEEDED:
        return
    sources = choose_sources(installation, transaction, disk, allow_remote=request.allow_remote)
    if sources is not None:
        simulation.copy_disk(disk, sources)
        return
    simulation.touch(disk.slot)
    origin = find_origin(transaction, disk)
    add_reference(installation, transaction, disk, origin, len(reference_to(origin)))
    simulation.add_disk(disk.slot, disk.virtual_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Creation:
    """The prediction of a disk or snapshot from a disk, a snapshot or a file."""

    installation: Installation
    principal: Principal
    request: DiskRequest
    readers: Mapping[str, DiskReader]
    """The opened file, by disk key. Empty for a copy, and for a file that is not needed."""
    verified: Mapping[str, SourceIdentity]

    def predict(self) -> ForecastFacts:
        """Pack a file for its slot, and simulate the creation. The transaction ends before the file is read."""
        with _simulate_creation(self.installation, self.request, self._add) as simulation:
            disk = self._add(simulation)
            if disk.provisioning_state is ProvisioningState.SUCCEEDED or disk.source is None:
                _make(simulation, disk, self.request)
                return simulation.read_facts()
            planned = plan_prediction(simulation.transaction, disk)
        receipt = self._pack(planned)
        with simulate(self.installation) as simulation:
            self._complete(simulation, self._add(simulation), receipt)
            return simulation.read_facts()

    def _add(self, simulation: Simulation) -> ManagedDisk:
        transaction = simulation.transaction
        return make_rows(self.installation, self.principal, transaction, [self.request], self.readers, self.verified)[0]

    def _pack(self, planned: DiskPrediction) -> IngestReceipt:
        reader = self.readers[planned.disk.disk_key]
        return predict_disk_packing(self.installation, planned, reader, reader.identity())

    def _complete(self, simulation: Simulation, disk: ManagedDisk, receipt: IngestReceipt) -> None:
        transaction, slot = simulation.transaction, disk.slot
        simulation.touch(slot)
        row = add_manifest(
            transaction, slot, manifest_row(self.installation, slot, disk.uid, OS_DISK, receipt), receipt.segments
        )
        record_disk_completion(self.installation, transaction, disk_party(disk), row)
        simulation.add_disk(slot, row.virtual_bytes)
        simulation.add_read_bytes(slot.key.region, touched_bytes(self.readers[disk.disk_key]))
