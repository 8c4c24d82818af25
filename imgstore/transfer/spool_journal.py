"""The journal of an upload spool: records of the ranges that were received.

Bytes of the file ``journal``, all numbers little-endian::

    offset  bytes  field
         0      8  magic "IMGSTSPL"
         8      4  version, 1
        12      4  zero
        16      8  bytes of the upload
        24     32  for each record: offset (u64), length (u64), kind (u32), low half of the XXH3 of the other fields
                   (u32), XXH3 of the range (u64)

The first record with a wrong checksum ends the journal.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import xxhash

from imgstore.transfer.received_ranges import ReceivedRange, ReceivedRanges

DATA_FILE: Final = "data"
JOURNAL_FILE: Final = "journal"
"""The files of an upload spool."""
_MAGIC: Final = b"IMGSTSPL"
_HEADER: Final = struct.Struct("<8sIIQ")
_RECORD: Final = struct.Struct("<QQIIQ")
_VERSION: Final = 1


class RecordKind(IntEnum):
    """The kind of a record."""

    DATA = 1
    ZEROS = 2
    CUT = 3
    """The range is withdrawn. Records of the parts that remain of overlapping ranges follow."""
    SEAL = 4
    COUNT = 5
    """The offset is the number of all previous records, including the records that a rewrite left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalContent:
    """The content of a journal."""

    ranges: ReceivedRanges
    records: int
    """The number of all records, including the records that a rewrite left out."""
    in_journal: int
    """The number of records in this journal."""
    is_sealed: bool
    """Whether the last record is a seal."""
    unsealed_bytes: int
    """The length of the journal up to the seal, or `valid_bytes` without a seal."""
    valid_bytes: int
    """The length of the journal up to the first wrong record."""


def pack_header(file_bytes: int) -> bytes:
    """Return the header of the journal of an upload of `file_bytes`."""
    return _HEADER.pack(_MAGIC, _VERSION, 0, file_bytes)


def read_file_bytes(journal: bytes) -> int | None:
    """Return the length of the upload by the header of a journal. Return None if the header is wrong."""
    if len(journal) < _HEADER.size:
        return None
    file_bytes: int = _HEADER.unpack_from(journal)[3]
    return file_bytes if journal.startswith(pack_header(file_bytes)) else None


def parse_journal(journal: bytes) -> JournalContent:
    """Read the records of a journal with a right header, up to the first wrong record."""
    ranges = ReceivedRanges()
    records = in_journal = 0
    sealed, at = False, _HEADER.size
    unsealed_bytes = at
    while at + _RECORD.size <= len(journal):
        offset, length, kind, check, digest = _RECORD.unpack_from(journal, at)
        if check != _record_checksum(offset, length, kind, digest):
            break
        at += _RECORD.size
        records += 1
        in_journal += 1
        sealed = kind == RecordKind.SEAL
        unsealed_bytes = unsealed_bytes if sealed else at
        if kind == RecordKind.COUNT:
            records += offset
        if kind in (RecordKind.SEAL, RecordKind.COUNT):
            continue
        ranges.remove(offset, offset + length)
        if kind != RecordKind.CUT:
            ranges.add(ReceivedRange(offset, offset + length, digest if kind == RecordKind.DATA else None))
    return JournalContent(
        ranges=ranges,
        records=records,
        in_journal=in_journal,
        is_sealed=sealed,
        unsealed_bytes=unsealed_bytes,
        valid_bytes=at,
    )


def record_fields(arrived: ReceivedRange) -> tuple[int, int, RecordKind, int]:
    """Return offset, length, kind and XXH3 of the record of a received range."""
    kind = RecordKind.ZEROS if arrived.digest is None else RecordKind.DATA
    return arrived.begin, arrived.end - arrived.begin, kind, arrived.digest or 0


def pack_record(offset: int, length: int, kind: int, digest: int) -> bytes:
    """Return the bytes of a record."""
    return _RECORD.pack(offset, length, kind, _record_checksum(offset, length, kind, digest), digest)


def _record_checksum(offset: int, length: int, kind: int, digest: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack("<QQIQ", offset, length, kind, digest)) & 0xFFFFFFFF
