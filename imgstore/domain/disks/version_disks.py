"""The disks of an image version: one OS disk, and data disks by LUN."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.errors import ImageNotAvailable, InvalidInput
from imgstore.domain.storage.digests import Digest

OS_DISK: Final = "os"
"""The key of a version's OS disk, and of a managed disk's only one; data disks have ``lun-<n>``."""

LUN_MAX: Final = 63
"""Azure's largest machines take 64 data disks."""

_DATA_DISK: Final = "lun-"


class HostCaching(StrEnum):
    """How a machine's host caches a disk. Kept and shown; nothing here depends on it."""

    NONE = "None"
    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDisk:
    """One disk of a version: where it came from, and what is known of it."""

    lun: int | None = None
    """Of a data disk; None is the OS disk."""
    source: SourceIdentity
    source_sha256: str | None = None
    """Given by the user, lower-case hexadecimal, checked over the file's bytes."""
    host_caching: HostCaching = HostCaching.READ_WRITE
    expected_bytes: int | None = None
    """The size of the disk as its source tells it: what counts against the quota until `virtual_bytes` is known."""
    virtual_bytes: int | None = None
    """Known once the source region is Completed."""
    disk_digest: Digest | None = None
    """Known once the source region is Completed."""

    @property
    def key(self) -> str:
        """What its manifests are kept under."""
        return disk_key(self.lun)


def disk_key(lun: int | None) -> str:
    """The key of the data disk at a LUN, or of the OS disk."""
    return OS_DISK if lun is None else f"{_DATA_DISK}{lun}"


def lun_of(key: str) -> int | None:
    """The LUN that a disk's key says; None is the OS disk."""
    return None if key == OS_DISK else int(key.removeprefix(_DATA_DISK))


def sort_disk_keys(keys: Iterable[str]) -> list[str]:
    """Keys as disks are dealt with everywhere: the OS disk, then by LUN."""
    return sorted(keys, key=_place)


def _place(key: str) -> int:
    lun = lun_of(key)
    return -1 if lun is None else lun


DISK_KEYS: Final = (OS_DISK, *map(disk_key, range(LUN_MAX + 1)))
"""All that there can be."""


def default_caching(lun: int | None) -> HostCaching:
    """Azure's, where nobody says."""
    return HostCaching.READ_WRITE if lun is None else HostCaching.READ_ONLY


def format_disk_keys(keys: Iterable[str]) -> str:
    """Disks for people: "the OS disk and data disks at LUN 0, 5"."""
    luns = ", ".join(str(lun_of(key)) for key in sort_disk_keys(keys) if key != OS_DISK)
    return f"the OS disk and data disks at LUN {luns}" if luns else "the OS disk alone"


def check_luns(luns: Sequence[int]) -> None:
    """Refuse LUNs that no set of data disks can have.

    Raises:
        InvalidInput: one is out of range, or stands twice.
    """
    for lun in luns:
        if not 0 <= lun <= LUN_MAX:
            raise InvalidInput(
                f"The value {lun} of parameter dataDiskImages.lun is out of range. The value must be between 0 and "
                f"{LUN_MAX}, inclusive.",
                found=f"LUN {lun}",
                expected=f"0 to {LUN_MAX}",
                hint="give each data disk a LUN of its own in that range",
                target="dataDiskImages.lun",
            )
    twice = [str(lun) for lun, count in sorted(Counter(luns).items()) if count > 1]
    if twice:
        raise InvalidInput(
            "The data disks of an image version have duplicate LUNs.",
            found=f"LUN {', '.join(twice)} more than once",
            expected="each LUN once",
            hint="leave --data-vhds-luns out for 0, 1, 2, ... in the order of the disks",
            target="dataDiskImages.lun",
        )


def check_has_disk(keys: Iterable[str], key: str, image: str) -> None:
    """Refuse a disk that a version does not have.

    Args:
        keys: those that it has.
        key: the one that is asked for.
        image: the version's resource id.

    Raises:
        ImageNotAvailable: it is none of them.
    """
    there = list(keys)
    if key not in there:
        raise ImageNotAvailable(
            f"The gallery image {image} has no data disk at LUN {lun_of(key)}.",
            found=format_disk_keys(there),
            expected="a LUN that the image version has",
            hint="`imgstore sig image-version show` lists its data disks; leave the LUN out for the OS disk",
            target="galleryImageReference.lun",
        )
