"""A segment as an object: a 16-byte header and a body. The name is the BLAKE3 of both (invariant B3).

::

    offset  bytes  field
         0      8  magic "IMGSTSEG"
         8      2  format version, 1
        10      2  encoding: 0 raw, 1 zstd (one frame, content size declared)
        12      4  blocks, 1 to 1,024
        16         body: blocks x 4,096 bytes after decoding

All numbers are little-endian. The encoding comes from the header, never from the content.
"""

import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES, SEGMENT_BLOCKS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC: Final = b"IMGSTSEG"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sHHI")
HEADER_BYTES: Final = HEADER.size

_LEVEL: Final = 1
_SAVING_MIN: Final = 0.05
"""The share that compression must save. Otherwise the segment is stored raw, and a read needs no decompression."""

_SAMPLE_BLOCKS: Final = 32
"""The number of evenly spread blocks in the sample. The whole is compressed only if the sample shrinks.

Compressing a segment of random bytes took 1.2 to 3.7 ms, mostly for the memory pages of a discarded result. The sample
takes 0.05 ms.
"""

CODEC: Final = f"zstd-{zstd.zstd_version}-level-{_LEVEL}-sample-{_SAMPLE_BLOCKS}"
"""Equal codecs make equal segments from equal blocks. A resumed work compares this value with its plan."""

assert HEADER_BYTES == 16


class Encoding(IntEnum):
    """The encoding of a body."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSegment:
    """A segment that is ready for the store."""

    name: Digest
    body: bytes | memoryview
    """Header and body."""
    blocks: int


def encode_segment(buffer: bytearray | memoryview, blocks: int) -> EncodedSegment:
    """Encode the first `blocks` blocks of `buffer` as an object.

    Args:
        buffer: 16 free bytes, then the blocks. The encoder writes into the buffer and may return the buffer itself as
            the object, so the caller must not use the buffer afterwards.
        blocks: the number of blocks, 1 to 1,024.
    """
    assert 1 <= blocks <= SEGMENT_BLOCKS
    whole = memoryview(buffer)[: HEADER_BYTES + blocks * BLOCK_BYTES]
    content = whole[HEADER_BYTES:]
    packed = _compress(content) if _compressible(content) else None
    if packed is not None and len(packed) <= len(content) * (1 - _SAVING_MIN):
        body: bytes | memoryview = HEADER.pack(MAGIC, VERSION, Encoding.ZSTD, blocks) + packed
    else:
        HEADER.pack_into(whole, 0, MAGIC, VERSION, Encoding.RAW, blocks)
        body = whole
    return EncodedSegment(name=digest_of(body), body=body, blocks=blocks)


def encode_as(name: Digest, content: bytes | memoryview) -> bytes | None:
    """Encode whole blocks as the object with a given name, or return None.

    Another release of zstd makes another frame of equal blocks, so a compressed segment may be impossible to make again.
    """
    blocks = len(content) // BLOCK_BYTES
    assert len(content) == blocks * BLOCK_BYTES
    raw = HEADER.pack(MAGIC, VERSION, Encoding.RAW, blocks) + content
    if digest_of(raw) == name:
        return raw
    packed = HEADER.pack(MAGIC, VERSION, Encoding.ZSTD, blocks) + _compress(content)
    return packed if digest_of(packed) == name else None


def _compressible(content: memoryview) -> bool:
    """Return whether a sample of the blocks shrinks at all."""
    step = len(content) // BLOCK_BYTES // _SAMPLE_BLOCKS * BLOCK_BYTES
    if step <= BLOCK_BYTES:
        return True
    sample = b"".join(content[at : at + BLOCK_BYTES] for at in range(0, len(content), step))
    return len(_compress(sample)) < len(sample)


class _Compressors(threading.local):
    """A compressor for each thread. A new compressor for each segment took a sixteenth of the compression time.

    After an error a compressor resets itself, so no bytes of a segment reach the next segment.
    """

    def __init__(self) -> None:
        self.own = zstd.ZstdCompressor(level=_LEVEL)


_COMPRESSORS: Final = _Compressors()


def _compress(content: bytes | memoryview) -> bytes:
    """Compress into a single frame with its content size declared: the same bytes as `zstd.compress` makes."""
    compressor = _COMPRESSORS.own
    return compressor.compress(content, compressor.FLUSH_FRAME)


def decode_segment(body: bytes, name: Digest) -> memoryview:
    """Decode the blocks of a segment, concatenated: exactly blocks x 4,096 bytes.

    Raises:
        ObjectCorrupt: the bytes do not match `name`, or are no segment of this format.
    """
    if digest_of(body) != name:
        raise _corrupt(name, f"BLAKE3 {digest_of(body).hex()} over {len(body)} bytes", f"BLAKE3 {name.hex()}")
    return decode_verified(body, name)


def decode_verified(body: bytes, name: Digest) -> memoryview:
    """Decode the blocks of a body that is known to match `name`, because the store checked the body by `matches_name`.

    Raises:
        ObjectCorrupt: the bytes are no segment of this format.
    """
    if len(body) < HEADER_BYTES:
        raise _corrupt(name, f"{len(body)} bytes", f"at least {HEADER_BYTES}")
    magic, version, encoding, blocks = HEADER.unpack_from(body)
    if magic != MAGIC or version != VERSION or not 1 <= blocks <= SEGMENT_BLOCKS:
        raise _corrupt(
            name,
            f"magic {magic!r}, version {version}, {blocks} blocks",
            f"magic {MAGIC!r}, version {VERSION}, 1 to {SEGMENT_BLOCKS} blocks",
        )
    expected_bytes = blocks * BLOCK_BYTES
    payload = memoryview(body)[HEADER_BYTES:]
    if encoding == Encoding.RAW:
        content = payload
    elif encoding == Encoding.ZSTD:
        content = _decompress(payload, expected_bytes, name)
    else:
        raise _corrupt(name, f"encoding {encoding}", "0 (raw) or 1 (zstd)")
    if len(content) != expected_bytes:
        raise _corrupt(name, f"{len(content)} bytes after decoding", f"{expected_bytes}")
    return content


def _decompress(payload: memoryview, expected_bytes: int, name: Digest) -> memoryview:
    decoder = zstd.ZstdDecompressor()
    try:
        # One byte more than expected: a frame that is too long is found without decompressing all of it.
        content = decoder.decompress(payload, max_length=expected_bytes + 1)
    except zstd.ZstdError as error:
        raise _corrupt(name, f"a damaged zstd frame ({error})", "one whole zstd frame") from error
    if len(content) > expected_bytes or not decoder.eof or decoder.unused_data:
        raise _corrupt(
            name, f"more than {expected_bytes} bytes, several frames, or an incomplete frame", "one whole frame"
        )
    return memoryview(content)


def matches_name(name: Digest) -> Callable[[bytes], bool]:
    """Return a check for a store: a body is served only if its BLAKE3 is `name`."""
    return lambda body: digest_of(body) == name


def _corrupt(name: Digest, found: str, expected: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"Segment {name.hex()} is damaged.",
        found=found,
        expected=expected,
        hint="imgstore reads the segment from another replica if there is one; otherwise publish the version again",
        target=name.hex(),
    )
