"""Limits for the disk space of scratch files, uploads and embedded stores on this machine.

A reserve stays free. Deletes, garbage collection and the catalog therefore work on a disk that is full for callers.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from imgstore.domain.errors import StoreFull
from imgstore.domain.settings.tables import SettingsTable
from imgstore.domain.storage.sizes import GIB, TIB

RESERVE_BYTES_MAX: Final = GIB
RESERVE_DIVISOR: Final = 20
"""The default reserve is a twentieth of the file system, and at most `RESERVE_BYTES_MAX`."""

CheckScratch: TypeAlias = Callable[[Path, int], None]
"""Called with the scratch file or folder of a work, and with the bytes to write next. Raises StoreFull."""


def allow_all_scratch(_work: Path, _needed_bytes: int) -> None:
    """Permit every use of scratch: a `CheckScratch` for a program without an installation."""


_FREE_HINT: Final = "delete unneeded images and disks and run `imgstore gc`, or free space in the file system"
_SCRATCH_HINT: Final = (
    "free space in the file system, or use a raw or VHD file, which needs almost no scratch (`qemu-img convert -O raw`)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """The limits of one machine: the table ``[disk_space]`` of settings.toml."""

    free_bytes_min: int | None = None
    """The reserve. None is a twentieth of the file system, and at most 1 GiB."""
    scratch_bytes_per_work_max: int = 256 * GIB
    scratch_bytes_max: int = TIB
    """The limit for all works of all processes with the same home."""
    cache_bytes_max: int = 10 * GIB
    """The limit of the segment cache. 0 switches the cache off."""
    upload_days_max: int = 30
    """The days from the last use of an upload to the removal of the bytes, if no caller may write the upload any more.
    """
    file: str = "settings.toml"
    """The path of the settings document, also of a missing document. Hints contain the path."""

    def raise_hint(self, name: str) -> str:
        """Return the hint to raise the limit `name`."""
        return f"raise {name} under [disk_space] in {self.file}"

    def has_free_space(self, place: Path, needed_bytes: int) -> bool:
        """Return whether the file system of `place` keeps the reserve after a write of `needed_bytes`."""
        free_bytes, reserve_bytes = self.measure(place)
        return free_bytes is None or free_bytes - needed_bytes >= reserve_bytes

    def check_free_space(self, place: Path, needed_bytes: int, hint: str = _FREE_HINT) -> None:
        """Refuse a write that would use the reserve.

        Args:
            place: a file or folder in the file system of the write.
            needed_bytes: the length of the write.
            hint: the steps to free space.

        Raises:
            StoreFull: less than the reserve would be free afterwards.
        """
        free_bytes, reserve_bytes = self.measure(place)
        if free_bytes is not None and free_bytes - needed_bytes < reserve_bytes:
            raise StoreFull(
                "No space is left outside of the reserve.",
                found=f"{free_bytes} bytes free in the file system of {place}, {needed_bytes} bytes to write",
                expected=f"{reserve_bytes} bytes that stay free (free_bytes_min)",
                hint=hint,
                target=str(place),
            )

    def check_scratch(self, work: Path, top: Path, needed_bytes: int = 0) -> None:
        """Refuse a work that takes too much scratch space.

        Args:
            work: the file or folder of the work.
            top: the folder of all works.
            needed_bytes: the bytes that the work will write next.

        Raises:
            StoreFull: the work, or all works together, would exceed the limit, or the reserve would be used.
        """
        for place, name, owner in (
            (work, "scratch_bytes_per_work_max", "a work"),
            (top, "scratch_bytes_max", "all works together"),
        ):
            used_bytes, limit_bytes = allocated_bytes(place), getattr(self, name)
            if used_bytes + needed_bytes > limit_bytes:
                raise StoreFull(
                    f"The scratch files of {owner} are too large.",
                    found=f"{used_bytes} bytes, and {needed_bytes} bytes to write",
                    expected=f"at most {limit_bytes} bytes ({name})",
                    hint=f"use a smaller disk, or a raw or VHD file, which needs no scratch, or {self.raise_hint(name)}",
                    target=str(place),
                )
        self.check_free_space(top, needed_bytes, _SCRATCH_HINT)

    def measure(self, place: Path) -> tuple[int | None, int]:
        """Return the bytes that are free for this user, and the reserve.

        The first is None if the file system does not report.
        """
        try:
            found = os.statvfs(next(each for each in (place, *place.parents) if each.exists()))
        except (OSError, StopIteration):
            return None, 0
        if not found.f_blocks:
            return None, 0
        total_bytes = found.f_blocks * found.f_frsize
        default_bytes = min(RESERVE_BYTES_MAX, total_bytes // RESERVE_DIVISOR)
        return found.f_bavail * found.f_frsize, default_bytes if self.free_bytes_min is None else self.free_bytes_min


def allocated_bytes(place: Path) -> int:
    """Return the bytes on the medium of a file, or of all files below a folder. Holes and missing files count as 0."""
    try:
        if not place.is_dir():
            return place.lstat().st_blocks * 512
        with os.scandir(place) as found:
            return sum(allocated_bytes(Path(entry)) for entry in found)
    except FileNotFoundError:
        return 0


_NUMBERS: Final = tuple(each.name for each in fields(DiskSpace) if each.name != "file")
_DAYS_MAX: Final = 36_500
_BYTES_MAX: Final = 2**63 - 1


def read_disk_space(settings: Mapping[str, Any], file: str) -> DiskSpace:
    """Read the table ``[disk_space]`` of a settings document.

    Args:
        settings: the document, as TOML reads the file.
        file: the path of the document, for errors.

    Raises:
        InvalidInput: an unknown key, or a value of the wrong kind. The target is the key.
    """
    table = SettingsTable(
        name="disk_space", file=file, example="[disk_space] and below it free_bytes_min = 10737418240"
    )
    highest = {"upload_days_max": _DAYS_MAX}
    values = table.read(settings, _NUMBERS)
    numbers = {key: table.check_number(key, value, 0, highest.get(key, _BYTES_MAX)) for key, value in values.items()}
    return DiskSpace(**numbers, file=file)
