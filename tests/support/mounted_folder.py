"""Mounted file systems: one that lacks abilities and fails with chosen errors, and one that is small.

The kernel, SQLite and imgstore meet the file system as they meet a network share or a broken disk.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from imgstore.testing.pytest_plugin import require

NO_LINKS: Final = {"link": errno.EPERM}
NO_LOCKS: Final = {"lock": errno.ENOLCK, "flock": errno.ENOLCK}


class MountedFolder:
    """A mounted folder, whose rules can be changed."""

    def __init__(self, path: Path, rules: Path) -> None:
        self.path: Final = path
        self._rules = rules

    def set_rules(self, rules: Mapping[str, int]) -> None:
        """Replace the rules."""
        replacement = self._rules.with_suffix(".new")
        replacement.write_text(json.dumps(dict(rules)), encoding="utf-8")
        replacement.replace(self._rules)


@contextmanager
def mount_folder(folder: Path, rules: Mapping[str, int], *, read_only: bool = False) -> Iterator[MountedFolder]:
    """Mount `folder / "backing"`, which may exist, until the block ends. Skip the calling test without FUSE."""
    require("fuse")
    backing, mount = folder / "backing", folder / "mount"
    backing.mkdir(exist_ok=True)
    mount.mkdir()
    mounted = MountedFolder(mount, folder / "rules.json")
    mounted.set_rules(rules)
    command = [sys.executable, "-m", "tests.support.fuse_folder", str(backing), str(mount), str(folder / "rules.json")]
    if read_only:
        command.append("ro")
    # The parent of the mount's process ends when the file system answers.
    subprocess.run(command, check=True, timeout=60)
    try:
        yield mounted
    finally:
        unmount = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount", "-u", "-z"]
        subprocess.run([*unmount, str(mount)], check=True)


@contextmanager
def mount_small(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size` in memory at the new `folder` during the block. Skip the calling test without the right."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
