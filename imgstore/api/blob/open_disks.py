"""What the blob door keeps open: uploads that are being sent, disks that are being read."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from imgstore.domain.errors import StoreError
from imgstore.domain.resources import ManagedDisk
from imgstore.operations.disks.reader import OpenDisk, open_for_reading
from imgstore.operations.disks.uploads import open_spool
from imgstore.operations.installation import Installation
from imgstore.transfer.ranges import SegmentCache
from imgstore.transfer.spool import Spool

_IDLE_SECONDS: Final = 0.5
"""How long an upload stays open between two requests: opening one reads its journal, and others wait for it."""
_READERS_MAX: Final = 8
"""Disks whose manifests stay in memory."""


@dataclass(slots=True)
class _Held:
    spool: "asyncio.Future[Spool]"
    users: int = 0
    closing: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class OpenBlobs:
    """One for a server. Uploads are the event loop's, readers any thread's."""

    installation: Installation
    cache_bytes: int
    _held: dict[str, _Held] = field(default_factory=dict)
    _readers: OrderedDict[str, OpenDisk] = field(default_factory=OrderedDict)
    _cache: SegmentCache | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @asynccontextmanager
    async def spool(self, disk: ManagedDisk) -> AsyncIterator[Spool]:
        """The upload of a disk, shared by all requests that are at it; let go soon after the last."""
        loop = asyncio.get_running_loop()
        held = self._held.get(disk.uid)
        if held is None:
            opening = loop.run_in_executor(None, lambda: open_spool(self.installation, disk, patience_seconds=2.0))
            held = self._held[disk.uid] = _Held(opening)
        held.users += 1
        if held.closing is not None:
            held.closing.cancel()
            held.closing = None
        try:
            yield await asyncio.shield(held.spool)
        finally:
            held.users -= 1
            if not held.users:
                held.closing = loop.call_later(_IDLE_SECONDS, self._let_go, disk.uid)

    def _let_go(self, uid: str) -> None:
        held = self._held.pop(uid)
        if held.spool.done() and held.spool.exception() is None:
            with suppress(OSError):  # An unsealed journal is checked when it is opened next.
                held.spool.result().close()

    def reader(self, disk: ManagedDisk) -> OpenDisk:
        """A disk to read; asks the catalog and the store: call it in a thread.

        Raises:
            StoreError: its manifest can be had from no slot.
        """
        with self._lock:
            found = self._readers.get(disk.uid)
            if found is not None:
                self._readers.move_to_end(disk.uid)
                return found
            if self._cache is None:
                self._cache = SegmentCache(
                    self.installation.scratch, self.cache_bytes, self.installation.has_free_space
                )
            cache = self._cache
        opened = open_for_reading(self.installation, disk, cache)
        with self._lock:
            self._readers[disk.uid] = opened
            while len(self._readers) > _READERS_MAX:
                self._readers.popitem(last=False)
        return opened

    def close(self) -> None:
        """Let go of everything, at the server's end."""
        for uid in list(self._held):
            with suppress(StoreError):
                self._let_go(uid)
        if self._cache is not None:
            self._cache.close()
