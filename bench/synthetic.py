"""Disks made from a seed in moments: dense ones, nearly empty ones, and small stand-ins for the real four."""

import os
import subprocess
from pathlib import Path

import numpy as np

from bench.disks import BLOCK_BYTES, MIB, DiskName, raw_path

STAND_IN_BLOCKS = 16 * MIB // BLOCK_BYTES


def make_dense(path: Path, length: int, *, seed: int = 7) -> None:
    """A file of bytes that no compressor and no comparison makes smaller."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        for offset in range(0, length, 16 * MIB):
            file.write(random.bytes(min(16 * MIB, length - offset)))


def write_islands(path: Path, virtual_bytes: int, *, count: int, seed: int = 7) -> None:
    """Puts `count` MiB of random bytes into an existing file, one MiB each, from its first to its last."""
    random = np.random.default_rng(seed)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for number in range(count):
            offset = number * (virtual_bytes - MIB) // max(count - 1, 1)
            os.pwrite(descriptor, random.bytes(MIB), offset // BLOCK_BYTES * BLOCK_BYTES)
    finally:
        os.close(descriptor)


def make_zero(path: Path, virtual_bytes: int) -> None:
    """A raw disk of that size with nothing in it, which is one hole."""
    with path.open("wb") as file:
        file.truncate(virtual_bytes)


def make_sparse_raw(path: Path, virtual_bytes: int, *, islands: int = 8) -> None:
    """A raw disk of that size with a few MiB in it."""
    make_zero(path, virtual_bytes)
    write_islands(path, virtual_bytes, count=islands)


def make_sparse_vhd(path: Path, virtual_bytes: int, *, islands: int = 8) -> None:
    """A fixed VHD of that size with a few MiB in it, its footer by a writer that is not ours."""
    options = "subformat=fixed,force_size=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vpc", "-o", options, str(path), str(virtual_bytes)], check=True)
    write_islands(path, virtual_bytes, count=islands)


def make_stand_ins(folder: Path) -> None:
    """The real four in small, for a quick run: extended, patched and rebuilt as those are, 64 MiB each."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(11)

    def content(blocks: int) -> np.ndarray:
        return random.integers(0, 256, (blocks, BLOCK_BYTES), dtype=np.uint8)

    disk = np.zeros((4 * STAND_IN_BLOCKS, BLOCK_BYTES), dtype=np.uint8)
    disk[:STAND_IN_BLOCKS] = content(STAND_IN_BLOCKS)
    disk.tofile(raw_path(folder, DiskName.V1))
    disk[STAND_IN_BLOCKS : 2 * STAND_IN_BLOCKS] = content(STAND_IN_BLOCKS)
    disk.tofile(raw_path(folder, DiskName.V2))
    patched = disk.copy()
    patched[100:110] = content(10)
    patched.tofile(raw_path(folder, DiskName.V3))
    random.permutation(disk, axis=0).tofile(raw_path(folder, DiskName.R2))
