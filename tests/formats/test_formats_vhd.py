"""Tests of fixed and dynamic VHD: comparisons with qemu-img in both directions, and every kind of damage."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from formats_images import (
    DIGEST,
    MIB,
    MemorySource,
    names_in,
    patch,
    qemu_compare,
    qemu_img,
    qemu_info,
    random_disk,
    read_image,
    reseal_footer,
    reseal_header,
    tail,
    write_image,
    write_sparse,
)

from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.domain.errors import ImageRefused, ImageTruncated, SafetyCheckFailed
from imgstore.domain.storage.sizes import GIB
from imgstore.formats import LocalFile, create_writer, inspect_image, open_disk
from imgstore.formats.vhd import examine_dynamic
from imgstore.formats.vhd_layout import Geometry, is_sound_footer, pack_footer

FIXED, DYNAMIC = DiskFormat.VHD_FIXED, DiskFormat.VHD_DYNAMIC

ODD_BYTES = 5 * MIB + 3 * 512
"""A multiple of 512 but neither of 4 KiB nor of 4 MiB."""
SPANS = [Extent(offset=0, length=70_000), Extent(offset=4 * MIB + 512, length=MIB + 1024)]


@pytest.fixture
def disk() -> bytes:
    return random_disk(ODD_BYTES, SPANS)


@pytest.fixture
def fixed(tmp_path: Path, disk: bytes) -> Path:
    return write_image(tmp_path / "fixed.vhd", FIXED, disk, SPANS)


@pytest.fixture
def dynamic(tmp_path: Path, disk: bytes) -> Path:
    return write_image(tmp_path / "dynamic.vhd", DYNAMIC, disk, SPANS)


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("form", [FIXED, DYNAMIC])
def test_qemu_img_reads_written_images(tmp_path: Path, disk: bytes, form: DiskFormat) -> None:
    image = write_image(tmp_path / "ours.vhd", form, disk, SPANS)
    raw = write_sparse(tmp_path / "disk.raw", disk)

    assert qemu_info(image, form)["virtual-size"] == ODD_BYTES
    qemu_compare(image, form, raw)


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize(("form", "subformat"), [(FIXED, "fixed"), (DYNAMIC, "dynamic")])
def test_images_of_qemu_img_are_read(tmp_path: Path, disk: bytes, form: DiskFormat, subformat: str) -> None:
    raw, image = write_sparse(tmp_path / "disk.raw", disk), tmp_path / "qemu.vhd"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={subformat},force_size=on", raw, image)

    assert read_image(image, None, tmp_path) == disk


@pytest.mark.engine("qemu-img")
def test_the_current_size_is_used_and_not_the_geometry(tmp_path: Path) -> None:
    """For an unknown creator, qemu-img reads 1,074,511,872 from the geometry instead of 1,074,790,400."""
    image = tmp_path / "big.vhd"
    writer = create_writer(image, format=FIXED, virtual_bytes=1_074_790_400, extents=[], disk_digest=DIGEST)
    writer.publish()
    assert qemu_info(image, FIXED)["virtual-size"] == 1_074_790_400

    patch(image, -512, reseal_footer(tail(image), creator=b"none", geometry=b"\x08\x20\x10\x3f"))
    source = LocalFile(image)
    inspection = inspect_image(source, scratch=tmp_path)
    assert inspection.virtual_bytes == 1_074_790_400
    assert any("CHS geometry is 1,073,479,680 bytes" in note for note in inspection.notes)
    # Invariant F4.
    source.close()


def test_a_footer_depends_on_the_disk_only(tmp_path: Path, disk: bytes) -> None:
    first = write_image(tmp_path / "first.vhd", FIXED, disk).read_bytes()
    again = write_image(tmp_path / "again.vhd", FIXED, disk).read_bytes()

    footer = first[-512:]
    assert first == again
    assert footer[24:28] == bytes(4), "time stamp"
    assert footer[28:32] == b"win "
    assert footer[36:40] == b"Wi2k"
    assert struct.unpack(">Q", footer[48:56]) == (ODD_BYTES,)
    assert footer[68:84] == DIGEST[:16]


@pytest.mark.parametrize(
    ("virtual_bytes", "cylinders", "heads", "sectors"),
    [
        (20 * MIB, 602, 4, 17),
        (40 * MIB, 963, 5, 17),
        (127 * GIB, 65278, 16, 255),
        (2040 * GIB, 65535, 16, 255),
    ],
)
def test_the_geometry_follows_the_appendix(virtual_bytes: int, cylinders: int, heads: int, sectors: int) -> None:
    geometry = Geometry.of(virtual_bytes)
    assert (geometry.cylinders, geometry.heads, geometry.sectors) == (cylinders, heads, sectors)


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("mebibytes", [3, 30, 300, 3_000, 31_000, 130_000, 1_500_000])
def test_geometry_agrees_with_qemu(tmp_path: Path, mebibytes: int) -> None:
    image = tmp_path / "q.vhd"
    qemu_img("create", "-q", "-f", "vpc", "-o", "force_size=off", image, f"{mebibytes}M")
    footer = tail(image)
    (size,) = struct.unpack(">Q", footer[48:56])
    geometry = Geometry.of(size)
    assert struct.pack(">HBB", geometry.cylinders, geometry.heads, geometry.sectors) == footer[56:60]


def test_a_dynamic_vhd_has_only_touched_blocks(tmp_path: Path) -> None:
    virtual_bytes = 100 * GIB
    path = tmp_path / "sparse.vhd"
    span = Extent(offset=50 * GIB + 4096, length=4096)
    writer = create_writer(path, format=DYNAMIC, virtual_bytes=virtual_bytes, extents=[span], disk_digest=DIGEST)
    writer.write_at(span.offset, b"x" * 4096)
    assert writer.read_at(span.offset - 8, 16) == bytes(8) + b"x" * 8
    assert writer.read_at(0, 16) == bytes(16)
    writer.publish()

    assert path.stat().st_size < 3 * MIB
    source = LocalFile(path)
    reader = open_disk(source, scratch=tmp_path)
    assert list(reader.extents()) == [span]
    assert reader.read_at(span.offset - 1, 4098) == b"\0" + b"x" * 4096 + b"\0"
    source.close()


def test_blocks_in_any_order_are_read_in_disk_order(tmp_path: Path, dynamic: Path, disk: bytes) -> None:
    """Swapping two blocks of the file and their table entries changes nothing."""
    data = bytearray(dynamic.read_bytes())
    first, second = (struct.unpack_from(">I", data, 1536 + 4 * block)[0] * 512 for block in (0, 2))
    pitch = 512 + 2 * MIB
    data[first : first + pitch], data[second : second + pitch] = (
        data[second : second + pitch],
        data[first : first + pitch],
    )
    struct.pack_into(">I", data, 1536, second // 512)
    struct.pack_into(">I", data, 1536 + 8, first // 512)
    dynamic.write_bytes(data)

    assert read_image(dynamic, None, tmp_path) == disk
    reader = open_disk(MemorySource(bytes(data)), scratch=tmp_path)
    assert reader.read_at(0, ODD_BYTES) == disk
    assert [(extent.offset, extent.end) for extent in reader.extents()] == [(0, 2 * MIB), (4 * MIB, ODD_BYTES)]


def test_bits_of_zero_over_bytes_are_reported_and_read_as_data(tmp_path: Path, dynamic: Path, disk: bytes) -> None:
    (sector,) = struct.unpack_from(">I", dynamic.read_bytes(), 1536)
    patch(dynamic, sector * 512, b"\x3f" + b"\xff" * 15)  # the bitmap marks the first two sectors as absent
    source = LocalFile(dynamic)

    inspection = inspect_image(source, scratch=tmp_path)

    assert any(note.startswith("2 sectors hold data although") for note in inspection.notes)
    assert all(check.passed for check in inspection.checks)
    assert read_image(dynamic, None, tmp_path) == disk
    source.close()


Damage = Callable[[bytes], bytes]


def _footer(**fields: bytes) -> Damage:
    return lambda data: data[:-512] + reseal_footer(data[-512:], **fields)


def _footers(**fields: bytes) -> Damage:
    return lambda data: reseal_footer(data[:512], **fields) + data[512:-512] + reseal_footer(data[-512:], **fields)


def _header(**fields: bytes) -> Damage:
    return lambda data: data[:512] + reseal_header(data[512:1536], **fields) + data[1536:]


def _bat(block: int, sector: int) -> Damage:
    return lambda data: data[: 1536 + 4 * block] + struct.pack(">I", sector) + data[1540 + 4 * block :]


def _bat_like(block: int, other: int, more: int = 0) -> Damage:
    def damage(data: bytes) -> bytes:
        (sector,) = struct.unpack_from(">I", data, 1536 + 4 * other)
        return _bat(block, sector + more)(data)

    return damage


def _at(offset: int, value: bytes) -> Damage:
    def damage(data: bytes) -> bytes:
        at = offset % len(data)
        return data[:at] + value + data[at + len(value) :]

    return damage


QUAD_MAX = b"\xff" * 8


@pytest.mark.parametrize(
    ("damage", "refused", "check"),
    [
        pytest.param(lambda data: data[:1000] + data[5000:], ImageTruncated, "size-matches-file", id="cut"),
        pytest.param(lambda data: bytes(512) + data, ImageRefused, "size-matches-file", id="too long"),
        pytest.param(lambda data: data[:-1], ImageRefused, "footer-present", id="511 bytes of footer"),
        pytest.param(_at(-448, b"abcd"), ImageRefused, "footer-checksum", id="checksum"),
        pytest.param(_at(-512, b"connectx"), ImageRefused, "footer-present", id="cookie"),
        pytest.param(_footer(disk_type=b"\0\0\0\4"), SafetyCheckFailed, "no-parent", id="differencing"),
        pytest.param(_footer(disk_type=b"\0\0\0\3"), ImageRefused, "disk-type", id="another type"),
        pytest.param(_footer(current_size=QUAD_MAX), SafetyCheckFailed, "virtual-size", id="overflow"),
        pytest.param(_footer(current_size=bytes(8)), SafetyCheckFailed, "virtual-size", id="no size"),
        pytest.param(
            _footer(current_size=struct.pack(">Q", ODD_BYTES + 1)), SafetyCheckFailed, "virtual-size", id="odd size"
        ),
        pytest.param(lambda data: data[:-512], ImageTruncated, "footer-present", id="no footer"),
        pytest.param(lambda data: data[:100], ImageTruncated, "footer-present", id="100 bytes"),
    ],
)
def test_a_damaged_fixed_vhd_is_refused_by_name(
    fixed: Path, tmp_path: Path, damage: Damage, refused: type[ImageRefused], check: str
) -> None:
    # Invariant F5.
    _assert_refused(fixed, FIXED, damage, refused, check, tmp_path)


@pytest.mark.parametrize(
    ("damage", "refused", "check"),
    [
        pytest.param(lambda data: data[:-600], ImageTruncated, "footer-present", id="cut"),
        pytest.param(_at(-200, b"x"), ImageRefused, "footer-checksum", id="footer"),
        pytest.param(_at(300, b"x"), ImageRefused, "footer-copies", id="copy"),
        pytest.param(_at(0, bytes(512)), ImageRefused, "footer-copies", id="no copy"),
        pytest.param(_footer(creator=b"else"), ImageRefused, "footer-copies", id="copies that differ"),
        pytest.param(_footers(disk_type=b"\0\0\0\4"), SafetyCheckFailed, "no-parent", id="differencing"),
        pytest.param(_footers(disk_type=b"\0\0\0\2"), ImageRefused, "disk-type", id="another type"),
        pytest.param(_footers(current_size=QUAD_MAX), SafetyCheckFailed, "virtual-size", id="overflow"),
        pytest.param(
            _footers(current_size=struct.pack(">Q", 2041 * GIB)), SafetyCheckFailed, "virtual-size", id="over 2040 GiB"
        ),
        pytest.param(_footers(data_offset=QUAD_MAX), ImageTruncated, "header-in-file", id="header outside"),
        pytest.param(_at(512, b"cxsparsf"), ImageRefused, "header-cookie", id="header cookie"),
        pytest.param(_at(900, b"x"), ImageRefused, "header-checksum", id="header checksum"),
        pytest.param(_header(version=b"\0\2\0\0"), ImageRefused, "header-version", id="header version"),
        pytest.param(_header(block_size=bytes(4)), ImageRefused, "block-size", id="no block size"),
        pytest.param(_header(block_size=b"\0\x20\0\1"), ImageRefused, "block-size", id="odd block size"),
        pytest.param(_header(block_size=b"\0\0\1\0"), ImageRefused, "block-size", id="256-byte blocks"),
        pytest.param(_header(entries=b"\0\0\0\2"), ImageRefused, "bat-covers-disk", id="short table"),
        pytest.param(_header(entries=b"\xff" * 4), ImageTruncated, "bat-table-in-file", id="huge table"),
        pytest.param(_header(table_offset=QUAD_MAX), ImageTruncated, "bat-table-in-file", id="table outside"),
        pytest.param(_bat(1, 0xFFFFFFFE), ImageTruncated, "bat-in-file", id="entry outside the file"),
        pytest.param(_bat(1, 0), ImageRefused, "bat-in-file", id="entry over the footer copy"),
        pytest.param(_bat(1, 3), ImageRefused, "bat-in-file", id="entry over the table"),
        pytest.param(_bat_like(1, 0), ImageRefused, "bat-unique", id="entry used twice"),
        pytest.param(_bat_like(1, 0, 8), ImageRefused, "bat-unique", id="overlap"),
    ],
)
def test_a_damaged_dynamic_vhd_is_refused_by_name(
    dynamic: Path, tmp_path: Path, damage: Damage, refused: type[ImageRefused], check: str
) -> None:
    _assert_refused(dynamic, DYNAMIC, damage, refused, check, tmp_path)


def _assert_refused(
    path: Path, form: DiskFormat, damage: Damage, refused: type[ImageRefused], check: str, tmp_path: Path
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    source = LocalFile(path)
    try:
        with pytest.raises(refused) as caught:
            open_disk(source, format=form, scratch=tmp_path)
        inspection = inspect_image(source, format=form, scratch=tmp_path)
        with pytest.raises(ImageRefused):  # without a named format, the file is not detected as another format either
            open_disk(source, scratch=tmp_path)
    finally:
        source.close()
    assert type(caught.value) is refused
    assert f"'{check}'" in caught.value.message
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.hint
    assert [each.name for each in inspection.checks if not each.passed][:1] == [check]
    assert not inspection.azure_ready
    assert names_in(tmp_path) == [path.name]


def test_a_damaged_footer_reports_the_intact_copy(dynamic: Path, tmp_path: Path) -> None:
    patch(dynamic, -100, b"x")
    source = LocalFile(dynamic)
    with pytest.raises(ImageRefused, match="its copy at offset 0 is right"):
        open_disk(source, scratch=tmp_path)
    source.close()


def test_a_table_of_gigabytes_is_refused(tmp_path: Path, dynamic: Path) -> None:
    """2,040 GiB in blocks of 512 bytes: 16 GiB of table in a sparse file."""
    data = dynamic.read_bytes()
    footer = reseal_footer(data[:512], current_size=struct.pack(">Q", 2040 * GIB))
    entries = 2040 * GIB // 512 - 1
    header = reseal_header(data[512:1536], block_size=b"\0\0\2\0", entries=struct.pack(">I", entries))
    bomb = tmp_path / "bomb.vhd"
    with open(bomb, "wb") as file:
        file.write(footer + header)
        file.seek(4 * entries + 8192)
        file.write(footer)
    source = LocalFile(bomb)
    assert [f.check for f in examine_dynamic(source).findings if not f.passed] == ["bat-covers-disk", "bat-size"]
    source.close()


@pytest.mark.parametrize("form", [FIXED, DYNAMIC])
def test_any_flipped_byte_of_the_structures_is_refused(tmp_path: Path, form: DiskFormat) -> None:
    """Every byte of the footers and the header. The checksums are sums, so a single changed byte always shows."""
    disk = random_disk(MIB, [Extent(offset=0, length=4096)])
    data = write_image(tmp_path / "v.vhd", form, disk).read_bytes()
    places = [*range(len(data) - 512, len(data)), *(range(1536) if form is DYNAMIC else ())]
    for place in places:
        damaged = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises(ImageRefused):
            open_disk(MemorySource(damaged), scratch=tmp_path)
    assert read_image(tmp_path / "v.vhd", None, tmp_path) == disk


def test_a_generated_footer_is_sound() -> None:
    assert is_sound_footer(pack_footer(virtual_bytes=MIB, disk_type=2, disk_digest=DIGEST))
