"""The collaborators of one installation, frozen together. OsProperties here, filled in by ``bootstrap.py``."""

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
from imgstore.domain.storage.latency import THREADS_MAX, choose_threads
from imgstore.operations.leases import LeaseKeeper
from imgstore.regions import Locator, Regions
from imgstore.stores.interface import ObjectStore
from imgstore.stores.wrappers.bandwidth_limit import Wait
from imgstore.stores.wrappers.deferred import DeferredStore

if TYPE_CHECKING:
    from imgstore.transfer.slot_access import SlotAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How much at once, and how large. Threads are those for stores that are near: `Installation.threads`."""

    put_workers: int = 5
    """Threads that compress and put during an ingest."""
    copy_workers: int = 4
    """Threads of one replica's copy."""
    scatter_workers: int = 4
    """Threads that fetch and place during an export."""
    threads_max: int = THREADS_MAX
    """What any of these may grow to where a store is far off."""
    replicas_at_once: int = 4
    """Replicas that are copied at the same time."""
    collect_lease_seconds: float = 300.0
    """How long a batch of at most 1,000 deletes has until another collector may take it over."""
    delete_seconds_max: float = 130.0
    """The longest that one request of deletes may run: its connection's and its answer's limits (stores/s3/store.py), twice,
    since zones that rest are asked after the others. It is sent only while more than that is left of the lease, and a
    dead collector's batch is taken over that long after it."""
    removal_lease_seconds: float = 20.0
    """How long after its transaction a removal may still send its one request. `delete_seconds_max` later the request can
    no longer arrive, and the keys that it names may be written again (invariant G14)."""
    claim_seconds_max: float = 60.0
    """How long a writer waits for a collector that is deleting what it wants to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Everything that an operation works with."""

    uid: str
    subscription: str
    home: Path
    scratch: Path
    """A folder for files that stand in for memory; emptied at any time when nothing runs."""
    catalog: Catalog
    regions: Regions
    locator: Locator
    keeper: LeaseKeeper
    effects: Effects
    environ: Mapping[str, str]
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits = field(default_factory=Limits)
    space: DiskSpace = field(default_factory=DiskSpace)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    subscriber: Subscriber = ignore_event

    def threads(self, workers: int, *regions: str) -> int:
        """So many threads, or more where it is far to the regions that each of them asks one after another.

        How far is told by what they have answered so far: ask when the first requests have been made.
        """
        answer_seconds = sum(self.locator.meter(region).answer_seconds for region in regions)
        return choose_threads(workers, answer_seconds, self.tuning.threads_max)

    def access(self, slot: Slot) -> "SlotAccess":
        """The slot as the data plane sees it."""
        return self._accessed(slot, self.locator.store(slot))

    def access_from(self, region: str, slot: Slot, wait: Wait) -> "SlotAccess":
        """The slot, read from another region: as fast as regions.yaml allows between the two."""
        return self._accessed(slot, self.locator.store_across(slot, region, wait))

    def access_all(
        self, slots: Sequence[Slot], access: "Callable[[Slot], SlotAccess] | None" = None
    ) -> "list[SlotAccess]":
        """The slots as the data plane sees them, in their order: one whose zone is down does not hide the others.

        Of several slots no store is asked yet, since one that does not answer would hold up the others: whether it can
        be used shows with the first request.

        Args:
            slots: which.
            access: how to get at each; None is `access`.

        Raises:
            StoreError: the only one cannot be used.
        """
        reach = access or self.access
        if len(slots) == 1:
            return [reach(slots[0])]
        self.locator.health.refresh()  # What the host's other processes saw decides which of them is read first.
        return [self._accessed(slot, DeferredStore(str(slot.key), partial(_reached, reach, slot))) for slot in slots]

    def check_scratch(self, work: Path, needed_bytes: int) -> None:
        """Refuse a work whose files in scratch would take too much (`DiskSpace.check_scratch`).

        Args:
            work: the file or folder of the work.
            needed_bytes: what it is about to take.

        Raises:
            StoreFull: a bound would be passed.
        """
        self.space.check_scratch(work, self.scratch.parent, needed_bytes)

    def has_free_space(self, needed_bytes: int) -> bool:
        """Tell whether scratch may take so many bytes more and keep the reserve of free space."""
        return self.space.has_free_space(self.scratch, needed_bytes)

    def note(self, task: str, detail: str) -> None:
        """Tell a person something."""
        self.subscriber(ProgressEvent(task=task, stage=Stage.NOTE, detail=detail))

    def prefer_responsive(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Those of the slots whose stores are not known to be silent; all, where that leaves none.

        Known as of the last `CircuitBreakers.refresh`: nothing is asked here.
        """
        return [slot for slot in slots if not self.locator.is_avoided(slot)] or slots

    def _accessed(self, slot: Slot, store: ObjectStore) -> "SlotAccess":
        # The data plane, and numpy with it, takes 70 ms to load, which a command that moves no bytes should not pay.
        from imgstore.transfer.slot_access import SlotAccess  # noqa: PLC0415

        return SlotAccess(
            label=str(slot.key),
            store=store,
            prefix=slot.prefix,
            is_avoided=partial(self.locator.is_avoided, slot),
            on_late=partial(self.locator.note_late, slot),
        )


def _reached(reach: "Callable[[Slot], SlotAccess]", slot: Slot) -> ObjectStore:
    return reach(slot).store
