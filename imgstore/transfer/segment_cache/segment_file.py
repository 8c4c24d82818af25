"""The file of a cached segment: the unpacked blocks, and an XXH3 of each 64 KiB.

::

    offset       bytes    field
         0           n    blocks, a multiple of 4,096 bytes
         n         8 c    XXH3 (64 bits) of each 64 KiB, c = n / 64 KiB rounded up
     n+8 c           8    magic "IMGSCACH"
                     8    n
                    32    name of the segment
                     8    XXH3 of the hashes and of the fields above

All numbers are little-endian. XXH3 detects rot and torn files. XXH3 is no proof against an attacker, so the folder is
closed to other users.
"""

import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import xxhash

from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import BLOCK_BYTES, KIB, SEGMENT_BLOCKS, ceil_div

CHUNK_BYTES: Final = 64 * KIB
"""The unit of verification. Reading and verifying a chunk takes about 10 us."""
_MAGIC: Final = b"IMGSCACH"
_FIELDS: Final = struct.Struct("<8sQ32s")
_SEAL: Final = struct.Struct("<Q")
_TAIL_BYTES: Final = _FIELDS.size + _SEAL.size
_BLOCKS_BYTES_MAX: Final = SEGMENT_BLOCKS * BLOCK_BYTES
OPEN_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
"""No link is followed. For reading and writing, Linux opens a pipe in place of a file without waiting."""


class UnusableFile(Exception):
    """A file that is no intact segment of the expected name."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A verified part of a file, for `os.sendfile`."""

    descriptor: int
    position: int
    length: int


def file_bytes(length: int) -> int:
    """Return the size of the file of a segment with `length` bytes of blocks."""
    return length + ceil_div(length, CHUNK_BYTES) * _SEAL.size + _TAIL_BYTES


def encode_trailer(name: Digest, blocks: memoryview) -> bytes:
    """Return the bytes after the blocks."""
    hashes = [xxhash.xxh3_64_intdigest(blocks[at : at + CHUNK_BYTES]) for at in range(0, len(blocks), CHUNK_BYTES)]
    body = struct.pack(f"<{len(hashes)}Q", *hashes) + _FIELDS.pack(_MAGIC, len(blocks), name)
    return body + _SEAL.pack(xxhash.xxh3_64_intdigest(body))


_senders_lock = threading.Lock()


class SegmentFile:
    """An open file of a segment. Threads may share the object.

    The descriptor is closed with the last reference, because another thread may still read.
    """

    __slots__ = ("_descriptor", "_hashes", "_senders", "length", "touched")

    def __init__(self, descriptor: int, name: Digest) -> None:
        """Check the trailer of a file, and take over the descriptor.

        Raises:
            UnusableFile: not an intact segment with this name, or not an own file with a single name.
            OSError: the file cannot be read.
        """
        self._descriptor = descriptor
        self._senders = 0
        self.touched = float("-inf")
        """The monotonic seconds of the last change of the time of use."""
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            raise UnusableFile
        trailer_bytes_max = file_bytes(_BLOCKS_BYTES_MAX) - _BLOCKS_BYTES_MAX
        tail = os.pread(descriptor, trailer_bytes_max, max(0, found.st_size - trailer_bytes_max))
        if len(tail) < _TAIL_BYTES:
            raise UnusableFile
        magic, length, found_name = _FIELDS.unpack_from(tail, len(tail) - _TAIL_BYTES)
        if magic != _MAGIC or found_name != name or length > _BLOCKS_BYTES_MAX or file_bytes(length) != found.st_size:
            raise UnusableFile
        chunks = ceil_div(length, CHUNK_BYTES)
        body = tail[-(chunks * _SEAL.size + _TAIL_BYTES) : -_SEAL.size]
        if xxhash.xxh3_64_intdigest(body) != _SEAL.unpack_from(tail, len(tail) - _SEAL.size)[0]:
            raise UnusableFile
        self._hashes: tuple[int, ...] = struct.unpack_from(f"<{chunks}Q", body)
        self.length = length

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> memoryview:
        """Read and verify the chunks of a part, and return the part.

        Raises:
            UnusableFile: a chunk is damaged, or the file was truncated.
            OSError: the file cannot be read.
        """
        first = offset // CHUNK_BYTES
        begin = first * CHUNK_BYTES
        end = min(self.length, ceil_div(offset + length, CHUNK_BYTES) * CHUNK_BYTES)
        data = memoryview(os.pread(self._descriptor, end - begin, begin))
        at = 0
        for expected in self._hashes[first : ceil_div(end, CHUNK_BYTES)]:
            if xxhash.xxh3_64_intdigest(data[at : at + CHUNK_BYTES]) != expected:
                raise UnusableFile
            at += CHUNK_BYTES
        return data[offset - begin : offset - begin + length]

    @contextmanager
    def send(self, offset: int, length: int) -> Iterator[FilePart]:
        """Verify a part and keep the file from being truncated inside the block.

        Raises:
            UnusableFile: a chunk is damaged, or the file was truncated.
            OSError: the file cannot be read, or an eviction holds the lock.
        """
        self._begin_sending()
        try:
            self.read(offset, length)
            yield FilePart(self._descriptor, offset, length)
        finally:
            self._end_sending()

    def _begin_sending(self) -> None:
        with _senders_lock:
            if not self._senders:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._senders += 1

    def _end_sending(self) -> None:
        with _senders_lock:
            self._senders -= 1
            if not self._senders:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def touch(self, time_ns: int) -> None:
        """Record the time of use, in nanoseconds since 1970. An error is ignored: the time only orders evictions."""
        with suppress(OSError):
            os.utime(self._descriptor, ns=(time_ns, time_ns))

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return not os.fstat(self._descriptor).st_nlink

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode."""
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino
