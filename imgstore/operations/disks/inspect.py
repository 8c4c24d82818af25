"""What is this file? Needs no installation."""

import tempfile
from pathlib import Path

from imgstore.domain.disks.sources import DiskFormat
from imgstore.formats import Inspection, LocalFile, inspect_image


def inspect_file(path: Path, *, source_format: DiskFormat | None = None) -> Inspection:
    """What the file is, whether Azure would take it, and each safety check by name.

    Raises:
        ImgstoreError: the file itself can't be read. A damaged image is no error: its checks say so.
    """
    source = LocalFile(path)
    try:
        with tempfile.TemporaryDirectory(prefix="imgstore-") as scratch:
            return inspect_image(source, format=source_format, scratch=Path(scratch))
    finally:
        source.close()
