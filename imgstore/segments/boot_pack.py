"""A boot pack: the blocks that a boot reads, in the order of the boot, as one object of small segments.

A pack is derived data. Its head names the blocks of a disk, and each frame is a segment (`segments/codec.py`) of at most
64 blocks, so that a frame is verified by its name as every segment.

::

    offset  bytes  field
         0      8  magic "IMGSPACK"
         8      2  format version, 1
        10      2  zero
        12      4  frames, f
        16      4  blocks, b
        20      4  bytes of the column frame
        24     32  digest of the manifest that describes the disk
        56   32 f  for each frame: its name, the BLAKE3 of its bytes
         .         one zstd frame with these columns in sequence:
                     frames: blocks - 1 (u8), stored bytes (u32)
                     blocks: block of the disk, or -1 for content that the disk does not contain any more (i64, difference
                     to the previous block)
         .     32  keyed BLAKE3 of all previous bytes
         .         the frames, in sequence

All numbers are little-endian. The key of the last digest is derived from the fingerprint key of the pool, which no store
knows. So a store, or a person who may write to a bucket, can neither make a head nor exchange the heads of two disks.
"""

import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from blake3 import blake3

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest, digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB
from imgstore.segments.codec import HEADER_BYTES
from imgstore.segments.manifest import Column, Digests

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME_BLOCKS: Final = 64
"""The blocks of a frame, 256 KiB: a read in a frame that did not arrive yet waits for few bytes."""
PACK_BYTES_MAX: Final = 512 * MIB
"""The largest sum of blocks. A boot of a Linux distribution reads 50 to 200 MiB."""
PACK_BLOCKS_MAX: Final = PACK_BYTES_MAX // BLOCK_BYTES
FRAMES_MAX: Final = PACK_BLOCKS_MAX
GONE: Final = -1
"""In place of the block of a disk: the disk does not contain this content any more."""

_MAGIC: Final = b"IMGSPACK"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHIII32s")
_CONTEXT: Final = "imgstore 2026-12 key of the heads of boot packs"
_FRAME_BYTES_MAX: Final = HEADER_BYTES + FRAME_BLOCKS * BLOCK_BYTES
_LEVEL: Final = 3


@dataclass(frozen=True, kw_only=True)
class PackHead:
    """The description of a pack: its frames, and the blocks of the disk that each frame contains."""

    manifest_digest: Digest
    names: Digests
    """The name of each frame."""
    frame_blocks: Column
    stored_bytes: Column
    """The stored bytes of each frame."""
    block: Column
    """For each block of all frames in order: the block of the disk, or `GONE`."""
    head_bytes: int = 0
    """The offset of the first frame in the object. 0 before the encoding."""

    @cached_property
    def first_block(self) -> Column:
        """The index in `block` of the first block of each frame, and the number of all blocks."""
        return np.concatenate(([0], np.cumsum(self.frame_blocks)))

    @cached_property
    def offset(self) -> Column:
        """The offset of each frame in the object, and the end of the object."""
        return self.head_bytes + np.concatenate(([0], np.cumsum(self.stored_bytes)))

    @property
    def object_bytes(self) -> int:
        """The size of the object."""
        return int(self.offset[-1])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, frame: int) -> Digest:
        """Return the name of a frame."""
        return bytes(self.names[frame])

    @property
    def trace(self) -> Column:
        """The blocks of the disk in the order of the boot."""
        traced: Column = self.block[self.block != GONE]
        return traced


def derive_pack_key(fingerprint_key: bytes) -> bytes:
    """Derive the key of the heads of a pool's packs."""
    return blake3(fingerprint_key, derive_key_context=_CONTEXT).digest()


def encode_head(head: PackHead, key: bytes) -> bytes:
    """Encode the bytes in front of the first frame."""
    columns = zstd.compress(
        b"".join(
            (
                (head.frame_blocks - 1).astype("u1").tobytes(),
                head.stored_bytes.astype("<u4").tobytes(),
                np.diff(head.block, prepend=0).astype("<i8").tobytes(),
            )
        ),
        level=_LEVEL,
    )
    header = _HEADER.pack(_MAGIC, _VERSION, 0, len(head), len(head.block), len(columns), head.manifest_digest)
    body = header + head.names.tobytes() + columns
    return body + blake3(body, key=key).digest()


def head_length(data: bytes | memoryview) -> int:
    """Return the length of the head from the first bytes of a pack. The length is not verified.

    Raises:
        ObjectCorrupt: the bytes are no beginning of a pack.
    """
    if len(data) < _HEADER.size:
        raise _corrupt(f"{len(data)} bytes", f"at least {_HEADER.size}")
    magic, version, zero, frames, blocks, columns_bytes, _ = _HEADER.unpack_from(data)
    if (magic, version, zero) != (_MAGIC, _VERSION, 0):
        raise _corrupt(f"magic {magic!r}, version {version}", "version 1 of a boot pack")
    columns_bytes_max = 9 * frames + 9 * blocks + 1024
    if frames > FRAMES_MAX or blocks > PACK_BLOCKS_MAX or columns_bytes > columns_bytes_max:
        raise _corrupt(f"{frames} frames, {blocks} blocks, {columns_bytes} bytes of columns", "counts in the limits")
    return int(_HEADER.size + frames * DIGEST_BYTES + columns_bytes + DIGEST_BYTES)


def decode_head(data: bytes | memoryview, key: bytes, manifest_digest: Digest) -> PackHead:
    """Decode and verify the head at the beginning of a pack.

    Raises:
        ObjectCorrupt: the head was not made with this key, describes another disk, or is not complete.
    """
    length = head_length(data)
    head = memoryview(data)[:length]
    if len(head) < length or blake3(head[:-DIGEST_BYTES], key=key).digest() != head[-DIGEST_BYTES:]:
        raise _corrupt("a head with another digest", "a head that this installation has made")
    *_, frames, blocks, columns_bytes, found_digest = _HEADER.unpack_from(head)
    if found_digest != manifest_digest:
        raise _corrupt("the pack of another disk", f"the manifest {manifest_digest.hex()}")
    names_end = _HEADER.size + frames * DIGEST_BYTES
    columns = _unpack(head[names_end : names_end + columns_bytes], frames * 5 + blocks * 8)
    decoded = PackHead(
        manifest_digest=manifest_digest,
        names=np.frombuffer(head[_HEADER.size : names_end], dtype=np.uint8).reshape(frames, DIGEST_BYTES),
        frame_blocks=np.frombuffer(columns, dtype="u1", count=frames).astype(np.int64) + 1,
        stored_bytes=np.frombuffer(columns, dtype="<u4", count=frames, offset=frames).astype(np.int64),
        block=np.cumsum(np.frombuffer(columns, dtype="<i8", count=blocks, offset=5 * frames)),
        head_bytes=length,
    )
    # A head with a right digest is checked too: the code of another release may have made the head.
    if (
        int(decoded.frame_blocks.sum()) != blocks
        or (frames and int(decoded.frame_blocks.max()) > FRAME_BLOCKS)
        or (frames and int(decoded.stored_bytes.max()) > _FRAME_BYTES_MAX)
        or (blocks and int(decoded.block.min()) < GONE)
    ):
        raise _corrupt("columns out of range", f"frames of at most {FRAME_BLOCKS} blocks")
    return decoded


@dataclass(frozen=True, slots=True)
class PackCheck:
    """A check for a store: a body is served only if its head and all frames are right."""

    key: bytes
    manifest_digest: Digest

    def __call__(self, data: bytes) -> bool:
        """Return whether `data` passes the check."""
        try:
            head = decode_head(data, self.key, self.manifest_digest)
        except ObjectCorrupt:
            return False
        body, bounds = memoryview(data), head.offset.tolist()
        return len(data) == head.object_bytes and all(
            digest_of(body[begin:end]) == head.name(frame) for frame, (begin, end) in enumerate(pairwise(bounds))
        )


def _unpack(frame: memoryview, expected_bytes: int) -> bytes:
    decoder = zstd.ZstdDecompressor()
    try:
        columns = decoder.decompress(frame, max_length=expected_bytes + 1)
    except zstd.ZstdError as error:
        raise _corrupt(f"a damaged column frame ({error})", "one complete zstd frame") from error
    if len(columns) != expected_bytes or not decoder.eof or decoder.unused_data:
        raise _corrupt(f"{len(columns)} bytes of columns", f"{expected_bytes} in one frame")
    return columns


def _corrupt(found: str, expected: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        "A boot pack is damaged.",
        found=found,
        expected=expected,
        hint="nothing is lost: reads use the segments. `imgstore disk trace` makes the pack again",
    )
