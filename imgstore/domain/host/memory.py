"""The free memory of this machine, or of the control group (container, service) of this process."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")
_GROUPS: Final = "sys/fs/cgroup"


def available_memory_bytes(root: Path = _ROOT) -> int | None:
    """Return the number of bytes that this process can still use without swap. None if the kernel does not tell.

    Sources: https://man7.org/linux/man-pages/man5/proc_meminfo.5.html (MemAvailable), and the limits of control groups,
    https://docs.kernel.org/admin-guide/cgroup-v2.html.

    Args:
        root: the folder with `proc` and `sys`.
    """
    found = [*_read_machine(root), *_read_groups(root)]
    return max(0, min(found)) if found else None


def _read_machine(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _read_groups(root: Path) -> Iterator[int]:
    """Yield the free bytes of the group of this process, and of each parent with a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for name in names:
        group = Path(name)
        for each in (group, *group.parents):
            folder = root / _GROUPS / each
            with suppress(OSError, ValueError):  # The file of a group without a limit contains "max".
                limit = int((folder / "memory.max").read_text())
                yield limit - int((folder / "memory.current").read_text()) + _read_cache(folder)


def _read_cache(folder: Path) -> int:
    """Return the bytes of files in memory, which the kernel frees for other uses."""
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
