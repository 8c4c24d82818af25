"""Digests: what an object is named by, and what a whole disk is known by."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from blake3 import blake3

Digest: TypeAlias = bytes
"""A BLAKE3 of 32 bytes. Shown to people and in keys as 64 hexadecimal digits."""

DIGEST_BYTES: Final = 32

_DISK_CONTEXT: Final = b"imgstore disk digest 1\0"


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """The BLAKE3 of `data`."""
    return blake3(data).digest()


def disk_digest(virtual_bytes: int, pieces: Iterable[tuple[int, Digest]]) -> Digest:
    """The digest of a disk: its size, then (index, digest) of each piece that is not all zero, in order.

    Zero-aware, so an empty disk of 1 TiB costs nothing, and two containers of the same disk agree. Numbers go in as
    little-endian u64.
    """
    hasher = blake3(_DISK_CONTEXT + virtual_bytes.to_bytes(8, "little"))
    for index, digest in pieces:
        hasher.update(index.to_bytes(8, "little") + digest)
    return hasher.digest()
