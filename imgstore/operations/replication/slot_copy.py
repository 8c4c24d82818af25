"""Copy the missing segments of stored content into a slot: the steps that copies of replicas and of disks share."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.resources import ManifestRow, SegmentRow, Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease
from imgstore.ledger.entries import Party
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.slots.cross_region_reads import CrossRegionReads
from imgstore.operations.slots.degrade import degrade, degrade_damaged
from imgstore.operations.slots.gc_guard import claim_segments
from imgstore.operations.slots.held_segments import record_held
from imgstore.segments.manifest import ManifestCheck
from imgstore.transfer.copy import CopyOrder, copy_segments, plan_segments
from imgstore.transfer.scatter import Damage
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess, read_from_any

_LOOK_SECONDS: Final = 1.0
"""The longest wait for bandwidth without a look at a cancellation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedContent:
    """The content of a copy, and the state of the target slot before the copy."""

    origins: Sequence[ManifestRow]
    """The manifests of the preferred source: the OS disk first, then by LUN."""
    segments: Sequence[SegmentRow]
    """The segments of all manifests, each once, in the order of ids."""
    unrecorded: frozenset[Digest]
    """The names of segments that no complete manifest of the target slot names."""
    target_objects: int
    """The number of segments that complete manifests of the target slot name."""


def read_content(transaction: Transaction, slot: Slot, origins: Sequence[ManifestRow]) -> CopiedContent:
    """Read the segments of the manifests of a source, for a copy into a slot of the same pool."""
    ids = named_segments(origins)
    recorded = transaction.manifests.segment_ids_in_slot(slot.uid)
    segments = transaction.segments.rows(slot.key.pool_uid, ids)
    return CopiedContent(
        origins=origins,
        segments=segments,
        unrecorded=frozenset(
            row.name for row, known in zip(segments, np.isin(ids, recorded).tolist(), strict=True) if not known
        ),
        target_objects=len(recorded),
    )


@dataclass(slots=True, kw_only=True)
class _ServedBytes:
    """Counts the stored bytes that each region serves to a copy. Safe for several threads."""

    stored_bytes: Mapping[Digest, int]
    regions: Mapping[str, str]
    """The region of each slot, by the label of the slot."""
    by_region: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_served(self, slot: SlotAccess, name: Digest, _is_damaged: bool, /) -> None:  # noqa: FBT001 - as SegmentReader.on_served
        with self._lock:
            self.by_region[self.regions[slot.label]] += self.stored_bytes[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCopy:
    """A leased copy into a slot."""

    installation: Installation
    slot: Slot
    lease: Lease
    sources: Sequence[Slot]
    """Slots with the whole content, the preferred slot first. The next slot serves the rest if a store does not."""
    content: CopiedContent
    party: Party
    """The party that is billed for the bytes."""
    counter: ProgressCounter
    check_cancelled: CheckCancelled
    wait: Callable[[float], None]
    """Waits for bandwidth, in seconds."""
    is_degraded: bool = False
    """Whether the content was complete in the slot before. Then at least one object was damaged."""

    def send(self) -> "SentContent":
        """Send the segments that are absent from the slot. Each segment is compared with its name.

        Raises:
            StoreError: no source serves a segment, or the slot refused a segment.
            LeaseLost: another process has taken over the work.
        """
        installation, slot, content = self.installation, self.slot, self.content
        damages: list[Damage] = []
        sources = installation.access_all(
            self.sources, lambda source: installation.access_from(slot.key.region, source, self._wait_or_stop)
        )
        wanted = {row.name: row.stored_bytes for row in content.segments}
        region_of = {str(source.key): source.key.region for source in self.sources}
        served = _ServedBytes(stored_bytes=wanted, regions=region_of)
        reads = CrossRegionReads(
            installation=installation,
            party=self.party,
            home=slot,
            stored_bytes=wanted,
            regions=region_of,
            reader=self.lease.name,
        )
        # The first replica of a region pays for its egress when the replica is complete (invariant M3).
        is_inside = self.sources[0].key.region == slot.key.region
        order = CopyOrder(
            sources=sources,
            target=installation.access(slot),
            segments=wanted,
            unrecorded=content.unrecorded,
            marked=claim_segments(installation, slot, wanted),
            target_objects=content.target_objects,
            is_degraded=self.is_degraded,
            check_cancelled=self.check_cancelled,
            on_moved=self.counter.add_bytes,
            damages=damages,
            on_served=reads.count_served if is_inside else served.count_served,
        )
        head_workers = installation.threads(installation.tuning.copy_workers, slot.key.region)
        absent, missing = plan_segments(order, workers=head_workers)
        is_absent = np.fromiter((row.name in absent for row in content.segments), np.bool_, len(content.segments))
        record_held(installation, self.lease, named_segments(content.origins), is_absent=is_absent)
        self.counter.total = sum(absent.values())
        self.counter.begin()
        if missing:
            degrade(installation, slot, missing, "missing in the store")
        try:
            regions = slot.key.region, self.sources[0].key.region
            workers = installation.threads(installation.tuning.copy_workers, *regions)
            with reads.meter():
                receipt = copy_segments(order, absent, missing, workers=workers)
        finally:
            degrade_damaged(installation, list(self.sources), damages)
        return SentContent(sources=sources, served=served.by_region, sent_bytes=receipt.sent_bytes, target=order.target)

    def _wait_or_stop(self, seconds: float) -> None:
        self.wait(min(seconds, _LOOK_SECONDS))
        self.check_cancelled()


@dataclass(frozen=True, slots=True, kw_only=True)
class SentContent:
    """The result of a copy: all segments are confirmed in the slot."""

    sources: Sequence[SlotAccess]
    target: SlotAccess
    served: Mapping[str, int]
    """The stored bytes that each region supplied. Empty if the preferred source is in the region of the slot."""
    sent_bytes: int

    def put_manifest(self, origin: ManifestRow) -> bytes:
        """Copy a manifest from the first source that answers, under the same key, and return its bytes."""
        _, data = read_from_any(self.sources, partial(_read_manifest, origin))
        self.target.put_manifest(origin.body_key, data)
        return data


def _read_manifest(origin: ManifestRow, source: SlotAccess) -> bytes:
    return source.get_object(origin.body_key, ManifestCheck(origin.digest))
