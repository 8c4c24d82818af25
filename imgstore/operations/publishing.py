"""A source becomes the first replica of a version, in its source slot (DESIGN.md, "In").

Plan and lease, act, record: three steps, and no transaction is open while bytes move.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgstore.catalog.manifests import unpacked
from imgstore.control.choices import choose_bases
from imgstore.domain import keys
from imgstore.domain.digests import Digest
from imgstore.domain.errors import InvalidInput, ObjectCorrupt, StoreError
from imgstore.domain.geometry import PIECE_BYTES
from imgstore.domain.names import VersionName
from imgstore.domain.resources import OS_DISK, ImageVersion, Replica, SegmentRow, Slot
from imgstore.domain.sources import DiskReader, SourceIdentity
from imgstore.domain.states import ReplicaState
from imgstore.domain.works import Lease, Work, WorkKind
from imgstore.operations.claiming import claim, condemned_in
from imgstore.operations.counting import Counter, task_of
from imgstore.operations.degrading import degrade
from imgstore.operations.finding import Lineage
from imgstore.operations.installation import Installation
from imgstore.operations.settling import Listed, complete_replica, list_segments, write_failure, write_version_state
from imgstore.operations.working import at_work, take_up
from imgstore.segments.codec import CODEC
from imgstore.segments.manifest import Manifest
from imgstore.transfer.checking import check_assembly
from imgstore.transfer.ingest import IngestOrder, ingest, touched_pieces
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import Damage, SegmentReader
from imgstore.transfer.slots import GoOn, SlotAccess

PACKING_RULES: Final = "1"
"""Of comparing and packing. Raised when the same plan would make other segments than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A source on its way to its slot."""

    line: Lineage
    version: ImageVersion
    replica: Replica
    """The one in the source slot."""
    reader: DiskReader
    named_bases: Sequence[VersionName] = ()
    source_manifest: Digest | None = None
    """Of a source that is stored here: where the slot has that content too, it is a base, and nothing is packed anew."""
    verify_full: bool = False


def publish(installation: Installation, publication: Publication) -> None:
    """Take the source in and make its replica Completed.

    Raises:
        ImgstoreError: it failed; the replica is Failed with the error's text, and the same command goes on.
    """
    work, lease = _plan(installation, publication)
    counter = Counter(installation, task_of(publication.replica), replica=publication.replica)
    try:
        _act(installation, publication, work, lease, counter)
    except Exception as error:
        write_failure(installation, lease, publication.replica, str(error))
        counter.fail(str(error))
        if isinstance(error, ObjectCorrupt):
            # The plan leans on what turned out to be damaged: a repeat plans anew.
            with installation.catalog.transaction() as facts:
                facts.works.abandon(work.uid)
        raise


def _plan(installation: Installation, publication: Publication) -> tuple[Work, Lease]:
    """Open or take up the work; the replica is Replicating from here on."""
    version, slot = publication.version, publication.replica.slot
    identity = publication.reader.identity()
    fixed = {
        "identity": identity_as_plan(identity),
        "format": publication.reader.trimmings.format.value,
        "codec": CODEC,
        "rules": PACKING_RULES,
    }
    with installation.catalog.transaction() as facts:
        complete = {
            each.version_uid
            for each in facts.replicas.in_slot(slot.uid)
            if each.state is ReplicaState.COMPLETED and each.version_uid != version.uid
        }
        standing = facts.versions.list(version.definition_uid)
        candidates = [each for each in standing if each.uid in complete and each.is_visible]
        _check_bases(publication.named_bases, candidates)
        bases = choose_bases(candidates, new=version.name, named=publication.named_bases)
        manifests = [facts.manifests.find(base.uid, slot.uid, OS_DISK) for base in bases]
        if publication.source_manifest is not None:
            manifests.insert(0, facts.manifests.with_digest(slot.uid, publication.source_manifest))
        rows = list({row.digest: row for row in manifests if row is not None}.values())
        plan = fixed | {"bases": [{"key": row.body_key, "digest": row.digest.hex()} for row in rows]}
        work, lease = take_up(
            installation,
            facts,
            kind=WorkKind.INGEST,
            slot=slot,
            owner_uid=version.uid,
            plan=plan,
            pins=tuple(row.uid for row in rows),
            still_fits=lambda old: {name: old.get(name) for name in fixed} == fixed,
        )
        facts.versions.lock(version.uid)
        facts.replicas.move(publication.replica.uid, ReplicaState.REPLICATING)
        write_version_state(facts, version)
    return work, lease


def _check_bases(named: Sequence[VersionName], candidates: Sequence[ImageVersion]) -> None:
    known = {version.name for version in candidates}
    unknown = [str(name) for name in named if name not in known]
    if unknown:
        raise InvalidInput(
            f"Version {', '.join(unknown)} can't be a base.",
            found=f"complete in the source slot: {', '.join(map(str, sorted(known))) or 'none'}",
            expected="versions of this definition that are complete in the source region",
            hint="leave --base out: the newest version and the one below are compared with anyway",
            target="base",
        )


def _act(installation: Installation, publication: Publication, work: Work, lease: Lease, counter: Counter) -> None:
    slot = publication.replica.slot
    access = installation.access(slot)
    reader = publication.reader
    counter.total = sum(1 for _ in touched_pieces(reader)) * PIECE_BYTES
    with (
        at_work(installation, slot, lease, counter.write_down) as hold,
        tempfile.TemporaryDirectory(dir=installation.scratch) as scratch,
    ):
        go_on = hold.go_on
        counter.begin()
        with installation.catalog.reading() as facts:
            key = facts.pools.get(slot.key.pool_uid).fingerprint_key
        condemned = condemned_in(installation, slot)
        receipt = ingest(
            IngestOrder(
                work_uid=work.uid,
                slot=access,
                reader=reader,
                identity=_identity(work.plan),
                bases=base_manifests(installation, slot, work.plan),
                present=_present(installation, publication, access, condemned),
                fingerprint_key=key,
                scratch=Path(scratch),
                workers=installation.tuning.put_workers,
                go_on=go_on,
                claim=lambda name: claim_one(installation, slot, condemned, name),
                moved=counter.moved,
            )
        )
        if receipt.missing:
            degrade(installation, slot, receipt.missing, "the store lacks it or has it damaged")
        segments = SegmentReader([access])
        try:
            _assemble(installation, publication, receipt, segments, work, Path(scratch), go_on)
        except ObjectCorrupt:
            distrust(installation, slot, access, segments.damages)
            raise
        _record(installation, publication, receipt, lease)
    counter.end(f"{receipt.packed_bytes} bytes stored")


def _assemble(
    installation: Installation,
    publication: Publication,
    receipt: IngestReceipt,
    reader: SegmentReader,
    work: Work,
    scratch: Path,
    go_on: GoOn,
) -> None:
    """Put some pieces, or all, together again before anyone is told that the disk is there."""
    check_assembly(
        receipt.manifest,
        reader,
        work_uid=work.uid,
        full=publication.verify_full,
        scratch=scratch,
        workers=installation.tuning.scatter_workers,
        go_on=go_on,
    )


def distrust(installation: Installation, slot: Slot, access: SlotAccess, damages: Sequence[Damage]) -> None:
    """What the check could not read: its replicas are degraded; what no replica names is taken away, and sent again."""
    names = {damage.name for damage in damages if not damage.error.retryable}
    if not names:
        return
    degrade(installation, slot, names, "missing or damaged when read")
    with installation.catalog.reading() as facts:
        ids = facts.manifests.named_in_slot(slot.uid)
        named = {row.name for row in facts.segments.rows(slot.key.pool_uid, ids)}
    access.remove([keys.segment_key(name) for name in sorted(names - named)])


def claim_one(installation: Installation, slot: Slot, condemned: frozenset[Digest], name: Digest) -> None:
    """Let a segment live that is put anew; only what was condemned before the listing can have been on its way out."""
    if name in condemned:
        claim(installation, slot, [name])


def _present(
    installation: Installation, publication: Publication, access: SlotAccess, condemned: frozenset[Digest]
) -> dict[Digest, int]:
    """The slot's segments as the store lists them now; of a replica that was complete before, those that read back right.

    What is condemned counts as absent.

    Such a replica is here because it was found damaged, and a damaged segment has the right length in a listing. Left
    out here, it is sent again.
    """
    present = access.segments()
    slot = publication.replica.slot
    with installation.catalog.reading() as facts:
        row = facts.manifests.find(publication.version.uid, slot.uid, OS_DISK)
        was_complete = row is not None and facts.manifests.is_complete(row.uid)
        ids = unpacked(row.segment_ids if row and was_complete else b"")
        names = [segment.name for segment in facts.segments.rows(slot.key.pool_uid, ids)]
    for name in condemned | access.damaged(names):
        present.pop(name, None)
    return present


def _record(installation: Installation, publication: Publication, receipt: IngestReceipt, lease: Lease) -> None:
    """Write the segments down, put the manifest, complete."""
    version, slot = publication.version, publication.replica.slot
    listed = Listed(
        owner_uid=version.uid,
        slot=slot,
        digest=receipt.digest,
        body_key=keys.manifest_key(version.uid, OS_DISK),
        object_bytes=len(receipt.data),
        virtual_bytes=receipt.manifest.virtual_bytes,
        disk_digest=receipt.manifest.disk_digest,
    )
    with installation.catalog.transaction() as facts:
        facts.works.guard(lease)
        manifest = list_segments(installation, facts, listed, segment_rows(receipt))
    installation.access(slot).put_manifest(listed.body_key, receipt.data)
    complete_replica(
        installation,
        lease=lease,
        line=publication.line,
        version=version,
        replica=publication.replica,
        manifest=manifest,
    )


def segment_rows(receipt: IngestReceipt) -> list[SegmentRow]:
    """What the catalog keeps of the segments that an ingest confirmed."""
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


def base_manifests(installation: Installation, slot: Slot, plan: Mapping[str, Any]) -> list[Manifest]:
    """The bases' manifests, but for those that the slot can't serve: they are told, and done without."""
    access = installation.access(slot)
    manifests = []
    for base in plan["bases"]:
        try:
            manifests.append(access.manifest(base["key"], bytes.fromhex(base["digest"])))
        except StoreError as error:
            installation.note(str(slot.key), f"a base can't be read and is done without: {error.message}")
    return manifests


def identity_as_plan(identity: SourceIdentity) -> dict[str, Any]:
    """An identity as JSON."""
    return {"location": identity.location, "file_bytes": identity.file_bytes, "stamp": identity.stamp}


def _identity(plan: Mapping[str, Any]) -> SourceIdentity:
    return SourceIdentity(**plan["identity"])
