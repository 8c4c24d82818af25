"""Predict the creation, the update and the deletion of image versions."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.names import VersionName, version_id
from imgstore.domain.requests import VersionRequest
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica, SegmentRow, VersionUpdate
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.forecast import Forecast, ForecastFacts
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.replication.ingest import Publication, decide_plan, predict_packing
from imgstore.operations.replication.slot_ingest import manifest_row, read_prediction_start, touched_bytes
from imgstore.operations.slots.removal import end_works
from imgstore.operations.versions.create import open_disks, verify_changed_sources
from imgstore.operations.versions.delete import check_deletion, is_soft_deletion
from imgstore.operations.versions.request import (
    ResolvedRequest,
    add_or_change_version,
    check_disks,
    resolve_request,
)
from imgstore.operations.versions.shallow import (
    choose_shallow_slot,
    find_shallow_origins,
    make_shallow_row,
    read_shallow_manifest,
)
from imgstore.operations.versions.stored_sources import OpenedDisks, charge_source
from imgstore.operations.versions.update import record_update
from imgstore.operations.what_if.simulation import Simulation, forecast_of, simulate
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.stored_disk import StoredDisk


def forecast_version_creation(installation: Installation, principal: Principal, request: VersionRequest) -> Forecast:
    """Predict the effects of `create_version`. The source is read and packed, and nothing is stored.

    Args:
        installation: the installation.
        principal: the caller, with the rights of the creation.
        request: the version, its source and its target regions.

    Raises:
        InvalidInput, ImageRefused, Conflict: the creation would be refused.
        SourceNotFound, NotFound, StoreError: a source is not available.
    """
    request.source.check()
    above = (request.group, request.gallery, request.definition)
    permit(installation, principal, Action.WRITE, version_id(installation.subscription, *above, request.version))
    resolved = resolve_request(installation, request)
    with ExitStack() as stack:
        opened = open_disks(installation, principal, stack, resolved, pinned=False)
        if request.source.is_image_or_machine:
            resolved = resolved.without_data_disk_caching({*opened.readers, *opened.absent})
        if not opened.absent:
            resolved = choose_shallow_slot(resolved, opened.readers, opened.slots)
            check_disks(installation, opened.readers, shallow=resolved.is_shallow)
        verified = verify_changed_sources(installation, resolved, opened.readers, lambda _version: None)
        creation = _Creation(installation=installation, resolved=resolved, opened=opened, verified=verified)
        found = creation.predict()
    return forecast_of(installation, principal, found, source_region=resolved.location)


def forecast_version_update(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    update: VersionUpdate,
) -> Forecast:
    """Predict the effects of `update_version`, with replicas that are not complete yet.

    Raises:
        InvalidInput, Conflict: the update would be refused.
    """
    permit(
        installation,
        principal,
        Action.WRITE,
        names.version_id(installation.subscription, group, gallery, definition, version),
    )
    with installation.catalog.reading() as transaction:
        path = lookup.find_definition_path(transaction, installation.subscription, group, gallery, definition)
        targets = update.target_regions or lookup.find_version(transaction, path, version).target_regions
    regions = {installation.regions.get(each.name, target="targetRegions").name for each in targets}
    with simulate(installation, path.gallery.pool_uid, regions) as simulation:
        transaction = simulation.transaction
        path = lookup.find_definition_path(transaction, installation.subscription, group, gallery, definition)
        existing = lookup.find_version(transaction, path, version)
        changed = record_update(installation, transaction, path, existing.uid, update)
        simulation.converge(path, changed)
        found = simulation.read_facts()
    return forecast_of(installation, principal, found, source_region=existing.location)


def forecast_version_deletion(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    bypass_soft_delete: bool = False,
) -> Forecast:
    """Predict the effects of `delete_version`. The storage changes name the next owners of shared bytes (M10).

    Raises:
        NotFound: there is no such version.
        Conflict: the version must be kept until its end of life.
        WorkHeld: a live process writes or reads a replica of the version.
    """
    scope = names.version_id(installation.subscription, group, gallery, definition, version)
    permit(installation, principal, Action.DELETE, scope)
    notes: list[str] = []
    with simulate(installation) as simulation:
        transaction = simulation.transaction
        path = lookup.find_definition_path(transaction, installation.subscription, group, gallery, definition)
        existing = transaction.versions.get(path.definition.uid, version) or lookup.find_version(
            transaction, path, version
        )
        check_deletion(existing, scope, transaction.now(), bypass_soft_delete=bypass_soft_delete)
        if is_soft_deletion(path, existing, bypass_soft_delete=bypass_soft_delete):
            notes.append(
                f"The gallery has soft delete: all bytes stay for {path.gallery.soft_delete_retention_days} days, and are "
                "billed. --bypass-soft-delete shows the effects of the removal."
            )
        else:
            end_works(transaction, existing.uid, str(existing.name))
            for replica in transaction.replicas.list(existing.uid):
                simulation.remove_owner(replica.slot, existing.uid)
        found = simulation.read_facts()
    return forecast_of(installation, principal, found, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """The content of the source slot after a creation."""

    receipts: Mapping[str, IngestReceipt]
    """The packed disks, by disk key. Empty for a Shallow version of stored disks."""
    manifest_bytes: Mapping[str, int]
    """The lengths of the manifests of a Shallow version, by disk key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Creation:
    """The prediction of a creation with opened sources."""

    installation: Installation
    resolved: ResolvedRequest
    opened: OpenedDisks
    verified: Mapping[str, SourceIdentity]
    """The identities of changed files that have the stored content of the version, by disk key."""

    def predict(self) -> ForecastFacts:
        """Pack the disks for the source slot, and simulate the creation.

        The transaction ends before the disks are read, so the rows of the version are simulated twice.
        """
        with self.installation.catalog.simulation() as transaction:
            publication = self._find_publication(transaction)
            if publication is not None:
                plan, _ = decide_plan(transaction, publication)
                start = read_prediction_start(transaction, publication.replica.slot)
                origins = self._find_origins(transaction, publication.replica)
        packed = None
        if publication is not None and origins:
            slot = publication.replica.slot
            lengths = {disk: len(read_shallow_manifest(self.installation, slot, row)) for disk, row in origins.items()}
            packed = _Packed(receipts={}, manifest_bytes=lengths)
        elif publication is not None:
            receipts = predict_packing(self.installation, publication, plan, start)
            packed = _Packed(receipts=receipts, manifest_bytes={})
        pool_uid = self.resolved.definition_path.gallery.pool_uid
        with simulate(self.installation, pool_uid, [each.name for each in self.resolved.targets]) as simulation:
            publication = self._find_publication(simulation.transaction)
            if publication is not None and packed is not None:
                self._ingest(simulation, publication, packed)
            version = self._find_version(simulation.transaction)
            simulation.converge(self.resolved.definition_path, version)
            return simulation.read_facts()

    def _find_publication(self, transaction: Transaction) -> Publication | None:
        """Simulate the rows of the version, and return the order to ingest. None if the version has a complete replica.

        A version that was complete once is restored, and costs nothing.
        """
        readers, absent = self.opened.readers, self.opened.absent
        identities = {key: reader.identity() for key, reader in readers.items()}
        version = add_or_change_version(
            self.installation,
            transaction,
            self.resolved,
            identities | {key: disk.source for key, disk in absent.items()},
            {key: reader.virtual_bytes for key, reader in readers.items()},
            self.verified,
        )
        if absent or transaction.manifests.complete_slots(version.uid):
            return None
        replicas = [each for each in transaction.replicas.list(version.uid) if each.state is not ReplicaState.DELETING]
        return Publication(
            definition_path=self.resolved.definition_path,
            version=version,
            replica=next(each for each in replicas if each.slot.key.region == version.location),
            readers=readers,
            named_bases=self.resolved.request.bases,
            source_manifests=self._stored_digests,
        )

    def _find_version(self, transaction: Transaction) -> ImageVersion:
        found = transaction.versions.get(self.resolved.definition_path.definition.uid, self.resolved.request.version)
        assert found is not None, "the rows of the version were simulated"
        return found

    def _find_origins(self, transaction: Transaction, replica: Replica) -> dict[str, ManifestRow]:
        """Return the source manifests of a Shallow version of stored disks. Empty for other versions."""
        if not self.resolved.is_shallow or self._stored_digests.keys() != self.opened.readers.keys():
            return {}
        return find_shallow_origins(transaction, replica, self._stored_digests)

    @property
    def _stored_digests(self) -> dict[str, Digest]:
        return {key: reader.digest for key, reader in self.opened.readers.items() if isinstance(reader, StoredDisk)}

    def _ingest(self, simulation: Simulation, publication: Publication, packed: _Packed) -> None:
        """Complete the first replica, and charge for sources in other regions."""
        transaction, version, slot = simulation.transaction, publication.version, publication.replica.slot
        rows: list[tuple[ManifestRow, Sequence[SegmentRow]]] = []
        for disk, receipt in packed.receipts.items():
            rows.append((manifest_row(self.installation, slot, version.uid, disk, receipt), receipt.segments))
            simulation.add_read_bytes(version.location, touched_bytes(publication.readers[disk]))
            self._charge_source(simulation, version, disk)
        if not packed.receipts:
            for disk, origin in self._find_origins(transaction, publication.replica).items():
                length = packed.manifest_bytes[disk]
                rows.append((make_shallow_row(self.installation, origin, version.uid, disk, length), ()))
        simulation.complete(self.resolved.definition_path, version, publication.replica, rows)

    def _charge_source(self, simulation: Simulation, version: ImageVersion, disk: str) -> None:
        reader = self.opened.readers[disk]
        if not isinstance(reader, StoredDisk) or self.opened.slots[disk].key.region == version.location:
            return
        charges = charge_source(
            self.installation,
            simulation.transaction,
            self.resolved.definition_path,
            version,
            disk,
            self.opened.slots[disk].key.region,
            reader.stored_bytes,
        )
        simulation.add_source_charge(charges, reader.virtual_bytes)
