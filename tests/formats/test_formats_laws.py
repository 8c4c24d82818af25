"""Property tests: a written disk is read back, and some files are restored byte for byte."""

import tempfile
from pathlib import Path

import pytest
from formats_images import (
    DIGEST,
    MIB,
    names_in,
    qemu_compare,
    qemu_img,
    random_disk,
    read_image,
    tail,
    write_image,
    write_sparse,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import GIB, SECTOR_BYTES, TIB
from imgstore.formats import LocalFile, create_writer, open_disk, padded_bytes

OWN = [DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC, DiskFormat.RAW]


@st.composite
def disks(draw: st.DrawFn, *, unit: int) -> tuple[int, list[Extent]]:
    """Generate a size of a few MiB, a multiple of `unit`, and disjoint sorted ranges."""
    virtual_bytes = draw(st.integers(1, 9 * MIB // unit)) * unit
    cuts = sorted(draw(st.lists(st.integers(0, virtual_bytes), max_size=8, unique=True)))
    return virtual_bytes, [
        Extent(offset=low, length=high - low) for low, high in zip(cuts[::2], cuts[1::2], strict=False)
    ]


@pytest.mark.parametrize("form", OWN)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_write_then_read_is_the_identity(form: DiskFormat, data: st.DataObject) -> None:
    """For any size that the container can hold and any extents, written in any order."""
    virtual_bytes, spans = data.draw(disks(unit=1 if form is DiskFormat.RAW else 512))
    disk = random_disk(virtual_bytes, spans)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = create_writer(
            folder / "disk", format=form, virtual_bytes=virtual_bytes, extents=spans, disk_digest=DIGEST
        )
        for span in data.draw(st.permutations(spans)):
            writer.write_at(span.offset, memoryview(disk)[span.offset : span.end])
            assert writer.read_at(span.offset, span.length) == disk[span.offset : span.end]
        writer.publish()
        assert read_image(folder / "disk", form, folder) == disk


@pytest.mark.engine("qemu-img")
@settings(max_examples=4, deadline=None)
@given(drawn=disks(unit=512))
def test_qcow2_write_then_read_is_the_identity(drawn: tuple[int, list[Extent]]) -> None:
    virtual_bytes, spans = drawn
    disk = random_disk(virtual_bytes, spans)
    with tempfile.TemporaryDirectory() as name:
        image = write_image(Path(name) / "disk.qcow2", DiskFormat.QCOW2, disk, spans)
        qemu_img("check", "-f", "qcow2", image)
        qemu_compare(image, DiskFormat.QCOW2, write_sparse(Path(name) / "disk.raw", disk))
        assert read_image(image, None, Path(name) / "scratch") == disk
        assert names_in(Path(name)) == ["disk.qcow2", "disk.raw", "scratch"]
        assert names_in(Path(name) / "scratch") == []


def _rewrite(image: Path, scratch: Path, form: DiskFormat | None = None) -> Path:
    """Read the image, and write it in its original container."""
    source = LocalFile(image)
    reader = open_disk(source, format=form, scratch=scratch)
    spans = list(reader.extents())
    copy = image.with_name("copy-" + image.name)
    writer = create_writer(
        copy,
        format=reader.container_metadata.format,
        virtual_bytes=reader.virtual_bytes,
        extents=spans,
        disk_digest=DIGEST,
        container_metadata=reader.container_metadata,
    )
    for span in spans:
        writer.write_at(span.offset, reader.read_at(span.offset, span.length))
    writer.publish()
    source.close()
    return copy


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("virtual_bytes", [512, 4096, 5 * MIB, 5 * MIB + 512, 9 * MIB - 1536])
def test_a_fixed_vhd_of_qemu_is_restored_byte_for_byte(tmp_path: Path, virtual_bytes: int) -> None:
    """Its footer is not from imgstore: another creator, unique id and time stamp."""
    raw = write_sparse(tmp_path / "disk.raw", random_disk(virtual_bytes, [Extent(offset=0, length=virtual_bytes // 2)]))
    image = tmp_path / "disk.vhd"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, image)

    assert _rewrite(image, tmp_path).read_bytes() == image.read_bytes()
    # Invariant B16.
    assert tail(image)[28:32] == b"qem2"


@pytest.mark.parametrize("virtual_bytes", [1, 511, 512, 4095, 4097, MIB + 13, 8 * MIB + 1])
def test_a_raw_file_of_any_size_is_restored_byte_for_byte(tmp_path: Path, virtual_bytes: int) -> None:
    """Invariant B8. A person names the format of a file below one sector."""
    image = write_sparse(tmp_path / "disk.raw", random_disk(virtual_bytes, [Extent(offset=0, length=virtual_bytes)]))
    form = DiskFormat.RAW if virtual_bytes < SECTOR_BYTES else None
    assert _rewrite(image, tmp_path, form).read_bytes() == image.read_bytes()


@pytest.mark.parametrize("form", [DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC, DiskFormat.QCOW2])
def test_a_size_that_the_container_cannot_hold_is_refused_with_the_padded_size(
    tmp_path: Path, form: DiskFormat
) -> None:
    offered = 2 * MIB if form is not DiskFormat.QCOW2 else MIB + 512
    with pytest.raises(InvalidInput, match=f"--pad` to make it {offered:,} bytes"):
        create_writer(tmp_path / "d", format=form, virtual_bytes=MIB + 13, extents=[], disk_digest=DIGEST)
    # Invariant F8.
    assert names_in(tmp_path) == []


def test_padding_adds_zeros(tmp_path: Path) -> None:
    disk = b"x" * 1000
    path = tmp_path / "d.vhd"
    writer = create_writer(
        path,
        format=DiskFormat.VHD_FIXED,
        virtual_bytes=len(disk),
        extents=[Extent(offset=0, length=len(disk))],
        disk_digest=DIGEST,
        pad=True,
    )
    writer.write_at(0, disk + b"beyond the disk: writers cut there")
    writer.publish()
    assert read_image(path, None, tmp_path) == disk.ljust(MIB, b"\0")
    assert [padded_bytes(1000, form) for form in (*OWN, DiskFormat.QCOW2)] == [MIB, MIB, 1000, 1024]


def test_a_dynamic_vhd_holds_at_most_2040_gib(tmp_path: Path) -> None:
    writer = create_writer(
        tmp_path / "d", format=DiskFormat.VHD_DYNAMIC, virtual_bytes=2040 * GIB, extents=[], disk_digest=DIGEST
    )
    writer.publish()
    source = LocalFile(tmp_path / "d")
    assert open_disk(source, scratch=tmp_path).virtual_bytes == 2040 * GIB
    source.close()
    with pytest.raises(InvalidInput, match="2,040 GiB"):
        create_writer(
            tmp_path / "e",
            format=DiskFormat.VHD_DYNAMIC,
            virtual_bytes=2040 * GIB + 512,
            extents=[],
            disk_digest=DIGEST,
        )
    assert names_in(tmp_path) == ["d"]


@pytest.mark.parametrize(("form", "virtual_bytes"), [(DiskFormat.RAW, TIB), (DiskFormat.VHD_FIXED, 127 * GIB)])
def test_a_huge_sparse_disk_takes_only_its_data(tmp_path: Path, form: DiskFormat, virtual_bytes: int) -> None:
    span = Extent(offset=virtual_bytes - MIB, length=4096)
    writer = create_writer(tmp_path / "d", format=form, virtual_bytes=virtual_bytes, extents=[span], disk_digest=DIGEST)
    writer.write_at(span.offset, b"x" * 4096)
    writer.publish()

    source = LocalFile(tmp_path / "d")
    reader = open_disk(source, scratch=tmp_path)
    assert reader.virtual_bytes == virtual_bytes
    assert list(reader.extents()) == [span]
    assert (tmp_path / "d").stat().st_blocks * 512 <= 16384
    source.close()
