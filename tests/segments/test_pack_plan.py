"""Tests of the plans of boot packs: contents, inheritance with moved and changed blocks, and kept frames (D20)."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat
from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES
from imgstore.segments.boot_pack import (
    FRAME_BLOCKS,
    GONE,
    PackHead,
    decode_head,
    derive_pack_key,
    encode_head,
    head_length,
)
from imgstore.segments.manifest import Manifest, Pieces, Runs, SegmentTable
from imgstore.segments.pack_plan import GONE_SHARE_MAX, PlannedFrame, plan_inherited_pack, plan_pack

KEY = derive_pack_key(b"k" * 32)
DIGEST = digest_of(b"manifest")
SEGMENTS = 3


def make_manifest(disk: list[int | None], names: list[int]) -> Manifest:
    """Make a manifest of a disk whose blocks are contents: segment x 1,024 + block in segment. None is zero."""
    runs = [
        (at, names.index(content // 1024), content % 1024) for at, content in enumerate(disk) if content is not None
    ]
    columns = np.array(runs, dtype=np.int64).reshape(len(runs), 3)
    digests = np.frombuffer(b"".join(digest_of(bytes([name])) for name in names), dtype=np.uint8)
    return Manifest(
        virtual_bytes=max(1, len(disk)) * BLOCK_BYTES,
        container_metadata=ContainerMetadata(format=DiskFormat.RAW, footer=b""),
        works=(),
        segments=SegmentTable(
            names=digests.reshape(len(names), 32),
            blocks=np.full(len(names), 1024),
            stored_bytes=np.full(len(names), 1000),
            work=np.zeros(len(names), dtype=np.int64),
        ),
        runs=Runs(
            block=columns[:, 0],
            count=np.ones(len(runs), dtype=np.int64),
            segment=columns[:, 1],
            at=columns[:, 2],
        ),
        pieces=Pieces(index=np.zeros(0, dtype=np.int64), digests=np.zeros((0, 32), dtype=np.uint8)),
    )


def make_head(frames: list[PlannedFrame]) -> PackHead:
    """Make the head of a pack with these frames."""
    names = b"".join(digest_of(repr(frame.blocks).encode()) for frame in frames)
    return PackHead(
        manifest_digest=DIGEST,
        names=np.frombuffer(names, dtype=np.uint8).reshape(len(frames), 32),
        frame_blocks=np.array([len(frame.blocks) for frame in frames], dtype=np.int64),
        stored_bytes=np.array([100 * len(frame.blocks) for frame in frames], dtype=np.int64),
        block=np.array([block for frame in frames for block in frame.blocks], dtype=np.int64),
    )


contents = st.integers(0, SEGMENTS * 1024 - 1)
disks = st.lists(st.one_of(st.none(), contents), min_size=1, max_size=400)


@st.composite
def versions(draw: st.DrawFn) -> tuple[list[int | None], list[int | None], list[int]]:
    """Draw a disk, a changed disk with moved and new blocks, and a trace."""
    chosen = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 600))
    old = [chosen.choice((None, chosen.randrange(SEGMENTS * 1024))) for _ in range(count)]
    new = list(old)
    for _ in range(draw(st.integers(0, 30))):  # Blocks that move.
        a, b = chosen.randrange(count), chosen.randrange(count)
        new[a], new[b] = new[b], new[a]
    for _ in range(draw(st.integers(0, 30))):  # Blocks with new content or zeros.
        new[chosen.randrange(count)] = chosen.choice((None, chosen.randrange(SEGMENTS * 1024, (SEGMENTS + 2) * 1024)))
    trace = chosen.sample(range(count), draw(st.integers(0, count)))
    return old, new, trace


@given(drawn=versions())
@settings(max_examples=80, deadline=None)
def test_an_inherited_plan_has_the_contents_of_the_trace_once(
    drawn: tuple[list[int | None], list[int | None], list[int]],
) -> None:
    old, new, trace = drawn
    before = make_manifest(old, [0, 1, 2])
    after = make_manifest(new, [4, 2, 0, 3, 1])  # Another table of the same segments.
    first = plan_pack(np.array(trace, dtype=np.int64), before)
    expected = {old[block] for block in trace} - {None}
    packed = [old[block] for frame in first for block in frame.blocks]
    assert len(packed) == len(expected)
    assert set(packed) == expected
    head = make_head(first)
    planned = plan_inherited_pack(head, before, after)
    old_blocks = head.block.tolist()
    there = [new[block] for frame in planned for block in frame.blocks if block != GONE]
    assert len(there) == len(set(there)), "each content is packed once"
    wanted = {old[block] for block in old_blocks if old[block] in new}
    wanted |= {new[block] for block in old_blocks if old[block] not in new} - {None}
    assert set(there) == wanted, "a content stays, or its place has another content"
    bounds = head.first_block.tolist()
    for frame in planned:
        assert 1 <= len(frame.blocks) <= FRAME_BLOCKS
        if frame.kept is not None:
            kept = [old[block] for block in old_blocks[bounds[frame.kept] : bounds[frame.kept + 1]]]
            assert [None if block == GONE else new[block] for block in frame.blocks] == [
                each if each in new else None for each in kept
            ]
    kept_frames = [frame for frame in planned if frame.kept is not None]
    kept_blocks = sum(len(frame.blocks) for frame in kept_frames)
    assert sum(frame.blocks.count(GONE) for frame in kept_frames) <= GONE_SHARE_MAX * kept_blocks


def test_few_changes_keep_nearly_all_frames() -> None:
    old: list[int | None] = list(range(2048))
    new = list(old)
    for at in range(0, 2048, 200):
        new[at] = 2048 + at // 200
    before, after = make_manifest(old, [0, 1]), make_manifest(new, [0, 1, 2])
    planned = plan_inherited_pack(make_head(plan_pack(np.arange(2048), before)), before, after)
    assert sum(frame.kept is not None for frame in planned) == 2048 // FRAME_BLOCKS
    assert sum(len(frame.blocks) for frame in planned if frame.kept is None) == 11


@given(drawn=versions(), damage=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_a_head_is_read_back_and_any_damage_is_found(
    drawn: tuple[list[int | None], list[int | None], list[int]], damage: int
) -> None:
    """Invariant D19."""
    old, _, trace = drawn
    head = make_head(plan_pack(np.array(trace, dtype=np.int64), make_manifest(old, [0, 1, 2])))
    data = encode_head(head, KEY)
    assert head_length(data) == len(data)
    found = decode_head(data + b"frames", KEY, DIGEST)
    assert found.head_bytes == len(data)
    assert found.block.tolist() == head.block.tolist()
    assert found.names.tobytes() == head.names.tobytes()
    at = damage % len(data)
    wrong = data[:at] + bytes([data[at] ^ (1 + damage % 255)]) + data[at + 1 :]
    for key, digest, body in (
        (KEY, DIGEST, wrong),
        (KEY, DIGEST, data[:at]),
        (KEY, digest_of(b"another manifest"), data),
        (derive_pack_key(b"x" * 32), DIGEST, data),
    ):
        with pytest.raises(ObjectCorrupt):
            decode_head(body, key, digest)
