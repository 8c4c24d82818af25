"""Keep uploads and disks open between the requests of the blob endpoint."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from imgstore.domain.errors import StoreError
from imgstore.domain.resources import ManagedDisk
from imgstore.operations.disks.reader import OpenDisk, open_disk_reader
from imgstore.operations.disks.uploads import open_spool
from imgstore.operations.installation import Installation
from imgstore.transfer.spool import Spool

_IDLE_SECONDS: Final = 0.5
"""The time that an upload stays open after a request. Opening an upload reads the journal while other requests wait."""
_READERS_MAX: Final = 8
"""The number of disks that stay open, with the manifests in memory."""


@dataclass(slots=True)
class _OpenSpool:
    spool: "asyncio.Future[Spool]"
    users: int = 0
    closing: asyncio.TimerHandle | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the upload could not be opened."""
        return self.spool.done() and self.spool.exception() is not None


@dataclass(slots=True)
class OpenBlobs:
    """The open uploads and disks of a server. Use uploads from the event loop only, and readers from any thread."""

    installation: Installation
    _spools: dict[str, _OpenSpool] = field(default_factory=dict)
    _readers: OrderedDict[str, OpenDisk] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @asynccontextmanager
    async def spool(self, disk: ManagedDisk) -> AsyncIterator[Spool]:
        """Open the upload spool of a disk. Concurrent requests share the spool, which is closed soon after the last request."""
        loop = asyncio.get_running_loop()
        entry = self._spools.get(disk.uid)
        if entry is not None and entry.has_failed:  # The cause may have ended, such as a full disk.
            if entry.closing is not None:
                entry.closing.cancel()
            entry = None
        if entry is None:
            opening = loop.run_in_executor(None, lambda: open_spool(self.installation, disk, patience_seconds=2.0))
            entry = self._spools[disk.uid] = _OpenSpool(opening)
        entry.users += 1
        if entry.closing is not None:
            entry.closing.cancel()
            entry.closing = None
        try:
            yield await asyncio.shield(entry.spool)
        finally:
            entry.users -= 1
            if not entry.users and self._spools.get(disk.uid) is entry:
                entry.closing = loop.call_later(_IDLE_SECONDS, self._close_spool, disk.uid)

    def _close_spool(self, uid: str) -> None:
        entry = self._spools.pop(uid)
        if entry.spool.done() and entry.spool.exception() is None:
            with suppress(OSError):  # The next open checks a journal without a seal.
                entry.spool.result().close()

    def reader(self, disk: ManagedDisk) -> OpenDisk:
        """Open a disk for reading. Call this method in a thread, because it reads the catalog and the store.

        Raises:
            StoreError: no slot has the manifest of the disk.
        """
        with self._lock:
            found = self._readers.get(disk.uid)
            if found is not None:
                self._readers.move_to_end(disk.uid)
                return found
        opened = open_disk_reader(self.installation, disk, self.installation.host_cache.open())
        with self._lock:
            self._readers[disk.uid] = opened
            while len(self._readers) > _READERS_MAX:
                self._readers.popitem(last=False)
        return opened

    def close(self) -> None:
        """Close all uploads, at the shutdown of the server."""
        for uid in list(self._spools):
            with suppress(StoreError):
                self._close_spool(uid)
