"""Read a source piece by piece, and compare the content of a source with a stored disk."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from imgstore.domain.disks.sources import DiskReader
from imgstore.domain.storage.digests import Digest, disk_digest
from imgstore.domain.storage.latency import choose_threads, measure_latency
from imgstore.domain.storage.sizes import MIB, PIECE_BYTES
from imgstore.formats.files.read_ahead import results_in_order
from imgstore.segments.manifest import Manifest, piece_bytes
from imgstore.transfer.ingest import Piece, read_piece, touched_pieces
from imgstore.transfer.slot_access import CheckCancelled

_THREADS: Final = 2


def find_difference(
    reader: DiskReader,
    digest: Digest,
    manifest: Manifest | None,
    *,
    on_moved: Callable[[int], None],
    check_cancelled: CheckCancelled,
) -> str | None:
    """Read a disk, and return the difference from a stored disk of the same size for people, or None if equal.

    Args:
        reader: the disk to read.
        digest: the disk digest of the stored disk.
        manifest: the manifest of the stored disk. With the manifest, the read ends at the first different piece.
        on_moved: called with the number of bytes after each piece.
        check_cancelled: called before each read.
    """
    pieces = read_pieces(reader, on_moved, check_cancelled)
    if manifest is None:
        found = disk_digest(reader.virtual_bytes, ((each.index, each.digest) for each in pieces if each.data))
        return None if found == digest else f"disk digest {found.hex()}"
    equal = 0
    for piece in pieces:
        if (manifest.pieces.find(piece.index) or b"") != piece.digest:
            return f"other bytes in the {PIECE_BYTES // MIB} MiB at offset {piece.index * PIECE_BYTES:,} of the disk"
        equal += bool(piece.data)
    # A piece in a hole of the source is not read.
    return None if equal == len(manifest.pieces) else "zeros at an offset with stored bytes"


def read_pieces(
    reader: DiskReader, on_moved: Callable[[int], None], check_cancelled: CheckCancelled
) -> Iterator[Piece]:
    """Yield the pieces that an extent touches, in order. A few reads run in advance.

    Args:
        reader: the disk to read.
        on_moved: called with the number of bytes of each piece.
        check_cancelled: called before each read.
    """
    check_cancelled()
    threads = choose_threads(_THREADS, measure_latency(reader.read_at, reader.virtual_bytes, time.monotonic))
    with ThreadPoolExecutor(threads, thread_name_prefix="compare") as pool:

        def submit_reads() -> Iterator[Future[Piece]]:
            for index in touched_pieces(reader):
                check_cancelled()
                yield pool.submit(read_piece, reader, index)

        for piece in results_in_order(submit_reads(), threads + 1):
            on_moved(piece_bytes(reader.virtual_bytes, piece.index))
            yield piece
