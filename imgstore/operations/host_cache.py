"""The segment cache of this host, opened by the first operation of the process that reads segments."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgstore.domain.effects import Effects
from imgstore.domain.settings.segment_cache import CacheSettings

if TYPE_CHECKING:
    from imgstore.transfer.segment_cache import SegmentCache


@dataclass(slots=True, kw_only=True)
class HostCache:
    """The cache of one installation (invariant D7). Other processes and installations share the folder."""

    settings: CacheSettings
    namespace: str
    """The uid of the installation."""
    has_free_space: Callable[[Path, int], bool]
    """Returns whether a file system keeps its reserve after a write of some bytes."""
    on_fault: Callable[[str], None]
    effects: Effects
    _opened: "SegmentCache | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> "SegmentCache":
        """Return the cache. All threads share the object."""
        # The cache loads numpy, as all of the data plane.
        from imgstore.transfer.segment_cache import SegmentCache  # noqa: PLC0415

        with self._lock:
            if self._opened is None:
                self._opened = SegmentCache(
                    self.settings.folder,
                    self.settings.bytes_max,
                    namespace=self.namespace,
                    has_room=lambda needed_bytes: self.has_free_space(self.settings.folder, needed_bytes),
                    on_fault=self.on_fault,
                    monotonic=self.effects.monotonic,
                    pause=self.effects.wait,
                )
            return self._opened

    def switch_off(self) -> "HostCache":
        """Return a cache that keeps and reads nothing."""
        return replace(self, settings=replace(self.settings, bytes_max=0), _opened=None, _lock=threading.Lock())

    def close(self) -> None:
        """Close the files of the cache."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
