"""Meter the bytes that a reader takes from another region, because no store of its region serves the bytes (M17)."""

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
from imgstore.ledger.egress import Transfer, charge_cross_region_read, charge_repair
from imgstore.ledger.entries import LedgerRow, Party
from imgstore.ledger.prices.price_list import PriceList
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.segments.manifest import Manifest
from imgstore.transfer.slot_access import SlotAccess

_UNWRITTEN_BYTES_MAX: Final = 64 << 20
"""The maximum of counted bytes that the ledger loses if the process is killed."""


@dataclass(slots=True, kw_only=True)
class CrossRegionReads:
    """Counts bytes from other regions, and writes the counts to the ledger. Safe for several threads.

    Pass `count_served` to the reader of segments, and read inside `meter`. A segment that arrives after the end of
    `meter` is not used any more, but has crossed regions and is charged.
    """

    installation: Installation
    party: Party
    home: Slot
    """The slot that normally serves the reader."""
    stored_bytes: dict[Digest, int]
    """The stored bytes of each segment that may be read."""
    regions: dict[str, str]
    """The region of each slot, by the label of the slot."""
    reader: str
    """The first part of the ledger keys, unique for one run of a reader, because each run counts from zero.

    The name is the uid of the work and the token of the lease, or the uid of the session of a reader by URL.
    """
    _unwritten: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Stored bytes by the serving region, and by whether the bytes replace damaged bytes."""
    _written: int = 0
    _open: int = 0
    """The number of open `meter` blocks."""
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
        """Make a meter for the reads of a disk from its slot, or from other slots with the same content."""
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
        """Count a segment that a slot served. If many bytes are not in the ledger yet, write the counts at once.

        Counts after the end of `meter` are written at once, too. Bytes that replace a damaged segment are a repair in
        the ledger, because a reader does not pay for damage (invariant M7).
        """
        region = self.regions[slot.label]
        if region == self.home.key.region:
            return
        with self._lock:
            self._unwritten[region, is_damaged] += self.stored_bytes[name]
            is_late = not self._open
            much = self._unwritten.total() >= _UNWRITTEN_BYTES_MAX
        if is_late:
            # No caller waits for this thread. Counts that cannot be written are kept.
            with suppress(StoreError):
                self.write()
        elif much:
            self.write()

    @contextmanager
    def meter(self) -> Iterator[None]:
        """Write the counts when the block ends, with or without an error.

        Raises:
            StoreError: the block ended without an error, and the database does not answer.
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
        """Write the counts since the last call, as a row for each serving region.

        The key of a row names the reader and a range: the bytes that were counted before and after the row.

        Raises:
            StoreError: the database does not answer. The counts are kept.
        """
        with self._lock:
            if not self._unwritten:
                return
            begin = self._written
            with self.installation.catalog.transaction() as transaction:
                time, prices = transaction.now(), current_prices(self.installation, transaction)
                for (region, is_damaged), read_bytes in sorted(self._unwritten.items()):
                    row = self._row(region, time, prices, is_damaged=is_damaged, begin=begin, read_bytes=read_bytes)
                    transaction.ledger.add(row)
                    begin += read_bytes
            self._written = begin
            self._unwritten.clear()

    def _row(
        self, region: str, time: datetime, prices: PriceList, *, is_damaged: bool, begin: int, read_bytes: int
    ) -> LedgerRow:
        key = f"read/{self.reader}/{region}/{begin}-{begin + read_bytes}"
        charge = charge_repair if is_damaged else charge_cross_region_read
        read = Transfer(
            key=key,
            party=self.party,
            source=region,
            target=self.home.key.region,
            replica=self.home.key.ordinal,
            moved_bytes=read_bytes,
            time=time,
        )
        return charge(read, prices)
