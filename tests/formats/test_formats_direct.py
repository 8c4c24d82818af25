"""Tests of writes without the page cache: long writes bypass the cache, and the file has the same bytes."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from formats_images import DIGEST, MIB

from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.domain.errors import OutputError
from imgstore.formats import create_writer

DISK = os.urandom(17 * MIB + 5 * 512)
PARTS = [(at, min(4 * MIB, len(DISK) - at)) for at in range(0, len(DISK), 4 * MIB)]
LONG = [(0, 12 * MIB), (12 * MIB, len(DISK) - 12 * MIB)]
SHORT = [(0, 4096), (4096, 2 * MIB + 4096), (2 * MIB + 8192, 3), (2 * MIB + 8195, len(DISK) - 2 * MIB - 8195)]
"""Writes that are too short or not aligned."""

Written = list[tuple[bool, int, int]]


@pytest.fixture
def direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Record each `pwrite`: whether it bypassed the cache, its offset, its length."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} has no O_DIRECT: {error}")
    writes: Written = []
    real = os.pwrite

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        writes.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), offset, len(data)))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return writes


AT_A_PAGE = mmap.mmap(-1, len(DISK))
AT_A_PAGE[:] = DISK


def write(
    path: Path, parts: list[tuple[int, int]], form: DiskFormat = DiskFormat.RAW, memory: bytes | mmap.mmap = DISK
) -> None:
    span = [Extent(offset=0, length=len(DISK))]
    writer = create_writer(path, format=form, virtual_bytes=len(DISK), extents=span, disk_digest=DIGEST)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(lambda part: writer.write_at(part[0], memoryview(memory)[part[0] : part[0] + part[1]]), parts)
            )
        assert writer.read_at(3, len(DISK) - 3) == DISK[3:]
        writer.publish()
    finally:
        writer.abandon()


@pytest.mark.parametrize("parts", [PARTS, LONG, SHORT, list(reversed(SHORT))])
@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.VHD_FIXED])
@pytest.mark.parametrize("memory", [DISK, AT_A_PAGE])
def test_direct_writes_give_the_same_file(
    tmp_path: Path, parts: list[tuple[int, int]], form: DiskFormat, memory: bytes | mmap.mmap
) -> None:
    write(tmp_path / "disk", parts, form, memory)
    assert (tmp_path / "disk").read_bytes()[: len(DISK)] == DISK


def test_whole_pieces_bypass_the_page_cache(tmp_path: Path, direct_writes: Written) -> None:
    """No other write does."""
    write(tmp_path / "disk", PARTS)
    assert sorted(direct_writes)[-4:] == [(True, at * MIB, 4 * MIB) for at in (0, 4, 8, 12)]
    assert [each[1:] for each in direct_writes if not each[0]] == [(16 * MIB, MIB + 5 * 512)]


def test_long_writes_bypass_the_cache_except_for_their_end(tmp_path: Path, direct_writes: Written) -> None:
    write(tmp_path / "disk", LONG)
    assert [each for each in direct_writes if not each[0]] == [(False, 17 * MIB, 5 * 512 % 4096)]
    assert sum(length for direct, _, length in direct_writes if direct) == 17 * MIB


def test_page_aligned_data_is_written_without_a_copy(tmp_path: Path, direct_writes: Written) -> None:
    """A single write of any length, without a buffer."""
    write(tmp_path / "disk", LONG, memory=AT_A_PAGE)
    assert sorted(each for each in direct_writes if each[0]) == [(True, 0, 12 * MIB), (True, 12 * MIB, 5 * MIB)]


def test_bytes_that_are_read_soon_stay_in_the_cache(tmp_path: Path, direct_writes: Written) -> None:
    span = [Extent(offset=0, length=len(DISK))]
    writer = create_writer(
        tmp_path / "disk", format=DiskFormat.RAW, virtual_bytes=len(DISK), extents=span, disk_digest=DIGEST
    )
    writer.write_at(0, DISK[: 4 * MIB], read_soon=True)
    writer.abandon()
    assert direct_writes == [(False, 0, 4 * MIB)]


def test_blocks_of_a_dynamic_vhd_bypass_the_cache(tmp_path: Path, direct_writes: Written) -> None:
    write(tmp_path / "disk", PARTS, DiskFormat.VHD_DYNAMIC)
    assert len([each for each in direct_writes if each[0]]) == 8


def refusing(refused: Callable[[int], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.open

        def opened(path: Path, flags: int, *rest: int) -> int:
            if refused(flags):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return real(path, flags, *rest)

        monkeypatch.setattr(os, "open", opened)

    return patch


def failing(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.pwrite

        def pwrite(fd: int, data: memoryview, offset: int) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(number, os.strerror(number))
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)

    return patch


@pytest.mark.parametrize("refuse", [refusing(lambda flags: bool(flags & os.O_DIRECT)), failing(errno.EINVAL)])
def test_a_file_system_without_direct_writes(
    tmp_path: Path, refuse: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes at open or only at write."""
    refuse(monkeypatch)
    write(tmp_path / "disk", PARTS)
    assert (tmp_path / "disk").read_bytes() == DISK


def test_an_error_of_the_medium_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(errno.ENOSPC)(monkeypatch)
    with pytest.raises(OutputError, match="cannot be written") as raised:
        write(tmp_path / "disk", PARTS)
    assert raised.value.found == "No space left on device (ENOSPC)"
    assert list(tmp_path.iterdir()) == []
