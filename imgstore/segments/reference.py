"""A managed disk's manifest: a small object that names its replica's manifest by digest (rules.md, rule 20).

::

    offset  bytes  field
         0      8  magic "IMGSTREF"
         8      2  format version, 1
        10      2  bytes of the key
        12     32  BLAKE3 that the manifest ends in
        44         the manifest's key below the slot, ASCII
   end-32     32  BLAKE3 of all before

All numbers are little-endian.
"""

import struct
from dataclasses import dataclass
from typing import Final

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import DIGEST_BYTES, Digest, digest_of
from imgstore.segments.manifest import ManifestCheck

MAGIC: Final = b"IMGSTREF"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHH32s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where a disk's content is written down."""

    digest: Digest
    """What the manifest ends in."""
    body_key: str
    """The manifest's key below the slot."""


def encode_reference(reference: Reference) -> bytes:
    """The object, ending in its own digest."""
    key = reference.body_key.encode("ascii")
    body = _HEADER.pack(MAGIC, VERSION, len(key), reference.digest) + key
    return body + digest_of(body)


def decode_reference(data: bytes) -> Reference:
    """The reference in `data`.

    Raises:
        ObjectCorrupt: it does not end in its own digest, or breaks a bound.
    """
    if len(data) >= _HEADER.size + DIGEST_BYTES and ManifestCheck()(data):
        magic, version, key_bytes, digest = _HEADER.unpack_from(data)
        key = data[_HEADER.size : -DIGEST_BYTES]
        if (magic, version, key_bytes) == (MAGIC, VERSION, len(key)) and key.isascii():
            return Reference(digest=digest, body_key=key.decode("ascii"))
    raise ObjectCorrupt(
        "A managed disk's manifest is damaged.",
        found=f"{len(data)} bytes that are no whole reference of version {VERSION}",
        expected=f"magic {MAGIC!r} and a BLAKE3 of itself at the end",
        hint="make the disk again from its image version",
    )
