"""Bound the room that this machine gives to scratch files, uploads and embedded stores.

A reserve stays free, so that deletes, garbage collection and the catalog still work on a disk that is full for callers.
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
"""Called with the file or folder of a work in scratch, and the bytes that it is about to take. Raises StoreFull."""


def allow_all_scratch(_work: Path, _needed_bytes: int) -> None:
    """Permit every use of scratch: a `CheckScratch` for a program that has no installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """The bounds of one machine: the table ``[disk_space]`` of settings.toml."""

    free_bytes_min: int | None = None
    """The reserve; None is a twentieth of the file system, and at most 1 GiB."""
    scratch_bytes_per_work_max: int = 256 * GIB
    scratch_bytes_max: int = TIB
    """Of all works of all processes that share the home."""
    upload_days_max: int = 30
    """Bytes of an upload that nobody may write any more are removed so long after somebody had it open."""
    file: str = "settings.toml"
    """Where these were read, or would be: what a refusal tells to change."""

    def raise_hint(self, name: str) -> str:
        """What to do about the bound `name`."""
        return f"raise {name} under [disk_space] in {self.file}"

    def has_free_space(self, place: Path, needed_bytes: int) -> bool:
        """Tell whether the reserve is kept after `needed_bytes` more in the file system of `place`."""
        free_bytes, reserve_bytes = self._free(place)
        return free_bytes is None or free_bytes - needed_bytes >= reserve_bytes

    def check_free_space(self, place: Path, needed_bytes: int) -> None:
        """Refuse a write that would take from the reserve.

        Args:
            place: a file or folder in the file system that is written to.
            needed_bytes: length of the write.

        Raises:
            StoreFull: less than the reserve would be free afterwards.
        """
        free_bytes, reserve_bytes = self._free(place)
        if free_bytes is not None and free_bytes - needed_bytes < reserve_bytes:
            raise StoreFull(
                "There is no room left beside the reserve.",
                found=f"{free_bytes} bytes free, {needed_bytes} bytes to write",
                expected=f"{reserve_bytes} bytes that stay free (free_bytes_min)",
                hint="delete what is not needed and run `imgstore gc`, or make room in the file system",
                target=str(place),
            )

    def check_scratch(self, work: Path, top: Path, needed_bytes: int = 0) -> None:
        """Refuse a work that takes too much of scratch.

        Args:
            work: the file or folder of the work.
            top: the folder of all works.
            needed_bytes: what the work is about to take.

        Raises:
            StoreFull: the work, or all of them together, would pass their bound, or the reserve would not be kept.
        """
        for place, name, whose in (
            (work, "scratch_bytes_per_work_max", "a work"),
            (top, "scratch_bytes_max", "all works together"),
        ):
            used_bytes, most_bytes = allocated_bytes(place), getattr(self, name)
            if used_bytes + needed_bytes > most_bytes:
                raise StoreFull(
                    f"The scratch files of {whose} are too large.",
                    found=f"{used_bytes} bytes, and {needed_bytes} more to come",
                    expected=f"at most {most_bytes} bytes ({name})",
                    hint=f"use a smaller disk, one in raw or VHD, which needs no scratch, or {self.raise_hint(name)}",
                    target=str(place),
                )
        self.check_free_space(top, needed_bytes)

    def _free(self, place: Path) -> tuple[int | None, int]:
        """Bytes that are free to this user, None where the file system does not tell; and those that are to stay free."""
        try:
            found = os.statvfs(next(each for each in (place, *place.parents) if each.exists()))
        except (OSError, StopIteration):
            return None, 0
        if not found.f_blocks:
            return None, 0
        total_bytes = found.f_blocks * found.f_frsize
        usual = min(RESERVE_BYTES_MAX, total_bytes // RESERVE_DIVISOR)
        return found.f_bavail * found.f_frsize, usual if self.free_bytes_min is None else self.free_bytes_min


def allocated_bytes(place: Path) -> int:
    """Bytes on the medium of a file, or of all files below a folder; holes take none, and what is missing is 0."""
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
        settings: the document, as TOML reads it.
        file: its path, for errors.

    Raises:
        InvalidInput: a key that nobody knows, or a value of the wrong kind; its target is the key.
    """
    table = SettingsTable(
        name="disk_space", file=file, example="[disk_space] and below it free_bytes_min = 10737418240"
    )
    most = {"upload_days_max": _DAYS_MAX}
    values = table.read(settings, _NUMBERS)
    numbers = {key: table.check_number(key, value, 0, most.get(key, _BYTES_MAX)) for key, value in values.items()}
    return DiskSpace(**numbers, file=file)
