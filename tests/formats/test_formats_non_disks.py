"""Tests of files that are no disk, and of disks that look a little like such files (invariant B8)."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from formats_images import MIB, MemorySource, qemu_img, read_image, write_image, write_sparse
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import ImageRefused
from imgstore.formats import inspect_image
from imgstore.formats.non_disks import HEAD_BYTES, TAIL_BYTES, is_text, recognize_non_disk

NOISE = random.Random(1).randbytes(8192)
HTML = "<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>nö</body></html>\n"
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
SENTENCE = "Le disque n'existe pas, déjà supprimé.\r\n"


def tar(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk.vmdk"), io.BytesIO())
    return file.getvalue() + data


def without_magic(archive: bytes) -> bytes:
    """Change the header of a tar archive to the format of 1979."""
    header = archive[:148] + b" " * 8 + archive[156:257] + bytes(255)
    return archive[:148] + f"{sum(header):06o}\0 ".encode() + archive[156:257] + bytes(255) + archive[512:]


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("disk.raw", data)
    return file.getvalue()


NON_DISKS = {
    "an HTML page": HTML.encode(),
    "an HTML page of Windows": b"\xef\xbb\xbf\r\n<HTML>" + NOISE,
    "an HTML page with a comment": b"<!-- cached\n -->\n<html lang=de>" + NOISE,
    "an HTML page after padding": HTML.encode().ljust(64 * 1024, b"\0"),
    "an HTML page in XHTML": b'<?xml version="1.0"?>\n<!-- a -->\n<!-- b --><!DOCTYPE html PUBLIC "x"><html>' + NOISE,
    "an HTML page in UTF-16": HTML.encode("utf-16"),
    "an XML error of an object store": S3_ERROR,
    "an XML error of an object store in UTF-16": S3_ERROR.decode().encode("utf-16"),
    "an XML error of an object store with a namespace": b'<Error xmlns="http://s3"><Code>NoSuchKey</Code></Error>',
    "an XML document": b"<?xml version='1.0'?><Envelope>" + b"<a/>" * 300,
    "a JSON document": b'{"error": {"code": "NotFound"}}',
    "a JSON document of 2 MB": b"[" + b'{"a": 1},\n' * 200_000 + b"0]",
    "a JSON document with a mark": b'\xef\xbb\xbf{"message": "Not Found"}',
    "a JSON document with padding": b'[ {"message": 404}]'.ljust(64 * 1024, b"\0"),
    "a Git LFS pointer": POINTER,
    "a git-annex pointer": b"/annex/objects/SHA256E-s12345--4d7a.raw\n",
    "a git-annex pointer of a submodule": b"../.git/modules/images/annex/objects/xx/yy/SHA256E-s1--x/SHA256E-s1--x",
    "a git-annex pointer of Windows": b"..\\.git\\annex\\objects\\xx\\yy\\SHA256E-s1--x",
    "a saved HTTP response": b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n" + NOISE,
    "a saved HTTP response of S3": b"10000;chunk-signature=" + b"a" * 64 + b"\r\n" + NOISE,
    "a MIME message of several parts": b"\r\n--x1\r\nContent-Range: bytes 0-8191/8192\r\n\r\n" + NOISE,
    "a script": b"#!/bin/bash\nexec tail -n +3 $0\n" + NOISE,
    "a text file": SENTENCE.encode() * 900,
    "a text file in Latin-1": SENTENCE.encode("latin-1") * 900,
    "a text file in an encoding of Russia": "Образ диска не найден\n".encode("koi8-r") * 300,
    "a text file in an encoding of Japan": "ディスクが見つかりません。\n".encode("shift-jis") * 300,
    "a text file in UTF-16 with quotation marks": "Le disque n\u2019existe pas\n".encode("utf-16-le") * 300,
    "a text file in UTF-16 without a mark and ASCII": "未找到磁盘映像。\n".encode("utf-16-be") * 300,
    "a text file with sections": b"[CloneCD]\nVersion=3\n",
    "a text file in UTF-16": SENTENCE.encode("utf-16") * 1,
    "a text file in UTF-16 without a mark": SENTENCE.encode("utf-16-le") * 900,
    "a text file in UTF-32": SENTENCE.encode("utf-32") * 1,
    "a text file of 4095 bytes in UTF-8": ("x" + "é" * 2047).encode() * 3,
    "a text file with padding": SENTENCE.encode().ljust(1024, b"\0"),
    "a text file with escapes": b"\x1b[31mERROR\x1b[0m no such image\n" * 200,
    "a gzip file": gzip.compress(NOISE),
    "an xz file": lzma.compress(NOISE),
    "an lzma file": lzma.compress(NOISE, lzma.FORMAT_ALONE),
    "an lzma file of 8 GB": b"\x5d\0\0\x80\0" + (8 << 30).to_bytes(8, "little") + b"\0" + NOISE,
    "a compressed file (LZFSE)": b"bvx2" + NOISE,
    "a bzip2 file": bz2.compress(NOISE),
    "a zstd file": b"\x28\xb5\x2f\xfd" + NOISE,
    "a zstd file with a skippable frame": b"\x50\x2a\x4d\x18" + NOISE,
    "an lz4 file": b"\x04\x22\x4d\x18" + NOISE,
    "an lz4 file of Linux": b"\x02\x21\x4c\x18" + NOISE,
    "a zip file": zipped(NOISE),
    "a tar archive": tar(NOISE),
    "a tar archive of 1979": without_magic(tar(NOISE)),
    "a torrent file without a tracker": b"d4:infod6:lengthi1e4:name3:abc12:piece lengthi16384e" + NOISE,
    "a stream of `zfs send`": struct.pack("<QQ", 17, 0x2F5BACBAC) + NOISE,
    "a backup of a file system": b"btrfs-stream\0\1\0\0\0" + NOISE,
    "an image of raw CD sectors": b"\0" + b"\xff" * 10 + b"\0\0\2\0\1" + NOISE,
    "a PGP file": b"\x8c\x0d\x04\x09\x03\x02" + NOISE,
    "a Linux kernel": NOISE[:510] + b"\x55\xaa\xeb\x66HdrS\x0f\x02" + NOISE,
    "a torrent file": b"d8:announce40:http://tracker.example/announce13:creation datei1ee" + NOISE,
    "a video": b"\0\0\0\x18ftypmp42" + NOISE,
    "a 7-Zip file": b"7z\xbc\xaf\x27\x1c" + NOISE,
    "a RAR archive": b"Rar!\x1a\x07\x01\0" + NOISE,
    "a cpio archive": b"070701" + b"0" * 104 + NOISE,
    "a cpio archive in binary": struct.pack("<13H", 0o070707, 1, 1, 0o100644, 0, 0, 1, 0, 0, 0, 6, 0, 9) + NOISE,
    "a cpio archive of a big-endian machine": struct.pack(">13H", 0o070707, *[1] * 2, 0o100644, *[0] * 6, 6, 0, 9)
    + NOISE,
    "an archive (LHA)": b"\x20\x5e-lh5-" + NOISE,
    "an RPM package": b"\xed\xab\xee\xdb\x03\0" + NOISE,
    "a Debian package": b"!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n" + NOISE,
    "an Apple disk image (dmg)": NOISE + b"koly" + (4).to_bytes(4, "big") + (512).to_bytes(4, "big") + bytes(500),
    "an Apple disk image (dmg), first version": b"koly" + struct.pack(">II", 4, 512) + NOISE,
    "an encrypted Apple disk image": b"encrcdsa\0\0\0\x02" + NOISE,
    "an encrypted Apple disk image, first version": NOISE + b"cdsaencr",
    "an Android sparse image": bytes.fromhex("3aff26ed010000001c000c0000100000") + NOISE,
    "a Windows image (WIM or ESD)": b"MSWIM\0\0\0" + NOISE,
    "an EWF image (Expert Witness)": b"EVF\x09\x0d\x0a\xff\0\x01\x01\0" + NOISE,
    "an EWF image of version 2": b"EVF2\x0d\x0a\x81\0" + NOISE,
    "a Bochs image": b"Bochs Virtual HD Image".ljust(32, b"\0") + NOISE,
    "a cloop image": b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n".ljust(128, b"\0") + NOISE,
    "a Parallels image": b"WithoutFreeSpace" + NOISE,
    "a Proxmox backup (VMA)": b"VMA\0\0\0\0\x01" + NOISE,
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + NOISE,
    "a picture": b"\x89PNG\r\n\x1a\n" + NOISE,
    "a Windows or EFI program": b"MZ".ljust(0x3C, b"\0") + b"\x80\0\0\0" + bytes(64) + b"PE\0\0" + NOISE,
    "a program (ELF)": Path(os.path.realpath(sys.executable)).read_bytes()[: 64 * 1024],
    "a file of 511 bytes": NOISE[:511],
    "a file of 1 bytes": b"\0",
}


@pytest.mark.parametrize("name", NON_DISKS)
def test_a_file_that_is_no_disk_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Invariant B8. A person may name the format."""
    data = NON_DISKS[name]
    path = write_sparse(tmp_path / "disk.img", data)
    with pytest.raises(ImageRefused, match="is not a disk") as refused:
        read_image(path, None, tmp_path)
    assert name.startswith(re.split(r" \(|,", str(refused.value.found))[0])
    assert "--source-format raw" in str(refused.value.hint)
    assert read_image(path, DiskFormat.RAW, tmp_path) == data


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize(
    ("form", "name"), [("vdi", "a VirtualBox VDI image"), ("qed", "a QED image"), ("parallels", "a Parallels image")]
)
def test_an_image_of_another_container_is_refused_by_name(tmp_path: Path, form: str, name: str) -> None:
    qemu_img("create", "-f", form, tmp_path / "disk.img", "4M")
    with pytest.raises(ImageRefused, match="is not a disk") as refused:
        read_image(tmp_path / "disk.img", None, tmp_path)
    assert refused.value.found == name


def test_inspection_reports_a_file_that_is_no_disk(tmp_path: Path) -> None:
    found = inspect_image(MemorySource(S3_ERROR), scratch=tmp_path)
    assert [(check.name, check.passed) for check in found.checks] == [
        ("is-a-disk", False),
        ("virtual-size", True),
        ("null", True),
    ]
    assert "an XML error of an object store" in found.checks[0].detail


def test_a_fixed_vhd_may_contain_any_bytes(tmp_path: Path) -> None:
    """The footer proves that the file is a disk."""
    disk = HTML.encode().ljust(8192, b"\0")
    path = write_image(tmp_path / "disk.vhd", DiskFormat.VHD_FIXED, disk)
    assert read_image(path, None, tmp_path) == disk


def mkfs(*words: str) -> Callable[[Path], Sequence[str]]:
    return lambda path: [*words, str(path)]


DISKS: dict[str, Callable[[Path], Sequence[str]]] = {
    "ext4": mkfs("mkfs.ext4", "-q", "-F"),
    "xfs": mkfs("mkfs.xfs", "-q"),
    "btrfs": mkfs("mkfs.btrfs", "-q"),
    "FAT": mkfs("mkfs.vfat"),
    "NTFS": mkfs("mkfs.ntfs", "-F", "-Q", "-q"),
    "swap": mkfs("mkswap", "-q"),
    "GPT": lambda path: ["parted", "-s", str(path), "mklabel", "gpt", "mkpart", "a", "1MiB", "100%"],
    "MBR": lambda path: ["parted", "-s", str(path), "mklabel", "msdos", "mkpart", "primary", "1MiB", "100%"],
    "Apple partition map": lambda path: ["parted", "-s", str(path), "mklabel", "mac"],
    "BSD label": lambda path: ["parted", "-s", str(path), "mklabel", "bsd"],
}


@pytest.mark.parametrize("kind", DISKS)
def test_a_disk_of_a_real_tool_is_a_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(512 * MIB)
    words = DISKS[kind](path)
    program = shutil.which(words[0], path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    subprocess.run([program, *words[1:]], check=True, capture_output=True, timeout=60)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-TAIL_BYTES, os.SEEK_END)
        assert recognize_non_disk(head, file.read(), path.stat().st_size) is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"LUKS\xba\xbe\0\x02",
        b"XFSB\0\0\x10\0",
        b"hsqs\x02\0\0\0",
        bytes(512) + b"LABELONE\x01\0\0\0\0\0\0\0",
        b"bluestore block device\n" + b"0" * 36 + b"\n\x01\x02\0\0",
        b"\xeb\x58\x90-FVE-FS-\0\x02\x08\0\0",
        b"MZ" + bytes(508) + b"\x55\xaa",
        b"ER\x02\0",
        b"PK" + NOISE,
        b"user-data\n",
        bytes(512) + b"INSTANCE=web1\nIMAGE=base\n" * 10,
        b"\xeb\x63\x90" + bytes(384) + b"GRUB \0Geom\0Hard Disk\0Read\0 Error\r\n\0",
        b"RDSK\0\0\0\x40",
        b"SUN18G cyl 7506 alt 2 hd 19 sec 248",
        b"-rom1fs-\0\x10\0\0",
        b"\x45\x3d\xcd\x28\0\x10\0\0",
        b"\x01\x82\x01\x01\0\0\0\0\0\0\0\x80",
        b"\xeb\x76\x90EXFAT   ",
        b"\xfa\xb8\0\x10\x8e\xd0" + bytes(400) + b"Missing operating system\r\n\0",
    ],
)
def test_the_first_bytes_of_other_disks_are_a_disk(head: bytes) -> None:
    disk = head.ljust(MIB, b"\0")
    assert recognize_non_disk(disk[:HEAD_BYTES], disk[-TAIL_BYTES:], MIB) is None


@pytest.mark.parametrize("byte", [0x00, 0x55, 0xAA, 0xE5, 0xFF, ord("x")])
def test_a_disk_that_is_filled_with_one_byte_is_a_disk(byte: int) -> None:
    assert recognize_non_disk(bytes([byte]) * HEAD_BYTES, bytes([byte]) * TAIL_BYTES, MIB) is None


@pytest.mark.parametrize("pattern", [b"\xde\xad\xbe\xef", b"\x55\xaa", b"\xa5\x20", bytes(range(256)), b"\xf6\xff"])
def test_a_disk_that_is_filled_with_a_pattern_is_a_disk(pattern: bytes) -> None:
    head = pattern * (HEAD_BYTES // len(pattern))
    assert recognize_non_disk(head, head[:TAIL_BYTES], MIB) is None


@given(st.binary(max_size=HEAD_BYTES - 16), st.integers(1, 64))
def test_bytes_with_zeros_are_no_text(start: bytes, zeros: int) -> None:
    assert not is_text((start + bytes(zeros) + NOISE)[:HEAD_BYTES])


def test_random_bytes_are_a_disk() -> None:
    """No signature is shorter than three bytes."""
    for seed in range(3_000):
        noise = random.Random(seed).randbytes(HEAD_BYTES)
        assert recognize_non_disk(noise, noise[:TAIL_BYTES], MIB) is None


@given(st.text(st.characters(exclude_categories=["C"]), min_size=2), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_text_is_no_disk(line: str, encoding: str) -> None:
    data = (f"a{line}\n" * 700).encode(encoding)
    assert recognize_non_disk(data[:HEAD_BYTES], data[-TAIL_BYTES:], len(data)) is not None
