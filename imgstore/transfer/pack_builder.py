"""Builds a boot pack from the segments of a disk, and from frames of an older pack."""

import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, SEGMENT_BLOCKS
from imgstore.segments.boot_pack import PackHead, encode_head
from imgstore.segments.codec import HEADER_BYTES, decode_segment, encode_segment
from imgstore.segments.manifest import Column, Manifest
from imgstore.segments.pack_plan import PlannedFrame, locate_blocks
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.transfer.scatter import BlockSource
from imgstore.transfer.slot_access import CheckCancelled, SlotAccess

_COPY_BYTES: Final = 1 << 20


class OldPack(NamedTuple):
    """A pack whose frames are kept."""

    access: SlotAccess
    key: str
    """The key of the object below the slot."""
    head: PackHead

    def read_frame(self, frame: int) -> bytes:
        """Read the stored bytes of a frame, verified.

        Raises:
            ObjectCorrupt: the frame is damaged.
        """
        offset, length = int(self.head.offset[frame]), int(self.head.stored_bytes[frame])
        body = self.access.store.get_range(self.access.prefix + self.key, offset, length)
        decode_segment(body, self.head.name(frame))
        return body


@contextmanager
def build_pack(
    frames: Sequence[PlannedFrame],
    manifest: Manifest,
    digest: Digest,
    *,
    segments: BlockSource,
    old: OldPack | None,
    pack_key: bytes,
    scratch: Path,
    check_scratch: Callable[[int], None],
    workers: int,
    check_cancelled: CheckCancelled,
) -> Iterator[memoryview]:
    """Build a pack, and yield its bytes, which are in a file of `scratch` inside the block.

    Args:
        frames: the planned frames.
        manifest: the disk.
        digest: the digest of the manifest.
        segments: the source of the disk's segments. Each needed segment is fetched once.
        old: the pack with the kept frames. None if no frame is kept.
        pack_key: the key for the head.
        scratch: the folder for temporary files.
        check_scratch: refuses too large files in the scratch folder, by their bytes.
        workers: threads; each holds a segment of up to 4 MiB.
        check_cancelled: called before each request.

    Raises:
        ObjectCorrupt: a kept frame is damaged.
        StoreError: no slot serves a segment.
    """
    fresh = np.array([block for frame in frames if frame.kept is None for block in frame.blocks], dtype=np.int64)
    check_scratch(2 * len(fresh) * BLOCK_BYTES)
    with (
        tempfile.TemporaryFile(dir=scratch) as unpacked,
        tempfile.TemporaryFile(dir=scratch) as packed,
        tempfile.TemporaryFile(dir=scratch) as whole,
    ):
        _fetch_blocks(unpacked, fresh, manifest, segments, workers, check_cancelled)
        unpacked.seek(0)
        rows: list[tuple[Digest, int]] = []
        for frame in frames:
            if frame.kept is not None:
                assert old is not None, "a plan keeps frames of an older pack only"
                check_cancelled()
                name, body = old.head.name(frame.kept), memoryview(old.read_frame(frame.kept))
            else:
                buffer = bytearray(HEADER_BYTES + len(frame.blocks) * BLOCK_BYTES)
                unpacked.readinto(memoryview(buffer)[HEADER_BYTES:])
                encoded = encode_segment(buffer, len(frame.blocks))
                name, body = encoded.name, memoryview(encoded.body)
            packed.write(body)
            rows.append((name, len(body)))
        head = PackHead(
            manifest_digest=digest,
            names=np.frombuffer(b"".join(name for name, _ in rows), dtype=np.uint8).reshape(len(rows), DIGEST_BYTES),
            frame_blocks=np.array([len(frame.blocks) for frame in frames], dtype=np.int64),
            stored_bytes=np.array([length for _, length in rows], dtype=np.int64),
            block=np.array([block for frame in frames for block in frame.blocks], dtype=np.int64),
        )
        whole.write(encode_head(head, pack_key))
        packed.seek(0)
        while part := packed.read(_COPY_BYTES):
            whole.write(part)
        whole.flush()
        with mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as body:
            yield body


def _fetch_blocks(
    file: IO[bytes],
    blocks: Column,
    manifest: Manifest,
    segments: BlockSource,
    workers: int,
    check_cancelled: CheckCancelled,
) -> None:
    """Write blocks of a disk into a file in their order. Each segment is fetched once."""
    if not len(blocks):
        return
    file.truncate(len(blocks) * BLOCK_BYTES)
    content = locate_blocks(manifest.runs, blocks)
    if int(content.min()) < 0:
        raise ObjectCorrupt(
            "A block of the boot pack is not in the disk.",
            found="a block of zeros",
            expected="a block with data",
            hint="this is a fault in imgstore: please report it",
        )
    order = np.argsort(content, kind="stable")
    begins = np.flatnonzero(np.diff(content[order] // SEGMENT_BLOCKS, prepend=-1))
    with mmap.mmap(file.fileno(), 0) as mapped:

        def place(rows: Column) -> None:
            check_cancelled()
            found = segments.blocks(manifest.segments.name(int(content[rows[0]]) // SEGMENT_BLOCKS))
            for row, at in zip(rows.tolist(), (content[rows] % SEGMENT_BLOCKS).tolist(), strict=True):
                begin = row * BLOCK_BYTES
                mapped[begin : begin + BLOCK_BYTES] = found[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]

        with BoundedPool(workers, workers * 2, "pack") as pool:
            for begin, end in pairwise([*begins.tolist(), len(order)]):
                pool.submit(place, order[begin:end])
        mapped.flush()
