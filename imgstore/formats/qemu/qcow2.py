"""Checks qcow2 images before qemu-img reads them.

Source: QEMU, "docs/interop/qcow2.txt".
"""

import struct
from collections.abc import Iterator
from typing import Final

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.checks import (
    FLATTEN_HINT,
    FailureKind,
    Finding,
    all_passed,
    header_finding,
    inside_file_finding,
    make_finding,
    size_finding,
)
from imgstore.formats.qemu.allocation import qcow2_reach

_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")


_FEATURES: Final = {
    0: "dirty",
    1: "corrupt",
    2: "external data file",
    3: "compression type",
    4: "extended L2 entries",
}


_READABLE: Final = 1 << 3
"""The compression type, the only incompatible feature that adds no reference to other data."""


_L1_BYTES_MAX: Final = 32 * MIB
"""qemu's own limit, 2 EiB in clusters of 64 KiB."""


_REFCOUNT_BYTES_MAX: Final = 8 * MIB
"""qemu's own limit."""


_SNAPSHOTS_MAX: Final = 65_536
"""qemu's own limit."""


def examine_qcow2(source: ByteSource) -> tuple[tuple[Finding, ...], int | None]:
    """Check a qcow2 header and the structures that it points to. Return the findings and the virtual bytes."""
    raw = source.read_at(0, min(_HEADER.size, source.file_bytes))
    whole = header_finding(raw, _HEADER.size, b"QFI\xfb")
    if not whole.passed:
        return (whole,), None
    (
        _, version, backing_at, _, cluster_bits, virtual_bytes, crypt, l1_entries, l1_at, refcount_at,
        refcount_clusters, snapshots, snapshots_at, features, _, _, _, header_bytes,
    ) = _HEADER.unpack(raw)  # fmt: skip
    if version == 2:
        features, header_bytes = 0, 72  # version 2 has no such fields
    cluster_bytes = 1 << min(cluster_bits, 63)
    covered = l1_entries * cluster_bytes * (cluster_bytes // 8)
    findings: tuple[Finding, ...] = (
        whole,
        make_finding(
            "known-version",
            passed=version in {2, 3} and header_bytes >= 72,
            found=f"version {version}, a header of {header_bytes:,} bytes",
            expected="version 2 or 3",
            hint=FLATTEN_HINT,
        ),
        make_finding(
            "has_backing_file",
            passed=not backing_at,
            found="a backing file" if backing_at else "no backing file",
            expected="an image that needs no other file",
            hint=FLATTEN_HINT,
        ),
        *_check_features(features),
        make_finding(
            "not-encrypted",
            passed=not crypt,
            found=f"encryption method {crypt}",
            expected="an image that is not encrypted",
            hint="decrypt the image at its origin (`qemu-img convert` with the secret)",
        ),
        size_finding(virtual_bytes),
        make_finding(
            "cluster-size",
            passed=9 <= cluster_bits <= 21,
            found=f"clusters of 2^{cluster_bits} bytes",
            expected="2^9 to 2^21",
        ),
        make_finding(
            "table-sizes",
            passed=l1_entries * 8 <= _L1_BYTES_MAX
            and covered >= virtual_bytes
            and refcount_clusters * cluster_bytes <= _REFCOUNT_BYTES_MAX
            and snapshots <= _SNAPSHOTS_MAX,
            found=f"{l1_entries:,} L1 entries, {refcount_clusters:,} refcount clusters, {snapshots:,} snapshots",
            expected="tables that cover the disk, within qemu's own limits",
        ),
        inside_file_finding("l1-table-in-file", source, "the L1 table", l1_at, l1_entries * 8),
        inside_file_finding(
            "refcount-table-in-file", source, "the refcount table", refcount_at, refcount_clusters * cluster_bytes
        ),
        inside_file_finding("snapshot-table-in-file", source, "the snapshot table", snapshots_at * bool(snapshots), 0),
    )
    if all_passed(findings):
        reach = qcow2_reach(source, l1_at=l1_at, cluster_bits=cluster_bits, virtual_bytes=virtual_bytes)
        findings += (inside_file_finding("clusters-in-file", source, "clusters", 0, reach),)
    return findings, virtual_bytes


def _check_features(features: int) -> Iterator[Finding]:
    """Check each incompatible feature by name."""
    named = [(1, "not-dirty"), (2, "not-corrupt"), (4, "has_data_file")]
    hints = {
        "not-dirty": "the image was not closed: repair a copy with `qemu-img check -r all` and read its report",
        "not-corrupt": "the image was marked as damaged: restore it, or repair it with `qemu-img check -r all`",
        "has_data_file": FLATTEN_HINT,
    }
    for bit, check in named:
        yield make_finding(
            check,
            passed=not features & bit,
            found=_feature_names(features & bit),
            expected="the feature bit is not set",
            hint=hints[check],
            kind=FailureKind.UNSAFE if bit == 4 else FailureKind.DAMAGED,
        )
    unknown = features & ~(_READABLE | 0b111)
    yield make_finding(
        "unknown_features",
        passed=not unknown,
        found=_feature_names(unknown),
        expected="no incompatible features but the compression type",
        hint="convert the image with the tool of its origin to a plain qcow2 (`qemu-img convert -O qcow2`)",
    )


def _feature_names(features: int) -> str:
    bits = [bit for bit in range(64) if features >> bit & 1]
    return ", ".join(_FEATURES.get(bit, f"incompatible feature bit {bit}") for bit in bits) or "none set"
