"""Ingest the sources of a version as its first replica, in the source slot (docs/internals/ingest.md).

An ingest plans and leases, acts, and records. No transaction is open while bytes are transferred (invariant L4). One
work ingests all disks, the OS disk first (invariant I18). The plan of the work records each finished disk, so that a
repeated command resumes with the next disk.
"""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK, sort_disk_keys
from imgstore.domain.errors import (
    InvalidInput,
    ObjectCorrupt,
    ObjectNotFound,
    ReadBackMismatch,
    StoreError,
    public_text,
)
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica, SegmentRow, Slot
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.leases import Hold
from imgstore.operations.progress import ProgressCounter, task_name
from imgstore.operations.slots.completion import (
    PendingManifest,
    complete_replica,
    named_segments,
    record_failure,
    record_manifest,
    update_version_state,
)
from imgstore.operations.slots.degrade import degrade, discard_unreadable, remove_damaged
from imgstore.operations.slots.gc_guard import claim_segments, list_marked_segments
from imgstore.operations.slots.key_deletions import wait_for_deletions
from imgstore.operations.slots.restore import abandon_other_work
from imgstore.operations.slots.works import acquire_work, hold_work
from imgstore.operations.stores.zone_gaps import record_zone_gaps
from imgstore.policy.selection import choose_bases
from imgstore.segments.codec import CODEC
from imgstore.segments.manifest import Manifest
from imgstore.transfer.ingest import IngestOrder, check_same_source, ingest, touched_pieces
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import Damage, SegmentReader
from imgstore.transfer.slot_access import CheckCancelled, SegmentListing, SlotAccess
from imgstore.transfer.spot_check import check_assembly

PACKING_RULES: Final = "1"
"""The version of the rules of comparison and packing. Increase it when equal plans make other segments than before."""

NO_STORED_SOURCES: Final[Mapping[str, Digest]] = MappingProxyType({})
"""The source manifests of a version whose sources are all files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """An order to ingest the disks of a version into the source slot."""

    definition_path: DefinitionPath
    version: ImageVersion
    replica: Replica
    """The replica in the source slot."""
    readers: Mapping[str, DiskReader]
    """The opened source of each disk, by disk key."""
    named_bases: Sequence[VersionName] = ()
    source_manifests: Mapping[str, Digest] = field(default_factory=lambda: NO_STORED_SOURCES)
    """The digests of the manifests of stored sources, by disk key. A manifest in the slot with this digest is a base."""
    verify_full: bool = False


def publish(installation: Installation, publication: Publication) -> None:
    """Ingest the sources of a version, and set the replica to Completed.

    Raises:
        ImgstoreError: the ingest failed. The replica is Failed with the text of the error, or Degraded if it was
            complete once. The same command resumes the ingest.
    """
    work, lease = _plan(installation, publication)
    counter = ProgressCounter(installation, task_name(publication.replica), replica=publication.replica)
    try:
        _act(installation, publication, work, lease, counter)
    except Exception as error:
        record_failure(installation, lease, publication.replica, public_text(error))
        counter.fail(str(error))
        if isinstance(error, ReadBackMismatch):
            remove_damaged(installation, publication.replica.slot, error)
        if isinstance(error, ObjectCorrupt):
            # The plan uses a damaged object. After this, a repeated command makes a new plan.
            with installation.catalog.transaction() as transaction:
                transaction.works.abandon(work.uid)
        raise


def _plan(installation: Installation, publication: Publication) -> tuple[Work, Lease]:
    """Open or take over the work, and set the replica to Replicating."""
    version, slot = publication.version, publication.replica.slot
    sources = {
        key: {"identity": identity_to_json(reader.identity()), "format": reader.container_metadata.format.value}
        for key, reader in publication.readers.items()
    }
    fixed = {"sources": sources, "codec": CODEC, "rules": PACKING_RULES}
    with installation.catalog.transaction() as transaction:
        bases = _choose_bases(transaction, publication)
        decisions: dict[str, Any] = {
            "bases": {
                key: [{"key": row.body_key, "digest": row.digest.hex()} for row in rows] for key, rows in bases.items()
            }
        }
        pins = tuple(row.uid for rows in bases.values() for row in rows)
        earlier = transaction.works.find_open(WorkKind.INGEST, slot.uid, version.uid)
        kept = None if earlier is None else _keep_decisions(earlier.plan, fixed, publication.source_manifests)
        if earlier is not None and kept is not None:
            decisions, pins = kept, earlier.pins
        work, lease = acquire_work(
            installation,
            transaction,
            kind=WorkKind.INGEST,
            slot=slot,
            owner_uid=version.uid,
            plan=fixed | decisions,
            pins=pins,
            can_resume=lambda old: {name: old.get(name) for name in fixed} == fixed,
        )
        transaction.versions.lock(version.uid)
        abandon_other_work(installation, transaction, WorkKind.COPY, publication.replica)
        transaction.replicas.move(publication.replica.uid, ReplicaState.REPLICATING)
        update_version_state(transaction, version)
    return work, lease


def _keep_decisions(
    earlier: Mapping[str, Any], fixed: Mapping[str, Any], stored: Collection[str]
) -> dict[str, Any] | None:
    """Return the bases and the finished disks of an earlier plan, if only files got another identity since.

    Equal files then make the segments that are stored already (invariant W5). A finished disk with an unchanged source
    is not read again.

    Args:
        earlier: the plan of the open work.
        fixed: the part of the new plan that a resumed work must have.
        stored: the disk keys with a stored source. The identity of such a source is its content.
    """
    before, now = earlier.get("sources", {}), fixed["sources"]
    if before.keys() != now.keys() or any(earlier.get(name) != fixed[name] for name in ("codec", "rules")):
        return None
    changed = {key for key in now if before[key] != now[key]}
    if changed.intersection(stored):
        return None
    finished = {key: digest for key, digest in earlier.get("taken", {}).items() if key not in changed}
    return {"bases": earlier["bases"], "taken": finished}


def _choose_bases(transaction: Transaction, publication: Publication) -> dict[str, list[ManifestRow]]:
    """Choose the bases of each disk, by disk key (invariant I7).

    The bases of a disk are the manifest of its source, and the manifests of other versions for the same disk key. All
    bases are in the source slot.
    """
    version, slot = publication.version, publication.replica.slot
    complete = {
        each.version_uid
        for each in transaction.replicas.in_slot(slot.uid)
        if each.state is ReplicaState.COMPLETED and each.version_uid != version.uid
    }
    versions = transaction.versions.list(version.definition_uid)
    candidates = [each for each in versions if each.uid in complete and each.is_visible]
    _check_bases(publication.named_bases, candidates)
    bases: dict[str, list[ManifestRow]] = {}
    for key in publication.readers:
        with_disk = [each for each in candidates if key in each.disk_keys]
        chosen = choose_bases(with_disk, new=version.name, named=publication.named_bases)
        rows = [transaction.manifests.find(each.uid, slot.uid, key) for each in chosen]
        if key in publication.source_manifests:
            rows.insert(0, transaction.manifests.find_by_digest(slot.uid, publication.source_manifests[key]))
        bases[key] = list({row.digest: row for row in rows if row is not None}.values())
    return bases


def _check_bases(named: Sequence[VersionName], candidates: Sequence[ImageVersion]) -> None:
    known = {version.name for version in candidates}
    unknown = [str(name) for name in named if name not in known]
    if unknown:
        raise InvalidInput(
            f"Version {', '.join(unknown)} can't be a base.",
            found=f"complete in the source slot: {', '.join(map(str, sorted(known))) or 'none'}",
            expected="versions of this definition that are complete in the source region",
            hint="leave --base out: the newest version and the next lower version are bases in any case",
            target="base",
        )


def _act(
    installation: Installation, publication: Publication, work: Work, lease: Lease, counter: ProgressCounter
) -> None:
    slot = publication.replica.slot
    counter.total = sum(_touched_bytes(reader) for reader in publication.readers.values())
    with (
        hold_work(installation, slot, lease, counter.save) as hold,
        tempfile.TemporaryDirectory(dir=installation.scratch) as scratch,
    ):
        manifest_keys = [object_keys.manifest_key(publication.version.uid, disk) for disk in publication.readers]
        wait_for_deletions(installation, slot, manifest_keys, hold.check_cancelled)
        counter.begin()
        with installation.catalog.reading() as transaction:
            key = transaction.pools.get(slot.key.pool_uid).fingerprint_key
        marked = list_marked_segments(installation, slot)
        ingest_run = _VersionIngest(
            installation=installation,
            publication=publication,
            work=work,
            lease=lease,
            hold=hold,
            counter=counter,
            scratch=Path(scratch),
            fingerprint_key=key,
            marked=marked,
            listing=_list_usable_segments(
                installation, publication, installation.access(slot), marked, hold.check_cancelled
            ),
        )
        manifests = [ingest_run.ingest_disk(disk) for disk in sort_disk_keys(publication.readers)]
        for disk, reader in publication.readers.items():
            check_same_source(reader, _identity(work.plan, disk))
        complete_replica(
            installation,
            lease=lease,
            definition_path=publication.definition_path,
            version=publication.version,
            replica=publication.replica,
            manifests=manifests,
        )
    record_zone_gaps(installation, slot)
    counter.end(f"{ingest_run.packed_bytes} bytes stored")


def _touched_bytes(reader: DiskReader) -> int:
    return sum(1 for _ in touched_pieces(reader)) * PIECE_BYTES


@dataclass(slots=True, kw_only=True)
class _VersionIngest:
    """The ingest of the disks of a version, under one work."""

    installation: Installation
    publication: Publication
    work: Work
    lease: Lease
    hold: Hold
    counter: ProgressCounter
    scratch: Path
    fingerprint_key: bytes
    marked: frozenset[Digest]
    """The segments of the slot that were marked for deletion before the listing."""
    listing: SegmentListing
    """The listed segments of the slot, and the segments of the disks that were ingested since."""
    os_disk: Manifest | None = None
    """The manifest of the OS disk after its ingest. The manifest is a base of the data disks."""
    packed_bytes: int = 0
    """Stored bytes of the packed segments, including segments that the slot had already."""

    def ingest_disk(self, disk: str) -> ManifestRow:
        """Store the segments of a disk, record its manifest, and put the manifest.

        Do nothing for a disk that an earlier run of the work has finished.
        """
        finished = self._find_finished(disk)
        row, manifest = finished or self._store(disk)
        if finished:
            self.counter.add_bytes(_touched_bytes(self.publication.readers[disk]))
        if disk == OS_DISK:
            self.os_disk = manifest
        return row

    def _find_finished(self, disk: str) -> tuple[ManifestRow, Manifest] | None:
        """Find the manifest of a disk that an earlier run has finished.

        The listing confirms the segments (invariant W13).
        """
        digest = self.work.plan.get("taken", {}).get(disk)
        slot = self.publication.replica.slot
        with self.installation.catalog.reading() as transaction:
            row = transaction.manifests.find(self.publication.version.uid, slot.uid, disk)
        if row is None or row.digest.hex() != digest:
            return None
        try:
            manifest = self.installation.access(slot).get_manifest(row.body_key, row.digest)
        except (ObjectNotFound, ObjectCorrupt):
            return None
        table = manifest.segments
        named = zip(table.all_names(), table.stored_bytes.tolist(), strict=True)
        return (row, manifest) if all(self.listing.present.get(name) == size for name, size in named) else None

    def _store(self, disk: str) -> tuple[ManifestRow, Manifest]:
        installation, slot = self.installation, self.publication.replica.slot
        access = installation.access(slot)
        receipt = ingest(self._order(disk, access))
        if receipt.missing:
            degrade(installation, slot, receipt.missing, "missing or damaged in the store")
            self._check_os_disk(receipt.missing, access)
        segments = SegmentReader([access])
        try:
            self._assemble(disk, receipt, segments)
        except ObjectCorrupt:
            discard_unreadable(installation, slot, find_unreadable(segments.damages))
            raise
        self.listing.present.update({each.name: each.stored_bytes for each in receipt.segments})
        self.packed_bytes += receipt.packed_bytes
        return self._record(disk, receipt), receipt.manifest

    def _check_os_disk(self, missing: frozenset[Digest], access: SlotAccess) -> None:
        """Fail if the ingest of a data disk found segments of the finished OS disk to be missing or damaged."""
        names = () if self.os_disk is None else self.os_disk.segments.all_names()
        lost = missing.intersection(names)
        if lost:
            discard_unreadable(self.installation, self.publication.replica.slot, lost)
            raise ObjectCorrupt(
                "Stored segments of the OS disk can't be read back.",
                found=f"{len(lost)} missing or damaged segments, the first {min(lost).hex()}",
                expected="no missing or damaged segment",
                hint="check the disks of the store, then repeat the command: intact segments are not sent again",
                target=access.label,
            )

    def _order(self, disk: str, access: SlotAccess) -> IngestOrder:
        installation, slot = self.installation, self.publication.replica.slot
        bases = load_base_manifests(installation, slot, self.work.plan["bases"][disk])
        return IngestOrder(
            work_uid=object_keys.packing_uid(self.work.uid, disk),
            slot=access,
            reader=self.publication.readers[disk],
            identity=_identity(self.work.plan, disk),
            bases=bases if self.os_disk is None else [*bases, self.os_disk],
            listing=self.listing,
            fingerprint_key=self.fingerprint_key,
            scratch=self.scratch,
            check_scratch=installation.check_scratch,
            workers=installation.threads(installation.tuning.put_workers, slot.key.region),
            check_cancelled=self._check_cancelled,
            claim=lambda name: claim_segment(installation, slot, self.marked, name),
            on_moved=self.counter.add_bytes,
        )

    def _assemble(self, disk: str, receipt: IngestReceipt, reader: SegmentReader) -> None:
        """Assemble a sample of the pieces, or all pieces, and compare the digests before the disk is visible (I15)."""
        check_assembly(
            receipt.manifest,
            reader,
            work_uid=object_keys.packing_uid(self.work.uid, disk),
            full=self.publication.verify_full,
            scratch=self.scratch,
            workers=self.installation.threads(
                self.installation.tuning.scatter_workers, self.publication.replica.slot.key.region
            ),
            check_cancelled=self._check_cancelled,
        )

    def _check_cancelled(self) -> None:
        self.hold.check_cancelled()
        self.installation.check_scratch(self.scratch, 0)

    def _record(self, disk: str, receipt: IngestReceipt) -> ManifestRow:
        """Record the segments and the finished disk, then put the manifest."""
        version, slot = self.publication.version, self.publication.replica.slot
        listed = PendingManifest(
            owner_uid=version.uid,
            slot=slot,
            disk=disk,
            digest=receipt.digest,
            body_key=object_keys.manifest_key(version.uid, disk),
            object_bytes=len(receipt.data),
            virtual_bytes=receipt.manifest.virtual_bytes,
            disk_digest=receipt.manifest.disk_digest,
        )
        with self.installation.catalog.transaction() as transaction:
            transaction.works.guard(self.lease)
            manifest = record_manifest(self.installation, transaction, listed, segment_rows(receipt))
            work = transaction.works.get(self.work.uid)
            taken = work.plan.get("taken", {}) | {disk: receipt.digest.hex()}
            transaction.works.update_plan(self.lease, {**work.plan, "taken": taken}, work.pins)
        self.installation.access(slot).put_manifest(listed.body_key, receipt.data)
        return manifest


def find_unreadable(damages: Iterable[Damage]) -> set[Digest]:
    """Return the segments that a reader found to be missing or wrong."""
    return {damage.name for damage in damages if damage.is_certain}


def claim_segment(installation: Installation, slot: Slot, marked: frozenset[Digest], name: Digest) -> None:
    """Remove the deletion mark of a segment that is about to be put again.

    GC deletes only segments that were marked before the work was opened (invariant G3), so other names need no request.
    """
    if name in marked:
        claim_segments(installation, slot, [name])


def _list_usable_segments(
    installation: Installation,
    publication: Publication,
    access: SlotAccess,
    marked: frozenset[Digest],
    check_cancelled: CheckCancelled,
) -> SegmentListing:
    """List the segments of the slot, without marked segments and without damaged segments of the replica.

    Only the segments of a replica that was complete before are read back. Something in such a replica was found
    damaged, and a damaged segment has the right length in a listing. A segment that is left out here is sent again.
    """
    listing = access.list_segments()
    slot = publication.replica.slot
    with installation.catalog.reading() as transaction:
        rows = transaction.manifests.of_replica(publication.version.uid, slot.uid)
        ids = named_segments(row for row in rows if transaction.manifests.is_complete(row.uid))
        names = [segment.name for segment in transaction.segments.rows(slot.key.pool_uid, ids)]
    workers = installation.threads(installation.tuning.copy_workers, slot.key.region)
    return listing.without(marked | access.find_damaged(names, workers=workers, check_cancelled=check_cancelled))


def segment_rows(receipt: IngestReceipt) -> list[SegmentRow]:
    """Return the catalog rows of the segments that an ingest confirmed."""
    return [
        SegmentRow(
            name=each.name,
            blocks=each.blocks,
            stored_bytes=each.stored_bytes,
            checksum=each.checksum,
            work_uid=each.work_uid,
        )
        for each in receipt.segments
    ]


def load_base_manifests(installation: Installation, slot: Slot, planned: Sequence[Mapping[str, str]]) -> list[Manifest]:
    """Read the manifests of the bases. Report a base that cannot be read, and leave that base out."""
    access = installation.access(slot)
    manifests = []
    for base in planned:
        try:
            manifests.append(access.get_manifest(base["key"], bytes.fromhex(base["digest"])))
        except StoreError as error:
            installation.note(str(slot.key), f"a base can't be read and is not used: {error.message}")
    return manifests


def identity_to_json(identity: SourceIdentity) -> dict[str, Any]:
    """Return a source identity as JSON, for the plan of a work."""
    return {"location": identity.location, "file_bytes": identity.file_bytes, "stamp": identity.stamp}


def _identity(plan: Mapping[str, Any], disk: str) -> SourceIdentity:
    return SourceIdentity(**plan["sources"][disk]["identity"])
