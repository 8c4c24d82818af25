"""Recognizes files that are no disk by their first and last bytes: downloads that failed, archives, other containers.

Such a file would become a raw disk that no machine can read. A file is refused only for a signature of at least three
bytes, for text, or for a length below one sector. File systems, volumes and partition tables begin with code, zeros
or binary tables, so disks pass. ISO 9660 images, LUKS volumes and squashfs images are disks, too: machines attach them.

Sources of the signatures: https://github.com/file/file/tree/master/magic, and the specifications of the formats.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

HEAD_BYTES: Final = 4096
"""The beginning of the file that `recognize_non_disk` needs."""
TAIL_BYTES: Final = 512
"""The end of the file that `recognize_non_disk` needs."""
DISK_BYTES_MIN: Final = 512
"""One sector."""

_UNPACK: Final = "unpack the file first"
_CONVERT: Final = "convert the file first, for example with `qemu-img convert -O raw`"
_EXPORT: Final = "restore or export the disk with the tool that wrote the file"
_DOWNLOAD: Final = "look into the file, and download the disk again"
_OTHER: Final = "name the file of the disk"
_TAR: Final = "a tar archive (an OVA is one)"
_PROLOG: Final = rb"\s*(?:<\?xml\s.{0,400}?\?>\s*)?(?:<!--.{0,2000}?-->\s*){0,4}"
"""The optional text before the first element of a page or a document."""


@dataclass(frozen=True, slots=True)
class NonDisk:
    """A kind of file that is no disk."""

    name: str
    """The name with its article."""
    hint: str
    """The advice for a person who has such a file."""


_DMG: Final = NonDisk("an Apple disk image (dmg)", "convert the file first with `qemu-img convert -f dmg -O raw`")

_SIGNATURES: Final = (
    # Compressed files.
    (rb"\x1f\x8b\x08", "a gzip file", _UNPACK),
    (rb"\xfd7zXZ\0", "an xz file", _UNPACK),
    (rb"[\x22-\x28]\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "a zstd file", _UNPACK),
    (rb"BZh[1-9]", "a bzip2 file", _UNPACK),
    (rb"[\x02-\x04]\x21\x4c\x18|\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
    (rb"\x5d\0\0..(?:\xff{8}|.{5}\0{3})\0", "an lzma file", _UNPACK),
    (rb"LZIP\x01", "an lzip file", _UNPACK),
    (rb"\x89LZO\0\r\n\x1a\n", "an lzop file", _UNPACK),
    (rb"\x1f\x9d[\x89-\x90]", "a file of compress", _UNPACK),
    (rb"\xff\x06\0\0sNaPpY", "a snappy file", _UNPACK),
    (rb"LRZI\0|RZIP\x02|7kSt\xa0\x31|zPQ[\x01\x02]\x01|bvx[12n-]|pbzx\0", "a compressed file", _UNPACK),
    # Archives and packages.
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08|00PK)", "a zip file", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip file", _UNPACK),
    (rb"Rar!\x1a\x07|RE~\^", "a RAR archive", _UNPACK),
    (rb"MSCF\0\0\0\0", "a cabinet file", _UNPACK),
    (rb".{257}ustar", _TAR, _UNPACK),
    (rb"..-lh[0-9d]-|.{7}\*\*ACE\*\*", "an archive", _UNPACK),
    (rb"07070[127][0-7A-Fa-f]{6}", "a cpio archive", _UNPACK),
    (rb"\xc7\x71.{5}[\x11\x21\x41\x61\x81\xa1\xc1].{13}[\0-\x03]", "a cpio archive", _UNPACK),  # mode, name's length
    (rb"\x71\xc7.{4}[\x11\x21\x41\x61\x81\xa1\xc1].{13}[\0-\x03]", "a cpio archive", _UNPACK),
    (rb"!<arch>\ndebian", "a Debian package", _OTHER),
    (rb"!<(?:arch|thin)>\n", "an ar archive", _UNPACK),
    (rb"\xed\xab\xee\xdb|drpm", "an RPM package", _OTHER),
    (rb"xar!\0\x1c", "a xar archive", _UNPACK),
    # Containers and backups of disks that are not read here.
    (rb"QED\0", "a QED image", _CONVERT),
    (rb"WithoutFreeSpace|WithouFreSpacExt", "a Parallels image", _CONVERT),
    (rb".{64}\x7f\x10\xda\xbe", "a VirtualBox VDI image", _CONVERT),
    (rb"Bochs Virtual HD Image", "a Bochs image", _CONVERT),
    (rb"#!/bin/sh\n#V2\.0 Format", "a cloop image", _CONVERT),
    (rb"\xbe\xba\xfe\xca\0\0\0\0", "a VMware sparse image (seSparse)", _EXPORT),
    (rb"encrcdsa", "an encrypted Apple disk image", _EXPORT),
    (rb"sprs\0\0\0", "an Apple sparse image", _EXPORT),
    (rb"koly\0\0\0.\0\0\x02\0", _DMG.name, _DMG.hint),
    (rb"\x3a\xff\x26\xed", "an Android sparse image", "convert the file first with `simg2img`"),
    (rb"ANDROID!|VNDRBOOT", "an Android boot image", _OTHER),
    (rb"CrAU\0\0\0", "an Android update", _OTHER),
    (rb"(?:MSWIM|WLPWM)\0\0\0", "a Windows image (WIM or ESD), which has files and no disk", _EXPORT),
    (rb"[EL]VF\x09\x0d\x0a\xff\0|(?:EVF2|LEF2)\x0d\x0a\x81\0", "an EWF image (Expert Witness)", _EXPORT),
    (rb"AFF1[0-9]\r\n\0", "an AFF image", _EXPORT),
    (rb"VMA\0\0\0\0", "a Proxmox backup (VMA)", _EXPORT),
    (rb"partclone-image|PaRtImAgE-VoLuMe|FsArCh_00", "an image of a backup tool", _EXPORT),
    (rb"\0ntfsclone-image|btrfs-stream\0|xFSdump0|\x01\0{3}.{20}\x6c\xea\0\0", "a backup of a file system", _EXPORT),
    (rb".{8}(?:\xac\xcb\xba\xf5\x02\0{3}|\0{3}\x02\xf5\xba\xcb\xac)", "a stream of `zfs send`", _EXPORT),
    (rb"MComprHD|CISO|IsZ!|DAA\0\0\0", "a compressed image", _EXPORT),
    (rb"\0\xff{10}\0|MEDIA DESCRIPTOR\x01", "an image of raw CD sectors", _EXPORT),
    (rb".{4}SignedImage ", "a Windows update image (FFU)", _EXPORT),
    (rb"\xfe\xef\x01", "a Ghost image", _EXPORT),
    # Encrypted and other files.
    (rb"Salted__|age-encryption\.org/v1", "an encrypted file", "decrypt the file first"),
    (rb"\x8c\x0d\x04[\x01-\x0d]\x03|\x84\x5e\x03.{8}\x12|\x85[\x01-\x04].\x03.{8}[\x01\x10]", "a PGP file", "decrypt the file first"),
    (rb"\x7fELF[\x01\x02][\x01\x02]\x01", "a program (ELF)", _OTHER),
    (rb"[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe\0\0\0", "a program or a class file", _OTHER),
    (rb"\x27\x05\x19\x56|\xd0\x0d\xfe\xed", "a U-Boot image or device tree", _OTHER),
    (rb"%PDF-", "a PDF document", _OTHER),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xdb\xe0\xe1\xee]|GIF8[79]a", "a picture", _OTHER),
    (rb"\0\0..(?:ftyp|moov)|RIFF.{4}AVI |\x1a\x45\xdf\xa3", "a video", _OTHER),
    (rb"d[1-9]\d?:[a-z][a-z _-]{2,40}[dil1-9]", "a torrent file", _DOWNLOAD),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Windows installer package or an Office document", _OTHER),
    (rb"SQLite format 3\0", "an SQLite database", _OTHER),
    (rb".{510}\x55\xaa..HdrS", "a Linux kernel", _OTHER),
    (rb"L\0\0\0\x01\x14\x02\0", "a Windows shortcut", _OTHER),
    # The beginning of an HTTP message, saved with the file.
    (rb"HTTP/[0-9.]{1,3} \d{3}|[0-9A-Fa-f]{1,8};chunk-signature=", "a saved HTTP response", _DOWNLOAD),
    (rb"\s{0,4}--[!-~ ]{1,72}\r?\nContent-|MIME-Version: ", "a MIME message of several parts", _DOWNLOAD),
    (rb"zsync: |JigsawDownload ", "a list of pieces for a download tool", _DOWNLOAD),
    # Texts that are known by name. A byte order mark and white space may precede them.
    (rb"version https://(?:git-lfs|hawser)\.github\.com/spec/", "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (rb"[!-~ ]{0,200}?[/\\]annex[/\\]objects[/\\]", "a git-annex pointer", "fetch the file with `git annex get`"),
    (rb"#! ?/", "a script", _OTHER),
    (_PROLOG + rb"(?i:<(?:!doctype\s+html|html|head|body|title)\b)", "an HTML page", _DOWNLOAD),
    (_PROLOG + rb"<Error\b[^>]{0,200}>\s*<", "an XML error of an object store", _DOWNLOAD),
    (rb"\s*<\?xml\s", "an XML document", _DOWNLOAD),
    (rb"\s*(?:\[\s*)?\{\s*\"[ -~]{1,200}?\"\s*:", "a JSON document", _DOWNLOAD),
    (rb"-----BEGIN ", "a PEM or PGP file", _OTHER),
)  # fmt: skip
"""(pattern at the beginning of the file, name, advice). The first match counts."""

_PATTERNS: Final = tuple((re.compile(pattern, re.DOTALL), NonDisk(name, hint)) for pattern, name, hint in _SIGNATURES)
_BYTE_ORDER_MARKS: Final = {
    b"\xff\xfe\0\0": "utf-32-le",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
    b"\xef\xbb\xbf": "utf-8",
}
_CONTROL: Final = re.compile(rb"[\x00-\x07\x0e-\x19\x1c-\x1f]")
_WHITE_SPACE: Final = re.compile(rb"[\n\r ]")
_PE_OFFSET_AT: Final = 0x3C
_TAR_CHECKSUM: Final = slice(148, 156)
_DISTINCT_BYTES_MIN: Final = 12
"""The different bytes in a text of an encoding without a mark. Test patterns have fewer."""


def recognize_non_disk(head: bytes, tail: bytes, file_bytes: int) -> NonDisk | None:
    """Return the kind of a file that is no disk, or None for a possible disk.

    Args:
        head: the first `HEAD_BYTES` of the file, or the whole of a shorter file.
        tail: the last `TAIL_BYTES` of the file, or the whole of a shorter file.
        file_bytes: the length of the file.
    """
    if (non_disk := match_signature(head, tail)) is not None:
        return non_disk
    if is_text(head.rstrip(b"\0") if file_bytes <= HEAD_BYTES else head):
        return NonDisk("a text file", _DOWNLOAD)
    if file_bytes < DISK_BYTES_MIN:
        return NonDisk(f"a file of {file_bytes} bytes, less than a sector of {DISK_BYTES_MIN}", _DOWNLOAD)
    return None


def match_signature(head: bytes, tail: bytes) -> NonDisk | None:
    """Return the kind of a file by a signature. Arguments as in `recognize_non_disk`."""
    start = _to_utf8(head)
    for pattern, non_disk in _PATTERNS:
        if pattern.match(start):
            return non_disk
    if _is_tar(head):
        return NonDisk(_TAR, _UNPACK)
    if _is_windows_program(head):
        return NonDisk("a Windows or EFI program", _OTHER)
    if tail.startswith(b"koly\0\0\0"):
        return _DMG
    if tail.endswith(b"cdsaencr"):
        return NonDisk("an encrypted Apple disk image", _EXPORT)
    return None


def is_text(head: bytes) -> bool:
    """Return whether the beginning of a file is text: UTF-8, UTF-16, UTF-32, or an encoding of 8-bit units.

    A text has no control characters but white space. Disks have zeros in their first 4 KiB. A disk that was filled
    with one byte or a short pattern is no text.
    """
    if len(set(head)) < 2:
        return False
    if (mark := _byte_order_mark(head)) is not None:
        return _decodes(head.removeprefix(mark), _BYTE_ORDER_MARKS[mark])
    is_long = len(set(head)) >= _DISTINCT_BYTES_MIN and _WHITE_SPACE.search(head) is not None
    if not _CONTROL.search(head):
        return is_long or _decodes(head, "utf-8")
    return is_long and (_decodes(head, "utf-16-le") or _decodes(head, "utf-16-be"))


def _byte_order_mark(head: bytes) -> bytes | None:
    return next((mark for mark in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def _to_utf8(head: bytes) -> bytes:
    """Return the text after a byte order mark in UTF-8. Other bytes are returned unchanged."""
    mark = _byte_order_mark(head)
    if mark is None:
        return head
    return head.removeprefix(mark).decode(_BYTE_ORDER_MARKS[mark], "ignore").encode()


def _decodes(text: bytes, encoding: str) -> bool:
    """Return whether bytes are text in an encoding. The last character may be cut off."""
    for cut in range(4):
        try:
            characters = text[: len(text) - cut].decode(encoding)
        except UnicodeDecodeError:
            continue
        return all(each.isspace() or unicodedata.category(each) not in {"Cc", "Cn", "Co"} for each in characters)
    return False


def _is_tar(head: bytes) -> bool:
    """Return whether a file begins with a header of the oldest tar format, which has a checksum and no signature."""
    field = head[_TAR_CHECKSUM].strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]{3,7}", field):
        return False
    header = head[: _TAR_CHECKSUM.start] + b" " * 8 + head[_TAR_CHECKSUM.stop : 512]
    return sum(header) == int(field, 8)


def _is_windows_program(head: bytes) -> bool:
    """Return whether a file has the headers of the PE format, whose offset is in the DOS header."""
    at = int.from_bytes(head[_PE_OFFSET_AT : _PE_OFFSET_AT + 4], "little")
    return head.startswith(b"MZ") and head[at : at + 4] == b"PE\0\0"
