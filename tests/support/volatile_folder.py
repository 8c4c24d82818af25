"""A folder in memory that loses unsynced bytes in a power failure, sector by sector, and fails on purpose."""

import errno
import os
import random
from dataclasses import dataclass, field

SECTOR_BYTES = 512


class Killed(BaseException):
    """The process ended at this step. No handler of the code under test may have an effect afterwards."""


@dataclass
class _Node:
    """The content that a process sees, the content of the medium, and the changes in between."""

    seen: bytearray = field(default_factory=bytearray)
    medium: bytearray = field(default_factory=bytearray)
    waiting: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.seen, offset, data)
        at = offset
        while at < offset + len(data):
            until = min(offset + len(data), (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
            self.waiting.append((at, data[at - offset : until - offset]))
            at = until

    def sync(self) -> None:
        self.medium = bytearray(self.seen)
        self.waiting.clear()

    def lose(self, rng: random.Random, kept: float) -> None:
        """Keep a share of the waiting sectors."""
        for offset, data in self.waiting:
            if rng.random() < kept:
                _put(self.medium, offset, data)
        self.seen = bytearray(self.medium)
        self.waiting.clear()


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class VolatileFolder:
    """An `OverlayFolder` whose files survive the object: `killed` and `powered_off` return the folder of a later process."""

    label = "memory"

    def __init__(self, nodes: dict[str, _Node] | None = None) -> None:
        self.nodes = nodes or {}
        self.steps_left: int | None = None
        """The number of steps before `Killed`; None is never."""
        self.write_fault: int | None = None
        """The errno of each write, after half of its bytes were written."""
        self.sync_fault: int | None = None
        """The errno of each sync. As in Linux, the kernel then takes the lost bytes for written."""
        self._is_dead = False

    def step(self) -> None:
        """Count a change."""
        if self._is_dead or self.steps_left == 0:
            self._is_dead = True
            raise Killed
        if self.steps_left is not None:
            self.steps_left -= 1

    def killed(self) -> "VolatileFolder":
        """Return the folder after SIGKILL: the kernel still has all bytes."""
        self._is_dead = True
        return VolatileFolder(self.nodes)

    def powered_off(self, rng: random.Random, keeps: float | None = None) -> "VolatileFolder":
        """Return the folder after a power failure. By default, each file keeps another share of its waiting sectors."""
        self._is_dead = True
        for node in self.nodes.values():
            node.lose(rng, rng.choice((0.0, 0.5, 0.9, 1.0)) if keeps is None else keeps)
        return VolatileFolder(self.nodes)

    def has(self, name: str) -> bool:
        return name in self.nodes

    def open(self, name: str, *, is_new: bool = False) -> "_VolatileFile":
        if is_new or name not in self.nodes:
            self.step()
            self.nodes[name] = _Node()
        return _VolatileFile(self, self.nodes[name])

    def replace(self, temporary: str, name: str) -> None:
        self.step()
        self.nodes[name] = self.nodes.pop(temporary)

    def remove(self, name: str) -> None:
        self.step()
        self.nodes.pop(name, None)

    def close(self) -> None:
        pass


class _VolatileFile:
    def __init__(self, folder: VolatileFolder, node: _Node) -> None:
        self._folder, self._node = folder, node

    def file_bytes(self) -> int:
        return len(self._node.seen)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._node.seen[offset : offset + length])

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self._folder.step()
        if self._folder.write_fault is not None:
            self._node.write(offset, bytes(data[: len(data) // 2]))
            raise OSError(self._folder.write_fault, os.strerror(self._folder.write_fault))
        if self._folder.steps_left == 0:  # The process is killed in the middle of the call.
            self._node.write(offset, bytes(data[: len(data) // 2]))
            self._folder.step()
        self._node.write(offset, bytes(data))

    def truncate(self, length: int) -> None:
        self._folder.step()
        for content in (self._node.seen, self._node.medium):
            del content[length:]
            content.extend(bytes(length - len(content)))
        self._node.waiting = [each for each in self._node.waiting if each[0] + len(each[1]) <= length]

    def punch(self, offset: int, length: int) -> None:
        self._folder.step()
        self._node.write(offset, bytes(length))

    def sync(self) -> None:
        self._folder.step()
        if self._folder.sync_fault is not None:
            self._node.waiting.clear()
            raise OSError(self._folder.sync_fault, os.strerror(self._folder.sync_fault))
        self._node.sync()

    def close(self) -> None:
        pass


NO_SPACE, BAD_MEDIUM = errno.ENOSPC, errno.EIO
