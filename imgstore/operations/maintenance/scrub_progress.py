"""The progress of a scrub through one slot, saved in the catalog so that a process that is started again resumes it."""

import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Final, Self

from imgstore.domain.errors import StoreError
from imgstore.domain.reports import SlotScrub
from imgstore.domain.requests import ScrubRequest
from imgstore.domain.storage.scrub_passes import ReadFront, ScrubPass
from imgstore.operations.installation import Installation

SAVE_SECONDS: Final = 1.0
"""The time between two savings, each a small transaction: what a killed scrub has read since the last is read again."""


class ScrubProgress:
    """How far a pass has come. Safe for use in several threads after `begin`."""

    def __init__(self, installation: Installation, found: SlotScrub, scrub_pass: ScrubPass) -> None:
        self.scrub_pass = scrub_pass
        self._installation = installation
        self._found = found
        self._front = ReadFront([], scrub_pass.position)
        self._lock = threading.Lock()
        self._saved = dict(scrub_pass.damaged)
        self._saved_at = installation.effects.monotonic()

    @classmethod
    def open(cls, installation: Installation, found: SlotScrub, request: ScrubRequest) -> Self:
        """Resume the pass of the slot that was interrupted, if there is one that fits the request; else begin one."""
        slot_uid, runner = found.slot.uid, request.runner
        with installation.catalog.transaction() as transaction:
            scrub_pass = transaction.scrub_passes.find(slot_uid, runner)
            seed = None if request.takes_any_seed else request.seed
            if (
                scrub_pass is None
                or request.from_start
                or not scrub_pass.can_resume(percent=request.percent, seed=seed, now=transaction.now())
            ):
                scrub_pass = transaction.scrub_passes.begin(
                    slot_uid, runner, percent=request.percent, seed=request.seed
                )
        found.damaged |= scrub_pass.repaired
        found.repaired |= scrub_pass.repaired
        return cls(installation, found, scrub_pass)

    def begin(self, keys: Collection[str], always: Collection[str]) -> list[str]:
        """Return the keys that are to be read, in their order; those of `always` also if they were read before."""
        scrub_pass = self.scrub_pass
        remaining = scrub_pass.remaining(keys, always)
        self._front = ReadFront([key for key in remaining if key > scrub_pass.position], scrub_pass.position)
        if scrub_pass.position:
            self._found.resumed_from = scrub_pass.began_at
            self._found.earlier_objects = len(keys) - len(remaining)
        return remaining

    def add(self, key: str) -> None:
        """Note that an object was read and that `found` has what it showed; save now and then."""
        with self._lock:
            self._front.add(key)
            if self._installation.effects.monotonic() - self._saved_at >= SAVE_SECONDS:
                self._save()

    def save(self) -> None:
        """Save what is not saved yet.

        Raises:
            StoreError: the database does not answer.
        """
        with self._lock:
            self._save()

    def interrupt(self) -> None:
        """Save what can be saved: the scrub of the slot stops here."""
        with suppress(StoreError):
            self.save()

    def end(self) -> None:
        """Forget the pass: all of it was done."""
        with self._installation.catalog.transaction() as transaction:
            transaction.scrub_passes.end(self.scrub_pass.uid)

    def _save(self) -> None:
        repaired = self._found.repaired.copy()
        damaged = {key: key in repaired for key in self._found.damaged.copy()}
        changed = {key: value for key, value in damaged.items() if self._saved.get(key) is not value}
        with self._installation.catalog.transaction() as transaction:
            transaction.scrub_passes.save(self.scrub_pass.uid, self._front.position, changed)
        self._saved |= changed
        self._saved_at = self._installation.effects.monotonic()
