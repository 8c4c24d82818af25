"""The limits: what the machine and the engine do at best, by programs too simple to lose anything.

What they read and write is random, and each is done on as many threads as imgstore uses for it. MinIO's ceiling is
that of a client that knows nothing of S3: a connection a thread, addresses signed beforehand, bodies from memory.
"""

import http.client
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from blake3 import blake3

from bench.disks import BLOCK_BYTES, GIB, MIB, DiskName, data_extents, raw_path
from bench.engines import Bucket
from bench.measuring import Case, Found, World, new_file
from bench.results import Door, Unit
from imgstore.segments.codec import HEADER_BYTES, encode_segment

PIECE_BYTES = 4 * MIB
THREADS = 4


def measure_limits(world: World) -> Found:
    samples = world.samples()
    data = np.random.default_rng(5).bytes(PIECE_BYTES)
    pieces = world.sized(2 * GIB, 32 * MIB) // PIECE_BYTES
    real = _real_pieces(raw_path(world.disks, DiskName.V2), world.sized(64, 4))
    for _ in range(world.rounds):
        for name, seconds, moved in (
            ("disk_write", _disk_write(world, data, pieces), pieces * PIECE_BYTES),
            ("disk_read", _disk_read(world, data, pieces), pieces * PIECE_BYTES),
            ("memory_copy", _seconds(lambda: _copy(data, pieces)), pieces * PIECE_BYTES),
            ("blake3", _seconds(lambda: [blake3(data).digest() for _ in range(pieces)]), pieces * PIECE_BYTES),
            ("blake3_blocks", _seconds(lambda: _hash_blocks(data, pieces)), pieces * PIECE_BYTES),
            ("segment_encode", _threaded(_encode, real), sum(map(len, real))),
            *_engine(world.bucket("limits"), data, pieces),
        ):
            samples.add(f"{name}_rate", moved / seconds, Unit.BYTES_PER_SECOND, Door.INSIDE, _SAID[name])
    return Found(figures=samples.figures())


_SAID = {
    "disk_write": "4 MiB at a time into a new file past the page cache, and synced",
    "disk_read": "the same file, out of the page cache",
    "memory_copy": "4 MiB again and again, one thread",
    "blake3": "4 MiB a call, one thread",
    "blake3_blocks": "4 KiB a call, one thread, as fingerprints are made",
    "segment_encode": f"real blocks of v2 to segments: zstd and a digest, {THREADS} threads",
    "engine_put": f"4 MiB an object, {THREADS} connections, addresses signed beforehand",
    "engine_get": "the same objects back",
}


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
    view = memoryview(data)
    for _ in range(pieces):
        for offset in range(0, len(data), BLOCK_BYTES):
            blake3(view[offset : offset + BLOCK_BYTES]).digest(16)


def _encode(piece: bytes) -> None:
    encode_segment(bytearray(HEADER_BYTES) + piece, len(piece) // BLOCK_BYTES)


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


def _real_pieces(disk: Path, count: int) -> list[bytes]:
    """The first `count` pieces of a disk's data."""
    found = list[bytes]()
    with disk.open("rb", buffering=0) as file:
        for start, length in data_extents(file.fileno()):
            for offset in range(start, start + length - PIECE_BYTES + 1, PIECE_BYTES):
                found.append(os.pread(file.fileno(), PIECE_BYTES, offset))
                if len(found) == count:
                    return found
    return found


def _engine(bucket: Bucket, data: bytes, pieces: int) -> list[tuple[str, float, int]]:
    """(name, seconds, bytes) of putting and of getting."""
    shares = [range(first, pieces, THREADS) for first in range(THREADS)]
    client, address = bucket.engine.client(), urlsplit(bucket.engine.endpoint)

    def signed(verb: str, number: int) -> str:
        where = {"Bucket": bucket.name, "Key": f"piece-{number}"}
        return str(client.generate_presigned_url(verb, Params=where)).partition(address.netloc)[2]

    def run(method: str, paths: Sequence[str]) -> None:
        connection = http.client.HTTPConnection(address.netloc)
        for path in paths:
            connection.request(method, path, body=data if method == "PUT" else None)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, f"{method}: {answer.status} {answer.reason}"
        connection.close()

    found = []
    for name, method, verb in (("engine_put", "PUT", "put_object"), ("engine_get", "GET", "get_object")):
        addresses = [[signed(verb, number) for number in share] for share in shares]
        seconds = _threaded(partial(run, method), addresses)
        found.append((name, seconds, pieces * PIECE_BYTES))
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
