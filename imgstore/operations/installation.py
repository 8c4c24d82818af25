"""The settings and collaborators of one installation. `bootstrap.py` makes the values."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgstore.catalog import Catalog
from imgstore.domain.effects import Effects
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber, ignore_event
from imgstore.domain.resources import Slot
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.settings.limits import Limits
from imgstore.domain.settings.maintenance import MaintenanceSettings
from imgstore.domain.settings.replication import ReplicationSettings
from imgstore.domain.storage.latency import THREADS_MAX, choose_threads
from imgstore.operations.host_cache import HostCache
from imgstore.operations.leases import LeaseKeeper
from imgstore.regions import Locator, Regions
from imgstore.stores.interface import ObjectStore
from imgstore.stores.wrappers.bandwidth_limit import Wait
from imgstore.stores.wrappers.deferred import DeferredStore

if TYPE_CHECKING:
    from imgstore.transfer.slot_access import SlotAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Limits of parallel requests and of times. Numbers of threads are for near stores; see `Installation.threads`."""

    put_workers: int = 5
    """Threads that compress and put segments during an ingest."""
    copy_workers: int = 4
    """Threads of the copy of one replica."""
    scatter_workers: int = 4
    """Threads that fetch and place segments during an export."""
    threads_max: int = THREADS_MAX
    """The maximum of each number of threads, for distant stores."""
    replicas_at_once: int = 4
    """Replicas that are copied at the same time."""
    collect_lease_seconds: float = 300.0
    """The lease of a batch of at most 1,000 deletions. Afterwards another collector may take over the batch."""
    delete_seconds_max: float = 130.0
    """The request limit: the maximum time of one delete request.

    The limit is twice the limits of connection and answer (`stores/s3/store.py`), because avoided zones are asked after
    the others. A request is sent only if the remaining lease is longer. The batch of a dead collector is taken over
    after lease and request limit.
    """
    removal_lease_seconds: float = 20.0
    """The time in which a removal may send the request, after the deciding transaction.

    After this time and `delete_seconds_max`, the request cannot arrive any more. Then the keys may be written again
    (invariant G14).
    """
    claim_seconds_max: float = 60.0
    """The maximum time that a writer waits for a collector that deletes the segments of the writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineHost:
    """The settings of a server that runs machines on its host."""

    runs_as: str | None = None
    """The user for QEMU. None chooses a user for each machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The settings and collaborators of an operation."""

    uid: str
    subscription: str
    home: Path
    scratch: Path
    """The folder for temporary files. The folder may be emptied at any time when no command runs."""
    catalog: Catalog
    regions: Regions
    locator: Locator
    keeper: LeaseKeeper
    effects: Effects
    host_cache: HostCache
    environ: Mapping[str, str]
    child_environ: Mapping[str, str] = field(default_factory=dict)
    """The environment of a process of imgstore for this installation. The URL of a database is in no command line."""
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits = field(default_factory=Limits)
    space: DiskSpace = field(default_factory=DiskSpace)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    replication: ReplicationSettings = field(default_factory=ReplicationSettings)
    subscriber: Subscriber = ignore_event
    machine_host: MachineHost | None = None
    """Set in a server that runs machines. None: requests of the API start no machine."""
    revision_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that writes revisions. The next thread writes the revisions of all waiting threads."""

    @property
    def scope(self) -> str:
        """The scope of the subscription for checks of rights."""
        return f"/subscriptions/{self.subscription}"

    def threads(self, workers: int, *regions: str) -> int:
        """Choose the number of threads: `workers`, or more if the named regions are distant.

        Each thread asks the regions one after the other. Earlier answers of a region show the distance, so call this
        after the first requests.
        """
        answer_seconds = sum(self.locator.meter(region).answer_seconds for region in regions)
        return choose_threads(workers, answer_seconds, self.tuning.threads_max)

    def access(self, slot: Slot) -> "SlotAccess":
        """Return the access to a slot for the data plane."""
        return self._make_access(slot, self.locator.store(slot))

    def access_from(self, region: str, slot: Slot, wait: Wait) -> "SlotAccess":
        """Return the access to a slot from another region, with the bandwidth limit between the two regions."""
        return self._make_access(slot, self.locator.store_across(slot, region, wait))

    def access_all(
        self, slots: Sequence[Slot], access: "Callable[[Slot], SlotAccess] | None" = None
    ) -> "list[SlotAccess]":
        """Return the accesses to several slots, in order. A failed zone does not hide the other slots.

        With several slots, no store is opened yet, because a store that does not answer would delay the others. The
        first request shows whether a store is usable.

        Args:
            slots: the slots.
            access: makes the access to a slot. None means `access`.

        Raises:
            StoreError: the only slot is not usable.
        """
        open_access = access or self.access
        if len(slots) == 1:
            return [open_access(slots[0])]
        self.locator.health.refresh()  # Other processes of the host may know silent zones.
        return [
            self._make_access(slot, DeferredStore(str(slot.key), partial(_open_store, open_access, slot)))
            for slot in slots
        ]

    def check_scratch(self, work: Path, needed_bytes: int) -> None:
        """Refuse a work with too large files in the scratch folder (`DiskSpace.check_scratch`).

        Args:
            work: the file or folder of the work.
            needed_bytes: the bytes that the work is about to write.

        Raises:
            StoreFull: a limit would be exceeded.
        """
        self.space.check_scratch(work, self.scratch.parent, needed_bytes)

    def has_free_space(self, needed_bytes: int) -> bool:
        """Return whether scratch can take `needed_bytes` more and keep the reserve of free space."""
        return self.space.has_free_space(self.scratch, needed_bytes)

    def note(self, task: str, detail: str) -> None:
        """Report a text to a person."""
        self.subscriber(ProgressEvent(task=task, stage=Stage.NOTE, detail=detail))

    def prefer_responsive(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Return the slots with stores that are not known to be silent. Return all slots if there is no such slot.

        The knowledge is from the last `HealthBook.refresh`. No request is sent here.
        """
        return [slot for slot in slots if not self.locator.is_avoided(slot)] or slots

    def _make_access(self, slot: Slot, store: ObjectStore) -> "SlotAccess":
        # The data plane loads numpy, which takes 70 ms. Commands that transfer no bytes do not load the data plane.
        from imgstore.transfer.slot_access import SlotAccess  # noqa: PLC0415

        return SlotAccess(
            label=str(slot.key),
            store=store,
            prefix=slot.prefix,
            is_avoided=partial(self.locator.is_avoided, slot),
            on_late=partial(self.locator.note_late, slot),
        )


def _open_store(open_access: "Callable[[Slot], SlotAccess]", slot: Slot) -> ObjectStore:
    return open_access(slot).store
