"""Assembles a newly ingested disk again, a sample or the whole, before the disk is published (invariant I15)."""

import os
import tempfile
from pathlib import Path
from typing import Self

import numpy as np

from imgstore.domain.storage.sizes import PIECE_BLOCKS
from imgstore.formats.files.atomic_file import write_all
from imgstore.formats.files.holes import clear_range
from imgstore.segments.manifest import Column, Manifest
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.slot_access import CheckCancelled

SAMPLE_STEP = 16
"""Check every sixteenth of the pieces that contain both reused and new blocks (invariant I15)."""


def choose_pieces(manifest: Manifest, work_uid: str, *, full: bool) -> Column:
    """Choose the indexes of the pieces to assemble: all, or a sample of the pieces with both old and new segments."""
    if full:
        return manifest.pieces.index
    mine = [index for index, work in enumerate(manifest.works) if work.uid == work_uid]
    new = np.isin(manifest.segments.work, mine)[manifest.runs.segment]
    piece = manifest.runs.block // PIECE_BLOCKS
    mixed: Column = np.intersect1d(piece[new], piece[~new])
    return mixed[::SAMPLE_STEP]


def check_assembly(
    manifest: Manifest,
    reader: SegmentReader,
    *,
    work_uid: str,
    full: bool,
    scratch: Path,
    workers: int,
    check_cancelled: CheckCancelled,
) -> None:
    """Assemble the chosen pieces from the segments of their runs, and compare each piece with its digest.

    Raises:
        ObjectCorrupt: a piece or a segment has wrong bytes. Nothing was published.
    """
    chosen = choose_pieces(manifest, work_uid, full=full)
    if len(chosen):
        with _ScratchDisk(scratch) as disk:
            scatter(
                manifest,
                reader,
                disk,
                workers=workers,
                check_cancelled=check_cancelled,
                only=chosen,
            )


class _ScratchDisk:
    """A target that stores only the bytes that are read back, and only until that read.

    A check needs little disk space.

    The file has a name, so that scratch accounting counts its bytes.
    """

    def __init__(self, scratch: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - closed by __exit__

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        if read_soon:
            write_all(self._file.fileno(), data, offset)

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._file.fileno(), length, offset).ljust(length, b"\0")
        clear_range(self._file.fileno(), offset, length)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()
