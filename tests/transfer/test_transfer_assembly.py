"""Tests of the assembly of pieces in bounded memory, in any order and from several threads."""

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_disks import BLOCK, PIECE, Disk, Store, Target, ingest_disk, slot

from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.storage.sizes import PIECE_BLOCKS
from imgstore.segments.manifest import Runs
from imgstore.transfer import scatter as scattering
from imgstore.transfer.piece_assembly import Part, PieceAssembly, PieceBuffers, PieceParts, join_parts
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.slot_access import never_cancelled

Blocks = dict[int, int]
"""The fill byte of each block of a disk."""

disks = st.dictionaries(
    st.integers(0, 4).flatmap(lambda piece: st.integers(piece * PIECE_BLOCKS, piece * PIECE_BLOCKS + 6)),
    st.integers(1, 255),
    min_size=1,
)


def part(block: int, filling: int) -> tuple[int, PieceParts]:
    """Return a single block as `add` takes it."""
    piece, within = divmod(block, PIECE_BLOCKS)
    return piece, PieceParts([(within * BLOCK, memoryview(bytes([filling]) * BLOCK))], 1)


def assembly_of(blocks: Blocks, room_blocks: int) -> PieceAssembly:
    """Make an assembly with a run for each block."""
    column = np.array(sorted(blocks))
    ones = np.ones_like(column)
    return PieceAssembly(Runs(block=column, count=ones, segment=ones, at=ones), parked_bytes_max=room_blocks * BLOCK)


@given(disks, st.integers(0, 12), st.randoms(use_true_random=False))
def test_every_block_is_returned_once_and_each_piece_ends_once(blocks: Blocks, room: int, order: random.Random) -> None:
    """In any order, parked or not. The parked blocks never exceed the limit."""
    assembly = assembly_of(blocks, room)
    coming = list(blocks.items())
    order.shuffle(coming)
    out, ended, waiting = Blocks(), list[int](), 0
    for block, filling in coming:
        piece, brought = part(block, filling)
        now = assembly.add(piece, brought)
        waiting += 1 - now.blocks
        assert 0 <= waiting <= room
        for at, data in now.parts:
            assert out.setdefault(piece * PIECE_BLOCKS + at // BLOCK, data[0]) == data[0]
        assert len(now.parts) == now.blocks
        if now.whole or (now.blocks and assembly.record_written(piece, now.blocks)):
            ended.append(piece)
            assert {n for n in blocks if n // PIECE_BLOCKS == piece} <= out.keys()
    assert out == blocks
    assert sorted(ended) == sorted({block // PIECE_BLOCKS for block in blocks})


def test_parked_blocks_are_copies() -> None:
    """A view would keep the whole segment in memory."""
    assembly = assembly_of({0: 1, 1: 2}, 9)
    memory = bytearray(b"a" * BLOCK)
    assert not assembly.add(0, PieceParts([(0, memoryview(memory))], 1)).parts
    memory[:] = b"b" * BLOCK
    first = assembly.add(0, PieceParts([(BLOCK, memoryview(memory))], 1)).parts[0][1]
    assert bytes(first) == b"a" * BLOCK


def test_an_unparked_piece_is_complete_after_its_last_write() -> None:
    """Blocks that were parked before count only after the write."""
    assembly = assembly_of({0: 1, 1: 2, 2: 3}, 1)
    assert assembly.add(*part(0, 1)) == PieceParts()
    apart = assembly.add(*part(1, 2))
    assert (apart.blocks, apart.whole) == (2, False)
    last = assembly.add(*part(2, 3))
    assert (last.blocks, last.whole) == (1, False)
    assert not assembly.record_written(0, last.blocks)
    assert assembly.record_written(0, apart.blocks)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8), st.randoms())
def test_parts_are_joined_into_the_longest_spans_with_zeros_between(
    spans: list[tuple[int, int]], order: random.Random
) -> None:
    parts: list[Part] = []
    expected, at = bytearray(60 * BLOCK), 0
    for length, gap in spans:
        at += gap * BLOCK
        parts.append((at, bytes([len(parts) + 1]) * (length * BLOCK)))
        expected[at : at + length * BLOCK] = parts[-1][1]
        at += length * BLOCK
    order.shuffle(parts)
    buffers = PieceBuffers()
    with buffers.borrow() as buffer:
        buffer[:] = b"x" * len(buffer)  # of another piece
    with buffers.borrow() as buffer:
        stretches = join_parts(parts, buffer[: 60 * BLOCK])
        assert bytes(buffer[: 60 * BLOCK]) == expected
    filled = [any(expected[n * BLOCK : (n + 1) * BLOCK]) for n in range(60)]
    assert [n for begin, end in stretches for n in range(begin // BLOCK, end // BLOCK)] == [
        n for n, each in enumerate(filled) if each
    ]
    assert all(before[1] < after[0] for before, after in pairwise(stretches))


@pytest.mark.parametrize("room", [0, 3, 1 << 20])
def test_many_threads_add_blocks(room: int) -> None:
    blocks = {piece * PIECE_BLOCKS + n: n % 255 + 1 for piece in range(20) for n in range(50)}
    assembly = assembly_of(blocks, room)
    coming = list(blocks.items())
    random.Random(1).shuffle(coming)

    def bring(each: tuple[int, int]) -> tuple[list[int], list[int]]:
        piece, brought = part(*each)
        now = assembly.add(piece, brought)
        written = [piece * PIECE_BLOCKS + at // BLOCK for at, _ in now.parts]
        ended = now.whole or (bool(now.blocks) and assembly.record_written(piece, now.blocks))
        return written, [piece] if ended else []

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(bring, coming))
    assert sorted(n for written, _ in results for n in written) == sorted(blocks)
    assert sorted(n for _, ended in results for n in ended) == list(range(20))


TANGLED = Disk(4 * PIECE - 7, {n: n * 7 % 3000 + 1 for n in range(4 * 1024) if n % 11})


@pytest.mark.parametrize("room_blocks", [0, 5, 1 << 20])
def test_a_disk_does_not_depend_on_the_parked_bytes(
    room_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    manifest = ingest_disk(TANGLED, slot(store), tmp_path).manifest
    monkeypatch.setattr(scattering, "PieceAssembly", partial(PieceAssembly, parked_bytes_max=room_blocks * BLOCK))
    soon: list[bool] = []

    class Told(Target):
        def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
            soon.append(read_soon)
            super().write_at(offset, data, read_soon=read_soon)

    target, moved = Told(TANGLED.virtual_bytes), list[int]()
    scatter(
        manifest,
        SegmentReader([slot(store)]),
        target,
        workers=3,
        check_cancelled=never_cancelled,
        on_moved=moved.append,
    )
    assert bytes(target.data) == TANGLED.whole()
    assert sum(moved) == TANGLED.virtual_bytes - sum(BLOCK for n in range(4 * 1024) if n % 11 == 0)
    assert any(soon) == (room_blocks < 1000), "only bytes that are read back should stay in the page cache"


class Forgetful(Target):
    """A target that loses a block."""

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        super().write_at(offset, data, read_soon=read_soon)
        if offset <= 1200 * BLOCK < offset + len(data):
            self.data[1200 * BLOCK] ^= 1


def test_unparked_pieces_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    manifest = ingest_disk(TANGLED, slot(store), tmp_path).manifest
    monkeypatch.setattr(scattering, "PieceAssembly", partial(PieceAssembly, parked_bytes_max=0))
    target, reader = Forgetful(TANGLED.virtual_bytes), SegmentReader([slot(store)])
    with pytest.raises(ObjectCorrupt, match=f"piece at byte {PIECE} "):
        scatter(manifest, reader, target, workers=2, check_cancelled=never_cancelled, on_moved=lambda _bytes: None)
