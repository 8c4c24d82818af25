"""The pure parts of the disk maker, and what it reads of a disk, on small real files."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from bench.disks import (
    BLOCK_BYTES,
    DISK_BYTES,
    MIB,
    PARTITION_BYTES,
    PARTITION_OFFSET,
    DiskFacts,
    DiskName,
    MakerFailed,
    Mirror,
    ProgramMissing,
    data_extents,
    examine,
    make_all,
    nonzero_blocks,
    other_order,
    parse_sources,
    partition_script,
    read_manifest,
    release_mirror,
    run,
    write_manifest,
)

DEB822 = """
Types: deb deb-src
# URIs: http://old.invalid/debian
URIs: http://one.invalid/debian http://two.invalid/debian
Suites: bookworm bookworm-updates
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm

Types: deb-src
URIs: http://source.invalid/debian
Suites: bookworm
"""

ONE_LINE = """
# deb http://commented.invalid/debian bookworm main
deb [signed-by=/a.gpg arch=amd64] http://one.invalid/debian bookworm main contrib
deb-src http://source.invalid/debian bookworm main
deb http://two.invalid/debian bookworm-updates main
"""


def test_deb822_sources_are_every_archive_times_every_suite() -> None:
    assert list(parse_sources(DEB822)) == [
        Mirror(uri="http://one.invalid/debian", suite="bookworm"),
        Mirror(uri="http://one.invalid/debian", suite="bookworm-updates"),
        Mirror(uri="http://two.invalid/debian", suite="bookworm"),
        Mirror(uri="http://two.invalid/debian", suite="bookworm-updates"),
    ]


def test_one_line_sources_leave_out_options_comments_and_sources() -> None:
    assert list(parse_sources(ONE_LINE)) == [
        Mirror(uri="http://one.invalid/debian", suite="bookworm"),
        Mirror(uri="http://two.invalid/debian", suite="bookworm-updates"),
    ]


def test_the_release_itself_is_bootstrapped_and_not_its_updates() -> None:
    updates, release = Mirror(uri="a", suite="bookworm-updates"), Mirror(uri="b", suite="bookworm")
    assert release_mirror([updates, release], "bookworm") is release
    with pytest.raises(LookupError, match="suite trixie; found suites"):
        release_mirror([updates, release], "trixie")


def test_a_rebuild_writes_the_same_paths_in_another_order_each_folder_after_its_content() -> None:
    paths = ["bin", "etc", "etc/apt", "etc/apt/a", "etc/apt/b", "etc/hosts", "usr", "usr/lib", "usr/lib/x"]
    order = other_order(paths)
    assert sorted(order) == sorted(paths)
    assert order != paths
    for path in paths:
        assert all(order.index(inner) < order.index(path) for inner in paths if inner.startswith(path + "/"))


def test_the_partition_is_aligned_and_leaves_space_for_both_tables() -> None:
    assert PARTITION_OFFSET % BLOCK_BYTES == 0
    assert PARTITION_BYTES % BLOCK_BYTES == 0
    assert PARTITION_OFFSET + PARTITION_BYTES + MIB == DISK_BYTES
    assert partition_script() == "label: gpt\nstart=2048, size=16773120, type=linux\n"


def test_blocks_with_one_byte_anywhere_count() -> None:
    assert nonzero_blocks(bytes(3 * BLOCK_BYTES)) == 0
    assert nonzero_blocks(bytes(BLOCK_BYTES - 1) + b"\1" + bytes(BLOCK_BYTES) + b"\1" + bytes(BLOCK_BYTES - 1)) == 2
    assert nonzero_blocks(bytes(BLOCK_BYTES) + b"\1") == 1
    assert nonzero_blocks(bytes(BLOCK_BYTES) + b"\0") == 0


def sparse_file(path: Path) -> bytes:
    """12 MiB with three blocks of data, one of them all zeros but written."""
    with path.open("wb") as file:
        file.truncate(12 * MIB)
        for offset, data in ((0, b"a" * BLOCK_BYTES), (5 * MIB, b"b" * 10), (9 * MIB, bytes(BLOCK_BYTES))):
            os.pwrite(file.fileno(), data, offset)
    return path.read_bytes()


def test_a_disk_is_examined_as_if_its_holes_were_zeros(tmp_path: Path) -> None:
    whole = sparse_file(tmp_path / "disk.raw")
    transaction = examine(tmp_path / "disk.raw")
    assert transaction.virtual_bytes == len(whole)
    assert transaction.content_bytes == 2 * BLOCK_BYTES
    assert transaction.sha256 == hashlib.sha256(whole).hexdigest()
    assert transaction.allocated_bytes < len(whole)


def test_extents_cover_all_data_and_end_with_the_file(tmp_path: Path) -> None:
    whole = sparse_file(tmp_path / "disk.raw")
    with (tmp_path / "disk.raw").open("rb") as file:
        extents = list(data_extents(file.fileno()))
    rebuilt = bytearray(len(whole))
    for start, length in extents:
        rebuilt[start : start + length] = whole[start : start + length]
    assert bytes(rebuilt) == whole
    assert sum(length for _, length in extents) < len(whole)


def test_the_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    transaction = {DiskName.V1: DiskFacts(virtual_bytes=8, allocated_bytes=4, content_bytes=2, sha256="00")}
    write_manifest(tmp_path, transaction, codename="bookworm")
    assert read_manifest(tmp_path) == transaction


def test_a_missing_program_is_named_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = shutil.which
    monkeypatch.setattr(
        "bench.disks.shutil.which", lambda name, path: None if name == "sfdisk" else here(name, path=path)
    )
    monkeypatch.setattr("bench.disks.PROGRAMS", {"sh": "dash", "sfdisk": "fdisk"})
    with pytest.raises(ProgramMissing, match="no sfdisk: apt install fdisk"):
        make_all(tmp_path / "disks", codename="bookworm", vhd=False)
    assert not (tmp_path / "disks").exists()


def test_a_failure_prints_the_answer_without_addresses() -> None:
    with pytest.raises(MakerFailed, match="bash ended with 3") as caught:
        run("bash", "-c", "cat; echo from http://mirror.invalid/debian; exit 3", stdin=b"what came in\n")
    assert "what came in" in str(caught.value)
    assert "mirror.invalid" not in str(caught.value)
