"""A zone with its store: what lets it be used, looks at it, and makes it ready."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from imgstore.domain.errors import Conflict, ObjectNotFound, StoreError, StoreMismatch, StoreUnreachable
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.object_keys import FORMAT_KEY, checkpoint_key, zone_uid_key
from imgstore.domain.storage.zones import ZoneKind, ZoneRecord
from imgstore.regions.format_mark import FormatMark
from imgstore.regions.health import CircuitBreakers
from imgstore.regions.identity import (
    Consent,
    ZoneObjects,
    ZoneRegistry,
    check_kind,
    missing_zone_error,
    other_content_error,
    other_zone_error,
    read_zone_objects,
)
from imgstore.regions.model import Region, Zone
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import ObjectStore, StoreProperties
from imgstore.stores.wrappers.deferred import DeferredStore
from imgstore.stores.wrappers.hedging import ask_briefly
from imgstore.stores.wrappers.metering import MeteredStore, TrafficMeter
from imgstore.stores.wrappers.parallel import ParallelLimitedStore
from imgstore.stores.wrappers.retry import RetryingStore, RetryPolicy
from imgstore.stores.wrappers.watched import Watch, WatchedStore

if TYPE_CHECKING:
    from imgstore.stores.s3.store import S3Store


_CHECKPOINTS_MAX: Final = 64
"""So many stay in a zone before the old ones are removed, in one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneReport:
    """What was found of one zone."""

    region: str
    zone: str
    store: str
    """The store's name: "s3 http://127.0.0.1:9000/imgstore-eastus"."""
    reachable: bool
    """It answered, if only with a refusal."""
    bucket_exists: bool
    """The bucket or folder is there. An embedded one need not be: it is made at its first use."""
    marked: bool
    """It bears the mark of this installation, region and zone."""
    properties: StoreProperties | None
    """What the store promises; None where nobody has asked it yet."""
    answer_seconds: float | None = field(default=None, compare=False)
    """How long it took to read the mark, over a connection that stood: about one way there and back. None where it bears
    none."""
    problem: str | None = None
    """What keeps the zone from being used, and what to do about it; None where nothing does."""


def report_unopened(region: Region, zone: Zone, error: StoreError) -> ZoneReport:
    """What there is to say of a zone whose store could not even be named."""
    return ZoneReport(
        region=region.name,
        zone=zone.name,
        store=f"s3 {zone.endpoint}/{zone.bucket}",
        reachable=False,
        bucket_exists=False,
        marked=False,
        properties=None,
        problem=_told(error),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneContext:
    """What all zones of a process share."""

    health: CircuitBreakers
    registry: ZoneRegistry
    new_uid: Callable[[], str]
    """Gives a zone its uid, and a probe its key."""


class OpenedZone(ABC):
    """A zone with its store. Made by the locator, once."""

    kind: ClassVar[ZoneKind]

    def __init__(self, mark: FormatMark, store: ObjectStore, watch: Watch, shared: ZoneContext) -> None:
        """Nothing is asked yet.

        Args:
            mark: what the zone has to bear.
            store: the zone's store, with all that wraps it.
            watch: told how requests end.
            shared: what all zones of a process share.
        """
        self.mark = mark
        self.store = store
        self.watch = watch
        self.guarded = GuardedStore(store, self._admit_watched, self.is_same)
        self.checkpoints: list[Checkpoint] = []
        """Those of the catalog that the zone holds, as last listed and as put since."""
        self._registry = shared.registry
        self._new_uid = shared.new_uid

    @abstractmethod
    def exists(self) -> bool:
        """Whether the bucket or folder is there."""

    @abstractmethod
    def begin(self) -> None:
        """Use a zone for the first time: make it, or raise the `StoreError` that says that `init` has to."""

    def _admit_watched(self) -> None:
        """Admit the zone. A store that answers and is the wrong one cannot serve either.

        How its requests ended the store itself has told the watch; what the catalog raised says nothing of the store.
        """
        try:
            self.admit()
        except StoreError as error:
            if error.target != self.store.name:
                raise
            with self.watch.request():
                raise

    @abstractmethod
    def trust(self, mark: FormatMark) -> None:
        """Take the zone for the right one from now on; `mark` is its FORMAT object."""

    @abstractmethod
    def create(self) -> None:
        """Make the bucket or folder, unless it exists."""

    @abstractmethod
    def probe(self) -> None:
        """Find out by trying what the store promises, and write that into its FORMAT object."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds."""

    def is_same(self) -> bool:
        """Whether the store is certainly the one that was admitted."""
        return True

    def admit(self) -> None:
        """Let the zone be used. A zone that was never recorded is recorded.

        Raises:
            StoreMismatch: it is not the zone that the catalog recorded, or not this installation's.
            StoreError: it does not answer, or was not made ready.
        """
        record, mark = self._record(), self.read_mark()
        if record is None and mark is None:
            if self._was_used_unrecorded():
                raise missing_zone_error(self.mark.region, self.mark.zone, self.store.name, None)
            self.begin()
            mark = self.read_mark()
        objects = self._verify(record, mark)
        if record is None:
            self._adopt(objects)
        if mark is not None:
            self.trust(mark)
        self.compare_checkpoints(objects)

    def compare_checkpoints(self, objects: ZoneObjects | None = None) -> None:
        """Compare the zone's checkpoints with the catalog, which remembers what it does not know.

        Args:
            objects: what was listed a moment ago; None lists now.
        """
        found = (objects or read_zone_objects(self.store)).checkpoints
        self.checkpoints = list(self._registry.filter_known_checkpoints(self.mark.region, self.mark.zone, found))

    def refresh_checkpoints(self) -> None:
        """Compare the zone's checkpoints with the catalog now. Raises as `admit`."""
        if self.guarded.is_open:
            self.guarded.open_store()
            self.compare_checkpoints()
        else:
            self.guarded.open_store()  # Which compares them.

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take note of a checkpoint that was put into the zone, and remove old ones when they are many."""
        self.checkpoints = [*self.checkpoints, checkpoint]
        if len(self.checkpoints) > _CHECKPOINTS_MAX:
            *old, newest = sorted(self.checkpoints)
            self.checkpoints = [newest]
            # They are in nobody's way: the next process lists them, and removes them.
            ask_briefly(lambda: self.store.delete(checkpoint_key(each.name) for each in old))

    def delete_unknown_checkpoints(self) -> None:
        """Remove the checkpoints that the catalog does not know: an operator accepted it as it is.

        Raises:
            StoreError: the zone cannot be used, or does not answer.
        """
        store = self.guarded.open_store()
        found = read_zone_objects(store).checkpoints
        known = self._registry.filter_known_checkpoints(self.mark.region, self.mark.zone, found)
        store.delete(checkpoint_key(each.name) for each in sorted(set(found) - set(known)))

    def prepare(self, consent: Consent = Consent.NONE, *, others_serve: bool = False) -> None:
        """Make what the zone needs to be admitted. May be repeated.

        Args:
            consent: what the operator said of this zone.
            others_serve: two other zones have all that this one should have.

        Raises:
            StoreMismatch: the store is not the recorded one, and the operator's consent does not go so far.
            StoreError: it could not be made ready.
        """
        fault = self._fault()
        if fault is not None and self._is_used() and not self._is_permitted(consent, others_serve=others_serve):
            raise fault
        self.create()
        self._lay_or_mend_mark(mend=consent is not Consent.NONE)
        if fault is not None:
            self._record_anew()
        self.probe()
        self.admit()

    def _record(self) -> ZoneRecord | None:
        """The catalog's record, where it is of this kind of store."""
        record = self._registry.find(self.mark.region, self.mark.zone)
        if record is not None:
            check_kind(record, self.kind, self.store.name)
        return record

    def _is_used(self) -> bool:
        """Whether something that the catalog knows should lie in the zone. A slot without a manifest holds nothing."""
        return bool(self._registry.list_sample_keys(self.mark.region, self.mark.zone))

    def _was_used_unrecorded(self) -> bool:
        """Whether a zone without a record should have content all the same: older code made no records."""
        return not self._registry.records_every_zone() and self._is_used()

    def _verify(self, record: ZoneRecord | None, mark: FormatMark | None) -> ZoneObjects:
        """See that the store's mark is ours and, where the catalog has a record, that it holds the zone's uid."""
        if mark is None:
            raise missing_zone_error(self.mark.region, self.mark.zone, self.store.name, record)
        self.mark.check(mark, where=self.store.name)
        objects = read_zone_objects(self.store)
        if record is not None and record.uid not in objects.uids:
            raise other_zone_error(record, self.store.name, objects.uids)
        return objects

    def _adopt(self, objects: ZoneObjects) -> None:
        """Record a zone that an older imgstore made, or that a process began and did not live to record.

        The uid's object comes first. A process that is killed between the two leaves an object that the next one
        records. Of two processes one records, and the other finds that uid in the zone.
        """
        self._check_content()
        uid = min(objects.uids, default=None) or self._put_uid()
        record = self._registry.add(self._as_record(uid))
        check_kind(record, self.kind, self.store.name)
        if record.uid != uid and record.uid not in (uids := read_zone_objects(self.store).uids):
            raise other_zone_error(record, self.store.name, uids)

    def _record_anew(self) -> None:
        """Record this store in the place of the former one. Its own uid, if it has the recorded one, stays."""
        record = self._registry.find(self.mark.region, self.mark.zone)
        if record is not None and record.kind is self.kind and record.uid in read_zone_objects(self.store).uids:
            return
        self._registry.replace(self._as_record(self._put_uid()))

    def _put_uid(self) -> str:
        uid = self._new_uid()
        self.store.put(zone_uid_key(uid), b"")
        return uid

    def _as_record(self, uid: str) -> ZoneRecord:
        return ZoneRecord(region=self.mark.region, zone=self.mark.zone, uid=uid, kind=self.kind, place=self.store.name)

    def _check_content(self) -> None:
        """Refuse a store without a record that lacks most of what the catalog says of it, whatever its FORMAT says."""
        if self._registry.records_every_zone():
            return
        wanted = self._registry.list_sample_keys(self.mark.region, self.mark.zone)
        missing = sum(not self._has(key) for key in wanted)
        if missing * 2 > len(wanted):
            raise other_content_error(self.mark.region, self.mark.zone, self.store.name, missing, len(wanted))

    def _has(self, key: str) -> bool:
        try:
            self.store.head(key)
        except ObjectNotFound:
            return False
        return True

    def _fault(self) -> StoreMismatch | None:
        """Why the store is not the one that the catalog knows; None where it is, or where the catalog knows none."""
        try:
            record = self._record()
            if record is None and not self._was_used_unrecorded():
                return None
            if not self.exists():
                return missing_zone_error(self.mark.region, self.mark.zone, self.store.name, record)
            self._verify(record, self.read_mark())
            if record is None:
                self._check_content()
        except StoreMismatch as error:
            return error
        return None

    def _is_permitted(self, consent: Consent, *, others_serve: bool) -> bool:
        """Whether a store that is not the recorded one may be made ready although the catalog has content in it."""
        if consent is not Consent.REPAIR:
            return consent is Consent.REPLACED
        if not self.exists():
            return others_serve
        record = self._record()
        if record is not None and record.uid in read_zone_objects(self.store).uids:
            return True
        is_empty = all(info.key == FORMAT_KEY for info in islice(self.store.list(""), 2))
        return others_serve and (is_empty or self._is_ours())

    def _is_ours(self) -> bool:
        """Whether the store holds something that the catalog knows of, whatever its FORMAT says."""
        record = self._registry.find(self.mark.region, self.mark.zone)
        if record is not None and record.uid in read_zone_objects(self.store).uids:
            return True
        prefixes = self._registry.list_prefixes(self.mark.region, self.mark.zone)
        return any(next(iter(self.store.list(prefix)), None) is not None for prefix in prefixes)

    def _lay_or_mend_mark(self, *, mend: bool) -> None:
        """Give the zone its FORMAT object; one that is missing or unreadable is written again where `mend` allows it."""
        try:
            self.create_mark()
        except StoreMismatch:
            if not mend or not self._is_unmarked() or not self._is_ours():
                raise
            self.store.put(FORMAT_KEY, self.mark.encode())

    def _is_unmarked(self) -> bool:
        try:
            return self.read_mark() is None
        except StoreMismatch:
            return True

    def look(self, monotonic: Callable[[], float] = time.monotonic) -> ZoneReport:
        """What there is, changing nothing."""
        report = ZoneReport(
            region=self.mark.region,
            zone=self.mark.zone,
            store=self.store.name,
            reachable=True,
            bucket_exists=False,
            marked=False,
            properties=None,
        )
        try:
            with self.watch.request():
                report = replace(report, bucket_exists=self.exists())
            record = self._record()
            began = monotonic()
            mark = self.read_mark() if report.bucket_exists else None
            if mark is None and (record is not None or self._was_used_unrecorded()):
                raise missing_zone_error(self.mark.region, self.mark.zone, self.store.name, record)
            if mark is None:
                return replace(report, problem=self._unready())
            report = replace(report, answer_seconds=monotonic() - began)
            self._verify(record, mark)
            if record is None:
                self._check_content()
        except StoreError as error:
            return replace(report, reachable=not isinstance(error, StoreUnreachable), problem=_told(error))
        return replace(report, marked=True, properties=mark.properties)

    def look_made_ready(self, consent: Consent = Consent.NONE, *, others_serve: bool = False) -> ZoneReport:
        """What there is, once the zone was made ready, or why it could not be. Arguments as `prepare`."""
        try:
            self.prepare(consent, others_serve=others_serve)
        except StoreError as error:
            return replace(self.look(), problem=_told(error))
        return self.look()

    def _unready(self) -> str | None:
        """What is wrong with a zone that bears no mark."""
        foreign = self._foreign()
        return None if foreign is None else _told(foreign)

    def _foreign(self) -> StoreMismatch | None:
        """The error for a zone that bears no mark and holds something all the same."""
        occupied = next(iter(self.store.list("")), None)
        if occupied is None:
            return None
        return StoreMismatch(
            f"{self.store.name} belongs to something else.",
            found=f"no FORMAT object, but '{occupied.key}' and perhaps more",
            expected="a bucket or folder that is empty, or that imgstore has made",
            hint="mend the endpoint or mount point of the zone, or give the region another bucket in regions.yaml",
            target=self.store.name,
        )

    def read_mark(self) -> FormatMark | None:
        """The mark that the zone bears.

        Raises:
            StoreMismatch: there is one that can't be read.
        """
        try:
            body = self.store.get(FORMAT_KEY)
        except ObjectNotFound:
            return None
        return FormatMark.decode(body, where=self.store.name)

    def create_mark(self) -> FormatMark:
        """Make the zone ours where it is nobody's; the mark that it bears then.

        Raises:
            StoreMismatch: it is someone's.
        """
        found = self.read_mark()
        if found is None:
            foreign = self._foreign()
            found = self.read_mark()  # whoever puts anything puts the mark first: this process was not the only one
            if found is None and foreign is not None:
                raise foreign
        if found is None:
            with suppress(Conflict):
                self.store.put(FORMAT_KEY, self.mark.encode(), only_if_absent=True)
            found = self.read_mark()
        if found is None:  # Not an absent object: nothing that this zone says of any object may be believed.
            raise StoreError(
                f"{self.store.name} takes no mark.",
                found="no FORMAT object after one was put",
                expected="a folder or bucket that keeps what it is given",
                hint="see what lies in its place",
                target=self.store.name,
            )
        self.mark.check(found, where=self.store.name)
        return found


class EmbeddedZone(OpenedZone):
    """A directory under the data home, made at its first use, and at no other."""

    kind = ZoneKind.DIRECTORY

    def __init__(
        self, mark: FormatMark, directory: DirectoryStore, folder: Path, meter: TrafficMeter, shared: ZoneContext
    ) -> None:
        """See `OpenedZone`; `directory` is the store of `folder`, which need not exist."""
        watch = shared.health.watch(mark.region, mark.zone, lambda: directory.get(FORMAT_KEY))
        marked = replace(mark, properties=DirectoryStore.properties)
        super().__init__(marked, WatchedStore(MeteredStore(directory, meter), watch), watch, shared)
        self._directory = directory
        self._folder = folder

    def exists(self) -> bool:
        """See `OpenedZone.exists`."""
        return os.path.isdir(self._folder)

    def is_same(self) -> bool:
        """See `OpenedZone.is_same`. A file system that is mounted or unmounted makes it another folder."""
        return self._directory.is_pinned()

    def begin(self) -> None:
        """See `OpenedZone.begin`."""
        self.create()
        self.create_mark()

    def trust(self, mark: FormatMark) -> None:
        """See `OpenedZone.trust`."""
        self._directory.pin()

    def create(self) -> None:
        """See `OpenedZone.create`. The folder is made by the first put."""
        self._directory.unpin()

    def probe(self) -> None:
        """See `OpenedZone.probe`. There is nothing to find out."""

    def close(self) -> None:
        """See `OpenedZone.close`. A directory holds nothing."""


class S3Zone(OpenedZone):
    """A bucket behind an endpoint. Only `prepare` makes it."""

    kind = ZoneKind.S3

    def __init__(
        self, mark: FormatMark, s3: "S3Store", meter: TrafficMeter, policy: RetryPolicy | None, shared: ZoneContext
    ) -> None:
        """See `OpenedZone`. The zone's mark tells the store what it promises."""
        watch = shared.health.watch(mark.region, mark.zone, lambda: s3.get(FORMAT_KEY))
        super().__init__(
            mark,
            RetryingStore(ParallelLimitedStore(WatchedStore(MeteredStore(s3, meter), watch)), policy=policy),
            watch,
            shared,
        )
        self._s3 = s3

    def exists(self) -> bool:
        """See `OpenedZone.exists`. Asked once, without patience: a person waits for the answer."""
        return self._s3.bucket_exists()

    def begin(self) -> None:
        """See `OpenedZone.begin`."""
        raise self._not_made_ready()

    def trust(self, mark: FormatMark) -> None:
        """See `OpenedZone.trust`."""
        if mark.properties is not None:
            self._s3.properties = mark.properties

    def create(self) -> None:
        """See `OpenedZone.create`."""
        self._s3.create_bucket()

    def probe(self) -> None:
        """See `OpenedZone.probe`. Tried each time, since servers are replaced."""
        from imgstore.stores.s3.probe import probe_properties  # noqa: PLC0415 -- loaded already: there is an S3Store

        mark = replace(self.mark, properties=probe_properties(self._s3, self._new_uid()))
        if mark != self.read_mark():
            self.store.put(FORMAT_KEY, mark.encode())

    def close(self) -> None:
        """See `OpenedZone.close`."""
        self._s3.close()

    def _unready(self) -> str:
        return super()._unready() or _told(self._not_made_ready())

    def _not_made_ready(self) -> StoreError:
        return StoreError(
            f"{self.store.name} was not made ready.",
            found="no FORMAT object",
            expected=f"a bucket that was made for zone {self.mark.zone} of {self.mark.region}",
            hint="run `imgstore regions init`; first see that the endpoint in regions.yaml is the right one",
            target=self.store.name,
        )


def _told(error: StoreError) -> str:
    """An error on one line, as tables want it."""
    return "; ".join(line.strip() for line in str(error).splitlines())


class GuardedStore(DeferredStore):
    """A zone's store that does nothing before its mark and uid were found right.

    Where a zone of three does not answer at first, it is still checked before it is trusted with anything, whenever it
    comes back. Several threads may check at the same time: that costs a request each and does no harm.
    """

    def __init__(
        self, store: ObjectStore, admit: Callable[[], None], is_same: Callable[[], bool] = lambda: True
    ) -> None:
        """Check nothing yet.

        Args:
            store: the zone's store.
            admit: raises `StoreMismatch` where it is the wrong one, `StoreError` where it cannot be used.
            is_same: whether it is certainly still the one that was admitted; asked before each request.
        """
        super().__init__(store.name, self._checked)
        self._store = store
        self._admit = admit
        self._is_same = is_same

    def open_store(self) -> ObjectStore:
        """See `DeferredStore.open_store`. A store that may have become another one is checked again."""
        if self._opened is not None and not self._is_same():
            self._opened = None
        return super().open_store()

    def _checked(self) -> ObjectStore:
        self._admit()
        return self._store

    @property
    def properties(self) -> StoreProperties:
        """The properties of the store within."""
        return self._store.properties
