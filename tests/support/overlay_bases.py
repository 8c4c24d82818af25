"""Bases of overlays: a device of a raw file, and the descriptions of disks and versions."""

from collections.abc import Iterator
from pathlib import Path

from imgstore.domain.disks.sources import Extent
from imgstore.domain.resources import ManagedDisk
from imgstore.operations.installation import Installation
from imgstore.transfer.overlay.journal import OverlayBase
from tests.support.sample_gallery import show as show_version


class RawDevice:
    """A read-only device of a raw file."""

    is_read_only = True

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.virtual_bytes = len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        yield Extent(offset=begin, length=end - begin)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        raise AssertionError

    def write_zeroes(self, offset: int, length: int) -> None:
        raise AssertionError

    def flush(self) -> None:
        raise AssertionError

    def prefetch(self, offset: int, length: int) -> None:
        raise AssertionError


def base_of_disk(disk: ManagedDisk) -> OverlayBase:
    return OverlayBase(
        virtual_bytes=disk.virtual_bytes,
        disk_digest=disk.disk_digest,
        location=disk.resource_id,
        disk_key="os",
        region=disk.location,
    )


def base_of_version(installation: Installation, version: str = "1.0.0", region: str = "southcentralus") -> OverlayBase:
    view = show_version(installation, version)
    (disk,) = view.version.disks
    assert disk.virtual_bytes is not None
    assert disk.disk_digest is not None
    return OverlayBase(
        virtual_bytes=disk.virtual_bytes,
        disk_digest=disk.disk_digest,
        location=view.definition_path.version_id(view.version.name),
        disk_key="os",
        region=region,
    )
