"""The disks of an image version: an OS disk, and data disks by LUN."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.errors import ImageNotAvailable, InvalidInput
from imgstore.domain.storage.digests import Digest

OS_DISK: Final = "os"
"""The disk key of a version's OS disk and of a managed disk. Data disks have ``lun-<n>``."""

LUN_MAX: Final = 63
"""Azure's largest machines have 64 data disks."""

_DATA_DISK: Final = "lun-"


class HostCaching(StrEnum):
    """The host caching of a disk in a machine. imgstore only stores and shows the value."""

    NONE = "None"
    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDisk:
    """A disk of a version: the source and the known properties."""

    lun: int | None = None
    """The LUN of a data disk. None is the OS disk."""
    source: SourceIdentity
    source_sha256: str | None = None
    """The SHA-256 from the user, checked against the bytes of the file, in lower-case hexadecimal digits."""
    host_caching: HostCaching = HostCaching.READ_WRITE
    expected_bytes: int | None = None
    """The size of the disk according to the source. The quota counts this size until `virtual_bytes` is known."""
    virtual_bytes: int | None = None
    """Known when the source region is Completed."""
    disk_digest: Digest | None = None
    """Known when the source region is Completed."""

    @property
    def key(self) -> str:
        """The disk key."""
        return disk_key(self.lun)


def disk_key(lun: int | None) -> str:
    """Return the disk key of the data disk at a LUN, or of the OS disk."""
    return OS_DISK if lun is None else f"{_DATA_DISK}{lun}"


def lun_of(key: str) -> int | None:
    """Return the LUN in a disk key. None is the OS disk."""
    return None if key == OS_DISK else int(key.removeprefix(_DATA_DISK))


def sort_disk_keys(keys: Iterable[str]) -> list[str]:
    """Sort disk keys: the OS disk, then the data disks by LUN."""
    return sorted(keys, key=_sort_key)


def _sort_key(key: str) -> int:
    lun = lun_of(key)
    return -1 if lun is None else lun


DISK_KEYS: Final = (OS_DISK, *map(disk_key, range(LUN_MAX + 1)))
"""All possible disk keys."""


def default_caching(lun: int | None) -> HostCaching:
    """Return Azure's default host caching."""
    return HostCaching.READ_WRITE if lun is None else HostCaching.READ_ONLY


def format_disk_keys(keys: Iterable[str]) -> str:
    """Return disks for people: "the OS disk and data disks at LUN 0, 5"."""
    luns = ", ".join(str(lun_of(key)) for key in sort_disk_keys(keys) if key != OS_DISK)
    return f"the OS disk and data disks at LUN {luns}" if luns else "the OS disk alone"


def check_luns(luns: Sequence[int]) -> None:
    """Reject impossible LUNs of data disks.

    Raises:
        InvalidInput: a LUN is out of range or occurs twice.
    """
    for lun in luns:
        if not 0 <= lun <= LUN_MAX:
            raise InvalidInput(
                f"The value {lun} of parameter dataDiskImages.lun is out of range. The value must be between 0 and "
                f"{LUN_MAX}, inclusive.",
                found=f"LUN {lun}",
                expected=f"0 to {LUN_MAX}",
                hint="give each data disk a different LUN in this range",
                target="dataDiskImages.lun",
            )
    repeated = [str(lun) for lun, count in sorted(Counter(luns).items()) if count > 1]
    if repeated:
        raise InvalidInput(
            "The data disks of an image version have duplicate LUNs.",
            found=f"LUN {', '.join(repeated)} more than once",
            expected="each LUN once",
            hint="omit --data-vhds-luns for 0, 1, 2, ... in the order of the disks",
            target="dataDiskImages.lun",
        )


def check_has_disk(keys: Iterable[str], key: str, image: str) -> None:
    """Reject a request for a disk that a version does not have.

    Args:
        keys: the disk keys of the version.
        key: the requested disk key.
        image: the resource id of the version.

    Raises:
        ImageNotAvailable: the version has no such disk.
    """
    present = list(keys)
    if key not in present:
        raise ImageNotAvailable(
            f"The gallery image {image} has no data disk at LUN {lun_of(key)}.",
            found=format_disk_keys(present),
            expected="a LUN that the image version has",
            hint="`imgstore sig image-version show` lists the data disks; omit the LUN for the OS disk",
            target="galleryImageReference.lun",
        )
