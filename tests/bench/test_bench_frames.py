"""Traces of boots, and segments of independent frames."""

from pathlib import Path

import numpy as np
import pytest

from bench.disks import BLOCK_BYTES, MIB, DiskName, raw_path
from bench.frames import WHOLE_BYTES, FrameReader, boot_pack, lay_out, pack, pack_all, unpack
from bench.nbd_client import NbdClient
from bench.synthetic import make_stand_ins
from bench.traces import RecordingDisk, Trace, made_up_trace, serving

KIB_64 = 64 << 10


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of v2."""
    folder = tmp_path_factory.mktemp("disks")
    make_stand_ins(folder)
    return raw_path(folder, DiskName.V2)


def test_a_trace_has_each_block_once_in_the_order_of_first_reads(tmp_path: Path) -> None:
    trace = Trace(((3 * BLOCK_BYTES, 2 * BLOCK_BYTES), (BLOCK_BYTES + 512, 1024), (4 * BLOCK_BYTES, BLOCK_BYTES + 1)))
    assert trace.blocks() == [3, 4, 1, 5]
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace


def test_a_made_up_trace_reads_a_share_of_the_data(disk: Path) -> None:
    trace = made_up_trace(disk, 0.05)
    assert trace == made_up_trace(disk, 0.05)
    read_bytes = sum(length for _, length in trace.reads)
    assert 0.05 <= read_bytes / (64 * MIB) < 0.06
    assert all(offset + length <= 64 * MIB for offset, length in trace.reads)


def test_reads_over_nbd_are_recorded(disk: Path, tmp_path: Path) -> None:
    recorder = RecordingDisk(disk)
    reads = [(5 * MIB, 8192), (0, 4096), (40 * MIB, 4096)]
    with serving(recorder, tmp_path / "nbd.sock"), NbdClient(tmp_path / "nbd.sock") as client:
        assert client.virtual_bytes == 64 * MIB
        with disk.open("rb") as file:
            for offset, length in reads:
                file.seek(offset)
                assert client.read(offset, length) == file.read(length)
    assert recorder.reads == reads


@pytest.mark.parametrize("frame_bytes", [KIB_64, 100 << 10, WHOLE_BYTES])
def test_a_framed_segment_unpacks_to_its_blocks(frame_bytes: int) -> None:
    content = np.random.default_rng(1).integers(0, 4, 3 * MIB, dtype=np.uint8).tobytes()
    segment = pack(memoryview(content), frame_bytes)
    assert b"".join(unpack(segment)) == content
    assert len(segment.body) < len(content) / 2
    assert len(segment.offsets) == -(-len(content) // frame_bytes) + 1


def test_a_layout_has_each_content_once_and_no_zeros(disk: Path) -> None:
    layout = lay_out(disk)
    assert sum(map(len, layout.contents)) == 32 * MIB
    assert min(layout.places) == 0
    assert max(layout.places) == 32 * MIB // BLOCK_BYTES - 1
    with disk.open("rb") as file:
        for number, (segment, at) in layout.places.items():
            if number % 97 == 0:
                file.seek(number * BLOCK_BYTES)
                assert layout.contents[segment][at : at + BLOCK_BYTES] == file.read(BLOCK_BYTES)


def test_a_damaged_frame_is_found() -> None:
    segment = pack(memoryview(bytes(MIB)), KIB_64)
    body = bytearray(segment.body)
    body[segment.offsets[3]] ^= 1
    reader = FrameReader(
        [segment], ["a"], lambda _key, offset, length: bytes(body[offset : offset + length]), knows_tables=True
    )
    reader.read(0, 0)
    with pytest.raises(AssertionError, match="damaged"):
        reader.read(0, 3 * KIB_64)


def test_readers_count_requests_and_bytes(disk: Path) -> None:
    layout = lay_out(disk)
    segments = pack_all(layout.contents, KIB_64)
    keys = [str(number) for number in range(len(segments))]

    def get_range(key: str, offset: int, length: int) -> bytes:
        return segments[int(key)].body[offset : offset + length]

    reader = FrameReader(segments, keys, get_range, knows_tables=False)
    reader.read(1, 70_000)
    assert reader.requests == 2
    assert reader.moved_bytes == len(segments[1].table) + segments[1].offsets[2] - segments[1].offsets[1]
    reader.keep()
    for inside in (0, 4096, KIB_64, 0):
        reader.read(2, inside)
    assert reader.requests == 2 + 3, "the table once, and two frames"
    known = FrameReader(segments, keys, get_range, knows_tables=True)
    known.read(1, 70_000)
    assert known.requests == 1
    for inside in (0, WHOLE_BYTES - 4096):
        before = known.requests
        known.read_speculatively(0, inside)
        assert known.requests == before + 1


def test_a_boot_pack_has_the_blocks_of_the_trace(disk: Path) -> None:
    layout, trace = lay_out(disk), Trace(((9 * MIB, 5 * MIB), (40 * MIB, MIB), (0, 8192)))
    packed = boot_pack(layout, trace)
    joined = b"".join(blocks for segment in packed for blocks in unpack(segment))
    assert len(joined) == 5 * MIB + 8192, "zeros are left out"
    first, inside = layout.places[trace.blocks()[0]]
    assert joined[:BLOCK_BYTES] == layout.contents[first][inside : inside + BLOCK_BYTES]
