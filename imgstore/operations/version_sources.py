"""What an image version is made from besides files: disks, snapshots, managed images, other versions.

Each is a manifest in some slot: pinned while it is read, read by segment, and taken in like any source. Where the slot
that takes it in has the same content, that is a base, and nothing is stored twice.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from imgstore.catalog import Facts
from imgstore.control.kinship import check_kin
from imgstore.domain.access import Action, Principal, authorize
from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import ImageReference, SharedReference, VersionName, image_reference
from imgstore.domain.resources import (
    Declared,
    DiskKind,
    ImageVersion,
    ManagedDisk,
    ManifestRow,
    Replica,
    Slot,
)
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.version_disks import OS_DISK, check_luns, disk_key
from imgstore.domain.works import Lease
from imgstore.ledger.egress import arrival
from imgstore.operations import finding
from imgstore.operations.counting import Counter
from imgstore.operations.degrading import degrade_damaged
from imgstore.operations.disks import named_version
from imgstore.operations.exporting import pin_manifest, read_manifest, reading_under, siblings
from imgstore.operations.finding import Lineage
from imgstore.operations.images import whole_image
from imgstore.operations.installation import Installation
from imgstore.operations.originals import find_original, named_ids, no_source
from imgstore.operations.settling import party_of
from imgstore.operations.sharing import admitted
from imgstore.operations.version_requests import DataSnapshot, DataVhd
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.stored import StoredDisk

_WHAT = "gallery image version"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSource:
    """What a version is to be made from: all disks of one resource, or an OS disk and data disks each by itself."""

    os_vhd_uri: str | None = None
    """A file: a path, file://, s3:// or https://."""
    os_snapshot: str | None = None
    """A snapshot or managed disk by name or id."""
    managed_image: str | None = None
    """A managed image by name or id, or an image version by its id: with its data disks."""
    image_version: str | None = None
    """An image version by its id, as rg/gallery/definition/version, or of a shared gallery: with its data disks."""
    data_vhds: tuple[DataVhd, ...] = ()
    data_snapshots: tuple[DataSnapshot, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether one resource says all of the version's disks."""
        return self.os_vhd_uri is None and self.os_snapshot is None

    @property
    def reference(self) -> ImageReference | SharedReference | None:
        """The image version that is meant, if it is one."""
        word = self.image_version
        if word is None and self.managed_image is not None and "/versions/" in self.managed_image.lower():
            word = self.managed_image
        return None if word is None else image_reference(word)

    def check(self) -> None:
        """Refuse no source and more than one, and data disks that cannot stand beside it.

        Raises:
            InvalidInput: so it is.
        """
        words = {
            "--os-vhd-uri": self.os_vhd_uri,
            "--os-snapshot": self.os_snapshot,
            "--managed-image": self.managed_image,
            "--image-version": self.image_version,
        }
        given = [flag for flag, word in words.items() if word is not None]
        data = {"--data-vhds-uris": self.data_vhds, "--data-snapshots": self.data_snapshots}
        beside = [flag for flag, disks in data.items() if disks]
        if len(given) != 1 or (self.is_whole and beside):
            raise InvalidInput(
                "The gallery artifact version source can only be specified either directly under storageProfile or "
                "within individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual "
                "machine) can be provided",
                found=", ".join([*given, *beside]) or "no source",
                expected=f"one of {', '.join(words)}; data disks of their own with the first two alone",
                hint="name one source: of an image all data disks are taken anyway",
                target="properties.storageProfile",
            )
        check_luns([*(each.lun for each in self.data_vhds), *(each.lun for each in self.data_snapshots)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """The version that is to be made."""

    line: Lineage
    name: VersionName
    region: str
    """Its source region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """One disk of the source: its manifest in a slot, the slots that can stand in for it, and the pin."""

    location: str
    """The resource id that it is known by."""
    slot: Slot
    others: tuple[Slot, ...]
    manifest: ManifestRow
    lease: Lease


@contextmanager
def opened(
    installation: Installation, principal: Principal, source: VersionSource, taker: Taker
) -> Iterator[Mapping[str, StoredDisk]]:
    """The disks of a source that are stored here, by key: "os", "lun-0" and so on; pinned until the block ends.

    Args:
        installation: where.
        principal: who must be allowed to read the source.
        source: its files are left alone.
        taker: the version that takes it; its row is written down before more than a partition table is read.

    Raises:
        InvalidInput: it is not there, not in the region, or declares another system than the definition.
        AccessDenied: the principal may not read it.
    """
    reference = source.reference
    image = None if reference is None else admitted(installation, principal, reference)
    with installation.catalog.transaction() as facts:
        chosen = _chosen(installation, principal, facts, source, image, taker)
    with ExitStack() as stack:
        for each in chosen.values():
            stack.callback(_let_go, installation, each.lease)
        yield {key: stack.enter_context(_read(installation, key, each, taker)) for key, each in chosen.items()}


def _let_go(installation: Installation, lease: Lease) -> None:
    """Whatever came of it: one that could not be opened leaves the pins of the others."""
    with installation.catalog.transaction() as facts:
        facts.works.abandon(lease.work_uid)


def _chosen(
    installation: Installation,
    principal: Principal,
    facts: Facts,
    source: VersionSource,
    image: ImageReference | None,
    taker: Taker,
) -> dict[str, _Chosen]:
    line, group, region = taker.line, taker.line.gallery.group, taker.region
    if not source.is_whole:
        words = {disk_key(each.lun): each.source for each in source.data_snapshots}
        if source.os_snapshot is not None:
            words[OS_DISK] = source.os_snapshot
        originals = {key: _original(installation, principal, facts, group, word, region) for key, word in words.items()}
        return _of_disks(installation, facts, originals, line, region)
    if image is not None:
        return _of_version(installation, facts, image, line, region)
    word = source.managed_image
    assert word is not None, "one of them was given"
    named = named_ids(installation, group, word, (DiskKind.IMAGE,))
    for each in named:
        authorize(principal, Action.READ, each.resource_id)
    disks = [
        disk for each in named for disk in facts.disks.list(each.subscription, each.group, DiskKind.IMAGE, each.name)
    ]
    found = whole_image(disks)
    if found is None or found.provisioning_state is not ProvisioningState.SUCCEEDED:
        raise no_source(word, "no managed image there that is ready", what=_WHAT, region=region)
    return _of_disks(installation, facts, found.by_key, line, region)


def _original(
    installation: Installation, principal: Principal, facts: Facts, group: str, word: str, region: str
) -> ManagedDisk:
    """A snapshot or disk that stands for one disk of the version."""
    found = find_original(installation, principal, facts, group, word, what=_WHAT)
    if found is None:
        raise no_source(word, "a file's name", what=_WHAT, region=region)
    return found


def _of_disks(
    installation: Installation, facts: Facts, disks: Mapping[str, ManagedDisk], line: Lineage, region: str
) -> dict[str, _Chosen]:
    """Disks, snapshots or those of a managed image. What a data disk declares is of no matter: nobody boots from it."""
    for disk in disks.values():
        if disk.location != region:
            raise no_source(disk.resource_id, f"it is in {disk.location}", what=_WHAT, region=region)
    if OS_DISK in disks:
        _check_kin(disks[OS_DISK].declared, line, disks[OS_DISK].name)
    return {key: _of_disk(installation, facts, disk) for key, disk in disks.items()}


def _of_disk(installation: Installation, facts: Facts, disk: ManagedDisk) -> _Chosen:
    manifest = facts.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
    assert manifest is not None, "a disk that Succeeded has a manifest"
    others = siblings(facts, disk.source_version_uid, disk.slot)
    return _Chosen(
        location=disk.resource_id,
        slot=disk.slot,
        others=_near(others, disk.slot),
        manifest=manifest,
        lease=pin_manifest(installation, disk.slot, disk.uid, manifest, facts),
    )


def _of_version(
    installation: Installation, facts: Facts, reference: ImageReference, line: Lineage, region: str
) -> dict[str, _Chosen]:
    """All disks of a complete replica of another version, in the region if there is one."""
    subscription = reference.subscription or installation.subscription
    theirs = finding.lineage(facts, subscription, reference.group, reference.gallery, reference.definition)
    version = _meant(installation, facts, theirs, reference, region)
    _check_kin(theirs.definition.declared, line, theirs.version_id(version.name))
    replica = _nearest(facts.replicas.list(version.uid), version, region)
    if replica is None:
        raise no_source(str(reference), "complete in no region", what=_WHAT)
    others = _near(siblings(facts, version.uid, replica.slot), replica.slot)
    return {
        row.disk: _Chosen(
            location=theirs.version_id(version.name),
            slot=replica.slot,
            others=others,
            manifest=row,
            lease=pin_manifest(installation, replica.slot, version.uid, row, facts),
        )
        for row in facts.manifests.of_replica(version.uid, replica.slot.uid)
    }


def _meant(
    installation: Installation, facts: Facts, line: Lineage, reference: ImageReference, region: str
) -> ImageVersion:
    if reference.version is None:
        return named_version(installation, facts, line, reference, region)
    found = facts.versions.get(line.definition.uid, reference.version)
    if found is None or not found.is_visible:
        raise no_source(str(reference), "no such version", what=_WHAT)
    return found


def _nearest(replicas: list[Replica], version: ImageVersion, region: str) -> Replica | None:
    """Of the complete replicas one in `region`, else in the version's own source region, else any."""
    order = {region: 0, version.location: 1}
    complete = [each for each in replicas if each.state is ReplicaState.COMPLETED]
    return min(
        complete,
        key=lambda each: (order.get(each.slot.key.region, 2), each.slot.key.region, each.slot.key.ordinal),
        default=None,
    )


def _near(others: tuple[Slot, ...], slot: Slot) -> tuple[Slot, ...]:
    """Those of the same region: what crosses a border is metered, and so comes from one region alone."""
    return tuple(each for each in others if each.key.region == slot.key.region)


def _check_kin(source: Declared, line: Lineage, name: str) -> None:
    check_kin(source, line.definition.declared, source_name=name, taker_name=line.definition.name)


@contextmanager
def _read(installation: Installation, key: str, chosen: _Chosen, taker: Taker) -> Iterator[StoredDisk]:
    """The disk, opened; its pin is let go when the block ends."""
    slots = (chosen.slot, *chosen.others)
    counter = Counter(installation, f"read {chosen.location.rsplit('/', 1)[-1]}")
    with reading_under(installation, chosen.lease) as hold:

        def patiently(seconds: float) -> None:
            installation.effects.wait(seconds)
            hold.go_on()

        manifest = read_manifest(installation, chosen.slot, chosen.others, chosen.manifest)
        reader = SegmentReader(
            installation.accesses(slots, lambda slot: installation.access_from(taker.region, slot, patiently))
        )
        counter.total = manifest.content_bytes
        disk = StoredDisk(
            manifest,
            reader,
            location=chosen.location,
            digest=chosen.manifest.digest,
            scratch=installation.scratch,
            workers=installation.tuning.scatter_workers,
            go_on=hold.go_on,
            moved=counter.moved,
            arrived=lambda: _charge(installation, key, chosen, taker, manifest.stored_bytes),
        )
        try:
            yield disk
        finally:
            disk.close()
            degrade_damaged(installation, slots, reader.damages)
            if disk.whole:
                counter.end()


def _charge(installation: Installation, key: str, chosen: _Chosen, taker: Taker, stored_bytes: int) -> None:
    """Write down what crossed a border when another version was read for this one, before it is of use to anyone.

    Reading it again, after a crash, is not charged again.
    """
    source = chosen.slot.key.region
    if source == taker.region:
        return
    with installation.catalog.transaction() as facts:
        version = facts.versions.get(taker.line.definition.uid, taker.name)
        assert version is not None, "its row is written down before its source is read"
        facts.ledger.add(
            arrival(
                key=f"{version.uid}/source/{key}",
                party=party_of(taker.line, version),
                source=source,
                target=taker.region,
                replica=0,
                delivered_bytes=stored_bytes,
                crossing=True,
                prices=installation.regions.prices,
                time=installation.effects.now(),
            )
        )
