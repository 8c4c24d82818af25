"""A zone with its store: the admission, inspection and preparation of a zone."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from imgstore.domain.errors import Conflict, ObjectNotFound, StoreDenied, StoreError, StoreMismatch, StoreUnreachable
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
from imgstore.stores.access import StoreAccess, probe_store
from imgstore.stores.analysis.analyzer import AnalyzedStore
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.errors import format_on_one_line
from imgstore.stores.interface import ObjectStore, StoreProperties
from imgstore.stores.object_versions import KeepsVersions, Versioning
from imgstore.stores.wrappers.deferred import DeferredStore
from imgstore.stores.wrappers.hedging import ask_briefly
from imgstore.stores.wrappers.metering import MeteredStore, TrafficMeter
from imgstore.stores.wrappers.parallel import ParallelLimitedStore
from imgstore.stores.wrappers.retry import Retrier, RetryingStore, RetryPolicy
from imgstore.stores.wrappers.watched import Watch, WatchedStore

if TYPE_CHECKING:
    from imgstore.stores.s3.store import S3Store
    from imgstore.stores.s3.versions import BucketVersions


_CHECKPOINTS_MAX: Final = 64
"""The number of checkpoints in a zone before one request removes the old ones."""
_RECHECK_SECONDS: Final = 60.0
"""The age of the last check of a zone after which a work checks the zone again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneReport:
    """The result of an inspection of one zone."""

    region: str
    zone: str
    store: str
    """The name of the store: "s3 http://127.0.0.1:9000/imgstore-eastus"."""
    reachable: bool
    """Whether the store answered, even with a refusal."""
    bucket_exists: bool
    """Whether the bucket or folder exists. The folder of an embedded zone is created at the first use."""
    marked: bool
    """Whether the zone has the mark of this installation, region and zone."""
    properties: StoreProperties | None
    """The promises of the store; None if the store was never probed."""
    answer_seconds: float | None = field(default=None, compare=False)
    """The time to read the mark over an open connection: about one round trip. None if the zone has no mark."""
    access: StoreAccess | None = None
    """The rights and locks of the store; None if the zone was not probed."""
    denied: bool = False
    """Whether the store refused the credentials."""
    problem: str | None = None
    """The reason why the zone cannot be used, and the remedy; None without a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionedZone:
    """A zone whose store keeps the versions of deleted and replaced objects, or may keep them."""

    region: str
    zone: str
    versions: KeepsVersions
    versioning: Versioning


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundZone:
    """A zone of regions.yaml as found without a catalog and without a change."""

    region: str
    zone: str
    store: ObjectStore | None
    """The store, without the check of a recorded identity. None if the AWS profile does not exist."""
    mark: FormatMark | None = None
    """The FORMAT object, or None if there is none."""
    objects: ZoneObjects = ZoneObjects(uids=frozenset(), checkpoints=())  # noqa: RUF009 - frozen
    error: StoreError | None = None
    """The reason why the zone cannot be read, or None."""


def report_unopened(region: Region, zone: Zone, error: StoreError) -> ZoneReport:
    """Report a zone whose store could not be created."""
    return ZoneReport(
        region=region.name,
        zone=zone.name,
        store=f"s3 {zone.endpoint}/{zone.bucket}",
        reachable=False,
        bucket_exists=False,
        marked=False,
        properties=None,
        problem=format_on_one_line(error),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneContext:
    """The objects that all zones of a process share."""

    health: CircuitBreakers
    registry: ZoneRegistry
    new_uid: Callable[[], str]
    """Creates the uid of a zone, and the key of a probe."""
    monotonic: Callable[[], float]


class OpenedZone(ABC):
    """A zone with its store. The locator creates each zone once."""

    kind: ClassVar[ZoneKind]

    def __init__(self, mark: FormatMark, store: ObjectStore, watch: Watch, shared: ZoneContext) -> None:
        """Create the zone without a request.

        Args:
            mark: the mark that the zone must have.
            store: the zone's store with all wrappers.
            watch: observes how requests end.
            shared: the objects that all zones of a process share.
        """
        self.mark = mark
        self.store = store
        self.watch = watch
        self.guarded = GuardedStore(store, self._admit_watched, self.is_same)
        self.checkpoints: list[Checkpoint] = []
        """The zone's checkpoints that the catalog knows, as last listed and as put since."""
        self._registry = shared.registry
        self._new_uid = shared.new_uid
        self._monotonic = shared.monotonic
        self._admitted_at = 0.0

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the bucket or folder exists."""

    @abstractmethod
    def use_first_time(self) -> None:
        """Create the zone at its first use, or raise the `StoreError` that demands `init`."""

    def _admit_watched(self) -> None:
        """Admit the zone. The wrong store cannot serve, even if the store answers.

        The store itself has already reported its requests to the watch. An error of the catalog is no evidence about
        the store.
        """
        try:
            self.admit()
        except StoreError as error:
            if error.target != self.store.name:
                raise
            with self.watch.request():
                raise

    @abstractmethod
    def accept(self, mark: FormatMark) -> None:
        """Accept the store as the right one from now on; `mark` is its FORMAT object."""

    @abstractmethod
    def create(self) -> None:
        """Create the bucket or folder, unless it exists."""

    @abstractmethod
    def probe(self) -> None:
        """Probe the promises of the store, and write the result into the FORMAT object."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of the store."""

    def versions(self) -> KeepsVersions | None:
        """Return the old versions of the store's objects; None if the store keeps none."""
        return None

    def is_same(self) -> bool:
        """Return whether the store is certainly the admitted one."""
        return True

    def admit(self) -> None:
        """Check the zone before its use. A zone without a record is recorded.

        Raises:
            StoreMismatch: the zone is not the recorded one, or belongs to another installation.
            StoreError: the zone does not answer, or was not prepared.
        """
        record, mark = self._record(), self.read_mark()
        if record is None and mark is None:
            if self._was_used_unrecorded():
                raise missing_zone_error(self.mark.region, self.mark.zone, self.store.name, None)
            self.use_first_time()
            mark = self.read_mark()
        objects = self._verify(record, mark)
        if record is None:
            self._adopt(objects)
        if mark is not None:
            self.accept(mark)
        self.compare_checkpoints(objects)
        self._admitted_at = self._monotonic()

    def recheck_if_old(self) -> None:
        """Let the next use check the zone again, if the last check is old.

        A process may run for months, and another installation may have adopted the zone meanwhile (invariant K10).
        """
        if self.guarded.is_open and self._monotonic() - self._admitted_at > _RECHECK_SECONDS:
            self.guarded.forget()

    def compare_checkpoints(self, objects: ZoneObjects | None = None) -> None:
        """Compare the zone's checkpoints with the catalog, which records that unknown checkpoints exist.

        Args:
            objects: the result of a recent listing; None lists now.
        """
        found = (objects or read_zone_objects(self.store)).checkpoints
        self.checkpoints = list(self._registry.filter_known_checkpoints(self.mark.region, self.mark.zone, found))

    def refresh_checkpoints(self) -> None:
        """Compare the zone's checkpoints with the catalog now. Raises the errors of `admit`."""
        if self.guarded.is_open:
            self.guarded.open_store()
            objects, record = read_zone_objects(self.store), self._record()
            if record is not None and record.uid not in objects.uids:
                self.guarded.forget()
                raise other_zone_error(record, self.store.name, objects.uids)
            self.compare_checkpoints(objects)
        else:
            self.guarded.open_store()  # Admission compares the checkpoints.

    def compare_if_marked(self) -> None:
        """Compare the checkpoints of a zone that the catalog has never used, if this installation has marked the zone.

        Raises:
            StoreMismatch: the zone belongs to another installation.
            StoreError: the zone does not answer.
        """
        mark = self.read_mark()
        if mark is not None:
            self.mark.check(mark, where=self.store.name)
            self.compare_checkpoints()

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint that was put into the zone, and remove old checkpoints above the limit."""
        self.checkpoints = [*self.checkpoints, checkpoint]
        if len(self.checkpoints) > _CHECKPOINTS_MAX:
            *old, newest = sorted(self.checkpoints)
            self.checkpoints = [newest]
            # A failed delete is harmless: the next process lists and removes the old checkpoints.
            ask_briefly(lambda: self.store.delete(checkpoint_key(checkpoint.name) for checkpoint in old))

    def delete_unknown_checkpoints(self) -> None:
        """Remove the checkpoints that the catalog does not know, after an operator has accepted the catalog.

        Raises:
            StoreError: the zone cannot be used, or does not answer.
        """
        store = self.guarded.open_store()
        found = read_zone_objects(store).checkpoints
        known = self._registry.filter_known_checkpoints(self.mark.region, self.mark.zone, found)
        store.delete(checkpoint_key(each.name) for each in sorted(set(found) - set(known)))

    def prepare(self, consent: Consent = Consent.NONE, *, others_serve: bool = False) -> None:
        """Create everything that admission of the zone requires. May be repeated.

        Args:
            consent: the operator's consent for this zone.
            others_serve: whether two other zones have all content of this zone.

        Raises:
            StoreMismatch: the store is not the recorded one, and the consent does not cover the store.
            StoreError: the zone could not be prepared.
        """
        fault = self._find_mismatch()
        if fault is not None and self._is_used() and not self._is_permitted(consent, others_serve=others_serve):
            raise fault
        self.create()
        self._create_or_repair_mark(repair=consent is not Consent.NONE)
        if fault is not None:
            self._replace_record()
        self.probe()
        self.admit()

    def claim(self, former: str) -> ZoneRecord:
        """Mark the zone of another installation as the zone of this installation, with an unfinished adoption (K10).

        From now on both installations refuse the zone, except the present process. May be killed and repeated.

        Args:
            former: the uid of the former installation.

        Returns:
            The identity of the zone for the catalog. The uid is new, unless the catalog has a record.

        Raises:
            StoreError: the zone does not answer.
        """
        record = self._record() or self._make_record(self._put_uid())
        self.mark = replace(self.mark, adopted_from=former)
        self._put_owner(self.mark)
        return record

    def clean_claimed(self) -> None:
        """Remove the uids and checkpoints of the former installation, after the catalog has recorded the zone."""
        record = self._record()
        assert record is not None, "the catalog records the zone with the adopted resources"
        found = read_zone_objects(self.store)
        # This installation has no checkpoint here, because the other processes refuse the zone.
        self.store.delete(checkpoint_key(each.name) for each in found.checkpoints)
        self.store.delete(zone_uid_key(uid) for uid in sorted(found.uids - {record.uid}))

    def finish_claim(self) -> None:
        """Mark the adoption of the zone as finished."""
        self.mark = replace(self.mark, adopted_from=None)
        self._put_owner(self.mark)

    def _put_owner(self, owner: FormatMark) -> None:
        """Replace the installation in the mark of the zone. The promises of the store stay."""
        found = self.read_mark()
        assert found is not None, "only a marked zone is adopted"
        wanted = replace(found, installation=owner.installation, adopted_from=owner.adopted_from)
        if wanted != found:
            self.store.put(FORMAT_KEY, wanted.encode())

    def _record(self) -> ZoneRecord | None:
        """Return the catalog's record, and refuse a record of another kind of store."""
        record = self._registry.find(self.mark.region, self.mark.zone)
        if record is not None:
            check_kind(record, self.kind, self.store.name)
        return record

    def _is_used(self) -> bool:
        """Return whether the zone should contain a known manifest. A slot without a manifest contains nothing."""
        return bool(self._registry.list_sample_keys(self.mark.region, self.mark.zone))

    def _was_used_unrecorded(self) -> bool:
        """Return whether a zone without a record should have content, because older code wrote no records."""
        return not self._registry.records_every_zone() and self._is_used()

    def _verify(self, record: ZoneRecord | None, mark: FormatMark | None) -> ZoneObjects:
        """Check the store's mark and, if the catalog has a record, the zone's uid."""
        if mark is None:
            raise missing_zone_error(self.mark.region, self.mark.zone, self.store.name, record)
        self.mark.check(mark, where=self.store.name)
        objects = read_zone_objects(self.store)
        if record is not None and record.uid not in objects.uids:
            raise other_zone_error(record, self.store.name, objects.uids)
        return objects

    def _adopt(self, objects: ZoneObjects) -> None:
        """Record a zone of an older imgstore, or of a process that was killed before it recorded the zone.

        The uid's object comes first. A process that is killed after the put leaves an object that the next process
        records. If two processes run, one records its uid, and the other finds that uid in the zone.
        """
        self._check_content()
        uid = min(objects.uids, default=None) or self._put_uid()
        record = self._registry.add(self._make_record(uid))
        check_kind(record, self.kind, self.store.name)
        if record.uid != uid and record.uid not in (uids := read_zone_objects(self.store).uids):
            raise other_zone_error(record, self.store.name, uids)

    def _replace_record(self) -> None:
        """Record this store in place of the former one. A store with the recorded uid keeps its record."""
        record = self._registry.find(self.mark.region, self.mark.zone)
        if record is not None and record.kind is self.kind and record.uid in read_zone_objects(self.store).uids:
            return
        self._registry.replace(self._make_record(self._put_uid()))

    def _put_uid(self) -> str:
        uid = self._new_uid()
        self.store.put(zone_uid_key(uid), b"")
        return uid

    def _make_record(self, uid: str) -> ZoneRecord:
        return ZoneRecord(region=self.mark.region, zone=self.mark.zone, uid=uid, kind=self.kind, place=self.store.name)

    def _check_content(self) -> None:
        """Refuse an unrecorded store in which most of the expected manifests are missing, whatever FORMAT contains."""
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

    def _find_mismatch(self) -> StoreMismatch | None:
        """Return the difference between the store and the catalog's record; None if both agree or no record exists."""
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
        """Return whether consent covers a store other than the recorded one, although the catalog has content here."""
        if consent is not Consent.REPAIR:
            return consent is Consent.REPLACED
        if not self.exists():
            return others_serve
        record = self._record()
        if record is not None and record.uid in read_zone_objects(self.store).uids:
            return True
        is_empty = all(info.key == FORMAT_KEY for info in islice(self.store.list(""), 2))
        return others_serve and (is_empty or self._has_known_objects())

    def _has_known_objects(self) -> bool:
        """Return whether the store contains objects that the catalog knows, whatever its FORMAT contains."""
        if self._has_recorded_uid():
            return True
        prefixes = self._registry.list_prefixes(self.mark.region, self.mark.zone)
        return any(next(iter(self.store.list(prefix)), None) is not None for prefix in prefixes)

    def _has_recorded_uid(self) -> bool:
        record = self._registry.find(self.mark.region, self.mark.zone)
        return record is not None and record.uid in read_zone_objects(self.store).uids

    def _create_or_repair_mark(self, *, repair: bool) -> None:
        """Create the FORMAT object.

        With `repair`, replace any object in a store with the recorded uid, and an unreadable one in a store with other
        known objects.
        """
        try:
            self.create_mark()
        except StoreMismatch:
            is_known = self._has_recorded_uid() or (self._is_unmarked() and self._has_known_objects())
            if not (repair and is_known) or self._must_keep_mark():
                raise
            self.store.put(FORMAT_KEY, self.mark.encode())

    def _must_keep_mark(self) -> bool:
        """Return whether FORMAT names another layout, or an unfinished adoption by this installation.

        A newer release may have written the other layout.
        """
        try:
            mark = self.read_mark()
        except StoreMismatch:
            return False
        if mark is None:
            return False
        is_adopting = mark.adopted_from is not None and mark.installation == self.mark.installation
        return is_adopting or mark.layout != self.mark.layout

    def _is_unmarked(self) -> bool:
        try:
            return self.read_mark() is None
        except StoreMismatch:
            return True

    def inspect(self, monotonic: Callable[[], float] = time.monotonic) -> ZoneReport:
        """Inspect the zone without a change."""
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
                return replace(report, problem=self._describe_missing_mark())
            report = replace(report, answer_seconds=monotonic() - began)
            self._verify(record, mark)
            if record is None:
                self._check_content()
        except StoreError as error:
            return replace(
                report,
                reachable=not isinstance(error, StoreUnreachable),
                denied=isinstance(error, StoreDenied),
                problem=format_on_one_line(error),
            )
        return replace(report, marked=True, properties=mark.properties)

    def inspect_with_probe(self) -> ZoneReport:
        """Inspect the zone, then put and delete a small object in it. A refused or failed probe is a problem."""
        report = self.inspect()
        if not (report.marked or report.denied):
            return report
        try:
            access = self.probe_access()
        except StoreError as error:
            problem = report.problem or format_on_one_line(error)
            return replace(report, reachable=not isinstance(error, StoreUnreachable), problem=problem)
        if report.denied and access.is_refused:
            return report
        return replace(report, access=access, problem=access.problem or report.problem)

    def open_and_inspect(self) -> ZoneReport:
        """Use the zone, then inspect the zone with a probe. The first use creates a directory."""
        with suppress(StoreError):  # The inspection reports the error.
            self.guarded.open_store()
        return self.inspect_with_probe()

    @abstractmethod
    def analyzed(self, access: StoreAccess) -> AnalyzedStore:
        """Return the bare store for an analysis. `access` is the result of `probe_access`."""

    @abstractmethod
    def probe_access(self) -> StoreAccess:
        """Put, read, list and delete a small object.

        Raises:
            StoreError: the store does not answer.
        """

    def prepare_and_inspect(self, consent: Consent = Consent.NONE, *, others_serve: bool = False) -> ZoneReport:
        """Prepare the zone, then inspect it. A failed preparation is the report's problem. See `prepare`."""
        try:
            self.prepare(consent, others_serve=others_serve)
        except StoreError as error:
            return replace(self.inspect(), problem=format_on_one_line(error))
        return self.inspect()

    def _describe_missing_mark(self) -> str | None:
        """Describe the problem of a zone without a mark."""
        foreign = self._find_foreign_object()
        return None if foreign is None else format_on_one_line(foreign)

    def _find_foreign_object(self) -> StoreMismatch | None:
        """Create the error for a zone with objects but without a mark; None for an empty zone."""
        occupied = next(iter(self.store.list("")), None)
        if occupied is None:
            return None
        return StoreMismatch(
            f"{self.store.name} belongs to something else.",
            found=f"no FORMAT object, but '{occupied.key}' and perhaps more",
            expected="a bucket or folder that is empty, or that imgstore created",
            hint="correct the endpoint or mount point of the zone, or give the region another bucket in regions.yaml",
            target=self.store.name,
        )

    def read_mark(self) -> FormatMark | None:
        """Read the mark of the zone; None if there is none.

        Raises:
            StoreMismatch: the mark cannot be read.
        """
        try:
            body = self.store.get(FORMAT_KEY)
        except ObjectNotFound:
            return None
        return FormatMark.decode(body, where=self.store.name, zone=f"{self.mark.region}/{self.mark.zone}")

    def create_mark(self) -> FormatMark:
        """Create the mark of a zone that has no owner, and return the zone's mark.

        Raises:
            StoreMismatch: the zone belongs to another installation, region or zone.
        """
        found = self.read_mark()
        if found is None:
            foreign = self._find_foreign_object()
            found = self.read_mark()  # Each process puts the mark first, so another process may have put a mark since.
            if found is None and foreign is not None:
                raise foreign
        if found is None:
            with suppress(Conflict):
                self.store.put(FORMAT_KEY, self.mark.encode(), only_if_absent=True)
            found = self.read_mark()
        if found is None:  # The put succeeded, so no answer of this zone about any object can be trusted.
            raise StoreError(
                f"{self.store.name} does not keep the zone's mark.",
                found="no FORMAT object after a successful put of FORMAT",
                expected="a folder or bucket that keeps objects",
                hint="check what is stored at the key FORMAT",
                target=self.store.name,
            )
        self.mark.check(found, where=self.store.name)
        return found


class EmbeddedZone(OpenedZone):
    """A directory under the data home. The first use creates the directory, and no later use does."""

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
        """See `OpenedZone.is_same`. A mounted or unmounted file system makes the path another folder."""
        return self._directory.is_pinned()

    def use_first_time(self) -> None:
        """See `OpenedZone.use_first_time`."""
        self.create()
        self.create_mark()

    def accept(self, mark: FormatMark) -> None:
        """See `OpenedZone.accept`."""
        self._directory.pin()

    def create(self) -> None:
        """See `OpenedZone.create`. The first put creates the folder."""
        self._directory.unpin()

    def probe(self) -> None:
        """See `OpenedZone.probe`. The properties of a directory are constant."""

    def probe_access(self) -> StoreAccess:
        """See `OpenedZone.probe_access`."""
        return probe_store(self._directory, self._new_uid())

    def analyzed(self, access: StoreAccess) -> AnalyzedStore:
        """See `OpenedZone.analyzed`."""
        return AnalyzedStore(
            store=self._directory, access=access, unusual=None, versions=None, prune=self._directory.prune
        )

    def close(self) -> None:
        """See `OpenedZone.close`. A directory has no connections."""


class S3Zone(OpenedZone):
    """A bucket behind an endpoint. Only `prepare` creates the bucket."""

    kind = ZoneKind.S3

    def __init__(
        self, mark: FormatMark, s3: "S3Store", meter: TrafficMeter, policy: RetryPolicy | None, shared: ZoneContext
    ) -> None:
        """See `OpenedZone`. The properties of the store come from the zone's mark."""
        watch = shared.health.watch(mark.region, mark.zone, lambda: s3.get(FORMAT_KEY))
        super().__init__(
            mark,
            RetryingStore(ParallelLimitedStore(WatchedStore(MeteredStore(s3, meter), watch)), policy=policy),
            watch,
            shared,
        )
        self._s3 = s3
        self._policy = policy

    def exists(self) -> bool:
        """See `OpenedZone.exists`. Sends one request without retries, because a person waits for the answer."""
        return self._s3.bucket_exists()

    def use_first_time(self) -> None:
        """See `OpenedZone.use_first_time`."""
        raise self._unprepared_error()

    def accept(self, mark: FormatMark) -> None:
        """See `OpenedZone.accept`."""
        if mark.properties is not None:
            self._s3.properties = mark.properties

    def create(self) -> None:
        """See `OpenedZone.create`."""
        self._s3.create_bucket()

    def probe(self) -> None:
        """See `OpenedZone.probe`. Each call probes again, because servers are replaced."""
        from imgstore.stores.s3.probe import probe_properties  # noqa: PLC0415 -- already loaded by S3Store

        mark = replace(self.mark, properties=probe_properties(self._s3, self._new_uid()))
        if mark != self.read_mark():
            self.store.put(FORMAT_KEY, mark.encode())

    def probe_access(self) -> StoreAccess:
        """See `OpenedZone.probe_access`."""
        with self.watch.request():
            return self.versions().probe_access()

    def analyzed(self, access: StoreAccess) -> AnalyzedStore:
        """See `OpenedZone.analyzed`."""
        from imgstore.stores.s3.unusual_requests import S3UnusualRequests  # noqa: PLC0415 -- already loaded by S3Store

        unusual = S3UnusualRequests(self._s3)
        return AnalyzedStore(
            store=self._s3,
            access=access,
            unusual=unusual,
            versions=self.versions(),
            check_requests=self._s3.request_count,
        )

    def versions(self) -> "BucketVersions":
        """See `OpenedZone.versions`."""
        from imgstore.stores.s3.versions import BucketVersions  # noqa: PLC0415 -- already loaded by S3Store

        return BucketVersions(self._s3, self._new_uid, retrier=Retrier(self._policy))

    def close(self) -> None:
        """See `OpenedZone.close`."""
        self._s3.close()

    def _describe_missing_mark(self) -> str:
        return super()._describe_missing_mark() or format_on_one_line(self._unprepared_error())

    def _unprepared_error(self) -> StoreError:
        return StoreError(
            f"{self.store.name} was not prepared for imgstore.",
            found="no FORMAT object",
            expected=f"a bucket that was prepared for zone {self.mark.zone} of {self.mark.region}",
            hint="check the endpoint in regions.yaml, then run `imgstore regions init`",
            target=self.store.name,
        )


class GuardedStore(DeferredStore):
    """The store of a zone, used only after a check of the zone's mark and uid.

    A zone of three that does not answer at first is checked before its first use, even much later. Several threads may
    check at the same time. This costs an additional request per thread and is harmless.
    """

    def __init__(
        self, store: ObjectStore, admit: Callable[[], None], is_same: Callable[[], bool] = lambda: True
    ) -> None:
        """Create the guard without a check.

        Args:
            store: the zone's store.
            admit: raises `StoreMismatch` for the wrong store, `StoreError` for a store that cannot be used.
            is_same: returns whether the store is certainly the admitted one; called before each request.
        """
        super().__init__(store.name, self._open_admitted)
        self._store = store
        self._admit = admit
        self._is_same = is_same

    def open_store(self) -> ObjectStore:
        """See `DeferredStore.open_store`. A store that may have changed is checked again."""
        if self._opened is not None and not self._is_same():
            self._opened = None
        return super().open_store()

    def forget(self) -> None:
        """Check the store again before the next use."""
        self._opened = None

    def _open_admitted(self) -> ObjectStore:
        self._admit()
        return self._store

    @property
    def properties(self) -> StoreProperties:
        """The properties of the inner store."""
        return self._store.properties
