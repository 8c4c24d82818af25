"""Test request bodies of uploads: chunks of any size, and bytes beyond the end."""

import asyncio
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.api.blob.upload_body import UploadWriter, add_part
from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.transfer.spool import Bytes, Spool, remove_spool, spool_folder

SIZE = 3 * MIB + 512


async def gather(spool: Spool, at: int, data: bytes, cuts: list[int]) -> int:
    """Write a body. Return the bytes beyond the end."""
    async with UploadWriter(spool, at) as writer:
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if not await writer.add(data[begin:end]):
                break
    return writer.excess_bytes


def test_body_of_any_chunks_is_written_completely(tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, SIZE), max_size=40), st.booleans())
    def check(cuts: list[int], zeros: bool) -> None:
        remove_spool(tmp_path, "d")
        noise = bytes(range(1, 252)) * (SIZE // 251 + 1)
        data = bytes(2 * MIB) * zeros + noise
        with closing(Spool(spool_folder(tmp_path, "d"), SIZE)) as spool:
            assert asyncio.run(gather(spool, 0, data[:SIZE], sorted(cuts))) == 0
            assert spool.read_at(0, SIZE) == data[:SIZE]
            assert spool.received_bytes == SIZE

    check()


def test_bytes_beyond_the_end_are_counted_and_dropped(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "d", SIZE)) as spool:
        assert asyncio.run(gather(spool, SIZE - 700, b"x" * 900, [600])) == 200
        assert spool.read_at(SIZE - 700, 700) == b"x" * 700


def test_chunks_of_single_bytes_are_joined() -> None:
    parts: list[Bytes] = []
    for _ in range(200 * KIB):
        add_part(parts, b"x")
    assert len(parts) == 4
    assert b"".join(parts) == b"x" * 200 * KIB
