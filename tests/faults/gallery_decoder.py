"""A second decoder of manifests, references and segments from docs/internals/layout.md, independent of imgstore's
readers."""

import struct
import sys
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from blake3 import blake3

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_HEADER = struct.Struct("<8sHHIQIIIIII32s")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A manifest."""

    virtual_bytes: int
    works: tuple[str, ...]
    segments: dict[bytes, int]
    """Stored bytes by name."""
    runs: tuple[tuple[int, int, bytes, int], ...]
    """Disk block, count, name of the segment, block in the segment."""


def is_whole(data: bytes) -> bool:
    """Return whether an object ends with the BLAKE3 of its other bytes."""
    return len(data) > _DIGEST_BYTES and blake3(data[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]


@cache
def decode_manifest(data: bytes) -> Decoded:
    """Decode a whole manifest."""
    magic, version, _, footer, virtual_bytes, works, segments, runs, pieces, frame, zero, _ = _HEADER.unpack_from(data)
    assert (magic, version, zero) == (b"IMGSTMAN", 1, 0), "no manifest"
    at = _HEADER.size + footer
    uids = tuple(str(UUID(bytes=data[at + 48 * number :][:16])) for number in range(works))
    at += 48 * works
    names = [data[at + _DIGEST_BYTES * number :][:_DIGEST_BYTES] for number in range(segments)]
    at += _DIGEST_BYTES * (segments + pieces)
    columns = zstd.decompress(data[at : at + frame])
    assert at + frame + _DIGEST_BYTES == len(data), "bytes that nobody knows"
    layout = f"<{segments}H{segments}I{segments}I{runs}Q{runs}H{runs}I{runs}H{pieces}I"
    values = list(struct.unpack(layout, columns))
    _, stored, _, steps, counts, where, inside, _ = (
        [values.pop(0) for _ in range(count)] for count in (*[segments] * 3, *[runs] * 4, pieces)
    )
    table, block = [], 0
    for step, count, segment, start in zip(steps, counts, where, inside, strict=True):
        block += step
        table.append((block, count + 1, names[segment], start))
    return Decoded(
        virtual_bytes=virtual_bytes,
        works=uids,
        segments=dict(zip(names, stored, strict=True)),
        runs=tuple(table),
    )


def reference_of(data: bytes) -> str | None:
    """Return the key that a managed disk's reference names; None for a manifest."""
    magic, version, length, _ = struct.unpack_from("<8sHH32s", data)
    if magic != b"IMGSTREF":
        return None
    assert version == 1
    key: bytes = data[44 : 44 + length]
    return key.decode("ascii")


@cache
def decode_segment(data: bytes) -> bytes:
    """Return the blocks of a segment in order."""
    magic, version, encoding, blocks = struct.unpack_from("<8sHHI", data)
    assert (magic, version) == (b"IMGSTSEG", 1), "no segment"
    body = data[16:] if encoding == 0 else zstd.decompress(data[16:])
    assert len(body) == blocks * 4096, "a segment of another length"
    return body
