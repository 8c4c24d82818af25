"""Tests of segments, fingerprints and references: encoding and decoding agree, and forged objects are refused.

Forged objects have a right digest, as an attacker with access to the bucket could make. Each bound must hold by itself.
"""

import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from segments_golden import BLOCK, golden, noise

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.sizes import SEGMENT_BYTES_MAX
from imgstore.segments.codec import HEADER, HEADER_BYTES, decode_segment, encode_segment
from imgstore.segments.fingerprints import (
    Fingerprints,
    FingerprintsWriter,
    decode_fingerprints,
    fingerprint_blocks,
    from_bytes,
)
from imgstore.segments.reference import Reference, decode_reference, encode_reference

KEY = bytes(range(32))

block = st.one_of(
    st.just(b""),
    st.binary(min_size=1, max_size=64),
    st.integers(0, 5).map(lambda seed: noise(str(seed), BLOCK)),
).map(lambda content: content.ljust(BLOCK, b"\0"))


def encode(content: bytes, room_bytes: int = 0) -> bytes:
    buffer = bytearray(HEADER_BYTES) + content + bytes(room_bytes)
    segment = encode_segment(buffer, len(content) // BLOCK)
    assert segment.name == digest_of(segment.body)
    assert segment.blocks == len(content) // BLOCK
    return bytes(segment.body)


def decode(body: bytes) -> bytes:
    return bytes(decode_segment(body, digest_of(body)))


@given(st.lists(block, min_size=1, max_size=6), st.sampled_from([0, BLOCK]))
def test_packed_blocks_are_decoded(blocks: list[bytes], room_bytes: int) -> None:
    content = b"".join(blocks)
    body = encode(content, room_bytes)
    assert decode(body) == content
    assert len(body) <= HEADER_BYTES + len(content)


def test_a_segment_depends_on_its_blocks_only() -> None:
    """A resumed work makes the same segments as before."""
    contents = [noise("a", BLOCK) + bytes(40 * BLOCK), bytes(BLOCK), noise("b", 3 * BLOCK) * 4]
    alone = [HEADER_BYTES + len(zstd.compress(content, level=1)) for content in contents]
    forwards = [encode(content) for content in contents]
    backwards = [encode(content) for content in reversed(contents)][::-1]
    with ThreadPoolExecutor(1) as pool:
        elsewhere = list(pool.map(encode, contents))
    assert forwards == backwards == elsewhere
    assert [len(body) for body in forwards] == alone


def test_a_segment_is_stored_raw_if_compression_saves_little() -> None:
    shrinks = noise("a", 19 * BLOCK)
    assert HEADER.unpack_from(encode(shrinks))[2] == 0
    assert HEADER.unpack_from(encode(shrinks + bytes(BLOCK)))[2] == 0
    # Invariant B6.
    assert HEADER.unpack_from(encode(shrinks + bytes(2 * BLOCK)))[2] == 1


def test_the_largest_segment_has_1024_blocks() -> None:
    content = noise("large", 1024 * BLOCK)
    body = encode(content)
    assert len(body) == SEGMENT_BYTES_MAX
    assert decode(body) == content


def test_the_sample_finds_every_compressible_range() -> None:
    """A sample of every thirty-second block meets any compressible range of a twentieth of the segment."""
    hard, soft_blocks = noise("hard", 1024 * BLOCK), 64
    for first in range(0, 1024 - soft_blocks, 97):
        content = hard[: first * BLOCK] + bytes(soft_blocks * BLOCK) + hard[(first + soft_blocks) * BLOCK :]
        assert HEADER.unpack_from(encode(content))[2] == 1


def forge(payload: bytes, *, blocks: int, magic: bytes = b"IMGSTSEG", version: int = 1, encoding: int = 1) -> bytes:
    return HEADER.pack(magic, version, encoding, blocks) + payload


TWO = zstd.compress(noise("two", BLOCK) + bytes(BLOCK))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(forge(TWO, blocks=1), id="longer"),
        pytest.param(forge(TWO, blocks=3), id="shorter"),
        pytest.param(forge(TWO + TWO, blocks=2), id="second frame"),
        pytest.param(forge(TWO + TWO, blocks=4), id="two frames of the right sum"),
        pytest.param(forge(TWO + b"\0", blocks=2), id="tail"),
        pytest.param(forge(b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + TWO, blocks=2), id="skippable frame first"),
        pytest.param(forge(TWO + b"\x50\x2a\x4d\x18\x00\x00\x00\x00", blocks=2), id="skippable frame last"),
        pytest.param(forge(TWO[:-1], blocks=2), id="unfinished"),
        pytest.param(forge(b"", blocks=1), id="no frame"),
        pytest.param(forge(b"no frame at all", blocks=1), id="no zstd"),
        pytest.param(forge(zstd.compress(b""), blocks=1), id="empty frame"),
        pytest.param(forge(zstd.compress(bytes(1 << 28)), blocks=1024), id="bomb"),
        pytest.param(forge(bytes(BLOCK - 1), blocks=1, encoding=0), id="raw shorter"),
        pytest.param(forge(bytes(BLOCK + 1), blocks=1, encoding=0), id="raw longer"),
        pytest.param(forge(TWO, blocks=2, encoding=0), id="zstd called raw"),
        pytest.param(forge(bytes(2 * BLOCK), blocks=2), id="raw called zstd"),
        pytest.param(forge(bytes(BLOCK), blocks=1, encoding=2), id="encoding"),
        pytest.param(forge(bytes(BLOCK), blocks=1, encoding=0, version=2), id="version"),
        pytest.param(forge(bytes(BLOCK), blocks=1, encoding=0, magic=b"IMGSTMAN"), id="magic"),
        pytest.param(forge(b"", blocks=0, encoding=0), id="no blocks"),
        pytest.param(forge(bytes(1025 * BLOCK), blocks=1025, encoding=0), id="too many blocks"),
        pytest.param(forge(b"", blocks=2**32 - 1), id="very many blocks"),
        pytest.param(b"", id="empty"),
        pytest.param(b"IMGSTSEG", id="half a header"),
    ],
)
def test_forged_segments_are_refused(body: bytes) -> None:
    with pytest.raises(ObjectCorrupt) as caught:
        decode(body)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.hint


def test_an_oversized_frame_is_not_decompressed_to_its_end() -> None:
    body = forge(zstd.compress(bytes(1 << 28)), blocks=2)
    tracemalloc.start()
    # Invariant B4.
    try:
        with pytest.raises(ObjectCorrupt):
            decode(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.sampled_from(["segment-raw", "segment-zstd"]), st.data())
def test_forged_segments_are_refused_or_complete(name: str, data: st.DataObject) -> None:
    body = bytearray(golden(name))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, min(len(body), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        content = decode(bytes(body))
    except ObjectCorrupt:
        return
    assert len(content) == HEADER.unpack_from(body)[3] * BLOCK


# Fingerprints.


def prints(count: int, seed: str = "prints") -> Fingerprints:
    return from_bytes(noise(seed, 16 * count))


def test_fingerprints_are_of_the_block_and_the_key_and_keep_trailing_zeros() -> None:
    piece = noise("piece", 3 * BLOCK) + bytes(BLOCK)
    asked = np.array([2, 0, 2, 3])
    found = fingerprint_blocks(memoryview(piece), asked, KEY)
    whole = found.tobytes()
    assert len(found) == 4
    assert whole[:16] == whole[32:48] != whole[16:32]
    assert whole != fingerprint_blocks(memoryview(piece), asked, bytes(32)).tobytes()
    # Invariant B15.
    assert from_bytes(b"\1" + bytes(15)).tobytes() == b"\1" + bytes(15)


@given(st.lists(st.integers(1, 5), max_size=6))
def test_fingerprints_round_trip(counts: list[int]) -> None:
    file = io.BytesIO()
    writer = FingerprintsWriter(file)
    expected = []
    for number, count in enumerate(counts):
        name, each = noise(f"name {number}", 32), prints(count, str(number))
        writer.add(each)
        expected.append((name, each.tobytes()))
    writer.finish([name for name, _ in expected])
    found = decode_fingerprints(file.getvalue())
    assert [(each.name, each.fingerprints.tobytes()) for each in found] == expected


def test_reading_fingerprints_copies_no_data() -> None:
    """The fingerprints of a dense disk of 127 GiB take half a gigabyte."""
    found = decode_fingerprints(golden("fingerprints"))
    assert all(each.fingerprints.high.base is not None for each in found)


def listed(*blocks: int, prints: int, count: int | None = None, head: bytes = b"IMGSTFPR\1\0\0\0") -> bytes:
    """Make a fingerprints object that lists `count` segments of `blocks` each and holds `prints` fingerprints."""
    table = b"".join(noise(f"n{place}", 32) + each.to_bytes(4, "little") for place, each in enumerate(blocks))
    return head + (len(blocks) if count is None else count).to_bytes(4, "little") + noise("p", 16 * prints) + table


def test_consistent_fingerprints_are_read() -> None:
    assert [len(each.fingerprints) for each in decode_fingerprints(listed(2, 1, prints=3))] == [2, 1]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(listed(2, 1, prints=2), id="too few"),
        pytest.param(listed(2, 1, prints=4), id="too many"),
        pytest.param(listed(2, 1, prints=3) + b"\0", id="tail"),
        pytest.param(listed(2, 1, prints=3, count=1), id="one segment less"),
        pytest.param(listed(2, 1, prints=3, count=2**32 - 1), id="no room for the table"),
        pytest.param(listed(0, 3, prints=3), id="an empty segment"),
        pytest.param(listed(1025, prints=1025), id="too large a segment"),
        pytest.param(listed(prints=1), id="prints of no segment"),
        pytest.param(listed(2, prints=2, head=b"IMGSTFPR\2\0\0\0"), id="version"),
        pytest.param(listed(2, prints=2, head=b"IMGSTFPR\1\0\1\0"), id="not zero"),
        pytest.param(listed(2, prints=2, head=b"IMGSTSEG\1\0\0\0"), id="magic"),
        pytest.param(b"IMGSTFPR", id="half a header"),
    ],
)
def test_inconsistent_fingerprints_are_refused(data: bytes) -> None:
    with pytest.raises(ObjectCorrupt, match="fingerprints object"):
        decode_fingerprints(data)


@given(st.data())
def test_forged_fingerprints_are_refused_or_consistent(data: st.DataObject) -> None:
    body = bytearray(golden("fingerprints"))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    try:
        found = decode_fingerprints(cut)
    except ObjectCorrupt:
        return
    assert 16 + sum(16 * len(each.fingerprints) + 36 for each in found) == len(cut)
    assert all(1 <= len(each.fingerprints) <= 1024 for each in found)


# References.


@given(st.binary(min_size=32, max_size=32), st.text("abcdef0123456789-/", max_size=200))
def test_references_round_trip(matches_name: bytes, key: str) -> None:
    reference = Reference(digest=matches_name, body_key=key)
    assert decode_reference(encode_reference(reference)) == reference


@given(st.data())
def test_forged_references_are_refused_or_complete(data: st.DataObject) -> None:
    body = bytearray(golden("reference")[:-32])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    try:
        found = decode_reference(cut + digest_of(cut))
    except ObjectCorrupt:
        return
    assert encode_reference(found) == cut + digest_of(cut)
