"""The limits: what the machine and the engine do at best, by programs too simple to lose anything.

What they read and write is random, and each is done on as many threads as imgstore uses for it. MinIO's ceiling is
that of a client that knows nothing of S3: a connection a thread, addresses signed beforehand, bodies from memory. A
command's start is that of an interpreter that loads what imgstore can't do without, and nothing of imgstore's own.
"""

import http.client
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from blake3 import blake3

from bench.choices import PIECE_BYTES, encoded
from bench.disks import BLOCK_BYTES, GIB, MIB, DiskName, raw_path
from bench.engines import Bucket
from bench.measuring import Case, Found, Samples, World, new_file, real_pieces
from bench.processes import run_timed
from bench.results import Door, Unit
from imgstore.segments.codec import EncodedSegment, decode_verified
from imgstore.segments.fingerprints import fingerprint_blocks

THREADS = 4


def measure_limits(world: World) -> Found:
    samples = world.samples()
    data = np.random.default_rng(5).bytes(PIECE_BYTES)
    pieces = world.sized(2 * GIB, 32 * MIB) // PIECE_BYTES
    real = real_pieces(raw_path(world.disks, DiskName.V2), world.sized(64, 4), PIECE_BYTES)
    segments = [encoded(piece) for piece in real]
    for _ in range(world.rounds):
        for name, seconds, done in (
            ("disk_write", _disk_write(world, data, pieces), pieces * PIECE_BYTES),
            ("disk_read", _disk_read(world, data, pieces), pieces * PIECE_BYTES),
            ("memory_copy", _seconds(lambda: _copy(data, pieces)), pieces * PIECE_BYTES),
            ("blake3", _seconds(lambda: [blake3(data).digest() for _ in range(pieces)]), pieces * PIECE_BYTES),
            ("blake3_blocks", _seconds(lambda: _hash_blocks(data, pieces)), pieces * PIECE_BYTES),
            ("segment_encode", _threaded(encoded, real), sum(map(len, real))),
            ("segment_decode", _threaded(_decode, segments), sum(map(len, real))),
            *_engine(world.bucket("limits"), data, pieces),
        ):
            unit, said = _SAID[name]
            samples.add(f"{name}_rate", done / seconds, unit, Door.INSIDE, said)
        _start(samples)
    return Found(figures=samples.figures())


_SAID = {
    "disk_write": (Unit.BYTES_PER_SECOND, "4 MiB at a time into a new file past the page cache, and synced"),
    "disk_read": (Unit.BYTES_PER_SECOND, "the same file, out of the page cache"),
    "memory_copy": (Unit.BYTES_PER_SECOND, "4 MiB again and again, one thread"),
    "blake3": (Unit.BYTES_PER_SECOND, "4 MiB a call, one thread"),
    "blake3_blocks": (Unit.BYTES_PER_SECOND, "4 KiB a call, one thread, as fingerprints are made"),
    "segment_encode": (
        Unit.BYTES_PER_SECOND,
        f"real blocks of v2 to segments: zstd and a digest, {THREADS} threads; of blocks",
    ),
    "segment_decode": (Unit.BYTES_PER_SECOND, f"these segments to blocks again, {THREADS} threads; of blocks"),
    "engine_put": (Unit.BYTES_PER_SECOND, f"4 MiB an object, {THREADS} connections, addresses signed beforehand"),
    "engine_get": (Unit.BYTES_PER_SECOND, "the same objects back"),
    "engine_requests": (Unit.PER_SECOND, f"an object of 16 bytes got again and again, {THREADS} connections"),
    "engine_delete": (Unit.PER_SECOND, f"the objects of 4 MiB deleted, one a request, {THREADS} connections"),
}

_START = """
import gc
gc.disable()
import blake3, boto3, click, numpy, sqlalchemy.dialects.sqlite, yaml
try:
    from compression import zstd
except ImportError:
    from backports import zstd
boto3.client("s3", endpoint_url="http://localhost", region_name="r", aws_access_key_id="a", aws_secret_access_key="b")
"""


def _start(samples: Samples) -> None:
    finished = run_timed([sys.executable, "-c", _START])
    said = "an interpreter that loads the libraries of an ingest, makes an S3 client, and ends"
    samples.add("start_seconds", finished.seconds, Unit.SECONDS, Door.INSIDE, said)
    samples.add("start_resident_bytes", finished.peak_bytes, Unit.BYTES, Door.STORE, "greatest, of that process")


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _threaded(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    with ThreadPoolExecutor(THREADS) as pool:
        return _seconds(lambda: list(pool.map(work, items)))


def _copy(data: bytes, pieces: int) -> None:
    target = bytearray(len(data))
    for _ in range(pieces):
        target[:] = data


def _hash_blocks(data: bytes, pieces: int) -> None:
    view, every = memoryview(data), np.arange(len(data) // BLOCK_BYTES)
    for _ in range(pieces):
        fingerprint_blocks(view, every, bytes(32))


def _decode(segment: EncodedSegment) -> None:
    decode_verified(bytes(segment.body), segment.name)


def _disk_write(world: World, data: bytes, pieces: int) -> float:
    with new_file(world, "limit.raw") as path:
        os.sync()
        return _seconds(lambda: _write(path, data, pieces))


def _write(path: Path, data: bytes, pieces: int) -> None:
    """Past the page cache: filling that costs more than the disk does."""
    with mmap.mmap(-1, len(data)) as aligned:
        aligned.write(data)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        try:
            for number in range(pieces):
                os.pwrite(file, aligned, number * len(data))
            os.fsync(file)
        finally:
            os.close(file)


def _disk_read(world: World, data: bytes, pieces: int) -> float:
    """From the disk itself: the pages are dropped before."""
    with new_file(world, "limit.raw") as path:
        _write(path, data, pieces)
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return _seconds(lambda: [file.read(PIECE_BYTES) for _ in range(pieces)])


def _engine(bucket: Bucket, data: bytes, pieces: int) -> list[tuple[str, float, int]]:
    """(name, seconds, bytes or objects) of putting, of getting, of asking for next to nothing, and of deleting."""
    client, address = bucket.engine.client(), urlsplit(bucket.engine.endpoint)
    client.put_object(Bucket=bucket.name, Key="small", Body=data[:16])

    def seconds(method: str, keys: Sequence[str]) -> float:
        """Of all threads, each with its share of the keys, a connection, and addresses that are signed before."""

        def signed(key: str) -> str:
            where = {"Bucket": bucket.name, "Key": key}
            return str(client.generate_presigned_url(f"{method.lower()}_object", Params=where)).partition(
                address.netloc
            )[2]

        def run(paths: Sequence[str]) -> None:
            connection = http.client.HTTPConnection(address.netloc)
            for path in paths:
                connection.request(method, path, body=data if method == "PUT" else None)
                answer = connection.getresponse()
                answer.read()
                assert answer.status in (200, 204), f"{method}: {answer.status} {answer.reason}"
            connection.close()

        return _threaded(run, [[signed(key) for key in keys[first::THREADS]] for first in range(THREADS)])

    keys = [f"piece-{number}" for number in range(pieces)]
    found = [
        ("engine_put", seconds("PUT", keys), pieces * PIECE_BYTES),
        ("engine_get", seconds("GET", keys), pieces * PIECE_BYTES),
        ("engine_requests", seconds("GET", ["small"] * pieces), pieces),
        ("engine_delete", seconds("DELETE", keys), pieces),
    ]
    bucket.forget()
    return found


CASES = (
    Case(
        name="limits",
        title="what the disk, the processors and the engine do at best",
        measure=measure_limits,
        regions=1,
    ),
)
