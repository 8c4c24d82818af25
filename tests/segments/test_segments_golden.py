"""Tests with objects of version 1: the code reads the originals, and refuses every single flipped bit."""

import tracemalloc

import pytest
from segments_golden import FRAME, FRAMED, MANIFEST, PRINTS, REFERENCE, SEGMENTS, digest, golden

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import digest_of
from imgstore.segments.codec import HEADER, Encoding, decode_segment, matches_name
from imgstore.segments.fingerprints import decode_fingerprints
from imgstore.segments.manifest import Manifest, ManifestCheck, decode_manifest, manifest_digest
from imgstore.segments.reference import decode_reference


@pytest.mark.parametrize("name", list(SEGMENTS))
def test_segments_of_version_1_are_read(name: str) -> None:
    body = golden(name)
    # Invariant B17.
    assert bytes(decode_segment(body, digest_of(body))) == SEGMENTS[name]


@pytest.mark.parametrize(
    ("name", "encoding", "blocks"),
    [("segment-raw", Encoding.RAW, 3), ("segment-zstd", Encoding.ZSTD, 5), ("segment-framed", Encoding.RAW, 2)],
)
def test_the_header_names_the_encoding(name: str, encoding: Encoding, blocks: int) -> None:
    body = golden(name)
    assert HEADER.unpack_from(body) == (b"IMGSTSEG", 1, encoding, blocks)
    assert body[0:16] == b"IMGSTSEG" + bytes([1, 0, encoding, 0, blocks, 0, 0, 0])


def test_a_block_that_is_a_zstd_frame_is_not_taken_for_the_encoding() -> None:
    """The content begins with a zstd frame, which a guess of the encoding would decode (invariant B5)."""
    assert golden("segment-framed")[16:].startswith(FRAME)
    assert bytes(decode_segment(golden("segment-framed"), digest_of(golden("segment-framed")))) == FRAMED


def values(manifest: Manifest) -> dict[str, object]:
    segments, runs, pieces = manifest.segments, manifest.runs, manifest.pieces
    return {
        "virtual_bytes": manifest.virtual_bytes,
        "trimmings": manifest.container_metadata,
        "works": manifest.works,
        "names": segments.all_names(),
        "segments": [segments.blocks.tolist(), segments.stored_bytes.tolist(), segments.work.tolist()],
        "runs": [runs.block.tolist(), runs.count.tolist(), runs.segment.tolist(), runs.at.tolist()],
        "pieces": list(pieces.items()),
        "disk digest": manifest.disk_digest,
    }


def test_manifests_of_version_1_are_read() -> None:
    data = golden("manifest")
    manifest = decode_manifest(data)
    assert values(manifest) == values(MANIFEST)
    assert manifest.disk_digest.hex() == "bc19961389c69d727a9417d438b70d202cef02b8dec8535bbb6813557ad12e71"
    assert ManifestCheck(manifest_digest(data))(data)
    # Invariants B1 and B9.
    assert not ManifestCheck(digest("another"))(data)


def test_fingerprints_of_version_1_are_read() -> None:
    found = [(each.name, each.fingerprints.tobytes()) for each in decode_fingerprints(golden("fingerprints"))]
    assert found == [(digest(name), data) for name, data in PRINTS]


def test_references_of_version_1_are_read() -> None:
    assert decode_reference(golden("reference")) == REFERENCE


def decode(name: str, data: bytes) -> object:
    """Read the object like a slot, by its name or digest."""
    whole = golden(name)
    if name == "fingerprints":
        # The manifest has the digest; the object does not end with its own digest.
        if digest_of(data) != digest_of(whole):
            raise ObjectCorrupt("not that object")
        return decode_fingerprints(data)
    if name == "manifest":
        return decode_manifest(data)
    return decode_reference(data) if name == "reference" else decode_segment(data, digest_of(whole))


EVERY = [*SEGMENTS, "manifest", "fingerprints", "reference"]


@pytest.mark.parametrize("name", EVERY)
def test_every_flipped_bit_is_refused(name: str) -> None:
    whole = golden(name)
    # Invariant B12.
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        with pytest.raises(ObjectCorrupt):
            decode(name, bytes(changed))


@pytest.mark.parametrize("name", EVERY)
def test_every_truncation_and_every_appended_byte_is_refused(name: str) -> None:
    whole = golden(name)
    lengths = range(len(whole)) if len(whole) < 1000 else [*range(200), *range(200, len(whole), 97), len(whole) - 1]
    for length in lengths:
        with pytest.raises(ObjectCorrupt):
            decode(name, whole[:length])
    for tail in (b"\0", b"x" * 5000):
        with pytest.raises(ObjectCorrupt):
            decode(name, whole + tail)


@pytest.mark.parametrize("name", list(SEGMENTS))
def test_a_store_serves_only_the_matching_body(name: str) -> None:
    body = golden(name)
    assert matches_name(digest_of(body))(body)
    assert not matches_name(digest_of(body))(body + b"\0")


@pytest.mark.parametrize("name", EVERY)
def test_refusing_costs_no_memory(name: str) -> None:
    whole = golden(name)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorrupt):
            decode(name, whole[:12] + b"\xff\xff\xff\xff" + whole[16:])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
