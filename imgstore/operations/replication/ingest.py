"""Ingest the sources of a version as its first replica, in the source slot (docs/internals/ingest.md).

An ingest plans and leases, acts, and records. No transaction is open while bytes are transferred (invariant L4). One
work ingests all disks, the OS disk first (invariant I18). The plan of the work records each finished disk, so that a
repeated command resumes with the next disk.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.disks.upload_tags import UPLOAD_MISMATCH
from imgstore.domain.disks.version_disks import OS_DISK, sort_disk_keys
from imgstore.domain.errors import (
    InvalidInput,
    ObjectCorrupt,
    ObjectNotFound,
    SourceChanged,
)
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, ManifestRow, Replica
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.works import Lease, Work, WorkKind
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter, task_name
from imgstore.operations.replication.boot_packs import inherit_packs
from imgstore.operations.replication.slot_ingest import (
    PACKING,
    PredictionStart,
    SlotIngest,
    bases_to_json,
    load_base_manifests,
    manifest_row,
    open_prediction,
    open_slot_ingest,
    source_to_json,
    touched_bytes,
)
from imgstore.operations.slots.completion import (
    LeasedReplica,
    complete_replica,
    record_manifest,
)
from imgstore.operations.slots.degrade import discard_unreadable
from imgstore.operations.slots.refill import find_damaged, refill
from imgstore.operations.slots.restore import restore_repaired
from imgstore.operations.slots.runner import begin_replica, run_work
from imgstore.policy.selection import choose_bases
from imgstore.segments.manifest import Manifest
from imgstore.transfer.ingest import check_same_source
from imgstore.transfer.receipts import IngestReceipt

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
    expected_digests: Mapping[str, Digest | None] = field(default_factory=dict)
    """The disk digests that the client of an upload named, by disk key."""
    verify_full: bool = False


def publish(installation: Installation, publication: Publication) -> None:
    """Ingest the sources of a version, and set the replica to Completed.

    Raises:
        ImgstoreError: the ingest failed. The replica is Failed with the text of the error, or Degraded if it was
            complete once. The same command resumes the ingest.
    """
    version, replica = publication.version, publication.replica
    slot = replica.slot
    work, lease = _plan(installation, publication)
    counter = ProgressCounter(installation, task_name(replica), replica=replica, lease=lease)
    disk_keys = sort_disk_keys(publication.readers)
    keys = [object_keys.manifest_key(version.uid, disk) for disk in disk_keys]
    with run_work(installation, slot, lease, counter, replica=replica, keys=keys, uses_bases=True) as check_cancelled:
        leased = LeasedReplica(
            definition_path=publication.definition_path, version=version, replica=replica, lease=lease
        )
        rows = _complete_rows(installation, publication)
        damaged = find_damaged(installation, slot, rows.values(), check_cancelled)
        readers = publication.readers
        unmade = refill(installation, slot, rows, readers, damaged, counter, check_cancelled) if rows else None
        if unmade is not None and not unmade:
            complete_replica(installation, leased, list(rows.values()))
            result = f"{len(damaged)} lost segments made again from the source"
        else:
            counter.total = sum(map(touched_bytes, publication.readers.values()))
            counter.begin()
            absent = damaged if unmade is None else unmade
            with open_slot_ingest(installation, slot, check_cancelled, counter.add_bytes, absent) as slot_ingest:
                run = _VersionIngest(publication=publication, work=work, lease=lease, run=slot_ingest)
                manifests = [run.ingest_disk(disk) for disk in disk_keys]
            for disk, reader in publication.readers.items():
                check_same_source(reader, _identity(work.plan, disk))
            complete_replica(installation, leased, manifests)
            result = f"{slot_ingest.packed_bytes} bytes stored"
    counter.end(result)
    if damaged:
        restore_repaired(installation, slot)
    inherit_packs(installation, version, slot)


def _plan(installation: Installation, publication: Publication) -> tuple[Work, Lease]:
    """Open or take over the work, and set the replica to Replicating."""
    fixed = _fixed_plan(publication)
    with installation.catalog.transaction() as transaction:
        plan, pins = decide_plan(transaction, publication)
        return begin_replica(
            installation, transaction, publication.replica, WorkKind.INGEST, plan=plan, fixed=fixed, pins=pins
        )


def decide_plan(transaction: Transaction, publication: Publication) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the plan of the ingest of a version, and the manifests to pin. A prediction packs by the same plan."""
    replica, fixed = publication.replica, _fixed_plan(publication)
    bases = _choose_bases(transaction, publication)
    decisions: dict[str, Any] = {"bases": {key: bases_to_json(rows) for key, rows in bases.items()}}
    pins = tuple(row.uid for rows in bases.values() for row in rows)
    earlier = transaction.works.find_open(WorkKind.INGEST, replica.slot.uid, replica.version_uid)
    kept = None if earlier is None else _keep_decisions(earlier.plan, fixed, publication.source_manifests)
    if earlier is not None and kept is not None:
        decisions, pins = kept, earlier.pins
    elif (first := _first_decisions(transaction, publication)) is not None:
        decisions, pins = first
    return fixed | decisions, pins


def _fixed_plan(publication: Publication) -> dict[str, Any]:
    sources = {key: source_to_json(reader, reader.identity()) for key, reader in publication.readers.items()}
    return {"sources": sources, **PACKING}


def predict_packing(
    installation: Installation, publication: Publication, plan: Mapping[str, Any], start: PredictionStart
) -> dict[str, IngestReceipt]:
    """Read and pack the disks of a version without storing anything.

    The segments and manifests have the lengths of an ingest by the same plan (invariant M16).

    Args:
        installation: the installation.
        publication: the disks. The version need not exist.
        plan: the plan of `decide_plan`.
        start: the source slot.

    Returns:
        The packed disks, by disk key.
    """
    disk_keys = sort_disk_keys(publication.readers)
    counter = ProgressCounter(installation, f"read {publication.version.name}")
    counter.total = sum(map(touched_bytes, publication.readers.values()))
    counter.begin()
    receipts: dict[str, IngestReceipt] = {}
    with open_prediction(installation, start, counter.add_bytes, keeps_segments=len(disk_keys) > 1) as run:
        for disk in disk_keys:
            bases = load_base_manifests(installation, run.access, plan["bases"][disk])
            bases += [receipts[OS_DISK].manifest] if OS_DISK in receipts else []
            packing_uid = object_keys.packing_uid(publication.version.uid, disk)
            receipts[disk] = run.pack(packing_uid, publication.readers[disk], _identity(plan, disk), bases)
            run.note_packed(receipts[disk])
    counter.end(f"{run.packed_bytes} bytes packed, none stored")
    return receipts


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
    if before.keys() != now.keys() or any(earlier.get(name) != fixed[name] for name in PACKING):
        return None
    changed = {key for key in now if before[key] != now[key]}
    if changed.intersection(stored):
        return None
    finished = {key: digest for key, digest in earlier.get("taken", {}).items() if key not in changed}
    kept = {"bases": earlier["bases"], "taken": finished}
    return kept | ({"packing": earlier["packing"]} if "packing" in earlier else {})


def _first_decisions(
    transaction: Transaction, publication: Publication
) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """Return the bases and the packing uid of the first ingest of a version, and the pins of the present bases.

    An equal source with equal bases makes equal segments and an equal manifest. So a lost manifest can be made again.
    Return None if the version was never ingested.
    """
    version_uid, slot_uid = publication.version.uid, publication.replica.slot.uid
    first = transaction.works.find_first_completed(WorkKind.INGEST, version_uid)
    if first is None or first.plan.get("bases", {}).keys() != publication.readers.keys():
        return None
    bases = first.plan["bases"]
    rows = [transaction.manifests.find_by_body(slot_uid, base["key"]) for disk in bases for base in bases[disk]]
    pins = tuple({row.uid: None for row in rows if row is not None})
    return {"bases": bases, "packing": first.uid}, pins


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


@dataclass(slots=True, kw_only=True)
class _VersionIngest:
    """The ingest of the disks of a version, under one work."""

    publication: Publication
    work: Work
    lease: Lease
    run: SlotIngest
    os_disk: Manifest | None = None
    """The manifest of the OS disk after its ingest. The manifest is a base of the data disks."""

    def ingest_disk(self, disk: str) -> ManifestRow:
        """Store the segments of a disk, record its manifest, and put the manifest.

        Do nothing for a disk that an earlier run of the work has finished.
        """
        finished = self._find_finished(disk)
        row, manifest = finished or self._store(disk)
        if finished:
            self.run.on_moved(touched_bytes(self.publication.readers[disk]))
        if disk == OS_DISK:
            self.os_disk = manifest
        return row

    def _find_finished(self, disk: str) -> tuple[ManifestRow, Manifest] | None:
        """Find the manifest of a disk that an earlier run has finished.

        The listing confirms the segments (invariant W13).
        """
        digest = self.work.plan.get("taken", {}).get(disk)
        installation, slot = self.run.installation, self.run.slot
        with installation.catalog.reading() as transaction:
            row = transaction.manifests.find(self.publication.version.uid, slot.uid, disk)
        if row is None or row.digest.hex() != digest:
            return None
        try:
            manifest = installation.access(slot).get_manifest(row.body_key, row.digest)
        except (ObjectNotFound, ObjectCorrupt):
            return None
        table = manifest.segments
        named = zip(table.all_names(), table.stored_bytes.tolist(), strict=True)
        return (row, manifest) if all(self.run.listing.present.get(name) == size for name, size in named) else None

    def _store(self, disk: str) -> tuple[ManifestRow, Manifest]:
        packing_uid = object_keys.packing_uid(self.work.plan.get("packing", self.work.uid), disk)
        bases = load_base_manifests(self.run.installation, self.run.access, self.work.plan["bases"][disk])
        if self.os_disk is not None:
            bases.append(self.os_disk)
        receipt = self.run.pack(packing_uid, self.publication.readers[disk], _identity(self.work.plan, disk), bases)
        self._check_digest(disk, receipt.manifest.disk_digest)
        self._check_os_disk(receipt.missing)
        self.run.check(packing_uid, receipt, full=self.publication.verify_full)
        return self._record(disk, receipt), receipt.manifest

    def _check_digest(self, disk: str, found: Digest) -> None:
        """Refuse an upload with other bytes than the client sent, for example ranges of an earlier file."""
        expected = self.publication.expected_digests.get(disk)
        if expected is not None and found != expected:
            raise SourceChanged(
                "The uploaded bytes are not the bytes of the file.",
                found=f"disk digest {found.hex()}",
                expected=f"disk digest {expected.hex()}",
                hint="delete the disk of the upload, and upload the file again",
                target=disk,
                code=UPLOAD_MISMATCH,
            )

    def _check_os_disk(self, missing: frozenset[Digest]) -> None:
        """Fail if the ingest of a data disk found segments of the finished OS disk to be missing or damaged."""
        names = () if self.os_disk is None else self.os_disk.segments.all_names()
        lost = missing.intersection(names)
        if lost:
            discard_unreadable(self.run.installation, self.run.slot, lost)
            raise ObjectCorrupt(
                "Stored segments of the OS disk can't be read back.",
                found=f"{len(lost)} missing or damaged segments, the first {min(lost).hex()}",
                expected="no missing or damaged segment",
                hint="check the disks of the store, then repeat the command: intact segments are not sent again",
                target=self.run.installation.access(self.run.slot).label,
            )

    def _record(self, disk: str, receipt: IngestReceipt) -> ManifestRow:
        """Record the segments and the finished disk, then put the manifest."""
        installation, slot = self.run.installation, self.run.slot
        listed = manifest_row(installation, slot, self.publication.version.uid, disk, receipt)
        with installation.catalog.transaction() as transaction:
            transaction.works.guard(self.lease)
            manifest = record_manifest(installation, transaction, slot, listed, receipt.segments)
            work = transaction.works.get(self.work.uid)
            taken = work.plan.get("taken", {}) | {disk: receipt.digest.hex()}
            transaction.works.update_plan(self.lease, {**work.plan, "taken": taken}, work.pins)
        installation.access(slot).put_manifest(listed.body_key, receipt.data)
        return manifest


def _complete_rows(installation: Installation, publication: Publication) -> dict[str, ManifestRow]:
    """Return the manifest rows of a replica that was complete once, by disk key. Empty for any other replica."""
    with installation.catalog.reading() as transaction:
        rows = transaction.manifests.of_replica(publication.version.uid, publication.replica.slot.uid)
        complete = {row.disk: row for row in rows if transaction.manifests.is_complete(row.uid)}
    return complete if complete.keys() == publication.readers.keys() else {}


def _identity(plan: Mapping[str, Any], disk: str) -> SourceIdentity:
    return SourceIdentity(**plan["sources"][disk]["identity"])
