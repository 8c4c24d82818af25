"""Tests of qcow2, VHDX and VMDK: read through qemu-img, after checks that refuse each danger by name."""

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from formats_images import (
    MIB,
    MemorySource,
    names_in,
    patch,
    qemu_img,
    random_disk,
    read_image,
    write_image,
    write_sparse,
)

from imgstore.domain.disks.sources import DiskFormat, Extent
from imgstore.domain.errors import ImageRefused, ImageTruncated, SafetyCheckFailed, ToolMissing
from imgstore.formats import LocalFile, inspect_image, open_disk
from imgstore.formats.qemu.qemu_formats import examine_converted

QCOW2, VHDX, VMDK = DiskFormat.QCOW2, DiskFormat.VHDX, DiskFormat.VMDK
VIRTUAL_BYTES = 5 * MIB + 512
SPANS = [Extent(offset=4096, length=100_000), Extent(offset=4 * MIB, length=MIB + 512)]

needs_qemu = pytest.mark.engine("qemu-img")


@pytest.fixture
def disk() -> bytes:
    return random_disk(VIRTUAL_BYTES, SPANS)


@pytest.fixture
def make(tmp_path: Path, disk: bytes) -> Callable[..., Path]:
    """Make an image of `disk` by qemu-img, alone in a folder: make(format, "option=value", ...)."""

    def image(form: DiskFormat, *options: str) -> Path:
        raw = write_sparse(tmp_path / "disk.raw", disk)
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        path = folder / f"disk.{form.value}"
        given = [word for option in options for word in ("-o", option)]
        qemu_img("convert", "-f", "raw", "-O", form.value, *given, raw, path)
        return path

    return image


def _open_refused(path: Path, form: DiskFormat | None, scratch: Path) -> ImageRefused:
    """Return the error of opening. Inspecting reports the same, and neither leaves files."""
    source = LocalFile(path)
    try:
        with pytest.raises(ImageRefused) as caught:
            open_disk(source, format=form, scratch=scratch)
        failed = [
            check.name for check in inspect_image(source, format=form, scratch=scratch).checks if not check.passed
        ]
    finally:
        source.close()
    assert f"'{failed[0]}'" in caught.value.message
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.hint
    assert not scratch.exists() or names_in(scratch) == []
    return caught.value


@needs_qemu
@pytest.mark.parametrize(
    ("form", "options"),
    [
        (QCOW2, ()),
        (QCOW2, ("compat=0.10",)),
        (QCOW2, ("cluster_size=512",)),
        (QCOW2, ("compression_type=zstd",)),
        (VHDX, ()),
        (VHDX, ("subformat=fixed",)),
        (VMDK, ()),
        (VMDK, ("subformat=streamOptimized",)),
    ],
)
def test_images_of_qemu_img_are_read(
    tmp_path: Path, make: Callable[..., Path], disk: bytes, form: DiskFormat, options: tuple[str, ...]
) -> None:
    image = make(form, *options)
    assert read_image(image, None, tmp_path / "scratch") == disk
    assert names_in(tmp_path / "scratch") == []


@needs_qemu
@pytest.mark.parametrize("form", [QCOW2, VHDX, VMDK])
def test_a_source_that_is_no_file_is_copied_first(
    tmp_path: Path, make: Callable[..., Path], disk: bytes, form: DiskFormat
) -> None:
    source = MemorySource(make(form).read_bytes())
    reader = open_disk(source, scratch=tmp_path / "scratch")

    assert reader.read_at(0, VIRTUAL_BYTES) == disk
    assert reader.identity() == source.identity()
    assert [names_in(folder) for folder in (tmp_path / "scratch").iterdir()] == [["disk.raw"]]
    reader.close()
    reader.close()
    assert names_in(tmp_path / "scratch") == []


@needs_qemu
def test_inspection_reads_the_disk(tmp_path: Path, make: Callable[..., Path]) -> None:
    image = make(QCOW2)
    source = LocalFile(image)
    inspection = inspect_image(source, scratch=tmp_path / "scratch")
    source.close()

    assert inspection.virtual_bytes == VIRTUAL_BYTES
    assert inspection.data_bytes is not None
    assert 100_000 + MIB <= inspection.data_bytes < 2 * MIB
    assert {"has_backing_file", "has_data_file", "unknown_features", "oslo-safety-checks"} <= {
        check.name for check in inspection.checks if check.passed
    }
    assert names_in(tmp_path / "scratch") == []


@needs_qemu
def test_a_backing_file_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    base = make(QCOW2)
    image = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, image)

    refused = _open_refused(image, None, tmp_path / "scratch")
    assert isinstance(refused, SafetyCheckFailed)
    # Invariant F2.
    assert refused.check == "has_backing_file"


@needs_qemu
def test_a_data_file_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "outside.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/secret,data_file_raw=on", image, "1M")

    refused = _open_refused(image, None, tmp_path / "scratch")
    assert isinstance(refused, SafetyCheckFailed)
    assert refused.check == "has_data_file"


@needs_qemu
@pytest.mark.parametrize(
    ("offset", "value", "kind", "check"),
    [
        (72, (1 << 0).to_bytes(8), ImageRefused, "not-dirty"),
        (72, (1 << 1).to_bytes(8), ImageRefused, "not-corrupt"),
        (72, (1 << 4).to_bytes(8), SafetyCheckFailed, "unknown_features"),
        (72, (1 << 63).to_bytes(8), SafetyCheckFailed, "unknown_features"),
        (32, (2).to_bytes(4), SafetyCheckFailed, "not-encrypted"),
        (4, (9).to_bytes(4), SafetyCheckFailed, "known-version"),
        (20, (40).to_bytes(4), SafetyCheckFailed, "cluster-size"),
        (24, (1 << 62).to_bytes(8), SafetyCheckFailed, "virtual-size"),
        (24, bytes(8), SafetyCheckFailed, "virtual-size"),
        (36, (1 << 30).to_bytes(4), SafetyCheckFailed, "table-sizes"),
        (56, (1 << 30).to_bytes(4), SafetyCheckFailed, "table-sizes"),
        (60, (1 << 30).to_bytes(4), SafetyCheckFailed, "table-sizes"),
        (40, (1 << 62).to_bytes(8), ImageTruncated, "l1-table-in-file"),
        (48, (1 << 62).to_bytes(8), ImageTruncated, "refcount-table-in-file"),
    ],
)
def test_a_false_qcow2_header_is_refused_by_name(
    tmp_path: Path, make: Callable[..., Path], offset: int, value: bytes, kind: type[ImageRefused], check: str
) -> None:
    refused = _open_refused(patch(make(QCOW2), offset, value), None, tmp_path / "scratch")
    assert type(refused) is kind
    assert f"'{check}'" in refused.message


@needs_qemu
def test_an_unknown_feature_is_named_by_its_bit(tmp_path: Path, make: Callable[..., Path]) -> None:
    refused = _open_refused(patch(make(QCOW2), 72, (1 << 40 | 1 << 4).to_bytes(8)), None, tmp_path / "scratch")
    # Invariant F3.
    assert refused.found == "extended L2 entries, incompatible feature bit 40"


@needs_qemu
def test_damage_after_the_checks_is_found_by_qemu_img(tmp_path: Path, make: Callable[..., Path]) -> None:
    """A compressed cluster with wrong bytes: the error quotes qemu-img, and no file remains."""
    raw, image = tmp_path / "disk.raw", make(QCOW2)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", write_sparse(raw, b"disk" * MIB), image)
    data = image.read_bytes()
    (l1_at,) = struct.unpack_from(">Q", data, 40)
    l2_at = struct.unpack_from(">Q", data, l1_at)[0] & 0x00FFFFFFFFFFFE00
    start = struct.unpack_from(">Q", data, l2_at)[0] & ((1 << 54) - 1)
    patch(image, start, b"\xff" * 64)
    source = LocalFile(image)
    with pytest.raises(ImageRefused, match="qemu-img could not convert"):
        open_disk(source, scratch=tmp_path / "scratch")
    failed = [c.name for c in inspect_image(source, scratch=tmp_path / "scratch").checks if not c.passed]
    assert failed == ["qemu-img-reads-it"]
    assert names_in(tmp_path / "scratch") == []
    source.close()


@needs_qemu
@pytest.mark.parametrize(
    ("form", "options", "check"),
    [
        (QCOW2, (), "clusters-in-file"),
        (QCOW2, ("cluster_size=512",), "clusters-in-file"),
        (QCOW2, ("preallocation=metadata",), "clusters-in-file"),
        (VMDK, (), "grains-in-file"),
        (VMDK, ("subformat=streamOptimized",), "grains-in-file"),
    ],
)
@pytest.mark.parametrize("lost", [65536, MIB])
def test_a_file_truncated_after_its_headers_is_refused(
    tmp_path: Path, make: Callable[..., Path], form: DiskFormat, options: tuple[str, ...], check: str, lost: int
) -> None:
    """qemu-img itself would read the missing data as zeros."""
    image = make(form, *options)
    assert all_pass(image, form)
    os.truncate(image, image.stat().st_size - lost)
    refused = _open_refused(image, None, tmp_path / "scratch")
    assert isinstance(refused, ImageTruncated)
    assert f"'{check}'" in refused.message


def all_pass(image: Path, form: DiskFormat) -> bool:
    source = LocalFile(image)
    try:
        return all(finding.passed for finding in examine_converted(source, form).findings)
    finally:
        source.close()


@needs_qemu
@pytest.mark.parametrize("cluster_bytes", [512, 65536, 2 * MIB])
@pytest.mark.parametrize("virtual_bytes", [512, MIB + 512])
def test_honest_compressed_files_of_any_size_pass(tmp_path: Path, cluster_bytes: int, virtual_bytes: int) -> None:
    half = bytes(range(256)) * (virtual_bytes // 512)
    disk = half.ljust(virtual_bytes, b"z")
    raw, image = write_sparse(tmp_path / "disk.raw", disk), tmp_path / "disk.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster_bytes}", raw, image)
    assert all_pass(image, QCOW2)
    plain = tmp_path / "plain.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster_bytes}", raw, plain)
    assert all_pass(plain, QCOW2)


@needs_qemu
@pytest.mark.parametrize("form", [QCOW2, VHDX, VMDK])
@pytest.mark.parametrize("kept", [6, 70, 300])
def test_a_truncated_header_is_refused(tmp_path: Path, make: Callable[..., Path], form: DiskFormat, kept: int) -> None:
    image = make(form)
    image.write_bytes(image.read_bytes()[:kept])
    assert isinstance(_open_refused(image, form, tmp_path / "scratch"), ImageRefused)


@needs_qemu
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_vmdk_with_outside_extents_is_refused(tmp_path: Path, make: Callable[..., Path], subformat: str) -> None:
    refused = _open_refused(make(VMDK, f"subformat={subformat}"), None, tmp_path / "scratch")
    assert isinstance(refused, SafetyCheckFailed)
    assert "of a disk in other files" in str(refused.found)


def _descriptor(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        text = change(data[512:10752].rstrip(b"\0"))
        return data[:512] + text.ljust(10240, b"\0") + data[10752:]

    return damage


@needs_qemu
@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (_descriptor(lambda text: text.replace(b"monolithicSparse", b"monolithicFlat")), "create-type"),
        (_descriptor(lambda text: text.replace(b' SPARSE "', b' FLAT "/etc/')), "no-outside-extents"),
        (_descriptor(lambda text: text.replace(b' SPARSE "', b' SPARSE "../')), "no-outside-extents"),
        (_descriptor(lambda text: text + b'\nRW 8 FLAT "other" 0\n'), "no-outside-extents"),
        (_descriptor(lambda text: text.replace(b"parentCID=ffffffff", b"parentCID=12345678")), "no-parent"),
        (_descriptor(lambda text: text + b'\nparentFileNameHint="/etc/shadow"\n'), "no-parent"),
        (_descriptor(lambda text: text + b"\nsomething else\n"), "oslo-safety-checks"),
        (lambda data: data[:12] + bytes(8) + data[20:], "virtual-size"),
        (lambda data: data[:12] + b"\xff" * 8 + data[20:], "virtual-size"),
        (lambda data: data[:44] + b"\xff" * 4 + data[48:], "table-sizes"),
        (lambda data: data[:36] + b"\xff" * 6 + data[42:], "descriptor-size"),
        (lambda data: data[:56] + b"\xff" * 6 + data[62:], "grain-directory-in-file"),
    ],
)
def test_a_vmdk_with_outside_references_or_false_fields_is_refused(
    tmp_path: Path, make: Callable[..., Path], damage: Callable[[bytes], bytes], check: str
) -> None:
    image = make(VMDK)
    image.write_bytes(damage(image.read_bytes()))
    assert f"'{check}'" in _open_refused(image, None, tmp_path / "scratch").message


@needs_qemu
def test_a_vmdk_with_its_directory_in_the_footer_is_read(
    tmp_path: Path, make: Callable[..., Path], disk: bytes
) -> None:
    """VMware streams such files: the header refers to the footer. qemu-img never writes such files, but reads them."""
    image = make(VMDK, "subformat=streamOptimized")
    data = image.read_bytes().ljust(-(-image.stat().st_size // 512) * 512, b"\0")
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    image.write_bytes(data[:56] + b"\xff" * 8 + data[64:] + marker + data[:512] + bytes(512))
    assert read_image(image, None, tmp_path / "scratch") == disk

    os.truncate(image, image.stat().st_size - 1024)
    refused = _open_refused(image, None, tmp_path / "scratch")
    assert "no footer with the offset of the grain directory" in str(refused.found)


def _vhdx_item(data: bytes, guid_start: bytes) -> int:
    """Find the file offset of a metadata item, without the code under test."""
    entry = data.index(guid_start, 3 * MIB)
    (offset,) = struct.unpack_from("<I", data, entry + 16)
    return 3 * MIB + int(offset)


@needs_qemu
def test_a_vhdx_with_a_parent_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    image = make(VHDX)
    at = _vhdx_item(image.read_bytes(), bytes.fromhex("3767a1ca36fa434d"))
    refused = _open_refused(patch(image, at + 4, b"\2\0\0\0"), None, tmp_path / "scratch")
    assert isinstance(refused, SafetyCheckFailed)
    assert refused.check == "no-parent"


@needs_qemu
@pytest.mark.parametrize("size", [1 << 62, 0, 1025])
def test_a_false_vhdx_size_is_refused(tmp_path: Path, make: Callable[..., Path], size: int) -> None:
    image = make(VHDX)
    at = _vhdx_item(image.read_bytes(), bytes.fromhex("2442a52f1bcd7648"))
    refused = _open_refused(patch(image, at, size.to_bytes(8, "little")), None, tmp_path / "scratch")
    assert isinstance(refused, SafetyCheckFailed)
    assert refused.check == "virtual-size"


@needs_qemu
def test_a_truncated_vhdx_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    image = make(VHDX)
    image.write_bytes(image.read_bytes()[: 3 * MIB])
    assert isinstance(_open_refused(image, None, tmp_path / "scratch"), ImageTruncated)


@needs_qemu
def test_without_oslo_the_extra_is_named(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LocalFile(make(QCOW2))
    monkeypatch.setitem(sys.modules, "oslo_utils.imageutils", None)
    with pytest.raises(ToolMissing) as caught:
        open_disk(source, scratch=tmp_path / "scratch")
    inspection = inspect_image(source, scratch=tmp_path / "scratch")
    source.close()

    assert caught.value.hint == "pip install 'imgstore-gallery[formats]'"
    assert any("pip install 'imgstore-gallery[formats]'" in note for note in inspection.notes)
    assert inspection.virtual_bytes == VIRTUAL_BYTES
    assert inspection.data_bytes is None


@needs_qemu
def test_without_qemu_img_the_package_is_named_and_all_else_works(
    tmp_path: Path, make: Callable[..., Path], disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make(QCOW2)
    monkeypatch.setenv("PATH", str(tmp_path))
    source = LocalFile(image)
    with pytest.raises(ToolMissing, match="apt install qemu-utils"):
        open_disk(source, scratch=tmp_path / "scratch")
    assert any("apt install qemu-utils" in note for note in inspect_image(source, scratch=tmp_path / "scratch").notes)
    source.close()
    with pytest.raises(ToolMissing, match="apt install qemu-utils"):
        write_image(tmp_path / "out.qcow2", QCOW2, disk)

    assert not (tmp_path / "scratch").exists()
    assert names_in(tmp_path) == ["disk.raw", "images"]
    image = write_image(tmp_path / "out.vhd", DiskFormat.VHD_DYNAMIC, disk)
    assert read_image(image, None, tmp_path / "scratch") == disk


@needs_qemu
def test_qemu_img_is_confined(tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can start in this memory limit: imgstore raises the refusal, and the folder is removed."""
    monkeypatch.setattr("imgstore.formats.qemu.qemu_img.ADDRESS_SPACE_BYTES_MAX", 4 * MIB)
    source = LocalFile(make(QCOW2))
    with pytest.raises(ImageRefused, match="within its limits of memory and time"):
        open_disk(source, scratch=tmp_path / "scratch")
    assert names_in(tmp_path / "scratch") == []
    monkeypatch.setattr("imgstore.formats.qemu.qemu_img.ADDRESS_SPACE_BYTES_MAX", 2 << 30)
    monkeypatch.setattr("imgstore.formats.qemu.qemu_img.SECONDS_MIN", 0)
    with pytest.raises(ImageRefused, match="no end after 0 seconds"):
        open_disk(source, scratch=tmp_path / "scratch")
    assert names_in(tmp_path / "scratch") == []
    # Invariant F11.
    source.close()


@needs_qemu
def test_a_backing_file_that_appears_after_the_checks_is_not_opened(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A racing writer could do this. The overlay is read as if it had no parent."""
    base, overlay = make(QCOW2), tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay)
    source, clean = LocalFile(overlay), LocalFile(base)
    checked = examine_converted(clean, QCOW2)
    monkeypatch.setattr("imgstore.formats.qemu.qemu_reader.examine_converted", lambda *_: checked)
    monkeypatch.setattr("imgstore.formats.qemu.qemu_reader.oslo_finding", lambda *_: checked.findings[0])
    reader = open_disk(source, format=QCOW2, scratch=tmp_path / "scratch")

    assert reader.read_at(0, VIRTUAL_BYTES) == bytes(VIRTUAL_BYTES)
    reader.close()
    source.close()
    clean.close()
