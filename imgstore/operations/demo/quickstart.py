"""A tour of the main features on a real disk: publish, replicate, export, compare, change and bill."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import ByteSource, DiskFormat, DiskReader
from imgstore.domain.errors import InvalidInput, ObjectCorrupt
from imgstore.domain.identity.access import Principal
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.reports import QuickstartSummary
from imgstore.domain.requests import DiskOfImageRequest, VersionRequest
from imgstore.domain.resources import HyperVGeneration, OsType, StorageAccountType, TargetRegionRequest
from imgstore.domain.storage.sizes import BLOCK_BYTES, PIECE_BYTES
from imgstore.domain.views import VersionView
from imgstore.formats import LocalFile, detect_generation, open_disk
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.statements.statement import Statement
from imgstore.operations.billing import statements
from imgstore.operations.demo.overlay import Overlay
from imgstore.operations.demo.sample_disk import make_sample
from imgstore.operations.disks import disks
from imgstore.operations.disks import export as disks_export
from imgstore.operations.disks import verify as disks_verify
from imgstore.operations.gallery import definitions, galleries, groups
from imgstore.operations.installation import Installation
from imgstore.operations.versions import create as versions_create

GALLERY: Final = "quickstart"
DEFINITION: Final = "sample"
CHANGED_BLOCKS: Final = 64
"""Number of changed blocks of 4 KiB, spread over the disk like a small patch: a quarter of a MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Regions of the tour."""

    source: str
    targets: tuple[TargetRegionRequest, ...]
    told: str


def run(
    installation: Installation,
    principal: Principal,
    *,
    disk: Path | None,
    folder: Path,
    say: Callable[[str], None],
) -> QuickstartSummary:
    """Run the tour once.

    Args:
        installation: the installation, with its regions.
        principal: the caller.
        disk: the image, which is only read; None makes a sample.
        folder: the folder for the sample and the exported file.
        say: receives a line for each step.

    Raises:
        InvalidInput: regions.yaml has fewer than three regions, or no region with ZRS after the first region.
        ImgstoreError: an error of a step.
    """
    places = _places(installation)
    source = disk or _sample(folder, say)
    group = groups.free_group_name(installation, principal, "quickstart")
    local = LocalFile(source)
    reader = open_disk(local, scratch=installation.scratch)
    try:
        say(f"Publishing {source} as {group}/{GALLERY}/{DEFINITION}/1.0.0 in {places.told} ...")
        _containers(installation, principal, group, places.source, reader)
        first = _publish(installation, principal, group, places, VersionName(1, 0, 0), reader)
        say(
            f"  {_megabytes(_show_delivered_bytes(installation, principal, group, '1.0.0'))} delivered; {_states(first)}"
        )
        used = _two_disks(installation, principal, group, places.source, say)
        identical = _export(installation, principal, group, source, reader, folder, say)
        say(f"Publishing 1.0.1: the same disk with {CHANGED_BLOCKS} blocks of 4 KiB changed ...")
        changed = Overlay(reader, _changes(installation, reader))
        _publish(installation, principal, group, places, VersionName(1, 0, 1), changed)
        virtual_bytes = reader.virtual_bytes
    finally:
        reader.close()
        local.close()
    statement = statements.show_bill(installation, principal)
    return QuickstartSummary(
        group=group,
        virtual_bytes=virtual_bytes,
        first_delivered_bytes=_sum_delivered_bytes(statement, group, "1.0.0"),
        second_delivered_bytes=_sum_delivered_bytes(statement, group, "1.0.1"),
        whole_copies_bytes=virtual_bytes * (len(places.targets) - 1),
        replicas_used=used,
        identical=identical,
        total=statement.total,
        currency=statement.currency,
    )


def _places(installation: Installation) -> _Places:
    """Choose the regions: the first region with two replicas, a ZRS region, and a third region."""
    regions = list(installation.regions.regions.values())
    source = regions[0]
    zoned = [each for each in regions[1:] if StorageAccountType.STANDARD_ZRS in each.storage_account_types]
    others = [each for each in regions[1:] if each not in zoned[:1]]
    if not zoned or not others:
        raise InvalidInput(
            "The quickstart needs three regions, and a region with ZRS after the first.",
            found=", ".join(f"{each.name} ({each.policy})" for each in regions),
            expected="a first region, another with three zones, and one more",
            hint="leave --regions out: the shipped regions need no server",
            target="regions",
        )
    lrs = source.storage_account_types[0]
    targets = (
        TargetRegionRequest(name=source.name, regional_replica_count=2, storage_account_type=lrs),
        TargetRegionRequest(name=zoned[0].name, storage_account_type=StorageAccountType.STANDARD_ZRS),
        TargetRegionRequest(name=others[0].name, storage_account_type=others[0].storage_account_types[0]),
    )
    told = f"{source.name} (2 replicas), {zoned[0].name} (ZRS) and {others[0].name}"
    return _Places(source=source.name, targets=targets, told=told)


def _sample(folder: Path, say: Callable[[str], None]) -> Path:
    say("Making a sample disk of 1 GiB from files of this machine ...")
    sample = make_sample(folder)
    say(f"  {sample.path}: {sample.how}, {sample.files} files, {_megabytes(sample.content_bytes)}")
    return sample.path


def _containers(
    installation: Installation, principal: Principal, group: str, location: str, reader: DiskReader
) -> None:
    gallery = GALLERY if group == "quickstart" else f"{GALLERY}_{group.removeprefix('quickstart-')}"
    galleries.create_gallery(installation, principal, group=group, name=gallery, location=location)
    definitions.create_definition(
        installation,
        principal,
        group=group,
        gallery=gallery,
        name=DEFINITION,
        publisher="imgstore",
        offer="quickstart",
        sku="sample",
        os_type=OsType.LINUX,
        hyper_v_generation=detect_generation(reader) or HyperVGeneration.V1,
    )


def _publish(
    installation: Installation,
    principal: Principal,
    group: str,
    places: _Places,
    version: VersionName,
    reader: DiskReader,
) -> VersionView:
    request = VersionRequest(
        group=group,
        gallery=_gallery(installation, principal, group),
        definition=DEFINITION,
        version=version,
        location=places.source,
        target_regions=places.targets,
    )
    return versions_create.publish_reader(installation, principal, request, reader)


def _gallery(installation: Installation, principal: Principal, group: str) -> str:
    return galleries.list_galleries(installation, principal, group=group)[0].name


def _two_disks(
    installation: Installation, principal: Principal, group: str, location: str, say: Callable[[str], None]
) -> tuple[int, ...]:
    reference = _reference(installation, principal, group)
    used = []
    for name in ("disk-1", "disk-2"):
        disk = disks.create_disk(
            installation, principal, DiskOfImageRequest(group=group, name=name, location=location, reference=reference)
        )
        say(f"Made the managed disk {name} in {location} from replica {disk.replica}")
        used.append(disk.replica)
    return tuple(used)


def _reference(installation: Installation, principal: Principal, group: str) -> ImageReference:
    gallery = _gallery(installation, principal, group)
    return ImageReference(group=group, gallery=gallery, definition=DEFINITION, version=VersionName(1, 0, 0))


def _export(
    installation: Installation,
    principal: Principal,
    group: str,
    source: Path,
    reader: DiskReader,
    folder: Path,
    say: Callable[[str], None],
) -> bool:
    form = reader.container_metadata.format
    exact = form in (DiskFormat.VHD_FIXED, DiskFormat.RAW)
    path = folder / f"exported{'.vhd' if form is DiskFormat.VHD_FIXED else '.raw'}"
    disks_export.export_disk(
        installation,
        principal,
        group=group,
        name="disk-1",
        path=path,
        format=form if exact else DiskFormat.RAW,
        overwrite=True,
    )
    if exact:
        identical = _same_bytes(source, path)
        say(f"Exported disk-1 to {path}: {'byte for byte' if identical else 'NOT'} the source")
    else:
        checked = disks_verify.verify_file(
            installation, principal, path=path, reference=_reference(installation, principal, group)
        )
        identical = checked.matches
        say(f"Exported disk-1 to {path}: {'the same disk as' if identical else 'NOT the disk of'} the source")
    if not identical:
        raise ObjectCorrupt(
            "The exported disk differs from the source.",
            found=f"{path} differs from {source}",
            expected="equal bytes",
            hint="keep the folder and report this fault of imgstore",
        )
    return identical


def _same_bytes(one: Path, other: Path) -> bool:
    """Return True if two files have the same bytes. Common holes are not read."""
    files = LocalFile(one), LocalFile(other)
    try:
        if files[0].file_bytes != files[1].file_bytes:
            return False
        pieces = {index for file in files for index in _touched_pieces(file)}
        ends = files[0].file_bytes
        return all(
            files[0].read_at(at, min(PIECE_BYTES, ends - at)) == files[1].read_at(at, min(PIECE_BYTES, ends - at))
            for at in (index * PIECE_BYTES for index in sorted(pieces))
        )
    finally:
        for file in files:
            file.close()


def _touched_pieces(file: ByteSource) -> Iterator[int]:
    for extent in file.extents():
        yield from range(extent.offset // PIECE_BYTES, -(-extent.end // PIECE_BYTES))


def _changes(installation: Installation, reader: DiskReader) -> dict[int, bytes]:
    """Make new content for blocks that are spread over the disk's data."""
    blocks = [
        offset
        for extent in reader.extents()
        for offset in range(-(-extent.offset // BLOCK_BYTES) * BLOCK_BYTES, extent.end - BLOCK_BYTES + 1, BLOCK_BYTES)
    ]
    step = max(1, len(blocks) // CHANGED_BLOCKS)
    return {offset: installation.effects.random_bytes(BLOCK_BYTES) for offset in blocks[::step][:CHANGED_BLOCKS]}


def _show_delivered_bytes(installation: Installation, principal: Principal, group: str, version: str) -> int:
    return _sum_delivered_bytes(statements.show_bill(installation, principal), group, version)


def _sum_delivered_bytes(statement: Statement, group: str, version: str) -> int:
    return sum(
        row.delivered_bytes
        for row in statement.rows
        if row.kind is ChargeKind.EGRESS and row.version == version and row.group == group
    )


def _states(view: VersionView) -> str:
    return ", ".join(f"{each.slot.key.region}/{each.slot.key.ordinal} {each.state}" for each in view.replicas)


def _megabytes(count: int) -> str:
    return f"{count / 10**6:,.1f} MB"
