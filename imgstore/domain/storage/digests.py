"""Digests: the names of objects, and the identity of a whole disk."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from blake3 import blake3

Digest: TypeAlias = bytes
"""A BLAKE3 of 32 bytes. Keys and messages contain 64 hexadecimal digits."""

DIGEST_BYTES: Final = 32

_DISK_CONTEXT: Final = b"imgstore disk digest 1\0"


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Return the BLAKE3 of `data`."""
    return blake3(data).digest()


def disk_digest(virtual_bytes: int, pieces: Iterable[tuple[int, Digest]]) -> Digest:
    """Return the digest of a disk from the size and the (index, digest) of each non-zero piece, in order.

    Zero pieces do not count, so an empty disk of 1 TiB costs nothing. Files of any format with the same disk have the
    same digest. Numbers are encoded as little-endian u64.
    """
    hasher = blake3(_DISK_CONTEXT + virtual_bytes.to_bytes(8, "little"))
    for index, digest in pieces:
        hasher.update(index.to_bytes(8, "little") + digest)
    return hasher.digest()
