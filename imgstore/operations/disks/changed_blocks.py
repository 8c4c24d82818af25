"""Find the changed blocks of data disks on this host.

A guest's changes of an OS disk are in the folder of the machine. Changes of a data disk follow the disk, which another machine
of this host may get.
"""

from pathlib import Path


def find_changes(home: Path, disk_uid: str) -> Path:
    """Return the path of the qcow2 file with the changed blocks of a data disk. The file may not exist."""
    return home / "machines" / "disks" / f"{disk_uid}.qcow2"
