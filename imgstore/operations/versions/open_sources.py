"""The disks that a version is to be made from, open; and which of them it has already, though their source is gone."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass

from imgstore.domain.disks.sources import ByteSource, DiskFormat, DiskReader
from imgstore.domain.disks.version_disks import OS_DISK, VersionDisk, disk_key
from imgstore.domain.errors import InvalidInput, SourceGone, StoreError
from imgstore.domain.identity.access import Principal
from imgstore.domain.requests import VersionSource
from imgstore.domain.resources import Slot
from imgstore.formats import ConversionBounds, open_disk
from imgstore.formats.files.sha256 import check_sha256
from imgstore.operations.disks.conversions import conversion_bounds
from imgstore.operations.disks.sources import location_of, open_source
from imgstore.operations.installation import Installation
from imgstore.operations.versions import stored_sources
from imgstore.operations.versions.request import Wanted, check_apart, check_size
from imgstore.operations.versions.source import arrived_disks, came_from, stated_locations
from imgstore.operations.versions.stored_sources import Taker


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDisks:
    """All disks of a source."""

    readers: Mapping[str, DiskReader]
    """Those that are there, by key: files, and what is stored here already."""
    slots: Mapping[str, Slot]
    """Of what is stored here, where each lies."""
    gone: Mapping[str, VersionDisk]
    """Those that arrived from what is stated, and can't be looked at any more."""


def open_disks(
    installation: Installation,
    principal: Principal,
    stack: ExitStack,
    wanted: Wanted,
    source: VersionSource,
    source_format: DiskFormat | None,
) -> OpenedDisks:
    """All disks of a source, until `stack` closes; what is stored here is pinned meanwhile.

    Args:
        installation: where.
        principal: who must be allowed to read the source.
        stack: closes them.
        wanted: the version. Once it is complete somewhere, nothing need be there any more of what it came from.
        source: what it is to be made from.
        source_format: what the OS disk's file is; None looks at it.

    Raises:
        SourceGone, NotFound, StoreError: a source can't be looked at, and bytes of it are needed.
        InvalidInput, ImageRefused: it is refused.
        AccessDenied: the principal may not read it.
    """
    arrived = arrived_disks(installation, wanted)
    uris = {disk_key(vhd.lun): vhd.uri for vhd in source.data_vhds}
    formats = {disk_key(vhd.lun): vhd.format for vhd in source.data_vhds}
    if source.os_vhd_uri is not None:
        uris[OS_DISK], formats[OS_DISK] = source.os_vhd_uri, source_format
    taker = Taker(
        line=wanted.line,
        name=wanted.request.version,
        region=wanted.location,
        arrived=arrived,
        locations=stated_locations(installation, wanted),
    )
    # First what is stored here, whose rights are checked; to open a file at a URL may take long.
    stored = stack.enter_context(stored_sources.opened(installation, principal, source, taker))
    installation.catalog.store_companion()
    files = {}
    for key, uri in uris.items():
        try:
            files[key] = stack.enter_context(closing(open_source(installation, uri)))
        except (SourceGone, StoreError):
            if not came_from(arrived, key, [location_of(uri)]):
                raise
            if key == OS_DISK and wanted.sha256 is not None and arrived[key].source_sha256 is None:
                raise
    if not source.is_whole:
        places = {key: file.identity().location for key, file in files.items()}
        check_apart(places | {key: disk.identity().location for key, disk in stored.readers.items()})
    if OS_DISK in files or OS_DISK not in uris:
        _check_sha256(wanted, files)

    def bounds(key: str) -> ConversionBounds:
        return conversion_bounds(
            installation, lambda size: check_size(installation, key, size, shallow=wanted.is_shallow)
        )

    readers = {
        key: stack.enter_context(
            closing(open_disk(file, format=formats[key], scratch=installation.scratch, bounds=bounds(key)))
        )
        for key, file in files.items()
    }
    gone = {*(uris.keys() - files.keys()), *stored.gone}
    return OpenedDisks(
        readers={**readers, **stored.readers}, slots=stored.slots, gone={key: arrived[key] for key in gone}
    )


def _check_sha256(wanted: Wanted, files: Mapping[str, ByteSource]) -> None:
    if wanted.sha256 is None:
        return
    if OS_DISK not in files:
        raise InvalidInput(
            "A SHA-256 is of a file; this source is none.",
            found="sha256 with a source that is stored here",
            expected="a source that is stored here alone: every piece of it is checked anyway",
            hint="leave --sha256 out",
            target="sha256",
        )
    check_sha256(files[OS_DISK], wanted.sha256)
