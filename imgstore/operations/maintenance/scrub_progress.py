"""The progress of a scrub through one slot.

The catalog keeps the progress, so that a restarted process resumes (R17).
"""

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
"""The time between two saves, each a small transaction. A killed scrub reads the objects since the last save again."""


class ScrubProgress:
    """The position of a pass. Safe for several threads after `begin`."""

    def __init__(self, installation: Installation, found: SlotScrub, scrub_pass: ScrubPass) -> None:
        self.scrub_pass = scrub_pass
        self._installation = installation
        self._found = found
        self._front = ReadFront([], scrub_pass.position)
        self._lock = threading.Lock()
        self._saved = dict(scrub_pass.damaged)
        self._saved_at = installation.effects.monotonic()
        found.began_at = scrub_pass.began_at

    @classmethod
    def open(cls, installation: Installation, found: SlotScrub, request: ScrubRequest) -> Self:
        """Resume an interrupted pass of the slot that fits the request. If there is none, begin a pass."""
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
        """Return the keys that must be read, in order. Keys of `always` are read again in any case."""
        scrub_pass = self.scrub_pass
        remaining = scrub_pass.remaining(keys, always)
        self._front = ReadFront([key for key in remaining if key > scrub_pass.position], scrub_pass.position)
        if scrub_pass.position:
            self._found.resumed_from = scrub_pass.began_at
            self._found.earlier_objects = len(keys) - len(remaining)
        return remaining

    def add(self, key: str) -> None:
        """Record that an object was read and that `found` contains the result. Save from time to time."""
        with self._lock:
            self._front.add(key)
            if self._installation.effects.monotonic() - self._saved_at >= SAVE_SECONDS:
                self._save()

    def save(self) -> None:
        """Save all unsaved progress.

        Raises:
            StoreError: the database does not answer.
        """
        with self._lock:
            self._save()

    def interrupt(self) -> None:
        """Save the progress if the database answers, because the scrub of the slot stops."""
        with suppress(StoreError):
            self.save()

    def end(self) -> None:
        """Record the end of the pass, and remove the pass. All objects were read, unless the slot has a problem."""
        scrub_pass, found = self.scrub_pass, self._found
        with self._installation.catalog.transaction() as transaction:
            if found.problem is None:
                transaction.slot_scrubs.record(
                    scrub_pass.slot_uid,
                    began_at=scrub_pass.began_at,
                    percent=scrub_pass.percent,
                    objects=found.objects,
                )
            transaction.scrub_passes.end(scrub_pass.uid)

    def _save(self) -> None:
        repaired = self._found.repaired.copy()
        damaged = {key: key in repaired for key in self._found.damaged.copy()}
        changed = {key: value for key, value in damaged.items() if self._saved.get(key) is not value}
        with self._installation.catalog.transaction() as transaction:
            transaction.scrub_passes.save(self.scrub_pass.uid, self._front.position, changed)
        self._saved |= changed
        self._saved_at = self._installation.effects.monotonic()
