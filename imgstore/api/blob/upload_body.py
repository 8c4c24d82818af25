"""Write request bodies to an upload spool: join small chunks, and write in a thread while the next chunks arrive."""

import asyncio
from typing import Final, Self

import aiofiles.os

from imgstore.domain.storage.sizes import MIB
from imgstore.transfer.spool import Bytes, Spool

_WRITE_BYTES: Final = MIB
"""The minimum size of a write, except for the end of a body."""
_PART_BYTES: Final = 64 << 10
"""Smaller chunks are joined up to this size."""
write: Final = aiofiles.os.wrap(Spool.write)
"""Write parts to a spool in a thread. All parts need a single call, because each call costs as much as hashing a MiB."""


def add_part(parts: list[Bytes], chunk: bytes) -> None:
    """Add a chunk to the parts. Join small chunks: each part has a cost, and the client chooses the number of chunks."""
    if parts and len(parts[-1]) < _PART_BYTES and isinstance(last := parts[-1], bytearray):
        last += chunk
    else:
        parts.append(chunk if len(chunk) >= _PART_BYTES else bytearray(chunk))


class UploadWriter:
    """A writer of a body to an upload spool. A thread writes 1 MiB while the event loop collects the next MiB.

    Use as a context manager. At the end of the context, also after an error, all added chunks have been written.
    """

    def __init__(self, spool: Spool, at: int) -> None:
        self.excess_bytes = 0
        """The bytes of the last chunk beyond the end of the upload."""
        self._spool = spool
        self._at = at
        self._parts: list[Bytes] = []
        self._bytes = 0
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._write()
        await self._wait_for_write()

    async def add(self, chunk: bytes) -> bool:
        """Add the next chunk of the body.

        Returns:
            Whether the upload accepts more bytes. False if the chunk exceeds the end of the upload.

        Raises:
            OSError: an earlier write failed.
        """
        left_bytes = self._spool.file_bytes - self._at - self._bytes
        self.excess_bytes = max(0, len(chunk) - left_bytes)
        add_part(self._parts, chunk[:left_bytes])
        self._bytes += min(len(chunk), left_bytes)
        if self._bytes >= _WRITE_BYTES:
            await self._write()
        return not self.excess_bytes

    async def _write(self) -> None:
        await self._wait_for_write()
        at, parts = self._at, self._parts
        self._at, self._parts, self._bytes = at + self._bytes, [], 0
        self._writing = asyncio.ensure_future(write(self._spool, at, parts))

    async def _wait_for_write(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing
