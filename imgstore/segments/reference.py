"""The manifest of a managed disk: a small object that names a manifest of the slot by digest (invariant D4).

::

    offset  bytes  field
         0      8  magic "IMGSTREF"
         8      2  format version, 1
        10      2  bytes of the key
        12     32  BLAKE3 at the end of the named manifest
        44         key of the named manifest below the slot, ASCII
   end-32     32  BLAKE3 of all previous bytes

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
    """The place of a disk's manifest."""

    digest: Digest
    """The digest at the end of the manifest."""
    body_key: str
    """The manifest's key below the slot."""


def encode_reference(reference: Reference) -> bytes:
    """Encode the object, which ends with its own digest."""
    key = reference.body_key.encode("ascii")
    body = _HEADER.pack(MAGIC, VERSION, len(key), reference.digest) + key
    return body + digest_of(body)


def decode_reference(data: bytes) -> Reference:
    """Decode a reference.

    Raises:
        ObjectCorrupt: `data` does not end with its own digest, or a length is wrong.
    """
    if len(data) >= _HEADER.size + DIGEST_BYTES and ManifestCheck()(data):
        magic, version, key_bytes, digest = _HEADER.unpack_from(data)
        key = data[_HEADER.size : -DIGEST_BYTES]
        if (magic, version, key_bytes) == (MAGIC, VERSION, len(key)) and key.isascii():
            return Reference(digest=digest, body_key=key.decode("ascii"))
    raise ObjectCorrupt(
        "A managed disk's manifest is damaged.",
        found=f"{len(data)} bytes that are no complete reference of version {VERSION}",
        expected=f"magic {MAGIC!r}, and the BLAKE3 of the previous bytes at the end",
        hint="create the disk again from its image version",
    )
