"""Tests of local files, format detection, partition tables and inspection."""

import os
import threading
from pathlib import Path
from uuid import UUID

import pytest
from formats_images import (
    DIGEST,
    MIB,
    MemorySource,
    gpt_disk,
    names_in,
    qemu_img,
    random_disk,
    read_image,
    write_image,
    write_sparse,
)

from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.domain.errors import ImageRefused, ImageTruncated, InvalidInput, SourceChanged, StoreError
from imgstore.domain.resources import HyperVGeneration
from imgstore.domain.storage.sizes import GIB
from imgstore.formats import DISK_BYTES_MAX, LocalFile, create_writer, detect_generation, inspect_image, open_disk
from imgstore.formats.raw import RawReader

ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")


def test_holes_are_no_extents(tmp_path: Path) -> None:
    spans = [Extent(offset=MIB, length=4096), Extent(offset=8 * MIB, length=2 * MIB)]
    source = LocalFile(write_sparse(tmp_path / "disk", random_disk(12 * MIB, spans)))
    assert list(source.extents()) == spans
    # Invariant I1.
    source.close()


def test_a_file_that_is_a_single_hole_has_no_extents(tmp_path: Path) -> None:
    source = LocalFile(write_sparse(tmp_path / "disk", bytes(MIB)))
    assert list(source.extents()) == []
    source.close()


def test_without_known_holes_there_is_a_single_extent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LocalFile(write_sparse(tmp_path / "disk", bytes(MIB)))

    def refuse(fd: int, position: int, how: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    assert list(source.extents()) == [Extent(offset=0, length=MIB)]
    source.close()


def test_threads_share_a_file(tmp_path: Path) -> None:
    disk = random_disk(16 * MIB, [Extent(offset=0, length=16 * MIB)])
    source = LocalFile(write_sparse(tmp_path / "disk", disk))
    wrong: list[int] = []

    def read(start: int) -> None:
        for at in range(start, len(disk), 8 * MIB):
            list(source.extents())
            if source.read_at(at, MIB) != disk[at : at + MIB]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(at * MIB,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    source.close()


def test_reading_past_the_end_is_a_truncation(tmp_path: Path) -> None:
    source = LocalFile(write_sparse(tmp_path / "disk", b"x" * 1000))
    with pytest.raises(ImageTruncated, match="the end of the file at 1,000"):
        source.read_at(990, 20)
    source.close()
    source.close()
    with pytest.raises(StoreError):
        source.read_at(0, 1)


def test_the_identity_shows_each_change(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "disk", b"x" * 1000)
    source = LocalFile(path)
    first = source.identity()
    assert first == source.identity()
    assert first.location == str(path)

    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = source.identity()
    other = write_sparse(tmp_path / "other", b"x" * 1000)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    os.rename(other, path)
    replaced = source.identity()
    assert len({first, touched, replaced}) == 3

    path.unlink()
    with pytest.raises(SourceChanged, match="no longer there"):
        source.identity()
    source.close()


def test_a_link_has_the_identity_of_its_target(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "disk", b"x")
    (tmp_path / "link").symlink_to(path)
    source = LocalFile(tmp_path / "link")
    assert source.path == path
    source.close()


def test_a_path_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="There is no file"):
        LocalFile(tmp_path / "missing")
    with pytest.raises(InvalidInput, match="There is no file"):
        LocalFile(tmp_path / "empty" / "below")
    with pytest.raises(InvalidInput, match="a folder"):
        LocalFile(tmp_path)
    with pytest.raises(InvalidInput, match="a pipe, socket or character device"):
        LocalFile(tmp_path / "pipe")
    with pytest.raises(ImageRefused, match="is empty"):
        LocalFile(tmp_path / "empty")


@pytest.mark.parametrize(
    ("target", "hint"),
    [(".git/annex/objects/x/y/SHA256E-s1--z.raw", "git annex get"), ("other.raw", "correct the link")],
)
def test_a_link_to_a_missing_file_is_reported(tmp_path: Path, target: str, hint: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InvalidInput, match="a link to a missing file") as raised:
        LocalFile(tmp_path / "link")
    assert target in str(raised.value.found)
    assert hint in str(raised.value.hint)


def test_a_pipe_at_a_file_descriptor_is_reported() -> None:
    """The link of the descriptor names no path."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(InvalidInput, match=f"^/dev/fd/{reader} is not a disk image"):
            LocalFile(Path(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
        os.close(writer)


def test_a_file_without_permission_is_reported(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "disk", b"x")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read anything, an ordinary user may not
    try:
        with pytest.raises(InvalidInput, match="chmod"):
            LocalFile(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["disk.vhd", "disk.VHDX", "disk.qcow2", "disk.vmdk", "disk.vdi"])
def test_a_suffix_that_promises_a_container_is_checked(tmp_path: Path, name: str) -> None:
    """A truncated fixed VHD has no footer and would pass for a raw disk."""
    path = write_sparse(tmp_path / name, b"x" * 1024)
    with pytest.raises(ImageTruncated, match="format is in doubt"):
        read_image(path, None, tmp_path)
    assert read_image(path, DiskFormat.RAW, tmp_path) == b"x" * 1024


def test_the_suffix_of_a_url_is_checked_too(tmp_path: Path) -> None:
    source = MemorySource(b"x" * 1024, "https://example.invalid/disk.vhd?sig=a.b")
    with pytest.raises(ImageTruncated, match=r"no VHD header or footer"):
        open_disk(source, scratch=tmp_path)


@pytest.mark.parametrize(
    ("head", "looks"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"QED\0", "QED"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "VDI"),
        (bytes(257) + b"ustar", "tar"),
    ],
)
def test_a_raw_file_that_looks_like_another_format_needs_a_named_format(
    tmp_path: Path, head: bytes, looks: str
) -> None:
    path = write_sparse(tmp_path / "disk", head.ljust(1024, b"\1"))
    with pytest.raises(ImageRefused, match=looks) as caught:
        read_image(path, None, tmp_path)
    assert "--source-format" in str(caught.value.hint)
    assert read_image(path, DiskFormat.RAW, tmp_path) == head.ljust(1024, b"\1")


@pytest.mark.parametrize("magic", [b"QFI\xfb", b"vhdxfile", b"KDMV", b"conectix"])
def test_a_file_that_is_two_formats_needs_a_named_format(tmp_path: Path, magic: bytes) -> None:
    """A fixed VHD of a disk that starts like a container."""
    disk = magic.ljust(4096, b"\1")
    path = write_image(tmp_path / "disk.vhd", DiskFormat.VHD_FIXED, disk)
    with pytest.raises(ImageRefused, match="and like"):
        read_image(path, None, tmp_path)
    assert read_image(path, DiskFormat.VHD_FIXED, tmp_path) == disk


def test_a_disk_larger_than_the_largest_azure_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="virtual-size"):
        open_disk(_Huge(b""), format=DiskFormat.RAW, scratch=tmp_path)


class _Huge(MemorySource):
    """A source that is longer than some file systems allow."""

    @property
    def file_bytes(self) -> int:
        return DISK_BYTES_MAX + 1


@pytest.mark.parametrize(
    ("disk", "generation"),
    [
        (gpt_disk(LINUX, ESP), HyperVGeneration.V2),
        (gpt_disk(ESP, block_bytes=4096), HyperVGeneration.V2),
        (gpt_disk(BIOS_BOOT, LINUX), HyperVGeneration.V1),
        (bytes(510) + b"\x55\xaa" + bytes(512), HyperVGeneration.V1),
        (bytes(4096), HyperVGeneration.V1),
        (b"x", HyperVGeneration.V1),
        (gpt_disk(ESP)[:512] + bytes(MIB), None),
        (gpt_disk(ESP)[:512], None),
        (gpt_disk(ESP)[:1100], None),
    ],
)
def test_the_partition_table_decides_the_generation(disk: bytes, generation: HyperVGeneration | None) -> None:
    assert detect_generation(RawReader(MemorySource(disk))) == generation


def test_a_false_partition_table_is_not_followed() -> None:
    disk = bytearray(gpt_disk(ESP))
    disk[512 + 80 : 512 + 84] = b"\xff" * 4  # the number of entries
    assert detect_generation(RawReader(MemorySource(bytes(disk)))) is None


def test_a_partition_table_of_gigabytes_is_not_read() -> None:
    disk = bytearray(gpt_disk(ESP))
    disk[512 + 80 : 512 + 84] = (1 << 30).to_bytes(4, "little")
    assert detect_generation(RawReader(_Huge(bytes(disk)))) is None  # reading 128 GiB would fail the source's assertion


def test_inspection_lists_the_reasons_against_azure(tmp_path: Path) -> None:
    disk = gpt_disk(LINUX, ESP, virtual_bytes=20 * MIB)
    source = LocalFile(write_image(tmp_path / "good.vhd", DiskFormat.VHD_FIXED, disk, [Extent(offset=0, length=MIB)]))
    good = inspect_image(source, scratch=tmp_path)
    assert good.azure_ready
    assert good.azure_reasons == ()
    assert good.generation is HyperVGeneration.V2
    assert (good.format, good.virtual_bytes, good.data_bytes) == (DiskFormat.VHD_FIXED, 20 * MIB, MIB)
    assert [check.name for check in good.checks] == [
        "one-format",
        "footer-present",
        "footer-checksum",
        "footer-version",
        "no-parent",
        "disk-type",
        "virtual-size",
        "size-matches-file",
    ]
    source.close()

    odd = LocalFile(write_image(tmp_path / "odd.vhd", DiskFormat.VHD_DYNAMIC, bytes(MIB + 512)))
    inspection = inspect_image(odd, scratch=tmp_path)
    assert not inspection.azure_ready
    assert [("fixed VHD" in why, "1 MiB" in why, "20 MiB" in why) for why in inspection.azure_reasons] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    odd.close()


def test_inspection_of_a_doubtful_file_reports_and_does_not_raise(tmp_path: Path) -> None:
    source = LocalFile(write_sparse(tmp_path / "disk", b"QED\0".ljust(4096, b"\1")))
    inspection = inspect_image(source, scratch=tmp_path)
    assert [(check.name, check.passed) for check in inspection.checks][:1] == [("is-a-disk", False)]
    assert inspection.data_bytes is None
    assert any(check.name == "null" and check.passed for check in inspection.checks)
    source.close()
    assert names_in(tmp_path) == ["disk"]


@pytest.mark.engine("qemu-img")
def test_a_real_partition_table_is_read(tmp_path: Path) -> None:
    """A dynamic VHD that contains a real table, which is read through the container."""
    raw = write_sparse(tmp_path / "disk.raw", gpt_disk(ESP))
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", raw, tmp_path / "disk.vhd")
    source = LocalFile(tmp_path / "disk.vhd")
    assert inspect_image(source, scratch=tmp_path).generation is HyperVGeneration.V2
    source.close()


def test_a_sparse_dynamic_vhd_of_127_gib_has_its_extents(tmp_path: Path) -> None:
    spans = [Extent(offset=at * GIB, length=4096) for at in range(127)]
    path = tmp_path / "big.vhd"
    writer = create_writer(
        path, format=DiskFormat.VHD_DYNAMIC, virtual_bytes=127 * GIB, extents=spans, disk_digest=DIGEST
    )
    for span in spans:
        writer.write_at(span.offset, b"x" * span.length)
    writer.publish()
    source = LocalFile(path)
    assert list(open_disk(source, scratch=tmp_path).extents()) == spans
    source.close()
