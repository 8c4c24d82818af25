"""Bodies gathered from the chunks in which they come, and written by threads while more comes."""

import asyncio
from typing import Final, Self

import aiofiles.os

from imgstore.domain.storage.sizes import MIB
from imgstore.transfer.spool import Bytes, Spool

_WRITE_BYTES: Final = MIB
"""The least that is written at once of a body, but for its end."""
_PART_BYTES: Final = 64 << 10
"""Chunks that are smaller are joined."""
write: Final = aiofiles.os.wrap(Spool.write)
"""In a thread, all of it at once: each way to a thread and back costs as much as hashing a MiB."""


def add_part(parts: list[Bytes], chunk: bytes) -> None:
    """One more part; small ones are joined, since each has its own cost, and who sends decides how many there are."""
    if parts and len(parts[-1]) < _PART_BYTES and isinstance(last := parts[-1], bytearray):
        last += chunk
    else:
        parts.append(chunk if len(chunk) >= _PART_BYTES else bytearray(chunk))


class UploadWriter:
    """A body on its way into the spool: while 1 MiB is written the next is gathered.

    As a context: all that was taken is there at its end, however that comes.
    """

    def __init__(self, spool: Spool, at: int) -> None:
        self.excess_bytes = 0
        """How much of what came lies behind the upload's end."""
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
        """The next of it; whether more may come.

        Raises:
            OSError: what came before can't be kept.
        """
        room = self._spool.file_bytes - self._at - self._bytes
        self.excess_bytes = max(0, len(chunk) - room)
        add_part(self._parts, chunk[:room])
        self._bytes += min(len(chunk), room)
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
