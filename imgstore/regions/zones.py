"""A zone with its store: what lets it be used, looks at it, and makes it ready."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgstore.domain.disk_space import DiskSpace
from imgstore.domain.errors import Conflict, ObjectNotFound, StoreError, StoreMismatch, StoreUnreachable
from imgstore.domain.keys import FORMAT_KEY
from imgstore.regions.health import HealthBook
from imgstore.regions.marks import Mark
from imgstore.regions.model import Region, Zone
from imgstore.stores.deferred import Deferred
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import ObjectStore, StoreProperties
from imgstore.stores.metered import Metered, TrafficMeter
from imgstore.stores.retrying import Retrying, RetryPolicy
from imgstore.stores.watched import Watch, Watched

if TYPE_CHECKING:
    from imgstore.stores.s3 import S3Store


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


def unopened(region: Region, zone: Zone, error: StoreError) -> ZoneReport:
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


class OpenedZone(ABC):
    """A zone with its store. Made by the locator, once."""

    def __init__(self, mark: Mark, store: ObjectStore, watch: Watch) -> None:
        """Nothing is asked yet.

        Args:
            mark: what the zone has to bear.
            store: the zone's store, with all that wraps it.
            watch: told how requests end.
        """
        self.mark = mark
        self.store = store
        self.watch = watch
        self.guarded = Guarded(store, self._admit_watched)

    @abstractmethod
    def exists(self) -> bool:
        """Whether the bucket or folder is there."""

    @abstractmethod
    def admit(self) -> None:
        """Let the zone be used, or raise the `StoreError` that says why not."""

    def _admit_watched(self) -> None:
        """Admit the zone. One that bears another mark cannot serve, though it answers."""
        with self.watch.request():
            self.admit()

    @abstractmethod
    def make_ready(self, probe_uid: str) -> None:
        """Make what the zone needs to be admitted. May be repeated; `probe_uid` is new each time."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds."""

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
            began = monotonic()
            mark = self.found_mark() if report.bucket_exists else None
            if mark is None:
                return replace(report, problem=self._unready())
            report = replace(report, answer_seconds=monotonic() - began)
            self.mark.check(mark, where=self.store.name)
        except StoreError as error:
            return replace(report, reachable=not isinstance(error, StoreUnreachable), problem=_told(error))
        return replace(report, marked=True, properties=mark.properties)

    def look_made_ready(self, probe_uid: str) -> ZoneReport:
        """What there is, once the zone was made ready, or why it could not be."""
        try:
            self.make_ready(probe_uid)
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
            hint="give the region another bucket in regions.yaml, or empty this one",
            target=self.store.name,
        )

    def found_mark(self) -> Mark | None:
        """The mark that the zone bears.

        Raises:
            StoreMismatch: there is one that can't be read.
        """
        try:
            body = self.store.get(FORMAT_KEY)
        except ObjectNotFound:
            return None
        return Mark.decode(body, where=self.store.name)

    def lay_mark(self) -> Mark:
        """Make the zone ours where it is nobody's; the mark that it bears then.

        Raises:
            StoreMismatch: it is someone's.
        """
        found = self.found_mark()
        if found is None:
            foreign = self._foreign()
            found = self.found_mark()  # whoever puts anything puts the mark first: this process was not the only one
            if found is None and foreign is not None:
                raise foreign
        if found is None:
            with suppress(Conflict):
                self.store.put(FORMAT_KEY, self.mark.encode(), only_if_absent=True)
            found = self.found_mark()
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
    """A directory under the data home, made at its first use."""

    def __init__(self, mark: Mark, folder: Path, meter: TrafficMeter, health: HealthBook, space: DiskSpace) -> None:
        """See `OpenedZone`; `folder` need not be there."""
        bare = DirectoryStore(folder, space)
        watch = health.watch(mark.region, mark.zone, lambda: bare.get(FORMAT_KEY))
        marked = replace(mark, properties=DirectoryStore.properties)
        super().__init__(marked, Watched(Metered(bare, meter), watch), watch)
        self._folder = folder

    def exists(self) -> bool:
        """See `OpenedZone.exists`."""
        return os.path.isdir(self._folder)

    def admit(self) -> None:
        """See `OpenedZone.admit`."""
        self.lay_mark()

    def make_ready(self, probe_uid: str) -> None:
        """See `OpenedZone.make_ready`. There is nothing to probe."""
        self.guarded.admitted()

    def close(self) -> None:
        """See `OpenedZone.close`. A directory holds nothing."""


class S3Zone(OpenedZone):
    """A bucket behind an endpoint. Only `make_ready` makes it."""

    def __init__(
        self, mark: Mark, s3: "S3Store", meter: TrafficMeter, policy: RetryPolicy | None, health: HealthBook
    ) -> None:
        """See `OpenedZone`. The zone's mark tells the store what it promises."""
        watch = health.watch(mark.region, mark.zone, lambda: s3.get(FORMAT_KEY))
        super().__init__(mark, Retrying(Watched(Metered(s3, meter), watch), policy=policy), watch)
        self._s3 = s3

    def exists(self) -> bool:
        """See `OpenedZone.exists`. Asked once, without patience: a person waits for the answer."""
        return self._s3.bucket_exists()

    def admit(self) -> None:
        """See `OpenedZone.admit`."""
        found = self.found_mark()
        if found is None:
            raise self._not_made_ready()
        self.mark.check(found, where=self.store.name)
        if found.properties is not None:
            self._s3.properties = found.properties

    def make_ready(self, probe_uid: str) -> None:
        """See `OpenedZone.make_ready`. The store's promises are found out each time, since servers are replaced."""
        from imgstore.stores.s3 import probe_properties  # noqa: PLC0415 -- loaded already: there is an S3Store

        self._s3.create_bucket()
        laid = self.lay_mark()
        mark = replace(self.mark, properties=probe_properties(self._s3, probe_uid))
        if mark != laid:
            self.store.put(FORMAT_KEY, mark.encode())
        self.admit()

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


class Guarded(Deferred):
    """A zone's store that does nothing before its mark was found right, once.

    Where a zone of three does not answer at first, it is still checked before it is trusted with anything, whenever it
    comes back. Several threads may check at the same time: that costs a request each and does no harm.
    """

    def __init__(self, store: ObjectStore, admit: Callable[[], None]) -> None:
        """Check nothing yet.

        Args:
            store: the zone's store.
            admit: raises `StoreMismatch` where it bears another mark, `StoreError` where it cannot be used.
        """
        super().__init__(store.name, self._checked)
        self._store = store
        self._admit = admit

    def _checked(self) -> ObjectStore:
        self._admit()
        return self._store

    @property
    def properties(self) -> StoreProperties:
        """The properties of the store within."""
        return self._store.properties
