"""Gives the store that a slot lies in, and looks after the zones: are they there, are they ours, what do they promise.

For a zone with an endpoint the store is ``RetryingStore(ParallelLimitedStore(WatchedStore(MeteredStore(S3Store))))``, for an embedded one
``WatchedStore(MeteredStore(DirectoryStore))``: the watch keeps the zone's circuit (``health.py``). Each is behind a guard that
reads the zone's mark and uid first (``zones.py``, ``api/arm/login.py``); for ZRS it is ``Zoned`` over the three. An embedded
zone is made at its first use, and never again. A bucket is made by `init` and by nothing else, so that a mistyped
endpoint gives an error and not a second, empty home for the data.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType

from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreDenied, StoreError, StoreMismatch, StoreUnreachable
from imgstore.domain.resources import Slot, SlotKey, StorageAccountType
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.circuits import HealthRecords
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.object_keys import checkpoint_key
from imgstore.regions.format_mark import FormatMark
from imgstore.regions.health import CircuitBreakers
from imgstore.regions.identity import Consent, ZoneRegistry
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
from imgstore.regions.zones import EmbeddedZone, OpenedZone, S3Zone, ZoneContext, ZoneReport, report_unopened
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import ObjectStore
from imgstore.stores.wrappers.bandwidth_limit import BandwidthLimitedStore, TokenBucket, Wait
from imgstore.stores.wrappers.hedging import race
from imgstore.stores.wrappers.metering import Traffic, TrafficMeter
from imgstore.stores.wrappers.retry import RetryPolicy
from imgstore.stores.zone_redundant import QUORUM, Zoned


class Locator:
    """The stores of an installation, each made once. Safe to use from several threads at once."""

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
        """Nothing is opened yet.

        Args:
            regions: what regions.yaml says.
            home: the data home, under which embedded zones lie.
            installation_uid: what a zone's mark must name.
            environ: where AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are looked for.
            effects: gives the keys of probes and the uids of zones.
            space: whose reserve of free space embedded zones keep.
            registry: what the catalog knows of zones.
            meters: makes the meter of a region.
            policy: how patient to be with endpoints; None is the usual one.
            buckets: makes the token bucket of a pair of regions, from its bytes per second.
            records: where the circuits of zones are shared with other processes; None shares them with nobody.
        """
        self.health = CircuitBreakers(monotonic=effects.monotonic, records=records, open_zone=self._open_named)
        self._shared = ZoneContext(health=self.health, registry=registry, new_uid=effects.new_uid)
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
        self._zoned: dict[str, Zoned] = {}
        self._new_bucket = buckets
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def choose_zone(self, slot_key: SlotKey) -> tuple[str, str]:
        """Where a new slot is to lie: (zone, bucket). Asked once; the slot's row keeps the answer (invariant S5).

        Pools start at different zones and their ordinals go round from there, so that the replicas of one version lie
        in as many zones as there are.
        """
        region = self._regions.get(slot_key.region)
        if slot_key.storage_account_type is StorageAccountType.STANDARD_ZRS:
            return ALL_ZONES, region.bucket
        first = int.from_bytes(digest_of(slot_key.pool_uid.encode())[:8], "big")
        zone = region.zones[(first + slot_key.ordinal) % len(region.zones)]
        return zone.name, zone.bucket

    def store(self, slot: Slot) -> ObjectStore:
        """The store in which the slot's keys lie, its mark checked.

        Raises:
            InvalidInput: regions.yaml no longer has the slot's region.
            StoreMismatch: the slot's zone or bucket is not what regions.yaml says, or bears another mark.
            StoreError: the zone was not made ready (`init`), or does not answer.
        """
        region = self._regions.get(slot.key.region)
        every = slot.zone == ALL_ZONES and region.policy is Policy.ZRS
        zones = [zone for zone in region.zones if every or zone.name == slot.zone]
        bucket = zones[0].bucket if len(zones) == 1 else region.bucket
        if not zones or bucket != slot.bucket:
            raise StoreMismatch(
                f"Slot {slot.key} lies where {self._regions.path} does not look.",
                found=f"region {region.name} of policy {region.policy}, bucket '{bucket}', "
                f"zones {', '.join(zone.name for zone in region.zones)}",
                expected=f"bucket '{slot.bucket}', zone {slot.zone}",
                hint=f"give region {region.name} back the bucket, the zones and the endpoints that it had",
                target=region.name,
            )
        if every:
            return self._all_zones(region)
        guarded = self._open(region, zones[0]).guarded
        guarded.open_store()
        return guarded

    def store_across(self, slot: Slot, region: str, wait: Wait) -> ObjectStore:
        """The slot's store as `region` reads it: within the bandwidth of the pair, where regions.yaml sets one.

        All that this process carries from the one region to the other shares that bandwidth. Raises as `store`.

        Args:
            slot: what is read.
            region: where the bytes go.
            wait: sleeps so many seconds; may raise to end the reading.
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

    def is_avoided(self, slot: Slot) -> bool:
        """Whether another slot is to be preferred: its store does not answer, as far as is known here.

        A slot in three zones is avoided when two of them are. No request is sent; see `CircuitBreakers.refresh`.
        """
        region = self._regions.regions.get(slot.key.region)
        if region is None:
            return True
        if slot.zone != ALL_ZONES:
            return self.health.is_avoided(region.name, slot.zone)
        return sum(self.health.is_avoided(region.name, zone.name) for zone in region.zones) >= QUORUM

    def find_unavailable_zones(self) -> frozenset[tuple[str, str]]:
        """The zones (region, zone) that do not answer; those that were not heard of lately are probed first."""
        names = [(region.name, zone.name) for region in self._regions.regions.values() for zone in region.zones]
        self.health.probe_idle_zones(names)
        return frozenset(name for name in names if self.health.is_avoided(*name))

    def note_late(self, slot: Slot, age_seconds: float) -> None:
        """A request to the slot is not answered yet. Of a slot in three zones, each zone is watched by itself."""
        if slot.zone != ALL_ZONES:
            self.health.count_late((slot.key.region, slot.zone), age_seconds)

    def meter(self, region: str) -> TrafficMeter:
        """What counts the bytes to and from a region's stores."""
        return self._meters[self._regions.get(region).name]

    def traffic(self) -> Mapping[str, Traffic]:
        """What was counted so far, by region."""
        return MappingProxyType({name: meter.traffic for name, meter in self._meters.items()})

    def check(self, region: Region) -> list[ZoneReport]:
        """Look at each zone of a region, changing nothing."""
        return self._of_each_zone(region, OpenedZone.look)

    def init(
        self, region: Region, *, zones: Collection[str] | None = None, consent: Consent = Consent.NONE
    ) -> list[ZoneReport]:
        """Make zones of a region ready: the bucket, the marks, and what the store promises, found out by trying.

        May be repeated: what is there stays, and the promises are found out anew, as is wanted after a server was
        replaced by another.

        Args:
            region: whose zones.
            zones: their names; None is every zone.
            consent: what the operator said of these zones, where one is not the store that the catalog recorded.
        """
        chosen = [zone for zone in region.zones if zones is None or zone.name in zones]
        serving: frozenset[str] = frozenset()
        if consent is not Consent.NONE and region.policy is Policy.ZRS:
            reports = self.check(region)
            serving = frozenset(each.zone for each in reports if each.marked and each.problem is None)

        def made_ready(zone: OpenedZone) -> ZoneReport:
            others_serve = len(serving - {zone.mark.zone}) >= QUORUM
            return zone.look_made_ready(consent, others_serve=others_serve)

        return self._of_each_zone(region, made_ready, chosen)

    def put_checkpoint(self, slot: Slot, checkpoint: Checkpoint) -> None:
        """Prove in the zones of a slot how far the catalog has come. The catalog has recorded the checkpoint before.

        Raises:
            StoreError: as `store`; or it could not be put.
        """
        store, key = self.store(slot), checkpoint_key(checkpoint.name)
        if isinstance(store, Zoned):
            store.put_without_notes(key, b"")
        else:
            store.put(key, b"")
        for zone in self._zones_of(slot):
            zone.add_checkpoint(checkpoint)

    def refresh_checkpoints(self, slots: Iterable[Slot] | None = None) -> None:
        """Have the catalog compare the checkpoints of zones with its own. Zones that do not answer are passed over.

        Args:
            slots: those whose zones are looked at; None looks at every zone that was ever used.
        """
        if slots is None:
            zones = self._recorded_zones()
        else:
            zones = list({id(zone): zone for slot in slots for zone in self._zones_of(slot)}.values())
        self._look_at(zones, OpenedZone.refresh_checkpoints)

    def delete_unknown_checkpoints(self) -> list[str]:
        """Remove the checkpoints that the catalog does not know from every zone that was ever used.

        Returns:
            What went wrong, a line for each zone that could not be looked at.
        """
        return self._look_at(self._recorded_zones(), OpenedZone.delete_unknown_checkpoints)

    @staticmethod
    def _look_at(zones: Sequence[OpenedZone], look: Callable[[OpenedZone], None]) -> list[str]:
        """`look` at zones at once; what went wrong, a line each."""

        def looked(zone: OpenedZone) -> str | None:
            try:
                look(zone)
            except StoreError as error:
                return f"zone {zone.mark.zone} of {zone.mark.region}: {error.message}"
            return None

        if not zones:
            return []
        with ThreadPoolExecutor(len(zones)) as pool:
            return [problem for problem in pool.map(looked, zones) if problem is not None]

    def read_marked_zones(self) -> Mapping[str, str]:
        """The zones on S3 that answer and are marked: whose they are (an installation's uid), by the store's name."""
        s3 = [region for region in self._regions.regions.values() if not region.embedded]
        found: dict[str, str] = {}

        def look(zone: OpenedZone) -> None:
            mark = zone.read_mark()
            if mark is not None:
                found[zone.store.name] = mark.installation

        opened: list[OpenedZone] = []
        for region in s3:
            with suppress(StoreError):  # A profile that is not there.
                opened += [self._open(region, zone) for zone in region.zones]
        self._look_at(opened, look)
        return found

    def _recorded_zones(self) -> list[OpenedZone]:
        every = [(region, zone) for region in self._regions.regions.values() for zone in region.zones]
        found = self._shared.registry.find
        return [self._open(region, zone) for region, zone in every if found(region.name, zone.name) is not None]

    def _zones_of(self, slot: Slot) -> list[OpenedZone]:
        region = self._regions.get(slot.key.region)
        every = slot.zone == ALL_ZONES
        return [self._open(region, zone) for zone in region.zones if every or zone.name == slot.zone]

    def close(self) -> None:
        """Give the connections back. The locator is of no use afterwards."""
        self.health.close()
        with self._lock:
            for zoned in self._zoned.values():
                zoned.close()
            for zone in self._zones.values():
                zone.close()

    def _of_each_zone(
        self, region: Region, look: Callable[[OpenedZone], ZoneReport], zones: Sequence[Zone] | None = None
    ) -> list[ZoneReport]:
        def looked(zone: Zone) -> ZoneReport:
            try:
                return look(self._open(region, zone))
            except StoreError as error:  # a profile that is not there
                return report_unopened(region, zone, error)

        self.health.refresh()  # A zone that answers here closes its circuit, also the one that another process opened.
        with ThreadPoolExecutor(len(region.zones)) as pool:  # so that zones that do not answer are waited for together
            return list(pool.map(looked, region.zones if zones is None else zones))

    def _all_zones(self, region: Region) -> Zoned:
        with self._lock:
            known = self._zoned.get(region.name)
        if known is not None:
            return known
        zones = {zone.name: self._open(region, zone) for zone in region.zones}
        self._admit_zones(region, zones)
        zoned = Zoned(
            {name: zone.guarded for name, zone in zones.items()},
            avoided=partial(self.health.is_avoided, region.name),
            down=partial(self.health.is_down, region.name),
            late=lambda zone, age_seconds: self.health.count_late((region.name, zone), age_seconds),
        )
        with self._lock:
            return self._zoned.setdefault(region.name, zoned)

    def _admit_zones(self, region: Region, zones: Mapping[str, OpenedZone]) -> None:
        """Find out which zones can be used, and do not wait for one that is late where the two others can.

        One zone that is the wrong store counts as away. Two refuse the region.
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

    def _open_named(self, region: str, zone: str) -> None:
        """Open a zone that another process spoke of, if regions.yaml still has it."""
        found = self._regions.regions.get(region)
        for each in found.zones if found else ():
            if found is not None and each.name == zone:
                self._open(found, each)

    def _open(self, region: Region, zone: Zone) -> OpenedZone:
        with self._lock:
            known = self._zones.get((region.name, zone.name))
            if known is None:
                known = self._zones[region.name, zone.name] = self._built(region, zone)
            return known

    def _built(self, region: Region, zone: Zone) -> OpenedZone:
        mark = FormatMark(installation=self._installation_uid, region=region.name, zone=zone.name)
        meter = self._meters[region.name]
        if zone.endpoint is None:
            folder = self._home / "regions" / zone.bucket / f"zone-{zone.name}"
            directory = DirectoryStore(folder, self._space, home=self._home)
            return EmbeddedZone(mark, directory, folder, meter, self._shared)
        # boto3 takes a third of a second to load, which a command on directories should not pay.
        from imgstore.stores.s3.store import S3Store  # noqa: PLC0415

        # What boto3 would find by itself, told outright, so that `environ` decides. Temporary credentials have a third
        # part and are left to boto3.
        told = zone.profile is None and not self._environ.get("AWS_SESSION_TOKEN")
        s3 = S3Store(
            endpoint=zone.endpoint,
            bucket=zone.bucket,
            profile=zone.profile,
            signing_region=zone.signing_region,
            path_style=zone.path_style,
            access_key=self._environ.get("AWS_ACCESS_KEY_ID") if told else None,
            secret_key=self._environ.get("AWS_SECRET_ACCESS_KEY") if told else None,
        )
        return S3Zone(mark, s3, meter, self._policy, self._shared)


def _admit_if_usable(zone: OpenedZone) -> bool:
    """Tell whether a zone of three can be used now; the guard of one that cannot looks before it is ever used.

    A directory may fail in many ways, and each is a zone lost; a bucket that was never made is a mistake in regions.yaml.

    Raises:
        StoreError: it is the wrong store.
    """
    lost = StoreError if isinstance(zone, EmbeddedZone) else (StoreUnreachable, StoreDenied)
    try:
        zone.guarded.open_store()
    except StoreMismatch:
        raise
    except lost:
        return False
    return True
