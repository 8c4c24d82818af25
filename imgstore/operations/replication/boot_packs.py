"""Build boot packs in the slots of a version: from a recorded trace, or from the pack of an older version.

A pack is derived data (invariant D18). It is written without a work, may be lost at any time, and is not billed. Each slot
has a pack of its own, made from the segments of the slot, so no byte of a block crosses regions.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, ObjectNotFound, StoreError
from imgstore.domain.reports import BootPackReport
from imgstore.domain.resources import ImageVersion, ManifestRow, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.operations.installation import Installation
from imgstore.policy.selection import choose_bases
from imgstore.segments.boot_pack import PackHead, decode_head, derive_pack_key, head_length
from imgstore.segments.manifest import Manifest
from imgstore.segments.pack_plan import PlannedFrame, plan_inherited_pack, plan_pack
from imgstore.transfer.pack_builder import OldPack, build_pack
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.segment_cache import CachedSegments
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess

_HEAD_GUESS_BYTES: Final = 64 << 10


def read_pack_key(installation: Installation, slot: Slot) -> bytes:
    """Return the key of the heads of the packs in the pool of a slot."""
    with installation.catalog.reading() as transaction:
        return derive_pack_key(transaction.pools.get(slot.key.pool_uid).fingerprint_key)


def read_pack_head(access: SlotAccess, digest: Digest, pack_key: bytes) -> PackHead:
    """Read the head of the pack of a disk.

    Raises:
        ObjectNotFound: the slot has no pack of the disk.
        ObjectCorrupt: the head is damaged, or is the head of another disk.
    """
    key = access.prefix + object_keys.pack_key(digest)
    data = access.store.get_range(key, 0, _HEAD_GUESS_BYTES)
    length = head_length(data)
    if length > len(data):
        data += access.store.get_range(key, len(data), length - len(data))
    return decode_head(data, pack_key, digest)


def build_traced_packs(
    installation: Installation, slot: Slot, row: ManifestRow, blocks: Sequence[int], check_cancelled: CheckCancelled
) -> list[BootPackReport]:
    """Build the pack of a trace in all slots of the pool that have the disk.

    Args:
        installation: the installation.
        slot: a slot with the disk.
        row: the manifest of the disk in this slot.
        blocks: the blocks of the trace, in the order of the boot.
        check_cancelled: called before each request.
    """
    with installation.catalog.reading() as transaction:
        rows = {each.slot_uid: each for each in transaction.manifests.list_with_digest(slot.key.pool_uid, row.digest)}
        slots = [each for each in transaction.slots.list(slot.key.pool_uid) if each.uid in rows]
    trace = np.array(blocks, dtype=np.int64)
    reports: list[BootPackReport] = []
    for each in sorted(slots, key=lambda other: str(other.key)):
        check_cancelled()
        try:
            manifest = installation.access(each).get_manifest(rows[each.uid].body_key, row.digest)
            planned = plan_pack(trace, manifest)
            reports.append(_build(installation, each, manifest, row.digest, planned, None, check_cancelled))
        except (StoreError, ObjectCorrupt) as error:  # The other slots get their packs.
            reports.append(BootPackReport(slot=each, problem=error.message))
    return reports


def inherit_packs(installation: Installation, version: ImageVersion, slot: Slot) -> None:
    """Build the packs of a complete replica from packs of the same disks in other slots, or of older versions.

    A failure is reported and is no error, because a boot needs no pack. Without any pack in the slots, a listing of each
    slot is the only request.
    """
    try:
        _Inheritance.of(installation, version, slot).build()
    except ImgstoreError as error:
        installation.note(str(version.name), f"no boot pack in {slot.key}: {error.message}")


def repair_pack(installation: Installation, slot: Slot, key: str) -> bool:
    """Build a damaged pack again from an intact head, of this slot or of another slot with the disk.

    Args:
        installation: the installation.
        slot: the slot.
        key: the key of a damaged object below the slot.

    Returns:
        Whether the pack is right now. False also for the key of another object.
    """
    digest = object_keys.packed_manifest(key)
    if digest is None:
        return False
    with installation.catalog.reading() as transaction:
        rows = {each.slot_uid: each for each in transaction.manifests.list_with_digest(slot.key.pool_uid, digest)}
        slots = [each for each in transaction.slots.list(slot.key.pool_uid) if each.uid in rows]
    pack_key = read_pack_key(installation, slot)
    for each in sorted(slots, key=lambda other: (other.uid != slot.uid, other.key.region != slot.key.region)):
        with suppress(StoreError):
            head = read_pack_head(installation.access(each), digest, pack_key)
            manifest = installation.access(slot).get_manifest(rows[slot.uid].body_key, digest)
            check = installation.keeper.check_cancelled
            _build(installation, slot, manifest, digest, plan_pack(head.trace, manifest), None, check)
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inheritance:
    """The packs that a replica may inherit."""

    installation: Installation
    slot: Slot
    rows: Sequence[ManifestRow]
    """The manifests of the replica."""
    others: Sequence[Slot]
    """The other slots with complete replicas of the version, of the same region first."""
    bases: dict[str, list[ManifestRow]]
    """Manifests of other versions in the slot, by disk key, the best first."""
    pack_key: bytes

    @staticmethod
    def of(installation: Installation, version: ImageVersion, slot: Slot) -> "_Inheritance":
        """Read the rows of a replica and of its relatives."""
        with installation.catalog.reading() as transaction:
            rows = transaction.manifests.of_replica(version.uid, slot.uid)
            replicas = transaction.replicas.list(version.uid)
            complete = {
                each.version_uid
                for each in transaction.replicas.in_slot(slot.uid)
                if each.state is ReplicaState.COMPLETED and each.version_uid != version.uid
            }
            candidates = [
                each
                for each in transaction.versions.list(version.definition_uid)
                if each.uid in complete and each.is_visible
            ]
            bases: dict[str, list[ManifestRow]] = {}
            for row in rows:
                chosen = choose_bases(
                    [each for each in candidates if row.disk in each.disk_keys], new=version.name, named=()
                )
                found = [transaction.manifests.find(each.uid, slot.uid, row.disk) for each in reversed(chosen)]
                bases[row.disk] = [each for each in found if each is not None]
            pack_key = derive_pack_key(transaction.pools.get(slot.key.pool_uid).fingerprint_key)
        others = [each.slot for each in replicas if each.state is ReplicaState.COMPLETED and each.slot.uid != slot.uid]
        others.sort(key=lambda each: each.key.region != slot.key.region)
        return _Inheritance(
            installation=installation, slot=slot, rows=rows, others=others, bases=bases, pack_key=pack_key
        )

    def build(self) -> None:
        """Build the missing packs."""
        if not self.others and not any(self.bases.values()):
            return
        access = self.installation.access(self.slot)
        present = _list_packs(access)
        elsewhere: dict[str, tuple[SlotAccess, frozenset[Digest]]] = {}
        for row in self.rows:
            if row.digest in present:
                continue
            if not self._inherit(access, row, present):
                self._follow_other_slot(row, elsewhere)

    def _inherit(self, access: SlotAccess, row: ManifestRow, present: frozenset[Digest]) -> bool:
        """Build the pack of a disk from the pack of an older version in the slot. Return whether there was one."""
        for base in self.bases[row.disk]:
            if base.digest not in present:
                continue
            with suppress(ObjectNotFound, ObjectCorrupt):
                head = read_pack_head(access, base.digest, self.pack_key)
                old = access.get_manifest(base.body_key, base.digest)
                manifest = access.get_manifest(row.body_key, row.digest)
                planned = plan_inherited_pack(head, old, manifest)
                pack = OldPack(access, object_keys.pack_key(base.digest), head)
                try:
                    self._store(manifest, row.digest, planned, pack)
                except ObjectCorrupt:  # A frame of the old pack is damaged. The segments have all blocks.
                    trace = [block for frame in planned for block in frame.blocks if block >= 0]
                    self._store(manifest, row.digest, plan_pack(np.array(trace, dtype=np.int64), manifest), None)
                return True
        return False

    def _follow_other_slot(self, row: ManifestRow, elsewhere: dict[str, tuple[SlotAccess, frozenset[Digest]]]) -> None:
        """Build the pack of a disk in the order of the pack that another slot has. Only the head is read there."""
        for slot in self.others:
            with suppress(StoreError):
                if slot.uid not in elsewhere:
                    other = self.installation.access(slot)
                    elsewhere[slot.uid] = other, _list_packs(other)
                other, present = elsewhere[slot.uid]
                if row.digest not in present:
                    continue
                head = read_pack_head(other, row.digest, self.pack_key)
                manifest = self.installation.access(self.slot).get_manifest(row.body_key, row.digest)
                self._store(manifest, row.digest, plan_pack(head.trace, manifest), None)
                return

    def _store(self, manifest: Manifest, digest: Digest, planned: list[PlannedFrame], old: OldPack | None) -> None:
        check = self.installation.keeper.check_cancelled
        report = _build(self.installation, self.slot, manifest, digest, planned, old, check)
        self.installation.note(str(self.slot.key), f"boot pack: {report.blocks} blocks, {report.stored_bytes} bytes")


def _list_packs(access: SlotAccess) -> frozenset[Digest]:
    """Return the digests of the manifests with a pack in a slot."""
    keys = (info.key.removeprefix(access.prefix) for info in access.store.list(access.prefix + object_keys.PACKS))
    return frozenset(digest for key in keys if (digest := object_keys.packed_manifest(key)) is not None)


def _build(
    installation: Installation,
    slot: Slot,
    manifest: Manifest,
    digest: Digest,
    planned: Sequence[PlannedFrame],
    old: OldPack | None,
    check_cancelled: CheckCancelled,
) -> BootPackReport:
    """Build a pack and store it in a slot."""
    access = installation.access(slot)
    segments = CachedSegments(
        SegmentReader([access]), installation.host_cache.open(), keeps=False, check_cancelled=check_cancelled
    )
    with build_pack(
        planned,
        manifest,
        digest,
        segments=segments,
        old=old,
        pack_key=read_pack_key(installation, slot),
        scratch=installation.scratch,
        check_scratch=lambda needed: installation.check_scratch(installation.scratch, needed),
        workers=installation.threads(installation.tuning.scatter_workers, slot.key.region),
        check_cancelled=check_cancelled,
    ) as body:
        check_cancelled()
        access.put_object(object_keys.pack_key(digest), body, lambda found: found == body)
        return BootPackReport(slot=slot, blocks=_count_blocks(planned), stored_bytes=len(body))


def _count_blocks(planned: Iterable[PlannedFrame]) -> int:
    return sum(block >= 0 for frame in planned for block in frame.blocks)
