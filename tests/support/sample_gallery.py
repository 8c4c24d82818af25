"""A small gallery in a temporary home, and an audit that is independent of the operations.

`audit` is the oracle of the tests of operations and faults. The audit lists the store of every slot, decodes the stored
manifests, reads every segment, and compares the result with the catalog and the bill.
"""

import filecmp
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog.storage.revisions import KINDS
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.disks.version_disks import disk_key
from imgstore.domain.effects import Effects
from imgstore.domain.identity.access import Principal, administrator
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.progress import Subscriber, ignore_event
from imgstore.domain.requests import DataVhd, DiskOfImageRequest, VersionRequest, VersionSource
from imgstore.domain.resources import (
    ImageDefinition,
    ManagedDisk,
    OsType,
    Slot,
    StorageAccountType,
    TargetRegionRequest,
    VersionUpdate,
)
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.revisions import OWNER_KINDS
from imgstore.domain.views import Export, VersionView
from imgstore.ledger.entries import ChargeKind, LedgerRow
from imgstore.ledger.statements.statement import AMOUNT_UNIT, Statement
from imgstore.operations.billing import statements
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance import gc as maintenance_gc
from imgstore.operations.versions import create as versions_create
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from imgstore.policy.gc_plan import GcReport
from imgstore.segments.manifest import decode_manifest
from imgstore.segments.reference import MAGIC as REFERENCE_MAGIC
from imgstore.segments.reference import decode_reference
from imgstore.stores.interface import ObjectStore
from tests.support.revision_audit import check_revisions

GROUP: Final = "rg"
GALLERY: Final = "g1"
DEFINITION: Final = "ubuntu"
ADMIN: Final = administrator("test")
TARGETS: Final = ("southcentralus=2", "westus2=1=Standard_ZRS", "eastus")
"""Two replicas in the source region, one on three zones, and one in a region with one zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleImages:
    """Disks and a home that tests may read and copy, but never change."""

    first: Path
    """A disk of 24 MiB and 512 bytes, which is no multiple of a block."""
    second: Path
    """`first` with 12 changed blocks."""
    rebuilt: Path
    """The files of `first` in other places."""
    home: Path
    """A home with `first` as version 1.0.0 in the three regions of `TARGETS`."""


@contextmanager
def open_home(
    home: Path, subscriber: Subscriber = ignore_event, effects: Effects | None = None, **settings: Any
) -> Iterator[Installation]:
    """Open the installation of a home, by default with the packaged regions."""
    settings.setdefault("environ", {})
    with open_installation(Settings(home=home, **settings), subscriber, effects) as installation:
        yield installation


def create_sample_gallery(installation: Installation) -> ImageDefinition:
    """Create the gallery and its definition. May be repeated."""
    galleries.create_gallery(installation, ADMIN, group=GROUP, name=GALLERY, location="southcentralus")
    return create_definition(installation, DEFINITION, sku="s")


def create_definition(
    installation: Installation, name: str, *, group: str = GROUP, gallery: str = GALLERY, **more: Any
) -> ImageDefinition:
    """Create a definition for Linux. By default, the name is the SKU."""
    values = {"publisher": "p", "offer": "o", "sku": name, "os_type": OsType.LINUX} | more
    return definitions.create_definition(
        installation, ADMIN, group=group, gallery=gallery, name=name, **values
    ).definition


def target(text: str) -> TargetRegionRequest:
    """Parse a target region of the command line: ``westus2=1=Standard_ZRS``."""
    name, count, kind, *_ = [*text.split("="), "", ""]
    return TargetRegionRequest(
        name=name,
        regional_replica_count=int(count) if count else None,
        storage_account_type=StorageAccountType(kind) if kind else None,
    )


def request(version: str = "1.0.0", targets: Sequence[str] = TARGETS, **more: Any) -> VersionRequest:
    """Create the request of a version."""
    more.setdefault("gallery", GALLERY)
    more.setdefault("definition", DEFINITION)
    return VersionRequest(
        group=GROUP, version=VersionName.parse(version), target_regions=[target(each) for each in targets], **more
    )


def publish(
    installation: Installation,
    source: Path | str,
    version: str = "1.0.0",
    targets: Sequence[str] = TARGETS,
    **more: Any,
) -> VersionView:
    """Publish a file as a version, and replicate the version."""
    return publish_disks(installation, source, {}, version, targets, **more)


def publish_disks(
    installation: Installation,
    source: Path | str,
    data: Mapping[int, Path | str],
    version: str = "1.0.0",
    targets: Sequence[str] = TARGETS,
    **more: Any,
) -> VersionView:
    """Publish a file and data disks by LUN as a version, and replicate the version."""
    data_vhds = tuple(DataVhd(lun=lun, uri=str(uri)) for lun, uri in data.items())
    asked = request(version, targets, **more)
    return create_version(installation, ADMIN, asked, os_vhd_uri=str(source), data_vhds=data_vhds)


def create_version(
    installation: Installation, principal: Principal, asked: VersionRequest, *, wait: bool = True, **source: Any
) -> VersionView:
    """Create a version from a source, given by the fields of `VersionSource`."""
    asked = replace(asked, source=VersionSource(**source))
    return versions_create.create_version(installation, principal, asked, wait=wait)


def show(installation: Installation, version: str = "1.0.0") -> VersionView:
    """Return the present view of the version."""
    return gallery_versions.show_version(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        definition=DEFINITION,
        version=VersionName.parse(version),
    )


def update(installation: Installation, version: str = "1.0.0", **changes: Any) -> VersionView:
    """Update the version with the fields of a `VersionUpdate`."""
    return versions_update.update_version(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        definition=DEFINITION,
        version=VersionName.parse(version),
        update=VersionUpdate(**changes),
    )


def retarget(installation: Installation, targets: Sequence[str], version: str = "1.0.0") -> VersionView:
    """Replace all target regions of the version, in the notation of the command line."""
    return update(installation, version, target_regions=[target(each) for each in targets])


def delete(installation: Installation, version: str = "1.0.0", **more: Any) -> None:
    """Delete the version."""
    versions_delete.delete_version(
        installation,
        ADMIN,
        group=GROUP,
        gallery=GALLERY,
        definition=DEFINITION,
        version=VersionName.parse(version),
        **more,
    )


def collect(installation: Installation, grace_hours: float = 0.0) -> GcReport:
    """Collect garbage, by default without a grace period."""
    return maintenance_gc.collect(installation, ADMIN, grace=timedelta(hours=grace_hours))


def expire_collectors(installation: Installation) -> None:
    """Expire the lease of every batch of deletions, so that another collector may take over."""
    with installation.catalog.transaction() as transaction:
        for slot in [slot for pool in transaction.pools.list() for slot in transaction.slots.list(pool.uid)]:
            for each in transaction.deletion_marks.list(slot.uid):
                if each.lease_expires_at is not None and each.token is not None:
                    transaction.deletion_marks.begin_deleting(
                        slot.uid,
                        [each.name],
                        token=each.token,
                        lease_expires_at=each.lease_expires_at - timedelta(days=1),
                    )


def audit_collected(installation: Installation) -> None:
    """Check that an embedded home contains exactly the files that its manifests name, and revisions of present owners.

    Raises:
        AssertionError: a file is not named, or a named file is missing.
    """
    with installation.catalog.reading() as transaction:
        owners = {uid for kind in OWNER_KINDS for uid in transaction.revision_marks.list_uids(kind)}
    for folder in sorted((installation.home / "regions").glob("*/zone-*/pools/*/*/replica-*")):
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        manifests = {key for key in files if key.startswith(object_keys.MANIFESTS)}
        named, works = set[str](), set[str]()
        for key in manifests:
            data = (folder / key).read_bytes()
            if data.startswith(REFERENCE_MAGIC):
                assert decode_reference(data).body_key in manifests, f"{folder / key} refers to nothing"
                continue
            manifest = decode_manifest(data)
            named |= {object_keys.segment_key(name) for name in manifest.segments.all_names()}
            works |= {object_keys.fingerprints_key(work.uid) for work in manifest.works}
        fingerprints = {key for key in files if key.startswith(object_keys.FINGERPRINTS)}
        assert fingerprints <= works, f"{folder}: {fingerprints - works} belong to no manifest"
        revisions = {key for key in files if (found := object_keys.parse_owner_revision(key)) and found[0] in owners}
        more = files - fingerprints - revisions - named - manifests
        assert not more, f"{folder}: too many {more}"
        assert named <= files, f"{folder}: missing {named - files}"


def reference(version: str = "latest") -> ImageReference:
    """Create the reference to a version of the definition."""
    return ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/{version}")


def make_disk(
    installation: Installation,
    name: str,
    location: str = "southcentralus",
    version: str = "latest",
    lun: int | None = None,
    *,
    allow_remote: bool = False,
) -> ManagedDisk:
    """Create a managed disk."""
    request = DiskOfImageRequest(
        group=GROUP, name=name, location=location, reference=reference(version), lun=lun, allow_remote=allow_remote
    )
    return disks.create_disk(installation, ADMIN, request)


def export(
    installation: Installation,
    path: Path,
    location: str = "southcentralus",
    version: str = "1.0.0",
    lun: int | None = None,
) -> Export:
    """Export a disk of a version from a region into a raw file, which is replaced."""
    return disks_export.export_image(
        installation,
        ADMIN,
        reference=reference(version),
        lun=lun,
        location=location,
        path=path,
        format=DiskFormat.RAW,
        overwrite=True,
    )


def export_disk(installation: Installation, path: Path, name: str) -> Export:
    """Export a managed disk into a raw file, which is replaced."""
    return disks_export.export_disk(
        installation, ADMIN, group=GROUP, name=name, path=path, format=DiskFormat.RAW, overwrite=True
    )


def states(view: VersionView) -> dict[str, ReplicaState]:
    """Return the state of each replica by ``region/ordinal``."""
    return {f"{each.slot.key.region}/{each.slot.key.ordinal}": each.state for each in view.replicas}


def charges(installation: Installation) -> list[LedgerRow]:
    """Return every row of the ledger."""
    with installation.catalog.reading() as transaction:
        return transaction.ledger.rows()


def all_slots(installation: Installation) -> list[Slot]:
    """Return every slot of the gallery's pool."""
    with installation.catalog.reading() as transaction:
        gallery = transaction.galleries.get(installation.subscription, GROUP, GALLERY)
        return [] if gallery is None else transaction.slots.list(gallery.pool_uid)


def own_slots(installation: Installation) -> list[Slot]:
    """Return every slot of the subscription's pools, which contain the disks from no gallery."""
    with installation.catalog.reading() as transaction:
        own = [pool for pool in transaction.pools.list() if pool.subscription is not None]
        return [slot for pool in own for slot in transaction.slots.list(pool.uid)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotContent:
    """The objects of a slot, as its store lists them."""

    segments: dict[Digest, int]
    """Stored bytes by name."""
    manifests: dict[str, int]
    """Stored bytes by key below the slot."""
    overhead: dict[str, int]
    """Stored bytes of fingerprints and works, by key below the slot."""
    revisions: dict[str, int]
    """Stored bytes of the revisions of versions and disks, by key below the slot."""


def content(installation: Installation, slot: Slot) -> SlotContent:
    """List the store of a slot.

    Raises:
        AssertionError: the store contains an unknown object.
    """
    found = SlotContent(segments={}, manifests={}, overhead={}, revisions={})
    for info in installation.locator.store(slot).list(slot.prefix):
        key = info.key.removeprefix(slot.prefix)
        if key.startswith(object_keys.SEGMENTS):
            found.segments[object_keys.segment_name(key)] = info.stored_bytes
        elif key.startswith(object_keys.MANIFESTS):
            found.manifests[key] = info.stored_bytes
        elif object_keys.parse_owner_revision(key) is not None:
            found.revisions[key] = info.stored_bytes
        else:
            assert key.startswith((object_keys.FINGERPRINTS, object_keys.PACKS, object_keys.WORKS)), f"what is {key}?"
            found.overhead[key] = info.stored_bytes
    return found


def named_segments(store: ObjectStore, slot: Slot, key: str) -> dict[Digest, int]:
    """Return the stored bytes of the segments that a manifest, or the manifest of a reference, names."""
    data = store.get(slot.prefix + key)
    if data.startswith(REFERENCE_MAGIC):
        data = store.get(slot.prefix + decode_reference(data).body_key)
    table = decode_manifest(data).segments
    return dict(zip(table.all_names(), table.stored_bytes.tolist(), strict=True))


def audit(
    installation: Installation,
    *,
    quiet: bool = True,
    struck: bool = False,
    collected: bool = False,
    adopted: bool = False,
) -> None:
    """Compare stores, catalog and bill.

    Args:
        installation: the installation.
        quiet: no work is running or interrupted, so no start marker and no unbilled byte may exist.
        struck: processes were killed, so a start marker may remain until the next work in the slot removes it.
        collected: segments that were charged may have been collected since.
        adopted: the stored content is from another installation, which has the charges, or from an abandoned work, which
            has none.

    Raises:
        AssertionError: a promise of the design is broken. A complete replica or a disk names a missing or wrong object
            (P1, P2, P6), the bill differs from the stored or delivered bytes (P3), a manifest has no owner (P4), or a
            revision without a mark differs from the catalog (B18).
    """
    arrived: defaultdict[str, dict[Digest, int]] = defaultdict(dict)
    for slot in all_slots(installation):
        arrived[slot.key.region] |= _audit_slot(installation, slot, quiet=quiet, struck=struck)
    for slot in own_slots(installation):
        _audit_slot(installation, slot, quiet=quiet, struck=struck)
    rows = charges(installation)
    assert len({row.key for row in rows}) == len(rows), "a charge stands twice"
    reads = (ChargeKind.REPAIR, ChargeKind.CROSS_REGION_READ)
    versions = list(_versions(installation))
    # On cheapest routes a target region is charged, and may be the source of other regions.
    is_routed = any(replica.parent_region is not None for view in versions for replica in view.replicas)
    # A disk from another region (M32) is charged by the region that supplied the bytes, too.
    sources = {row.source for row in rows if row.kind not in reads and row.party.disk is None and not is_routed} | {
        view.version.location for view in versions
    }
    copied = _copied_in_own_pools(installation)
    for region, segments in arrived.items() if not adopted else ():
        charged = sum(
            row.delivered_bytes
            for row in rows
            if row.kind is ChargeKind.EGRESS and row.target == region and row.key.partition("/")[0] not in copied
        )
        if region in sources:
            assert charged == 0, f"{region}: egress into the region where all came from"
        elif collected:
            assert charged >= sum(segments.values()), f"{region}: charged {charged}, {sum(segments.values())} lie there"
        elif quiet:
            assert charged == sum(segments.values()), f"{region}: charged {charged}, arrived {sum(segments.values())}"
        else:
            assert charged <= sum(segments.values()), f"{region}: charged for more than arrived"
    bill = statements.show_bill(installation, ADMIN)
    check_total(bill)
    if quiet:
        with installation.catalog.reading() as transaction:
            assert transaction.works.list_open() == [], "a work is open"
            has_marks = any(
                kind in KINDS and not KINDS[kind].is_deferred for kind, _ in transaction.revision_marks.list_resources()
            )
        if not has_marks:
            check_revisions(installation)


def check_total(bill: Statement) -> None:
    """Check that the rows add up to the total, up to their own rounding (invariant M33)."""
    assert abs(bill.total - sum(row.amount for row in bill.rows)) <= len(bill.rows) * AMOUNT_UNIT


def _copied_in_own_pools(installation: Installation) -> set[str]:
    """Return the uids of the disks in the subscription's pools. Only the gallery's pool is compared with the charges."""
    slots = own_slots(installation)
    with installation.catalog.reading() as transaction:
        return {disk.uid for slot in slots for disk in transaction.disks.in_slot(slot.uid)}


def _audit_slot(installation: Installation, slot: Slot, *, quiet: bool, struck: bool) -> dict[Digest, int]:
    """Audit one slot, and return the segments that its store lists."""
    store = installation.locator.store(slot)
    there = content(installation, slot)
    with installation.catalog.reading() as transaction:
        rows = transaction.manifests.in_slot(slot.uid)
        intervals = transaction.ledger.open_intervals(slot.uid)
        complete = {
            each.version_uid for each in transaction.replicas.in_slot(slot.uid) if each.state is ReplicaState.COMPLETED
        }
    owners = {row.owner_uid for row in rows}
    assert complete <= owners, f"{slot.key}: a complete replica has no manifest"
    owned = {object_keys.manifest_key(row.owner_uid, row.disk) for row in rows}
    assert owned <= set(there.manifests), f"{slot.key}: {owned - set(there.manifests)} are complete, and not there"
    named: dict[Digest, int] = {}
    for key in owned:
        named |= named_segments(store, slot, key)
    for name, stored_bytes in named.items():
        where = f"{slot.key}: segment {name.hex()}"
        assert there.segments.get(name) == stored_bytes, f"{where} is missing, or of another length"
        assert digest_of(store.get(slot.prefix + object_keys.segment_key(name))) == name, f"{where} is damaged"
    billed = sum(interval.stored_bytes for interval in intervals)
    bodies = {row.body_key for row in rows}
    lies = sum(there.segments[name] for name in named) + sum(there.manifests[key] for key in owned | bodies)
    assert billed == lies, f"{slot.key}: billed {billed}, there lie {lies}"
    if quiet:
        assert set(there.manifests) == owned | bodies, (
            f"{slot.key}: {set(there.manifests) - owned - bodies} have no owner"
        )
        marks = [key for key in there.overhead if key.startswith(object_keys.WORKS)]
        assert struck or marks == [], f"{slot.key}: a work's mark was left"
    return there.segments


def _versions(installation: Installation) -> list[VersionView]:
    return gallery_versions.list_versions(installation, ADMIN, group=GROUP, gallery=GALLERY, definition=DEFINITION)


def audit_served(installation: Installation, expected: Mapping[str, Path], folder: Path) -> None:
    """Export each complete disk of each version from each region, and compare every byte.

    Args:
        installation: the installation.
        expected: the raw disk of each version, of its data disks under ``1.0.0/lun-5``, and of overlays by folder.
        folder: a folder for files.

    Raises:
        AssertionError: a complete disk differs.
    """
    for view in _versions(installation):
        for region in {each.slot.key.region for each in view.replicas if each.state is ReplicaState.COMPLETED}:
            for disk in view.version.disks:
                export(installation, folder / "served.raw", region, str(view.version.name), disk.lun)
                wanted = _expected_key(str(view.version.name), disk.lun)
                assert filecmp.cmp(folder / "served.raw", expected[wanted], shallow=False), f"{wanted} from {region}"
    for made in disks.list_disks(installation, ADMIN):
        if made.provisioning_state is ProvisioningState.SUCCEEDED:
            export_disk(installation, folder / "served.raw", made.name)
            wanted = _expected_key(made.source_reference.rsplit("/", 1)[-1], made.source_lun)
            location = None if made.source is None else made.source.location
            source = expected[wanted] if location is None else expected.get(location, Path(location))
            assert filecmp.cmp(folder / "served.raw", source, shallow=False), f"disk {made.name}"
    assert not [each.name for each in folder.iterdir() if ".imgstore-" in each.name], "a temporary file was left"


def _expected_key(version: str, lun: int | None) -> str:
    return version if lun is None else f"{version}/{disk_key(lun)}"
