"""The choices of the data plane, each with what might have been instead, as small as it can be.

All ways of a choice do the same to the same bytes. Where one is imgstore's own code it is called as imgstore calls it.
"""

import fcntl
import http.client
import mmap
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
from blake3 import blake3
from botocore.config import Config

from bench.disks import BLOCK_BYTES, MIB
from bench.frames import WHOLE_BYTES, FramedSegment, FrameReader, Layout, boot_pack, pack, pack_all, unpack
from bench.results import Figure, Result, show
from bench.traces import Trace
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.segments.codec import HEADER_BYTES, EncodedSegment, encode_segment
from imgstore.segments.fingerprint_index import SortedEntries
from imgstore.segments.fingerprints import FINGERPRINT_BYTES, fingerprint_blocks, from_bytes
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.s3.store import S3Store
from imgstore.testing.engines import EngineMissing, S3Engine
from imgstore.testing.latency_proxy import start_toxiproxy

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 4 * MIB
PUT_THREADS = 5
DICTIONARY_BYTES = 112_640
"""As zstd's own command line makes them (its manual, --maxdict)."""
PIECES_ASKED = 200
"""So many of v2 hold data."""
WRITE_THREADS = 4
KEY = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the ways work with."""

    real: Sequence[bytes]
    """Pieces of v2."""
    random: Sequence[bytes]
    """As many that nothing makes smaller."""
    engine: S3Engine
    bucket: str
    """Empty, on that engine."""
    folder: Path
    """Empty too."""
    known_blocks: int
    """Of a base: a million is what one of 4 GiB has."""
    layout: Layout
    """v2 in segments."""
    trace: Trace
    """What a boot of v2 reads."""
    single_reads: int
    """So many reads of 4 KiB at random places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Did:
    """What a way did."""

    amount: int
    """Bytes, or how many."""
    kept_bytes: int | None = None
    """What was to be kept in the end; None where that is the same for all."""
    moved_bytes: int | None = None
    """What the store sent; None where that is not the question."""
    requests: int | None = None
    """What the store was asked."""


Way = Callable[[], Did]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A question and its answers."""

    name: str
    """What its figures' names begin with."""
    question: str
    ways: Mapping[str, str]
    """By what their figures are called, in words; the first is imgstore's."""
    opened: Callable[[Stage], AbstractContextManager[Mapping[str, Way]]]
    """Makes the ways ready; those that are not possible here are left out."""
    reason: str
    counts: bool = False
    """Told as so many a second, not as bytes."""
    case: str = "choices"
    """The case that measures it."""


# -- compression ------------------------------------------------------------------------------------------------------


@contextmanager
def _levels(stage: Stage) -> Iterator[Mapping[str, Way]]:
    learned, measured = stage.real[1::2], stage.real[::2]
    blocks = [piece[at : at + BLOCK_BYTES] for piece in learned for at in range(0, PIECE_BYTES, BLOCK_BYTES)]
    dictionary = zstd.train_dict(blocks, DICTIONARY_BYTES)

    def compressed(**how: Any) -> Way:
        def run() -> Did:
            kept = sum(len(zstd.compress(piece, **how)) for piece in measured)
            return Did(amount=sum(map(len, measured)), kept_bytes=kept)

        return run

    yield {
        "level_1": compressed(level=1),
        "level_3": compressed(level=3),
        "level_minus_1": compressed(level=-1),
        "dictionary": compressed(level=1, zstd_dict=dictionary),
    }


@contextmanager
def _sampling(stage: Stage) -> Iterator[Mapping[str, Way]]:
    amount = sum(map(len, stage.random))

    def sampled() -> Did:
        return Did(amount=amount, kept_bytes=sum(len(encoded(piece).body) for piece in stage.random))

    def whole() -> Did:
        kept = 0
        for piece in stage.random:
            packed = zstd.compress(piece, level=1)
            body = packed if len(packed) < 0.95 * len(piece) else piece
            blake3(body).digest()
            kept += len(body)
        return Did(amount=amount, kept_bytes=kept)

    yield {"sample": sampled, "whole": whole}


def encoded(piece: bytes) -> EncodedSegment:
    """A piece as a segment of its own."""
    return encode_segment(bytearray(HEADER_BYTES) + piece, len(piece) // BLOCK_BYTES)


# -- knowing blocks again ---------------------------------------------------------------------------------------------


@contextmanager
def _looking_up(stage: Stage) -> Iterator[Mapping[str, Way]]:
    rng = np.random.default_rng(7)
    known = rng.bytes(stage.known_blocks * FINGERPRINT_BYTES)
    blocks = PIECE_BYTES // BLOCK_BYTES
    half = blocks // 2 * FINGERPRINT_BYTES
    asked = [known[at : at + half] + rng.bytes(half) for at in range(0, PIECES_ASKED * half, half)]
    did = Did(amount=len(asked) * blocks)

    def sorted_columns() -> Did:
        entries = SortedEntries(from_bytes(known), np.arange(stage.known_blocks, dtype=np.uint32))
        for piece in asked:
            entries.find(from_bytes(piece))
        return did

    def dictionary() -> Did:
        table = {each: at for at, each in enumerate(_fingerprints(known))}
        for piece in asked:
            list(map(table.get, _fingerprints(piece)))
        return did

    yield {"columns": sorted_columns, "dictionary": dictionary}


def _fingerprints(data: bytes) -> list[bytes]:
    return [data[at : at + FINGERPRINT_BYTES] for at in range(0, len(data), FINGERPRINT_BYTES)]


@contextmanager
def _fingerprinting(stage: Stage) -> Iterator[Mapping[str, Way]]:
    pieces = list(stage.random)
    every = np.arange(PIECE_BYTES // BLOCK_BYTES)
    did = Did(amount=sum(map(len, pieces)))
    shared = mmap.mmap(-1, did.amount)  # anonymous and shared: forked processes see the same pages
    for number, piece in enumerate(pieces):
        shared[number * PIECE_BYTES : (number + 1) * PIECE_BYTES] = piece

    def hashed(piece: bytes) -> None:
        fingerprint_blocks(memoryview(piece), every, KEY)

    def threads(count: int) -> Way:
        def run() -> Did:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(hashed, pieces))
            return did

        return run

    with multiprocessing.get_context("fork").Pool(2, _share, (shared,)) as pool:

        def processes() -> Did:
            pool.map(_hash_shared, range(len(pieces)), chunksize=1)
            return did

        yield {"one_thread": threads(1), "two_threads": threads(2), "two_processes": processes}


_shared: mmap.mmap | None = None


def _share(pieces: mmap.mmap) -> None:
    global _shared  # noqa: PLW0603 - what a forked process was handed
    # The bench's handler would raise an exception at any line, also between a lock and its release.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _shared = pieces


def _hash_shared(number: int) -> bytes:
    """In a process of its own: the fingerprints of one of the shared pieces."""
    assert _shared is not None
    piece = memoryview(_shared)[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
    return fingerprint_blocks(piece, np.arange(PIECE_BYTES // BLOCK_BYTES), KEY).tobytes()


# -- putting ----------------------------------------------------------------------------------------------------------


@contextmanager
def _segment_sizes(stage: Stage) -> Iterator[Mapping[str, Way]]:
    content = b"".join(stage.real)
    store = _store(stage)

    def put(segment_bytes: int) -> Way:
        def one(at: int) -> int:
            packed = zstd.compress(memoryview(content)[at : at + segment_bytes], level=1)
            blake3(packed).digest()
            store.put(f"{segment_bytes}-{at}", packed)
            return len(packed)

        def run() -> Did:
            with ThreadPoolExecutor(PUT_THREADS) as pool:
                return Did(amount=len(content), kept_bytes=sum(pool.map(one, range(0, len(content), segment_bytes))))

        return run

    yield {"mib_4": put(4 * MIB), "mib_1": put(MIB), "mib_8": put(8 * MIB), "mib_16": put(16 * MIB)}


@contextmanager
def _requests(stage: Stage) -> Iterator[Mapping[str, Way]]:
    bodies = [bytes(encoded(piece).body) for piece in stage.real]
    store = _store(stage)

    def through(put: Callable[[str, bytes], object]) -> Way:
        def run() -> Did:
            with ThreadPoolExecutor(PUT_THREADS) as pool:
                list(pool.map(lambda numbered: put(f"body-{numbered[0]}", numbered[1]), enumerate(bodies)))
            return Did(amount=len(bodies))

        return run

    def client(**how: Any) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=stage.engine.endpoint,
            region_name="us-east-1",
            aws_access_key_id=stage.engine.access_key,
            aws_secret_access_key=stage.engine.secret_key,
            config=Config(max_pool_connections=PUT_THREADS, **how),
        )

    plain = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path", "payload_signing_enabled": False},
    }
    defaults, quiet, closing = client(s3={"addressing_style": "path"}), client(**plain), client(**plain)
    closing.meta.events.register("before-send.s3", _hang_up)

    def by(each: Any) -> Callable[[str, bytes], object]:
        return lambda key, body: each.put_object(Bucket=stage.bucket, Key=key, Body=body)

    yield {
        "short": through(store.put),
        "client": through(by(quiet)),
        "client_defaults": through(by(defaults)),
        "connection_each": through(by(closing)),
    }
    for each in (defaults, quiet, closing):
        each.close()


def _hang_up(request: Any, **_more: Any) -> None:
    request.headers["Connection"] = "close"


@contextmanager
def _bodies(stage: Stage) -> Iterator[Mapping[str, Way]]:
    store = _store(stage)
    amount = sum(map(len, stage.random))

    def put(made: Callable[[bytes], Any]) -> Way:
        def run() -> Did:
            with ThreadPoolExecutor(PUT_THREADS) as pool:
                list(pool.map(lambda each: store.put(f"piece-{each[0]}", made(each[1])), enumerate(stage.random)))
            return Did(amount=amount)

        return run

    yield {
        "view": put(memoryview),
        "copy": put(lambda piece: bytes(HEADER_BYTES) + piece),
    }


def _store(stage: Stage) -> S3Store:
    return S3Store(
        endpoint=stage.engine.endpoint,
        bucket=stage.bucket,
        path_style=True,
        signing_region="us-east-1",
        access_key=stage.engine.access_key,
        secret_key=stage.engine.secret_key,
    )


# -- directories and files --------------------------------------------------------------------------------------------

_FICLONE = 0x40049409
"""linux/fs.h: share the extents of another file."""


@contextmanager
def _copies(stage: Stage) -> Iterator[Mapping[str, Way]]:
    """On a file system that can share extents, where one can be mounted."""
    with _mounted_xfs(stage.folder) as mounted:
        folder = mounted or stage.folder
        store = DirectoryStore(folder / "store")
        for number, piece in enumerate(stage.random):
            store.put(f"from/{number}", piece)
        amount = sum(map(len, stage.random))

        def copied(copy: Callable[[str, str], object]) -> Way:
            def run() -> Did:
                for number in range(len(stage.random)):
                    copy(f"from/{number}", f"to/{number}")
                return Did(amount=amount)

            return run

        def durably(bring: Callable[[int, int], object]) -> Callable[[str, str], None]:
            def copy(source: str, target: str) -> None:
                path = folder / "store" / target
                path.parent.mkdir(exist_ok=True)
                with open(folder / "store" / source, "rb") as old, open(path, "wb") as new:
                    bring(old.fileno(), new.fileno())
                    os.fsync(new.fileno())

            return copy

        ways = {
            "through_us": copied(store.copy_within),
            "copy_file_range": copied(durably(lambda old, new: os.copy_file_range(old, new, PIECE_BYTES))),
        }
        if mounted:
            ways["reflink"] = copied(durably(lambda old, new: fcntl.ioctl(new, _FICLONE, old)))
        yield ways


@contextmanager
def _mounted_xfs(folder: Path) -> Iterator[Path | None]:
    """A fresh XFS in a file; None where this user can't mount one."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        yield None
        return
    image, place = folder / "xfs.img", folder / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(2048 * MIB)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()
        place.rmdir()


@contextmanager
def _writing(stage: Stage) -> Iterator[Mapping[str, Way]]:
    pieces = list(enumerate(stage.real))
    amount = sum(map(len, stage.real))
    path = stage.folder / "out.raw"

    def at_once(write: Callable[[bytes, int], object]) -> None:
        with ThreadPoolExecutor(WRITE_THREADS) as pool:
            list(pool.map(lambda each: write(each[1], each[0] * PIECE_BYTES), pieces))

    def pending() -> Did:
        file = PendingFile(path, overwrite=True)
        at_once(file.write)
        file.publish()
        path.unlink()
        return Did(amount=amount)

    def cached(more: Callable[[int, int], object]) -> Way:
        def run() -> Did:
            file = os.open(path, os.O_WRONLY | os.O_CREAT)
            try:

                def write(piece: bytes, at: int) -> None:
                    os.pwrite(file, piece, at)
                    more(file, at)

                at_once(write)
                os.fsync(file)
            finally:
                os.close(file)
                path.unlink()
            return Did(amount=amount)

        return run

    def drop(file: int, at: int) -> None:
        os.posix_fadvise(file, at, PIECE_BYTES, os.POSIX_FADV_DONTNEED)

    yield {"direct": pending, "cached": cached(lambda _file, _at: None), "dropped": cached(drop)}


# -- frames of a segment ----------------------------------------------------------------------------------------------

_FRAMES = {"whole": WHOLE_BYTES, "kib_256": 256 << 10, "kib_128": 128 << 10, "kib_64": 64 << 10}
_DISTANCE_SECONDS = 0.02
"""The round trip to a store in the next town."""


@contextmanager
def _packing_frames(stage: Stage) -> Iterator[Mapping[str, Way]]:
    contents = stage.layout.contents[: len(stage.real)]
    amount = sum(map(len, contents))

    def packed(frame_bytes: int) -> Did:
        return Did(amount=amount, kept_bytes=sum(len(pack(memoryview(each), frame_bytes).body) for each in contents))

    yield {name: partial(packed, frame_bytes) for name, frame_bytes in _FRAMES.items()}


@contextmanager
def _unpacking_frames(stage: Stage) -> Iterator[Mapping[str, Way]]:
    contents = stage.layout.contents[: len(stage.real)]
    amount = sum(map(len, contents))

    def unpacked(segments: Sequence[FramedSegment]) -> Did:
        assert sum(len(blocks) for segment in segments for blocks in unpack(segment)) == amount
        return Did(amount=amount)

    yield {name: partial(unpacked, pack_all(contents, frame_bytes)) for name, frame_bytes in _FRAMES.items()}


@contextmanager
def _reading_frames(stage: Stage, round_trip_seconds: float) -> Iterator[Mapping[str, Way]]:
    """Single reads of 4 KiB, each without a cache."""
    contents = stage.layout.contents[: len(stage.real)]
    rng = np.random.default_rng(13)
    numbers = rng.integers(len(contents), size=stage.single_reads).tolist()
    reads = [(number, int(rng.integers(len(contents[number]) // BLOCK_BYTES)) * BLOCK_BYTES) for number in numbers]
    with _distant_bucket(stage, round_trip_seconds) as bucket:
        if bucket is None:
            yield {}
            return

        def read(reader: FrameReader, *, is_speculative: bool = False) -> Did:
            reader.moved_bytes = reader.requests = 0
            for number, inside in reads:
                (reader.read_speculatively if is_speculative else reader.read)(number, inside)
            count = len(reads)
            return Did(amount=count, moved_bytes=reader.moved_bytes // count, requests=reader.requests)

        ways = dict[str, Way]()
        for name, frame_bytes in _FRAMES.items():
            segments = pack_all(contents, frame_bytes)
            keys = bucket.put(name, segments)
            ways[name] = partial(read, FrameReader(segments, keys, bucket.get_range, knows_tables=False))
        known = FrameReader(segments, keys, bucket.get_range, knows_tables=True)
        yield ways | {"kib_64_known": partial(read, known), "kib_64_guessed": partial(read, known, is_speculative=True)}


@contextmanager
def _booting_frames(stage: Stage) -> Iterator[Mapping[str, Way]]:
    """The blocks of a boot, each when the guest needs it, by a host with a cache."""
    places = stage.layout.places
    wanted = dict.fromkeys(places[block] for block in stage.trace.blocks() if block in places)
    numbers = {number: at for at, number in enumerate(dict.fromkeys(number for number, _ in wanted))}
    contents = [stage.layout.contents[number] for number in numbers]
    reads = [(numbers[number], inside) for number, inside in wanted]
    amount = len(reads) * BLOCK_BYTES
    with _distant_bucket(stage, _DISTANCE_SECONDS) as bucket:
        if bucket is None:
            yield {}
            return

        def boot(reader: FrameReader) -> Did:
            reader.moved_bytes = reader.requests = 0
            reader.keep()
            for number, inside in reads:
                reader.read(number, inside)
            return Did(amount=amount, moved_bytes=reader.moved_bytes, requests=reader.requests)

        def stream(reader: FrameReader) -> Did:
            reader.moved_bytes = reader.requests = 0
            for number in range(len(reader.segments)):
                reader.read(number, 0)
            return Did(amount=amount, moved_bytes=reader.moved_bytes, requests=reader.requests)

        ways = dict[str, Way]()
        for name, frame_bytes in _FRAMES.items():
            segments = pack_all(contents, frame_bytes)
            keys = bucket.put(name, segments)
            ways[name] = partial(boot, FrameReader(segments, keys, bucket.get_range, knows_tables=False))
        ways["kib_64_known"] = partial(boot, FrameReader(segments, keys, bucket.get_range, knows_tables=True))
        packed = boot_pack(stage.layout, stage.trace)
        keys = bucket.put("pack", packed)
        yield ways | {"pack": partial(stream, FrameReader(packed, keys, bucket.get_range, knows_tables=True))}


class _Bucket:
    """A bucket through a plain connection: addresses that were signed beforehand, and no client."""

    def __init__(self, engine: S3Engine, name: str) -> None:
        self._name = name
        self._client = engine.client()
        self._connection = http.client.HTTPConnection(urlsplit(engine.endpoint).netloc)
        self._targets = dict[str, str]()

    def put(self, prefix: str, segments: Sequence[FramedSegment]) -> list[str]:
        """Stores segments, and gives their keys."""
        keys = [f"{prefix}-{number}" for number in range(len(segments))]
        for key, segment in zip(keys, segments, strict=True):
            self._client.put_object(Bucket=self._name, Key=key, Body=segment.body)
            url = urlsplit(self._client.generate_presigned_url("get_object", {"Bucket": self._name, "Key": key}))
            self._targets[key] = f"{url.path}?{url.query}"
        return keys

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """A range of an object."""
        self._connection.request("GET", self._targets[key], headers={"Range": f"bytes={offset}-{offset + length - 1}"})
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 206, f"{answer.status}: {body[:500]!r}"
        return body

    def close(self) -> None:
        self._connection.close()
        self._client.close()


@contextmanager
def _distant_bucket(stage: Stage, round_trip_seconds: float) -> Iterator[_Bucket | None]:
    """The bucket at a distance; None where no proxy is here that makes one."""
    with ExitStack() as stack:
        engine = stage.engine
        if round_trip_seconds:
            try:
                proxies = stack.enter_context(start_toxiproxy(stage.folder / "toxiproxy"))
            except EngineMissing:
                yield None
                return
            engine = proxies.to(engine, round_trip_seconds).engine
        bucket = _Bucket(engine, stage.bucket)
        stack.callback(bucket.close)
        yield bucket


_FRAME_WORDS = {
    "whole": "one frame",
    "kib_256": "frames of 256 KiB",
    "kib_128": "frames of 128 KiB",
    "kib_64": "frames of 64 KiB",
}
_READ_WORDS = {
    "whole": "one frame",
    "kib_256": "frames of 256 KiB: the table, then the frame",
    "kib_128": "frames of 128 KiB: the table, then the frame",
    "kib_64": "frames of 64 KiB: the table, then the frame",
    "kib_64_known": "frames of 64 KiB, with the tables in the manifest",
}
_GUESS_WORDS = {"kib_64_guessed": "frames of 64 KiB, by one request from the likely begin to the table at the end"}

CHOICES: Sequence[Choice] = (
    Choice(
        name="zstd",
        question="compression level for a segment of v2; one thread",
        ways={
            "level_1": "level 1",
            "level_minus_1": "level -1",
            "level_3": "level 3",
            "dictionary": "level 1, with a dictionary of 110 KiB learned from v2's other pieces",
        },
        opened=_levels,
        reason="the level of the design; a dictionary helps only for short inputs",
    ),
    Choice(
        name="sample",
        question="whether random data is worth compressing; one thread",
        ways={"sample": "a sample of 32 blocks is compressed first", "whole": "the whole is compressed and dropped"},
        opened=_sampling,
        reason="for real data the sample is 3% of the work",
    ),
    Choice(
        name="lookup",
        question="look-up of the blocks of 200 pieces among a million of a base, half of the blocks without a match; one thread",
        ways={"columns": "sorted columns of numpy, a piece at once", "dictionary": "a dictionary, block by block"},
        opened=_looking_up,
        reason="20 bytes for each entry; a dictionary needs more than a hundred",
        counts=True,
    ),
    Choice(
        name="fingerprints",
        question="threads or processes that compute fingerprints",
        ways={
            "one_thread": "one thread",
            "two_threads": "two threads",
            "two_processes": "two processes with shared memory",
        },
        opened=_fingerprinting,
        reason="two processes need both cores, like compression and the engine; all four versions took equally long",
    ),
    Choice(
        name="segment",
        question="length of a segment, packed from v2 and put by five threads",
        ways={"mib_4": "4 MiB", "mib_1": "1 MiB", "mib_8": "8 MiB", "mib_16": "16 MiB"},
        opened=_segment_sizes,
        reason="the length of the design; a first read of a block fetches a whole segment",
    ),
    Choice(
        name="request",
        question="requests for segments of v2, by five threads",
        ways={
            "short": "signed and sent without the client of boto3, with a CRC-32",
            "client": "client of boto3, without signature or checksum of the body",
            "client_defaults": "client of boto3 with defaults: SHA-256 and a CRC-32 of its own",
            "connection_each": "client of boto3, a connection for each request",
        },
        opened=_requests,
        reason="the CRC-32 confirms a segment",
        counts=True,
    ),
    Choice(
        name="body",
        question="buffer of a body of 4 MiB, put by five threads",
        ways={"view": "the buffer of the packer", "copy": "a copy with the header in front"},
        opened=_bodies,
        reason="a compressed body is a new buffer in any case",
    ),
    Choice(
        name="copy",
        question="durable copy of 4 MiB in a directory, on XFS where possible",
        ways={
            "through_us": "read and written",
            "copy_file_range": "copy_file_range",
            "reflink": "a reflink",
        },
        opened=_copies,
        reason="a replica is a separate copy; a copy with shared extents is lost together with the original",
    ),
    Choice(
        name="write",
        question="writes of pieces of v2 into a file that is synced before the rename, by four threads",
        ways={
            "direct": "without the page cache (O_DIRECT)",
            "cached": "through the page cache",
            "dropped": "through the page cache, each with posix_fadvise (POSIX_FADV_DONTNEED), which begins the write-back",
        },
        opened=_writing,
        reason="slower alone here, but other threads get the processors: whole exports of v2 took 2.7 s, and 2.9 s with "
        "posix_fadvise; of 2 GiB of random data 4.4 s and 5.4 s (medians of three alternated runs)",
    ),
    Choice(
        name="frame_pack",
        case="frames",
        question="zstd frames of a segment of v2, each with a digest; packed by one thread",
        ways=_FRAME_WORDS,
        opened=_packing_frames,
        reason="[decision 029](../docs/decisions/029-segment-frames.md)",
    ),
    Choice(
        name="frame_unpack",
        case="frames",
        question="zstd frames of a segment of v2, compared with the digests and unpacked by one thread, as an export does",
        ways=_FRAME_WORDS,
        opened=_unpacking_frames,
        reason="the format of the design; faster here, as smaller buffers stay in the cache of the processor",
    ),
    Choice(
        name="frame_near",
        case="frames",
        question="a first read of 4 KiB of v2 from a store on loopback, one at a time",
        ways=_READ_WORDS | _GUESS_WORDS,
        opened=partial(_reading_frames, round_trip_seconds=0.0),
        reason="reads of a boot come from a boot pack, other reads from a cached segment",
        counts=True,
    ),
    Choice(
        name="frame_read",
        case="frames",
        question="a first read of 4 KiB of v2 from a store 20 ms away, one at a time",
        ways=_READ_WORDS | _GUESS_WORDS,
        opened=partial(_reading_frames, round_trip_seconds=_DISTANCE_SECONDS),
        reason="a round trip takes longer than the bytes; two requests are two round trips",
        counts=True,
    ),
    Choice(
        name="frame_boot",
        case="frames",
        question="the blocks of a boot of v2 from a store 20 ms away, each as the guest needs it, with a cache",
        ways=_READ_WORDS | {"pack": "a boot pack: the blocks of the boot in their order, streamed in frames of 4 MiB"},
        opened=_booting_frames,
        reason="a segment is a read ahead of 4 MiB; frames move fewer bytes by more requests, and a boot pack needs both least",
    ),
)

HEAD = "| question | imgstore | alternatives | reason |\n|---|---|---|---|\n"


def table(results: Mapping[str, Result]) -> str:
    """The choices with what was measured of each, in Markdown."""
    measured = {case: result.figures for case, result in results.items() if not result.quick}
    return HEAD + "".join(f"| {' | '.join(_cells(choice, measured.get(choice.case, {})))} |\n" for choice in CHOICES)


def _cells(choice: Choice, found: Mapping[str, Figure]) -> list[str]:
    ours, *others = (_told(choice, way, found) for way in choice.ways)
    return [choice.question, ours, "; ".join(others), choice.reason]


def _told(choice: Choice, way: str, found: Mapping[str, Figure]) -> str:
    endings = "rate", "smaller", "moved_bytes", "requests"
    rate, smaller, moved, requests = (found.get(f"{choice.name}_{way}_{ending}") for ending in endings)
    if rate is None:
        return f"{choice.ways[way]}: not measured"
    told = [show(rate)]
    if smaller:
        told.append(f"{show(smaller)} smaller")
    if moved:
        told.append(f"{show(moved)} moved")
    if requests:
        told.append(show(requests))
    return f"{choice.ways[way]}: {', '.join(told)}"
