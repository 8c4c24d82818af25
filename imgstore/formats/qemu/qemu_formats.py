"""The checks of qcow2, VHDX and VMDK, which qemu-img reads for us: nothing goes there that did not pass them.

Ours come first, so that each refusal has its name without any optional package; then those of oslo.utils
(formats/qemu/oslo_checks.py).

Sources: QEMU, "docs/interop/qcow2.txt"; Microsoft, [MS-VHDX]; VMware, "Virtual Disk Format 5.0".
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.domain.storage.sizes import KIB, MIB, SECTOR_BYTES, ceil_div
from imgstore.formats.checks import Examined, Finding, Kind, all_passed, size_finding
from imgstore.formats.qemu.allocation import qcow2_reach, vmdk_reach

_AGAIN: Final = "fetch or make the image again; `qemu-img check` may tell more"
_FLATTEN: Final = "make it one whole file at its origin (`qemu-img convert -O qcow2`, `vmkfstools -i`) and take that"


def examine_foreign(source: ByteSource, form: DiskFormat) -> Examined[int]:
    """Our own checks of an image that qemu-img is to read: reads the headers only. Its layout is the disk's size."""
    findings, virtual_bytes = _EXAMINERS[form](source)
    return Examined(
        findings=findings,
        virtual_bytes=virtual_bytes,
        layout=virtual_bytes if all_passed(findings) else None,
    )


def _demand(
    check: str, *, passed: bool, found: str, expected: str, hint: str = _AGAIN, kind: Kind = Kind.UNSAFE
) -> Finding:
    return Finding(check=check, passed=passed, found=found, expected=expected, hint=hint, kind=kind)


def _inside(check: str, source: ByteSource, what: str, start: int, length: int) -> Finding:
    """Whether a structure lies in the file."""
    return _demand(
        check,
        passed=start + length <= source.file_bytes,
        found=f"{what} at {start:,} to {start + length:,}",
        expected=f"inside the file of {source.file_bytes:,} bytes",
        kind=Kind.TRUNCATED,
    )


_QCOW2_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_QCOW2_FEATURES: Final = {
    0: "dirty",
    1: "corrupt",
    2: "external data file",
    3: "compression type",
    4: "extended L2 entries",
}
_QCOW2_READABLE: Final = 1 << 3
"""Of the incompatible features only the compression type changes nothing about what the image reaches."""
_QCOW2_L1_BYTES_MAX: Final = 32 * MIB
"""qemu's own limit, 2 EiB in clusters of 64 KiB."""
_QCOW2_REFCOUNT_BYTES_MAX: Final = 8 * MIB
"""qemu's own limit."""
_QCOW2_SNAPSHOTS_MAX: Final = 65_536
"""qemu's own limit."""


def _examine_qcow2(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    raw = source.read_at(0, min(_QCOW2_HEADER.size, source.file_bytes))
    whole = _whole_header(raw, _QCOW2_HEADER.size, b"QFI\xfb")
    if not whole.passed:
        return (whole,), None
    (
        _, version, backing_at, _, cluster_bits, virtual_bytes, crypt, l1_entries, l1_at, refcount_at, refcount_clusters,
        snapshots, snapshots_at, features, _, _, _, header_bytes,
    ) = _QCOW2_HEADER.unpack(raw)  # fmt: skip
    if version == 2:
        features, header_bytes = 0, 72  # version 2 ends before them
    cluster_bytes = 1 << min(cluster_bits, 63)
    covered = l1_entries * cluster_bytes * (cluster_bytes // 8)
    findings: tuple[Finding, ...] = (
        whole,
        _demand(
            "known-version",
            passed=version in {2, 3} and header_bytes >= 72,
            found=f"version {version}, a header of {header_bytes:,} bytes",
            expected="version 2 or 3",
            hint=_FLATTEN,
        ),
        _demand(
            "has_backing_file",
            passed=not backing_at,
            found="a backing file" if backing_at else "no backing file",
            expected="an image that needs no other file",
            hint=_FLATTEN,
        ),
        *_qcow2_features(features),
        _demand(
            "not-encrypted",
            passed=not crypt,
            found=f"encryption method {crypt}",
            expected="an image that is not encrypted",
            hint="decrypt it at its origin (`qemu-img convert` with its secret) and take that",
        ),
        size_finding(virtual_bytes),
        _demand(
            "cluster-size",
            passed=9 <= cluster_bits <= 21,
            found=f"clusters of 2^{cluster_bits} bytes",
            expected="2^9 to 2^21",
        ),
        _demand(
            "table-sizes",
            passed=l1_entries * 8 <= _QCOW2_L1_BYTES_MAX
            and covered >= virtual_bytes
            and refcount_clusters * cluster_bytes <= _QCOW2_REFCOUNT_BYTES_MAX
            and snapshots <= _QCOW2_SNAPSHOTS_MAX,
            found=f"{l1_entries:,} L1 entries, {refcount_clusters:,} refcount clusters, {snapshots:,} snapshots",
            expected="tables that cover the disk, within qemu's own limits",
        ),
        _inside("l1-table-in-file", source, "the L1 table", l1_at, l1_entries * 8),
        _inside("refcount-table-in-file", source, "the refcount table", refcount_at, refcount_clusters * cluster_bytes),
        _inside("snapshot-table-in-file", source, "the snapshot table", snapshots_at * bool(snapshots), 0),
    )
    if all_passed(findings):
        reach = qcow2_reach(source, l1_at=l1_at, cluster_bits=cluster_bits, virtual_bytes=virtual_bytes)
        findings += (_inside("clusters-in-file", source, "clusters", 0, reach),)
    return findings, virtual_bytes


def _qcow2_features(features: int) -> Iterator[Finding]:
    """Each incompatible feature by its name."""
    named = [(1, "not-dirty"), (2, "not-corrupt"), (4, "has_data_file")]
    hints = {
        "not-dirty": "it was not closed: repair a copy with `qemu-img check -r all` and look at what it says",
        "not-corrupt": "its last user found it damaged: restore it, or repair it with `qemu-img check -r all`",
        "has_data_file": _FLATTEN,
    }
    for bit, check in named:
        yield _demand(
            check,
            passed=not features & bit,
            found=_feature_names(features & bit),
            expected="the feature bit is not set",
            hint=hints[check],
            kind=Kind.UNSAFE if bit == 4 else Kind.DAMAGED,
        )
    unknown = features & ~(_QCOW2_READABLE | 0b111)
    yield _demand(
        "unknown_features",
        passed=not unknown,
        found=_feature_names(unknown),
        expected="no incompatible features but the compression type",
        hint="convert it with the tool that made it to a plain qcow2 (`qemu-img convert -O qcow2`)",
    )


def _feature_names(features: int) -> str:
    bits = [bit for bit in range(64) if features >> bit & 1]
    return ", ".join(_QCOW2_FEATURES.get(bit, f"incompatible feature bit {bit}") for bit in bits) or "none set"


def _whole_header(raw: bytes, header_bytes: int, magic: bytes) -> Finding:
    complete = len(raw) == header_bytes
    return _demand(
        "header",
        passed=complete and raw.startswith(magic),
        found=f"{len(raw)} bytes that start with {raw[:8]!r}",
        expected=f"a header of {header_bytes} bytes that starts with {magic!r}",
        hint="name the format that the file has with `--source-format`, or fetch it again",
        kind=Kind.DAMAGED if complete else Kind.TRUNCATED,
    )


_VHDX_REGIONS_AT: Final = 192 * KIB
"""[MS-VHDX] 2.2.3: the first of the two region tables."""
_VHDX_TABLE_BYTES: Final = 64 * KIB
_VHDX_ENTRIES_MAX: Final = 2047
_VHDX_METADATA: Final = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_FILE_PARAMETERS: Final = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VHDX_DISK_SIZE: Final = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_VHDX_PARENT_LOCATOR: Final = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_VHDX_HAS_PARENT: Final = 0b10
_VHDX_BLOCK_BYTES: Final = [MIB << power for power in range(9)]
"""2.2.2.2.1: a power of two, 1 MiB to 256 MiB."""


def _examine_vhdx(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    end = _VHDX_REGIONS_AT + _VHDX_TABLE_BYTES
    whole = _whole_header(source.read_at(0, min(8, source.file_bytes)), 8, b"vhdxfile")
    regions_in_file = _inside("region-table-in-file", source, "the region table", _VHDX_REGIONS_AT, _VHDX_TABLE_BYTES)
    if not (whole.passed and regions_in_file.passed):
        return (whole, regions_in_file), None
    regions = _vhdx_table(source.read_at(_VHDX_REGIONS_AT, _VHDX_TABLE_BYTES), b"regi", "<4x4xI", head_bytes=16)
    at, length, _ = struct.unpack("<QII", regions.get(_VHDX_METADATA, bytes(16)))
    findings = (
        whole,
        regions_in_file,
        _demand(
            "metadata-region",
            passed=at >= end and length >= _VHDX_TABLE_BYTES,
            found=f"a metadata region of {length:,} bytes at {at:,}" if at else "no metadata region",
            expected=f"one of at least 64 KiB behind {end:,}",
            kind=Kind.DAMAGED,
        ),
        _inside("regions-in-file", source, "the furthest region", *_furthest(regions)),
    )
    if not all_passed(findings):
        return findings, None
    more, virtual_bytes = _vhdx_metadata(source, at, length)
    return findings + more, virtual_bytes


def _vhdx_metadata(source: ByteSource, at: int, length: int) -> tuple[tuple[Finding, ...], int | None]:
    """[MS-VHDX] 2.6: what the metadata items say."""
    items = _vhdx_table(source.read_at(at, _VHDX_TABLE_BYTES), b"metadata", "<8x2xH", head_bytes=32)

    def item(guid: bytes, item_bytes: int) -> bytes | None:
        offset, _, _, _ = struct.unpack("<IIII", items.get(guid, bytes(16)))
        inside = _VHDX_TABLE_BYTES <= offset <= length - item_bytes
        return source.read_at(at + offset, item_bytes) if inside else None

    parameters, size = item(_VHDX_FILE_PARAMETERS, 8), item(_VHDX_DISK_SIZE, 8)
    known = _demand(
        "metadata-items",
        passed=bool(parameters and size),
        found=f"{len(items)} items",
        expected="the file parameters and the virtual disk size among them, inside the region",
        kind=Kind.DAMAGED,
    )
    if not parameters or not size:
        return (known,), None
    block_bytes, bits = struct.unpack("<II", parameters)
    virtual_bytes = int.from_bytes(size, "little")
    parent = bool(bits & _VHDX_HAS_PARENT) or _VHDX_PARENT_LOCATOR in items
    return (
        known,
        _demand(
            "no-parent",
            passed=not parent,
            found="a differencing disk" if parent else "no parent",
            expected="a disk that needs no other file",
            hint="merge it into its parent (Hyper-V: Merge-VHD) and take the parent",
        ),
        size_finding(virtual_bytes, multiple_of=SECTOR_BYTES),
        _demand(
            "block-size",
            passed=block_bytes in _VHDX_BLOCK_BYTES,
            found=f"blocks of {block_bytes:,} bytes",
            expected="a power of two from 1 MiB to 256 MiB",
        ),
    ), virtual_bytes


def _furthest(regions: dict[bytes, bytes]) -> tuple[int, int]:
    """The region that ends last, as (offset, length)."""
    spans = (struct.unpack("<QI", entry[:12]) for entry in regions.values())
    return max(spans, key=sum, default=(0, 0))


def _vhdx_table(raw: bytes, signature: bytes, head: str, *, head_bytes: int) -> dict[bytes, bytes]:
    """The entries of a region or metadata table, 16 bytes each after the GUID that they are found by."""
    (count,) = struct.unpack_from(head, raw)
    if not raw.startswith(signature) or count > _VHDX_ENTRIES_MAX:
        return {}
    entries = (raw[at : at + 32] for at in range(head_bytes, head_bytes + 32 * count, 32))
    return {entry[:16]: entry[16:] for entry in entries if len(entry) == 32}


_VMDK_HEADER: Final = struct.Struct("<4sIIQQQQIQQQ")
_VMDK_TYPES: Final = ("monolithicsparse", "streamoptimized")
_VMDK_AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""A stream-optimized file keeps its grain directory's place in a footer; oslo.utils compares the two."""
_VMDK_COMPRESSED: Final = 1 << 16
"""The flag of files whose grains are compressed."""
_VMDK_DESCRIPTOR_BYTES_MAX: Final = MIB
"""qemu's own limit."""
_VMDK_DIRECTORY_ENTRIES_MAX: Final = 32 * MIB
"""qemu's own limit: 512 MiB of grain tables."""
_VMDK_EXTENT: Final = re.compile(r'(?:rw|rdonly|noaccess) +(\d+) +(\w+) +"([^"/\\]*)"')
_VMDK_NO_PARENT: Final = "ffffffff"


def _examine_vmdk(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    raw = source.read_at(0, min(_VMDK_HEADER.size, source.file_bytes))
    sparse = _demand(
        "sparse-header",
        passed=raw.startswith(b"KDMV") and len(raw) == _VMDK_HEADER.size,
        found="a text descriptor, whose disk lies in other files" if raw[:1] == b"#" else f"{raw[:4]!r}",
        expected="one file that holds the whole disk: monolithicSparse or streamOptimized",
        hint=_FLATTEN,
    )
    if not sparse.passed:
        return (sparse,), None
    (
        _, version, flags, capacity, grain, descriptor_at, descriptor_sectors, entries, _, directory_at, _,
    ) = _VMDK_HEADER.unpack(raw)  # fmt: skip
    virtual_bytes = capacity * SECTOR_BYTES
    descriptor_bytes = descriptor_sectors * SECTOR_BYTES
    directory_entries = ceil_div(capacity, max(grain * entries, 1))
    directory = directory_at * SECTOR_BYTES
    findings: tuple[Finding, ...] = (
        sparse,
        _demand(
            "known-version",
            passed=version in {1, 2, 3},
            found=f"version {version}",
            expected="version 1, 2 or 3",
            hint=_FLATTEN,
        ),
        # A capacity of 0 makes qemu take the embedded descriptor for that of a disk in other files.
        size_finding(virtual_bytes, multiple_of=SECTOR_BYTES),
        _demand(
            "table-sizes",
            passed=entries == 512
            and 8 <= grain <= 128 * KIB
            and grain & (grain - 1) == 0
            and directory_entries <= _VMDK_DIRECTORY_ENTRIES_MAX,
            found=f"grains of {grain:,} sectors, {entries:,} in a table, {directory_entries:,} tables",
            expected="grains of 4 KiB to 64 MiB, 512 in a table, within qemu's own limits",
        ),
        _demand(
            "descriptor-size",
            passed=0 < descriptor_bytes <= _VMDK_DESCRIPTOR_BYTES_MAX,
            found=f"a descriptor of {descriptor_bytes:,} bytes",
            expected="1 byte to 1 MiB, inside the file",
        ),
        _inside("descriptor-in-file", source, "the descriptor", descriptor_at * SECTOR_BYTES, descriptor_bytes),
    )
    if not all_passed(findings):
        return findings, virtual_bytes
    if directory_at == _VMDK_AT_END:
        directory = _vmdk_footer_directory(source)
    findings += (
        _demand(
            "grain-directory-in-file",
            passed=0 < directory <= source.file_bytes - 4 * directory_entries,
            found=f"the grain directory at {directory:,}" if directory else "no footer that tells where it lies",
            expected=f"{4 * directory_entries:,} bytes inside the file of {source.file_bytes:,}",
            kind=Kind.TRUNCATED,
        ),
    )
    if all_passed(findings):
        reach = vmdk_reach(
            source,
            directory_at=directory,
            capacity_sectors=capacity,
            grain_sectors=grain,
            compressed=bool(flags & _VMDK_COMPRESSED),
        )
        findings += (_inside("grains-in-file", source, "grains", 0, reach),)
    text = source.read_at(descriptor_at * SECTOR_BYTES, descriptor_bytes).split(b"\0", 1)[0]
    return (*findings, *_vmdk_descriptor(text.decode("latin-1").lower())), virtual_bytes


def _vmdk_footer_directory(source: ByteSource) -> int:
    """Where the grain directory lies by the footer, a second header in the last sector but one; 0 without a footer."""
    at = max(source.file_bytes - 2 * SECTOR_BYTES, 0)
    raw = source.read_at(at, _VMDK_HEADER.size)
    directory_at: int = _VMDK_HEADER.unpack(raw)[9]
    return directory_at * SECTOR_BYTES if raw.startswith(b"KDMV") else 0


def _vmdk_descriptor(text: str) -> Iterator[Finding]:
    """What the embedded descriptor says. Its keys and values know no case."""
    lines = [line.strip() for line in text.splitlines()]
    fields = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    kind = fields.get("createtype", "").strip('"')
    extents = [line for line in lines if line.startswith(("rw ", "rdonly ", "noaccess "))]
    match = _VMDK_EXTENT.fullmatch(extents[0]) if len(extents) == 1 else None
    parent = fields.get("parentcid", _VMDK_NO_PARENT)
    yield _demand(
        "create-type",
        passed=kind in _VMDK_TYPES,
        found=repr(kind),
        expected=" or ".join(_VMDK_TYPES),
        hint=_FLATTEN,
    )
    yield _demand(
        "no-outside-extents",
        passed=bool(match and match[2] == "sparse"),
        found="; ".join(extents[:4]) or "no extent",
        expected="one sparse extent, the file itself, named without a folder",
        hint=_FLATTEN,
    )
    yield _demand(
        "no-parent",
        passed=parent == _VMDK_NO_PARENT and "parentfilenamehint" not in fields,
        found=f"parent CID {parent}",
        expected="no parent (ffffffff)",
        hint=_FLATTEN,
    )


_EXAMINERS: Final[dict[DiskFormat, Callable[[ByteSource], tuple[tuple[Finding, ...], int | None]]]] = {
    DiskFormat.QCOW2: _examine_qcow2,
    DiskFormat.VHDX: _examine_vhdx,
    DiskFormat.VMDK: _examine_vmdk,
}
