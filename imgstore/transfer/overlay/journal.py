"""The journal of an overlay: a header, then frames that describe the changed blocks.

Bytes of the file ``journal``, all numbers little-endian::

    offset  bytes  field
         0      8  magic "IMGSTOVL"
         8      4  version, 1
        12      4  length of the description of the base
        16      8  virtual bytes of the disk
        24     32  disk digest of the base
        56      8  generation: random, another number for each journal, the seed of all checksums after the header
        64      8  XXH3 of the other fields and the description
        72         description of the base: JSON with location, disk key and region
                   frames

    0      4  kind of a frame: 1 data, 2 zeros, 3 durable
    4      4  count of blocks
    8      8  zeros: first block. durable: position in this file. data: zero
   16      8  XXH3 of the other fields and the entries
   24     20  data only, for each block: block of the disk (u64), slot in the file `data` (u32), XXH3 of the block (u64)

A frame `durable` says that all frames before its position, and their blocks, were on the medium. The first frame with a
wrong checksum ends the journal. The seed prevents that bytes of an older journal count as frames.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from imgstore.domain.storage.digests import DIGEST_BYTES, Digest

MAGIC: Final = b"IMGSTOVL"
GENERATION_BYTES: Final = 8
_VERSION: Final = 1
_HEADER: Final = struct.Struct(f"<8sIIQ{DIGEST_BYTES}s{GENERATION_BYTES}s")
_CHECKSUM: Final = struct.Struct("<Q")
_FRAME: Final = struct.Struct("<IIQ")
_HEAD_BYTES: Final = _FRAME.size + _CHECKSUM.size
COUNT_MAX: Final = 1 << 20
"""The maximal number of blocks in a frame that this code writes, so that a checksum covers at most 20 MiB."""

ENTRY: Final = np.dtype([("block", "<u8"), ("slot", "<u4"), ("digest", "<u8")])
Entries = npt.NDArray[np.void]
"""Changed blocks with data, of type `ENTRY`."""
NO_ENTRIES: Final[Entries] = np.empty(0, dtype=ENTRY)


class FrameKind(IntEnum):
    """The kind of a frame."""

    DATA = 1
    ZEROS = 2
    DURABLE = 3


_KINDS: Final = frozenset(int(each) for each in FrameKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayBase:
    """The disk below an overlay."""

    virtual_bytes: int
    disk_digest: Digest
    """The content of the disk. An overlay is opened over equal content only."""
    location: str
    """The resource id of the disk, snapshot or image version."""
    disk_key: str
    """The disk of the image version, or `os`."""
    region: str
    """The region in which the disk is read."""

    def has_content_of(self, other: "OverlayBase") -> bool:
        """Return whether the two disks have the same content."""
        return (self.virtual_bytes, self.disk_digest) == (other.virtual_bytes, other.disk_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a journal."""

    base: OverlayBase
    generation: bytes

    @property
    def seed(self) -> int:
        """The seed of the checksums of the frames."""
        return int.from_bytes(self.generation, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame of a journal."""

    kind: FrameKind
    count: int
    value: int
    entries: Entries
    end: int
    """The position after the frame."""


def pack_header(header: Header) -> bytes:
    """Return the bytes of a header."""
    base = header.base
    about = {"location": base.location, "disk": base.disk_key, "region": base.region}
    description = json.dumps(about, separators=(",", ":")).encode()
    fields = _HEADER.pack(MAGIC, _VERSION, len(description), base.virtual_bytes, base.disk_digest, header.generation)
    return fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields + description)) + description


def unpack_header(journal: bytes | memoryview) -> tuple[Header, int] | None:
    """Return the header of a journal and its length. Return None for other bytes, and for another version."""
    view = memoryview(journal)
    begin = _HEADER.size + _CHECKSUM.size
    if len(view) < begin:
        return None
    magic, version, length, virtual_bytes, digest, generation = _HEADER.unpack_from(view)
    (check,) = _CHECKSUM.unpack_from(view, _HEADER.size)
    description = bytes(view[begin : begin + length])
    if magic != MAGIC or version != _VERSION:
        return None
    if check != xxhash.xxh3_64_intdigest(bytes(view[: _HEADER.size]) + description):
        return None
    try:
        about = json.loads(description)
        base = OverlayBase(
            virtual_bytes=virtual_bytes,
            disk_digest=digest,
            location=str(about["location"]),
            disk_key=str(about["disk"]),
            region=str(about["region"]),
        )
    except (ValueError, KeyError, TypeError):  # Another program made the header.
        return None
    return Header(base=base, generation=generation), begin + length


def pack_frame(seed: int, kind: FrameKind, *, count: int = 0, value: int = 0, entries: Entries = NO_ENTRIES) -> bytes:
    """Return the bytes of a frame."""
    head = _FRAME.pack(kind, count, value)
    body = entries.tobytes()
    return head + _CHECKSUM.pack(_checksum(seed, head, body)) + body


def iterate_frames(journal: memoryview, begin: int, seed: int) -> Iterator[Frame]:
    """Yield the frames from `begin` to the first wrong frame."""
    at = begin
    while at + _HEAD_BYTES <= len(journal):
        kind, count, value = _FRAME.unpack_from(journal, at)
        (check,) = _CHECKSUM.unpack_from(journal, at + _FRAME.size)
        end = at + _HEAD_BYTES + (count * ENTRY.itemsize if kind == FrameKind.DATA else 0)
        if kind not in _KINDS or end > len(journal):
            return
        body = journal[at + _HEAD_BYTES : end]
        if check != _checksum(seed, journal[at : at + _FRAME.size], body):
            return
        entries = np.frombuffer(body, dtype=ENTRY) if kind == FrameKind.DATA else NO_ENTRIES
        yield Frame(kind=FrameKind(kind), count=count, value=value, entries=entries, end=end)
        at = end


def _checksum(seed: int, head: bytes | memoryview, body: bytes | memoryview) -> int:
    hasher = xxhash.xxh3_64(head, seed=seed)
    hasher.update(body)
    return hasher.intdigest()
