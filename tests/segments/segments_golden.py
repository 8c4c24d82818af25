"""The golden objects by value: the expected result of decoding, without the code that encodes.

``python tests/segments/segments_golden.py`` writes missing files and never overwrites a file. If the code can't read a
golden file, then the code is broken.
"""

import io
from pathlib import Path

import numpy as np
from blake3 import blake3

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat
from imgstore.segments.codec import HEADER_BYTES, encode_segment
from imgstore.segments.fingerprints import FingerprintsWriter, from_bytes
from imgstore.segments.manifest import Manifest, Pieces, Runs, SegmentTable, WorkRef, encode_manifest
from imgstore.segments.reference import Reference, encode_reference

FOLDER = Path(__file__).parent / "golden"
BLOCK = 4096


def noise(seed: str, length: int) -> bytes:
    """Return incompressible bytes that never change: BLAKE3's extended output."""
    return blake3(seed.encode()).digest(length)


def digest(seed: str) -> bytes:
    return noise(seed, 32)


FRAME = bytes.fromhex("28b52ffd2004210000")
"""A complete zstd frame (RFC 8878): magic, descriptor, content size 4, and the header of a last raw block, whose 4
bytes must follow."""

RAW = noise("raw", 3 * BLOCK)
ZSTD = b"".join(f"line {number:06} of a text that shrinks\n".encode() for number in range(1000))[: 5 * BLOCK]
FRAMED = (FRAME + b"abcd" + noise("framed", 2 * BLOCK))[: 2 * BLOCK]
"""The first block is itself a zstd frame, which misled an old reader that guessed the encoding."""

SEGMENTS = {"segment-raw": RAW, "segment-zstd": ZSTD, "segment-framed": FRAMED}

PRINTS = [("one", noise("prints one", 3 * 16)), ("two", noise("prints two", 2 * 16))]

REFERENCE = Reference(digest=digest("referred"), body_key="manifests/6a0e5ad8-6d53-4ae6-9f7f-1f6b8f4f0f00/os")


def columns(*rows: tuple[int, int, int, int]) -> Runs:
    block, count, segment, at = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Runs(block=block, count=count, segment=segment, at=at)


MANIFEST = Manifest(
    virtual_bytes=9 * 1024 * 1024 + 700,
    container_metadata=ContainerMetadata(format=DiskFormat.VHD_FIXED, footer=noise("footer", 512)),
    works=(
        WorkRef(uid="3f0f5c1e-33ae-4bd7-8b53-2f6a2d8c0001", fingerprints_digest=digest("work one")),
        WorkRef(uid="3f0f5c1e-33ae-4bd7-8b53-2f6a2d8c0002", fingerprints_digest=digest("work two")),
    ),
    segments=SegmentTable(
        names=np.frombuffer(digest("s0") + digest("s1") + digest("s2"), dtype=np.uint8).reshape(3, 32),
        blocks=np.array([1024, 7, 1], dtype=np.int64),
        stored_bytes=np.array([4194320, 999, 4112], dtype=np.int64),
        work=np.array([0, 1, 1], dtype=np.int64),
    ),
    runs=columns((0, 1024, 0, 0), (2048, 2, 1, 5), (2050, 3, 0, 1021), (2304, 1, 2, 0)),
    pieces=Pieces(
        index=np.array([0, 2], dtype=np.int64),
        digests=np.frombuffer(digest("p0") + digest("p2"), dtype=np.uint8).reshape(2, 32),
    ),
)


def _segment(content: bytes) -> bytes:
    return bytes(encode_segment(bytearray(HEADER_BYTES) + content, len(content) // BLOCK).body)


def _fingerprints() -> bytes:
    file = io.BytesIO()
    writer = FingerprintsWriter(file)
    for _, data in PRINTS:
        writer.add(from_bytes(data))
    writer.finish([digest(name) for name, _ in PRINTS])
    return file.getvalue()


def golden(name: str) -> bytes:
    """Read an object as it was first written."""
    return (FOLDER / f"{name}.bin").read_bytes()


def write_missing() -> None:
    made = {name: _segment(content) for name, content in SEGMENTS.items()} | {
        "manifest": encode_manifest(MANIFEST),
        "fingerprints": _fingerprints(),
        "reference": encode_reference(REFERENCE),
    }
    for name, data in made.items():
        if not (FOLDER / f"{name}.bin").exists():
            (FOLDER / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    write_missing()
