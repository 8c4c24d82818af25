"""Segments, fingerprints and references: what is packed comes out, and what only looks like it is refused.

The hostile half forges objects whose digest is right, as one could who writes the bucket: each bound must hold by itself.
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
from imgstore.segments.codec import HEADER, HEADER_BYTES, SEGMENT_BYTES_MAX, decode_segment, encode_segment
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


def packed(content: bytes, room_bytes: int = 0) -> bytes:
    buffer = bytearray(HEADER_BYTES) + content + bytes(room_bytes)
    segment = encode_segment(buffer, len(content) // BLOCK)
    assert segment.name == digest_of(segment.body)
    assert segment.blocks == len(content) // BLOCK
    return bytes(segment.body)


def opened(body: bytes) -> bytes:
    return bytes(decode_segment(body, digest_of(body)))


@given(st.lists(block, min_size=1, max_size=6), st.sampled_from([0, BLOCK]))
def test_what_is_packed_comes_out(blocks: list[bytes], room_bytes: int) -> None:
    content = b"".join(blocks)
    body = packed(content, room_bytes)
    assert opened(body) == content
    assert len(body) <= HEADER_BYTES + len(content)


def test_a_segment_is_the_same_whatever_was_packed_before_it_and_by_whom() -> None:
    """A work that is taken up again makes the segments that it made before."""
    contents = [noise("a", BLOCK) + bytes(40 * BLOCK), bytes(BLOCK), noise("b", 3 * BLOCK) * 4]
    alone = [HEADER_BYTES + len(zstd.compress(content, level=1)) for content in contents]
    forwards = [packed(content) for content in contents]
    backwards = [packed(content) for content in reversed(contents)][::-1]
    with ThreadPoolExecutor(1) as pool:
        elsewhere = list(pool.map(packed, contents))
    assert forwards == backwards == elsewhere
    assert [len(body) for body in forwards] == alone


def test_a_segment_is_kept_raw_where_packing_saves_less_than_a_twentieth() -> None:
    shrinks = noise("a", 19 * BLOCK)
    assert HEADER.unpack_from(packed(shrinks))[2] == 0
    assert HEADER.unpack_from(packed(shrinks + bytes(BLOCK)))[2] == 0
    assert HEADER.unpack_from(packed(shrinks + bytes(2 * BLOCK)))[2] == 1


def test_the_largest_segment() -> None:
    content = noise("large", 1024 * BLOCK)
    body = packed(content)
    assert len(body) == SEGMENT_BYTES_MAX
    assert opened(body) == content


def test_the_sample_misses_no_stretch_that_is_worth_packing() -> None:
    """A twentieth of a segment in one stretch is met by a sample of every thirty-second block, wherever it lies."""
    hard, soft_blocks = noise("hard", 1024 * BLOCK), 64
    for first in range(0, 1024 - soft_blocks, 97):
        content = hard[: first * BLOCK] + bytes(soft_blocks * BLOCK) + hard[(first + soft_blocks) * BLOCK :]
        assert HEADER.unpack_from(packed(content))[2] == 1


def forged(payload: bytes, *, blocks: int, magic: bytes = b"IMGSTSEG", version: int = 1, encoding: int = 1) -> bytes:
    return HEADER.pack(magic, version, encoding, blocks) + payload


TWO = zstd.compress(noise("two", BLOCK) + bytes(BLOCK))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(forged(TWO, blocks=1), id="longer"),
        pytest.param(forged(TWO, blocks=3), id="shorter"),
        pytest.param(forged(TWO + TWO, blocks=2), id="second frame"),
        pytest.param(forged(TWO + TWO, blocks=4), id="two frames of the right sum"),
        pytest.param(forged(TWO + b"\0", blocks=2), id="tail"),
        pytest.param(forged(b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + TWO, blocks=2), id="skippable frame first"),
        pytest.param(forged(TWO + b"\x50\x2a\x4d\x18\x00\x00\x00\x00", blocks=2), id="skippable frame last"),
        pytest.param(forged(TWO[:-1], blocks=2), id="unfinished"),
        pytest.param(forged(b"", blocks=1), id="no frame"),
        pytest.param(forged(b"no frame at all", blocks=1), id="no zstd"),
        pytest.param(forged(zstd.compress(b""), blocks=1), id="empty frame"),
        pytest.param(forged(zstd.compress(bytes(1 << 28)), blocks=1024), id="bomb"),
        pytest.param(forged(bytes(BLOCK - 1), blocks=1, encoding=0), id="raw shorter"),
        pytest.param(forged(bytes(BLOCK + 1), blocks=1, encoding=0), id="raw longer"),
        pytest.param(forged(TWO, blocks=2, encoding=0), id="zstd called raw"),
        pytest.param(forged(bytes(2 * BLOCK), blocks=2), id="raw called zstd"),
        pytest.param(forged(bytes(BLOCK), blocks=1, encoding=2), id="encoding"),
        pytest.param(forged(bytes(BLOCK), blocks=1, encoding=0, version=2), id="version"),
        pytest.param(forged(bytes(BLOCK), blocks=1, encoding=0, magic=b"IMGSTMAN"), id="magic"),
        pytest.param(forged(b"", blocks=0, encoding=0), id="no blocks"),
        pytest.param(forged(bytes(1025 * BLOCK), blocks=1025, encoding=0), id="too many blocks"),
        pytest.param(forged(b"", blocks=2**32 - 1), id="very many blocks"),
        pytest.param(b"", id="empty"),
        pytest.param(b"IMGSTSEG", id="half a header"),
    ],
)
def test_forged_segments_are_refused(body: bytes) -> None:
    with pytest.raises(ObjectCorrupt) as caught:
        opened(body)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.hint


def test_a_bomb_is_not_unpacked_to_its_end() -> None:
    body = forged(zstd.compress(bytes(1 << 28)), blocks=2)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorrupt):
            opened(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.sampled_from(["segment-raw", "segment-zstd"]), st.data())
def test_segments_forged_anyhow_are_refused_or_whole(name: str, data: st.DataObject) -> None:
    body = bytearray(golden(name))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, min(len(body), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        content = opened(bytes(body))
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


def test_reading_fingerprints_copies_none() -> None:
    """A dense disk of 127 GiB has half a gigabyte of them."""
    found = decode_fingerprints(golden("fingerprints"))
    assert all(each.fingerprints.high.base is not None for each in found)


def listed(*blocks: int, prints: int, count: int | None = None, head: bytes = b"IMGSTFPR\1\0\0\0") -> bytes:
    """A fingerprints object that says `count` segments of `blocks` each, and holds so many prints."""
    table = b"".join(noise(f"n{place}", 32) + each.to_bytes(4, "little") for place, each in enumerate(blocks))
    return head + (len(blocks) if count is None else count).to_bytes(4, "little") + noise("p", 16 * prints) + table


def test_fingerprints_that_add_up() -> None:
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
        pytest.param(listed(prints=1), id="prints of nobody"),
        pytest.param(listed(2, prints=2, head=b"IMGSTFPR\2\0\0\0"), id="version"),
        pytest.param(listed(2, prints=2, head=b"IMGSTFPR\1\0\1\0"), id="not zero"),
        pytest.param(listed(2, prints=2, head=b"IMGSTSEG\1\0\0\0"), id="magic"),
        pytest.param(b"IMGSTFPR", id="half a header"),
    ],
)
def test_fingerprints_that_do_not_add_up_are_refused(data: bytes) -> None:
    with pytest.raises(ObjectCorrupt, match="fingerprints object"):
        decode_fingerprints(data)


@given(st.data())
def test_fingerprints_forged_anyhow_are_refused_or_add_up(data: st.DataObject) -> None:
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
def test_references_forged_anyhow_are_refused_or_whole(data: st.DataObject) -> None:
    body = bytearray(golden("reference")[:-32])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    try:
        found = decode_reference(cut + digest_of(cut))
    except ObjectCorrupt:
        return
    assert encode_reference(found) == cut + digest_of(cut)
