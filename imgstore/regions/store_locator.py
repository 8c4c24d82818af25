"""The store of each slot, and the checks of zones: existence, identity, and promises of the store.

The store of a zone with an endpoint is ``RetryingStore(ParallelLimitedStore(WatchedStore(MeteredStore(S3Store))))``.
The store of an embedded zone is ``WatchedStore(MeteredStore(DirectoryStore))``. `WatchedStore` updates the zone's
circuit (``health.py``). Each store is behind a guard that first reads the zone's mark and uid (``zones.py``,
``identity.py``). For ZRS, `ZoneRedundantStore` combines the stores of three zones.

An embedded zone is created at the first use, and never again. Only `init` creates a bucket, so that a mistyped endpoint
causes an error instead of a second, empty place for the data.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreDenied, StoreError, StoreMismatch, StoreSilent, StoreUnreachable
from imgstore.domain.resources import Slot, SlotKey, StorageAccountType
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.circuits import HealthRecords
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.object_keys import checkpoint_key
from imgstore.domain.storage.zones import ZoneRecord
from imgstore.regions.format_mark import FormatMark
from imgstore.regions.health import CircuitBreakers
from imgstore.regions.identity import Consent, ZoneRegistry, read_zone_objects
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
from imgstore.regions.zones import (
    EmbeddedZone,
    FoundZone,
    OpenedZone,
    S3Zone,
    VersionedZone,
    ZoneContext,
    ZoneReport,
    report_unopened,
)
from imgstore.stores.analysis.analyzer import AnalyzedStore
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import ObjectStore
from imgstore.stores.object_versions import Versioning, VersioningState
from imgstore.stores.wrappers.bandwidth_limit import BandwidthLimitedStore, TokenBucket, Wait
from imgstore.stores.wrappers.hedging import ask_all, ask_briefly, race
from imgstore.stores.wrappers.metering import Traffic, TrafficMeter
from imgstore.stores.wrappers.retry import RetryPolicy
from imgstore.stores.zone_redundant import QUORUM, ZoneRedundantStore

_VERSIONING_SECONDS_MAX: Final = 10.0


class Locator:
    """The stores of an installation, each created once. Safe to use from several threads at once."""

    def __init__(
        self,
        regions: Regions,
        *,
        home: Path,
        installation_uid: str,
        environ: Mapping[str, str],
        effects: Effects,
        registry: ZoneRegistry,
        space: DiskSpace = DiskSpace(),  # noqa: B008 - frozen
        meters: Callable[[], TrafficMeter] = TrafficMeter,
        policy: RetryPolicy | None = None,
        buckets: Callable[[int], TokenBucket] = TokenBucket,
        records: HealthRecords | None = None,
    ) -> None:
        """Create the locator without opening any store.

        Args:
            regions: the content of regions.yaml.
            home: the data home, which contains the embedded zones.
            installation_uid: the installation that a zone's mark must name.
            environ: the variables with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
            effects: creates the keys of probes and the uids of zones.
            space: the reserve of free space that embedded zones keep.
            registry: the catalog's records of zones.
            meters: creates the meter of a region.
            policy: the retries of requests to endpoints; None is the default.
            buckets: creates the token bucket of a pair of regions, from the bytes per second.
            records: the circuits that processes share; None shares nothing.
        """
        self.health = CircuitBreakers(monotonic=effects.monotonic, records=records, open_zone=self._open_by_name)
        self._shared = ZoneContext(
            health=self.health, registry=registry, new_uid=effects.new_uid, monotonic=effects.monotonic
        )
        self._regions = regions
        self._home = home
        self._space = space
        self._installation_uid = installation_uid
        self._environ = environ
        self._effects = effects
        self._meters = {name: meters() for name in regions.regions}
        self._policy = policy
        self._lock = threading.Lock()
        self._zones: dict[tuple[str, str], OpenedZone] = {}
        self._zoned: dict[str, ZoneRedundantStore] = {}
        self._new_bucket = buckets
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def choose_zone(self, slot_key: SlotKey) -> tuple[str, str]:
        """Choose (zone, bucket) of a new slot. Called once, because the slot's row stores the answer (invariant S5).

        Pools start at different zones, and the ordinals of a pool cycle through the zones. The replicas of one version
        are therefore in as many zones as possible.
        """
        region = self._regions.get(slot_key.region)
        if slot_key.storage_account_type is StorageAccountType.STANDARD_ZRS:
            return ALL_ZONES, region.bucket
        first = int.from_bytes(digest_of(slot_key.pool_uid.encode())[:8], "big")
        zone = region.zones[(first + slot_key.ordinal) % len(region.zones)]
        return zone.name, zone.bucket

    def store(self, slot: Slot) -> ObjectStore:
        """Open the store of the slot, after a check of its mark.

        Raises:
            InvalidInput: regions.yaml no longer contains the slot's region.
            StoreMismatch: the slot's zone or bucket differs from regions.yaml, or the zone has another mark.
            StoreError: the zone was not prepared (`init`), or does not answer.
        """
        region = self._regions.get(slot.key.region)
        every = slot.zone == ALL_ZONES and region.policy is Policy.ZRS
        zones = [zone for zone in region.zones if every or zone.name == slot.zone]
        bucket = zones[0].bucket if len(zones) == 1 else region.bucket
        if not zones or bucket != slot.bucket:
            raise StoreMismatch(
                f"Slot {slot.key} is in a zone or bucket that {self._regions.path} does not name.",
                found=f"region {region.name} of policy {region.policy}, bucket '{bucket}', "
                f"zones {', '.join(zone.name for zone in region.zones)}",
                expected=f"bucket '{slot.bucket}', zone {slot.zone}",
                hint=f"restore the former bucket, zones and endpoints of region {region.name} in regions.yaml",
                target=region.name,
            )
        if every:
            return self._all_zones(region)
        guarded = self._open(region, zones[0]).guarded
        guarded.open_store()
        return guarded

    def installation_store(self, name: str) -> ObjectStore:
        """Open the store of a region for the objects of the installation: all zones (ZRS), or the first zone (LRS).

        Raises:
            InvalidInput: regions.yaml does not contain the region.
            StoreError: see `store`.
        """
        region = self._regions.get(name)
        if region.policy is Policy.ZRS:
            return self._all_zones(region)
        guarded = self._open(region, region.zones[0]).guarded
        guarded.open_store()
        return guarded

    def store_across(self, slot: Slot, region: str, wait: Wait) -> ObjectStore:
        """Open the slot's store for a reader in `region`, within the bandwidth that regions.yaml sets for the pair.

        All reads of this process from one region to another share that bandwidth. Raises the errors of `store`.

        Args:
            slot: the slot to read.
            region: the region of the reader.
            wait: sleeps for a number of seconds; may raise to end the read.
        """
        store = self.store(slot)
        pair = slot.key.region, self._regions.get(region).name
        limit = self._regions.bandwidth.of(*pair)
        if limit is None:
            return store
        with self._lock:
            bucket = self._buckets.get(pair)
            if bucket is None:
                bucket = self._buckets[pair] = self._new_bucket(limit)
        return BandwidthLimitedStore(store, bucket, wait)

    def is_avoided(self, place: Slot | str) -> bool:
        """Return whether another place is preferable, because this place's store does not answer as far as known.

        A place in three zones is avoided when two zones are avoided. No request is sent; see `CircuitBreakers.refresh`.

        Args:
            place: a slot, or the name of a region for the store of `installation_store`.
        """
        names = self._zone_names(place)
        if not names:
            return True
        return sum(self.health.is_avoided(*name) for name in names) >= (QUORUM if len(names) > 1 else 1)

    def find_unavailable_zones(self) -> frozenset[tuple[str, str]]:
        """Probe zones without a recent answer, and return the zones (region, zone) that do not answer."""
        names = [(region.name, zone.name) for region in self._regions.regions.values() for zone in region.zones]
        self.health.probe_idle_zones(names)
        return frozenset(name for name in names if self.health.is_avoided(*name))

    def note_late(self, slot: Slot, age_seconds: float) -> None:
        """Note that a request to the slot is late. Each zone of a slot in three zones has its own watch."""
        if slot.zone != ALL_ZONES:
            self.health.count_late((slot.key.region, slot.zone), age_seconds)

    def note_late_write(self, place: Slot | str, age_seconds: float) -> None:
        """Note that a write did not end within `age_seconds`.

        A write goes to each zone of its place. So each zone without an answer in this time is late.

        Args:
            place: a slot, or the name of a region for the store of `installation_store`.
            age_seconds: the age of the write.
        """
        for name in self._zone_names(place):
            self.health.count_late(name, age_seconds)

    def _zone_names(self, place: Slot | str) -> list[tuple[str, str]]:
        """Return the zones (region, zone) of a place, or no zone if regions.yaml no longer contains the place."""
        region = self._regions.regions.get(place if isinstance(place, str) else place.key.region)
        if region is None:
            return []
        if isinstance(place, str):
            zones = [zone.name for zone in (region.zones if region.policy is Policy.ZRS else region.zones[:1])]
        else:
            zones = [zone.name for zone in region.zones] if place.zone == ALL_ZONES else [place.zone]
        return [(region.name, zone) for zone in zones]

    def meter(self, region: str) -> TrafficMeter:
        """Return the meter of the bytes to and from a region's stores."""
        return self._meters[self._regions.get(region).name]

    def traffic(self) -> Mapping[str, Traffic]:
        """Return the counts so far, by region."""
        return MappingProxyType({name: meter.traffic for name, meter in self._meters.items()})

    def check(self, region: Region, *, probes: bool = False, zone: Zone | None = None) -> list[ZoneReport]:
        """Inspect each zone of a region, or one zone, without a change.

        Args:
            region: the region.
            probes: also put and delete a small object in each zone, to find missing rights and a full store.
            zone: the only zone to inspect. None inspects every zone.
        """
        report = OpenedZone.inspect_with_probe if probes else OpenedZone.inspect
        return self._report_each_zone(region, report, None if zone is None else [zone])

    def open_for_analysis(self, region: Region) -> list[tuple[ZoneReport, AnalyzedStore | None]]:
        """Use and check each zone of a region, and return the bare stores of the zones that can be used."""
        reports = self._report_each_zone(region, OpenedZone.open_and_inspect)
        found: list[tuple[ZoneReport, AnalyzedStore | None]] = []
        for zone, report in zip(region.zones, reports, strict=True):
            store = None if report.access is None else self._open(region, zone).analyzed(report.access)
            # Without its mark, a store may belong to somebody else.
            is_usable = store is not None and (report.marked or store.refusal is not None)
            found.append((report, store if is_usable else None))
        return found

    def init(
        self, region: Region, *, zones: Collection[str] | None = None, consent: Consent = Consent.NONE
    ) -> list[ZoneReport]:
        """Prepare zones of a region: create the bucket and the marks, and probe the promises of the store.

        The method may be repeated. Existing marks stay, and the promises are probed again, as needed after a
        replacement of the server.

        Args:
            region: the region of the zones.
            zones: the names of the zones; None is every zone.
            consent: the operator's consent for a zone whose store is not the recorded one.
        """
        chosen = [zone for zone in region.zones if zones is None or zone.name in zones]
        serving: frozenset[str] = frozenset()
        if consent is not Consent.NONE and region.policy is Policy.ZRS:
            reports = self.check(region)
            serving = frozenset(each.zone for each in reports if each.marked and each.problem is None)

        def prepare(zone: OpenedZone) -> ZoneReport:
            others_serve = len(serving - {zone.mark.zone}) >= QUORUM
            return zone.prepare_and_inspect(consent, others_serve=others_serve)

        return self._report_each_zone(region, prepare, chosen)

    def put_checkpoint(self, slot: Slot, checkpoint: Checkpoint) -> None:
        """Put a checkpoint of the catalog into the zones of a slot. The catalog has already recorded the checkpoint.

        Raises:
            StoreError: an error of `store`, or of the put.
        """
        for zone in self._zones_of(slot):
            zone.recheck_if_old()
        store, key = self.store(slot), checkpoint_key(checkpoint.name)
        if isinstance(store, ZoneRedundantStore):
            store.put_without_notes(key, b"")
        else:
            store.put(key, b"")
        for zone in self._zones_of(slot):
            zone.add_checkpoint(checkpoint)

    def refresh_checkpoints(self, slots: Iterable[Slot] | None = None, *, also_unrecorded: bool = False) -> None:
        """Compare the checkpoints of zones with the catalog. Zones that do not answer are skipped.

        Args:
            slots: the slots whose zones are compared; None compares every zone that was ever used.
            also_unrecorded: also compare zones that the catalog has never used. A later catalog may have used the zones.
        """
        if also_unrecorded:
            unrecorded = [(region, zone) for region, zone in self._list_zones() if not self._is_recorded(region, zone)]
            self._run_on_zones(self._open_usable(unrecorded), OpenedZone.compare_if_marked)
        if slots is None:
            zones = self._recorded_zones()
        else:
            zones = list({id(zone): zone for slot in slots for zone in self._zones_of(slot)}.values())
        self._run_on_zones(zones, OpenedZone.refresh_checkpoints)

    def find_versioned_zones(self) -> list[VersionedZone]:
        """Find the zones that were ever used and whose store keeps old versions. Zones that do not answer are skipped.

        A zone that is known to fail is skipped without a request, and a zone without an answer within 10 s is given up.
        The state of a store that answers only this request with an error is unknown: the store may keep versions.
        """
        found: list[VersionedZone] = []

        def read(zone: OpenedZone) -> None:
            name = zone.mark.region, zone.mark.zone
            if self.health.is_down(*name):
                return
            outcome = ask_briefly(partial(_read_versioning, zone), late_seconds=_VERSIONING_SECONDS_MAX)
            if outcome.late:
                self.health.count_late(name, outcome.age_seconds)
            elif outcome.error is not None:
                raise outcome.error
            elif outcome.value is not None:
                found.append(outcome.value)

        self._run_on_zones(self._recorded_zones(), read)
        return sorted(found, key=lambda each: (each.region, each.zone))

    def delete_unknown_checkpoints(self) -> list[str]:
        """Remove the checkpoints that the catalog does not know from every zone that was ever used.

        Returns:
            The errors, one line for each zone that failed.
        """
        return self._run_on_zones(self._recorded_zones(), OpenedZone.delete_unknown_checkpoints)

    @staticmethod
    def _run_on_zones(zones: Sequence[OpenedZone], act: Callable[[OpenedZone], None]) -> list[str]:
        """Call `act` for zones in parallel, and return the errors, one line each."""

        def run(zone: OpenedZone) -> str | None:
            try:
                act(zone)
            except StoreError as error:
                return f"zone {zone.mark.zone} of {zone.mark.region}: {error.message}"
            return None

        problems = [outcome.value for outcome in ask_all([partial(run, zone) for zone in zones])]
        return [problem for problem in problems if problem is not None]

    def read_marked_zones(self) -> Mapping[str, str]:
        """Read the marks of the S3 zones that answer: the installation's uid by the store's name."""
        found: dict[str, str] = {}

        def read(zone: OpenedZone) -> None:
            mark = zone.read_mark()
            if mark is not None:
                found[zone.store.name] = mark.installation

        opened = self._open_usable((region, zone) for region, zone in self._list_zones() if not region.embedded)
        self._run_on_zones(opened, read)
        return found

    def find_zones(self) -> list[FoundZone]:
        """Read the mark and the identity of each zone of regions.yaml, without a catalog and without a change."""

        def look(region: Region, zone: Zone) -> FoundZone:
            found = FoundZone(region=region.name, zone=zone.name, store=None)
            try:
                opened = self._open(region, zone)
                found = replace(found, store=opened.store)
                mark = opened.read_mark()
                if mark is not None:
                    opened.accept(mark)
                return replace(found, mark=mark, objects=read_zone_objects(opened.store))
            except StoreError as error:
                return replace(found, error=error)

        every = [(region, zone) for region in self._regions.regions.values() for zone in region.zones]
        with ThreadPoolExecutor(len(every)) as pool:  # One wait for all zones that do not answer.
            return list(pool.map(look, *zip(*every, strict=True)))

    def claim_zones(self, names: Iterable[tuple[str, str]], former: str) -> list[ZoneRecord]:
        """Begin the adoption of zones (region, zone) of another installation. See `OpenedZone.claim`."""
        return [self._named(name).claim(former) for name in names]

    def clean_claimed_zones(self, names: Iterable[tuple[str, str]]) -> None:
        """Remove the identity of the former installation. See `OpenedZone.clean_claimed`."""
        for name in names:
            self._named(name).clean_claimed()

    def finish_claims(self, names: Iterable[tuple[str, str]]) -> None:
        """End the adoption of zones. See `OpenedZone.finish_claim`."""
        for name in names:
            self._named(name).finish_claim()

    def _named(self, name: tuple[str, str]) -> OpenedZone:
        region = self._regions.get(name[0])
        return self._open(region, next(zone for zone in region.zones if zone.name == name[1]))

    def _recorded_zones(self) -> list[OpenedZone]:
        return [self._open(region, zone) for region, zone in self._list_zones() if self._is_recorded(region, zone)]

    def _is_recorded(self, region: Region, zone: Zone) -> bool:
        return self._shared.registry.find(region.name, zone.name) is not None

    def _list_zones(self) -> list[tuple[Region, Zone]]:
        return [(region, zone) for region in self._regions.regions.values() for zone in region.zones]

    def _open_usable(self, zones: Iterable[tuple[Region, Zone]]) -> list[OpenedZone]:
        """Open zones without a record. A zone whose AWS profile does not exist is left out."""
        opened: list[OpenedZone] = []
        for region, zone in zones:
            with suppress(StoreError):
                opened.append(self._open(region, zone))
        return opened

    def _zones_of(self, slot: Slot) -> list[OpenedZone]:
        region = self._regions.get(slot.key.region)
        every = slot.zone == ALL_ZONES
        return [self._open(region, zone) for zone in region.zones if every or zone.name == slot.zone]

    def close(self) -> None:
        """Close the connections. The locator must not be used afterwards."""
        self.health.close()
        with self._lock:
            for zoned in self._zoned.values():
                zoned.close()
            for zone in self._zones.values():
                zone.close()

    def _report_each_zone(
        self, region: Region, report: Callable[[OpenedZone], ZoneReport], zones: Sequence[Zone] | None = None
    ) -> list[ZoneReport]:
        def run(zone: Zone) -> ZoneReport:
            try:
                return report(self._open(region, zone))
            except StoreError as error:  # The AWS profile does not exist.
                return report_unopened(region, zone, error)

        self.health.refresh()  # An answer closes the zone's circuit, even if another process opened the circuit.
        chosen = region.zones if zones is None else zones
        # One wait for all zones that do not answer. A caller that gives the wait up can end its process.
        return [outcome.value for outcome in ask_all([partial(run, zone) for zone in chosen])]

    def _all_zones(self, region: Region) -> ZoneRedundantStore:
        with self._lock:
            known = self._zoned.get(region.name)
        if known is not None:
            return known
        zones = {zone.name: self._open(region, zone) for zone in region.zones}
        self._admit_zones(region, zones)
        zoned = ZoneRedundantStore(
            {name: zone.guarded for name, zone in zones.items()},
            avoided=partial(self.health.is_avoided, region.name),
            down=partial(self.health.is_down, region.name),
            late=lambda zone, age_seconds: self.health.count_late((region.name, zone), age_seconds),
        )
        with self._lock:
            return self._zoned.setdefault(region.name, zoned)

    def _admit_zones(self, region: Region, zones: Mapping[str, OpenedZone]) -> None:
        """Check that two zones can be used, without waiting for a late zone once two can.

        One zone with the wrong store counts as unavailable. Two such zones refuse the region.
        """
        opened = list(zones.items())
        usable = 0
        wrong: list[StoreError] = []
        awaited = {name for name in zones if not self.health.is_avoided(region.name, name)}
        for outcome in race([partial(_admit_if_usable, zone) for _, zone in opened], at_once=len(opened)):
            name = opened[outcome.place][0]
            awaited.discard(name)
            if outcome.late:
                self.health.count_late((region.name, name), outcome.age_seconds)
            elif outcome.error is not None:
                wrong.append(outcome.error)
                if len(wrong) > len(opened) - QUORUM:
                    raise wrong[0]
            else:
                usable += outcome.value
            if usable >= QUORUM and not awaited:
                return

    def _open_by_name(self, region: str, zone: str) -> None:
        """Open a zone from another process's record, if regions.yaml still contains the zone."""
        found = self._regions.regions.get(region)
        for each in found.zones if found else ():
            if found is not None and each.name == zone:
                self._open(found, each)

    def _open(self, region: Region, zone: Zone) -> OpenedZone:
        with self._lock:
            known = self._zones.get((region.name, zone.name))
            if known is None:
                known = self._zones[region.name, zone.name] = self._build(region, zone)
            return known

    def _build(self, region: Region, zone: Zone) -> OpenedZone:
        mark = FormatMark(installation=self._installation_uid, region=region.name, zone=zone.name)
        meter = self._meters[region.name]
        if zone.endpoint is None:
            folder = self._home / "regions" / zone.bucket / f"zone-{zone.name}"
            directory = DirectoryStore(folder, self._space, home=self._home)
            return EmbeddedZone(mark, directory, folder, meter, self._shared)
        # boto3 takes 0.3 s to load, which commands on directories should not need.
        from imgstore.stores.s3.store import S3Store  # noqa: PLC0415

        # Pass the credentials explicitly, so that `environ` decides. Temporary credentials have a third part: boto3
        # finds all three parts itself.
        from_environ = zone.profile is None and not self._environ.get("AWS_SESSION_TOKEN")
        s3 = S3Store(
            endpoint=zone.endpoint,
            bucket=zone.bucket,
            profile=zone.profile,
            signing_region=zone.signing_region,
            path_style=zone.path_style,
            access_key=self._environ.get("AWS_ACCESS_KEY_ID") if from_environ else None,
            secret_key=self._environ.get("AWS_SECRET_ACCESS_KEY") if from_environ else None,
        )
        return S3Zone(mark, s3, meter, self._policy, self._shared)


def _read_versioning(zone: OpenedZone) -> VersionedZone | None:
    """Read whether the store of a zone keeps old versions; None for a store that keeps none.

    Raises:
        StoreError: the zone cannot be used, or does not answer.
    """
    zone.guarded.open_store()
    versions = zone.versions()
    if versions is None:
        return None
    try:
        versioning = versions.read_versioning()
    except StoreSilent:
        raise
    except StoreError:
        versioning = Versioning(state=VersioningState.UNKNOWN)
    if versioning.state is VersioningState.OFF:
        return None
    return VersionedZone(region=zone.mark.region, zone=zone.mark.zone, versions=versions, versioning=versioning)


def _admit_if_usable(zone: OpenedZone) -> bool:
    """Return whether a zone of three can be used now. The guard checks an unusable zone again before any later use.

    Any failure of a directory makes the zone unavailable. A bucket that was never created is a mistake in regions.yaml.

    Raises:
        StoreError: the store is the wrong one, or the bucket was never created.
    """
    lost = StoreError if isinstance(zone, EmbeddedZone) else (StoreUnreachable, StoreDenied)
    try:
        zone.guarded.open_store()
    except StoreMismatch:
        raise
    except lost:
        return False
    return True
