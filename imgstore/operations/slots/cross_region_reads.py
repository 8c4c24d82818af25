"""Meters the bytes that a reader takes from another region, because no store of its own region serves them (M17)."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from imgstore.domain.errors import StoreError
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.egress import charge_cross_region_read, charge_repair
from imgstore.ledger.entries import LedgerRow, Party
from imgstore.operations.installation import Installation
from imgstore.segments.manifest import Manifest
from imgstore.transfer.slot_access import SlotAccess

_UNWRITTEN_BYTES_MAX: Final = 64 << 20
"""More than this is not lost to the ledger if the process is killed."""


@dataclass(slots=True, kw_only=True)
class CrossRegionReads:
    """Counts what a reader takes from other regions, and writes it into the ledger. Safe from several threads.

    Hand `count_served` to the reader of segments, and read inside `meter`. A segment that arrives after that is no
    longer used, and has crossed all the same.
    """

    installation: Installation
    party: Party
    home: Slot
    """The slot that should serve the reader."""
    stored_bytes: dict[Digest, int]
    """Of each segment that may be read."""
    regions: dict[str, str]
    """The region of each slot, by its label."""
    reader: str
    """Names one go of reading, which counts from zero: the uid of the work and the token of its lease, or the uid of the
    session of who reads by URL. The first part of the ledger's keys."""
    _unwritten: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Stored bytes by the region that served them, and whether they stand in for damage."""
    _written: int = 0
    _open: int = 0
    """How many `meter` blocks are open."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(
        installation: Installation,
        *,
        party: Party,
        home: Slot,
        others: Iterable[Slot],
        manifest: Manifest,
        reader: str,
    ) -> "CrossRegionReads":
        """Meter the reads of a disk from its own slot, or from others that stand in for it."""
        table = manifest.segments
        return CrossRegionReads(
            installation=installation,
            party=party,
            home=home,
            stored_bytes=dict(zip(table.all_names(), table.stored_bytes.tolist(), strict=True)),
            regions={str(slot.key): slot.key.region for slot in (home, *others)},
            reader=reader,
        )

    def count_served(self, slot: SlotAccess, name: Digest, is_damaged: bool, /) -> None:  # noqa: FBT001 - as SegmentReader.on_served
        """Count a segment that a slot served. Much that is not in the ledger yet is written at once.

        What is served after the end of `meter` is written at once as well. What stands in for a damaged segment is a
        repair in the ledger: damage is not the reader's to pay (invariant M7).
        """
        region = self.regions[slot.label]
        if region == self.home.key.region:
            return
        with self._lock:
            self._unwritten[region, is_damaged] += self.stored_bytes[name]
            is_late = not self._open
            much = self._unwritten.total() >= _UNWRITTEN_BYTES_MAX
        if is_late:
            # Nobody waits for this thread. What cannot be written stays counted.
            with suppress(StoreError):
                self.write()
        elif much:
            self.write()

    @contextmanager
    def meter(self) -> Iterator[None]:
        """Write what was counted when the block ends, however it ends.

        Raises:
            StoreError: the block ended well, and the database does not answer.
        """
        with self._lock:
            self._open += 1
        try:
            yield
        except BaseException:
            self._close()
            with suppress(StoreError):
                self.write()
            raise
        self._close()
        self.write()

    def _close(self) -> None:
        with self._lock:
            self._open -= 1

    def write(self) -> None:
        """Write what was counted since the last call: a row for each region that served.

        A row's key names the reader and the part of its reading, by the bytes counted before and after it.

        Raises:
            StoreError: the database does not answer. What was counted stays counted.
        """
        with self._lock:
            if not self._unwritten:
                return
            begin = self._written
            with self.installation.catalog.transaction() as transaction:
                time = transaction.now()
                for (region, is_damaged), read_bytes in sorted(self._unwritten.items()):
                    row = self._row(region, time, is_damaged=is_damaged, begin=begin, read_bytes=read_bytes)
                    transaction.ledger.add(row)
                    begin += read_bytes
            self._written = begin
            self._unwritten.clear()

    def _row(self, region: str, time: datetime, *, is_damaged: bool, begin: int, read_bytes: int) -> LedgerRow:
        key = f"read/{self.reader}/{region}/{begin}-{begin + read_bytes}"
        row = charge_repair if is_damaged else charge_cross_region_read
        return row(
            key=key,
            party=self.party,
            source=region,
            target=self.home.key.region,
            replica=self.home.key.ordinal,
            moved_bytes=read_bytes,
            prices=self.installation.regions.prices,
            time=time,
        )
