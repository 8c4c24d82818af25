"""Micro-cases: the steps that a disk goes through, a few MiB each.

As tests they run once, without clocks, and say that each does what it is timed for; `python -m bench micro` times them,
and `python -m bench compare` holds them against `test_reference`, which none of us can make faster or slower.
"""

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from pytest_benchmark.fixture import BenchmarkFixture

from imgstore.domain.storage.digests import digest_of
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB
from imgstore.segments.codec import HEADER_BYTES, EncodedSegment, decode_segment, encode_segment
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import create_sample_gallery, open_home, publish

PIECE_BYTES = 4 * MIB
DISK_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def dense() -> bytes:
    return np.random.default_rng(3).bytes(PIECE_BYTES)


@pytest.fixture(scope="module")
def text() -> bytes:
    """What a compressor makes smaller: words in no order."""
    words = np.array([b"segment ", b"replica ", b"region  ", b"version "], dtype="S8")
    return bytes(np.random.default_rng(3).choice(words, PIECE_BYTES // 8).tobytes().ljust(PIECE_BYTES, b" "))


def encode(piece: bytes) -> EncodedSegment:
    return encode_segment(bytearray(HEADER_BYTES) + piece, PIECE_BYTES // BLOCK_BYTES)


def test_reference(benchmark: BenchmarkFixture, dense: bytes) -> None:
    assert len(benchmark(lambda: blake3(dense).digest())) == 32


def test_encode_dense(benchmark: BenchmarkFixture, dense: bytes) -> None:
    assert len(benchmark(encode, dense).body) == HEADER_BYTES + PIECE_BYTES


def test_encode_text(benchmark: BenchmarkFixture, text: bytes) -> None:
    assert len(benchmark(encode, text).body) < PIECE_BYTES / 2


def test_decode_dense(benchmark: BenchmarkFixture, dense: bytes) -> None:
    made = encode(dense)
    assert benchmark(decode_segment, bytes(made.body), made.name) == dense


def test_decode_text(benchmark: BenchmarkFixture, text: bytes) -> None:
    made = encode(text)
    assert benchmark(decode_segment, bytes(made.body), digest_of(made.body)) == text


def test_publish(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A disk of which a quarter holds something, into a directory, each time into a gallery that knows nothing."""
    disk = make_raw(tmp_path / "disk.raw", seed=5, virtual_bytes=DISK_BYTES, content_bytes=DISK_BYTES // 4)
    homes = iter(range(10**6))

    def run() -> int:
        with open_home(tmp_path / f"home-{next(homes)}") as installation:
            create_sample_gallery(installation)
            return len(publish(installation, disk, targets=("southcentralus=1",)).replicas)

    assert benchmark.pedantic(run, rounds=5) == 1  # type: ignore[no-untyped-call]


def test_publish_again(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The same disk as one version more: nothing of it is new."""
    disk = make_raw(tmp_path / "disk.raw", seed=5, virtual_bytes=DISK_BYTES, content_bytes=DISK_BYTES // 4)
    numbers = iter(range(1, 10**6))
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, disk, targets=("southcentralus=1",))

        def run() -> int:
            return len(publish(installation, disk, f"1.0.{next(numbers)}", targets=("southcentralus=1",)).replicas)

        assert benchmark.pedantic(run, rounds=5) == 1  # type: ignore[no-untyped-call]
