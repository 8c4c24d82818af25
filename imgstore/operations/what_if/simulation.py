"""Run the catalog's part of a change in a transaction that is rolled back, and collect the effects on the bill.

A simulation runs the functions that an execution runs in its transactions. So both compute the bytes, the charges and
the storage intervals with the same code (invariant M16). A simulation moves no bytes, takes no lease, and writes nothing
to a store.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.errors import StoreError, WorkHeld
from imgstore.domain.identity.access import Action, Principal, is_allowed
from imgstore.domain.names import compute_id
from imgstore.domain.resources import (
    DiskKind,
    ImageVersion,
    ManagedDisk,
    ManifestRow,
    Replica,
    SegmentRow,
    Slot,
    StorageAccountType,
)
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.ledger.egress import ArrivalPath, Transfer, charge_arrival
from imgstore.ledger.entries import ChargeKind, LedgerRow, Party, StorageInterval
from imgstore.ledger.forecast import (
    Forecast,
    ForecastFacts,
    PresentUsage,
    RouteForecast,
    StorageChange,
    compare_intervals,
    make_forecast,
)
from imgstore.ledger.months import Month
from imgstore.operations.billing.price_lists import read_prices
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import find_earlier_region, read_queued_versions
from imgstore.operations.replication.disk_copy import RemoteSources, copied_manifest
from imgstore.operations.replication.routes import compare_routes, record_parents
from imgstore.operations.replication.targets import mark_surplus_replicas
from imgstore.operations.slots.completion import (
    add_manifest,
    record_completion,
    record_copied_disk,
    remove_manifests,
)
from imgstore.operations.slots.held_segments import predict_held, record_paid
from imgstore.operations.slots.references import disk_party
from imgstore.operations.slots.removal import abandon_writers, check_unpinned
from imgstore.policy.copy_plan import CopyStep, ready_steps
from imgstore.policy.transfer_rates import RateKey, estimate_seconds, measure_rates
from imgstore.policy.worker_queue import QueuedVersion


@contextmanager
def simulate(
    installation: Installation, pool_uid: str | None = None, regions: Iterable[str] = ()
) -> Iterator["Simulation"]:
    """Simulate a change in the block. At the end of the block, all changes are rolled back.

    Args:
        installation: the installation.
        pool_uid: the pool of new replicas.
        regions: the regions of new replicas. Their slots are listed before the transaction begins.
    """
    listed = {} if pool_uid is None else _list_segments(installation, pool_uid, frozenset(regions))
    with installation.catalog.simulation() as transaction:
        yield Simulation(installation=installation, transaction=transaction, listed=listed)


def _list_segments(
    installation: Installation, pool_uid: str, regions: Collection[str]
) -> dict[str, Collection[Digest]]:
    """List the segments of the slots in the regions, by slot uid. A slot that does not answer has no segments."""
    with installation.catalog.reading() as transaction:
        slots = [slot for slot in transaction.slots.list(pool_uid) if slot.key.region in regions]
    found: dict[str, Collection[Digest]] = {}
    for slot in slots:
        with suppress(StoreError):
            found[slot.uid] = installation.access(slot).list_segments().present.keys()
    return found


@dataclass(slots=True, kw_only=True)
class Simulation:
    """A simulated change."""

    installation: Installation
    transaction: Transaction
    listed: Mapping[str, Collection[Digest]] = field(default_factory=dict)
    """The names of the segments in each listed slot, by slot uid."""
    charges: list[LedgerRow] = field(default_factory=list)
    _whole_arrivals: list[Transfer] = field(default_factory=list)
    _whole_stored_bytes: Counter[tuple[str, StorageAccountType]] = field(default_factory=Counter)
    _moved_bytes: Counter[RateKey] = field(default_factory=Counter)
    """The bytes to transfer."""
    _routes: tuple[RouteForecast, ...] = ()
    _source_region: str | None = None
    _before: dict[str, list[StorageInterval]] = field(default_factory=dict)
    """The open intervals of each changed slot before the change, by slot uid."""

    def touch(self, slot: Slot) -> None:
        """Read the storage intervals of a slot before the first change. Lock the slot."""
        if slot.uid not in self._before:
            self.transaction.slots.lock(slot.uid)
            self._before[slot.uid] = self.transaction.ledger.open_intervals(slot.uid)

    def add_source_charge(self, charges: Sequence[LedgerRow], virtual_bytes: int) -> None:
        """Add the charge for a source disk in another region."""
        self.charges += charges
        for row in charges:
            self._whole_arrivals.append(_arrival(row, virtual_bytes))

    def add_read_bytes(self, region: str, disk_bytes: int) -> None:
        """Add the bytes of a disk that an ingest in the region reads and packs."""
        self._moved_bytes[RateKey(source=None, target=region)] += disk_bytes

    def add_disk(self, slot: Slot, virtual_bytes: int) -> None:
        """Add the virtual bytes of a stored disk for whole copies. Negative for a removed disk."""
        self._whole_stored_bytes[slot.key.region, slot.key.storage_account_type] += virtual_bytes

    def complete(
        self,
        definition_path: DefinitionPath,
        version: ImageVersion,
        replica: Replica,
        manifests: Iterable[tuple[ManifestRow, Sequence[SegmentRow]]],
        path: ArrivalPath | None = None,
    ) -> None:
        """Complete a replica.

        Args:
            definition_path: the definition and the gallery of the version.
            version: the version.
            replica: the replica.
            manifests: the manifest of each disk, and the segments of an ingest.
            path: the regions that supply the bytes on the cheapest route.
        """
        transaction, slot = self.transaction, replica.slot
        transaction.slots.lock_region(slot.key.pool_uid, slot.key.region)
        self.touch(slot)
        rows = [add_manifest(transaction, slot, row, segments) for row, segments in manifests]
        is_new = not all(transaction.manifests.is_complete(row.uid) for row in rows)
        transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
        present = transaction.versions.by_uid(version.uid)
        held = predict_held(transaction, slot, version.uid, named_segments(rows), self.listed.get(slot.uid, ()))
        charges = record_completion(
            self.installation, transaction, definition_path, present, replica, rows, path, held=held
        )
        virtual_bytes = sum(row.virtual_bytes for row in rows)
        if is_new:
            self.add_disk(slot, virtual_bytes)
        self._add_arrival(charges, virtual_bytes)

    def copy_disk(self, disk: ManagedDisk, sources: RemoteSources) -> None:
        """Copy the content of a disk from other regions, as `disk_copy.copy_disk`."""
        transaction, slot = self.transaction, disk.slot
        transaction.slots.lock_region(slot.key.pool_uid, slot.key.region)
        self.touch(slot)
        row = add_manifest(transaction, slot, copied_manifest(self.installation, disk, sources))
        held = predict_held(transaction, slot, disk.uid, named_segments([row]), self.listed.get(slot.uid, ()))
        served = {sources.parent: sum(each.stored_bytes for each in self._segments([sources.origin]))}
        path = ArrivalPath(parent=sources.parent, earlier=sources.earlier_region, served=served)
        charges = record_copied_disk(self.installation, transaction, disk_party(disk), row, path, held=held)
        self.add_disk(slot, disk.virtual_bytes)
        self._add_arrival(charges, disk.virtual_bytes)

    def _add_arrival(self, charges: Sequence[LedgerRow], virtual_bytes: int) -> None:
        """Add the charges of a completion. A whole copy of the content would move its virtual bytes."""
        self.charges += charges
        for row in charges:
            crosses = row.kind is ChargeKind.EGRESS
            self._moved_bytes[RateKey(source=row.source if crosses else row.target, target=row.target)] += (
                row.delivered_bytes
            )
        if any(row.kind is ChargeKind.EGRESS for row in charges):
            self._whole_arrivals.append(_arrival(charges[0], virtual_bytes))

    def converge(self, definition_path: DefinitionPath, version: ImageVersion) -> None:
        """Make the missing replicas of a version, and remove the surplus replicas, as `replication.copy.converge`."""
        self._remove_surplus(version)
        self._source_region = version.location
        self._routes = compare_routes(
            self.installation,
            self.transaction,
            source_region=version.location,
            replicas=self.transaction.replicas.list(version.uid),
        )
        while True:
            self._replicate(definition_path, version)
            if not self._remove_surplus(version):
                return

    def remove_owner(self, slot: Slot, owner_uid: str) -> int:
        """Remove the manifests of a version or stored disk from a slot. The next owners pay (invariant M10).

        Returns:
            The virtual bytes of the removed complete manifests.

        Raises:
            WorkHeld: an open work pins a manifest.
        """
        self.touch(slot)
        rows = self.transaction.manifests.of_replica(owner_uid, slot.uid)
        check_unpinned(self.transaction, rows)
        record_paid(self.transaction, self.transaction.works.lock_open(WorkKind.COPY, slot.uid), rows)
        virtual_bytes = sum(row.virtual_bytes for row in rows if self.transaction.manifests.is_complete(row.uid))
        remove_manifests(self.installation, self.transaction, slot, rows)
        self.add_disk(slot, -virtual_bytes)
        return virtual_bytes

    def read_facts(self) -> ForecastFacts:
        """Return the collected effects. Call this as the last step inside the simulation."""
        transaction, subscription = self.transaction, self.installation.subscription
        prices = read_prices(self.installation, transaction)
        whole_charges = [charge_arrival(each, prices.newest, crossing=True) for each in self._whole_arrivals]
        before = [each for intervals in self._before.values() for each in intervals]
        after = [each for uid in self._before for each in transaction.ledger.open_intervals(uid)]
        rates = measure_rates(transaction.replicas.list_timed_transfers())
        seconds = estimate_seconds(self._moved_bytes, rates, self.installation.regions.bandwidth.of)
        return ForecastFacts(
            charges=self.charges,
            whole_charges=whole_charges,
            whole_stored_bytes=self._whole_stored_bytes,
            before=before,
            after=after,
            seconds=_add_waits(seconds, self.charges, self._source_region),
            routes=self._routes,
            present=self._read_present_usage(compare_intervals(before, after), subscription),
            prices=prices,
            time=transaction.now(),
        )

    def _read_present_usage(self, changes: Iterable[StorageChange], subscription: str) -> PresentUsage:
        """Return the usage of the subscription without the simulated change."""
        ledger, added = self.transaction.ledger, {row.key for row in self.charges}
        meters = {row.meter for row in self.charges if row.meter is not None}
        since = Month.of(self.transaction.now()).begin
        stored = Counter(ledger.stored_bytes(subscription))
        for each in changes:
            stored[each.storage_account_type] -= each.added_bytes
        return PresentUsage(
            charges=[row for row in ledger.rows_of_meters(subscription, meters, since) if row.key not in added],
            stored_bytes=stored,
        )

    def _replicate(self, definition_path: DefinitionPath, version: ImageVersion) -> None:
        transaction = self.transaction
        while steps := self._ready_steps(version):
            for queued, step in steps:
                slot = step.replica.slot
                place = step.sources[0].slot if step.sources else slot
                origins = transaction.manifests.of_replica(version.uid, place.uid)
                new_uid = self.installation.effects.new_uid
                rows = [replace(each, uid=new_uid(), slot_uid=slot.uid) for each in origins]
                record_parents(transaction, queued, step)
                earlier, parent = find_earlier_region(queued, step), place.key.region
                served = {parent: sum(row.stored_bytes for row in self._segments(origins))}
                path = None if earlier is None else ArrivalPath(parent=parent, earlier=earlier, served=served)
                self.complete(definition_path, version, step.replica, [(row, ()) for row in rows], path)

    def _segments(self, origins: Sequence[ManifestRow]) -> list[SegmentRow]:
        (pool_uid,) = {self.transaction.slots.get(row.slot_uid).key.pool_uid for row in origins}
        return self.transaction.segments.rows(pool_uid, named_segments(origins))

    def _ready_steps(self, version: ImageVersion) -> list[tuple[QueuedVersion, CopyStep]]:
        (queued,) = read_queued_versions(self.installation, self.transaction, [version.uid], lambda _replicas: ())
        steps = ready_steps(
            queued.replicas,
            source_region=queued.source_region,
            busy=(),  # The bytes of replicas that other processes make now are charged, too.
            failed=(),
            once_complete=queued.once_complete,
            parents=queued.parents,
        )
        return [(queued, step) for step in steps]

    def _remove_surplus(self, version: ImageVersion) -> bool:
        """Remove the surplus replicas that no work needs. Return whether there was one."""
        self.transaction.versions.lock(version.uid)
        surplus = mark_surplus_replicas(self.transaction, self.transaction.versions.by_uid(version.uid))
        removed = [self._remove_replica(replica) for replica in surplus]
        return any(removed)

    def _remove_replica(self, replica: Replica) -> bool:
        """Remove a replica as `slots.removal.remove_replica`. Return False if a work holds or pins the replica."""
        slot, owner_uid = replica.slot, replica.version_uid
        try:
            abandon_writers(self.transaction, owner_uid, str(slot.key), slot)
            self.remove_owner(slot, owner_uid)
        except WorkHeld:
            return False
        self.transaction.replicas.delete(replica.uid)
        return True


def forecast_of(
    installation: Installation,
    principal: Principal,
    facts: ForecastFacts,
    *,
    source_region: str | None = None,
    notes: Sequence[str] = (),
) -> Forecast:
    """Add up the effects. The caller sees the names of readable owners only."""
    is_readable = partial(_is_readable, installation, principal)
    return make_forecast(facts, is_readable=is_readable, source_region=source_region, notes=notes)


def _is_readable(installation: Installation, principal: Principal, party: Party) -> bool:
    """Return whether the caller may read the resource that a party names."""
    if party.subscription.lower() != installation.subscription.lower():
        return False
    if party.disk is None:
        scopes = [party.resource_id]
    else:
        scopes = [compute_id(party.subscription, party.group, kind, party.disk) for kind in DiskKind]
    return any(is_allowed(principal, Action.READ, scope) for scope in scopes)


def _add_waits(
    seconds: Mapping[str, float | None], charges: Iterable[LedgerRow], source_region: str | None
) -> dict[str, float | None]:
    """Add the time of the region that a region waits for. Every region waits for the source region, which is left out."""
    parents = {row.target: row.source for row in charges if row.kind is ChargeKind.EGRESS}

    def until_complete(region: str) -> float | None:
        parent, own = parents.get(region), seconds[region]
        if own is None or parent is None or parent == source_region or parent not in seconds:
            return own
        before = until_complete(parent)
        return None if before is None else before + own

    return {region: until_complete(region) for region in seconds}


def _arrival(row: LedgerRow, moved_bytes: int) -> Transfer:
    """Return the arrival of a charge with another number of bytes."""
    return Transfer(
        key=row.key,
        party=row.party,
        source=row.source,
        target=row.target,
        replica=row.replica,
        moved_bytes=moved_bytes,
        time=row.time,
    )
