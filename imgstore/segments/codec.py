"""A segment as an object: a 16-byte header and a body, named by the BLAKE3 of both (rules.md, rule 9).

::

    offset  bytes  field
         0      8  magic "IMGSTSEG"
         8      2  format version, 1
        10      2  encoding: 0 raw, 1 zstd (one frame, content size declared)
        12      4  blocks, 1 to 1,024
        16         body: blocks x 4,096 bytes once decoded

All numbers are little-endian. The encoding is never guessed.
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
SEGMENT_BYTES_MAX: Final = HEADER_BYTES + SEGMENT_BLOCKS * BLOCK_BYTES
"""A body that does not shrink is kept as it is, so no object is larger."""

_LEVEL: Final = 1
_SAVING_MIN: Final = 0.05
"""Below it a segment is kept raw: reading it costs no decompression, and the store hardly notices."""

_SAMPLE_BLOCKS: Final = 32
"""Blocks, spread evenly, that are compressed first: where they save nothing the whole is not tried. Compressing a segment
of random bytes for nothing took 1.2 to 3.7 ms, most of it for the pages of a result that is thrown away; this 0.05."""

CODEC: Final = f"zstd-{zstd.zstd_version}-level-{_LEVEL}-sample-{_SAMPLE_BLOCKS}"
"""Equal codecs make equal segments from equal blocks: a work that is taken up again compares it."""

assert HEADER_BYTES == 16


class Encoding(IntEnum):
    """How a body is kept."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSegment:
    """A segment ready to be put."""

    name: Digest
    body: bytes | memoryview
    """Header and body."""
    blocks: int


def encode_segment(buffer: bytearray | memoryview, blocks: int) -> EncodedSegment:
    """The object that holds the first `blocks` blocks of `buffer`.

    Args:
        buffer: 16 free bytes, then the blocks; it is written to and may become the object itself, so it is the
            encoder's from here on.
        blocks: how many, 1 to 1,024.
    """
    assert 1 <= blocks <= SEGMENT_BLOCKS
    whole = memoryview(buffer)[: HEADER_BYTES + blocks * BLOCK_BYTES]
    content = whole[HEADER_BYTES:]
    packed = _compressed(content) if _compressible(content) else None
    if packed is not None and len(packed) <= len(content) * (1 - _SAVING_MIN):
        body: bytes | memoryview = HEADER.pack(MAGIC, VERSION, Encoding.ZSTD, blocks) + packed
    else:
        HEADER.pack_into(whole, 0, MAGIC, VERSION, Encoding.RAW, blocks)
        body = whole
    return EncodedSegment(name=digest_of(body), body=body, blocks=blocks)


def _compressible(content: memoryview) -> bool:
    """Whether a sample of the blocks saves anything at all."""
    step = len(content) // BLOCK_BYTES // _SAMPLE_BLOCKS * BLOCK_BYTES
    if step <= BLOCK_BYTES:
        return True
    sample = b"".join(content[at : at + BLOCK_BYTES] for at in range(0, len(content), step))
    return len(_compressed(sample)) < len(sample)


class _Compressors(threading.local):
    """One for each thread: to make a new one for each segment took a sixteenth of its compression.

    After an error a compressor begins anew by itself, so nothing of a segment gets into the next.
    """

    def __init__(self) -> None:
        self.own = zstd.ZstdCompressor(level=_LEVEL)


_COMPRESSORS: Final = _Compressors()


def _compressed(content: bytes | memoryview) -> bytes:
    """One frame, its content size declared, as `zstd.compress` makes it: the same bytes."""
    compressor = _COMPRESSORS.own
    return compressor.compress(content, compressor.FLUSH_FRAME)


def decode_segment(body: bytes, name: Digest) -> memoryview:
    """The blocks of a segment, concatenated: exactly blocks x 4,096 bytes.

    Raises:
        ObjectCorrupt: the bytes do not match `name`, or are no segment of this format.
    """
    if digest_of(body) != name:
        raise _corrupt(name, f"BLAKE3 {digest_of(body).hex()} over {len(body)} bytes", f"BLAKE3 {name.hex()}")
    return decode_verified(body, name)


def decode_verified(body: bytes, name: Digest) -> memoryview:
    """The same for a body that the caller has seen to match `name` already (a store that was handed `matches_name`).

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
        raise _corrupt(name, f"{len(content)} bytes once decoded", f"{expected_bytes}")
    return content


def _decompress(payload: memoryview, expected_bytes: int, name: Digest) -> memoryview:
    decoder = zstd.ZstdDecompressor()
    try:
        # One byte more than expected, so that too long a frame shows without being unpacked to its end.
        content = decoder.decompress(payload, max_length=expected_bytes + 1)
    except zstd.ZstdError as error:
        raise _corrupt(name, f"a damaged zstd frame ({error})", "one whole zstd frame") from error
    if len(content) > expected_bytes or not decoder.eof or decoder.unused_data:
        raise _corrupt(
            name, f"a frame or frames beyond {expected_bytes} bytes, or an unfinished one", "one whole frame"
        )
    return memoryview(content)


def matches_name(name: Digest) -> Callable[[bytes], bool]:
    """What a store is handed, so that it serves no other bytes than those that `name` promises."""
    return lambda body: digest_of(body) == name


def _corrupt(name: Digest, found: str, expected: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"Segment {name.hex()} is damaged.",
        found=found,
        expected=expected,
        hint="it is read from another replica where there is one; otherwise publish the version again",
        target=name.hex(),
    )
