"""A FUSE file system over a folder that lacks abilities and fails with chosen errors.

A program: ``python -m tests.support.fuse_folder BACKING MOUNT RULES [ro]``. `tests/support/mounted_folder.py` runs the program.
The file RULES is a JSON object. A key is the name of a FUSE operation, or `*` for all operations, and the value is the
number of the error:

    {"link": 1, "lock": 37, "flock": 37}

A key may begin with a part of a path and a colon: ``regions/:write``. The rules may change while the file system is
mounted. Locks are those of the kernel, unless the first rules refuse `lock` or `flock`. There is no rename with flags.
"""

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mfusepy


class _Folder(mfusepy.Operations):  # type: ignore[misc]
    """The operations of a folder, with the errors of the rules."""

    use_ns = True

    def __init__(self, backing: str, rules: Path) -> None:
        self._backing = backing
        self._rules = rules

    def __init_subclass__(cls) -> None:
        for name, method in list(vars(cls).items()):
            if callable(method) and not name.startswith("_"):
                setattr(cls, name, _ruled(name, method))

    def _check(self, operation: str, path: str) -> None:
        rules = json.loads(self._rules.read_text(encoding="utf-8"))
        for rule, code in rules.items():
            part, _, name = rule.rpartition(":")
            if name in (operation, "*") and part in path + "/":
                raise mfusepy.FuseOSError(code)


def _ruled(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, path: str, *args: Any) -> Any:
        self._check(name, path)
        return method(self, self._backing + path, *args)

    return call


class PlainFolder(_Folder):
    """A folder with the locks of the kernel."""

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(path, mode)
        return 0

    def create(self, path: str, mode: int) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_APPEND))

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(path if fh is None else fh, length)
        return 0

    def fsync(self, _path: str, _datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def release(self, _path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(path) if fh is None else os.fstat(fh)
        attributes = {name: getattr(found, name) for name in ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid")}
        times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_ctime", "st_mtime")}
        return attributes | times | {"st_blocks": found.st_blocks}

    def link(self, target: str, source: str) -> int:
        os.link(self._backing + source, target)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(path, mode)
        return 0

    def readdir(self, path: str, _fh: int) -> list[str]:
        return [".", "..", *os.listdir(path)]

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def rename(self, old: str, new: str) -> int:
        os.rename(old, self._backing + new)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(path)
        return 0

    def statfs(self, path: str) -> dict[str, Any]:
        found = os.statvfs(path)
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_frsize")
        return {name: getattr(found, name) for name in names} | {"f_namemax": 255}

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, target)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(path)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(path) if times is None else os.utime(path, ns=times)
        return 0


class FolderWithoutLocks(PlainFolder):
    """A folder that refuses locks by its rules."""

    def lock(self, _path: str, _fh: int, _command: int, _lock: Any) -> int:
        raise mfusepy.FuseOSError(errno.ENOSYS)

    def flock(self, _path: str, _fh: int, _operation: int) -> int:
        raise mfusepy.FuseOSError(errno.ENOSYS)


def _main(backing: str, mount: str, rules: str, *options: str) -> None:
    first = json.loads(Path(rules).read_text(encoding="utf-8"))
    kind = FolderWithoutLocks if {"lock", "flock"} & first.keys() else PlainFolder
    mfusepy.FUSE(
        kind(backing, Path(rules)),
        mount,
        nothreads=True,
        foreground=False,
        hard_remove=True,
        default_permissions=True,
        ro="ro" in options,
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
