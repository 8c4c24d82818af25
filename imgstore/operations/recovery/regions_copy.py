"""Write the regions.yaml of a recovery file into the home of a rebuilt installation."""

from pathlib import Path
from typing import Final

from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.operations.recovery.backup import REGIONS_FILE, shipped_regions
from imgstore.operations.recovery.recovery_keys import RecoveryKeys

_OTHER_NAME: Final = "regions-of-recovery-file.yaml"
"""The name of the file if the home has a regions.yaml with other content."""


def write_regions_file(home: Path, keys: RecoveryKeys) -> Path | None:
    """Write the document, and return its path. Return None if the package has the same document.

    Raises:
        OutputError: the home cannot be written.
        HostFault: a file in the home cannot be read.
    """
    if keys.regions_document == shipped_regions():
        return None
    path = home / REGIONS_FILE
    with translate_host_faults():
        if path.exists() and path.read_bytes() != keys.regions_document:
            path = home / _OTHER_NAME
    pending = PendingFile(path, overwrite=True, read_soon=True, mode=FILE_MODE)
    try:
        pending.write(keys.regions_document, 0)
        pending.publish()
    finally:
        pending.discard()
    return path
